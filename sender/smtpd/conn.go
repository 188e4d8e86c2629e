package smtpd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"carom/sender/config"
)

// The bounds of what is read at once.
const (
	maxCommand  = 4000     // octets of a command line; RFC 5321 section 4.5.3.1.4 asks for 512, ORCPT and SMTPUTF8 add some
	inputBytes  = 4096     // what a connection that sends no message needs
	maxRead     = 64 << 10 // what one read takes of a message, and so what may be left of it
	maxResponse = 12288    // a line of an AUTH exchange, RFC 4954 section 4
)

// conn is a feeder's connection as go-smtp sees it: a line for each read, and no more. It keeps
// for itself what go-smtp is slow at or should not see: messages are read by body and chunk,
// STARTTLS and AUTH change the connection itself, and the answer to EHLO is the source's. Replies
// are held back until the feeder has to be waited for, so that those to pipelined commands leave
// together.
//
// One goroutine, the session's, reads and writes. What mu guards is asked for by others.
type conn struct {
	net.Conn          // as accepted; its deadlines count for stream too
	stream   net.Conn // Conn, or TLS above it
	server   *Server
	door     *door
	client   netip.Addr
	source   config.Source
	user     *config.User // who has logged in
	group    string       // whose slot it has
	hasSlot  bool
	session  *session // since the first EHLO

	in     []byte // in[taken:] was received and is not read yet
	taken  int
	handed []byte // what go-smtp reads next
	out    []byte // replies that are not sent yet
	begun  bool   // something was read

	verp     bool   // the last MAIL had the keyword VERP
	greeting string // the EHLO or HELO that go-smtp is about to answer
	muted    string // beginning of the reply that the feeder does not see
	chunking *body  // the message that comes in by BDAT
	over     bool   // nothing is read any more
	closed   bool

	loginFailures int

	sendBy time.Time // the deadline for writing

	mu        sync.Mutex
	readBy    time.Time // the deadline for reading
	receiving bool      // a message is being sent
	stopping  bool      // the session ends when no message is being sent

	stopped chan struct{} // closed when stopping becomes true
}

// door is a listener that lets in whom the configuration admits.
type door struct {
	Listener
	server *Server
	tls    *tls.Config // nil without a certificate
}

func (d *door) source() string { return d.Settings.Source }

// Accept is part of net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		raw, err := d.Listener.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, refusal := d.admit(raw); refusal == nil {
			return c, nil
		} else {
			d.server.intake.RefusedConnection(addrPort(raw.RemoteAddr()).Addr(), addrPort(raw.LocalAddr()).String(), refusal)
			if !d.Settings.ImmediateTLS {
				_ = raw.SetWriteDeadline(time.Now().Add(time.Second)) // it fits into the system's buffer
				_, _ = raw.Write([]byte(refusal.Error() + "\r\n"))
			}
			_ = raw.Close()
		}
	}
}

// admit makes a connection one of the server's, or says why not: by smtp-service (RFC 7504 for the
// code), or because there is no slot and clients do not wait for one.
func (d *door) admit(raw net.Conn) (*conn, *RefusalError) {
	s := d.server
	client := addrPort(raw.RemoteAddr()).Addr()
	c := &conn{
		Conn: raw, stream: raw, server: s, door: d, client: client, source: s.config.Load().Source(client, d.source()),
		in: make([]byte, 0, inputBytes), stopped: make(chan struct{}),
	}
	if !c.source.SMTPService {
		return nil, &RefusalError{521, [3]int{5, 3, 2}, "host does not accept mail from you"}
	}
	c.group = c.source.SourceGroup
	c.hasSlot = s.slots.take(c.group)
	if !c.hasSlot && !d.Settings.AwaitSlot {
		return nil, errNoSlot
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	return c, nil
}

var errNoSlot = &RefusalError{421, [3]int{4, 3, 2}, "too many connections, try again later"}

// refusedConnection tells the intake that the connection, or its logins, are not taken.
func (c *conn) refusedConnection(r *RefusalError) {
	c.server.intake.RefusedConnection(c.client, addrPort(c.LocalAddr()).String(), r)
}

// release takes a connection from the server's.
func (s *Server) release(c *conn) {
	if c.hasSlot {
		s.slots.giveBack(c.group)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Read is part of net.Conn. After an error it gives no more octets: what follows a message that
// took too long must not be taken for commands.
func (c *conn) Read(b []byte) (int, error) {
	if !c.begun {
		c.begun = true
		if err := c.begin(); err != nil {
			c.over, c.out = true, nil // no greeting, and none in the clear
			if errors.Is(err, errNoSlot) {
				c.refusedConnection(errNoSlot)
			}
			if !c.door.Settings.ImmediateTLS {
				c.reply(errNoSlot.Error())
			}
			return 0, io.EOF
		}
	}
	for len(c.handed) == 0 {
		if c.over {
			return 0, io.EOF // go-smtp closes
		}
		if c.chunking == nil { // a message has its time from the first chunk to the last
			c.await(c.source.SMTPCommandTimeout)
		}
		line, err := c.line(maxCommand)
		if err != nil {
			c.over = true
			return 0, c.lastWord(err)
		}
		c.handed = c.command(line)
	}
	n := copy(b, c.handed)
	c.handed = c.handed[n:]
	return n, nil
}

// lastWord says goodbye where go-smtp does not, and returns what go-smtp gets.
func (c *conn) lastWord(err error) error {
	switch {
	case errors.Is(err, errLineTooLong):
		c.reply("500 5.5.2 line is too long")
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded) && c.isInterrupted():
		c.reply("421 4.3.2 service is shutting down, try again later") // RFC 5321 section 3.8
		return io.EOF
	}
	return err
}

var errLineTooLong = errors.New("line is too long")

// line returns the next line with its LF, which stays valid until the next one is read. A CR that
// no LF follows is a blank in it.
func (c *conn) line(limit int) ([]byte, error) {
	searched := 0
	for {
		if i := bytes.IndexByte(c.in[c.taken+searched:], '\n'); i >= 0 {
			line := c.in[c.taken : c.taken+searched+i+1]
			c.taken += len(line)
			blankBareCR(line)
			return line, nil
		}
		searched = len(c.in) - c.taken
		if searched >= limit {
			return nil, errLineTooLong
		}
		if err := c.fill(limit); err != nil {
			return nil, err
		}
	}
}

// blankBareCR makes a blank of every CR in the line that is not part of its end.
func blankBareCR(line []byte) {
	text := line[:max(0, len(line)-2)]
	for i := bytes.IndexByte(text, '\r'); i >= 0; i = bytes.IndexByte(text, '\r') {
		text[i] = ' '
	}
}

// fill sends what waits to be sent, waits for octets and puts them behind those in c.in, which
// grows to limit.
func (c *conn) fill(limit int) error {
	if err := c.flush(); err != nil {
		return err
	}
	rest := c.in[c.taken:]
	switch {
	case len(rest) == 0 && cap(c.in) > 4*inputBytes:
		c.in = make([]byte, 0, inputBytes)
	case len(rest) == cap(c.in):
		c.in = append(make([]byte, 0, min(2*cap(c.in), limit)), rest...)
	default:
		c.in = c.in[:copy(c.in[:cap(c.in)], rest)]
	}
	c.taken = 0
	n, err := c.stream.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Write is part of net.Conn; go-smtp writes a line each time.
func (c *conn) Write(b []byte) (int, error) {
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.muted != "":
		muted := bytes.HasPrefix(b, []byte(c.muted))
		c.muted = ""
		if muted {
			return len(b), nil
		}
	case c.greeting != "":
		if c.greeted(b) {
			return len(b), nil
		}
	}
	c.out = append(c.out, b...)
	return len(b), nil
}

// greeted takes a line of go-smtp's answer to a greeting. It reports whether the feeder does not
// see it: what EHLO is answered with depends on the source.
func (c *conn) greeted(line []byte) bool {
	verb := c.greeting
	if bytes.HasPrefix(line, []byte("250-")) {
		return true
	}
	c.greeting = ""
	if !bytes.HasPrefix(line, []byte("250 ")) || c.session == nil {
		return false
	}
	c.session.greet()
	if verb == "EHLO" {
		c.offer()
		return true
	}
	return false
}

// reply answers a command in go-smtp's place, with one line.
func (c *conn) reply(line string) {
	c.out = append(append(c.out, line...), "\r\n"...)
}

// flush sends the replies that were held back.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	timeout := min(c.source.SMTPCommandTimeout, c.server.timeout)
	if now := time.Now(); c.sendBy.Sub(now) < timeout-timeout/16 {
		c.sendBy = now.Add(timeout)
		_ = c.SetWriteDeadline(c.sendBy) // if the connection is broken the next call tells
	}
	_, err := c.stream.Write(c.out)
	c.out = c.out[:0]
	return err
}

// past is a deadline that ends every wait.
var past = time.Unix(1, 0)

// await sets the deadline for what comes next, up to a sixteenth earlier: setting it for each
// command costs more than reading the command.
func (c *conn) await(timeout time.Duration) {
	timeout = min(timeout, c.server.timeout)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.readBy.Sub(now)
	if left <= timeout && left >= timeout-timeout/16 || c.stopping && !c.receiving {
		return
	}
	c.readBy = now.Add(timeout)
	_ = c.SetReadDeadline(c.readBy) // if the connection is broken the next read tells
}

// stop ends the session, after the message that is being sent if there is one.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopping {
		close(c.stopped)
	}
	c.stopping = true
	if !c.receiving {
		c.readBy = past
		_ = c.SetReadDeadline(past) // if the connection is broken the session ends anyway
	}
}

// receive notes that a message begins, which must be complete in the source's time, or ends.
func (c *conn) receive(begins bool) {
	c.mu.Lock()
	c.receiving = begins
	stopping := c.stopping
	c.mu.Unlock()
	if begins {
		c.await(c.source.SMTPDataTimeout)
	} else if stopping {
		c.stop()
	}
}

func (c *conn) isInterrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping && !c.receiving
}

// hangUp lets nothing more be read: the session ends after the answer that it is about to give.
func (c *conn) hangUp() { c.over = true }

// Close is part of net.Conn. go-smtp goes on reading after it.
func (c *conn) Close() error {
	if c.closed {
		return nil
	}
	c.closed, c.over, c.handed = true, true, nil
	c.server.release(c)
	c.dropChunks()
	if len(c.out) > 0 {
		c.sendBy = time.Time{}
		_ = c.SetWriteDeadline(time.Now().Add(closeTimeout))
		_, _ = c.stream.Write(c.out) // perhaps nobody is there any more
		c.out = c.out[:0]
	}
	return c.stream.Close()
}

// closeTimeout is how long the last reply may take to leave.
const closeTimeout = time.Second
