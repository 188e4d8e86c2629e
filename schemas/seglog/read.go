package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"slices"
)

// skimChunk is how much Scan reads at once: little, because its callers pass over most payloads.
const skimChunk = 16 << 10

// Record is one open record, a reader over its payload.
type Record struct {
	Seq  uint64
	Size int64    // of the payload in bytes
	End  Position // of the record behind it

	log  *Log
	file *handle // nil when closed
	crc  uint32  // stored
	sum  uint32  // of what was read
	off  int64   // of the payload in the file
	read int64
}

// OpenRecord opens the record at pos, which must have been written. Nothing is read before Read is
// called. The error is fs.ErrNotExist if the segment was removed, or a *CorruptError.
func (l *Log) OpenRecord(pos Position) (*Record, error) {
	f, err := l.openSegment(pos.Segment)
	if err != nil {
		return nil, err
	}
	var b [recordHeader]byte
	if _, err := f.ReadAt(b[:], pos.Offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read record: %w", err), l.handles.release(f))
	}
	h, ok := decodeHeader(b[:], l.salt)
	if !ok || h.flags&flagSeal != 0 || h.length > l.opt.MaxRecordBytes {
		return nil, errors.Join(l.noRecord(pos), l.handles.release(f))
	}
	off := pos.Offset + recordHeader
	return &Record{
		Seq: h.seq, Size: int64(h.length), End: Position{pos.Segment, off + int64(h.length)},
		log: l, file: f, crc: h.crc, off: off,
	}, nil
}

// openSegment opens a segment for reading records at known places. l.handles.release ends that.
func (l *Log) openSegment(first uint64) (*handle, error) {
	f, err := l.handles.acquire(first, func() string { return l.path(segmentName(first)) })
	if err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	return f, nil
}

// noRecord says that there is no record at pos.
func (l *Log) noRecord(pos Position) *CorruptError {
	return &CorruptError{
		File: l.path(segmentName(pos.Segment)), Offset: pos.Offset, End: pos.Offset, Reason: "no record here",
	}
}

// badPayload says that the payload of record seq, from pos to end, is damaged.
func (l *Log) badPayload(seq uint64, pos Position, end int64) *CorruptError {
	return &CorruptError{
		File: l.path(segmentName(pos.Segment)), Offset: pos.Offset, End: end,
		First: seq, Last: seq, Reason: "payload does not match its checksum",
	}
}

// Read implements io.Reader. With the last bytes, and ever after, it returns a *CorruptError if the
// payload doesn't match its checksum, so a caller that acts on io.EOF never acts on a damaged one.
func (r *Record) Read(p []byte) (int, error) {
	n := 0
	if r.file == nil {
		return 0, fs.ErrClosed
	}
	if r.read < r.Size {
		var err error
		n, err = r.file.ReadAt(p[:min(int64(len(p)), r.Size-r.read)], r.off+r.read)
		r.sum = crc32.Update(r.sum, castagnoli, p[:n])
		r.read += int64(n)
		switch {
		case r.read == r.Size:
		case errors.Is(err, io.EOF): // the segment is cut off
			return n, r.corrupt()
		case err != nil:
			return n, fmt.Errorf("read record: %w", err)
		}
	}
	switch {
	case r.read < r.Size:
		return n, nil
	case r.sum != r.crc:
		return n, r.corrupt()
	default:
		return n, io.EOF
	}
}

func (r *Record) corrupt() error {
	return r.log.badPayload(r.Seq, Position{r.End.Segment, r.off - recordHeader}, r.End.Offset)
}

// Close closes the record. It is idempotent.
func (r *Record) Close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return r.log.handles.release(f)
}

// Read returns the payload of the record at pos. Errors are those of OpenRecord and Record.Read.
func (l *Log) Read(pos Position) ([]byte, error) {
	r, err := l.OpenRecord(pos)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	b := make([]byte, r.Size)
	for n := 0; ; {
		m, err := r.Read(b[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// ReadAdjacent returns the payloads of records that lie one behind the other, the first at pos. The
// caller knows their lengths, so that all are read at once. Errors are those of OpenRecord and
// Record.Read; a record of another length is a *CorruptError.
func (l *Log) ReadAdjacent(pos Position, lengths ...int) ([][]byte, error) {
	size := 0
	for _, n := range lengths {
		if n > l.opt.MaxRecordBytes {
			return nil, l.noRecord(pos)
		}
		size += recordHeader + n
	}
	f, err := l.openSegment(pos.Segment)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.handles.release(f) }() // only read
	b := make([]byte, size)
	n, err := f.ReadAt(b, pos.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read record: %w", err)
	}
	b = b[:n]
	payloads := make([][]byte, 0, len(lengths))
	for _, length := range lengths {
		var h header
		ok := len(b) >= recordHeader
		if ok {
			h, ok = decodeHeader(b, l.salt)
		}
		if !ok || h.flags&flagSeal != 0 || h.length != length {
			return nil, l.noRecord(pos)
		}
		end := recordHeader + length
		if len(b) < end || crc32.Checksum(b[recordHeader:end], castagnoli) != h.crc {
			return nil, l.badPayload(h.seq, pos, pos.Offset+int64(end))
		}
		payloads = append(payloads, b[recordHeader:end:end])
		b, pos.Offset = b[end:], pos.Offset+int64(end)
	}
	return payloads, nil
}

// Item is one record that Scan found.
type Item struct {
	Seq  uint64
	Pos  Position
	Size int // of the payload in bytes

	scanner *scanner
	record  record
}

// Data reads the payload. It is valid until the loop over Scan goes on. The error is a
// *CorruptError if the payload is damaged.
func (i Item) Data() ([]byte, error) { return i.scanner.payload(i.record) }

// Peek reads the first n bytes of the payload, or fewer if it is shorter, and checks nothing. They
// are valid until the loop over Scan goes on or Data is called.
func (i Item) Peek(n int) ([]byte, error) {
	return i.scanner.window(i.record.off+recordHeader, min(n, i.Size))
}

// Scan iterates over what was written to one segment before the call, without reading payloads.
// Damage is yielded as a *CorruptError, after which the loop may go on; other errors end it.
func (l *Log) Scan(segment uint64) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		name := l.path(segmentName(segment))
		f, err := l.opt.FS.Open(name)
		if err != nil {
			yield(Item{}, fmt.Errorf("scan: %w", err))
			return
		}
		defer func() { _ = f.Close() }()
		sc := l.scanner(f, segment, skimChunk)
		following, err := l.scanLimit(sc, segment)
		if err != nil {
			yield(Item{}, fmt.Errorf("scan %s: %w", name, err))
			return
		}
		for {
			rec, err := sc.next()
			if errors.Is(err, errSealed) || sc.off == sc.limit && sc.want == following && err != nil {
				return
			}
			if errors.Is(err, io.EOF) { // no seal, and not where the next segment begins
				yield(Item{}, sc.damagedToEnd())
				return
			}
			if err != nil {
				_, corrupt := errors.AsType[*CorruptError](err)
				if !yield(Item{}, err) || !corrupt || sc.off == sc.limit {
					return
				}
				continue
			}
			if !yield(Item{Seq: rec.seq, Pos: Position{segment, rec.off}, Size: rec.length, scanner: sc, record: rec}, nil) {
				return
			}
		}
	}
}

// scanLimit sets how far sc may go in segment, and returns the number of the record that follows
// there if it is known, which it is for the active segment and where no segment was removed.
func (l *Log) scanLimit(sc *scanner, segment uint64) (following uint64, err error) {
	if _, _, err := readSegmentHeader(sc.r); err != nil { // a damaged header loses no record
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.segments, segment)
	switch {
	case i < 0:
		return 0, fs.ErrNotExist
	case i < len(l.segments)-1:
		f, ok := sc.r.(File)
		if !ok {
			return 0, errors.ErrUnsupported
		}
		sc.limit, err = f.Size()
		return l.segments[i+1], err
	case l.written.segment == segment:
		sc.limit = l.written.offset
		return l.written.seq + 1, nil
	default: // just made
		sc.limit = segmentHeader
		return segment, nil
	}
}

// After returns the position behind a record at pos with a payload of so many bytes, which is that
// of the next record of the same call.
func After(pos Position, payload int) Position {
	return Position{Segment: pos.Segment, Offset: pos.Offset + recordHeader + int64(payload)}
}
