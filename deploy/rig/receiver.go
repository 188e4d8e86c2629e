package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Step is a moment in a session at which a Receiver answers.
type Step int

// The steps.
const (
	Greeting Step = iota
	EHLO
	Mail
	Rcpt
	Data // before the content, where DATA is used
	Dot  // after the content, of BDAT too
)

// Answer is what a Receiver does at a step. Zero is the answer of a peer that has no objections.
type Answer struct {
	Text  string // the reply, without its line end; "" means a positive one
	Wait  time.Duration
	Close bool // hang up after it
	// Raw takes the place of the reply: it may write anything, for as long as it likes. The
	// connection is closed when it returns an error.
	Raw func(net.Conn) error
}

// WithoutChunking is a reply to EHLO that leaves CHUNKING out.
const WithoutChunking = "250-mx.rig.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 ENHANCEDSTATUSCODES"

// Session is what a Script knows of a session.
type Session struct {
	Number     int // of the connection, from 0
	Recipients []string
	Message    int // of the connection, from 0
}

// Script decides the answers of a Receiver. It is called from many goroutines.
type Script func(step Step, s Session, argument string) Answer

// Receiver is a peer that mail is delivered to. It offers PIPELINING, 8BITMIME, SIZE and CHUNKING,
// and takes DATA too.
type Receiver struct {
	Address string
	script  Script
	audit   *Audit

	mu       sync.Mutex
	sessions int
	open     map[net.Conn]bool
	wait     sync.WaitGroup
}

// NewReceiver starts a receiver on a loopback address, which reports to audit and ends with the test.
func NewReceiver(tb testing.TB, audit *Audit, script Script) *Receiver {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	if script == nil {
		script = func(Step, Session, string) Answer { return Answer{} }
	}
	r := &Receiver{Address: l.Addr().String(), script: script, audit: audit, open: map[net.Conn]bool{}}
	r.wait.Go(func() { r.accept(l) })
	tb.Cleanup(func() {
		_ = l.Close()
		r.Hangup()
		r.wait.Wait()
	})
	return r
}

// Port returns the port of its address.
func (r *Receiver) Port() string {
	_, port, _ := net.SplitHostPort(r.Address)
	return port
}

// Hangup closes all connections.
func (r *Receiver) Hangup() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.open {
		_ = conn.Close()
	}
}

// Open returns the number of connections.
func (r *Receiver) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// Quiet waits until there is no connection, which is soon after the death of the node.
func (r *Receiver) Quiet(ctx context.Context) error {
	return Until(ctx, 30*time.Second, "the end of all connections", func(context.Context) error {
		if n := r.Open(); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}

func (r *Receiver) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		s := &session{r: r, conn: conn, in: bufio.NewReaderSize(conn, 64<<10), known: Session{Number: r.sessions}}
		r.sessions++
		r.open[conn] = true
		r.mu.Unlock()
		r.wait.Go(func() {
			_ = s.serve() // the audit notes what matters
			_ = conn.Close()
			r.audit.ended(s.last, s.quit)
			r.mu.Lock()
			delete(r.open, conn)
			r.mu.Unlock()
		})
	}
}

// session is one connection of a Receiver.
type session struct {
	r     *Receiver
	conn  net.Conn
	in    *bufio.Reader
	known Session
	began bool // MAIL was taken
	body  []byte
	last  *Transaction // that was taken, until the peer ends another message
	quit  bool
}

var errHungUp = errors.New("hung up")

// sessionIdle ends a session of a node that lets a connection rest.
const sessionIdle = 2 * time.Minute

func (s *session) serve() error {
	if err := s.answer(Greeting, "", "220 mx.rig.test ESMTP"); err != nil {
		return err
	}
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(sessionIdle)); err != nil {
			return err
		}
		line, err := s.in.ReadString('\n')
		if err != nil {
			return err
		}
		if err := s.command(strings.TrimRight(line, "\r\n")); err != nil {
			return err
		}
	}
}

func (s *session) command(line string) error {
	verb, argument, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		s.reset()
		return ignoreRefusal(s.answer(EHLO, argument, strings.Replace(WithoutChunking, "250-PIPELINING", "250-CHUNKING\r\n250-PIPELINING", 1)))
	case "MAIL":
		s.reset()
		err := s.answer(Mail, argument, "250 2.1.0 sender")
		s.began = err == nil
		return ignoreRefusal(err)
	case "RCPT":
		if !s.began {
			return s.write("503 5.5.1 MAIL first")
		}
		address := between(argument, "<", ">")
		err := s.answer(Rcpt, address, "250 2.1.5 recipient")
		if err == nil {
			s.known.Recipients = append(s.known.Recipients, address)
		}
		return ignoreRefusal(err)
	case "DATA":
		return s.data()
	case "BDAT":
		return s.chunk(argument)
	case "RSET", "NOOP":
		s.reset()
		return s.write("250 2.0.0 so be it")
	case "QUIT":
		s.quit = true
		_ = s.write("221 2.0.0 bye") // it may be gone already
		return errHungUp
	default:
		return s.write("500 5.5.1 what?")
	}
}

func between(text, left, right string) string {
	_, text, _ = strings.Cut(text, left)
	text, _, _ = strings.Cut(text, right)
	return text
}

func (s *session) reset() { s.began, s.known.Recipients, s.body = false, nil, nil }

var errRefused = errors.New("refused")

func ignoreRefusal(err error) error {
	if errors.Is(err, errRefused) {
		return nil
	}
	return err
}

// answer answers as the script says. Its error is errRefused after a negative reply.
func (s *session) answer(step Step, argument, positive string) error {
	a := s.r.script(step, s.known, argument)
	if a.Wait > 0 {
		time.Sleep(a.Wait) // a slow peer
	}
	if a.Raw != nil {
		if err := a.Raw(s.conn); err != nil {
			return err
		}
		return errRefused
	}
	text := a.Text
	if text == "" {
		text = positive
	}
	refused := text[0] == '4' || text[0] == '5'
	if step == Dot && !refused {
		s.taken()
	}
	if err := s.write(text); err != nil {
		return err
	}
	switch {
	case a.Close:
		return errHungUp
	case refused:
		return errRefused
	}
	return nil
}

func (s *session) write(text string) error {
	_, err := io.WriteString(s.conn, text+"\r\n")
	return err
}

// data takes the content of DATA.
func (s *session) data() error {
	if len(s.known.Recipients) == 0 {
		return s.write("503 5.5.1 no recipients")
	}
	if err := s.answer(Data, "", "354 go ahead"); err != nil {
		return ignoreRefusal(err)
	}
	var body bytes.Buffer
	for {
		line, err := s.in.ReadBytes('\n')
		if err != nil {
			return err
		}
		if string(line) == ".\r\n" {
			break
		}
		body.Write(bytes.TrimPrefix(line, []byte(".")))
	}
	s.body = body.Bytes()
	return s.dot()
}

// chunk takes a BDAT (RFC 3030).
func (s *session) chunk(argument string) error {
	size, last, _ := strings.Cut(argument, " ")
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 || n > 1<<26 {
		return errors.Join(s.write("501 5.5.4 bad size"), errHungUp)
	}
	part := make([]byte, n)
	if _, err := io.ReadFull(s.in, part); err != nil {
		return err
	}
	s.body = append(s.body, part...)
	switch {
	case len(s.known.Recipients) == 0:
		return s.write("503 5.5.1 no recipients")
	case strings.EqualFold(last, "LAST"):
		return s.dot()
	default:
		return s.write("250 2.0.0 chunk")
	}
}

func (s *session) dot() error {
	s.r.audit.confirmed(s.last)
	s.last = nil
	err := s.answer(Dot, "", "250 2.0.0 taken")
	s.reset()
	s.known.Message++
	return ignoreRefusal(err)
}

// taken notes a message before the answer to it leaves.
func (s *session) taken() {
	number, err := Check(s.body)
	s.last = s.r.audit.delivered(number, s.known.Recipients, err)
}
