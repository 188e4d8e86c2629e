package app

import (
	"testing"
	"time"
)

func TestNextRun(t *testing.T) {
	base := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	throttle := &job{period: 10 * time.Second, offset: 2500 * time.Millisecond}
	often := &job{period: 2 * time.Second}
	seldom := &job{period: time.Hour}
	for _, tc := range []struct {
		name     string
		job      *job
		now      time.Duration
		failures int
		random   float64
		want     time.Duration
	}{
		{"at the start", throttle, 0, 0, 0, 2500 * time.Millisecond},
		{"at once behind its time", throttle, 2500 * time.Millisecond, 0, 0, 12500 * time.Millisecond},
		{"a little later", throttle, 0, 0, 1, 3 * time.Second},
		{"after a failure", often, time.Second, 1, 0, 4 * time.Second},
		{"after five", often, time.Second, 5, 0, time.Minute},
		{"after very many", often, time.Second, 1000, 0, time.Minute},
		{"a seldom one, after failures", seldom, time.Minute, 5, 0, time.Hour},
	} {
		if got := tc.job.next(base.Add(tc.now), tc.failures, tc.random).Sub(base); got != tc.want {
			t.Errorf("%s: next run after %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestPeriodsFlag(t *testing.T) {
	p := defaultPeriods()
	if err := p.Set("throttle=30s, webhook=1m"); err != nil || p["throttle"] != 30*time.Second || p["webhook"] != time.Minute || p["suppression"] != 2*time.Second {
		t.Errorf("periods are %s, %v", p, err)
	}
	if len(p) != len(jobNames) {
		t.Errorf("%d jobs have a default period, there are %d", len(p), len(jobNames))
	}
	p.keepPace(20)
	if p["throttle"] != 30*time.Second || p["webhook"] != time.Minute || p["holds"] != time.Minute || p["suppression"] != 40*time.Second {
		t.Errorf("where time passes 20 times as fast, periods are %s", p)
	}
}
