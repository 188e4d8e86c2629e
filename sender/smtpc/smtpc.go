// Package smtpc is carom's SMTP client: one Conn is one connection to one receiving server, and
// a transaction is a value in and a value out.
//
// Dial connects from the given source address, reads the greeting, says EHLO (HELO if it must),
// starts TLS as the policy asks and logs in if there are credentials. Send runs one mail
// transaction; with PIPELINING a message costs two round trips, with CHUNKING one. What the peer answers is a value (RcptResult); what goes wrong on this
// side of the wire is an *Error with the phase in which it happened. A 421 at any point, a
// silent close and a reply that is none each end the connection, and every recipient without a
// verdict of its own gets that one.
//
// It does not resolve names, choose hosts, retry, judge replies or limit anything. It never
// changes a message, except for dot-stuffing: a body with a CR or LF outside a CRLF pair is
// refused (ErrBareLineEnd), with DATA by dropping the connection before the end of data, so that
// a lone dot between other line ends can never be taken for the end of the message (SMTP
// smuggling). With CHUNKING no dot ends a message, and the rule holds all the same, for the sake
// of those to whom the receiver passes it on. BINARYMIME is not used.
//
// Nothing waits longer than its timeout, nor longer than the context; when a context ends during
// a call the connection is closed. A Conn belongs to one goroutine at a time.
//
// RFC 5321 (SMTP), 1870 (SIZE), 2195 (CRAM-MD5), 2920 (PIPELINING), 3030 (CHUNKING), 3207
// (STARTTLS), 3461 (DSN), 3463 (enhanced status codes), 4616 (PLAIN), 4954 (AUTH), 6152
// (8BITMIME), 6531 (SMTPUTF8).
package smtpc

import (
	"crypto/tls"
	"net/netip"
	"time"
)

// TLSPolicy says what to do about STARTTLS (RFC 3207).
type TLSPolicy uint8

const (
	// TLSOff never starts TLS.
	TLSOff TLSPolicy = iota
	// TLSOpportunistic starts TLS if the peer offers it (RFC 7435). Where the handshake itself
	// fails the connection is lost, and Dial returns an *Error of event.PhaseTLS: the caller may
	// dial again with TLSOff.
	TLSOpportunistic
	// TLSRequired fails with ErrNoTLS if the peer does not offer STARTTLS or refuses it.
	TLSRequired
)

// Config says how to open a connection. RemoteAddr and EHLO are needed, the rest may be zero.
type Config struct {
	RemoteAddr netip.AddrPort
	// LocalIP is the source address to bind; the zero value leaves the choice to the system.
	LocalIP netip.Addr
	// EHLO is the name of this host: a domain or an address literal.
	EHLO string
	// ServerName is the name of the MX host, for SNI and certificate verification. Empty means
	// the remote address.
	ServerName string

	TLS TLSPolicy
	// TLSConfig is cloned, and ServerName added where it has none. Nil means: any certificate is good
	// enough under TLSOpportunistic, and it is verified against ServerName under TLSRequired.
	// Its Certificates are shown to a peer that asks for one.
	TLSConfig *tls.Config
	// Sessions keeps TLS sessions for reuse between connections, where TLSConfig does not bring a
	// ClientSessionCache of its own; nil means that each handshake is a full one.
	Sessions *Sessions

	// Credentials is what to log in with (RFC 4954); the zero value logs in nowhere. A peer that
	// does not let in is no peer to send to: Dial fails with ErrNoAuth or ErrAuth.
	Credentials Credentials
	// AllowPlaintextAuth allows PLAIN and LOGIN without TLS, where everybody on the way can read
	// the password.
	AllowPlaintextAuth bool

	Timeouts Timeouts

	// IgnorePipelining, IgnoreChunking, Ignore8BitMIME and IgnoreDSN act as if the peer did not
	// offer them.
	IgnorePipelining bool
	IgnoreChunking   bool
	Ignore8BitMIME   bool
	IgnoreDSN        bool

	// Survive421 takes a 421 in a transaction for the refusal of one command, not for the end of the
	// connection. Where the peer closes after it all the same, the 421 is the reason.
	Survive421 bool
	// PIXWorkaround sends the final dot in a packet of its own to a peer behind a Cisco PIX (Conn.PIX),
	// which loses the end of the data otherwise.
	PIXWorkaround bool
	// FullHandshakes keeps sessions of TLS up to 1.2 out of Sessions.
	FullHandshakes bool
}

// Timeouts bounds every wait. A zero field takes its default, which is the least that RFC 5321
// section 4.5.3.2 asks for where it names one.
type Timeouts struct {
	Connect  time.Duration // TCP connect; 2 minutes
	Greeting time.Duration // the 220; 5 minutes
	Command  time.Duration // EHLO, STARTTLS with its handshake, AUTH, MAIL, RCPT, RSET; 5 minutes
	DataInit time.Duration // the answer to DATA; 2 minutes
	Block    time.Duration // each write to the peer; 3 minutes
	FinalDot time.Duration // the answer to the end of data, or to BDAT; 10 minutes
	Lines    time.Duration // the rest of a reply of several lines after its first; 5 minutes
	Quit     time.Duration // the answer to QUIT; 5 seconds, nothing depends on it
}

func (t Timeouts) withDefaults() Timeouts {
	for _, f := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{
		{&t.Connect, 2 * time.Minute},
		{&t.Greeting, 5 * time.Minute},  // RFC 5321 4.5.3.2.1
		{&t.Command, 5 * time.Minute},   // .2 (MAIL), .3 (RCPT)
		{&t.DataInit, 2 * time.Minute},  // .4
		{&t.Block, 3 * time.Minute},     // .5
		{&t.FinalDot, 10 * time.Minute}, // .6
		{&t.Lines, 5 * time.Minute},
		{&t.Quit, 5 * time.Second},
	} {
		if *f.field <= 0 {
			*f.field = f.fallback
		}
	}
	return t
}
