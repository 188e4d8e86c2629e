package jobs

import (
	"context"
	"database/sql"
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
	// stretch is the most of arrivals that one run reads: a job that stood still for days catches
	// up in pieces that a run has time for.
	stretch = 6 * time.Hour
)

// Suppression is the job that adds the addresses that must not be mailed again: those that bounced
// hard, at the SMTP reply or in a verified report, for every tenant, and those that complained, in
// a verified report, for the tenant they complained about.
//
// Only what is about the address counts as hard: a block, refused content or a failed
// authentication says nothing of it, whatever class a rule gave. A report without a verified token
// (match_confidence under 1) suppresses nobody.
type Suppression struct {
	Conn    driver.Conn
	Version string // of carom
}

// Run reads the events that arrived since the last run. Read twice they make the same rows, so a
// run that is killed or repeated changes nothing.
func (s *Suppression) Run(ctx context.Context) (Result, error) {
	return inTurn(ctx, s.Conn, suppressionJob, s.Version, s.work)
}

func (s *Suppression) work(ctx context.Context, r *run, result *Result) error {
	since, until, err := s.span(ctx, r.started)
	if err != nil {
		return err
	}
	parameters := clickhouse.Parameters{"since": micros(since), "until": micros(until), "started": micros(r.started), "job": suppressionJob}
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
WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND recipient_key != ''
    AND (kind = 'bounced' AND class = 'hard' AND dimension IN ('', 'user') AND category != 'suppressed'
        OR kind = 'remote-bounce' AND class = 'hard' AND dimension IN ('', 'user') AND match_confidence >= 1
        OR kind = 'complaint' AND match_confidence >= 1)
    AND (recipient_key, scope, time) NOT IN (
        SELECT recipient_key, tenant, time FROM suppressions WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC'))`)
	if err != nil {
		return fmt.Errorf("add suppressions: %w", err)
	}
	var added uint64
	if err := s.Conn.QueryRow(with(ctx, parameters), `
SELECT uniqExact(recipient_key, tenant, time)
FROM suppressions
WHERE actor = {job:String} AND arrived >= fromUnixTimestamp64Micro({started:Int64}, 'UTC')`).Scan(&added); err != nil {
		return fmt.Errorf("count suppressions: %w", err)
	}
	result.DataTo, result.Changes = until, int(added) //nolint:gosec // rows of one run
	return nil
}

// span returns the arrivals that this run reads: after since, up to until.
func (s *Suppression) span(ctx context.Context, started time.Time) (since, until time.Time, err error) {
	// Only the row that ends a run has this status, so that FINAL is not needed, and the last row
	// is found without reading every run there was.
	err = s.Conn.QueryRow(with(ctx, clickhouse.Parameters{"job": suppressionJob}), `
SELECT data_to FROM job_runs WHERE job = {job:String} AND status = 'ok' ORDER BY job DESC, started_at DESC LIMIT 1`).Scan(&since)
	switch {
	case err == nil:
		since = since.Add(-overlap)
	case !errors.Is(err, sql.ErrNoRows):
		return since, until, fmt.Errorf("read how far the last run came: %w", err)
	default:
		if err := s.Conn.QueryRow(ctx, "SELECT min(arrived) - INTERVAL 1 SECOND FROM events").Scan(&since); err != nil {
			return since, until, fmt.Errorf("look for the first event: %w", err)
		}
	}
	until = started
	if piece := since.Add(overlap + stretch); since.Unix() > 0 && piece.Before(started) {
		until = piece
	}
	return since, until, nil
}
