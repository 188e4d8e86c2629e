// Package jobs holds the jobs over the warehouse: throttle, which runs the control loop once,
// suppression, which adds addresses that must not be mailed, and webhook, which tells the
// operator's own systems of complaints.
//
// A job holds no state between runs: any instance may be killed, doubled or started by an outside
// scheduler. One run of a job has the turn at a time (see claim), and what it writes carries its
// generation, so a run that was overtaken changes nothing. The warehouse's clock is the only one
// that is read. An error of a run leaves what the nodes have; the next run begins where it ended.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

const (
	// turn is how long a run that neither ended nor failed keeps the turn.
	turn = 15 * time.Second
	// runTime bounds a run: it must be over when its turn is.
	runTime = 12 * time.Second
	// recent is how far back a run looks at the runs before it, so that the cost of asking for the
	// turn does not grow with the time that the jobs have run.
	recent = time.Hour
	// ever is longer than job_runs keeps its rows.
	ever = 365 * 24 * time.Hour
	// lostTurn is how long after the last run its successor's row counts as lost: a server that
	// dies may know the token of a row that it never stored. It is longer than the periods of jobs.
	lostTurn = 150 * time.Second
)

// Result is what became of a run.
type Result struct {
	Job        string        `json:"job"`
	Generation uint64        `json:"generation"`
	Skipped    bool          `json:"skipped"` // another run has the turn
	DataTo     time.Time     `json:"data_to"`
	Delay      time.Duration `json:"delay_ns"`
	Keys       int           `json:"keys"`
	Changes    int           `json:"changes"`
	Advised    int           `json:"advised"`
	// Of suppression: addresses that wait for a second bounce, and minutes that providers' accidents
	// were found in.
	Pending     int           `json:"pending,omitempty"`
	WaveMinutes int           `json:"wave_minutes,omitempty"`
	Took        time.Duration `json:"took_ns"`
}

// run is a run that has the turn.
type run struct {
	job        string
	id         uuid.UUID
	generation uint64
	started    time.Time // by the warehouse's clock
	version    string
}

// inTurn does the work of one run if the turn is to be had, bounds its time, and notes how it
// ended.
func inTurn(ctx context.Context, conn driver.Conn, job, version string, work func(context.Context, *run, *Result) error) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	start := time.Now()
	result := Result{Job: job}
	r, err := claim(ctx, conn, job, version)
	if err != nil {
		return result, err
	}
	if r == nil {
		result.Skipped = true
		return result, nil
	}
	result.Generation = r.generation
	err = work(ctx, r, &result)
	result.Took = time.Since(start)
	return result, errors.Join(err, r.end(ctx, conn, result, err))
}

// claim gives the turn to this run, or returns nil if another run has it.
//
// The generation is one more than the last, and at least the seconds since 1970: nodes that obeyed
// a warehouse which is lost must not take a new one for an old one. Two runs that saw the same last
// generation insert under the same token, of which ClickHouse stores one: who finds its own row
// stored has the turn. The token does not follow the clock while the jobs run, because two runs that
// ask at the end of a second would both be served.
func claim(ctx context.Context, conn driver.Conn, job, version string) (*run, error) {
	r := &run{job: job, id: uuid.New(), version: version}
	var last, busy uint64
	var before time.Time
	for _, span := range []time.Duration{recent, ever} {
		err := conn.QueryRow(with(ctx, clickhouse.Parameters{
			"job": job, "turn": strconv.FormatInt(turn.Milliseconds(), 10), "span": strconv.FormatInt(span.Milliseconds(), 10),
		}), `
SELECT now64(6, 'UTC'), max(generation), max(started_at), countIf(status = 'running' AND started_at > now64(6, 'UTC') - toIntervalMillisecond({turn:Int64}))
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
	var stored uint64
	err := conn.QueryRow(with(ctx, clickhouse.Parameters{
		"job": job, "run": r.id.String(), "recent": strconv.FormatInt(recent.Milliseconds(), 10),
	}), `
SELECT count() FROM job_runs
WHERE job = {job:String} AND started_at > now64(6, 'UTC') - toIntervalMillisecond({recent:UInt32}) AND run_id = {run:UUID}`).Scan(&stored)
	if err != nil {
		return nil, fmt.Errorf("read who has the turn of job %s: %w", job, err)
	}
	if stored == 0 {
		return nil, nil //nolint:nilnil // no turn is no error
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
	return r.write(ctx, conn, r.token("job_runs."+status), r.started.Add(result.Took), status, result, cause)
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

// insert writes rows in one block under a token. Without rows it does nothing.
func insert(ctx context.Context, conn driver.Conn, token, table string, columns []string, rows [][]any) (err error) {
	if len(rows) == 0 {
		return nil
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate": 1, "insert_deduplication_token": token, "async_insert": 0, "max_insert_threads": 1,
	}))
	batch, err := conn.PrepareBatch(ctx, fmt.Sprintf("INSERT INTO %s (%s)", table, strings.Join(columns, ", ")))
	if err != nil {
		return fmt.Errorf("write %s: %w", table, err)
	}
	defer func() {
		if err != nil {
			_ = batch.Abort() // gives the connection back; the first error is the one to tell
		}
	}()
	for _, row := range rows {
		if err := batch.Append(row...); err != nil {
			return fmt.Errorf("write %s: %w", table, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write %s: %w", table, err)
	}
	return nil
}

func with(ctx context.Context, parameters clickhouse.Parameters) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithParameters(parameters))
}

func micros(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

// orEpoch returns 1970, which stands for no time in the warehouse, for the zero time.
func orEpoch(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t
}

// each reads rows to their end and returns the first error.
func each(rows driver.Rows, what string, scan func() error) (err error) {
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = fmt.Errorf("%s: %w", what, closed)
		}
	}()
	for rows.Next() {
		if err := scan(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
