package smtpc

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
)

// mailbox is a go-smtp backend that keeps what it receives and refuses recipients named nobody.
type mailbox struct {
	mu       sync.Mutex
	messages []string
}

type mailSession struct {
	box      *mailbox
	envelope strings.Builder
}

func (b *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{box: b}, nil }

func (s *mailSession) Mail(from string, opts *smtp.MailOptions) error {
	fmt.Fprintf(&s.envelope, "from=%s size=%d envid=%s ", from, opts.Size, opts.EnvelopeID)
	return nil
}

func (s *mailSession) Rcpt(to string, opts *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody@") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	fmt.Fprintf(&s.envelope, "to=%s notify=%v ", to, opts.Notify)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.messages = append(s.box.messages, s.envelope.String()+string(body))
	return err
}

func (s *mailSession) Reset()        { s.envelope.Reset() }
func (s *mailSession) Logout() error { return nil }

// serve runs a go-smtp server on 127.0.0.1.
func serve(tb testing.TB, backend smtp.Backend, cert *tls.Certificate) netip.AddrPort {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := smtp.NewServer(backend)
	s.Domain, s.EnableDSN, s.EnableSMTPUTF8, s.MaxMessageBytes = "mx.example", true, true, 1<<20
	if cert != nil {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Close()
		<-done
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestAgainstGoSMTP(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	for _, tc := range []struct {
		name   string
		change func(*Config)
	}{
		{"in the clear", func(*Config) {}},
		{"STARTTLS", func(cfg *Config) {
			cfg.TLS, cfg.TLSConfig, cfg.ServerName = TLSRequired, &tls.Config{RootCAs: pool}, "mx.example"
		}},
		{"without PIPELINING", func(cfg *Config) { cfg.IgnorePipelining = true }},
		{"without CHUNKING", func(cfg *Config) { cfg.IgnoreChunking = true }},
		{"without either", func(cfg *Config) { cfg.IgnorePipelining, cfg.IgnoreChunking = true, true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			box := new(mailbox)
			c := mustDial(t, serve(t, box, &cert), tc.change)
			for range 3 {
				r := c.Send(t.Context(), Transaction{
					From: "a@from.example", EnvID: "e=1", Size: 42, Body: text(".dot\n\nbody\n"),
					Recipients: []Rcpt{{Address: "x@to.example", Notify: NotifyFailure}, {Address: "nobody@to.example"}},
				})
				if !r.Recipients[0].Delivered() {
					t.Errorf("first recipient: %s", verdict(r.Recipients[0]))
				}
				if got, want := verdict(r.Recipients[1]), "rcpt 550 5.1.1 no such user"; got != want {
					t.Errorf("second recipient: got %q, want %q", got, want)
				}
				if !r.Usable || r.Timing.Total() <= 0 {
					t.Errorf("usable %v, timing %+v", r.Usable, r.Timing)
				}
			}
			c.Quit(t.Context())
			one := "from=a@from.example size=42 envid=e=1 to=x@to.example notify=[FAILURE] .dot\r\n\r\nbody\r\n"
			box.mu.Lock()
			defer box.mu.Unlock()
			if diff := cmp.Diff([]string{one, one, one}, box.messages); diff != "" {
				t.Errorf("received (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAgainstPostfix sends to Postfix's smtp-sink, which keeps what it receives in files.
func TestAgainstPostfix(t *testing.T) {
	sink, err := exec.LookPath("smtp-sink")
	if err != nil {
		if sink = "/usr/sbin/smtp-sink"; !isFile(sink) {
			t.Skip("Postfix's smtp-sink is not installed (Debian package postfix)")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	args := []string{"-d", "m.", addr, "10"}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
		openFolder(t, dir)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), sink, args...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var c *Conn
	poll(t, "smtp-sink answers", func() bool {
		c, err = dial(t, netip.MustParseAddrPort(addr), nil)
		return err == nil
	})
	if !c.Extensions().Pipelining {
		t.Errorf("extensions %+v, want PIPELINING", c.Extensions())
	}
	const n = 5
	for i := range n {
		r := c.Send(t.Context(), Transaction{
			From: "a@from.example", Recipients: rcpts("x@to.example", "y@to.example"),
			Body: text(fmt.Sprintf("Subject: %d\n\n.\n..dots %d\n", i, i)),
		})
		for _, rcpt := range r.Recipients {
			if !rcpt.Delivered() {
				t.Errorf("message %d: %s", i, verdict(rcpt))
			}
		}
	}
	c.Quit(t.Context())
	files, err := filepath.Glob(filepath.Join(dir, "m.*"))
	if err != nil || len(files) != n {
		t.Fatalf("received %d messages, want %d (%v)", len(files), n, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(data, []byte("\n.\n..dots ")) {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
	}
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// sink answers a pipelining client as fast as it can and keeps nothing.
func sink(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	w := bufio.NewWriter(conn)
	w.WriteString("220 sink\r\n")
	for inData := false; ; {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
			return
		case inData:
			if string(line) == ".\r\n" {
				inData = false
				w.WriteString("250 2.0.0 Ok: queued as 4Wxyz\r\n")
			}
		case line[0] == 'E':
			w.WriteString("250-sink\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE\r\n")
		case line[0] == 'B':
			size, err := strconv.Atoi(string(bytes.Fields(line)[1]))
			if err != nil {
				return
			}
			if _, err := r.Discard(size); err != nil {
				return
			}
			w.WriteString("250 2.0.0 Ok: queued as 4Wxyz\r\n")
		case line[0] == 'D':
			inData = true
			w.WriteString("354 End data with <CR><LF>.<CR><LF>\r\n")
		default:
			w.WriteString("250 2.1.0 Ok\r\n")
		}
	}
}

// BenchmarkSend sends messages to one recipient over one connection.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{4 << 10, 50 << 10} {
		b.Run(fmt.Sprintf("DATA-%dk", size>>10), func(b *testing.B) { benchmarkSend(b, size, true) })
		b.Run(fmt.Sprintf("BDAT-%dk", size>>10), func(b *testing.B) { benchmarkSend(b, size, false) })
	}
}

func benchmarkSend(b *testing.B, size int, ignoreChunking bool) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			sink(conn)
		}
	}()
	c, err := Dial(b.Context(), Config{
		RemoteAddr: netip.MustParseAddrPort(l.Addr().String()), EHLO: "me.example", IgnoreChunking: ignoreChunking,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	message := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72))
	body := bytes.NewReader(message)
	recipients := rcpts("recipient@to.example")
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(message)
		r := c.Send(b.Context(), Transaction{
			From: "sender@from.example", Recipients: recipients, Size: int64(len(message)), Body: body,
		})
		if !r.Recipients[0].Delivered() {
			b.Fatal(verdict(r.Recipients[0]))
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkDotWriter stuffs 64 KiB of short lines.
func BenchmarkDotWriter(b *testing.B) {
	message := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", (64<<10)/72))
	w := bufio.NewWriterSize(io.Discard, writeBuffer)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		d := dotWriter{w: w}
		if _, err := d.Write(message); err != nil {
			b.Fatal(err)
		}
		if err := d.finish(); err != nil {
			b.Fatal(err)
		}
	}
}
