package control

import (
	"fmt"
	"slices"
	"time"

	"carom/schemas/limits"
)

// Decide returns what the loop remembers, wants and did after it looked at w at time now. Without
// reasons nothing changed in the limits, though the state may have. It never asks for more than
// the ceiling of the configuration, changes nothing without a reason that holds its evidence, and
// raises nothing on stale data or into a bad list.
//
// A key (provider, scope value), the mail that carries one DKIM or SPF domain or URL to a provider that
// refuses for it (design/control.md 5.5, rule 6), is decided about in the same way: w counts the answers to
// that mail, none of which counts for (provider, source), and w.Static is limits.None(), since such a key
// has no configuration.
//
// The first rule about the rate that matches wins; connections and messages per connection are
// decided beside it. All changes of one call make one epoch.
func Decide(p *Policy, s State, now time.Duration, w *Windows) (State, Limits, []Reason) {
	fresh := s == State{}
	if s.Mode == "" {
		s.Mode = Startup
	}
	d := &decision{p: p, now: now, w: w, before: s, State: s, ceiling: limits.Ceiling(w.Static, w.Adaptive)}
	d.warmup()
	switch {
	case d.pin():
	case w.Frozen != "":
		d.EvidenceFrom = now.Truncate(time.Minute)
	case fresh && d.start():
	case d.greylist():
	default:
		if d.Pinned.Rate > 0 {
			d.underPin()
		} else {
			d.moveRate()
		}
		if d.Mode != Suspended {
			d.decideConnections()
			d.decideMessages()
		}
	}
	d.clamp()
	return d.finish()
}

// Release returns the state of a key that the loop may no longer limit, and why: the mode of its
// provider changed. It returns no reason if the configuration holds already. The reason has an epoch
// of its own, though none is in force after it.
func Release(s State, now time.Duration, w *Windows, why string) (State, []Reason) {
	if s.Epoch == 0 {
		return s, nil
	}
	after := State{Mode: Startup, LastEpoch: max(s.LastEpoch, s.Epoch) + 1, Since: now, LongTerm: s.LongTerm}
	return after, []Reason{{
		Rule: RuleRelease, Text: why + ": the configured limits hold again.",
		EpochFrom: s.Epoch, Epoch: after.LastEpoch, ModeFrom: s.Mode, ModeTo: Startup,
		Old: s.InForce(w.Static), New: w.Static, Evidence: Evidence{From: now, To: now, MinMessages: NoMessages},
	}}
}

// decision is one call of Decide; the embedded State is what it will return.
type decision struct {
	State
	p       *Policy
	now     time.Duration
	w       *Windows
	before  State
	ceiling limits.Limit
	reasons []Reason

	// Why the ceiling is lower than the configuration's; "" if it is not.
	ceilingRule Rule
	ceilingText string
}

// moveRate applies the first rule about the rate that matches.
func (d *decision) moveRate() {
	switch {
	case d.Mode == Suspended:
		d.canaries()
	case d.suspend(), d.decrease(), d.balance():
	default:
		d.increase()
	}
}

// start gives a key that was never limited the rate that its history supports: no more than the
// configuration, and no less than the share of it that a key without a known capacity begins with,
// since an hour's mean says little of mail that comes at once.
func (d *decision) start() bool {
	rate := max(d.w.HistoryRate, d.coldRate())
	if !(d.w.HistoryRate > 0) || rate >= d.w.Static.RatePerSecond {
		return false
	}
	d.RatePerSecond = rate
	d.because(RuleHistory, fmt.Sprintf("The loop takes over with what the last 14 days support: 95 %% of their hours accepted at most %s. %s -> %s.",
		perSecond(d.w.HistoryRate), perSecond(d.w.Static.RatePerSecond), perSecond(rate)),
		Evidence{From: d.now, To: d.now, AcceptedRate: d.w.HistoryRate, MinMessages: NoMessages})
	return true
}

// own returns the limit that s means where static is configured, without a pin.
func own(s State, static limits.Limit) limits.Limit {
	l := static
	if s.RatePerSecond > 0 {
		l.RatePerSecond = s.RatePerSecond
	}
	if s.Connections > 0 {
		l.Connections = s.Connections
	}
	if s.MessagesPerConnection > 0 {
		l.MessagesPerConnection = s.MessagesPerConnection
	}
	return l
}

// InForce returns the limit that s means where static is configured, with what is pinned.
func (s State) InForce(static limits.Limit) limits.Limit { return s.Pinned.over(own(s, static)) }

// rate returns the rate in force before the decision; +Inf is unlimited.
func (d *decision) rate() float64 { return d.before.InForce(d.w.Static).RatePerSecond }

// whole returns all evidence of the limit in force.
func (d *decision) whole(rate float64) Evidence {
	return d.last(d.p.window(rate))
}

// last returns the evidence of the limit in force in the last span. What the configuration's epoch
// holds from before the loop let go of the key is left out.
func (d *decision) last(span time.Duration) Evidence {
	to := d.w.end()
	from := max(to-span, d.before.Since.Truncate(d.p.Step), d.before.EvidenceFrom.Truncate(d.p.Step))
	return d.p.evidence(d.w.Buckets, d.before.Epoch, from, to)
}

func (d *decision) because(rule Rule, text string, e Evidence) {
	d.reasons = append(d.reasons, Reason{Rule: rule, Text: text, Evidence: e})
}

// stale reports whether the newest data is too old to speed up on (design/control.md 5.4). A key
// that sends little is looked at while the last answer is fresh.
func (d *decision) stale() bool { return d.now-d.w.Newest > 2*d.w.Delay }

// balance takes over a key whose configured rate is not used up because the mail lies on few of its
// nodes: as a lease it goes where the mail is. Where the ceiling is the configuration's, a node may
// not have more than its own part, and nothing is gained.
func (d *decision) balance() bool {
	w := d.w
	if d.Epoch != 0 || w.Nodes < 2 || w.Waiting <= 0 || w.Waiting >= 1 || !w.Static.HasRate() ||
		d.ceiling.RatePerSecond <= w.Static.RatePerSecond || d.stale() || d.badList() {
		return false
	}
	e := d.whole(d.rate())
	if e.duration() < d.p.Increase.MinTime || e.Replies < d.p.Increase.MinReplies || !d.clean(&e) || e.AttemptRate >= d.p.Increase.Binding*d.rate() {
		return false
	}
	d.RatePerSecond = w.Static.RatePerSecond
	d.because(RuleBalance, fmt.Sprintf("Mail waits on %s of %d nodes while %s of the configured %s is used: it is handed out by backlog.",
		percent(w.Waiting), w.Nodes, percent(e.AttemptRate/d.rate()), perSecond(d.rate())), e)
	return true
}

// badList reports whether the last hour's unknown users or refused content forbid to speed up
// (design/control.md 5.5, rule 5).
func (d *decision) badList() bool {
	h, q := &d.w.Hour, &d.p.ListQuality
	return WilsonLow(h.User, h.OK+h.User, q.Z) > q.UserShare ||
		WilsonLow(h.Content+h.Auth, h.all(), q.Z) > q.ContentShare
}

// clean reports whether e holds so few refusals that more may be tried.
func (d *decision) clean(e *Evidence) bool {
	return float64(e.Refusals) <= d.p.Increase.CleanShare*float64(e.Replies)+1
}

// clamp keeps every part under the ceiling, which may have come down, and the rate over the floor
// of a pin.
func (d *decision) clamp() {
	rule, text := d.ceilingRule, d.ceilingText
	if rule == "" {
		rule, text = RuleCeiling, "The limit was above what the configuration allows now."
	}
	top := d.ceiling.RatePerSecond
	if d.Pinned.Ceiling > 0 && d.Pinned.Ceiling < top {
		top = d.Pinned.Ceiling
		rule, text = RulePin, "The limit was above the ceiling that is pinned."
	}
	l := own(d.State, d.w.Static)
	changed := false
	if l.RatePerSecond > top {
		d.RatePerSecond, changed = top, true
	}
	if l.Connections > d.ceiling.Connections {
		d.Connections, changed = d.ceiling.Connections, true
	}
	if l.MessagesPerConnection > d.ceiling.MessagesPerConnection {
		d.MessagesPerConnection, changed = d.ceiling.MessagesPerConnection, true
	}
	if low := min(d.Pinned.Floor, top); d.Mode != Suspended && own(d.State, d.w.Static).RatePerSecond < low {
		d.RatePerSecond, changed = low, true
		rule, text = RulePin, "The limit was under the floor that is pinned."
	}
	if changed && len(d.reasons) == 0 {
		d.because(rule, text, Evidence{From: d.now, To: d.now, MinMessages: NoMessages})
	}
}

// finish gives the changes their epoch. What would have been done under a pin is no change.
func (d *decision) finish() (State, Limits, []Reason) {
	changed := func(r Reason) bool { return !r.WouldChange }
	if slices.ContainsFunc(d.reasons, changed) {
		d.LastEpoch = max(d.LastEpoch, d.Epoch) + 1
		d.Epoch = d.LastEpoch
		d.Since = d.now
	}
	after := d.State.InForce(d.w.Static).Min(d.ceiling)
	for i := range d.reasons {
		r := &d.reasons[i]
		r.Old = d.before.InForce(d.w.Static)
		r.EpochFrom, r.Epoch = d.before.Epoch, d.Epoch
		r.ModeFrom, r.ModeTo = d.before.Mode, d.Mode
		r.Evidence.Greylisting = d.before.Greylisting
		if !r.WouldChange {
			r.New = after
		}
	}
	canary := d.Mode == Suspended && d.Pinned.Rate == 0
	return d.State, Limits{Limit: after, Epoch: d.Epoch, Canary: canary, Greylisting: d.Greylisting}, d.reasons
}
