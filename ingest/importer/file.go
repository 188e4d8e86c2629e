package importer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"carom/schemas/event"
	"carom/schemas/service"
)

// file is one file that is being imported. One goroutine owns it.
type file struct {
	run    *run
	name   string
	text   *text
	cutter *cutter

	state   state     // of the batch that was sent last
	resume  *state    // how far an earlier run has come; nil once that is reached, and for a new file
	bounds  [2]uint64 // records before and up to the end of the batch that the earlier run sent last; it is cut as it was then
	partial *batch    // that batch, as far as it was read, while its end is not there yet
	head    hash.Hash // of the text so far, until the file has its name
	skipped uint64
}

// errBusy is returned by open for a file that another process imports.
var errBusy = errors.New("another carom import is at work on it")

// open opens a file and looks whether it is known.
func (r *run) open(name string) (*file, error) {
	t, err := openText(name)
	if err != nil {
		return nil, service.Configf("%w", err)
	}
	f := &file{run: r, name: name, text: t, cutter: &cutter{name: name, in: t.in, layout: r.layout}, head: sha256.New()}
	// The lock says nothing to PowerMTA, which does not look for one.
	if err := unix.Flock(int(t.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a small number
		_ = t.Close() // only read
		return nil, service.Configf("%s: %w", name, errBusy)
	}
	if err := f.recognise(); err != nil {
		_ = t.Close() // only read
		return nil, err
	}
	return f, nil
}

func (f *file) recognise() error {
	again, err := openText(f.name)
	if err != nil {
		return service.Configf("%w", err)
	}
	defer func() { _ = again.Close() }() // only read
	known, err := recognise(again.in, f.run.states)
	if err != nil {
		return service.Configf("%s: %w", f.name, err)
	}
	if known != nil {
		resume := *known
		f.resume, f.bounds = &resume, [2]uint64{resume.recordFrom - 1, resume.records}
	}
	f.state.file = f.name
	return nil
}

// Close gives the file back.
func (f *file) Close() error { return f.text.Close() }

// isDone reports whether an earlier run has read all of the file, without reading it.
func (f *file) isDone() bool {
	if f.resume == nil || !f.resume.done {
		return false
	}
	info, err := f.text.file.Stat()
	if err != nil {
		return false
	}
	size := uint64(info.Size()) //nolint:gosec // not negative
	return size == f.resume.fileBytes || !f.text.isPacked && size == f.resume.textBytes
}

// advance imports all whole records that the file has now.
func (f *file) advance(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan *block)
	inOrder := make(chan *block, len(f.run.converters))
	batches := make(chan *batch)
	g.Go(func() error {
		defer close(work)
		defer close(inOrder)
		return f.read(ctx, work, inOrder)
	})
	for _, c := range f.run.converters {
		g.Go(func() error {
			for b := range work {
				b.events = f.run.memory(len(b.spans))
				b.convert(f.name, c)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(batches)
		return f.number(ctx, inOrder, batches)
	})
	g.Go(func() error {
		for b := range batches {
			if err := f.run.store.put(ctx, b); err != nil {
				return err
			}
			f.run.reuse(b.rows)
		}
		return nil
	})
	err := g.Wait()
	f.run.refill() // after an error some are lost
	return err
}

// read cuts the file into blocks and hands each to a converter, and in order to number.
func (f *file) read(ctx context.Context, work, inOrder chan<- *block) error {
	for {
		b, err := f.cutter.next(f.limit())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, to := range []chan<- *block{inOrder, work} {
			select {
			case to <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// limit returns how many records the next block may have.
func (f *file) limit() int {
	records, most := f.cutter.records, f.run.options.records
	for _, bound := range f.bounds {
		if records < bound {
			return int(min(bound-records, uint64(most))) //nolint:gosec // bounded by most
		}
	}
	return most
}

// batch is what is stored together, and how far the file is with it.
type batch struct {
	state    state
	rows     *event.Block[event.Event] // numbered from state.seqFrom on
	blocks   int                       // of the file that they come from
	repeated bool                      // it may have been sent before

	// The roll-ups leave it out as it is stored: they are counted for its time afterwards.
	uncounted bool
}

// number gives each event its place, in the order of the file, drops what is stored already and gathers the rest.
// While one batch is stored it fills the next.
func (f *file) number(ctx context.Context, inOrder <-chan *block, batches chan<- *batch) error {
	next := f.partial
	for b := range inOrder {
		select {
		case <-b.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if part, isNew := f.take(b); isNew && f.run.store != nil {
			var err error
			if next, err = f.gather(ctx, next, part, b.events); err != nil {
				return err
			}
		}
		f.run.recycle(b.events)
		if next == nil || !f.isWhole(next) {
			continue
		}
		if err := send(ctx, batches, next); err != nil {
			return err
		}
		next = nil
	}
	f.partial = nil
	if next == nil {
		return nil
	}
	if next.repeated { // under its token only the whole of it may be sent
		f.partial = next
		return nil
	}
	return send(ctx, batches, next)
}

// isWhole reports whether nothing is to be added to a batch. One that an earlier run has sent ends where it ended then.
func (f *file) isWhole(b *batch) bool {
	if b.repeated {
		return f.resume == nil
	}
	return b.blocks == batchBlocks
}

func send(ctx context.Context, batches chan<- *batch, b *batch) error {
	select {
	case batches <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gather adds a part and its events to the batch b, a new one if that is nil.
func (f *file) gather(ctx context.Context, b *batch, part batch, events []event.Event) (*batch, error) {
	if b == nil {
		b = &batch{state: part.state, repeated: part.repeated, uncounted: true}
		select {
		case b.rows = <-f.run.rows:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b.rows.Reset()
	}
	recordFrom, seqFrom := b.state.recordFrom, b.state.seqFrom
	b.state = part.state
	b.state.recordFrom, b.state.seqFrom = recordFrom, seqFrom
	b.blocks++
	b.uncounted = b.uncounted && part.uncounted
	for i := range events {
		if err := b.rows.Append(&events[i]); err != nil {
			return nil, fmt.Errorf("%s: a record between %d and %d cannot be stored: %w", f.name, part.state.recordFrom, part.state.records, err)
		}
	}
	return b, nil
}

// take numbers the events of a block and returns how far the file is with it. isNew is false for one without records,
// and for one that an earlier run has stored.
func (f *file) take(b *block) (part batch, isNew bool) {
	for i := range b.events {
		f.run.known.Complete(&b.events[i])
	}
	f.run.report.read(b, f.text.read.Load())
	from, seq := f.state.records+1, f.state.seq
	f.state.records, f.state.textBytes = b.records, uint64(b.offset) //nolint:gosec // not negative
	if f.state.node == "" {
		_, _ = io.WriteString(f.head, b.text) // a hash takes everything
		if b.records == 0 {
			return part, false
		}
		if f.resume != nil {
			f.state.node, f.state.incarnation = f.resume.node, f.resume.incarnation
			f.state.headBytes, f.state.headHash = f.resume.headBytes, f.resume.headHash
		} else {
			f.state.identify(f.head.Sum(nil), b.offset)
		}
	}
	repeated := false
	if r := f.resume; r != nil && b.records <= r.records {
		if b.records == r.records {
			f.resume = nil
		}
		if !r.done { // it may be that nobody has counted it yet
			f.run.late.add(b.events, f.run.begun())
		}
		if b.records < r.recordFrom || r.done {
			f.state.recordFrom, f.state.seqFrom, f.state.seq, f.state.skipped = r.recordFrom, r.seqFrom, r.seq, r.skipped
			f.skipped += uint64(len(b.bad))
			f.run.report.known.Add(int64(len(b.events)))
			return part, false
		}
		if from == r.recordFrom {
			seq = r.seqFrom - 1
		}
		repeated = true
	}
	if b.records == from-1 { // a header line, blank lines
		return part, false
	}
	f.skipped += uint64(len(b.bad))
	f.run.report.skip(b.bad)
	for i := range b.events {
		seq++
		e := &b.events[i]
		e.Node, e.Incarnation, e.Seq = f.state.node, f.state.incarnation, seq
	}
	f.run.report.count(b.events)
	f.state.recordFrom, f.state.seqFrom, f.state.seq = from, seq-uint64(len(b.events))+1, seq
	f.state.skipped, f.state.done, f.state.fileBytes = f.skipped, false, 0
	uncounted := f.run.late.add(b.events, f.run.begun())
	return batch{state: f.state, repeated: repeated, uncounted: uncounted}, true
}

// finish notes that the file was read to its end. That is written down by settle, when all of it is
// counted.
func (f *file) finish() error {
	if rest := f.cutter.rest(); rest != nil {
		f.run.report.skip([]Skipped{*rest})
	}
	f.state.done = true
	if f.state.node == "" || f.resume != nil { // the last: it is shorter than it was
		return nil
	}
	info, err := f.text.file.Stat()
	if err != nil {
		return err
	}
	f.state.fileBytes = uint64(info.Size()) //nolint:gosec // not negative
	f.run.finished = append(f.run.finished, f.state)
	f.run.remember(f.state)
	return nil
}

// age returns how long ago the file was written to.
func (f *file) age(now time.Time) time.Duration {
	info, err := f.text.file.Stat()
	if err != nil {
		return 0
	}
	return now.Sub(info.ModTime())
}
