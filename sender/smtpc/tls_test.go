package smtpc

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"carom/schemas/event"
)

// startTLSServer serves connections one after the other with STARTTLS and config; it tells the
// name of the client's certificate of each.
func startTLSServer(t *testing.T, config *tls.Config) (netip.AddrPort, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clients, done := make(chan string, 10), make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			io.WriteString(conn, "220 mx\r\n")
			r.ReadString('\n')
			io.WriteString(conn, "250-mx\r\n250 STARTTLS\r\n")
			r.ReadString('\n')
			io.WriteString(conn, "220 go\r\n")
			tc := tls.Server(conn, config)
			if tc.Handshake() == nil {
				name := ""
				if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
					name = certs[0].Subject.CommonName
				}
				clients <- name
				r = bufio.NewReader(tc)
				r.ReadString('\n')
				io.WriteString(tc, "250 mx\r\n")
			}
			io.Copy(io.Discard, conn) // closing on unread bytes is a reset, which overtakes an alert
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String()), clients
}

func TestSessions(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	_, strangers := certificate(t, "mx.example")
	client, _ := certificate(t, "me.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			addr, _ := startTLSServer(t, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
			store, own := NewSessions(10), tls.NewLRUClientSessionCache(1)
			for _, step := range []struct {
				name    string
				change  func(*Config)
				resumed bool
				ok      bool
			}{
				{"first", func(*Config) {}, false, true},
				{"second", func(*Config) {}, true, true},
				{"from another source", func(cfg *Config) { cfg.LocalIP = netip.MustParseAddr("127.0.0.9") }, false, true},
				{"from it again", func(cfg *Config) { cfg.LocalIP = netip.MustParseAddr("127.0.0.9") }, true, true},
				{"with a certificate", func(cfg *Config) {
					cfg.TLSConfig = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}}
				}, false, true},
				{"trusting somebody else", func(cfg *Config) { cfg.TLSConfig = &tls.Config{RootCAs: strangers} }, false, false},
				{"no store", func(cfg *Config) { cfg.Sessions = nil }, false, true},
				{"own cache, first", func(cfg *Config) { cfg.TLSConfig = &tls.Config{RootCAs: pool, ClientSessionCache: own} }, false, true},
				{"own cache, second", func(cfg *Config) { cfg.TLSConfig = &tls.Config{RootCAs: pool, ClientSessionCache: own} }, true, true},
			} {
				c, err := dial(t, addr, func(cfg *Config) {
					cfg.TLS, cfg.TLSConfig, cfg.ServerName, cfg.Sessions = TLSRequired, &tls.Config{RootCAs: pool}, "mx.example", store
					step.change(cfg)
				})
				if (err == nil) != step.ok {
					t.Fatalf("%s: %v", step.name, err)
				}
				if err != nil {
					continue
				}
				if got := c.TLS().DidResume; got != step.resumed {
					t.Errorf("%s: resumed %v, want %v", step.name, got, step.resumed)
				}
				c.Close()
			}
		})
	}
}

// TestSessionsAreBounded: the least recently used session makes room.
func TestSessionsAreBounded(t *testing.T) {
	for _, n := range []int{0, 1} {
		s := sessionsFrom{NewSessions(n).lru, "192.0.2.1"}
		s.Put("a", new(tls.ClientSessionState))
		s.Put("b", new(tls.ClientSessionState))
		if _, ok := s.Get("a"); ok {
			t.Errorf("a store of %d keeps two", n)
		}
		if _, ok := s.Get("b"); !ok {
			t.Errorf("a store of %d keeps none", n)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	client, clients := certificate(t, "me.example")
	stranger, _ := certificate(t, "stranger.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			addr, seen := startTLSServer(t, &tls.Config{
				Certificates: []tls.Certificate{cert}, MaxVersion: version,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
			})
			with := func(pool *x509.CertPool, certs ...tls.Certificate) func(*Config) {
				return func(cfg *Config) {
					cfg.TLS, cfg.ServerName = TLSRequired, "mx.example"
					cfg.TLSConfig = &tls.Config{RootCAs: pool, Certificates: certs}
				}
			}
			c := mustDial(t, addr, with(pool, client))
			if got := <-seen; got != "me.example" {
				t.Errorf("the server saw %q", got)
			}
			c.Close()
			for name, change := range map[string]func(*Config){"none": with(pool), "a stranger's": with(pool, stranger)} {
				_, err := dial(t, addr, change)
				if e, ok := errors.AsType[*Error](err); !ok || e.Phase != event.PhaseTLS || !e.Temporary() {
					t.Errorf("%s: got %v, want a temporary error of the tls phase", name, err)
				}
			}
		})
	}
}
