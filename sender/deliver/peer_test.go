package deliver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/scoped"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// peer is a receiving SMTP server that answers as a test tells it to.
type peer struct {
	addr   netip.AddrPort
	answer func(command string) string // "" for the ordinary answer, "close" to hang up, "silence" to say nothing more

	mu       sync.Mutex
	messages []string // as received, envelope lines first
	conns    int
	open     int         // of conns
	most     int         // that were open at once
	stays421 atomic.Bool // go on after a 421
	quits    atomic.Int32
}

func newPeer(t *testing.T, answer func(command string) string) *peer {
	t.Helper()
	return newPeerAt(t, "127.0.0.1:0", answer)
}

func newPeerAt(t *testing.T, address string, answer func(command string) string) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", address)
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
			p.open++
			p.most = max(p.most, p.open)
			p.mu.Unlock()
			sessions.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); sessions.Wait() })
	return p
}

func (p *peer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	gone := sync.OnceFunc(func() { p.mu.Lock(); p.open--; p.mu.Unlock() })
	defer gone()
	lines := bufio.NewScanner(conn)
	reply := func(command, ordinary string) bool {
		text := p.answer(command)
		if text == "" {
			text = ordinary
		}
		switch text {
		case "close":
			return false
		case "silence":
			_, _ = io.Copy(io.Discard, conn)
			return false
		}
		_, err := fmt.Fprintf(conn, "%s\r\n", text)
		return err == nil && (p.stays421.Load() || !strings.HasPrefix(text, "421"))
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
			ended := false
			for !ended && lines.Scan() {
				if ended = lines.Text() == "."; !ended {
					body.WriteString(lines.Text() + "\n")
				}
			}
			if !ended {
				return
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
			p.quits.Add(1)
			gone() // before the answer, after which another may come
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

// eventLog is the event log of a test: it keeps the events and tells the test of each.
type eventLog struct {
	mu     sync.Mutex
	seq    uint64
	events []*event.Event
	wrote  chan struct{}
	gate   func() // called before anything is durable, if it is not nil
	fail   error  // what Append fails with
}

func (l *eventLog) Append(_ context.Context, records ...[]byte) (seglog.Range, error) {
	if l.gate != nil {
		l.gate()
	}
	if l.fail != nil {
		return seglog.Range{}, l.fail
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := seglog.Range{First: l.seq + 1}
	for _, record := range records {
		var e event.Event
		if err := event.Decode(record, &e); err != nil {
			return r, err
		}
		l.seq++
		l.events = append(l.events, &e)
	}
	r.Last = l.seq
	select {
	case l.wrote <- struct{}{}:
	default:
	}
	return r, nil
}

// routes is a Resolver that knows the MX hosts of some domains, all at one address each.
type routes map[string][]resolve.Host

func (r routes) Route(_ context.Context, domain string) (resolve.Route, error) {
	hosts, ok := r[domain]
	if !ok {
		return resolve.Route{}, &resolve.Error{Name: domain, Err: resolve.ErrNotFound}
	}
	return resolve.Route{Hosts: hosts, TTL: time.Minute}, nil
}

func (r routes) LookupHost(_ context.Context, name string) ([]netip.Addr, error) {
	return nil, &resolve.Error{Name: name, Err: resolve.ErrNotFound}
}

func mx(preference uint16, name, addr string) resolve.Host {
	return resolve.Host{Name: name, Preference: preference, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

type suppressed map[string]bool

func (s suppressed) Suppressed(_, address string) bool { return s[address] }
func (suppressed) Key(address string) string           { return "key of " + address }

// bench is an agent with everything real but the resolver, the recorder and the suppressions.
type bench struct {
	t          *testing.T
	agent      *Agent
	log        *eventLog
	throttle   *throttle.Throttle
	attrs      map[string]string // of the envelopes
	notes      chan string
	spool      *spool.Spool
	manager    *queue.Manager
	keys       *correlate.Keys
	suppressed suppressed
	keeper     *scoped.Keeper
	content    string // of the messages
	user, job  string // of the messages
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
	b := &bench{t: t, spool: s, keys: keys, suppressed: suppressed{}, log: &eventLog{wrote: make(chan struct{}, 1)}, notes: make(chan string, 100)}
	b.throttle, b.keeper = throttle.New(0), scoped.New()
	b.content = "From: Shop <news@shop.test>\r\nX-Mailer: a\r\n b\r\nSubject: hello\r\n\r\n.text\r\n"
	recorder := account.NewRecorder(b.log, s, nil, 0, testLogger(t))
	accounting, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = recorder.Run(accounting) }()
	t.Cleanup(func() { stop(); <-stopped }) // after the sessions have ended
	b.agent, err = New(Options{
		Config: c, Mail: s, Resolver: resolver, Recorder: recorder, Throttle: b.throttle, Keeper: b.keeper,
		Suppressions: b.suppressed, Keys: keys, Logger: testLogger(t),
		Requeue: func(name queue.Name, item *queue.Item) { b.manager.Add(name, item) },
		Note:    func(_, text string) { b.notes <- text },
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
	return b.putBy(config.DefaultVMTA, expires, recipients...)
}

// putBy is put for mail of a virtual MTA.
func (b *bench) putBy(vmta string, expires time.Duration, recipients ...string) event.ID {
	b.t.Helper()
	return b.store(queue.Name{}, vmta, expires, recipients...)
}

// putInto is put for a queue that is not the one of the recipients' domain.
func (b *bench) putInto(into queue.Name, recipients ...string) event.ID {
	b.t.Helper()
	return b.store(into, into.VMTA, time.Hour, recipients...)
}

func (b *bench) store(into queue.Name, vmta string, expires time.Duration, recipients ...string) event.ID {
	b.t.Helper()
	envelope := &spool.Envelope{ID: event.NewID(), From: "news@shop.test", Arrived: time.Now().UTC(), VMTA: vmta, Tenant: "shop", Job: b.job, SMTPUser: b.user, Attrs: b.attrs}
	item := &queue.Item{Message: envelope.ID, Arrived: queue.At(envelope.Arrived), Expires: queue.At(envelope.Arrived.Add(expires)), Priority: queue.DefaultPriority, Labels: queue.Label(b.job, "shop")}
	for i, r := range recipients {
		envelope.Recipients = append(envelope.Recipients, spool.Recipient{Address: r})
		item.AddRecipient(uint32(i))
	}
	if err := b.spool.Put(b.t.Context(), envelope, []byte(b.content)); err != nil {
		b.t.Fatal(err)
	}
	if into == (queue.Name{}) {
		_, domain, _ := strings.Cut(recipients[0], "@")
		into = b.agent.Plan(domain, envelope.VMTA).Queue
	}
	b.manager.Add(into, item)
	return envelope.ID
}

// events waits for n events and returns them.
func (b *bench) events(n int) []*event.Event {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		b.log.mu.Lock()
		events := append([]*event.Event(nil), b.log.events...)
		b.log.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-b.log.wrote:
		case <-deadline:
			b.t.Fatalf("%d events, want %d: %+v", len(events), n, events)
		}
	}
}

// sink is a peer that takes everything, with as little work as can be.
func sink(b *testing.B, chunking bool) netip.AddrPort {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	hello := "250-sink.test\r\n250-PIPELINING\r\n250 SIZE\r\n"
	if chunking {
		hello = "250-sink.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE\r\n"
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go drain(conn, hello)
		}
	}()
	return netip.MustParseAddrPort(listener.Addr().String())
}

func drain(conn net.Conn, hello string) {
	defer func() { _ = conn.Close() }()
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
	_, _ = w.WriteString("220 sink.test\r\n")
	for {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch {
		case bytes.HasPrefix(line, []byte("EHLO")):
			_, _ = w.WriteString(hello)
		case bytes.HasPrefix(line, []byte("BDAT")):
			n, err := strconv.Atoi(string(bytes.Fields(line)[1]))
			if err != nil {
				return
			}
			if _, err := r.Discard(n); err != nil {
				return
			}
			_, _ = w.WriteString("250 2.0.0 Ok: queued as 1A2B3C4D5E\r\n")
		case bytes.HasPrefix(line, []byte("DATA")):
			_, _ = w.WriteString("354 go on\r\n")
			if w.Flush() != nil {
				return
			}
			for !bytes.Equal(line, []byte(".\r\n")) {
				if line, err = r.ReadSlice('\n'); err != nil {
					return
				}
			}
			_, _ = w.WriteString("250 2.0.0 Ok: queued as 1A2B3C4D5E\r\n")
		default:
			_, _ = w.WriteString("250 2.1.0 Ok\r\n")
		}
	}
}
