//go:build unix

package plugin_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenFrames holds the frames of every view in each of its formats, and of SQL in each format, with rows
// and without, to what a person has read.
func goldenFrames(t *testing.T, s source) {
	// The first recipient who was deferred and then delivered to.
	f := sql(t, s, "table", "SELECT min(recipient) FROM (SELECT recipient FROM events WHERE recipient != '' GROUP BY recipient HAVING countIf(kind = 'deferred') = 1 AND countIf(kind = 'delivered') = 1 AND count() = 3)")
	recipient, _ := f.Fields[0].ConcreteAt(0)
	hours := over{until.Add(-3 * time.Hour), until, time.Hour}
	past := over{until.AddDate(0, 0, -300), until.AddDate(0, 0, -300).Add(2 * time.Hour), time.Hour}
	for _, v := range views.Catalogue() {
		t.Run(v.Name, func(t *testing.T) {
			model := func(format string, more map[string]any) map[string]any {
				m := map[string]any{"view": v.Name, "format": format, "breakdown": v.Defaults.Breakdown, "limit": 3}
				maps.Copy(m, more)
				return m
			}
			during := hours
			some := map[string]any{}
			switch v.Name {
			case "trace":
				some["search"], during = recipient, ranges["2d"]
			case "completeness": // the other columns tell of now
				some["metrics"] = []string{"node", "stream", "missing", "duplicates", "high_seq", "row_count", "last_arrived", "quarantined", "version"}
			case "limit_changes", "annotations":
				during = ranges["2d"]
			}
			var cases []goldenCase
			for _, format := range v.Formats {
				cases = append(cases, goldenCase{"as " + format, model(format, some), during})
			}
			if len(v.Metrics) > 0 {
				cases = append(cases, goldenCase{"without a breakdown", model(v.Formats[0], map[string]any{"breakdown": []string{}, "metrics": v.Defaults.Metrics[:1]}), during})
			}
			if v.Name == "limits" {
				held := map[string]any{"metrics": []string{"throttle_bound", "effective_rate"}}
				cases = append(cases, goldenCase{"what holds mail back", model(views.Table, held), during})
				held = map[string]any{"metrics": []string{"backlog"}, "breakdown": []string{"limit_scope"}}
				cases = append(cases, goldenCase{"what waits for which limit", model(views.TimeSeries, held), during})
			}
			if v.Name != "completeness" { // which tells of the state, whatever the time
				for _, format := range v.Formats {
					cases = append(cases, goldenCase{"nothing as " + format, model(format, some), past})
				}
			}
			golden(t, s, v.Name, cases)
		})
	}
	t.Run("SQL", func(t *testing.T) {
		const series = "SELECT $__timeInterval(ts) AS time, provider, sum(events) AS n FROM rollup_1h WHERE $__timeFilter(ts) AND $__adhoc GROUP BY time, provider ORDER BY time, provider"
		const logs = "SELECT time, kind AS level, reply, node FROM events WHERE $__timeFilter(time) AND reply != '' ORDER BY time, seq, node LIMIT 2"
		filters := []views.Filter{{Field: "provider", Op: "in", Values: []string{"google", "yahoo"}}}
		golden(t, s, "sql", []goldenCase{
			{"as timeseries", map[string]any{"mode": "sql", "format": "timeseries", "sql": series, "filters": filters}, hours},
			{"as table", map[string]any{"mode": "sql", "format": "table", "sql": series, "filters": filters}, hours},
			{"as logs", map[string]any{"mode": "sql", "format": "logs", "sql": logs}, hours},
			{"nothing as timeseries", map[string]any{"mode": "sql", "format": "timeseries", "sql": series}, past},
			{"nothing as table", map[string]any{"mode": "sql", "format": "table", "sql": series}, past},
			{"nothing as logs", map[string]any{"mode": "sql", "format": "logs", "sql": logs}, past},
		})
	})
}

type goldenCase struct {
	name  string
	model map[string]any
	over  over
}

// A goldenFrame is what a golden file has of a frame; a field is a line.
type goldenFrame struct {
	Case    string
	Type    data.FrameType `json:",omitempty"`
	Notices []string       `json:",omitempty"`
	Fields  []json.RawMessage
}

type goldenField struct {
	Name    string
	Type    string
	Labels  data.Labels `json:",omitempty"`
	Display string      `json:",omitempty"`
	Unit    string      `json:",omitempty"`
	Links   []string    `json:",omitempty"`
	Values  []any
}

// golden compares the answers with a file of testdata/frames.
func golden(t *testing.T, s source, name string, cases []goldenCase) {
	t.Helper()
	all := make([]goldenFrame, len(cases))
	m := &moved{ids: map[string]string{}}
	for i, c := range cases {
		f := frame(t, s, c.over, c.model)
		all[i] = goldenFrame{Case: c.name, Type: f.Meta.Type}
		for _, n := range f.Meta.Notices {
			all[i].Notices = append(all[i].Notices, n.Severity.String()+": "+n.Text)
		}
		for _, field := range f.Fields {
			one := goldenField{Name: field.Name, Type: field.Type().ItemTypeString(), Labels: field.Labels, Values: make([]any, field.Len())}
			if c := field.Config; c != nil {
				one.Display, one.Unit = c.DisplayNameFromDS, c.Unit
				for _, l := range c.Links {
					one.Links = append(one.Links, l.Title)
				}
			}
			for row := range one.Values {
				if v, ok := field.ConcreteAt(row); ok {
					one.Values[row] = m.value(v)
				}
				if field.Name == "limit_epoch" && one.Values[row] != json.Number("0") {
					one.Values[row] = "N"
				}
			}
			line, err := json.Marshal(one)
			if err != nil {
				t.Fatal(err)
			}
			all[i].Fields = append(all[i].Fields, line)
		}
	}
	var text bytes.Buffer
	for _, f := range all {
		head, err := json.Marshal(goldenFrame{Case: f.Case, Type: f.Type, Notices: f.Notices, Fields: []json.RawMessage{}})
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(strings.TrimSuffix(string(head), "]}"))
		for i, line := range f.Fields {
			text.WriteString(map[bool]string{false: "\n ", true: ",\n "}[i > 0] + string(line))
		}
		text.WriteString("\n]}\n")
	}
	file := filepath.Join("testdata", "frames", name+".jsonl")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file) //nolint:gosec // of this folder
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(text.String(), "\n")); diff != "" {
		t.Errorf("%s differs; -update rewrites it (-want +got):\n%s", file, diff)
	}
}

// moved makes what is the same on each day of what a history of this day has: times are as if it ended on
// the 29th of November 2026, ids are numbered, epochs of limits, which count hours, are an N, and floating
// point numbers have nine digits, for sums of several threads differ in the last ones.
type moved struct{ ids map[string]string }

var (
	movedEnd = time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	someTime = regexp.MustCompile(`\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d`)
	micros   = regexp.MustCompile(`\b1[789]\d{14}\b`)
	epochs   = regexp.MustCompile(`(throttle-|"limit_epoch":")[1-9]\d*`)
	someID   = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

func (m *moved) value(v any) any {
	switch x := v.(type) {
	case time.Time:
		return x.Add(movedEnd.Sub(until)).UTC().Format("2006-01-02T15:04:05.999999")
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Sprint(x)
		}
		return json.Number(strconv.FormatFloat(x, 'g', 9, 64))
	case json.RawMessage:
		return json.RawMessage(m.text(string(x)))
	case string:
		return m.text(x)
	}
	return v
}

func (m *moved) text(s string) string {
	s = someTime.ReplaceAllStringFunc(s, func(found string) string {
		layout := strings.Replace(time.DateTime, " ", found[10:11], 1)
		t, err := time.Parse(layout, found)
		if err != nil {
			return found
		}
		return t.Add(movedEnd.Sub(until)).Format(layout)
	})
	s = micros.ReplaceAllStringFunc(s, func(found string) string {
		n, err := strconv.ParseInt(found, 10, 64)
		if err != nil {
			return found
		}
		return strconv.FormatInt(n+movedEnd.Sub(until).Microseconds(), 10)
	})
	s = epochs.ReplaceAllString(s, "${1}N")
	return someID.ReplaceAllStringFunc(s, func(found string) string {
		if m.ids[found] == "" {
			m.ids[found] = fmt.Sprintf("id-%d", len(m.ids)+1)
		}
		return m.ids[found]
	})
}
