package seglog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

const dir = "/log"

// small makes segments roll after a few records.
func small(fsys seglog.FS) seglog.Options {
	return seglog.Options{FS: fsys, SegmentBytes: 4 << 10, MaxRecordBytes: 1 << 20}
}

func open(tb testing.TB, dir string, o seglog.Options) *seglog.Log {
	tb.Helper()
	l, err := seglog.Open(dir, o)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func appendAll(tb testing.TB, l *seglog.Log, recs ...string) seglog.Range {
	tb.Helper()
	var r seglog.Range
	for i, rec := range recs {
		at, err := l.Append(tb.Context(), []byte(rec))
		if err != nil {
			tb.Fatalf("Append: %v", err)
		}
		if i == 0 {
			r = at
		}
		r.Last = at.Last
	}
	return r
}

// record returns the payload number n: its length depends on n, its content tells it from others.
func record(n int) string {
	return fmt.Sprintf("%d:", n) + strings.Repeat(string(rune('a'+n%26)), n*37%600)
}

func records(from, to int) []string {
	var recs []string
	for n := from; n <= to; n++ {
		recs = append(recs, record(n))
	}
	return recs
}

// readAll returns what a reader finds between from and the tail, and the damage.
func readAll(tb testing.TB, dir string, from uint64, o seglog.Options) (recs []string, damage []*seglog.CorruptError) {
	tb.Helper()
	r, err := seglog.OpenReader(dir, from, o)
	if err != nil {
		tb.Fatalf("OpenReader: %v", err)
	}
	defer r.Close()
	return drain(tb, r, from)
}

func drain(tb testing.TB, r *seglog.Reader, next uint64) (recs []string, damage []*seglog.CorruptError) {
	tb.Helper()
	for {
		e, ok, err := r.TryNext()
		if c, is := errors.AsType[*seglog.CorruptError](err); is {
			if c.First != next {
				tb.Fatalf("damage begins at record %d, want %d: %v", c.First, next, c)
			}
			if c.Last >= c.First {
				next = c.Last + 1
			}
			damage = append(damage, c)
			continue
		}
		if err != nil {
			tb.Fatalf("TryNext: %v", err)
		}
		if !ok {
			return recs, damage
		}
		if e.Seq != next {
			tb.Fatalf("TryNext returned record %d, want %d", e.Seq, next)
		}
		next++
		recs = append(recs, string(e.Data))
	}
}

func noDamage(tb testing.TB, damage []*seglog.CorruptError) {
	tb.Helper()
	for _, d := range damage {
		tb.Errorf("unexpected damage: %v", d)
	}
}

func TestAppendReadBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    seglog.Options
		dir  string
	}{
		{"disk", small(nil), filepath.Join(t.TempDir(), "a", "b")},
		{"memory", small(seglogtest.New()), dir},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := open(t, tc.dir, tc.o)
			want := records(1, 100)
			appendAll(t, l, want[:40]...)
			incarnation := l.Incarnation()
			if err := l.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			l = open(t, tc.dir, tc.o)
			noDamage(t, l.Damage())
			if got := l.Incarnation(); got != incarnation || len(got) != 32 {
				t.Errorf("incarnation after reopening = %q, before %q", got, incarnation)
			}
			if got := appendAll(t, l, want[40:]...); got.First != 41 || got.Last != 100 {
				t.Errorf("appended as %d to %d, want 41 to 100", got.First, got.Last)
			}
			if l.Last() != 100 || l.Durable() != 100 {
				t.Errorf("Last = %d, Durable = %d, want 100", l.Last(), l.Durable())
			}
			if n := len(l.Segments()); n < 5 {
				t.Errorf("%d segments, want several", n)
			}
			got, damage := readAll(t, tc.dir, 1, tc.o)
			noDamage(t, damage)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			for from := 1; from <= 101; from++ {
				got, damage := readAll(t, tc.dir, uint64(from), tc.o)
				noDamage(t, damage)
				if diff := cmp.Diff(want[from-1:], got, cmp.Comparer(func(a, b []string) bool {
					return strings.Join(a, "|") == strings.Join(b, "|")
				})); diff != "" {
					t.Fatalf("records from %d (-want +got):\n%s", from, diff)
				}
			}
		})
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	d := filepath.Join(t.TempDir(), "log")
	l := open(t, d, seglog.Options{})
	appendAll(t, l, "x")
	err := filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadByPosition(t *testing.T) {
	l := open(t, dir, small(seglogtest.New()))
	body := bytes.Repeat([]byte("0123456789"), 9000)
	var told seglog.Range
	c := seglog.NewCommit(func(r seglog.Range) { told = r })
	for i := range 20 {
		c.Reset()
		c.Add([]byte("envelope "), fmt.Append(nil, i))
		c.Add(body[:50000], nil, body[50000:])
		c.Add()
		if err := l.EnqueueCommit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		r, err := c.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.Wait(t.Context()); err != nil || again != r || told != r {
			t.Errorf("committer told %+v, Wait says %+v and then %+v, %v", told, r, again, err)
		}
		if r.First != uint64(3*i+1) || r.Last != r.First+2 {
			t.Errorf("range %+v", r)
		}
		envelope, err := l.OpenRecord(r.Start)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(envelope)
		if want := fmt.Sprintf("envelope %d", i); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
		_ = envelope.Close()
		stored, err := l.OpenRecord(envelope.End)
		if err != nil {
			t.Fatal(err)
		}
		got, err = io.ReadAll(stored)
		if err != nil || !bytes.Equal(got, body) || stored.Size != int64(len(body)) || stored.Seq != r.First+1 {
			t.Errorf("body: %d bytes, seq %d, %v", len(got), stored.Seq, err)
		}
		_ = stored.Close()
		if empty, err := l.Read(stored.End); err != nil || len(empty) != 0 {
			t.Errorf("empty record: %q, %v", empty, err)
		}
	}
	if _, err := l.Read(seglog.Position{Segment: 1, Offset: 41}); !isCorrupt(err) {
		t.Errorf("Read beside a record: %v, want a CorruptError", err)
	}
	if _, err := l.Read(seglog.Position{Segment: 9999, Offset: 40}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read in no segment: %v, want fs.ErrNotExist", err)
	}
}

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*seglog.CorruptError](err)
	return ok
}

func TestScanPassesOverPayloads(t *testing.T) {
	l := open(t, dir, seglog.Options{FS: seglogtest.New(), SegmentBytes: 100 << 10})
	for i := range 30 {
		if _, err := l.Append(t.Context(), fmt.Append(nil, "head ", i), make([]byte, i*1000)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, s := range l.Segments() {
		for item, err := range l.Scan(s.First) {
			if err != nil {
				t.Fatal(err)
			}
			if item.Seq%2 == 1 {
				got, err := item.Data()
				if want := fmt.Sprintf("head %d", n/2); err != nil || string(got) != want {
					t.Errorf("record %d is %q, %v, want %q", item.Seq, got, err, want)
				}
			} else if item.Size != n/2*1000 {
				t.Errorf("record %d has %d bytes, want %d", item.Seq, item.Size, n/2*1000)
			}
			if got, err := l.Read(item.Pos); err != nil || len(got) != item.Size {
				t.Errorf("Read(%+v) = %d bytes, %v", item.Pos, len(got), err)
			}
			n++
		}
	}
	if n != 60 {
		t.Errorf("scanned %d records, want 60", n)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	d := t.TempDir()
	open(t, d, seglog.Options{})
	_, err := seglog.Open(d, seglog.Options{})
	if !errors.Is(err, seglog.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second Open: %v, want ErrLocked with the process id", err)
	}
}

func TestTooLargeIsRefused(t *testing.T) {
	l := open(t, dir, small(seglogtest.New()))
	if _, err := l.Append(t.Context(), make([]byte, 1<<20+1)); !errors.Is(err, seglog.ErrTooLarge) {
		t.Errorf("Append: %v, want ErrTooLarge", err)
	}
	appendAll(t, l, strings.Repeat("x", 1<<20))
}

func TestClosedLogRefuses(t *testing.T) {
	l := open(t, dir, small(seglogtest.New()))
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if _, err := l.Append(t.Context(), []byte("x")); !errors.Is(err, seglog.ErrClosed) {
		t.Errorf("Append: %v, want ErrClosed", err)
	}
}

func TestConcurrentAppendsShareSyncs(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, seglog.Options{FS: fsys})
	var mu sync.Mutex
	syncs := 0
	fsys.Fail(func(op seglogtest.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == seglogtest.OpSync {
			syncs++
		}
		return nil
	})
	// Whoever comes while the disk is busy is in the next batch: queue everything first.
	commits := make([]*seglog.Commit, 500)
	for i := range commits {
		c, err := l.Enqueue(t.Context(), []byte(record(i)))
		if err != nil {
			t.Fatal(err)
		}
		commits[i] = c
	}
	for i, c := range commits {
		r, err := c.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.First != uint64(i+1) || r.Last != r.First {
			t.Errorf("call %d got %+v", i, r)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if syncs == 0 || syncs > 250 {
		t.Errorf("%d syncs for 500 appends", syncs)
	}
}

func TestPendingBytesBlockUntilThereIsRoom(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, seglog.Options{FS: fsys, MaxPendingBytes: 1000})
	release := make(chan struct{})
	fsys.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpSync {
			<-release
		}
		return nil
	})
	big, err := l.Enqueue(t.Context(), make([]byte, 5000)) // over the bound, but alone
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Enqueue(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Enqueue without room: %v, want it to wait for ctx", err)
	}
	close(release)
	if _, err := big.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := appendAll(t, l, "x"); r.First != 2 {
		t.Errorf("next record is %d, want 2", r.First)
	}
}

func TestWriteIsDurableAfterSync(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, small(fsys))
	for i := 1; i <= 3; i++ {
		if r, err := l.Write(t.Context(), []byte(record(i))); err != nil || r.First != uint64(i) {
			t.Fatalf("Write: %+v, %v", r, err)
		}
	}
	if l.Last() != 3 || l.Durable() != 0 {
		t.Errorf("Last = %d, Durable = %d, want 3 and 0", l.Last(), l.Durable())
	}
	if got, _ := readAll(t, dir, 1, small(fsys)); len(got) != 0 {
		t.Errorf("a reader sees %d records that are not durable", len(got))
	}
	lost := open(t, dir, small(fsys.Crash(0, nil)))
	if lost.Last() != 0 {
		t.Errorf("%d records survived without a sync, on a disk that loses everything", lost.Last())
	}
	if err := l.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := open(t, dir, small(fsys.Crash(0, nil)))
	if l.Durable() != 3 || kept.Last() != 3 {
		t.Errorf("Durable = %d, after power loss Last = %d, want 3", l.Durable(), kept.Last())
	}
}

func TestRemove(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, small(fsys))
	appendAll(t, l, records(1, 100)...)
	segs := l.Segments()
	if n, err := l.RemoveBefore(segs[2].First + 1); n != 2 || err != nil {
		t.Fatalf("RemoveBefore = %d, %v, want 2", n, err)
	}
	_, err := seglog.OpenReader(dir, 1, small(fsys))
	removed, ok := errors.AsType[*seglog.RemovedError](err)
	if !ok || removed.From != 1 || removed.First != segs[2].First {
		t.Errorf("OpenReader: %v, want a RemovedError with %d", err, segs[2].First)
	}
	if got, damage := readAll(t, dir, segs[2].First, small(fsys)); len(got) != 100-int(segs[2].First)+1 || damage != nil {
		t.Errorf("read %d records, damage %v", len(got), damage)
	}
	active := segs[len(segs)-1].First
	if err := l.RemoveSegment(active); !errors.Is(err, seglog.ErrActive) {
		t.Errorf("RemoveSegment(active): %v", err)
	}
	if n, err := l.RemoveBefore(1000); n != len(segs)-3 || err != nil {
		t.Errorf("RemoveBefore(1000) = %d, %v, want all but the active one", n, err)
	}
	if l.Last() != 100 {
		t.Errorf("Last = %d", l.Last())
	}
}

func TestRemoveSegmentInTheMiddle(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, small(fsys))
	appendAll(t, l, records(1, 100)...)
	segs := l.Segments()
	if err := l.RemoveSegment(segs[1].First); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, s := range l.Segments() {
		for _, err := range l.Scan(s.First) {
			if err != nil {
				t.Errorf("Scan: %v", err)
			}
			seen++
		}
	}
	gone := int(segs[2].First - segs[1].First)
	if seen != 100-gone {
		t.Errorf("scanned %d records, want %d", seen, 100-gone)
	}
	got, damage := readAll(t, dir, 1, small(fsys))
	if len(got) != 100-gone || len(damage) != 1 || damage[0].Last != segs[2].First-1 {
		t.Errorf("read %d records, damage %v, want one hole of %d", len(got), damage, gone)
	}
}

// TestRoll: the old segment can be removed, the next record gets the next number, and nothing of that
// is undone by power loss. An empty segment is left alone.
func TestRoll(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, small(fsys))
	for range 2 {
		if err := l.Roll(t.Context()); err != nil || len(l.Segments()) != 1 {
			t.Fatalf("Roll of an empty segment: %v, segments %v", err, l.Segments())
		}
	}
	appendAll(t, l, records(1, 3)...)
	r, err := seglog.OpenReader(dir, 1, small(fsys))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got, damage := drain(t, r, 1); len(got) != 3 || damage != nil {
		t.Fatalf("the reader sees %q, damage %v", got, damage)
	}
	if _, err := l.Write(t.Context(), []byte(record(4))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Roll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if segs := l.Segments(); len(segs) != 2 || segs[1].First != 5 || l.Durable() != 4 {
		t.Fatalf("segments %v, record %d is durable; want the second to begin with 5, and 4", segs, l.Durable())
	}
	if got, damage := drain(t, r, 4); len(got) != 1 || damage != nil {
		t.Errorf("the reader sees %q behind record 3, damage %v", got, damage)
	}
	if err := l.RemoveSegment(1); err != nil {
		t.Fatal(err)
	}
	after := fsys.Crash(0, nil)
	noDamage(t, open(t, dir, small(after)).Damage())
	appendAll(t, l, record(5))
	if got, damage := drain(t, r, 5); len(got) != 1 || damage != nil {
		t.Errorf("the reader sees %q behind record 4, damage %v", got, damage)
	}
	l = open(t, dir, small(fsys.Kill()))
	noDamage(t, l.Damage())
	if l.Last() != 5 {
		t.Errorf("Last = %d after kill -9, want 5", l.Last())
	}
}

// TestRollOnAFullDisk: without room for a seal or a file the active segment stays, and the log is as good as before.
func TestRollOnAFullDisk(t *testing.T) {
	for _, fails := range []int{1, 2, 3} { // the seal, the new file, its header
		fsys := seglogtest.New()
		l := open(t, dir, small(fsys))
		appendAll(t, l, records(1, 3)...)
		n := 0
		fsys.Fail(func(op seglogtest.Op, name string) error {
			if (op == seglogtest.OpWrite || op == seglogtest.OpCreate) && strings.HasSuffix(name, ".log") {
				if n++; n >= fails {
					return syscall.ENOSPC
				}
			}
			return nil
		})
		if err := l.Roll(t.Context()); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, seglog.ErrPoisoned) {
			t.Fatalf("Roll: %v, want ENOSPC and a usable log", err)
		}
		fsys.Fail(nil)
		if len(l.Segments()) != 1 {
			t.Errorf("segments %v", l.Segments())
		}
		appendAll(t, l, records(4, 5)...)
		if err := l.Roll(t.Context()); err != nil || len(l.Segments()) != 2 {
			t.Errorf("Roll with room again: %v, segments %v", err, l.Segments())
		}
		for _, after := range []*seglogtest.FS{fsys, fsys.Crash(0, nil)} {
			if after != fsys {
				noDamage(t, open(t, dir, small(after)).Damage())
			}
			got, damage := readAll(t, dir, 1, small(after))
			noDamage(t, damage)
			if diff := cmp.Diff(records(1, 5), got); diff != "" {
				t.Fatalf("records (-want +got):\n%s", diff)
			}
		}
	}
}

func TestFullDiskRefusesTheBatchOnly(t *testing.T) {
	for _, op := range []seglogtest.Op{seglogtest.OpWrite, seglogtest.OpCreate} {
		t.Run(string(op), func(t *testing.T) {
			fsys := seglogtest.New()
			l := open(t, dir, small(fsys))
			appendAll(t, l, records(1, 3)...)
			full := func(o seglogtest.Op, name string) error {
				if o == op && strings.HasSuffix(name, ".log") {
					return syscall.ENOSPC
				}
				return nil
			}
			var acknowledged []string
			refused := 0
			for i := 4; i <= 60; i++ {
				if i%4 == 0 {
					fsys.Fail(full)
				}
				_, err := l.Append(t.Context(), []byte(record(i)), []byte("second"))
				fsys.Fail(nil)
				if err == nil {
					acknowledged = append(acknowledged, record(i), "second")
					continue
				}
				refused++
				if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, seglog.ErrPoisoned) {
					t.Fatalf("Append on a full disk: %v, want ENOSPC and a usable log", err)
				}
			}
			if refused == 0 {
				t.Fatal("nothing was refused")
			}
			want := append(records(1, 3), acknowledged...)
			for _, after := range []*seglogtest.FS{fsys, fsys.Crash(0, nil), fsys.Kill()} {
				if after != fsys {
					noDamage(t, open(t, dir, small(after)).Damage())
				}
				got, damage := readAll(t, dir, 1, small(after))
				noDamage(t, damage)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("records (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// A segment that could not be made must not hide the records that went into the one before it.
func TestLeftoverSegmentIsNotTheEnd(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, seglog.Options{FS: fsys})
	appendAll(t, l, records(1, 9)...)
	after := fsys.Kill()
	for _, n := range []string{"00000000000000000005.log", "00000000000000000012.log"} {
		f, err := after.Create(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("caromlog"), 0); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, seglog.Options{FS: after})
		if l.Last() != 9 {
			t.Fatalf("Last = %d with leftover %s, want 9", l.Last(), n)
		}
		if n == "00000000000000000012.log" {
			appendAll(t, l, record(10))
		}
		after = after.Kill()
	}
	l = open(t, dir, seglog.Options{FS: after})
	if l.Last() != 10 || len(l.Segments()) != 1 {
		t.Errorf("Last = %d, segments %v, want 10 in one", l.Last(), l.Segments())
	}
}

func TestPoison(t *testing.T) {
	errDisk := errors.New("disk is broken")
	for _, tc := range []struct {
		name string
		fail map[seglogtest.Op]bool
	}{
		{"fsync fails", map[seglogtest.Op]bool{seglogtest.OpSync: true}},
		{"write and undo fail", map[seglogtest.Op]bool{seglogtest.OpWrite: true, seglogtest.OpTruncate: true}},
		{"write and sync of undo fail", map[seglogtest.Op]bool{seglogtest.OpWrite: true, seglogtest.OpSync: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fsys := seglogtest.New()
			l := open(t, dir, small(fsys))
			appendAll(t, l, records(1, 5)...)
			fsys.Fail(func(op seglogtest.Op, name string) error {
				if tc.fail[op] && strings.HasSuffix(name, ".log") {
					return errDisk
				}
				return nil
			})
			_, err := l.Append(t.Context(), []byte(record(6)))
			if !errors.Is(err, seglog.ErrPoisoned) || !errors.Is(err, errDisk) {
				t.Errorf("Append: %v, want ErrPoisoned and the cause", err)
			}
			fsys.Fail(nil) // the disk says it is well again: not believed
			if _, err := l.Append(t.Context(), []byte(record(6))); !errors.Is(err, seglog.ErrPoisoned) {
				t.Errorf("second Append: %v, want ErrPoisoned", err)
			}
			if err := l.Sync(t.Context()); !errors.Is(err, seglog.ErrPoisoned) {
				t.Errorf("Sync: %v, want ErrPoisoned", err)
			}
			if got, damage := readAll(t, dir, 1, small(fsys)); len(got) != 5 || damage != nil {
				t.Errorf("a reader sees %d records, damage %v, want 5", len(got), damage)
			}
			if err := l.Close(); !errors.Is(err, seglog.ErrPoisoned) || !errors.Is(l.Err(), errDisk) {
				t.Errorf("Close: %v, Err: %v", err, l.Err())
			}
			l = open(t, dir, small(fsys.Kill()))
			noDamage(t, l.Damage())
			if l.Last() != 5 && l.Last() != 6 {
				t.Errorf("Last after reopening = %d, want 5 or 6", l.Last())
			}
		})
	}
}

// After a failed fsync Linux may keep pages that it calls clean and never wrote: Open must make
// them dirty again before its own fsync can mean anything.
func TestOpenWritesDoubtfulBytesAgain(t *testing.T) {
	fsys := seglogtest.New()
	l := open(t, dir, seglog.Options{FS: fsys})
	appendAll(t, l, record(1))
	if _, err := l.Write(t.Context(), []byte(record(50))); err != nil {
		t.Fatal(err)
	}
	next := fsys.Kill()
	rewritten := false
	next.Fail(func(op seglogtest.Op, name string) error {
		rewritten = rewritten || op == seglogtest.OpWrite && strings.HasSuffix(name, ".log")
		if op == seglogtest.OpSync && strings.HasSuffix(name, ".log") && !rewritten {
			t.Error("the segment is synced before its end was written again")
		}
		return nil
	})
	l = open(t, dir, seglog.Options{FS: next})
	if !rewritten || l.Last() != 2 {
		t.Errorf("rewritten = %v, Last = %d", rewritten, l.Last())
	}
}

// TestCommitterTellsInOrder checks what an index beside the log relies on: the places come in order,
// each before its caller goes on, and all of a segment before the next one is begun.
func TestCommitterTellsInOrder(t *testing.T) {
	disk := seglogtest.New()
	l := open(t, dir, small(disk))
	var last seglog.Range // owned by the committer
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			told := false
			c := seglog.NewCommit(func(r seglog.Range) {
				if r.First != last.Last+1 {
					t.Errorf("told of %+v after %+v", r, last)
				}
				if n := l.Segments(); n[len(n)-1].First != r.Start.Segment {
					t.Errorf("told of segment %d when %d is begun", r.Start.Segment, n[len(n)-1].First)
				}
				last, told = r, true
			})
			for n := range 50 {
				c.Reset()
				told = false
				c.Add([]byte(record(n)))
				if err := l.EnqueueCommit(t.Context(), c); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Wait(t.Context()); err != nil || !told {
					t.Errorf("Wait: %v, told: %v", err, told)
				}
			}
		})
	}
	wg.Wait()
	disk.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	c := seglog.NewCommit(func(seglog.Range) { t.Error("told of what was not written") })
	c.Add([]byte("x"))
	if err := l.EnqueueCommit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Wait on a full disk: %v", err)
	}
}
