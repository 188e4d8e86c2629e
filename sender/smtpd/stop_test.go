package smtpd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"carom/sender/config"
)

// sessions returns the number of connections that the server holds.
func (s *Server) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func TestStopEndsIdleSessions(t *testing.T) {
	s := start(t, open, &desk{}, nil)
	idle, greeted, begun := s.dial(t), s.hello(t), s.hello(t)
	idle.expect("220")
	begun.say("MAIL FROM:<a@b.test>", "250")
	s.stop()
	for _, f := range []*feeder{idle, greeted, begun} {
		f.expect("421 4.3.2 service is shutting down")
		f.expect("")
	}
	s.wait(t)
	if conn, err := net.Dial("tcp", s.address); err == nil {
		conn.Close()
		t.Error("the listener is still open")
	}
}

func TestStopWaitsForAMessage(t *testing.T) {
	d := &desk{}
	s := start(t, open, d, nil)
	f, idle := s.hello(t), s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	f.say("RCPT TO:<a@away.test>", "250")
	f.say("DATA", "354")
	f.send("A: b\r\n")
	eventually(t, "the message is being read", func() bool { return s.receiving() == 1 })
	s.stop()
	idle.expect("421")
	f.say("\r\nbody\r\n.", "250 2.0.0 OK: queued")
	f.expect("421")
	f.expect("")
	s.wait(t)
	if len(d.messages()) != 1 {
		t.Error("the message was not accepted")
	}
}

// receiving returns the number of sessions that take a message in.
func (s *Server) receiving() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.conns {
		c.mu.Lock()
		if c.receiving {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

func TestStopCutsAMessageThatTakesTooLong(t *testing.T) {
	d := &desk{}
	s := start(t, open, d, func(s *Server) { s.grace = 10 * time.Millisecond })
	for _, begin := range []string{"DATA\r\n", "BDAT 100\r\n"} {
		f := s.hello(t)
		f.say("MAIL FROM:<a@b.test>", "250")
		f.say("RCPT TO:<a@away.test>", "250")
		f.send(begin + "A: b\r\n")
	}
	eventually(t, "the messages are being read", func() bool { return s.receiving() == 2 })
	s.stop()
	s.wait(t)
	if len(d.messages()) != 0 {
		t.Error("half a message was accepted")
	}
}

// The intake must have its say: nothing of it may happen after Run.
func TestStopWaitsForTheIntake(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	d := &desk{accept: func(*Message) error {
		close(entered)
		<-release
		return nil
	}}
	s := start(t, open, d, func(s *Server) { s.grace = time.Millisecond })
	f := s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	f.say("RCPT TO:<a@away.test>", "250")
	f.say("DATA", "354")
	f.send(".\r\n")
	<-entered
	s.stop()
	f.expect("") // cut
	select {
	case err := <-s.done:
		t.Fatalf("Run returned (%v) while a message was being accepted", err)
	default:
	}
	close(release)
	s.wait(t)
	if len(d.messages()) != 1 {
		t.Error("the message was not accepted")
	}
}

func TestRunWhenAlreadyStopped(t *testing.T) {
	for range 50 {
		s := start(t, open, &desk{}, nil)
		s.stop()
		s.wait(t)
	}
}

func TestAListenerThatFailsStopsTheServer(t *testing.T) {
	c, _, err := config.Parse("test.conf", nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(c, "mx.test", &desk{}, slog.New(slog.DiscardHandler))
	broken := errors.New("broken")
	if err := s.Run(t.Context(), []Listener{{Listener: l}, {Listener: failing{l, broken}}}); !errors.Is(err, broken) {
		t.Errorf("Run gives %v, want %v", err, broken)
	}
}

type failing struct {
	net.Listener
	err error
}

func (f failing) Accept() (net.Conn, error) { return nil, f.err }
func (f failing) Close() error              { return nil }

func TestTotalMaxSMTPIn(t *testing.T) {
	s := start(t, open+"total-max-smtp-in 2", &desk{}, nil)
	first := s.hello(t)
	s.hello(t)
	third := s.dial(t)
	third.expect("421 4.3.2 too many connections")
	third.expect("")
	first.say("QUIT", "221")
	eventually(t, "a slot is free", func() bool { return s.sessions() == 1 })
	s.hello(t)
}

func TestSlowMessageIsNotTakenForCommands(t *testing.T) {
	d := &desk{}
	s := start(t, open, d, func(s *Server) { s.timeout = 200 * time.Millisecond })
	f := s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	f.say("RCPT TO:<a@away.test>", "250")
	f.say("DATA", "354")
	f.send("A: b\r\n\r\n")
	f.expect("451 4.4.2 message is incomplete")
	_, _ = f.conn.Write([]byte("MAIL FROM:<evil@b.test>\r\n")) // perhaps nobody is there any more
	for {
		line, err := f.in.ReadLine()
		if err != nil {
			break
		}
		if strings.HasPrefix(line, "250") {
			t.Fatalf("the body was taken for a command: %q", line)
		}
	}
}

func TestIdleSession(t *testing.T) {
	f := start(t, open, &desk{}, func(s *Server) { s.timeout = 50 * time.Millisecond }).dial(t)
	f.expect("220")
	f.expect("421 4.4.2")
	f.expect("")
}

func TestStrangersWhoCollectRefusals(t *testing.T) {
	d := &desk{}
	s := start(t, "relay-domain inside.test", d, nil)
	f := s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	for i := range maxRefusals - 1 {
		f.say(fmt.Sprintf("RCPT TO:<%d@away.test>", i), "550")
	}
	f.say("RCPT TO:<last@away.test>", "421 4.7.0")
	f.expect("")
	if n := len(d.refusals()); n != maxRefusals {
		t.Errorf("%d refusals reported, want %d", n, maxRefusals)
	}

	d.suppressed = map[string]bool{"/x@away.test": true}
	f = start(t, open, d, nil).hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	for range 5 * maxRefusals {
		f.say("RCPT TO:<x@away.test>", "550 5.7.1 recipient is suppressed")
	}
	f.say("RCPT TO:<y@away.test>", "250")
}

func TestPipelining(t *testing.T) {
	d := &desk{}
	f := start(t, open, d, nil).hello(t)
	f.send("MAIL FROM:<a@b.test>\r\nRCPT TO:<bad\r\nRCPT TO:<a@away.test>\r\nDATA\r\n")
	for _, want := range []string{"250", "501", "250", "354"} {
		f.expect(want)
	}
	f.send("A: b\r\n\r\n.\r\nRSET\r\nMAIL FROM:<a@b.test>\r\nQUIT\r\n")
	for _, want := range []string{"250 2.0.0 OK: queued", "250", "250", "221", ""} {
		f.expect(want)
	}
	if len(d.messages()) != 1 {
		t.Error("the message was not accepted")
	}
}

func TestNothingOfAMessageThatBreaksOff(t *testing.T) {
	d := &desk{}
	s := start(t, open, d, nil)
	for _, begin := range []string{"DATA\r\n", "BDAT 100 LAST\r\n"} {
		f := s.hello(t)
		f.say("MAIL FROM:<a@b.test>", "250")
		f.say("RCPT TO:<a@away.test>", "250")
		f.send(begin + "A: b\r\n\r\nbody\r\n")
		f.conn.Close()
	}
	eventually(t, "the sessions have ended", func() bool { return s.sessions() == 0 })
	if len(d.messages()) != 0 {
		t.Error("half a message was accepted")
	}
}

func TestPanicsAreLoggedAsErrors(t *testing.T) {
	var out strings.Builder
	d := &desk{accept: func(*Message) error { panic("a bug") }}
	s := start(t, open, d, func(s *Server) {
		s.logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	f := s.hello(t)
	f.mail("", "421")
	f.expect("")
	s.stop()
	s.wait(t)
	if !strings.Contains(out.String(), "a bug") || strings.Contains(out.String(), os.ErrClosed.Error()) {
		t.Errorf("log: %s", out.String())
	}
}
