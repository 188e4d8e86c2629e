// Package service is the chassis that every carom subcommand stands on: its streams, its exit
// statuses, its flag set, its logger and its signals.
//
// It knows nothing of mail or ClickHouse. Errors of the operator's making are ConfigError (exit
// status 2), every other error is status 1; only main turns an error into an exit.
// Everything here is safe for use from one goroutine at start-up.
package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
)

// IO holds the streams of one run of a subcommand. A command writes its result to Out and
// everything else (log lines, progress, errors) to Err.
type IO struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// ConfigError is a mistake in what the operator wrote: a flag, a configuration file, a name.
// It ends the process with status 2. The message names the thing and the way out.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// Configf returns a ConfigError with a formatted message; %w works as in fmt.Errorf.
func Configf(format string, args ...any) error {
	return &ConfigError{Err: fmt.Errorf(format, args...)}
}

// ExitStatus returns the exit status that belongs to err: 0 for nil and for a request for help,
// 2 for a ConfigError, 1 for everything else.
func ExitStatus(err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if _, ok := errors.AsType[*ConfigError](err); ok {
		return 2
	}
	return 1
}

// Flags is a flag set whose --help teaches: what the command does, an example, then the flags.
type Flags struct {
	*flag.FlagSet
	about string
	out   io.Writer
}

// NewFlags returns the flag set of the subcommand name ("sender", "limits list"). The text about
// says what the command does and ends with an example; --help prints it to stdio.Out.
func NewFlags(name, about string, stdio IO) *Flags {
	fs := flag.NewFlagSet("carom "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return &Flags{FlagSet: fs, about: about, out: stdio.Out}
}

// Parse parses args. A mistake becomes a ConfigError; a request for help prints it and returns
// flag.ErrHelp, which ExitStatus counts as success.
func (f *Flags) Parse(args []string) error {
	err := f.FlagSet.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.help()
		return flag.ErrHelp
	}
	if err != nil {
		return Configf("%s: %w (see %s --help)", f.Name(), err, f.Name())
	}
	return nil
}

// help prints what --help shows. A name of more than one letter stands with two dashes, as in all
// that carom says; package flag prints one and takes both.
func (f *Flags) help() {
	var b strings.Builder
	f.SetOutput(&b)
	f.PrintDefaults()
	f.SetOutput(io.Discard)
	text := strings.TrimSpace(f.about)
	if b.Len() > 0 {
		text += "\n\nFlags:\n" + longFlag.ReplaceAllString(b.String(), "  --$1")
	} else {
		text += "\n"
	}
	_, _ = io.WriteString(f.out, text)
}

// longFlag is the start of a line of flag.PrintDefaults that names a flag of more than one letter.
var longFlag = regexp.MustCompile(`(?m)^  -([a-z0-9][a-z0-9-])`)

// NoArgs returns a ConfigError if Parse left arguments behind the flags.
func (f *Flags) NoArgs() error {
	if f.NArg() > 0 {
		return Configf("%s: unexpected argument %q (see %s --help)", f.Name(), f.Arg(0), f.Name())
	}
	return nil
}

// Logger returns the logger of a process: text lines to w, or JSON lines, from level upwards
// ("debug", "info", "warn", "error").
func Logger(w io.Writer, level string, asJSON bool) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, Configf("log level %q: want debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// UntilSignal returns a context that ends on SIGINT or SIGTERM. After the first signal the
// default action is back, so a second one ends a process that hangs while it stops.
func UntilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
