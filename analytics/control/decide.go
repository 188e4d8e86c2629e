package control

import (
	"time"

	"carom/schemas/limits"
)

// Decide returns what the loop remembers, wants and did after it looked at w at time now. Without
// reasons nothing changed in the limits, though the state may have. It never asks for more than
// the ceiling of the configuration, changes nothing without a reason that holds its evidence, and
// raises nothing on stale data or into a bad list.
//
// The first rule about the rate that matches wins; connections and messages per connection are
// decided beside it. All changes of one call make one epoch.
func Decide(p *Policy, s State, now time.Duration, w *Windows) (State, Limits, []Reason) {
	if s.Mode == "" {
		s.Mode = Startup
	}
	d := &decision{p: p, now: now, w: w, before: s, State: s, ceiling: limits.Ceiling(w.Static, w.Adaptive)}
	switch {
	case s.Mode == Suspended:
		d.canaries()
	case d.suspend(), d.decrease():
	default:
		d.increase()
	}
	if d.Mode != Suspended {
		d.decideConnections()
		d.decideMessages()
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
		Old: inForce(s, w.Static), New: w.Static, Evidence: Evidence{From: now, To: now, MinMessages: NoMessages},
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
}

// inForce returns the limit that s means where static is configured.
func inForce(s State, static limits.Limit) limits.Limit {
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

// rate returns the rate in force before the decision; +Inf is unlimited.
func (d *decision) rate() float64 { return inForce(d.before, d.w.Static).RatePerSecond }

// whole returns all evidence of the limit in force.
func (d *decision) whole(rate float64) Evidence {
	return d.last(d.p.window(rate))
}

// last returns the evidence of the limit in force in the last span. What the configuration's epoch
// holds from before the loop let go of the key is left out.
func (d *decision) last(span time.Duration) Evidence {
	to := d.w.end()
	from := max(to-span, d.before.Since.Truncate(d.p.Step))
	return d.p.evidence(d.w.Buckets, d.before.Epoch, from, to)
}

func (d *decision) because(rule Rule, text string, e Evidence) {
	d.reasons = append(d.reasons, Reason{Rule: rule, Text: text, Evidence: e})
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

// clamp keeps every part under the ceiling of the configuration, which may have come down.
func (d *decision) clamp() {
	over := d.RatePerSecond > d.ceiling.RatePerSecond || d.Connections > d.ceiling.Connections ||
		d.MessagesPerConnection > d.ceiling.MessagesPerConnection
	if !over {
		return
	}
	d.RatePerSecond = min(d.RatePerSecond, d.ceiling.RatePerSecond)
	d.Connections = min(d.Connections, d.ceiling.Connections)
	d.MessagesPerConnection = min(d.MessagesPerConnection, d.ceiling.MessagesPerConnection)
	if len(d.reasons) == 0 {
		d.because(RuleCeiling, "The limit was above what the configuration allows now.",
			Evidence{From: d.now, To: d.now, MinMessages: NoMessages})
	}
}

// finish gives the changes their epoch.
func (d *decision) finish() (State, Limits, []Reason) {
	if len(d.reasons) > 0 {
		d.LastEpoch = max(d.LastEpoch, d.Epoch) + 1
		d.Epoch = d.LastEpoch
		d.Since = d.now
	}
	after := inForce(d.State, d.w.Static)
	for i := range d.reasons {
		r := &d.reasons[i]
		r.EpochFrom, r.Epoch = d.before.Epoch, d.Epoch
		r.ModeFrom, r.ModeTo = d.before.Mode, d.Mode
		r.Old, r.New = inForce(d.before, d.w.Static), after
	}
	return d.State, Limits{Limit: after.Min(d.ceiling), Epoch: d.Epoch, Canary: d.Mode == Suspended}, d.reasons
}
