package warehouse

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// A Window says how long a table remembers the tokens of what was inserted.
type Window struct {
	Blocks uint64        // as many as came last; 0: it remembers none, and a repeated batch is stored twice
	Age    time.Duration // and not longer than this; 0 for no bound

	Replicated bool // by Keeper, for all replicas of the table
}

// ErrReplicaBehind is returned by Repair for a table with replicas: what the server that answers
// lacks is on its way from another one.
var ErrReplicaBehind = errors.New("a replica is behind: rows of a batch that is confirmed are not there yet")

var (
	windowBlocks   = regexp.MustCompile(`\b(?:non_)?replicated_deduplication_window = (\d+)`)
	windowSeconds  = regexp.MustCompile(`\breplicated_deduplication_window_seconds = (\d+)`)
	distributedTo  = regexp.MustCompile(`^Distributed\('?[^',]+'?, '?[^',]+'?, '?([^',)]+)'?`)
	windowDefaults = map[bool]string{false: "system.merge_tree_settings", true: "system.replicated_merge_tree_settings"}
)

// DedupWindow asks the server for the deduplication window of a table that nodes fill, in the
// database of conn. On a cluster it is that of the local table behind it. A table that says nothing
// has the server's default.
func DedupWindow(ctx context.Context, conn driver.Conn, table string) (Window, error) {
	kind, full, err := engineOf(ctx, conn, table)
	if err == nil {
		if local := distributedTo.FindStringSubmatch(full); local != nil {
			kind, full, err = engineOf(ctx, conn, local[1])
		}
	}
	if err != nil {
		return Window{}, err
	}
	replicated := replicatedKind.MatchString(kind)
	prefix := "non_replicated"
	if replicated {
		prefix = "replicated"
	}
	value := func(set *regexp.Regexp, name string) (uint64, error) {
		if m := set.FindStringSubmatch(full); m != nil {
			return strconv.ParseUint(m[1], 10, 64)
		}
		var n uint64
		err := conn.QueryRow(ctx, "SELECT toUInt64OrZero(any(value)) FROM "+windowDefaults[replicated]+" WHERE name = ?", name).Scan(&n)
		return n, err
	}
	blocks, err := value(windowBlocks, prefix+"_deduplication_window")
	if err != nil {
		return Window{}, fmt.Errorf("read the deduplication window of %s: %w", table, err)
	}
	w := Window{Blocks: blocks, Replicated: replicated}
	if replicated {
		seconds, err := value(windowSeconds, "replicated_deduplication_window_seconds")
		if err != nil {
			return Window{}, fmt.Errorf("read the deduplication window of %s: %w", table, err)
		}
		w.Age = time.Duration(min(seconds, 1<<31)) * time.Second //nolint:gosec // bounded
	}
	return w, nil
}

// replicatedKind matches the engines with replicas, those of ClickHouse Cloud among them.
var replicatedKind = regexp.MustCompile(`^(Replicated|Shared)`)

// engineOf returns the engine of a table and its definition.
func engineOf(ctx context.Context, conn driver.Conn, table string) (kind, full string, err error) {
	err = conn.QueryRow(ctx, "SELECT any(engine), any(engine_full) FROM system.tables WHERE database = currentDatabase() AND name = ?", table).Scan(&kind, &full)
	if err != nil {
		return "", "", fmt.Errorf("look at table %s: %w", table, err)
	}
	if kind == "" {
		return "", "", fmt.Errorf("there is no table %s: %w", table, ErrSchemaBehind)
	}
	return kind, full, nil
}
