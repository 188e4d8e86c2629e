package app

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/ingest/ship"
	"carom/schemas/clock"
	"carom/schemas/event"
)

// registration tells the warehouse that the node lives and how far it has shipped.
type registration struct {
	conn       driver.Conn
	node       string
	version    string
	started    time.Time
	shipped    func() ship.Status
	generation func() uint64
}

// write adds the node's row. Before the sender has made its log there is nothing to tell.
func (r *registration) write(ctx context.Context) error {
	s := r.shipped()
	if s.Incarnation == (event.ID{}) {
		return nil
	}
	batch, err := r.conn.PrepareBatch(ctx, `INSERT INTO nodes
(node, incarnation, seen_at, started_at, version, event_seq, gauge_seq, queue_gauge_seq, annotation_seq, quarantined, limits_generation)`)
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	if err := batch.Append(r.node, s.Incarnation, clock.Now().UTC(), r.started, r.version,
		s.EventSeq, s.GaugeSeq, s.QueueGaugeSeq, s.AnnotationSeq, s.Quarantined, r.generation()); err != nil {
		_ = batch.Abort() // the first error is the one to tell
		return fmt.Errorf("register node: %w", err)
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	return nil
}
