//go:build unix

package engine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
)

func blocks(tb testing.TB, method compress.Method, text string) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := &blockWriter{out: &out, writer: compress.NewWriter(compress.LevelZero, method)}
	if _, err := io.WriteString(w, text); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestBlocksRoundTrip(t *testing.T) {
	text := strings.Repeat("0123456789abcdef\n", 200_000) // more than three blocks
	for _, method := range []compress.Method{compress.LZ4, compress.ZSTD, compress.None} {
		got, err := io.ReadAll(newBlockReader(bytes.NewReader(blocks(t, method, text))))
		if err != nil || string(got) != text {
			t.Errorf("method %v: %d bytes, %v, want %d", method, len(got), err, len(text))
		}
	}
}

func TestBlocksCutOffAreAnError(t *testing.T) {
	one := blocks(t, compress.LZ4, "first block")
	whole := append(bytes.Clone(one), blocks(t, compress.None, "second")...)
	for n := range len(whole) {
		got, err := io.ReadAll(newBlockReader(bytes.NewReader(whole[:n])))
		if n == 0 || n == len(one) {
			if err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: read %q, %v, want io.ErrUnexpectedEOF", n, len(whole), got, err)
		}
	}
}

func FuzzBlockReader(f *testing.F) {
	f.Add(blocks(f, compress.LZ4, "some text"))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := io.Copy(io.Discard, newBlockReader(bytes.NewReader(data))); err == nil && len(data) > 0 && len(data) < frameHeader {
			t.Errorf("%d bytes were taken for blocks", len(data))
		}
	})
}
