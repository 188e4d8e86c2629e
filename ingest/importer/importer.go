// Package importer brings the accounting of another mailer into ClickHouse as events of carom, so that
// every view and dashboard works on mail that carom has not sent. It reads PowerMTA's accounting files
// (package pmta), plain, gzip or zstd.
//
// Nothing is imported twice. A file is known again by its beginning, whatever its name: its events are
// those of the node "import/" and the beginning of the SHA-256 of that, numbered from 1 in the order of
// the file. A record that cannot be read has no number, so skipped records are no gaps in the view
// completeness. The table imports says for each file how far it is; the bounds of a batch are there
// before the batch is sent, and an import that was killed begins with that batch, under the same token.
// What is there already is read again, because it tells of the records behind it, and not sent.
//
// Two imports of the same file at once are kept apart by a lock on the file, on one machine only.
//
// It keeps no state but that table. While ClickHouse does not answer, an import waits and then fails;
// started again it goes on.
package importer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/ingest/importer/pmta"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

// Options say what to import and where.
type Options struct {
	PMTA   pmta.Options
	Fields string // column names of files without a header line, with commas; "": files have one

	Conn     driver.Conn   // nil: read and count, store nothing
	Version  string        // of carom
	Patience time.Duration // how long a batch is tried again; 0 for ever
	Log      *slog.Logger
	Progress func(Progress) // told now and then, by one goroutine; may be nil

	records int              // in a block, in tests; 0 for blockRecords
	now     func() time.Time // in tests; nil: the clock
}

// Progress says how far an import is.
type Progress struct {
	Records      int64
	Octets, Size int64 // of the files, as they are on disk
	Elapsed      time.Duration
	Counted      *warehouse.Rebuilt // the roll-up that was counted last, where all is read; else nil
}

// run is one import.
type run struct {
	options    Options
	now        func() time.Time
	layout     *pmta.Layout // of files without a header line; nil: they have one
	converters []*pmta.Converter
	known      *pmta.Memory
	states     []state
	store      *store // nil: a dry run
	replicated bool   // the table of events has replicas, and perhaps shards
	report     *tally
	late       lateness
	finished   []state                        // files that are read, and not written down as such
	free       chan []event.Event             // memory of blocks that are done with
	rows       chan *event.Block[event.Event] // two: one is filled while the other is stored
	size       int64
	counted    atomic.Pointer[warehouse.Rebuilt]
}

func newRun(ctx context.Context, o Options) (*run, error) {
	if o.records == 0 {
		o.records = blockRecords
	}
	if o.now == nil {
		o.now = time.Now
	}
	r := &run{options: o, now: o.now, known: pmta.NewMemory(), report: newTally(), free: make(chan []event.Event, 4)}
	if o.Fields != "" {
		layout, err := pmta.NewLayout(strings.Split(o.Fields, ","))
		if err != nil {
			return nil, service.Configf("--fields: %w", err)
		}
		r.layout = layout
	}
	for range runtime.GOMAXPROCS(0) {
		r.converters = append(r.converters, pmta.NewConverter(o.PMTA))
	}
	if o.Conn == nil {
		return r, nil
	}
	r.store = &store{conn: o.Conn, version: o.Version, patience: o.Patience, log: o.Log}
	r.rows = make(chan *event.Block[event.Event], 2)
	r.refill()
	window, err := warehouse.DedupWindow(ctx, o.Conn, warehouse.Events.Name)
	if err != nil {
		return nil, err
	}
	r.replicated = window.Replicated
	r.states, err = readStates(ctx, o.Conn)
	return r, err
}

// memory returns room for n events. A sync.Pool would lose it, some 30 MB a block, with each collection.
func (r *run) memory(n int) []event.Event {
	select {
	case events := <-r.free:
		if cap(events) >= n {
			return events[:0]
		}
	default:
	}
	return make([]event.Event, 0, n)
}

// refill sees to it that r.rows is full.
func (r *run) refill() {
	for len(r.rows) < cap(r.rows) {
		r.rows <- warehouse.Events.NewBlock()
	}
}

// reuse takes the room of rows back.
func (r *run) reuse(rows *event.Block[event.Event]) {
	select {
	case r.rows <- rows:
	default:
	}
}

// recycle takes the room of events back.
func (r *run) recycle(events []event.Event) {
	select {
	case r.free <- events:
	default:
	}
}

// progressPeriod is how often Options.Progress is told.
const progressPeriod = 500 * time.Millisecond

// watch tells Progress until the returned function is called.
func (r *run) watch() (stop func()) {
	if r.options.Progress == nil {
		return func() {}
	}
	ended, told := make(chan struct{}), make(chan struct{})
	tell := func() {
		r.options.Progress(Progress{
			r.report.records.Load(), r.report.octets.Load() + r.report.current.Load(), r.size, time.Since(r.report.started), r.counted.Load(),
		})
	}
	go func() {
		defer close(told)
		ticker := time.NewTicker(progressPeriod)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				tell()
				return
			case <-ticker.C:
				tell()
			}
		}
	}()
	return func() { close(ended); <-told }
}

// Run imports files, one after the other, in the order in which they are given: that of their time. The
// report is of what was done also where there is an error. A file that cannot be read and a wrong flag
// are a service.ConfigError.
func Run(ctx context.Context, o Options, files []string) (Report, error) {
	r, err := newRun(ctx, o)
	if err != nil {
		return Report{}, err
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return Report{}, service.Configf("%w", err)
		}
		if !info.Mode().IsRegular() {
			return Report{}, service.Configf("%s is no file: name files, or a folder with --follow", name)
		}
		r.size += info.Size()
	}
	stop := r.watch()
	for _, name := range files {
		if err = r.whole(ctx, name); err != nil {
			break
		}
	}
	if err == nil {
		err = r.settle(ctx)
	}
	stop()
	report := r.report.done()
	report.DryRun = o.Conn == nil
	return report, err
}

// whole imports one file to its end.
func (r *run) whole(ctx context.Context, name string) (err error) {
	f, err := r.open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.text.file.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if f.isDone() {
		r.report.file(info.Size(), true)
		return nil
	}
	before := r.report.records.Load()
	f.cutter.last = true
	if err := f.advance(ctx); err != nil {
		return err
	}
	if f.cutter.layout == nil && f.cutter.rest() == nil && r.report.records.Load() == before {
		r.options.Log.Warn("file is empty", "file", name)
	}
	if err := f.finish(); err != nil {
		return err
	}
	r.report.file(info.Size(), false)
	if r.late.events < mostUncounted {
		return nil
	}
	return r.settle(ctx)
}

// remember keeps what a file has become, for a copy of it later in the same run.
func (r *run) remember(s state) {
	if s.node == "" {
		return
	}
	for i := range r.states {
		if r.states[i].node == s.node {
			r.states[i] = s
			return
		}
	}
	r.states = append(r.states, s)
}
