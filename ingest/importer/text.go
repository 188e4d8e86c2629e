package importer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd file may ask for; zstd itself refuses more without --long.
const maxWindow = 128 << 20

// text is an open file as text: as it is, or unpacked. What it is its first octets say, not its name.
type text struct {
	file     *os.File
	in       io.Reader
	isPacked bool
	read     atomic.Int64 // octets of the file that were read, for progress
	release  func()
}

// Magic numbers of RFC 1952 section 2.3.1 and RFC 8878 section 3.1.1, and of UTF-8 (RFC 3629 section 6).
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	utf8Mark  = []byte{0xef, 0xbb, 0xbf}
)

func openText(name string) (*text, error) {
	file, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	t := &text{file: file, release: func() {}}
	if err := t.unpack(); err != nil {
		_ = file.Close() // only read
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func (t *text) unpack() error {
	magic := make([]byte, len(zstdMagic))
	n, err := t.file.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	counted := &counter{in: t.file, n: &t.read}
	switch magic = magic[:n]; {
	case bytes.HasPrefix(magic, gzipMagic):
		unpacked, err := gzip.NewReader(bufio.NewReaderSize(counted, readBytes))
		if err != nil {
			return err
		}
		t.in, t.isPacked = unpacked, true
	case bytes.HasPrefix(magic, zstdMagic):
		unpacked, err := zstd.NewReader(counted, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		t.in, t.isPacked, t.release = unpacked, true, unpacked.Close
	default:
		t.in = counted
	}
	return nil
}

// Close gives the file back.
func (t *text) Close() error {
	t.release()
	return t.file.Close()
}

// counter counts what is read.
type counter struct {
	in io.Reader
	n  *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n.Add(int64(n))
	return n, err
}
