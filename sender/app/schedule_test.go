package app

import (
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/sender/deliver"
	"carom/sender/queue"
	"carom/sender/schedule"
	"carom/sender/spool"
)

// Mail with a schedule waits for a window, at first and after a restart, and ends with the last.
func TestItemsWaitForTheirWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		in := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
		plan := deliver.Plan{BounceAfter: time.Hour, RetryAfter: 24 * time.Hour}
		windows := schedule.Schedule{{From: in(1), To: in(2)}, {From: in(10), To: in(12)}}
		for _, tc := range []struct {
			name      string
			windows   schedule.Schedule
			due, want time.Time
		}{
			{"new mail before the first", windows, time.Time{}, in(1)},
			{"a retry inside the second", windows, in(11), in(11)},
			{"a retry between them", windows, in(3), in(10)},
			{"a retry behind the last", windows, in(13), in(12)},
			{"new mail inside one", schedule.Schedule{{From: in(-1), To: in(12)}}, time.Time{}, now},
			{"without windows", nil, in(3), in(3)},
		} {
			tg := &tag{Windows: tc.windows, Domains: []string{"a.test"}, Expires: in(12), Priority: 33}
			item := newItem(event.NewID(), now, tg, plan, spool.LiveRecipient{Due: tc.due})
			if item.Due != queue.At(tc.want) || item.Expires != queue.At(in(12)) || item.Priority != 33 {
				t.Errorf("%s: due %s, want %s; expires %s", tc.name, item.Due.Time(), tc.want, item.Expires.Time())
			}
		}
	})
}

// TestTimesOfAnotherClock: what a node with a clock that was ahead wrote down does not make mail wait.
func TestTimesOfAnotherClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		in := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour).UTC() }
		plan := deliver.Plan{BounceAfter: 5 * time.Hour, RetryAfter: 2 * time.Hour}
		for _, tc := range []struct {
			name                 string
			arrived, due         time.Time
			wantDue, wantExpires time.Time
		}{
			{"as it should be", in(-1), in(1), in(1), in(4)},
			{"tried by a clock that was ahead", in(-1), in(30), in(2), in(4)},
			{"arrived by a clock that was ahead", in(24), in(25), in(2), in(5)},
			{"never tried", in(24), time.Time{}, time.Time{}, in(5)},
			{"tried by a clock that was behind", in(-1), in(-24), in(-24), in(4)},
		} {
			item := newItem(event.NewID(), tc.arrived, &tag{Domains: []string{"a.test"}}, plan, spool.LiveRecipient{Due: tc.due})
			if item.Due != queue.At(tc.wantDue) || item.Expires != queue.At(tc.wantExpires) {
				t.Errorf("%s: due %s, want %s; expires %s, want %s", tc.name, item.Due.Time(), tc.wantDue, item.Expires.Time(), tc.wantExpires)
			}
		}
	})
}
