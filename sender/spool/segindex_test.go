package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

// reads is a file system that remembers how much was read of which files.
type reads struct {
	seglog.FS
	bytes map[string]int
}

type readFile struct {
	seglog.File
	count func(int)
}

func (r *reads) Open(name string) (seglog.File, error) {
	f, err := r.FS.Open(name)
	return readFile{f, func(n int) { r.bytes[name] += n }}, err
}

func (f readFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.count(n)
	return n, err
}

func indexFile(dir string, segment uint64) string {
	return filepath.Join(dir, messagesDir, fmt.Sprintf("%020d.idx", segment))
}

// fill puts n messages of 1 KiB into segments of 8 KiB, and finishes all of the second recipients.
func fill(t *testing.T, s *Spool, n int) (all []*Envelope) {
	t.Helper()
	for range n {
		e := envelope(2)
		put(t, s, e, strings.Repeat("x", 1<<10))
		must(t, s.Finished(e.ID, 1, 1))
		all = append(all, e)
	}
	must(t, s.Sync(t.Context()))
	return all
}

func ids(live []LiveMessage) (ids []event.ID) {
	for _, m := range live {
		ids = append(ids, m.ID)
	}
	return ids
}

func envelopeIDs(all []*Envelope) (ids []event.ID) {
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestRestartReadsNoFullSegment(t *testing.T) {
	for _, checkpoint := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpoint), func(t *testing.T) {
			disk := seglogtest.New()
			s := open(t, dir, Options{FS: disk, SegmentBytes: 8 << 10})
			all := fill(t, s, 50)
			if checkpoint {
				must(t, s.Close())
			}
			disk = disk.Kill()
			r := &reads{FS: disk, bytes: make(map[string]int)}
			s = open(t, dir, Options{FS: r, SegmentBytes: 8 << 10})
			got := recovered(t, s)
			if !slices.Equal(ids(got), envelopeIDs(all)) {
				t.Errorf("recovered %d messages, want %d in the same order", len(got), len(all))
			}
			for i, m := range got {
				if len(m.Recipients) != 1 || m.Count != 2 || !bytes.Equal(m.Tag, all[i].Tag) {
					t.Errorf("recovered %+v", m)
				}
			}
			segments := s.messages.Segments()
			for _, seg := range segments[:len(segments)-1] {
				if n := r.bytes[strings.Replace(indexFile(dir, seg.First), indexSuffix, ".log", 1)]; n > 0 {
					t.Errorf("%d bytes of segment %d were read", n, seg.First)
				}
				if n := r.bytes[indexFile(dir, seg.First)]; n == 0 {
					t.Errorf("index of segment %d was not read", seg.First)
				}
			}
		})
	}
}

func TestDamagedIndexIsMadeAgain(t *testing.T) {
	for _, tc := range []struct {
		name    string
		damage  func(good []byte) []byte // nil: the file is missing
		damaged int
	}{
		{"missing", nil, 0},
		{"empty", func([]byte) []byte { return []byte{} }, 1},
		{"cut off", func(b []byte) []byte { return b[:len(b)-5] }, 1},
		{"longer", func(b []byte) []byte { return append(b, 0) }, 1},
		{"one bit", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, 1},
		{"version", func(b []byte) []byte { b[len(indexMagic)]++; return b }, 1},
		{"garbage", func([]byte) []byte { return bytes.Repeat([]byte("caromidx"), 500) }, 1},
	} {
		for _, checkpoint := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, checkpoint=%v", tc.name, checkpoint), func(t *testing.T) {
				d := t.TempDir()
				s := open(t, d, Options{SegmentBytes: 8 << 10})
				all := fill(t, s, 20)
				after := filepath.Join(t.TempDir(), "after")
				if checkpoint {
					must(t, s.Close())
				}
				must(t, os.CopyFS(after, os.DirFS(d)))
				name := indexFile(after, 1)
				good, err := os.ReadFile(name)
				must(t, err)
				if tc.damage == nil {
					must(t, os.Remove(name))
				} else {
					must(t, os.WriteFile(name, tc.damage(slices.Clone(good)), 0o600))
				}
				s = open(t, after, Options{SegmentBytes: 8 << 10})
				for range 2 {
					if got := recovered(t, s); !slices.Equal(ids(got), envelopeIDs(all)) {
						t.Errorf("recovered %d messages, want %d", len(got), len(all))
					}
					must(t, s.Sync(t.Context()))
				}
				if again, err := os.ReadFile(name); err != nil || !bytes.Equal(again, good) {
					t.Errorf("index has %d bytes, %v, want the %d from before", len(again), err, len(good))
				}
				aside, err := filepath.Glob(filepath.Join(after, "damaged", "*.idx-0"))
				want := tc.damaged
				if tc.name == "empty" { // there is nothing to set aside
					want = 0
				}
				if err != nil || len(aside) != want || s.Stats().Damaged != tc.damaged {
					t.Errorf("set aside %q, %v, Stats %+v, want %d", aside, err, s.Stats(), want)
				}
			})
		}
	}
}

// TestIndexOfAnotherLogIsNotUsed restores the index of a segment from another spool.
func TestIndexOfAnotherLogIsNotUsed(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	all := fill(t, open(t, a, Options{SegmentBytes: 8 << 10}), 20)
	fill(t, open(t, b, Options{SegmentBytes: 8 << 10}), 20)
	after := filepath.Join(t.TempDir(), "after")
	must(t, os.CopyFS(after, os.DirFS(a)))
	foreign, err := os.ReadFile(indexFile(b, 1))
	must(t, err)
	must(t, os.WriteFile(indexFile(after, 1), foreign, 0o600))
	s := open(t, after, Options{SegmentBytes: 8 << 10})
	if got := recovered(t, s); !slices.Equal(ids(got), envelopeIDs(all)) || s.Stats().Damaged != 1 {
		t.Errorf("recovered %d messages, Stats = %+v", len(got), s.Stats())
	}
}

func TestIndexGoesWithItsSegment(t *testing.T) {
	disk := seglogtest.New()
	o := Options{FS: disk, SegmentBytes: 8 << 10}
	s := open(t, dir, o)
	all := fill(t, s, 30)
	if _, err := disk.Open(indexFile(dir, 1)); err != nil {
		t.Fatalf("index of a full segment: %v", err)
	}
	stray := indexFile(dir, 1<<40)
	f, err := disk.Create(stray)
	must(t, err, f.Close())
	for _, e := range all {
		must(t, s.Finished(e.ID, 0, 1))
	}
	must(t, s.Sync(t.Context()))
	if _, err := disk.Open(indexFile(dir, 1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("index of a removed segment: %v", err)
	}
	o.FS = disk.Kill()
	open(t, dir, o)
	if _, err := disk.Open(stray); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("index without a segment: %v", err)
	}
}

// TestIndexNotWritten has no room for an index: the spool goes on, and writes it later.
func TestIndexNotWritten(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, SegmentBytes: 8 << 10, EventLog: "E"})
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpCreate && strings.Contains(name, indexSuffix) {
			return syscall.ENOSPC
		}
		return nil
	})
	must(t, s.Mark(1))
	all := fill(t, s, 20)
	if s.DurableEvent() != 1 {
		t.Errorf("DurableEvent = %d", s.DurableEvent())
	}
	if _, err := disk.Open(indexFile(dir, 1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("index on a full disk: %v", err)
	}
	if got := recovered(t, s); !slices.Equal(ids(got), envelopeIDs(all)) {
		t.Errorf("recovered %d messages", len(got))
	}
	disk.Fail(nil)
	must(t, s.Sync(t.Context()))
	if _, err := disk.Open(indexFile(dir, 1)); err != nil {
		t.Errorf("index when there is room: %v", err)
	}
}

// TestRecoverBesideCompaction hands each message out once though messages move.
func TestRecoverBesideCompaction(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New(), SegmentBytes: 8 << 10})
	w := newWorld()
	live := w.sparse(t, s, 100)
	seen := make(map[event.ID]int)
	must(t, s.Recover(func(m LiveMessage) error {
		seen[m.ID]++
		return s.Sync(t.Context())
	}))
	for _, e := range live {
		if seen[e.ID] != 1 {
			t.Errorf("message handed out %d times", seen[e.ID])
		}
	}
	if len(seen) != len(live) || s.Stats().Moved != 0 {
		t.Errorf("%d messages, want %d; Stats = %+v", len(seen), len(live), s.Stats())
	}
	must(t, s.Sync(t.Context()))
	if s.Stats().Moved == 0 {
		t.Error("no compaction after Recover")
	}
	w.check(t, 0, s)
}

func TestTagIsBounded(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New()})
	e := envelope(1)
	e.Tag = make([]byte, maxTagBytes+1)
	if err := s.Put(t.Context(), e); !errors.Is(err, seglog.ErrTooLarge) {
		t.Errorf("Put with a long tag: %v", err)
	}
	e.Tag = e.Tag[1:]
	put(t, s, e, "")
	if got := recovered(t, s); len(got) != 1 || len(got[0].Tag) != maxTagBytes {
		t.Errorf("recovered %d messages", len(got))
	}
}

func FuzzIndex(f *testing.F) {
	e := entryOf(envelope(3), 45, 1<<20, 99, 5000)
	f.Add(appendIndexEntry(appendIndexEntry(nil, 7, &e), 7, &e))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		if err := eachEntry(b, 7, func(e indexEntry) error {
			again = appendIndexEntry(again, 7, &e)
			return nil
		}); err != nil {
			return
		}
		n := 0
		if err := eachEntry(again, 7, func(indexEntry) error { n++; return nil }); err != nil || n == 0 && len(b) > 0 {
			t.Errorf("%d entries of %x, which is %x: %v", n, b, again, err)
		}
	})
}

// BenchmarkRestart opens a spool after kill -9, without a checkpoint, and hands out its messages.
func BenchmarkRestart(b *testing.B) {
	const n = 100_000
	d := b.TempDir()
	s := open(b, d, Options{SyncInterval: 100 * time.Millisecond, CacheBytes: -1})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range n / 100 {
				e := envelope(1)
				if err := s.Put(b.Context(), e, make([]byte, 100)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(b, s.Sync(b.Context()))
	after := filepath.Join(b.TempDir(), "after")
	must(b, os.CopyFS(after, os.DirFS(d)), s.Close(), os.RemoveAll(d))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		must(b, os.RemoveAll(filepath.Join(after, checkpointName)))
		b.StartTimer()
		s, err := Open(b.Context(), after, Options{})
		must(b, err)
		got := 0
		must(b, s.Recover(func(LiveMessage) error { got++; return nil }))
		b.StopTimer()
		if got != n {
			b.Fatalf("%d messages", got)
		}
		must(b, s.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/message")
}
