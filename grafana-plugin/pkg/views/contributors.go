package views

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// contributors is the view that tells who made the difference: each part of the mail in the time range
// beside the same part in an equal range before.
func contributors() View {
	v := aggregated(View{
		Name: "contributors", Title: "What changed, and who did it",
		Description: "A number now and in the same time before (yesterday, or a week or a range ago), by whom it is: the largest differences first.",
		Metrics:     pick("deferred_attempts", "bounced", "hard_bounced", "soft_bounced", "expired", "delivered", "accepted", "attempts", "deferred_recipients", "queue_failures", "throttled", "blocked", "suppressed"),
		Defaults:    Defaults{Metrics: []string{"deferred_attempts"}, Breakdown: []string{"provider", "tenant"}, Limit: defaultSeries},
	})
	v.Formats = []string{Table}
	return v
}

// before is how long ago a time range is compared with.
func before(w Window) time.Duration {
	switch length := w.To.Sub(w.From); {
	case length <= oneDay:
		return oneDay
	case length <= 7*oneDay:
		return 7 * oneDay
	default:
		return wholeDays(length)
	}
}

// compare builds the plan of the view contributors.
func (b *builder) compare(plan Plan, f *family, m Metric) (Plan, error) {
	shift := before(b.window)
	wide := b.window
	wide.From = wide.From.Add(-shift)
	wanted := union(plan.Breakdown, b.filterFields())
	at := f.level(wide, 0, wanted)
	unit := f.levels[at].unit
	if unit > b.window.To.Sub(b.window.From) {
		unit = f.levels[0].unit
		at = 0
	}
	from := b.window.From.UTC().Truncate(unit)
	begin, end := b.begin(from, unit), b.end(b.window.To)
	then, until := stamp(from.Add(-shift)), stamp(b.window.To.Add(-shift))
	if b.macros {
		earlier := fmt.Sprintf(" - INTERVAL %d DAY", int(shift/oneDay))
		then, until = begin+earlier, end+earlier
	}
	conditions := []string{
		fmt.Sprintf("(ts >= %s AND ts < %s OR ts >= %s AND ts < %s)", then, until, begin, end),
		"ts >= " + then, "ts < " + end,
	}
	if f.where != "" {
		conditions = append(conditions, f.where)
	}
	for _, filter := range b.filters {
		c, err := b.condition(filter, f.column(filter.Field), "String")
		if err != nil {
			return Plan{}, err
		}
		conditions = append(conditions, c)
	}
	columns := union(f.columnsIn(m.expr), f.columnsIn(f.where))
	selects := make([]string, 0, len(plan.Breakdown)+2)
	s := Statement{Params: b.params, Tables: f.tables(at), Dims: plan.Breakdown, Metrics: []Metric{m}}
	for _, d := range plan.Breakdown {
		columns = union(columns, f.columnsIn(f.column(d)))
		selects = append(selects, f.qualified(f.column(d))+" AS "+d)
		s.Columns = append(s.Columns, Column{Name: d, Title: titleOf(d)})
	}
	s.Columns = append(s.Columns, Column{Name: "now", Title: m.Title, Unit: m.Unit}, Column{Name: "before", Title: "Before", Unit: m.Unit},
		Column{Name: "change", Title: "Change", Unit: m.Unit}, Column{Name: "share", Title: "Share of all changes", Unit: unitShare})
	rows := f.rollUp(scope{level: at, wanted: columns, where: strings.Join(conditions, " AND "), table: true, from: then, to: end, named: wanted})
	inner := slices.Concat(selects, []string{"r.ts >= " + begin + " AS is_now", f.qualified(m.expr) + " AS value"})
	outer := slices.Concat(plan.Breakdown, []string{
		"sumIf(value, is_now) AS now", "sumIf(value, NOT is_now) AS before",
		"toInt64(now) - toInt64(before) AS change", "change / nullIf(sum(abs(change)) OVER (), 0) AS share",
	})
	s.SQL = "SELECT\n    " + strings.Join(outer, ",\n    ") + "\nFROM\n(\n    SELECT\n        " + strings.Join(inner, ",\n        ") +
		"\n    FROM " + indent(rows) + "\n    GROUP BY " + strings.Join(slices.Concat(plan.Breakdown, []string{"is_now"}), ", ") + "\n)"
	if len(plan.Breakdown) > 0 {
		s.SQL += "\nGROUP BY " + strings.Join(plan.Breakdown, ", ")
	}
	limit := plan.Limit
	s.SQL += fmt.Sprintf("\nHAVING now > 0 OR before > 0\nORDER BY %s\nLIMIT %d", strings.Join(slices.Concat([]string{"abs(change) DESC"}, plan.Breakdown), ", "), limit)
	plan.Statements, plan.From, plan.To = []Statement{s}, from, b.window.To.UTC()
	plan.Notices = append(plan.Notices, "Before is the same time "+ago(shift)+" earlier.")
	return plan, nil
}

func ago(d time.Duration) string {
	if n := int(d / oneDay); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "one day"
}
