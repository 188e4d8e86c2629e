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
	if testing.Short() {
		t.Skip("the backend is a process of its own, which the race detector does not see: not with -short")
	}
	server := history(t)
	backend := start(t, build(t))
	s := backend.configured(t, settingsOf(server), readerPassword)
	t.Run("health", func(t *testing.T) { healthy(t, s) })
	t.Run("a series", func(t *testing.T) { seriesOfAView(t, s) })
	t.Run("refused per second", func(t *testing.T) { refusedPerSecond(t, s) })
	t.Run("a limit over time", func(t *testing.T) { limitOverTime(t, s) })
	t.Run("limits of several keys", func(t *testing.T) { limitsTogether(t, s) })
	t.Run("hostile SQL", func(t *testing.T) {
		hostileSQL(t, s, backend.configured(t, settingsOf(server, map[string]any{"user": ""}), ""), server)
	})
	t.Run("bounds", func(t *testing.T) { boundedSQL(t, backend, server) })
	t.Run("strings and comments", func(t *testing.T) { sameTokens(t, s) })
	t.Run("scores", func(t *testing.T) { scores(t, s) })
	t.Run("one tenant", func(t *testing.T) {
		oneTenant(t, s, backend.configured(t, settingsOf(server, map[string]any{"user": "carom_tenant_" + tenant, "tenant": tenant}), readerPassword))
	})
	t.Run("data sources that cannot be used", func(t *testing.T) { unhappy(t, s, server) })
	t.Run("links", func(t *testing.T) { fromMessageToTrace(t, s) })
	t.Run("golden frames", func(t *testing.T) { goldenFrames(t, s) })
	t.Run("types", func(t *testing.T) { types(t, s) })
	t.Run("SQL", func(t *testing.T) { userSQL(t, s) })
	t.Run("mistakes", func(t *testing.T) { mistakes(t, s) })
	t.Run("SQL that goes on", func(t *testing.T) { editedSQL(t, s) })
	t.Run("resources", func(t *testing.T) { resources(t, s) })
	t.Run("a cancelled panel", func(t *testing.T) { cancelled(t, s, server) })
	t.Run("fifty queries at once", func(t *testing.T) { parallelMemory(t, backend, server) })
	t.Run("every metric of every view by everything", func(t *testing.T) {
		everyView(t, backend.configured(t, settingsOf(server, map[string]any{"user": ""}), ""))
	})
}

// ranges are as people choose them, each with the interval of a panel of 500 points.
var ranges = map[string]over{
	"15m": {until.Add(-15 * time.Minute), until, 2 * time.Second},
	"6h":  {until.Add(-6 * time.Hour), until, 45 * time.Second},
	"2d":  {until.Add(-48 * time.Hour), until, 5 * time.Minute},
	"60d": {until.Add(-60 * 24 * time.Hour), until, 3 * time.Hour},
}

// everyView asks each view for all its metrics by each of their fields, filtered too.
func everyView(t *testing.T, s source) {
	for _, v := range views.Catalogue() {
		t.Run(v.Name, func(t *testing.T) {
			var all []map[string]any
			for i, format := range v.Formats {
				if len(v.Metrics) == 0 {
					all = append(all, rowQueries(v, format)...)
				} else {
					all = append(all, metricQueries(v, format, i > 0)...)
				}
			}
			for i := 0; len(all) > 0; i++ {
				n := min(8, len(all))
				mustAnswer(t, s, ranges[[]string{"15m", "6h", "2d", "60d"}[i%4]], all[:n]...)
				all = all[n:]
			}
		})
	}
}

// rowQueries are queries of a view of rows, with and without a filter on every field.
func rowQueries(v views.View, format string) []map[string]any {
	search := ""
	if v.Name == "trace" {
		search = "nobody@example.com"
	}
	filters := make([]views.Filter, len(v.Filters))
	for i, f := range v.Filters {
		filters[i] = views.Filter{Field: f.Name, Op: "!=", Values: []string{"00000000-0000-0000-0000-000000000000"}}
	}
	return []map[string]any{{"view": v.Name, "format": format, "search": search}, {"view": v.Name, "format": format, "search": search, "filters": filters}}
}

// metricQueries are queries of a view for all metrics that know a field, broken down and filtered by it: for
// each field, or for the first one only, where another format had the others.
func metricQueries(v views.View, format string, first bool) []map[string]any {
	var all []map[string]any
	for i, b := range append([]views.Field{{}}, v.Breakdowns...) {
		var names []string
		for _, m := range v.Metrics {
			if b.Name == "" || slices.Contains(m.Breakdowns, b.Name) {
				names = append(names, m.Name)
			}
		}
		switch {
		case first && i > 1:
			return all
		case v.Name == "contributors": // takes one at a time
			names = names[i%len(names) : i%len(names)+1]
		}
		for group := range slices.Chunk(names, 20) {
			model := map[string]any{"view": v.Name, "format": format, "metrics": group}
			if b.Name != "" {
				model["breakdown"] = []string{b.Name}
				model["filters"] = []views.Filter{{Field: b.Name, Op: []string{"!=", "not in", "!~"}[i%3], Values: []string{"nobody"}}}
			}
			all = append(all, model)
		}
	}
	return all
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
