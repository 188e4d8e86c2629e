package jobs

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/suppression"
)

// breaker looks for providers that refuse far more recipients as unknown than usual, writes the
// minutes of such a wave to suppression_waves, and makes pending what the job suppressed in them.
// It returns how many minutes it found. What comes later in these minutes is pending from the
// start (see addFinal).
//
// The order makes a killed run harmless: as long as the minutes are not written, the next run finds
// them again, and takes back again what is still suppressed.
func (s *Suppression) breaker(ctx context.Context, r *run, parameters clickhouse.Parameters) (int, error) {
	if s.Policy.Breaker.MinUnknown == 0 {
		return 0, nil
	}
	asked, err := s.minutesOfBounces(ctx, parameters)
	if err != nil || len(asked) == 0 {
		return 0, err
	}
	minutes, err := s.answersOf(ctx, asked, parameters)
	if err != nil {
		return 0, err
	}
	known, err := s.knownWaves(ctx, asked)
	if err != nil {
		return 0, err
	}
	found := map[string]map[time.Time]suppression.Wave{}
	for provider, ats := range asked {
		var history map[time.Time]suppression.Counts
		for _, at := range ats {
			if !s.Policy.Breaker.Suspect(minutes[provider], at) {
				continue
			}
			if history == nil {
				if history, err = s.hours(ctx, provider, at); err != nil {
					return 0, err
				}
			}
			wave, open := s.Policy.Breaker.Open(minutes[provider], at, sameHour(history, at))
			if !open {
				continue
			}
			for _, minute := range wave.Minutes {
				if known[wavePlace{provider, minute}] {
					continue
				}
				if found[provider] == nil {
					found[provider] = map[time.Time]suppression.Wave{}
				}
				found[provider][minute] = wave
			}
		}
	}
	var rows [][]any
	for provider, waves := range found {
		if err := s.takeBack(ctx, provider, waves, parameters); err != nil {
			return 0, err
		}
		for minute, w := range waves {
			rows = append(rows, []any{provider, minute, r.started, w.Unknown, w.Delivered, w.Share(), w.Median, w.Threshold})
			s.Log.WarnContext(ctx, "a provider refuses far more as unknown than usual, its bounces wait for a second one",
				"provider", provider, "minute", minute, "unknown", w.Unknown, "delivered", w.Delivered, "median", w.Median)
		}
	}
	return len(rows), insert(ctx, s.Conn, r.token("suppression_waves"), "suppression_waves", []string{
		"provider", "minute", "found_at", "unknown", "delivered", "share", "median", "threshold",
	}, rows)
}

// wavePlace is a row of suppression_waves.
type wavePlace struct {
	provider string
	minute   time.Time
}

// minutesOfBounces returns the minutes in which each provider refused recipients of the slice for
// good.
func (s *Suppression) minutesOfBounces(ctx context.Context, parameters clickhouse.Parameters) (map[string][]time.Time, error) {
	rows, err := s.Conn.Query(with(ctx, parameters), `
SELECT provider, toDateTime(toStartOfMinute(least(time, arrived)), 'UTC') AS minute
FROM events
WHERE `+inSlice+` AND `+isHard+` AND provider != ''
GROUP BY provider, minute
ORDER BY provider, minute`)
	if err != nil {
		return nil, fmt.Errorf("read minutes of bounces: %w", err)
	}
	asked := map[string][]time.Time{}
	var provider string
	var minute time.Time
	err = each(rows, "read minutes of bounces", func() error {
		if err := rows.Scan(&provider, &minute); err != nil {
			return err
		}
		asked[provider] = append(asked[provider], minute.UTC())
		return nil
	})
	return asked, err
}

// answersOf returns what the providers answered around the minutes that are asked for.
func (s *Suppression) answersOf(ctx context.Context, asked map[string][]time.Time, parameters clickhouse.Parameters) (map[string][]suppression.Minute, error) {
	from, to := reach(asked)
	parameters = maps.Clone(parameters)
	parameters["from"], parameters["to"] = fmt.Sprint(from.Add(-suppression.Window).Unix()), fmt.Sprint(to.Unix())
	rows, err := s.Conn.Query(with(ctx, parameters), `
SELECT provider, ts, sum(delivered), sum(unknown)
FROM provider_minutes
WHERE ts >= toDateTime({from:Int64}, 'UTC') AND ts <= toDateTime({to:Int64}, 'UTC')
    AND provider IN (SELECT provider FROM events WHERE `+inSlice+` AND `+isHard+`)
GROUP BY provider, ts`)
	if err != nil {
		return nil, fmt.Errorf("read provider_minutes: %w", err)
	}
	minutes := map[string][]suppression.Minute{}
	var provider string
	err = each(rows, "read provider_minutes", func() error {
		var m suppression.Minute
		if err := rows.Scan(&provider, &m.Start, &m.Delivered, &m.Unknown); err != nil {
			return err
		}
		m.Start = m.Start.UTC()
		minutes[provider] = append(minutes[provider], m)
		return nil
	})
	return minutes, err
}

// reach returns the first and the last minute that are asked for.
func reach(asked map[string][]time.Time) (from, to time.Time) {
	for _, minutes := range asked { // in order
		if first := minutes[0]; from.IsZero() || first.Before(from) {
			from = first
		}
		if last := minutes[len(minutes)-1]; last.After(to) {
			to = last
		}
	}
	return from, to
}

// knownWaves returns the minutes that earlier runs have found.
func (s *Suppression) knownWaves(ctx context.Context, asked map[string][]time.Time) (map[wavePlace]bool, error) {
	from, to := reach(asked)
	rows, err := s.Conn.Query(with(ctx, clickhouse.Parameters{
		"from": fmt.Sprint(from.Add(-suppression.Window).Unix()), "to": fmt.Sprint(to.Unix()),
	}), `
SELECT provider, minute FROM suppression_waves
WHERE minute >= toDateTime({from:Int64}, 'UTC') AND minute <= toDateTime({to:Int64}, 'UTC')`)
	if err != nil {
		return nil, fmt.Errorf("read suppression_waves: %w", err)
	}
	known := map[wavePlace]bool{}
	err = each(rows, "read suppression_waves", func() error {
		var w wavePlace
		if err := rows.Scan(&w.provider, &w.minute); err != nil {
			return err
		}
		w.minute = w.minute.UTC()
		known[w] = true
		return nil
	})
	return known, err
}

// hours returns what a provider answered in each hour of the days before at.
func (s *Suppression) hours(ctx context.Context, provider string, at time.Time) (map[time.Time]suppression.Counts, error) {
	rows, err := s.Conn.Query(with(ctx, clickhouse.Parameters{
		"provider": parameter.Replace(provider),
		"from":     fmt.Sprint(at.AddDate(0, 0, -suppression.HistoryDays).Truncate(time.Hour).Unix()), "to": fmt.Sprint(at.Unix()),
	}), `
SELECT toStartOfHour(ts) AS hour, sum(delivered), sum(unknown)
FROM provider_minutes
WHERE provider = {provider:String} AND ts >= toDateTime({from:Int64}, 'UTC') AND ts <= toDateTime({to:Int64}, 'UTC')
GROUP BY hour`)
	if err != nil {
		return nil, fmt.Errorf("read history of %s: %w", provider, err)
	}
	hours := map[time.Time]suppression.Counts{}
	err = each(rows, "read history of "+provider, func() error {
		var hour time.Time
		var c suppression.Counts
		if err := rows.Scan(&hour, &c.Delivered, &c.Unknown); err != nil {
			return err
		}
		hours[hour.UTC()] = c
		return nil
	})
	return hours, err
}

// sameHour returns the hour of at on each day before.
func sameHour(hours map[time.Time]suppression.Counts, at time.Time) []suppression.Counts {
	var out []suppression.Counts
	for day := 1; day <= suppression.HistoryDays; day++ {
		if c, ok := hours[at.UTC().Truncate(time.Hour).AddDate(0, 0, -day)]; ok {
			out = append(out, c)
		}
	}
	return out
}

// takeBack makes pending what the job suppressed in the minutes of a wave before it was seen,
// unless something else suppresses the address too. The tombstone and the pending row follow the
// suppression by a microsecond each, so that what happened since counts as later.
func (s *Suppression) takeBack(ctx context.Context, provider string, waves map[time.Time]suppression.Wave, parameters clickhouse.Parameters) error {
	list := make([]string, 0, len(waves))
	for minute := range waves {
		list = append(list, fmt.Sprint(minute.Unix()))
	}
	parameters = maps.Clone(parameters)
	parameters["provider"], parameters["minutes"] = parameter.Replace(provider), "["+strings.Join(list, ",")+"]"
	err := s.Conn.Exec(with(ctx, parameters), `
INSERT INTO suppressions (recipient_key, tenant, time, tombstone, pending, category, origin, provider, actor, reason, message_id, recipient_index, expires_at)
SELECT
    recipient_key, tenant, time + toIntervalMicrosecond(step), step = 1, step = 2, category, 'job', provider, {job:String},
    if(step = 1, 'the provider refused far more than usual as unknown', reason), message_id, recipient_index, toDateTime64(0, 6, 'UTC')
FROM suppressions
ARRAY JOIN [1, 2] AS step
WHERE actor = {job:String} AND NOT tombstone AND NOT pending AND category != 'complaint' AND tenant = ''
    AND provider = {provider:String} AND has({minutes:Array(UInt32)}, toUnixTimestamp(toStartOfMinute(time)))
    AND recipient_key IN (
        SELECT recipient_key
        FROM suppressions
        WHERE tenant = '' AND NOT pending AND recipient_key IN (
            SELECT recipient_key FROM suppressions
            WHERE actor = {job:String} AND provider = {provider:String} AND has({minutes:Array(UInt32)}, toUnixTimestamp(toStartOfMinute(time))))
        GROUP BY recipient_key
        HAVING min(has({minutes:Array(UInt32)}, toUnixTimestamp(toStartOfMinute(time))) AND NOT tombstone AND actor = {job:String}))`)
	if err != nil {
		return fmt.Errorf("take suppressions of %s back: %w", provider, err)
	}
	return nil
}

// parameter escapes a text for a query parameter, which ClickHouse reads as a field of TSV.
var parameter = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)
