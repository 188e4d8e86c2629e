package spool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/seglog/seglogtest"
)

const dir = "/spool"

func open(tb testing.TB, dir string, o Options) *Spool {
	tb.Helper()
	if o.SyncInterval == 0 {
		o.SyncInterval = time.Hour // tests call Sync
	}
	s, err := Open(tb.Context(), dir, o)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// store is what a Spool and a Set have in common.
type store interface {
	Put(ctx context.Context, e *Envelope, body ...[]byte) error
	Envelope(id event.ID) (*Envelope, error)
	Read(id event.ID) (*Envelope, []byte, error)
	Body(id event.ID) (*Body, error)
	Received(id event.ID, seq uint64) error
	Finished(id event.ID, recipient uint32, seq uint64) error
	Rescheduled(id event.ID, recipients []uint32, attempts uint32, due time.Time) error
	Drop(id event.ID, err error)
	Mark(seq uint64) error
	DurableEvent() uint64
	Recover(f func(LiveMessage) error) error
	Sync(ctx context.Context) error
	Stats() Stats
	Room(size int64) error
	Close() error
}

var (
	_ store = (*Spool)(nil)
	_ store = (*Set)(nil)
)

func envelope(recipients int) *Envelope {
	e := &Envelope{ID: event.NewID(), From: "news@sender.example", Arrived: time.UnixMicro(1_700_000_000_123_456).UTC()}
	e.Tag = fmt.Appendf(nil, "%s tag", e.ID[:4])
	for i := range recipients {
		e.Recipients = append(e.Recipients, Recipient{Address: fmt.Sprintf("user%d@receiver.example", i)})
	}
	return e
}

func put(tb testing.TB, s store, e *Envelope, body string) {
	tb.Helper()
	if err := s.Put(tb.Context(), e, []byte(body)); err != nil {
		tb.Fatalf("Put: %v", err)
	}
}

func body(tb testing.TB, s store, id event.ID) string {
	tb.Helper()
	b, err := s.Body(id)
	if err != nil {
		tb.Fatalf("Body: %v", err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil || int64(len(content)) != b.Size() {
		tb.Fatalf("read body: %d of %d bytes, %v", len(content), b.Size(), err)
	}
	return string(content)
}

func recovered(tb testing.TB, s store) []LiveMessage {
	tb.Helper()
	var all []LiveMessage
	if err := s.Recover(func(m LiveMessage) error {
		m.Tag, m.Recipients = slices.Clone(m.Tag), slices.Clone(m.Recipients)
		all = append(all, m)
		return nil
	}); err != nil {
		tb.Fatalf("Recover: %v", err)
	}
	return all
}

func must(tb testing.TB, errs ...error) {
	tb.Helper()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
}

func TestMessageComesBackWhole(t *testing.T) {
	for _, tc := range []struct {
		name string
		dir  string
		fs   seglog.FS
	}{
		{"disk", filepath.Join(t.TempDir(), "spool"), nil},
		{"memory", dir, seglogtest.New()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, tc.dir, Options{FS: tc.fs})
			full := &Envelope{
				ID: event.NewID(), From: "a@b.example",
				Recipients: []Recipient{{"x@y.example", "rfc822;x@y.example", "SUCCESS,FAILURE"}, {Address: "z@y.example"}},
				Arrived:    time.UnixMicro(1_700_000_000_000_001).UTC(), Expires: time.UnixMicro(1_700_000_900_000_000).UTC(),
				VMTA: "v", Pool: "p", Job: "j", EnvID: "e", Tenant: "t", SourceName: "s", SMTPUser: "u",
				ClientIP: netip.MustParseAddr("2001:db8::1"), ClientHost: "h", Ret: "HDRS", EightBit: true, UTF8: true,
				Headers: map[string]string{"From": "a@b.example", "Empty": ""}, Attrs: map[string]string{"k": "v"},
				Tag: []byte("tag"),
			}
			if err := s.Put(t.Context(), full, []byte("Subject: x\r\n"), []byte("\r\n"), []byte("text\r\n")); err != nil {
				t.Fatal(err)
			}
			small := envelope(1)
			put(t, s, small, "")
			must(t, s.Close())
			s = open(t, tc.dir, Options{FS: tc.fs})
			want := []LiveMessage{
				{ID: full.ID, Arrived: full.Arrived, Tag: full.Tag, Count: 2, Recipients: []LiveRecipient{{Index: 0}, {Index: 1}}},
				{ID: small.ID, Arrived: small.Arrived, Tag: small.Tag, Count: 1, Recipients: []LiveRecipient{{Index: 0}}},
			}
			if diff := cmp.Diff(want, recovered(t, s)); diff != "" {
				t.Errorf("recovered (-want +got):\n%s", diff)
			}
			if got := body(t, s, full.ID); got != "Subject: x\r\n\r\ntext\r\n" || full.Size != int64(len(got)) {
				t.Errorf("body %q, size %d", got, full.Size)
			}
			if got := body(t, s, small.ID); got != "" {
				t.Errorf("empty body is %q", got)
			}
			got, err := s.Envelope(full.ID)
			must(t, err)
			if diff := cmp.Diff(full, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("envelope (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStateSurvives(t *testing.T) {
	for _, how := range []string{"close", "kill", "power loss after Sync"} {
		t.Run(how, func(t *testing.T) {
			disk := seglogtest.New()
			s := open(t, dir, Options{FS: disk, EventLog: "E"})
			one, three := envelope(1), envelope(3)
			put(t, s, one, "one")
			put(t, s, three, "three")
			due := time.UnixMicro(1_800_000_000_000_000).UTC()
			must(t,
				s.Received(one.ID, 1), s.Received(three.ID, 2), s.Received(three.ID, 3), s.Received(three.ID, 3),
				s.Finished(one.ID, 0, 4), s.Finished(three.ID, 1, 5), s.Finished(three.ID, 1, 5), s.Finished(three.ID, 9, 5),
				s.Rescheduled(three.ID, []uint32{0, 2}, 7, due), s.Mark(6))
			if _, err := s.Envelope(one.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("Envelope of a finished message: %v, want ErrNotFound", err)
			}
			switch how {
			case "close":
				must(t, s.Close())
			case "kill":
				must(t, s.Sync(t.Context()))
				disk = disk.Kill()
			default:
				must(t, s.Sync(t.Context()))
				if s.DurableEvent() != 6 {
					t.Errorf("DurableEvent = %d, want 6", s.DurableEvent())
				}
				disk = disk.Crash(0, nil)
			}
			s = open(t, dir, Options{FS: disk, EventLog: "E"})
			want := []LiveMessage{{
				ID: three.ID, Arrived: three.Arrived, Tag: three.Tag, Count: 3, Received: 2,
				Recipients: []LiveRecipient{{0, 7, due}, {2, 7, due}},
			}}
			if diff := cmp.Diff(want, recovered(t, s)); diff != "" {
				t.Errorf("recovered (-want +got):\n%s", diff)
			}
			if s.DurableEvent() != 6 {
				t.Errorf("DurableEvent = %d, want 6", s.DurableEvent())
			}
			if got := s.Stats(); got.Messages != 1 || got.Recipients != 2 {
				t.Errorf("Stats = %+v", got)
			}
		})
	}
}

func TestAnotherEventLogBeginsAtZero(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, EventLog: "old"})
	e := envelope(2)
	put(t, s, e, "x")
	must(t, s.Finished(e.ID, 0, 99), s.Mark(100), s.Close())
	for range 2 {
		s = open(t, dir, Options{FS: disk, EventLog: "new"})
		if s.DurableEvent() != 0 {
			t.Errorf("DurableEvent = %d, want 0", s.DurableEvent())
		}
		if m := recovered(t, s); len(m) != 1 || len(m[0].Recipients) != 1 {
			t.Errorf("recovered %+v", m)
		}
		must(t, s.Close())
	}
	s = open(t, dir, Options{FS: disk, EventLog: "newest"})
	must(t, s.Mark(5), s.Sync(t.Context()))
	if s = open(t, dir, Options{FS: disk.Kill(), EventLog: "newest"}); s.DurableEvent() != 5 {
		t.Errorf("DurableEvent = %d, want 5", s.DurableEvent())
	}
}

func TestRefusals(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, MaxMessageBytes: 1000})
	e := envelope(1)
	put(t, s, e, "x")
	if err := s.Put(t.Context(), e, nil); !errors.Is(err, ErrDuplicate) {
		t.Errorf("second Put: %v", err)
	}
	if err := s.Put(t.Context(), &Envelope{ID: event.NewID()}); !errors.Is(err, ErrNoRecipients) {
		t.Errorf("Put without recipients: %v", err)
	}
	if err := s.Put(t.Context(), envelope(1), make([]byte, 1001)); !errors.Is(err, seglog.ErrTooLarge) {
		t.Errorf("Put of a large message: %v", err)
	}
	put(t, s, envelope(1), strings.Repeat("x", 1000))
	if _, err := Open(t.Context(), dir, Options{FS: disk}); !errors.Is(err, seglog.ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	if _, err := s.Body(event.NewID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Body of nothing: %v", err)
	}
	must(t, s.Close(), s.Close())
	if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	if err := errors.Join(s.Mark(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Mark after Close: %v", err)
	}
	if err := s.Sync(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Sync after Close: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, EventLog: "E"})
	kept := envelope(2)
	put(t, s, kept, "kept")
	disk.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	refused := envelope(1)
	if err := s.Put(t.Context(), refused, []byte("refused")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Put on a full disk: %v, want ENOSPC", err)
	}
	must(t, s.Finished(kept.ID, 0, 1), s.Mark(1)) // state waits in memory
	if err := s.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Sync on a full disk: %v, want ENOSPC", err)
	}
	if s.DurableEvent() != 0 {
		t.Errorf("DurableEvent = %d while nothing can be written", s.DurableEvent())
	}
	// What could not be written is lost until there is a checkpoint.
	disk.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	})
	if err := s.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) || s.DurableEvent() != 0 {
		t.Errorf("Sync without a checkpoint: %v, DurableEvent = %d, want ENOSPC and 0", err, s.DurableEvent())
	}
	disk.Fail(nil)
	must(t, s.Sync(t.Context()))
	if s.DurableEvent() != 1 {
		t.Errorf("DurableEvent = %d when there is room again, want 1", s.DurableEvent())
	}
	s = open(t, dir, Options{FS: disk.Crash(0, nil), EventLog: "E"})
	m := recovered(t, s)
	if len(m) != 1 || m[0].ID != kept.ID || len(m[0].Recipients) != 1 || m[0].Recipients[0].Index != 1 {
		t.Errorf("recovered %+v", m)
	}
}

func TestBrokenDiskStopsTheSpool(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk})
	e := envelope(2)
	put(t, s, e, "x")
	disk.Fail(func(op seglogtest.Op, _ string) error {
		if op == seglogtest.OpSync {
			return syscall.EIO
		}
		return nil
	})
	must(t, s.Finished(e.ID, 0, 1))
	if err := s.Sync(t.Context()); !errors.Is(err, seglog.ErrPoisoned) {
		t.Errorf("Sync: %v, want ErrPoisoned", err)
	}
	if err := s.Finished(e.ID, 1, 2); !errors.Is(err, seglog.ErrPoisoned) {
		t.Errorf("Finished: %v, want ErrPoisoned", err)
	}
	if err := s.Put(t.Context(), envelope(1)); !errors.Is(err, seglog.ErrPoisoned) {
		t.Errorf("Put: %v, want ErrPoisoned", err)
	}
}

func TestSpaceIsFreed(t *testing.T) {
	disk := seglogtest.New()
	o := Options{FS: disk, SegmentBytes: 10 << 10, CheckpointBytes: 4 << 10}
	s := open(t, dir, o)
	all := make([]*Envelope, 0, 100)
	for range 100 {
		e := envelope(1)
		put(t, s, e, strings.Repeat("x", 1000))
		all = append(all, e)
	}
	full := s.Stats().Segments
	for i, e := range all {
		if i != 50 {
			must(t, s.Finished(e.ID, 0, uint64(i)))
		}
	}
	must(t, s.Sync(t.Context()))
	if got := s.Stats(); full < 10 || got.Segments != 1 || got.Messages != 1 {
		t.Errorf("%d segments when full, then %+v, want only the active one, with the live message", full, got)
	}
	if got := body(t, s, all[50].ID); len(got) != 1000 {
		t.Errorf("body of the live message has %d bytes", len(got))
	}
	for i := range 500 {
		must(t, s.Rescheduled(all[50].ID, []uint32{0}, uint32(i), time.Now()), s.Sync(t.Context()))
	}
	if n := len(s.state.Segments()); n > 3 {
		t.Errorf("%d segments of state", n)
	}
	after := disk.Kill()
	s = open(t, dir, Options{FS: after})
	if m := recovered(t, s); len(m) != 1 || m[0].Recipients[0].Attempts != 499 {
		t.Errorf("recovered %+v", m)
	}
}

// diskSpool makes a closed spool of n messages on the real disk.
func diskSpool(t *testing.T, n int) (dir string, all []*Envelope) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, dir, Options{EventLog: "E"})
	for i := range n {
		e := envelope(2)
		put(t, s, e, fmt.Sprintf("body of %d", i))
		all = append(all, e)
	}
	must(t, s.Finished(all[0].ID, 0, 1), s.Finished(all[0].ID, 1, 2), s.Mark(2), s.Close())
	return dir, all
}

func flip(t *testing.T, path, at string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	i := bytes.Index(b, []byte(at))
	if i < 0 {
		t.Fatalf("%s does not contain %q", path, at)
	}
	b[i] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
}

func firstSegment(dir, log string) string {
	return filepath.Join(dir, log, fmt.Sprintf("%020d.log", 1))
}

func TestDamagedMessages(t *testing.T) {
	d, all := diskSpool(t, 5)
	flip(t, firstSegment(d, "messages"), "body of 2")
	// The envelope of message 3 lies before its body.
	b, err := os.ReadFile(firstSegment(d, "messages"))
	must(t, err)
	i := bytes.Index(b, all[3].ID[:])
	b[i] ^= 1
	must(t, os.WriteFile(firstSegment(d, "messages"), b, 0o600))
	for _, checkpoint := range []bool{true, false} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpoint), func(t *testing.T) {
			if !checkpoint {
				must(t, os.Remove(filepath.Join(d, "checkpoint")))
			}
			s := open(t, d, Options{EventLog: "E"})
			if !checkpoint {
				if s.DurableEvent() != 0 {
					t.Errorf("DurableEvent = %d without a checkpoint, want 0", s.DurableEvent())
				}
				must(t, s.Finished(all[0].ID, 0, 1), s.Finished(all[0].ID, 1, 2)) // the event log says so
			}
			ids := make([]event.ID, 0, 5)
			for _, m := range recovered(t, s) {
				ids = append(ids, m.ID)
			}
			if want := []event.ID{all[1].ID, all[2].ID, all[4].ID}; !slices.Equal(ids, want) {
				t.Errorf("recovered %v, want %v", ids, want)
			}
			r, err := s.Body(all[2].ID)
			if err == nil {
				_, err = io.ReadAll(r)
				must(t, r.Close())
			}
			if _, ok := errors.AsType[*seglog.CorruptError](err); !ok {
				t.Errorf("damaged body: %v, want a CorruptError", err)
			}
			if got := body(t, s, all[4].ID); got != "body of 4" {
				t.Errorf("body %q", got)
			}
			aside, err := filepath.Glob(filepath.Join(d, "damaged", "*"))
			if err != nil || len(aside) != 2 || s.Stats().Damaged < 2 {
				t.Errorf("set aside %q, %v, Stats %+v, want 2", aside, err, s.Stats())
			}
			must(t, s.Close())
		})
	}
}

// TestDamageFoundAtDelivery: what is damaged while the spool runs is told apart from what may be read
// later, and a message without an envelope can be dropped for good.
func TestDamageFoundAtDelivery(t *testing.T) {
	d := t.TempDir()
	var log bytes.Buffer
	o := Options{CacheBytes: -1, Logger: slog.New(slog.NewTextHandler(&log, nil)), EventLog: "E"}
	s := open(t, d, o)
	all := []*Envelope{envelope(2), envelope(2), envelope(2)}
	for i, e := range all {
		put(t, s, e, fmt.Sprintf("body of %d", i))
	}
	must(t, s.Finished(all[2].ID, 1, 1), s.Mark(1))
	s.mu.Lock()
	s.pending.lost = true // asks for a checkpoint, in which all are live
	s.mu.Unlock()
	must(t, s.Sync(t.Context()))
	flip(t, firstSegment(d, "messages"), "body of 1")
	flip(t, firstSegment(d, "messages"), string(all[2].ID[:]))
	if _, b, err := s.Read(all[0].ID); err != nil || string(b) != "body of 0" {
		t.Errorf("Read of a whole message: %q, %v", b, err)
	}
	if _, _, err := s.Read(all[1].ID); !Damaged(err) {
		t.Errorf("Read of a damaged body: %v", err)
	}
	if e, err := s.Envelope(all[1].ID); err != nil || len(e.Recipients) != 2 {
		t.Errorf("Envelope beside a damaged body: %v, %v", e, err)
	}
	_, _, err := s.Read(all[2].ID)
	_, err2 := s.Envelope(all[2].ID)
	if !Damaged(err) || !Damaged(err2) {
		t.Errorf("damaged envelope: %v and %v", err, err2)
	}
	log.Reset()
	s.Drop(all[2].ID, err2)
	s.Drop(all[2].ID, err2) // of an item in another queue
	for _, want := range []string{"level=ERROR", firstSegment(d, "messages"), "offset=", "recipients=1", all[2].ID.String()} {
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
			t.Errorf("log %q, want one line with %q", got, want)
		}
	}
	if _, err := s.Envelope(all[2].ID); !errors.Is(err, ErrNotFound) || Damaged(err) {
		t.Errorf("Envelope of a message that was dropped: %v, want ErrNotFound", err)
	}
	must(t, s.Sync(t.Context()))
	copied := t.TempDir() // as kill -9 leaves it: without the checkpoint of Close
	must(t, os.CopyFS(copied, os.DirFS(d)))
	s = open(t, copied, o)
	if st := s.Stats(); st.Messages != 2 {
		t.Errorf("%d messages after a restart, want the two that were not dropped", st.Messages)
	}
	if m := recovered(t, s); len(m) != 2 || m[0].ID != all[0].ID || m[1].ID != all[1].ID {
		t.Errorf("recovered %+v, want the two that were not dropped", m)
	}
}

// TestMalformedEnvelopeIsDamage: a record that is whole and not an envelope can not be read later either.
func TestMalformedEnvelopeIsDamage(t *testing.T) {
	id := event.NewID()
	for _, record := range [][]byte{nil, {recordBody}, {recordEnvelope}, {recordEnvelope, fieldID, 200}} {
		if _, err := checkEnvelope(id, record); !Damaged(err) {
			t.Errorf("%x: %v, want damage", record, err)
		}
	}
	for _, err := range []error{ErrNotFound, syscall.EIO, nil} {
		if Damaged(err) {
			t.Errorf("%v counts as damage", err)
		}
	}
}

func TestDamagedCheckpointRepeatsRatherThanLoses(t *testing.T) {
	for _, content := range []string{"", "garbage", strings.Repeat("garbage", 1000)} {
		d, all := diskSpool(t, 3)
		must(t, os.WriteFile(filepath.Join(d, "checkpoint"), []byte(content), 0o600))
		s := open(t, d, Options{EventLog: "E"})
		if s.DurableEvent() != 0 {
			t.Errorf("DurableEvent = %d, want 0", s.DurableEvent())
		}
		if got := recovered(t, s); len(got) < 2 || got[len(got)-1].ID != all[2].ID {
			t.Errorf("recovered %+v", got)
		}
		must(t, s.Close())
	}
}

func TestDamagedStateGoesBackToTheEventLog(t *testing.T) {
	d := t.TempDir()
	s := open(t, d, Options{EventLog: "E"})
	e := envelope(3)
	put(t, s, e, "x")
	for i := range uint32(3) {
		must(t, s.Received(e.ID, uint64(i+1)), s.Mark(uint64(i+1)), s.Sync(t.Context()))
	}
	b, err := os.ReadFile(firstSegment(d, "state"))
	must(t, err)
	// A copy of the spool as it is now, without the checkpoint of Close.
	after := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(after, os.DirFS(d)))
	places := 0
	for i := range b {
		if bytes.HasPrefix(b[i:], e.ID[:]) {
			if places++; places == 2 {
				b[i] ^= 1
			}
		}
	}
	must(t, os.WriteFile(firstSegment(after, "state"), b, 0o600))
	s = open(t, after, Options{EventLog: "E"})
	if s.DurableEvent() != 1 {
		t.Errorf("DurableEvent = %d, want 1, the last mark before the damage", s.DurableEvent())
	}
	must(t, s.Received(e.ID, 2), s.Received(e.ID, 3))
	if m := recovered(t, s); len(m) != 1 {
		t.Errorf("recovered %+v", m)
	}
}

func TestLostStateSegmentGoesBackToTheEventLog(t *testing.T) {
	disk := seglogtest.New()
	s := open(t, dir, Options{FS: disk, EventLog: "E", CheckpointBytes: 100})
	e := envelope(3)
	put(t, s, e, "x")
	for seq := range uint64(9) {
		entry := appendEntry([]byte{stateVersion}, entryReceived, &e.ID, seq+1)
		if _, err := s.state.Append(t.Context(), appendEntry(entry, entryMark, nil, seq+1)); err != nil {
			t.Fatal(err)
		}
	}
	lost := s.state.Segments()[1].First
	disk = disk.Kill()
	must(t, disk.Remove(filepath.Join(dir, "state", fmt.Sprintf("%020d.log", lost))))
	s = open(t, dir, Options{FS: disk, EventLog: "E"})
	if got := s.DurableEvent(); got != lost-1 || got == 0 {
		t.Errorf("DurableEvent = %d, want %d, the last mark before the gap", got, lost-1)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	d, _ := diskSpool(t, 1)
	must(t, filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == d {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	}))
}

func TestMemoryOfAMessage(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 200_000
	}
	x := newIndex()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		x.add(event.NewID(), newMessage(seglog.Position{Segment: 1, Offset: 1}, 100, 100, 1), nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(n)
	if each > 130 {
		t.Errorf("%d bytes for each message, want at most 130", each)
	}
	t.Logf("%d bytes for each message", each)
	runtime.KeepAlive(x)
}

func FuzzEnvelope(f *testing.F) {
	f.Add(appendEnvelope(nil, envelope(2)))
	f.Add([]byte{fieldRecipient, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b)
		if err != nil {
			return
		}
		again, err := decodeEnvelope(appendEnvelope(nil, e))
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if diff := cmp.Diff(e, again, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzState(f *testing.F) {
	e := envelope(2)
	b := appendEntry([]byte{stateVersion}, entryReceived, &e.ID, 5)
	b = appendEntry(b, 200, &e.ID, 1<<60) // of a later version
	b = appendEntry(b, entryFinished, &e.ID, 1, 7)
	b = appendEntry(b, entryRescheduled, &e.ID, 3, 1<<50, 0, 1)
	f.Add(appendEntry(b, entryMark, nil, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		x := newIndex()
		x.add(e.ID, newMessage(seglog.Position{}, 1, 1, 2), nil)
		_, _ = x.apply(b)
		if x.recipients < 0 || x.recipients > 2 {
			t.Errorf("%d recipients", x.recipients)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	m := newMessage(seglog.Position{Segment: 3, Offset: 77}, 99, 55, 3)
	id := event.NewID()
	b := appendHead([]byte(checkpointMagic), checkpointHead{"m", "s", "e", 1, 2, 3})
	f.Add(appendField(b, fieldMessage, appendMessage(nil, id, &m, []recipient{{}, {done: true}, {attempts: 4, due: 5}})))
	f.Fuzz(func(_ *testing.T, b []byte) {
		x := newIndex()
		_, _ = decodeCheckpoint(bufio.NewReader(bytes.NewReader(b)), &x)
	})
}

// BenchmarkRead reads what delivery needs of a message, in one go and in two.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 50 << 10} {
		s := open(b, b.TempDir(), Options{})
		ids := make([]event.ID, 64)
		for i := range ids {
			e := envelope(1)
			put(b, s, e, strings.Repeat("x", size))
			ids[i] = e.ID
		}
		b.Run(fmt.Sprintf("%dKiB/Read", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, _, err := s.Read(ids[i%len(ids)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%dKiB/Envelope+Body", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, err := s.Envelope(ids[i%len(ids)])
				if err != nil {
					b.Fatal(err)
				}
				r, err := s.Body(ids[i%len(ids)])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(r, make([]byte, r.Size())); err != nil {
					b.Fatal(err)
				}
				must(b, r.Close())
			}
		})
	}
}

// BenchmarkPut stores messages from as many goroutines as a server has sessions, reads them once and
// finishes them.
func BenchmarkPut(b *testing.B) {
	const writers = 40
	for _, tc := range []struct {
		name  string
		size  int
		cache int64
		read  bool
	}{
		{"4KiB", 4 << 10, -1, false},
		{"4KiB,read", 4 << 10, -1, true},
		{"4KiB,read,cache", 4 << 10, 0, true},
		{"50KiB,read", 50 << 10, -1, true},
		{"50KiB,read,cache", 50 << 10, 0, true},
	} {
		b.Run(fmt.Sprintf("%s,writers=%d", tc.name, writers), func(b *testing.B) {
			s := open(b, b.TempDir(), Options{SyncInterval: time.Second, CacheBytes: tc.cache})
			content := make([]byte, tc.size)
			b.SetBytes(int64(tc.size))
			b.ReportAllocs()
			b.SetParallelism(writers / runtime.GOMAXPROCS(0))
			var before, after syscall.Rusage
			must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					e := envelope(1)
					if err := s.Put(b.Context(), e, content); err != nil {
						b.Error(err)
						return
					}
					if tc.read {
						if _, _, err := s.Read(e.ID); err != nil {
							b.Error(err)
						}
					}
					if err := s.Finished(e.ID, 0, 1); err != nil {
						b.Error(err)
					}
				}
			})
			must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
			cpu := after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}
