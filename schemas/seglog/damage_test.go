package seglog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"carom/schemas/seglog"
)

// logOnDisk makes a closed log of 60 records in several segments and returns the segments' paths.
func logOnDisk(tb testing.TB) (dir string, want, paths []string) {
	tb.Helper()
	dir = tb.TempDir()
	l := open(tb, dir, small(nil))
	want = records(1, 60)
	appendAll(tb, l, want...)
	for _, s := range l.Segments() {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%020d.log", s.First)))
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	if len(paths) < 3 {
		tb.Fatalf("only %d segments", len(paths))
	}
	return dir, want, paths
}

func edit(tb testing.TB, path string, f func([]byte) []byte) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// checkDamaged opens the log for writing, appends, and checks that each old record is either read
// or reported as lost, at least one is lost, and that the new one has a new number.
func checkDamaged(t *testing.T, dir string, want []string, maxLost int) {
	t.Helper()
	l := open(t, dir, small(nil))
	if l.Last() < uint64(len(want)) {
		t.Fatalf("Last = %d, numbers up to %d were given out", l.Last(), len(want))
	}
	at := appendAll(t, l, "new")
	r, err := seglog.OpenReader(dir, 1, small(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	lost, next := 0, uint64(1)
	for {
		e, ok, err := r.TryNext()
		if c, is := errors.AsType[*seglog.CorruptError](err); is {
			if c.First != next || c.File == "" || c.Error() == "" {
				t.Fatalf("damage %v, want it from record %d on", c, next)
			}
			if c.Last >= c.First {
				lost += int(c.Last - c.First + 1)
				next = c.Last + 1
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if e.Seq != next {
			t.Fatalf("record %d after %d and no error", e.Seq, next-1)
		}
		next++
		if e.Seq == at.First {
			if string(e.Data) != "new" {
				t.Errorf("new record is %q", e.Data)
			}
		} else if string(e.Data) != want[e.Seq-1] {
			t.Errorf("record %d is %.30q", e.Seq, e.Data)
		}
	}
	if next != at.Last+1 {
		t.Errorf("the reader ends at %d, the log at %d", next-1, at.Last)
	}
	if lost == 0 || lost > maxLost {
		t.Errorf("%d records reported lost, want 1 to %d", lost, maxLost)
	}
	scanned := 0
	for _, s := range l.Segments() {
		for item, err := range l.Scan(s.First) {
			if err == nil {
				_, err = item.Data()
			}
			switch {
			case err == nil:
				scanned++
			case !isCorrupt(err):
				t.Fatal(err)
			}
		}
	}
	if scanned != int(at.Last)-lost {
		t.Errorf("Scan found %d good records, Reader %d", scanned, int(at.Last)-lost)
	}
}

func TestDamageIsReportedAndPassed(t *testing.T) {
	flip := func(at func(n int) int) func([]byte) []byte {
		return func(b []byte) []byte { b[at(len(b))] ^= 0x40; return b }
	}
	for _, tc := range []struct {
		name    string
		segment func(paths []string) string
		edit    func([]byte) []byte
		maxLost int
	}{
		{"payload in an old segment", first, flip(func(n int) int { return n / 2 }), 2},
		{"header of the first record", first, flip(func(int) int { return 45 }), 1},
		{"length of the first record", first, flip(func(int) int { return 50 }), 1},
		{"end of an old segment is cut", first, func(b []byte) []byte { return b[:len(b)-700] }, 5},
		{"old segment is empty", first, func([]byte) []byte { return nil }, 30},
		{"zeros in an old segment", first, func(b []byte) []byte { clear(b[1000:3000]); return b }, 20},
		{"first record of the last segment", last, flip(func(int) int { return 66 }), 1},
		{"end of the last segment is cut", last, func(b []byte) []byte { return b[:len(b)-10] }, 1},
		{"last segment is empty", last, func([]byte) []byte { return nil }, 30},
		{"last segment is garbage", last, func(b []byte) []byte { return bytes.Repeat([]byte("\xcar1"), len(b)/3) }, 30},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, want, paths := logOnDisk(t)
			edit(t, tc.segment(paths), tc.edit)
			checkDamaged(t, dir, want, tc.maxLost)
		})
	}
}

func first(paths []string) string { return paths[0] }
func last(paths []string) string  { return paths[len(paths)-1] }

func TestEveryFlippedByteIsNoticed(t *testing.T) {
	dir, want, paths := logOnDisk(t)
	o := small(nil)
	good, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	for i := 40; i < len(good)-24; i += 7 {
		bad := slices.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(paths[1], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, damage := readAll(t, dir, 1, o)
		if len(damage) != 1 || len(got) != len(want)-int(damage[0].Last-damage[0].First+1) {
			t.Fatalf("byte %d flipped: %d records, damage %v", i, len(got), damage)
		}
	}
}

func TestReadOfADamagedRecord(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, seglog.Options{})
	at := appendAll(t, l, "payload")
	edit(t, filepath.Join(dir, "00000000000000000001.log"), func(b []byte) []byte { b[at.Start.Offset+25] ^= 1; return b })
	if b, err := l.Read(at.Start); !isCorrupt(err) {
		t.Errorf("Read = %q, %v, want a CorruptError", b, err)
	}
	r, err := l.OpenRecord(at.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, r.Size)); err != nil {
		t.Errorf("ReadFull: %v", err) // it drops an error that comes with the last byte
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !isCorrupt(err) {
		t.Errorf("Read at the end = %d, %v, want a CorruptError", n, err)
	}
}

func TestDamagedHeaderLosesNothing(t *testing.T) {
	dir, want, paths := logOnDisk(t)
	for _, p := range []string{first(paths), last(paths)} {
		edit(t, p, func(b []byte) []byte { clear(b[:40]); return b })
	}
	l := open(t, dir, small(nil))
	if len(l.Damage()) != 1 {
		t.Errorf("damage %v, want the header of the last segment", l.Damage())
	}
	got, damage := readAll(t, dir, 1, small(nil))
	noDamage(t, damage)
	if !slices.Equal(got, want) {
		t.Errorf("read %d records, want %d", len(got), len(want))
	}
}

func TestLostSegments(t *testing.T) {
	t.Run("the last one", func(t *testing.T) {
		dir, want, paths := logOnDisk(t)
		if err := os.Remove(last(paths)); err != nil {
			t.Fatal(err)
		}
		checkDamaged(t, dir, want, 30)
	})
	t.Run("one in the middle", func(t *testing.T) {
		dir, want, paths := logOnDisk(t)
		if err := os.Remove(paths[1]); err != nil {
			t.Fatal(err)
		}
		checkDamaged(t, dir, want, 30)
	})
	t.Run("all: it is another log", func(t *testing.T) {
		dir, _, paths := logOnDisk(t)
		before, err := os.ReadFile(filepath.Join(dir, "incarnation"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
		l := open(t, dir, small(nil))
		if l.Last() != 0 || l.Incarnation() == string(bytes.TrimSpace(before)) {
			t.Errorf("Last = %d with the old incarnation %s", l.Last(), before)
		}
	})
}

func TestLostSmallFiles(t *testing.T) {
	for _, name := range []string{"incarnation", "durable"} {
		for _, content := range [][]byte{nil, []byte("garbage")} {
			dir, want, _ := logOnDisk(t)
			incarnation, err := os.ReadFile(filepath.Join(dir, "incarnation"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if content != nil {
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l := open(t, dir, small(nil))
			noDamage(t, l.Damage())
			if l.Incarnation() != string(bytes.TrimSpace(incarnation)) {
				t.Errorf("%s as %q: another incarnation", name, content)
			}
			got, damage := readAll(t, dir, 1, small(nil))
			noDamage(t, damage)
			if !slices.Equal(got, want) {
				t.Errorf("%s as %q: read %d records, want %d", name, content, len(got), len(want))
			}
			if l.Last() != 60 {
				t.Errorf("Last = %d", l.Last())
			}
		}
	}
}

// A torn tail is what was never acknowledged. Without a watermark only the flag in a later record
// tells it from damage.
func TestTornOrDamagedWithoutWatermark(t *testing.T) {
	for _, tc := range []struct {
		name   string
		keep   int // records after the flipped one
		damage int
	}{
		{"the last record is torn", 0, 0},
		{"a synced record follows", 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, seglog.Options{})
			appendAll(t, l, "one", "two")
			c, err := l.Append(t.Context(), []byte("three"))
			if err != nil {
				t.Fatal(err)
			}
			appendAll(t, l, records(1, tc.keep)...)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, filepath.Join(dir, "00000000000000000001.log"), func(b []byte) []byte { b[c.Start.Offset+25] ^= 1; return b })
			if err := os.Remove(filepath.Join(dir, "durable")); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir, seglog.Options{})
			if len(l.Damage()) != tc.damage {
				t.Errorf("damage %v, want %d", l.Damage(), tc.damage)
			}
			if want := uint64(2 + 2*tc.keep); l.Last() != want {
				t.Errorf("Last = %d, want %d", l.Last(), want)
			}
		})
	}
}

func TestLaterVersionIsRefused(t *testing.T) {
	dir, _, paths := logOnDisk(t)
	edit(t, last(paths), func(b []byte) []byte {
		b[8] = 2
		return append(withCRC(b[:36]), b[40:]...)
	})
	if _, err := seglog.Open(dir, small(nil)); !errors.Is(err, seglog.ErrVersion) {
		t.Errorf("Open: %v, want ErrVersion", err)
	}
	if _, err := seglog.OpenReader(dir, 60, small(nil)); !errors.Is(err, seglog.ErrVersion) {
		t.Errorf("OpenReader: %v, want ErrVersion", err)
	}
}

func FuzzSegment(f *testing.F) {
	dir, _, paths := logOnDisk(f)
	good, err := os.ReadFile(first(paths))
	if err != nil {
		f.Fatal(err)
	}
	incarnation, err := os.ReadFile(filepath.Join(dir, "incarnation"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, []byte{}, uint64(1))
	f.Add(good, []byte{}, uint64(5))
	f.Add(good[:700], good[900:], uint64(0))
	f.Add(good[:64], good[40:500], uint64(99))
	f.Fuzz(func(t *testing.T, head, tail []byte, from uint64) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{
			"incarnation":              incarnation,
			"durable":                  head,
			"00000000000000000001.log": slices.Concat(head, tail),
			"00000000000000000040.log": slices.Concat(tail, head),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := seglog.Options{MaxRecordBytes: 1 << 10, SegmentBytes: 1 << 10}
		for range 2 { // as the writer left it, and after it was opened again
			r, err := seglog.OpenReader(dir, from, o)
			if err == nil {
				exhaust(t, r, len(head)+len(tail))
			}
			l, err := seglog.Open(dir, o)
			if errors.Is(err, seglog.ErrVersion) {
				return
			}
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			for _, s := range l.Segments() {
				for item, err := range l.Scan(s.First) {
					if err == nil && item.Size > o.MaxRecordBytes {
						t.Fatalf("record of %d bytes", item.Size)
					}
				}
			}
			before := l.Last()
			if at := appendAll(t, l, "x"); at.First != before+1 {
				t.Fatalf("appended as %d after %d", at.First, before)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// exhaust reads until the tail or an error that ends the reader, in as many calls as there can be
// records and damages at most.
func exhaust(t *testing.T, r *seglog.Reader, size int) {
	t.Helper()
	defer r.Close()
	for range 4*size/24 + 100 {
		_, ok, err := r.TryNext()
		if !ok && !isCorrupt(err) {
			return
		}
	}
	t.Fatal("the reader doesn't come to an end")
}

// What is left of a batch that was never acknowledged must be gone, or it would come back behind a
// record that happens to have the length of the one before it.
func TestTornTailDoesNotComeBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, seglog.Options{})
	at, err := l.Append(t.Context(), []byte("torn"), []byte("left"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, "00000000000000000001.log"), func(b []byte) []byte { b[at.Start.Offset+25] ^= 1; return b })
	for _, last := range []uint64{0, 1} {
		if err := os.Remove(filepath.Join(dir, "durable")); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, seglog.Options{})
		if l.Last() != last {
			t.Fatalf("Last = %d, want %d", l.Last(), last)
		}
		appendAll(t, l, "good")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
