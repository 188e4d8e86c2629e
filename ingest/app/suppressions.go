package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/suppression"
)

const (
	// rebuildAfter is when the snapshot is written again whatever happened: what a warehouse that
	// was restored from a copy says differently is found then at the latest.
	rebuildAfter = 24 * time.Hour
	// The changes since the snapshot are at most this many, or this part of it: a node keeps them in
	// memory at several times the size.
	minDelta, deltaPart = 20_000, 16
	// changeOverlap is how much of the changes is read again: rows become visible in another order
	// than they arrive, within the time of one insert.
	changeOverlap = time.Minute
	// expiryPeriod is how often the agent looks for what ended by itself, which reads the ends of
	// all suppressions.
	expiryPeriod = 30 * time.Second
	// releasedFor is how long a snapshot tells nodes of what was taken back or waits. A node's own
	// entry meets the warehouse's word within seconds, or when ClickHouse is back.
	releasedFor = 30 * 24 * time.Hour
)

// listState is what the agent knows of the suppression files that it wrote. The files themselves
// hold no state that an agent needs: the first look of a process writes the snapshot.
type listState struct {
	snapshot uint64    // generation of the snapshot; 0 before the first, and when the delta is spoilt
	entries  int       // of the snapshot
	changes  int       // in the delta
	built    time.Time // when the snapshot was written, by the warehouse's clock, like the two below
	at       time.Time // the files hold what arrived until then
	ended    time.Time // and what ended until then
	told     map[listKey]listWord
}

type listKey struct{ tenant, key string }

// listWord is what the warehouse says of a key.
type listWord struct {
	suppressed bool
	at         time.Time // of the last statement
}

// statements selects rows of suppressions, those of a key and tenant together. They come in the order
// of the table, so that the whole list is read with little memory; to group them here costs ClickHouse
// a fifth of what GROUP BY does.
const statements = `
SELECT tenant, recipient_key, time, tombstone, pending, expires_at
FROM suppressions
WHERE length(recipient_key) = 32%s
ORDER BY recipient_key, tenant`

// suppressions keeps the snapshot and its delta up to date.
func (f *feed) suppressions(ctx context.Context) error {
	var now time.Time
	var rows uint64
	if err := f.conn.QueryRow(ctx, "SELECT now64(6, 'UTC'), count() FROM suppressions").Scan(&now, &rows); err != nil {
		return fmt.Errorf("look for suppressions: %w", err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, suppression.FileName)); errors.Is(err, fs.ErrNotExist) {
		f.list.snapshot = 0
	}
	if rows == 0 && f.list.entries+f.list.changes > 0 && f.list.snapshot > 0 {
		return errNoSuppressions
	}
	if l := &f.list; l.snapshot == 0 || now.Sub(l.built) > rebuildAfter || l.changes > max(minDelta, l.entries/deltaPart) {
		return f.writeSnapshot(ctx, now, rows)
	}
	return f.writeChanges(ctx, now)
}

var errNoSuppressions = errors.New("the warehouse has no suppressions at all, the snapshot of this node has some: it is kept " +
	"(remove the file if this is meant)")

// writeSnapshot writes the whole list.
func (f *feed) writeSnapshot(ctx context.Context, now time.Time, rows uint64) error {
	name := filepath.Join(f.dir, suppression.FileName)
	generation := uint64(now.UnixMicro()) //nolint:gosec // after 1970
	if f.list.snapshot == 0 {
		present, err := suppression.Load(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("suppression snapshot is unreadable, a new one replaces it", "error", err)
		}
		if rows == 0 && present.Len() > 0 {
			return errNoSuppressions
		}
		if present != nil {
			generation = max(generation, present.Generation()+1)
		}
	} else {
		generation = max(generation, f.list.snapshot+1)
	}
	list, err := f.readList(ctx, now)
	if err != nil {
		return err
	}
	if err := suppression.Save(name, generation, now, list); err != nil {
		return err
	}
	f.list = listState{} // until the delta is there
	if err := suppression.StartDelta(filepath.Join(f.dir, suppression.DeltaName), generation); err != nil {
		return err
	}
	f.list = listState{snapshot: generation, entries: list.Len(), built: now, at: now, ended: now}
	f.log.Debug("suppressions written", "generation", generation, "entries", list.Len())
	return nil
}

func (f *feed) readList(ctx context.Context, now time.Time) (*suppression.List, error) {
	rows, err := f.conn.Query(ctx, fmt.Sprintf(statements, ""))
	if err != nil {
		return nil, fmt.Errorf("read suppressions: %w", err)
	}
	list := &suppression.List{}
	err = eachWord(rows, now, func(k listKey, w listWord) error {
		switch {
		case w.suppressed:
			return list.Suppress(k.tenant, k.key)
		case w.at.After(now.Add(-releasedFor)):
			return list.Release(k.key, w.at)
		default:
			return nil
		}
	})
	return list, err
}

// eachWord hands on what the rows of each key and tenant say together at now, as the view suppressed
// does: a suppression that has not ended holds unless a tombstone is later. What is no key is left
// out.
func eachWord(rows driver.Rows, now time.Time, take func(listKey, listWord) error) (err error) {
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = fmt.Errorf("read suppressions: %w", closed)
		}
	}()
	var key listKey
	var holds, removed, last time.Time
	done := func() error {
		if last.IsZero() || !suppression.IsKey(key.key) {
			return nil
		}
		return take(key, listWord{suppressed: !holds.IsZero() && !holds.Before(removed), at: last})
	}
	for rows.Next() {
		var k listKey
		var at, expires time.Time
		var tombstone, pending bool
		if err := rows.Scan(&k.tenant, &k.key, &at, &tombstone, &pending, &expires); err != nil {
			return fmt.Errorf("read suppressions: %w", err)
		}
		if k != key {
			if err := done(); err != nil {
				return err
			}
			key, holds, removed, last = k, time.Time{}, time.Time{}, time.Time{}
		}
		last = later(last, at)
		switch {
		case tombstone:
			removed = later(removed, at)
		case !pending && (expires.Unix() <= 0 || expires.After(now)):
			holds = later(holds, at)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read suppressions: %w", err)
	}
	return done()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// writeChanges adds to the delta what was said since the last look.
func (f *feed) writeChanges(ctx context.Context, now time.Time) error {
	told := map[listKey]listWord{}
	var changes []suppression.Change
	read := func(which string, since time.Time) error {
		ctx := clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
			"since": fmt.Sprint(since.UnixMicro()), "now": fmt.Sprint(now.UnixMicro()),
		}))
		rows, err := f.conn.Query(ctx, fmt.Sprintf(statements, " AND recipient_key IN ("+which+")"))
		if err != nil {
			return fmt.Errorf("read suppressions: %w", err)
		}
		return eachWord(rows, now, func(k listKey, w listWord) error {
			last, known := f.list.told[k]
			if _, twice := told[k]; !twice && (!known || last != w) {
				changes = append(changes, suppression.Change{Tenant: k.tenant, Key: k.key, Suppressed: w.suppressed, At: w.at})
			}
			told[k] = w
			return nil
		})
	}
	if err := read("SELECT recipient_key FROM suppression_changes WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC')",
		f.list.at.Add(-changeOverlap)); err != nil {
		return err
	}
	ended := f.list.ended
	if now.Sub(ended) >= expiryPeriod {
		if err := read(`SELECT recipient_key FROM suppressions
    WHERE expires_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND expires_at <= fromUnixTimestamp64Micro({now:Int64}, 'UTC')`, ended); err != nil {
			return err
		}
		ended = now
	}
	if len(changes) > 0 {
		if err := suppression.AppendDelta(filepath.Join(f.dir, suppression.DeltaName), changes); err != nil {
			f.list.snapshot = 0 // it may end with half a change: the next look writes all
			return err
		}
		f.log.Debug("suppressions changed", "changes", len(changes))
	}
	f.list.changes += len(changes)
	f.list.at, f.list.ended, f.list.told = now, ended, told
	return nil
}
