package app

import (
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/sender/queue"
	"carom/sender/schedule"
	"carom/sender/spool"
)

// Mail with a schedule waits for a window, at first and after a restart, and ends with the last.
func TestItemsWaitForTheirWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		in := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
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
			item := newItem(event.NewID(), now, tg, time.Hour, spool.LiveRecipient{Due: tc.due})
			if item.Due != queue.At(tc.want) || item.Expires != queue.At(in(12)) || item.Priority != 33 {
				t.Errorf("%s: due %s, want %s; expires %s", tc.name, item.Due.Time(), tc.want, item.Expires.Time())
			}
		}
	})
}
