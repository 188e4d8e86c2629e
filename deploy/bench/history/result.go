package history

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"carom/deploy/load/events"
)

// Result is a whole run.
type Result struct {
	Started    time.Time      `json:"started"`
	CPUs       int            `json:"cpus"`
	LoadBefore string         `json:"load_before"` // of one, five and fifteen minutes
	LoadAfter  string         `json:"load_after"`
	Options    options        `json:"options"`
	Made       *events.Result `json:"made,omitempty"` // of the run that made the history
	Rows       []Row          `json:"rows"`

	Tables    []TableSize    `json:"tables,omitempty"`
	Columns   []ColumnSize   `json:"columns,omitempty"` // of events, the largest first
	Questions []QuestionTime `json:"questions,omitempty"`
}

// Row is a line of the table: a figure and what it is to reach.
type Row struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Got     float64 `json:"got"`
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	Verdict string  `json:"verdict"`
	Note    string  `json:"note,omitempty"`
}

// The verdicts of a Row.
const (
	reached   = "reached"
	missed    = "missed"
	notJudged = "not judged" // the history is too small
)

// add judges a row and adds it.
func (l *lab) add(r Row, needsFullSize bool) {
	switch {
	case needsFullSize && l.Size < fullSize:
		r.Verdict = notJudged
	case r.AtLeast > 0 && r.Got >= r.AtLeast, r.AtMost > 0 && r.Got <= r.AtMost:
		r.Verdict = reached
	default:
		r.Verdict = missed
	}
	l.result.Rows = append(l.result.Rows, r)
	l.say("%s: %s %s, %s", r.Name, number(r.Got), r.Unit, r.Verdict)
}

// TableSize is what a table takes on disk.
type TableSize struct {
	Table    string  `json:"table"`
	Rows     uint64  `json:"rows"`
	Bytes    uint64  `json:"bytes"`
	PerEvent float64 `json:"bytes_per_event"` // of the table events
}

// ColumnSize is what a column takes on disk.
type ColumnSize struct {
	Column   string  `json:"column"`
	Bytes    uint64  `json:"bytes"`
	PerEvent float64 `json:"bytes_per_event"`
}

// QuestionTime is how long a question took.
type QuestionTime struct {
	ID           string  `json:"id"`
	Dashboard    bool    `json:"dashboard"`
	FirstMillis  float64 `json:"first_ms"`
	MedianMillis float64 `json:"median_ms"`
	MostMillis   float64 `json:"most_ms"` // but for the first
	Rows         int     `json:"rows"`
}

// quantile returns the smallest value that at least the share q of values are not over. values must
// not be empty; they are sorted.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
}

// number writes a figure with as many digits as one can believe.
func number(v float64) string {
	digits := 2
	switch {
	case v >= 100:
		digits = 0
	case v >= 20:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func (r Result) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events, %d CPUs, load average %s before, %s after\n\n", r.Options.Size, r.CPUs, r.LoadBefore, r.LoadAfter)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows {
		want, bound := "at least", row.AtLeast
		if row.AtMost > 0 {
			want, bound = "at most", row.AtMost
		}
		_, _ = fmt.Fprintf(t, "%s\t%s %s\t%s %s\t%s\t%s\n", row.Name, number(row.Got), row.Unit, want, number(bound), row.Verdict, row.Note)
	}
	_ = t.Flush() // a strings.Builder takes everything
	r.printSizes(&b)
	r.printQuestions(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// barWidth is the length of the bar of the largest column.
const barWidth = 40

func (r Result) printSizes(b *strings.Builder) {
	if len(r.Tables) == 0 {
		return
	}
	b.WriteString("\nBytes on disk for an event:\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, s := range r.Tables {
		_, _ = fmt.Fprintf(t, "  %s\t%d rows\t%.2f\n", s.Table, s.Rows, s.PerEvent)
	}
	for i, c := range r.Columns {
		if i == 0 {
			_, _ = fmt.Fprint(t, "of events:\n")
		}
		_, _ = fmt.Fprintf(t, "  %s\t%.2f\t%s\n", c.Column, c.PerEvent, strings.Repeat("#", int(barWidth*c.Bytes/max(1, r.Columns[0].Bytes)))) //nolint:gosec // at most barWidth
	}
	_ = t.Flush() // a strings.Builder takes everything
}

func (r Result) printQuestions(b *strings.Builder) {
	if len(r.Questions) == 0 {
		return
	}
	b.WriteString("\nQuestions, in milliseconds:\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(t, "  question\tfirst\tmedian\tmost\trows\t\n")
	for _, q := range r.Questions {
		note := ""
		if q.Dashboard {
			note = "dashboard"
		}
		_, _ = fmt.Fprintf(t, "  %s\t%.0f\t%.0f\t%.0f\t%d\t%s\n", q.ID, q.FirstMillis, q.MedianMillis, q.MostMillis, q.Rows, note)
	}
	_ = t.Flush() // a strings.Builder takes everything
}
