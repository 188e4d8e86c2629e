package views

import (
	"fmt"
	"time"
)

// MaxChoices is how many values a picker is given at most.
const MaxChoices = 1000

// choices says where the values of a field are found: small tables and roll-ups, never events.
var choiceSources = map[string]struct{ expr, from, time, weight string }{
	"provider":         {"provider", "rollup_1h", "ts", "sum(events)"},
	"source":           {"source", "rollup_1h", "ts", "sum(events)"},
	"vmta":             {"vmta", "rollup_1h", "ts", "sum(events)"},
	"pool":             {"pool", "rollup_1h", "ts", "sum(events)"},
	"tenant":           {"tenant", "rollup_1h", "ts", "sum(events)"},
	"category":         {"category", "rollup_1h", "ts", "sum(events)"},
	"dimension":        {"toString(dimension)", "rollup_1h", "ts", "sum(events)"},
	"class":            {"toString(class)", "rollup_1h", "ts", "sum(events)"},
	"kind":             {"toString(kind)", "rollup_1h", "ts", "sum(events)"},
	"step":             {"toString(kind)", "rollup_1h", "ts", "sum(events)"},
	"job":              {"job", "jobs_1h", "ts", "sum(events)"},
	"recipient_domain": {"recipient_domain", "domains_1h", "ts", "sum(events)"},
	"from_domain":      {"from_domain", "senders_1h", "ts", "sum(events)"},
	"dkim_domain":      {"dkim_domain", "senders_1h", "ts", "sum(events)"},
	"reply_template":   {"template", "reply_templates", "ts", "sum(events)"},
	"feedback_type":    {"feedback_type", "attributions", "time", "count()"},
	"node":             {"node", "(SELECT node, max(seen_at) AS seen FROM nodes GROUP BY node UNION ALL SELECT node, max(last_arrived) AS seen FROM completeness_ledger WHERE node != '' GROUP BY node)", "", "max(seen)"},
	"stream":           {"stream", "completeness_ledger", "", "count()"},
	"queue":            {"queue", "queue_gauges", "time", "max(ready + waiting)"},
	"limit_scope":      {"limit_scope", "queue_gauges", "time", "count()"},
	"limit":            {"limit", "queue_gauges", "time", "count()"},
	"rule_id":          {"rule_id", "limit_log", "ts", "count()"},
	"mode_to":          {"mode_to", "limit_log", "ts", "count()"},
	"actor":            {"actor", "limit_log", "ts", "count()"},
	"name":             {"name", "annotations", "time", "count()"},
}

// Values returns the query for the values of a field that hold search, the most frequent ones first.
// A job fills the roll-ups by the hour
// when it is over; the table by the minute has what they lack of what it has.
func Values(field, search string, limit int, w Window) (Statement, error) {
	src, ok := choiceSources[field]
	if !ok {
		return Statement{}, errorf("the values of %s are not listed: type the value", field)
	}
	if limit <= 0 || limit > MaxChoices {
		limit = MaxChoices
	}
	b := &builder{params: map[string]string{}}
	expr, table := src.expr, src.from
	if w.To.IsZero() {
		w.To = now()
	}
	if w.From.IsZero() || !w.From.Before(w.To) {
		w.From = w.To.Add(-7 * oneDay)
	}
	if table == "queue_gauges" && w.To.Sub(w.From) > time.Hour {
		w.From = w.To.Add(-time.Hour) // a row every ten seconds for each queue: the last hour names them all
	}
	where := expr + " != ''"
	tables := []string{table}
	if src.time != "" {
		from := w.From.UTC().Truncate(time.Hour)
		if field == "reply_template" {
			from = from.Truncate(oneDay)
		}
		span := fmt.Sprintf("%s >= %s AND %s < %s", src.time, stamp(from), src.time, stamp(w.To))
		if table == "rollup_1h" && field != "tenant" && w.Tenant == "" { // the minutes know of no tenants
			tables = append(tables, "rollup_1m")
			column := bare(expr)
			table = fmt.Sprintf("(\n    SELECT %[1]s, events FROM rollup_1h WHERE %[2]s\n    UNION ALL\n    SELECT %[1]s, events FROM rollup_1m WHERE %[2]s AND ts >= (SELECT max(ts) + INTERVAL 1 HOUR FROM rollup_1h)\n)", column, span)
		} else {
			where += " AND " + span
		}
	}
	if search != "" {
		where += " AND positionCaseInsensitiveUTF8(" + expr + ", " + b.param(search, "String") + ") > 0"
	}
	sql := fmt.Sprintf("SELECT %s AS value\nFROM %s\nWHERE %s\nGROUP BY value\nORDER BY %s DESC, value\nLIMIT %d", expr, table, where, src.weight, limit)
	if field == "node" || field == "stream" {
		tables = []string{"nodes", "completeness_ledger"}
	}
	return Statement{SQL: sql, Params: b.params, Tables: tables}, nil
}

// bare returns the column in toString(column).
func bare(expr string) string {
	if len(expr) > 10 && expr[:9] == "toString(" {
		return expr[9 : len(expr)-1]
	}
	return expr
}
