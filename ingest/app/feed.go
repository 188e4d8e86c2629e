package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/clock"
	"carom/schemas/limits"
)

// feed keeps the files in the feed folder up to date: limits here, suppressions in suppressions.go.
// Its tasks may run side by side.
type feed struct {
	conn driver.Conn
	log  *slog.Logger
	node string
	dir  string

	generation atomic.Uint64 // of limits.json; 0 before the first look

	mu   sync.Mutex
	list listState
}

func newFeed(o Options, conn driver.Conn, log *slog.Logger) *feed {
	f := &feed{conn: conn, log: log, node: o.Node, dir: o.Feed}
	document, err := limits.Load(filepath.Join(o.Feed, limits.FileName))
	switch {
	case err == nil:
		f.generation.Store(document.Generation)
	case !errors.Is(err, fs.ErrNotExist):
		log.Warn("limits document is unreadable, the next one replaces it", "error", err)
	}
	return f
}

// limits writes limits.json if the warehouse has a newer generation for the node that has not
// outlived its TTL already. It asks for newer ones only: leases are in the order of node and generation,
// so that the answer "none", which nearly all are, costs ClickHouse no reading. What is left of the TTL
// is what the node gets, which counts it from first sight, and when that ends stands in each lease by
// the machine's own clock: a node that is started much later must not begin anew. So whoever splits a
// limit may count on a lease to be over when its TTL is.
func (f *feed) limits(ctx context.Context) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"node": f.node, "known": strconv.FormatUint(f.generation.Load(), 10),
	}))
	asked := clock.Now()
	rows, err := f.conn.Query(ctx, `SELECT
    generation, issued_at, (toUnixTimestamp64Micro(issued_at) + ttl_seconds * 1000000 - toUnixTimestamp64Micro(now64(6))) / 1000000 AS left, provider, source, epoch, rate, connections,
    messages_per_connection, canary, greylisting, not_after, reason_id, document
FROM leases
WHERE node = {node:String}
    AND generation = (SELECT max(generation) FROM leases WHERE node = {node:String} AND generation > {known:UInt64})
    AND toUnixTimestamp64Micro(issued_at) + ttl_seconds * 1000000 > toUnixTimestamp64Micro(now64(6))
ORDER BY provider, source
LIMIT 1 BY provider, source`)
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var document limits.Document
	var ends time.Time
	hasHead := false
	for rows.Next() {
		var head limits.Document
		var l limits.Lease
		var rest string
		if err := rows.Scan(&head.Generation, &head.IssuedAt, &head.TTLSeconds, &l.Provider, &l.Source, &l.Epoch, &l.RatePerSecond,
			&l.Connections, &l.MessagesPerConnection, &l.Canary, &l.Greylisting, &l.NotAfter, &l.ReasonID, &rest); err != nil {
			return fmt.Errorf("read leases: %w", err)
		}
		if l.Provider == "" && l.Source == "" {
			if rest != "" {
				if err := json.Unmarshal([]byte(rest), &document); err != nil {
					return fmt.Errorf("read leases of generation %d: document: %w", head.Generation, err)
				}
			}
			document.Format, document.Generation = limits.Format, head.Generation
			document.IssuedAt, document.TTLSeconds, document.Leases = head.IssuedAt, head.TTLSeconds, []limits.Lease{}
			// Counted from before the question: what the answer took is not added to what was left.
			ends = asked.Add(head.TTL()).UTC().Truncate(time.Millisecond)
			hasHead = true
			continue
		}
		if !hasHead {
			return fmt.Errorf("leases of generation %d have no head row", head.Generation)
		}
		if l.NotAfter.Unix() <= 0 || ends.Before(l.NotAfter) {
			l.NotAfter = ends
		}
		document.Leases = append(document.Leases, l)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	if !hasHead || document.Generation <= f.generation.Load() {
		return nil
	}
	if err := limits.Save(filepath.Join(f.dir, limits.FileName), &document); err != nil {
		return err
	}
	f.generation.Store(document.Generation)
	f.log.Debug("limits written", "generation", document.Generation, "leases", len(document.Leases))
	return nil
}
