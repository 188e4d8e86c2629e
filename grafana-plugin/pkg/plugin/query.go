package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/sqlmacro"
	"carom/grafana-plugin/pkg/views"
)

// Model is a query as it is stored in a dashboard.
type Model struct {
	views.Query

	Mode string `json:"mode"` // builder (also if empty) or sql
	SQL  string `json:"sql,omitempty"`
	Hide bool   `json:"hide,omitempty"`
}

const modeSQL = "sql"

// query answers one query. It does not panic: an answer with an error is worth more than a plugin that
// starts anew.
func (d *Datasource) query(ctx context.Context, q backend.DataQuery, comment string) (response backend.DataResponse) {
	defer func() {
		if r := recover(); r != nil {
			log.DefaultLogger.Error("a query panicked", "panic", r, "stack", string(debug.Stack()))
			response = backend.ErrorResponseWithErrorSource(backend.PluginError(errors.New("the data source met its own mistake; Grafana's log has the details")))
		}
	}()
	var m Model
	if err := json.Unmarshal(q.JSON, &m); err != nil {
		return failed(backend.DownstreamError(fmt.Errorf("the query is no JSON of the expected form: %w", err)), "")
	}
	if m.Hide {
		return backend.DataResponse{}
	}
	w := views.Window{From: q.TimeRange.From, To: q.TimeRange.To, Interval: q.Interval, Tenant: d.settings.Tenant}
	if m.Mode == modeSQL {
		return d.querySQL(ctx, m, w, comment)
	}
	plan, err := views.Build(m.Query, w)
	if err != nil {
		return failed(mistake(err), "")
	}
	frame, err := d.runPlan(ctx, plan, comment)
	if err != nil {
		return failed(err, plan.SQL())
	}
	d.describe(frame, plan)
	return backend.DataResponse{Frames: data.Frames{frame}}
}

// failed returns an error as an answer; the inspector of the panel shows the SQL beside it.
func failed(err error, sql string) backend.DataResponse {
	response := backend.ErrorResponseWithErrorSource(err)
	response.Status = backend.StatusBadRequest
	if sql != "" {
		frame := data.NewFrame("")
		frame.Meta = &data.FrameMeta{ExecutedQueryString: sql}
		response.Frames = data.Frames{frame}
	}
	return response
}

// mistake marks an error of Build or Expand as the user's.
func mistake(err error) error {
	_, view := errors.AsType[*views.Error](err)
	_, sql := errors.AsType[*sqlmacro.Error](err)
	if view || sql {
		return backend.DownstreamError(err)
	}
	return backend.PluginError(err)
}

// querySQL answers a query that the user wrote.
func (d *Datasource) querySQL(ctx context.Context, m Model, w views.Window, comment string) backend.DataResponse {
	sql, params, err := expand(m, w)
	if err != nil {
		return failed(mistake(err), "")
	}
	shown := views.Statement{SQL: sql, Params: params}.Inline()
	r, err := d.client.run(ctx, sql, params, d.settings.MaxRows, comment)
	if err != nil {
		return failed(err, shown)
	}
	if len(r.fields) == 0 { // over HTTP an answer without rows has no columns either
		frame := data.NewFrame("")
		meta(frame).ExecutedQueryString = shown
		return backend.DataResponse{Frames: data.Frames{frame}}
	}
	frame, err := userFrame(r.fields, m.Format)
	if err != nil {
		return failed(backend.DownstreamError(err), shown)
	}
	meta(frame).ExecutedQueryString = shown
	if r.more {
		frame.AppendNotices(d.truncated())
	}
	return backend.DataResponse{Frames: data.Frames{frame}}
}

// expand returns the SQL of a user's query with the parameters of its ad hoc filters.
func expand(m Model, w views.Window) (sql string, params map[string]string, err error) {
	adHoc, params, err := views.AdHoc(m.Filters)
	if err != nil {
		return "", nil, err
	}
	sql, err = sqlmacro.Expand(m.SQL, sqlmacro.Values{From: w.From, To: w.To, Step: max(w.Interval, time.Second), AdHoc: adHoc})
	return sql, params, err
}

func (d *Datasource) truncated() data.Notice {
	return data.Notice{
		Severity: data.NoticeSeverityWarning,
		Text:     fmt.Sprintf("Only the first %d rows are shown, which is the limit of the data source: add a LIMIT, a filter or a shorter time range.", d.settings.MaxRows),
	}
}

// runPlan runs the statements of a plan and makes one frame of the answers.
func (d *Datasource) runPlan(ctx context.Context, plan views.Plan, comment string) (*data.Frame, error) {
	results := make([]result, len(plan.Statements))
	var more bool
	for i, s := range plan.Statements {
		r, err := d.client.run(ctx, s.SQL, s.Params, d.settings.MaxRows, comment)
		if errors.Is(err, errTableMissing) {
			// A bundled dashboard is no mistake where a part of carom is not in use, or the schema is older.
			plan.Notices = append(plan.Notices, sentence(err.Error()))
			r, err = nothing(plan, s), nil
		}
		if err != nil {
			return nil, err
		}
		if len(r.fields) == 0 { // over HTTP an answer without rows has no columns either
			r = nothing(plan, s)
		}
		results[i], more = r, more || r.more
	}
	var frame *data.Frame
	switch {
	case plan.Step > 0:
		frame = seriesFrame(plan, results, time.Now())
	case plan.Format == views.Logs:
		frame = logsFrame(results[0].fields)
	default:
		frame = tableFrame(plan, results)
	}
	meta(frame).ExecutedQueryString = plan.SQL()
	switch {
	case plan.Step > 0: // says it by itself
	case more:
		frame.AppendNotices(d.truncated())
	case frame.Rows() >= plan.Limit:
		frame.AppendNotices(data.Notice{
			Severity: data.NoticeSeverityInfo, Text: fmt.Sprintf("The first %d rows are shown, which is the limit of the query; there may be more.", plan.Limit),
		})
	}
	for _, text := range plan.Notices {
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityInfo, Text: text})
	}
	return frame, nil
}

// nothing returns the answer without rows to a statement of a plan.
func nothing(plan views.Plan, s views.Statement) result {
	var fields data.Fields
	if plan.Step > 0 {
		fields = append(fields, data.NewField("t", nil, []time.Time{}))
		for _, d := range s.Dims {
			fields = append(fields, data.NewField(d, nil, []string{}))
		}
		for _, m := range s.Metrics {
			fields = append(fields, data.NewField(m.Name, nil, []*float64{}))
		}
		return result{fields: fields}
	}
	numbers := map[string]bool{}
	for _, m := range s.Metrics {
		numbers[m.Name] = true
	}
	for _, c := range s.Columns {
		switch {
		case numbers[c.Name] || c.Unit != "":
			fields = append(fields, data.NewField(c.Name, nil, []*float64{}))
		case c.Name == "timestamp" || c.Name == "time" || c.Name == "ts":
			fields = append(fields, data.NewField(c.Name, nil, []time.Time{}))
		default:
			fields = append(fields, data.NewField(c.Name, nil, []string{}))
		}
	}
	return result{fields: fields}
}

func meta(f *data.Frame) *data.FrameMeta {
	if f.Meta == nil {
		f.Meta = &data.FrameMeta{}
	}
	return f.Meta
}

// legend is what people call a series: its labels, and the metric where there are several.
func legend(values []string, title string, several bool) string {
	words := make([]string, 0, len(values)+1)
	for _, v := range values {
		if v == "" {
			v = "(none)"
		}
		words = append(words, v)
	}
	if several || len(values) == 0 {
		words = append(words, title)
	}
	return strings.Join(words, " · ")
}
