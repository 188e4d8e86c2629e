package smtpc

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
)

// TestBeforeEnd: the peer sees the envelope, and with DATA maybe the body, but no end of the message
// until BeforeEnd has returned; after its error never.
func TestBeforeEnd(t *testing.T) {
	const envelope = `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
`
	chunking := strings.Replace(hello, "S: 250 SIZE 10000", "S: 250-CHUNKING\nS: 250 SIZE 10000", 1)
	for _, tc := range []struct {
		name, script string
		size         int64
		refuse       bool
		calls        int32
		want         string
	}{
		{"data", hello + envelope + "C: b\nC: .\nS: 250 queued\ngone", 0, false, 1, "final-dot 250 queued"},
		{"data held back", hello + envelope + "gone", 0, true, 1, "body " + ErrHeldBack.Error()},
		{
			"chunk", chunking + "C: MAIL FROM:<a@from.example> SIZE=3\nC: RCPT TO:<x@to.example>\nC: BDAT 3 LAST\nC: b\nS: 250 ok\nS: 250 ok\nS: 250 queued\ngone",
			3, false, 1, "final-dot 250 queued",
		},
		{"chunk held back", chunking + "gone", 3, true, 1, "body " + ErrHeldBack.Error()},
		{
			"nobody is to get it", hello + "C: MAIL FROM:<a@from.example>\nC: RCPT TO:<x@to.example>\nC: DATA\nS: 250 ok\nS: 550 no\nS: 354 go\nC: .\nS: 250 ok\ngone",
			0, false, 0, "rcpt 550 no",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustDial(t, play(t, tc.script), nil)
			var calls atomic.Int32
			r := c.Send(t.Context(), Transaction{
				From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n"), Size: tc.size,
				BeforeEnd: func() error {
					calls.Add(1)
					if tc.refuse {
						return errors.New("not yet")
					}
					return nil
				},
			})
			if got := verdictOf(r.Recipients[0]); got != tc.want || calls.Load() != tc.calls || r.Usable == tc.refuse {
				t.Errorf("got %q, usable %v, after %d calls; want %q after %d", got, r.Usable, calls.Load(), tc.want, tc.calls)
			}
			c.Close()
		})
	}
}

func verdictOf(r RcptResult) string {
	if errors.Is(r.Err, ErrHeldBack) {
		return r.Phase.String() + " " + ErrHeldBack.Error()
	}
	return verdict(r)
}

// TestSurvive421: the connection goes on after a 421 where the peer does, and where it does not the
// 421 is the reason for everybody.
func TestSurvive421(t *testing.T) {
	const envelope = `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: DATA
S: 250 ok
`
	for _, tc := range []struct {
		name, script string
		want         []string
		usable       bool
	}{
		{
			"one recipient", hello + envelope + "S: 421 not him now\nS: 250 ok\nS: 354 go\nC: b\nC: .\nS: 250 queued\nC: RSET\nS: 250 ok\ngone",
			[]string{"rcpt 421 not him now", "final-dot 250 queued"},
			true,
		},
		{"closed after it", hello + envelope + "S: 421 enough\nclose", []string{"rcpt 421 enough", "rcpt 421 enough"}, false},
		{
			"at the final dot", hello + envelope + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: b\nC: .\nS: 421 later\nC: RSET\nS: 250 ok\ngone",
			[]string{"final-dot 421 later", "final-dot 421 later"},
			true,
		},
		{"at the final dot, closed", hello + envelope + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: b\nC: .\nS: 421 later\nclose", []string{"final-dot 421 later", "final-dot 421 later"}, true},
		{"at MAIL", hello + strings.Replace(envelope, "S: 250 ok", "S: 421 busy", 1) + "S: 503 no\nS: 503 no\nS: 503 no\nC: RSET\nS: 250 ok\ngone", []string{"mail 421 busy", "mail 421 busy"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustDial(t, play(t, tc.script), func(cfg *Config) { cfg.Survive421 = true })
			r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example", "y@to.example"), Body: text("b\n")})
			for i, want := range tc.want {
				if got := verdict(r.Recipients[i]); got != want {
					t.Errorf("recipient %d: %q, want %q", i, got, want)
				}
			}
			if r.Usable != tc.usable {
				t.Errorf("usable %v, want %v", r.Usable, tc.usable)
			}
			if strings.Contains(tc.script, "C: RSET") {
				if err := c.Reset(t.Context()); err != nil {
					t.Errorf("Reset after the 421: %v", err)
				}
			}
			c.Close()
		})
	}
}

// TestPIX: a peer behind a PIX gets the final dot in a packet of its own.
func TestPIX(t *testing.T) {
	for _, tc := range []struct {
		name, greeting   string
		workaround, want bool // the dot is alone
		pix              bool
	}{
		{"pix", "220 **************************", true, true, true},
		{"pix, switched off", "220 **************************", false, false, true},
		{"no pix", "220 mx.example *** ESMTP", true, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			near, far := net.Pipe() // hands over each write by itself
			writes := make(chan string, 100)
			go func() {
				defer close(writes)
				defer func() { _ = far.Close() }()
				_, _ = io.WriteString(far, tc.greeting+"\r\n")
				answers := []string{"250 mx.example\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"}
				buffer := make([]byte, 1<<16)
				for {
					n, err := far.Read(buffer)
					if err != nil {
						return
					}
					got := string(buffer[:n])
					writes <- got
					answer := "250 queued\r\n"
					if len(answers) > 0 {
						answer, answers = answers[0], answers[1:]
					} else if !strings.HasSuffix(got, ".\r\n") {
						continue
					}
					if _, err := io.WriteString(far, answer); err != nil {
						return
					}
				}
			}()
			cfg := Config{RemoteAddr: netip.MustParseAddrPort("127.0.0.1:25"), EHLO: "me.example", Timeouts: testTimeouts, PIXWorkaround: tc.workaround}
			cfg.Timeouts = cfg.Timeouts.withDefaults()
			c, err := open(t.Context(), &cfg, near, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
			if !r.Recipients[0].Delivered() || c.PIX() != tc.pix {
				t.Errorf("%s, PIX %v", verdict(r.Recipients[0]), c.PIX())
			}
			c.Close()
			alone := false
			for w := range writes {
				alone = alone || w == ".\r\n"
			}
			if alone != tc.want {
				t.Errorf("the final dot is alone: %v, want %v", alone, tc.want)
			}
		})
	}
}

// TestRestOfAReply: the first line may take long, the lines behind it have their own time.
func TestRestOfAReply(t *testing.T) {
	c := mustDial(t, play(t, hello+"C: MAIL FROM:<a@from.example>\nC: RCPT TO:<x@to.example>\nC: DATA\nS: 450-slow\ngone"), func(cfg *Config) {
		cfg.Timeouts.Lines = 20 * time.Millisecond
	})
	r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
	if e, ok := errors.AsType[*Error](r.Recipients[0].Err); !ok || !e.Timeout() || e.Phase != event.PhaseMail {
		t.Errorf("got %s", verdict(r.Recipients[0]))
	}
}

// TestFullHandshakes: sessions of TLS 1.2 are not kept where they should not be, those of 1.3 are.
func TestFullHandshakes(t *testing.T) {
	cert, _ := certificate(t, "mx.example")
	for version, want := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		addr, _ := startTLSServer(t, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
		store := NewSessions(10)
		for i := range 2 {
			c := mustDial(t, addr, func(cfg *Config) {
				cfg.TLS, cfg.Sessions, cfg.FullHandshakes, cfg.ServerName = TLSOpportunistic, store, true, "mx.example"
			})
			if got := c.TLS().DidResume; got != (want && i > 0) {
				t.Errorf("%s, connection %d resumed: %v", tls.VersionName(version), i, got)
			}
			c.Close()
		}
	}
}

// TestAbort: the connection is cut from another goroutine while a reply is waited for.
func TestAbort(t *testing.T) {
	c := mustDial(t, play(t, hello+"drain"), nil)
	abort := c.Abort()
	go abort()
	r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
	if r.Recipients[0].Err == nil || r.Usable {
		t.Errorf("got %s, usable %v", verdict(r.Recipients[0]), r.Usable)
	}
	abort()
}
