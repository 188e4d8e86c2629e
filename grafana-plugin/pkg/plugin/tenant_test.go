//go:build unix

package plugin_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
)

// oneTenant asks as the user of one tenant, whom ClickHouse keeps to the tenant's rows: the builder and the
// pickers work, show what the operator sees of that tenant, and nothing of another.
func oneTenant(t *testing.T, operator, s source) {
	if r := s.check(t); r.Status != backend.HealthStatusOk || !strings.HasPrefix(r.Message, "Last event ") || !strings.HasSuffix(r.Message, "user carom_tenant_"+tenant+" sees the rows of one tenant.") {
		t.Errorf("health: %v %q", r.Status, r.Message)
	}
	others := map[string]bool{}
	names := sql(t, operator, "table", "SELECT DISTINCT tenant FROM events WHERE tenant NOT IN ('', '"+tenant+"')").Fields[0]
	for i := range names.Len() {
		others[fmt.Sprint(names.At(i))] = true
	}
	if len(others) < 50 {
		t.Fatalf("%d other tenants, want many", len(others))
	}
	for _, span := range []string{"15m", "6h", "2d"} {
		model := map[string]any{"view": "deliverability", "format": "table", "metrics": []string{"delivered"}, "breakdown": []string{"tenant"}}
		seen := frame(t, s, ranges[span], model)
		model["filters"] = []views.Filter{{Field: "tenant", Op: "=", Values: []string{tenant}}}
		want := frame(t, operator, ranges[span], model)
		if seen.Rows() != want.Rows() || seen.Rows() > 1 || span == "2d" && seen.Rows() != 1 {
			t.Errorf("%s: the tenant sees %d rows, the operator %d of the tenant", span, seen.Rows(), want.Rows())
		} else if seen.Rows() > 0 && (seen.Fields[1].At(0) != want.Fields[1].At(0) || seen.Fields[0].At(0) != want.Fields[0].At(0)) {
			t.Errorf("%s: the tenant sees %v, the operator %v", span, seen.Fields[1].At(0), want.Fields[1].At(0))
		}
	}
	for _, v := range views.Catalogue() {
		for _, span := range []string{"6h", "60d"} {
			tenantView(t, s, v, ranges[span], others)
		}
	}
	foreign(t, sql(t, s, "table", "SELECT tenant, smtp_user FROM events"), others, "SQL")
	r, err := s.ask(t.Context(), ranges["6h"], map[string]any{"mode": "sql", "format": "table", "sql": "SELECT * FROM nodes"})
	if want := "may not do that: "; err != nil || r.Error == nil || !strings.Contains(r.Error.Error(), want) || r.ErrorSource != backend.ErrorSourceDownstream {
		t.Errorf("a table of the operator's: %v, %v", r.Error, err)
	}
	var values []string
	if status := s.get(t, http.MethodGet, "values", url.Values{"field": {"tenant"}}, nil, &values); status != http.StatusOK || slices.ContainsFunc(values, func(v string) bool { return others[v] }) {
		t.Errorf("tenants to choose: %d %v", status, values)
	}
	if status := s.get(t, http.MethodGet, "values", url.Values{"field": {"provider"}}, nil, &values); status != http.StatusOK || !slices.Contains(values, "google") {
		t.Errorf("providers to choose: %d %v", status, values)
	}
	var tables []struct{ Name string }
	s.get(t, http.MethodGet, "schema", nil, nil, &tables)
	if got := fmt.Sprint(tables); got != "[{attributed} {attributions} {bounces} {complaints} {deferrals} {deliveries} {events} {job_day} {job_report} {jobs_1d} {jobs_1h} {message_trace} {rollup_1d} {rollup_1h} {traffic_day} {traffic_hour}]" {
		t.Errorf("tables for completion: %s", got)
	}
}

// operators are errors about tables with tenants in them that only operators read.
var operators = regexp.MustCompile("(cohort_day|reputation|gauges|queue_gauges) has no rows of tenants$")

// tenantView asks for all that a view has of tenants, which must be answered, and for the rest, which may be
// refused.
func tenantView(t *testing.T, s source, v views.View, o over, others map[string]bool) {
	var models []map[string]any
	if len(v.Metrics) == 0 {
		models = rowQueries(v, v.Formats[0])
	}
	for _, m := range v.Metrics {
		models = append(models, map[string]any{"view": v.Name, "format": v.Formats[0], "metrics": []string{m.Name}})
	}
	for i, model := range models {
		r, err := s.ask(t.Context(), o, model)
		if err != nil {
			t.Fatal(err)
		}
		ofTenants := len(v.Metrics) == 0 && slices.ContainsFunc(v.Filters, func(f views.Field) bool { return f.Name == "tenant" }) ||
			len(v.Metrics) > 0 && slices.Contains(v.Metrics[i].Breakdowns, "tenant")
		if r.Error != nil && operators.MatchString(r.Error.Error()) {
			ofTenants = false
		}
		if r.Error != nil && (ofTenants || r.ErrorSource != backend.ErrorSourceDownstream) {
			t.Errorf("%v: %v", model, r.Error)
		}
		for _, f := range r.Frames {
			foreign(t, f, others, fmt.Sprint(model))
		}
	}
}

// foreign fails for each value that names another tenant.
func foreign(t *testing.T, f *data.Frame, others map[string]bool, what string) {
	t.Helper()
	for _, field := range f.Fields {
		for _, label := range field.Labels {
			if others[label] {
				t.Errorf("%s: a series of %s", what, label)
			}
		}
		for i := range field.Len() {
			if v, ok := field.ConcreteAt(i); ok && others[fmt.Sprint(v)] {
				t.Errorf("%s: %v in %s", what, v, field.Name)
				break
			}
		}
	}
}
