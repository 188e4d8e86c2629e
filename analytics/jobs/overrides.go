package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

// overrides are what operators told the loop and what is in force of it.
type overrides struct {
	modes   []override
	kills   []override
	pins    map[limits.Key]*override
	cancels map[limits.Key]*override
	// unpinned says who took the last pin of a key back, or whose it was if it ended by itself.
	unpinned map[limits.Key]string
}

// override is one row of overrides.
type override struct {
	key           limits.Key // empty parts match everything
	mode          limits.Mode
	actor, reason string
	expires       time.Time
	cancels       string // id of the row of limit_log that is taken back
	pin           control.Pin
}

func (o *override) matches(key limits.Key) bool {
	return (o.key.Provider == "" || o.key.Provider == key.Provider) && (o.key.Source == "" || o.key.Source == key.Source)
}

// killed returns the kill switch that holds for key, nil if none does.
func (o *overrides) killed(key limits.Key) *override {
	for i := range o.kills {
		if o.kills[i].matches(key) {
			return &o.kills[i]
		}
	}
	return nil
}

// modeOf returns the last mode that was set for key, or configured.
func (o *overrides) modeOf(key limits.Key, configured limits.Mode) limits.Mode {
	for i := range o.modes {
		if o.modes[i].matches(key) {
			configured = o.modes[i].mode
		}
	}
	return configured
}

func loadOverrides(ctx context.Context, conn driver.Conn, now time.Time) (overrides, error) {
	o := overrides{pins: map[limits.Key]*override{}, cancels: map[limits.Key]*override{}, unpinned: map[limits.Key]string{}}
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{"now": micros(now)}), `
SELECT toString(kind), provider, source, mode, rate, ceiling, floor, connections, messages_per_connection, cancels, actor, reason, expires_at,
    NOT cancelled AND (expires_at <= toDateTime64(0, 6, 'UTC') OR expires_at > fromUnixTimestamp64Micro({now:Int64}, 'UTC')) AS is_in_force
FROM overrides FINAL
WHERE is_in_force OR kind = 'pin'
ORDER BY created_at, id`)
	if err != nil {
		return o, fmt.Errorf("read overrides: %w", err)
	}
	err = each(rows, "read overrides", func() error {
		var kind, mode string
		var one override
		var rate, ceiling, floor float64
		var connections, messages uint32
		var isInForce bool
		if err := rows.Scan(&kind, &one.key.Provider, &one.key.Source, &mode, &rate, &ceiling, &floor, &connections, &messages, &one.cancels,
			&one.actor, &one.reason, &one.expires, &isInForce); err != nil {
			return err
		}
		switch {
		case !isInForce:
			o.unpinned[one.key] = one.actor
		case kind == "kill":
			o.kills = append(o.kills, one)
		case kind == "cancel":
			o.cancels[one.key] = &one
		case kind == "pin":
			one.pin = control.Pin{
				Rate: orNil(rate), Ceiling: orNil(ceiling), Floor: orNil(floor), Connections: orNil(connections), MessagesPerConnection: orNil(messages),
				By: one.actor, Reason: one.reason, Until: windows.Since(one.expires),
			}
			o.pins[one.key] = &one
		default:
			if one.mode = limits.Mode(mode); !one.mode.Known() {
				return fmt.Errorf("mode %q of an override: want active, advise or off", mode)
			}
			o.modes = append(o.modes, one)
		}
		return nil
	})
	return o, err
}

// orNil returns a pointer to a value that is set, nil for 0.
func orNil[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// RuleCancel is the rule of a change that an operator made by taking the last one back.
const RuleCancel control.Rule = "CANCEL"

// loadCancelled reads the states before the changes that operators cancelled, as far as those are still the
// last ones of their keys.
func (p *pass) loadCancelled(ctx context.Context) error {
	p.cancelled = map[string]remembered{}
	var ids []string
	for key, c := range p.overrides.cancels {
		if p.states[key].ReasonID == c.cancels {
			ids = append(ids, c.cancels)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	rows, err := p.t.Conn.Query(with(ctx, clickhouse.Parameters{"ids": warehouse.TextArray(ids)}), `
SELECT id, any(state_before) FROM limit_log WHERE kind = 'change' AND id IN {ids:Array(String)} GROUP BY id`)
	if err != nil {
		return fmt.Errorf("read limit_log: %w", err)
	}
	return each(rows, "read limit_log", func() error {
		var id, text string
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		var r remembered
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return fmt.Errorf("state before %s: %w", id, err)
		}
		p.cancelled[id] = r
		return nil
	})
}

// cancel puts the limit before the last change back in force, if an operator asked for it and it is still
// the last one. It reports whether it did.
func (p *pass) cancel(key limits.Key, state *remembered, now time.Duration, k *windows.Key) (control.Reason, bool) {
	c := p.overrides.cancels[key]
	if c == nil || c.cancels != state.ReasonID {
		return control.Reason{}, false
	}
	old, ok := p.cancelled[c.cancels]
	if !ok {
		return control.Reason{}, false
	}
	present := state.Control
	state.Control = old.Control
	if state.Control.Mode == "" {
		state.Control.Mode = control.Startup
	}
	state.Control.LastEpoch = max(present.LastEpoch, present.Epoch) + 1
	if old.Control.Epoch > 0 {
		state.Control.Epoch = state.Control.LastEpoch
	}
	state.Control.Since = now
	return control.Reason{
		Rule: RuleCancel, Text: fmt.Sprintf("%s took %s back; the loop waits until %s. Reason: %s.", c.actor, c.cancels, c.expires.UTC().Format(time.RFC3339), strings.TrimSuffix(c.reason, ".")),
		EpochFrom: present.Epoch, Epoch: state.Control.LastEpoch, ModeFrom: present.Mode, ModeTo: state.Control.Mode,
		Old: present.InForce(k.Static), New: state.Control.InForce(k.Static), Evidence: control.Evidence{From: now, To: now, MinMessages: control.NoMessages},
	}, true
}
