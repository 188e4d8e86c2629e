package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/clock"
)

// term is how long a run may take, and how its turn is kept meanwhile. All runs of a name share one.
type term struct {
	turn  time.Duration // how long a run that neither ended nor failed nor renewed its turn keeps it
	limit time.Duration // bounds a run
	renew time.Duration // how often the turn is renewed; 0 for a run that is over when its turn is
}

var (
	shortTerm = term{turn: 15 * time.Second, limit: 12 * time.Second}
	// longTerm is that of jobs that work through a range. One statement may keep ClickHouse from taking a
	// renewal for as long as it runs, hence the long turn.
	longTerm = term{turn: 2 * time.Minute, limit: 2 * time.Hour, renew: 20 * time.Second}
)

const (
	// recent is how far back a run looks at the runs before it, so that the cost of asking for the
	// turn does not grow with the time that the jobs have run. Runs of a long term are few.
	recent = time.Hour
	// ever is longer than job_runs keeps its rows.
	ever = 365 * 24 * time.Hour
	// lostTurn is how long after the last run its successor's row counts as lost: a server that
	// dies may know the token of a row that it never stored. Two runs that ask on both sides of this
	// moment have two tokens: claim tells them apart.
	lostTurn = 150 * time.Second
)

// ErrOvertaken is wrapped by the error of a run whose turn another one has taken.
var ErrOvertaken = errors.New("another run has taken the turn")

// run is a run that has the turn.
type run struct {
	job        string
	id         uuid.UUID
	generation uint64
	started    time.Time // by the warehouse's clock
	began      time.Time // the same moment by this process's clock
	version    string
	piece      int // of a range, from 1; 0 for a run that has none
}

// now returns the warehouse's time.
func (r *run) now() time.Time { return r.started.Add(clock.Scaled(time.Since(r.began))) }

// inTurn does the work of one run if the turn is to be had, bounds its time, and notes how it
// ended.
func inTurn(ctx context.Context, conn driver.Conn, job, version string, work func(context.Context, *run, *Result) error) (Result, error) {
	return inTerm(ctx, conn, shortTerm, job, version, work)
}

// inLongTurn is inTurn for work that may take long: the turn is renewed while it goes on.
func inLongTurn(ctx context.Context, conn driver.Conn, job, version string, work func(context.Context, *run, *Result) error) (Result, error) {
	return inTerm(ctx, conn, longTerm, job, version, work)
}

func inTerm(ctx context.Context, conn driver.Conn, t term, job, version string, work func(context.Context, *run, *Result) error) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	result := Result{Job: job}
	r, err := claim(ctx, conn, t, job, version)
	if err != nil {
		return result, err
	}
	if r == nil {
		result.Skipped = true
		return result, nil
	}
	result.Generation = r.generation
	err = r.keeping(ctx, conn, t, func(ctx context.Context) error { return work(ctx, r, &result) })
	result.Took = time.Since(r.began)
	return result, errors.Join(err, r.end(ctx, conn, result, err))
}

// keeping does the work and renews the turn meanwhile. If the turn is lost it ends the work, and the
// error says why.
func (r *run) keeping(ctx context.Context, conn driver.Conn, t term, work func(context.Context) error) error {
	if t.renew == 0 {
		return work(ctx)
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stop(r.renewing(working, conn, t))
	}()
	err := work(working)
	stop(context.Canceled)
	<-done
	if lost := context.Cause(working); err != nil && ctx.Err() == nil && !errors.Is(lost, context.Canceled) {
		return errors.Join(lost, err)
	}
	return err
}

// renewing renews the turn until ctx ends, or until it is lost: another run has it, or so much of it is
// over without an answer that another run may.
func (r *run) renewing(ctx context.Context, conn driver.Conn, t term) error {
	ticker := time.NewTicker(t.renew)
	defer ticker.Stop()
	renewed := r.began
	for {
		select {
		case <-ctx.Done():
			return context.Canceled
		case <-ticker.C:
		}
		at, ends := time.Now(), renewed.Add(t.turn-t.renew) // before another run may take it
		trying, cancel := context.WithDeadline(ctx, ends)
		err := r.renew(trying, conn)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Canceled
		case errors.Is(err, ErrOvertaken):
			return err
		case err == nil:
			renewed = at
		case !time.Now().Before(ends):
			return fmt.Errorf("the turn could not be renewed for %s: %w", time.Since(renewed).Round(time.Second), err)
		}
	}
}

// hasTurn returns nil if no later run has the turn, an error that wraps ErrOvertaken if one has.
func (r *run) hasTurn(ctx context.Context, conn driver.Conn) error {
	var last uint64
	err := conn.QueryRow(with(ctx, clickhouse.Parameters{"job": r.job, "started": micros(r.started)}), `
SELECT max(generation) FROM job_runs WHERE job = {job:String} AND started_at >= fromUnixTimestamp64Micro({started:Int64}, 'UTC')`).Scan(&last)
	if err != nil {
		return fmt.Errorf("ask who has the turn of job %s: %w", r.job, err)
	}
	if last > r.generation {
		return fmt.Errorf("job %s, generation %d: %w", r.job, last, ErrOvertaken)
	}
	return nil
}

// renew makes the turn last from now.
func (r *run) renew(ctx context.Context, conn driver.Conn) error {
	if err := r.hasTurn(ctx, conn); err != nil {
		return err
	}
	at := r.now()
	return r.write(ctx, conn, r.token("job_runs.renewed."+micros(at)), at, "running", Result{}, nil)
}

// claim gives the turn to this run, or returns nil if another run has it.
//
// The generation is one more than the last, and at least the seconds since 1970: nodes that obeyed
// a warehouse which is lost must not take a new one for an old one. Two runs that saw the same last
// generation insert under the same token, of which ClickHouse stores one: who finds its own row
// stored has the turn. The token does not follow the clock while the jobs run, because two runs that
// ask at the end of a second would both be served. Where it does follow it, after lostTurn, a run that
// finds another one under way beside its own row leaves the turn to it; if both find the other, neither
// runs this time.
func claim(ctx context.Context, conn driver.Conn, t term, job, version string) (*run, error) {
	r := &run{job: job, id: uuid.New(), version: version}
	var last, busy uint64
	var before time.Time
	near := max(recent, t.limit+t.turn)
	for _, span := range []time.Duration{near, ever} {
		r.began = time.Now()
		err := conn.QueryRow(with(ctx, clickhouse.Parameters{
			"job": job, "turn": strconv.FormatInt(t.turn.Milliseconds(), 10), "span": strconv.FormatInt(span.Milliseconds(), 10),
		}), `
SELECT now64(6, 'UTC'), max(generation), max(started_at), countIf(status = 'running' AND updated_at > now64(6, 'UTC') - toIntervalMillisecond({turn:Int64}))
FROM job_runs FINAL
WHERE job = {job:String} AND started_at > now64(6, 'UTC') - toIntervalMillisecond({span:Int64})`).Scan(&r.started, &last, &before, &busy)
		if err != nil {
			return nil, fmt.Errorf("ask for the turn of job %s: %w", job, err)
		}
		if last > 0 {
			break // else the jobs stood still, or never ran
		}
	}
	if busy > 0 {
		return nil, nil //nolint:nilnil // no turn is no error
	}
	token := fmt.Sprintf("analytics/%s/after/%d/%d", job, last, max(0, r.started.Sub(before))/lostTurn)
	if job == throttleJob {
		// The rows of job_runs that are read end; what the nodes have seen must not come again.
		var issued uint64
		if err := conn.QueryRow(ctx, `
SELECT greatest((SELECT max(generation) FROM leases), (SELECT max(generation) FROM limit_state))`).Scan(&issued); err != nil {
			return nil, fmt.Errorf("read the last generation: %w", err)
		}
		last = max(last, issued)
	}
	r.generation = max(last, uint64(r.started.Unix())) + 1 //nolint:gosec // after 1970
	if err := r.write(ctx, conn, token, r.started, "running", Result{}, nil); err != nil {
		return nil, err
	}
	var stored, others uint64
	err := conn.QueryRow(with(ctx, clickhouse.Parameters{
		"job": job, "run": r.id.String(), "turn": strconv.FormatInt(t.turn.Milliseconds(), 10), "span": strconv.FormatInt(near.Milliseconds(), 10),
	}), `
SELECT countIf(run_id = {run:UUID}), countIf(run_id != {run:UUID} AND status = 'running' AND updated_at > now64(6, 'UTC') - toIntervalMillisecond({turn:Int64}))
FROM job_runs FINAL
WHERE job = {job:String} AND started_at > now64(6, 'UTC') - toIntervalMillisecond({span:Int64})`).Scan(&stored, &others)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read who has the turn of job %s: %w", job, err)
	case stored == 0:
		return nil, nil //nolint:nilnil // no turn is no error
	case others > 0:
		return nil, r.write(ctx, conn, r.id.String(), r.now(), "skipped", Result{}, nil)
	}
	return r, nil
}

// end writes how the run ended. It is tried once more than the context of the run allows, so that
// the turn is free for the next one.
func (r *run) end(ctx context.Context, conn driver.Conn, result Result, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	status := "ok"
	if cause != nil {
		status = "failed"
	}
	return r.write(ctx, conn, r.token("job_runs."+status), r.now(), status, result, cause)
}

func (r *run) write(ctx context.Context, conn driver.Conn, token string, at time.Time, status string, result Result, cause error) error {
	finished, text := time.Unix(0, 0).UTC(), ""
	if status != "running" {
		finished = at
	}
	if cause != nil {
		text = cause.Error()
	}
	return insert(ctx, conn, token, "job_runs", []string{
		"job", "started_at", "run_id", "updated_at", "finished_at", "status", "generation", "instance", "version",
		"data_to", "keys", "changes", "error",
	}, [][]any{{
		r.job, r.started, r.id, at, finished, status, r.generation, instance(), r.version,
		orEpoch(result.DataTo), uint32(result.Keys), uint32(result.Changes + result.Advised), text, //nolint:gosec // counts of one run
	}})
}

// token names one insert of the run: repeated, it stores nothing twice.
func (r *run) token(what string) string {
	if r.piece > 0 {
		what += "/" + strconv.Itoa(r.piece)
	}
	return fmt.Sprintf("analytics/%s/%d/%s", r.job, r.generation, what)
}

// instance names the process for people.
func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + ":" + strconv.Itoa(os.Getpid())
}
