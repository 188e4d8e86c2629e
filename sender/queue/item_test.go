package queue

import (
	"testing"
	"time"
)

// slack is more than what the two clocks differ by while they are read one after the other.
const slack = 10 * time.Second

func near(a, b time.Time) bool { return a.Sub(b).Abs() < slack }

// TestMoment: a moment is as far from now as its time was, whether that had a monotonic reading or not.
func TestMoment(t *testing.T) {
	now := time.Now()
	for name, at := range map[string]time.Time{
		"now": now, "in an hour": now.Add(time.Hour), "an hour ago": now.Add(-time.Hour),
		"by the wall clock": now.Round(0), "in an hour by the wall clock": now.Add(time.Hour).UTC(), "in 1980": time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got := At(at).Time(); !near(got, at) || !near(got.Round(0), at.Round(0)) {
			t.Errorf("%s: %s became %s", name, at, got)
		}
	}
	if a, b := At(now), At(now.Add(time.Microsecond)); b != a+1 || At(now) != a {
		t.Errorf("%d, and a microsecond later %d", a, b)
	}
	if At(time.Time{}) != 0 || !Moment(0).Time().IsZero() {
		t.Error("no time has a moment")
	}
	for _, far := range []time.Time{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)} {
		if m := At(far); m < 1 || far.After(now) != (m > At(now)) || far.After(now) != m.Time().After(now) {
			t.Errorf("%s is at %d, %s", far, m, m.Time())
		}
	}
}

// TestMomentHasMonotonicReading: comparisons with it are not the wall clock's.
func TestMomentHasMonotonicReading(t *testing.T) {
	if at := At(time.Now()).Time(); at == at.Round(0) { //nolint:staticcheck // Equal does not see it
		t.Errorf("%s has none", at)
	}
}
