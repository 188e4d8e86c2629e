package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/suppression"
)

const (
	suppressionJob = "suppression"

	// overlap is how much of what an earlier run has read is read again: rows become visible
	// in another order than they arrive, within the time of one insert.
	overlap = time.Minute
	// stretch is the most of arrivals that one run reads: a job that stood still for days catches
	// up in pieces that a run has time for.
	stretch = 6 * time.Hour
	// lookBack is how long before its report a delivery is looked for, to learn the provider.
	lookBack = 10 * 24 * time.Hour
)

// Suppression is the job that adds the addresses that must not be mailed again: those that bounced
// hard, at the SMTP reply or in a verified report, for every tenant; those that complained, in a
// verified report, for the tenant they complained about; and those that bounced softly on so many
// days that the policy gives them a rest.
//
// Only what is about the address counts as hard: a block, refused content or a failed
// authentication says nothing of it, whatever class a rule gave. A report without a verified token
// (match_confidence under 1) suppresses nobody. Hard bounces of a provider that refuses far more
// than usual as unknown are pending: see breaker.
type Suppression struct {
	Conn    driver.Conn
	Policy  suppression.Policy
	Log     *slog.Logger
	Version string // of carom
}

// Run reads the events that arrived since the last run. Read twice they make the same rows, so a
// run that is killed or repeated changes nothing.
func (s *Suppression) Run(ctx context.Context) (Result, error) {
	idle, err := s.idle(ctx)
	if err != nil || idle {
		return Result{Job: suppressionJob, Idle: idle}, err
	}
	return inTurn(ctx, s.Conn, suppressionJob, s.Version, s.work)
}

// RunRange reads the events again that arrived after from and until to.
func (s *Suppression) RunRange(ctx context.Context, from, to time.Time) (Result, error) {
	return inPieces(ctx, s.Conn, suppressionJob, s.Version, from, to, stretch, s.read)
}

// idle reports whether nothing has arrived that a run would deal with, and no row is wanted.
func (s *Suppression) idle(ctx context.Context) (bool, error) {
	w, err := loadWatermark(ctx, s.Conn, suppressionJob)
	if err != nil || !w.isFresh() {
		return false, err
	}
	var found uint8
	err = s.Conn.QueryRow(with(ctx, clickhouse.Parameters{"since": micros(w.dataTo.Add(-overlap)), "until": micros(w.now)}), `
SELECT count() > 0 FROM (SELECT 1 FROM events WHERE `+inSlice+` AND (`+isHard+` OR `+isComplaint+` OR `+isSoft+`) LIMIT 1)`).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for bounces and complaints: %w", err)
	}
	return found == 0, nil
}

// The events that the job reads, as conditions on events. isHard is a bounce that kills the
// address. A report that gave up after a transient answer is not sure enough for that: some
// gateways never try again. It counts among the soft ones.
const (
	inSlice = `arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND recipient_key != ''`
	isTransient = `(code BETWEEN 400 AND 499 OR code = 0 AND startsWith(enhanced, '4.'))`
	isHard      = `(class = 'hard' AND dimension IN ('', 'user') AND category != 'suppressed'
    AND (kind = 'bounced' OR kind = 'remote-bounce' AND match_confidence >= 1 AND NOT ` + isTransient + `))`
	isComplaint = `(kind = 'complaint' AND match_confidence >= 1)`
	// A message that is deferred because of its mailbox counts once, as one that bounces does.
	isSoft = `((class IN ('soft', 'undetermined') OR class = 'hard' AND ` + isTransient + `) AND dimension = 'user'
    AND (kind IN ('bounced', 'deferred') OR kind = 'remote-bounce' AND match_confidence >= 1))`
)

func (s *Suppression) work(ctx context.Context, r *run, result *Result) error {
	since, until, err := s.span(ctx, r.started)
	if err != nil {
		return err
	}
	result.DataTo = until
	return s.read(ctx, r, since, until, result)
}

// read deals with what arrived after since and until until.
func (s *Suppression) read(ctx context.Context, r *run, since, until time.Time, result *Result) error {
	parameters := clickhouse.Parameters{
		"since": micros(since), "until": micros(until), "started": micros(r.started), "job": suppressionJob,
		"confirm": fmt.Sprint(int64(s.Policy.Breaker.ConfirmAfter / time.Second)),
	}
	var final, soft uint64
	var strangers time.Time // earliest message of a report without a provider, 1970 for none
	if err := s.Conn.QueryRow(with(ctx, parameters), `
SELECT
    countIf(`+isHard+` OR `+isComplaint+`), countIf(`+isSoft+`),
    minIf(toDateTime64(UUIDv7ToDateTime(original_message_id), 6, 'UTC'), kind != 'bounced' AND provider = '' AND (`+isHard+` OR `+isComplaint+`))
FROM events
WHERE `+inSlice).Scan(&final, &soft, &strangers); err != nil {
		return fmt.Errorf("look for bounces and complaints: %w", err)
	}
	if final > 0 {
		minutes, err := s.breaker(ctx, r, parameters)
		if err != nil {
			return err
		}
		result.WaveMinutes += minutes
		if err := s.addFinal(ctx, r, parameters, strangers); err != nil {
			return err
		}
	}
	if soft > 0 && s.Policy.SoftBounces.Days > 0 {
		if err := s.addSoft(ctx, r, parameters); err != nil {
			return err
		}
	}
	if final == 0 && soft == 0 {
		return nil
	}
	var added, pending uint64
	if err := s.Conn.QueryRow(with(ctx, parameters), `
SELECT uniqExactIf((recipient_key, tenant, time), NOT pending AND NOT tombstone), uniqExactIf((recipient_key, tenant, time), pending)
FROM suppressions
WHERE actor = {job:String} AND arrived >= fromUnixTimestamp64Micro({started:Int64}, 'UTC')
    AND recipient_key IN (SELECT recipient_key FROM suppression_changes WHERE arrived >= fromUnixTimestamp64Micro({started:Int64}, 'UTC'))`).Scan(&added, &pending); err != nil {
		return fmt.Errorf("count suppressions: %w", err)
	}
	result.Changes, result.Pending = int(added), int(pending) //nolint:gosec // rows of the run, of its earlier pieces too
	return nil
}

// addFinal adds hard bounces and complaints. A hard bounce is pending if its provider had an
// accident in that minute, or if the address waits already and the day is not over. A report that
// does not say the provider has that of the delivery.
//
// An event of a node whose clock is ahead counts from its arrival: nobody could take it back
// before that.
func (s *Suppression) addFinal(ctx context.Context, r *run, parameters clickhouse.Parameters, strangers time.Time) error {
	delivered := r.started // nothing to look for
	if strangers.Unix() > 0 {
		delivered = strangers
		if oldest := r.started.Add(-lookBack); delivered.Before(oldest) {
			delivered = oldest
		}
	}
	parameters["delivered"] = micros(delivered)
	err := s.Conn.Exec(with(ctx, parameters), `
INSERT INTO suppressions (recipient_key, tenant, time, tombstone, pending, category, origin, provider, actor, reason, message_id, recipient_index, expires_at)
SELECT
    e.recipient_key, e.scope, e.at, false,
    e.kind != 'complaint' AND (
        (if(e.provider = '', d.provider, e.provider), toStartOfMinute(e.at)) IN (
            SELECT provider, toDateTime64(minute, 6, 'UTC') FROM suppression_waves
            WHERE minute >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') - INTERVAL 10 DAY)
        OR e.at < w.waits_since + toIntervalSecond({confirm:Int64})),
    e.category, 'job', if(e.provider = '', d.provider, e.provider), {job:String}, e.reason, e.message, e.index,
    toDateTime64(0, 6, 'UTC')
FROM
(
    SELECT
        recipient_key, if(kind = 'complaint', tenant, '') AS scope, least(time, arrived) AS at, kind, category, provider,
        if(kind = 'complaint', feedback_type, substring(reply, 1, 500)) AS reason,
        if(kind = 'bounced', message_id, original_message_id) AS message, if(kind = 'bounced', recipient_index, original_index) AS index
    FROM events
    WHERE `+inSlice+` AND (`+isHard+` OR `+isComplaint+`)
) AS e
LEFT JOIN
(
    SELECT message_id, recipient_index, any(provider) AS provider
    FROM events
    WHERE kind = 'delivered' AND time >= fromUnixTimestamp64Micro({delivered:Int64}, 'UTC') - INTERVAL 1 HOUR
        AND time <= fromUnixTimestamp64Micro({started:Int64}, 'UTC')
        AND message_id IN (SELECT original_message_id FROM events WHERE `+inSlice+` AND kind != 'bounced' AND provider = '' AND (`+isHard+` OR `+isComplaint+`))
    GROUP BY message_id, recipient_index
) AS d ON e.message = d.message_id AND e.index = d.recipient_index
LEFT JOIN
(
    SELECT recipient_key, maxIf(time, NOT pending) AS settled, arrayMin(arrayFilter(t -> t > settled, groupArrayIf(time, pending))) AS waits_since
    FROM suppressions
    WHERE tenant = '' AND recipient_key IN (SELECT recipient_key FROM events WHERE `+inSlice+` AND `+isHard+`)
    GROUP BY recipient_key
) AS w ON e.recipient_key = w.recipient_key
WHERE (e.recipient_key, e.scope, e.at) NOT IN (
    SELECT recipient_key, tenant, time FROM suppressions
    WHERE recipient_key IN (SELECT recipient_key FROM events WHERE `+inSlice+` AND (`+isHard+` OR `+isComplaint+`)))`)
	if err != nil {
		return fmt.Errorf("add suppressions: %w", err)
	}
	return nil
}

// span returns the arrivals that this run reads: after since, up to until.
func (s *Suppression) span(ctx context.Context, started time.Time) (since, until time.Time, err error) {
	w, err := loadWatermark(ctx, s.Conn, suppressionJob)
	switch {
	case err != nil:
		return since, until, err
	case !w.dataTo.IsZero():
		since = w.dataTo.Add(-overlap)
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
