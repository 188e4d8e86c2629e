package plugin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// planOf is a plan of ten steps of a minute from noon on.
func planOf(t *testing.T, view, metric, format string, breakdown ...string) views.Plan {
	t.Helper()
	plan, err := views.Build(views.Query{View: view, Format: format, Metrics: []string{metric}, Breakdown: breakdown}, views.Window{From: noon, To: noon.Add(10 * time.Minute), Interval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// answer has a row in each of the minutes, in which the number is the minute and one more.
func answer(more bool, minutes ...int) result {
	times, numbers := make([]time.Time, len(minutes)), make([]float64, len(minutes))
	for i, m := range minutes {
		times[i], numbers[i] = noon.Add(time.Duration(m)*time.Minute), float64(m+1)
	}
	return result{fields: data.Fields{data.NewField("t", nil, times), data.NewField("n", nil, numbers)}, more: more}
}

// shown writes the points of a frame's first series, "-" for none.
func shown(f *data.Frame) string {
	words := make([]string, f.Fields[1].Len())
	for i := range words {
		words[i] = "-"
		if v, _ := f.Fields[1].NullableFloatAt(i); v != nil {
			words[i] = fmt.Sprint(*v)
		}
	}
	return strings.Join(words, " ")
}

// TestStepsWithoutRows holds what a step is that no row is of: nothing happened where that is known.
func TestStepsWithoutRows(t *testing.T) {
	limit := answer(false, 2, 5)
	limit.fields = data.Fields{limit.fields[0], data.NewField("provider", nil, []string{"a", "a"}), data.NewField("source", nil, []string{"s", "s"}), limit.fields[1]}
	limit.fields[3].Name = "limit_rate"
	delivered := func(more bool, minutes ...int) result {
		r := answer(more, minutes...)
		r.fields[1].Name = "delivered"
		return r
	}
	for _, tc := range []struct {
		name   string
		metric string
		answer result
		now    time.Time
		want   string
		notice string
	}{
		{"long past", "delivered", delivered(false, 2, 5), noon.Add(24 * time.Hour), "0 0 3 0 0 6 0 0 0 0", ""},
		{"up to now: what may come yet is unknown", "delivered", delivered(false, 2, 5), noon.Add(10 * time.Minute), "0 0 3 0 0 6 0 0 0 -", ""},
		{"the future", "delivered", delivered(false, 2), noon.Add(5 * time.Minute), "0 0 3 0 - - - - - -", ""},
		{"an answer that was cut", "delivered", delivered(true, 2, 5), noon.Add(24 * time.Hour), "0 0 3 0 0", "Only the time before 2026-11-29 12:05:00 UTC is shown"},
		{"an answer that was cut in its first step", "delivered", delivered(true, 0, 0), noon.Add(24 * time.Hour), "", "Nothing is shown"},
		{"a limit holds", "limit_rate", limit, noon.Add(24 * time.Hour), "- - 3 3 3 6 6 6 6 6", ""},
		{"a limit is not known of the future", "limit_rate", limit, noon.Add(7 * time.Minute), "- - 3 3 3 6 6 6 - -", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			view := map[string]string{"delivered": "deliverability", "limit_rate": "limits"}[tc.metric]
			f := seriesFrame(planOf(t, view, tc.metric, views.TimeSeries), []result{tc.answer}, tc.now)
			if got := shown(f); got != tc.want {
				t.Errorf("points %q, want %q", got, tc.want)
			}
			if got := notices(f); (tc.notice == "") != (got == "") || !strings.Contains(got, tc.notice) {
				t.Errorf("notices %q, want %q", got, tc.notice)
			}
		})
	}
}

func notices(f *data.Frame) string {
	texts := make([]string, len(f.Meta.Notices))
	for i, n := range f.Meta.Notices {
		texts[i] = n.Text
	}
	return strings.Join(texts, "\n")
}

// TestHealthInWords says what the health check finds; what an engine without users cannot show.
func TestHealthInWords(t *testing.T) {
	at, age := noon, 200.0
	for _, tc := range []struct {
		name string
		h    health
		want string
	}{
		{"tenant", health{Schema: 11, Readonly: 2, LastEvent: &at, Age: &age, Tenant: true}, "Last event 3 min ago; user acme sees the rows of one tenant."},
		{"tenant without mail", health{Tenant: true}, "No events yet; user acme sees the rows of one tenant."},
		{"one node", health{Schema: 11, Readonly: 1, LastEvent: &at, Age: &age, Nodes: 1}, "Last event 3 min ago from 1 node; schema 11; user acme only reads."},
		{"warnings", health{Schema: 12, Warnings: []string{"a", "b"}}, "No events yet; schema 12. Attention: a. Attention: b."},
	} {
		if got := tc.h.message("acme"); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestJoinedTable joins what two families of tables know of the same sources.
func TestJoinedTable(t *testing.T) {
	plan, err := views.Build(views.Query{View: "sources", Metrics: []string{"delivered", "score"}, Breakdown: []string{"source"}, Limit: 2}, views.Window{From: noon, To: noon.Add(time.Hour), Interval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Statements) != 2 || !strings.HasSuffix(plan.Statements[0].SQL, "LIMIT 2") || !strings.HasSuffix(plan.Statements[1].SQL, fmt.Sprintf("LIMIT %d", views.MaxLimit)) {
		t.Fatalf("statements %v", plan.SQL())
	}
	rows := func(name string, sources []string, numbers []float64) result {
		return result{fields: data.Fields{data.NewField("source", nil, sources), data.NewField(name, nil, numbers)}}
	}
	for _, tc := range []struct {
		name                string
		delivered, score    result
		sources             []string
		wantNumber, wantNil string // of the column score
	}{
		{"the first answer was cut", rows("delivered", []string{"b", "a"}, []float64{9, 8}), rows("score", []string{"c", "a", "b"}, []float64{1, 2, 3}), []string{"b", "a"}, "a", "c"},
		{"there is room for more", rows("delivered", []string{"b"}, []float64{9}), rows("score", []string{"c", "a"}, []float64{1, 2}), []string{"b", "c"}, "c", "b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tableFrame(plan, []result{tc.delivered, tc.score})
			var sources []string
			for row := range f.Fields[0].Len() {
				v, _ := f.Fields[0].ConcreteAt(row)
				sources = append(sources, fmt.Sprint(v))
			}
			if !slices.Equal(sources, tc.sources) {
				t.Fatalf("sources %v, want %v", sources, tc.sources)
			}
			score, _ := f.FieldByName("score")
			if at := slices.Index(sources, tc.wantNumber); score.NilAt(at) {
				t.Errorf("no score of %s", tc.wantNumber)
			}
			if at := slices.Index(sources, tc.wantNil); at >= 0 && !score.NilAt(at) {
				t.Errorf("a score of %s", tc.wantNil)
			}
		})
	}
}
