package feed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/limits"
	"carom/schemas/suppression"
)

// sink keeps what a watcher hands on.
type sink struct {
	generations []uint64 // of the limits
	lists       []uint64 // of the suppressions
	changes     []suppression.Change
}

// watch returns a watcher of a new folder.
func watch(t *testing.T, log io.Writer) (w *Watcher, s *sink) {
	t.Helper()
	s = &sink{}
	w = New(t.TempDir(), time.Millisecond,
		func(d *limits.Document) { s.generations = append(s.generations, d.Generation) },
		func(l *suppression.Snapshot) { s.lists = append(s.lists, l.Generation()) },
		func(c []suppression.Change) { s.changes = append(s.changes, c...) },
		slog.New(slog.NewTextHandler(log, nil)))
	return w, s
}

func document(generation uint64) *limits.Document {
	return &limits.Document{
		Format: limits.Format, Generation: generation, TTLSeconds: 60,
		Leases: []limits.Lease{{Provider: "p", Source: "192.0.2.1", Epoch: generation, RatePerSecond: float64(generation)}},
	}
}

func (w *Watcher) saveLimits(t *testing.T, d *limits.Document) {
	t.Helper()
	if err := limits.Save(filepath.Join(w.dir, limits.FileName), d); err != nil {
		t.Fatal(err)
	}
}

func (w *Watcher) saveList(t *testing.T, generation uint64) {
	t.Helper()
	if err := suppression.Save(filepath.Join(w.dir, suppression.FileName), generation, time.Unix(0, 0), &suppression.List{}); err != nil {
		t.Fatal(err)
	}
}

func (w *Watcher) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *sink) want(t *testing.T, generations, lists []uint64) {
	t.Helper()
	if diff := cmp.Diff([][]uint64{generations, lists}, [][]uint64{s.generations, s.lists}); diff != "" {
		t.Errorf("handed on, limits and lists (-want +got):\n%s", diff)
	}
}

func TestNewFilesAreHandedOnOnce(t *testing.T) {
	w, s := watch(t, t.Output())
	w.Poll()
	s.want(t, nil, nil)
	w.saveLimits(t, document(3))
	w.Poll()
	w.Poll()
	w.saveList(t, 7)
	w.Poll()
	w.Poll()
	s.want(t, []uint64{3}, []uint64{7})
	w.saveLimits(t, document(4))
	w.saveList(t, 8)
	w.Poll()
	s.want(t, []uint64{3, 4}, []uint64{7, 8})
}

// What a node finds when it starts may be from long ago; what comes while it runs is new.
func TestTheFirstLimitsHaveAnAge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		wrote time.Duration // ago
		least time.Duration
	}{{"from before a stop", 2 * time.Hour, 2 * time.Hour}, {"from the future", -time.Hour, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			var ages []time.Duration
			w := New(t.TempDir(), time.Millisecond, func(d *limits.Document) { ages = append(ages, d.Age) }, nil, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
			for generation := range uint64(2) {
				w.saveLimits(t, document(generation+1))
				at := time.Now().Add(-tc.wrote)
				if err := os.Chtimes(filepath.Join(w.dir, limits.FileName), at, at); err != nil {
					t.Fatal(err)
				}
				w.Poll()
			}
			if len(ages) != 2 || ages[0] < tc.least || ages[0] > tc.least+time.Minute || ages[1] != 0 {
				t.Errorf("ages %v, want %v and then 0", ages, tc.least)
			}
		})
	}
}

// Time and size of a file may stay the same when it is replaced.
func TestReplacedFileOfTheSameSizeAndTime(t *testing.T) {
	w, s := watch(t, t.Output())
	stamp := time.Unix(1_700_000_000, 0)
	for generation := range uint64(5) {
		w.saveLimits(t, document(generation+1))
		if err := os.Chtimes(filepath.Join(w.dir, limits.FileName), stamp, stamp); err != nil {
			t.Fatal(err)
		}
		w.Poll()
	}
	s.want(t, []uint64{1, 2, 3, 4, 5}, nil)
}

func TestOlderGenerationsAreRefused(t *testing.T) {
	var log strings.Builder
	w, s := watch(t, &log)
	w.saveLimits(t, document(5))
	w.saveList(t, 5)
	w.Poll()
	w.saveLimits(t, document(5)) // an agent that starts may write the same again
	w.saveList(t, 5)
	w.Poll()
	if log.Len() > 0 {
		t.Errorf("the same generation is worth a complaint: %s", log.String())
	}
	w.saveLimits(t, document(4))
	w.saveList(t, 4)
	w.Poll()
	w.Poll()
	s.want(t, []uint64{5}, []uint64{5})
	if n := strings.Count(log.String(), "refused"); n != 2 {
		t.Errorf("%d complaints, want one for each file:\n%s", n, log.String())
	}
	w.saveLimits(t, document(6))
	w.saveList(t, 6)
	w.Poll()
	s.want(t, []uint64{5, 6}, []uint64{5, 6})
}

func TestBrokenFileKeepsTheOld(t *testing.T) {
	for _, broken := range []string{"", "{", `{"format":99,"generation":9,"ttl_seconds":60,"leases":[]}`, "CARSUPP\x02 but no more"} {
		var log strings.Builder
		w, s := watch(t, &log)
		w.saveLimits(t, document(1))
		w.saveList(t, 1)
		w.Poll()
		w.write(t, limits.FileName, broken)
		w.write(t, suppression.FileName, broken)
		w.Poll()
		w.Poll()
		s.want(t, []uint64{1}, []uint64{1})
		if n := strings.Count(log.String(), "refused"); n != 2 {
			t.Errorf("%q: %d complaints, want one for each file:\n%s", broken, n, log.String())
		}
		w.saveLimits(t, document(2))
		w.saveList(t, 2)
		w.Poll()
		s.want(t, []uint64{1, 2}, []uint64{1, 2})
	}
}

func TestMissingFileKeepsTheOld(t *testing.T) {
	var log strings.Builder
	w, s := watch(t, &log)
	w.saveLimits(t, document(1))
	w.Poll()
	if err := os.Remove(filepath.Join(w.dir, limits.FileName)); err != nil {
		t.Fatal(err)
	}
	w.Poll()
	w.saveLimits(t, document(2))
	w.Poll()
	s.want(t, []uint64{1, 2}, nil)
	if log.Len() > 0 {
		t.Errorf("log: %s", log.String())
	}
}

// A file that could not be read may be readable the next time, without having changed.
func TestUnreadableFileIsTriedAgain(t *testing.T) {
	var log strings.Builder
	w, s := watch(t, &log)
	name := filepath.Join(w.dir, limits.FileName)
	if err := os.Mkdir(name, 0o700); err != nil { // a folder can be opened, but not read
		t.Fatal(err)
	}
	w.Poll()
	w.Poll()
	if n := strings.Count(log.String(), "refused"); n != 1 {
		t.Errorf("%d complaints, want 1:\n%s", n, log.String())
	}
	if w.limitsFile.info != nil {
		t.Error("a file that was not read counts as read")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	w.saveLimits(t, document(1))
	w.Poll()
	s.want(t, []uint64{1}, nil)
}

// Changes are handed on once, and only with the snapshot that they continue.
func TestChangesFollowTheirSnapshot(t *testing.T) {
	var log strings.Builder
	w, s := watch(t, &log)
	name := filepath.Join(w.dir, suppression.DeltaName)
	change := func(n byte) suppression.Change {
		return suppression.Change{Key: strings.Repeat("0", 31) + string(n), Suppressed: true, At: time.Unix(1, 0).UTC()}
	}
	add := func(base uint64, changes ...suppression.Change) {
		t.Helper()
		if err := errors.Join(suppression.StartDelta(name, base), suppression.AppendDelta(name, changes)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, changes ...suppression.Change) {
		t.Helper()
		w.Poll()
		w.Poll()
		if diff := cmp.Diff(changes, s.changes); diff != "" {
			t.Errorf("%s: changes (-want +got):\n%s", when, diff)
		}
		s.changes = nil
	}
	add(5, change('a'))
	want("without a snapshot")
	w.saveList(t, 5)
	want("with the snapshot", change('a'))
	if err := suppression.AppendDelta(name, []suppression.Change{change('b')}); err != nil {
		t.Fatal(err)
	}
	want("one more", change('b'))
	w.saveList(t, 6)
	want("a new snapshot, and still the old changes")
	add(6, change('c'))
	want("the new changes", change('c'))
	if log.Len() > 0 {
		t.Errorf("log: %s", log.String())
	}
	w.write(t, suppression.DeltaName, "something else that is long enough")
	want("a broken file")
	if n := strings.Count(log.String(), "refused"); n != 1 {
		t.Errorf("%d complaints, want 1:\n%s", n, log.String())
	}
	add(6, change('c'), change('d'))
	want("a whole one again", change('c'), change('d'))
}

func TestRun(t *testing.T) {
	seen := make(chan uint64)
	w := New(t.TempDir(), time.Millisecond, func(d *limits.Document) { seen <- d.Generation }, nil, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for generation := range uint64(3) {
		w.saveLimits(t, document(generation+1))
		select {
		case got := <-seen:
			if got != generation+1 {
				t.Errorf("generation %d, want %d", got, generation+1)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a new file is not noticed")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
