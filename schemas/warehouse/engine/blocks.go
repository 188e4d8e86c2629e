//go:build unix

package engine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ClickHouse/ch-go/compress"
)

// maxBlock is how much one compressed block holds before compression; ClickHouse's own choice
// (max_compress_block_size).
const maxBlock = 1 << 20

// blockWriter puts each write into blocks of ClickHouse's own compression framing.
type blockWriter struct {
	out    io.Writer
	writer *compress.Writer
}

func (b *blockWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		block := p[:min(len(p), maxBlock)]
		if err := b.writer.Compress(block); err != nil {
			return n, fmt.Errorf("compress block: %w", err)
		}
		if _, err := b.out.Write(b.writer.Data); err != nil {
			return n, err
		}
		n += len(block)
		p = p[len(block):]
	}
	return n, nil
}

// blockReader takes ClickHouse's compression framing off. Unlike compress.Reader, which it is
// based on, it tells the end of the data from an end inside a block.
type blockReader struct{ reader *compress.Reader }

func newBlockReader(r io.Reader) *blockReader {
	return &blockReader{compress.NewReader(&frameSource{in: bufio.NewReader(r)})}
}

func (b *blockReader) Read(p []byte) (int, error) {
	n, err := b.reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.EOF // compress.Reader wraps it
	}
	return n, err
}

// A frame is a checksum of 16 bytes, then a method (1 byte), its own size without the checksum
// (4 bytes), the size of the data (4 bytes) and the compressed data.
const (
	frameHeader   = 25
	frameSizeAt   = 17
	frameChecksum = 16
)

// frameSource hands on frames. It gives io.EOF between two of them only.
type frameSource struct {
	in   *bufio.Reader
	left int64 // of the current frame
}

func (f *frameSource) Read(p []byte) (int, error) {
	if f.left <= 0 {
		header, err := f.in.Peek(frameHeader)
		switch {
		case errors.Is(err, io.EOF) && len(header) > 0:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
		f.left = max(frameHeader, frameChecksum+int64(binary.LittleEndian.Uint32(header[frameSizeAt:])))
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if errors.Is(err, io.EOF) && f.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
