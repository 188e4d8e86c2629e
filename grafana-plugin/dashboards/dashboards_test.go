// Package dashboards has no Go code but this test: every query of every dashboard is one that the
// backend can answer.
package dashboards

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/grafana-plugin/pkg/plugin"
	"carom/grafana-plugin/pkg/sqlmacro"
	"carom/grafana-plugin/pkg/views"
)

// target is a query of a panel or an annotation.
type target struct {
	plugin.Model

	RefID string `json:"refId"`
}

// dashboard is what the test reads of a file.
type dashboard struct {
	Title  string `json:"title"`
	Panels []struct {
		Title   string   `json:"title"`
		Type    string   `json:"type"`
		Targets []target `json:"targets"`
	} `json:"panels"`
	Annotations struct {
		List []struct {
			Name   string `json:"name"`
			Target target `json:"target"`
		} `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

// read returns the dashboards by the names of their files.
func read(tb testing.TB) map[string]dashboard {
	tb.Helper()
	files, err := filepath.Glob("../src/dashboards/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no dashboards: %v", err)
	}
	all := map[string]dashboard{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".json")] = d
	}
	return all
}

// chosen puts values in for the variables, as the frontend does.
func chosen(m plugin.Model) plugin.Model {
	filters := make([]views.Filter, len(m.Filters))
	for i, f := range m.Filters {
		filters[i] = f
		filters[i].Values = nil
		for _, v := range f.Values {
			filters[i].Values = append(filters[i].Values, strings.ReplaceAll(v, "$", "some-"))
		}
	}
	m.Filters = filters
	if m.Search != "" {
		m.Search = "someone@example.com"
	}
	return m
}

func TestEveryQueryCanBeBuilt(t *testing.T) {
	now := time.Now()
	windows := []views.Window{
		{From: now.Add(-15 * time.Minute), To: now, Interval: time.Second},
		{From: now.Add(-6 * time.Hour), To: now, Interval: 30 * time.Second},
		{From: now.Add(-30 * 24 * time.Hour), To: now, Interval: time.Hour},
		{From: now.Add(-500 * 24 * time.Hour), To: now, Interval: 24 * time.Hour},
	}
	check := func(t *testing.T, where string, m plugin.Model) {
		t.Helper()
		m = chosen(m)
		for _, w := range windows {
			var err error
			if m.Mode == "sql" {
				_, err = sqlmacro.Expand(m.SQL, sqlmacro.Values{From: w.From, To: w.To, Step: w.Interval})
			} else {
				_, err = views.Build(m.Query, w)
			}
			if err != nil {
				t.Errorf("%s, over %s: %v", where, w.To.Sub(w.From), err)
				return
			}
		}
	}
	for name, d := range read(t) {
		t.Run(name, func(t *testing.T) {
			queries := 0
			for _, p := range d.Panels {
				for _, q := range p.Targets {
					queries++
					check(t, fmt.Sprintf("panel %q, query %s", p.Title, q.RefID), q.Model)
				}
			}
			if queries == 0 {
				t.Error("it asks nothing")
			}
			for _, a := range d.Annotations.List {
				check(t, "annotation "+a.Name, a.Target.Model)
			}
			for _, v := range d.Templating.List {
				if v.Type != "query" {
					continue
				}
				var q struct {
					Kind, Field string
				}
				if err := json.Unmarshal(v.Query, &q); err != nil || q.Kind != "values" {
					t.Errorf("variable %s: query %s (%v)", v.Name, v.Query, err)
				}
				if _, err := views.Values(q.Field, "", 100, views.Window{}); err != nil {
					t.Errorf("variable %s: %v", v.Name, err)
				}
			}
		})
	}
}
