package frames

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
)

// Bounds of one answer.
const (
	MaxSeries = 1000
	// MaxPoints is how many points all series have together, with a value or without: those of a
	// thousand series on a panel of five hundred steps.
	MaxPoints = 500_000
)

// A Series is one curve. Points lie on the grid of its Wide; nil is no value.
type Series struct {
	Name   string // of the number: the metric or the column
	Labels data.Labels
	Points []*float64
}

// A Wide is a set of series on the same times.
type Wide struct {
	Times   []time.Time
	Series  []Series
	Dropped int // series beyond MaxSeries or MaxPoints
}

// Grid returns the times from from on, in steps, before to.
func Grid(from, to time.Time, step time.Duration) []time.Time {
	if step <= 0 || !from.Before(to) {
		return nil
	}
	times := make([]time.Time, 0, int(to.Sub(from)/step)+1)
	for t := from.UTC(); t.Before(to); t = t.Add(step) {
		times = append(times, t)
	}
	return times
}

// Times returns the sorted, distinct times of a field of times; rows without one are left out.
func Times(field *data.Field) []time.Time {
	times := make([]time.Time, 0, field.Len())
	for i := range field.Len() {
		if t, ok := timeAt(field, i); ok {
			times = append(times, t)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return slices.CompactFunc(times, time.Time.Equal)
}

func timeAt(field *data.Field, i int) (time.Time, bool) {
	v, ok := field.ConcreteAt(i)
	if !ok {
		return time.Time{}, false
	}
	t, ok := v.(time.Time)
	return t.UTC(), ok
}

// Add makes series of rows: one of each of the fields values for each combination of labels. times[0]
// is the time of a row; a time that is not on the grid counts for the step that it is in.
func (w *Wide) Add(when *data.Field, labels, values data.Fields) {
	byKey := map[string]int{} // first of the series of a combination
	for row := range when.Len() {
		t, ok := timeAt(when, row)
		if !ok {
			continue
		}
		at, found := slices.BinarySearchFunc(w.Times, t, time.Time.Compare)
		if !found {
			at--
		}
		if at < 0 {
			continue
		}
		words := make([]string, len(labels))
		for i, l := range labels {
			words[i] = Text(l, row)
		}
		key := strings.Join(words, "\x00")
		first, ok := byKey[key]
		if !ok {
			if n := len(w.Series) + len(values); n > MaxSeries || n*len(w.Times) > MaxPoints {
				w.Dropped += len(values)
				byKey[key] = -1
				continue
			}
			first = len(w.Series)
			byKey[key] = first
			for _, v := range values {
				set := data.Labels{}
				for i, l := range labels {
					set[l.Name] = words[i]
				}
				w.Series = append(w.Series, Series{Name: v.Name, Labels: set, Points: make([]*float64, len(w.Times))})
			}
		}
		if first < 0 {
			continue
		}
		for i, v := range values {
			if f := number(v, row); f != nil {
				w.Series[first+i].Points[at] = f
			}
		}
	}
}

// number returns a value as a number, nil for null and NaN.
func number(field *data.Field, row int) *float64 {
	f, err := field.NullableFloatAt(row)
	if err != nil || f == nil || math.IsNaN(*f) {
		return nil
	}
	v := *f
	return &v
}

// Text returns a value as a label.
func Text(field *data.Field, row int) string {
	v, ok := field.ConcreteAt(row)
	if !ok {
		return ""
	}
	switch x := v.(type) {
	case string:
		return x
	case time.Time:
		return x.UTC().Format(time.RFC3339)
	case bool:
		if x {
			return "true"
		}
		return "false"
	default:
		return formatted(x)
	}
}

// zero is what all points of Zero share; points are never written through.
var zero = new(float64)

// Zero fills what is missing in a series of counts: nothing happened.
func (s Series) Zero() {
	for i, p := range s.Points {
		if p == nil {
			s.Points[i] = zero
		}
	}
}

// Hold fills what is missing with the value before.
func (s Series) Hold() {
	for i := 1; i < len(s.Points); i++ {
		if s.Points[i] == nil {
			s.Points[i] = s.Points[i-1]
		}
	}
}

// Merged returns the series with the labels that keep names only; those that become the same are put
// together by the sum of their points, or by the largest.
func Merged(all []Series, keep []string, largest bool) []Series {
	out := make([]Series, 0, len(all))
	byKey := map[string]int{}
	for _, s := range all {
		labels := data.Labels{}
		var key strings.Builder
		key.WriteString(s.Name)
		for _, k := range keep {
			labels[k] = s.Labels[k]
			key.WriteString("\x00" + s.Labels[k])
		}
		i, ok := byKey[key.String()]
		if !ok {
			byKey[key.String()] = len(out)
			out = append(out, Series{Name: s.Name, Labels: labels, Points: slices.Clone(s.Points)})
			continue
		}
		for j, p := range s.Points {
			switch sum := out[i].Points[j]; {
			case p == nil:
			case sum == nil:
				out[i].Points[j] = p
			case largest:
				v := max(*sum, *p)
				out[i].Points[j] = &v
			default:
				v := *sum + *p
				out[i].Points[j] = &v
			}
		}
	}
	return out
}

// Largest returns the n series with the largest sums, in the order of their names and labels. Series
// of other names but the labels of one of these stay too.
func Largest(all []Series, n int) []Series {
	sums := map[string]float64{}
	for _, s := range all {
		key := s.Labels.String()
		sums[key] += 0
		for _, p := range s.Points {
			if p != nil && s.Name == all[0].Name {
				sums[key] += *p
			}
		}
	}
	keys := make([]string, 0, len(sums))
	for k := range sums {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	keys = keys[:min(n, len(keys))]
	return slices.DeleteFunc(all, func(s Series) bool { return !slices.Contains(keys, s.Labels.String()) })
}
