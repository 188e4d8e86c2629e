package importer

import (
	"testing"
	"time"

	"carom/schemas/event"
)

// What may be stored without its roll-ups is mail of before today, and none on a cluster.
func TestWhatIsCountedLater(t *testing.T) {
	now := time.Date(2026, 11, 29, 0, 30, 0, 0, time.UTC)
	for _, tc := range []struct {
		name       string
		at         time.Time
		replicated bool
		later      bool
	}{
		{"weeks ago", now.AddDate(0, 0, -20), false, true},
		{"weeks ago, on a cluster", now.AddDate(0, 0, -20), true, false},
		{"the last hour of yesterday", now.Add(-45 * time.Minute), false, false},
		{"today", now.Add(-time.Minute), false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := run{now: func() time.Time { return now }, replicated: tc.replicated}
			later := r.late.add([]event.Event{{Time: tc.at}}, r.begun())
			if later != tc.later || (r.late.events == 1) != tc.later {
				t.Errorf("counted later: %t, events that wait for that: %d; want %t", later, r.late.events, tc.later)
			}
		})
	}
}
