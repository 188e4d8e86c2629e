package spool

import (
	"errors"
	"slices"
	"strings"
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

// TestActiveSegmentGivesWay: on a disk with less room than a segment, what was delivered must not keep
// the disk full for ever.
func TestActiveSegmentGivesWay(t *testing.T) {
	const size = 4 << 10
	for _, tc := range []struct {
		name    string
		refused func(t *testing.T, s *Spool) error // asks for more than there is
		free    int64
		live    int // of 16 messages
		full    seglogtest.Op
		gone    bool // the first segment, in time
	}{
		{name: "room for all", free: 100 * size},
		{name: "refused by the bound", free: size, refused: func(t *testing.T, s *Spool) error { return s.Put(t.Context(), envelope(1), make([]byte, size)) }, gone: true},
		{name: "refused before it was sent", free: size, refused: func(t *testing.T, s *Spool) error { return s.Room(size) }, gone: true},
		{name: "refused by the disk", free: 100 * size, full: seglogtest.OpWrite, refused: func(t *testing.T, s *Spool) error { return s.Put(t.Context(), envelope(1), make([]byte, size)) }, gone: true},
		{name: "below the bound", free: 0, gone: true},
		{name: "few are live", free: 0, live: 3, gone: true},
		{name: "many are live", free: 0, live: 5},
		{name: "no room for a new file at first", free: 0, full: seglogtest.OpCreate, gone: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var free atomic.Int64
				free.Store(1 << 30)
				disk := seglogtest.New()
				s := open(t, dir, Options{FS: disk, MinFree: size, Free: func(string) (int64, error) { return free.Load(), nil }})
				all := make([]*Envelope, 16)
				for i := range all {
					all[i] = envelope(1)
					put(t, s, all[i], string(make([]byte, size)))
				}
				free.Store(size + tc.free)
				time.Sleep(spaceEvery)
				disk.Fail(func(op seglogtest.Op, name string) error {
					if op == tc.full && strings.HasSuffix(name, ".log") && strings.Contains(name, messagesDir) {
						return syscall.ENOSPC
					}
					return nil
				})
				if tc.refused != nil {
					free.Store(size + tc.free - 1)
					time.Sleep(spaceEvery)
					if err := tc.refused(t, s); !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("more than there is: %v, want ENOSPC", err)
					}
				}
				must(t, s.Sync(t.Context())) // all are live: nothing to be had
				for i, e := range all[tc.live:] {
					must(t, s.Finished(e.ID, 0, uint64(i+1)))
				}
				there := func() bool { return s.messages.Segments()[0].First == 1 }
				must(t, s.Sync(t.Context()))
				if tc.full != "" && !there() {
					t.Error("the segment is gone, and the disk had no room to begin another one")
				}
				disk.Fail(nil)
				must(t, s.Sync(t.Context()))
				if there() == tc.gone {
					t.Errorf("the first segment is there: %v, segments %v", there(), s.messages.Segments())
				}
				segments := s.messages.Segments()
				for range 3 { // nothing more to be had
					must(t, s.Sync(t.Context()))
				}
				if got := s.messages.Segments(); !slices.Equal(got, segments) {
					t.Errorf("segments %v, and later %v", segments, got)
				}
				for _, e := range all[:tc.live] {
					if got := body(t, s, e.ID); len(got) != size {
						t.Errorf("body of %d bytes", len(got))
					}
				}
				must(t, s.Close())
				s = open(t, dir, Options{FS: disk.Kill()})
				if got := len(recovered(t, s)); got != tc.live {
					t.Errorf("%d messages after a restart, want %d", got, tc.live)
				}
				put(t, s, envelope(1), "x")
				must(t, s.Close())
			})
		})
	}
}
