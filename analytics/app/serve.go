package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const (
	// afterBucket is how long after the end of a bucket throttle runs: the time that an agent
	// takes to ship what happened in it.
	afterBucket = 2500 * time.Millisecond
	// unhealthyAfter is how many periods without a run that went well make serve unhealthy.
	unhealthyAfter = 6
)

// server runs the jobs on schedule and tells how they do.
type server struct {
	log     *slog.Logger
	seconds *prometheus.HistogramVec
	runs    *prometheus.CounterVec
	changes *prometheus.CounterVec
	decided *prometheus.CounterVec
	pending prometheus.Counter
	waves   prometheus.Counter
	wrong   prometheus.Gauge

	mu     sync.Mutex
	health map[string]*health // by job; the keys do not change once the jobs run
}

type health struct {
	deadline time.Duration // 0 for a job that runs only when it is asked to
	good     time.Time     // of the last run that went well
	err      error         // of the last run
}

// results are the values of the label result: a closed set.
const (
	resultOK      = "ok"
	resultSkipped = "skipped"
	resultIdle    = "idle"
	resultFailed  = "failed"
)

func newServer(log *slog.Logger, registry prometheus.Registerer) *server {
	s := &server{
		log: log, health: map[string]*health{},
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "carom_analytics_run_seconds", Help: "Duration of a run, by job.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}, []string{"job"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carom_analytics_runs_total", Help: "Runs by job and result (ok, skipped, idle, failed).",
		}, []string{"job", "result"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carom_analytics_changes_total", Help: "Changes that runs made, by job.",
		}, []string{"job"}),
	}
	s.decided = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carom_analytics_limit_changes_total",
		Help: "What the loop did (kind change) or would have done (would_change), by rule as in limit_log: BACKOFF, SUSPEND, PROBE, PIN, HOLD and so on.",
	}, []string{"kind", "rule"})
	s.wrong = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "carom_analytics_policy_wrong", Help: "1 while the policy file has a mistake and the policy of before is in force, else 0. Alert on it.",
	})
	s.pending = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carom_analytics_pending_suppressions_total", Help: "Addresses that wait for a second bounce because their provider had an accident.",
	})
	s.waves = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carom_analytics_provider_accidents_total", Help: "Provider accidents, each of their minutes counted: far more recipients refused as unknown than usual. Alert when it grows.",
	})
	registry.MustRegister(s.seconds, s.runs, s.changes, s.pending, s.waves, s.decided, s.wrong)
	return s
}

func serve(ctx context.Context, stdio service.IO, o options, version string) error {
	file, log, err := o.prepare(stdio)
	if err != nil {
		return err
	}
	switch {
	case *o.tokenFile != "" && *o.listen == "":
		return service.Configf("carom analytics serve: --token-file is for /v1/jobs, which needs --listen")
	case *o.onDemand && *o.tokenFile == "":
		return service.Configf("carom analytics serve: with --on-demand nothing would ever run: it needs --listen and --token-file")
	case *o.tokenFile != "":
		if _, err := readToken(*o.tokenFile); err != nil {
			return service.Configf("carom analytics serve: %w", err)
		}
	}
	conn, err := warehouse.Dial(*o.rawURL, *o.login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	registry := prometheus.NewRegistry()
	s := newServer(log.With("component", "analytics"), registry)
	all, err := o.jobs(conn, s.policy(file), log, version)
	if err != nil {
		return err
	}
	for _, j := range all { // before anything looks at it
		h := &health{good: time.Now()}
		if !*o.onDemand {
			h.deadline = unhealthyAfter * max(j.period, maxBackoff/unhealthyAfter)
		}
		s.health[j.name] = h
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if *o.listen != "" {
		mux := s.pages(registry)
		if *o.tokenFile != "" {
			t := newTrigger(ctx, s, conn, all, *o.tokenFile)
			defer t.wait()
			t.register(mux)
		}
		stop, err := s.listen(ctx, *o.listen, mux)
		if err != nil {
			return err
		}
		defer stop()
	}
	if !*o.onDemand {
		for _, j := range all {
			running.Go(func() { s.repeat(ctx, &j) })
		}
	}
	s.log.InfoContext(ctx, "serving", "policy", *o.policyFile, "periods", o.periods.String(), "on_demand", *o.onDemand)
	<-ctx.Done()
	return nil
}

const (
	// maxBackoff bounds how long a job that fails waits longer than its period.
	maxBackoff = time.Minute
	// jitterShare of a period is by how much a run may be late, so that instances do not all ask for the
	// turn at once.
	jitterShare = 20
)

// quickest returns how soon a job runs again where time passes faster than the machine works: the loop
// goes first.
func (j *job) quickest() time.Duration {
	if j.name == "throttle" {
		return 400 * time.Millisecond
	}
	return 4 * time.Second
}

// next returns when a job runs after now: at the next multiple of its period plus offset, a little later
// by random (0 to 1), and after failures in a row not before twice, four, eight times the period.
func (j *job) next(now time.Time, failures int, random float64) time.Time {
	wait := j.period
	for range min(failures, 10) {
		wait = min(2*wait, max(j.period, maxBackoff))
	}
	at := now.Add(wait - j.period - j.offset).Truncate(j.period).Add(j.period + j.offset)
	return at.Add(time.Duration(random * float64(j.period/jitterShare)))
}

// repeat runs j on schedule until ctx ends. A run that takes longer than a period makes the next one
// late, not two at once.
func (s *server) repeat(ctx context.Context, j *job) {
	failures := 0
	for {
		now := clock.Now()
		wait := clock.Real(j.next(now, failures, rand.Float64()).Sub(now)) //nolint:gosec // no secret
		if clock.Scale() > 1 {
			wait = max(wait, j.quickest())
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if _, err := s.once(ctx, j.name, j.run); err != nil {
			failures++
		} else {
			failures = 0
		}
	}
}

// once runs a job and notes how it did.
func (s *server) once(ctx context.Context, name string, run func(context.Context) (jobs.Result, error)) (jobs.Result, error) {
	start := time.Now()
	result, err := run(ctx)
	if err != nil && canceled(ctx, err) {
		return result, err
	}
	s.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
	label := resultOK
	switch {
	case err != nil:
		label = resultFailed
	case result.Skipped:
		label = resultSkipped
	case result.Idle:
		label = resultIdle
	}
	s.runs.WithLabelValues(name, label).Inc()
	s.changes.WithLabelValues(name).Add(float64(result.Changes))
	s.pending.Add(float64(result.Pending))
	s.waves.Add(float64(result.WaveMinutes))
	for d, n := range result.ByRule {
		s.decided.WithLabelValues(d.Kind, d.Rule).Add(float64(n))
	}

	s.mu.Lock()
	h := s.health[name]
	before := h.err
	h.err = err
	if err == nil {
		h.good = time.Now()
	}
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		s.log.WarnContext(ctx, "job failed, it will be tried again", "job", name, "error", err)
	case err == nil && before != nil:
		s.log.InfoContext(ctx, "job works again", "job", name)
	}
	s.log.DebugContext(ctx, "run", "job", name, "result", label, "generation", result.Generation, "keys", result.Keys,
		"changes", result.Changes, "delay", result.Delay, "took", result.Took)
	return result, err
}

// policy returns what gives the policy of a run. A mistake in the file is told once, and the policy of before
// stays.
func (s *server) policy(file *policy.File) func() *policy.Policy {
	var mu sync.Mutex
	told := ""
	return func() *policy.Policy {
		p, err := file.Current()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil && err.Error() != told:
			told = err.Error()
			s.wrong.Set(1)
			s.log.Error("the policy file has a mistake: the policy of before stays in force (see carom policy check)", "error", err)
		case err == nil && told != "":
			told = ""
			s.wrong.Set(0)
			s.log.Info("the policy file is right again, and in force")
		}
		return p
	}
}

// pages returns what answers at /healthz and /metrics.
func (s *server) pages(gatherer prometheus.Gatherer) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	return mux
}

// listen serves pages until stop is called.
func (s *server) listen(ctx context.Context, address string, pages http.Handler) (stop func(), err error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, service.Configf("listen on %s: %w", address, err)
	}
	server := &http.Server{Handler: pages, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(ctx, "server ended", "error", err)
		}
	}()
	return func() {
		_ = server.Close() // scrapes in flight may break off
		<-done
	}, nil
}

// healthz answers 200 if every job went well lately, else 503 with what is wrong.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.health {
		if age := time.Since(h.good); h.deadline > 0 && age > h.deadline {
			http.Error(w, fmt.Sprintf("job %s did not go well for %s: %v", name, age.Round(time.Second), h.err), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = fmt.Fprintln(w, "ok") // the client may be gone
}
