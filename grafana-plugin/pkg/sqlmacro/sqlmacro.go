// Package sqlmacro expands the macros of a query that a user wrote, and refuses what is no single
// statement that reads.
//
//	$__timeFilter(column)    column is within the time range
//	$__dateFilter(column)    the same for a column of type Date
//	$__timeInterval(column)  column, rounded down to the step of the panel
//	$__fromTime, $__toTime   ends of the time range, as DateTime64(3)
//	$__from, $__to           the same in milliseconds since 1970
//	$__interval_s            step of the panel in seconds; $__interval_ms in milliseconds
//	$__adhoc                 the ad hoc filters of the dashboard, or 1 if there are none
//
// Nothing expands inside strings, quoted identifiers and comments. The values of filters never become
// part of the text: they are parameters of the query. What is a mistake of the user is an *Error.
// All functions are pure.
package sqlmacro

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxLength is how long a query may be, in octets: that of ClickHouse's max_query_size.
const MaxLength = 256 << 10

// Values are what macros expand to.
type Values struct {
	From, To time.Time
	Step     time.Duration // at least a second is used
	AdHoc    string        // a condition, empty for none
}

// Error is a mistake in a query, in words for who wrote it.
type Error struct {
	Line, Column int // from 1, of the place; 0 for the query as a whole
	Text         string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Text)
}

// names of the macros, with what they take.
var names = map[string]bool{ // true: takes a column
	"$__timeFilter": true, "$__dateFilter": true, "$__timeInterval": true,
	"$__fromTime": false, "$__toTime": false, "$__from": false, "$__to": false, "$__interval_s": false, "$__interval_ms": false, "$__adhoc": false,
}

// Expand returns sql with its macros expanded and without a semicolon at its end.
func Expand(sql string, v Values) (string, error) {
	if len(sql) > MaxLength {
		return "", &Error{Text: fmt.Sprintf("the query has %d octets; %d are the most", len(sql), MaxLength)}
	}
	tokens := lex(sql)
	if err := check(sql, tokens); err != nil {
		return "", err
	}
	var out strings.Builder
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		if t.kind != word || t.text[0] != '$' {
			out.WriteString(t.text)
			continue
		}
		column, known := names[t.text]
		if !known {
			return "", unknown(sql, tokens, i)
		}
		argument := ""
		if column {
			last, text := argumentOf(tokens, i+1)
			if last < 0 || text == "" {
				return "", at(sql, t.pos, t.text+" wants a column in parentheses: "+t.text+"(time)")
			}
			if strings.Contains(text, "$__") {
				return "", at(sql, t.pos, t.text+" cannot have another macro in its parentheses")
			}
			argument, i = text, last
		}
		out.WriteString(v.expand(t.text, argument))
	}
	return strings.TrimRight(strings.TrimRight(out.String(), " \t\r\n"), ";"), nil
}

// argumentOf returns what stands in the parentheses that begin at tokens[i], and the place of the
// closing one, or -1.
func argumentOf(tokens []token, i int) (last int, text string) {
	if i >= len(tokens) || tokens[i].text != "(" {
		return -1, ""
	}
	var b strings.Builder
	depth := 0
	for ; i < len(tokens); i++ {
		switch t := tokens[i]; {
		case t.kind == mark && t.text == "(":
			depth++
			if depth == 1 {
				continue
			}
		case t.kind == mark && t.text == ")":
			depth--
			if depth == 0 {
				return i, strings.TrimSpace(b.String())
			}
		}
		b.WriteString(tokens[i].text)
	}
	return -1, ""
}

// expand returns the text of a known macro.
func (v Values) expand(name, column string) string {
	step := int64(max(v.Step, time.Second) / time.Second)
	switch name {
	case "$__timeFilter":
		return "(" + column + " >= " + Time(v.From) + " AND " + column + " < " + Time(v.To) + ")"
	case "$__dateFilter":
		return "(" + column + " >= toDate('" + v.From.UTC().Format(time.DateOnly) + "') AND " + column + " <= toDate('" + v.To.UTC().Format(time.DateOnly) + "'))"
	case "$__timeInterval":
		return "toStartOfInterval(toDateTime(" + column + ", 'UTC'), INTERVAL " + strconv.FormatInt(step, 10) + " SECOND)"
	case "$__fromTime":
		return Time(v.From)
	case "$__toTime":
		return Time(v.To)
	case "$__from":
		return strconv.FormatInt(v.From.UnixMilli(), 10)
	case "$__to":
		return strconv.FormatInt(v.To.UnixMilli(), 10)
	case "$__interval_s":
		return strconv.FormatInt(step, 10)
	case "$__interval_ms":
		return strconv.FormatInt(step*1000, 10)
	default: // $__adhoc
		if v.AdHoc == "" {
			return "1"
		}
		return "(" + v.AdHoc + ")"
	}
}

// Time returns t as an expression in SQL, to the millisecond.
func Time(t time.Time) string {
	return "toDateTime64('" + t.UTC().Format("2006-01-02 15:04:05.000") + "', 3, 'UTC')"
}

// unknown explains a word that begins with $ at tokens[i].
func unknown(sql string, tokens []token, i int) error {
	t := tokens[i]
	if strings.HasPrefix(t.text, "$__") {
		known := make([]string, 0, len(names))
		for name := range names {
			known = append(known, name)
		}
		slices.Sort(known)
		return at(sql, t.pos, "there is no macro "+t.text+"; the macros are "+strings.Join(known, ", "))
	}
	name := t.text
	if name == "$" && i+2 < len(tokens) && tokens[i+1].text == "{" {
		name = "${" + tokens[i+2].text + "}"
	}
	return at(sql, t.pos, "the variable "+name+" has no value here: alert rules have no dashboard variables, and in a dashboard the name must be one of its variables")
}

// starts are the words that a statement which reads begins with.
var starts = []string{"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN"}

// check refuses several statements, statements that do not read, and what changes the form of the
// result. The server's readonly setting stands behind it; here the user gets a better sentence.
func check(sql string, tokens []token) error {
	var parts []token // without space
	for _, t := range tokens {
		switch t.kind {
		case unended:
			return at(sql, t.pos, "a string, name or comment that begins here has no end")
		case word, quoted, mark:
			parts = append(parts, t)
		case space:
		}
	}
	for len(parts) > 0 && parts[len(parts)-1].text == ";" {
		parts = parts[:len(parts)-1]
	}
	first := slices.IndexFunc(parts, func(t token) bool { return t.text != "(" })
	if first < 0 {
		return &Error{Text: "the query is empty: write a SELECT, or choose a view in the builder"}
	}
	if !slices.Contains(starts, strings.ToUpper(parts[first].text)) {
		return at(sql, parts[first].pos, "a query begins with SELECT or WITH: the data source only reads")
	}
	depth := 0
	for i, t := range parts {
		if t.kind == mark {
			switch t.text {
			case "(":
				depth++
			case ")":
				depth--
			case ";":
				return at(sql, t.pos, "one statement at a time: what follows the semicolon is another one")
			}
		}
		if t.kind != word || depth != 0 {
			continue
		}
		previous := ""
		if i > 0 {
			previous = strings.ToUpper(parts[i-1].text)
		}
		switch upper := strings.ToUpper(t.text); {
		case upper == "FORMAT" && i == len(parts)-2 && parts[i+1].kind == word && previous != ",":
			return at(sql, t.pos, "leave FORMAT out: Grafana takes the rows as they are")
		case upper == "OUTFILE" && previous == "INTO":
			return at(sql, t.pos, "INTO OUTFILE is not possible here")
		}
	}
	return nil
}

// at returns an *Error about the place pos in sql.
func at(sql string, pos int, text string) error {
	before := sql[:pos]
	return &Error{Line: 1 + strings.Count(before, "\n"), Column: pos - strings.LastIndexByte(before, '\n'), Text: text}
}
