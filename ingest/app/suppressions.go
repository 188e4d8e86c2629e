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
// hold no state that an agent needs: a process begins with a snapshot.
type listState struct {
	snapshot uint64    // its generation; 0 before the first, and when a file is spoilt
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

// suppressions adds to the delta what was said since the last look. Before there is a snapshot of this
// process it does nothing.
func (f *feed) suppressions(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list.snapshot == 0 {
		return nil
	}
	now, rows, err := f.lookAtList(ctx)
	if err != nil {
		return err
	}
	if rows == 0 && f.list.entries+f.list.changes > 0 {
		return errNoSuppressions
	}
	changes, next, err := f.readChanges(ctx, now)
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		if err := suppression.AppendDelta(filepath.Join(f.dir, suppression.DeltaName), changes); err != nil {
			f.list.snapshot = 0 // it may end with half a change: a new snapshot mends it
			return err
		}
		f.log.Debug("suppressions changed", "changes", len(changes))
	}
	f.list = next
	return nil
}

func (f *feed) lookAtList(ctx context.Context) (now time.Time, rows uint64, err error) {
	if err := f.conn.QueryRow(ctx, "SELECT now64(6, 'UTC'), count() FROM suppressions").Scan(&now, &rows); err != nil {
		return now, 0, fmt.Errorf("look for suppressions: %w", err)
	}
	return now, rows, nil
}

var errNoSuppressions = errors.New("the warehouse has no suppressions at all, the snapshot of this node has some: it is kept " +
	"(remove the file if this is meant)")

// snapshot writes the whole list when that is due: at the start of the process, once a day, after
// many changes, and when a file is gone or spoilt. While it reads, which takes minutes for 10^8
// entries, changes go on.
func (f *feed) snapshot(ctx context.Context) error {
	name := filepath.Join(f.dir, suppression.FileName)
	_, err := os.Stat(name)
	f.mu.Lock()
	if errors.Is(err, fs.ErrNotExist) {
		f.list = listState{}
	}
	before := f.list
	f.mu.Unlock()
	now, rows, err := f.lookAtList(ctx)
	if err != nil {
		return err
	}
	if before.snapshot > 0 && now.Sub(before.built) < rebuildAfter && before.changes <= max(minDelta, before.entries/deltaPart) {
		return nil
	}
	last := before.snapshot
	if last == 0 {
		present, err := suppression.Load(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("suppression snapshot is unreadable, a new one replaces it", "error", err)
		}
		if rows == 0 && present.Len() > 0 {
			return errNoSuppressions
		}
		last = present.Generation()
	}
	list, err := f.readList(ctx, now)
	if err != nil {
		return err
	}
	generation := max(uint64(now.UnixMicro()), last+1) //nolint:gosec // after 1970
	return f.install(ctx, generation, now, list)
}

// install puts a list in force that was read at a time, with what was said since. The delta comes
// first: a node that has the new snapshot must not lack what it had from the old delta, and takes a
// delta without its snapshot for none.
func (f *feed) install(ctx context.Context, generation uint64, at time.Time, list *suppression.List) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = listState{snapshot: generation, entries: list.Len(), built: at, at: at, ended: at}
	now, _, err := f.lookAtList(ctx)
	var changes []suppression.Change
	var next listState
	if err == nil {
		changes, next, err = f.readChanges(ctx, now)
	}
	f.list = listState{} // until both files are there
	if err != nil {
		return err
	}
	delta := filepath.Join(f.dir, suppression.DeltaName)
	if err := suppression.StartDelta(delta, generation); err != nil {
		return err
	}
	if err := suppression.AppendDelta(delta, changes); err != nil {
		return err
	}
	if err := suppression.Save(filepath.Join(f.dir, suppression.FileName), generation, at, list); err != nil {
		return err
	}
	f.list = next
	f.log.Debug("suppressions written", "generation", generation, "entries", list.Len(), "changes", len(changes))
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

// readChanges returns what was said since f.list.at, and the state with that in the files. The caller
// holds f.mu.
func (f *feed) readChanges(ctx context.Context, now time.Time) ([]suppression.Change, listState, error) {
	next := f.list
	next.told = map[listKey]listWord{}
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
			if _, twice := next.told[k]; !twice && (!known || last != w) {
				changes = append(changes, suppression.Change{Tenant: k.tenant, Key: k.key, Suppressed: w.suppressed, At: w.at})
			}
			next.told[k] = w
			return nil
		})
	}
	err := read("SELECT recipient_key FROM suppression_changes WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC')", next.at.Add(-changeOverlap))
	if err != nil {
		return nil, next, err
	}
	if now.Sub(next.ended) >= expiryPeriod {
		err := read(`SELECT recipient_key FROM suppressions
    WHERE expires_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND expires_at <= fromUnixTimestamp64Micro({now:Int64}, 'UTC')`, next.ended)
		if err != nil {
			return nil, next, err
		}
		next.ended = now
	}
	next.changes += len(changes)
	next.at = now
	return changes, next, nil
}
