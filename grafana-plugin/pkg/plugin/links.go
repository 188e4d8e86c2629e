package plugin

import (
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
)

// describe adds to the fields of a frame where they lead: a series to its messages, a message to its
// trace, a limit to the change that set it.
func (d *Datasource) describe(frame *data.Frame, plan views.Plan) {
	if plan.Step > 0 {
		for _, f := range frame.Fields[1:] {
			if q, ok := d.messagesOf(plan.Breakdown, func(field string) string { return f.Labels[field] }); ok && len(f.Labels) > 0 {
				f.Config.Links = []data.DataLink{d.link("Show the messages", q)}
			}
		}
		return
	}
	columns := map[string]views.Link{}
	for _, c := range plan.Statements[0].Columns {
		columns[c.Name] = c.Link
	}
	for i, f := range frame.Fields {
		var links []data.DataLink
		switch columns[f.Name] {
		case views.LinkTrace:
			links = append(links, d.link("Trace this message", Model{Query: views.Query{View: "trace", Format: views.Table, Search: "${__value.raw}"}}))
		case views.LinkChange:
			links = append(links, d.link("Show the change of the limit and its evidence", Model{Query: views.Query{
				View: "limit_changes", Format: views.Table, Filters: []views.Filter{{Field: "id", Op: "=", Values: []string{"${__value.raw}"}}},
			}}))
		case views.LinkTemplate:
			links = append(links, d.link("Show the messages with this reply", Model{Query: views.Query{
				View: "events", Format: views.Logs, Filters: []views.Filter{{Field: "reply_template", Op: "=", Values: []string{"${__value.raw}"}}},
			}}))
		case views.NoLink:
			if i > 0 || len(plan.Breakdown) == 0 {
				continue
			}
			if q, ok := d.messagesOf(plan.Breakdown, func(field string) string { return `${__data.fields["` + field + `"]}` }); ok {
				links = append(links, d.link("Show the messages", q))
			}
		}
		if len(links) == 0 {
			continue
		}
		if f.Config == nil {
			f.Config = &data.FieldConfig{}
		}
		f.Config.Links = links
	}
}

// messagesOf returns the query for the events of a breakdown, unless events know none of its fields.
func (d *Datasource) messagesOf(breakdown []string, value func(field string) string) (Model, bool) {
	events, err := views.ByName("events")
	if err != nil {
		return Model{}, false
	}
	q := Model{Query: views.Query{View: "events", Format: views.Logs, Filters: []views.Filter{}}}
	for _, b := range breakdown {
		for _, f := range events.Filters {
			if f.Name == b {
				q.Filters = append(q.Filters, views.Filter{Field: b, Op: "=", Values: []string{value(b)}})
			}
		}
	}
	return q, len(q.Filters) > 0
}

func (d *Datasource) link(title string, q Model) data.DataLink {
	q.Mode = "builder"
	return data.DataLink{Title: title, Internal: &data.InternalDataLink{Query: q, DatasourceUID: d.uid, DatasourceName: d.name}}
}
