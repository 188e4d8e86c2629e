package spool

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog/seglogtest"
)

// world is the model: what a sender knows for certain outside the spool.
type world struct {
	mu     sync.Mutex
	stored []*Envelope       // acknowledged
	tried  map[event.ID]bool // Put was called
	bodies map[event.ID]string
	events []modelEvent // the event log: durable before the spool is told
}

type modelEvent struct {
	kind      byte
	id        event.ID
	recipient uint32
	attempts  uint32
	due       time.Time
}

// tell tells the spool of the event with number seq.
func (e modelEvent) tell(s store, seq uint64) error {
	switch e.kind {
	case entryReceived:
		return s.Received(e.id, seq)
	case entryFinished:
		return s.Finished(e.id, e.recipient, seq)
	default:
		return s.Rescheduled(e.id, []uint32{e.recipient}, e.attempts, e.due)
	}
}

// expected returns what is live after the first events, as text.
func expected(stored []*Envelope, events []modelEvent) map[event.ID]string {
	live := make(map[event.ID]string)
	for _, e := range stored {
		rs := make([]LiveRecipient, len(e.Recipients))
		done := make([]bool, len(rs))
		received := 0
		for i := range rs {
			rs[i].Index = uint32(i)
		}
		for _, ev := range events {
			if ev.id != e.ID {
				continue
			}
			switch ev.kind {
			case entryReceived:
				received++
			case entryFinished:
				done[ev.recipient] = true
			default:
				rs[ev.recipient].Attempts, rs[ev.recipient].Due = ev.attempts, ev.due
			}
		}
		rs = slices.DeleteFunc(rs, func(r LiveRecipient) bool { return done[r.Index] })
		if len(rs) > 0 {
			live[e.ID] = fmt.Sprintf("received %d %v", received, rs)
		}
	}
	return live
}

// TestCrashes runs a spool through power losses and kills, before a random operation on the disk,
// also while it recovers: what was acknowledged and isn't finished in the event log is there, with
// its state, and nothing that is finished comes back.
func TestCrashes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		folders []Folder // none: a Spool
		seeds   int
	}{
		{"one folder", nil, 1000},
		{"two in turn", []Folder{{Dir: "/a", Priority: 1}, {Dir: "/b", Priority: 1}}, 400},
		{"one drains", []Folder{{Dir: "/a", Priority: 1}, {Dir: "/b", Priority: 1}, {Dir: "/c", Priority: 100}}, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seeds := tc.seeds
			if testing.Short() {
				seeds /= 8
			}
			moved, indexes := 0, 0
			for seed := range seeds {
				m, i := crashes(t, uint64(seed), tc.folders)
				moved, indexes = moved+m, indexes+i
				if t.Failed() {
					return
				}
			}
			if moved < seeds/8 || indexes < seeds/8 {
				t.Errorf("compaction moved %d messages, %d indexes were found at start in %d runs: too few to show anything",
					moved, indexes, seeds)
			}
		})
	}
}

// crashes returns how many messages compaction moved, and how many indexes of segments were there
// after a crash.
func crashes(t *testing.T, seed uint64, folders []Folder) (moved, indexes int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	folders = slices.Clone(folders)
	w := &world{tried: make(map[event.ID]bool), bodies: make(map[event.ID]string)}
	disk := seglogtest.New()
	lastCheck := false
	for generation := 0; !lastCheck; generation++ {
		lastCheck = generation == 3
		o := Options{
			FS: disk, EventLog: "E", SegmentBytes: int64(2+rng.IntN(30)) << 10,
			CheckpointBytes: int64(1 + rng.IntN(3000)), SyncInterval: time.Hour,
			CompactBytes: []int64{100, 2 << 10, 1 << 20}[rng.IntN(3)],
		}
		var after *seglogtest.FS
		var stored, known int
		countdown, percent := 1+rng.IntN(200), []int{0, 20, 50, 80, 100}[rng.IntN(5)]
		if lastCheck {
			countdown = 0
		}
		crashRNG := rand.New(rand.NewPCG(seed, uint64(generation)))
		disk.Fail(func(seglogtest.Op, string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if countdown--; countdown == 0 {
				after, stored, known = disk.Crash(percent, crashRNG), len(w.stored), len(w.events)
			}
			return nil
		})
		crashed := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return after != nil
		}
		for _, f := range append([]Folder{{Dir: dir}}, folders...) {
			names, err := disk.List(filepath.Join(f.Dir, messagesDir))
			if err == nil {
				indexes += len(slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, indexSuffix) }))
			}
		}
		var s store
		var err error
		if len(folders) == 0 {
			s, err = Open(t.Context(), dir, o)
		} else {
			if generation > 0 && len(folders) == 3 {
				folders[2].DeliverOnly = true
			}
			s, err = OpenSet(t.Context(), folders, o)
		}
		if err != nil {
			t.Fatalf("seed %d: Open: %v", seed, err)
		}
		w.check(t, seed, s)
		for !lastCheck && !crashed() {
			w.step(t, rng, s)
		}
		disk.Fail(nil)
		moved += s.Stats().Moved
		if lastCheck {
			must(t, s.Close())
			break
		}
		_ = s.Close() // of the process that is gone
		if rng.IntN(3) == 0 {
			// Instead, the process was killed after it had done everything, or closed.
			after, stored, known = disk.Kill(), len(w.stored), len(w.events)
		}
		disk, w.stored, w.events = after, w.stored[:stored], w.events[:known]
	}
	return moved, indexes
}

// check does what a sender does at start, and compares.
func (w *world) check(t *testing.T, seed uint64, s store) {
	t.Helper()
	from := s.DurableEvent()
	if from > uint64(len(w.events)) {
		t.Fatalf("seed %d: DurableEvent = %d, the event log ends at %d", seed, from, len(w.events))
	}
	for seq := from + 1; seq <= uint64(len(w.events)); seq++ {
		must(t, w.events[seq-1].tell(s, seq))
	}
	must(t, s.Mark(uint64(len(w.events))))
	want := expected(w.stored, w.events)
	for _, m := range recovered(t, s) {
		id := m.ID
		got := fmt.Sprintf("received %d %v", m.Received, m.Recipients)
		text, ok := want[id]
		delete(want, id)
		switch {
		case !ok && slices.ContainsFunc(w.stored, func(e *Envelope) bool { return e.ID == id }):
			t.Fatalf("seed %d: a finished message came back", seed)
		case !ok && w.tried[id]: // stored, but not acknowledged
			e, err := s.Envelope(id)
			must(t, err)
			w.mu.Lock() // the disk's hook counts them
			w.stored = append(w.stored, e)
			w.mu.Unlock()
		case got != text:
			t.Fatalf("seed %d: message is %s, want %s", seed, got, text)
		}
		if b := body(t, s, id); b != w.bodies[id] {
			t.Fatalf("seed %d: body of %d bytes, want %d", seed, len(b), len(w.bodies[id]))
		}
		e, b, err := s.Read(id)
		if err != nil || string(b) != w.bodies[id] || len(e.Recipients) != m.Count {
			t.Fatalf("seed %d: Read: %+v, %d bytes, %v, want %d recipients", seed, e, len(b), err, m.Count)
		}
		if string(m.Tag) != string(e.Tag) || !m.Arrived.Equal(e.Arrived) || !bytes.HasPrefix(m.Tag, id[:4]) {
			t.Fatalf("seed %d: Tag %q, arrived %s, the envelope has %q, %s", seed, m.Tag, m.Arrived, e.Tag, e.Arrived)
		}
	}
	if len(want) > 0 {
		t.Fatalf("seed %d: %d messages are lost: %v", seed, len(want), want)
	}
	if st := s.Stats(); st.Damaged > 0 {
		t.Fatalf("seed %d: damage after a crash", seed)
	}
}

// step does one random thing.
func (w *world) step(t *testing.T, rng *rand.Rand, s store) {
	t.Helper()
	switch n := rng.IntN(10); {
	case n < 3 || len(w.stored) == 0:
		e := envelope(1 + rng.IntN(3))
		content := fmt.Sprint(rng.Uint64()) + strings.Repeat("x", rng.IntN([]int{100, 1000, 6000}[rng.IntN(3)]))
		w.mu.Lock()
		w.tried[e.ID], w.bodies[e.ID] = true, content
		w.mu.Unlock()
		put(t, s, e, content)
		w.mu.Lock()
		w.stored = append(w.stored, e)
		w.mu.Unlock()
	case n < 8:
		e := w.stored[rng.IntN(len(w.stored))]
		ev := modelEvent{
			kind: []byte{entryReceived, entryFinished, entryFinished, entryRescheduled}[rng.IntN(4)], id: e.ID,
			recipient: uint32(rng.IntN(len(e.Recipients))), attempts: rng.Uint32N(50),
			due: time.UnixMicro(cmp.Or(rng.Int64N(1<<50), 1)).UTC(),
		}
		w.tell(t, s, ev)
	case n == 8: // most mail is delivered
		for _, e := range w.stored {
			if rng.IntN(5) > 0 {
				w.finish(t, s, e)
			}
		}
	default:
		must(t, s.Sync(t.Context()))
	}
}

// TestMessageNotYetInTheIndex stops a Put between the write and the fsync: a checkpoint that is made
// meanwhile must not take its message for a finished one.
func TestMessageNotYetInTheIndex(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk})
	put(t, s, envelope(1), "before")
	waiting, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpSync && strings.Contains(name, messagesDir) {
			once.Do(func() {
				close(waiting)
				<-goOn
			})
		}
		return nil
	})
	e := envelope(1)
	result := make(chan error, 1)
	go func() { result <- s.Put(t.Context(), e, []byte("x")) }()
	<-waiting
	s.mu.Lock()
	s.pending.lost = true // asks for a checkpoint
	s.mu.Unlock()
	must(t, s.Sync(t.Context()))
	close(goOn)
	must(t, <-result)
	s = open(t, dir, Options{FS: disk.Kill()})
	if got := body(t, s, e.ID); got != "x" {
		t.Errorf("body after restart %q", got)
	}
	if got := recovered(t, s); len(got) != 2 {
		t.Errorf("recovered %d messages, want 2", len(got))
	}
}

// TestPutBesideEverything looks for a message that a checkpoint or the removal of a segment
// forgets because its Put was running.
func TestPutBesideEverything(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, SegmentBytes: 3 << 10, CheckpointBytes: 1, SyncInterval: time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	kept := make(map[event.ID]bool)
	for range 6 {
		wg.Go(func() {
			for i := range 60 {
				e := envelope(1)
				if err := s.Put(t.Context(), e, make([]byte, 500)); err != nil {
					t.Error(err)
					return
				}
				if i%6 != 0 {
					if err := s.Finished(e.ID, 0, 1); err != nil {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				kept[e.ID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	must(t, s.Sync(t.Context()))
	for range 2 {
		got := recovered(t, s)
		if len(got) != len(kept) {
			t.Errorf("%d messages are live, want %d", len(got), len(kept))
		}
		for _, m := range got {
			if !kept[m.ID] || len(body(t, s, m.ID)) != 500 {
				t.Errorf("unexpected message %s", m.ID)
			}
		}
		disk = disk.Kill()
		s = open(t, dir, Options{FS: disk})
	}
}
