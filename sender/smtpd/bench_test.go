package smtpd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"carom/sender/config"
)

// played is a connection whose feeder says its lines one after another, each when it is asked for
// more: no network and no other goroutine stands between a server and what is measured.
type played struct {
	lines  [][]byte
	next   int // line
	said   int // octets of it
	rounds int
	ended  chan struct{}
}

func (p *played) Read(b []byte) (int, error) {
	if p.next == len(p.lines) {
		if p.rounds--; p.rounds <= 0 {
			return 0, io.EOF
		}
		p.next = 1 // the first is said once
	}
	n := copy(b, p.lines[p.next][p.said:])
	if p.said += n; p.said == len(p.lines[p.next]) {
		p.next, p.said = p.next+1, 0
	}
	return n, nil
}

func (p *played) Write(b []byte) (int, error) { return len(b), nil }
func (p *played) Close() error                { close(p.ended); return nil }
func (p *played) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }

func (p *played) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4025} }
func (p *played) SetDeadline(time.Time) error      { return nil }
func (p *played) SetReadDeadline(time.Time) error  { return nil }
func (p *played) SetWriteDeadline(time.Time) error { return nil }

// theatre is a listener that lets one connection in.
type theatre struct {
	conns chan net.Conn
}

func (t *theatre) Accept() (net.Conn, error) {
	if c, ok := <-t.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (t *theatre) Close() error   { return nil }
func (t *theatre) Addr() net.Addr { return &net.TCPAddr{} }

// script is what smtp-source says for each message, without PIPELINING.
func script(octets int) [][]byte {
	line := strings.Repeat("x", 76) + "\r\n"
	content := "From: Shop <news@shop.test>\r\nTo: <to@away.test>\r\nSubject: a message of some length\r\nDate: Sun, 29 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@shop.test>\r\n\r\n"
	content += strings.Repeat(line, (octets-len(content))/len(line)) + ".\r\n"
	lines := [][]byte{[]byte("EHLO feeder.test\r\n"), []byte("MAIL FROM:<from@feeder.test>\r\n"), []byte("RCPT TO:<to@away.test>\r\n"), []byte("DATA\r\n")}
	for len(content) > 4096 {
		lines = append(lines, []byte(content[:4096]))
		content = content[4096:]
	}
	return append(lines, []byte(content))
}

// nothing is an Intake that keeps nothing.
type nothing struct{ desk }

func (*nothing) Local(string) bool                      { return false }
func (*nothing) Accept(context.Context, *Message) error { return nil }
func (*nothing) SelectVMTA(*config.Source, string, netip.Addr) (vmta, pool string, r *RefusalError) {
	return "{default}", "", nil
}

// BenchmarkMessage measures what taking in a message costs, apart from the network and the intake,
// beside go-smtp's own server that throws it away.
func BenchmarkMessage(b *testing.B) {
	c, _, err := config.Parse("test.conf", []byte(open))
	if err != nil {
		b.Fatal(err)
	}
	for _, octets := range []int{4 << 10, 50 << 10} {
		b.Run(fmt.Sprintf("carom/%dKiB", octets>>10), func(b *testing.B) {
			s := New(c, "mx.test", &nothing{}, slog.New(slog.DiscardHandler))
			play(b, octets, s.engine(b.Context()), func(l net.Listener) net.Listener { return &door{Listener: Listener{Listener: l}, server: s} })
		})
		b.Run(fmt.Sprintf("go-smtp/%dKiB", octets>>10), func(b *testing.B) {
			s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return discard{}, nil }))
			s.Domain = "mx.test"
			play(b, octets, s, func(l net.Listener) net.Listener { return l })
		})
	}
}

func play(b *testing.B, octets int, s *smtp.Server, wrap func(net.Listener) net.Listener) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(octets))
	hall := &theatre{make(chan net.Conn, 1)}
	p := &played{lines: script(octets), rounds: b.N, ended: make(chan struct{})}
	served := make(chan error, 1)
	hall.conns <- p
	b.ResetTimer()
	go func() { served <- s.Serve(wrap(hall)) }()
	<-p.ended
	b.StopTimer()
	close(hall.conns)
	<-served
}

type discard struct{}

func (discard) Mail(string, *smtp.MailOptions) error { return nil }
func (discard) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (discard) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
func (discard) Reset()        {}
func (discard) Logout() error { return nil }
