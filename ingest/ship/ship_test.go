package ship

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// node is a sender's event log, and a warehouse to ship it to.
type node struct {
	t      *testing.T
	dir    string
	server *chtest.Server
	url    string // of the database
	conn   driver.Conn
	logs   map[string]*seglog.Log
	sent   uint64 // events appended
}

func newNode(t *testing.T) *node {
	t.Helper()
	server, url := chtest.StartWithSchema(t)
	n := &node{t: t, dir: t.TempDir(), server: server, url: url, logs: map[string]*seglog.Log{}}
	n.conn = dial(t, n.url)
	for _, stream := range []string{event.StreamEvent, event.StreamGauge, event.StreamQueueGauge, event.StreamAnnotation} {
		n.openLog(stream)
	}
	return n
}

func dial(t *testing.T, address string) driver.Conn {
	t.Helper()
	conn, err := warehouse.Dial(address, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (n *node) openLog(stream string) {
	n.t.Helper()
	log, err := seglog.Open(filepath.Join(n.dir, stream), seglog.Options{SegmentBytes: 64 << 10})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = log.Close() })
	n.logs[stream] = log
}

func (n *node) append(stream string, records ...[]byte) {
	n.t.Helper()
	if _, err := n.logs[stream].Append(n.t.Context(), records...); err != nil {
		n.t.Fatal(err)
	}
}

// deliver appends count events: each an accepted delivery, so that k10s must count them all.
func (n *node) deliver(count int) {
	n.t.Helper()
	records := make([][]byte, count)
	for i := range records {
		n.sent++
		records[i] = delivery(fmt.Sprintf("user%d@example.com", n.sent))
	}
	n.append(event.StreamEvent, records...)
}

func delivery(recipient string) []byte {
	return event.Encode(nil, &event.Event{
		FormatVersion: event.FormatVersion, Time: time.Now(), Kind: event.Delivered, MessageID: event.NewID(), Recipients: 1,
		Recipient: recipient, Provider: "google", Source: "192.0.2.1", Tenant: "t", Dimension: "ok", Attempt: 1,
	})
}

// agent returns a new life of the agent, as a restart makes it.
func (n *node) agent(o Options) *Shipper {
	n.t.Helper()
	o.Dir, o.Node = n.dir, "mail1"
	if o.Conn == nil {
		o.Conn = n.conn
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(n.t.Output(), nil))
	}
	s, err := New(o)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// live runs one life of the agent to its end.
func (n *node) live(ctx context.Context, o Options) (Status, error) {
	n.t.Helper()
	s := n.agent(o)
	err := s.Run(ctx)
	if cerr := s.Close(); cerr != nil {
		n.t.Error(cerr)
	}
	return s.Status(), err
}

// finish ships what is left.
func (n *node) finish() Status {
	n.t.Helper()
	st, err := n.live(n.t.Context(), Options{Once: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

type stored struct{ Rows, First, Last, Gaps, Duplicates, RolledUp uint64 }

func (n *node) stored() stored {
	n.t.Helper()
	var s stored
	if err := n.conn.QueryRow(n.t.Context(), `SELECT sum(row_count), min(first_seq), max(last_seq), toUInt64(sum(gaps)), toUInt64(sum(duplicates)),
    (SELECT sum(ok) FROM k10s) FROM completeness WHERE stream = 'event' AND node = 'mail1'`).
		Scan(&s.Rows, &s.First, &s.Last, &s.Gaps, &s.Duplicates, &s.RolledUp); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// wantExact checks that every event that was appended is stored once, in events and roll-ups.
func (n *node) wantExact() {
	n.t.Helper()
	if got, want := n.stored(), (stored{Rows: n.sent, First: 1, Last: n.sent, RolledUp: n.sent}); got != want {
		n.t.Errorf("stored %+v, want %+v", got, want)
	}
}

func (n *node) wantCursor(stream string, seq uint64) {
	n.t.Helper()
	want := cursor.Cursor{Incarnation: n.logs[stream].Incarnation(), Seq: seq}
	if got, err := cursor.Load(n.dir, stream); err != nil || got != want {
		n.t.Errorf("cursor of %s = %+v, %v, want %+v", stream, got, err, want)
	}
}

func (n *node) quarantine() []Quarantined {
	n.t.Helper()
	names, err := filepath.Glob(filepath.Join(n.dir, quarantineDir, "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	all := make([]Quarantined, 0, len(names))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			n.t.Fatal(err)
		}
		var q Quarantined
		if err := json.Unmarshal(data, &q); err != nil {
			n.t.Fatal(err)
		}
		all = append(all, q)
	}
	return all
}

func TestShipsEveryStream(t *testing.T) {
	n := newNode(t)
	n.deliver(250)
	n.append(event.StreamGauge, event.EncodeGauge(nil, &event.Gauge{Time: time.Now(), Provider: "google", Source: "192.0.2.1"}))
	n.append(event.StreamQueueGauge, event.EncodeQueueGauge(nil, &event.QueueGauge{Time: time.Now(), Queue: "x.test/v1", Queues: 1, Ready: 7}))
	n.append(event.StreamAnnotation, event.EncodeAnnotation(nil, &event.Annotation{Time: time.Now(), Name: "start"}))
	st, err := n.live(t.Context(), Options{Once: true, BatchRows: 100})
	if err != nil {
		t.Fatal(err)
	}
	n.wantExact()
	n.wantCursor(event.StreamEvent, 250)
	n.wantCursor(event.StreamGauge, 1)
	n.wantCursor(event.StreamQueueGauge, 1)
	n.wantCursor(event.StreamAnnotation, 1)
	if st.EventSeq != 250 || st.GaugeSeq != 1 || st.AnnotationSeq != 1 || st.QueueGaugeSeq != 1 || st.Quarantined != 0 ||
		strings.ReplaceAll(st.Incarnation.String(), "-", "") != n.logs[event.StreamEvent].Incarnation() {
		t.Errorf("Status = %+v", st)
	}
	var at time.Time
	if err := n.conn.QueryRow(t.Context(), "SELECT time FROM annotations WHERE node = 'mail1' AND name = 'start'").Scan(&at); err != nil {
		t.Error(err)
	}
}

// within polls until done, for at most a minute.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		<-tick.C
	}
}

// start runs an agent in the background; the function it returns stops it.
func (n *node) start(o Options) (s *Shipper, stop func() error) {
	n.t.Helper()
	s = n.agent(o)
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-done, s.Close())
	}
	n.t.Cleanup(func() { _ = stop() })
	return s, stop
}

func TestShipsWhatComesIn(t *testing.T) {
	n := newNode(t)
	s, stop := n.start(Options{})
	n.deliver(1)
	within(t, "first event shipped", func() bool { return s.Status().EventSeq == 1 })
	for range 3 {
		n.deliver(5)
		within(t, "events shipped", func() bool { return s.Status().EventSeq == n.sent })
	}
	if err := stop(); err != nil {
		t.Errorf("Run after its context ended: %v, want nil", err)
	}
	n.wantExact()
}

// A schema that is missing or old is waited for, and nothing goes to quarantine because of it.
func TestWaitsForTheSchema(t *testing.T) {
	n := newNode(t)
	if err := n.conn.Exec(t.Context(), "TRUNCATE TABLE schema_migrations"); err != nil {
		t.Fatal(err)
	}
	n.deliver(3)
	var text syncBuffer
	s, stop := n.start(Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	within(t, "the log names the way out", func() bool { return strings.Contains(text.String(), "carom schema apply") })
	if _, err := warehouse.Apply(t.Context(), n.url, warehouse.Options{}, "test"); err != nil {
		t.Fatal(err)
	}
	within(t, "events shipped", func() bool { return s.Status().EventSeq == 3 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	n.wantExact()
}

func TestSecondAgentIsRefused(t *testing.T) {
	n := newNode(t)
	_, stop := n.start(Options{})
	if s, err := New(Options{Dir: n.dir, Node: "mail1", Conn: n.conn}); !errors.Is(err, seglog.ErrLocked) {
		t.Fatalf("New beside another agent = %v, %v, want ErrLocked", s, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	n.finish() // the lock is free again
}

func TestMalformedRecordGoesToQuarantine(t *testing.T) {
	n := newNode(t)
	n.deliver(5)
	n.append(event.StreamEvent, []byte("no event"))
	n.sent++
	n.deliver(5)
	st := n.finish()
	if got, want := n.stored(), (stored{Rows: 10, First: 1, Last: 11, Gaps: 1, RolledUp: 10}); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	n.wantCursor(event.StreamEvent, 11)
	q := n.quarantine()
	if len(q) != 1 || q[0].Seq != 6 || string(q[0].Record) != "no event" || q[0].Stream != event.StreamEvent || st.Quarantined != 1 {
		t.Errorf("quarantine holds %+v, Status %+v, want record 6", q, st)
	}
	if st := n.finish(); st.Quarantined != 1 {
		t.Errorf("the next life counts %d in quarantine, want 1", st.Quarantined)
	}
}

// Two records of a batch are refused by ClickHouse for their data, one does not fit the column's
// type; the agent dies before each step of splitting. The others are stored once.
func TestRefusedRecordsAreFoundBySplitting(t *testing.T) {
	for _, step := range []string{"none", "insert", "inserted", "save split", "quarantine", "move cursor"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			if err := n.conn.Exec(t.Context(), "ALTER TABLE events ADD CONSTRAINT welcome CHECK recipient != 'refused@example.com'"); err != nil {
				t.Fatal(err)
			}
			for i := range 40 {
				switch i {
				case 7, 23:
					n.append(event.StreamEvent, delivery("refused@example.com"))
				case 24:
					n.append(event.StreamEvent, event.Encode(nil, &event.Event{Kind: event.Received, Time: time.Now(), Class: "strange"}))
				default:
					n.append(event.StreamEvent, delivery("user@example.com"))
				}
			}
			for life := 1; life < 60; life++ {
				seen := 0
				_, err := n.live(t.Context(), Options{Once: true, fault: func(stream, at string) error {
					if stream == event.StreamEvent && at == step {
						if seen++; seen == 1+life%3 {
							return errKilled
						}
					}
					return nil
				}})
				if err == nil {
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
			}
			st := n.finish()
			if got, want := n.stored(), (stored{Rows: 37, First: 1, Last: 40, Gaps: 3, RolledUp: 37}); got != want {
				t.Errorf("stored %+v, want %+v", got, want)
			}
			held := n.quarantine()
			seqs := make([]uint64, len(held))
			for i, q := range held {
				seqs[i] = q.Seq
				if len(q.Record) == 0 || q.Reason == "" {
					t.Errorf("quarantine file without record or reason: %+v", q)
				}
			}
			if !slices.Equal(seqs, []uint64{8, 24, 25}) || st.Quarantined != 3 {
				t.Errorf("quarantine holds %v, Status %+v, want 8, 24, 25", seqs, st)
			}
			n.wantCursor(event.StreamEvent, 40)
		})
	}
}

// What ClickHouse refused is stored once when the cause is gone, however often that is tried; what is no
// event stays.
func TestQuarantineIsRetried(t *testing.T) {
	n := newNode(t)
	if err := n.conn.Exec(t.Context(), "ALTER TABLE events ADD CONSTRAINT welcome CHECK recipient != 'refused@example.com'"); err != nil {
		t.Fatal(err)
	}
	n.deliver(3)
	n.append(event.StreamEvent, delivery("refused@example.com"), []byte("no event"))
	n.sent += 2
	n.deliver(3)
	n.finish()
	retry := func() (refused []uint64) {
		t.Helper()
		all, err := ReadQuarantine(n.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range all {
			if err := q.Retry(t.Context(), n.conn); err != nil {
				refused = append(refused, q.Seq)
			}
		}
		return refused
	}
	if refused := retry(); !slices.Equal(refused, []uint64{4, 5}) {
		t.Errorf("%v are refused, want 4 and 5", refused)
	}
	if err := n.conn.Exec(t.Context(), "ALTER TABLE events DROP CONSTRAINT welcome"); err != nil {
		t.Fatal(err)
	}
	held, err := ReadQuarantine(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	if refused := retry(); !slices.Equal(refused, []uint64{5}) {
		t.Errorf("%v are refused, want 5", refused)
	}
	if err := held[0].Retry(t.Context(), n.conn); err != nil { // by somebody who had read the file before
		t.Error(err)
	}
	if got, want := n.stored(), (stored{Rows: 7, First: 1, Last: 8, Gaps: 1, RolledUp: 7}); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	if st := n.finish(); st.Quarantined != 1 {
		t.Errorf("Status counts %d in quarantine, want 1", st.Quarantined)
	}
}

// Segments that somebody removed before they were shipped are noted, and the rest is shipped.
func TestRemovedRecordsAreNoted(t *testing.T) {
	n := newNode(t)
	for range 5 { // each call fills a segment of its own
		n.deliver(1000)
	}
	if removed, err := n.logs[event.StreamEvent].RemoveBefore(2500); err != nil || removed == 0 {
		t.Fatalf("RemoveBefore = %d, %v", removed, err)
	}
	n.finish()
	got, q := n.stored(), n.quarantine()
	if got.First == 1 || got.Last != 5000 || got.Gaps != 0 || got.Duplicates != 0 || got.Rows != 5000-got.First+1 {
		t.Errorf("stored %+v, want the records that are left", got)
	}
	if len(q) != 1 || q[0].Seq != 1 || q[0].Last != got.First-1 {
		t.Errorf("quarantine holds %+v, want 1 to %d", q, got.First-1)
	}
}

// A log restored from an older copy would use numbers again that are stored already.
func TestOlderCopyOfTheLogIsRefused(t *testing.T) {
	n := newNode(t)
	n.deliver(10)
	n.finish()
	if err := cursor.Save(n.dir, event.StreamEvent, cursor.Cursor{Incarnation: n.logs[event.StreamEvent].Incarnation(), Seq: 20}); err != nil {
		t.Fatal(err)
	}
	_, err := n.live(t.Context(), Options{Once: true})
	if _, ok := errors.AsType[*seglog.AheadError](err); !ok || !strings.Contains(err.Error(), "move the log away") {
		t.Errorf("Run = %v, want an AheadError with the way out", err)
	}
	n.wantExact()
}

// A new log, with a new incarnation, begins at 1 again, in the middle of an agent's life.
func TestNewLogIsANewLife(t *testing.T) {
	n := newNode(t)
	s, stop := n.start(Options{BatchAge: 10 * time.Millisecond})
	n.deliver(10)
	within(t, "first log shipped", func() bool { return s.Status().EventSeq == 10 })
	if err := n.logs[event.StreamEvent].Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(n.dir, event.StreamEvent)); err != nil {
		t.Fatal(err)
	}
	n.openLog(event.StreamEvent)
	n.deliver(4)
	within(t, "second log shipped", func() bool {
		c, err := cursor.Load(n.dir, event.StreamEvent)
		return err == nil && c.Seq == 4 && c.Incarnation == n.logs[event.StreamEvent].Incarnation()
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	var lives, rows uint64
	if err := n.conn.QueryRow(t.Context(), `SELECT count(), sum(row_count) FROM completeness
WHERE stream = 'event' AND gaps = 0 AND duplicates = 0 AND first_seq = 1`).Scan(&lives, &rows); err != nil {
		t.Fatal(err)
	}
	if lives != 2 || rows != 14 {
		t.Errorf("%d whole lives with %d rows, want 2 with 14", lives, rows)
	}
}

// syncBuffer is a bytes.Buffer for more than one goroutine.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
