package smtpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// Conn is one SMTP connection that is ready for transactions, or closed. It is not safe for
// concurrent use; to end a call from outside, end its context.
type Conn struct {
	id       event.ID
	opened   time.Time
	timing   DialTiming
	timeouts Timeouts

	wire   *wire
	br     *bufio.Reader
	bw     *bufio.Writer
	ext    Extensions
	tls    *tls.ConnectionState
	closed bool
	stale  bool // a transaction was left open: RSET comes before the next
	count  int

	pix        bool // the greeting is a PIX firewall's
	dotAlone   bool // and the final dot goes out by itself
	survive421 bool

	// Kept for their memory, from one transaction to the next.
	sending sending
	steps   []step
	results []RcptResult
	dots    dotWriter
	more    func() error // sets the deadline for the rest of a reply
}

// DialTiming says how long the parts of opening a connection took.
type DialTiming struct {
	Connect  time.Duration // TCP
	Greeting time.Duration // until the greeting was complete
	Hello    time.Duration // EHLO, HELO and the answers; the second EHLO after STARTTLS too
	TLS      time.Duration // STARTTLS and the handshake, or the refusal of it; 0 where it was not asked for
	Auth     time.Duration // AUTH; 0 without credentials
}

// wire is the network connection below the buffers. It gives each block its own deadline.
type wire struct {
	net.Conn
	timeout time.Duration
}

// maxBlock is the most that has to go out within Timeouts.Block: a slow peer may take long for
// a large message as long as it goes on taking.
const maxBlock = 256 << 10

// Write implements io.Writer.
func (w *wire) Write(p []byte) (n int, err error) {
	for {
		if err := w.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
			return n, err
		}
		m, err := w.Conn.Write(p[n:min(n+maxBlock, len(p))])
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// writeBuffer holds a message of usual size whole, so that it is one write.
const writeBuffer = 16 << 10

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxReplyLine) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeBuffer) }}
)

// Dial opens a connection and makes it ready for Send. Its error is an *Error; where the peer
// answered with a refusal, Error.Reply holds it.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	start := time.Now()
	nc, err := connect(ctx, &cfg)
	if err != nil {
		return nil, &Error{Phase: event.PhaseConnect, Err: err}
	}
	return open(ctx, &cfg, nc, start)
}

func connect(ctx context.Context, cfg *Config) (net.Conn, error) {
	d := net.Dialer{Timeout: cfg.Timeouts.Connect}
	if cfg.LocalIP.IsValid() {
		local, remote := cfg.LocalIP.Unmap(), cfg.RemoteAddr.Addr().Unmap()
		if local.Is4() != remote.Is4() {
			return nil, fmt.Errorf("source address %s and %s are not of one family", local, remote)
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		d.Control = bindLate
	}
	nc, err := d.DialContext(ctx, "tcp", cfg.RemoteAddr.String())
	if se, ok := errors.AsType[*os.SyscallError](err); ok && se.Syscall == "bind" && errors.Is(se, syscall.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("%w: %s", ErrNotLocal, cfg.LocalIP)
	}
	return nc, err
}

// open takes a fresh connection through greeting, EHLO and STARTTLS. It closes nc on failure.
func open(ctx context.Context, cfg *Config, nc net.Conn, start time.Time) (*Conn, error) {
	c := &Conn{
		id:       event.NewID(),
		opened:   time.Now(),
		timeouts: cfg.Timeouts,
		wire:     &wire{Conn: nc, timeout: cfg.Timeouts.Block},
		br:       readers.Get().(*bufio.Reader), //nolint:errcheck // the pool holds nothing else
		bw:       writers.Get().(*bufio.Writer), //nolint:errcheck // the pool holds nothing else
	}
	c.br.Reset(c.wire)
	c.bw.Reset(c.wire)
	c.survive421 = cfg.Survive421
	c.more = func() error {
		if c.lineWaits() {
			return nil
		}
		return c.wire.SetReadDeadline(time.Now().Add(c.timeouts.Lines))
	}
	c.timing.Connect = c.opened.Sub(start)
	stop := c.closeOn(ctx)
	err := c.greet(ctx, cfg)
	if !stop() && err == nil {
		err = &Error{Phase: event.PhaseEHLO, Err: context.Cause(ctx)}
	}
	if err != nil {
		if err.Err == nil || errors.Is(err.Err, ErrNoTLS) || errors.Is(err.Err, ErrNoAuth) || errors.Is(err.Err, ErrAuth) {
			// RFC 5321 section 3.1 wants a QUIT even now. There is nothing to wait for.
			c.wire.timeout = c.timeouts.Quit
			_, _ = c.wire.Write([]byte("QUIT\r\n"))
		}
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet runs everything between connect and the first MAIL.
func (c *Conn) greet(ctx context.Context, cfg *Config) *Error {
	since := time.Now()
	reply, err := c.read(ctx, c.timeouts.Greeting, false)
	c.timing.Greeting = lap(&since)
	if err != nil {
		return &Error{Phase: event.PhaseGreeting, Err: err}
	}
	if reply.Code != 220 {
		return refusal(event.PhaseGreeting, reply)
	}
	c.pix = strings.Count(reply.String(), "*") >= pixStars
	c.dotAlone = c.pix && cfg.PIXWorkaround
	if err := c.ehlo(ctx, cfg); err != nil {
		return err
	}
	c.timing.Hello = lap(&since)
	if err := c.secure(ctx, cfg, &since); err != nil || cfg.Credentials == (Credentials{}) {
		return err
	}
	refused := c.authenticate(ctx, cfg)
	c.timing.Auth = lap(&since)
	return refused
}

// pixStars is how many asterisks a PIX at least makes of a greeting's text, by which it is known.
const pixStars = 10

// secure starts TLS as the policy asks.
func (c *Conn) secure(ctx context.Context, cfg *Config, since *time.Time) *Error {
	switch {
	case cfg.TLS == TLSOff:
		return nil
	case !c.ext.StartTLS && cfg.TLS == TLSRequired:
		return &Error{Phase: event.PhaseTLS, Err: ErrNoTLS}
	case !c.ext.StartTLS:
		return nil
	}
	err := c.startTLS(ctx, cfg)
	c.timing.TLS = lap(since)
	if err != nil || c.tls == nil {
		return err
	}
	// RFC 3207 section 4.2: what was learned before TLS is forgotten.
	err = c.ehlo(ctx, cfg)
	c.timing.Hello += lap(since)
	if err != nil && isTLSAlert(err) {
		err.Phase = event.PhaseTLS // with TLS 1.3 a client's certificate is judged after its handshake
	}
	return err
}

// lap returns the time since *since and sets it to now.
func lap(since *time.Time) time.Duration {
	now := time.Now()
	d := now.Sub(*since)
	*since = now
	return d
}

// refusal is the error for a reply that ends the attempt: a 4yz or 5yz, or one out of place.
func refusal(phase event.Phase, reply smtpstatus.Reply) *Error {
	if reply.Positive() {
		return &Error{Phase: phase, Reply: reply, Err: ErrProtocol}
	}
	return &Error{Phase: phase, Reply: reply}
}

// ehlo says EHLO, or HELO where the peer does not know EHLO (RFC 5321 section 3.2).
func (c *Conn) ehlo(ctx context.Context, cfg *Config) *Error {
	reply, err := c.exchange(ctx, "EHLO "+cfg.EHLO)
	if err != nil {
		return &Error{Phase: event.PhaseEHLO, Err: err}
	}
	if reply.Code == 250 {
		c.ext = parseExtensions(reply.Lines, cfg)
		return nil
	}
	c.ext = Extensions{}
	if !reply.Permanent() {
		return refusal(event.PhaseEHLO, reply)
	}
	second, err := c.exchange(ctx, "HELO "+cfg.EHLO)
	switch {
	case err != nil: // it closed after refusing EHLO: the refusal is the reason
		return &Error{Phase: event.PhaseEHLO, Reply: reply, Err: err}
	case second.Code != 250:
		return refusal(event.PhaseEHLO, second)
	}
	return nil
}

// startTLS starts TLS. It returns nil with c.tls unset if the peer refuses and the policy allows
// to go on without.
func (c *Conn) startTLS(ctx context.Context, cfg *Config) *Error {
	reply, err := c.exchange(ctx, "STARTTLS")
	switch {
	case err != nil:
		return &Error{Phase: event.PhaseTLS, Err: err}
	case reply.Code == 421:
		return refusal(event.PhaseTLS, reply)
	case reply.Code != 220 && cfg.TLS == TLSRequired:
		return &Error{Phase: event.PhaseTLS, Reply: reply, Err: ErrNoTLS}
	case reply.Code != 220:
		return nil
	}
	config := clientTLS(cfg)
	conn := tls.Client(c.wire.Conn, config)
	hctx, cancel := context.WithTimeout(ctx, c.timeouts.Command)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		return &Error{Phase: event.PhaseTLS, Err: fmt.Errorf("TLS handshake: %w", networkError(ctx, err))}
	}
	state := conn.ConnectionState()
	c.tls = &state
	if cfg.FullHandshakes && state.Version <= tls.VersionTLS12 && config.ClientSessionCache != nil {
		config.ClientSessionCache.Put(config.ServerName, nil)
	}
	// Dropping what was buffered in the clear behind the 220 is the defence against injected
	// replies: RFC 3207 section 6.
	c.wire = &wire{Conn: conn, timeout: c.timeouts.Block}
	c.br.Reset(c.wire)
	c.bw.Reset(c.wire)
	return nil
}

// closeOn closes the network connection when ctx ends. stop ends the watch.
func (c *Conn) closeOn(ctx context.Context) (stop func() bool) {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	nc := c.network()
	return context.AfterFunc(ctx, func() { _ = nc.Close() })
}

// network returns the connection below TLS: tls.Conn.Close would wait to say goodbye.
func (c *Conn) network() net.Conn {
	if t, ok := c.wire.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.wire.Conn
}

// Abort returns a function that cuts the connection. A call that is under way then fails, and the
// Conn is to be closed as ever. The function may be called by any goroutine, at any time, again. It
// serves where one watch over the whole life of the connection is cheaper than a context for each
// call.
func (c *Conn) Abort() func() {
	nc := c.network()
	return func() { _ = nc.Close() }
}

// lineWaits reports whether the next line of the peer has arrived: reading it cannot block.
func (c *Conn) lineWaits() bool {
	buffered, _ := c.br.Peek(c.br.Buffered())
	return bytes.IndexByte(buffered, '\n') >= 0
}

// read reads one reply within timeout, without the text of a good one if terse.
func (c *Conn) read(ctx context.Context, timeout time.Duration, terse bool) (smtpstatus.Reply, error) {
	if !c.lineWaits() { // a deadline costs more than to look
		if err := c.wire.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			return smtpstatus.Reply{}, networkError(ctx, err)
		}
	}
	reply, err := readReply(c.br, terse, c.more)
	if err != nil {
		return smtpstatus.Reply{}, networkError(ctx, err)
	}
	return reply, nil
}

// exchange sends one command and reads its reply.
func (c *Conn) exchange(ctx context.Context, line string) (smtpstatus.Reply, error) {
	_, _ = c.bw.WriteString(line) // the error comes back from Flush
	_, _ = c.bw.WriteString("\r\n")
	flushErr := c.bw.Flush()
	reply, err := c.read(ctx, c.patience(flushErr, c.timeouts.Command), false)
	if err != nil && flushErr != nil {
		err = networkError(ctx, flushErr)
	}
	return reply, err
}

// lastWords is how long to wait for a reply that the peer may have sent before it closed.
const lastWords = time.Second

// patience returns how long to wait for a reply after a write that ended with err.
func (c *Conn) patience(err error, timeout time.Duration) time.Duration {
	if err != nil {
		return min(lastWords, timeout)
	}
	return timeout
}

// Reset abandons the open transaction, if any, with RSET; it also tells whether an idle
// connection still works. Its error is an *Error, after which the connection is closed.
func (c *Conn) Reset(ctx context.Context) error {
	if c.closed {
		return &Error{Phase: event.PhaseMail, Err: ErrClosed}
	}
	stop := c.closeOn(ctx)
	reply, err := c.exchange(ctx, "RSET")
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	switch {
	case err != nil:
		c.Close()
		return &Error{Phase: event.PhaseMail, Err: err}
	case reply.Code != 250:
		c.Close()
		return refusal(event.PhaseMail, reply)
	}
	c.stale = false
	return nil
}

// Quit says QUIT, waits Timeouts.Quit for the answer and closes the connection. Nothing that
// goes wrong here matters to any message, so there is no error.
func (c *Conn) Quit(ctx context.Context) {
	if c.closed {
		return
	}
	stop := c.closeOn(ctx)
	defer stop()
	c.wire.timeout = c.timeouts.Quit
	_, _ = c.bw.WriteString("QUIT\r\n")
	if c.bw.Flush() == nil {
		_, _ = c.read(ctx, c.timeouts.Quit, true)
	}
	c.Close()
}

// Close closes the connection without a word. It may be called again.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	c.closed = true
	_ = c.wire.Conn.Close()
	c.br.Reset(nil)
	c.bw.Reset(nil)
	readers.Put(c.br)
	writers.Put(c.bw)
	c.br, c.bw = nil, nil
}

// ID identifies the connection in events.
func (c *Conn) ID() event.ID { return c.id }

// Opened returns when the TCP connection was established.
func (c *Conn) Opened() time.Time { return c.opened }

// Timing returns how long opening the connection took.
func (c *Conn) Timing() DialTiming { return c.timing }

// LocalAddr returns the address that is really bound: the source that the peer sees.
func (c *Conn) LocalAddr() netip.AddrPort { return addrPort(c.wire.LocalAddr()) }

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() netip.AddrPort { return addrPort(c.wire.RemoteAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// PIX reports whether the greeting is that of a Cisco PIX firewall, which writes asterisks over the
// server's text.
func (c *Conn) PIX() bool { return c.pix }

// Extensions returns what the peer offered in its last answer to EHLO.
func (c *Conn) Extensions() Extensions { return c.ext }

// TLS returns the state of the TLS session, or nil for a connection in the clear.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Messages returns how many transactions were begun on the connection.
func (c *Conn) Messages() int { return c.count }

// Usable reports whether another Send may succeed: nothing closed the connection so far.
func (c *Conn) Usable() bool { return !c.closed }
