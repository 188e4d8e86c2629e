// Package views turns what the query editor says (a view, metrics, a breakdown, filters) into SQL over
// carom's tables.
//
// Catalogue lists the views with their metrics and fields; the editor shows that list and knows no
// other. Build makes a Plan of one statement for each family of tables that the metrics come from, with
// the roll-up that fits the step and the age of the time range. Values of filters are parameters of
// the query, never part of its text. What is a mistake of the user is an *Error, in words for who
// clicks. Everything here is pure and safe for concurrent use.
package views

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Formats of a result.
const (
	TimeSeries = "timeseries"
	Table      = "table"
	Logs       = "logs"
)

// A Query is what the editor says. It is stored in dashboards: names only ever get more.
type Query struct {
	View      string   `json:"view"`
	Format    string   `json:"format,omitempty"`
	Breakdown []string `json:"breakdown,omitempty"`
	Metrics   []string `json:"metrics,omitempty"`
	Filters   []Filter `json:"filters,omitempty"`
	Limit     int      `json:"limit,omitempty"`
	Search    string   `json:"search,omitempty"`
}

// A Filter keeps the rows whose field stands in a relation to the values. One without values keeps all.
type Filter struct {
	Field  string   `json:"field"`
	Op     string   `json:"op"` // =, !=, in, not in, =~, !~
	Values []string `json:"values"`
}

// Window is the time that a query is about, and of whose rows.
type Window struct {
	From, To time.Time
	Interval time.Duration // what the panel can show; the step is at least so long
	Tenant   string        // who asks and sees only this tenant's rows, so that tables are chosen that have any; empty: all
}

// A View is what a user chooses first.
type View struct {
	Name        string   `json:"name"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Metrics     []Metric `json:"metrics"`    // empty for views of rows
	Breakdowns  []Field  `json:"breakdowns"` // empty for views of rows
	Filters     []Field  `json:"filters"`
	Formats     []string `json:"formats"` // the first is what the editor begins with
	Defaults    Defaults `json:"defaults"`
	Searchable  bool     `json:"searchable,omitempty"` // search means something here

	rows *rowSource // of a view of rows
}

// Defaults are what a new query of the view begins with.
type Defaults struct {
	Metrics   []string `json:"metrics"`
	Breakdown []string `json:"breakdown"`
	Limit     int      `json:"limit"`
}

// A Metric is a number that a view has.
type Metric struct {
	Name        string   `json:"name"`
	Title       string   `json:"title"`
	Unit        string   `json:"unit"` // as Grafana names units
	Description string   `json:"description"`
	Breakdowns  []string `json:"breakdowns"` // fields that this metric can be broken down and filtered by

	expr     string // over rows of the families
	weight   string // what the largest series are found by; expr if empty
	families []*family
	fill     Fill
	merge    Merge
	not      []string // fields that it means nothing by
	low      bool     // low is bad: a table begins with the lowest
}

// A Field is a column to break down or filter by.
type Field struct {
	Name  string `json:"name"`
	Title string `json:"title"`
}

// Fill says what a step without a row is.
type Fill int

// The fills.
const (
	FillNull     Fill = iota // nothing is known
	FillZero                 // a count of nothing
	FillPrevious             // it is as it was
)

// Merge says how keys are put together that the statement keeps apart (Statement.Dims).
type Merge int

// The merges.
const (
	MergeSum Merge = iota
	MergeMax
)

// A Plan is what to ask ClickHouse for, and what the answers mean.
type Plan struct {
	Format     string
	Statements []Statement
	Breakdown  []string      // labels of the result
	From, To   time.Time     // From is the start of the first step
	Step       time.Duration // of a time series
	Limit      int           // series or rows at most
	Notices    []string
}

// A Statement is one query of a Plan.
type Statement struct {
	SQL     string
	Params  map[string]string // raw values by name
	Tables  []string          // that it reads; for a clear error where one is missing
	Dims    []string          // columns that are labels, after the time if there is one
	Metrics []Metric          // columns after those
	Columns []Column          // of a table or of logs: what the columns are, by name
}

// A Column describes a column of a table.
type Column struct {
	Name  string
	Title string
	Unit  string
	Link  Link
}

// Link says what a value leads to.
type Link int

// The links.
const (
	NoLink Link = iota
	LinkTrace
	LinkChange
	LinkTemplate
)

// Error is a mistake in a query, in words for the user.
type Error struct{ Text string }

// Error implements error.
func (e *Error) Error() string { return e.Text }

func errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Catalogue returns every view.
func Catalogue() []View { return catalogue }

// ByName returns the view of that name.
func ByName(name string) (View, error) {
	for _, v := range catalogue {
		if v.Name == name {
			return v, nil
		}
	}
	names := make([]string, len(catalogue))
	for i, v := range catalogue {
		names[i] = v.Name
	}
	if name == "" {
		return View{}, errorf("choose a view: %s", strings.Join(names, ", "))
	}
	return View{}, errorf("there is no view %q; the views are %s", name, strings.Join(names, ", "))
}

// metric returns the metric of that name.
func (v View) metric(name string) (Metric, error) {
	for _, m := range v.Metrics {
		if m.Name == name {
			return m, nil
		}
	}
	names := make([]string, len(v.Metrics))
	for i, m := range v.Metrics {
		names[i] = m.Name
	}
	return Metric{}, errorf("the view %s has no metric %q; it has %s", v.Name, name, strings.Join(names, ", "))
}

func fieldNames(fields []Field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

// titleOf makes words of a name: "recipient_domain" is "Recipient domain".
func titleOf(name string) string {
	if special, ok := titles[name]; ok {
		return special
	}
	words := strings.ReplaceAll(name, "_", " ")
	if words == "" {
		return ""
	}
	return strings.ToUpper(words[:1]) + words[1:]
}

// titles are names whose words are not just those.
var titles = map[string]string{
	"vmta": "Virtual MTA", "source": "Source address", "from_domain": "From domain", "dkim_domain": "DKIM domain", "mx_host": "MX host", "mx_ip": "MX address",
	"delivered_1m": "Delivered within 1 min", "delivered_10m": "Delivered within 10 min", "delivered_1h": "Delivered within 1 h",
	"tls_version": "TLS version", "dns_ms": "DNS", "connect_ms": "Connect", "tls_ms": "TLS handshake", "transfer_ms": "Transfer",
	"dimension": "What the answer is about", "seq": "Number", "id": "Id", "message_id": "Message", "incarnation": "Life of the log",
}

func fields(names ...string) []Field {
	out := make([]Field, len(names))
	for i, n := range names {
		out[i] = Field{n, titleOf(n)}
	}
	return out
}

// union returns the names of all lists, each once, in order.
func union(lists ...[]string) []string {
	var out []string
	for _, list := range lists {
		for _, n := range list {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}
