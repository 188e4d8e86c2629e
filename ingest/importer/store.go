package importer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/event"
	"carom/schemas/warehouse"
)

const (
	insertTimeout = 2 * time.Minute // of one attempt; its outcome is then unknown and it is repeated
	minBackoff    = 200 * time.Millisecond
	maxBackoff    = 5 * time.Second
)

// store puts batches into ClickHouse, each event once.
type store struct {
	conn     driver.Conn
	version  string
	patience time.Duration // how long a batch is tried again; 0 for ever
	log      *slog.Logger
}

// put stores b. If it was not sent before, its bounds are made durable first. The error is that of the
// last attempt.
func (w *store) put(ctx context.Context, b *batch) error {
	started := time.Now()
	var warned bool
	s := &b.state
	for try := 0; ; try++ {
		err := w.attempt(ctx, b)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case warehouse.BadData(err):
			return fmt.Errorf("%s records %d to %d: %w", s.file, s.recordFrom, s.records, err)
		case w.patience > 0 && time.Since(started) > w.patience:
			return fmt.Errorf("%s records %d to %d are not stored: %w (start the same import again, it goes on there)", s.file, s.recordFrom, s.records, err)
		}
		if !warned {
			w.log.Warn("batch is not stored yet, trying again", "file", s.file, "records", s.records, "error", err)
			warned = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(minBackoff<<min(try, 10), maxBackoff)):
		}
	}
}

// attempt tries once.
func (w *store) attempt(ctx context.Context, b *batch) error {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	s := &b.state
	if !b.repeated {
		if err := s.write(ctx, w.conn, w.version); err != nil {
			return err
		}
	}
	if b.rows.Len() == 0 {
		return nil
	}
	insert := warehouse.Events.InsertBlock
	if b.uncounted {
		insert = warehouse.Events.Repair
	}
	if !b.repeated {
		b.repeated = true
		return insert(ctx, w.conn, s.token(), b.rows)
	}
	place := warehouse.Place{Node: s.node, Incarnation: s.incarnation, From: s.seqFrom, To: s.seq}
	stored, forgotten, err := warehouse.Events.Landed(ctx, w.conn, place)
	if err != nil {
		return err
	}
	again := b.rows
	if forgotten { // the token makes a repetition exact only for so long
		again = b.without(stored)
	}
	if again.Len() > 0 {
		if err := insert(ctx, w.conn, s.token(), again); err != nil {
			return err
		}
	}
	// ClickHouse may have died with the token and without the rows: see Repair.
	for n := 1; ; n++ {
		if stored, _, err = warehouse.Events.Landed(ctx, w.conn, place); err != nil {
			return err
		}
		missing := b.without(stored)
		if missing.Len() == 0 {
			return nil
		}
		if n > maxRepairs {
			return errors.New("rows do not arrive although ClickHouse confirms them")
		}
		if err := warehouse.Events.Repair(ctx, w.conn, fmt.Sprintf("%s/repair-%d", s.token(), n), missing); err != nil {
			return err
		}
	}
}

// maxRepairs is generous: each repair but the first follows another death of ClickHouse.
const maxRepairs = 20

// without returns the rows whose number is not among seqs, which are in order.
func (b *batch) without(seqs []uint64) *event.Block[event.Event] {
	return b.rows.Select(func(row int) bool {
		_, found := slices.BinarySearch(seqs, b.state.seqFrom+uint64(row)) //nolint:gosec // not negative
		return !found
	})
}

// note writes how far a file is, without a batch.
func (w *store) note(ctx context.Context, s state) error {
	var err error
	for try := range 5 {
		if err = s.write(ctx, w.conn, w.version); err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(minBackoff << try):
		}
	}
	return err
}
