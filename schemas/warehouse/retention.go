package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.yaml.in/yaml/v3"

	"carom/schemas/service"
)

// Retention is how many days a table keeps its rows, by table. Where it is configured it stands in
// the table itself (TTL): applying the schema again leaves it.
type Retention map[string]int

// maxRetention is ten years: more is a slip of the pen, and dates end in 2106 (type DateTime).
const maxRetention = 3650

// leastRetention are the days that carom's own jobs read, for tables where that is not what the
// schema says, in days. A table that is not named here may go down to one day.
var leastRetention = map[string]int{
	"events":     10, // the suppression job looks so far back after a standstill
	"gauges":     1,
	"limit_log":  2, // the control loop completes what a run left half done
	"reputation": 2, // a band remembers where it was
	// The coarser roll-ups follow the finer ones, and days that were late.
	"k1h": 60, "rollup_1m": 1, "rollup_1h": 35, "latency_1h": 35, "jobs_1h": 3, "domains_1h": 15, "senders_1h": 15, // scores read two weeks, warm-ups their whole time
}

// readByJobs are the tables that jobs read as far back as the schema keeps them.
var readByJobs = []string{
	"k10s", "k1m", "leases", "provider_minutes", "suppression_changes", "suppression_waves", "soft_bounces", "job_runs",
	"webhook_deliveries", "attributions", "scoped_refusals",
}

// A Kept tells how long a table keeps its rows.
type Kept struct {
	Table   string `json:"table"`
	Days    int    `json:"days"`
	Default int    `json:"default_days"` // of the schema
	Least   int    `json:"least_days"`   // that may be configured
	Since   string `json:"since"`        // expression that the days are counted from
	Rows    uint64 `json:"rows"`         // on all shards
	Bytes   uint64 `json:"bytes"`        // of them, compressed, one replica
}

// A RetentionChange is one table's new retention and what it ends at once.
type RetentionChange struct {
	Table string `json:"table"`
	From  int    `json:"from_days"`
	To    int    `json:"to_days"`
	Rows  uint64 `json:"rows_deleted"`  // older than To days now
	Bytes uint64 `json:"bytes_deleted"` // about, compressed, one replica
}

// ErrWouldDelete is returned by Keep for a change that deletes rows and was not agreed to. Nothing
// was changed.
var ErrWouldDelete = errors.New("shorter retention would delete rows")

// ttlRule is how migrations write it, and storedTTL how ClickHouse gives it back.
var (
	ttlRule   = regexp.MustCompile(`(?m)^TTL (.+) \+ INTERVAL (\d+) DAY$`)
	storedTTL = regexp.MustCompile(` TTL (.+?) \+ toIntervalDay\((\d+)\)(?: SETTINGS .*)?$`)
	days      = regexp.MustCompile(`^([1-9][0-9]{0,4})d$`)
)

// ParseRetention reads "events=400d" and the like.
func ParseRetention(args []string) (Retention, error) {
	r := Retention{}
	for _, arg := range args {
		table, value, ok := strings.Cut(arg, "=")
		if _, twice := r[table]; !ok || twice {
			return nil, service.Configf("retention %q: want TABLE=DAYSd, as in events=400d, each table once", arg)
		}
		if err := r.set(table, value); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// ReadRetention reads a YAML file with a line a table, as in "events: 400d".
func ReadRetention(text io.Reader) (Retention, error) {
	var file map[string]string
	if err := yaml.NewDecoder(text).Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, service.Configf("retention file: want lines such as events: 400d: %w", err)
	}
	r := Retention{}
	for _, table := range slices.Sorted(maps.Keys(file)) {
		if err := r.set(table, file[table]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r Retention) set(table, value string) error {
	m := days.FindStringSubmatch(value)
	if m == nil {
		return service.Configf("retention of %s: %q: want a number of days, as in 400d", table, value)
	}
	r[table], _ = strconv.Atoi(m[1]) // digits, and few
	rules, err := retentionRules()
	if err != nil {
		return err
	}
	rule, ok := rules[table]
	switch {
	case !ok:
		return service.Configf("retention of %s: there is no such table, or it keeps its rows for ever; there are %s",
			table, strings.Join(slices.Sorted(maps.Keys(rules)), ", "))
	case r[table] < rule.least:
		return service.Configf("retention of %s: %d days are too few: carom's own jobs read %d", table, r[table], rule.least)
	case r[table] > maxRetention:
		return service.Configf("retention of %s: %d days are too many, want %d at most", table, r[table], maxRetention)
	}
	return nil
}

// A retentionRule is what the schema says of a table.
type retentionRule struct {
	since       string // SQL
	days, least int
}

func retentionRules() (map[string]retentionRule, error) {
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	rules := map[string]retentionRule{}
	for _, m := range all {
		for _, s := range statements(m.sql) {
			table, ttl := createTable.FindStringSubmatch(s), ttlRule.FindStringSubmatch(s)
			if table == nil || ttl == nil {
				continue
			}
			n, err := strconv.Atoi(ttl[2])
			if err != nil {
				return nil, fmt.Errorf("migration %d %s: TTL of %s: %w", m.version, m.name, table[1], err)
			}
			least := cmp.Or(leastRetention[table[1]], 1)
			if slices.Contains(readByJobs, table[1]) {
				least = n
			}
			rules[table[1]] = retentionRule{since: ttl[1], days: n, least: least}
		}
	}
	return rules, nil
}

// Retention returns how long each table keeps its rows, sorted by table.
func (l Layout) Retention(ctx context.Context, conn driver.Conn) ([]Kept, error) {
	if err := l.matches(ctx, conn); err != nil {
		return nil, err
	}
	rules, err := retentionRules()
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, table := range slices.Sorted(maps.Keys(rules)) {
		rule := rules[table]
		local, err := l.local(table)
		if err != nil {
			return nil, err
		}
		var engine string
		var rows, bytes uint64
		err = conn.QueryRow(ctx, `SELECT any(engine_full), sum(ifNull(total_rows, 0)), sum(ifNull(total_bytes, 0))
FROM system.tables WHERE database = currentDatabase() AND name = ?`, local).Scan(&engine, &rows, &bytes)
		if err != nil {
			return nil, fmt.Errorf("read the retention of %s: %w", table, err)
		}
		if engine == "" {
			return nil, fmt.Errorf("there is no table %s: %w", local, ErrSchemaBehind)
		}
		stored := storedTTL.FindStringSubmatch(engine)
		if stored == nil {
			return nil, fmt.Errorf("table %s: somebody gave it a TTL of another form; carom schema print shows the one it should have", local)
		}
		k := Kept{Table: table, Default: rule.days, Least: rule.least, Since: rule.since, Rows: rows, Bytes: bytes}
		if k.Days, err = strconv.Atoi(stored[2]); err != nil {
			return nil, fmt.Errorf("table %s: its TTL: %w", local, err)
		}
		if local != table { // the server that answers holds one shard
			if err := conn.QueryRow(ctx, "SELECT count() FROM "+table).Scan(&k.Rows); err != nil {
				return nil, fmt.Errorf("count the rows of %s: %w", table, err)
			}
			k.Bytes = part(bytes, k.Rows, rows)
		}
		all = append(all, k)
	}
	return all, nil
}

// Keep sets the retention of tables, on every server of the cluster if there is one, and returns
// what it changed. Longer than before it deletes nothing, and what is already gone stays gone. If
// rows would end at once and agreed is false, it changes nothing and returns the changes with
// ErrWouldDelete. ClickHouse deletes in the background.
func (l Layout) Keep(ctx context.Context, conn driver.Conn, r Retention, agreed bool) ([]RetentionChange, error) {
	all, err := l.Retention(ctx, conn)
	if err != nil {
		return nil, err
	}
	var changes []RetentionChange
	var statements []string
	deletes := false
	for _, k := range all {
		to, ok := r[k.Table]
		if !ok || to == k.Days {
			continue
		}
		c := RetentionChange{Table: k.Table, From: k.Days, To: to}
		if to < k.Days {
			if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT count() FROM %s WHERE %s + INTERVAL %d DAY <= now()", k.Table, k.Since, to)).Scan(&c.Rows); err != nil {
				return nil, fmt.Errorf("count what %s would lose: %w", k.Table, err)
			}
			c.Bytes = part(k.Bytes, c.Rows, k.Rows)
			deletes = deletes || c.Rows > 0
		}
		changes = append(changes, c)
		local, err := l.local(k.Table)
		if err != nil {
			return nil, err
		}
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s%s MODIFY TTL %s + INTERVAL %d DAY", local, l.onCluster(), k.Since, to))
	}
	if deletes && !agreed {
		return changes, ErrWouldDelete
	}
	for i, s := range statements {
		if err := conn.Exec(ctx, s); err != nil {
			return changes[:i], fmt.Errorf("set the retention of %s: %w", changes[i].Table, err)
		}
	}
	return changes, nil
}

// part is whole·n/of without overflow, for sizes of tables.
func part(whole, n, of uint64) uint64 {
	if of == 0 {
		return 0
	}
	return uint64(float64(whole) * float64(n) / float64(of))
}
