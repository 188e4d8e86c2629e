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
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/analytics/webhook"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutAnalytics = `carom analytics runs the jobs over ClickHouse: throttle decides the limits of each
(provider, source) from what receivers answered, suppression collects the
addresses that must not be mailed again, attribution finds the delivery that
each bounce and complaint was about, webhook tells your own systems of
complaints, where the policy names one.

  carom analytics run JOB...   run each job once: throttle, suppression, attribution, webhook
  carom analytics serve        run them on schedule until stopped

The jobs keep no state of their own. Any number of instances may run, from cron
or as a service; one run of a job has the turn at a time. Without --policy the
loop only advises: it writes what it would do to limit_log and changes nothing.

Example:
  echo 'mode: active' >policy.yaml
  carom analytics serve --url http://127.0.0.1:8123/carom --policy policy.yaml`

// options are the flags that every subcommand here shares.
type options struct {
	rawURL     *string
	login      *warehouse.Options
	policyFile *string
	period     *time.Duration
	level      *string
	asJSON     *bool
}

// Command runs carom analytics run or serve. version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("analytics", verb), aboutAnalytics, stdio)
	var o options
	o.rawURL, o.login = warehouse.Flags(flags)
	o.policyFile = flags.String("policy", "", "policy `file` (YAML); without one the loop advises")
	o.period = flags.Duration("period", 10*time.Second, "`time` between two runs of throttle, and of attribution")
	o.level = flags.String("log-level", "info", "`level` of the log: debug, info, warn or error")
	o.asJSON = flags.Bool("json", false, "write the log, and the results of run, as JSON")
	listen := flags.String("listen", "", "`address` for /healthz and /metrics, with serve")
	every := flags.Duration("suppression-period", 2*time.Second, "`time` between two runs of suppression, and of webhook, with serve")
	names, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	if *o.period < time.Second || *every < time.Second {
		return service.Configf("%s: a period of less than a second", flags.Name())
	}
	switch verb {
	case "run":
		return runOnce(ctx, names, stdio, o, version)
	case "serve":
		if len(names) > 0 {
			return service.Configf("%s: unexpected argument %q", flags.Name(), names[0])
		}
		return serve(ctx, stdio, o, *every, *listen, version)
	default:
		return service.Configf("carom analytics %s: want run or serve (see carom analytics --help)", verb)
	}
}

// job is one of the jobs, ready to run.
type job struct {
	name string
	run  func(context.Context) (jobs.Result, error)
}

// prepare reads what needs no connection.
func (o *options) prepare(stdio service.IO) (*policy.Policy, *slog.Logger, error) {
	p, err := policy.Load(*o.policyFile)
	if err != nil {
		return nil, nil, service.Configf("%w", err)
	}
	log, err := service.Logger(stdio.Err, *o.level, *o.asJSON)
	return p, log, err
}

// jobs returns every job.
func (o *options) jobs(conn driver.Conn, p *policy.Policy, log *slog.Logger, version string) ([]job, error) {
	throttle := &jobs.Throttle{Conn: conn, Policy: p, Log: log.With("component", "throttle"), Period: *o.period, Version: version}
	suppression := &jobs.Suppression{Conn: conn, Policy: p.Suppression, Log: log.With("component", "suppression"), Version: version}
	attribution := &jobs.Attribution{Conn: conn, Version: version}
	all := []job{{"throttle", throttle.Run}, {"suppression", suppression.Run}, {"attribution", attribution.Run}}
	if w := p.Webhook; w != nil {
		client, err := webhook.New(w.URL, w.SecretFile, w.CAFile, version)
		if err != nil {
			return nil, service.Configf("complaint-webhook: %w", err)
		}
		told := &jobs.Webhook{Conn: conn, Client: client, Endpoint: webhook.Endpoint(w.URL), Log: log.With("component", "webhook"), Version: version}
		all = append(all, job{"webhook", told.Run})
	}
	return all, nil
}

const wantJobs = "throttle, suppression, attribution or webhook"

func runOnce(ctx context.Context, names []string, stdio service.IO, o options, version string) error {
	if len(names) == 0 {
		return service.Configf("carom analytics run: name a job: %s", wantJobs)
	}
	p, log, err := o.prepare(stdio)
	if err != nil {
		return err
	}
	for _, want := range names {
		switch {
		case want == "webhook" && p.Webhook == nil:
			return service.Configf("carom analytics run: the policy has no complaint-webhook")
		case !slices.Contains([]string{"throttle", "suppression", "attribution", "webhook"}, want):
			return service.Configf("carom analytics run: no job %q: want %s", want, wantJobs)
		}
	}
	conn, err := warehouse.Open(ctx, *o.rawURL, *o.login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	all, err := o.jobs(conn, p, log, version)
	if err != nil {
		return err
	}
	for _, want := range names {
		j := all[slices.IndexFunc(all, func(j job) bool { return j.name == want })]
		result, err := j.run(ctx)
		if err != nil {
			return err
		}
		if err := report(stdio, result, *o.asJSON); err != nil {
			return err
		}
	}
	return nil
}

func report(stdio service.IO, r jobs.Result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(stdio.Out).Encode(r)
	}
	text := fmt.Sprintf("%s: run %d, %d keys, %d changes, %d advised, %s\n", r.Job, r.Generation, r.Keys, r.Changes, r.Advised, r.Took.Round(time.Millisecond))
	if r.Pending+r.WaveMinutes > 0 {
		text = fmt.Sprintf("%s: run %d, %d changes, %d pending, accidents found in %d minutes, %s\n", r.Job, r.Generation, r.Changes, r.Pending, r.WaveMinutes, r.Took.Round(time.Millisecond))
	}
	if r.Skipped {
		text = r.Job + ": skipped, another run has the turn\n"
	}
	_, err := fmt.Fprint(stdio.Out, text)
	return err
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
