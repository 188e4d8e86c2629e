package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

// sparse puts n messages of about 1 KiB with two recipients each and finishes all but every tenth,
// of which it finishes the second recipient.
func (w *world) sparse(t *testing.T, s *Spool, n int) (live []*Envelope) {
	t.Helper()
	from := len(w.stored)
	for i := range n {
		e := envelope(2)
		w.tried[e.ID], w.bodies[e.ID] = true, fmt.Sprint(i)+strings.Repeat("x", 800)
		put(t, s, e, w.bodies[e.ID])
		w.mu.Lock() // the disk's hook counts them
		w.stored = append(w.stored, e)
		w.mu.Unlock()
		w.tell(t, s, modelEvent{kind: entryReceived, id: e.ID})
	}
	for i, e := range w.stored[from:] {
		if i%10 == 5 {
			w.tell(t, s, modelEvent{kind: entryFinished, id: e.ID, recipient: 1})
			live = append(live, e)
			continue
		}
		w.finish(t, s, e)
	}
	return live
}

func (w *world) finish(t *testing.T, s store, e *Envelope) {
	t.Helper()
	for i := range e.Recipients {
		w.tell(t, s, modelEvent{kind: entryFinished, id: e.ID, recipient: uint32(i)})
	}
}

// tell logs an event and tells the spool.
func (w *world) tell(t *testing.T, s store, ev modelEvent) {
	t.Helper()
	w.mu.Lock()
	w.events = append(w.events, ev)
	seq := uint64(len(w.events))
	w.mu.Unlock()
	must(t, ev.tell(s, seq), s.Mark(seq))
}

func newWorld() *world {
	return &world{tried: make(map[event.ID]bool), bodies: make(map[event.ID]string)}
}

// TestCrashAtEachStepOfCompaction loses power before each operation on the disk of two compactions
// with a message that ends while it is copied, others that end afterwards, and a restart.
func TestCrashAtEachStepOfCompaction(t *testing.T) {
	for _, tc := range []struct {
		name             string
		checkpoint, copy int64
	}{
		{"no checkpoint", 1 << 20, 1 << 20},
		{"checkpoint each time", 1, 1 << 20},
		{"little each time", 1, 1200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{EventLog: "E", SegmentBytes: 8 << 10, CheckpointBytes: tc.checkpoint, CompactBytes: tc.copy}
			points := 1
			for crashInCompaction(t, o, points) {
				points++
			}
			if points < 15 {
				t.Errorf("only %d operations", points)
			}
		})
	}
}

// crashInCompaction returns false if there are fewer operations than point.
func crashInCompaction(t *testing.T, o Options, point int) bool {
	t.Helper()
	w, disk := newWorld(), seglogtest.New()
	o.FS = disk
	s := open(t, dir, o)
	live := w.sparse(t, s, 60)
	ends, later := live[0], live[2:] // the first segment has the fewest live bytes
	var crashed []*seglogtest.FS
	var once sync.Once
	n, stored, known := 0, 0, 0
	var mu sync.Mutex
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpWrite && strings.Contains(name, messagesDir) {
			once.Do(func() { w.finish(t, s, ends) }) // between the read and the copy
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n == point {
			w.mu.Lock()
			stored, known = len(w.stored), len(w.events)
			w.mu.Unlock()
			for _, percent := range []int{0, 50, 100} {
				crashed = append(crashed, disk.Crash(percent, rand.New(rand.NewPCG(uint64(point), 0))))
			}
		}
		return nil
	})
	for range 3 {
		must(t, s.Sync(t.Context()))
	}
	for _, e := range later {
		w.finish(t, s, e)
	}
	w.sparse(t, s, 20)
	for range 2 {
		must(t, s.Sync(t.Context()))
	}
	if s.Stats().Moved < 3 {
		t.Fatalf("Stats = %+v: compaction did nothing", s.Stats())
	}
	disk.Fail(nil)
	must(t, s.Close())
	mu.Lock()
	defer mu.Unlock()
	for _, after := range crashed {
		w.stored, w.events = w.stored[:stored], w.events[:known]
		for range 2 { // and what is copied after the crash
			o.FS = after
			s = open(t, dir, o)
			w.check(t, uint64(point), s)
			must(t, s.Sync(t.Context()))
			after = after.Kill()
		}
		o.FS = after
		w.check(t, uint64(point), open(t, dir, o))
	}
	return len(crashed) > 0
}

// TestReadBesideCompaction reads messages that are being moved, and finishes some.
func TestReadBesideCompaction(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New(), SegmentBytes: 4 << 10, SyncInterval: time.Hour})
	w := newWorld()
	live := make([]*Envelope, 0, 20)
	for range 10 {
		live = append(live, w.sparse(t, s, 20)...)
	}
	bodies := maps.Clone(w.bodies)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				e := live[n%len(live)]
				switch _, b, err := s.Read(e.ID); {
				case errors.Is(err, ErrNotFound) && n%len(live)%3 == 0: // finished below
					continue
				case err != nil || string(b) != bodies[e.ID]:
					t.Errorf("Read: %d bytes, %v", len(b), err)
					return
				}
				r, err := s.Body(e.ID)
				if errors.Is(err, ErrNotFound) && n%len(live)%3 == 0 {
					continue
				}
				if err != nil {
					t.Errorf("Body: %v", err)
					return
				}
				b, err := io.ReadAll(r)
				if err = errors.Join(err, r.Close()); err != nil || string(b) != bodies[e.ID] {
					t.Errorf("read body: %d bytes, %v", len(b), err)
					return
				}
			}
		})
	}
	for i := range 20 {
		w.sparse(t, s, 10)
		must(t, s.Sync(t.Context()))
		if i == 10 {
			for n := 0; n < len(live); n += 3 {
				w.finish(t, s, live[n])
			}
		}
	}
	close(stop)
	wg.Wait()
	if s.Stats().Moved < len(live) {
		t.Errorf("Stats = %+v, want each of %d messages moved", s.Stats(), len(live))
	}
	w.check(t, 0, s)
}

func TestMessageMovesBeforeItIsRead(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New(), SegmentBytes: 8 << 10})
	w := newWorld()
	live := w.sparse(t, s, 40)
	calls := 0
	err := s.at(live[0].ID, func(m message) error {
		if calls++; calls == 1 {
			must(t, s.Sync(t.Context())) // moves it and removes the segment
		}
		_, records, err := s.read(live[0].ID, m)
		if err == nil && string(records[1][1:]) != w.bodies[live[0].ID] {
			t.Errorf("body of %d bytes", len(records[1])-1)
		}
		return err
	})
	if err != nil || calls != 2 {
		t.Errorf("read after %d calls: %v, want success with the second", calls, err)
	}
	// A segment that is gone for another reason is not looked for again and again.
	calls = 0
	if err := s.at(live[0].ID, func(message) error { calls++; return fs.ErrNotExist }); !errors.Is(err, fs.ErrNotExist) || calls != 1 {
		t.Errorf("missing segment: %v after %d calls", err, calls)
	}
}

func TestCompactionIsBounded(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, SegmentBytes: 20 << 10, CompactBytes: 700})
	w := newWorld()
	live := w.sparse(t, s, 200)
	full := s.Stats().Segments
	for syncs := 1; s.Stats().Moved < len(live)-2; syncs++ {
		must(t, s.Sync(t.Context()))
		// A message has about 900 bytes; one may be begun with the last byte of the budget. Looking for
		// the two messages of a segment counts 640 bytes.
		if moved := s.Stats().Moved; moved > syncs*700/850+1 || moved < syncs*700/1600-1 {
			t.Fatalf("%d messages were moved with %d times 700 bytes", moved, syncs)
		}
	}
	if st := s.Stats(); full < 9 || st.Segments > 3 {
		t.Errorf("%d segments, then %+v", full, st)
	}
	w.check(t, 0, s)
}

func TestSegmentsThatAreWorthItAreKept(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New(), SegmentBytes: 20 << 10})
	for i := range 100 {
		e := envelope(1)
		put(t, s, e, strings.Repeat("x", 800))
		if i%3 != 0 {
			must(t, s.Finished(e.ID, 0, 1))
		}
	}
	must(t, s.Sync(t.Context()))
	if st := s.Stats(); st.Moved != 0 {
		t.Errorf("Stats = %+v: a third of each segment is live, none is to be compacted", st)
	}
}

func TestUnreadableMessageStays(t *testing.T) {
	d := t.TempDir()
	s := open(t, d, Options{SegmentBytes: 20 << 10, CacheBytes: -1})
	w := newWorld()
	live := w.sparse(t, s, 40)
	flip(t, firstSegment(d, "messages"), w.bodies[live[0].ID])
	for range 3 {
		must(t, s.Sync(t.Context()))
	}
	if st := s.Stats(); st.Moved != 1 || st.Damaged != 1 || st.Messages != 4 {
		t.Errorf("Stats = %+v, want damage found once and what lies beside it moved", st)
	}
	if _, _, err := s.Read(live[0].ID); err == nil {
		t.Error("damaged message was read")
	} else if _, ok := errors.AsType[*seglog.CorruptError](err); !ok {
		t.Errorf("Read: %v, want a CorruptError", err)
	}
	w.finish(t, s, live[0])
	must(t, s.Sync(t.Context()))
	if _, err := os.Stat(firstSegment(d, "messages")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("segment of the damaged message is still there: %v", err)
	}
	for _, e := range live[1:] {
		if got := body(t, s, e.ID); got != w.bodies[e.ID] {
			t.Errorf("body of %d bytes", len(got))
		}
	}
}

func TestCompactionWaitsForSpace(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, SegmentBytes: 8 << 10})
	w := newWorld()
	w.sparse(t, s, 60)
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpWrite && strings.Contains(name, messagesDir) {
			return syscall.ENOSPC
		}
		return nil
	})
	must(t, s.Sync(t.Context()), s.Sync(t.Context()))
	if st := s.Stats(); st.Moved != 0 || s.DurableEvent() != uint64(len(w.events)) {
		t.Errorf("on a full disk Stats = %+v, DurableEvent = %d", st, s.DurableEvent())
	}
	w.check(t, 0, s)
	disk.Fail(nil)
	must(t, s.Sync(t.Context()))
	if st := s.Stats(); st.Moved < 5 || st.Segments > 3 {
		t.Errorf("with room again Stats = %+v", st)
	}
	w.check(t, 0, s)
	w.check(t, 0, open(t, dir, Options{FS: disk.Kill(), EventLog: ""}))
}

// TestCheckpointWithoutSizes compacts what an index from a first checkpoint says.
func TestCheckpointWithoutSizes(t *testing.T) {
	e := envelope(2)
	m := newMessage(seglog.Position{Segment: 1, Offset: 40}, 99, 55, 2)
	b := appendMessage(nil, e.ID, &m, make([]recipient, 2))
	_, whole, _, err := decodeMessage(b)
	must(t, err)
	_, old, _, err := decodeMessage(b[:len(b)-1])
	must(t, err)
	if whole.body != 55 || old.body != 0 || old.left != 2 {
		t.Errorf("decoded %+v and, without the size, %+v", whole, old)
	}
	s := open(t, dir, Options{FS: seglogtest.New(), SegmentBytes: 8 << 10})
	w := newWorld()
	live := w.sparse(t, s, 40)
	s.mu.Lock()
	for id, h := range s.index.byID {
		m := s.index.at(h)
		s.index.move(id, m.pos(), int(m.envelope), 0)
	}
	s.mu.Unlock()
	must(t, s.Sync(t.Context()))
	if st := s.Stats(); st.Moved < len(live)-1 {
		t.Errorf("Stats = %+v", st)
	}
	w.check(t, 0, s)
}
