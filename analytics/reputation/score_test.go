package reputation_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"carom/analytics/reputation"
)

// perfect returns components of which only complaints cost anything.
func perfect(share float64) []reputation.Component {
	const n = 1e12 // the prior is nothing beside it
	return []reputation.Component{
		{Name: reputation.Complaints, K: share * n, N: n, R0: 0.0005},
		{Name: reputation.UnknownUsers, N: n, R0: 0.01},
		{Name: reputation.Blocks, N: n, R0: 0.002},
		{Name: reputation.Refusals, N: n, R0: 0.01},
	}
}

func TestScore(t *testing.T) {
	p := reputation.Default()
	for _, tc := range []struct{ share, want float64 }{{0, 100}, {0.0005, 100}, {0.001, 82}, {0.002, 55}, {0.003, 16}, {0.01, 16}} {
		if got := p.Score(perfect(tc.share)); math.Round(got.Score) != tc.want {
			t.Errorf("complaints of %v: score %v, want %v", tc.share, got.Score, tc.want)
		}
	}
	if got := p.Score(nil); got.Score != 100 || got.Worst != "" {
		t.Errorf("without components: %+v", got)
	}
	// Ten answers prove nothing: the prior speaks.
	few := p.Score([]reputation.Component{{Name: reputation.Complaints, K: 1, N: 10, R0: 0.0005}})
	if c := few.Components[0]; math.Abs(c.R-2.0/2010) > 1e-12 || !(c.Low < c.R && c.R < c.High) || few.ScoreHigh <= few.Score {
		t.Errorf("one complaint in ten: %+v", few)
	}
}

func TestScoreStaysInside(t *testing.T) {
	p := reputation.Default()
	rapid.Check(t, func(t *rapid.T) {
		var components []reputation.Component
		for _, c := range perfect(0) {
			if rapid.Bool().Draw(t, "known") {
				c.N = rapid.Float64Range(0, 1e9).Draw(t, "n")
				c.K = rapid.Float64Range(0, 1).Draw(t, "share") * c.N
				components = append(components, c)
			}
		}
		got := p.Score(components)
		if !(got.Score > 0 && got.Score <= 100) || got.ScoreHigh < got.Score-1e-9 || got.ScoreHigh > 100+1e-9 {
			t.Fatalf("%+v", got)
		}
		for _, c := range got.Components {
			if !(c.Low <= c.R && c.R <= c.High) && c.Name != reputation.Complaints || math.IsNaN(c.Low+c.High+c.Sub) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func TestNext(t *testing.T) {
	p := reputation.Default()
	t0 := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	high := reputation.Standing{Band: reputation.High, Since: t0}
	low := reputation.Standing{Band: reputation.Low, Since: t0}
	for _, tc := range []struct {
		name                      string
		before                    reputation.Standing
		score, scoreHigh, answers float64
		minutes                   int
		want                      reputation.Standing
	}{
		{"new", reputation.Standing{}, 70, 90, 1000, 1, reputation.Standing{Band: reputation.Medium, Since: at(1)}},
		{"too few answers", high, 70, 90, 49, 1, reputation.Standing{Band: reputation.Unknown, Since: at(1)}},
		{"enough at last", reputation.Standing{Band: reputation.Unknown, Since: t0}, 70, 90, 50, 1, reputation.Standing{Band: reputation.Medium, Since: at(1)}},
		{"the same", high, 81, 90, 1000, 1, high},
		{"worse, for sure", high, 50, 55, 1000, 1, reputation.Standing{Band: reputation.Low, Since: at(1)}},
		{"worse, partly sure", high, 50, 75, 1000, 1, reputation.Standing{Band: reputation.Medium, Since: at(1), Toward: reputation.Low, TowardSince: at(1)}},
		{"worse, perhaps", high, 75, 85, 1000, 1, reputation.Standing{Band: reputation.High, Since: t0, Toward: reputation.Medium, TowardSince: at(1)}},
		{"worse, not long enough", reputation.Standing{Band: reputation.High, Since: t0, Toward: reputation.Medium, TowardSince: at(1)}, 75, 85, 1000, 10, reputation.Standing{Band: reputation.High, Since: t0, Toward: reputation.Medium, TowardSince: at(1)}},
		{"worse, long enough", reputation.Standing{Band: reputation.High, Since: t0, Toward: reputation.Medium, TowardSince: at(1)}, 75, 85, 1000, 11, reputation.Standing{Band: reputation.Medium, Since: at(11)}},
		{"worse and well again", reputation.Standing{Band: reputation.High, Since: t0, Toward: reputation.Medium, TowardSince: at(1)}, 85, 90, 1000, 5, high},
		{"better, within the margin", low, 64, 70, 1000, 60, low},
		{"better", low, 66, 70, 1000, 60, reputation.Standing{Band: reputation.Low, Since: t0, Toward: reputation.Medium, TowardSince: at(60)}},
		{"better, long enough", reputation.Standing{Band: reputation.Low, Since: t0, Toward: reputation.Medium, TowardSince: at(60)}, 90, 95, 1000, 90, reputation.Standing{Band: reputation.High, Since: at(90)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, p.Next(tc.before, tc.score, tc.scoreHigh, tc.answers, at(tc.minutes))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFeedbackOf(t *testing.T) {
	p := reputation.Default()
	for _, tc := range []struct {
		name                   string
		oldK, oldN, newK, newN float64
		want                   reputation.Feedback
	}{
		{"none ever came", 0, 1e6, 0, 1e5, reputation.None},
		{"the first came today", 0, 0, 1, 1e5, reputation.Live},
		{"too little mail to tell", 100, 1e6, 0, 9e4, reputation.Live},
		{"ten should have come", 100, 1e6, 0, 1e5, reputation.Silent},
		{"some still come", 100, 1e6, 1, 1e6, reputation.Live},
	} {
		if got := p.FeedbackOf(tc.oldK, tc.oldN, tc.newK, tc.newN); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestParseKey(t *testing.T) {
	for text, want := range map[string][2]string{
		"key:google/192.0.2.1": {"key", "google/192.0.2.1"}, "google/2001:db8::/64": {"", "google/2001:db8::/64"}, "sender:example.com": {"sender", "example.com"}, "google": {"", "google"},
	} {
		kind, name, err := reputation.ParseKey(text)
		if kind != want[0] || name != want[1] || err != nil {
			t.Errorf("%q is %q, %q, %v; want %q", text, kind, name, err, want)
		}
	}
	for _, text := range []string{"", "key:"} {
		if _, _, err := reputation.ParseKey(text); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
}

func TestValidate(t *testing.T) {
	p := reputation.Default()
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	p.Complaints.Good, p.Bands.Low, p.SlowSpan = 0.004, 70, 1000*time.Hour
	if err := p.Validate(); err == nil {
		t.Error("thresholds that make no sense are valid")
	}
}
