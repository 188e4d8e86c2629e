package windows

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/control"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

// historySpan is how far back a key's history is read when the loop first sees it.
const historySpan = 14 * day

const day = 24 * time.Hour

// hourly are the hours and minutes of the keys asked for.
var hourly = warehouse.Hourly("provider, source, ts, ok, usr, rate, block, unav, other",
	"ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND "+IsKey)

// minutely are the minutes alone, for as long as they are kept.
const minutely = "SELECT provider, source, ts, ok, usr, rate, block, unav, other FROM k1m WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND " + IsKey

// attempts are those of a row of hourly that say something about the rate.
const attempts = "ok + usr + rate + block + unav + other"

// history reads what keys that the loop has no state of were taken in the last two weeks: the hours that
// had mail, and of them the one that only a twentieth was above. What began less than a day ago is no
// history: a database that was empty must not slow a key down. Nor has a key with few attempts in the last day one:
// it runs on its configuration (design/control.md 5.5, rule 9).
func (r *Reader) history(ctx context.Context, now time.Time, wanted Wanted, s *Snapshot) error {
	var keys []limits.Key
	for id, k := range s.Keys {
		if len(k.Nodes) > 0 && (wanted.IsKnown == nil || !wanted.IsKnown(id)) {
			keys = append(keys, id)
		}
	}
	for some := range slices.Chunk(keys, keysAtOnce) {
		if err := r.historyOf(ctx, now, wanted, some, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) historyOf(ctx context.Context, now time.Time, wanted Wanted, keys []limits.Key, s *Snapshot) (err error) {
	rows, err := r.query(ctx, WithKeys(clickhouse.Parameters{
		"since": micros(now.Add(-historySpan).Truncate(time.Hour)), "day": micros(now.Add(-day)),
	}, keys), `
SELECT provider, source, quantileExactIf(0.95)(taken, taken > 0 AND hour < toStartOfHour(now())) / 3600, sum(lately)
FROM (
    SELECT provider, source, toStartOfHour(ts) AS hour, sum(ok) + sum(usr) AS taken, sumIf(`+attempts+`, ts >= fromUnixTimestamp64Micro({day:Int64}, 'UTC')) AS lately
    FROM (`+hourly+`) GROUP BY provider, source, hour
)
GROUP BY provider, source
HAVING minIf(hour, taken > 0) <= now() - INTERVAL 1 DAY`)
	if err != nil {
		return fmt.Errorf("read the history of keys: %w", err)
	}
	defer func() { err = closing(err, rows, "read the history of keys") }()
	for rows.Next() {
		var id limits.Key
		var rate float64
		var lately uint64
		if err := rows.Scan(&id.Provider, &id.Source, &rate, &lately); err != nil {
			return fmt.Errorf("read the history of keys: %w", err)
		}
		if k := s.Keys[id]; k != nil && lately >= r.policyOf(wanted, id.Provider).LeastPerDay && rate > 0 { // not NaN
			k.HistoryRate = rate
		}
	}
	return nil
}

// warmups reads the days of the keys that are warming up: answers by the day of the answer, complaints by
// that of the delivery. Where a policy has days that hours do not make up, for trials that take no weeks,
// minutes do.
func (r *Reader) warmups(ctx context.Context, now time.Time, wanted Wanted, s *Snapshot) error {
	var keys []limits.Key
	earliest, source := now, hourly
	for id, k := range s.Keys {
		if k.warmupStart.IsZero() || k.Established || !k.warmupStart.Before(now) {
			continue
		}
		keys = append(keys, id)
		k.Warmup = &control.Warmup{Start: Since(k.warmupStart)}
		if k.warmupStart.Before(earliest) {
			earliest = k.warmupStart
		}
		if r.policyOf(wanted, id.Provider).Warmup.Day%time.Hour != 0 {
			source = minutely
		}
	}
	if len(keys) == 0 {
		return nil
	}
	parameters := WithKeys(clickhouse.Parameters{"since": micros(earliest.Truncate(time.Hour))}, keys)
	if err := r.warmupDays(ctx, now, parameters, wanted, s, `
SELECT provider, source, ts, sum(ok) + sum(usr) + sum(rate) + sum(block) + sum(unav) + sum(other), sum(ok) + sum(usr), sum(rate) + sum(block) + sum(unav), toUInt64(0)
FROM (`+source+`) GROUP BY provider, source, ts`); err != nil {
		return err
	}
	return r.warmupDays(ctx, now, parameters, wanted, s, `
SELECT provider, source, toStartOfMinute(delivered_at) AS minute, toUInt64(0), toUInt64(0), toUInt64(0), uniqExact(message_id, recipient_index)
FROM attributions FINAL
WHERE proven AND kind = 'complaint' AND delivered_at >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND `+IsKey+`
GROUP BY provider, source, minute`)
}

// warmupDays adds hours and minutes to the days of warm-ups that are over.
func (r *Reader) warmupDays(ctx context.Context, now time.Time, parameters clickhouse.Parameters, wanted Wanted, s *Snapshot, query string) (err error) {
	rows, err := r.query(ctx, parameters, query)
	if err != nil {
		return fmt.Errorf("read the days of warm-ups: %w", err)
	}
	defer func() { err = closing(err, rows, "read the days of warm-ups") }()
	for rows.Next() {
		var id limits.Key
		var at time.Time
		var d control.WarmupDay
		if err := rows.Scan(&id.Provider, &id.Source, &at, &d.Replies, &d.Accepted, &d.Refused, &d.Complaints); err != nil {
			return fmt.Errorf("read the days of warm-ups: %w", err)
		}
		k := s.Keys[id]
		if k == nil || k.Warmup == nil || at.Before(k.warmupStart.Truncate(time.Hour)) {
			continue
		}
		length := r.policyOf(wanted, id.Provider).Warmup.Day
		day := int(max(0, at.Sub(k.warmupStart)) / length)
		if !k.warmupStart.Add(time.Duration(day+1) * length).Before(now) {
			continue // it is not over
		}
		for len(k.Warmup.Days) <= day {
			k.Warmup.Days = append(k.Warmup.Days, control.WarmupDay{})
		}
		sum := &k.Warmup.Days[day]
		sum.Replies += d.Replies
		sum.Accepted += d.Accepted
		sum.Refused += d.Refused
		sum.Complaints += d.Complaints
	}
	return nil
}

func (r *Reader) policyOf(wanted Wanted, provider string) *control.Policy {
	if wanted.Policy == nil {
		return r.Policy
	}
	return wanted.Policy(provider)
}

// permanent looks whether a suspended key was told in the last day that retrying does not help (Yahoo's
// TS03). k1m keeps one reply a minute, which at a suspended key is nearly all of them.
func (r *Reader) permanent(ctx context.Context, now time.Time, suspended []limits.Key, s *Snapshot) (err error) {
	if len(suspended) == 0 {
		return nil
	}
	rows, err := r.query(ctx, WithKeys(clickhouse.Parameters{"since": micros(now.Add(-day))}, suspended), `
SELECT DISTINCT provider, source FROM k1m
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND `+IsKey+` AND `+warehouse.IsPermanentlyDeferred)
	if err != nil {
		return fmt.Errorf("look for permanent deferrals: %w", err)
	}
	defer func() { err = closing(err, rows, "look for permanent deferrals") }()
	for rows.Next() {
		var id limits.Key
		if err := rows.Scan(&id.Provider, &id.Source); err != nil {
			return fmt.Errorf("look for permanent deferrals: %w", err)
		}
		if k := s.Keys[id]; k != nil {
			k.PermanentlyDeferred = true
		}
	}
	return nil
}

// resting looks which keys sent so little in the last day, and were refused so little of it, that they need no
// lease (design/control.md 5.5, rule 9).
func (r *Reader) resting(ctx context.Context, now time.Time, wanted Wanted, s *Snapshot) error {
	for some := range slices.Chunk(wanted.Resting, keysAtOnce) {
		if err := r.restingOf(ctx, now, wanted, some, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) restingOf(ctx context.Context, now time.Time, wanted Wanted, keys []limits.Key, s *Snapshot) (err error) {
	rows, err := r.query(ctx, WithKeys(clickhouse.Parameters{"since": micros(now.Add(-day))}, keys), `
SELECT provider, source, sum(`+attempts+`)
FROM k1m
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND `+IsKey+`
GROUP BY provider, source
HAVING sum(rate + conn + msgc + block + unav + other) = 0`)
	if err != nil {
		return fmt.Errorf("look for keys that rest: %w", err)
	}
	defer func() { err = closing(err, rows, "look for keys that rest") }()
	for rows.Next() {
		var id limits.Key
		var n uint64
		if err := rows.Scan(&id.Provider, &id.Source, &n); err != nil {
			return fmt.Errorf("look for keys that rest: %w", err)
		}
		if k := s.Keys[id]; k != nil {
			k.Resting = n < r.policyOf(wanted, id.Provider).LeastPerDay
		}
	}
	return nil
}

// The bounds of a provider-wide outage: so many sources must see it, this share of those that sent, and
// each with so many attempts and this share of them without an answer.
const (
	outageSources  = 3
	outageAgree    = 0.8
	outageAttempts = 5
	outageShare    = 0.6
	outageSpan     = time.Minute
)

// freeze marks the keys of providers that no source of ours reaches: that is their trouble, and neither
// the rate nor the reputation of any source has to do with it.
func (s *Snapshot) freeze(now time.Time) {
	type seen struct{ sources, down int }
	providers := map[string]*seen{}
	from := Since(now.Add(-outageSpan))
	for id, k := range s.Keys {
		var all, unavailable uint64
		for i := range k.Buckets {
			if b := &k.Buckets[i]; b.Start >= from {
				all += b.OK + b.User + b.Rate + b.Connections + b.Messages + b.Block + b.Greylist + b.Unavailable + b.Content + b.Auth + b.Other
				unavailable += b.Unavailable
			}
		}
		if all < outageAttempts {
			continue
		}
		p := providers[id.Provider]
		if p == nil {
			p = &seen{}
			providers[id.Provider] = p
		}
		p.sources++
		if float64(unavailable) >= outageShare*float64(all) {
			p.down++
		}
	}
	for id, k := range s.Keys {
		if p := providers[id.Provider]; p != nil && p.sources >= outageSources && float64(p.down) >= outageAgree*float64(p.sources) {
			k.Frozen = fmt.Sprintf("%d of %d sources cannot reach %s: an outage of the provider", p.down, p.sources, id.Provider)
		}
	}
}
