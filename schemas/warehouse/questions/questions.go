// Package questions holds the queries that carom's documents offer to people, as files of SQL with
// a test that checks each answer: the thirty that reports and dashboards are made of, and ten that
// an analyst asked who knew the views only.
//
// A file is a line with the question in words, a line "dashboard" where a dashboard asks it, a line
// for each parameter, and the query. Every query takes the parameters from and to, whole days of
// UTC, of which to is the first that is left out. {{rate "NAME"}} stands for a rate of package
// warehouse over the rows of t, {{rateIf "NAME" "CONDITION"}} for one over some of them, so that there is one
// definition of it.
//
// deploy/docs/sql.md shows them; its test writes them there.
package questions

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

//go:embed tested/*.sql analyst/*.sql
var files embed.FS

// ErrEmpty is returned by LastWeek for a database without events.
var ErrEmpty = errors.New("there are no events to ask about")

// Question is a query that people ask.
type Question struct {
	ID         string // as in "delivery-by-provider"
	Title      string // the question in words
	SQL        string // with the parameters {from:DateTime('UTC')}, {to:DateTime('UTC')} and those of Parameters
	Dashboard  bool   // a dashboard asks it: over seven days it has to be quick
	Parameters []Parameter
}

// Parameter is one that a question takes beside the period.
type Parameter struct {
	Name    string
	Type    string // ClickHouse's
	Default string // a query of from and to that finds a value to try
}

// Period is the span of time that is asked about. Both ends are the start of a day, UTC.
type Period struct {
	From time.Time // included
	To   time.Time // excluded
}

// Answer is what a question gives. The values are of the types that clickhouse-go reads into;
// those of a Nullable column are pointers.
type Answer struct {
	Columns []string
	Rows    [][]any
}

// All returns the thirty questions in the order of the documents.
func All() []Question { return mustLoad("tested") }

// Analyst returns the ten questions of an analyst, which are answered from the views alone.
func Analyst() []Question { return mustLoad("analyst") }

// mustLoad reads the questions of a folder; that the embedded files can be read is tested.
func mustLoad(folder string) []Question {
	names, err := fs.Glob(files, folder+"/*.sql")
	if err != nil {
		panic(err)
	}
	all := make([]Question, len(names))
	for i, name := range names { // sorted by Glob
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		if all[i], err = parse(path.Base(name), string(text)); err != nil {
			panic(fmt.Errorf("%s: %w", name, err))
		}
	}
	return all
}

// parse reads a question from the file NN_ID.sql.
func parse(file, text string) (q Question, err error) {
	_, q.ID, _ = strings.Cut(strings.TrimSuffix(file, ".sql"), "_")
	for {
		line, rest, _ := strings.Cut(text, "\n")
		comment, ok := strings.CutPrefix(line, "-- ")
		if !ok {
			break
		}
		text = rest
		switch {
		case q.Title == "":
			q.Title = comment
		case comment == "dashboard":
			q.Dashboard = true
		default:
			p, err := parameter(comment)
			if err != nil {
				return q, err
			}
			q.Parameters = append(q.Parameters, p)
		}
	}
	if q.ID == "" || q.Title == "" {
		return q, errors.New("a question needs an id and a title")
	}
	q.SQL, err = render(strings.TrimSpace(text))
	return q, err
}

// parameter reads "{NAME:TYPE} QUERY".
func parameter(line string) (p Parameter, err error) {
	declared, query, ok := strings.Cut(line, "} ")
	name, kind, typed := strings.Cut(strings.TrimPrefix(declared, "{"), ":")
	if !ok || !typed || !strings.HasPrefix(line, "{") {
		return p, fmt.Errorf("%q is no parameter: want {NAME:TYPE} and a query", line)
	}
	return Parameter{name, kind, query}, nil
}

// render puts the rates into a query.
func render(text string) (string, error) {
	functions := template.FuncMap{
		"rate": func(name string) (string, error) {
			r, err := rate(name)
			return r.SQL("t"), err
		},
		"rateIf": func(name, when string) (string, error) {
			r, err := rate(name)
			return r.SQLIf("t", when), err
		},
	}
	t, err := template.New("question").Funcs(functions).Parse(text)
	if err != nil {
		return "", fmt.Errorf("parse query: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, nil); err != nil {
		return "", fmt.Errorf("render query: %w", err)
	}
	return b.String(), nil
}

func rate(name string) (warehouse.Rate, error) {
	for _, r := range slices.Concat(warehouse.Rates, warehouse.ReportRates) {
		if r.Name == name {
			return r, nil
		}
	}
	return warehouse.Rate{}, fmt.Errorf("there is no rate %s", name)
}

// LastWeek returns the last seven days of the data, the day of the newest event included. The error
// is ErrEmpty if there is none.
func LastWeek(ctx context.Context, conn driver.Conn) (Period, error) {
	var newest time.Time
	if err := conn.QueryRow(ctx, "SELECT "+warehouse.NewestHour).Scan(&newest); err != nil {
		return Period{}, fmt.Errorf("look for the newest event: %w", err)
	}
	if newest.Unix() == 0 {
		return Period{}, ErrEmpty
	}
	to := newest.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1)
	return Period{From: to.AddDate(0, 0, -7), To: to}, nil
}

// Ask asks q about a period and reads the whole answer. What q takes beside the period is set to
// what its defaults find.
func (q Question) Ask(ctx context.Context, conn driver.Conn, p Period) (Answer, error) {
	set := clickhouse.Parameters{"from": p.From.UTC().Format(time.DateTime), "to": p.To.UTC().Format(time.DateTime)}
	bound := clickhouse.Context(ctx, clickhouse.WithParameters(set))
	for _, one := range q.Parameters {
		var value string
		if err := conn.QueryRow(bound, one.Default).Scan(&value); err != nil {
			return Answer{}, fmt.Errorf("question %s: find a value for %s: %w", q.ID, one.Name, err)
		}
		set[one.Name] = value
	}
	answer, err := read(clickhouse.Context(ctx, clickhouse.WithParameters(set)), conn, q.SQL)
	if err != nil {
		return Answer{}, fmt.Errorf("question %s: %w", q.ID, err)
	}
	return answer, nil
}

func read(ctx context.Context, conn driver.Conn, query string) (a Answer, err error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return a, err
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	a.Columns = rows.Columns()
	types := rows.ColumnTypes()
	for rows.Next() {
		row, into := make([]any, len(types)), make([]any, len(types))
		for i, t := range types {
			into[i] = reflect.New(t.ScanType()).Interface()
		}
		if err := rows.Scan(into...); err != nil {
			return a, err
		}
		for i := range into {
			row[i] = reflect.ValueOf(into[i]).Elem().Interface()
		}
		a.Rows = append(a.Rows, row)
	}
	return a, rows.Err()
}
