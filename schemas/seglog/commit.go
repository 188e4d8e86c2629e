package seglog

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

const (
	// writeBuffer is the size up to which records are gathered for one write.
	writeBuffer = 256 << 10
	// directBytes is the size from which a part of a record is written from where it is; a copy
	// costs less than a system call below it.
	directBytes = 32 << 10
)

// Commit is a group of records on their way to the disk.
type Commit struct {
	then    func(Range)
	entries []entry
	bytes   int64 // on disk
	durable bool  // wanted: fsync before done
	roll    bool  // wanted, instead of records: a new segment
	done    chan struct{}
	place   Range
	err     error
	inline  [2]entry // backs entries for the usual small call
}

// NewCommit returns a commit without records, for Add and EnqueueCommit. When they are durable the
// committer calls then, which may be nil, with their place: in the order of their numbers, before
// Wait returns, and before anything is written that is not in the same group. It must not wait.
func NewCommit(then func(Range)) *Commit {
	c := newCommit(true)
	c.then = then
	return c
}

// Add adds a record, whose payload may lie in several pieces of memory; they are written without
// being joined first, and must not be changed before the commit is done.
func (c *Commit) Add(parts ...[]byte) { c.add(parts) }

// Reset empties a commit that is done, so that it can be used again. Nobody may be in Wait.
func (c *Commit) Reset() {
	select {
	case <-c.done:
	default:
	}
	c.entries, c.bytes, c.place, c.err = c.inline[:0], 0, Range{}, nil
}

// entry is one record: its payload in parts.
type entry struct {
	parts  [][]byte
	length int
	crc    uint32
}

// Wait returns where the records are when they are durable. If ctx ends first the records may
// become durable all the same.
func (c *Commit) Wait(ctx context.Context) (Range, error) {
	select {
	case <-c.done:
	default:
		select {
		case <-c.done:
		case <-ctx.Done():
			return Range{}, ctx.Err()
		}
	}
	c.done <- struct{}{} // for the next who waits
	return c.place, c.err
}

// Await is Wait that nothing ends early.
func (c *Commit) Await() (Range, error) {
	<-c.done
	c.done <- struct{}{} // for the next who waits
	return c.place, c.err
}

// Enqueue hands over recs for a durable Append without waiting for the disk; records get their
// numbers in the order of the calls. It blocks only while MaxPendingBytes are pending.
// recs must not be changed before the commit is done.
func (l *Log) Enqueue(ctx context.Context, recs ...[]byte) (*Commit, error) {
	c := newCommit(true)
	for i := range recs {
		c.add(recs[i : i+1 : i+1])
	}
	if err := l.enqueue(ctx, c); err != nil {
		return nil, err
	}
	return c, nil
}

// EnqueueCommit is Enqueue for the records of c.
func (l *Log) EnqueueCommit(ctx context.Context, c *Commit) error { return l.enqueue(ctx, c) }

// Write appends recs like Append but returns when they are written, not when they are durable:
// they survive the death of the process, and power loss after the next Sync or Append.
func (l *Log) Write(ctx context.Context, recs ...[]byte) (Range, error) {
	c := newCommit(false)
	for i := range recs {
		c.add(recs[i : i+1 : i+1])
	}
	if err := l.enqueue(ctx, c); err != nil {
		return Range{}, err
	}
	return c.Wait(ctx)
}

// Sync makes everything durable that was written before the call.
func (l *Log) Sync(ctx context.Context) error {
	c := newCommit(true)
	if err := l.enqueue(ctx, c); err != nil {
		return err
	}
	_, err := c.Wait(ctx)
	return err
}

// Roll seals the active segment and goes on in a new one, so that the old one can be removed. It does
// nothing to a segment without records. What was handed over before the call is durable when Roll
// returns, and was told to NewCommit's then. After an error that does not wrap ErrPoisoned the active
// segment is as before: a full disk may have no room for the new file.
func (l *Log) Roll(ctx context.Context) error {
	c := newCommit(true)
	c.roll = true
	if err := l.enqueue(ctx, c); err != nil {
		return err
	}
	_, err := c.Wait(ctx)
	return err
}

func newCommit(durable bool) *Commit {
	c := &Commit{durable: durable, done: make(chan struct{}, 1)}
	c.entries = c.inline[:0]
	return c
}

// add computes the checksum here, in the goroutine of the caller, because the committer is one.
func (c *Commit) add(parts [][]byte) {
	e := entry{parts: parts}
	for _, p := range parts {
		e.length += len(p)
		e.crc = crc32.Update(e.crc, castagnoli, p)
	}
	c.entries = append(c.entries, e)
	c.bytes += recordHeader + int64(e.length)
}

func (l *Log) enqueue(ctx context.Context, c *Commit) error {
	for _, e := range c.entries {
		if e.length > l.opt.MaxRecordBytes {
			return fmt.Errorf("append %d bytes, at most %d: %w", e.length, l.opt.MaxRecordBytes, ErrTooLarge)
		}
	}
	if err := l.room.Acquire(ctx, l.weight(c)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing || l.err != nil {
		l.room.Release(l.weight(c))
		if l.err != nil {
			return l.err
		}
		return ErrClosed
	}
	l.pending = append(l.pending, c)
	l.wake.Signal()
	return nil
}

// weight lets a call that is larger than the bound through when nothing else is pending.
func (l *Log) weight(c *Commit) int64 { return min(c.bytes, l.opt.MaxPendingBytes) }

// run is the committer: the one goroutine that writes.
func (l *Log) run() {
	defer close(l.stopped)
	for {
		l.mu.Lock()
		for len(l.pending) == 0 && !l.closing {
			l.wake.Wait()
		}
		if len(l.pending) == 0 {
			l.mu.Unlock()
			break
		}
		batch, bytes := l.take()
		l.mu.Unlock()
		l.commit(batch, bytes)
	}
	err := l.Err()
	if err == nil && l.synced < l.off {
		err = l.sync()
	}
	if err == nil && l.published.seq < l.next-1 {
		err = l.publish()
	}
	l.closeErr = errors.Join(err, l.release())
}

// take removes from pending as many calls as one batch may have: all of one segment, and at
// least one. A Roll is a batch of its own. The caller holds mu.
func (l *Log) take() (batch []*Commit, bytes int64) {
	room := l.opt.SegmentBytes - l.off
	if l.full(l.pending[0].bytes) {
		room = l.opt.SegmentBytes - segmentHeader
	}
	n := 0
	for n < len(l.pending) {
		b := l.pending[n].bytes
		alone := l.pending[0].roll || l.pending[n].roll
		if n > 0 && (alone || bytes+b > room || bytes+b > maxBatchBytes) {
			break
		}
		bytes += b
		n++
	}
	l.batch = append(l.batch[:0], l.pending[:n]...)
	l.pending = slices.Delete(l.pending, 0, n)
	return l.batch, bytes
}

// full returns whether the active segment is no place for so many bytes more.
func (l *Log) full(bytes int64) bool {
	return bytes > 0 && l.off > segmentHeader && l.off+bytes > l.opt.SegmentBytes
}

// commit brings one batch to the disk and tells its callers.
func (l *Log) commit(batch []*Commit, bytes int64) {
	if err := l.Err(); err != nil {
		l.finish(batch, err)
		return
	}
	if l.full(batch[0].bytes) || batch[0].roll && l.off > segmentHeader {
		if err := l.roll(); err != nil {
			l.finish(batch, err)
			return
		}
	}
	if bytes > 0 {
		if err := l.write(batch); err != nil {
			l.finish(batch, err)
			return
		}
	} else {
		l.place(batch)
	}
	durable := false
	for _, c := range batch {
		durable = durable || c.durable
	}
	var err error
	switch {
	case durable && l.synced < l.off:
		err = l.sync()
	case durable && (l.published.seq < l.next-1 || l.published.segment != l.active()):
		_ = l.publish() // see sync; nor should it name a segment that is removed after Roll
	}
	l.finish(batch, err)
}

// finish completes the calls of a batch. What was only to be written is written even if the
// fsync for the others failed, but then the log is lost anyway and its callers may know it.
func (l *Log) finish(batch []*Commit, err error) {
	for _, c := range batch {
		c.err = err
		switch {
		case err != nil:
			c.place = Range{}
		case c.then != nil:
			c.then(c.place)
		}
	}
	for _, c := range batch {
		clear(c.entries) // the caller's memory
		l.room.Release(l.weight(c))
		c.done <- struct{}{}
	}
	clear(batch)
}

// place gives a batch its numbers and offsets and returns the end of both.
func (l *Log) place(batch []*Commit) (next uint64, off int64) {
	next, off = l.next, l.off
	segment := l.active()
	for _, c := range batch {
		c.place = Range{First: next, Last: next + uint64(len(c.entries)) - 1, Start: Position{Segment: segment, Offset: off}}
		next += uint64(len(c.entries))
		off += c.bytes
	}
	return next, off
}

func (l *Log) active() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[len(l.segments)-1]
}

// write appends a batch to the active segment. After an error the segment is as before, or the
// log is poisoned.
func (l *Log) write(batch []*Commit) error {
	next, end := l.place(batch)
	w := gather{w: l.file, off: l.off, buf: l.buf[:0]}
	seq, first := l.next, l.synced == l.off
	for _, c := range batch {
		for i := range c.entries {
			e := &c.entries[i]
			h := header{length: e.length, crc: e.crc, seq: seq}
			if first {
				h.flags, first = flagSynced, false
			}
			var head [recordHeader]byte
			h.encode(head[:], l.salt)
			w.add(head[:])
			for _, p := range e.parts {
				w.add(p)
			}
			seq++
		}
	}
	if err := w.flush(); err != nil {
		return l.undo(fmt.Errorf("write %s: %w", segmentName(l.active()), err))
	}
	l.off, l.next = end, next
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = tail{seq: next - 1, segment: l.segments[len(l.segments)-1], offset: end}
	return nil
}

// undo cuts the active segment back to its last good record after a failed write. It syncs the
// cut at once: a record that was refused must not come back after power loss.
func (l *Log) undo(cause error) error {
	if err := l.file.Truncate(l.off); err != nil {
		return l.poison(errors.Join(cause, fmt.Errorf("undo: %w", err)))
	}
	if err := l.sync(); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// sync makes everything that was written durable and tells the readers.
func (l *Log) sync() error {
	if err := l.file.Sync(); err != nil {
		return l.poison(fmt.Errorf("sync %s: %w", segmentName(l.active()), err))
	}
	l.synced = l.off
	l.mu.Lock()
	l.durable = l.next - 1
	l.mu.Unlock()
	// The records are durable whether or not readers can be told now. The next sync tells them.
	_ = l.publish()
	return nil
}

// publish writes the watermark.
func (l *Log) publish() error {
	w := watermark{segment: l.active(), offset: l.synced, seq: l.next - 1}
	if _, err := l.marks.WriteAt(w.encode(l.salt), 0); err != nil {
		return fmt.Errorf("write watermark: %w", err)
	}
	l.published = w
	return nil
}

// poison ends the log for good.
func (l *Log) poison(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = fmt.Errorf("%w: %w", ErrPoisoned, cause)
	return l.err
}

// roll seals the active segment and goes on in a new one.
func (l *Log) roll() error {
	h := header{flags: flagSeal, seq: l.next}
	if l.synced == l.off {
		h.flags |= flagSynced
	}
	var seal [recordHeader]byte
	h.encode(seal[:], l.salt)
	if _, err := l.file.WriteAt(seal[:], l.off); err != nil {
		return l.undo(fmt.Errorf("seal %s: %w", segmentName(l.active()), err))
	}
	old := l.file
	if err := l.sync(); err != nil {
		return err
	}
	if err := l.createSegment(l.next); err != nil {
		if _, ok := errors.AsType[*fatalError](err); ok {
			return l.poison(err)
		}
		return l.undo(err)
	}
	_ = old.Close() // synced, nothing to lose
	return nil
}

// gather joins small writes.
type gather struct {
	w   io.WriterAt
	off int64
	buf []byte
	err error
}

func (g *gather) add(p []byte) {
	if len(p) >= directBytes {
		_ = g.flush()
		g.write(p)
		return
	}
	if len(g.buf)+len(p) > cap(g.buf) {
		_ = g.flush()
	}
	g.buf = append(g.buf, p...)
}

func (g *gather) flush() error {
	g.write(g.buf)
	g.buf = g.buf[:0]
	return g.err
}

func (g *gather) write(p []byte) {
	if g.err != nil || len(p) == 0 {
		return
	}
	_, g.err = g.w.WriteAt(p, g.off)
	g.off += int64(len(p))
}
