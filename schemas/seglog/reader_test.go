package seglog_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

func withCRC(b []byte) []byte {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return binary.LittleEndian.AppendUint32(slices.Clip(b), sum)
}

func TestReaderFollowsTheWriter(t *testing.T) {
	o := small(nil)
	d := t.TempDir()
	l := open(t, d, o)
	r, err := seglog.OpenReader(d, 0, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Incarnation() != l.Incarnation() {
		t.Errorf("incarnations %s and %s", r.Incarnation(), l.Incarnation())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// Each record is written when the one before was read, so that the reader waits every time.
	for i := 1; i <= 100; i++ {
		if _, ok, err := r.TryNext(); ok || err != nil {
			t.Fatalf("TryNext at the tail: %v, %v", ok, err)
		}
		result := make(chan error, 1)
		go func() {
			_, err := l.Append(ctx, []byte(record(i)))
			result <- err
		}()
		e, err := r.Next(ctx)
		if err != nil || e.Seq != uint64(i) || string(e.Data) != record(i) {
			t.Fatalf("Next = %d, %v, want %d", e.Seq, err, i)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next after the end of ctx: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.TryNext(); !errors.Is(err, seglog.ErrClosed) {
		t.Errorf("TryNext after Close: %v", err)
	}
}

func TestReaderBeforeTheWriter(t *testing.T) {
	if _, err := seglog.OpenReader(t.TempDir(), 1, seglog.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenReader without a log: %v, want fs.ErrNotExist", err)
	}
}

func TestReaderAheadOfTheLog(t *testing.T) {
	o := small(seglogtest.New())
	l := open(t, dir, o)
	appendAll(t, l, records(1, 30)...)
	_, err := seglog.OpenReader(dir, 32, o)
	if ahead, ok := errors.AsType[*seglog.AheadError](err); !ok || ahead.Last != 30 || ahead.From != 32 {
		t.Errorf("OpenReader: %v, want an AheadError with 30", err)
	}
}

// After power loss the watermark may be older than what a reader has confirmed elsewhere.
func TestReaderIsPatientWithAnOldWatermark(t *testing.T) {
	o := seglog.Options{FS: seglogtest.New()}
	fsys := seglogtest.New()
	o.FS = fsys
	l := open(t, dir, o)
	appendAll(t, l, records(1, 10)...)
	o.FS = fsys.Crash(0, nil) // the watermark is never synced
	r, err := seglog.OpenReader(dir, 11, o)
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("OpenReader: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok, err := r.TryNext(); ok || err != nil {
		t.Fatalf("TryNext = %v, %v", ok, err)
	}
	appendAll(t, open(t, dir, o), record(11))
	if e, ok, err := r.TryNext(); err != nil || !ok || e.Seq != 11 {
		t.Errorf("TryNext = %d, %v, %v, want 11", e.Seq, ok, err)
	}
}

func TestReaderWhoseRecordsAreRemoved(t *testing.T) {
	o := small(seglogtest.New())
	l := open(t, dir, o)
	appendAll(t, l, records(1, 100)...)
	r, err := seglog.OpenReader(dir, 1, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := l.RemoveBefore(100); err != nil {
		t.Fatal(err)
	}
	for {
		e, ok, err := r.TryNext() // the segment that is open can still be read
		if ok {
			continue
		}
		removed, is := errors.AsType[*seglog.RemovedError](err)
		if !is || removed.From != r.Seq() || removed.First != l.Segments()[0].First {
			t.Errorf("TryNext = %d, %v, want a RemovedError", e.Seq, err)
		}
		return
	}
}

func TestReaderNoticesAnotherLog(t *testing.T) {
	d := filepath.Join(t.TempDir(), "log")
	l := open(t, d, seglog.Options{})
	appendAll(t, l, "x")
	r, err := seglog.OpenReader(d, 2, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(d); err != nil {
		t.Fatal(err)
	}
	open(t, d, seglog.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := r.Next(ctx); !errors.Is(err, seglog.ErrReplaced) {
		t.Errorf("Next: %v, want ErrReplaced", err)
	}
}

// TestKilledWriter kills a writing process with SIGKILL, several times, while this process tails its
// log: nothing that it reported as durable may be missing, and the reader sees every record once.
func TestKilledWriter(t *testing.T) {
	if d := os.Getenv("SEGLOG_TEST_WRITER"); d != "" {
		writeForEver(t, d)
		return
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open(t, d, small(nil)).Close() // so that there is something to tail
	r, err := seglog.OpenReader(d, 1, small(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	reported := 0
	for range 4 {
		cmd := exec.CommandContext(ctx, executable, "-test.run=^TestKilledWriter$")
		cmd.Env = append(os.Environ(), "SEGLOG_TEST_WRITER="+d)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 100 && lines.Scan(); n++ {
			if reported, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatalf("writer says %q", lines.Text())
			}
			for r.Seq() <= uint64(reported) {
				e, err := r.Next(ctx)
				if err != nil || string(e.Data) != record(int(e.Seq)) {
					t.Fatalf("Next = record %d %.20q, %v", e.Seq, e.Data, err)
				}
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it acknowledged before it died
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				reported = n
			}
		}
		_ = cmd.Wait()
	}
	l := open(t, d, small(nil))
	noDamage(t, l.Damage())
	if reported < 400 || l.Last() < uint64(reported) {
		t.Errorf("the log ends at %d, the writer reported %d", l.Last(), reported)
	}
	got, damage := readAll(t, d, 1, small(nil))
	noDamage(t, damage)
	for i, rec := range got {
		if rec != record(i+1) {
			t.Fatalf("record %d is %.20q", i+1, rec)
		}
	}
}

// writeForEver is the process that TestKilledWriter kills.
func writeForEver(t *testing.T, d string) {
	t.Helper()
	l := open(t, d, small(nil))
	for n := int(l.Last()) + 1; ; n++ {
		commits := make([]*seglog.Commit, 0, 3)
		for range 3 {
			c, err := l.Enqueue(t.Context(), []byte(record(n)))
			if err != nil {
				t.Fatal(err)
			}
			commits = append(commits, c)
			n++
		}
		n--
		for _, c := range commits {
			at, err := c.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintln(os.Stdout, at.Last); err != nil {
				return
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("4KiB/writers=%d", writers), func(b *testing.B) {
			l := open(b, b.TempDir(), seglog.Options{})
			rec := []byte(strings.Repeat("x", 4<<10))
			b.SetBytes(int64(len(rec)))
			b.ReportAllocs()
			b.SetParallelism(writers) // times GOMAXPROCS, so bounded by the channel below
			slots := make(chan struct{}, writers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					slots <- struct{}{}
					if _, err := l.Append(b.Context(), rec); err != nil {
						b.Error(err)
					}
					<-slots
				}
			})
		})
	}
}

func BenchmarkReader(b *testing.B) {
	d := b.TempDir()
	l := open(b, d, seglog.Options{})
	const n, size = 100_000, 800
	batch := make([][]byte, 1000)
	for i := range batch {
		batch[i] = make([]byte, size)
	}
	for range n / len(batch) {
		if _, err := l.Append(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(size)
	b.ReportAllocs()
	var r *seglog.Reader
	for b.Loop() {
		if r == nil || r.Seq() > n {
			if r != nil {
				_ = r.Close()
			}
			var err error
			if r, err = seglog.OpenReader(d, 1, seglog.Options{}); err != nil {
				b.Fatal(err)
			}
		}
		if _, ok, err := r.TryNext(); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	_ = r.Close()
}
