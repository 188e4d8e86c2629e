package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// The index of a message segment says what lies in it, so that nobody has to read the messages. It
// is written once, when the segment is full. All integers are little-endian:
//
//	magic "caromidx", version u32 = 1, incarnation of the messages log (32 digits), segment u64
//	for each message, as appendIndexEntry writes it
//	CRC-32C of everything before it u32
const (
	indexMagic   = "caromidx"
	indexVersion = 1
	indexHeader  = len(indexMagic) + 4 + incarnationDigits + 8
	indexSuffix  = ".idx"

	incarnationDigits = 32

	// maxIndexBytes bounds what is believed of an index: a segment of the largest size that is full
	// of the smallest messages needs less.
	maxIndexBytes = 1 << 30
)

// indexEntry is one message in the index of a segment.
type indexEntry struct {
	id         event.ID
	seq        uint64 // of the envelope's record; the body's follows
	offset     int64
	envelope   int // bytes of the envelope's record
	body       int // bytes of the body's record
	arrived    int64
	recipients int
	tag        []byte
}

func entryOf(e *Envelope, seq uint64, offset int64, envelope, body int) indexEntry {
	return indexEntry{
		id: e.ID, seq: seq, offset: offset, envelope: envelope, body: body,
		arrived: e.Arrived.UnixMicro(), recipients: len(e.Recipients), tag: e.Tag,
	}
}

// appendIndexEntry appends the ID and, as uvarints, what the seq is more than the segment's name,
// offset, bytes of the envelope and the body, arrival in microseconds (a varint), recipients, and
// length of the tag; then the tag.
func appendIndexEntry(b []byte, segment uint64, e *indexEntry) []byte {
	b = append(b, e.id[:]...)
	b = binary.AppendUvarint(b, e.seq-segment)
	b = binary.AppendUvarint(b, uint64(e.offset))
	b = binary.AppendUvarint(b, uint64(e.envelope))
	b = binary.AppendUvarint(b, uint64(e.body))
	b = binary.AppendVarint(b, e.arrived)
	b = binary.AppendUvarint(b, uint64(e.recipients))
	b = binary.AppendUvarint(b, uint64(len(e.tag)))
	return append(b, e.tag...)
}

var errIndex = errors.New("malformed index")

// eachEntry calls f for each entry in b. The entry's tag is a part of b.
func eachEntry(b []byte, segment uint64, f func(indexEntry) error) error {
	c := cursor{b: b}
	for len(c.b) > 0 {
		var e indexEntry
		c.id(&e.id)
		e.seq = segment + c.uvarint()
		e.offset, e.envelope, e.body = int64(c.below(1<<32)), int(c.below(1<<31)), int(c.below(1<<31))
		e.arrived, e.recipients = c.varint(), int(c.below(1<<31))
		e.tag = c.bytes(int(c.below(maxTagBytes + 1)))
		if c.bad || e.recipients == 0 {
			return errIndex
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

// cursor decodes numbers one after the other. After something that can't be decoded bad is set and
// every value is zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) fail() { c.b, c.bad = nil, true }

func (c *cursor) id(id *event.ID) { copy(id[:], c.bytes(len(id))) }

func (c *cursor) bytes(n int) []byte {
	if n > len(c.b) {
		c.fail()
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) uvarint() uint64 {
	n, w := binary.Uvarint(c.b)
	if w <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[w:]
	return n
}

func (c *cursor) varint() int64 {
	n, w := binary.Varint(c.b)
	if w <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[w:]
	return n
}

// below is uvarint for a number less than limit.
func (c *cursor) below(limit uint64) uint64 {
	n := c.uvarint()
	if n >= limit {
		c.fail()
		return 0
	}
	return n
}

func (s *Spool) indexName(segment uint64) string {
	return filepath.Join(s.dir, messagesDir, fmt.Sprintf("%020d%s", segment, indexSuffix))
}

// entries returns the entries of the index of a segment: those in memory for one that has no file
// yet, as the active one, else those of the file, else what a scan of the segment finds, which stays
// in memory until the keeper has written it. The error is fs.ErrNotExist if the segment was removed.
func (s *Spool) entries(seg seglog.Segment) ([]byte, error) {
	segment := seg.First
	s.mu.Lock()
	b, ok := s.unwritten[segment]
	s.mu.Unlock()
	if ok || seg.Active {
		return b, nil
	}
	b, err := s.readIndex(segment)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, fs.ErrNotExist):
	case !s.setAside(err):
		return nil, err
	}
	if b, err = s.scanSegment(segment); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.unwritten[segment] = b
	s.mu.Unlock()
	return b, nil
}

// readIndex returns the entries in the index file of a segment. The error is fs.ErrNotExist, a
// *seglog.CorruptError, or one of the disk.
func (s *Spool) readIndex(segment uint64) ([]byte, error) {
	name := s.indexName(segment)
	f, err := s.opt.FS.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	damaged := func(reason string) error {
		return &seglog.CorruptError{File: name, End: size, Reason: reason}
	}
	if size < int64(indexHeader+crc32.Size) || size > maxIndexBytes {
		return nil, damaged("index has an impossible size")
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, damaged("index is cut off")
	}
	b, sum := b[:size-crc32.Size], binary.LittleEndian.Uint32(b[size-crc32.Size:])
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, damaged("index does not match its checksum")
	}
	if string(b[:indexHeader]) != string(s.appendIndexHeader(nil, segment)) {
		return nil, damaged("index belongs to another segment or version")
	}
	entries := b[indexHeader:]
	if err := eachEntry(entries, segment, func(indexEntry) error { return nil }); err != nil {
		return nil, damaged(err.Error())
	}
	return entries, nil
}

func (s *Spool) appendIndexHeader(b []byte, segment uint64) []byte {
	b = append(b, indexMagic...)
	b = binary.LittleEndian.AppendUint32(b, indexVersion)
	b = append(b, s.messages.Incarnation()...)
	return binary.LittleEndian.AppendUint64(b, segment)
}

// writeIndexes writes the indexes of the segments that are full. The committer tells of all messages
// of a segment before it begins the next, so these indexes are whole. Without its index a segment is
// only slower to recover, so what can't be written stays in memory for the next time.
func (s *Spool) writeIndexes() {
	segments := s.messages.Segments()
	there := make(map[uint64]bool, len(segments))
	for _, seg := range segments {
		there[seg.First] = true
	}
	active := segments[len(segments)-1].First
	s.mu.Lock()
	todo := slices.Sorted(maps.Keys(s.unwritten))
	s.mu.Unlock()
	for _, segment := range todo {
		if segment >= active {
			continue
		}
		s.mu.Lock()
		entries := s.unwritten[segment]
		s.mu.Unlock()
		if there[segment] {
			err := s.writeIndex(segment, entries)
			if err != nil && !s.noIndex {
				s.logger.Error("index of a spool segment not written", "segment", segment, "error", err)
			}
			if s.noIndex = err != nil; s.noIndex {
				return
			}
		}
		s.mu.Lock()
		delete(s.unwritten, segment)
		s.mu.Unlock()
	}
}

func (s *Spool) writeIndex(segment uint64, entries []byte) error {
	return seglog.WriteFile(s.opt.FS, s.indexName(segment), func(w io.Writer) error {
		head := s.appendIndexHeader(nil, segment)
		sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, entries)
		for _, part := range [][]byte{head, entries, binary.LittleEndian.AppendUint32(nil, sum)} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
}

// removeStrayIndexes removes the indexes whose segments are gone.
func (s *Spool) removeStrayIndexes() error {
	folder := filepath.Join(s.dir, messagesDir)
	names, err := s.opt.FS.List(folder)
	if err != nil {
		return err
	}
	there := make(map[uint64]bool)
	for _, seg := range s.messages.Segments() {
		there[seg.First] = !seg.Active // what an active one has is not whole
	}
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, indexSuffix)
		if !ok {
			continue
		}
		if segment, err := strconv.ParseUint(digits, 10, 64); err == nil && there[segment] {
			continue
		}
		if err := s.opt.FS.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// scanSegment returns the entries of the index of a segment, made from the segment itself.
func (s *Spool) scanSegment(segment uint64) (entries []byte, err error) {
	var envelope *Envelope // waits for its body
	var at seglog.Item
	for item, err := range s.messages.Scan(segment) {
		if err != nil {
			if !s.setAside(err) {
				return nil, err
			}
			envelope = nil
			continue
		}
		kind, err := item.Peek(1)
		if err != nil {
			return nil, err
		}
		switch {
		case len(kind) == 1 && kind[0] == recordEnvelope:
			// An envelope without a body is what a torn tail left of a message that was never
			// acknowledged.
			if envelope, err = s.scanEnvelope(item); err != nil {
				return nil, err
			}
			at = item
		case len(kind) == 1 && kind[0] == recordBody:
			if envelope != nil {
				e := entryOf(envelope, at.Seq, at.Pos.Offset, at.Size, item.Size)
				entries = appendIndexEntry(entries, segment, &e)
			}
			envelope = nil
		default:
			s.note(fmt.Errorf("record %d at offset %d of segment %d is of no known kind", item.Seq, item.Pos.Offset, segment))
			envelope = nil
		}
	}
	return entries, nil
}

// scanEnvelope returns nil for an envelope that is damaged.
func (s *Spool) scanEnvelope(item seglog.Item) (*Envelope, error) {
	b, err := item.Data()
	if err != nil {
		if s.setAside(err) {
			err = nil
		}
		return nil, err
	}
	e, err := decodeEnvelope(b[1:])
	if err != nil {
		s.note(fmt.Errorf("record %d at offset %d of segment %d: %w", item.Seq, item.Pos.Offset, item.Pos.Segment, err))
		return nil, nil //nolint:nilnil // reported; the scan goes on
	}
	return e, nil
}
