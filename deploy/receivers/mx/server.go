// Package mx is the SMTP server of the simulated receivers: one Server is one MX host. It speaks
// ESMTP (RFC 5321) with PIPELINING (RFC 2920), SIZE, 8BITMIME, ENHANCEDSTATUSCODES, DSN (RFC 3461)
// and, where asked, STARTTLS (RFC 3207), and answers as a provider.Provider decides. The source of a
// connection is its peer's address, or what XCLIENT ADDR=… (Postfix's extension) or a header of the PROXY
// protocol (version 1) before the first command says.
//
// It keeps the header of a message and throws the body away. A reply with code 421 ends the
// connection, as RFC 5321 3.8 has it. Peers that break the protocol get a reply and in the end lose
// their connection; nothing that a peer sends makes the server fail.
package mx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"carom/deploy/receivers/provider"
)

// Clock is the scenario's time.
type Clock interface {
	// Now returns the scenario time.
	Now() time.Duration
	// FirstMessage tells the clock that a message begins; it may start to run with the first.
	FirstMessage()
	// Real converts a length of scenario time to real time.
	Real(d time.Duration) time.Duration
}

// Recipient is one recipient of a delivery.
type Recipient struct {
	Address     string
	Original    string // the ORCPT parameter (RFC 3461 4.2) as sent, "rfc822;…", or empty
	NeverNotify bool   // NOTIFY=NEVER was asked
}

// Delivery is one message that was accepted.
type Delivery struct {
	Provider   *provider.Provider
	MX         string
	Source     netip.Addr
	At         time.Duration // scenario time
	MailFrom   string        // empty for the null sender
	EnvID      string        // decoded ENVID (RFC 3461 4.4), or empty
	Recipients []Recipient   // at least one
	Header     []byte        // CRLF lines without the empty line after them; cut at maxHeader
	Size       int64         // octets of the message
}

// Server is one MX host. Its fields must not change once Serve runs.
type Server struct {
	Name string
	// Provider owns the host: it decides about connections, and about MAIL.
	Provider *provider.Provider
	// ByDomain finds the provider of a recipient's domain, in lower case.
	ByDomain map[string]*provider.Provider
	Clock    Clock
	TLS      *tls.Config // nil: no STARTTLS
	// Accept is told of each accepted message before the peer is; an error becomes a 451.
	Accept func(*Delivery) error
	Log    *slog.Logger
}

// Serve takes connections from ln until ctx ends, then closes ln and all connections and waits for
// their end.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			return fmt.Errorf("accept at %s: %w", ln.Addr(), err)
		}
		wg.Go(func() {
			release := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer release()
			s.serveConn(ctx, conn)
		})
	}
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		s.Log.Warn("peer without an address", "peer", conn.RemoteAddr().String())
		return
	}
	session := &session{Server: s, ctx: ctx, raw: conn, source: peer.Addr().Unmap()}
	session.use(conn)
	session.run()
	session.leave()
	session.close()
}
