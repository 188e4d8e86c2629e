package dashboards

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"go.yaml.in/yaml/v3"

	"carom/grafana-plugin/pkg/plugin"
	"carom/grafana-plugin/pkg/sqlmacro"
	"carom/grafana-plugin/pkg/views"
)

const provisioning = "../../deploy/compose/provisioning/"

func decode(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(provisioning + name) //nolint:gosec // the test's own files
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// rule is what the test reads of an alert rule.
type rule struct {
	UID         string            `yaml:"uid"`
	Title       string            `yaml:"title"`
	Condition   string            `yaml:"condition"`
	NoDataState string            `yaml:"noDataState"`
	Annotations map[string]string `yaml:"annotations"`
	Data        []struct {
		RefID             string `yaml:"refId"`
		DatasourceUID     string `yaml:"datasourceUid"`
		RelativeTimeRange struct {
			From int64 `yaml:"from"`
			To   int64 `yaml:"to"`
		} `yaml:"relativeTimeRange"`
		Model map[string]any `yaml:"model"`
	} `yaml:"data"`
}

func TestAlertRulesAskWhatTheBackendAnswers(t *testing.T) {
	var sources struct {
		Datasources []struct {
			UID      string         `yaml:"uid"`
			Type     string         `yaml:"type"`
			JSONData map[string]any `yaml:"jsonData"`
		} `yaml:"datasources"`
	}
	decode(t, "datasources/carom.yaml", &sources)
	if len(sources.Datasources) != 1 || sources.Datasources[0].Type != "carom-deliverability-datasource" {
		t.Fatalf("the data sources are %+v", sources)
	}
	// Grafana puts its environment into the texts, and texts they stay.
	settings := sources.Datasources[0].JSONData
	values := map[string]string{"CAROM_ADDRESS": "clickhouse.test:8123", "CAROM_PROTOCOL": "http", "CAROM_DATABASE": "carom"}
	for name, v := range settings {
		if text, ok := v.(string); ok {
			settings[name] = os.Expand(text, func(variable string) string { return values[variable] })
		}
	}
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plugin.New(t.Context(), backend.DataSourceInstanceSettings{JSONData: text}); err != nil {
		t.Errorf("the backend does not take the settings %s: %v", text, err)
	}
	var alerts struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	decode(t, "alerting/carom.yaml", &alerts)
	seen := map[string]bool{}
	now := time.Now()
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if seen[r.UID] || r.UID == "" {
				t.Errorf("rule %q: uid %q is empty or there twice", r.Title, r.UID)
			}
			seen[r.UID] = true
			if r.NoDataState != "OK" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("rule %q: no data is %q, summary %q, description %q", r.Title, r.NoDataState, r.Annotations["summary"], r.Annotations["description"])
			}
			if len(r.Data) != 2 || r.Data[0].DatasourceUID != sources.Datasources[0].UID || r.Data[1].DatasourceUID != "__expr__" || r.Data[1].RefID != r.Condition {
				t.Errorf("rule %q: queries %+v, condition %s", r.Title, r.Data, r.Condition)
				continue
			}
			text, err := json.Marshal(r.Data[0].Model)
			if err != nil {
				t.Fatal(err)
			}
			var m plugin.Model
			if err := json.Unmarshal(text, &m); err != nil {
				t.Fatalf("rule %q: %v", r.Title, err)
			}
			if strings.Contains(string(text), "$") {
				t.Errorf("rule %q names a variable: alert rules have none", r.Title)
			}
			w := views.Window{From: now.Add(-time.Duration(r.Data[0].RelativeTimeRange.From) * time.Second), To: now, Interval: time.Second}
			if m.Mode == "sql" {
				_, err = sqlmacro.Expand(m.SQL, sqlmacro.Values{From: w.From, To: w.To, Step: w.Interval})
			} else {
				_, err = views.Build(m.Query, w)
			}
			if err != nil {
				t.Errorf("rule %q: %v", r.Title, err)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("there are no alert rules")
	}
}
