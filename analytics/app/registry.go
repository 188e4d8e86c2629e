package app

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/analytics/webhook"
	"carom/schemas/service"
)

// job is one of the jobs, ready to run.
type job struct {
	name   string
	period time.Duration // between two runs on schedule
	offset time.Duration // of a run behind a multiple of the period
	run    func(context.Context) (jobs.Result, error)
	// runRange runs it over what arrived in a range; nil for a job that looks at the present only.
	runRange func(ctx context.Context, from, to time.Time) (jobs.Result, error)
}

// jobNames are the names of all jobs, in the order in which people are told of them.
var jobNames = []string{"throttle", "suppression", "attribution", "reputation", "holds", "webhook", "change-webhook", "rollups", "completeness"}

// wantJobs names all jobs for a message.
func wantJobs() string {
	last := len(jobNames) - 1
	return strings.Join(jobNames[:last], ", ") + " or " + jobNames[last]
}

func checkName(command, name string, p *policy.Policy) error {
	switch {
	case !slices.Contains(jobNames, name):
		return service.Configf("%s: no job %q: want %s", command, name, wantJobs())
	case name == "webhook" && p.Webhook == nil:
		return service.Configf("%s: the policy has no complaint-webhook", command)
	case name == "change-webhook" && p.ChangeWebhook == nil:
		return service.Configf("%s: the policy has no change-webhook", command)
	}
	return nil
}

// jobs returns every job. current gives the policy of a run; webhooks are those of the first.
func (o *options) jobs(conn driver.Conn, current func() *policy.Policy, log *slog.Logger, version string) ([]job, error) {
	p := current()
	period := func(name string) time.Duration { return o.periods[name] }
	throttle := &jobs.Throttle{Conn: conn, Current: current, Log: log.With("component", "throttle"), Period: period("throttle"), Version: version}
	suppression := func() *jobs.Suppression {
		return &jobs.Suppression{Conn: conn, Policy: current().Suppression, Log: log.With("component", "suppression"), Version: version}
	}
	attribution := &jobs.Attribution{Conn: conn, Version: version}
	completeness := &jobs.Completeness{Conn: conn, Log: log.With("component", "completeness"), Version: version}
	all := []job{
		{name: "throttle", offset: min(afterBucket, period("throttle")/4), run: throttle.Run},
		{
			name: "suppression",
			run:  func(ctx context.Context) (jobs.Result, error) { return suppression().Run(ctx) },
			runRange: func(ctx context.Context, from, to time.Time) (jobs.Result, error) {
				return suppression().RunRange(ctx, from, to)
			},
		},
		{name: "attribution", offset: period("attribution") / 2, run: attribution.Run, runRange: attribution.RunRange}, // away from throttle
		{name: "reputation", offset: min(30*time.Second, period("reputation")/4), run: func(ctx context.Context) (jobs.Result, error) {
			return (&jobs.Reputation{Conn: conn, Policy: current().Reputation, Log: log.With("component", "reputation"), Version: version}).Run(ctx)
		}},
		{name: "holds", offset: period("holds") / 2, run: func(ctx context.Context) (jobs.Result, error) {
			return (&jobs.Holds{Conn: conn, Policy: current(), Log: log.With("component", "holds"), Version: version}).Run(ctx)
		}},
		{name: "completeness", offset: period("completeness") / 3, run: completeness.Run, runRange: completeness.RunRange},
	}
	rollUps := &jobs.RollUps{Conn: conn, Version: version}
	// Late enough for what was sent in the last seconds of an hour to have come.
	all = append(all, job{name: "rollups", offset: min(20*time.Second, period("rollups")/4), run: rollUps.Run, runRange: rollUps.RunRange})
	if w := p.Webhook; w != nil {
		client, err := webhook.New(w.URL, w.SecretFile, w.CAFile, version)
		if err != nil {
			return nil, service.Configf("complaint-webhook: %w", err)
		}
		told := &jobs.Webhook{Conn: conn, Client: client, Endpoint: webhook.Endpoint(w.URL), Log: log.With("component", "webhook"), Version: version}
		all = append(all, job{name: "webhook", run: told.Run})
	}
	if w := p.ChangeWebhook; w != nil {
		client, err := webhook.New(w.URL, w.SecretFile, w.CAFile, version)
		if err != nil {
			return nil, service.Configf("change-webhook: %w", err)
		}
		// A name of its own: both webhooks may have one URL, and each looks after what waits under its name.
		told := &jobs.ChangeWebhook{Conn: conn, Client: client, Endpoint: webhook.Endpoint(w.URL) + "#changes", Log: log.With("component", "change-webhook"), Version: version}
		all = append(all, job{name: "change-webhook", run: told.Run})
	}
	for i := range all {
		all[i].period = period(all[i].name)
	}
	return all, nil
}

// find returns the job called name, nil if there is none.
func find(all []job, name string) *job {
	if i := slices.IndexFunc(all, func(j job) bool { return j.name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

// periods are the times between two runs of each job on schedule. It is a flag: JOB=TIME, repeated or
// with commas between.
type periods map[string]time.Duration

func defaultPeriods() periods {
	return periods{
		"throttle": 10 * time.Second, "suppression": 2 * time.Second, "attribution": 10 * time.Second, "webhook": 2 * time.Second, "change-webhook": 5 * time.Second, "reputation": 5 * time.Minute, "holds": time.Minute, "rollups": 5 * time.Minute,
		"completeness": 5 * time.Minute,
	}
}

// keepPace makes jobs that no limit waits for run no more often although time passes scale times as
// fast, where nobody said how often: they would take the engine from those that decide.
func (p periods) keepPace(scale int) {
	for name, d := range defaultPeriods() {
		switch name {
		case "throttle", "holds", "attribution", "rollups": // holds needs the last two
		default:
			if p[name] == d {
				p[name] = time.Duration(scale) * d
			}
		}
	}
}

// minPeriod bounds how often a job runs.
const minPeriod = time.Second

// String is part of flag.Value.
func (p periods) String() string {
	parts := make([]string, 0, len(p))
	for name, d := range p {
		parts = append(parts, name+"="+d.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// Set is part of flag.Value.
func (p periods) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		d, err := time.ParseDuration(value)
		switch {
		case !slices.Contains(jobNames, name):
			return fmt.Errorf("no job %q: want %s", name, wantJobs())
		case err != nil || d < minPeriod:
			return fmt.Errorf("%q: want a period of at least %s, for example %s=30s", part, minPeriod, name)
		}
		p[name] = d
	}
	return nil
}
