// Package bench measures carom against mail servers that people run today, side by side on one
// machine, and against what carom wants to reach. It is `carom bench`; what each scenario means is in
// deploy/docs/bench.md.
//
// A scenario measures rates of servers and other figures, and has targets, which are judged in one
// place: reached, missed, not judged (a small run) or not measured (with the reason). Most compare
// servers in one role: the real binary (`carom sender`) stands between Postfix's own load generator
// smtp-source and its sink smtp-sink, or takes mail from the former alone; each peer then does the
// same. Every run begins with an empty folder, on the same disk, with fsync as the server does it by
// default. Runs are interleaved (A B A B), so that a drift of the machine meets all alike; medians
// are compared. Absolute figures belong to a machine and an hour; ratios of one run hold elsewhere.
//
// CPU time and memory are those of a server's whole process tree, from Linux's /proc: a process
// that ended is in its parent's cutime. Memory is the proportional set size, so that pages which
// processes share count once.
//
// Peers run as instances of their own, with their own folders, on loopback ports. A peer that is
// not installed, or may not run here, is skipped with the reason. A run in which a message is
// lost, doubled or refused is an error and not a figure.
package bench

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

	"carom/schemas/atomicfile"
	"carom/schemas/service"
)

const about = `
carom bench [FLAGS] [SCENARIO...]

Measures carom against mail servers that people run, and against what it wants to reach, and prints
messages a second, CPU seconds for 1000 messages, memory, ratios, and of each target whether it was
reached or missed. Scenarios, all without a name:

%s
smtp-source and smtp-sink make and take the mail; Debian's package postfix has them. Postfix as a
peer needs root, and runs as an instance of its own: the system's is not touched. A full run takes
about half an hour and 15 gigabytes for a while; --short takes about two minutes and
judges nothing.

Examples:
  carom bench --short relay-4k
  carom bench --messages 50000 queue-1m blocked-queue
`

// options of a run, from the flags.
type options struct {
	Runs    int     `json:"runs"`
	Seconds float64 `json:"seconds"` // that a measurement should last

	// Messages is how many wait where that is the point.
	Messages int `json:"messages"`

	// Short lets the attempt that finds how many messages make a measurement stand for it.
	Short bool `json:"short,omitempty"`

	carom     string // binary
	engineLib string // empty: where carom clickhouse looks
	dir       string // where servers keep their mail
	verbose   bool
}

// How many messages wait where that is the point: what the targets speak of, and with --short.
const (
	million       = 1_000_000
	shortMessages = 2000
)

// Command runs `carom bench`. It returns a *service.ConfigError for mistakes in args and for
// missing tools.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("bench", help(), stdio)
	var o options
	flags.IntVar(&o.Runs, "runs", 5, "`number` of measurements for each server and scenario; medians are compared")
	flags.Float64Var(&o.Seconds, "seconds", 5, "how many `seconds` a measurement should last, about")
	flags.IntVar(&o.Messages, "messages", million, "how many `messages` wait in queue-1m and blocked-queue; with less there is no verdict")
	flags.BoolVar(&o.Short, "short", false, "one measurement of half a second each: to see that all works, not to compare")
	flags.StringVar(&o.carom, "carom", "", "carom `binary` to measure (default: this one)")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`folder` on the disk to measure; a folder of this run is made in it and removed")
	flags.StringVar(&o.engineLib, "engine-lib", "", "the ClickHouse engine library, a `file` (default: where carom clickhouse looks)")
	list := flags.Bool("list", false, "print the names of the scenarios and what they measure, and end")
	asJSON := flags.Bool("json", false, "print the result as JSON")
	out := flags.String("out", "", "write the result as JSON to `file`, too")
	flags.BoolVar(&o.verbose, "verbose", false, "show what the servers write, on standard error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list {
		_, err := io.WriteString(stdio.Out, listScenarios())
		return err
	}
	if o.Short {
		o.Runs, o.Messages = 1, min(o.Messages, shortMessages)
	}
	if o.Runs < 1 || o.Runs > 100 || o.Seconds < 0.1 || o.Seconds > 600 {
		return service.Configf("carom bench: --runs wants 1 to 100, --seconds 0.1 to 600")
	}
	if o.Messages < shortMessages || o.Messages > 10*million {
		return service.Configf("carom bench: --messages wants %d to %d", shortMessages, 10*million)
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if o.carom == "" {
		if o.carom, err = os.Executable(); err != nil {
			return fmt.Errorf("find the own binary (see --carom): %w", err)
		}
	}
	result, err := run(ctx, o, chosen, stdio.Err)
	if err != nil {
		return err
	}
	if *out != "" {
		err = atomicfile.Write(*out, func(w io.Writer) error { return writeJSON(w, result) })
	}
	if *asJSON {
		return errors.Join(err, writeJSON(stdio.Out, result))
	}
	return errors.Join(err, result.print(stdio.Out))
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// choose returns the scenarios of the given names, all without any.
func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, service.Configf("carom bench: no scenario %q (see carom bench --help)", name)
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

// run measures the chosen scenarios in a folder of its own.
func run(ctx context.Context, o options, chosen []scenario, progress io.Writer) (result Result, err error) {
	if runtime.GOOS != "linux" {
		return Result{}, service.Configf("carom bench: it reads CPU time and memory from Linux's /proc")
	}
	tools, err := findTools()
	if err != nil {
		return Result{}, err
	}
	dir, err := os.MkdirTemp(o.dir, "carom-bench-")
	if err != nil {
		return Result{}, service.Configf("carom bench: --dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return Result{}, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // daemons of other users work in it
		return Result{}, err
	}
	result = Result{Options: o, Machine: thisMachine(dir), Started: time.Now().UTC()}
	l := lab{options: o, tools: tools, dir: dir, progress: progress}
	for _, s := range chosen {
		measured, err := l.scenario(ctx, s)
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", s.Name, err)
		}
		result.Scenarios = append(result.Scenarios, measured)
	}
	result.Machine.LoadAfter = loadAverage()
	return result, nil
}

// help returns the text of --help.
func help() string { return fmt.Sprintf(about, listScenarios()) }

// listScenarios returns a line for each scenario.
func listScenarios() string {
	var list strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&list, "  %-19s %s\n", s.Name, s.About)
	}
	return list.String()
}
