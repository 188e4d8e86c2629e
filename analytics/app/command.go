// Package app is carom analytics and carom limits: it connects the jobs to ClickHouse, runs them
// once or on schedule, and tells people what they decided and why.
//
// A job that fails is reported and tried again at its next time; serve ends only when it is told
// to. Mistakes of the operator are service.ConfigError. Nothing here decides anything.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutAnalytics = `carom analytics runs the jobs over ClickHouse: throttle decides the limits of each
(provider, source) from what receivers answered, reputation scores everybody,
holds keeps mail back that is complained about, suppression collects the
addresses that must not be mailed again, attribution finds the delivery that
each bounce and complaint was about, rollups fills the tables by the hour and
the day, completeness proves that no event is missing or there twice and that
the roll-ups say what the events say, webhook tells your own systems of
complaints and change-webhook of what the loop does, where the policy names one.

  carom analytics run JOB...   run each job once
  carom analytics serve        run them on schedule until stopped
  carom analytics jobs         list the jobs: how far each is, its last and next run

The jobs keep no state of their own. Any number of instances may run, from cron
or as a service; one run of a job has the turn at a time, and a run that is
killed or doubled changes nothing. Without --policy the loop only advises: it
writes what it would do to limit_log and changes nothing.

With --from and --to, run works through what arrived in that range once more:
a job that was wrong or away makes good, what is stored stays as it is.

completeness counts what arrived since its last run, compares the hours that
have closed, and computes roll-ups that differ again; run exits with 1 if
anything is wrong. With --from and --to it counts and compares that time again.

With --listen and --token-file, serve also runs a job when it is asked to:
  POST /v1/jobs/JOB   200 with the result, 202 with ?wait=no, 409 if another run has the turn
  GET  /v1/jobs       what carom analytics jobs --json says
Both need the header "Authorization: Bearer TOKEN". With --on-demand nothing
runs but what is asked for: for a function that an outside scheduler calls.

Example:
  echo 'mode: active' >policy.yaml
  carom analytics serve --url http://127.0.0.1:8123/carom --policy policy.yaml
  carom analytics run suppression --from 2026-11-28 --to 2026-11-29`

// options are the flags that every subcommand here shares.
type options struct {
	rawURL     *string
	login      *warehouse.Options
	policyFile *string
	periods    periods
	level      *string
	asJSON     *bool

	// Of run.
	from, to *string
	// Of serve.
	listen, tokenFile *string
	onDemand          *bool
}

// Command runs carom analytics run, serve or jobs. version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("analytics", verb), aboutAnalytics, stdio)
	o := options{periods: defaultPeriods()}
	o.rawURL, o.login = warehouse.Flags(flags)
	o.policyFile = flags.String("policy", "", "policy `file` (YAML); without one the loop advises")
	flags.Var(o.periods, "every", "`JOB=TIME` between two runs of a job, with serve; more with commas, or again")
	period := flags.Duration("period", 10*time.Second, "`time` between two runs of throttle, and of attribution")
	often := flags.Duration("suppression-period", 2*time.Second, "`time` between two runs of suppression, and of webhook")
	o.level = flags.String("log-level", "info", "`level` of the log: debug, info, warn or error")
	o.asJSON = flags.Bool("json", false, "write the log, and the results of run and jobs, as JSON")
	o.from = flags.String("from", "", "`time` after which what arrived is looked at again, with run: 2026-11-29T08:00 (UTC), or 2d for two days ago")
	o.to = flags.String("to", "", "`time` until which, with --from; without it until now")
	o.listen = flags.String("listen", "", "`address` for /healthz, /metrics and /v1/jobs, with serve")
	o.tokenFile = flags.String("token-file", "", "`file` with the token that /v1/jobs wants; without one it is not served")
	o.onDemand = flags.Bool("on-demand", false, "run jobs only when /v1/jobs asks for them, with serve")
	clock.Flag(flags.FlagSet)
	names, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	if *period < minPeriod || *often < minPeriod {
		return service.Configf("%s: a period of less than a second", flags.Name())
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	o.periods.keepPace(clock.Scale())
	o.share(given["period"], *period, "throttle", "attribution")
	o.share(given["suppression-period"], *often, "suppression", "webhook")
	switch verb {
	case "run":
		return runOnce(ctx, names, stdio, o, version)
	case "serve", "jobs":
		if len(names) > 0 {
			return service.Configf("%s: unexpected argument %q", flags.Name(), names[0])
		}
		if verb == "jobs" {
			return list(ctx, stdio, o)
		}
		return serve(ctx, stdio, o, version)
	default:
		return service.Configf("carom analytics %s: want run, serve or jobs (see carom analytics --help)", verb)
	}
}

// share gives jobs a period that one flag sets for all of them.
func (o *options) share(given bool, period time.Duration, names ...string) {
	for _, name := range names {
		if given {
			o.periods[name] = period
		}
	}
}

// prepare reads what needs no connection.
func (o *options) prepare(stdio service.IO) (*policy.File, *slog.Logger, error) {
	p, err := policy.OpenFile(*o.policyFile)
	if err != nil {
		return nil, nil, service.Configf("%w (see carom policy --help)", err)
	}
	log, err := service.Logger(stdio.Err, *o.level, *o.asJSON)
	return p, log, err
}

func runOnce(ctx context.Context, names []string, stdio service.IO, o options, version string) error {
	const command = "carom analytics run"
	if len(names) == 0 {
		return service.Configf("%s: name a job: %s", command, wantJobs())
	}
	file, log, err := o.prepare(stdio)
	if err != nil {
		return err
	}
	p, err := file.Current()
	if err != nil {
		return service.Configf("%w", err)
	}
	for _, want := range names {
		if err := checkName(command, want, p); err != nil {
			return err
		}
	}
	from, to, err := span(*o.from, *o.to, time.Now().UTC())
	if err != nil {
		return err
	}
	conn, err := warehouse.Open(ctx, *o.rawURL, *o.login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	all, err := o.jobs(conn, func() *policy.Policy { return p }, log, version)
	if err != nil {
		return err
	}
	var wrong error // what a job found; the others run all the same
	for _, want := range names {
		j := find(all, want)
		run := j.run
		if !from.IsZero() {
			if j.runRange == nil {
				return service.Configf("%s: %s looks at the present only: it takes no --from", command, want)
			}
			run = func(ctx context.Context) (jobs.Result, error) { return j.runRange(ctx, from, to) }
		}
		result, err := run(ctx)
		if err != nil {
			return err
		}
		if err := report(stdio, result, *o.asJSON); err != nil {
			return err
		}
		if r := result.Completeness; r != nil && len(r.Wrong) > 0 {
			wrong = fmt.Errorf("%s: %s found %d things wrong", command, want, len(r.Wrong))
		}
	}
	return wrong
}

// span returns the range of times that somebody asks for; zero times if he asks for none.
func span(from, to string, now time.Time) (since, until time.Time, err error) {
	if from == "" {
		if to != "" {
			return since, until, service.Configf("--to without --from: say where the range begins")
		}
		return since, until, nil
	}
	if since, err = moment(from, now, -1); err != nil {
		return since, until, err
	}
	until = now
	if to != "" {
		if until, err = moment(to, now, -1); err != nil {
			return since, until, err
		}
	}
	if !since.Before(until) {
		return since, until, service.Configf("the range from %s to %s is empty", since.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	return since, until, nil
}

func report(stdio service.IO, r jobs.Result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(stdio.Out).Encode(r)
	}
	text := fmt.Sprintf("%s: run %d, %d keys, %d changes, %d advised, %s\n", r.Job, r.Generation, r.Keys, r.Changes, r.Advised, r.Took.Round(time.Millisecond))
	switch {
	case r.Skipped:
		text = r.Job + ": skipped, another run has the turn\n"
	case r.Idle:
		text = r.Job + ": nothing to do\n"
	case r.Pending+r.WaveMinutes > 0:
		text = fmt.Sprintf("%s: run %d, %d changes, %d pending, accidents found in %d minutes, %s\n", r.Job, r.Generation, r.Changes, r.Pending, r.WaveMinutes, r.Took.Round(time.Millisecond))
	}
	if _, err := fmt.Fprint(stdio.Out, text); err != nil || r.Completeness == nil {
		return err
	}
	return reportCompleteness(stdio.Out, r.Completeness)
}

// cutVerb takes the word behind the subcommand off args.
func cutVerb(args []string) (verb string, rest []string) {
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		return args[0], args[1:]
	}
	return "", args
}

func name(command, verb string) string {
	if verb == "" {
		return command
	}
	return command + " " + verb
}

// parseMixed parses flags that stand before, between and behind the arguments, and returns the
// arguments.
func parseMixed(flags *service.Flags, args []string) ([]string, error) {
	var plain []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		args = flags.Args()
		if len(args) == 0 {
			return plain, nil
		}
		plain, args = append(plain, args[0]), args[1:]
	}
}

// canceled reports whether err is the end that was asked for.
func canceled(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}
