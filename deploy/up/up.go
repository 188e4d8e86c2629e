// Package up is `carom up`: everything on one machine in one command. It supervises the embedded
// ClickHouse engine, the sender, its agent and the analytics as child processes of the same
// executable, each of which may die and is started again; mail needs only one of them.
//
// On the first start it writes a configuration in PowerMTA's language, a policy and two keys, and
// never touches them again. With a ClickHouse elsewhere (event-stream in the configuration) the
// engine is left out. Mistakes in the configuration end everything with exit status 2 and one
// line; how children are run is package supervise.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"carom/deploy/up/supervise"
	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/sender/config"
)

const about = `
carom up runs everything on this machine: the embedded ClickHouse engine, its tables, the sender,
the node agent and the analytics, each as a process of its own that is started again when it dies.

The first start writes a configuration (DIR/carom.conf, in PowerMTA's language), a policy for the
control loop (DIR/policy.yaml, which only advises) and keys. They are yours: carom does not write
them again. The engine library is looked for as carom clickhouse --help says.

Example:
  carom up --dir ./carom-data
  curl smtp://127.0.0.1:2525 --mail-from me@example.com --mail-rcpt you@example.net -T message.eml

With --time-scale N all of it lives N times as fast, for tests with "carom receivers --time-scale N": what
is configured stays what it is, and the engine's own tables tell that time too.

It stops everything in order on Ctrl-C or SIGTERM. Exit status 2 means that something in the
configuration has to be changed first.`

// The addresses that a first configuration has.
const (
	defaultHTTP = "127.0.0.1:8123"
	defaultSMTP = "127.0.0.1:2525"
)

// Command is `carom up`: it runs until ctx ends or a child says that it cannot work.
func Command(ctx context.Context, args []string, stdio service.IO) (err error) {
	flags := service.NewFlags("up", about, stdio)
	var o Options
	flags.StringVar(&o.Dir, "dir", "./carom-data", "`folder` for data, logs and the first configuration")
	flags.StringVar(&o.ConfigFile, "c", "", "configuration `file` (default: DIR/carom.conf, written if there is none)")
	flags.StringVar(&o.PolicyFile, "policy", "", "policy `file` of the control loop (default: DIR/policy.yaml, written if there is none)")
	flags.StringVar(&o.EngineLib, "engine-lib", "", "the engine library, a `file`")
	flags.StringVar(&o.LogLevel, "log-level", "info", "`level` of the logs: debug, info, warn or error")
	listen := flags.String("listen", "", "`address` of ClickHouse's HTTP interface for the first configuration (default "+defaultHTTP+")")
	smtp := flags.String("smtp", "", "`address` that takes mail for the first configuration (default "+defaultSMTP+")")
	logFiles := flags.Bool("log-files", false, "write the lines of each process to DIR/log/NAME.log instead of standard error")
	clock.Flag(flags.FlagSet)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	log, err := service.Logger(stdio.Err, o.LogLevel, false)
	if err != nil {
		return err
	}
	if o.ConfigFile == "" {
		o.ConfigFile = filepath.Join(o.Dir, "carom.conf")
		if err := writeFirst(o.Dir, o.ConfigFile, *listen, *smtp); err != nil {
			return err
		}
	}
	if o.PolicyFile == "" {
		o.PolicyFile = filepath.Join(o.Dir, "policy.yaml")
		if err := writeNew(o.PolicyFile, firstPolicy, 0o640); err != nil {
			return err
		}
	}
	system, err := Open(o)
	if err != nil {
		return err
	}
	if err := system.hasAddresses(*listen, *smtp); err != nil {
		return err
	}
	line := supervise.Prefixed(stdio.Err)
	if *logFiles {
		files, err := supervise.OpenFiles(filepath.Join(system.Dir, "log"))
		if err != nil {
			return &service.ConfigError{Err: err}
		}
		defer func() {
			if closeErr := files.Close(); err == nil {
				err = closeErr
			}
		}()
		line = files.Line
	}
	s := supervise.New(supervise.Options{Log: log.With("component", "up"), Line: line})
	defer s.Stop()
	if err := system.Start(ctx, s); err != nil {
		return endOf(ctx, err)
	}
	if err := greet(stdio.Out, system); err != nil {
		return err
	}
	return endOf(ctx, s.Wait(ctx))
}

// endOf returns the error that carom up ends with: none when it was told to stop.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return Explain(err)
	}
	return nil
}

// Explain returns err with what a child said of its end as one line. It is a ConfigError if the
// child said that its configuration cannot work.
func Explain(err error) error {
	e, ok := errors.AsType[*supervise.ExitError](err)
	if !ok {
		return err
	}
	line := strings.TrimPrefix(e.Line, "carom: ") // which the parent says too
	if line == "" {
		line = e.Err.Error()
	}
	if e.Status == 2 {
		return service.Configf("%s: %s", e.Name, line)
	}
	return fmt.Errorf("%s ended (%w): %s", e.Name, e.Err, line)
}

// greet says where things are and what to do first.
func greet(w io.Writer, y *System) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\ncarom is up. Configuration %s, policy %s.\n", y.ConfigFile, y.PolicyFile)
	if smtp := y.smtpAddress(); smtp != "" {
		fmt.Fprintf(&b, `
Send a first mail:
  printf 'From: me@example.com\nTo: you@example.net\nSubject: first light\n\nhello\n' |
    curl -sS smtp://%s --mail-from me@example.com --mail-rcpt you@example.net -T -
`, smtp)
	}
	if url := y.QueryURL(); url != "" {
		b.WriteString("\nAsk what became of it:\n")
		for _, q := range Queries {
			fmt.Fprintf(&b, "  curl -sS '%s' -d \"%s\"\n", url, q)
		}
	}
	b.WriteString("\nStop everything with Ctrl-C.\n\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write greeting: %w", err)
	}
	return nil
}

// Queries are three questions that a newcomer may ask ClickHouse.
var Queries = []string{
	"SELECT time, kind, recipient, provider, code, reply FROM events ORDER BY time DESC LIMIT 10 FORMAT PrettyCompact",
	"SELECT provider, dimension, count() AS attempts, any(reply) AS sample FROM events WHERE kind IN ('delivered', 'deferred', 'bounced') GROUP BY ALL ORDER BY provider, attempts DESC FORMAT PrettyCompact",
	"SELECT ts, provider, source, kind, rate_old, rate_new, reason_text FROM limit_log ORDER BY ts FORMAT Vertical",
}

// hasAddresses returns a ConfigError if the flags ask for other addresses than the configuration has.
func (y *System) hasAddresses(listen, smtp string) error {
	if has := y.Config.EventStream.URL.Host; listen != "" && listen != has {
		return service.Configf("carom up: --listen %s: %s has <event-stream> at %s; change it there", listen, y.ConfigFile, has)
	}
	if has, _ := y.Config.Listeners[0].Address(); smtp != "" && smtp != has {
		return service.Configf("carom up: --smtp %s: %s has smtp-listener %s; change it there", smtp, y.ConfigFile, has)
	}
	return nil
}

// smtpAddress returns where mail is taken, or "" if the first listener is a range.
func (y *System) smtpAddress() string {
	address, ok := y.Config.Listeners[0].Address()
	if !ok {
		return ""
	}
	return strings.Replace(address, "0.0.0.0:", "127.0.0.1:", 1)
}

// QueryURL returns the address at which curl reaches the tables, or "" if ClickHouse is spoken to
// by its native protocol.
func (y *System) QueryURL() string {
	if y.Config.EventStream.URL.Scheme == "clickhouse" {
		return ""
	}
	u := *y.Config.EventStream.URL
	u.Path, u.RawQuery = "/", "database="+databaseOf(y.Config.EventStream)
	return u.String()
}

func databaseOf(e *config.EventStream) string {
	if name := strings.Trim(e.URL.Path, "/"); name != "" {
		return name
	}
	return e.Database
}
