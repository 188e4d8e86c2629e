package jobs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/policy"
	"carom/schemas/event"
	"carom/schemas/warehouse"
)

// announcer is the node of the annotations that the jobs write.
const announcer = "analytics"

// announce writes down, for people who look at curves, what operators told the loop since the last run
// (modes and the kill switch), and that the policy is another one than the last that ran. Written again
// it is the same rows.
func (t *Throttle) announce(ctx context.Context, r *run) error {
	notes, err := t.orders(ctx, r)
	if err != nil {
		return err
	}
	if !t.announced.Load() {
		note, err := t.newPolicy(ctx, r)
		if err != nil {
			return err
		}
		if note != nil {
			notes = append(notes, *note)
		}
	}
	for _, note := range notes {
		note.Node = announcer
		if _, err := warehouse.Annotate(ctx, t.Conn, note); err != nil {
			return err
		}
	}
	t.announced.Store(true)
	return nil
}

// orders returns a note for each override of the loop's mode that was written since a little before the
// last run.
func (t *Throttle) orders(ctx context.Context, r *run) ([]event.Annotation, error) {
	w, err := loadWatermark(ctx, t.Conn, throttleJob)
	if err != nil {
		return nil, err
	}
	since := r.started.Add(-day)
	if !w.dataTo.IsZero() && w.started.After(since) {
		since = w.started.Add(-overlap)
	}
	rows, err := t.Conn.Query(with(ctx, clickhouse.Parameters{"since": micros(since)}), `
SELECT version, toString(kind), provider, source, mode, actor, reason, expires_at, cancelled
FROM overrides
WHERE kind IN ('mode', 'kill') AND version > toUInt64({since:Int64})
ORDER BY version, id`)
	if err != nil {
		return nil, fmt.Errorf("read overrides: %w", err)
	}
	var notes []event.Annotation
	err = each(rows, "read overrides", func() error {
		var version uint64
		var kind, provider, source, mode, actor, reason string
		var expires time.Time
		var cancelled bool
		if err := rows.Scan(&version, &kind, &provider, &source, &mode, &actor, &reason, &expires, &cancelled); err != nil {
			return err
		}
		note := event.Annotation{Name: "limit-mode", Time: time.UnixMicro(int64(version)).UTC()} //nolint:gosec // microseconds since 1970
		what := "the loop is in mode " + mode
		if kind == "kill" {
			note.Name, what, mode = "kill-switch", "the kill switch stops the loop", "kill"
		}
		for _, key := range []string{provider, source} {
			if key != "" {
				note.Tags = append(note.Tags, key)
				what += " for " + key
			}
		}
		note.Tags = append(note.Tags, mode)
		if cancelled {
			what = "taken back: " + what
		}
		what += ", by " + actor
		if expires = zeroEpoch(expires); !expires.IsZero() {
			what += ", until " + expires.UTC().Format(time.RFC3339)
		}
		if reason != "" {
			what += ": " + reason
		}
		note.Text = what
		notes = append(notes, note)
		return nil
	})
	return notes, err
}

// newPolicy returns a note of the policy, nil if it is the one of the last note.
func (t *Throttle) newPolicy(ctx context.Context, r *run) (*event.Annotation, error) {
	text := describe(t.Policy)
	var last string
	if err := t.Conn.QueryRow(with(ctx, clickhouse.Parameters{"node": announcer}),
		"SELECT argMax(text, time) FROM annotations WHERE node = {node:String} AND name = 'policy'").Scan(&last); err != nil {
		return nil, fmt.Errorf("read annotations: %w", err)
	}
	if last == text {
		return nil, nil //nolint:nilnil // nothing to say
	}
	return &event.Annotation{Name: "policy", Time: r.started, Text: text, Tags: []string{string(t.Policy.Mode)}}, nil
}

// describe says what a policy makes of the loop.
func describe(p *policy.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "policy %016x: mode %s", p.Hash, p.Mode)
	for _, name := range slices.Sorted(maps.Keys(p.Providers)) {
		if mode := p.Providers[name].Mode; mode != "" && mode != p.Mode {
			fmt.Fprintf(&b, ", %s at %s", mode, name)
		}
	}
	return b.String()
}
