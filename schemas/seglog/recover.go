package seglog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// scanChunk is how much a sequential scan reads at once.
const scanChunk = 256 << 10

// recover brings the folder into the state from which the committer can go on: everything in it
// durable, a good end, the watermark published.
func (l *Log) recover() error {
	names, err := l.opt.FS.List(l.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) { // left by a crash in WriteFile
			if err := l.opt.FS.Remove(l.path(name)); err != nil {
				return err
			}
		}
	}
	if l.segments, err = listSegments(l.opt.FS, l.dir); err != nil {
		return err
	}
	saved, err := l.loadIncarnation()
	if err != nil {
		return err
	}
	mark, err := l.openWatermark()
	if err != nil {
		return err
	}
	if err := l.recoverEnd(mark); err != nil {
		return err
	}
	if !saved {
		// Only now: an incarnation without a segment means that segments were lost.
		err := WriteFile(l.opt.FS, l.path(incarnationName), func(w io.Writer) error {
			_, err := fmt.Fprintln(w, l.inc)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := l.opt.FS.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	l.synced = l.off
	l.written = tail{seq: l.next - 1, segment: l.active(), offset: l.off}
	l.durable = l.written.seq
	return l.publish()
}

// loadIncarnation finds the incarnation of the log, or makes one for a new log. It returns
// whether the file that holds it is good.
func (l *Log) loadIncarnation() (saved bool, err error) {
	inc, ok, err := readIncarnation(l.opt.FS, l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if ok && len(l.segments) > 0 {
		l.inc, l.salt = inc, inc.salt()
		return true, nil
	}
	for _, first := range l.segments {
		inc, ok, err := l.segmentIncarnation(first)
		if err != nil {
			return false, err
		}
		if ok {
			l.inc, l.salt = inc, inc.salt()
			return false, nil
		}
	}
	// No segments: a new log, or one that lost everything. Numbers begin at 1 again, so it must
	// not have the old name.
	l.inc = newIncarnation()
	l.salt = l.inc.salt()
	return false, nil
}

func (l *Log) segmentIncarnation(first uint64) (incarnation, bool, error) {
	f, err := l.opt.FS.Open(l.path(segmentName(first)))
	if err != nil {
		return incarnation{}, false, err
	}
	defer func() { _ = f.Close() }()
	inc, ok, err := readSegmentHeader(f)
	if err != nil {
		return inc, ok, fmt.Errorf("%s: %w", segmentName(first), err)
	}
	return inc, ok, nil
}

// openWatermark opens the watermark, made where missing, and returns what it says; the zero
// value if it can't be used.
func (l *Log) openWatermark() (watermark, error) {
	name := l.path(durableName)
	f, err := l.opt.FS.OpenRW(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = l.opt.FS.Create(name)
	}
	if err != nil {
		return watermark{}, err
	}
	l.marks = f
	w, ok := readWatermark(f, l.salt)
	if !ok {
		return watermark{}, nil
	}
	return w, nil
}

// recoverEnd finds the end of the log and opens the segment to go on with. mark says what was
// certainly durable.
func (l *Log) recoverEnd(mark watermark) error {
	for len(l.segments) > 0 {
		last := l.segments[len(l.segments)-1]
		if mark.segment > last {
			l.lost(mark.segment, 0, mark.segment, mark.seq, "segment is missing")
			return l.createSegment(mark.seq + 1)
		}
		f, err := l.opt.FS.OpenRW(l.path(segmentName(last)))
		if err != nil {
			return err
		}
		l.file = f
		end, err := l.findEnd(last, mark)
		if err != nil {
			return fmt.Errorf("%s: %w", segmentName(last), err)
		}
		if end.usable {
			l.off, l.next = end.offset, end.next
			return nil
		}
		l.file = nil
		if err := f.Close(); err != nil {
			return err
		}
		if !end.empty {
			return l.createSegment(end.next)
		}
		// A segment that was never finished being made says nothing of where the log ends: the
		// one before it may have gone on.
		if err := l.discard(l.path(segmentName(last))); err != nil {
			return err
		}
		l.segments = l.segments[:len(l.segments)-1]
	}
	return l.createSegment(1)
}

// segmentEnd is what findEnd found.
type segmentEnd struct {
	offset int64
	next   uint64 // number of the next record
	usable bool   // records can be appended at offset
	empty  bool   // the segment was never finished being made
}

// findEnd scans what was not certainly durable at the end of the last segment, cuts a torn tail
// and writes the rest once more before it syncs it: after a failed fsync the kernel may hold
// pages that look written and are not on the disk.
func (l *Log) findEnd(first uint64, mark watermark) (segmentEnd, error) {
	size, err := l.file.Size()
	if err != nil {
		return segmentEnd{}, err
	}
	_, headerOK, err := readSegmentHeader(l.file)
	if err != nil {
		return segmentEnd{}, err
	}
	sc := l.scanner(l.file, first, scanChunk)
	sc.limit = size
	from := int64(0)
	if mark.segment == first {
		if size < mark.offset {
			for err == nil {
				_, err = sc.next()
			}
			l.lost(first, size, sc.want, mark.seq, "segment is shorter than it was")
			return segmentEnd{next: mark.seq + 1}, nil
		}
		sc.off, sc.want = mark.offset, mark.seq+1
		from = sc.off
	}
	sealed, err := l.scanEnd(sc)
	if err != nil {
		return segmentEnd{}, err
	}
	if !headerOK {
		if sc.want == first {
			return segmentEnd{empty: true}, nil
		}
		l.lost(first, 0, sc.want, sc.want-1, "segment header is damaged")
	}
	if !sealed && sc.off < size {
		if err := l.file.Truncate(sc.off); err != nil {
			return segmentEnd{}, err
		}
	}
	if err := rewrite(l.file, from, sc.off); err != nil {
		return segmentEnd{}, err
	}
	if err := l.file.Sync(); err != nil {
		return segmentEnd{}, err
	}
	return segmentEnd{offset: sc.off, next: sc.want, usable: !sealed}, nil
}

// scanEnd moves sc behind the last good record, or to the seal.
func (l *Log) scanEnd(sc *scanner) (sealed bool, err error) {
	for sc.off < sc.limit {
		off, want := sc.off, sc.want
		rec, err := sc.next()
		if errors.Is(err, errSealed) {
			return true, nil
		}
		if err == nil {
			_, err = sc.payload(rec)
		}
		if err == nil {
			continue
		}
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt {
			return false, err
		}
		// Torn, unless a later record proves that these bytes were durable once.
		sc.off, sc.want = off, want
		err = sc.skip(off+1, true)
		damage, corrupt := errors.AsType[*CorruptError](err)
		if !corrupt {
			return false, err
		}
		if damage.toEnd {
			sc.off = off
			return false, nil
		}
		l.damage = append(l.damage, damage)
	}
	return false, nil
}

// rewrite writes the bytes from off to end of f over themselves.
func rewrite(f File, off, end int64) error {
	b := make([]byte, min(scanChunk, max(0, end-off)))
	for off < end {
		n, err := f.ReadAt(b[:min(int64(len(b)), end-off)], off)
		if n == 0 {
			return err
		}
		if _, err := f.WriteAt(b[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// lost notes damage of a segment from offset on.
func (l *Log) lost(segment uint64, offset int64, first, last uint64, reason string) {
	l.damage = append(l.damage, &CorruptError{
		File: l.path(segmentName(segment)), Offset: offset, End: offset,
		First: first, Last: last, Reason: reason,
	})
}

// scanner returns a scanner at the first record of a segment. The caller sets the limit.
func (l *Log) scanner(r io.ReaderAt, first uint64, chunk int) *scanner {
	return &scanner{
		r: r, file: l.path(segmentName(first)), salt: l.salt, max: l.opt.MaxRecordBytes,
		chunk: chunk, off: segmentHeader, want: first,
	}
}

// createSegment makes the segment that begins with record first and makes it the active one. On
// an error other than a fatalError nothing has changed.
func (l *Log) createSegment(first uint64) error {
	name := l.path(segmentName(first))
	f, err := l.opt.FS.Create(name)
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	if _, err := f.WriteAt(encodeSegmentHeader(first, l.inc), 0); err != nil {
		err = fmt.Errorf("write header of %s: %w", name, err)
		if derr := errors.Join(f.Close(), l.discard(name)); derr != nil {
			return &fatalError{errors.Join(err, derr)}
		}
		return err
	}
	if err := f.Sync(); err != nil {
		return &fatalError{errors.Join(fmt.Errorf("sync %s: %w", name, err), f.Close())}
	}
	if err := l.opt.FS.SyncDir(l.dir); err != nil {
		return &fatalError{errors.Join(fmt.Errorf("sync folder: %w", err), f.Close())}
	}
	l.file, l.off, l.synced, l.next = f, segmentHeader, segmentHeader, first
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, first)
	return nil
}

// discard removes a segment that was never used, so that it doesn't come back: its name would
// hide records with higher numbers in the segment before it.
func (l *Log) discard(name string) error {
	if err := l.opt.FS.Remove(name); err != nil {
		return err
	}
	return l.opt.FS.SyncDir(l.dir)
}

// fatalError marks an error after which the state of the disk is unknown.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

func (e *fatalError) Unwrap() error { return e.err }
