package ship

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
)

// long says that the tests of this file run at full length, as make e2e has them.
var long = os.Getenv("CAROM_LONG") != ""

// deliverAt appends accepted deliveries of those times.
func (n *node) deliverAt(times ...time.Time) {
	n.t.Helper()
	records := make([][]byte, len(times))
	for i, at := range times {
		n.sent++
		records[i] = event.Encode(nil, &event.Event{
			FormatVersion: event.FormatVersion, Time: at, Kind: event.Delivered, MessageID: event.NewID(), Recipients: 1,
			Recipient: fmt.Sprintf("user%d@example.com", n.sent), Provider: fmt.Sprintf("provider%d", n.sent%20), Source: "192.0.2.1", Tenant: "t", Dimension: "ok", Attempt: 1,
		})
	}
	n.append(event.StreamEvent, records...)
}

// wantBuckets checks that every bucket of the roll-ups has what the events say.
func (n *node) wantBuckets() {
	n.t.Helper()
	for _, rollup := range []struct{ table, start string }{
		{"k10s", "toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND)"}, {"k1m", "toStartOfMinute(toDateTime(time, 'UTC'))"},
	} {
		var wrong uint64
		if err := n.conn.QueryRow(n.t.Context(), fmt.Sprintf(`SELECT count() FROM
    (SELECT provider, ts, sum(ok) AS n FROM %s GROUP BY provider, ts) AS r
    FULL JOIN (SELECT provider, %s AS ts, count() AS n FROM events GROUP BY provider, ts) AS e ON r.provider = e.provider AND r.ts = e.ts
WHERE r.n != e.n`, rollup.table, rollup.start)).Scan(&wrong); err != nil {
			n.t.Fatal(err)
		}
		if wrong > 0 {
			n.t.Errorf("%d buckets of %s differ from the events", wrong, rollup.table)
		}
	}
}

// ClickHouse is down for an hour of events, which come in a few seconds here. The agent waits, holds no
// more than its two batches, and catches up.
func TestExactlyOnceAfterAnHourWithoutClickHouse(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	perSecond := 8
	if long {
		perSecond = 300 // a million
	}
	n := newNode(t)
	n.deliver(100)
	s, stop := n.start(Options{BatchAge: 10 * time.Millisecond})
	within(t, "the first events", func() bool { return s.Status().EventSeq == n.sent })
	n.server.Kill()
	begin := time.Now().Add(-time.Hour)
	for second := range 3600 {
		times := make([]time.Time, perSecond)
		for i := range times {
			times[i] = begin.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Millisecond)
		}
		n.deliverAt(times...)
	}
	if got := s.Status().EventSeq; got != 100 {
		t.Fatalf("%d events are stored without ClickHouse", got)
	}
	n.server.Restart(t)
	again := time.Now()
	patience := time.NewTimer(5 * time.Minute)
	defer patience.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for s.Status().EventSeq != n.sent {
		select {
		case <-tick.C:
		case <-patience.C:
			t.Fatalf("%d of %d events are stored 5 minutes later", s.Status().EventSeq, n.sent)
		}
	}
	t.Logf("caught up on %d events in %v", n.sent-100, time.Since(again).Round(time.Millisecond))
	if err := stop(); err != nil {
		t.Error(err)
	}
	n.wantExact()
	n.wantBuckets()
}

// cutter is a TCP proxy that cuts a connection, both ways, when the client has sent or received so many
// bytes over it.
type cutter struct {
	listener net.Listener
	backend  string
	budget   func() int64 // of the next connection
	cuts     atomic.Int64
	open     sync.WaitGroup
}

func newCutter(t *testing.T, backend string, budget func() int64) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, backend: backend, budget: budget}
	c.open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			left := c.budget()
			c.open.Go(func() { c.relay(client, left) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); c.open.Wait() })
	return c
}

func (c *cutter) relay(client net.Conn, budget int64) {
	defer func() { _ = client.Close() }()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.backend)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	left := &atomic.Int64{}
	left.Store(budget)
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		ways.Go(func() {
			buf := make([]byte, 4096)
			for {
				n, err := way[0].Read(buf)
				if rest := left.Add(-int64(n)); rest < 0 {
					n, err = max(0, n+int(rest)), io.EOF
					if rest+int64(len(buf)) > 0 {
						c.cuts.Add(1)
					}
				}
				if _, werr := way[1].Write(buf[:n]); err != nil || werr != nil {
					_ = client.Close()
					_ = server.Close()
					return
				}
			}
		})
	}
	ways.Wait()
}

// The connection is cut after some bytes, wherever in the request or the answer that is, again and again.
func TestExactlyOnceWhenTheConnectionIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	rounds := 12
	if long {
		rounds = 150
	}
	n := newNode(t)
	u, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	var connections atomic.Int64
	c := newCutter(t, u.Host, func() int64 { // one goroutine calls it
		if connections.Add(1) > int64(rounds) {
			return 1 << 40
		}
		return 1 << rng.IntN(18)
	})
	n.deliver(4000)
	through := dial(t, "http://"+c.listener.Addr().String()+"/carom")
	if _, err := n.live(t.Context(), Options{Once: true, BatchRows: 500, Conn: through}); err != nil {
		t.Fatal(err)
	}
	if got := c.cuts.Load(); got < int64(rounds)/2 {
		t.Fatalf("%d connections were cut: the test tests nothing", got)
	}
	n.wantExact()
	n.wantBuckets()
	if q := n.quarantine(); len(q) != 0 {
		t.Errorf("quarantine holds %+v", q)
	}
}

// The clock of the node jumps, a day back and forth, in the midst of batches whose answers are lost: a
// batch is more than one partition, and is repeated.
func TestExactlyOnceWhenTheClockJumps(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	n := newNode(t)
	f := newFront(t, n.url)
	var inserts atomic.Int64
	f.set(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if isInsert(r) && inserts.Add(1)%2 == 1 {
			pass.ServeHTTP(httptest.NewRecorder(), r)
			cut(w)
			return
		}
		pass.ServeHTTP(w, r)
	})
	now := time.Now()
	times := make([]time.Time, 900)
	for i := range times {
		times[i] = now.Add([]time.Duration{0, -24 * time.Hour, 24 * time.Hour}[i/7%3] + time.Duration(i)*time.Second)
	}
	n.deliverAt(times...)
	if _, err := n.live(t.Context(), Options{Once: true, BatchRows: 200, Conn: dial(t, f.url)}); err != nil {
		t.Fatal(err)
	}
	if inserts.Load() < 10 {
		t.Fatalf("%d inserts of 5 batches: the test tests nothing", inserts.Load())
	}
	n.wantExact()
	n.wantBuckets()
}

// The disk of ClickHouse is full: nothing goes to quarantine, and when there is room everything is stored
// once.
func TestExactlyOnceWhenTheDiskIsFull(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("a small disk is made of Linux's tmpfs")
	}
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // a mount point
		t.Fatal(err)
	}
	const size = 64 << 20
	if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("only root can mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // the engine may still be ending
	logs := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Run("full", func(t *testing.T) { // whose TempDir is on the small disk
		n := newNode(t)
		n.useLog(logs)
		s, stop := n.start(Options{BatchRows: 2000, BatchAge: 10 * time.Millisecond})
		n.deliver(2000)
		within(t, "the first events", func() bool { return s.Status().EventSeq == n.sent })
		filler := filepath.Join(dir, "filler")
		fill(t, filler)
		stored := s.Status().EventSeq
		for range 10 {
			n.deliver(2000)
		}
		waiting := false
		for range 40 { // the engine may find some room; it must not for long
			if waiting = s.Status().EventSeq < n.sent; waiting {
				break
			}
			fill(t, filler)
			n.deliver(2000)
		}
		if !waiting {
			t.Fatal("a full disk took everything: the test tests nothing")
		}
		t.Logf("%d events were stored on a disk that was full at %d", s.Status().EventSeq, stored)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		within(t, "events shipped", func() bool { return s.Status().EventSeq == n.sent })
		if err := stop(); err != nil {
			t.Error(err)
		}
		n.wantExact()
		if q := n.quarantine(); len(q) != 0 {
			t.Errorf("quarantine holds %+v", q)
		}
	})
}

// useLog moves the event log to dir.
func (n *node) useLog(dir string) {
	n.t.Helper()
	for _, stream := range []string{event.StreamEvent, event.StreamGauge, event.StreamQueueGauge, event.StreamAnnotation} {
		if err := n.logs[stream].Close(); err != nil {
			n.t.Fatal(err)
		}
	}
	n.dir = dir
	for stream := range n.logs {
		n.openLog(stream)
	}
}

// fill takes what is left of the disk of name.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // in the test's folder
	if err != nil {
		t.Fatal(err)
	}
	block := []byte(strings.Repeat("x", 64<<10))
	for err == nil {
		_, err = f.Write(block)
	}
	if cerr := f.Close(); cerr != nil {
		t.Fatal(cerr)
	}
}
