// Package ship brings a node's event log into ClickHouse, each record exactly once.
//
// A batch is cut from the log, and its bounds and token are made durable beside the log before
// anything is sent. The batch is then sent under that token until ClickHouse confirms it, by this
// process or by the next one, and only then does the cursor move, which is what allows the sender
// to remove segments. Between any two of these steps the process, the machine or ClickHouse may
// die: the same records are sent again under the same token, and ClickHouse keeps them once, in
// the tables and in the roll-ups (schemas/warehouse, Insert).
//
// What can't be stored is never dropped in silence. A record that can't be decoded, that
// ClickHouse refuses for its data, or that the disk lost, becomes a file in the folder quarantine,
// a log line and a count, and shows as a gap in the view completeness. A refused batch is split
// to find the record; each split is durable before its parts are sent. Every other error is
// waited out, for as long as it takes: the log grows meanwhile, and nothing else (warehouse.RemedyOf
// tells the kinds of errors apart). With Options.Once an error that an operator has to cure ends Run.
//
// Files in the folder of the event log, for each STREAM (event, gauge, queue_gauge, annotation):
//
//	STREAM/                  the log itself, written by the sender (schemas/seglog)
//	STREAM.cursor            the last record that is stored (schemas/cursor)
//	STREAM.pending           the batch that is being sent
//	agent.lock               held by the one process that ships this log
//	quarantine/STREAM-…      one file for each record, or run of records, that is not stored
package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"golang.org/x/sync/errgroup"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/warehouse"
)

// Defaults of Options.
const (
	DefaultBatchRows  = 100_000
	DefaultBatchBytes = 32 << 20
	DefaultBatchAge   = 500 * time.Millisecond
)

// An insert costs ClickHouse much the same for a thousand rows as for ten thousand (on two slow
// cores 0.1 s and a few microseconds a row), and on one machine that time is taken from the mail.
// So a batch is collected for insertShare times as long as the last one took to store.
const (
	insertShare = 5
	// maxLag is how long an event may take to be stored because of that: waiting, and the insert. An
	// insert that takes longer than the last one must still end within 2 s. The
	// control loop allows for it when it takes a bucket for complete (analytics/windows,
	// shortestSettle).
	maxLag = 1500 * time.Millisecond
)

const (
	insertTimeout = 2 * time.Minute // of one attempt; its outcome is then unknown and it is repeated
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 5 * time.Second
	logPoll       = 250 * time.Millisecond // while the sender has not made the log yet
	repeatWarning = time.Minute            // of an error that lasts
	// operatorWait is how long an error that somebody has to cure is waited for: a login that is tried
	// every few seconds fills ClickHouse's log and may be locked.
	operatorWait = 15 * time.Second
)

// Options say what to ship and where.
type Options struct {
	Dir  string      // folder of the event log
	Node string      // name of the node, as it stands in every row
	Conn driver.Conn // the warehouse; it need not answer yet
	Log  *slog.Logger

	// A batch is sent when it has so many records or bytes, or its first record has waited so
	// long; longer, while inserts take more than a fifth of the time and events are stored within
	// 2 s. Zero means the default.
	BatchRows  int
	BatchBytes int
	BatchAge   time.Duration

	// Reachable is asked, if it is set, before an error of the warehouse is logged: where it says
	// false, it has said itself what keeps ClickHouse from taking anything.
	Reachable func(context.Context) bool

	// Once makes Run return when all that the log holds is stored, instead of waiting for more.
	Once bool

	// fault is called before each step that changes something, in tests: an error ends Run there
	// and then, as the death of the process would.
	fault func(stream, step string) error
}

func (o Options) withDefaults() Options {
	if o.BatchRows <= 0 {
		o.BatchRows = DefaultBatchRows
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = DefaultBatchBytes
	}
	if o.BatchAge <= 0 {
		o.BatchAge = DefaultBatchAge
	}
	if o.Reachable == nil {
		o.Reachable = func(context.Context) bool { return true }
	}
	if o.fault == nil {
		o.fault = func(string, string) error { return nil }
	}
	return o
}

// Status says how far a Shipper is.
type Status struct {
	Incarnation event.ID // of the log of events; zero until there is one
	// The last stored record of each stream.
	EventSeq, GaugeSeq, AnnotationSeq, QueueGaugeSeq uint64
	// Quarantined counts the files in quarantine, those of earlier runs included.
	Quarantined uint64
}

// Shipper ships the log of one node. It holds the lock of the log's agent.
type Shipper struct {
	opt  Options
	lock io.Closer

	incarnation atomic.Pointer[event.ID]
	seqs        [4]atomic.Uint64 // in the order of Status
}

// New takes the agent's lock of the log in o.Dir and makes the folder if there is none. The error
// wraps seglog.ErrLocked if another agent ships this log. The caller closes the Shipper after Run.
func New(o Options) (*Shipper, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(filepath.Join(o.Dir, quarantineDir), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the event log: %w", err)
	}
	lock, err := seglog.OS{}.Lock(filepath.Join(o.Dir, "agent.lock"))
	if err != nil {
		return nil, fmt.Errorf("agent of event log %s: %w", o.Dir, err)
	}
	s := &Shipper{opt: o, lock: lock}
	if err := s.tidy(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// tidy removes what a process left that died while it wrote.
func (s *Shipper) tidy() error {
	for _, pattern := range []string{"*.cursor.*.tmp", "*.pending.*.tmp", quarantineDir + "/*.tmp"} {
		names, err := filepath.Glob(filepath.Join(s.opt.Dir, pattern))
		if err != nil {
			return fmt.Errorf("look for leftovers: %w", err)
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
		}
	}
	return nil
}

// Close gives the lock back.
func (s *Shipper) Close() error { return s.lock.Close() }

// Status returns how far the shipper is. It is safe for concurrent use.
func (s *Shipper) Status() Status {
	st := Status{
		EventSeq: s.seqs[0].Load(), GaugeSeq: s.seqs[1].Load(), AnnotationSeq: s.seqs[2].Load(), QueueGaugeSeq: s.seqs[3].Load(),
	}
	if files, err := os.ReadDir(filepath.Join(s.opt.Dir, quarantineDir)); err == nil { // Retry takes some away
		st.Quarantined = uint64(len(files))
	}
	if id := s.incarnation.Load(); id != nil {
		st.Incarnation = *id
	}
	return st
}

// Run ships every stream until ctx ends and then returns nil. It returns an error only for what
// waiting does not cure: the disk, a damaged cursor, a log that was put back to an older state.
func (s *Shipper) Run(ctx context.Context) error {
	events := stream[event.Event]{shipper: s, name: event.StreamEvent, table: warehouse.Events, seq: &s.seqs[0]}
	gauges := stream[event.Gauge]{shipper: s, name: event.StreamGauge, table: warehouse.Gauges, seq: &s.seqs[1], stamp: s.stampGauges}
	annotations := stream[event.Annotation]{shipper: s, name: event.StreamAnnotation, table: warehouse.Annotations, seq: &s.seqs[2]}
	queueGauges := stream[event.QueueGauge]{shipper: s, name: event.StreamQueueGauge, table: warehouse.QueueGauges, seq: &s.seqs[3]}
	g, gctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{events.run, gauges.run, annotations.run, queueGauges.run} {
		g.Go(func() error { return run(gctx) })
	}
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
