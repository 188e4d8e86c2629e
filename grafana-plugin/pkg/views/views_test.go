package views

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// end is the end of the ranges here; the clock stands there.
var end = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	now = func() time.Time { return end }
	os.Exit(m.Run())
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file) //nolint:gosec // of this folder
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs; -update rewrites it (-want +got):\n%s", file, diff)
	}
}

// TestSQL holds the SQL of each view as it begins to what a person has read.
func TestSQL(t *testing.T) {
	var b strings.Builder
	for _, v := range Catalogue() {
		q := Query{View: v.Name, Metrics: v.Defaults.Metrics, Breakdown: v.Defaults.Breakdown}
		if v.Name == "trace" {
			q.Search = "0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60"
		}
		plan, err := Build(q, Window{From: end.Add(-6 * time.Hour), To: end, Interval: 30 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		b.WriteString("-- " + v.Name + "\n" + plan.SQL() + ";\n\n")
	}
	golden(t, "testdata/views.sql", b.String())
}

// TestWhatNeedsAttentionComesFirst: a table that is cut keeps the rows that matter.
func TestWhatNeedsAttentionComesFirst(t *testing.T) {
	for _, tc := range []struct{ view, metric, by, format, want string }{
		{"deliverability", "delivery_rate", "provider", Table, "ORDER BY delivery_rate, provider"},
		{"deliverability", "hard_bounce_rate", "provider", Table, "ORDER BY hard_bounce_rate DESC, provider"},
		{"deliverability", "delivered", "provider", Table, "ORDER BY delivered DESC, provider"},
		{"reputation", "score", "provider", Table, "ORDER BY score, provider"},
		{"reputation", "score", "provider", TimeSeries, "    ORDER BY argMax(r.score, (r.ts, -r.score)), r.provider"},
		// By how much mail it is about, in one reading where that is the sum of the steps and there are few series.
		{"deliverability", "delivery_rate", "provider", TimeSeries, "dense_rank() OVER (ORDER BY weight DESC, provider)"},
		{"limits", "local_factor", "node", TimeSeries, "min(step_weight) OVER (PARTITION BY node)"},
		{"deliverability", "delivery_rate", "source", TimeSeries, "    ORDER BY sum(if(r.kind IN ("},
		{"deliverability", "delivery_rate", "recipient_domain", TimeSeries, "    ORDER BY sum(if(r.kind IN ("},
		{"jobs", "left", "provider", TimeSeries, "    ORDER BY greatest("},
	} {
		plan, err := Build(Query{View: tc.view, Format: tc.format, Metrics: []string{tc.metric}, Breakdown: []string{tc.by}}, Window{From: end.Add(-6 * time.Hour), To: end, Interval: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if sql := plan.Statements[0].SQL; !strings.Contains(sql, tc.want) {
			t.Errorf("%s as %s: no %q in\n%s", tc.metric, tc.format, tc.want, sql)
		}
	}
}

// TestCatalogueForTheFrontend writes down what the resource views answers: the tests of editors and
// dashboards read it.
func TestCatalogueForTheFrontend(t *testing.T) {
	text, err := json.MarshalIndent(Catalogue(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/views.json", string(text)+"\n")
}

func TestCatalogueIsSound(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range Catalogue() {
		if seen[v.Name] || v.Title == "" || v.Description == "" || len(v.Formats) == 0 || v.Defaults.Limit == 0 {
			t.Errorf("view %+v", v)
		}
		seen[v.Name] = true
		metrics := map[string]bool{}
		for _, m := range v.Metrics {
			if metrics[m.Name] || m.Title == "" || m.Unit == "" || m.Description == "" || len(m.Breakdowns) == 0 {
				t.Errorf("%s: metric %+v", v.Name, m)
			}
			if strings.Contains(m.expr, "{seconds}") && m.weight == "" {
				t.Errorf("%s: the largest of %s cannot be found by %s", v.Name, m.Name, m.expr)
			}
			metrics[m.Name] = true
			for _, f := range m.families {
				if len(f.columnsIn(m.expr)) == 0 && !strings.Contains(m.expr, "count()") && !strings.Contains(m.expr, "ts") {
					t.Errorf("%s: %s names no column of %s", v.Name, m.Name, f.name)
				}
			}
		}
		for _, f := range v.Filters {
			if _, ok := choiceSources[f.Name]; !ok && !slices.Contains(unlisted, f.Name) {
				t.Errorf("%s: the values of %s are neither listed nor known to be too many", v.Name, f.Name)
			}
		}
	}
}

// unlisted are fields with too many values for a picker.
var unlisted = []string{
	"message_id", "recipient", "connection_id", "id", "phase", "code", "enhanced", "mx_host", "limit_reason", "limit_epoch", "limiting_scope", "tags",
}

// TestTableFitsStepAndAge holds the choice of a roll-up.
func TestTableFitsStepAndAge(t *testing.T) {
	for _, tc := range []struct {
		name      string
		view      string
		breakdown string
		length    time.Duration
		interval  time.Duration
		step      time.Duration
		table     string
	}{
		{"seconds become a minute", "deliverability", "provider", time.Hour, 5 * time.Second, time.Minute, "rollup_1m"},
		{"minutes", "deliverability", "source", 24 * time.Hour, 4 * time.Minute, 5 * time.Minute, "rollup_1m"},
		{"an hour", "deliverability", "provider", 7 * oneDay, 50 * time.Minute, time.Hour, "rollup_1h"},
		{"past the minutes", "deliverability", "provider", 9 * oneDay, 10 * time.Minute, time.Hour, "rollup_1h"},
		{"days", "deliverability", "provider", 90 * oneDay, oneDay, oneDay, "rollup_1d"},
		{"past the hours", "deliverability", "provider", 500 * oneDay, time.Hour, oneDay, "rollup_1d"},
		{"tenants have no minutes: events", "deliverability", "tenant", 2 * time.Hour, 15 * time.Second, time.Minute, "events"},
		{"nor in a longer range: hours", "deliverability", "tenant", 24 * time.Hour, time.Minute, time.Hour, "rollup_1h"},
		{"jobs past the hours", "deliverability", "job", 36 * oneDay, time.Hour, oneDay, "jobs_1d"},
		{"a domain", "deliverability", "recipient_domain", 7 * oneDay, time.Hour, time.Hour, "domains_1h"},
		{"latency", "latency", "provider", 24 * time.Hour, time.Minute, time.Hour, "latency_1h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, err := ByName(tc.view)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := Build(Query{View: v.Name, Metrics: v.Defaults.Metrics[:1], Breakdown: []string{tc.breakdown}}, Window{From: end.Add(-tc.length), To: end, Interval: tc.interval})
			if err != nil {
				t.Fatal(err)
			}
			if plan.Step != tc.step || plan.Statements[0].Tables[0] != tc.table {
				t.Errorf("step %v of %v, want %v of %s", plan.Step, plan.Statements[0].Tables, tc.step, tc.table)
			}
		})
	}
}

// A table over whole days is made of days, whether the last ends a millisecond early, as Grafana's does, or not.
func TestTableOfWholeDays(t *testing.T) {
	midnight := end.Truncate(oneDay)
	for _, tc := range []struct {
		view     string
		from, to time.Time
		table    string
	}{
		{"deliverability", midnight.Add(-7 * oneDay), midnight, "rollup_1d"},
		{"deliverability", midnight.Add(-7 * oneDay), midnight.Add(-time.Millisecond), "rollup_1d"},
		{"contributors", midnight.Add(-7 * oneDay), midnight.Add(-time.Millisecond), "rollup_1d"},
		{"deliverability", midnight.Add(-7 * oneDay), midnight.Add(30 * time.Minute), "rollup_1h"},
		{"deliverability", midnight.Add(-7 * oneDay).Add(time.Hour), midnight, "rollup_1h"},
	} {
		plan, err := Build(Query{View: tc.view, Format: Table, Metrics: []string{"delivered"}, Breakdown: []string{"provider"}}, Window{From: tc.from, To: tc.to})
		if err != nil {
			t.Fatal(err)
		}
		if got := plan.Statements[0].Tables[0]; got != tc.table || !plan.From.Equal(tc.from) {
			t.Errorf("%s from %v to %v: %s from %v, want %s", tc.view, tc.from, tc.to, got, plan.From, tc.table)
		}
	}
}

// What is filtered by a tenant and not broken down by it is not read from the minutes either.
func TestFilterOfATenant(t *testing.T) {
	byFilter := Query{View: "jobs", Metrics: []string{"accepted"}, Filters: []Filter{{"tenant", "=", []string{"acme"}}}}
	w := Window{From: end.Add(-60 * oneDay), To: end, Interval: 3 * time.Hour}
	asked, err := Build(byFilter, w)
	if err != nil {
		t.Fatal(err)
	}
	w.Tenant = "acme"
	byWindow, err := Build(Query{View: "jobs", Metrics: []string{"accepted"}}, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{asked.SQL(), byWindow.SQL()} {
		if strings.Contains(sql, "rollup_1m") || strings.Count(sql, "tenant = 'acme'") != 3 {
			t.Errorf("%s", sql)
		}
	}
	values, err := Values("provider", "", 10, w)
	if err != nil || strings.Contains(values.SQL, "rollup_1m") {
		t.Errorf("providers of a tenant: %s, %v", values.SQL, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	hour := Window{From: end.Add(-time.Hour), To: end, Interval: time.Minute}
	long := make([]string, maxValues+1)
	for _, tc := range []struct {
		name string
		q    Query
		w    Window
		want string
	}{
		{"no view", Query{}, hour, "choose a view: deliverability, reputation,"},
		{"format", Query{View: "contributors", Format: Logs}, hour, "the view contributors comes as table, not as logs"},
		{"range", Query{View: "jobs"}, Window{From: end, To: end, Interval: 0}, "the time range ends before it begins, or is longer than five years"},
		{"limit", Query{View: "jobs", Limit: -1}, hour, "limit -1: want 1 to 5000"},
		{"field", Query{View: "latency", Filters: []Filter{{"weather", "=", []string{"x"}}}}, hour, "the view latency cannot be filtered by weather; its fields are"},
		{"breakdown", Query{View: "latency", Breakdown: []string{"weather"}}, hour, "the view latency cannot be broken down by weather; its breakdowns are"},
		{"apart", Query{View: "deliverability", Breakdown: []string{"job", "source"}}, hour, "delivery_rate is not kept by job and source together; it can be broken down and filtered by"},
		{"share of a part", Query{View: "bounces", Metrics: []string{"hard_bounce_rate"}, Breakdown: []string{"category"}}, hour, "hard_bounce_rate says nothing by category"},
		{"operator", Query{View: "jobs", Filters: []Filter{{"job", "~", []string{"x"}}}}, hour, `the filter on job has the operator "~"; the operators are`},
		{"values", Query{View: "jobs", Filters: []Filter{{"job", "in", long}}}, hour, "the filter on job has 1001 values; 1000 are the most"},
		{"id", Query{View: "trace", Filters: []Filter{{"message_id", "=", []string{"x"}}}}, hour, `"x" is no id`},
		{"no message", Query{View: "trace"}, hour, "say which message"},
		{"search", Query{View: "trace", Search: "x"}, hour, `"x" is no id of a message and no address`},
		{"two metrics", Query{View: "contributors", Metrics: []string{"delivered", "bounced"}}, hour, "the view contributors compares one metric at a time"},
		{"column", Query{View: "completeness", Metrics: []string{"x"}}, hour, `the view completeness has no column "x"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Build(tc.q, tc.w)
			if _, is := errors.AsType[*Error](err); !is || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
	if _, _, err := AdHoc([]Filter{{"a'; DROP", "=", []string{"x"}}}); err == nil {
		t.Error("an ad hoc filter on what is no column")
	}
}

// FuzzFilter holds what a user types out of the text of the query.
func FuzzFilter(f *testing.F) {
	f.Add("provider", "=", "google", "x")
	f.Add("provider", "=~", "'; DROP TABLE events --", "0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60")
	f.Add("a.b", "in", "{p0:String}", "a@b")
	f.Fuzz(func(t *testing.T, field, op, value, search string) {
		const marker = "q\x01z"
		value += marker
		plan, err := Build(Query{View: "events", Filters: []Filter{{field, op, []string{value}}}, Search: search + marker}, Window{From: end.Add(-time.Hour), To: end, Interval: time.Minute})
		if err == nil && strings.Contains(plan.Statements[0].SQL, marker) {
			t.Fatalf("%q is in %s", value, plan.Statements[0].SQL)
		}
		sql, _, err := AdHoc([]Filter{{field, op, []string{value}}})
		if err == nil && strings.Contains(sql, marker) {
			t.Fatalf("%q is in %s", value, sql)
		}
	})
}

// The first step of a series is the one that ClickHouse puts the first rows in.
func TestStepsAreCountedFrom1970(t *testing.T) {
	at := time.Date(2026, 11, 29, 13, 45, 30, 0, time.UTC)
	for _, step := range []time.Duration{10 * time.Second, time.Hour, oneDay, 3 * oneDay, 7 * oneDay, 30 * oneDay} {
		seconds := int64(step / time.Second)
		if got, want := stepOf(at, step).Unix(), at.Unix()/seconds*seconds; got != want {
			t.Errorf("a step of %s begins at %d, want %d", step, got, want)
		}
	}
}
