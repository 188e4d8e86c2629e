package importer

import (
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/event"
)

// maxShown bounds the skipped records that a report keeps one by one; all are counted.
const maxShown = 1000

// Report says what an import did.
type Report struct {
	Files    int              `json:"files"`              // read, or found to be imported already
	Unread   int              `json:"already_imported"`   // files of which an earlier run has all
	Records  int64            `json:"records"`            // read, in this run
	Events   int64            `json:"events"`             // new ones
	Known    int64            `json:"events_known"`       // that an earlier run has stored
	ByKind   map[string]int64 `json:"events_by_kind"`     // of the new ones
	Skipped  int64            `json:"skipped"`            // records
	ByReason map[string]int64 `json:"skipped_by_reason"`  //
	Lines    []Skipped        `json:"skipped_records"`    // the first of them
	Unmapped []string         `json:"columns_not_mapped"` // columns that events have no place for
	First    time.Time        `json:"first_event"`        // zero without events
	Last     time.Time        `json:"last_event"`
	Seconds  float64          `json:"seconds"`
	Rate     float64          `json:"records_per_second"`
	DryRun   bool             `json:"dry_run"`
}

// tally is a Report in the making, and the numbers that progress shows. It is safe for concurrent use.
type tally struct {
	started time.Time
	records atomic.Int64 // read
	known   atomic.Int64
	octets  atomic.Int64 // of the files that were read to their end
	current atomic.Int64 // of the file at hand

	mu       sync.Mutex
	report   Report
	kinds    [256]int64
	unmapped map[string]bool
}

func newTally() *tally {
	return &tally{started: time.Now(), report: Report{ByReason: map[string]int64{}}, unmapped: map[string]bool{}}
}

// read notes a block that was read, and how far its file is.
func (t *tally) read(b *block, at int64) {
	t.records.Add(int64(len(b.spans) + len(b.broken)))
	t.current.Store(at)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(b.spans) == 0 {
		return
	}
	for _, name := range b.spans[0].layout.Unmapped() {
		if !t.unmapped[name] {
			t.unmapped[name] = true
			t.report.Unmapped = append(t.report.Unmapped, name)
		}
	}
}

// count notes new events.
func (t *tally) count(events []event.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range events {
		e := &events[i]
		t.kinds[e.Kind]++
		if t.report.First.IsZero() || e.Time.Before(t.report.First) {
			t.report.First = e.Time
		}
		if e.Time.After(t.report.Last) {
			t.report.Last = e.Time
		}
	}
	t.report.Events += int64(len(events))
}

// skip notes records that are not taken.
func (t *tally) skip(records []Skipped) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range records {
		t.report.Skipped++
		t.report.ByReason[s.Reason]++
		if len(t.report.Lines) < maxShown {
			t.report.Lines = append(t.report.Lines, s)
		}
	}
}

// file notes that a file was read to its end; unread that there was no need to.
func (t *tally) file(octets int64, unread bool) {
	t.current.Store(0)
	t.octets.Add(octets)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Files++
	if unread {
		t.report.Unread++
	}
}

// done returns the report.
func (t *tally) done() Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.report
	r.Records, r.Known = t.records.Load(), t.known.Load()
	r.Seconds = time.Since(t.started).Seconds()
	r.Rate = float64(r.Records) / max(r.Seconds, 1e-3)
	r.ByKind = map[string]int64{}
	for kind, n := range t.kinds {
		if n > 0 {
			r.ByKind[event.Kind(kind).String()] = n //nolint:gosec // an index of 256
		}
	}
	return r
}
