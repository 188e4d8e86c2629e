//go:build unix

package plugin_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
	"carom/schemas/warehouse/chtest"
)

// frame asks a query that must have one frame.
func frame(t *testing.T, s source, o over, model map[string]any) *data.Frame {
	t.Helper()
	r, err := s.ask(t.Context(), o, model)
	if err != nil || r.Error != nil || len(r.Frames) != 1 {
		t.Fatalf("%v: %v, %v, %d frames", model, err, r.Error, len(r.Frames))
	}
	return r.Frames[0]
}

// sql asks a query in SQL.
func sql(t *testing.T, s source, format, text string) *data.Frame {
	t.Helper()
	return frame(t, s, ranges["6h"], map[string]any{"mode": "sql", "format": format, "sql": text})
}

func healthy(t *testing.T, s source) {
	r := s.check(t)
	if want := " ago from 2 nodes; schema "; r.Status != backend.HealthStatusOk || !strings.Contains(r.Message, want) || !strings.HasPrefix(r.Message, "Last event ") {
		t.Errorf("health: %v %q, want %q", r.Status, r.Message, want)
	}
	if !strings.Contains(r.Message, "user grafana only reads") || strings.Contains(r.Message, "Attention") {
		t.Errorf("health: %q", r.Message)
	}
}

// seriesOfAView holds a time series to the sum that a table has of the same time, and to its form.
func seriesOfAView(t *testing.T, s source) {
	o := over{until.Add(-24 * time.Hour), until, 10 * time.Minute}
	f := frame(t, s, o, map[string]any{"view": "deliverability", "metrics": []string{"delivered"}, "breakdown": []string{"provider"}, "limit": 3})
	if f.Meta.Type != data.FrameTypeTimeSeriesWide || len(f.Fields) != 4 {
		t.Fatalf("type %q with %d fields, want wide with 3 series", f.Meta.Type, len(f.Fields))
	}
	if got := f.Fields[0].Len(); got != 144 {
		t.Errorf("%d steps, want 144", got)
	}
	table := frame(t, s, o, map[string]any{"view": "deliverability", "format": "table", "metrics": []string{"delivered"}, "breakdown": []string{"provider"}, "limit": 3})
	if table.Meta.Type != data.FrameTypeNumericLong {
		t.Errorf("a table of words and numbers is %q", table.Meta.Type)
	}
	for row := range 3 {
		provider, _ := table.Fields[0].ConcreteAt(row)
		want, _ := table.Fields[1].FloatAt(row)
		i := slices.IndexFunc(f.Fields, func(f *data.Field) bool { return f.Labels["provider"] == provider })
		if i < 0 {
			t.Fatalf("no series of %v", provider)
		}
		if got := total(f.Fields[i]); got != want || got == 0 {
			t.Errorf("%v: the series sums to %v, the table has %v", provider, got, want)
		}
		c := f.Fields[i].Config
		if c.DisplayNameFromDS != provider || c.Unit != "short" || len(c.Links) != 1 || c.Links[0].Internal.DatasourceUID != "carom" {
			t.Errorf("config of %v: %+v", provider, c)
		}
	}
}

// refusedPerSecond is of all that was refused for its rate: too fast and blocked.
func refusedPerSecond(t *testing.T, s source) {
	o := over{until.Add(-24 * time.Hour), until, time.Minute}
	sums := func(view string, metrics ...string) (sum float64) {
		f := frame(t, s, o, map[string]any{"view": view, "format": "table", "metrics": metrics})
		for _, field := range f.Fields {
			sum += total(field)
		}
		return sum
	}
	want := sums("deliverability", "throttled", "blocked")
	if got := sums("limits", "refused_per_second") * o.to.Sub(o.from).Seconds(); want == 0 || math.Abs(got-want) > want/1000 {
		t.Errorf("%v attempts were refused by the second, %v in all", got, want)
	}
}

func total(f *data.Field) float64 {
	sum := 0.0
	for i := range f.Len() {
		if v, err := f.NullableFloatAt(i); err == nil && v != nil {
			sum += *v
		}
	}
	return sum
}

// limitOverTime follows the limit of a key from before the range over the cut in it.
func limitOverTime(t *testing.T, s source) {
	o := over{until.Add(-3 * time.Hour), until, time.Minute}
	f := frame(t, s, o, map[string]any{"view": "limits", "metrics": []string{"limit_rate", "accepted_per_second"}, "breakdown": []string{"provider", "source"}})
	i := slices.IndexFunc(f.Fields, func(f *data.Field) bool { return f.Name == "limit_rate" && f.Labels["provider"] == "google" })
	if i < 0 {
		t.Fatal("no series of the limit")
	}
	at := func(minutes int) float64 { v, _ := f.Fields[i].FloatAt(minutes); return v }
	if at(0) != 50 || at(89) != 50 || at(90) != 20 || at(179) != 20 {
		t.Errorf("limit at 0, 89, 90, 179 minutes: %v %v %v %v, want 50 50 20 20", at(0), at(89), at(90), at(179))
	}
	if want := "google · 192.0.2.1 · Limit rate"; f.Fields[i].Config.DisplayNameFromDS != want {
		t.Errorf("legend %q, want %q", f.Fields[i].Config.DisplayNameFromDS, want)
	}
}

// fromMessageToTrace follows the links from an event to its message and from a limit to its evidence.
func fromMessageToTrace(t *testing.T, s source) {
	logs := frame(t, s, ranges["2d"], map[string]any{"view": "events", "filters": []views.Filter{{Field: "kind", Op: "=", Values: []string{"delivered"}}}, "limit": 5})
	if logs.Meta.Type != data.FrameTypeLogLines || logs.Rows() != 5 {
		t.Fatalf("type %q, %d rows", logs.Meta.Type, logs.Rows())
	}
	field := func(f *data.Frame, name string) *data.Field {
		field, i := f.FieldByName(name)
		if i < 0 {
			t.Fatalf("no field %s", name)
		}
		return field
	}
	message := field(logs, "message_id")
	if len(message.Config.Links) != 1 || message.Config.Links[0].Title != "Trace this message" {
		t.Fatalf("links of a message: %+v", message.Config.Links)
	}
	id, _ := message.ConcreteAt(0)
	trace := frame(t, s, ranges["15m"], map[string]any{"view": "trace", "format": "table", "search": id})
	if step, _ := field(trace, "step").ConcreteAt(0); step != "received" || trace.Rows() < 2 || len(trace.Meta.Notices) != 1 {
		t.Errorf("the trace of %v begins with %v and has %d rows, notices %v", id, step, trace.Rows(), trace.Meta.Notices)
	}
	changes := frame(t, s, ranges["6h"], map[string]any{"view": "limit_changes"})
	if changes.Rows() != 2 || len(field(changes, "id").Config.Links) != 1 {
		t.Errorf("%d changes", changes.Rows())
	}
	one := frame(t, s, ranges["15m"], map[string]any{"view": "limit_changes", "filters": []views.Filter{{Field: "id", Op: "=", Values: []string{"change-2"}}}})
	if evidence, _ := field(one, "evidence").ConcreteAt(0); one.Rows() != 1 || evidence != `{"a":21}` {
		t.Errorf("the change by its id: %d rows, evidence %v", one.Rows(), evidence)
	}
}

// userSQL runs what users write: macros, ad hoc filters, all formats.
func userSQL(t *testing.T, s source) {
	f := frame(t, s, ranges["2d"], map[string]any{
		"mode": "sql", "format": "timeseries",
		"sql":     "SELECT $__timeInterval(ts) AS time, provider, sum(events) AS n, nan AS broken FROM rollup_1m WHERE $__timeFilter(ts) AND $__adhoc GROUP BY time, provider ORDER BY time",
		"filters": []views.Filter{{Field: "provider", Op: "in", Values: []string{"google", "yah'oo\\"}}},
	})
	if len(f.Fields) != 3 || f.Fields[1].Labels["provider"] != "google" || total(f.Fields[1]) == 0 || total(f.Fields[2]) != 0 {
		t.Errorf("fields %v", f.Fields)
	}
	if !strings.Contains(f.Meta.ExecutedQueryString, `'yah\'oo\\'`) {
		t.Errorf("executed: %s", f.Meta.ExecutedQueryString)
	}
	logs := sql(t, s, "logs", "SELECT time, reply, node FROM events WHERE reply != '' LIMIT 3")
	if logs.Meta.Type != data.FrameTypeLogLines || logs.Fields[0].Name != "timestamp" || logs.Fields[1].Name != "body" || logs.Rows() != 3 {
		t.Errorf("logs: %v", logs.Fields)
	}
	for _, format := range []string{"timeseries", "table", "logs"} {
		if empty := sql(t, s, format, "SELECT now() AS time, 1 AS n, 'x' AS body WHERE 0"); empty.Rows() != 0 {
			t.Errorf("%s: %d rows of nothing", format, empty.Rows())
		}
	}
	long := sql(t, s, "table", "SELECT number FROM numbers(200000)")
	if long.Rows() != 50_000 || len(long.Meta.Notices) != 1 || !strings.Contains(long.Meta.Notices[0].Text, "first 50000 rows") {
		t.Errorf("%d rows, notices %v", long.Rows(), long.Meta.Notices)
	}
}

// mistakes are answered with a sentence, marked as not the plugin's.
func mistakes(t *testing.T, s source) {
	for _, tc := range []struct {
		name  string
		model map[string]any
		want  string
	}{
		{"syntax", map[string]any{"mode": "sql", "sql": "SELECT 1 +"}, "Syntax error: failed at position 11 (end of query)"},
		{"syntax in a later line", map[string]any{"mode": "sql", "sql": "SELECT\n  1,\n  ) FROM events"}, "(line 3, col 3)"},
		{"unknown column", map[string]any{"mode": "sql", "sql": "SELECT weather FROM events"}, "`weather`"},
		{"unknown table", map[string]any{"mode": "sql", "sql": "SELECT * FROM nowhere"}, "a table is missing in the database carom"},
		{"writing", map[string]any{"mode": "sql", "sql": "DROP TABLE events"}, "a query begins with SELECT or WITH"},
		{"setting", map[string]any{"mode": "sql", "sql": "SELECT 1 SETTINGS readonly = 0"}, "may not do that"},
		{"macro", map[string]any{"mode": "sql", "sql": "SELECT $__nothing"}, "there is no macro $__nothing"},
		{"states", map[string]any{"mode": "sql", "format": "table", "sql": "SELECT to_deliver FROM latency_1h LIMIT 1"}, "states of aggregate functions"},
		{"no time", map[string]any{"mode": "sql", "format": "timeseries", "sql": "SELECT 1"}, "needs a column of times"},
		{"unknown view", map[string]any{"view": "weather"}, `there is no view "weather"`},
		{"unknown metric", map[string]any{"view": "latency", "metrics": []string{"beauty"}}, `has no metric "beauty"`},
		{"expression", map[string]any{"view": "deliverability", "filters": []views.Filter{{Field: "provider", Op: "=~", Values: []string{"("}}}}, "a filter has no regular expression that ClickHouse knows: "},
		{"variable", map[string]any{"view": "deliverability", "filters": []views.Filter{{Field: "provider", Op: "=", Values: []string{"$provider"}}}}, "alert rules have no dashboard variables"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := s.ask(t.Context(), ranges["6h"], tc.model)
			if err != nil {
				t.Fatal(err)
			}
			if r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) {
				t.Errorf("error %v, want %q", r.Error, tc.want)
			}
			if r.ErrorSource != backend.ErrorSourceDownstream {
				t.Errorf("the error %v counts as that of %q", r.Error, r.ErrorSource)
			}
			if r.Error != nil && (strings.Contains(r.Error.Error(), readerPassword) || strings.Contains(strings.ToLower(r.Error.Error()), "in scope") || len(r.Error.Error()) > 600) {
				t.Errorf("the error %v", r.Error)
			}
		})
	}
}

// resources are what the editor asks for.
func resources(t *testing.T, s source) {
	var list []views.View
	if status := s.get(t, http.MethodGet, "views", nil, nil, &list); status != http.StatusOK || len(list) != len(views.Catalogue()) {
		t.Errorf("views: %d, %d of them", status, len(list))
	}
	span := url.Values{"from": {strconv.FormatInt(until.Add(-48*time.Hour).UnixMilli(), 10)}, "to": {strconv.FormatInt(until.UnixMilli(), 10)}}
	seen := map[string]bool{}
	for _, v := range list {
		for _, f := range v.Filters {
			if seen[f.Name] {
				continue
			}
			seen[f.Name] = true
			query := url.Values{"field": {f.Name}, "from": span["from"], "to": span["to"], "search": {"o"}}
			var values []string
			var failure struct{ Error string }
			var into any = &values
			_, listed := map[string]bool{"recipient": true, "message_id": true, "connection_id": true, "id": true, "phase": true, "code": true, "enhanced": true, "mx_host": true, "limit_reason": true, "limit_epoch": true, "limiting_scope": true, "tags": true}[f.Name]
			if listed {
				into = &failure
			}
			status := s.get(t, http.MethodGet, "values", query, nil, into)
			if want := map[bool]int{false: http.StatusOK, true: http.StatusBadRequest}[listed]; status != want {
				t.Errorf("values of %s: status %d, want %d", f.Name, status, want)
			}
		}
	}
	var providers []string
	s.get(t, http.MethodGet, "values", url.Values{"field": {"provider"}, "from": span["from"], "to": span["to"], "search": {"GOO"}, "limit": {"1"}}, nil, &providers)
	if !slices.Equal(providers, []string{"google"}) {
		t.Errorf("providers with goo: %v", providers)
	}
	var tables []struct {
		Name    string
		Columns []struct{ Name, Type, Comment string }
	}
	s.get(t, http.MethodGet, "schema", nil, nil, &tables)
	if i := slices.IndexFunc(tables, func(t struct {
		Name    string
		Columns []struct{ Name, Type, Comment string }
	},
	) bool {
		return t.Name == "events"
	}); i < 0 || tables[i].Columns[0].Name != "node" || tables[i].Columns[0].Comment == "" {
		t.Errorf("%d tables, no good events", len(tables))
	}
	var shown struct{ SQL, Error string }
	body := map[string]any{
		"query": map[string]any{"view": "bounces", "filters": []views.Filter{{Field: "provider", Op: "=", Values: []string{"o'hara"}}}},
		"range": map[string]any{"from": until.Add(-time.Hour).UnixMilli(), "to": until.Format(time.RFC3339)}, "interval": 60000,
	}
	if status := s.get(t, http.MethodPost, "preview", nil, body, &shown); status != http.StatusOK || !strings.Contains(shown.SQL, `provider = 'o\'hara'`) || !strings.Contains(shown.SQL, "\nFROM rollup_1m") {
		t.Errorf("preview: %d %+v", status, shown)
	}
	if status := s.get(t, http.MethodPost, "preview", nil, map[string]any{"query": map[string]any{"view": "x"}}, &shown); status != http.StatusBadRequest || shown.Error == "" {
		t.Errorf("preview of nothing: %d %+v", status, shown)
	}
	if status := s.get(t, http.MethodGet, "secrets", nil, nil, &shown); status != http.StatusNotFound {
		t.Errorf("an unknown resource: %d", status)
	}
}

// cancelled ends a panel's request and sees that the engine ends the query.
func cancelled(t *testing.T, s source, server *chtest.Server) {
	conn := server.Conn(t)
	until := func(running bool) {
		t.Helper()
		deadline, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		for {
			var n uint64
			if err := conn.QueryRow(deadline, "SELECT count() FROM system.processes WHERE query LIKE '%a_slow_panel%' AND query NOT LIKE '%system.processes%'").Scan(&n); err != nil {
				t.Fatalf("is a query running? want %v: %v", running, err)
			}
			if (n > 0) == running {
				return
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := s.ask(ctx, ranges["6h"], map[string]any{"mode": "sql", "format": "table", "sql": "SELECT count() AS a_slow_panel FROM numbers(1e13) WHERE sipHash64(number) = 1"}); err == nil {
			t.Error("a query that was cancelled has an answer")
		}
	})
	until(true)
	cancel()
	group.Wait()
	until(false)
}

// parallelMemory asks fifty queries at once, as dashboards do, each with as much as it may have, and looks
// at the backend's memory.
func parallelMemory(t *testing.T, b *shipped, server *chtest.Server) {
	s := b.configured(t, settingsOf(server, map[string]any{"timeoutSeconds": 60}), readerPassword)
	models := []map[string]any{
		{"view": "deliverability", "metrics": []string{"delivery_rate", "delivered", "attempts"}, "breakdown": []string{"provider", "source"}, "limit": 1000},
		{"view": "deferrals", "breakdown": []string{"category", "tenant"}, "limit": 1000},
		{"view": "events", "format": "table", "limit": 5000},
		{"view": "events", "format": "logs", "limit": 5000},
		{"mode": "sql", "format": "table", "sql": "SELECT number, toString(number) AS word, now64(3) AS time, number / 7 AS share, [number] AS list FROM numbers(100000)"},
		{"mode": "sql", "format": "timeseries", "sql": "SELECT toDateTime(number) AS time, number % 20 AS n, toString(number % 50) AS label FROM numbers(100000)"},
	}
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			if r, err := s.ask(t.Context(), ranges["2d"], models[i%len(models)]); err != nil || r.Error != nil {
				t.Errorf("query %d: %v %v", i, err, r.Error)
			}
		})
	}
	group.Wait()
	peak := peakMemory(t, s.pid)
	t.Logf("the backend needed %d MB", peak>>20)
	if peak > 300<<20 {
		t.Errorf("the backend needed %d MB, want 300 at most", peak>>20)
	}
}

// peakMemory returns the most memory that a process had resident, in octets.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilo, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilo << 10
		}
	}
	t.Fatal("no VmHWM")
	return math.MaxInt64
}

// scores shows the score of a tenant at the provider that thinks least of it, held from run to run.
func scores(t *testing.T, s source) {
	f := frame(t, s, over{until.Add(-time.Hour), until, time.Minute}, map[string]any{"view": "reputation", "breakdown": []string{"tenant"}})
	if len(f.Fields) != 2 || f.Fields[1].Labels["tenant"] != "acme" {
		t.Fatalf("fields %v", f.Fields)
	}
	for row := range f.Rows() {
		if v, err := f.Fields[1].FloatAt(row); err != nil || v != 60 {
			t.Fatalf("minute %d: %v %v, want 60", row, v, err)
		}
	}
	table := frame(t, s, over{until.Add(-time.Hour), until, time.Minute}, map[string]any{"view": "reputation", "format": "table", "breakdown": []string{"provider", "source"}})
	band, _ := table.FieldByName("band")
	if v, _ := band.ConcreteAt(0); table.Rows() != 1 || v != "high" {
		t.Errorf("%d rows, band %v", table.Rows(), v)
	}
}

// unhappy are the data sources that cannot be used, and what their health check says.
func unhappy(t *testing.T, s source, server *chtest.Server) {
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := silent.Addr().String()
	_ = silent.Close()
	for _, tc := range []struct {
		name     string
		settings map[string]any
		password string
		want     string
	}{
		{"nobody there", map[string]any{"address": closed}, readerPassword, "refuses the connection: is it running there"},
		{"wrong password", nil, "swordfish-swordfish", `refuses the user "grafana": check user and password`},
		{"another database", map[string]any{"database": "default"}, readerPassword, "has no tables of carom: set another database, or run carom schema apply"},
		{"no database", map[string]any{"database": "nowhere"}, readerPassword, "has no database nowhere"},
		{"the other protocol", map[string]any{"protocol": "native"}, readerPassword, "does not speak ClickHouse's native protocol"},
		{"TLS where none is", map[string]any{"tls": true}, readerPassword, "speaks no TLS on this port"},
		{"no such host", map[string]any{"address": "nowhere.invalid:8123"}, readerPassword, "is not known: check the name of the host"},
		{"no address", map[string]any{"address": ""}, readerPassword, "set the address of ClickHouse"},
		{"a URL for an address", map[string]any{"address": "http://alice:" + readerPassword + "@h:1"}, readerPassword, "want HOST:PORT; the protocol is a setting of its own"},
		{"a login in the address", map[string]any{"address": "alice:" + readerPassword + "@h:1"}, readerPassword, "settings of their own"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := s.configured(t, settingsOf(server, tc.settings), tc.password)
			message := ""
			r, err := bad.health.CheckHealth(t.Context(), healthRequest(backend.ToProto().PluginContext(bad.context)))
			switch {
			case err != nil:
				message = err.Error() // of settings that make no data source
			case backend.FromProto().CheckHealthResponse(r).Status == backend.HealthStatusOk:
				t.Fatalf("health is %q", r.GetMessage())
			default:
				message = r.GetMessage()
			}
			if !strings.Contains(message, tc.want) || strings.Contains(message, tc.password) {
				t.Errorf("health: %q, want %q", message, tc.want)
			}
		})
	}
	t.Run("queries", func(t *testing.T) {
		for _, tc := range []struct {
			name     string
			settings map[string]any
			password string
			want     string
		}{
			{"nobody there", map[string]any{"address": closed}, readerPassword, "refuses the connection: is it running there"},
			{"wrong password", nil, "swordfish-swordfish", `refuses the user "grafana": check user and password`},
			{"absent database", map[string]any{"database": "nowhere"}, readerPassword, "has no database nowhere"},
			{"absent schema", map[string]any{"database": "default"}, readerPassword, "a table is missing in the database default (Unknown table expression identifier 'events'). If it is one of carom's, run carom schema apply"},
		} {
			bad := s.configured(t, settingsOf(server, tc.settings), tc.password)
			r, err := bad.ask(t.Context(), ranges["6h"], map[string]any{"mode": "sql", "sql": "SELECT count() FROM events"})
			if err != nil || r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) || r.ErrorSource != backend.ErrorSourceDownstream || strings.Contains(r.Error.Error(), tc.password) {
				t.Errorf("%s: %v, %v of %q, want %q", tc.name, err, r.Error, r.ErrorSource, tc.want)
			}
		}
		// A bundled dashboard shows no error where a part of carom is not in use.
		absent := s.configured(t, settingsOf(server, map[string]any{"database": "default"}), readerPassword)
		f := frame(t, absent, ranges["6h"], map[string]any{"view": "deliverability"})
		if f.Rows() != 0 || len(f.Fields) != 2 || len(f.Meta.Notices) != 1 || !strings.Contains(f.Meta.Notices[0].Text, "A table is missing in the database default") {
			t.Errorf("a view without its tables: %v, notices %v", f.Fields, f.Meta.Notices)
		}
	})
	t.Run("a user that may write", func(t *testing.T) {
		if r := s.configured(t, settingsOf(server, map[string]any{"user": ""}), "").check(t); r.Status != backend.HealthStatusOk || !strings.Contains(r.Message, "Attention: this user may write") {
			t.Errorf("health: %q", r.Message)
		}
	})
}
