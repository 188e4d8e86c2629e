package importer

import (
	"context"
	"fmt"
	"time"

	"carom/schemas/event"
	"carom/schemas/warehouse"
)

// The views behind the table of events take most of the time of an insert. What happened before today is
// therefore stored without them, and the roll-ups of its time are counted from the events when all is
// read. Today is left to the views, because nodes insert there too while it would be counted; and so is
// the last hour of yesterday, just after midnight.
const nodesAreLate = time.Hour

// mostUncounted bounds the events that wait to be counted.
const mostUncounted = 20_000_000

// lateness is the time that is to be counted.
type lateness struct {
	from, to time.Time // of the first and last event; zero for none
	events   int
}

// add notes events and reports whether all of them are of before begun.
func (l *lateness) add(events []event.Event, begun time.Time) (all bool) {
	all = true
	for i := range events {
		at := events[i].Time
		if !at.Before(begun) {
			all = false
			continue
		}
		l.events++
		if l.from.IsZero() || at.Before(l.from) {
			l.from = at
		}
		if at.After(l.to) {
			l.to = at
		}
	}
	return all
}

// begun returns the time from which on nodes may still insert. On a cluster that is all time: only the
// shard that answers could be counted here (warehouse.Rebuild), and so everything is left to the views.
func (r *run) begun() time.Time {
	if r.replicated {
		return time.Time{}
	}
	return r.now().UTC().Add(-nodesAreLate).Truncate(24 * time.Hour)
}

// settle counts what is not counted, and notes the files that are done with.
func (r *run) settle(ctx context.Context) error {
	if r.store == nil {
		return nil
	}
	if r.late.events > 0 {
		o := warehouse.RebuildOptions{Idle: true, Report: func(done warehouse.Rebuilt) { r.counted.Store(&done) }}
		if err := warehouse.Rebuild(ctx, r.store.conn, r.late.from, r.late.to.Add(time.Microsecond), o); err != nil {
			return fmt.Errorf("the events are stored, but not counted yet (start the same import again): %w", err)
		}
		r.counted.Store(nil)
	}
	r.late = lateness{}
	for _, s := range r.finished {
		if err := r.store.note(ctx, s); err != nil {
			return err
		}
	}
	r.finished = nil
	return nil
}
