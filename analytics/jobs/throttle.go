package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/policy"
	"carom/analytics/windows"
	"carom/schemas/limits"
)

const (
	throttleJob = "throttle"

	kindChange = "change"
	kindAdvice = "would_change"

	// adviceAgain is how long the same advice is not logged again.
	adviceAgain = time.Hour
	// slowRate is the rate, in messages a second, under which evidence may reach further back than
	// the smallest window.
	slowRate = 40.0 / 900
)

// Throttle is the job that runs the control loop once.
type Throttle struct {
	Conn driver.Conn
	// Policy counts where Current is nil. Current returns the policy of this run.
	Policy  *policy.Policy
	Current func() *policy.Policy
	Log     *slog.Logger
	Period  time.Duration // how often it is run; part of the delay that is allowed for
	Version string        // of carom

	announced atomic.Uint64 // hash of the policy that was written down, plus one
}

// Run looks at every key that a live node sends for, decides, and hands the limits out. What is
// written comes in the order limit_log, limit_state, leases: no limit without its evidence. A run
// that ends in between is finished by the next.
func (t *Throttle) Run(ctx context.Context) (Result, error) {
	return inTurn(ctx, t.Conn, throttleJob, t.Version, t.work)
}

func (t *Throttle) work(ctx context.Context, r *run, result *Result) error {
	policies := t.Policy
	if t.Current != nil {
		policies = t.Current()
	}
	known, err := loadStates(ctx, t.Conn, t.Log)
	if err != nil {
		return err
	}
	states := known.states
	overrides, err := loadOverrides(ctx, t.Conn, r.started)
	if err != nil {
		return err
	}
	widest := policies.Widest()
	reader := windows.Reader{Conn: t.Conn, Policy: &widest, Period: t.Period}
	snapshot, err := reader.Read(ctx, r.started, windows.Wanted{
		Slow: keysWhere(states, func(s *remembered) bool {
			return s.Control.RatePerSecond > 0 && s.Control.RatePerSecond < slowRate
		}),
		Suspended: keysWhere(states, func(s *remembered) bool { return s.Control.Mode == control.Suspended }),
		Resting: keysWhere(states, func(s *remembered) bool {
			return s.Control.Epoch > 0 && s.Control.Mode != control.Suspended && windows.Since(r.started)-s.Control.Since > day
		}),
		IsKnown: func(key limits.Key) bool {
			s, ok := states[key]
			return ok && s.Control != control.State{}
		},
		Policy: policies.ThresholdsOf,
	})
	if err != nil {
		return err
	}
	result.DataTo, result.Delay, result.Keys = snapshot.To, snapshot.Delay, len(snapshot.Keys)

	last, err := loadWatermark(ctx, t.Conn, throttleJob)
	if err != nil {
		return err
	}
	p := pass{t: t, policy: policies, run: r, states: states, changed: known.ahead, overrides: &overrides}
	if stood := r.started.Sub(last.started); !last.started.IsZero() && stood > limits.DefaultTTL {
		p.stood = stood
	}
	if err := p.loadCancelled(ctx); err != nil {
		return err
	}
	for _, key := range slices.SortedFunc(maps.Keys(snapshot.Keys), limits.Key.Compare) {
		k := snapshot.Keys[key]
		if len(k.Nodes) == 0 || known.unreadable[key] {
			continue // no node says what is configured, nor would one obey; or nobody knows what was decided
		}
		p.decide(key, k, p.mode(key, k))
	}
	p.dropUnseen(snapshot)
	scoped, err := t.scopedLimits(ctx, &p, snapshot)
	if err != nil {
		return err
	}
	for _, e := range p.entries {
		if e.kind == kindChange {
			result.Changes++
		} else {
			result.Advised++
		}
		result.count(e.kind, string(e.reason.Rule))
	}
	t.explain(ctx, &p)
	if len(p.entries) > 0 {
		// Leases and states of a run that was overtaken change nothing; its rows of limit_log would stay.
		if err := r.hasTurn(ctx, t.Conn); err != nil {
			return err
		}
	}
	if err := r.writeLog(ctx, t.Conn, p.entries, policies.Hash); err != nil {
		return err
	}
	if err := r.storeStates(ctx, t.Conn, states, slices.SortedFunc(maps.Keys(p.changed), limits.Key.Compare)); err != nil {
		return err
	}
	document, err := t.document(ctx, &p, snapshot, scoped)
	if err != nil {
		return err
	}
	if err := r.handOut(ctx, t.Conn, &p, snapshot, known.unreadable, document); err != nil {
		return err
	}
	if err := t.announce(ctx, r, policies); err != nil && ctx.Err() == nil {
		t.Log.WarnContext(ctx, "annotations not written", "error", err) // the limits are in force all the same
	}
	for _, e := range p.entries {
		t.Log.InfoContext(ctx, "limit decided", "key", e.key.String(), "kind", e.kind, "rule", string(e.reason.Rule), "actor", e.actor(),
			"epoch", e.reason.Epoch, "rate_old", e.reason.Old.RatePerSecond, "rate_new", e.reason.New.RatePerSecond, "reason", e.reason.Text)
	}
	return nil
}

// keysWhere returns the keys of states that is holds for, in order.
func keysWhere(states map[limits.Key]remembered, is func(*remembered) bool) []limits.Key {
	var keys []limits.Key
	for key, s := range states {
		if is(&s) && !IsScoped(key) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, limits.Key.Compare)
	return keys
}

// pass collects the decisions of one run.
type pass struct {
	t         *Throttle
	policy    *policy.Policy
	run       *run
	states    map[limits.Key]remembered
	changed   map[limits.Key]bool
	overrides *overrides
	cancelled map[string]remembered // states before the changes that operators cancelled, by reason id
	entries   []entry
	stood     time.Duration // how long no run ended well, if leases ended meanwhile; else 0
}

// mode says how far the loop may go at a key now.
func (p *pass) mode(key limits.Key, k *windows.Key) limits.Mode {
	if p.overrides.killed(key) != nil {
		return limits.Off
	}
	return p.overrides.modeOf(key, p.policy.ModeOf(key.Provider))
}

func (p *pass) decide(key limits.Key, k *windows.Key, mode limits.Mode) {
	before, known := p.states[key]
	after := before
	now := windows.Since(p.run.started)
	actor := actorLoop
	var reasons []control.Reason
	if pin := p.overrides.pins[key]; pin != nil {
		k.Pin = &pin.pin
	}
	if c := p.overrides.cancels[key]; c != nil && k.Frozen == "" {
		k.Frozen = "the last change was cancelled"
	}
	switch mode {
	case limits.Active:
		after.GlideOf, after.GlideSince = control.State{}, 0
		if reason, ok := p.cancel(key, &after, now, k); ok {
			reasons, actor = []control.Reason{reason}, p.overrides.cancels[key].actor
			break
		}
		if k.Resting && k.Pin == nil && k.Warmup == nil && k.Frozen == "" {
			after.Control, reasons = control.Release(before.Control, now, &k.Windows, "Few attempts were made in a day and none was refused")
			break
		}
		if p.stood > 0 && k.Pin == nil && k.Frozen == "" {
			if after.Control, reasons = control.Restart(p.policy.ThresholdsOf(key.Provider), before.Control, now, p.stood, &k.Windows); len(reasons) > 0 {
				break
			}
		}
		after.Control, _, reasons = control.Decide(p.policy.ThresholdsOf(key.Provider), after.Control, now, &k.Windows)
	case limits.Off:
		why := "The loop is off here"
		if kill := p.overrides.killed(key); kill != nil {
			why, actor = fmt.Sprintf("%s stopped the loop (%s)", kill.actor, kill.reason), kill.actor
		}
		after.Control, reasons = control.Release(before.Control, now, &k.Windows, why)
		after.GlideOf, after.GlideSince = control.State{}, 0
	default:
		after.Control, reasons = control.Release(before.Control, now, &k.Windows, "The loop only advises here, and the nodes glide")
		if len(reasons) > 0 {
			after.GlideOf, after.GlideSince = before.Control, now
			break
		}
		if after.GlideSince > 0 && now-after.GlideSince > limits.GlideTime+2*limits.CanaryInterval {
			after.GlideOf, after.GlideSince = control.State{}, 0
		}
		after, reasons = p.advise(key, after, now, k)
		for i := range reasons {
			reasons[i].WouldChange = true
		}
	}
	p.enter(key, actor, before, after, known, reasons, &k.Windows)
}

// enter notes the reasons and the state of a key after a decision.
func (p *pass) enter(key limits.Key, actor string, before, after remembered, known bool, reasons []control.Reason, w *control.Windows) {
	if slices.ContainsFunc(reasons, func(r control.Reason) bool { return !r.WouldChange }) {
		after.ReasonID = changeID(key, after.Control.LastEpoch)
	}
	for _, reason := range reasons {
		e := entry{key: key, id: after.ReasonID, kind: kindChange, by: actor, reason: reason, before: before, after: after, window: w, z: p.policy.ThresholdsOf(key.Provider).Decrease.Z}
		if reason.WouldChange {
			e.id, e.kind = adviceID(key, p.run.generation), kindAdvice
		}
		if pin := p.overrides.pins[key]; pin != nil {
			e.pinnedBy = pin.actor
			if reason.Rule == control.RulePin {
				e.by = pin.actor
			}
		}
		if reason.Rule == control.RuleUnpin {
			e.by = p.overrides.unpinned[key]
		}
		p.entries = append(p.entries, e)
	}
	if after != before || !known {
		p.states[key] = after
		p.changed[key] = true
	}
}

// dropUnseen releases, where the kill switch is on, the keys of which no node gives a sign: they must not
// come back with their old limit when it is off again.
func (p *pass) dropUnseen(snapshot *windows.Snapshot) {
	now := windows.Since(p.run.started)
	for _, key := range slices.SortedFunc(maps.Keys(p.states), limits.Key.Compare) {
		kill := p.overrides.killed(key)
		if kill == nil {
			continue
		}
		if k := snapshot.Keys[key]; k != nil && len(k.Nodes) > 0 {
			continue
		}
		before := p.states[key]
		w := &control.Windows{Static: limits.None()}
		after := before
		var reasons []control.Reason
		after.Control, reasons = control.Release(before.Control, now, w, fmt.Sprintf("%s stopped the loop (%s)", kill.actor, kill.reason))
		after.GlideOf, after.GlideSince = control.State{}, 0
		p.enter(key, kill.actor, before, after, true, reasons, w)
	}
}

// advise decides without effect: the configured limit stays in force, and what the loop would do
// is said once an hour, or when it would do something else.
func (p *pass) advise(key limits.Key, before remembered, now time.Duration, k *windows.Key) (remembered, []control.Reason) {
	k.Pin = nil // nothing is pinned where nothing is limited
	would, _, reasons := control.Decide(p.policy.ThresholdsOf(key.Provider), before.Control, now, &k.Windows)
	after := before
	if len(reasons) == 0 {
		after.Control = would
		return after, nil
	}
	rule := reasons[0].Rule
	if rule == before.AdvisedRule && now-before.AdvisedAt < adviceAgain {
		return after, nil
	}
	after.AdvisedRule, after.AdvisedAt = rule, now
	return after, reasons
}
