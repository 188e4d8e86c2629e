package smtpc

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// testTimeouts are long enough for a loaded machine and short enough to fail a test.
var testTimeouts = Timeouts{
	Connect: 20 * time.Second, Greeting: 20 * time.Second, Command: 20 * time.Second,
	DataInit: 20 * time.Second, Block: 20 * time.Second, FinalDot: 20 * time.Second, Lines: 20 * time.Second, Quit: time.Second,
}

// hello is how a dialogue with a pipelining peer begins.
const hello = `
S: 220 mx.example ESMTP
C: EHLO me.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-8BITMIME
S: 250-SMTPUTF8
S: 250-DSN
S: 250 SIZE 10000
`

// plainHello is how a dialogue with a peer without extensions begins.
const plainHello = `
S: 220 mx.example SMTP
C: EHLO me.example
S: 250 mx.example
`

// play runs a peer on 127.0.0.1 that holds one dialogue with one client. Lines of the script:
//
//	S: text    send text and CRLF
//	S+ text    send text alone
//	C: text    expect exactly this line
//	close      close the connection
//	reset      close it with a TCP reset
//	gone       expect the client to close
//	drain      read until it does, whatever comes
//
// A difference fails the test, which waits for the end of the dialogue.
func play(t *testing.T, script string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- act(l, script) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("peer: %v", err)
		}
		l.Close()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func act(l net.Listener, script string) error {
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	var out bytes.Buffer
	pipelining := strings.Contains(script, "PIPELINING")
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		verb, text := line, ""
		if len(line) > 1 && (line[1] == ':' || line[1] == '+') {
			verb, text = line[:2], strings.TrimPrefix(line[2:], " ")
		}
		if verb == "S:" || verb == "S+" {
			if !pipelining && r.Buffered() > 0 {
				rest, _ := r.Peek(r.Buffered())
				return fmt.Errorf("before %q: client did not wait, it sent %q", line, rest)
			}
			out.WriteString(text)
			if verb == "S:" {
				out.WriteString("\r\n")
			}
			continue
		}
		if _, err := conn.Write(out.Bytes()); err != nil {
			return fmt.Errorf("before %q: %w", line, err)
		}
		out.Reset()
		switch verb {
		case "C:":
			got, err := r.ReadString('\n')
			if err != nil {
				return fmt.Errorf("want %q, got %q and %w", line, got, err)
			}
			if got != text+"\r\n" {
				return fmt.Errorf("got %q, want %q", got, text+"\r\n")
			}
		case "close":
			return nil
		case "reset":
			return conn.(*net.TCPConn).SetLinger(0)
		case "gone":
			rest, err := io.ReadAll(r)
			if len(rest) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
				return fmt.Errorf("want the client to close, got %q and %w", rest, err)
			}
		case "drain":
			_, _ = io.Copy(io.Discard, r) // a reset is as good an end as any
		default:
			return fmt.Errorf("script: %q", line)
		}
	}
	_, err = conn.Write(out.Bytes())
	return err
}

// dial connects to addr with defaults for tests, changed by change.
func dial(t *testing.T, addr netip.AddrPort, change func(*Config)) (*Conn, error) {
	t.Helper()
	cfg := Config{RemoteAddr: addr, EHLO: "me.example", Timeouts: testTimeouts}
	if change != nil {
		change(&cfg)
	}
	c, err := Dial(t.Context(), cfg)
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

func mustDial(t *testing.T, addr netip.AddrPort, change func(*Config)) *Conn {
	t.Helper()
	c, err := dial(t, addr, change)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	return c
}
