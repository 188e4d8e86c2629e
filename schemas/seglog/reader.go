package seglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"
)

const (
	// poll is how often a Reader at the tail looks for more, which bounds how late it sees a
	// record. Under load each look finds many.
	poll = 20 * time.Millisecond
	// replacedEvery is how many polls without news pass before a Reader looks whether the
	// folder still holds the same log.
	replacedEvery = 50
)

// Entry is a record as a Reader returns it.
type Entry struct {
	Seq  uint64
	Data []byte // valid until the next call of the Reader
}

// Reader tails a log, in the process of the writer or in another one. It sees only durable
// records, needs no lock, and works whether or not the writer runs.
type Reader struct {
	dir   string
	opt   Options
	inc   incarnation
	salt  uint32
	marks File
	file  File
	sc    *scanner
	first uint64 // name of the current segment
	// sealed is set when the watermark has left the current segment, so that all of it may be
	// read.
	sealed bool
	upTo   uint64 // last record before the limit of sc, if not sealed
	idle   int    // polls without news
	closed bool
}

// OpenReader opens the log in dir for reading from record from on (0 is taken as 1). Only
// MaxRecordBytes and FS of o matter. The error is fs.ErrNotExist if no writer has made the log yet,
// *RemovedError if the log begins after from, and *AheadError if it ends before from-1.
func OpenReader(dir string, from uint64, o Options) (*Reader, error) {
	o = o.withDefaults()
	r := &Reader{dir: dir, opt: o}
	if err := r.open(max(from, 1)); err != nil {
		_ = r.Close() // the first error is the one to tell
		return nil, fmt.Errorf("read log %s: %w", dir, err)
	}
	return r, nil
}

func (r *Reader) open(from uint64) error {
	inc, ok, err := readIncarnation(r.opt.FS, r.dir)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is damaged, start the writer once: %w", incarnationName, fs.ErrNotExist)
	}
	r.inc, r.salt = inc, inc.salt()
	if r.marks, err = r.opt.FS.Open(filepath.Join(r.dir, durableName)); err != nil {
		return err
	}
	for {
		firsts, err := listSegments(r.opt.FS, r.dir)
		if err != nil {
			return err
		}
		if len(firsts) == 0 {
			return fmt.Errorf("no segment: %w", fs.ErrNotExist)
		}
		if firsts[0] > from {
			return &RemovedError{From: from, First: firsts[0]}
		}
		segment := firsts[0]
		following := uint64(0)
		for _, f := range firsts {
			if f > from {
				following = f
				break
			}
			segment = f
		}
		err = r.openSegment(segment)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return err
		}
		return r.seek(from, following)
	}
}

// openSegment makes the segment that begins with first the current one.
func (r *Reader) openSegment(first uint64) error {
	name := filepath.Join(r.dir, segmentName(first))
	f, err := r.opt.FS.Open(name)
	if err != nil {
		return err
	}
	if _, _, err := readSegmentHeader(f); err != nil { // a damaged header loses no record
		return errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	if r.file != nil {
		_ = r.file.Close() // only read
	}
	r.file, r.first, r.sealed = f, first, false
	var buf []byte
	if r.sc != nil {
		buf = r.sc.buf[:0]
	}
	r.sc = &scanner{
		r: f, file: name, salt: r.salt, max: r.opt.MaxRecordBytes, chunk: scanChunk,
		limit: segmentHeader, off: segmentHeader, want: first, buf: buf, start: segmentHeader,
	}
	return nil
}

// seek moves to record from in the current segment. It looks behind the watermark, which may be
// old after power loss while the caller's cursor is not, but returns nothing from there.
// following is the first record of the next segment, 0 if there is none.
func (r *Reader) seek(from, following uint64) error {
	if from == r.first {
		return nil
	}
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	r.sc.limit = size
	for r.sc.want < from {
		_, err := r.sc.next()
		damage, corrupt := errors.AsType[*CorruptError](err)
		switch {
		case err == nil:
		case corrupt && !damage.toEnd: // not for this caller, who is past it
		case (corrupt || errors.Is(err, io.EOF) || errors.Is(err, errSealed)) && following > 0:
			// from is lost. That is reported when the end of the segment is reached.
			r.sc.want = from
		case corrupt || errors.Is(err, io.EOF) || errors.Is(err, errSealed):
			return &AheadError{From: from, Last: r.sc.want - 1}
		default:
			return err
		}
	}
	r.sc.limit = r.sc.off
	// The window may hold bytes that were not durable when they were read.
	r.sc.buf, r.sc.start = r.sc.buf[:0], r.sc.off
	if r.sc.want > from { // from is in damage that ends before want
		r.sc.want = from
	}
	return nil
}

// Incarnation returns the 32 hexadecimal digits that tell this log from every other one.
func (r *Reader) Incarnation() string { return r.inc.String() }

// Seq returns the number of the record that the Reader waits for or returns next.
func (r *Reader) Seq() uint64 { return r.sc.want }

// Next returns the next record; at the tail it waits for one until ctx ends. Damage is returned as
// *CorruptError; the next call goes on behind it. After *RemovedError (the writer removed what
// was not read yet), ErrReplaced or an error of the disk the Reader is of no more use.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for {
		e, ok, err := r.TryNext()
		if ok || err != nil {
			return e, err
		}
		timer := time.NewTimer(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Entry{}, ctx.Err()
		}
	}
}

// TryNext is Next without the wait: ok is false at the tail.
func (r *Reader) TryNext() (e Entry, ok bool, err error) {
	if r.closed {
		return Entry{}, false, ErrClosed
	}
	for {
		rec, err := r.sc.next()
		if err == nil {
			data, err := r.sc.payload(rec)
			if err != nil {
				return Entry{}, false, err
			}
			r.idle = 0
			return Entry{Seq: rec.seq, Data: data}, true, nil
		}
		damage, corrupt := errors.AsType[*CorruptError](err)
		switch {
		case errors.Is(err, errSealed):
			err = r.advance(nil)
		case corrupt && !damage.toEnd:
		case corrupt && r.sealed:
			err = r.advance(damage)
		case corrupt:
			damage.Last, damage.toEnd = r.upTo, false
			r.sc.want = r.upTo + 1
		case errors.Is(err, io.EOF) && r.sealed:
			err = r.advance(r.sc.damagedToEnd()) // no seal
		case errors.Is(err, io.EOF):
			var more bool
			if more, err = r.extend(); err == nil && !more {
				return Entry{}, false, nil
			}
		}
		if err != nil {
			return Entry{}, false, err
		}
	}
}

// extend moves the limit to the watermark and returns whether that gives more to read.
func (r *Reader) extend() (bool, error) {
	if w, ok := readWatermark(r.marks, r.salt); ok {
		switch {
		case w.segment == r.first && w.offset > r.sc.limit:
			r.sc.limit, r.upTo = w.offset, w.seq
			return true, nil
		case w.segment > r.first:
			size, err := r.file.Size()
			r.sc.limit, r.sealed = max(size, r.sc.off), true
			return true, err
		}
	}
	if r.idle++; r.idle%replacedEvery != 0 {
		return false, nil
	}
	inc, ok, err := readIncarnation(r.opt.FS, r.dir)
	if err == nil && ok && inc != r.inc {
		return false, ErrReplaced
	}
	return false, nil // a folder that is being replaced is looked at again
}

// advance goes on to the next segment. damage is what ends the current one instead of a seal.
func (r *Reader) advance(damage *CorruptError) error {
	if damage == nil {
		err := r.openSegment(r.sc.want)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		damage = &CorruptError{
			File: filepath.Join(r.dir, segmentName(r.sc.want)), First: r.sc.want, Reason: "segment is missing",
		}
	}
	want := r.sc.want
	for {
		firsts, err := listSegments(r.opt.FS, r.dir)
		if err != nil {
			return err
		}
		next := uint64(0)
		for _, f := range firsts {
			if f > r.first {
				next = f
				break
			}
		}
		switch {
		case next == 0:
			return fmt.Errorf("no segment after %s: %w", segmentName(r.first), damage)
		case next > want && next == firsts[0]:
			return &RemovedError{From: want, First: next}
		}
		err = r.openSegment(next)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil || next <= want {
			return err
		}
		damage.Last, damage.toEnd = next-1, false
		return damage
	}
}

// Close closes the Reader. It is idempotent.
func (r *Reader) Close() error {
	r.closed = true
	var errs []error
	for _, f := range []File{r.file, r.marks} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	r.file, r.marks = nil, nil
	return errors.Join(errs...)
}
