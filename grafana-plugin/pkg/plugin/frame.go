package plugin

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/frames"
	"carom/grafana-plugin/pkg/views"
)

// arriving is how long events may take to be in the tables; a step that ended later is not filled with
// zeroes, for its counts may come yet.
const arriving = time.Minute

// seriesFrame makes time series of the answers to a plan's statements, all on the grid of its steps.
// Without any rows it has the fields that rows would have made, so that an alert rule knows no data
// from a mistake. now tells which steps are over.
func seriesFrame(plan views.Plan, results []result, now time.Time) *data.Frame {
	steps := frames.Grid(plan.From, plan.To, plan.Step)
	grid := whole(steps, results)
	cut := len(grid) < len(steps)
	begun, settled := 0, 0
	for _, t := range grid {
		end := t.Add(plan.Step)
		if end.After(plan.To) {
			end = plan.To
		}
		if !t.After(now) {
			begun++
		}
		if !end.After(now.Add(-arriving)) {
			settled++
		}
	}
	var shown []frames.Series
	several, dropped, limited := 0, 0, false
	byMetric := map[string]views.Metric{}
	for i, s := range plan.Statements {
		several += len(s.Metrics)
		fields := results[i].fields
		w := frames.Wide{Times: steps}
		w.Add(fields[0], fields[1:1+len(s.Dims)], fields[1+len(s.Dims):])
		dropped += w.Dropped
		slices.SortStableFunc(w.Series, func(a, b frames.Series) int { // so that a curve keeps its place and colour
			for _, d := range s.Dims {
				if c := strings.Compare(a.Labels[d], b.Labels[d]); c != 0 {
					return c
				}
			}
			return 0
		})
		for i, one := range w.Series {
			w.Series[i].Points = one.Points[:len(grid)]
		}
		if len(w.Series) == 0 && len(plan.Breakdown) == 0 {
			for _, m := range s.Metrics {
				w.Series = append(w.Series, frames.Series{Name: m.Name, Labels: data.Labels{}, Points: make([]*float64, len(grid))})
			}
		}
		for _, m := range s.Metrics {
			byMetric[m.Name] = m
			for _, one := range w.Series {
				switch {
				case one.Name != m.Name:
				case m.Fill() == views.FillZero:
					frames.Series{Points: one.Points[:settled]}.Zero()
				case m.Fill() == views.FillPrevious:
					frames.Series{Points: one.Points[:begun]}.Hold()
				}
			}
		}
		if len(s.Dims) > len(plan.Breakdown) {
			w.Series = merged(w.Series, s, plan)
		}
		if len(plan.Breakdown) > 0 && len(w.Series) >= plan.Limit*len(s.Metrics) {
			limited = true // by the statement, if not here
			w.Series = frames.Largest(w.Series, plan.Limit)
		}
		shown = append(shown, w.Series...)
	}
	if len(shown) == 0 || empty(shown) {
		grid = nil
	}
	frame := data.NewFrame("")
	frame.Fields = append(frame.Fields, data.NewField("time", nil, grid).SetConfig(&data.FieldConfig{Interval: float64(plan.Step.Milliseconds())}))
	if len(shown) == 0 {
		for _, s := range plan.Statements {
			for _, m := range s.Metrics {
				shown = append(shown, frames.Series{Name: m.Name})
			}
		}
	}
	for _, s := range shown {
		points := s.Points
		if grid == nil {
			points = []*float64{}
		}
		values := make([]string, 0, len(plan.Breakdown))
		for _, d := range plan.Breakdown {
			if v, ok := s.Labels[d]; ok {
				values = append(values, v)
			}
		}
		m := byMetric[s.Name]
		frame.Fields = append(frame.Fields, data.NewField(s.Name, s.Labels, points).SetConfig(&data.FieldConfig{
			DisplayNameFromDS: legend(values, m.Title, several > 1), Unit: m.Unit, Description: m.Description,
		}))
	}
	frame.Meta = &data.FrameMeta{Type: data.FrameTypeTimeSeriesWide, TypeVersion: data.FrameTypeVersion{0, 1}}
	if limited {
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityInfo, Text: fmt.Sprintf("The first %d series are shown, which is the limit of the query; there may be more.", plan.Limit)})
	}
	if dropped > 0 {
		frame.AppendNotices(tooManySeries(dropped))
	}
	if cut {
		part := "Nothing is shown"
		if len(grid) > 0 {
			part = "Only the time before " + grid[len(grid)-1].Add(plan.Step).Format(time.DateTime) + " UTC is shown"
		}
		frame.AppendNotices(data.Notice{
			Severity: data.NoticeSeverityWarning,
			Text:     part + ": the answer has more rows than the data source allows. Choose a longer interval, a shorter time range or fewer series, or raise its row limit.",
		})
	}
	return frame
}

// whole returns the steps of a grid that all answers have whole. Answers are ordered by time, so that one
// with more rows than were read lacks its end, of which nothing is known: it must not look like zeroes.
func whole(grid []time.Time, results []result) []time.Time {
	for _, r := range results {
		if times := frames.Times(r.fields[0]); r.more && len(times) > 0 {
			last, _ := slices.BinarySearchFunc(grid, times[len(times)-1], time.Time.Compare)
			grid = grid[:last]
		}
	}
	return grid
}

// tooManySeries says that series were left out, also of sums over them.
func tooManySeries(dropped int) data.Notice {
	return data.Notice{
		Severity: data.NoticeSeverityWarning,
		Text:     fmt.Sprintf("%d series are left out, for there are more than can be shown: filter, break down by less, or choose a longer interval.", dropped),
	}
}

// merged puts the series of a statement together that kept apart what the plan does not break down.
func merged(all []frames.Series, s views.Statement, plan views.Plan) []frames.Series {
	out := make([]frames.Series, 0, len(all))
	for _, m := range s.Metrics {
		var of []frames.Series
		for _, one := range all {
			if one.Name == m.Name {
				of = append(of, one)
			}
		}
		out = append(out, frames.Merged(of, plan.Breakdown, m.Merge() == views.MergeMax)...)
	}
	return out
}

// empty reports whether no series has a point.
func empty(all []frames.Series) bool {
	return !slices.ContainsFunc(all, func(s frames.Series) bool {
		return slices.ContainsFunc(s.Points, func(p *float64) bool { return p != nil })
	})
}

// tableFrame makes a table of the answers; those of several statements are joined by the labels.
func tableFrame(plan views.Plan, results []result) *data.Frame {
	frame := data.NewFrame("")
	frame.Fields = results[0].fields
	columns := plan.Statements[0].Columns
	if len(results) > 1 {
		frame.Fields, columns = join(plan, results)
	}
	for i, f := range frame.Fields {
		if i >= len(columns) {
			break
		}
		c := columns[i]
		if f.Type() == data.FieldTypeFloat64 {
			f = unknownIsNull(f)
			frame.Fields[i] = f
		}
		f.Config = &data.FieldConfig{DisplayNameFromDS: c.Title, Unit: c.Unit}
	}
	frame.Meta = &data.FrameMeta{Type: tableType(frame), TypeVersion: data.FrameTypeVersion{0, 1}, PreferredVisualization: data.VisTypeTable}
	if frame.Meta.Type == data.FrameTypeTable {
		frame.Meta.TypeVersion = data.FrameTypeVersion{0, 0}
	}
	if len(results) > 1 && slices.ContainsFunc(results[1:], func(r result) bool { return r.rows() >= views.MaxLimit }) {
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityWarning, Text: "Some numbers are missing, for there are more rows than can be joined: filter, or break down by less."})
	}
	return frame
}

// unknownIsNull returns a field that has null for NaN, such as a quantile of nothing.
func unknownIsNull(f *data.Field) *data.Field {
	out := data.NewField(f.Name, nil, make([]*float64, f.Len()))
	found := false
	for i := range f.Len() {
		v, err := f.FloatAt(i)
		if err != nil || math.IsNaN(v) {
			found = true
			continue
		}
		out.Set(i, &v)
	}
	if !found {
		return f
	}
	return out
}

// tableType tells alert rules that a table of words and numbers is one number for each set of labels.
func tableType(frame *data.Frame) data.FrameType {
	numbers := 0
	for _, f := range frame.Fields {
		switch {
		case f.Type().Numeric():
			numbers++
		case f.Type() == data.FieldTypeString:
		default:
			return data.FrameTypeTable
		}
	}
	if numbers == 0 {
		return data.FrameTypeTable
	}
	return data.FrameTypeNumericLong
}

// join puts the columns of several answers beside each other, row by row of the same labels. The first
// answer says which rows those are; others add to them as far as the limit of the plan goes.
func join(plan views.Plan, results []result) (data.Fields, []views.Column) {
	n := len(plan.Breakdown)
	keyOf := func(fields data.Fields, row int) string {
		words := make([]string, n)
		for i := range words {
			words[i] = frames.Text(fields[i], row)
		}
		return strings.Join(words, "\x00")
	}
	rows := map[string]int{}
	var keys []string
	for i, r := range results {
		for row := range r.fields[0].Len() {
			key := keyOf(r.fields, row)
			if _, ok := rows[key]; !ok && (i == 0 || len(keys) < plan.Limit) {
				rows[key] = len(keys)
				keys = append(keys, key)
			}
		}
	}
	var out data.Fields
	columns := slices.Clone(plan.Statements[0].Columns[:n])
	for i, d := range plan.Breakdown {
		words := make([]string, len(keys))
		for row, key := range keys {
			words[row] = strings.Split(key, "\x00")[i]
		}
		out = append(out, data.NewField(d, nil, words))
	}
	for i, r := range results {
		s := plan.Statements[i]
		for j, f := range r.fields[len(s.Dims):] {
			column := data.NewFieldFromFieldType(f.Type().NullableType(), len(keys))
			column.Name = f.Name
			for row := range f.Len() {
				at, shown := rows[keyOf(r.fields, row)]
				if v, ok := f.ConcreteAt(row); ok && shown {
					column.SetConcrete(at, v)
				}
			}
			out, columns = append(out, column), append(columns, s.Columns[n+j])
		}
	}
	return out, columns
}

// logsFrame makes log lines of fields timestamp, body, severity, id, labels and others.
func logsFrame(fields data.Fields) *data.Frame {
	frame := data.NewFrame("")
	frame.Fields = fields
	frame.Meta = &data.FrameMeta{Type: data.FrameTypeLogLines, TypeVersion: data.FrameTypeVersion{0, 0}, PreferredVisualization: data.VisTypeLogs}
	return frame
}

// userFrame makes a frame of the answer to a user's own query.
func userFrame(fields data.Fields, format string) (*data.Frame, error) {
	switch format {
	case views.TimeSeries, "":
		return userSeries(fields)
	case views.Logs:
		return userLogs(fields)
	}
	frame := data.NewFrame("")
	frame.Fields = fields
	frame.Meta = &data.FrameMeta{Type: tableType(frame), PreferredVisualization: data.VisTypeTable}
	if frame.Meta.Type == data.FrameTypeNumericLong {
		frame.Meta.TypeVersion = data.FrameTypeVersion{0, 1}
	}
	return frame, nil
}

func isTime(f *data.Field) bool {
	return f.Type() == data.FieldTypeTime || f.Type() == data.FieldTypeNullableTime
}

// userSeries makes time series: the first column of times is the time, numbers are values, the rest
// are labels.
func userSeries(fields data.Fields) (*data.Frame, error) {
	var when *data.Field
	var labels, values data.Fields
	for _, f := range fields {
		switch {
		case isTime(f) && when == nil:
			when = f
		case f.Type().Numeric():
			values = append(values, f)
		default:
			labels = append(labels, f)
		}
	}
	switch {
	case when == nil:
		return nil, errors.New("a time series needs a column of times, such as $__timeInterval(ts) AS time: add one, or choose the format table")
	case len(values) == 0:
		return nil, errors.New("a time series needs a column of numbers: add one, or choose the format table")
	}
	w := frames.Wide{Times: frames.Times(when)}
	w.Add(when, labels, values)
	frame := data.NewFrame("")
	frame.Fields = append(frame.Fields, data.NewField(when.Name, nil, w.Times))
	if len(w.Series) == 0 {
		for _, v := range values {
			w.Series = append(w.Series, frames.Series{Name: v.Name, Points: []*float64{}})
		}
	}
	for _, s := range w.Series {
		words := make([]string, 0, len(labels))
		for _, l := range labels {
			if v, ok := s.Labels[l.Name]; ok {
				words = append(words, v)
			}
		}
		frame.Fields = append(frame.Fields, data.NewField(s.Name, s.Labels, s.Points).
			SetConfig(&data.FieldConfig{DisplayNameFromDS: legend(words, s.Name, len(values) > 1)}))
	}
	frame.Meta = &data.FrameMeta{Type: data.FrameTypeTimeSeriesWide, TypeVersion: data.FrameTypeVersion{0, 1}}
	if w.Dropped > 0 {
		frame.AppendNotices(tooManySeries(w.Dropped))
	}
	return frame, nil
}

// roles are the names by which columns of a user's query become parts of log lines.
var roles = []struct {
	field string
	names []string
}{
	{"body", []string{"body", "line", "message", "text", "reply"}}, {"severity", []string{"severity", "level"}}, {"id", []string{"id"}}, {"labels", []string{"labels"}},
}

// userLogs makes log lines: the first column of times, a column called body (or line, message, text,
// reply), and what else is there beside them.
func userLogs(fields data.Fields) (*data.Frame, error) {
	taken := map[*data.Field]bool{}
	var out data.Fields
	for _, f := range fields {
		if isTime(f) {
			taken[f] = true
			out = append(out, renamed(f, "timestamp"))
			break
		}
	}
	if len(out) == 0 {
		return nil, errors.New("logs need a column of times: add one, or choose the format table")
	}
	for _, r := range roles {
		for _, name := range r.names {
			i := slices.IndexFunc(fields, func(f *data.Field) bool { return f.Name == name && !taken[f] })
			if i >= 0 {
				taken[fields[i]] = true
				out = append(out, renamed(fields[i], r.field))
				break
			}
		}
	}
	if len(out) < 2 || out[1].Name != "body" {
		return nil, errors.New("logs need a column called body: name one so (AS body), or choose the format table")
	}
	for _, f := range fields {
		if !taken[f] {
			out = append(out, f)
		}
	}
	return logsFrame(out), nil
}

func renamed(f *data.Field, name string) *data.Field {
	f.Name = name
	return f
}
