package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	suppressionJob = "suppression"

	// overlap is how much of what an earlier run has read is read again: rows become visible
	// in another order than they arrive, within the time of one insert.
	overlap = time.Minute
)

// Suppression is the job that adds the addresses that must not be mailed again: those that bounced
// hard, at the SMTP reply or in a verified report, for every tenant, and those that complained, in
// a verified report, for the tenant they complained about.
//
// A report without a verified token (match_confidence under 1) suppresses nobody.
type Suppression struct {
	Conn    driver.Conn
	Version string // of carom
}

// Run reads the events that arrived since the last run. Read twice they make the same rows, so a
// run that is killed or repeated changes nothing.
func (s *Suppression) Run(ctx context.Context) (result Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	start := time.Now()
	result = Result{Job: suppressionJob}
	r, err := claim(ctx, s.Conn, suppressionJob, s.Version)
	if err != nil {
		return result, err
	}
	if r == nil {
		result.Skipped = true
		return result, nil
	}
	result.Generation = r.generation
	defer func() {
		result.Took = time.Since(start)
		if ended := r.end(ctx, s.Conn, result, err); ended != nil {
			err = errors.Join(err, ended)
		}
	}()

	var last time.Time
	if err := s.Conn.QueryRow(with(ctx, clickhouse.Parameters{"job": suppressionJob}), `
SELECT max(data_to) FROM job_runs FINAL WHERE job = {job:String} AND status = 'ok'`).Scan(&last); err != nil {
		return result, fmt.Errorf("read how far the last run came: %w", err)
	}
	since := time.Unix(0, 0)
	if last.After(since) {
		since = last.Add(-overlap)
	}
	parameters := clickhouse.Parameters{"since": micros(since), "started": micros(r.started), "job": suppressionJob}
	err = s.Conn.Exec(with(ctx, parameters), `
INSERT INTO suppressions (recipient_key, tenant, time, tombstone, category, origin, actor, reason, message_id, recipient_index, expires_at)
SELECT
    recipient_key,
    if(kind = 'complaint', tenant, '') AS scope,
    time,
    false,
    category,
    'job',
    {job:String},
    if(kind = 'complaint', feedback_type, substring(reply, 1, 500)),
    if(kind = 'bounced', message_id, original_message_id),
    if(kind = 'bounced', recipient_index, original_index),
    toDateTime64(0, 6, 'UTC')
FROM events
WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC')
    AND recipient_key != ''
    AND (kind = 'bounced' AND class = 'hard' AND category != 'suppressed'
        OR kind = 'remote-bounce' AND class = 'hard' AND match_confidence >= 1
        OR kind = 'complaint' AND match_confidence >= 1)
    AND (recipient_key, scope, time) NOT IN (
        SELECT recipient_key, tenant, time FROM suppressions WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC'))`)
	if err != nil {
		return result, fmt.Errorf("add suppressions: %w", err)
	}
	var added uint64
	if err := s.Conn.QueryRow(with(ctx, parameters), `
SELECT uniqExact(recipient_key, tenant, time)
FROM suppressions
WHERE actor = {job:String} AND arrived >= fromUnixTimestamp64Micro({started:Int64}, 'UTC')`).Scan(&added); err != nil {
		return result, fmt.Errorf("count suppressions: %w", err)
	}
	result.DataTo, result.Changes = r.started, int(added) //nolint:gosec // rows of one run
	return result, nil
}
