package smtpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
)

// TestTransactionsInARow: after a clean end the next transaction starts with MAIL, after an open
// one with RSET in the same group.
func TestTransactionsInARow(t *testing.T) {
	c := mustDial(t, play(t, hello+`
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C: b
C: .
S: 250 queued
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 503 no
C: RSET
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 reset
S: 250 ok
S: 250 ok
S: 354 go
C: b
C: .
S: 250 queued
C: RSET
S: 250 ok
C: QUIT
S: 221 bye
gone`), nil)
	for i, want := range []string{"final-dot 250 queued", "rcpt 550 no", "final-dot 250 queued"} {
		r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
		if got := verdict(r.Recipients[0]); got != want {
			t.Errorf("message %d: got %q, want %q", i+1, got, want)
		}
		if r.Message != i+1 || c.Messages() != i+1 {
			t.Errorf("message number: got %d and %d, want %d", r.Message, c.Messages(), i+1)
		}
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Errorf("Reset: %v", err)
	}
	c.Quit(t.Context())
	r := c.Send(t.Context(), Transaction{Recipients: rcpts("x@to.example")})
	if got := verdict(r.Recipients[0]); got != "mail connection is closed" {
		t.Errorf("after Quit: %s", got)
	}
	if err := c.Reset(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Reset after Quit: %v, want %v", err, ErrClosed)
	}
}

// TestUnaskedReply: a reply too many ends the connection before it can be taken for the answer to
// a command.
func TestUnaskedReply(t *testing.T) {
	for _, tc := range []struct{ unasked, want string }{
		{"421 4.7.0 enough for today", "mail 421 4.7.0 enough for today"},
		{"250 2.0.0 also delivered", "mail " + ErrProtocol.Error()},
	} {
		c := mustDial(t, play(t, hello+`
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C: b
C: .
S: 250 queued
S: `+tc.unasked+`
gone`), nil)
		for i, want := range []string{"final-dot 250 queued", tc.want} {
			r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
			if got := verdict(r.Recipients[0]); got != want || r.Usable != (i == 0) || r.ClosedSilently {
				t.Errorf("message %d: got %q, usable %v, silent %v, want %q", i+1, got, r.Usable, r.ClosedSilently, want)
			}
		}
	}
}

// TestManyRecipients: groups are bounded, so that neither side can block the other.
func TestManyRecipients(t *testing.T) {
	const n = 250
	var script strings.Builder
	script.WriteString(hello + "\nC: MAIL FROM:<a@from.example>\n")
	next := 0
	group := func(commands int, tail string) {
		first := next
		for ; next < first+commands; next++ {
			fmt.Fprintf(&script, "C: RCPT TO:<r%d@to.example>\n", next)
		}
		script.WriteString(tail)
		for i := first; i < next; i++ {
			if i%10 == 7 {
				fmt.Fprintf(&script, "S: 550 no %d\n", i)
			} else {
				script.WriteString("S: 250 ok\n")
			}
		}
	}
	group(pipelineGroup-1, "S: 250 ok\n")
	group(pipelineGroup, "")
	group(n-2*pipelineGroup+1, "C: DATA\n")
	script.WriteString("S: 354 go\nC: b\nC: .\nS: 250 queued\ngone")
	tx := Transaction{From: "a@from.example", Body: text("b\n")}
	for i := range n {
		tx.Recipients = append(tx.Recipients, Rcpt{Address: fmt.Sprintf("r%d@to.example", i)})
	}
	c := mustDial(t, play(t, script.String()), nil)
	r := c.Send(t.Context(), tx)
	for i, rcpt := range r.Recipients {
		want := "final-dot 250 queued"
		if i%10 == 7 {
			want = fmt.Sprintf("rcpt 550 no %d", i)
		}
		if got := verdict(rcpt); got != want {
			t.Errorf("recipient %d: got %q, want %q", i, got, want)
		}
	}
	c.Close()
}

func TestSendTimeout(t *testing.T) {
	c := mustDial(t, play(t, hello+`
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250-only half
gone`), func(cfg *Config) { cfg.Timeouts.Lines = 50 * time.Millisecond })
	r := c.Send(t.Context(), Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("b\n")})
	e, ok := errors.AsType[*Error](r.Recipients[0].Err)
	if !ok || !e.Timeout() || !e.Temporary() || e.Phase != event.PhaseMail || r.ClosedSilently || r.Usable {
		t.Errorf("got %+v, error %v", r, r.Recipients[0].Err)
	}
}

func TestSendContextEnds(t *testing.T) {
	const accepted = hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
`
	for _, tc := range []struct {
		name   string
		script string
		body   func(cancel context.CancelFunc) io.WriterTo
		want   event.Phase
	}{
		{"while sending", accepted + "drain", func(cancel context.CancelFunc) io.WriterTo {
			return endless{start: cancel, line: []byte("more\r\n")}
		}, event.PhaseBody},
		{"while waiting", accepted + "C: b\nC: .\ngone", func(cancel context.CancelFunc) io.WriterTo {
			time.AfterFunc(20*time.Millisecond, cancel) // in the wait for an answer that never comes
			return text("b\n")
		}, event.PhaseFinalDot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := mustDial(t, play(t, tc.script), nil)
			r := c.Send(ctx, Transaction{
				From: "a@from.example", Recipients: rcpts("x@to.example"), Body: tc.body(cancel),
			})
			got := r.Recipients[0]
			if got.Phase != tc.want || !errors.Is(got.Err, context.Canceled) || r.Usable {
				t.Errorf("got %s, usable %v; want %s and %v", verdict(got), r.Usable, tc.want, context.Canceled)
			}
		})
	}
}

// TestRefusalWhileSending: a peer that has enough says so before the end of data and closes.
func TestRefusalWhileSending(t *testing.T) {
	c := mustDial(t, play(t, hello+`
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
S: 552 5.3.4 too big
close`), nil)
	line := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	line = append(line, "\r\n"...)
	r := c.Send(t.Context(), Transaction{
		From: "a@from.example", Recipients: rcpts("x@to.example"),
		Body: endless{line: line},
	})
	got := r.Recipients[0]
	// The reset that follows the close may overtake the reply; then only the close is known.
	if got.Phase != event.PhaseBody || got.Reply.Code != 552 && !errors.Is(got.Err, ErrPeerClosed) || r.Usable {
		t.Errorf("got %s, usable %v", verdict(got), r.Usable)
	}
}

// endless writes line until a write fails, after start if there is one.
type endless struct {
	start func()
	line  []byte
}

func (b endless) WriteTo(w io.Writer) (int64, error) {
	if b.start != nil {
		b.start()
	}
	for {
		if _, err := w.Write(b.line); err != nil {
			return 0, err
		}
	}
}
