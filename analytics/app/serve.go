package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"carom/analytics/policy"
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
	pending prometheus.Counter
	waves   prometheus.Counter

	mu     sync.Mutex
	health map[string]*health // by job; the keys do not change once the jobs run
}

type health struct {
	deadline time.Duration
	good     time.Time // of the last run that went well
	err      error     // of the last run
}

// results are the values of the label result: a closed set.
const (
	resultOK      = "ok"
	resultSkipped = "skipped"
	resultFailed  = "failed"
)

func newServer(log *slog.Logger, registry prometheus.Registerer) *server {
	s := &server{
		log: log, health: map[string]*health{},
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "carom_analytics_run_seconds", Help: "Duration of a run, by job.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}, []string{"job"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carom_analytics_runs_total", Help: "Runs by job and result (ok, skipped, failed).",
		}, []string{"job", "result"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carom_analytics_changes_total", Help: "Changes that runs made, by job.",
		}, []string{"job"}),
	}
	s.pending = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carom_analytics_pending_suppressions_total", Help: "Addresses that wait for a second bounce because their provider had an accident.",
	})
	s.waves = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carom_analytics_provider_accidents_total", Help: "Provider accidents, each of their minutes counted: far more recipients refused as unknown than usual. Alert when it grows.",
	})
	registry.MustRegister(s.seconds, s.runs, s.changes, s.pending, s.waves)
	return s
}

func serve(ctx context.Context, stdio service.IO, o options, every time.Duration, listen, version string) error {
	p, log, err := o.prepare(stdio)
	if err != nil {
		return err
	}
	conn, err := warehouse.Dial(*o.rawURL, *o.login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	registry := prometheus.NewRegistry()
	s := newServer(log.With("component", "analytics"), registry)

	schedule, err := o.schedule(conn, p, log, every, version)
	if err != nil {
		return err
	}
	for _, j := range schedule { // before anything looks at it
		s.health[j.name] = &health{deadline: unhealthyAfter * j.period, good: time.Now()}
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if listen != "" {
		stop, err := s.listen(ctx, listen, registry)
		if err != nil {
			return err
		}
		defer stop()
	}
	for _, j := range schedule {
		running.Go(func() { s.repeat(ctx, j.job, j.period, j.offset) })
	}
	s.log.InfoContext(ctx, "serving", "policy", *o.policyFile, "period", *o.period)
	<-ctx.Done()
	return nil
}

// scheduled is a job with its times.
type scheduled struct {
	job
	period, offset time.Duration
}

// schedule returns every job with its times.
func (o *options) schedule(conn driver.Conn, p *policy.Policy, log *slog.Logger, every time.Duration, version string) ([]scheduled, error) {
	all, err := o.jobs(conn, p, log, version)
	if err != nil {
		return nil, err
	}
	out := make([]scheduled, 0, len(all))
	for _, j := range all {
		one := scheduled{job: j, period: every}
		switch j.name {
		case "throttle":
			one.period, one.offset = *o.period, min(afterBucket, *o.period/4)
		case "attribution":
			one.period, one.offset = *o.period, *o.period/2 // away from throttle
		}
		out = append(out, one)
	}
	return out, nil
}

// repeat runs j at each multiple of period plus offset until ctx ends. A run that takes longer
// than a period makes the next one late, not two at once.
func (s *server) repeat(ctx context.Context, j job, period, offset time.Duration) {
	for {
		now := time.Now()
		next := now.Add(-offset).Truncate(period).Add(period + offset)
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		s.once(ctx, j)
	}
}

func (s *server) once(ctx context.Context, j job) {
	start := time.Now()
	result, err := j.run(ctx)
	if err != nil && canceled(ctx, err) {
		return
	}
	s.seconds.WithLabelValues(j.name).Observe(time.Since(start).Seconds())
	label := resultOK
	switch {
	case err != nil:
		label = resultFailed
	case result.Skipped:
		label = resultSkipped
	}
	s.runs.WithLabelValues(j.name, label).Inc()
	s.changes.WithLabelValues(j.name).Add(float64(result.Changes))
	s.pending.Add(float64(result.Pending))
	s.waves.Add(float64(result.WaveMinutes))

	s.mu.Lock()
	h := s.health[j.name]
	before := h.err
	h.err = err
	if err == nil {
		h.good = time.Now()
	}
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		s.log.WarnContext(ctx, "job failed, it will be tried again", "job", j.name, "error", err)
	case err == nil && before != nil:
		s.log.InfoContext(ctx, "job works again", "job", j.name)
	}
	s.log.DebugContext(ctx, "run", "job", j.name, "result", label, "generation", result.Generation, "keys", result.Keys,
		"changes", result.Changes, "delay", result.Delay, "took", result.Took)
}

// listen serves /healthz and /metrics until stop is called.
func (s *server) listen(ctx context.Context, address string, gatherer prometheus.Gatherer) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, service.Configf("listen on %s: %w", address, err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(ctx, "metrics ended", "error", err)
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
		if age := time.Since(h.good); age > h.deadline {
			http.Error(w, fmt.Sprintf("job %s did not go well for %s: %v", name, age.Round(time.Second), h.err), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = fmt.Fprintln(w, "ok") // the client may be gone
}
