package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"carom/grafana-plugin/pkg/frames"
	"carom/grafana-plugin/pkg/views"
)

// maxBody is how large the body of a request may be.
const maxBody = 1 << 20

// CallResource answers what the editor asks for:
//
//	GET  views    the views with their metrics and fields
//	GET  values   ?field=provider&search=goo&limit=100&from=MS&to=MS: values of a field, the most frequent first
//	GET  schema   tables and columns with their comments
//	POST preview  {query, range, interval}: the SQL that a query would run
//
// A mistake is {"error": "…"} with status 400.
func (d *Datasource) CallResource(ctx context.Context, req *backend.CallResourceRequest, sender backend.CallResourceResponseSender) error {
	want := http.MethodGet
	var answer func() (any, error)
	switch path := strings.Trim(req.Path, "/"); path {
	case "views":
		answer = func() (any, error) { return views.Catalogue(), nil }
	case "values":
		answer = func() (any, error) { return d.values(ctx, req.URL, comment(req.PluginContext)) }
	case "schema":
		answer = func() (any, error) { return d.schema(ctx, comment(req.PluginContext)) }
	case "preview":
		want = http.MethodPost
		answer = func() (any, error) { return d.preview(req.Body) }
	default:
		return send(sender, http.StatusNotFound, failure{fmt.Sprintf("there is no resource %.100q", path)})
	}
	if req.Method != want {
		return send(sender, http.StatusMethodNotAllowed, failure{"want the method " + want})
	}
	v, err := answer()
	if err != nil {
		return send(sender, http.StatusBadRequest, failure{err.Error()})
	}
	return send(sender, http.StatusOK, v)
}

type failure struct {
	Error string `json:"error"`
}

func send(sender backend.CallResourceResponseSender, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sender.Send(&backend.CallResourceResponse{Status: status, Headers: map[string][]string{"Content-Type": {"application/json"}}, Body: body})
}

// values returns the values of a field.
func (d *Datasource) values(ctx context.Context, rawURL, comment string) ([]string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("the URL of the request is none")
	}
	query := u.Query()
	number := func(name string) (n int64, err error) {
		if text := query.Get(name); text != "" {
			if n, err = strconv.ParseInt(text, 10, 64); err != nil {
				err = fmt.Errorf("%s=%.40q: want a number", name, text)
			}
		}
		return n, err
	}
	limit, err := number("limit")
	if err != nil {
		return nil, err
	}
	from, err := number("from")
	if err != nil {
		return nil, err
	}
	to, err := number("to")
	if err != nil {
		return nil, err
	}
	w := views.Window{Tenant: d.settings.Tenant}
	if to > 0 {
		w.To = time.UnixMilli(to)
	}
	if from > 0 {
		w.From = time.UnixMilli(from)
	}
	s, err := views.Values(query.Get("field"), query.Get("search"), int(min(limit, views.MaxChoices)), w)
	if err != nil {
		return nil, err
	}
	r, err := d.client.run(ctx, s.SQL, s.Params, views.MaxChoices, comment)
	if err != nil {
		return nil, err
	}
	out := make([]string, r.rows())
	for i := range out {
		out[i] = frames.Text(r.fields[0], i)
	}
	return out, nil
}

// table is a table for completion.
type table struct {
	Name    string        `json:"name"`
	Comment string        `json:"comment"`
	Columns []tableColumn `json:"columns"`
}

type tableColumn struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Comment string `json:"comment"`
}

const schemaSQL = `SELECT t.name, t.comment, c.name, c.type, c.comment
FROM system.tables AS t INNER JOIN system.columns AS c ON c.database = t.database AND c.table = t.name
WHERE t.database = currentDatabase() AND t.engine != 'MaterializedView' AND NOT startsWith(t.name, '.') AND t.name NOT LIKE '%\\_stage\\_%'
ORDER BY t.name, c.position`

// maxColumns bounds the schema; carom's own has about 700 columns.
const maxColumns = 20_000

// schema returns the tables of the database that the user may see.
func (d *Datasource) schema(ctx context.Context, comment string) ([]table, error) {
	r, err := d.client.run(ctx, schemaSQL, nil, maxColumns, comment)
	if err != nil {
		return nil, err
	}
	out := []table{}
	for i := range r.rows() {
		at := func(column int) string { return frames.Text(r.fields[column], i) }
		if len(out) == 0 || out[len(out)-1].Name != at(0) {
			out = append(out, table{Name: at(0), Comment: at(1)})
		}
		last := &out[len(out)-1]
		last.Columns = append(last.Columns, tableColumn{at(2), at(3), at(4)})
	}
	return out, nil
}

// moment is a time in a request: milliseconds since 1970, as a number or as text, or RFC 3339.
type moment struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (m *moment) UnmarshalJSON(text []byte) error {
	words := strings.Trim(string(text), `"`)
	if ms, err := strconv.ParseInt(words, 10, 64); err == nil {
		m.Time = time.UnixMilli(ms)
		return nil
	}
	t, err := time.Parse(time.RFC3339, words)
	if err != nil {
		return fmt.Errorf("%.40q is no time: want milliseconds since 1970", words)
	}
	m.Time = t
	return nil
}

// preview returns the SQL of a query.
func (d *Datasource) preview(body []byte) (any, error) {
	var request struct {
		Query Model `json:"query"`
		Range struct {
			From moment `json:"from"`
			To   moment `json:"to"`
		} `json:"range"`
		Interval float64 `json:"interval"` // milliseconds
		Edit     bool    `json:"edit"`     // one statement that goes on in the SQL editor: with macros for the time range
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("the request is larger than %d octets", maxBody)
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, fmt.Errorf("the request is no JSON of the expected form: %w", err)
	}
	w := views.Window{From: request.Range.From.Time, To: request.Range.To.Time, Interval: time.Duration(request.Interval) * time.Millisecond, Tenant: d.settings.Tenant}
	var sql string
	if request.Query.Mode == modeSQL {
		text, params, err := expand(request.Query, w)
		if err != nil {
			return nil, err
		}
		sql = views.Statement{SQL: text, Params: params}.Inline()
	} else {
		build := views.Build
		if request.Edit {
			build = views.BuildToEdit
		}
		plan, err := build(request.Query.Query, w)
		if err != nil {
			return nil, err
		}
		sql = plan.SQL()
	}
	return struct {
		SQL string `json:"sql"`
	}{sql}, nil
}
