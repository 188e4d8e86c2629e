package seglog_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

// history is a log's model: all records in order, and how many are certainly durable.
type history struct {
	mu           sync.Mutex
	all          []string
	acknowledged int
	seen         int // by a reader
	first        int // records before it may have been removed
}

// verify checks the log that was found after a crash against the model as it was then.
func (h *history) verify(fail func(format string, args ...any), l *seglog.Log, o seglog.Options, acknowledged, seen int) {
	for _, d := range l.Damage() {
		fail("damage after a crash: %v", d)
	}
	n := int(l.Last())
	if n < acknowledged || n < seen || n > len(h.all) {
		fail("log ends at %d; acknowledged %d, seen by a reader %d, written %d", n, acknowledged, seen, len(h.all))
	}
	from := int(l.Segments()[0].First)
	if from > h.first+1 {
		fail("log begins at %d, nothing behind %d was removed", from, h.first)
	}
	r, err := seglog.OpenReader(dir, uint64(from), o)
	if err != nil {
		fail("OpenReader: %v", err)
	}
	defer r.Close()
	for i := from; i <= n; i++ {
		e, ok, err := r.TryNext()
		if err != nil || !ok || e.Seq != uint64(i) || string(e.Data) != h.all[i-1] {
			fail("record %d: got %d %.20q ok=%v err=%v, want %.20q", i, e.Seq, e.Data, ok, err, h.all[i-1])
		}
	}
	if e, ok, err := r.TryNext(); ok || err != nil {
		fail("record %d behind the end: %v", e.Seq, err)
	}
	h.all, h.acknowledged, h.seen = h.all[:n], n, n
}

// TestPowerLoss loses power before a random operation on the disk, over and over again, also
// while the log recovers.
func TestPowerLoss(t *testing.T) {
	seeds := 3000
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		powerLoss(t, uint64(seed))
		if t.Failed() {
			return
		}
	}
}

func powerLoss(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s", seed, fmt.Sprintf(format, args...))
	}
	disk := seglogtest.New()
	h := &history{}
	for range 1 + rng.IntN(5) {
		var after *seglogtest.FS
		var acknowledged, seen int
		countdown, percent := 1+rng.IntN(60), []int{0, 10, 50, 90, 100}[rng.IntN(5)]
		crashRNG := rand.New(rand.NewPCG(seed, 2))
		o := seglog.Options{FS: disk, SegmentBytes: 20 << 10, MaxRecordBytes: 1 << 20}
		disk.Fail(func(seglogtest.Op, string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if countdown--; countdown == 0 {
				after, acknowledged, seen = disk.Crash(percent, crashRNG), h.acknowledged, h.seen
			}
			return nil
		})
		crashed := func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return after != nil
		}
		l, err := seglog.Open(dir, o)
		if err != nil {
			fail("Open: %v", err)
		}
		h.verify(fail, l, o, h.acknowledged, h.seen)
		r, err := seglog.OpenReader(dir, l.Last()+1, o)
		if err != nil {
			fail("OpenReader: %v", err)
		}
		for !crashed() {
			h.step(t, fail, rng, l, r)
		}
		_ = r.Close()
		_ = l.Close() // on the disk that is gone
		disk.Fail(nil)
		disk = after
		h.acknowledged, h.seen = acknowledged, seen
	}
	o := seglog.Options{FS: disk, SegmentBytes: 20 << 10, MaxRecordBytes: 1 << 20}
	l, err := seglog.Open(dir, o)
	if err != nil {
		fail("Open: %v", err)
	}
	h.verify(fail, l, o, h.acknowledged, h.seen)
	if err := l.Close(); err != nil {
		fail("Close: %v", err)
	}
}

// step does one random thing to the log and keeps the model.
func (h *history) step(t *testing.T, fail func(string, ...any), rng *rand.Rand, l *seglog.Log, r *seglog.Reader) {
	t.Helper()
	n := len(h.all)
	recs := make([][]byte, 0, 3)
	for range 1 + rng.IntN(3) {
		n++
		rec := fmt.Appendf(nil, "%d of %d:", n, rng.Uint64())
		rec = append(rec, make([]byte, rng.IntN([]int{100, 9000}[rng.IntN(2)]))...)
		recs = append(recs, rec)
	}
	add := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, rec := range recs {
			h.all = append(h.all, string(rec))
		}
	}
	done := func(at seglog.Range, err error, durable bool) {
		if err != nil || at.Last != uint64(len(h.all)) {
			fail("appended as %+v, %v, want the last to be %d", at, err, len(h.all))
		}
		if durable {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.acknowledged = len(h.all)
		}
	}
	switch rng.IntN(11) {
	case 0, 1, 2, 3:
		add()
		at, err := l.Append(t.Context(), recs...)
		done(at, err, true)
	case 4, 5, 6:
		add()
		at, err := l.Write(t.Context(), recs...)
		done(at, err, false)
	case 7:
		if err := l.Sync(t.Context()); err != nil {
			fail("Sync: %v", err)
		}
		h.mu.Lock()
		h.acknowledged = len(h.all)
		h.mu.Unlock()
	case 8:
		if err := l.Roll(t.Context()); err != nil {
			fail("Roll: %v", err)
		}
		h.mu.Lock()
		h.acknowledged = len(h.all)
		h.mu.Unlock()
	case 9:
		if h.acknowledged > 0 {
			seq := 1 + rng.IntN(min(h.acknowledged, int(r.Seq()))) // not what the reader still needs
			h.first = max(h.first, seq)
			if _, err := l.RemoveBefore(uint64(seq)); err != nil {
				fail("RemoveBefore: %v", err)
			}
		}
	default:
		for {
			e, ok, err := r.TryNext()
			if err != nil {
				fail("TryNext: %v", err)
			}
			if !ok {
				break
			}
			if string(e.Data) != h.all[e.Seq-1] {
				fail("the reader sees a wrong record %d", e.Seq)
			}
			h.mu.Lock()
			h.seen = int(e.Seq)
			h.mu.Unlock()
		}
	}
}

// TestPowerLossBesideAppends takes the crash while several goroutines append.
func TestPowerLossBesideAppends(t *testing.T) {
	for seed := range uint64(40) {
		disk := seglogtest.New()
		o := seglog.Options{FS: disk, SegmentBytes: 8 << 10}
		l := open(t, dir, o)
		var mu sync.Mutex
		acknowledged := map[uint64]string{}
		enough := make(chan struct{})
		var once sync.Once
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 40 {
					rec := fmt.Sprintf("%d/%d/%s", w, i, record(i))
					at, err := l.Append(t.Context(), []byte(rec))
					if err != nil {
						t.Errorf("Append: %v", err)
						return
					}
					mu.Lock()
					acknowledged[at.First] = rec
					if len(acknowledged) > 20+int(seed)*5 {
						once.Do(func() { close(enough) })
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		mu.Lock()
		want := maps.Clone(acknowledged)
		mu.Unlock()
		o.FS = disk.Crash(int(seed)*5%101, rand.New(rand.NewPCG(seed, 3)))
		wg.Wait()
		noDamage(t, open(t, dir, o).Damage())
		got, damage := readAll(t, dir, 1, o)
		noDamage(t, damage)
		for seq, rec := range want {
			if int(seq) > len(got) || got[seq-1] != rec {
				t.Fatalf("seed %d: acknowledged record %d is lost or another one; the log has %d", seed, seq, len(got))
			}
		}
	}
}

// TestModel runs random operations, kills and refusals against a slice.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := seglogtest.New()
		o := small(disk)
		var all []string
		removed := 0
		reopen := func() *seglog.Log {
			o.FS = disk
			l, err := seglog.Open(dir, o)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			return l
		}
		l := reopen()
		payload := rapid.Custom(func(t *rapid.T) []byte {
			b := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "content")
			return append(b, make([]byte, rapid.SampledFrom([]int{0, 1, 500, 5000, 300000}).Draw(t, "padding"))...)
		})
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				recs := rapid.SliceOfN(payload, 1, 3).Draw(t, "records")
				at, err := l.Append(t.Context(), recs...)
				if err != nil || at.First != uint64(len(all)+1) {
					t.Fatalf("Append = %+v, %v", at, err)
				}
				for _, r := range recs {
					all = append(all, string(r))
				}
			},
			"write": func(t *rapid.T) {
				rec := payload.Draw(t, "record")
				if at, err := l.Write(t.Context(), rec); err != nil || at.First != uint64(len(all)+1) {
					t.Fatalf("Write = %+v, %v", at, err)
				}
				all = append(all, string(rec))
			},
			"full disk": func(t *rapid.T) {
				ok := rapid.IntRange(0, 3).Draw(t, "writes that succeed")
				disk.Fail(func(op seglogtest.Op, name string) error {
					if op != seglogtest.OpWrite || !strings.HasSuffix(name, ".log") {
						return nil
					}
					if ok--; ok < 0 {
						return errors.New("no space")
					}
					return nil
				})
				rec := payload.Draw(t, "record")
				_, err := l.Append(t.Context(), rec)
				disk.Fail(nil)
				if err == nil {
					all = append(all, string(rec))
				}
				if perr := l.Err(); perr != nil {
					t.Fatalf("log is poisoned: %v", perr)
				}
			},
			"kill": func(*rapid.T) {
				old := l
				disk = disk.Kill()
				l = reopen()
				_ = old.Close()
			},
			"close": func(t *rapid.T) {
				if err := l.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				l = reopen()
			},
			"remove": func(t *rapid.T) {
				seq := rapid.IntRange(0, len(all)).Draw(t, "before")
				if _, err := l.RemoveBefore(uint64(seq)); err != nil {
					t.Fatalf("RemoveBefore: %v", err)
				}
				removed = max(removed, seq-1)
			},
			"": func(t *rapid.T) {
				if l.Last() != uint64(len(all)) || l.Damage() != nil {
					t.Fatalf("Last = %d, want %d; damage %v", l.Last(), len(all), l.Damage())
				}
				from := int(l.Segments()[0].First)
				if from > removed+1 {
					t.Fatalf("log begins at %d, only records through %d were removed", from, removed)
				}
				r, err := seglog.OpenReader(dir, uint64(from), o)
				if err != nil {
					t.Fatalf("OpenReader: %v", err)
				}
				defer r.Close()
				for i := from; i <= int(l.Durable()); i++ {
					if e, ok, err := r.TryNext(); err != nil || !ok || e.Seq != uint64(i) || string(e.Data) != all[i-1] {
						t.Fatalf("record %d: got %d, %v, %v", i, e.Seq, ok, err)
					}
				}
				if _, ok, err := r.TryNext(); ok || err != nil {
					t.Fatalf("the reader sees more than is durable: %v", err)
				}
			},
		})
		_ = l.Close()
	})
}

// TestPowerLossDuringFirstOpen must never leave a folder that can't be opened.
func TestPowerLossDuringFirstOpen(t *testing.T) {
	for at := 1; ; at++ {
		for percent := 0; percent <= 100; percent += 25 {
			disk := seglogtest.New()
			var after *seglogtest.FS
			n := 0
			disk.Fail(func(seglogtest.Op, string) error {
				if n++; n == at {
					after = disk.Crash(percent, rand.New(rand.NewPCG(uint64(at), uint64(percent))))
				}
				return nil
			})
			if err := open(t, dir, small(disk)).Close(); err != nil {
				t.Fatal(err)
			}
			if after == nil {
				if at < 5 {
					t.Fatalf("only %d operations", at)
				}
				return
			}
			if _, err := seglog.OpenReader(dir, 1, small(after)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("operation %d: OpenReader: %v", at, err)
			}
			l := open(t, dir, small(after))
			noDamage(t, l.Damage())
			if r := appendAll(t, l, "x"); r.First != 1 {
				t.Errorf("first record is %d", r.First)
			}
		}
	}
}
