// Package history measures the warehouse: `carom bench history`, or `make bench-history`. It makes a
// realistic history once a machine (deploy/load/events), keeps it outside the tree, and says of each row
// of the table in deploy/docs/history.md whether it was reached.
//
// Everything runs in the embedded engine, a process of its own with its own folder: one for the
// history, one for shipping and one for the jobs, one after the other. The agent is the real one
// (ingest/ship), in this process. A measurement in which an event is lost, doubled or late for ever is
// an error and not a figure.
package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"carom/deploy/load/events"
	"carom/schemas/atomicfile"
	"carom/schemas/service"
)

const about = `
carom bench history [FLAGS] [PART...]

Measures the event history: how fast events are shipped, what they take on disk, and how long
questions take. Parts, all without a name:

  ship       event log to queryable: events a second, and the delay at 10,000 a second
  size       bytes an event, by table and column
  questions  the questions of deploy/docs/sql.md, each several times
  life       the life of one message, and of one recipient
  jobs       rows that the control job reads, at one and at ten times the mail

The history is made once and kept in --dir, about 100 bytes an event; it takes several minutes for
100M. The exit status is 1 if a row is missed. With less than 100M events the rows that depend on the
size are measured and not judged.

Example:
  carom bench history --size 20M --out history.json`

// options of a run, from the flags.
type options struct {
	Size      uint64  `json:"size"`
	Runs      int     `json:"runs"`
	Ship      int     `json:"ship_events"`
	Seconds   float64 `json:"lag_seconds"`
	dir       string
	engineLib string
	carom     string
}

// fullSize is how many events the rows of the table speak of.
const fullSize = 100_000_000

// A part measures some rows.
type part struct {
	name string
	run  func(context.Context, *lab) error
}

var parts = []part{
	{"ship", ship}, {"size", size}, {"questions", ask}, {"life", life}, {"jobs", jobRows},
}

// lab is what the parts share.
type lab struct {
	options

	progress io.Writer
	result   *Result
	history  *engine // nil until a part needs it
}

func (l *lab) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.progress, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...) // it is only told
}

// errMissed says that a row was missed; the table says which.
var errMissed = errors.New("not everything was reached")

// Command runs `carom bench history`.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("bench history", about, stdio)
	var o options
	size := flags.String("size", "100M", "`number` of events in the history, such as 20M")
	flags.IntVar(&o.Runs, "runs", 5, "how often each question is asked, a `number`; the first is cold")
	flags.IntVar(&o.Ship, "ship", 2_000_000, "`number` of events to ship")
	flags.Float64Var(&o.Seconds, "seconds", 20, "how many `seconds` 10,000 events a second come in")
	flags.StringVar(&o.dir, "dir", "/var/tmp/carom-history", "`folder` that keeps the history")
	flags.StringVar(&o.engineLib, "engine-lib", "", "the ClickHouse engine library, a `file` (default: where carom clickhouse looks)")
	flags.StringVar(&o.carom, "carom", "", "carom `binary` whose engine is measured (default: this one)")
	out := flags.String("out", "", "write the result as JSON to `file`, too")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if o.Size, err = events.ParseRows(*size); err != nil {
		return service.Configf("carom bench history: --size %w", err)
	}
	if o.Runs < 2 || o.Runs > 1000 || o.Ship < 10_000 || o.Seconds < 1 || o.Seconds > 600 {
		return service.Configf("carom bench history: --runs wants 2 to 1000, --ship 10000 and more, --seconds 1 to 600")
	}
	if o.carom == "" {
		if o.carom, err = os.Executable(); err != nil {
			return fmt.Errorf("find the own binary (see --carom): %w", err)
		}
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return service.Configf("carom bench history: --dir: %w", err)
	}
	result, err := run(ctx, o, chosen, stdio.Err)
	if err != nil {
		return err
	}
	if *out != "" {
		err = atomicfile.Write(*out, func(w io.Writer) error { return writeJSON(w, result) })
	}
	if *asJSON {
		err = errors.Join(err, writeJSON(stdio.Out, result))
	} else {
		err = errors.Join(err, result.print(stdio.Out))
	}
	if err == nil && slices.ContainsFunc(result.Rows, func(r Row) bool { return r.Verdict == missed }) {
		return errMissed
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func choose(names []string) ([]part, error) {
	if len(names) == 0 {
		return parts, nil
	}
	var chosen []part
	for _, name := range names {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, service.Configf("carom bench history: no part %q (see carom bench history --help)", name)
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

func run(ctx context.Context, o options, chosen []part, progress io.Writer) (result Result, err error) {
	result = Result{Started: time.Now().UTC(), CPUs: runtime.NumCPU(), LoadBefore: loadAverage(), Options: o}
	l := &lab{options: o, progress: progress, result: &result}
	defer func() {
		if l.history != nil {
			err = errors.Join(err, l.history.stop())
		}
	}()
	for _, p := range chosen {
		l.say("%s", p.name)
		if err := p.run(ctx, l); err != nil {
			return result, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	result.LoadAfter = loadAverage()
	return result, nil
}

// loadAverage returns those of one, five and fifteen minutes, and nothing where there is no /proc.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
