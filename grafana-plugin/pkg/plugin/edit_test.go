//go:build unix

package plugin_test

import (
	"net/http"
	"strings"
	"testing"

	"carom/grafana-plugin/pkg/views"
)

// editedSQL takes what the SQL editor begins with for each view and runs it: the same rows come as from the
// builder, and no end of the time range stands in it as a time.
func editedSQL(t *testing.T, s source) {
	o := ranges["2d"]
	for _, v := range views.Catalogue() {
		for _, format := range v.Formats {
			model := map[string]any{"view": v.Name, "format": format, "breakdown": v.Defaults.Breakdown}
			if len(v.Metrics) > 0 {
				model["metrics"] = v.Defaults.Metrics[:1]
			}
			if v.Name == "trace" {
				model["search"] = "nobody@example.com"
			}
			var shown struct{ SQL, Error string }
			body := map[string]any{
				"query": model, "edit": true, "interval": o.interval.Milliseconds(),
				"range": map[string]any{"from": o.from.UnixMilli(), "to": o.to.UnixMilli()},
			}
			if status := s.get(t, http.MethodPost, "preview", nil, body, &shown); status != http.StatusOK {
				t.Errorf("%s as %s: %d %s", v.Name, format, status, shown.Error)
				continue
			}
			if strings.Contains(shown.SQL, o.to.Format("2006-01-02")) || v.Name != "completeness" && !strings.Contains(shown.SQL, "$__toTime") {
				t.Errorf("%s as %s keeps the time range:\n%s", v.Name, format, shown.SQL)
			}
			built, err := s.ask(t.Context(), o, model)
			if err != nil || built.Error != nil {
				t.Fatalf("%s as %s: %v %v", v.Name, format, err, built.Error)
			}
			written, err := s.ask(t.Context(), o, map[string]any{"mode": "sql", "format": format, "sql": shown.SQL})
			if err != nil || written.Error != nil {
				t.Errorf("%s as %s: %v %v\n%s", v.Name, format, err, written.Error, shown.SQL)
				continue
			}
			if got, want := written.Frames[0].Rows(), built.Frames[0].Rows(); format == views.Table && got != want {
				t.Errorf("%s as %s: %d rows, the builder has %d\n%s", v.Name, format, got, want, shown.SQL)
			}
		}
	}
	var refused struct{ SQL, Error string }
	body := map[string]any{
		"query": map[string]any{"view": "limits", "metrics": []string{"limit_rate", "accepted_per_second"}}, "edit": true,
		"range": map[string]any{"from": o.from.UnixMilli(), "to": o.to.UnixMilli()},
	}
	if status := s.get(t, http.MethodPost, "preview", nil, body, &refused); status != http.StatusBadRequest || !strings.Contains(refused.Error, "statements") {
		t.Errorf("several statements: %d %+v", status, refused)
	}
}
