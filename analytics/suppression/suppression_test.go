package suppression

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestExhausted(t *testing.T) {
	day := func(ago int, hours ...int) []SoftBounce {
		out := make([]SoftBounce, len(hours))
		for i, h := range hours {
			out[i] = SoftBounce{Time: noon.AddDate(0, 0, -ago).Add(time.Duration(h) * time.Hour)}
		}
		return out
	}
	join := func(parts ...[]SoftBounce) (out []SoftBounce) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	three := SoftBouncePolicy{Days: 3, Within: 10, Expires: 30}
	for _, tc := range []struct {
		name      string
		policy    SoftBouncePolicy
		bounces   []SoftBounce
		delivered time.Time
		want      bool
	}{
		{"none", three, nil, time.Time{}, false},
		{"three days", three, join(day(0, 0), day(1, 0), day(2, 0)), time.Time{}, true},
		{"two days, many messages", three, join(day(0, -3, -2, -1, 0), day(1, 0, 1, 2)), time.Time{}, false},
		{"the third too long ago", three, join(day(0, 0), day(1, 0), day(10, 0)), time.Time{}, false},
		{"the third just in time", three, join(day(0, 0), day(1, 0), day(10, 1)), time.Time{}, true},
		{"delivered in between", three, join(day(0, 0), day(1, 0), day(2, 0)), noon.AddDate(0, 0, -1).Add(time.Hour), false},
		{"delivered before", three, join(day(0, 0), day(1, 0), day(2, 0)), noon.AddDate(0, 0, -5), true},
		{"across midnight is two days", SoftBouncePolicy{Days: 2, Within: 10}, day(1, 11, 13), time.Time{}, true},
		{"switched off", SoftBouncePolicy{Days: 0, Within: 10}, join(day(0, 0), day(1, 0), day(2, 0)), time.Time{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.policy.Exhausted(tc.bounces, tc.delivered, noon); got != tc.want {
				t.Errorf("Exhausted(%v, delivered %v) = %v, want %v", tc.bounces, tc.delivered, got, tc.want)
			}
		})
	}
}

// minutes makes one minute of each pair, the last one at noon.
func minutes(pairs ...Counts) []Minute {
	out := make([]Minute, len(pairs))
	for i, c := range pairs {
		out[i] = Minute{Start: noon.Add(time.Duration(i-len(pairs)+1) * time.Minute), Counts: c}
	}
	return out
}

func days(n int, c Counts) []Counts {
	out := make([]Counts, n)
	for i := range out {
		out[i] = c
	}
	return out
}

func TestBreaker(t *testing.T) {
	usual := days(14, Counts{Delivered: 990, Unknown: 10}) // 1 %
	good, bad := Counts{Delivered: 500, Unknown: 5}, Counts{Delivered: 50, Unknown: 450}
	for _, tc := range []struct {
		name    string
		minutes []Minute
		history []Counts
		open    bool
		median  float64
		marked  int // minutes of the wave
	}{
		{"usual share", minutes(good, good, good), usual, false, 0, 0},
		{"everybody unknown", minutes(good, good, good, bad, bad), usual, true, 0.01, 2},
		{"its first minute", minutes(good, good, good, good, Counts{Delivered: 5, Unknown: 60}), usual, true, 0.01, 1},
		{"five times exactly", minutes(Counts{Delivered: 950, Unknown: 50}), usual, false, 0, 0},
		{"above five times", minutes(Counts{Delivered: 949, Unknown: 51}), usual, true, 0.01, 1},
		{"five times, but under five percent", minutes(Counts{Delivered: 960, Unknown: 40}), days(14, Counts{Delivered: 999, Unknown: 1}), false, 0, 0},
		{"above five percent, but usual here", minutes(Counts{Delivered: 900, Unknown: 100}), days(14, Counts{Delivered: 970, Unknown: 30}), false, 0, 0},
		{"few unknown users", minutes(Counts{Delivered: 1, Unknown: 19}), usual, false, 0, 0},
		{"one bad day before does not move the median", minutes(bad), append(days(6, Counts{Delivered: 990, Unknown: 10}), Counts{Unknown: 1000}), true, 0.01, 1},
		{"even number of days", minutes(bad), []Counts{{98, 2}, {96, 4}, {99, 1}, {50, 50}}, true, 0.03, 1},
		{"no history, a third unknown", minutes(Counts{Delivered: 200, Unknown: 100}), nil, false, 0, 0},
		{"no history, nearly all unknown", minutes(bad), nil, true, -1, 1},
		{"hours without mail are no history", minutes(Counts{Delivered: 200, Unknown: 100}), append(days(2, Counts{Delivered: 99, Unknown: 1}), make([]Counts, 12)...), false, 0, 0},
		{"slow, seen by the long window only", minutes(
			Counts{100, 8}, Counts{100, 8}, Counts{100, 8}, Counts{100, 8}, Counts{100, 8}, Counts{100, 8}, Counts{100, 8}), usual, true, 0.01, 7},
		{"over for a quarter of an hour", minutes(append([]Counts{bad}, days(15, good)...)...), usual, false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Default().Breaker
			wave, open := p.Open(tc.minutes, noon, tc.history)
			if open != tc.open || open && (wave.Median < tc.median-1e-9 || wave.Median > tc.median+1e-9) || len(wave.Minutes) != tc.marked {
				t.Errorf("Open = %+v, %v; want %v, median %v, %d minutes", wave, open, tc.open, tc.median, tc.marked)
			}
			if open && !p.Suspect(tc.minutes, noon) {
				t.Error("Open, but not Suspect")
			}
		})
	}
	if off := (BreakerPolicy{Factor: 5, Share: 0.05}); off.Suspect(minutes(bad), noon) {
		t.Error("a breaker that is switched off is suspicious")
	} else if _, open := off.Open(minutes(bad), noon, usual); open {
		t.Error("a breaker that is switched off opens")
	}
}

func TestValidate(t *testing.T) {
	p := Default()
	if err := p.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, tc := range []struct {
		want  string
		spoil func(*Policy)
	}{
		{"days is -1", func(p *Policy) { p.SoftBounces.Days = -1 }},
		{"within-days is 4", func(p *Policy) { p.SoftBounces.Within = 4 }},
		{"expire-days is 0", func(p *Policy) { p.SoftBounces.Expires = 0 }},
		{"factor is 0", func(p *Policy) { p.Breaker.Factor = 0 }},
		{"share is 1", func(p *Policy) { p.Breaker.Share = 1 }},
		{"share-without-history is 0", func(p *Policy) { p.Breaker.ShareWithoutHistory = 0 }},
		{"min-days is 15", func(p *Policy) { p.Breaker.MinDays = 15 }},
		{"confirm-after is 1m", func(p *Policy) { p.Breaker.ConfirmAfter = time.Minute }},
	} {
		p := Default()
		tc.spoil(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Validate gives %v, want %q", err, tc.want)
		}
	}
}
