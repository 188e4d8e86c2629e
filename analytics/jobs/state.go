package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/schemas/limits"
)

// remembered is what the loop keeps of one key between runs: the JSON in limit_state.state.
type remembered struct {
	Control control.State `json:"control"`
	// ReasonID names the row of limit_log that made the limit in force.
	ReasonID string `json:"reason_id,omitempty"`
	// AdvisedRule and AdvisedAt are the last advice that was logged.
	AdvisedRule control.Rule  `json:"advised_rule,omitempty"`
	AdvisedAt   time.Duration `json:"advised_at,omitempty"`
	// GlideOf is the state whose leases the nodes glide from since GlideSince, because the loop
	// only advises since then.
	GlideOf    control.State `json:"glide_of,omitzero"`
	GlideSince time.Duration `json:"glide_since,omitempty"`
}

// logged is the JSON in limit_log.evidence: all that the columns do not hold.
type logged struct {
	// After is the state that the change made. A run that is killed after it wrote limit_log is
	// finished by the next one from here.
	After         remembered        `json:"after"`
	Replies       uint64            `json:"replies"`
	Refusals      uint64            `json:"refusals"`
	Unclassified  bool              `json:"unclassified_count_as_refusals"`
	AttemptRate   float64           `json:"attempt_rate"`
	FirstRefusal  *time.Time        `json:"first_refusal_bucket_end,omitempty"`
	AcceptedSince uint64            `json:"accepted_since"`
	Idle          time.Duration     `json:"idle_ns,omitempty"`   // after the first refusal
	FromRate      float64           `json:"from_rate,omitempty"` // that a decrease started from
	MaxOpen       uint32            `json:"max_open"`
	MinMessages   uint32            `json:"min_messages,omitempty"`
	ConfiguredRPS *float64          `json:"configured_rate"` // null for unlimited
	CeilingRPS    *float64          `json:"ceiling_rate"`    // null for none
	Nodes         int               `json:"nodes"`
	Waiting       float64           `json:"share_of_nodes_with_backlog"`
	Delay         time.Duration     `json:"delay_ns"`
	DataTo        time.Time         `json:"data_to"`
	Hour          map[string]uint64 `json:"last_hour"`
	// Contributors are who had most of the refusals, unknown users and complaints; of changes that
	// lower a limit.
	Contributors []contributor `json:"contributors,omitempty"`
	Frozen       string        `json:"frozen,omitempty"`
	Greylisting  bool          `json:"greylisting,omitempty"` // unclassified refusals of first attempts count as greylisting
	Z            float64       `json:"z"`                     // of wilson_lo
}

// knownStates are the states of all keys.
type knownStates struct {
	states map[limits.Key]remembered
	// ahead are the keys that were finished from limit_log: their state is to be stored.
	ahead map[limits.Key]bool
	// unreadable are keys whose row nobody understands: they are left alone, and their leases run out.
	unreadable map[limits.Key]bool
}

// loadStates reads limit_state, and finishes from limit_log what a killed run began. One row that cannot be
// read stops the loop for its key and for no other.
func loadStates(ctx context.Context, conn driver.Conn, log *slog.Logger) (*knownStates, error) {
	known := &knownStates{states: map[limits.Key]remembered{}, ahead: map[limits.Key]bool{}, unreadable: map[limits.Key]bool{}}
	rows, err := conn.Query(ctx, "SELECT provider, source, state FROM limit_state FINAL")
	if err != nil {
		return nil, fmt.Errorf("read limit_state: %w", err)
	}
	var key limits.Key
	var text string
	err = each(rows, "read limit_state", func() error {
		if err := rows.Scan(&key.Provider, &key.Source, &text); err != nil {
			return err
		}
		var r remembered
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			known.unreadable[key] = true
			log.ErrorContext(ctx, "the state of a key cannot be read: the loop leaves it alone, its nodes return to the configuration; delete its row of limit_state to begin anew",
				"key", key.String(), "error", err)
			return nil
		}
		known.states[key] = r
		return nil
	})
	if err != nil {
		return nil, err
	}

	// A change is in limit_log before it is in limit_state, where a run writes all its keys at once:
	// what is ahead has a generation above every state, which is found without reading evidence.
	rows, err = conn.Query(ctx, `
SELECT provider, source, argMax(evidence, (epoch, generation))
FROM limit_log
WHERE kind = 'change' AND epoch > 0 AND ts > now64(6, 'UTC') - INTERVAL 1 DAY AND generation > (SELECT max(generation) FROM limit_state)
GROUP BY provider, source`)
	if err != nil {
		return nil, fmt.Errorf("read limit_log: %w", err)
	}
	err = each(rows, "read limit_log", func() error {
		if err := rows.Scan(&key.Provider, &key.Source, &text); err != nil {
			return err
		}
		var l logged
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			known.unreadable[key] = true
			log.ErrorContext(ctx, "the last change of a key cannot be read: the loop leaves it alone", "key", key.String(), "error", err)
			return nil
		}
		if !known.unreadable[key] && l.After.Control.LastEpoch > known.states[key].Control.LastEpoch {
			known.states[key] = l.After
			known.ahead[key] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

// storeStates writes the states of keys.
func (r *run) storeStates(ctx context.Context, conn driver.Conn, states map[limits.Key]remembered, changed []limits.Key) error {
	rows := make([][]any, 0, len(changed))
	for _, key := range changed {
		state := states[key]
		text, err := json.Marshal(state)
		if err != nil {
			return fmt.Errorf("write state of %s: %w", key, err)
		}
		c := state.Control
		rows = append(rows, []any{
			key.Provider, key.Source, r.generation, r.started, c.Epoch, string(c.Mode), c.RatePerSecond, c.Connections,
			c.MessagesPerConnection, c.Cap, c.Goal, c.LongTerm, state.ReasonID, string(text),
		})
	}
	return insert(ctx, conn, r.token("limit_state"), "limit_state", []string{
		"provider", "source", "generation", "updated_at", "epoch", "mode", "rate", "connections",
		"messages_per_connection", "cap", "goal", "long_term", "reason_id", "state",
	}, rows)
}
