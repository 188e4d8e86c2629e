//go:build unix

package plugin_test

import (
	"slices"
	"testing"
	"time"

	"carom/grafana-plugin/pkg/views"
)

// TestShippedBackend speaks with the built binary as Grafana does, over an engine with a history.
func TestShippedBackend(t *testing.T) {
	server := history(t)
	s := start(t, build(t)).configured(t, settingsOf(server), readerPassword)
	t.Run("every metric of every view by everything", func(t *testing.T) { everyView(t, s) })
}

// ranges are as people choose them, each with the interval of a panel of 500 points.
var ranges = map[string]over{
	"15m": {until.Add(-15 * time.Minute), until, 2 * time.Second},
	"6h":  {until.Add(-6 * time.Hour), until, 45 * time.Second},
	"2d":  {until.Add(-48 * time.Hour), until, 5 * time.Minute},
	"60d": {until.Add(-60 * 24 * time.Hour), until, 3 * time.Hour},
}

// everyView asks each view for each of its metrics by each of their fields, filtered too.
func everyView(t *testing.T, s source) {
	for _, v := range views.Catalogue() {
		t.Run(v.Name, func(t *testing.T) {
			for _, format := range v.Formats {
				if len(v.Metrics) == 0 {
					model := map[string]any{"view": v.Name, "format": format}
					if v.Name == "trace" {
						model["search"] = "nobody@example.com"
					}
					for _, f := range v.Filters {
						model["filters"] = []views.Filter{{Field: f.Name, Op: "!=", Values: []string{"00000000-0000-0000-0000-000000000000"}}}
						mustAnswer(t, s, ranges["6h"], model)
					}
					mustAnswer(t, s, ranges["2d"], model)
					continue
				}
				// One query has all metrics that know a field, so that each meets each of its fields once.
				for i, b := range append([]views.Field{{}}, v.Breakdowns...) {
					var names []string
					for _, m := range v.Metrics {
						if b.Name == "" || slices.Contains(m.Breakdowns, b.Name) {
							names = append(names, m.Name)
						}
					}
					if v.Name == "contributors" && b.Name != "" {
						names = names[:1]
					}
					for group := range slices.Chunk(names, most(v)) {
						model := map[string]any{"view": v.Name, "format": format, "metrics": group}
						if b.Name != "" {
							model["breakdown"] = []string{b.Name}
							model["filters"] = []views.Filter{{Field: b.Name, Op: []string{"!=", "not in", "!~"}[i%3], Values: []string{"nobody"}}}
						}
						mustAnswer(t, s, ranges[[]string{"15m", "6h", "2d", "60d"}[i%4]], model)
					}
				}
			}
		})
	}
}

// most is how many metrics one query of a view may have.
func most(v views.View) int {
	if v.Name == "contributors" {
		return 1
	}
	return 20
}

func mustAnswer(t *testing.T, s source, o over, models ...map[string]any) {
	t.Helper()
	responses, err := s.askAll(t.Context(), o, models...)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range models {
		r := responses[string(rune('A'+i))]
		if r.Error != nil {
			sql := ""
			if len(r.Frames) > 0 {
				sql = r.Frames[0].Meta.ExecutedQueryString
			}
			t.Errorf("%v: %v\n%s", m, r.Error, sql)
			continue
		}
		if len(r.Frames) != 1 || len(r.Frames[0].Fields) < 2 && m["view"] != "deliverability" {
			t.Errorf("%v: %d frames", m, len(r.Frames))
		}
	}
}
