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
	Conn    driver.Conn
	Policy  *policy.Policy
	Log     *slog.Logger
	Period  time.Duration // how often it is run; part of the delay that is allowed for
	Version string        // of carom

	announced atomic.Bool // the policy was written down
}

// Run looks at every key that a live node sends for, decides, and hands the limits out. What is
// written comes in the order limit_log, limit_state, leases: no limit without its evidence. A run
// that ends in between is finished by the next.
func (t *Throttle) Run(ctx context.Context) (Result, error) {
	return inTurn(ctx, t.Conn, throttleJob, t.Version, t.work)
}

func (t *Throttle) work(ctx context.Context, r *run, result *Result) error {
	states, ahead, err := loadStates(ctx, t.Conn)
	if err != nil {
		return err
	}
	overrides, err := loadOverrides(ctx, t.Conn)
	if err != nil {
		return err
	}
	reader := windows.Reader{Conn: t.Conn, Policy: &t.Policy.Thresholds, Period: t.Period}
	snapshot, err := reader.Read(ctx, r.started, slowKeys(states))
	if err != nil {
		return err
	}
	result.DataTo, result.Delay, result.Keys = snapshot.To, snapshot.Delay, len(snapshot.Keys)

	p := pass{t: t, run: r, states: states, changed: ahead}
	for _, key := range slices.SortedFunc(maps.Keys(snapshot.Keys), limits.Key.Compare) {
		k := snapshot.Keys[key]
		if len(k.Nodes) == 0 {
			continue // no node says what is configured, nor would one obey
		}
		p.decide(key, k, t.mode(key, k, overrides))
	}
	for _, e := range p.entries {
		if e.kind == kindChange {
			result.Changes++
		} else {
			result.Advised++
		}
	}
	if err := r.writeLog(ctx, t.Conn, p.entries, t.Policy.Hash); err != nil {
		return err
	}
	if err := r.storeStates(ctx, t.Conn, states, slices.SortedFunc(maps.Keys(p.changed), limits.Key.Compare)); err != nil {
		return err
	}
	if err := r.handOut(ctx, t.Conn, states, snapshot); err != nil {
		return err
	}
	if err := t.announce(ctx, r); err != nil && ctx.Err() == nil {
		t.Log.WarnContext(ctx, "annotations not written", "error", err) // the limits are in force all the same
	}
	for _, e := range p.entries {
		t.Log.InfoContext(ctx, "limit decided", "key", e.key.String(), "kind", e.kind, "rule", string(e.reason.Rule),
			"epoch", e.reason.Epoch, "rate_old", e.reason.Old.RatePerSecond, "rate_new", e.reason.New.RatePerSecond, "reason", e.reason.Text)
	}
	return nil
}

// mode says how far the loop may go at a key now.
func (t *Throttle) mode(key limits.Key, k *windows.Key, o overrides) limits.Mode {
	switch {
	case o.killed(key) || k.Exempt:
		return limits.Off
	default:
		return o.modeOf(key, t.Policy.ModeOf(key.Provider))
	}
}

// slowKeys returns the keys whose evidence reaches further back than the smallest window.
func slowKeys(states map[limits.Key]remembered) []limits.Key {
	var slow []limits.Key
	for key, s := range states {
		if s.Control.RatePerSecond > 0 && s.Control.RatePerSecond < slowRate {
			slow = append(slow, key)
		}
	}
	slices.SortFunc(slow, limits.Key.Compare)
	return slow
}

// pass collects the decisions of one run.
type pass struct {
	t       *Throttle
	run     *run
	states  map[limits.Key]remembered
	changed map[limits.Key]bool
	entries []entry
}

func (p *pass) decide(key limits.Key, k *windows.Key, mode limits.Mode) {
	before, known := p.states[key]
	after := before
	now := windows.Since(p.run.started)
	var reasons []control.Reason
	kind := kindChange
	switch mode {
	case limits.Active:
		after.Control, _, reasons = control.Decide(&p.t.Policy.Thresholds, before.Control, now, &k.Windows)
	case limits.Off:
		after.Control, reasons = control.Release(before.Control, now, &k.Windows, "The loop is off here")
	default:
		after.Control, reasons = control.Release(before.Control, now, &k.Windows, "The loop only advises here")
		if len(reasons) > 0 {
			break
		}
		after, reasons = p.advise(before, now, k)
		kind = kindAdvice
	}
	id := ""
	if len(reasons) > 0 {
		if kind == kindChange {
			id = changeID(key, after.Control.LastEpoch)
			after.ReasonID = id
		} else {
			id = adviceID(key, p.run.generation)
		}
	}
	for _, reason := range reasons {
		p.entries = append(p.entries, entry{key: key, id: id, kind: kind, reason: reason, before: before, after: after, window: &k.Windows})
	}
	if after != before || !known {
		p.states[key] = after
		p.changed[key] = true
	}
}

// advise decides without effect: the configured limit stays in force, and what the loop would do
// is said once an hour, or when it would do something else.
func (p *pass) advise(before remembered, now time.Duration, k *windows.Key) (remembered, []control.Reason) {
	would, _, reasons := control.Decide(&p.t.Policy.Thresholds, before.Control, now, &k.Windows)
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

// overrides are what operators told the loop; pins and holds are not among them.
type overrides struct {
	modes []override
	kills []override
}

type override struct {
	key  limits.Key // empty parts match everything
	mode limits.Mode
}

func (o override) matches(key limits.Key) bool {
	return (o.key.Provider == "" || o.key.Provider == key.Provider) && (o.key.Source == "" || o.key.Source == key.Source)
}

func (o overrides) killed(key limits.Key) bool {
	return slices.ContainsFunc(o.kills, func(k override) bool { return k.matches(key) })
}

// modeOf returns the last mode that was set for key, or configured.
func (o overrides) modeOf(key limits.Key, configured limits.Mode) limits.Mode {
	for _, m := range o.modes {
		if m.matches(key) {
			configured = m.mode
		}
	}
	return configured
}

func loadOverrides(ctx context.Context, conn driver.Conn) (overrides, error) {
	var o overrides
	rows, err := conn.Query(ctx, `
SELECT toString(kind), provider, source, mode
FROM overrides FINAL
WHERE NOT cancelled AND kind IN ('mode', 'kill') AND (expires_at <= toDateTime64(0, 6, 'UTC') OR expires_at > now64(6, 'UTC'))
ORDER BY created_at`)
	if err != nil {
		return o, fmt.Errorf("read overrides: %w", err)
	}
	err = each(rows, "read overrides", func() error {
		var kind, mode string
		var one override
		if err := rows.Scan(&kind, &one.key.Provider, &one.key.Source, &mode); err != nil {
			return err
		}
		if kind == "kill" {
			o.kills = append(o.kills, one)
			return nil
		}
		if one.mode = limits.Mode(mode); !one.mode.Known() {
			return fmt.Errorf("mode %q of an override: want active, advise or off", mode)
		}
		o.modes = append(o.modes, one)
		return nil
	})
	return o, err
}
