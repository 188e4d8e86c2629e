package e2e

import (
	"testing"
	"time"

	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
)

// every ten seconds from one minute to another so many accepted and refused.
func rowsOf(from, to, ok, refused int) []provider.Row {
	var rows []provider.Row
	for t := 60 * from; t < 60*to; t += 10 {
		rows = append(rows, provider.Row{T: float64(t), OK: ok, Attempts: ok + refused, Classes: map[provider.Class]int{provider.Rate: refused}})
	}
	return rows
}

func TestFromReceivers(t *testing.T) {
	rows := append(rowsOf(0, 20, 100, 0), rowsOf(20, 30, 5, 95)...)
	rows = append(rows, rowsOf(35, 60, 24, 1)...)
	var o outcome
	o.fromReceivers(rows, []step{{20 * time.Minute, 2.5}}, time.Hour, 18000, 120)
	if o.Accepted != 12000+300+3600 || o.Goodput != 100*15900.0/18000 || o.BlockMinutes != 2 {
		t.Errorf("accepted %d, goodput %v, block minutes %v", o.Accepted, o.Goodput, o.BlockMinutes)
	}
	if want := 100 * (5700.0 + 150) / (12000 + 6000 + 3750); o.Deferrals != want {
		t.Errorf("deferrals %v, want %v", o.Deferrals, want)
	}
	if o.RecoveryMinutes < 14.5 || o.RecoveryMinutes > 15.5 {
		t.Errorf("recovered after %v min, want 15", o.RecoveryMinutes)
	}
	if o.SilentMinutes < 5 || o.SilentMinutes > 5.5 {
		t.Errorf("silent for %v min, want 5", o.SilentMinutes)
	}
	blocked := provider.Row{T: 60, Attempts: 6, Blocked: true, Classes: map[provider.Class]int{provider.Block: 6}}
	later := provider.Row{T: 240, Attempts: 3, Blocked: true, Classes: map[provider.Class]int{provider.Block: 3}}
	var suspended outcome // there is no row without an attempt
	suspended.fromReceivers([]provider.Row{blocked, later, {T: 360, Attempts: 1, OK: 1}}, nil, 7*time.Minute, 1, 0)
	if want := 9.0 / 5; suspended.BlockedPerMinute != want {
		t.Errorf("%v attempts in a blocked minute, want %v", suspended.BlockedPerMinute, want)
	}
	o.atLeast("goodput", o.Goodput, 99)
	o.atMost("deferrals", o.Deferrals, 99)
	if len(o.Missed) != 1 {
		t.Errorf("missed %q, want the goodput alone", o.Missed)
	}
}

func TestTrialsAreScenarios(t *testing.T) {
	names := map[string]bool{}
	for _, one := range trials() {
		s, err := scenarios.Parse(one.name, []byte(one.scenario(20)))
		if err != nil {
			t.Errorf("%s: %v", one.name, err)
			continue
		}
		if names[one.name] || one.check == nil || s.Duration.D() != one.duration || s.Scale != 20 {
			t.Errorf("%s: %+v", one.name, s)
		}
		names[one.name] = true
		for _, a := range one.acts {
			if a.at+a.len >= one.duration {
				t.Errorf("%s: %s ends at %v, after the trial", one.name, a.kind, a.at+a.len)
			}
		}
	}
}

func TestOriginEndsADaySoon(t *testing.T) {
	for _, now := range []time.Time{time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC), time.Date(2026, 11, 30, 3, 26, 30, 0, time.UTC), time.Date(2026, 11, 30, 3, 11, 7, 0, time.UTC)} {
		began := origin(now, 20)
		system := began.Add(20 * now.Sub(began))
		if left := system.Truncate(warmupDay).Add(warmupDay).Sub(system); left < lead-time.Second || left > lead+time.Second {
			t.Errorf("at %v a day of the system ends in %v, want %v", now, left, lead)
		}
	}
}
