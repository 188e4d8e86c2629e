package views

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A family is a table, or several of different steps, that metrics are computed from.
type family struct {
	name   string
	fields map[string]string // what a field is in the rows; "" means the column of its name
	values []string          // further columns
	levels []level           // from the finest on
	where  string            // which rows count, always
	apart  []string          // fields that the statement must keep apart, for FillPrevious
	extra  []extra           // columns that a table has besides
	// What a row's columns are of an event, where it is not the column of that name; which events count;
	// and whether the rows hold states of aggregate functions.
	ofEvent     map[string]string
	eventsWhere string
	states      bool
	// source returns what follows FROM: rows with the columns ts and those of wanted, called r. nil: see
	// rollUp.
	source func(s scope) string
}

// A level is a table of one step.
type level struct {
	table  string
	unit   time.Duration
	keep   time.Duration // rows live so long
	toNow  bool          // filled as events come in; else by a job, and what it lacks is taken from finer tables
	lacks  []string      // fields of the family that it has not
	within time.Duration // for ranges up to this only; 0 for all
	start  string        // function of ClickHouse that rounds a time down to the unit
	plusOf string        // the unit in ClickHouse's words
}

// An extra is a column of a table that is no metric.
type extra struct {
	column Column
	expr   string
}

// A scope is what a family's rows are asked for.
type scope struct {
	level  int
	bucket string   // expression of the step, of %s
	wanted []string // columns
	fields []string // of these, those that are fields
	named  []string // all fields that columns or conditions name
	where  string   // conditions on ts and fields, joined by AND
	table  bool
	from   string // beginning of the time range, rounded down
	to     string
}

const (
	oneDay = 24 * time.Hour
	days   = oneDay
)

// eventsWithin is how long a range may be for which events themselves are read, where no roll-up is fine
// enough.
const eventsWithin = 6 * time.Hour

// steps returns the levels of a family of roll-ups: the events for short ranges, the minutes if there are
// some for the fields, hours and days, with how many days the hours and days are kept.
func steps(base string, hours, daily int, minutes ...level) []level {
	all := append([]level{{table: "events", unit: time.Minute, keep: 180 * days, toNow: true, within: eventsWithin, start: "toStartOfMinute"}}, minutes...)
	return append(all,
		level{table: base + "_1h", unit: time.Hour, keep: time.Duration(hours) * days, start: "toStartOfHour", plusOf: "1 HOUR"},
		level{table: base + "_1d", unit: oneDay, keep: time.Duration(daily) * days, start: "toStartOfDay", plusOf: "1 DAY"})
}

// rollUp returns the rows of a family of roll-ups. A job fills the tables by the hour and by the day from
// the oldest step on, so that the newest one tells how far they reach; what they lack is taken from the
// finer ones, in the end from the minutes, if they have the fields, or the events.
func (f *family) rollUp(s scope) string {
	l := f.levels[s.level]
	columns := strings.Join(s.wanted, ", ")
	if l.toNow && l.table != "events" {
		return l.table + " AS r\nWHERE " + s.where
	}
	if l.toNow {
		return "(\n    " + f.events(s, l.start, "") + "\n) AS r"
	}
	parts := []string{fmt.Sprintf("    SELECT ts, %s FROM %s WHERE %s", columns, l.table, s.where)}
	var reached []string
	for i := s.level; i > 0 && !f.levels[i].toNow; i-- {
		reached = append(reached, fmt.Sprintf("(SELECT max(ts) + INTERVAL %s FROM %s)", f.levels[i].plusOf, f.levels[i].table))
		since := reached[0]
		if len(reached) > 1 {
			since = "greatest(" + strings.Join(reached, ", ") + ")"
		}
		finer := f.levels[i-1]
		if finer.toNow && !finer.fits(s.named) {
			finer = f.levels[0]
		}
		part := fmt.Sprintf("SELECT %s(f.ts) AS ts, %s FROM %s AS f WHERE f.ts >= %s AND %s", l.start, columns, finer.table, since, s.where)
		if finer.table == "events" {
			part = f.events(s, l.start, since)
		}
		parts = append(parts, "    "+part)
	}
	return "(\n" + strings.Join(parts, "\n    UNION ALL\n") + "\n) AS r"
}

// events returns rows of the family made of the events themselves, from since on if that is not empty.
func (f *family) events(s scope, start, since string) string {
	times := fmt.Sprintf("time >= %s AND time < %s", s.from, s.to)
	if since != "" {
		times += " AND time >= " + since
	}
	columns := make([]string, len(s.wanted))
	for i, c := range s.wanted {
		columns[i] = c
		if e := f.ofEvent[c]; e != "" {
			columns[i] = e + " AS " + c
		}
	}
	sql := fmt.Sprintf("SELECT %s(toDateTime(time, 'UTC')) AS ts, %s FROM events WHERE %s AND %s", start, strings.Join(columns, ", "), times, s.where)
	if f.eventsWhere != "" {
		sql += " AND " + f.eventsWhere
	}
	if f.states {
		sql += " GROUP BY " + strings.Join(append([]string{"ts"}, s.fields...), ", ")
	}
	return sql
}

// tables returns the tables that a level reads.
func (f *family) tables(at int) []string {
	var names []string
	for i := at; i >= 0; i-- {
		names = append(names, f.levels[i].table)
		if f.levels[i].toNow {
			break
		}
	}
	return names
}

// has reports whether the family knows all of the fields.
func (f *family) has(names []string) bool {
	for _, n := range names {
		if _, ok := f.fields[n]; !ok {
			return false
		}
	}
	return true
}

// column returns the expression of a field over the family's rows.
func (f *family) column(field string) string {
	if e := f.fields[field]; e != "" {
		return e
	}
	return field
}

// fits reports whether a level has the fields.
func (l level) fits(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(l.lacks, n) })
}

// plain returns fields that are columns of their name.
func plain(names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = ""
	}
	return m
}

// enums adds fields whose columns are enumerations: as text they can be compared with any word.
func enums(m map[string]string, names ...string) map[string]string {
	for _, n := range names {
		m[n] = "toString(" + n + ")"
	}
	return m
}

var wordOrString = regexp.MustCompile(`'[^']*'|[\w.]+`)

// columnsIn returns the columns of the family that an expression names.
func (f *family) columnsIn(expr string) []string {
	var found []string
	for _, w := range wordOrString.FindAllString(expr, -1) {
		if f.isColumn(w) && !slices.Contains(found, w) {
			found = append(found, w)
		}
	}
	return found
}

func (f *family) isColumn(w string) bool {
	if slices.Contains(f.values, w) {
		return true
	}
	_, ok := f.fields[w]
	return ok
}

// qualified returns expr with r. before each column, so that the name of a result never means the
// result inside its own expression.
func (f *family) qualified(expr string) string {
	return wordOrString.ReplaceAllStringFunc(expr, func(w string) string {
		if f.isColumn(w) || w == "ts" {
			return "r." + w
		}
		return w
	})
}
