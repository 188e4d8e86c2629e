package spool

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

// failSync makes each fsync below a folder fail.
func failSync(disk *seglogtest.FS, folder string) {
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpSync && strings.Contains(name, "/"+folder+"/") {
			return syscall.EIO
		}
		return nil
	})
}

// TestFailedSyncEndsAcceptance: what an fsync did not confirm is refused, and so is all that follows,
// even if the disk seems to work again.
func TestFailedSyncEndsAcceptance(t *testing.T) {
	for _, folder := range []string{messagesDir, stateDir} {
		t.Run(folder, func(t *testing.T) {
			disk := seglogtest.New()
			s := open(t, dir, Options{FS: disk, EventLog: "E"})
			kept := envelope(2)
			put(t, s, kept, "kept")
			must(t, s.Finished(kept.ID, 0, 1), s.Mark(1), s.Sync(t.Context()))
			failSync(disk, folder)
			refused := envelope(1)
			var err error
			if folder == stateDir {
				must(t, s.Finished(kept.ID, 1, 2), s.Mark(2))
				err = s.Sync(t.Context())
			} else {
				err = s.Put(t.Context(), refused, []byte("x"))
			}
			if !errors.Is(err, seglog.ErrPoisoned) || !errors.Is(err, syscall.EIO) {
				t.Errorf("first call: %v, want ErrPoisoned and EIO", err)
			}
			disk.Fail(nil)
			for range 3 {
				if err := s.Put(t.Context(), envelope(1), []byte("x")); !errors.Is(err, seglog.ErrPoisoned) {
					t.Errorf("later Put: %v, want ErrPoisoned", err)
				}
			}
			if _, _, err := s.Read(refused.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("Read of a message that was refused: %v", err)
			}
			if got := s.DurableEvent(); got != 1 {
				t.Errorf("DurableEvent = %d, want 1", got)
			}
			_ = s.Close()
			s = open(t, dir, Options{FS: disk.Crash(0, nil), EventLog: "E"})
			if got := s.DurableEvent(); got != 1 {
				t.Errorf("DurableEvent after power loss = %d, want 1", got)
			}
			if got := body(t, s, kept.ID); got != "kept" {
				t.Errorf("body %q", got)
			}
			put(t, s, envelope(1), "x")
		})
	}
}

// TestCheckpointOverUnsyncedState loses power after a checkpoint that was made while state was written
// and not synced: the number of the lost record is given to another one, which must not be taken for a
// part of the checkpoint.
func TestCheckpointOverUnsyncedState(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, EventLog: "E"})
	e := envelope(3)
	put(t, s, e, "x")
	must(t, s.Mark(1), s.Sync(t.Context()))
	must(t, s.Finished(e.ID, 0, 2))
	s.mu.Lock()
	entries := s.pending.take(nil)
	s.mu.Unlock()
	if _, err := s.state.Write(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.pending.lost = true // asks for a checkpoint, and for no sync before it
	s.mu.Unlock()
	must(t, s.Sync(t.Context()))
	after := disk.Crash(0, nil)
	s = open(t, dir, Options{FS: after, EventLog: "E"})
	must(t, s.Finished(e.ID, 1, 3), s.Sync(t.Context()))
	s = open(t, dir, Options{FS: after.Kill(), EventLog: "E"})
	if m := recovered(t, s); len(m) != 1 || len(m[0].Recipients) != 1 || m[0].Recipients[0].Index != 2 {
		t.Errorf("recovered %+v, want the third recipient only", m)
	}
}

// TestFullDiskNowAndThen lets writes and new files fail at random. What was acknowledged is there
// after kill -9, what was refused for lack of space is not.
func TestFullDiskNowAndThen(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 60
	}
	refusals := 0
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		disk := seglogtest.New()
		o := Options{FS: disk, SegmentBytes: 6 << 10, CheckpointBytes: 300, EventLog: "E"}
		s := open(t, dir, o)
		var mu sync.Mutex
		faults := rand.New(rand.NewPCG(uint64(seed), 8))
		percent := []int{2, 10, 40}[rng.IntN(3)]
		disk.Fail(func(op seglogtest.Op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if (op == seglogtest.OpWrite || op == seglogtest.OpCreate) && faults.IntN(100) < percent {
				return syscall.ENOSPC
			}
			return nil
		})
		live, dead := make(map[event.ID]string), make(map[event.ID]bool)
		seq := uint64(0)
		for range 60 {
			e := envelope(1)
			content := strings.Repeat("x", rng.IntN(1500))
			err := s.Put(t.Context(), e, []byte(content))
			switch {
			case err == nil:
				live[e.ID] = content
			case errors.Is(err, syscall.ENOSPC):
				dead[e.ID] = true
				refusals++
			default:
				t.Fatalf("seed %d: Put: %v", seed, err)
			}
			for id := range live {
				if rng.IntN(3) > 0 {
					break
				}
				seq++
				must(t, s.Finished(id, 0, seq), s.Mark(seq))
				delete(live, id)
				dead[id] = true
			}
			if rng.IntN(5) == 0 {
				_ = s.Sync(t.Context()) // may say that the disk is full
			}
		}
		disk.Fail(nil)
		must(t, s.Sync(t.Context()))
		if got := s.DurableEvent(); got != seq {
			t.Fatalf("seed %d: DurableEvent = %d with room again, want %d", seed, got, seq)
		}
		o.FS = disk.Kill()
		s = open(t, dir, o)
		for _, m := range recovered(t, s) {
			content, ok := live[m.ID]
			if !ok || dead[m.ID] {
				t.Fatalf("seed %d: message that is not live came back", seed)
			}
			if got := body(t, s, m.ID); got != content {
				t.Fatalf("seed %d: body of %d bytes, want %d", seed, len(got), len(content))
			}
			delete(live, m.ID)
		}
		if len(live) > 0 || s.Stats().Damaged > 0 {
			t.Fatalf("seed %d: %d messages are lost, Stats = %+v", seed, len(live), s.Stats())
		}
		must(t, s.Close())
	}
	if refusals < seeds {
		t.Errorf("%d refusals in %d runs: too few to show anything", refusals, seeds)
	}
}

// TestSlowDisk holds up one fsync: what comes meanwhile gathers and shares the next, nobody is
// answered before the disk has, and reading goes on.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := seglogtest.New()
		s := open(t, dir, Options{FS: disk})
		old := envelope(1)
		put(t, s, old, "old")
		goOn := make(chan struct{})
		var syncs, answered atomic.Int64
		disk.Fail(func(op seglogtest.Op, name string) error {
			if op == seglogtest.OpSync && strings.Contains(name, messagesDir) && syncs.Add(1) == 1 {
				<-goOn
			}
			return nil
		})
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if err := s.Put(t.Context(), envelope(1), make([]byte, 4<<10)); err != nil {
					t.Error(err)
				}
				answered.Add(1)
			})
			synctest.Wait()
		}
		if n := answered.Load(); n != 0 {
			t.Errorf("%d of 200 were answered before the disk", n)
		}
		if got := body(t, s, old.ID); got != "old" {
			t.Errorf("body %q", got)
		}
		must(t, s.Finished(old.ID, 0, 1))
		close(goOn)
		wg.Wait()
		if n := syncs.Load(); n != 2 {
			t.Errorf("%d fsyncs for 200 messages that came during the first, want 2", n)
		}
		must(t, s.Close())
	})
}

// TestStuckDiskFillsMemoryOnlySoFar: when the disk hangs, Put waits for room in memory, and gives up
// with its caller.
func TestStuckDiskFillsMemoryOnlySoFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := seglogtest.New()
		s := open(t, dir, Options{FS: disk})
		goOn := make(chan struct{})
		disk.Fail(func(op seglogtest.Op, name string) error {
			if op == seglogtest.OpSync && strings.Contains(name, messagesDir) {
				<-goOn
			}
			return nil
		})
		ctx, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var stored, refused atomic.Int64
		large := make([]byte, 1<<20)
		const n = seglog.DefaultMaxPendingBytes>>20 + 40
		for range n {
			wg.Go(func() {
				switch err := s.Put(ctx, envelope(1), large); {
				case err == nil:
					stored.Add(1)
				case errors.Is(err, context.Canceled):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		giveUp()
		synctest.Wait()
		if got := refused.Load(); got < 10 || got > 60 {
			t.Errorf("%d of %d gave up, want those for which there is no memory", got, n)
		}
		close(goOn)
		wg.Wait()
		if got := int64(s.Stats().Messages); got != stored.Load() || stored.Load()+refused.Load() != n {
			t.Errorf("%d messages are live, %d stored, %d refused", got, stored.Load(), refused.Load())
		}
		must(t, s.Close())
	})
}

// unreadable is a file system on which reading segments fails while broken is set.
type unreadable struct {
	seglog.FS
	broken atomic.Bool
}

type unreadableFile struct {
	seglog.File
	fs *unreadable
}

func (u *unreadable) Open(name string) (seglog.File, error) {
	f, err := u.FS.Open(name)
	return unreadableFile{f, u}, err
}

func (f unreadableFile) ReadAt(p []byte, off int64) (int, error) {
	if f.fs.broken.Load() {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(p, off)
}

// TestReadErrorKeepsTheMessage: a disk that does not give a message now may do so later.
func TestReadErrorKeepsTheMessage(t *testing.T) {
	u := &unreadable{FS: seglogtest.New()}
	s := open(t, dir, Options{FS: u, CacheBytes: -1})
	e := envelope(1)
	put(t, s, e, "x")
	u.broken.Store(true)
	_, _, err := s.Read(e.ID)
	_, err2 := s.Envelope(e.ID)
	_, err3 := s.Body(e.ID)
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("read from a broken disk: %v, want EIO", err)
		}
	}
	u.broken.Store(false)
	if _, b, err := s.Read(e.ID); err != nil || string(b) != "x" {
		t.Errorf("Read: %q, %v", b, err)
	}
	if st := s.Stats(); st.Damaged != 0 || st.Messages != 1 {
		t.Errorf("Stats = %+v", st)
	}
}
