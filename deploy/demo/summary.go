package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"carom/deploy/load"
	"carom/deploy/receivers"
	"carom/deploy/receivers/reports"
)

// Summary is what the demo found out. All counts of carom come from ClickHouse; those of the load
// generator and of the receivers stand beside them.
type Summary struct {
	Messages int       `json:"messages"` // that the load generator had
	Started  time.Time `json:"started"`
	Settled  bool      `json:"settled"` // nothing was queued any more, no report under way

	Load   load.Summary    `json:"load"`
	Counts Counts          `json:"counts"`
	Queued uint64          `json:"queued"` // by the node itself
	ByWhat []CategoryCount `json:"bounces_by_category"`

	Receivers Received `json:"receivers"`

	Streams     []Stream          `json:"streams"`
	Written     map[string]uint64 `json:"written"` // by the node: last number of each stream
	Quarantined uint64            `json:"quarantined"`
	Rollup10s   uint64            `json:"rollup_10s_delivered"`
	Rollup1m    uint64            `json:"rollup_1m_delivered"`

	Cut       Cut      `json:"cut"`
	Deferrals Course   `json:"deferrals"`
	Changes   []Change `json:"limit_changes"`
	Buckets   []Bucket `json:"course"`

	Restarts []string `json:"restarts"` // processes that died and were started again
	Checks   []Check  `json:"checks"`
}

// Received is what the receivers counted.
type Received struct {
	Accepted   int            `json:"accepted"`   // recipients
	Duplicates int            `json:"duplicates"` // of these: the same message for the same recipient again
	Reports    reports.Counts `json:"reports"`
}

// Cut is what the provider did without saying so.
type Cut struct {
	Provider string    `json:"provider"`
	Time     time.Time `json:"time"`
	At       float64   `json:"at_s"`
	From     float64   `json:"from_per_s"`
	To       float64   `json:"to_per_s"`
}

// Course is the share of deferrals at the provider that cut: before, right after, and at the end.
type Course struct {
	Before Share `json:"before"`
	After  Share `json:"right_after"`
	End    Share `json:"end"`
}

// Lengths of the times over which shares of deferrals are taken.
const (
	beforeSpan = 20 * time.Second
	afterSpan  = 15 * time.Second
	endSpan    = 15 * time.Second
)

// sumUp computes the summary.
func (d *demo) sumUp(ctx context.Context, loaded load.Summary, r *rest) (*Summary, error) {
	start, c := r.receivers.start, d.plan.cut
	s := &Summary{
		Messages: d.plan.messages, Started: start.UTC(), Settled: r.settled,
		Load: loaded, Queued: uint64(r.node.LiveRecipients), //nolint:gosec // a count
		Receivers: Received{Accepted: r.receivers.accepted(), Reports: r.receivers.Reports},
		Streams:   r.streams, Written: r.written(),
		Cut:      Cut{Provider: c.Provider, Time: start.Add(c.At).UTC(), At: c.At.Seconds(), From: c.From, To: c.To},
		Restarts: []string{},
	}
	for _, state := range d.supervisor.States() {
		for range state.Restarts {
			s.Restarts = append(s.Restarts, state.Name)
		}
	}
	w := d.warehouse
	var err error
	if s.Counts, err = w.counts(ctx, r.node.EventSeq); err != nil {
		return nil, err
	}
	if s.ByWhat, err = w.bounces(ctx, r.node.EventSeq); err != nil {
		return nil, err
	}
	if s.Quarantined, err = w.quarantined(ctx); err != nil {
		return nil, err
	}
	if s.Rollup10s, s.Rollup1m, err = w.rollups(ctx); err != nil {
		return nil, err
	}
	if s.Changes, err = w.changes(ctx); err != nil {
		return nil, err
	}
	if s.Buckets, err = w.buckets(ctx, c.Provider, start); err != nil {
		return nil, err
	}
	d.fillLimits(s)
	if err := d.fillCourse(ctx, s, start); err != nil {
		return nil, err
	}
	if s.Receivers.Duplicates, err = duplicates(filepath.Join(d.dir, "receivers", "accepted.ndjson")); err != nil {
		return nil, err
	}
	s.Checks = s.check()
	return s, nil
}

// fillCourse takes the shares of deferrals. The end is the last time in which mail was offered: what
// is sent after it meets an idle receiver and proves nothing.
func (d *demo) fillCourse(ctx context.Context, s *Summary, start time.Time) (err error) {
	cutAt, end := d.plan.cut.At, d.plan.scenario.Duration.D()
	for _, part := range []struct {
		share    *Share
		from, to time.Duration
	}{
		{&s.Deferrals.Before, cutAt - beforeSpan, cutAt},
		{&s.Deferrals.After, cutAt, cutAt + afterSpan},
		{&s.Deferrals.End, end - endSpan, end},
	} {
		if *part.share, err = d.warehouse.deferrals(ctx, d.plan.cut.Provider, start, part.from, part.to); err != nil {
			return err
		}
	}
	return nil
}

// fillLimits adds to each bucket the limits in force at its end.
func (d *demo) fillLimits(s *Summary) {
	for i := range d.plan.scenario.Providers {
		p := &d.plan.scenario.Providers[i]
		if p.Name != s.Cut.Provider {
			continue
		}
		for j := range s.Buckets {
			b := &s.Buckets[j]
			end := time.Duration(b.At*float64(time.Second)) + bucketSize
			b.Hidden = p.Limit(end - 1)
			b.Limit = float64(staticRate(p))
			for _, c := range s.Changes {
				if c.Provider == p.Name && c.Kind == kindChange && c.Time.Before(s.Started.Add(end)) {
					b.Limit = c.RateNew
				}
			}
		}
	}
}

// duplicates counts in the receivers' accept log the recipients that got a message of the node's
// again. The reference that the node puts into each tells its messages apart, also where the load
// generator handed over the same message twice.
func duplicates(file string) (int, error) {
	f, err := os.Open(file) //nolint:gosec // our own child's
	if err != nil {
		return 0, fmt.Errorf("read the receivers' accept log: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	type copyOf struct{ reference, recipient string }
	seen := map[copyOf]bool{}
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a receivers.Accepted
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return 0, fmt.Errorf("read the receivers' accept log: %w", err)
		}
		key := copyOf{a.Ref, a.Recipient}
		if seen[key] {
			n++
		}
		seen[key] = true
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read the receivers' accept log: %w", err)
	}
	return n, nil
}
