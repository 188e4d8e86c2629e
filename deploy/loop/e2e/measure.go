package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"carom/deploy/receivers"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/limits"
)

// receiverStats is what GET /stats of the receivers answers.
type receiverStats struct {
	Now  float64        `json:"now_s"`
	Rows []provider.Row `json:"rows"`
}

// now returns the scenario time.
func (y *system) now(ctx context.Context) (time.Duration, error) {
	var s receiverStats
	err := getJSON(ctx, "http://"+y.receivers.HTTP+"/stats?since=8000h", &s)
	return time.Duration(s.Now * float64(time.Second)), err
}

// oracle returns what a sender that knows every limit would have delivered by t.
func (y *system) oracle(ctx context.Context, t time.Duration) (float64, error) {
	var answer struct {
		Providers []scenarios.OracleResult `json:"providers"`
	}
	if err := getJSON(ctx, fmt.Sprintf("http://%s/oracle?t=%s&sources=1", y.receivers.HTTP, t), &answer); err != nil {
		return 0, err
	}
	return answer.Providers[0].Oracle, nil
}

// measure fills in the outcome of a run that lasted until end; it stops the system.
func (y *system) measure(ctx context.Context, o *outcome, steps []step, end time.Duration) error {
	var stats receiverStats
	if err := getJSON(ctx, "http://"+y.receivers.HTTP+"/stats", &stats); err != nil {
		return err
	}
	oracle, err := y.oracle(ctx, end)
	if err != nil {
		return err
	}
	if err := y.fromWarehouse(ctx, o); err != nil {
		return err
	}
	y.close()
	data, err := os.ReadFile(filepath.Join(y.dir, "receivers", "result.json"))
	if err != nil {
		return fmt.Errorf("read the receivers' result: %w", err)
	}
	var result receivers.Result
	if err := json.Unmarshal(data, &result); err != nil {
		return fmt.Errorf("read the receivers' result: %w", err)
	}
	o.fromReceivers(stats.Rows, steps, end, oracle, result.Providers[0].BlockCaused)
	return nil
}

// fromWarehouse fills in what only ClickHouse knows.
func (y *system) fromWarehouse(ctx context.Context, o *outcome) error {
	err := y.conn.QueryRow(ctx, `SELECT countIf(limit_actor = 'glide'), ifNotFinite(quantileIf(0.95)(queued_us, kind = 'delivered') / 6e7, 0)
FROM events WHERE kind IN ('delivered', 'deferred', 'bounced')`).Scan(&o.Glides, &o.P95DelayMinutes)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if err := y.conn.QueryRow(ctx, `SELECT max(rate) FROM leases WHERE provider = 'hidden' AND rate < ?`, limits.UnlimitedRate).Scan(&o.LargestLease); err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	// How old the last hand-out of the lease was that an attempt was made under.
	err = y.conn.QueryRow(ctx, `SELECT max(toUnixTimestamp64Micro(e.time) - toUnixTimestamp64Micro(l.issued_at)) / 6e7
FROM (SELECT time, provider, source FROM events WHERE limit_actor = 'loop' AND kind IN ('delivered', 'deferred', 'bounced')) AS e
ASOF JOIN (SELECT issued_at, provider, source FROM leases WHERE provider != '') AS l
    ON e.provider = l.provider AND e.source = l.source AND e.time >= l.issued_at`).Scan(&o.LeaseAgeMinutes)
	if err != nil {
		return fmt.Errorf("read the age of leases: %w", err)
	}
	changes, err := y.changes(ctx)
	if err != nil {
		return err
	}
	var latencies []time.Duration
	for _, c := range changes {
		o.Changes++
		if c.rateNew > 0 && (c.rateOld == 0 || c.rateNew < c.rateOld) && c.rule != "" && c.epochFrom > 0 {
			o.Decreases++
		}
		why, err := y.recompute(ctx, &c)
		if err != nil {
			return err
		}
		if why != "" {
			o.Unexplained = append(o.Unexplained, why)
		}
		if d, ok, err := y.latency(ctx, &c); err != nil {
			return err
		} else if ok {
			latencies = append(latencies, d)
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		p99 := latencies[min(len(latencies)-1, int(math.Ceil(0.99*float64(len(latencies))))-1)].Seconds()
		o.LatencySeconds = &p99
	}
	return nil
}

// change is a row of limit_log that took effect by the loop.
type change struct {
	id, rule         string
	epoch, epochFrom uint64
	rateOld, rateNew float64
	from, to         time.Time
	counts           map[string]uint64
}

func (y *system) changes(ctx context.Context) ([]change, error) {
	rows, err := y.conn.Query(ctx, `SELECT id, rule_id, epoch, epoch_from, rate_old, rate_new, window_from, window_to, n_by_class
FROM limit_log WHERE kind = 'change' AND provider = 'hidden' AND source = ? ORDER BY ts`, source)
	if err != nil {
		return nil, fmt.Errorf("read limit_log: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var all []change
	for rows.Next() {
		var c change
		if err := rows.Scan(&c.id, &c.rule, &c.epoch, &c.epochFrom, &c.rateOld, &c.rateNew, &c.from, &c.to, &c.counts); err != nil {
			return nil, fmt.Errorf("read limit_log: %w", err)
		}
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read limit_log: %w", err)
	}
	return all, nil
}

// recompute counts the evidence of a change again and says what differs, "" if nothing does.
func (y *system) recompute(ctx context.Context, c *change) (string, error) {
	if c.rule == "" {
		return c.id + " has no rule", nil
	}
	columns := slices.Sorted(maps.Keys(c.counts))
	if len(columns) == 0 || !c.from.Before(c.to) {
		return "", nil // by the clock, the policy or an operator alone
	}
	sums := make([]uint64, len(columns))
	into := make([]any, len(columns))
	var query strings.Builder
	query.WriteString("SELECT ")
	for i, name := range columns {
		if i > 0 {
			query.WriteString(", ")
		}
		query.WriteString("sum(" + name + ")") // of the names in limit_log, which are columns of k10s
		into[i] = &sums[i]
	}
	query.WriteString(` FROM k10s WHERE provider = 'hidden' AND source = ? AND epoch = ?
    AND ts >= fromUnixTimestamp64Micro(?) AND ts < fromUnixTimestamp64Micro(?)`)
	if err := y.conn.QueryRow(ctx, query.String(), source, c.epochFrom, c.from.UnixMicro(), c.to.UnixMicro()).Scan(into...); err != nil {
		return "", fmt.Errorf("count the evidence of %s: %w", c.id, err)
	}
	for i, name := range columns {
		if sums[i] != c.counts[name] {
			return fmt.Sprintf("%s (%s) stands on %d %s, k10s has %d", c.id, c.rule, c.counts[name], name, sums[i]), nil
		}
	}
	return "", nil
}

// latency returns how long after the end of its evidence a change was in force at the node, by the
// machine's clock; false if it never was, as one that the next has overtaken.
func (y *system) latency(ctx context.Context, c *change) (time.Duration, bool, error) {
	var at time.Time
	err := y.conn.QueryRow(ctx, `SELECT least(
    (SELECT minOrDefault(time) FROM gauges WHERE provider = 'hidden' AND source = ? AND lease_epoch = ? SETTINGS allow_experimental_analyzer = 1),
    (SELECT minOrDefault(time) FROM events WHERE kind IN ('delivered', 'deferred', 'bounced') AND provider = 'hidden' AND source = ? AND limit_epoch = ?))`,
		source, c.epoch, source, c.epoch).Scan(&at)
	if err != nil {
		return 0, false, fmt.Errorf("read when %s was in force: %w", c.id, err)
	}
	if at.Unix() <= 0 || !c.from.Before(c.to) {
		return 0, false, nil
	}
	return at.Sub(c.to) / time.Duration(y.scale), true, nil
}
