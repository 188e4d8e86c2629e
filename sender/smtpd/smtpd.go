// Package smtpd takes mail in over SMTP (RFC 5321) on go-smtp: it decides who may hand over what,
// prepares the message, and gives it to an Intake, whose answer is the answer to DATA.
//
// The relay is closed unless a <source> opens it. What the feeder says in x- headers (virtual MTA,
// job, envelope ID, tenant) is read here and removed. Bodies are bounded, line ends are made CRLF,
// and the end of data is CRLF "." CRLF and nothing else. Replies never show internals; the log does.
//
// A Server is safe for concurrent use; each connection has its own session.
package smtpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"carom/schemas/event"
	"carom/sender/config"
)

// maxMessageBytes bounds a message where the configuration sets no smaller bound: a message is
// held in memory while it is taken in.
const maxMessageBytes = 64 << 20

// maxRecipients bounds the recipients of one message where the configuration sets no smaller
// bound. RFC 5321 section 4.5.3.1.8 asks for at least 100.
const maxRecipients = 10_000

// commandTimeout is PowerMTA's default of smtp-command-timeout and of smtp-data-timeout.
const commandTimeout = 10 * time.Minute

// Recipient is one recipient of a message.
type Recipient struct {
	Address string
	ORcpt   string // ORCPT parameter, RFC 3461 section 4.2
}

// Message is a message that is about to be accepted.
type Message struct {
	ID         event.ID
	Arrived    time.Time
	From       string // reverse-path, "" for the null sender
	Recipients []Recipient

	VMTA       string
	Job        string
	EnvID      string
	Tenant     string
	FromDomain string

	Listener   string
	ClientIP   netip.Addr
	ClientName string // as given in EHLO

	Content []byte // header and body with CRLF line ends
}

// RefusalError is an answer that keeps a command from succeeding.
type RefusalError struct {
	Code     int
	Enhanced [3]int
	Text     string
}

// Error returns the refusal as it is sent.
func (r *RefusalError) Error() string {
	return fmt.Sprintf("%d %d.%d.%d %s", r.Code, r.Enhanced[0], r.Enhanced[1], r.Enhanced[2], r.Text)
}

func (r *RefusalError) smtp() *smtp.SMTPError {
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: smtp.EnhancedCode(r.Enhanced), Message: r.Text}
}

// Intake takes what the server lets in. Its methods are called by many sessions at once.
type Intake interface {
	// Local reports whether mail for the address ends here, at a bounce or feedback-loop
	// processor; such mail is let in from anybody.
	Local(address string) bool
	// Suppressed reports whether the address must not be mailed on behalf of the tenant.
	Suppressed(tenant, address string) bool
	// SelectVMTA returns the virtual MTA for a message that asks for the given one ("" for none).
	SelectVMTA(source config.Source, asked string, local netip.Addr) (string, *RefusalError)
	// Accept makes the message durable: when it returns nil the feeder gets its 250. A *RefusalError
	// is sent as it is; any other error is answered with 451 4.3.0 and logged.
	Accept(ctx context.Context, m *Message) error
	// Refused is told of each recipient or message that was refused for a reason of policy.
	Refused(m *Message, recipient string, r *RefusalError)
}

// Server listens for feeders.
type Server struct {
	config *config.Config
	intake Intake
	logger *slog.Logger
	host   string
	slots  chan struct{}

	mu      sync.Mutex
	servers []*smtp.Server
}

// New returns a server for the listeners of the configuration; Run starts it. The host name is
// the one of the greeting.
func New(c *config.Config, host string, intake Intake, logger *slog.Logger) *Server {
	s := &Server{config: c, intake: intake, logger: logger, host: host}
	if c.TotalMaxSMTPIn > 0 {
		s.slots = make(chan struct{}, c.TotalMaxSMTPIn)
	}
	return s
}

// Listener is where a server listens: an address and the named source whose settings apply.
type Listener struct {
	net.Listener
	Source string
}

// Run serves the listeners until ctx is done; then it lets sessions finish the command they are
// in and closes them.
func (s *Server) Run(ctx context.Context, listeners []Listener) error {
	errs := make(chan error, len(listeners))
	for _, l := range listeners {
		server := smtp.NewServer(&backend{server: s, source: l.Source, ctx: context.WithoutCancel(ctx)})
		server.Domain = s.host
		server.MaxMessageBytes = maxMessageBytes
		server.MaxRecipients = maxRecipients
		server.ReadTimeout, server.WriteTimeout = commandTimeout, commandTimeout
		server.EnableSMTPUTF8 = true
		server.EnableDSN = true
		server.ErrorLog = errorLog{s.logger}
		s.mu.Lock()
		s.servers = append(s.servers, server)
		s.mu.Unlock()
		go func() {
			err := server.Serve(&limited{Listener: l.Listener, slots: s.slots})
			if errors.Is(err, smtp.ErrServerClosed) {
				err = nil
			}
			errs <- err
		}()
	}
	var failed error
	stopped := 0
	select {
	case <-ctx.Done():
	case failed = <-errs:
		stopped++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, server := range s.servers {
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close() // sessions that sit idle are cut
		}
	}
	for ; stopped < len(listeners); stopped++ {
		failed = errors.Join(failed, <-errs)
	}
	if failed != nil {
		return fmt.Errorf("smtp listener: %w", failed)
	}
	return nil
}

// errorLog passes on what go-smtp logs: broken connections, mostly.
type errorLog struct{ logger *slog.Logger }

// Printf is part of smtp.Logger.
func (l errorLog) Printf(format string, v ...any) {
	l.logger.Debug("smtp session", "detail", fmt.Sprintf(format, v...))
}

// Println is part of smtp.Logger.
func (l errorLog) Println(v ...any) { l.logger.Debug("smtp session", "detail", fmt.Sprintln(v...)) }

// limited hands out connections as long as there are slots (total-max-smtp-in); without a slot
// the answer is 421 and the end, as with PowerMTA's smtp-await-slot at its default.
type limited struct {
	net.Listener
	slots chan struct{}
}

// Accept is part of net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.slots == nil {
			return conn, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slotConn{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write([]byte("421 4.3.2 too many connections, try again later\r\n"))
			_ = conn.Close()
		}
	}
}

type slotConn struct {
	net.Conn
	release func()
}

// Close closes the connection and gives its slot back.
func (c *slotConn) Close() error {
	c.release()
	return c.Conn.Close()
}
