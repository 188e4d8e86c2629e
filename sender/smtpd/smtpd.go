// Package smtpd takes mail in over SMTP (RFC 5321) on go-smtp: it decides who may hand over what,
// prepares the message, and gives it to an Intake, whose answer is the answer to DATA.
//
// The relay is closed unless a <source> opens it. What the feeder says in x- headers (virtual MTA,
// job, envelope ID, tenant) is read here and removed. Replies never show internals; the log does.
//
// # What is bounded
//
// A message by max-message-size and 64 MiB, one from a client that may not relay by 16 MiB, its
// header by 1 MiB, its recipients by max-rcpt-per-message and 10,000, a command by 4000 octets. Each
// command and each message has smtp-command-timeout and smtp-data-timeout from its first octet to
// its last, however slowly they come. A client that may not relay is cut off after 20 refusals,
// anybody after 4 unknown commands.
//
// # Line ends
//
// The end of data is CRLF "." CRLF and nothing else. A message with a CR or LF that is not part of
// a CRLF is refused, as others would read it as something else; with fix-bare-newline such a CR
// becomes a blank and such a LF a CRLF. What is handed on has no other line end than CRLF.
//
// # go-smtp v0.25.1
//
// It is the engine of the protocol: it parses the commands of a transaction and answers them. It
// sees a line at a time and nothing of a message, which it would read octet by octet; BDAT,
// STARTTLS and AUTH are dealt with beneath it, and the answer to EHLO is put together here.
//
// Guarded against: a second MAIL, which leaves it with the recipients of the first; Close after
// Shutdown, which does nothing. It takes no <Postmaster> without a domain (RFC 5321 section 4.5.1),
// and it removes the quotes of a quoted local part; they are put back where they are needed.
//
// A Server is safe for concurrent use; each connection has its own session.
package smtpd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/schedule"
)

// The bounds that hold where the configuration sets no smaller one.
const (
	maxMessageBytes  = 64 << 20 // a message is held in memory while it is taken in
	maxStrangerBytes = 16 << 20 // of a client that may not relay: reports, with the message they are about
	maxHeaderBytes   = 1 << 20
	maxDKIMOptions   = 2000   // octets of X-DKIM-Options
	maxRecipients    = 10_000 // RFC 5321 section 4.5.3.1.8 asks for at least 100
	maxRefusals      = 20     // of a client that may not relay
)

// stopGrace is how long a message that is being sent may take when the server is told to stop.
const stopGrace = 5 * time.Second

// Recipient is one recipient of a message.
type Recipient struct {
	Address string
	ORcpt   string // original recipient in the clear and without its type, RFC 3461 section 4.2
	Notify  string // NOTIFY as in "SUCCESS,FAILURE", "" for none; RFC 3461 section 4.1
}

// Message is a message that is about to be accepted.
type Message struct {
	ID         event.ID
	Arrived    time.Time // with a monotonic reading
	From       string    // reverse-path, "" for the null sender
	Recipients []Recipient

	VMTA       string
	Pool       string // that VMTA was taken from; "" for none
	Job        string
	EnvID      string // in the clear, RFC 3461 section 4.4
	Ret        string // "FULL", "HDRS" or ""; RFC 3461 section 4.3
	Tenant     string
	SMTPUser   string // who has logged in, "" for nobody
	FromDomain string
	MessageID  string // the value of Message-ID, ours where we add one; "" for none, or for one beyond maxMessageID

	Headers map[string]string // those that accounting files ask for, by account's name of each; nil for none

	VERP           bool // each recipient has a return path of his own
	DateAtDelivery bool // it has no Date; one is added when it is sent

	Priority    uint8             // of its recipients within their queue, 0 to 100
	Schedule    schedule.Schedule // when it may be delivered
	DKIMOptions string            // the value of X-DKIM-Options
	AsksForDKIM bool              // X-DKIM-Options was there, perhaps empty

	Listener   string
	ClientIP   netip.Addr
	ClientName string // as given in EHLO

	// Content is header and body with CRLF line ends. It is the server's: whoever keeps it beyond
	// Accept copies it.
	Content []byte
}

// RefusalError is an answer that keeps a command from succeeding.
type RefusalError struct {
	Code     int
	Enhanced [3]int
	Text     string
}

// Error returns the refusal as it is sent.
func (r *RefusalError) Error() string {
	return fmt.Sprintf("%d %d.%d.%d %s", r.Code, r.Enhanced[0], r.Enhanced[1], r.Enhanced[2], r.text())
}

// text returns the text as a reply can carry it: RFC 5321 section 4.5.3.1.5 bounds the line by
// 512 octets, and a text may quote what the feeder wrote.
func (r *RefusalError) text() string { return printable(r.Text, 480) }

func (r *RefusalError) smtp() *smtp.SMTPError {
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: smtp.EnhancedCode(r.Enhanced), Message: r.text()}
}

// Intake takes what the server lets in. Its methods are called by many sessions at once, and none
// is called after Run has returned.
type Intake interface {
	// Local reports whether mail for the address ends here, at a bounce or feedback-loop
	// processor; such mail is let in from anybody.
	Local(address string) bool
	// Suppressed reports whether the address must not be mailed on behalf of the tenant; with the
	// tenant "", whether nobody may mail it.
	Suppressed(tenant, address string) bool
	// SelectVMTA returns the virtual MTA for a message that asks for the given one or a pool of it
	// ("" for none), and the pool that it comes from.
	SelectVMTA(source *config.Source, asked string, local netip.Addr) (vmta, pool string, r *RefusalError)
	// Room returns why no message of so many octets (0 where the feeder did not say) can be taken
	// now, or nil.
	Room(octets int64) *RefusalError
	// Accept makes the message durable: when it returns nil the feeder gets its 250. A *RefusalError
	// is sent as it is; any other error is answered with 451 4.3.0 and logged. Where the tenant is
	// known by a header only, recipients may be among those of the message that are suppressed for
	// it, but not all of them.
	Accept(ctx context.Context, m *Message) error
	// Refused is told of each recipient ("" for the whole message) that was refused for good, for
	// a reason of policy. It must not keep m.
	Refused(m *Message, recipient string, r *RefusalError)
	// RefusedConnection is told of each connection that was not taken, or whose logins are not any more.
	RefusedConnection(client netip.Addr, listener string, r *RefusalError)
}

// Server listens for feeders.
type Server struct {
	kept []string // headers that accounting files ask for

	config atomic.Pointer[config.Config]
	intake Intake
	logger *slog.Logger
	host   string

	// longestTimeout, stopGrace, maxMessageBytes and maxStrangerBytes but in tests
	timeout, grace          time.Duration
	maxBytes, strangerBytes int64

	slots   *slots
	buffers buffers
	memory  memory
	lockout lockout

	accounts atomic.Pointer[accounts]
	nobody   string // a password that is nobody's

	mu           sync.Mutex
	conns        map[*conn]bool
	certificates map[string]*certificate // by file
}

// longestTimeout bounds what smtp-command-timeout and smtp-data-timeout may say.
const longestTimeout = 24 * time.Hour

// New returns a server for the listeners of the configuration; Run starts it. The host name is
// the one of the greeting.
func New(c *config.Config, host string, intake Intake, logger *slog.Logger) *Server {
	s := &Server{
		intake: intake, logger: logger, host: host,
		timeout: longestTimeout, grace: stopGrace, maxBytes: maxMessageBytes, strangerBytes: maxStrangerBytes,
		slots: newSlots(c), memory: memory{read: readMeminfo}, buffers: buffers{limit: int64(c.MemoryPoolBufferSize)},
		conns: map[*conn]bool{}, certificates: map[string]*certificate{},
		nobody: rand.Text(),
	}
	s.kept, _ = c.MessageHeaders()
	s.Reload(c)
	return s
}

// accounts are the users of a configuration by how they prove themselves.
type accounts struct {
	hasPasswords bool                               // some user logs in by password
	certified    map[[sha256.Size]byte]*config.User // users by the hash of their certificate
}

// Reload puts another configuration in force for sessions from now on, and for what those that there
// are look up. Listeners with their TLS, slots and bounds of memory stay as they are.
func (s *Server) Reload(c *config.Config) {
	u := &accounts{certified: map[[sha256.Size]byte]*config.User{}}
	for _, user := range c.Users() {
		if user.Method == config.ByCertificate {
			u.certified[sha256.Sum256(user.Certificate.Raw)] = user
		} else {
			u.hasPasswords = true
		}
	}
	s.config.Store(c)
	s.accounts.Store(u)
}

// Listener is where a server listens, and what the configuration says about it.
type Listener struct {
	net.Listener
	Settings config.Listener
}

// Run serves the listeners, which it closes, until ctx is done or one of them fails. Then idle
// sessions get a 421, those that are sending a message have stopGrace to end it, and Run returns
// when no session is left. A Server runs once.
func (s *Server) Run(ctx context.Context, listeners []Listener) error {
	servers := make([]*smtp.Server, len(listeners))
	served := make(chan error, len(listeners))
	for i, l := range listeners {
		servers[i] = s.engine(ctx)
		entrance := &door{l, s, s.serverTLS(l.Settings)}
		go func() { served <- servers[i].Serve(entrance) }() // ended by closing l
	}
	var failed error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case failed = <-served:
		running--
	}
	for _, l := range listeners {
		_ = l.Close() // one may be closed already
	}
	for range running {
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			failed = errors.Join(failed, err)
		}
	}
	s.endSessions(context.WithoutCancel(ctx), servers)
	if failed != nil {
		return fmt.Errorf("smtp listener: %w", failed)
	}
	return nil
}

// engine returns a server that speaks the protocol. Time is kept by conn.
func (s *Server) engine(ctx context.Context) *smtp.Server {
	server := smtp.NewServer(&backend{context.WithoutCancel(ctx)})
	server.Domain = s.host
	server.MaxMessageBytes, server.MaxRecipients, server.MaxLineLength = s.maxBytes, maxRecipients, 0
	server.EnableSMTPUTF8, server.EnableDSN = true, true
	server.ErrorLog = errorLog{s.logger}
	return server
}

// endSessions returns when all sessions have ended. Those that do not end in time are cut.
func (s *Server) endSessions(ctx context.Context, servers []*smtp.Server) {
	s.mu.Lock()
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()
	cut := time.AfterFunc(s.grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			_ = c.Conn.Close()
		}
	})
	defer cut.Stop()
	for _, server := range servers {
		_ = server.Shutdown(ctx) // waits for the sessions; complains of the listener, which is closed
	}
}

// errorLog passes on what go-smtp logs: broken connections, mostly.
type errorLog struct{ logger *slog.Logger }

// Printf is part of smtp.Logger.
func (l errorLog) Printf(format string, v ...any) {
	detail := fmt.Sprintf(format, v...)
	if strings.HasPrefix(format, "panic") {
		l.logger.Error("smtp session panicked", "detail", detail)
		return
	}
	l.logger.Debug("smtp session", "detail", detail)
}

// Println is part of smtp.Logger.
func (l errorLog) Println(v ...any) { l.logger.Debug("smtp session", "detail", fmt.Sprintln(v...)) }
