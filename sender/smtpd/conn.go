package smtpd

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// door is a listener that lets in whom the configuration admits.
type door struct {
	net.Listener
	server *Server
	source string
}

// Accept is part of net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		raw, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, refusal := d.server.admit(raw, d.source); refusal == nil {
			return c, nil
		} else {
			_ = raw.SetWriteDeadline(time.Now().Add(time.Second)) // it fits into the system's buffer
			_, _ = raw.Write([]byte(refusal.Error() + "\r\n"))
			_ = raw.Close()
		}
	}
}

// admit makes a connection one of the server's, or says why not: by smtp-service (RFC 7504 for the
// code) or total-max-smtp-in.
func (s *Server) admit(raw net.Conn, source string) (*conn, *RefusalError) {
	if !s.config.Source(addrPort(raw.RemoteAddr()).Addr(), source).SMTPService {
		return nil, &RefusalError{521, [3]int{5, 3, 2}, "host does not accept mail from you"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := s.config.TotalMaxSMTPIn; most > 0 && len(s.conns) >= most {
		return nil, &RefusalError{421, [3]int{4, 3, 2}, "too many connections, try again later"}
	}
	c := newConn(raw, s)
	s.conns[c] = true
	return c, nil
}

// conn is a feeder's connection as go-smtp sees it: without a CR that is not part of a CRLF, and
// with an end to it when the server stops or has had enough. One goroutine reads it.
//
// It must see the text: with STARTTLS it belongs above the encryption.
type conn struct {
	net.Conn
	server *Server
	in     *bufio.Reader

	mu        sync.Mutex
	receiving bool // a message is being sent
	stopping  bool // the session ends when no message is being sent
	over      bool // nothing is read any more
}

func newConn(raw net.Conn, s *Server) *conn {
	return &conn{Conn: raw, server: s, in: bufio.NewReader(raw)}
}

// Read is part of net.Conn. After an error it gives no more octets: what follows a message that
// took too long must not be taken for commands.
func (c *conn) Read(b []byte) (int, error) {
	if c.isOver() {
		return 0, io.EOF
	}
	n, err := c.in.Read(b)
	c.blankBareCR(b[:n])
	if err == nil {
		return n, nil
	}
	c.hangUp()
	if errors.Is(err, os.ErrDeadlineExceeded) && c.isInterrupted() {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("421 4.3.2 service is shutting down, try again later\r\n")) // RFC 5321 section 3.8
		return n, io.EOF
	}
	return n, err
}

// blankBareCR makes a blank of every CR in b that no LF follows, waiting for the octet behind the
// last one.
func (c *conn) blankBareCR(b []byte) {
	for i := bytes.IndexByte(b, '\r'); i >= 0; {
		follower := byte(0)
		if i+1 < len(b) {
			follower = b[i+1]
		} else if next, err := c.in.Peek(1); err == nil {
			follower = next[0]
		}
		if follower != '\n' {
			b[i] = ' '
		}
		next := bytes.IndexByte(b[i+1:], '\r')
		if next < 0 {
			return
		}
		i += 1 + next
	}
}

// past is a deadline that ends every wait.
var past = time.Unix(1, 0)

// SetReadDeadline is part of net.Conn; go-smtp calls it before each command.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping && !c.receiving {
		t = past
	}
	return c.Conn.SetReadDeadline(t)
}

// stop ends the session, after the message that is being sent if there is one.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if !c.receiving {
		_ = c.Conn.SetReadDeadline(past) // if the connection is broken the session ends anyway
	}
}

// receive notes that a message begins, which must be complete in timeout, or ends.
func (c *conn) receive(begins bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.receiving = begins
	if begins {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.server.timeout)) // as above
	}
}

func (c *conn) isReceiving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.receiving
}

func (c *conn) isInterrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping && !c.receiving
}

// hangUp lets nothing more be read: the session ends after the answer that it is about to give.
func (c *conn) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

func (c *conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// Close is part of net.Conn.
func (c *conn) Close() error {
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
	return c.Conn.Close()
}
