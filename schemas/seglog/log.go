package seglog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Defaults of Options.
const (
	DefaultSegmentBytes    = 64 << 20
	DefaultMaxRecordBytes  = 64 << 20
	DefaultMaxPendingBytes = 128 << 20
)

// maxBatchBytes bounds what one fsync makes durable, and with it how long its first caller
// waits for the others.
const maxBatchBytes = 16 << 20

// Options are the settings of a log. The zero value means the defaults on the real disk.
type Options struct {
	// SegmentBytes is the size at which a segment is full. Records of one call are never spread
	// over two segments, so a large call may exceed it.
	SegmentBytes int64
	// MaxRecordBytes is the longest payload that is written or believed when read, at most 2 GiB.
	// A reader must allow at least what the writer does.
	MaxRecordBytes int
	// MaxPendingBytes bounds the records that wait for the disk; calls block when it is reached.
	MaxPendingBytes int64
	// FS is the file system, OS{} if nil.
	FS FS
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.MaxRecordBytes <= 0 {
		o.MaxRecordBytes = DefaultMaxRecordBytes
	}
	o.MaxRecordBytes = min(o.MaxRecordBytes, 1<<31-1)
	if o.MaxPendingBytes <= 0 {
		o.MaxPendingBytes = DefaultMaxPendingBytes
	}
	if o.FS == nil {
		o.FS = OS{}
	}
	return o
}

// Position is the place of a record. The zero value is no place.
type Position struct {
	Segment uint64 // first sequence number of the segment, which is its name
	Offset  int64  // of the record in the file
}

// Range is where the records of one call went: First to Last, the first at Start, each at the
// end of the one before. Without records Last is First-1.
type Range struct {
	First, Last uint64
	Start       Position
}

// Segment describes one file of the log.
type Segment struct {
	First  uint64 // number of its first record, and its name
	Active bool   // being written
}

// Log is the writing side of a log. Open makes one.
type Log struct {
	dir     string
	opt     Options
	salt    uint32
	inc     incarnation
	unlock  io.Closer
	room    *semaphore.Weighted // of pending bytes
	stopped chan struct{}       // closed when the committer has ended
	damage  []*CorruptError     // found by Open
	handles handles

	mu       sync.Mutex
	wake     sync.Cond // something is pending, or closing
	pending  []*Commit
	closing  bool
	err      error // why the log is poisoned
	segments []uint64
	written  tail   // of what Write acknowledges
	durable  uint64 // last record that is fsynced

	// The committer goroutine owns what follows.
	file      File
	marks     File // the file durable
	off       int64
	next      uint64
	synced    int64     // offset through which the segment is fsynced
	published watermark // what readers know
	buf       []byte
	batch     []*Commit // memory for the next batch
	closeErr  error     // what Close returns, after stopped
}

// tail is the end of the log as somebody sees it.
type tail struct {
	seq     uint64 // last record
	segment uint64
	offset  int64 // behind it
}

// Open opens the log in the folder dir for writing, and makes it where there is none. It takes the
// writer's lock (ErrLocked), cuts off a torn tail and makes everything that is left durable.
func Open(dir string, o Options) (*Log, error) {
	o = o.withDefaults()
	if err := makeDir(o.FS, dir); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	unlock, err := o.FS.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	l := &Log{
		dir:     dir,
		opt:     o,
		unlock:  unlock,
		room:    semaphore.NewWeighted(o.MaxPendingBytes),
		stopped: make(chan struct{}),
		buf:     make([]byte, 0, writeBuffer),
		handles: handles{fs: o.FS, open: make(map[uint64]*handle)},
	}
	l.wake.L = &l.mu
	if err := l.recover(); err != nil {
		_ = l.release() // the first error is the one to tell
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	go l.run() // ended by Close
	return l, nil
}

// release closes what Open opened.
func (l *Log) release() error {
	errs := []error{l.handles.close()}
	for _, c := range []io.Closer{l.file, l.marks, l.unlock} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Close writes and fsyncs what is pending, ends the log and gives up the lock. It is idempotent
// and returns ErrPoisoned if not everything that was written became durable.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closing = true
	l.wake.Broadcast()
	l.mu.Unlock()
	<-l.stopped
	return l.closeErr
}

// Incarnation returns the 32 hexadecimal digits that tell this log from every other one.
func (l *Log) Incarnation() string { return l.inc.String() }

// Damage returns the damage that Open found in the part of the log that it looked at, which is
// the end.
func (l *Log) Damage() []*CorruptError { return slices.Clone(l.damage) }

// Err returns why the log is poisoned, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Last returns the number of the last record written, durable or not; 0 for an empty log.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.seq
}

// Durable returns the number of the last record that is fsynced.
func (l *Log) Durable() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Segments returns the segments in order. The last one is active.
func (l *Log) Segments() []Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	segs := make([]Segment, len(l.segments))
	for i, first := range l.segments {
		segs[i] = Segment{First: first, Active: i == len(l.segments)-1}
	}
	return segs
}

// SegmentPath returns the path of the file of a segment, for people to read.
func (l *Log) SegmentPath(first uint64) string { return l.path(segmentName(first)) }

// SegmentSize returns the length in bytes of the file of a segment. It changes only while the segment
// is active. The error is fs.ErrNotExist if the segment was removed.
func (l *Log) SegmentSize(first uint64) (int64, error) {
	f, err := l.opt.FS.Open(l.path(segmentName(first)))
	if err != nil {
		return 0, fmt.Errorf("size of segment: %w", err)
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

// RemoveBefore removes the segments that have only records before seq, and returns how many. The
// active segment stays.
func (l *Log) RemoveBefore(seq uint64) (int, error) {
	l.mu.Lock()
	var old []uint64
	for i := 1; i < len(l.segments) && l.segments[i] <= seq; i++ {
		old = append(old, l.segments[i-1])
	}
	l.mu.Unlock()
	for i, first := range old { // oldest first: a crash must not leave a hole
		if err := l.remove(first); err != nil {
			return i, err
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	if err := l.opt.FS.SyncDir(l.dir); err != nil {
		return len(old), fmt.Errorf("sync folder %s: %w", l.dir, err)
	}
	return len(old), nil
}

// RemoveSegment removes the segment named first, wherever it is in the log. A Reader reports the
// hole; use it only for a log that is read by Read and Scan. After power loss the segment may be
// back. The error is ErrActive for the segment that is being written.
func (l *Log) RemoveSegment(first uint64) error {
	l.mu.Lock()
	active := first == l.segments[len(l.segments)-1]
	l.mu.Unlock()
	if active {
		return fmt.Errorf("remove %s: %w", segmentName(first), ErrActive)
	}
	return l.remove(first)
}

func (l *Log) remove(first uint64) error {
	if err := l.opt.FS.Remove(l.path(segmentName(first))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove segment: %w", err)
	}
	_ = l.handles.drop(first) // only read
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.DeleteFunc(l.segments, func(f uint64) bool { return f == first })
	return nil
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

// Append appends each of recs as a record and returns when they are durable. They get
// consecutive numbers and are in one segment. recs must not be changed before Append returns,
// or, if ctx ends it, before the process ends: the records may become durable all the same.
func (l *Log) Append(ctx context.Context, recs ...[]byte) (Range, error) {
	c, err := l.Enqueue(ctx, recs...)
	if err != nil {
		return Range{}, err
	}
	return c.Wait(ctx)
}

// newIncarnation returns 128 random bits.
func newIncarnation() (inc incarnation) {
	_, _ = rand.Read(inc[:]) // never fails (crypto/rand)
	return inc
}
