package views

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a query.
const (
	MaxLimit      = 5000 // rows, or series
	maxValues     = 1000 // of one filter
	maxMetrics    = 20
	maxBreakdown  = 4
	defaultSeries = 20
	maxSteps      = 11_000 // points of a series, as Prometheus allows
	maxRange      = 5 * 366 * oneDay
)

// Build makes the plan of a query.
func Build(q Query, w Window) (Plan, error) { return build(q, w, false) }

// BuildToEdit makes the plan of a query as SQL that somebody goes on to edit: the ends of the time range
// are the macros $__fromTime and $__toTime, and there is one statement.
func BuildToEdit(q Query, w Window) (Plan, error) {
	plan, err := build(q, w, true)
	if n := len(plan.Statements); err == nil && n > 1 {
		return Plan{}, errorf("the builder asks %d statements here, and SQL is one: show only metrics that are kept together, or copy one of those that Show SQL lists", n)
	}
	return plan, err
}

func build(q Query, w Window, macros bool) (Plan, error) {
	v, err := ByName(q.View)
	if err != nil {
		return Plan{}, err
	}
	if q.Format == "" {
		q.Format = v.Formats[0]
	}
	if !slices.Contains(v.Formats, q.Format) {
		return Plan{}, errorf("the view %s comes as %s, not as %s", v.Name, strings.Join(v.Formats, " or "), q.Format)
	}
	if !w.From.Before(w.To) || w.To.Sub(w.From) > maxRange {
		return Plan{}, errorf("the time range ends before it begins, or is longer than five years")
	}
	if q.Limit < 0 || q.Limit > MaxLimit {
		return Plan{}, errorf("limit %d: want 1 to %d", q.Limit, MaxLimit)
	}
	b := &builder{query: q, view: v, window: w, macros: macros, params: map[string]string{}}
	b.filters = Kept(q.Filters)
	if w.Tenant != "" && slices.Contains(fieldNames(v.Filters), "tenant") {
		b.filters = append(b.filters, Filter{Field: "tenant", Op: "=", Values: []string{w.Tenant}})
	}
	for _, f := range b.filters {
		if !slices.Contains(fieldNames(v.Filters), f.Field) {
			return Plan{}, errorf("the view %s cannot be filtered by %s; its fields are %s", v.Name, f.Field, strings.Join(fieldNames(v.Filters), ", "))
		}
	}
	if v.rows != nil {
		return b.rows()
	}
	return b.aggregate()
}

// Kept returns the filters that filter something. A filter without values keeps everything, and so
// does one for all values of a variable.
func Kept(filters []Filter) []Filter {
	return slices.DeleteFunc(slices.Clone(filters), func(f Filter) bool {
		return f.Field == "" || len(f.Values) == 0 || slices.Contains(f.Values, All)
	})
}

// All is the value of a variable that stands for all of them.
const All = "$__all"

// builder makes one plan.
type builder struct {
	query   Query
	view    View
	window  Window
	macros  bool // write the ends of the time range as macros
	filters []Filter
	params  map[string]string
}

// aggregate builds the plan of a view with metrics.
func (b *builder) aggregate() (Plan, error) {
	q := b.query
	if len(q.Metrics) == 0 {
		q.Metrics = b.view.Defaults.Metrics
	}
	if len(q.Metrics) > maxMetrics || len(q.Breakdown) > maxBreakdown {
		return Plan{}, errorf("%d metrics and %d breakdowns are too many: want %d and %d at most", len(q.Metrics), len(q.Breakdown), maxMetrics, maxBreakdown)
	}
	q.Metrics, q.Breakdown = union(q.Metrics), union(q.Breakdown)
	for _, d := range q.Breakdown {
		if !slices.Contains(fieldNames(b.view.Breakdowns), d) {
			return Plan{}, errorf("the view %s cannot be broken down by %s; its breakdowns are %s", b.view.Name, d, strings.Join(fieldNames(b.view.Breakdowns), ", "))
		}
	}
	plan := Plan{Format: q.Format, Breakdown: q.Breakdown, Limit: cmp.Or(q.Limit, b.view.Defaults.Limit, defaultSeries)}
	type part struct {
		family  *family
		metrics []Metric
	}
	var parts []part
	wanted := union(q.Breakdown, b.filterFields())
	for _, name := range q.Metrics {
		m, err := b.view.metric(name)
		if err != nil {
			return Plan{}, err
		}
		f, err := m.familyFor(wanted)
		if err != nil {
			return Plan{}, err
		}
		if i := slices.IndexFunc(parts, func(p part) bool { return p.family == f }); i >= 0 {
			parts[i].metrics = append(parts[i].metrics, m)
		} else {
			parts = append(parts, part{f, []Metric{m}})
		}
	}
	if b.view.Name == "contributors" {
		if len(parts) != 1 || len(parts[0].metrics) != 1 {
			return Plan{}, errorf("the view contributors compares one metric at a time")
		}
		return b.compare(plan, parts[0].family, parts[0].metrics[0])
	}
	// All statements share the step, which the coarsest table that is needed decides.
	if q.Format == TimeSeries {
		step := niceStep(max(b.window.Interval, time.Second, b.window.To.Sub(b.window.From)/maxSteps))
		for again := true; again; {
			again = false
			for _, p := range parts {
				if unit := p.family.levels[p.family.level(b.window, step, wanted)].unit; unit > step {
					step, again = niceStep(unit), true
				}
			}
		}
		plan.Step, plan.From, plan.To = step, stepOf(b.window.From, step), b.window.To.UTC()
	} else {
		plan.From, plan.To = b.window.From.UTC(), b.window.To.UTC()
	}
	for i, p := range parts {
		asked := plan
		if i > 0 && q.Format == Table {
			asked.Limit = MaxLimit // the first statement says which rows there are; this one must have them
		}
		s, from, err := b.statement(p.family, p.metrics, asked)
		if err != nil {
			return Plan{}, err
		}
		if q.Format == Table && from.Before(plan.From) {
			plan.From = from
		}
		plan.Statements = append(plan.Statements, s)
	}
	return plan, nil
}

func (b *builder) filterFields() []string {
	names := make([]string, 0, len(b.filters))
	for _, f := range b.filters {
		names = append(names, f.Field)
	}
	return names
}

// familyFor returns the first family of the metric that knows the fields.
func (m Metric) familyFor(fields []string) (*family, error) {
	for _, f := range fields {
		if slices.Contains(m.not, f) {
			return nil, errorf("%s says nothing by %s: what has one %s is only a part of what it is a share of", m.Name, f, f)
		}
	}
	for _, f := range m.families {
		if f.has(fields) {
			return f, nil
		}
	}
	return nil, errorf("%s is not kept by %s together; it can be broken down and filtered by %s", m.Name, strings.Join(fields, " and "), m.choices())
}

// choices says which fields go together.
func (m Metric) choices() string {
	all := make([]string, len(m.families))
	for i, f := range m.families {
		all[i] = strings.Join(f.fieldList(), ", ")
	}
	return strings.Join(all, "; or by ")
}

func (f *family) fieldList() []string {
	names := make([]string, 0, len(f.fields))
	for n := range f.fields {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// level chooses the table: the coarsest whose steps make the step of a series, or are a small part of
// the range of a table or make up the range, of those that have the fields and still have the rows.
func (f *family) level(w Window, step time.Duration, fields []string) int {
	length := w.To.Sub(w.From)
	exact := func(time.Duration) bool { return false }
	if step == 0 {
		step, exact = length/40, w.consistsOf
	}
	best := -1
	for i, l := range f.levels {
		if !l.fits(fields) || l.within > 0 && length > l.within || now().Sub(w.From) > l.keep {
			continue
		}
		if best < 0 || l.unit <= step || l.unit == f.levels[best].unit || exact(l.unit) {
			best = i
		}
	}
	if best < 0 {
		best = len(f.levels) - 1
	}
	return best
}

// consistsOf reports whether the window is made of whole units. Grafana's days end a millisecond early.
func (w Window) consistsOf(unit time.Duration) bool {
	return stepOf(w.From, unit).Equal(w.From) && !stepOf(w.To.Add(time.Second), unit).Before(w.To)
}

// now is the clock that tells which rows are past their retention.
var now = time.Now

// niceStep rounds a step up to one that people read easily and that days are made of.
func niceStep(d time.Duration) time.Duration {
	for _, s := range []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
		15 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	} {
		if s >= d {
			return s
		}
	}
	return wholeDays(d)
}

// stepOf returns the start of the step that t is in. Steps are counted from 1970, as ClickHouse's
// toStartOfInterval counts them; time.Truncate counts from the year 1.
func stepOf(t time.Time, step time.Duration) time.Time {
	return time.Unix(0, t.UnixNano()-t.UnixNano()%int64(step)).UTC()
}

// wholeDays rounds up.
func wholeDays(d time.Duration) time.Duration {
	return (d + oneDay - 1).Truncate(oneDay)
}

// statement builds the query for the metrics of one family; from is where its rows begin.
func (b *builder) statement(f *family, metrics []Metric, plan Plan) (Statement, time.Time, error) {
	table := plan.Format == Table
	wanted := union(plan.Breakdown, b.filterFields())
	at := f.level(b.window, plan.Step, wanted)
	from := plan.From.Truncate(f.levels[at].unit)
	dims := union(plan.Breakdown, f.apart)
	begin, end := b.begin(from, max(f.levels[at].unit, plan.Step)), b.end(plan.To)
	conditions := []string{"ts >= " + begin, "ts < " + end}
	if f.where != "" {
		conditions = append(conditions, f.where)
	}
	for _, d := range plan.Breakdown {
		if d == "provider" || d == "source" { // mail that is not routed yet has neither
			conditions = append(conditions, f.column(d)+" != ''")
		}
	}
	for _, filter := range b.filters {
		c, err := b.condition(filter, f.column(filter.Field), "String")
		if err != nil {
			return Statement{}, from, err
		}
		conditions = append(conditions, c)
	}
	seconds := strconv.FormatFloat(max(1, plan.To.Sub(from).Seconds()), 'f', -1, 64)
	if b.macros {
		seconds = "greatest(1, dateDiff('second', " + begin + ", " + end + "))"
	}
	bucket := "%s"
	if !table {
		n := int64(plan.Step / time.Second)
		bucket = fmt.Sprintf("toStartOfInterval(%%s, INTERVAL %d SECOND)", n)
		until := strconv.FormatInt(plan.To.Unix(), 10)
		if b.macros {
			until = "toUnixTimestamp(" + end + ")"
		}
		seconds = fmt.Sprintf("greatest(1, least(%d, %s - toUnixTimestamp(t)))", n, until)
	}
	var columns []string
	selects := make([]string, 0, len(dims)+len(metrics)+len(f.extra)+1)
	keys := make([]string, 0, len(dims))
	for _, d := range dims {
		e := f.column(d)
		columns = union(columns, f.columnsIn(e))
		keys = append(keys, f.qualified(e))
		selects = append(selects, f.qualified(e)+" AS "+d)
	}
	add := func(expr, as string) {
		columns = union(columns, f.columnsIn(expr))
		selects = append(selects, strings.ReplaceAll(f.qualified(expr), "{seconds}", seconds)+" AS "+as)
	}
	s := Statement{Params: b.params, Tables: f.tables(at), Dims: dims, Metrics: metrics}
	for _, m := range metrics {
		add(m.expr, m.Name)
	}
	if table {
		for _, d := range plan.Breakdown {
			s.Columns = append(s.Columns, Column{Name: d, Title: titleOf(d), Link: linkOf(d)})
		}
		for _, m := range metrics {
			s.Columns = append(s.Columns, Column{Name: m.Name, Title: m.Title, Unit: m.Unit})
		}
		for _, x := range f.extra {
			add(x.expr, x.column.Name)
			s.Columns = append(s.Columns, x.column)
		}
	}
	weight := cmp.Or(metrics[0].weight, metrics[0].expr)
	columns = union(columns, f.columnsIn(weight), f.columnsIn(f.where))
	weight = f.qualified(weight)
	rows := func(conditions []string) string {
		sc := scope{
			level: at, bucket: bucket, wanted: columns, where: strings.Join(conditions, " AND "), table: table,
			from: begin, to: end, named: union(dims, b.filterFields()),
		}
		for _, c := range columns {
			if _, ok := f.fields[c]; ok {
				sc.fields = append(sc.fields, c)
			}
		}
		if f.source != nil {
			return f.source(sc)
		}
		return f.rollUp(sc)
	}
	if table {
		s.SQL = "SELECT\n    " + strings.Join(selects, ",\n    ") + "\nFROM " + rows(conditions)
		if len(dims) > 0 {
			s.SQL += "\nGROUP BY " + strings.Join(dims, ", ")
			if len(metrics) == 1 && metrics[0].fill == FillZero {
				s.SQL += "\nHAVING " + metrics[0].Name + " > 0"
			}
		}
		if len(dims) > len(plan.Breakdown) {
			s.SQL, s.Dims = together(s, plan.Breakdown), plan.Breakdown
		}
		s.SQL += fmt.Sprintf("\nORDER BY %s\nLIMIT %d", strings.Join(append([]string{metrics[0].Name + metrics[0].order()}, s.Dims...), ", "), plan.Limit)
		return s, from, nil
	}
	selects = append([]string{fmt.Sprintf(bucket, "r.ts") + " AS t"}, selects...)
	groups := "\nGROUP BY " + strings.Join(append([]string{"t"}, dims...), ", ")
	if len(dims) == 0 || len(f.apart) > 0 {
		s.SQL = "SELECT\n    " + strings.Join(selects, ",\n    ") + "\nFROM " + rows(conditions) + groups + "\nORDER BY t"
		return s, from, nil
	}
	// Only the largest series over the whole range; of what has no size, those that need attention.
	r := ranking{dims: dims, weight: weight, order: metrics[0].order(), sized: metrics[0].fill == FillZero || metrics[0].weight != "", limit: plan.Limit}
	if metrics[0].weight != "" {
		r.order = " DESC"
	}
	if how := ofSteps(weight); how != "" && few(dims) {
		selects = append(selects, weight+" AS step_weight")
		s.SQL = r.placed("SELECT\n    "+strings.Join(selects, ",\n    ")+"\nFROM "+rows(conditions)+groups, how, metrics)
		return s, from, nil
	}
	conditions = append(conditions, "("+strings.Join(columnsOf(f, dims), ", ")+") IN\n(\n    "+indent(r.first(rows(conditions), keys))+"\n)")
	s.SQL = "SELECT\n    " + strings.Join(selects, ",\n    ") + "\nFROM " + rows(conditions) + groups + "\nORDER BY t"
	return s, from, nil
}

// ranking says which series of a breakdown are shown.
type ranking struct {
	dims   []string
	weight string // of a series over the whole range, as SQL over the rows
	order  string
	sized  bool // a series of no weight is none
	limit  int
}

// first returns the query for the keys of these series, in a reading of the rows of its own.
func (r ranking) first(rows string, keys []string) string {
	by := strings.Join(keys, ", ")
	sql := "SELECT " + by + "\nFROM " + rows + "\nGROUP BY " + by
	if r.sized {
		sql += "\nHAVING " + r.weight + " > 0"
	}
	return sql + "\nORDER BY " + r.weight + r.order + ", " + by + "\nLIMIT " + strconv.Itoa(r.limit)
}

// placed returns the query for these series out of one for the steps of all series, which has the weight of each
// step as step_weight: the rows are read once. how makes a series' weight of those.
func (r ranking) placed(steps, how string, metrics []Metric) string {
	names := append([]string{"t"}, r.dims...)
	for _, m := range metrics {
		names = append(names, m.Name)
	}
	by := strings.Join(r.dims, ", ")
	series := "SELECT *, " + how + "(step_weight) OVER (PARTITION BY " + by + ") AS weight\nFROM\n(\n    " + indent(steps) + "\n)"
	placed := "SELECT *, dense_rank() OVER (ORDER BY weight" + r.order + ", " + by + ") AS place\nFROM\n(\n    " + indent(series) + "\n)"
	if r.sized {
		placed += "\nWHERE weight > 0"
	}
	return "SELECT " + strings.Join(names, ", ") + "\nFROM\n(\n    " + indent(placed) + "\n)\nWHERE place <= " + strconv.Itoa(r.limit) + "\nORDER BY t"
}

// ofSteps returns the function that makes an aggregate over a range of it over the range's steps, empty if
// none is known.
func ofSteps(expr string) string {
	if additive.MatchString(expr) && !notAdditive.MatchString(expr) {
		return "sum"
	}
	if m := extreme.FindStringSubmatch(expr); m != nil {
		return m[1]
	}
	return ""
}

var (
	additive    = regexp.MustCompile(`^(sum|sumIf|count)\(`)
	notAdditive = regexp.MustCompile(`[*/]|\{seconds\}|(greatest|least|min|max|avg|uniq\w*|quantiles?\w*)\(`)
	extreme     = regexp.MustCompile(`^(min|max)\([\w.]+\)$`)
)

// few reports whether the values of fields are so few that the series of all of them are soon computed.
func few(fields []string) bool { return len(fields) == 1 && slices.Contains(fewValues, fields[0]) }

// fewValues are fields with tens of values, not hundreds.
var fewValues = []string{"provider", "node", "category", "dimension", "feedback_type", "limit_scope"}

// together puts the rows of a statement for a table together that keep apart what the plan does not break
// down. Columns that are no metric tell of the latest.
func together(s Statement, breakdown []string) string {
	selects := slices.Clone(breakdown)
	for _, c := range s.Columns[len(breakdown):] {
		how := "max"
		if slices.ContainsFunc(s.Metrics, func(m Metric) bool { return m.Name == c.Name && m.merge == MergeSum }) {
			how = "sum"
		}
		selects = append(selects, how+"(k."+c.Name+") AS "+c.Name)
	}
	sql := "SELECT\n    " + strings.Join(selects, ",\n    ") + "\nFROM\n(\n    " + indent(s.SQL) + "\n) AS k"
	if len(breakdown) > 0 {
		return sql + "\nGROUP BY " + strings.Join(breakdown, ", ")
	}
	return sql + "\nHAVING count() > 0" // no key has a sum of zero otherwise
}

// order is how a table is sorted by the metric: what needs attention comes first.
func (m Metric) order() string {
	if m.low {
		return ""
	}
	return " DESC"
}

// columnsOf returns the expressions of fields.
func columnsOf(f *family, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = f.column(n)
	}
	return out
}

func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n    ") }

// begin returns the start of the time range, which begins with a full unit, as SQL.
func (b *builder) begin(t time.Time, unit time.Duration) string {
	if b.macros {
		return fmt.Sprintf("toStartOfInterval($__fromTime, INTERVAL %d SECOND)", int64(unit/time.Second))
	}
	return stamp(t)
}

// end returns the end of the time range as SQL.
func (b *builder) end(t time.Time) string {
	if b.macros {
		return "$__toTime"
	}
	return stamp(t)
}

// stamp returns t, which is at a full second, as SQL.
func stamp(t time.Time) string {
	return "toDateTime('" + t.UTC().Format(time.DateTime) + "', 'UTC')"
}

// condition returns a filter over an expression. kind is the type that its values are compared as.
func (b *builder) condition(f Filter, expr, kind string) (string, error) {
	if len(f.Values) > maxValues {
		return "", errorf("the filter on %s has %d values; %d are the most", f.Field, len(f.Values), maxValues)
	}
	list := make([]string, len(f.Values))
	for i, v := range f.Values {
		if variable.MatchString(v) {
			return "", errorf("the variable %s in the filter on %s has no value here: alert rules have no dashboard variables", v, f.Field)
		}
		if kind == "UUID" && !uuidForm.MatchString(v) {
			return "", errorf("%q is no id: want 32 hexadecimal digits with dashes, as 0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60", v)
		}
		list[i] = b.param(v, kind)
	}
	all := strings.Join(list, ", ")
	switch op := f.Op; {
	case op == "=~" || op == "!~":
		matches := make([]string, len(list))
		for i, p := range list {
			matches[i] = "match(toString(" + expr + "), " + p + ")"
		}
		if kind == "UUID" {
			return "", errorf("the field %s cannot be matched with an expression", f.Field)
		}
		if op == "!~" {
			return "NOT (" + strings.Join(matches, " OR ") + ")", nil
		}
		return "(" + strings.Join(matches, " OR ") + ")", nil
	case op == "=" && len(list) == 1:
		return expr + " = " + all, nil
	case op == "!=" && len(list) == 1:
		return expr + " != " + all, nil
	case op == "=" || op == "in" || op == "=|":
		return expr + " IN (" + all + ")", nil
	case op == "!=" || op == "not in" || op == "!=|":
		return expr + " NOT IN (" + all + ")", nil
	}
	return "", errorf("the filter on %s has the operator %q; the operators are =, !=, in, not in, =~ and !~", f.Field, f.Op)
}

var (
	variable = regexp.MustCompile(`^\$(\w+|\{[^{}]+\})$`)
	uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	name     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)
)

// param adds a value and returns how SQL calls it.
func (b *builder) param(value, kind string) string {
	n := "p" + strconv.Itoa(len(b.params))
	b.params[n] = value
	return "{" + n + ":" + kind + "}"
}

// AdHoc returns the filters of a dashboard as a condition for a query that the user wrote, whose
// columns may have any type. It is empty if nothing is filtered.
func AdHoc(filters []Filter) (condition string, params map[string]string, err error) {
	b := &builder{params: map[string]string{}}
	var all []string
	for _, f := range Kept(filters) {
		if !name.MatchString(f.Field) {
			return "", nil, errorf("the ad hoc filter on %q: want the name of a column", f.Field)
		}
		expr := "toString(" + f.Field + ")"
		if slices.Contains(textColumns, f.Field) {
			expr = f.Field // so that the table's order helps
		}
		c, err := b.condition(f, expr, "String")
		if err != nil {
			return "", nil, err
		}
		all = append(all, c)
	}
	return strings.Join(all, " AND "), b.params, nil
}

// textColumns are of a type of text wherever they occur.
var textColumns = []string{"provider", "source", "vmta", "pool", "tenant", "job", "recipient_domain", "from_domain", "node", "queue", "recipient", "category"}

// Inline returns the SQL of a statement with the values of its parameters in it, for people.
func (s Statement) Inline() string {
	return paramForm.ReplaceAllStringFunc(s.SQL, func(p string) string {
		n, _, _ := strings.Cut(p[1:], ":")
		v, ok := s.Params[n]
		if !ok {
			return p
		}
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	})
}

var paramForm = regexp.MustCompile(`\{p\d+:\w+\}`)

// SQL returns all statements of the plan, for people.
func (p Plan) SQL() string {
	texts := make([]string, len(p.Statements))
	for i, s := range p.Statements {
		texts[i] = s.Inline()
	}
	return strings.Join(texts, ";\n\n")
}
