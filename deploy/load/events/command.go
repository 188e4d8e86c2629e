package events

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `
carom load events makes an event history inside ClickHouse, for benchmarks, tests and demos: mail of
60 providers, 40 sources, 200 tenants, 5,000 jobs and 20 million recipients, with days and weekends,
sources in warm-up, blocks, limits and outages, deferrals, bounces, complaints. Each message lives a
whole life, and each node's sequence numbers have no gaps. The same --seed, --rows, --days, --nodes and
--until make the same rows.

The schema must be there (carom schema apply), and the table events must be empty, or --append given.
The rows go past the materialized views; roll-ups are filled at the end, unless --no-rollups is given.

Example:
  carom load events --url http://127.0.0.1:8123/history --rows 1M --days 7`

// Command runs `carom load events`.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("load events", about, stdio)
	rawURL, login := warehouse.Flags(flags)
	rows := flags.String("rows", "1M", "about so many events, a `number` such as 100k or 100M")
	until := flags.String("until", "", "end of the history, a `time` such as 2026-11-29T12:00:00Z (default: the last full hour)")
	progress := flags.Bool("progress", false, "show progress on standard error also when it is no terminal")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	var o Options
	flags.IntVar(&o.Days, "days", 30, "`number` of days, counted back from the end")
	flags.IntVar(&o.Nodes, "nodes", 4, "`number` of nodes that sent the mail")
	flags.Uint64Var(&o.Seed, "seed", 1, "`number` that all chance follows from")
	flags.BoolVar(&o.NoRollUps, "no-rollups", false, "leave the roll-ups empty")
	flags.BoolVar(&o.Append, "append", false, "add to a table that has events")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	var err error
	if o.Rows, err = ParseRows(*rows); err != nil {
		return service.Configf("carom load events: --rows %w", err)
	}
	if o.Until, err = parseUntil(*until, time.Now()); err != nil {
		return service.Configf("carom load events: --until %w", err)
	}
	bar := newBar(stdio.Err, *progress)
	o.Progress = bar.show
	conn, err := Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	result, err := Run(ctx, conn, o)
	bar.end()
	if err != nil {
		return err
	}
	return report(stdio.Out, result, *asJSON)
}

// ParseRows parses a number of rows with one of the endings k, M and G, for thousands, millions and
// thousands of millions.
func ParseRows(text string) (uint64, error) {
	number, factor := text, 1.0
	for ending, f := range map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if head, ok := strings.CutSuffix(text, ending); ok {
			number, factor = head, f
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n*factor >= 1) || n*factor > MaxRows {
		return 0, fmt.Errorf("%q: want a number such as 100k or 100M, at most %d", text, MaxRows)
	}
	return uint64(n * factor), nil
}

func parseUntil(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now.UTC().Truncate(time.Hour), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: want a time such as 2026-11-29T12:00:00Z", text)
	}
	return t, nil
}

func report(w io.Writer, r Result, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "events      %d of %d messages, %s to %s\n", r.Rows, r.Messages, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	fmt.Fprintf(&b, "made in     %.1f s, %.0f/s; indexes %.1f s, roll-ups and the rest %.1f s\n", r.EventSeconds, r.RowsPerSecond, r.IndexSeconds, r.RollupSeconds)
	fmt.Fprintf(&b, "incidents   %d\n", r.Incidents)
	kinds := make([]string, 0, len(r.Kinds))
	for kind := range r.Kinds {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(x, y string) int { return int(int64(r.Kinds[y]) - int64(r.Kinds[x])) }) //nolint:gosec // counts of rows
	for _, kind := range kinds {
		fmt.Fprintf(&b, "  %-16s %d\n", kind, r.Kinds[kind])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bar shows progress: one line over and over on a terminal, a line for each tenth elsewhere.
type bar struct {
	w        io.Writer
	on       bool
	terminal bool
	shown    int // tenths
}

const barWidth = 30

func newBar(w io.Writer, always bool) *bar {
	b := &bar{w: w, on: always, shown: -1}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.on, b.terminal = true, true
		}
	}
	return b
}

func (b *bar) show(p Progress) {
	tenth := 10 * p.Day / p.Days
	if !b.on || !b.terminal && tenth == b.shown && p.OfRollUps == 0 {
		return
	}
	b.shown = tenth
	done := barWidth * p.Day / p.Days
	what := fmt.Sprintf("day %d of %d, %d events, %.0f/s", p.Day, p.Days, p.Rows, float64(p.Rows)/p.Elapsed.Seconds())
	if p.OfRollUps > 0 {
		what = fmt.Sprintf("%d events, %d of %d roll-ups filled", p.Rows, p.RollUps, p.OfRollUps)
	}
	text := fmt.Sprintf("[%s%s] %s", strings.Repeat("#", done), strings.Repeat(".", barWidth-done), what)
	if b.terminal {
		text = "\r" + text + "\x1b[K"
	} else {
		text += "\n"
	}
	_, _ = io.WriteString(b.w, text)
}

// end leaves the line.
func (b *bar) end() {
	if b.terminal && b.shown >= 0 {
		_, _ = io.WriteString(b.w, "\n")
	}
}
