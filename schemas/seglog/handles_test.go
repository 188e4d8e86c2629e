package seglog_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/seglog"
)

// openFiles returns how many files below dir, or once there, this process has open.
func openFiles(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("this system does not say which files are open: %v", err)
	}
	n := 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && strings.HasPrefix(target, dir) {
			n++
		}
	}
	return n
}

func TestSegmentsStayOpenForReading(t *testing.T) {
	dir := t.TempDir()
	l, err := seglog.Open(dir, seglog.Options{SegmentBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	all := make([]seglog.Position, 0, 100)
	for i := range 100 {
		at, err := l.Append(t.Context(), fmt.Appendf(nil, "record %d", i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, at.Start)
	}
	before := openFiles(t, dir)
	for range 2 {
		for i, pos := range all {
			if b, err := l.Read(pos); err != nil || string(b) != fmt.Sprintf("record %d", i) {
				t.Fatalf("Read = %q, %v", b, err)
			}
		}
	}
	if n := openFiles(t, dir) - before; n != 64 {
		t.Errorf("%d segments are open for reading, want 64", n)
	}
	r, err := l.OpenRecord(all[90])
	if err != nil {
		t.Fatal(err)
	}
	for _, pos := range all[:99] { // all but the active one
		if err := l.RemoveSegment(pos.Segment); err != nil {
			t.Fatal(err)
		}
	}
	if n := openFiles(t, dir) - before; n != 2 {
		t.Errorf("%d segments are open when all are removed but the active one, and one is read; want 2", n)
	}
	if _, err := l.Read(all[90]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a removed segment: %v", err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "record 90" {
		t.Errorf("record of a removed segment: %q, %v", b, err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if n := openFiles(t, dir) - before; n != 1 {
		t.Errorf("%d segments are open when the reader is closed, want 1", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := l.Read(all[99]); err != nil || string(b) != "record 99" {
		t.Errorf("Read after Close = %q, %v", b, err)
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files are open after Close", n)
	}
}

func TestReadAdjacent(t *testing.T) {
	dir := t.TempDir()
	l, err := seglog.Open(dir, seglog.Options{MaxRecordBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	at, err := l.Append(t.Context(), []byte("one"), nil, []byte("three"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.ReadAdjacent(at.Start, 3, 0, 5)
	if err != nil || fmt.Sprintf("%q", got) != `["one" "" "three"]` {
		t.Errorf("ReadAdjacent = %q, %v", got, err)
	}
	if size, err := l.SegmentSize(1); err != nil || size != 40+3*24+8 {
		t.Errorf("SegmentSize = %d, %v", size, err)
	}
	if _, err := l.SegmentSize(2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SegmentSize of nothing: %v", err)
	}
	for _, tc := range []struct {
		name    string
		lengths []int
	}{
		{"another length", []int{3, 1}},
		{"behind the end", []int{3, 0, 5, 0}},
		{"longer than the file", []int{3, 0, 5, 900}},
		{"longer than a record may be", []int{1001}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := l.ReadAdjacent(at.Start, tc.lengths...)
			if _, ok := errors.AsType[*seglog.CorruptError](err); !ok {
				t.Errorf("ReadAdjacent = %q, %v, want a CorruptError", b, err)
			}
		})
	}
	name := filepath.Join(dir, fmt.Sprintf("%020d.log", 1))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = l.ReadAdjacent(at.Start, 3, 0, 5)
	if c, ok := errors.AsType[*seglog.CorruptError](err); !ok || c.First != 3 || c.End != int64(len(b)) || c.Offset != int64(len(b))-29 {
		t.Errorf("damaged record: %+v, %v", c, err)
	}
}
