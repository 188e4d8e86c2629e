package ship

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func spans(p *pending) [][2]uint64 {
	out := make([][2]uint64, len(p.Ranges))
	for i, r := range p.Ranges {
		out[i] = [2]uint64{r.From, r.To}
	}
	return out
}

func TestPendingSplit(t *testing.T) {
	for _, tc := range []struct {
		name string
		from uint64
		to   uint64
		ends []uint64
		want [][2]uint64
	}{
		{"in the middle", 1, 10, []uint64{5}, [][2]uint64{{1, 5}, {6, 10}}},
		{"around one record", 1, 10, []uint64{3, 4}, [][2]uint64{{1, 3}, {4, 4}, {5, 10}}},
		{"the first record", 4, 10, []uint64{3, 4}, [][2]uint64{{4, 4}, {5, 10}}},
		{"the last record", 4, 10, []uint64{9, 10}, [][2]uint64{{4, 9}, {10, 10}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPending("n", "i", "event", tc.from, tc.to)
			p.Ranges = append(p.Ranges, newSpan("n", "i", "event", tc.to+1, tc.to+7))
			got := p.split("event", tc.ends...)
			want := slices.Concat(tc.want, [][2]uint64{{tc.to + 1, tc.to + 7}})
			if diff := cmp.Diff(want, spans(got)); diff != "" || !got.Split {
				t.Errorf("split at %v (-want +got):\n%s", tc.ends, diff)
			}
			if len(p.Ranges) != 2 || p.Split {
				t.Errorf("split changed what it was called on: %+v", p)
			}
		})
	}
}

func TestPendingSaveLoad(t *testing.T) {
	dir := t.TempDir()
	if p, err := loadPending(dir, "event"); p != nil || err != nil {
		t.Fatalf("loadPending of nothing = %v, %v", p, err)
	}
	want := newPending("mail1", "00ff", "event", 8, 20).split("event", 12)
	if err := want.save(dir, "event"); err != nil {
		t.Fatal(err)
	}
	got, err := loadPending(dir, "event")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loadPending (-want +got):\n%s", diff)
	}
	got.after(12)
	if diff := cmp.Diff([][2]uint64{{13, 20}}, spans(got)); diff != "" {
		t.Errorf("after(12) (-want +got):\n%s", diff)
	}
}

// Bounds that can't be trusted are never sent: any changed byte is noticed.
func TestLoadPendingRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	if err := newPending("mail1", "00ff", "event", 8, 20).save(dir, "event"); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "event.pending")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good) - 1 { // the last line feed says nothing
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := loadPending(dir, "event"); err == nil {
			t.Fatalf("loadPending with byte %d changed = %+v, want an error", i, p)
		}
	}
}

func FuzzParsePending(f *testing.F) {
	f.Add(pendingFormat + "00000000\n{}\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePending(text)
		if err == nil && p == nil {
			t.Error("no pending batch and no error")
		}
	})
}

func TestBackoff(t *testing.T) {
	for try := range 100 {
		d := backoff(try)
		if d < minBackoff/2 || d > maxBackoff {
			t.Fatalf("backoff(%d) = %v, want between %v and %v", try, d, minBackoff/2, maxBackoff)
		}
		if try > 10 && d < maxBackoff/2 {
			t.Fatalf("backoff(%d) = %v, want at least %v", try, d, maxBackoff/2)
		}
	}
}

func TestBatchAge(t *testing.T) {
	for _, tc := range []struct{ configured, took, want time.Duration }{
		{time.Second, 0, time.Second},
		{time.Second, 200 * time.Millisecond, time.Second},
		{DefaultBatchAge, 150 * time.Millisecond, 750 * time.Millisecond},
		{DefaultBatchAge, 350 * time.Millisecond, 1150 * time.Millisecond}, // stored within maxLag
		{DefaultBatchAge, time.Minute, DefaultBatchAge},
		{time.Minute, time.Minute, time.Minute}, // whoever wants it longer gets it
	} {
		if got := batchAge(tc.configured, tc.took); got != tc.want {
			t.Errorf("batchAge(%v, %v) = %v, want %v", tc.configured, tc.took, got, tc.want)
		}
	}
}
