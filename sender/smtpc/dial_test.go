package smtpc

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
)

// dialError writes the error of Dial as in "greeting: peer answered 554 no"; "" for none.
func dialError(err error) string {
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return "not an *Error: " + err.Error()
	}
	for _, known := range []error{ErrNoTLS, ErrNoAuth, ErrAuth, ErrProtocol, ErrPeerClosed} {
		if errors.Is(err, known) {
			return strings.TrimSpace(fmt.Sprintf("%s: %v %s", e.Phase, known, e.Reply))
		}
	}
	return err.Error()
}

func TestDial(t *testing.T) {
	for _, tc := range []struct {
		name      string
		script    string
		tls       TLSPolicy
		want      string
		temporary bool
	}{
		{"greeting of several lines", `
S: 220-mx.example
S: 220 welcome
C: EHLO me.example
S: 250 mx.example
gone`, TLSOff, "", false},
		{"greeting 554", "S: 554 5.7.1 go away\nC: QUIT\ngone", TLSOff, "greeting: peer answered 554 5.7.1 go away", false},
		{"greeting 421", "S: 421 4.7.0 too many connections\nclose", TLSOff, "greeting: peer answered 421 4.7.0 too many connections", true},
		{"greeting 250", "S: 250 hi\ngone", TLSOff, "greeting: peer broke the protocol 250 hi", true},
		{"closed without greeting", "close", TLSOff, "greeting: peer closed the connection", true},
		{"no SMTP at all", "S: SSH-2.0-OpenSSH_9.2\ngone", TLSOff, "greeting: peer broke the protocol", true},
		{"EHLO unknown, HELO known", `
S: 220 old
C: EHLO me.example
S: 502 what?
C: HELO me.example
S: 250 old
gone`, TLSOpportunistic, "", false},
		{"EHLO and HELO refused", `
S: 220 mx
C: EHLO me.example
S: 550 5.7.1 blocked
C: HELO me.example
S: 554 5.7.1 really
C: QUIT
gone`, TLSOff, "ehlo: peer answered 554 5.7.1 really", false},
		{"EHLO refused, then closed", `
S: 220 mx
C: EHLO me.example
S: 550 5.7.1 blocked
C: HELO me.example
close`, TLSOff, "ehlo: peer closed the connection 550 5.7.1 blocked", false},
		{"EHLO refused for now", `
S: 220 mx
C: EHLO me.example
S: 421 4.3.2 busy
C: QUIT
gone`, TLSOff, "ehlo: peer answered 421 4.3.2 busy", true},
		{"TLS wanted, not offered", plainHello + "gone", TLSOpportunistic, "", false},
		{"TLS required, not offered", plainHello + "C: QUIT\ngone", TLSRequired, "tls: TLS is required, the peer does not do it", true},
		{"TLS wanted, refused", `
S: 220 mx
C: EHLO me.example
S: 250-mx
S: 250 STARTTLS
C: STARTTLS
S: 454 4.7.0 not now
gone`, TLSOpportunistic, "", false},
		{"TLS required, refused", `
S: 220 mx
C: EHLO me.example
S: 250-mx
S: 250 STARTTLS
C: STARTTLS
S: 454 4.7.0 not now
C: QUIT
gone`, TLSRequired, "tls: TLS is required, the peer does not do it 454 4.7.0 not now", true},
		{"TLS wanted, 421", `
S: 220 mx
C: EHLO me.example
S: 250-mx
S: 250 STARTTLS
C: STARTTLS
S: 421 4.7.0 not now
C: QUIT
gone`, TLSOpportunistic, "tls: peer answered 421 4.7.0 not now", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := dial(t, play(t, tc.script), func(cfg *Config) { cfg.TLS = tc.tls })
			if got := dialError(err); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if e, ok := errors.AsType[*Error](err); ok && e.Temporary() != tc.temporary {
				t.Errorf("temporary: got %v, want %v", e.Temporary(), tc.temporary)
			}
			if err == nil {
				if c.TLS() != nil {
					t.Error("TLS state on a plain connection")
				}
				c.Close()
			}
		})
	}
}

func TestExtensions(t *testing.T) {
	const script = `
S: 220 mx
C: EHLO me.example
S: 250-mx.example greets PIPELINING
S: 250-pipelining
S: 250-8BITMIME
S: 250-DSN
S: 250-SIZE  35882577
S: 250-CHUNKING
S: 250-auth plain LOGIN
S: 250-AUTH=LOGIN cram-md5
S: 250 SMTPUTF8
gone`
	keywords := []string{"PIPELINING", "8BITMIME", "DSN", "SIZE", "CHUNKING", "AUTH", "AUTH", "SMTPUTF8"}
	auth := []string{"PLAIN", "LOGIN", "CRAM-MD5"}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   Extensions
	}{
		{"all", nil, Extensions{
			Pipelining: true, EightBitMIME: true, DSN: true, SMTPUTF8: true, Chunking: true, Size: true, MaxBytes: 35882577,
			Auth: auth, Keywords: keywords,
		}},
		{"ignored", func(cfg *Config) {
			cfg.IgnorePipelining, cfg.IgnoreChunking, cfg.Ignore8BitMIME, cfg.IgnoreDSN = true, true, true, true
		}, Extensions{SMTPUTF8: true, Size: true, MaxBytes: 35882577, Auth: auth, Keywords: keywords}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustDial(t, play(t, script), tc.change)
			if diff := cmp.Diff(tc.want, c.Extensions()); diff != "" {
				t.Errorf("extensions (-want +got):\n%s", diff)
			}
			c.Close()
		})
	}
}

func TestDialAddresses(t *testing.T) {
	addr := play(t, plainHello+"gone")
	c := mustDial(t, addr, func(cfg *Config) { cfg.LocalIP = netip.MustParseAddr("127.0.0.9") })
	if got, want := c.LocalAddr().Addr().String(), "127.0.0.9"; got != want || c.LocalAddr().Port() == 0 {
		t.Errorf("local address: got %s, want %s and a port", c.LocalAddr(), want)
	}
	if c.RemoteAddr() != addr {
		t.Errorf("remote address: got %s, want %s", c.RemoteAddr(), addr)
	}
	if c.ID() == (event.ID{}) || c.Opened().IsZero() || c.Timing().Connect <= 0 || c.Timing().Hello <= 0 {
		t.Errorf("identity %v, opened %v, timing %+v", c.ID(), c.Opened(), c.Timing())
	}
	c.Close()
	c.Close()
}

func TestDialFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	for _, tc := range []struct {
		name   string
		change func(*Config)
		is     error
		text   string
	}{
		{"nobody listens", func(*Config) {}, nil, "connection refused"},
		{"source not on this machine", func(cfg *Config) { cfg.LocalIP = netip.MustParseAddr("192.0.2.1") }, ErrNotLocal, "192.0.2.1"},
		{"source of the other family", func(cfg *Config) { cfg.LocalIP = netip.MustParseAddr("::1") }, nil, "not of one family"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := dial(t, refusing, tc.change)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Phase != event.PhaseConnect || !e.Temporary() || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want a temporary error of the connect phase with %q", err, tc.text)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v, want %v", err, tc.is)
			}
		})
	}
}

func TestDialTimeoutAndCancel(t *testing.T) {
	addr := play(t, "S+ 220-half a greeting\r\ngone")
	_, err := dial(t, addr, func(cfg *Config) { cfg.Timeouts.Greeting = 30 * time.Millisecond })
	if e, ok := errors.AsType[*Error](err); !ok || e.Phase != event.PhaseGreeting || !e.Timeout() {
		t.Errorf("got %v, want a timeout of the greeting", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, Config{RemoteAddr: play(t, "gone"), EHLO: "me.example", Timeouts: testTimeouts})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// certificate returns a self-signed certificate for name and the pool that trusts it.
func certificate(tb testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// startTLSPeer serves one connection: EHLO, STARTTLS with injected answered together with its
// 220, the handshake, EHLO again. It reports the SNI it saw.
func startTLSPeer(t *testing.T, cert tls.Certificate, injected string) (netip.AddrPort, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sni := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		r := bufio.NewReader(conn)
		io.WriteString(conn, "220 mx\r\n")
		r.ReadString('\n')
		io.WriteString(conn, "250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
		r.ReadString('\n')
		io.WriteString(conn, "220 go\r\n"+injected)
		tc := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
		if tc.Handshake() != nil {
			return
		}
		sni <- tc.ConnectionState().ServerName
		r = bufio.NewReader(tc)
		r.ReadString('\n')
		io.WriteString(tc, "250-mx\r\n250 SIZE 7\r\n")
		r.ReadString('\n')
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String()), sni
}

func TestStartTLS(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	for _, tc := range []struct {
		name     string
		policy   TLSPolicy
		config   *tls.Config
		server   string
		injected string
		ok       bool
	}{
		{"opportunistic takes any certificate", TLSOpportunistic, nil, "mx.example", "", true},
		{"required and verified", TLSRequired, &tls.Config{RootCAs: pool}, "mx.example", "", true},
		{"required, certificate of another name", TLSRequired, &tls.Config{RootCAs: pool}, "other.example", "", false},
		{"required, unknown authority", TLSRequired, nil, "mx.example", "", false},
		{"replies injected in the clear are dropped", TLSOpportunistic, nil, "mx.example", "250-evil\r\n250 SIZE 1\r\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, sni := startTLSPeer(t, cert, tc.injected)
			c, err := dial(t, addr, func(cfg *Config) {
				cfg.TLS, cfg.TLSConfig, cfg.ServerName = tc.policy, tc.config, tc.server
			})
			if !tc.ok {
				if e, ok := errors.AsType[*Error](err); !ok || e.Phase != event.PhaseTLS || !e.Temporary() {
					t.Errorf("got %v, want a temporary error of the tls phase", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.TLS() == nil || c.TLS().Version != tls.VersionTLS13 || c.Timing().TLS <= 0 {
				t.Errorf("TLS state %+v, timing %+v", c.TLS(), c.Timing())
			}
			if diff := cmp.Diff(Extensions{Size: true, MaxBytes: 7, Keywords: []string{"SIZE"}}, c.Extensions()); diff != "" {
				t.Errorf("extensions after TLS (-want +got):\n%s", diff)
			}
			if got := <-sni; got != tc.server {
				t.Errorf("SNI: got %q, want %q", got, tc.server)
			}
			c.Close()
		})
	}
}
