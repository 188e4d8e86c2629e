package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"carom/schemas/warehouse"
)

// healthTimeout is how long the health check may take; Grafana's own button waits longer.
const healthTimeout = 15 * time.Second

// CheckHealth tells whether the data source can be used: that ClickHouse answers and takes the login,
// that carom's schema is there, what the user may do, and how fresh the events are.
func (d *Datasource) CheckHealth(ctx context.Context, _ *backend.CheckHealthRequest) (*backend.CheckHealthResult, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	h, err := d.health(ctx)
	if err != nil {
		return &backend.CheckHealthResult{Status: backend.HealthStatusError, Message: sentence(err.Error())}, nil
	}
	details, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return &backend.CheckHealthResult{Status: backend.HealthStatusOk, Message: h.message(d.settings.user()), JSONDetails: details}, nil
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// health is what the check finds.
type health struct {
	Server    string     `json:"server"`
	Schema    uint32     `json:"schema"`             // migrations that are applied
	Wanted    uint32     `json:"wanted"`             // migrations that this plugin knows
	Readonly  uint64     `json:"readonly"`           // setting of the user
	LastEvent *time.Time `json:"lastEvent"`          // nil without any
	Age       *float64   `json:"lastEventSeconds"`   // how long ago
	Nodes     uint64     `json:"nodes"`              // whose agents were alive in the last minutes
	Tenant    bool       `json:"tenant,omitempty"`   // the user sees a part of the tables only
	Warnings  []string   `json:"warnings,omitempty"` // what works, but should be changed
}

func (d *Datasource) health(ctx context.Context) (health, error) {
	ctx = patient(ctx)
	h := health{Wanted: warehouse.Version()}
	a, err := d.client.rights(ctx)
	if err != nil {
		return h, d.client.explain(err)
	}
	h.Readonly = a.readonly
	if a.readonly == 0 {
		h.Warnings = append(h.Warnings, "this user may write: give Grafana one that only reads (carom schema roles makes carom_grafana, carom clickhouse has --readonly-user)")
	}
	if v, err := d.client.conn.ServerVersion(); err == nil {
		h.Server = fmt.Sprintf("%d.%d", v.Version.Major, v.Version.Minor)
	}
	switch states, err := warehouse.Status(ctx, d.client.conn); {
	case denied(err):
		h.Tenant = true
	case err != nil:
		return h, d.client.explain(err)
	default:
		missing := ""
		for _, s := range states {
			switch {
			case s.AppliedAt != nil:
				h.Schema = max(h.Schema, s.Version)
			case missing == "":
				missing = s.Name
			}
		}
		if h.Schema == 0 {
			return h, fmt.Errorf("the database %s has no tables of carom: set another database, or run carom schema apply", d.settings.Database)
		}
		if missing != "" {
			h.Warnings = append(h.Warnings, fmt.Sprintf("the schema is older than this plugin (it lacks %s): run carom schema apply", missing))
		}
		if h.Schema > h.Wanted {
			h.Warnings = append(h.Warnings, "the schema is newer than this plugin: update the plugin")
		}
	}
	// Answered from what each part knows of its times: nothing is read. For a tenant, whose rows are filtered, it is:
	// those of the last day, if there are any.
	spans := []string{""}
	if h.Tenant {
		spans = []string{" WHERE time > now64(6) - INTERVAL 1 DAY", ""}
	}
	var last time.Time
	var age float64
	for _, span := range spans {
		row := d.client.conn.QueryRow(ctx, "SELECT max(time), dateDiff('millisecond', max(time), now64(6)) / 1000 FROM events"+span)
		if err := row.Scan(&last, &age); err != nil {
			return h, d.client.explain(err)
		}
		if last.Unix() > 0 {
			break
		}
	}
	if last.Unix() > 0 {
		h.LastEvent, h.Age = &last, &age
	}
	if !h.Tenant {
		row := d.client.conn.QueryRow(ctx, "SELECT uniqExact(node) FROM nodes FINAL WHERE seen_at > now64(6) - INTERVAL 5 MINUTE")
		if err := row.Scan(&h.Nodes); err != nil && !denied(err) {
			return h, d.client.explain(err)
		}
	}
	return h, nil
}

func denied(err error) bool {
	e, ok := errors.AsType[*clickhouse.Exception](err)
	return ok && e.Code == codeAccessDenied
}

// message says it in words.
func (h health) message(user string) string {
	var parts []string
	switch {
	case h.LastEvent == nil:
		parts = append(parts, "No events yet")
	case h.Nodes > 0:
		parts = append(parts, fmt.Sprintf("Last event %s ago from %d %s", spoken(*h.Age), h.Nodes, plural(h.Nodes, "node")))
	case h.Tenant: // who may not know of nodes
		parts = append(parts, fmt.Sprintf("Last event %s ago", spoken(*h.Age)))
	default:
		parts = append(parts, fmt.Sprintf("Last event %s ago; no node has reported in the last five minutes", spoken(*h.Age)))
	}
	if h.Tenant {
		parts = append(parts, fmt.Sprintf("user %s sees the rows of one tenant", user))
	} else {
		parts = append(parts, fmt.Sprintf("schema %d", h.Schema))
		if h.Readonly > 0 {
			parts = append(parts, fmt.Sprintf("user %s only reads", user))
		}
	}
	var text strings.Builder
	text.WriteString(strings.Join(parts, "; ") + ".")
	for _, w := range h.Warnings {
		text.WriteString(" Attention: " + w + ".")
	}
	return text.String()
}

func plural(n uint64, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// spoken rounds a number of seconds to how people say it.
func spoken(seconds float64) string {
	d := time.Duration(max(0, seconds) * float64(time.Second))
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
