package spool

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"carom/schemas/seglog/seglogtest"
)

// TestFirstReadIsFromMemory reads a message twice: what memory and disk say must be the same.
func TestFirstReadIsFromMemory(t *testing.T) {
	r := &reads{FS: seglogtest.New(), bytes: make(map[string]int)}
	s := open(t, dir, Options{FS: r})
	e := envelope(2)
	e.Arrived = time.Now().In(time.FixedZone("somewhere", 3600)) // with what the disk does not keep
	e.ClientIP, e.Headers, e.VMTA = netip.MustParseAddr("192.0.2.1"), map[string]string{"Subject": "x"}, "v"
	content := []byte("Subject: x\r\n\r\ntext\r\n")
	if err := s.Put(t.Context(), e, content[:5], content[5:]); err != nil {
		t.Fatal(err)
	}
	want := string(content)
	copy(content, "changed by the caller")
	name := strings.Replace(indexFile(dir, 1), indexSuffix, ".log", 1)
	opened := r.bytes[name]
	first, b, err := s.Read(e.ID)
	if err != nil || string(b) != want || r.bytes[name] != opened {
		t.Errorf("first Read: %q, %v, %d bytes from the disk, want %q and none", b, err, r.bytes[name]-opened, want)
	}
	copy(b, "changed by the reader")
	second, b, err := s.Read(e.ID)
	if err != nil || string(b) != want || r.bytes[name] == opened {
		t.Errorf("second Read: %q, %v, %d bytes from the disk, want %q", b, err, r.bytes[name]-opened, want)
	}
	if diff := cmp.Diff(second, first, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("envelope (-disk +memory):\n%s", diff)
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := open(t, dir, Options{FS: seglogtest.New(), CacheBytes: 100 << 10})
	all := make([]*Envelope, 0, 200)
	for range 200 {
		e := envelope(1)
		put(t, s, e, strings.Repeat("x", 1000))
		all = append(all, e)
		if s.cache.bytes > s.cache.limit || s.cache.bytes < 0 {
			t.Fatalf("%d bytes, at most %d", s.cache.bytes, s.cache.limit)
		}
	}
	if n := len(s.cache.items); n < 40 || s.cache.items[all[len(all)-n].ID] == nil || s.cache.items[all[0].ID] != nil {
		t.Errorf("%d messages are kept, want the latest", n)
	}
	large := envelope(1)
	put(t, s, large, strings.Repeat("x", 7<<10))
	if s.cache.items[large.ID] != nil {
		t.Error("a message of more than a sixteenth is kept")
	}
	for _, e := range append(all, large) {
		if _, b, err := s.Read(e.ID); err != nil || len(b) < 1000 {
			t.Fatalf("Read: %d bytes, %v", len(b), err)
		}
	}
	if s.cache.bytes != 0 || len(s.cache.items) != 0 || s.cache.head.next != &s.cache.head {
		t.Errorf("%d bytes in %d messages are left", s.cache.bytes, len(s.cache.items))
	}
}

// TestCacheHoldsNothingThatIsNotStored finishes a message that is in the cache, and refuses one.
func TestCacheHoldsNothingThatIsNotStored(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk})
	e := envelope(1)
	put(t, s, e, "x")
	must(t, s.Finished(e.ID, 0, 1))
	if _, _, err := s.Read(e.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Read of a finished message: %v", err)
	}
	disk.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpSync {
			return syscall.EIO
		}
		return nil
	})
	e = envelope(1)
	if err := s.Put(t.Context(), e, []byte("x")); err == nil {
		t.Fatal("Put succeeded without a sync")
	}
	if _, _, err := s.Read(e.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Read of a message that was refused: %v", err)
	}
}
