package suppression

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"carom/schemas/atomicfile"
)

// The delta, numbers in little endian:
//
//	magic       8 bytes, the format's version in the last
//	base        8, generation of the snapshot that it continues
//	checksum    4, CRC-32C of the 16 bytes before
//	frame ×     4 length of the changes, 4 CRC-32C of them, the changes
//	change ×    1 for suppressed or 0, 8 time in microseconds since 1970, 16 key, 2 length of the tenant's name, the name
//
// A frame that is not whole yet is being written.
var deltaMagic = [8]byte{'C', 'A', 'R', 'S', 'U', 'P', 'D', 1}

const (
	deltaHeaderSize = 20
	frameHeaderSize = 8
	changeSize      = 1 + 8 + keySize + 2
	// maxFrame bounds a frame, of the writer and of the reader, in bytes.
	maxFrame = 4 << 20
)

// Change says what the warehouse decided of a key.
type Change struct {
	Tenant     string
	Key        string // as Key returns it
	Suppressed bool
	At         time.Time // of the last statement
}

// StartDelta replaces the file name with a delta of the snapshot of a generation, without changes.
func StartDelta(name string, base uint64) error {
	return atomicfile.Write(name, func(w io.Writer) error {
		_, err := w.Write(deltaHeader(base))
		return err
	})
}

func deltaHeader(base uint64) []byte {
	head := binary.LittleEndian.AppendUint64(append([]byte(nil), deltaMagic[:]...), base)
	return binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
}

// AppendDelta adds changes to the file that StartDelta made. After it returned nil they are on disk;
// after an error the file may end with half of them, and only StartDelta mends it. One writer at a
// time.
func AppendDelta(name string, changes []Change) (err error) {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0) //nolint:gosec // the caller names the file
	if err != nil {
		return fmt.Errorf("add to suppression delta: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for len(changes) > 0 {
		var frame []byte
		if frame, changes, err = encodeFrame(changes); err != nil {
			return fmt.Errorf("add to %s: %w", name, err)
		}
		if _, err := file.Write(frame); err != nil {
			return fmt.Errorf("add to suppression delta: %w", err)
		}
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("add to suppression delta: %w", err)
	}
	return nil
}

// encodeFrame returns a frame of the first changes, and those that found no room.
func encodeFrame(changes []Change) (frame []byte, rest []Change, err error) {
	frame = make([]byte, frameHeaderSize)
	for len(changes) > 0 && len(frame) < maxFrame-changeSize-maxTenant {
		c := changes[0]
		changes = changes[1:]
		var raw rawKey
		if !decodeKey(&raw, c.Key) {
			return nil, nil, fmt.Errorf("%q is no suppression key", c.Key)
		}
		if len(c.Tenant) > maxTenant {
			return nil, nil, fmt.Errorf("tenant name of %d bytes is longer than %d", len(c.Tenant), maxTenant)
		}
		kind := byte(0)
		if c.Suppressed {
			kind = 1
		}
		frame = append(frame, kind)
		frame = binary.LittleEndian.AppendUint64(frame, uint64(c.At.UnixMicro())) //nolint:gosec // two's complement
		frame = append(frame, raw[:]...)
		frame = binary.LittleEndian.AppendUint16(frame, uint16(len(c.Tenant))) //nolint:gosec // bounded by maxTenant
		frame = append(frame, c.Tenant...)
	}
	body := frame[frameHeaderSize:]
	binary.LittleEndian.PutUint32(frame, uint32(len(body))) //nolint:gosec // bounded by maxFrame
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(body, castagnoli))
	return frame, changes, nil
}

// Tail reads a delta as it grows. The zero Tail begins at its start. It belongs to one goroutine.
type Tail struct {
	file   os.FileInfo // of the file that offset belongs to
	offset int64
}

// Read returns the changes that were added to the file name since the last call, if it continues
// the snapshot of generation base; if it continues another one, or is not there, there are none. Of
// a damaged file it returns what stands before the damage, and an error.
func (t *Tail) Read(name string, base uint64) ([]Change, error) {
	file, err := os.Open(name) //nolint:gosec // the caller names the file
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read suppression delta: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read suppression delta: %w", err)
	}
	if t.file == nil || !os.SameFile(t.file, info) || info.Size() < t.offset {
		*t = Tail{file: info}
	}
	if t.offset == 0 {
		var head [deltaHeaderSize]byte
		if _, err := file.ReadAt(head[:], 0); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, malformed("no delta"))
		}
		if string(head[:]) != string(deltaHeader(base)) {
			return nil, deltaProblem(name, head)
		}
		t.offset = deltaHeaderSize
	}
	if info.Size() == t.offset {
		return nil, nil
	}
	changes, n, err := decodeFrames(io.NewSectionReader(file, t.offset, info.Size()-t.offset))
	t.offset += n
	if err != nil {
		return changes, fmt.Errorf("read %s at %d: %w", name, t.offset, err)
	}
	return changes, nil
}

// deltaProblem returns nil for the header of another snapshot's delta.
func deltaProblem(name string, head [deltaHeaderSize]byte) error {
	base := binary.LittleEndian.Uint64(head[8:])
	if string(head[:]) == string(deltaHeader(base)) {
		return nil
	}
	return fmt.Errorf("read %s: %w", name, malformed("no delta, or of another format"))
}

// decodeFrames reads whole frames and returns how many bytes they have.
func decodeFrames(r io.Reader) (changes []Change, read int64, err error) {
	var head [frameHeaderSize]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return changes, read, unlessCut(err)
		}
		size := binary.LittleEndian.Uint32(head[:])
		if size > maxFrame {
			return changes, read, malformed("a frame that is too long")
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return changes, read, unlessCut(err)
		}
		if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return changes, read, malformed("wrong checksum")
		}
		frame, err := decodeChanges(body)
		if err != nil {
			return changes, read, err
		}
		changes = append(changes, frame...)
		read += int64(frameHeaderSize + len(body))
	}
}

// unlessCut returns nil for the end of what is written so far.
func unlessCut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func decodeChanges(body []byte) ([]Change, error) {
	changes := make([]Change, 0, len(body)/changeSize)
	for len(body) > 0 {
		if len(body) < changeSize {
			return nil, malformed("cut in a change")
		}
		kind, at, key := body[0], binary.LittleEndian.Uint64(body[1:]), body[9:9+keySize]
		n := int(binary.LittleEndian.Uint16(body[9+keySize:]))
		if body = body[changeSize:]; len(body) < n || n > maxTenant {
			return nil, malformed("cut in a change")
		}
		if kind > 1 {
			return nil, malformed("unknown change")
		}
		changes = append(changes, Change{
			Tenant: string(body[:n]), Key: hex.EncodeToString(key), Suppressed: kind == 1, At: time.UnixMicro(int64(at)).UTC(), //nolint:gosec // two's complement
		})
		body = body[n:]
	}
	return changes, nil
}
