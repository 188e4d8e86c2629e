// Package e2e is `carom loop e2e`: scenarios of the control loop with the real processes and the engine,
// against simulated receivers whose limits nobody tells, in time that passes twenty times as fast. Each
// runs twice, with the loop active and with it off, on the same configuration: then the backoff mode of
// PowerMTA is all there is.
//
// It prints a table, writes everything as JSON, and returns an error if a threshold is missed. Nothing
// leaves the machine.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"carom/schemas/service"
)

const about = `
carom loop e2e runs scenarios of the control loop end to end: carom up with the embedded engine, carom
receivers with hidden limits, and carom load mail, all with --time-scale. Each scenario runs with the loop
active, then with it off, on one configuration: what the second shows is PowerMTA's backoff.

A row of the table is one run. Goodput is what was accepted as a share of what a sender that knows every
hidden limit would have delivered. Every change of a limit is counted again from ClickHouse.

Examples:
  carom loop e2e                              all scenarios, some two hours
  carom loop e2e --no-baseline                half of that
  carom loop e2e --only A3,A8 --json out.json

The exit status is 0 only if no threshold of the loop was missed.`

// options of a run.
type options struct {
	scale      int
	only       string
	jsonFile   string
	dir        string
	engineLib  string
	noBaseline bool
	keep       bool

	executable string
	log        *slog.Logger
	progress   io.Writer
}

// latencyLimit is how long a change may take from the last of its evidence to its lease in force, p99, in
// seconds of the machine.
const latencyLimit = 15

// Command is `carom loop e2e`.
func Command(ctx context.Context, args []string, stdio service.IO) (err error) {
	flags := service.NewFlags("loop e2e", about, stdio)
	o := options{progress: stdio.Err}
	flags.IntVar(&o.scale, "time-scale", 20, "seconds of scenario time in a second, a `number` from 1 to 50")
	flags.StringVar(&o.only, "only", "", "run these scenarios, `NAMES` with commas")
	flags.StringVar(&o.jsonFile, "json", "", "write all figures to this `file`")
	flags.StringVar(&o.dir, "dir", "", "`folder` for data and logs (default: a temporary one)")
	flags.StringVar(&o.engineLib, "engine-lib", "", "the engine library, a `file`")
	flags.BoolVar(&o.noBaseline, "no-baseline", false, "leave out the runs without the loop")
	flags.BoolVar(&o.keep, "keep", false, "keep the folder")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if o.scale < 1 || o.scale > 50 {
		return service.Configf("carom loop e2e: --time-scale %d: want 1 to 50", o.scale)
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if o.log, err = service.Logger(stdio.Err, "warn", false); err != nil {
		return err
	}
	if o.executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find carom's own executable: %w", err)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "carom-loop-"); err != nil {
			return service.Configf("carom loop e2e: %w", err)
		}
		if !o.keep {
			defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
		}
	}
	outcomes := make([]*outcome, 0, 2*len(chosen))
	for i := range chosen {
		outcomes = append(outcomes, o.trial(ctx, &chosen[i])...)
		if ctx.Err() != nil {
			return errors.New("carom loop e2e was interrupted")
		}
	}
	if o.jsonFile != "" {
		data, err := json.MarshalIndent(outcomes, "", "  ")
		if err != nil {
			return fmt.Errorf("write figures: %w", err)
		}
		if err := os.WriteFile(o.jsonFile, append(data, '\n'), 0o644); err != nil { //nolint:gosec // no secret
			return service.Configf("carom loop e2e: --json: %w", err)
		}
	}
	return report(stdio.Out, outcomes)
}

// choose returns the trials of these names, all for "".
func choose(names string) ([]trial, error) {
	all := trials()
	if names == "" {
		return all, nil
	}
	var chosen []trial
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, t := range all {
			if strings.EqualFold(t.name, strings.TrimSpace(name)) {
				chosen, found = append(chosen, t), true
			}
		}
		if !found {
			known := make([]string, len(all))
			for i, t := range all {
				known[i] = t.name
			}
			return nil, service.Configf("carom loop e2e: --only: there is no %q, want some of %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// trial runs a scenario with the loop and without it, one after the other: a machine is busy with one.
func (o *options) trial(ctx context.Context, t *trial) []*outcome {
	runs := []*outcome{{Scenario: t.name, Loop: true}, {Scenario: t.name}}
	if o.noBaseline {
		runs = runs[:1]
	}
	for _, r := range runs {
		if err := o.run(ctx, t, r); err != nil {
			r.Error = err.Error()
		}
	}
	if loop := runs[0]; loop.Error == "" {
		t.check(loop)
		if len(loop.Unexplained) > 0 {
			loop.Missed = append(loop.Missed, fmt.Sprintf("%d of %d changes do not recompute: %s", len(loop.Unexplained), loop.Changes, loop.Unexplained[0]))
		}
		if loop.LatencySeconds != nil {
			loop.atMost("loop latency p99, seconds", *loop.LatencySeconds, latencyLimit)
		}
	}
	return runs
}

// run makes one run.
func (o *options) run(ctx context.Context, t *trial, r *outcome) error {
	name := t.name + "-off"
	if r.Loop {
		name = t.name + "-loop"
	}
	dir := filepath.Join(o.dir, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	y, err := newSystem(ctx, o, dir, t, r.Loop)
	if err != nil {
		return err
	}
	defer y.close()
	o.say("%s: begun, %s in %s", name, t.duration, t.duration/time.Duration(o.scale))
	sending, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	wrong := make(chan error, 1+len(t.acts))
	others.Go(func() { wrong <- y.load(sending) })
	if r.Loop {
		for _, a := range t.acts {
			others.Go(func() { wrong <- o.perform(sending, y, &a) })
		}
	}
	if err := o.until(ctx, y, t.duration); err != nil {
		return err
	}
	stop()
	others.Wait()
	close(wrong)
	for err := range wrong {
		if err != nil {
			return err
		}
	}
	wait(ctx, 5*time.Second) // for what is under way to ClickHouse
	if err := y.measure(ctx, r, t.steps, t.duration); err != nil {
		return err
	}
	o.say("%s: goodput %.1f %%", name, r.Goodput)
	return nil
}

// perform does what is to happen when its time has come.
func (o *options) perform(ctx context.Context, y *system, a *act) error {
	if err := o.until(ctx, y, a.at); err != nil || ctx.Err() != nil {
		return nil //nolint:nilerr // the run ended before, and says why itself
	}
	length := a.len / time.Duration(y.scale)
	switch a.kind {
	case stopClickHouse:
		return y.pause(ctx, "clickhouse", length)
	case stopAnalytics:
		return y.pause(ctx, "analytics", length)
	default:
		return y.operate(ctx, a.args)
	}
}

// until waits for a moment of scenario time.
func (o *options) until(ctx context.Context, y *system, at time.Duration) error {
	for {
		now, err := y.now(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case now >= at:
			return nil
		}
		wait(ctx, min(time.Second, max(10*time.Millisecond, (at-now)/time.Duration(y.scale))))
	}
}

func (o *options) say(format string, args ...any) {
	_, _ = fmt.Fprintf(o.progress, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// report prints the table and returns what was missed.
func report(out io.Writer, outcomes []*outcome) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "scenario\tloop\tgoodput %\tdeferrals %\tblock min\trecovery min\tp95 delay min\tchanges\tunexplained\tlatency p99 s\tverdict\t")
	var errs []error
	for _, o := range outcomes {
		mode, verdict, latency := "off", "", "-"
		if o.Loop {
			mode, verdict = "on", "pass"
		}
		if o.LatencySeconds != nil {
			latency = fmt.Sprintf("%.1f", *o.LatencySeconds)
		}
		switch {
		case o.Error != "":
			verdict = "ERROR"
			errs = append(errs, fmt.Errorf("%s, loop %s: %s", o.Scenario, mode, o.Error))
		case len(o.Missed) > 0:
			verdict = "MISSED"
			errs = append(errs, fmt.Errorf("%s: %s", o.Scenario, strings.Join(o.Missed, "; ")))
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%s\t%s\t\n", o.Scenario, mode, o.Goodput, o.Deferrals, o.BlockMinutes,
			o.RecoveryMinutes, o.P95DelayMinutes, o.Changes, len(o.Unexplained), latency, verdict)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return errors.Join(errs...)
}
