// Package demo is `carom demo`: the whole of carom at work on one machine, against receivers that
// it simulates, with a verdict at the end.
//
// It starts what carom up starts, the simulated receivers and the load generator, all as child
// processes. In the middle of the run one receiver cuts its hidden limit to a quarter. The summary
// is computed by SQL from ClickHouse, as anyone could, and set against what the receivers and the
// load generator counted. A check that fails is named, and the demo returns an error.
//
// Nothing leaves the machine: receivers and sources have addresses in 127.0.0.0/8.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carom/deploy/load"
	"carom/deploy/up"
	"carom/deploy/up/supervise"
	"carom/schemas/service"
)

const about = `
carom demo runs the whole loop on this machine in about two minutes: the embedded ClickHouse, a sender
with its agent, the analytics, three simulated providers and a load of 20,000 messages over SMTP.
Half-way the provider gmailish cuts its limit to a quarter without saying so. carom finds the new
limit from the refusals; every step of every message is a row in ClickHouse.

The summary is computed by SQL, and every count is checked against what the receivers saw. The exit
status is 0 only if the loop closed and everything adds up.

Examples:
  carom demo                              two minutes, 20,000 messages
  carom demo --fast                       a smaller one in about a minute and a half
  carom demo --keep --dir ./demo-data     leaves everything running until Ctrl-C, to look around`

// options of a demo.
type options struct {
	dir       string // empty: a temporary folder
	keep      bool
	asJSON    bool
	messages  int
	duration  time.Duration
	engineLib string
	logLevel  string
}

const (
	fastMessages = 8000
	fastDuration = 80 * time.Second
	// minDuration leaves the loop the time for two looks at ten seconds of refusals after the cut,
	// and for their effect.
	minDuration = 60 * time.Second
	maxDuration = time.Hour
)

// Command is `carom demo`.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("demo", about, stdio)
	var o options
	flags.StringVar(&o.dir, "dir", "", "`folder` for all data (default: a temporary one, removed at the end)")
	flags.BoolVar(&o.keep, "keep", false, "leave everything running after the summary, until Ctrl-C, and keep the folder")
	flags.BoolVar(&o.asJSON, "json", false, "print the summary as JSON")
	flags.IntVar(&o.messages, "messages", 0, "`number` of messages (default 20000)")
	flags.DurationVar(&o.duration, "duration", 0, "how long the load lasts, 1m to 1h (default 1m40s)")
	fast := flags.Bool("fast", false, fmt.Sprintf("the same as --messages %d --duration %s", fastMessages, fastDuration))
	flags.StringVar(&o.engineLib, "engine-lib", "", "the engine library, a `file`")
	flags.StringVar(&o.logLevel, "log-level", "info", "`level` of the logs in DIR/log: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if *fast {
		if o.messages != 0 || o.duration != 0 {
			return service.Configf("carom demo: --fast says how many messages in which time: leave out --messages and --duration")
		}
		o.messages, o.duration = fastMessages, fastDuration
	}
	if o.messages != 0 && (o.messages < 2000 || o.messages > 1_000_000) {
		return service.Configf("carom demo: --messages %d: want 2000 to 1000000, or the numbers say nothing", o.messages)
	}
	if o.duration != 0 && (o.duration < minDuration || o.duration > maxDuration) {
		return service.Configf("carom demo: --duration %s: want %s to %s", o.duration, minDuration, maxDuration)
	}
	return o.run(ctx, stdio)
}

// run makes the folder, runs the demo in it and tidies up.
func (o options) run(ctx context.Context, stdio service.IO) error {
	dir, err := o.folder()
	if err != nil {
		return err
	}
	err = o.runIn(ctx, dir, stdio)
	switch {
	case o.dir != "":
	case o.keep || service.ExitStatus(err) == 1 && ctx.Err() == nil:
		_, _ = fmt.Fprintf(stdio.Err, "The folder with all data and logs: %s\n", dir)
	default:
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func (o options) folder() (string, error) {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "carom-demo-")
		if err != nil {
			return "", service.Configf("carom demo: %w", err)
		}
		return dir, nil
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return "", service.Configf("carom demo: --dir: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", service.Configf("carom demo: --dir: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", service.Configf("carom demo: --dir: %w", err)
	}
	if len(entries) > 0 {
		return "", service.Configf("carom demo: --dir %s is not empty: the summary would count what is in it", o.dir)
	}
	return dir, nil
}

func (o options) runIn(ctx context.Context, dir string, stdio service.IO) (err error) {
	log, err := service.Logger(stdio.Err, "warn", false)
	if err != nil {
		return err
	}
	files, err := supervise.OpenFiles(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	s := supervise.New(supervise.Options{Log: log.With("component", "demo"), Line: files.Line})
	defer s.Stop()

	d := &demo{options: o, dir: dir, out: stdio.Err, supervisor: s}
	summary, err := d.perform(ctx)
	switch {
	case ctx.Err() != nil:
		return errors.New("the demo was interrupted")
	case err != nil:
		return up.Explain(err)
	}
	if o.asJSON {
		encoder := json.NewEncoder(stdio.Out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(summary)
	} else {
		_, err = io.WriteString(stdio.Out, summary.text())
	}
	if err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	verdict := summary.verdict()
	if o.keep {
		d.invite()
		if err := s.Wait(ctx); err != nil {
			return errors.Join(verdict, err)
		}
	}
	return verdict
}

// demo is a running demo.
type demo struct {
	options
	dir        string
	out        io.Writer // for progress
	supervisor *supervise.Supervisor

	executable string
	plan       *plan
	receivers  *receiversClient
	system     *up.System
	node       *nodeClient
	warehouse  *reader
}

// perform starts everything, sends the load, waits until all has come to rest, and sums up.
func (d *demo) perform(ctx context.Context) (*Summary, error) {
	var err error
	if d.executable, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find carom's own executable: %w", err)
	}
	if d.plan, err = newPlan(ctx, d.dir, d.messages, d.duration); err != nil {
		return nil, err
	}
	d.say("Starting receivers, ClickHouse, sender, agent and analytics in %s", d.dir)
	if err := d.startReceivers(ctx); err != nil {
		return nil, err
	}
	if err := d.writeConfig(); err != nil {
		return nil, err
	}
	d.system, err = up.Open(up.Options{
		Dir: d.dir, ConfigFile: filepath.Join(d.dir, "carom.conf"), PolicyFile: filepath.Join(d.dir, "policy.yaml"),
		EngineLib: d.engineLib, LogLevel: d.logLevel, Executable: d.executable,
	})
	if err != nil {
		return nil, err
	}
	if err := d.system.Start(ctx, d.supervisor); err != nil {
		return nil, err
	}
	d.node = newNodeClient(d.system.Config.Admin.Path)
	if d.warehouse, err = openReader(ctx, d.plan.clickHouse); err != nil {
		return nil, err
	}
	defer d.warehouse.close()
	d.say("%s", d.plan.describe())

	loaded, err := d.sendLoad(ctx)
	if err != nil {
		return nil, err
	}
	rest, err := d.awaitRest(ctx)
	if err != nil {
		return nil, err
	}
	return d.sumUp(ctx, loaded, rest)
}

// startReceivers starts the receivers and learns where they listen.
func (d *demo) startReceivers(ctx context.Context) error {
	ready := filepath.Join(d.dir, "receivers.json")
	err := d.supervisor.Start(ctx, supervise.Process{
		Name: "receivers", Path: d.executable, Once: true, // their hidden state ends with the process
		Args: []string{
			"receivers", "--scenario", d.plan.scenarioName, "--start-on-first-message", "--ready-file", ready,
			"--reports-to", fmt.Sprintf("smtp://%s/%s", d.plan.smtp, complaintsTo),
			"--out", filepath.Join(d.dir, "receivers"), "--log-level", d.logLevel,
		},
		Ready: func(context.Context) error {
			_, err := os.Stat(ready)
			return err
		},
	})
	if err != nil {
		return err
	}
	d.receivers, err = newReceiversClient(ready)
	return err
}

// sendLoad hands the messages to the node and shows how they fare.
func (d *demo) sendLoad(ctx context.Context) (load.Summary, error) {
	done := d.watch(ctx)
	defer done()
	var out strings.Builder
	err := d.supervisor.Do(ctx, supervise.Process{
		Name: "load", Path: d.executable, Stdout: &out,
		Args: []string{
			"load", "mail", "--to", d.plan.smtp, "--scenario", d.plan.scenarioName, "--json",
			"--messages", fmt.Sprint(d.plan.messages), "--recipients", fmt.Sprint(d.plan.recipients),
			"--job", job, "--from-domain", fromDomain, "--tenant-header", tenantHeader,
			"--accept-log", filepath.Join(d.dir, "handed-over.ndjson"),
		},
	})
	var summary load.Summary
	if jsonErr := json.Unmarshal([]byte(out.String()), &summary); jsonErr != nil {
		if err == nil {
			err = fmt.Errorf("read the load generator's summary: %w", jsonErr)
		}
		return summary, err
	}
	// Its exit status is 1 when a recipient was refused, which a suppression does: the checks tell.
	if status, _ := supervise.Status(err); status == 1 {
		err = nil
	}
	return summary, err
}

// invite says how to look around while everything goes on running.
func (d *demo) invite() {
	url := d.system.QueryURL()
	d.say("\nEverything still runs. ClickHouse answers at %s", url)
	for _, q := range up.Queries {
		d.say("  curl -sS '%s' -d \"%s\"", url, q)
	}
	d.say("The receivers' side: curl -sS %s/stats", d.receivers.url)
	d.say("Stop everything with Ctrl-C.")
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }
