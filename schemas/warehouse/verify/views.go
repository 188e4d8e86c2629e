package verify

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/schemas/warehouse"
)

// A filler is a materialized view that fills a table.
type filler struct {
	name, to string
}

// fills finds both in the statement as ClickHouse writes it.
var fills = regexp.MustCompile("^CREATE MATERIALIZED VIEW (?:[\\w`]+\\.)?`?(\\w+)`? (?:UUID '[^']*' )?TO (?:[\\w`]+\\.)?`?(\\w+)`?")

// remember notes what every table behind a materialized view holds before the batches are repeated.
func (t *trial) remember(ctx context.Context) error {
	if err := t.suppress(ctx); err != nil {
		return err
	}
	all, err := t.fillers(ctx)
	if err != nil {
		return err
	}
	t.digests = map[string]string{}
	for _, f := range all {
		if t.digests[f.to], _, err = t.digest(ctx, f.to); err != nil {
			return err
		}
	}
	return nil
}

// views compares what every table behind a materialized view holds with what it held before the
// batches were repeated. What waits to be merged does not count: values are compared by key.
func (t *trial) views(ctx context.Context) (string, error) {
	if err := t.suppress(ctx); err != nil {
		return "", err
	}
	all, err := t.fillers(ctx)
	if err != nil {
		return "", err
	}
	err = t.settle(ctx, func(ctx context.Context) error { return t.unchanged(ctx, all) })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d views", len(all)), nil
}

// unchanged fails unless every table holds what it held, and something, and what events hold.
func (t *trial) unchanged(ctx context.Context, all []filler) error {
	for _, f := range all {
		after, rows, err := t.digest(ctx, f.to)
		switch {
		case err != nil:
			return err
		case after != t.digests[f.to]:
			return fmt.Errorf("a repeated batch changed %s (by %s)", f.to, f.name)
		case rows == 0:
			return fmt.Errorf("nothing of the trial's rows is in %s (by %s)", f.to, f.name)
		}
	}
	var delivered, rolledUp uint64
	if err := t.conn.QueryRow(ctx, "SELECT (SELECT countIf(kind = 'delivered') FROM events), (SELECT sum(ok) FROM k1m)").Scan(&delivered, &rolledUp); err != nil {
		return err
	}
	if delivered != rolledUp {
		return fmt.Errorf("events has %d deliveries, the roll-up k1m %d", delivered, rolledUp)
	}
	return nil
}

// suppress writes rows under a token, as the jobs do, for the views behind that table.
func (t *trial) suppress(ctx context.Context) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate": 1, "insert_deduplication_token": t.database, "async_insert": 0, "max_insert_threads": 1,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
	}))
	b, err := t.conn.PrepareBatch(ctx, "INSERT INTO suppressions (recipient_key, tenant, time, category, origin, arrived)")
	if err != nil {
		return fmt.Errorf("write suppressions: %w", err)
	}
	at := t.batches[0].rows[0].Time
	for i := range 10 {
		if err := b.Append(fmt.Sprintf("%032x", i), "", at, "bad-mailbox", "job", at.Add(time.Second)); err != nil {
			return errors.Join(fmt.Errorf("write suppressions: %w", err), b.Abort())
		}
	}
	if err := b.Send(); err != nil {
		return fmt.Errorf("write suppressions: %w", err)
	}
	return nil
}

// fillers returns the materialized views of the scratch database.
func (t *trial) fillers(ctx context.Context) ([]filler, error) {
	list, err := t.strings(ctx, "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND engine = 'MaterializedView' ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("list materialized views: %w", err)
	}
	all := make([]filler, len(list))
	for i, text := range list {
		m := fills.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("a materialized view fills no table that is named: %.200s", text)
		}
		all[i] = filler{m[1], m[2]}
	}
	return all, nil
}

// digest returns a fingerprint of what a table says, and its number of rows.
func (t *trial) digest(ctx context.Context, table string) (text string, rows uint64, err error) {
	columns, err := t.strings(ctx, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = ? AND NOT startsWith(type, 'AggregateFunction') ORDER BY name", table)
	if err != nil {
		return "", 0, err
	}
	merging, err := t.number(ctx, "SELECT countIf(engine NOT IN ('MergeTree', 'ReplicatedMergeTree', 'SharedMergeTree')) FROM system.tables WHERE database = currentDatabase() AND name = ?", table)
	if err != nil {
		return "", 0, err
	}
	from := strings.TrimSuffix(table, "_local") // over all shards
	if merging > 0 {
		from += " FINAL"
	}
	slices.Sort(columns)
	err = t.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(), toString(sum(cityHash64(%s))) FROM %s", strings.Join(columns, ", "), from)).Scan(&rows, &text)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", table, err)
	}
	return fmt.Sprintf("%d %s", rows, text), rows, nil
}

func (t *trial) complete(ctx context.Context) (string, error) {
	var nodes, gaps, duplicates uint64
	err := t.conn.QueryRow(ctx, "SELECT count(), toUInt64(sum(gaps + before_first)), toUInt64(sum(duplicates)) FROM completeness WHERE stream = 'event'").Scan(&nodes, &gaps, &duplicates)
	if err != nil {
		return "", err
	}
	if nodes != t.nodes() || gaps != 0 || duplicates != 0 {
		return "", fmt.Errorf("%d nodes of %d, %d numbers missing, %d stored twice", nodes, t.nodes(), gaps, duplicates)
	}
	p := warehouse.Place{Node: t.batches[0].rows[0].Node, Incarnation: t.batches[0].rows[0].Incarnation, From: 1, To: rowsOfANode}
	seqs, _, err := warehouse.Events.Landed(ctx, t.conn, p)
	if err != nil {
		return "", err
	}
	if len(seqs) != rowsOfANode {
		return "", fmt.Errorf("asked by number, %d rows of %d are there", len(seqs), rowsOfANode)
	}
	return fmt.Sprintf("%d nodes", nodes), nil
}
