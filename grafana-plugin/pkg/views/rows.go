package views

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A rowSource is what a view of rows reads.
type rowSource struct {
	table   string            // or a view
	tables  []string          // that it reads, if table is a longer text
	time    string            // column of the time range; empty: the state, whatever the range
	order   string            // ORDER BY
	columns []rowColumn       // in this order
	where   string            // always holds
	kinds   map[string]string // type of a field where it is no text
	exprs   map[string]string // expression of a field where it is no column of text
	search  func(b *builder, text string) (condition string, timed bool, err error)
	body    string   // expression of a line of logs
	level   string   // expression of its level, as Grafana names levels
	id      string   // expression of its id
	labels  []string // columns that are its labels
}

type rowColumn struct {
	Column

	expr string // empty: the column of its name
}

// col returns a column.
func col(name string) rowColumn {
	return rowColumn{Column: Column{Name: name, Title: titleOf(name), Link: linkOf(name)}}
}

func (c rowColumn) as(expr string) rowColumn { c.expr = expr; return c }

func (c rowColumn) unit(u string) rowColumn { c.Unit = u; return c }

func (c rowColumn) called(title string) rowColumn { c.Title = title; return c }

func (c rowColumn) linked(l Link) rowColumn { c.Link = l; return c }

func (c rowColumn) text() string {
	if c.expr == "" || c.expr == c.Name {
		return c.Name
	}
	return c.expr + " AS " + c.Name
}

// orNull returns the expression of a column of times, in which 1970 says that there is none.
func orNull(column string) string { return "nullIf(" + column + ", toDateTime64(0, 6, 'UTC'))" }

// linkOf returns where the values of a column lead.
func linkOf(name string) Link {
	switch name {
	case "message_id":
		return LinkTrace
	case "limit_reason", "change_id":
		return LinkChange
	case "reply_template":
		return LinkTemplate
	}
	return NoLink
}

const (
	defaultRows = 200
	// MaxCell is how many octets a text in a log line or table of events may have.
	MaxCell = 4000
)

// rows builds the plan of a view of rows.
func (b *builder) rows() (Plan, error) {
	src := b.view.rows
	plan := Plan{Format: b.query.Format, From: b.window.From.UTC(), To: b.window.To.UTC()}
	conditions := make([]string, 0, len(b.filters)+2)
	timed := src.time != ""
	if src.where != "" {
		conditions = append(conditions, src.where)
	}
	for _, f := range b.filters {
		c, err := b.condition(f, cmp.Or(src.exprs[f.Field], f.Field), cmp.Or(src.kinds[f.Field], "String"))
		if err != nil {
			return Plan{}, err
		}
		if f.Field == "id" && b.view.Name == "limit_changes" && f.Op == "=" {
			timed = false // one row by its id, whenever it was
		}
		conditions = append(conditions, c)
	}
	if src.search != nil {
		c, t, err := src.search(b, strings.TrimSpace(b.query.Search))
		if err != nil {
			return Plan{}, err
		}
		if c != "" {
			conditions = append(conditions, c)
			timed = timed && t
		}
	}
	if timed {
		begin, end := stampMicro(plan.From), stampMicro(plan.To)
		if b.macros {
			begin, end = "$__fromTime", "$__toTime"
		}
		conditions = append([]string{src.time + " >= " + begin, src.time + " < " + end}, conditions...)
	} else if src.time != "" {
		plan.Notices = append(plan.Notices, "The id tells the time: the time range of the dashboard is not applied.")
	}
	s := Statement{Params: b.params, Tables: src.tables}
	if len(s.Tables) == 0 {
		s.Tables = []string{src.table}
	}
	columns := src.columns
	if len(b.query.Metrics) > 0 {
		picked, err := src.pick(b.view.Name, b.query.Metrics)
		if err != nil {
			return Plan{}, err
		}
		columns = picked
	}
	var selects []string
	if b.query.Format == Logs {
		labels := make([]string, 0, 2*len(src.labels))
		for _, l := range src.labels {
			labels = append(labels, "'"+l+"', toString("+l+")")
		}
		selects = []string{
			src.time + " AS timestamp", "substring(" + src.body + ", 1, " + fmt.Sprint(MaxCell) + ") AS body", src.level + " AS severity", src.id + " AS id",
			"mapFilter((k, v) -> v NOT IN ('', '0'), map(" + strings.Join(labels, ", ") + ")) AS labels",
		}
		s.Columns = []Column{{Name: "timestamp"}, {Name: "body"}, {Name: "severity"}, {Name: "id"}, {Name: "labels"}}
		for _, l := range src.labels { // those that lead somewhere are fields of their own
			if link := linkOf(l); link != NoLink {
				selects = append(selects, l)
				s.Columns = append(s.Columns, Column{Name: l, Title: titleOf(l), Link: link})
			}
		}
	} else {
		for _, c := range columns {
			selects = append(selects, c.text())
			s.Columns = append(s.Columns, c.Column)
		}
	}
	plan.Limit = cmp.Or(b.query.Limit, b.view.Defaults.Limit, defaultRows)
	s.SQL = "SELECT\n    " + strings.Join(selects, ",\n    ") + "\nFROM " + src.table
	if len(conditions) > 0 {
		s.SQL += "\nWHERE " + strings.Join(conditions, "\n    AND ")
	}
	s.SQL += "\nORDER BY " + src.order + fmt.Sprintf("\nLIMIT %d", plan.Limit)
	plan.Statements = []Statement{s}
	return plan, nil
}

// pick returns the columns of those names.
func (src *rowSource) pick(view string, names []string) ([]rowColumn, error) {
	out := make([]rowColumn, 0, len(names))
	for _, n := range union(names) {
		i := slices.IndexFunc(src.columns, func(c rowColumn) bool { return c.Name == n })
		if i < 0 {
			return nil, errorf("the view %s has no column %q", view, n)
		}
		out = append(out, src.columns[i])
	}
	return out, nil
}

func stampMicro(t time.Time) string {
	return "toDateTime64('" + t.UTC().Format("2006-01-02 15:04:05.000000") + "', 6, 'UTC')"
}

// rowView makes a view of rows.
func rowView(v View, src rowSource, filters ...string) View {
	v.Metrics, v.Breakdowns, v.Filters, v.rows = []Metric{}, []Field{}, fields(filters...), &src
	v.Searchable = src.search != nil
	v.Defaults.Metrics, v.Defaults.Breakdown = []string{}, []string{}
	if v.Defaults.Limit == 0 {
		v.Defaults.Limit = defaultRows
	}
	return v
}

// severity is the level of a step.
const severity = "multiIf(%[1]s IN ('bounced', 'expired', 'rejected', 'remote-bounce'), 'error', %[1]s IN ('deferred', 'queue-deferred', 'complaint', 'suppressed'), 'warning', 'info')"

var trace = rowView(View{
	Name: "trace", Title: "Message trace", Description: "The life of one message, or of all messages to one recipient: each step with what the receiver said.", Formats: []string{Table, Logs},
}, rowSource{
	table: "message_trace", tables: []string{"message_trace", "events"}, time: "time", order: "time, recipient_index, attempt",
	columns: []rowColumn{
		col("time"), col("step"), col("attempt"), col("seconds").unit(unitSeconds).called("Since acceptance"), col("provider"), col("source"), col("vmta"), col("mx_host"), col("phase"),
		col("reply").as("substring(reply, 1, 4000)"), col("category"), col("class"), col("recipient"), col("recipient_index"), col("message_id"), col("tenant"), col("job"),
		col("dns_ms").unit("ms"), col("connect_ms").unit("ms"), col("tls_ms").unit("ms"), col("transfer_ms").unit("ms"),
		col("limit_actor"), col("limited_by"), col("limit_reason"), col("node"),
	},
	kinds:  map[string]string{"message_id": "UUID"},
	search: searchTrace,
	body:   "concat(step, if(attempt > 0, concat(' #', toString(attempt)), ''), if(recipient = '', '', concat(' ', recipient)), if(reply = '', '', concat(': ', reply)))",
	level:  fmt.Sprintf(severity, "step"),
	id:     "concat(toString(message_id), '/', toString(recipient_index), '/', step, '/', toString(attempt), '/', toString(toUnixTimestamp64Micro(time)))",
	labels: []string{"step", "provider", "source", "vmta", "mx_host", "phase", "category", "class", "tenant", "job", "node", "message_id", "recipient", "limited_by", "limit_reason"},
}, "message_id", "recipient", "step", "provider", "source", "tenant", "job", "category", "node")

// searchTrace takes the id of a message or an address.
func searchTrace(b *builder, text string) (condition string, timed bool, err error) {
	byFilter := slices.ContainsFunc(b.filters, func(f Filter) bool { return f.Field == "message_id" || f.Field == "recipient" })
	switch {
	case text == "" && byFilter:
		return "", true, nil
	case text == "":
		return "", false, errorf("say which message: its id, as events and the accounting file have it, or the address of a recipient")
	case uuidForm.MatchString(text):
		// The id of a message begins with its time, and nothing about it is older; what comes later,
		// such as a complaint, may be weeks younger.
		condition := "message_id = " + b.param(text, "UUID")
		if text[14] == '7' {
			condition += " AND time >= UUIDv7ToDateTime(" + b.param(text, "UUID") + ", 'UTC') - INTERVAL 1 HOUR"
		}
		return condition, false, nil
	case strings.Contains(text, "@"):
		return "recipient = " + b.param(text, "String"), true, nil
	}
	return "", false, errorf("%q is no id of a message and no address", text)
}

var eventRows = rowView(View{
	Name: "events", Title: "Events", Description: "Every step of every recipient as it was logged, the newest first. Choose a short time range, or a provider.", Formats: []string{Logs, Table},
}, rowSource{
	table: "events", time: "time", order: "time DESC, node, seq DESC",
	columns: []rowColumn{
		col("time"), col("kind").as("toString(kind)"), col("provider"), col("source"), col("vmta"), col("recipient"), col("attempt"), col("phase").as("toString(phase)"),
		col("reply").as("substring(reply, 1, 4000)"), col("code"), col("enhanced"), col("category"), col("dimension").as("toString(dimension)"), col("reply_template"), col("tenant"), col("job"), col("queue"),
		col("seconds").as("queued_us / 1e6").unit(unitSeconds).called("Since acceptance"), col("size").unit(unitOctets), col("mx_host"), col("mx_ip").as("nullIf(mx_ip, toIPv6('::'))"), col("tls_version"), col("message_id"), col("recipient_index"),
		col("connection_id"), col("limit_epoch"), col("limit_reason"), col("limiting_scope"), col("headers"), col("node"), col("incarnation"), col("seq"),
	},
	kinds: map[string]string{"message_id": "UUID", "connection_id": "UUID"},
	exprs: map[string]string{
		"kind": "toString(kind)", "phase": "toString(phase)", "dimension": "toString(dimension)", "class": "toString(class)", "code": "toString(code)",
		"limit_epoch": "toString(limit_epoch)",
	},
	search: searchEvents,
	body:   "concat(toString(kind), if(attempt > 0, concat(' #', toString(attempt)), ''), if(recipient = '', '', concat(' ', recipient)), if(reply = '', '', concat(': ', reply)))",
	level:  fmt.Sprintf(severity, "kind"),
	id:     "concat(node, '/', toString(incarnation), '/', toString(seq))",
	labels: []string{"kind", "provider", "source", "vmta", "pool", "tenant", "job", "queue", "mx_host", "phase", "category", "dimension", "node", "message_id", "recipient", "connection_id", "limiting_scope", "limit_reason", "limit_epoch"},
}, "kind", "provider", "source", "vmta", "pool", "tenant", "job", "queue", "recipient", "recipient_domain", "from_domain", "category", "dimension", "class", "phase", "code", "enhanced",
	"reply_template", "mx_host", "message_id", "connection_id", "limit_reason", "limit_epoch", "limiting_scope", "node")

// searchEvents takes an id, an address, or a piece of a reply.
func searchEvents(b *builder, text string) (condition string, timed bool, err error) {
	switch {
	case text == "":
		return "", true, nil
	case uuidForm.MatchString(text):
		p := b.param(text, "UUID")
		return "(message_id = " + p + " OR original_message_id = " + p + ")", true, nil
	case strings.Contains(text, "@") && !strings.ContainsAny(text, " \t"):
		return "recipient = " + b.param(text, "String"), true, nil
	}
	return "positionCaseInsensitiveUTF8(reply, " + b.param(text, "String") + ") > 0", true, nil
}

var limitChanges = rowView(View{
	Name: "limit_changes", Title: "Limit changes", Description: "Every decision about a limit with its reason, its evidence, before and after.", Formats: []string{Table, Logs},
}, rowSource{
	table: "limit_log", time: "ts", order: "ts DESC, id",
	columns: []rowColumn{
		col("ts").called("Time"), col("provider"), col("source"), col("kind").as("toString(kind)"), col("reason_text").called("Reason"), col("rate_old").unit(unitPerSec), col("rate_new").unit(unitPerSec),
		col("connections_old"), col("connections_new"), col("messages_old"), col("messages_new"), col("mode_from"), col("mode_to"), col("rule_id").called("Rule"),
		col("p").unit(unitShare).called("Refused"), col("wilson_lo").unit(unitShare).called("Refused, lower bound"), col("accepted_rate").unit(unitPerSec), col("cap").unit(unitPerSec), col("goal").unit(unitPerSec),
		col("window_from").as(orNull("window_from")), col("window_to").as(orNull("window_to")), col("n_by_class").called("Answers"), col("sample_replies"), col("score"), col("band"), col("actor"), col("pinned_by"),
		col("expires_at").as(orNull("expires_at")), col("epoch"), col("epoch_from"), col("generation"), col("id").linked(LinkChange), col("evidence"),
	},
	exprs:  map[string]string{"kind": "toString(kind)"},
	body:   "concat(provider, ' ', source, ' ', toString(kind), ': ', toString(round(rate_old, 2)), ' to ', toString(round(rate_new, 2)), ' messages a second. ', reason_text)",
	level:  "multiIf(kind = 'would_change', 'debug', rate_new < rate_old, 'warning', 'info')",
	id:     "id",
	labels: []string{"provider", "source", "kind", "mode_from", "mode_to", "rule_id", "actor", "band", "id"},
}, "provider", "source", "kind", "rule_id", "mode_to", "actor", "id")

var completeness = rowView(View{
	Name: "completeness", Title: "Nodes and completeness", Description: "Each node's streams: what is stored, what is missing or there twice, and how long nothing came.", Formats: []string{Table},
}, rowSource{
	table: `(
    SELECT l.node AS node, l.incarnation AS incarnation, l.stream AS stream, l.first_seq AS first_seq, l.high_seq AS high_seq, l.row_count AS row_count,
        toUInt64(arraySum(arrayMap((a, b) -> b - a + 1, l.missing_from, l.missing_to))) AS missing, l.duplicates AS duplicates, l.last_arrived AS last_arrived,
        n.seen_at AS seen_at, n.version AS version, n.quarantined AS quarantined, n.limits_generation AS limits_generation
    FROM
    (
        SELECT node, incarnation, stream, first_seq, high_seq, row_count, missing_from, missing_to, duplicates, last_arrived
        FROM completeness_ledger WHERE node != '' ORDER BY updated_at DESC LIMIT 1 BY node, incarnation, stream
    ) AS l
    LEFT JOIN
    (
        SELECT node, incarnation, seen_at, version, quarantined, limits_generation FROM nodes ORDER BY seen_at DESC LIMIT 1 BY node, incarnation
    ) AS n ON n.node = l.node AND n.incarnation = l.incarnation
)`, tables: []string{"completeness_ledger", "nodes"}, order: "node, stream",
	columns: []rowColumn{
		col("node"), col("stream"), col("missing"), col("duplicates"), col("high_seq").called("Last number"), col("row_count").called("Rows"), col("last_arrived").called("Last arrived"),
		col("silent_seconds").as("greatest(0, dateDiff('millisecond', last_arrived, now64(3)) / 1000)").unit(unitSeconds).called("Silent for"),
		col("seen_at").as(orNull("seen_at")).called("Agent last seen"),
		col("unseen_seconds").as("if(seen_at = toDateTime64(0, 6, 'UTC'), NULL, dateDiff('second', seen_at, now64(6)))").unit(unitSeconds).called("Agent unseen for"),
		col("quarantined"), col("limits_generation"), col("version"), col("incarnation"), col("first_seq"),
	},
	kinds: map[string]string{},
}, "node", "stream")

var annotations = rowView(View{
	Name: "annotations", Title: "Annotations", Description: "Starts, reloads and notes, and the changes of limits: to be drawn beside the curves.", Formats: []string{Table},
	Defaults: Defaults{Limit: 500},
}, rowSource{
	table: `(
    SELECT time, name, text, arrayStringConcat(tags, ',') AS tags, node, '' AS provider, '' AS source, '' AS change_id FROM annotations
    UNION ALL
    SELECT ts AS time, 'limit-change' AS name,
        concat(provider, ' ', source, ': ', toString(round(rate_old, 2)), ' to ', toString(round(rate_new, 2)), ' messages a second. ', reason_text) AS text,
        concat('limit,', toString(kind), ',', rule_id) AS tags, '' AS node, provider, source, id AS change_id
    FROM limit_log WHERE kind != 'would_change'
)`, tables: []string{"annotations", "limit_log"}, time: "time", order: "time DESC, text",
	columns: []rowColumn{
		col("time"), col("title").as("name"), col("text").as("substring(text, 1, 4000)"), col("tags"), col("node"), col("provider"), col("source"), col("change_id").called("Change"),
	},
}, "name", "node", "provider", "source", "tags")
