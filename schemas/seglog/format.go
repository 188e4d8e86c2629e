package seglog

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	segmentMagic   = "caromlog"
	segmentVersion = 1
	segmentHeader  = 40 // bytes

	recordMark   = "\xcar1"
	recordHeader = 24 // bytes

	flagSynced = 1 // everything before this record was fsynced when it was written
	flagSeal   = 2 // end of the segment

	watermarkMagic = "caromwm1"
	watermarkBytes = 36

	lockName        = "lock"
	incarnationName = "incarnation"
	durableName     = "durable"
	segmentSuffix   = ".log"
	tmpSuffix       = ".tmp"

	// digits of a segment's name: enough for every uint64, so that names sort like numbers.
	segmentDigits = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// incarnation tells a log from every other one, also from one that stood in the same folder.
type incarnation [16]byte

func (i incarnation) salt() uint32 { return crc32.Checksum(i[:], castagnoli) }

func (i incarnation) String() string { return hex.EncodeToString(i[:]) }

func parseIncarnation(b []byte) (i incarnation, ok bool) {
	n, err := hex.Decode(i[:], []byte(strings.TrimSpace(string(b[:min(len(b), 64)]))))
	return i, err == nil && n == len(i)
}

func segmentName(first uint64) string {
	return fmt.Sprintf("%0*d%s", segmentDigits, first, segmentSuffix)
}

func parseSegmentName(name string) (first uint64, ok bool) {
	digits, found := strings.CutSuffix(name, segmentSuffix)
	if !found || len(digits) != segmentDigits {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

// listSegments returns the first sequence numbers of the segments in dir, in order.
func listSegments(fsys FS, dir string) ([]uint64, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, name := range names {
		if first, ok := parseSegmentName(name); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

func encodeSegmentHeader(first uint64, inc incarnation) []byte {
	b := append(make([]byte, 0, segmentHeader), segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, segmentVersion)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = append(b, inc[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readSegmentHeader returns the incarnation in the header of a segment. ok is false if the
// header is damaged; the error is ErrVersion or one of the disk.
func readSegmentHeader(f io.ReaderAt) (inc incarnation, ok bool, err error) {
	b := make([]byte, segmentHeader)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return inc, false, err
	}
	if string(b[:8]) != segmentMagic || binary.LittleEndian.Uint32(b[36:]) != crc32.Checksum(b[:36], castagnoli) {
		return inc, false, nil
	}
	if binary.LittleEndian.Uint32(b[8:]) != segmentVersion {
		return inc, false, ErrVersion
	}
	copy(inc[:], b[20:])
	return inc, true, nil
}

// header is the head of one record.
type header struct {
	flags  byte
	length int
	crc    uint32 // of the payload
	seq    uint64
}

func (h header) encode(b []byte, salt uint32) {
	copy(b[4:], recordMark)
	b[7] = h.flags
	binary.LittleEndian.PutUint32(b[8:], uint32(h.length))
	binary.LittleEndian.PutUint32(b[12:], h.crc)
	binary.LittleEndian.PutUint64(b[16:], h.seq)
	binary.LittleEndian.PutUint32(b, crc32.Update(salt, castagnoli, b[4:recordHeader]))
}

func decodeHeader(b []byte, salt uint32) (h header, ok bool) {
	if string(b[4:7]) != recordMark || binary.LittleEndian.Uint32(b) != crc32.Update(salt, castagnoli, b[4:recordHeader]) {
		return h, false
	}
	return header{
		flags:  b[7],
		length: int(binary.LittleEndian.Uint32(b[8:])),
		crc:    binary.LittleEndian.Uint32(b[12:]),
		seq:    binary.LittleEndian.Uint64(b[16:]),
	}, true
}

// watermark says how far the log is durable.
type watermark struct {
	segment uint64
	offset  int64
	seq     uint64
}

func (w watermark) encode(salt uint32) []byte {
	b := append(make([]byte, 0, watermarkBytes), watermarkMagic...)
	b = binary.LittleEndian.AppendUint64(b, w.segment)
	b = binary.LittleEndian.AppendUint64(b, uint64(w.offset))
	b = binary.LittleEndian.AppendUint64(b, w.seq)
	return binary.LittleEndian.AppendUint32(b, crc32.Update(salt, castagnoli, b))
}

// readWatermark returns ok = false for a watermark that is not whole, which a reader may also
// see while the writer is writing it.
func readWatermark(f io.ReaderAt, salt uint32) (w watermark, ok bool) {
	var b [watermarkBytes]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) || string(b[:8]) != watermarkMagic ||
		binary.LittleEndian.Uint32(b[32:]) != crc32.Update(salt, castagnoli, b[:32]) {
		return w, false
	}
	w = watermark{
		segment: binary.LittleEndian.Uint64(b[8:]),
		offset:  int64(binary.LittleEndian.Uint64(b[16:])),
		seq:     binary.LittleEndian.Uint64(b[24:]),
	}
	return w, w.offset >= segmentHeader && w.segment > 0
}

// readSmall returns the content of a small file.
func readSmall(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.NewSectionReader(f, 0, 4096))
}

func readIncarnation(fsys FS, dir string) (inc incarnation, ok bool, err error) {
	b, err := readSmall(fsys, filepath.Join(dir, incarnationName))
	if err != nil {
		return inc, false, err
	}
	inc, ok = parseIncarnation(b)
	return inc, ok, nil
}
