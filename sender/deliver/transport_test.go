package deliver

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/spool"
)

// identity is a certificate that vouches for itself.
type identity struct {
	pair   tls.Certificate
	pool   *x509.CertPool
	public string // a file with the certificate
	whole  string // and one with the key too
}

func newIdentity(t *testing.T, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	id := identity{pair: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool: x509.NewCertPool()}
	id.pool.AppendCertsFromPEM(certificate)
	dir := t.TempDir()
	id.public, id.whole = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "both.pem")
	for file, data := range map[string][]byte{
		id.public: certificate,
		id.whole:  append(slices.Clone(certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...),
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// tlsPeer is a peer that offers STARTTLS.
type tlsPeer struct {
	peer

	secrets *tls.Config
	states  []tls.ConnectionState // of the sessions with TLS; guarded by mu
}

func newTLSPeer(t *testing.T, secrets *tls.Config) *tlsPeer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tlsPeer{peer: peer{addr: netip.MustParseAddrPort(listener.Addr().String()), answer: always(nil)}, secrets: secrets}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { p.secure(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); sessions.Wait() })
	return p
}

// secure serves a connection, in the clear if the client wants no TLS.
func (p *tlsPeer) secure(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	lines := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "220 peer.test ready\r\n")
	if _, err := lines.ReadString('\n'); err != nil {
		return
	}
	_, _ = io.WriteString(conn, "250-peer.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
	command, err := lines.ReadString('\n')
	if err != nil {
		return
	}
	if !strings.HasPrefix(command, "STARTTLS") {
		p.serve(&greeted{Conn: conn, rest: io.MultiReader(strings.NewReader(command), lines)})
		return
	}
	_, _ = io.WriteString(conn, "220 go\r\n")
	secured := tls.Server(conn, p.secrets)
	if secured.Handshake() != nil {
		_, _ = io.Copy(io.Discard, conn) // closing on unread bytes is a reset, which overtakes an alert
		return
	}
	p.mu.Lock()
	p.states = append(p.states, secured.ConnectionState())
	p.mu.Unlock()
	p.serve(&greeted{Conn: secured, rest: secured})
}

// greeted is a connection that was greeted before: it swallows the greeting.
type greeted struct {
	net.Conn

	rest io.Reader
	done bool
}

func (g *greeted) Read(b []byte) (int, error) { return g.rest.Read(b) }

func (g *greeted) Write(b []byte) (int, error) {
	if !g.done {
		g.done = true
		return len(b), nil
	}
	return g.Conn.Write(b)
}

// TestTLSDirectives: what the peer sees of a connection, and of the message, by what the queue says
// about TLS.
func TestTLSDirectives(t *testing.T) {
	server, stranger, client := newIdentity(t, "mx.a.test"), newIdentity(t, "mx.a.test"), newIdentity(t, "node.test")
	const clear = uint16(0)
	upTo := func(version uint16) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, version }
	}
	asks := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, client.pool }
	for _, tc := range []struct {
		name, directives string
		peer             func(*tls.Config) // what it changes; nil for nothing
		version          uint16            // of the message's connection
		cipher           uint16            // 0 for any
		client           string            // name in the certificate that the peer saw
		deferred         bool              // for want of TLS
	}{
		{name: "default", version: tls.VersionTLS13},
		{name: "no TLS", directives: "use-starttls no", version: clear},
		{name: "no 1.3", directives: "smtp-tls-allow-tlsv1.3 no", version: tls.VersionTLS12},
		{name: "1.2 peer", peer: upTo(tls.VersionTLS12), version: tls.VersionTLS12},
		{name: "1.2 peer, no 1.2", directives: "smtp-tls-allow-tlsv1.2 no", peer: upTo(tls.VersionTLS12), version: clear},
		{name: "1.2 peer, no 1.2, TLS needed", directives: "smtp-tls-allow-tlsv1.2 no\nrequire-starttls yes", peer: upTo(tls.VersionTLS12), deferred: true},
		{name: "1.1 peer", peer: upTo(tls.VersionTLS11), version: tls.VersionTLS11},
		{name: "1.1 peer, no 1.1", directives: "smtp-tls-allow-tlsv1.1 no", peer: upTo(tls.VersionTLS11), version: clear},
		{name: "1.0 peer", peer: upTo(tls.VersionTLS10), version: clear},
		{name: "1.0 peer, 1.0", directives: "smtp-tls-allow-tlsv1 yes", peer: upTo(tls.VersionTLS10), version: tls.VersionTLS10},
		{
			name: "cipher", directives: "smtp-tls-ciphers ECDHE-ECDSA-AES256-SHA", peer: upTo(tls.VersionTLS12),
			version: tls.VersionTLS12, cipher: tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
		},
		{name: "any CA", directives: "require-starttls yes", version: tls.VersionTLS13},
		{name: "known CA", directives: "require-starttls yes\nsmtp-tls-ca-file " + server.public, version: tls.VersionTLS13},
		{name: "unknown CA", directives: "smtp-tls-ca-file " + stranger.public, version: clear},
		{name: "unknown CA, TLS needed", directives: "require-starttls yes\nsmtp-tls-ca-file " + stranger.public, deferred: true},
		{name: "certificate", directives: "smtp-client-certificate " + client.whole, peer: asks, version: tls.VersionTLS13, client: "node.test"},
		{name: "no certificate", peer: asks, version: clear},
		{name: "a stranger's certificate", directives: "require-starttls yes\nsmtp-client-certificate " + stranger.whole, peer: asks, deferred: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &tls.Config{Certificates: []tls.Certificate{server.pair}}
			if tc.peer != nil {
				tc.peer(c)
			}
			p := newTLSPeer(t, c)
			b := newBench(t, to(&p.peer)+"<domain a.test>\n"+tc.directives+"\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			b.start()
			e := b.events(1)[0]
			p.mu.Lock()
			defer p.mu.Unlock()
			if tc.deferred {
				if e.Kind != event.QueueDeferred || e.Phase != event.PhaseTLS || len(p.messages) != 0 {
					t.Errorf("%s in phase %s (%s), %d messages taken", e.Kind, e.Phase, e.Reply, len(p.messages))
				}
				return
			}
			var got tls.ConnectionState
			if len(p.states) > 0 {
				got = p.states[0]
			}
			if e.Kind != event.Delivered || got.Version != tc.version || tc.cipher != 0 && got.CipherSuite != tc.cipher {
				t.Errorf("%s (%s) by version %x with %s", e.Kind, e.Reply, got.Version, tls.CipherSuiteName(got.CipherSuite))
			}
			name := ""
			if len(got.PeerCertificates) > 0 {
				name = got.PeerCertificates[0].Subject.CommonName
			}
			if name != tc.client {
				t.Errorf("the peer saw the certificate of %q, want %q", name, tc.client)
			}
		})
	}
}

// TestReuseSSLSession: the second connection resumes the first one's session of TLS 1.2 only where it
// may, that of TLS 1.3 always.
func TestReuseSSLSession(t *testing.T) {
	server := newIdentity(t, "mx.a.test")
	for _, tc := range []struct {
		version uint16
		reuse   string
		want    bool
	}{
		{tls.VersionTLS12, "no", false},
		{tls.VersionTLS12, "yes", true},
		{tls.VersionTLS13, "no", true},
	} {
		t.Run(tls.VersionName(tc.version)+" "+tc.reuse, func(t *testing.T) {
			p := newTLSPeer(t, &tls.Config{Certificates: []tls.Certificate{server.pair}, MaxVersion: tc.version})
			b := newBench(t, to(&p.peer)+"<domain a.test>\nmax-smtp-out 1\nmax-msg-per-connection 1\nreuse-ssl-session "+tc.reuse+"\n</domain>\n",
				names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			b.put(time.Hour, "bob@a.test")
			b.start()
			b.events(2)
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.states) != 2 || p.states[0].DidResume || p.states[1].DidResume != tc.want {
				t.Fatalf("%d connections with TLS, want 2, of which the second resumes: %v", len(p.states), tc.want)
			}
		})
	}
}

// TestIgnoredExtensions: the peer offers all, and gets the parameters of what is not ignored.
func TestIgnoredExtensions(t *testing.T) {
	dsn := []string{" RET=HDRS", " ENVID=order-7", " NOTIFY=FAILURE", " ORCPT=rfc822;anna@a.test"}
	body := []string{" BODY=8BITMIME"}
	for directive, want := range map[string][]string{
		"":                                    slices.Concat(dsn, body),
		"ignore-dsn yes":                      body,
		"ignore-8bitmime yes":                 dsn,
		"ignore-dsn yes\nignore-8bitmime yes": nil,
	} {
		t.Run(directive, func(t *testing.T) {
			p := newPeer(t, always(map[string]string{"EHLO": "250-peer.test\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 DSN"}))
			b := newBench(t, to(p)+"<domain a.test>\n"+directive+"\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
			now := time.Now()
			envelope := &spool.Envelope{
				ID: event.NewID(), From: "news@shop.test", Arrived: now, VMTA: config.DefaultVMTA, EnvID: "order-7", Ret: "HDRS", EightBit: true,
				Recipients: []spool.Recipient{{Address: "ann@a.test", ORcpt: "anna@a.test", Notify: "FAILURE"}},
			}
			if err := b.spool.Put(t.Context(), envelope, []byte("Subject: hello\r\n\r\ncaf\u00e9\r\n")); err != nil {
				t.Fatal(err)
			}
			item := &queue.Item{Message: envelope.ID, Arrived: queue.At(now), Expires: queue.At(now.Add(time.Hour)), Priority: queue.DefaultPriority}
			item.AddRecipient(0)
			b.manager.Add(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA}, item)
			b.start()
			if e := b.events(1)[0]; e.Kind != event.Delivered {
				t.Fatalf("%s: %s", e.Kind, e.Reply)
			}
			message := p.received()[0]
			for _, parameter := range slices.Concat(dsn, body) {
				if got := strings.Contains(message, parameter); got != slices.Contains(want, parameter) {
					t.Errorf("%q on the wire: %v\n%s", parameter, got, message)
				}
			}
			if !strings.Contains(message, "caf\u00e9") {
				t.Errorf("the body was changed:\n%s", message)
			}
		})
	}
}

// TestRetryUponNewMail: new mail ends the wait of a queue that is in retry, for the mail before it
// too.
func TestRetryUponNewMail(t *testing.T) {
	for value, tried := range map[string]bool{"no": false, "yes": true} {
		t.Run(value, func(t *testing.T) {
			var down atomic.Bool
			down.Store(true)
			p := newPeer(t, func(command string) string {
				if command == "CONNECT" && down.Load() {
					return "421 4.3.2 down for maintenance"
				}
				return ""
			})
			b := newBench(t, to(p)+"<domain a.test>\nretry-after 5h\nretry-upon-new-mail "+value+"\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(24*time.Hour, "ann@a.test")
			b.start()
			b.events(1)
			status := func() queue.Status { return b.manager.Statuses()[0] }
			waitFor(t, func() bool { s := status(); return s.Sessions == 0 && s.Recipients == 1 && !s.DeferredUntil.IsZero() })
			down.Store(false)
			b.put(24*time.Hour, "bob@a.test")
			if !tried {
				if s := status(); time.Until(s.DeferredUntil) < 4*time.Hour || s.Recipients != 2 {
					t.Errorf("%d recipients wait until %v", s.Recipients, s.DeferredUntil)
				}
				return
			}
			b.events(3)
			if n := len(p.received()); n != 2 {
				t.Errorf("%d messages were taken, want 2", n)
			}
		})
	}
}

// TestQueuePriority: mail of a queue waits for the only session of the node, while another one's is
// at work.
func TestQueuePriority(t *testing.T) {
	for _, tc := range []struct {
		name, busy, waiting string
		want                string // the order in which the peer takes mail
	}{
		{"equal", "", "", "b1 b2 b3 w1"},
		{"higher", "", "queue-priority 80", "b1 w1 b2 b3"},
		{"lower", "", "queue-priority 20", "b1 b2 b3 w1"},
		{"higher, not to interrupt", "allow-priority-interruption no", "queue-priority 80", "b1 b2 b3 w1"},
		{"higher, in a transfer", "allow-priority-interruption-during-transfer yes", "queue-priority 80", "w1 b1 b2 b3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cuts := strings.HasPrefix(tc.want, "w1")
			begun, release := make(chan struct{}), make(chan struct{})
			begin, goOn := sync.OnceFunc(func() { close(begun) }), sync.OnceFunc(func() { close(release) })
			defer goOn()
			p := newPeer(t, func(command string) string {
				if strings.HasPrefix(command, "RCPT TO:<b1@") {
					begin()
					<-release
				}
				return ""
			})
			b := newBench(t, to(p)+fmt.Sprintf("<domain busy.test>\n%s\n</domain>\n<domain waiting.test>\n%s\n</domain>\n", tc.busy, tc.waiting),
				names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.manager = queue.NewManager(b.agent, queue.Options{MaxSessions: 1})
			for _, name := range []string{"b1", "b2", "b3"} {
				b.put(time.Hour, name+"@busy.test")
			}
			b.start()
			<-begun
			b.put(time.Hour, "w1@waiting.test")
			if cuts {
				b.events(1) // the peer has not gone on with the other message
			} else {
				waiting := b.manager.Queue(queue.Name{Domain: "waiting.test", VMTA: config.DefaultVMTA})
				waitFor(t, func() bool { return waiting.Status(time.Now()).WaitsForSlot })
			}
			goOn()
			b.events(4)
			messages := p.received()
			order := make([]string, 0, len(messages))
			for _, message := range messages {
				_, rest, _ := strings.Cut(message, "RCPT TO:<")
				name, _, _ := strings.Cut(rest, "@")
				order = append(order, name)
			}
			if got := strings.Join(order, " "); got != tc.want {
				t.Errorf("the peer took %s, want %s", got, tc.want)
			}
		})
	}
}
