package plugin

import (
	"errors"
	"fmt"
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
// from a mistake.
func seriesFrame(plan views.Plan, results []result) *data.Frame {
	grid := frames.Grid(plan.From, plan.To, plan.Step)
	settled := 0 // steps that are over
	for settled < len(grid) && !grid[settled].Add(plan.Step).After(plan.To.Add(-arriving)) {
		settled++
	}
	var all []frames.Series
	several, dropped, limited := 0, 0, false
	byMetric := map[string]views.Metric{}
	for i, s := range plan.Statements {
		several += len(s.Metrics)
		fields := results[i].fields
		w := frames.Wide{Times: grid}
		w.Add(fields[0], fields[1:1+len(s.Dims)], fields[1+len(s.Dims):])
		dropped += w.Dropped
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
					one.Hold()
				}
			}
		}
		if len(s.Dims) > len(plan.Breakdown) {
			w.Series = merged(w.Series, s, plan)
		}
		if len(plan.Breakdown) > 0 && len(w.Series) > plan.Limit*len(s.Metrics) {
			w.Series = frames.Largest(w.Series, plan.Limit)
			limited = true
		}
		all = append(all, w.Series...)
	}
	if len(all) == 0 || empty(all) {
		grid = nil
	}
	frame := data.NewFrame("")
	frame.Fields = append(frame.Fields, data.NewField("time", nil, grid).SetConfig(&data.FieldConfig{Interval: float64(plan.Step.Milliseconds())}))
	if len(all) == 0 {
		for _, s := range plan.Statements {
			for _, m := range s.Metrics {
				all = append(all, frames.Series{Name: m.Name})
			}
		}
	}
	for _, s := range all {
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
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityInfo, Text: fmt.Sprintf("The %d largest series are shown.", plan.Limit)})
	}
	if dropped > 0 {
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityWarning, Text: "There are more series than can be shown: filter, or break down by less."})
	}
	return frame
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
		f.Config = &data.FieldConfig{DisplayNameFromDS: c.Title, Unit: c.Unit}
	}
	frame.Meta = &data.FrameMeta{Type: tableType(frame), TypeVersion: data.FrameTypeVersion{0, 1}, PreferredVisualization: data.VisTypeTable}
	if frame.Meta.Type == data.FrameTypeTable {
		frame.Meta.TypeVersion = data.FrameTypeVersion{0, 0}
	}
	return frame
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

// join puts the columns of several answers beside each other, row by row of the same labels.
func join(plan views.Plan, results []result) (data.Fields, []views.Column) {
	n := len(plan.Breakdown)
	keyOf := func(fields data.Fields, dims []string, row int) string {
		words := make([]string, n)
		for i, d := range plan.Breakdown {
			words[i] = frames.Text(fields[slices.Index(dims, d)], row)
		}
		return strings.Join(words, "\x00")
	}
	rows := map[string]int{}
	var keys []string
	for i, r := range results {
		for row := range r.fields[0].Len() {
			key := keyOf(r.fields, plan.Statements[i].Dims, row)
			if _, ok := rows[key]; !ok {
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
				if v, ok := f.ConcreteAt(row); ok {
					column.SetConcrete(rows[keyOf(r.fields, s.Dims, row)], v)
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
		frame.AppendNotices(data.Notice{Severity: data.NoticeSeverityWarning, Text: "There are more than a thousand series: only the first are shown."})
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
