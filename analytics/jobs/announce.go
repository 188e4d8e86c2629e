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
func (t *Throttle) announce(ctx context.Context, r *run, p *policy.Policy) error {
	notes, err := t.orders(ctx, r)
	if err != nil {
		return err
	}
	if t.announced.Load() != p.Hash+1 {
		note, err := t.newPolicy(ctx, r, p)
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
	t.announced.Store(p.Hash + 1)
	return nil
}

// orders returns a note for each override that was written since a little before the last run.
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
SELECT version, toString(kind), provider, source, mode, rate, ceiling, floor, connections, messages_per_connection, cancels, actor, reason, expires_at, cancelled
FROM overrides
WHERE version > toUInt64({since:Int64})
ORDER BY version, id`)
	if err != nil {
		return nil, fmt.Errorf("read overrides: %w", err)
	}
	var notes []event.Annotation
	err = each(rows, "read overrides", func() error {
		var o order
		if err := rows.Scan(&o.version, &o.kind, &o.provider, &o.source, &o.mode, &o.pin.RatePerSecond, &o.pin.Ceiling, &o.pin.Floor, &o.pin.Connections, &o.pin.MessagesPerConnection, &o.cancels,
			&o.actor, &o.reason, &o.expires, &o.cancelled); err != nil {
			return err
		}
		notes = append(notes, o.note())
		return nil
	})
	return notes, err
}

// order is a row of overrides as people are told of it.
type order struct {
	version                      uint64
	kind, provider, source, mode string
	pin                          Pin
	cancels, actor, reason       string
	expires                      time.Time
	cancelled                    bool
}

func (o *order) note() event.Annotation {
	note := event.Annotation{Time: time.UnixMicro(int64(o.version)).UTC()} //nolint:gosec // microseconds since 1970
	var what string
	tag := o.mode
	switch o.kind {
	case "kill":
		note.Name, what, tag = "kill-switch", "the kill switch stops the loop", "kill"
	case "pin":
		note.Name, what, tag = "limit-pin", "pinned: "+o.pin.String(), "pin"
	case "cancel":
		note.Name, what, tag = "limit-cancel", o.cancels+" is taken back, the loop waits", "cancel"
	default:
		note.Name, what = "limit-mode", "the loop is in mode "+o.mode
	}
	for _, key := range []string{o.provider, o.source} {
		if key != "" {
			note.Tags = append(note.Tags, key)
			what += " for " + key
		}
	}
	note.Tags = append(note.Tags, tag)
	if o.cancelled {
		what = "taken back: " + what
	}
	what += ", by " + o.actor
	if expires := zeroEpoch(o.expires); !expires.IsZero() {
		what += ", until " + expires.UTC().Format(time.RFC3339)
	}
	if o.reason != "" {
		what += ": " + o.reason
	}
	note.Text = what
	return note
}

// newPolicy returns a note of the policy, nil if it is the one of the last note.
func (t *Throttle) newPolicy(ctx context.Context, r *run, p *policy.Policy) (*event.Annotation, error) {
	text := describe(p)
	var last string
	if err := t.Conn.QueryRow(with(ctx, clickhouse.Parameters{"node": announcer}),
		"SELECT argMax(text, time) FROM annotations WHERE node = {node:String} AND name = 'policy'").Scan(&last); err != nil {
		return nil, fmt.Errorf("read annotations: %w", err)
	}
	if last == text {
		return nil, nil //nolint:nilnil // nothing to say
	}
	return &event.Annotation{Name: "policy", Time: r.started, Text: text, Tags: []string{string(p.Mode)}}, nil
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
