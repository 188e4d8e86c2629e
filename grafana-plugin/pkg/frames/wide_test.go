package frames

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-plugin-sdk-go/data"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func at(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }

func TestGrid(t *testing.T) {
	for _, tc := range []struct {
		name     string
		from, to time.Time
		step     time.Duration
		want     int
	}{
		{"whole steps", at(0), at(10), time.Minute, 10},
		{"a part of a step", at(0), at(10).Add(time.Second), time.Minute, 11},
		{"no step", at(0), at(10), 0, 0},
		{"no time", at(0), at(0), time.Minute, 0},
		{"backwards", at(1), at(0), time.Minute, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Grid(tc.from, tc.to, tc.step); len(got) != tc.want {
				t.Errorf("%d steps, want %d", len(got), tc.want)
			}
		})
	}
}

// TestWide makes series of rows that are not in order, have holes, NaN and times off the grid.
func TestWide(t *testing.T) {
	when := data.NewField("t", nil, []*time.Time{new(at(2)), new(at(0)), new(at(1).Add(30 * time.Second)), nil, new(at(-5)), new(at(0))})
	provider := data.NewField("provider", nil, []string{"a", "a", "a", "a", "a", "b"})
	n := data.NewField("n", nil, []uint64{3, 1, 2, 9, 9, 7})
	rate := data.NewField("rate", nil, []float64{0.3, math.NaN(), 0.2, 9, 9, math.Inf(1)})
	w := Wide{Times: Grid(at(0), at(4), time.Minute)}
	w.Add(when, data.Fields{provider}, data.Fields{n, rate})
	want := []Series{
		{"n", data.Labels{"provider": "a"}, []*float64{new(1.0), new(2.0), new(3.0), nil}},
		{"rate", data.Labels{"provider": "a"}, []*float64{nil, new(0.2), new(0.3), nil}},
		{"n", data.Labels{"provider": "b"}, []*float64{new(7.0), nil, nil, nil}},
		{"rate", data.Labels{"provider": "b"}, []*float64{new(math.Inf(1)), nil, nil, nil}},
	}
	if diff := cmp.Diff(want, w.Series); diff != "" {
		t.Error(diff)
	}

	w.Series[2].Hold()
	Series{Points: w.Series[0].Points}.Zero()
	if diff := cmp.Diff([]*float64{new(7.0), new(7.0), new(7.0), new(7.0)}, w.Series[2].Points); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]*float64{new(1.0), new(2.0), new(3.0), new(0.0)}, w.Series[0].Points); diff != "" {
		t.Error(diff)
	}
}

func TestTooManySeries(t *testing.T) {
	names := make([]int64, MaxSeries+5)
	times := make([]time.Time, len(names))
	for i := range names {
		names[i], times[i] = int64(i), at(0)
	}
	w := Wide{Times: Grid(at(0), at(1), time.Minute)}
	w.Add(data.NewField("t", nil, times), data.Fields{data.NewField("l", nil, names)}, data.Fields{data.NewField("n", nil, names)})
	if len(w.Series) != MaxSeries || w.Dropped != 5 {
		t.Errorf("%d series, %d dropped", len(w.Series), w.Dropped)
	}
}

// A long range of short steps has fewer series than MaxSeries: the points are what takes memory.
func TestTooManyPoints(t *testing.T) {
	const steps, fit = MaxPoints / 8, 8
	names := make([]int64, fit+3)
	times := make([]time.Time, len(names))
	for i := range names {
		names[i], times[i] = int64(i), at(0)
	}
	w := Wide{Times: Grid(at(0), at(steps), time.Minute)}
	w.Add(data.NewField("t", nil, times), data.Fields{data.NewField("l", nil, names)}, data.Fields{data.NewField("n", nil, names)})
	if len(w.Series) != fit || w.Dropped != 3 {
		t.Errorf("%d series of %d points, %d dropped, want %d and 3", len(w.Series), len(w.Times), w.Dropped, fit)
	}
}

func TestMergedAndLargest(t *testing.T) {
	of := func(source, provider string, points ...*float64) Series {
		return Series{"limit", data.Labels{"provider": provider, "source": source}, points}
	}
	all := []Series{of("1", "a", new(1.0), nil), of("2", "a", new(2.0), new(5.0)), of("1", "b", nil, new(4.0))}
	sums := Merged(all, []string{"provider"}, false)
	want := []Series{{"limit", data.Labels{"provider": "a"}, []*float64{new(3.0), new(5.0)}}, {"limit", data.Labels{"provider": "b"}, []*float64{nil, new(4.0)}}}
	if diff := cmp.Diff(want, sums); diff != "" {
		t.Error(diff)
	}
	if most := Merged(all, nil, true); len(most) != 1 || *most[0].Points[0] != 2 || *most[0].Points[1] != 5 {
		t.Errorf("the largest of all: %+v", most)
	}
	if *all[0].Points[0] != 1 {
		t.Error("what was merged is changed")
	}
	if diff := cmp.Diff(want[:1], Largest(slices.Clone(sums), 1)); diff != "" {
		t.Error(diff)
	}
	unknown := []Series{of("1", "a", nil, nil), {"used", data.Labels{"provider": "a", "source": "1"}, []*float64{nil, new(1.0)}}}
	if got := Largest(unknown, 1); len(got) != 2 {
		t.Errorf("of one key, of whose first number nothing is known: %v", got)
	}
}
