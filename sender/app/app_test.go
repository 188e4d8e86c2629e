package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/service"
	"carom/sender/config"
	"carom/sender/spool"
)

// sink is a receiving server that takes everything, or defers every recipient.
type sink struct {
	port     int
	deferAll atomic.Bool
	taken    atomic.Int32

	mu  sync.Mutex
	got []string // MAIL FROM and RCPT TO of every transaction, as in "<a@b> to <c@d>"
}

// delivered returns the transactions so far, sorted.
func (s *sink) delivered() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.got))
}

func newSink(t *testing.T) *sink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{port: listener.Addr().(*net.TCPAddr).Port}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); sessions.Wait() })
	return s
}

func (s *sink) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprint(conn, "220 sink\r\n")
	inData, from := false, ""
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		answer := "250 2.0.0 ok"
		switch line := lines.Text(); {
		case inData && line != ".":
			continue
		case inData:
			inData = false
			s.taken.Add(1)
		case strings.HasPrefix(line, "MAIL FROM:"):
			from = strings.Fields(line[10:])[0]
		case strings.HasPrefix(line, "RCPT") && s.deferAll.Load():
			answer = "451 4.3.0 not now"
		case strings.HasPrefix(line, "RCPT TO:"):
			s.mu.Lock()
			s.got = append(s.got, from+" to "+strings.Fields(line[8:])[0])
			s.mu.Unlock()
		case line == "DATA" && s.deferAll.Load():
			answer = "503 5.5.1 no recipients"
		case line == "DATA":
			inData, answer = true, "354 go on"
		case line == "QUIT":
			_, _ = fmt.Fprint(conn, "221 2.0.0 bye\r\n")
			return
		}
		_, _ = fmt.Fprintf(conn, "%s\r\n", answer)
	}
}

// place is the folder of a node, with its configuration.
type place struct {
	t      *testing.T
	dir    string
	config *config.Config
}

func newPlace(t *testing.T, s *sink, more ...string) *place {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`
host-name node.test
smtp-listener 127.0.0.1:0
name-server 127.0.0.1:1
<source 127.0.0.1>
 always-allow-relaying yes
</source>
<domain *>
 smtp-hosts [127.0.0.1]:%d
 retry-recipients-after 0s
 bounce-after 1h
</domain>
<spool %[2]s/spool>
</spool>
<event-log %[2]s/events>
</event-log>
<acct-file %[2]s/acct/acct.csv>
 records r,d,t
</acct-file>
<admin %[2]s/admin.sock>
</admin>
`, s.port, dir)
	c, _, err := config.Parse(filepath.Join(dir, "config"), []byte(text+strings.Join(more, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return &place{t, dir, c}
}

// run runs the node while f does something with its address.
func (p *place) run(f func(address string)) {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	defer stop()
	addresses := make(chan []string, 1)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, p.config, slog.New(slog.NewTextHandler(p.t.Output(), nil)), func(a []string) { addresses <- a })
	}()
	select {
	case a := <-addresses:
		f(a[0])
	case err := <-done:
		p.t.Fatalf("the node did not start: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		p.t.Fatalf("the node stopped with %v", err)
	}
}

func (p *place) send(address string, recipients ...string) {
	p.t.Helper()
	if err := smtp.SendMail(address, nil, "news@shop.test", recipients, []byte("From: news@shop.test\r\n\r\nhello\r\n")); err != nil {
		p.t.Fatal(err)
	}
}

// kinds returns how many recipients have events of each kind in the node's log.
func (p *place) kinds() map[event.Kind]int {
	p.t.Helper()
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamEvent), 1, seglog.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	counts := map[event.Kind]int{}
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return counts
		}
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			p.t.Fatal(err)
		}
		counts[e.Kind] += int(e.Recipients)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (p *place) live() int {
	p.t.Helper()
	s, err := spool.Open(p.t.Context(), filepath.Join(p.dir, "spool"), spool.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	return s.Stats().Recipients
}

func TestDeferredMailIsDeliveredByTheNextRun(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	s.deferAll.Store(true)
	p.run(func(address string) {
		p.send(address, "ann@a.test", "bob@b.test")
		waitFor(t, "two deferrals", func() bool { return p.kinds()[event.Deferred] >= 2 })
	})
	if n := p.live(); n != 2 {
		t.Fatalf("%d recipients in the spool, want 2", n)
	}
	s.deferAll.Store(false)
	p.run(func(string) {
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
	})
	if counts := p.kinds(); counts[event.Received] != 2 || s.taken.Load() != 2 || p.live() != 0 {
		t.Errorf("received %d, taken %d, live %d", counts[event.Received], s.taken.Load(), p.live())
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "acct", "acct-*-0000.csv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("accounting files %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil || strings.Count(string(text), "\r\nr,") != 2 || !strings.HasPrefix(string(text), "type,timeLogged,") {
		t.Errorf("accounting file: %v\n%s", err, text)
	}
}

// TestTheEventLogSaysWhoIsFinished takes the spool back to before the delivery, as a crash between
// event and spool would: nothing is sent again.
func TestTheEventLogSaysWhoIsFinished(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	s.deferAll.Store(true)
	p.run(func(address string) {
		p.send(address, "ann@a.test")
		waitFor(t, "a deferral", func() bool { return p.kinds()[event.Deferred] >= 1 })
	})
	before := filepath.Join(t.TempDir(), "spool")
	if err := os.CopyFS(before, os.DirFS(filepath.Join(p.dir, "spool"))); err != nil {
		t.Fatal(err)
	}
	s.deferAll.Store(false)
	p.run(func(string) { waitFor(t, "the delivery", func() bool { return p.kinds()[event.Delivered] == 1 }) })
	if err := os.RemoveAll(filepath.Join(p.dir, "spool")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(p.dir, "spool"), os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	p.run(func(address string) {
		p.send(address, "bob@b.test") // when this one is delivered, the other would have been too
		waitFor(t, "another delivery", func() bool { return p.kinds()[event.Delivered] >= 2 })
	})
	if counts := p.kinds(); counts[event.Delivered] != 2 || counts[event.Received] != 2 || s.taken.Load() != 2 {
		t.Errorf("delivered %d, received %d, taken %d; want 2 each", counts[event.Delivered], counts[event.Received], s.taken.Load())
	}
}

// TestReceivedIsMadeUpFor starts with a message in the spool whose received event was never
// written, as a crash right after the 250 leaves it.
func TestReceivedIsMadeUpFor(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	store, err := spool.Open(t.Context(), filepath.Join(p.dir, "spool"), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	envelope := &spool.Envelope{
		ID: event.NewID(), From: "news@shop.test", Arrived: time.Now(), Tenant: "shop", VMTA: config.DefaultVMTA,
		Recipients: []spool.Recipient{{Address: "ann@a.test"}, {Address: "bob@a.test"}},
	}
	if err := errors.Join(store.Put(t.Context(), envelope, []byte("From: a@shop.test\r\n\r\nx\r\n")), store.Close()); err != nil {
		t.Fatal(err)
	}
	p.run(func(string) { waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 }) })
	if counts := p.kinds(); counts[event.Received] != 2 {
		t.Errorf("%d received events, want 2", counts[event.Received])
	}
}

// TestStopWhileMailIsRecovered: a node that is told to stop before it has read its spool stops
// cleanly, and keeps the mail.
func TestStopWhileMailIsRecovered(t *testing.T) {
	p := newPlace(t, newSink(t))
	n := newNode(p.config, slog.New(slog.DiscardHandler))
	if err := n.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	envelope := &spool.Envelope{ID: event.NewID(), Arrived: time.Now(), VMTA: config.DefaultVMTA, Recipients: []spool.Recipient{{Address: "ann@a.test"}}}
	if err := n.spool.Put(t.Context(), envelope, []byte("Subject: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := n.serve(ctx, nil, nil, func([]string) { t.Error("a node that stops is ready") }); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if live := n.spool.Stats().Recipients; live != 1 {
		t.Errorf("%d recipients in the spool, want 1", live)
	}
}

// TestFullDiskIsSaidSo: below min-free-space mail is refused for a while, with the code for it.
func TestFullDiskIsSaidSo(t *testing.T) {
	p := newPlace(t, newSink(t))
	p.config.Spools[0].MinFreeSpace = 1 << 60
	p.run(func(address string) {
		err := smtp.SendMail(address, nil, "news@shop.test", []string{"ann@a.test"}, []byte("From: news@shop.test\r\n\r\nhello\r\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "452") || !strings.Contains(err.Error(), "4.3.1 insufficient system storage") {
			t.Errorf("the answer is %v, want 452 4.3.1 insufficient system storage", err)
		}
	})
}

// TestSeveralSpools: new mail goes to the folder of the highest priority that takes any, and what
// lies in one that only delivers is delivered.
func TestSeveralSpools(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	s.deferAll.Store(true)
	p.run(func(address string) {
		p.send(address, "ann@a.test")
		waitFor(t, "a deferral", func() bool { return p.kinds()[event.Deferred] >= 1 })
	})
	first := p.config.Spools[0]
	p.config.Spools[0].DeliverOnly = true
	for i, priority := range []int{1, 50} {
		another := first
		another.Dir, another.Priority = filepath.Join(p.dir, fmt.Sprint("more", i)), priority
		p.config.Spools = append(p.config.Spools, another)
	}
	p.run(func(address string) {
		p.send(address, "bob@b.test")
		waitFor(t, "another deferral", func() bool { return p.kinds()[event.Deferred] >= 2 })
	})
	for dir, want := range map[string]int{first.Dir: 1, p.config.Spools[1].Dir: 0, p.config.Spools[2].Dir: 1} {
		store, err := spool.Open(t.Context(), dir, spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := store.Stats().Messages; got != want {
			t.Errorf("%d messages in %s, want %d", got, dir, want)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.deferAll.Store(false)
	p.run(func(string) {
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
	})
	if counts := p.kinds(); counts[event.Received] != 2 || s.taken.Load() != 2 {
		t.Errorf("received %d, taken %d, want 2 each", counts[event.Received], s.taken.Load())
	}
}

func TestPortInUse(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	c, _, err := config.Parse("config", fmt.Appendf(nil, "host-name node.test\nsmtp-listener 127.0.0.1:%d\nname-server 127.0.0.1:1\n<spool %s/spool>\n</spool>\n", s.port, p.dir))
	if err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), c, slog.New(slog.DiscardHandler), func([]string) {})
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "smtp-listener") {
		t.Errorf("Run = %v, want a configuration error that names smtp-listener", err)
	}
}
