package spool

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

func openSet(t *testing.T, folders []Folder, o Options) *Set {
	t.Helper()
	o.SyncInterval = time.Hour
	s, err := OpenSet(t.Context(), folders, o)
	if err != nil {
		t.Fatalf("OpenSet: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// where returns the folder that has a message.
func (t *Set) where(id event.ID) string {
	if s := t.of(id); s != nil {
		return s.dir
	}
	return ""
}

func TestNewMailGoesWhereThereIsRoom(t *testing.T) {
	full := map[string]bool{}
	broken := "" // a full disk that Free doesn't know of
	disk := seglogtest.New()
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpWrite && broken != "" && strings.HasPrefix(name, broken+"/"+messagesDir) {
			return syscall.ENOSPC
		}
		return nil
	})
	s := openSet(t, []Folder{
		{Dir: "/low", Priority: 1, MinFree: 1},
		{Dir: "/a", Priority: 10, MinFree: 1},
		{Dir: "/drain", Priority: 100, DeliverOnly: true},
		{Dir: "/b", Priority: 10, MinFree: 1},
	}, Options{FS: disk, Free: func(dir string) (int64, error) {
		if full[dir] {
			return 0, nil
		}
		return 1 << 30, nil
	}})
	puts := func(n int) map[string]int {
		t.Helper()
		count := map[string]int{}
		for _, sp := range s.all {
			sp.space.next.Store(0) // looks again
		}
		for range n {
			e := envelope(1)
			must(t, s.Room(100))
			put(t, s, e, "x")
			count[s.where(e.ID)]++
		}
		return count
	}
	for _, tc := range []struct {
		name   string
		full   []string
		broken string
		want   map[string]int
	}{
		{"equal ones in turn", nil, "", map[string]int{"/a": 5, "/b": 5}},
		{"one is full", []string{"/a"}, "", map[string]int{"/b": 10}},
		{"one refuses to be written to", nil, "/b", map[string]int{"/a": 10}},
		{"the best are full", []string{"/a", "/b"}, "", map[string]int{"/low": 10}},
	} {
		clear(full)
		for _, dir := range tc.full {
			full[dir] = true
		}
		broken = tc.broken
		if got := puts(10); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	full["/low"] = true
	for _, sp := range s.all {
		sp.space.next.Store(0)
	}
	if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("Put when all are full: %v, want ErrNoSpace", err)
	}
	if err := s.Room(1); !errors.Is(err, ErrNoSpace) {
		t.Errorf("Room when all are full: %v, want ErrNoSpace", err)
	}
}

func TestDeliverOnlyDrains(t *testing.T) {
	disk := seglogtest.New()
	s := openSet(t, []Folder{{Dir: "/old"}}, Options{FS: disk, EventLog: "of another host", SegmentBytes: 4 << 10})
	old := make([]*Envelope, 0, 30)
	for range 30 {
		e := envelope(2)
		put(t, s, e, strings.Repeat("x", 500))
		old = append(old, e)
	}
	must(t, s.Mark(1000), s.Close())
	o := Options{FS: disk, EventLog: "E", SegmentBytes: 4 << 10}
	alone := openSet(t, []Folder{{Dir: "/old", DeliverOnly: true}}, o)
	if err := alone.Put(t.Context(), envelope(1)); !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrDeliverOnly) {
		t.Errorf("Put into a folder that drains: %v", err)
	}
	must(t, alone.Close())
	s = openSet(t, []Folder{{Dir: "/old", DeliverOnly: true}, {Dir: "/new"}}, o)
	if got := recovered(t, s); len(got) != len(old) {
		t.Fatalf("recovered %d messages, want %d", len(got), len(old))
	}
	fresh := envelope(1)
	put(t, s, fresh, "fresh")
	if got := s.where(fresh.ID); got != "/new" {
		t.Errorf("new mail is in %s", got)
	}
	if err := s.Put(t.Context(), old[0]); !errors.Is(err, ErrDuplicate) {
		t.Errorf("Put of a message that the other folder has: %v", err)
	}
	for i, e := range old {
		must(t, s.Finished(e.ID, 0, uint64(2*i+1)))
		if i%10 != 5 {
			must(t, s.Finished(e.ID, 1, uint64(2*i+2)))
		}
	}
	must(t, s.Rescheduled(old[5].ID, []uint32{1}, 3, time.UnixMicro(77)), s.Mark(60), s.Sync(t.Context()))
	if st := s.all[0].Stats(); st.Moved != 0 || st.Messages != 3 {
		t.Errorf("Stats of the folder that drains = %+v", st)
	}
	if got := s.DurableEvent(); got != 60 {
		t.Errorf("DurableEvent = %d, want 60", got)
	}
	o.FS = disk.Kill()
	s = openSet(t, []Folder{{Dir: "/old", DeliverOnly: true}, {Dir: "/new"}}, o)
	if got := s.DurableEvent(); got != 60 {
		t.Errorf("DurableEvent after a restart = %d, want 60", got)
	}
	got := recovered(t, s)
	if len(got) != 4 || got[0].ID != old[5].ID || got[0].Recipients[0].Attempts != 3 {
		t.Errorf("recovered %+v", got)
	}
	for _, e := range []*Envelope{old[5], old[15], old[25]} {
		if b := body(t, s, e.ID); len(b) != 500 {
			t.Errorf("body of %d bytes", len(b))
		}
		must(t, s.Finished(e.ID, 1, 61))
		if _, _, err := s.Read(e.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("Read of a finished message: %v", err)
		}
	}
	must(t, s.Finished(event.NewID(), 0, 62), s.Received(event.NewID(), 63)) // not ours: ignored
	if _, err := s.Envelope(old[5].ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Envelope of a finished message: %v", err)
	}
	if _, err := s.Body(old[5].ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Body of a finished message: %v", err)
	}
}

// TestNewFolderAsksForNoOldEvents adds a folder to a spool that has seen many events.
func TestNewFolderAsksForNoOldEvents(t *testing.T) {
	disk := seglogtest.New()
	s := openSet(t, []Folder{{Dir: "/a"}}, Options{FS: disk, EventLog: "E"})
	put(t, s, envelope(1), "x")
	must(t, s.Mark(50), s.Close())
	s = openSet(t, []Folder{{Dir: "/a"}, {Dir: "/b", Priority: 2}}, Options{FS: disk, EventLog: "E"})
	if got := s.DurableEvent(); got != 50 {
		t.Errorf("DurableEvent = %d, want 50", got)
	}
	put(t, s, envelope(1), "y")
	must(t, s.Mark(60), s.Sync(t.Context()))
	s = openSet(t, []Folder{{Dir: "/a"}, {Dir: "/b", Priority: 2}}, Options{FS: disk.Kill(), EventLog: "E"})
	if got := s.DurableEvent(); got != 60 {
		t.Errorf("DurableEvent = %d, want 60", got)
	}
	if st := s.Stats(); st.Messages != 2 || st.Recipients != 2 || st.Segments != 2 {
		t.Errorf("Stats = %+v", st)
	}
}

// TestBrokenDiskOfOneFolder refuses what that disk should hold, and says so at once.
func TestBrokenDiskOfOneFolder(t *testing.T) {
	disk := seglogtest.New()
	s := openSet(t, []Folder{{Dir: "/a"}, {Dir: "/b"}}, Options{FS: disk})
	disk.Fail(func(op seglogtest.Op, name string) error {
		if op == seglogtest.OpSync && strings.HasPrefix(name, "/a/") {
			return syscall.EIO
		}
		return nil
	})
	failed := 0
	for range 10 {
		e := envelope(1)
		err := s.Put(t.Context(), e, []byte("x"))
		switch {
		case errors.Is(err, seglog.ErrPoisoned):
			failed++
		case err != nil || s.where(e.ID) != "/b":
			t.Errorf("Put: %v, in %q", err, s.where(e.ID))
		}
	}
	if failed != 5 {
		t.Errorf("%d of 10 Puts failed, want those for one of two folders", failed)
	}
	if err := s.Sync(t.Context()); !errors.Is(err, seglog.ErrPoisoned) && err != nil {
		t.Errorf("Sync: %v", err)
	}
}

func TestSetThatDoesNotOpen(t *testing.T) {
	disk := seglogtest.New()
	b := open(t, "/b", Options{FS: disk})
	if _, err := OpenSet(t.Context(), []Folder{{Dir: "/a"}, {Dir: "/b"}}, Options{FS: disk}); !errors.Is(err, seglog.ErrLocked) {
		t.Errorf("OpenSet: %v, want ErrLocked", err)
	}
	must(t, b.Close())
	openSet(t, []Folder{{Dir: "/a"}, {Dir: "/b"}}, Options{FS: disk}) // /a was closed
}
