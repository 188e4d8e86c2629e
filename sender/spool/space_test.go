package spool

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/seglog/seglogtest"
)

func TestMinFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free, asked atomic.Int64
		var broken atomic.Bool
		free.Store(10_000)
		s := open(t, dir, Options{FS: seglogtest.New(), MinFree: 5_000, Free: func(d string) (int64, error) {
			asked.Add(1)
			if broken.Load() {
				return 0, syscall.EIO
			}
			if d != dir {
				t.Errorf("asked for %s", d)
			}
			return free.Load(), nil
		}})
		e := envelope(1)
		put(t, s, e, string(make([]byte, 3_000)))
		for range 5 {
			err := s.Put(t.Context(), envelope(1), make([]byte, 2_000))
			if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Put that leaves less than MinFree: %v, want ErrNoSpace", err)
			}
		}
		if err := s.Room(2_000); !errors.Is(err, ErrNoSpace) {
			t.Errorf("Room(2000) = %v, want ErrNoSpace", err)
		}
		must(t, s.Room(1_000))
		put(t, s, envelope(1), string(make([]byte, 1_000))) // a smaller one has room
		if asked.Load() != 1 {
			t.Errorf("free space was asked for %d times at one time", asked.Load())
		}
		must(t, s.Finished(e.ID, 0, 1), s.Sync(t.Context())) // state goes on

		free.Store(20_000)
		time.Sleep(spaceEvery)
		put(t, s, envelope(1), string(make([]byte, 9_000)))
		free.Store(4_999)
		time.Sleep(spaceEvery)
		if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("Put below MinFree: %v", err)
		}
		broken.Store(true)
		time.Sleep(spaceEvery)
		put(t, s, envelope(1), "nobody knows how much is free")
		broken.Store(false)
		time.Sleep(spaceEvery)
		if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("Put below MinFree, which is known again: %v", err)
		}
		if asked.Load() != 5 {
			t.Errorf("free space was asked for %d times, want 5", asked.Load())
		}
		must(t, s.Close())
	})
}

func TestFreeBytesOfTheDisk(t *testing.T) {
	d := t.TempDir()
	free, err := freeBytes(d)
	if err != nil || free <= 0 {
		t.Fatalf("freeBytes = %d, %v", free, err)
	}
	s := open(t, d, Options{MinFree: 1 << 62})
	if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("Put with a MinFree larger than the disk: %v", err)
	}
	must(t, s.Close())
	put(t, open(t, d, Options{MinFree: 1}), envelope(1), "x")
}
