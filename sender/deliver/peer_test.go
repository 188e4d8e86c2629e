package deliver

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// peer is a receiving SMTP server that answers as a test tells it to.
type peer struct {
	addr   netip.AddrPort
	answer func(command string) string // "" for the ordinary answer, "close" to hang up

	mu       sync.Mutex
	messages []string // as received, envelope lines first
	conns    int
}

func newPeer(t *testing.T, answer func(command string) string) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: netip.MustParseAddrPort(listener.Addr().String()), answer: answer}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns++
			p.mu.Unlock()
			sessions.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); sessions.Wait() })
	return p
}

func (p *peer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	lines := bufio.NewScanner(conn)
	reply := func(command, ordinary string) bool {
		text := p.answer(command)
		if text == "" {
			text = ordinary
		}
		if text == "close" {
			return false
		}
		_, err := fmt.Fprintf(conn, "%s\r\n", text)
		return err == nil && !strings.HasPrefix(text, "421")
	}
	if !reply("CONNECT", "220 peer.test ready") {
		return
	}
	var envelope strings.Builder
	for lines.Scan() {
		command := lines.Text()
		ordinary := "250 2.0.0 ok"
		switch verb := strings.ToUpper(strings.Fields(command + " x")[0]); verb {
		case "EHLO":
			ordinary = "250-peer.test\r\n250-PIPELINING\r\n250 DSN"
			envelope.Reset()
		case "MAIL", "RCPT":
			envelope.WriteString(command + "\n")
		case "BDAT":
			ordinary = "500 5.5.1 unknown command"
		case "DATA":
			if !reply(command, "354 go on") {
				return
			}
			var body strings.Builder
			for lines.Scan() && lines.Text() != "." {
				body.WriteString(lines.Text() + "\n")
			}
			p.mu.Lock() // before the answer, after which a test may look
			p.messages = append(p.messages, envelope.String()+body.String())
			p.mu.Unlock()
			if !reply("DOT", "250 2.0.0 taken") {
				return
			}
			envelope.Reset()
			continue
		case "QUIT":
			_, _ = fmt.Fprint(conn, "221 2.0.0 bye\r\n")
			return
		}
		if !reply(command, ordinary) {
			return
		}
	}
}

func (p *peer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.messages...)
}

// names is a Resolver of one host for every domain, or of an error.
type names struct {
	mx   string
	addr netip.Addr
	err  error
}

func (n names) Route(context.Context, string) (resolve.Route, error) {
	if n.err != nil {
		return resolve.Route{}, n.err
	}
	return resolve.Route{Hosts: []resolve.Host{{Name: n.mx, Addrs: []netip.Addr{n.addr}}}}, nil
}

func (n names) LookupHost(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{n.addr}, n.err
}

// recorder keeps the events and tells the test of each.
type recorder struct {
	spool *spool.Spool

	mu     sync.Mutex
	seq    uint64
	events []*event.Event
	wrote  chan struct{}
}

func (r *recorder) Record(_ context.Context, events ...*event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		r.seq++
		r.events = append(r.events, e)
		if e.Kind.Final() {
			if err := r.spool.Finished(e.MessageID, e.RecipientIdx, r.seq); err != nil {
				return err
			}
		}
		select {
		case r.wrote <- struct{}{}:
		default:
		}
	}
	return nil
}

type suppressed map[string]bool

func (s suppressed) Suppressed(_, address string) bool { return s[address] }
func (suppressed) Key(address string) string           { return "key of " + address }

// bench is an agent with everything real but the resolver, the recorder and the suppressions.
type bench struct {
	t          *testing.T
	agent      *Agent
	recorder   *recorder
	spool      *spool.Spool
	manager    *queue.Manager
	keys       *correlate.Keys
	suppressed suppressed
}

func newBench(t *testing.T, text string, resolver Resolver) *bench {
	t.Helper()
	c, _, err := config.Parse("test", []byte("host-name node.test\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := correlate.NewKeys(correlate.Key{ID: 1, Secret: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(t.Context(), t.TempDir(), spool.Options{FS: seglog.OS{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b := &bench{t: t, spool: s, keys: keys, suppressed: suppressed{}, recorder: &recorder{spool: s, wrote: make(chan struct{}, 1)}}
	b.agent, err = New(Options{
		Config: c, Mail: s, Resolver: resolver, Recorder: b.recorder, Throttle: throttle.New(0),
		Suppressions: b.suppressed, Keys: keys, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.manager = queue.NewManager(b.agent, queue.Options{})
	return b
}

// start runs the manager until the end of the test.
func (b *bench) start() {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.manager.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
}

// put stores a message and queues it for the domain of its first recipient.
func (b *bench) put(expires time.Duration, recipients ...string) event.ID {
	b.t.Helper()
	envelope := &spool.Envelope{ID: event.NewID(), From: "news@shop.test", Arrived: time.Now().UTC(), VMTA: config.DefaultVMTA, Tenant: "shop"}
	item := &queue.Item{Message: envelope.ID, Arrived: queue.At(envelope.Arrived), Expires: queue.At(envelope.Arrived.Add(expires)), Priority: queue.DefaultPriority}
	for i, r := range recipients {
		envelope.Recipients = append(envelope.Recipients, spool.Recipient{Address: r})
		item.Recipients = append(item.Recipients, uint32(i))
	}
	content := "From: Shop <news@shop.test>\r\nSubject: hello\r\n\r\n.text\r\n"
	if err := b.spool.Put(b.t.Context(), envelope, []byte(content)); err != nil {
		b.t.Fatal(err)
	}
	_, domain, _ := strings.Cut(recipients[0], "@")
	b.manager.Add(queue.Name{Domain: domain, VMTA: config.DefaultVMTA}, item)
	return envelope.ID
}

// events waits for n events and returns them.
func (b *bench) events(n int) []*event.Event {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		b.recorder.mu.Lock()
		events := append([]*event.Event(nil), b.recorder.events...)
		b.recorder.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-b.recorder.wrote:
		case <-deadline:
			b.t.Fatalf("%d events, want %d: %+v", len(events), n, events)
		}
	}
}
