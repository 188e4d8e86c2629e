package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/limits"
	"carom/schemas/suppression"
)

// feed keeps the files in the feed folder up to date. Its two tasks share nothing but the
// connection and may run side by side.
type feed struct {
	conn driver.Conn
	log  *slog.Logger
	node string
	dir  string

	generation atomic.Uint64 // of limits.json; 0 before the first look

	// State of the suppressions when the snapshot was written.
	state   suppressionState
	written bool // by this process
}

// suppressionState tells whether suppressions changed, without reading them.
type suppressionState struct {
	rows    uint64
	arrived time.Time // of the youngest row
	at      time.Time // when this was read, by the warehouse's clock
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
// outlived its TTL already: the node counts the TTL from first sight, and would obey an old one
// that it never saw.
func (f *feed) limits(ctx context.Context) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"node": f.node}))
	rows, err := f.conn.Query(ctx, `SELECT
    generation, issued_at, ttl_seconds, provider, source, epoch, rate, connections,
    messages_per_connection, canary, not_after, reason_id, document
FROM leases
WHERE node = {node:String}
    AND generation = (SELECT max(generation) FROM leases WHERE node = {node:String})
    AND toUnixTimestamp64Micro(issued_at) + ttl_seconds * 1000000 > toUnixTimestamp64Micro(now64(6))
ORDER BY provider, source
LIMIT 1 BY provider, source`)
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var document limits.Document
	hasHead := false
	for rows.Next() {
		var head limits.Document
		var l limits.Lease
		var rest string
		if err := rows.Scan(&head.Generation, &head.IssuedAt, &head.TTLSeconds, &l.Provider, &l.Source, &l.Epoch, &l.RatePerSecond,
			&l.Connections, &l.MessagesPerConnection, &l.Canary, &l.NotAfter, &l.ReasonID, &rest); err != nil {
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
			hasHead = true
			continue
		}
		if l.NotAfter.Unix() <= 0 {
			l.NotAfter = time.Time{}
		}
		if !hasHead {
			return fmt.Errorf("leases of generation %d have no head row", head.Generation)
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

// suppressions writes the snapshot if suppressions were added, taken back or have expired since
// the last one.
func (f *feed) suppressions(ctx context.Context) error {
	var now suppressionState
	var expired uint64
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"since": fmt.Sprint(f.state.at.UnixMicro())}))
	if err := f.conn.QueryRow(ctx, `WITH now64(6, 'UTC') AS now
SELECT count(), max(arrived), now, countIf(expires_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND expires_at <= now)
FROM suppressions`).Scan(&now.rows, &now.arrived, &now.at, &expired); err != nil {
		return fmt.Errorf("look for new suppressions: %w", err)
	}
	if f.written && now.rows == f.state.rows && now.arrived.Equal(f.state.arrived) && expired == 0 {
		return nil
	}
	name := filepath.Join(f.dir, suppression.FileName)
	present, err := suppression.Load(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("suppression snapshot is unreadable, a new one replaces it", "error", err)
	}
	generation := uint64(now.at.UnixMicro()) //nolint:gosec // after 1970
	if present != nil {
		if now.rows == 0 && present.Len() > 0 {
			return errors.New("the warehouse has no suppressions at all, the snapshot of this node has some: it is kept " +
				"(remove the file if this is meant)")
		}
		generation = max(generation, present.Generation()+1)
	}
	entries, err := f.readSuppressions(ctx)
	if err != nil {
		return err
	}
	if err := suppression.Save(name, generation, now.at, entries); err != nil {
		return err
	}
	f.state, f.written = now, true
	f.log.Debug("suppressions written", "generation", generation, "entries", len(entries))
	return nil
}

func (f *feed) readSuppressions(ctx context.Context) ([]suppression.Entry, error) {
	rows, err := f.conn.Query(ctx, "SELECT tenant, recipient_key FROM suppressed WHERE match(recipient_key, '^[0-9a-fA-F]{32}$')")
	if err != nil {
		return nil, fmt.Errorf("read suppressions: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var entries []suppression.Entry
	for rows.Next() {
		var e suppression.Entry
		if err := rows.Scan(&e.Tenant, &e.Key); err != nil {
			return nil, fmt.Errorf("read suppressions: %w", err)
		}
		entries = append(entries, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read suppressions: %w", err)
	}
	return entries, nil
}
