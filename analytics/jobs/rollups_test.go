package jobs_test

import (
	"context"
	"testing"
	"time"

	"carom/analytics/jobs"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

// rolled returns events of the job's roll-ups.
func rolled(at time.Time, n int) []event.Event {
	events := answers(limits.Key{Provider: "google", Source: "192.0.2.1"}, 0, at, at.Add(time.Minute), n, taxonomy.OK)
	for i := range events {
		e := &events[i]
		e.RecipientDomain, e.FromDomain, e.Job, e.VMTA, e.Size = "d.example", "shop.example", "spring", "v1", 100
	}
	return events
}

// wantRolledUp checks every roll-up against the events, and the number of events by the hour.
func (w *world) wantRolledUp(t *testing.T, when string, events uint64) {
	t.Helper()
	found, err := warehouse.Differences(t.Context(), w.conn, w.now.AddDate(0, 0, -10), w.now)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("%s: %d differences, the first %+v", when, len(found), found[0])
	}
	var byHour uint64
	w.scan(t, "SELECT sum(events) FROM rollup_1h", &byHour)
	if byHour != events {
		t.Errorf("%s: the roll-up by the hour has %d events, want %d", when, byHour, events)
	}
}

func TestRollUps(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	w := newWorld(t)
	hour := w.now.Truncate(time.Hour)
	job := &jobs.RollUps{Conn: w.conn, Version: "test"}
	w.arrive(t, rolled(hour.Add(-3*time.Hour), 50))
	w.arrive(t, rolled(hour.Add(-50*time.Hour), 30))
	if first := mustRun(t, job.Run); first.Changes == 0 || first.DataTo.Before(w.now) {
		t.Errorf("the first run is %+v", first)
	}
	w.wantRolledUp(t, "after the first run", 80)

	// What comes late, of a node that was cut off for days, is in the next run.
	w.arrive(t, rolled(hour.Add(-75*time.Hour), 20))
	mustRun(t, job.Run)
	w.wantRolledUp(t, "after late mail", 100)

	// Runs at once, on schedule and over a range.
	w.arrive(t, rolled(hour.Add(-3*time.Hour), 10))
	done := make(chan error, 3)
	for i := range cap(done) {
		go func() {
			run := job.Run
			if i%2 == 1 {
				run = func(ctx context.Context) (jobs.Result, error) {
					return job.RunRange(ctx, hour.Add(-5*time.Hour), hour)
				}
			}
			_, err := run(context.WithoutCancel(t.Context()))
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	w.wantRolledUp(t, "after doubled runs", 110)

	// An hour that ended since the last run is rolled up, though nothing arrives any more.
	w.store(t, rolled(hour.Add(-2*time.Hour), 5))
	w.later(t, "130 MINUTE")
	if last := mustRun(t, job.Run); last.Changes == 0 {
		t.Errorf("the run after an hour is %+v", last)
	}
	w.wantRolledUp(t, "after an hour", 115)
}
