package seglog

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
)

// errSealed is the end of a segment that has a seal.
var errSealed = errors.New("sealed")

// scanner walks over the records of one segment. It trusts nothing that it reads.
type scanner struct {
	r     io.ReaderAt
	file  string // for errors
	salt  uint32
	max   int   // longest payload
	chunk int   // bytes to read at once
	limit int64 // end of what may be looked at
	off   int64 // of the next record
	want  uint64

	buf   []byte // the bytes of the file from start on
	start int64
}

// record is one record found by a scanner.
type record struct {
	header
	off int64
}

func (r record) end() int64 { return r.off + recordHeader + int64(r.length) }

// window returns the n bytes at off, or fewer at the limit or the end of the file. The result
// is valid until the next call.
func (s *scanner) window(off int64, n int) ([]byte, error) {
	if i := off - s.start; i >= 0 && i+int64(n) <= int64(len(s.buf)) {
		return s.buf[i : i+int64(n)], nil
	}
	size := int(min(int64(max(n, s.chunk)), s.limit-off))
	if size <= 0 {
		return nil, nil
	}
	if cap(s.buf) < size || cap(s.buf) > 4*max(size, s.chunk) {
		s.buf = make([]byte, size)
	}
	m, err := s.r.ReadAt(s.buf[:size], off)
	s.buf, s.start = s.buf[:m], off
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s.buf[:min(n, m)], nil
}

// next returns the next record whose header is good and moves behind it. The error is io.EOF at
// the limit, errSealed at the seal, a *CorruptError for damage, which is passed over, or one of
// the disk.
func (s *scanner) next() (record, error) {
	if s.off == s.limit {
		return record{}, io.EOF
	}
	rec, ok, err := s.header(s.off)
	if err != nil {
		return record{}, err
	}
	if !ok || rec.seq < s.want {
		return record{}, s.skip(s.off+1, false)
	}
	if rec.seq > s.want {
		return record{}, s.damaged(rec.off, rec.seq-1, "records are missing")
	}
	if rec.flags&flagSeal != 0 {
		return record{}, errSealed
	}
	s.off, s.want = rec.end(), rec.seq+1
	return rec, nil
}

// header returns the record at off if its header is good and the record ends before the limit.
func (s *scanner) header(off int64) (record, bool, error) {
	b, err := s.window(off, recordHeader)
	if err != nil || len(b) < recordHeader {
		return record{}, false, err
	}
	h, ok := decodeHeader(b, s.salt)
	rec := record{header: h, off: off}
	return rec, ok && h.length <= s.max && rec.end() <= s.limit, nil
}

// payload returns the payload of rec, valid until the next call. The error is a *CorruptError if
// it doesn't match its checksum.
func (s *scanner) payload(rec record) ([]byte, error) {
	b, err := s.window(rec.off+recordHeader, rec.length)
	if err != nil {
		return nil, err
	}
	if len(b) < rec.length || crc32.Checksum(b, castagnoli) != rec.crc {
		return nil, s.badPayload(rec)
	}
	return b, nil
}

func (s *scanner) badPayload(rec record) *CorruptError {
	return &CorruptError{
		File: s.file, Offset: rec.off, End: rec.end(),
		First: rec.seq, Last: rec.seq, Reason: "payload does not match its checksum",
	}
}

// damaged moves to the record after last, at end, and returns the error that reports what lies
// between.
func (s *scanner) damaged(end int64, last uint64, reason string) *CorruptError {
	e := &CorruptError{File: s.file, Offset: s.off, End: end, First: s.want, Last: last, Reason: reason}
	s.off, s.want = end, last+1
	return e
}

// damagedToEnd moves to the limit and returns the error for the rest of the segment.
func (s *scanner) damagedToEnd() *CorruptError {
	e := &CorruptError{
		File: s.file, Offset: s.off, End: s.limit, First: s.want,
		Reason: "no valid record", toEnd: true,
	}
	s.off = s.limit
	return e
}

// skip looks for the next whole record from the offset from on and moves to it. With durable set
// only a record counts that proves that the bytes before it were durable.
func (s *scanner) skip(from int64, durable bool) error {
	bad := s.off
	for off := from; ; {
		at, err := s.findMark(off)
		if err != nil {
			return err
		}
		if at < 0 {
			return s.damagedToEnd()
		}
		off = at + 1
		rec, ok, err := s.header(at)
		if err != nil {
			return err
		}
		// Each record takes at least its header, which bounds how far the numbers can have come.
		if !ok || rec.seq < s.want || rec.seq-s.want > uint64(at-bad)/recordHeader+1 ||
			durable && rec.flags&flagSynced == 0 {
			continue
		}
		if _, err := s.payload(rec); err != nil {
			if _, corrupt := errors.AsType[*CorruptError](err); corrupt {
				continue
			}
			return err
		}
		if rec.seq == s.want {
			return s.damaged(at, rec.seq-1, "bytes that are no record")
		}
		return s.damaged(at, rec.seq-1, "no valid record")
	}
}

// findMark returns the offset of the first possible record at or behind off, or -1.
func (s *scanner) findMark(off int64) (int64, error) {
	for off+recordHeader <= s.limit {
		n := int(min(int64(s.chunk), s.limit-off))
		b, err := s.window(off, n)
		if err != nil {
			return 0, err
		}
		if len(b) < recordHeader {
			return -1, nil
		}
		if i := bytes.Index(b[4:], []byte(recordMark)); i >= 0 {
			return off + int64(i), nil
		}
		off += int64(len(b)) - 4 - int64(len(recordMark)) + 1
	}
	return -1, nil
}
