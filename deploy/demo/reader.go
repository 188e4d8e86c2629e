package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// attempts are the kinds of events that end an attempt of one recipient.
const attempts = "kind IN ('delivered', 'deferred', 'bounced')"

// reader asks ClickHouse.
type reader struct{ conn driver.Conn }

func openReader(ctx context.Context, url string) (*reader, error) {
	conn, err := warehouse.Open(ctx, url, warehouse.Options{})
	if err != nil {
		return nil, err
	}
	return &reader{conn}, nil
}

func (r *reader) close() { _ = r.conn.Close() } // only read

// with returns ctx with the parameters of a statement, name after value.
func with(ctx context.Context, parameters ...any) context.Context {
	p := clickhouse.Parameters{}
	for i := 0; i+1 < len(parameters); i += 2 {
		p[fmt.Sprint(parameters[i])] = fmt.Sprint(parameters[i+1])
	}
	return clickhouse.Context(ctx, clickhouse.WithParameters(p))
}

// all reads every row of a statement.
func all[T any](ctx context.Context, r *reader, statement string, scan func(driver.Rows) (T, error)) ([]T, error) {
	rows, err := r.conn.Query(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// progress is a glance at the events.
type progress struct {
	handedOver, delivered       uint64
	lastAttempts, lastDeferrals uint64 // of the last ten seconds
}

func (r *reader) progress(ctx context.Context) (p progress, err error) {
	ctx, cancel := context.WithTimeout(with(ctx, "job", job), callTimeout)
	defer cancel()
	err = r.conn.QueryRow(ctx, `SELECT
    countIf(kind = 'received' AND job = {job:String}),
    countIf(kind = 'delivered'),
    countIf(`+attempts+` AND time > now64(6) - INTERVAL 10 SECOND),
    countIf(kind = 'deferred' AND time > now64(6) - INTERVAL 10 SECOND)
FROM events`).Scan(&p.handedOver, &p.delivered, &p.lastAttempts, &p.lastDeferrals)
	return p, err
}

// Counts are the recipients of the node by what became of them, up to one event.
type Counts struct {
	Accepted                uint64 `json:"accepted"` // of the load
	Received                uint64 `json:"received"` // with the reports that came back
	Delivered               uint64 `json:"delivered"`
	DeferredAttempts        uint64 `json:"deferred_attempts"`
	QueueDeferrals          uint64 `json:"queue_deferrals"` // no connection came about
	Bounced                 uint64 `json:"bounced"`
	Expired                 uint64 `json:"expired"`
	SuppressedAtRcpt        uint64 `json:"suppressed_at_rcpt"`
	SuppressedAfterAccepted uint64 `json:"suppressed_after_acceptance"`
	Deleted                 uint64 `json:"deleted"`
	Discarded               uint64 `json:"discarded"`
	ReportsConsumed         uint64 `json:"reports_consumed"`
	Expanded                uint64 `json:"expanded"`
	RemoteBounces           uint64 `json:"remote_bounces"`
	Complaints              uint64 `json:"complaints"`
	ReportsMatched          uint64 `json:"reports_matched"` // by a token that verified
	Suppressions            uint64 `json:"suppressions"`    // addresses that are suppressed now
	Unsuppressed            uint64 `json:"unsuppressed"`    // addresses that bounced for good or complained and are not
}

// dead are the events after which an address must not be mailed again.
const dead = "(kind IN ('bounced', 'remote-bounce') AND class = 'hard' OR kind = 'complaint') AND recipient_key != ''"

// unsuppressed returns how many addresses should be suppressed and are not.
func (r *reader) unsuppressed(ctx context.Context) (n uint64, err error) {
	err = r.conn.QueryRow(ctx, `SELECT uniqExact(recipient_key) FROM events
WHERE `+dead+` AND recipient_key NOT IN (SELECT recipient_key FROM suppressed)`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("look for missing suppressions: %w", err)
	}
	return n, nil
}

// counts counts the events up to seq.
func (r *reader) counts(ctx context.Context, seq uint64) (c Counts, err error) {
	err = r.conn.QueryRow(with(ctx, "job", job, "seq", seq), `SELECT
    countIf(kind = 'received' AND job = {job:String}), countIf(kind = 'received'),
    countIf(kind = 'delivered'), countIf(kind = 'deferred'), countIf(kind = 'queue-deferred'), countIf(kind = 'bounced'), countIf(kind = 'expired'),
    countIf(kind = 'rejected' AND category = 'suppressed'), countIf(kind = 'suppressed'),
    countIf(kind = 'deleted'), countIf(kind = 'discarded'), countIf(kind = 'report-consumed'), countIf(kind = 'expanded'),
    countIf(kind = 'remote-bounce'), countIf(kind = 'complaint'),
    countIf(kind IN ('remote-bounce', 'complaint') AND match_confidence = 1),
    (SELECT count() FROM suppressed)
FROM events WHERE seq <= {seq:UInt64}`).Scan(
		&c.Accepted, &c.Received, &c.Delivered, &c.DeferredAttempts, &c.QueueDeferrals, &c.Bounced, &c.Expired,
		&c.SuppressedAtRcpt, &c.SuppressedAfterAccepted, &c.Deleted, &c.Discarded, &c.ReportsConsumed, &c.Expanded,
		&c.RemoteBounces, &c.Complaints, &c.ReportsMatched, &c.Suppressions)
	if err != nil {
		return c, fmt.Errorf("count events: %w", err)
	}
	c.Unsuppressed, err = r.unsuppressed(ctx)
	return c, err
}

// CategoryCount is a number of bounces.
type CategoryCount struct {
	Category string `json:"category"`
	Count    uint64 `json:"count"`
}

func (r *reader) bounces(ctx context.Context, seq uint64) ([]CategoryCount, error) {
	list, err := all(with(ctx, "seq", seq), r, `SELECT category, count() FROM events
WHERE kind = 'bounced' AND seq <= {seq:UInt64} GROUP BY category ORDER BY count() DESC, category`,
		func(rows driver.Rows) (c CategoryCount, err error) { return c, rows.Scan(&c.Category, &c.Count) })
	if err != nil {
		return nil, fmt.Errorf("count bounces: %w", err)
	}
	return list, nil
}

// Stream is a row of the view completeness.
type Stream struct {
	Name        string `json:"stream"`
	Rows        uint64 `json:"rows"`
	LastSeq     uint64 `json:"last_seq"`
	Gaps        uint64 `json:"gaps"` // before the first row too
	Duplicates  uint64 `json:"duplicates"`
	Incarnation string `json:"incarnation"`
}

// streams returns what came out of the logs of nodes; annotations of the jobs stand in none.
func (r *reader) streams(ctx context.Context) ([]Stream, error) {
	list, err := all(ctx, r, `SELECT stream, row_count, last_seq, toUInt64(gaps + before_first), toUInt64(duplicates), toString(incarnation)
FROM completeness WHERE node IN (SELECT node FROM nodes) ORDER BY incarnation, stream = 'event' DESC, stream`,
		func(rows driver.Rows) (s Stream, err error) {
			return s, rows.Scan(&s.Name, &s.Rows, &s.LastSeq, &s.Gaps, &s.Duplicates, &s.Incarnation)
		})
	if err != nil {
		return nil, fmt.Errorf("look for gaps: %w", err)
	}
	return list, nil
}

func (r *reader) quarantined(ctx context.Context) (n uint64, err error) {
	if err := r.conn.QueryRow(ctx, "SELECT sum(quarantined) FROM nodes FINAL").Scan(&n); err != nil {
		return 0, fmt.Errorf("look for quarantined records: %w", err)
	}
	return n, nil
}

// rollups returns how many deliveries the roll-ups k10s and k1m hold.
func (r *reader) rollups(ctx context.Context) (k10s, k1m uint64, err error) {
	if err := r.conn.QueryRow(ctx, "SELECT (SELECT sum(ok) FROM k10s), (SELECT sum(ok) FROM k1m)").Scan(&k10s, &k1m); err != nil {
		return 0, 0, fmt.Errorf("add up the roll-ups: %w", err)
	}
	return k10s, k1m, nil
}

// Change is a row of limit_log, with what became of it.
type Change struct {
	ID        string            `json:"id"`
	Time      time.Time         `json:"time"`
	Provider  string            `json:"provider"`
	Source    string            `json:"source"`
	Kind      string            `json:"kind"`
	Rule      string            `json:"rule"`
	Reason    string            `json:"reason"`
	Epoch     uint64            `json:"epoch"`
	EpochFrom uint64            `json:"epoch_from"`
	RateOld   float64           `json:"rate_old"`
	RateNew   float64           `json:"rate_new"`
	Evidence  map[string]uint64 `json:"evidence"` // attempts by dimension, as they were decided on

	From time.Time `json:"window_from"`
	To   time.Time `json:"window_to"`

	// Recomputed is Evidence counted again in the roll-up.
	Recomputed map[string]uint64 `json:"recomputed"`
	// Attempts were made under the limit's epoch, from First to Last.
	Attempts uint64    `json:"attempts"`
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
}

// changes returns every change of a limit in order.
func (r *reader) changes(ctx context.Context) ([]Change, error) {
	list, err := all(ctx, r, `SELECT id, ts, provider, source, toString(kind), rule_id, reason_text, epoch, epoch_from, rate_old, rate_new,
    n_by_class, window_from, window_to
FROM limit_log ORDER BY ts, provider, source, rule_id`,
		func(rows driver.Rows) (c Change, err error) {
			return c, rows.Scan(&c.ID, &c.Time, &c.Provider, &c.Source, &c.Kind, &c.Rule, &c.Reason, &c.Epoch, &c.EpochFrom, &c.RateOld, &c.RateNew,
				&c.Evidence, &c.From, &c.To)
		})
	if err != nil {
		return nil, fmt.Errorf("read the changes of limits: %w", err)
	}
	for i := range list {
		if err := r.follow(ctx, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// evidenceColumns are the columns of k10s that limit_log counts.
const evidenceColumns = `map('ok', sum(ok), 'usr', sum(usr), 'rate', sum(rate), 'conn', sum(conn), 'msgc', sum(msgc), 'block', sum(block),
    'grey', sum(grey), 'unav', sum(unav), 'content', sum(content), 'auth', sum(auth), 'other', sum(other))`

// follow counts the evidence of c again, and the attempts that were made under its limit.
func (r *reader) follow(ctx context.Context, c *Change) error {
	ctx = with(ctx, "provider", c.Provider, "source", c.Source, "epoch", c.Epoch, "before", c.EpochFrom,
		"from", c.From.UnixMicro(), "to", c.To.UnixMicro())
	err := r.conn.QueryRow(ctx, `SELECT `+evidenceColumns+` FROM k10s
WHERE provider = {provider:String} AND source = {source:String} AND epoch = {before:UInt64}
    AND ts >= fromUnixTimestamp64Micro({from:Int64}) AND ts < fromUnixTimestamp64Micro({to:Int64})`).Scan(&c.Recomputed)
	if err != nil {
		return fmt.Errorf("count the evidence of change %s again: %w", c.ID, err)
	}
	err = r.conn.QueryRow(ctx, `SELECT count(), min(time), max(time) FROM events
WHERE provider = {provider:String} AND source = {source:String} AND limit_epoch = {epoch:UInt64} AND `+attempts).Scan(&c.Attempts, &c.First, &c.Last)
	if err != nil {
		return fmt.Errorf("count attempts under change %s: %w", c.ID, err)
	}
	return nil
}

// Share is a share of deferrals.
type Share struct {
	From     float64 `json:"from_s"` // scenario time
	To       float64 `json:"to_s"`
	Attempts uint64  `json:"attempts"`
	Deferred uint64  `json:"deferred"`
}

func (s Share) share() float64 { return float64(s.Deferred) / float64(max(1, s.Attempts)) }

// deferrals returns the share of deferrals of the provider from one scenario time to another.
func (r *reader) deferrals(ctx context.Context, provider string, start time.Time, from, to time.Duration) (Share, error) {
	s := Share{From: from.Seconds(), To: to.Seconds()}
	ctx = with(ctx, "provider", provider, "from", start.Add(from).UnixMicro(), "to", start.Add(to).UnixMicro())
	err := r.conn.QueryRow(ctx, `SELECT count(), countIf(kind = 'deferred') FROM events
WHERE provider = {provider:String} AND `+attempts+`
    AND time >= fromUnixTimestamp64Micro({from:Int64}) AND time < fromUnixTimestamp64Micro({to:Int64})`).Scan(&s.Attempts, &s.Deferred)
	if err != nil {
		return s, fmt.Errorf("count deferrals: %w", err)
	}
	return s, nil
}

// Bucket is what happened at the provider that cut, in five seconds.
type Bucket struct {
	At       float64 `json:"at_s"` // scenario time
	Accepted float64 `json:"accepted_per_s"`
	Deferred float64 `json:"deferred_per_s"`
	Limit    float64 `json:"limit_per_s"` // carom's
	Hidden   float64 `json:"hidden_per_s"`
}

const bucketSize = 5 * time.Second

func (r *reader) buckets(ctx context.Context, provider string, start time.Time) ([]Bucket, error) {
	ctx = with(ctx, "provider", provider, "start", start.UnixMicro(), "width", bucketSize.Microseconds())
	list, err := all(ctx, r, `SELECT intDiv(toUnixTimestamp64Micro(time) - {start:Int64}, {width:Int64}) AS n,
    countIf(kind = 'delivered'), countIf(kind = 'deferred')
FROM events
WHERE provider = {provider:String} AND `+attempts+` AND time >= fromUnixTimestamp64Micro({start:Int64})
GROUP BY n ORDER BY n WITH FILL`,
		func(rows driver.Rows) (b Bucket, err error) {
			var n int64
			var accepted, deferred uint64
			err = rows.Scan(&n, &accepted, &deferred)
			width := bucketSize.Seconds()
			return Bucket{At: float64(n) * width, Accepted: float64(accepted) / width, Deferred: float64(deferred) / width}, err
		})
	if err != nil {
		return nil, fmt.Errorf("read the course of %s: %w", provider, err)
	}
	return list, nil
}
