package smtpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// chunkHello is how a dialogue with a peer begins that does PIPELINING and CHUNKING.
const chunkHello = `
S: 220 mx.example ESMTP
C: EHLO me.example
S: 250-mx.example
S: 250-PIPELINING
S: 250 CHUNKING
`

// chunkGroup is a message of 20 bytes in one group with its envelope.
const chunkGroup = `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: BDAT 20 LAST
C: Subject: s
C:
C: body
`

// chunkGroup3 is the same to three recipients.
const chunkGroup3 = `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: RCPT TO:<z@to.example>
C: BDAT 20 LAST
C: Subject: s
C:
C: body
`

func TestSendChunk(t *testing.T) {
	const content = "Subject: s\n\nbody\n"
	sized := func(body string, recipients ...string) Transaction {
		content := strings.ReplaceAll(body, "\n", "\r\n")
		return Transaction{
			From: "a@from.example", Recipients: rcpts(recipients...), Size: int64(len(content)), Body: strings.NewReader(content),
		}
	}
	one := func() Transaction { return sized(content, "x@to.example") }
	three := func() Transaction { return sized(content, "x@to.example", "y@to.example", "z@to.example") }
	with := func(tx Transaction, change func(*Transaction)) Transaction {
		change(&tx)
		return tx
	}
	const lockstep = `
S: 220 mx.example ESMTP
C: EHLO me.example
S: 250-mx.example
S: 250 CHUNKING
C: MAIL FROM:<a@from.example>
S: 250 ok
C: RCPT TO:<x@to.example>
`
	for _, tc := range []dialogue{
		{
			"everything before the first answer", chunkHello + chunkGroup + `
S: 250 2.1.0 ok
S: 250 2.1.5 ok
S: 250 2.0.0 queued as 1
gone`, one(),
			[]string{"final-dot 250 2.0.0 queued as 1"},
			true, false,
		},
		{
			"one by one without PIPELINING", lockstep + `
S: 250 ok
C: BDAT 20 LAST
C: Subject: s
C:
C: body
S: 250 queued
gone`, one(),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"all refused without PIPELINING: no BDAT", lockstep + `
S: 550 no
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"dots stay as they are", chunkHello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: BDAT 13 LAST
C: .
C: ..two
C: .
S: 250 ok
S: 250 ok
S: 250 queued
gone`, sized(".\n..two\n.\n", "x@to.example"),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"a last line without an end gets one", chunkHello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: BDAT 6 LAST
C: body
S: 250 ok
S: 250 ok
S: 250 queued
gone`, sized("body", "x@to.example"),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"the length is the message's even if Size is wrong", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 250 queued
gone`, with(one(), func(tx *Transaction) { tx.Size = 1 }),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"nothing at all is a chunk of nothing", chunkHello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: BDAT 0 LAST
S: 250 ok
S: 250 ok
S: 250 queued
gone`, with(sized("", "x@to.example"), func(tx *Transaction) { tx.Size = 1 }),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"DATA where the size is not known", chunkHello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C: Subject: s
C:
C: body
C: .
S: 250 queued
gone`, with(one(), func(tx *Transaction) { tx.Size = 0 }),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"DATA for a message over the bound", chunkHello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 503 no valid recipients
gone`, with(one(), func(tx *Transaction) { tx.Size = maxChunk + 1 }),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"some recipients are refused", chunkHello + chunkGroup3 + `
S: 250 ok
S: 550 5.1.1 no such user
S: 250 ok
S: 451 4.7.1 greylisted
S: 250 queued
gone`, three(),
			[]string{"rcpt 550 5.1.1 no such user", "final-dot 250 queued", "rcpt 451 4.7.1 greylisted"},
			true, false,
		},
		{
			"all recipients are refused, BDAT too", chunkHello + chunkGroup + `
S: 250 ok
S: 550 no
S: 503 no valid recipients
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"all recipients are refused, BDAT is not: nobody got it", chunkHello + chunkGroup + `
S: 250 ok
S: 550 no
S: 250 fine
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"sender refused, the rest answered 503", chunkHello + chunkGroup3 + `
S: 550 5.7.1 not you
S: 503 no MAIL
S: 503 no MAIL
S: 503 no MAIL
S: 503 no MAIL
gone`, three(),
			[]string{"mail 550 5.7.1 not you", "mail 550 5.7.1 not you", "mail 550 5.7.1 not you"},
			true, false,
		},
		{
			"sender refused, recipient accepted, message not", chunkHello + chunkGroup + `
S: 451 not now
S: 250 ok
S: 554 no transaction
gone`, one(),
			[]string{"mail 451 not now"},
			true, false,
		},
		{
			"sender refused, recipient and message accepted", chunkHello + chunkGroup + `
S: 550 not you
S: 250 ok
S: 250 queued
gone`, one(),
			[]string{"mail 550 not you"},
			false, false,
		},
		{
			"message refused", chunkHello + chunkGroup3 + `
S: 250 ok
S: 250 ok
S: 550 no
S: 250 ok
S: 554 5.7.1 spam
gone`, three(),
			[]string{"final-dot 554 5.7.1 spam", "rcpt 550 no", "final-dot 554 5.7.1 spam"},
			true, false,
		},
		{
			"message refused for now", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 452 4.3.1 disk full
gone`, one(),
			[]string{"final-dot 452 4.3.1 disk full"},
			true, false,
		},
		{
			"CHUNKING offered, BDAT not known", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 500 what?
gone`, one(),
			[]string{"data " + ErrChunking.Error()},
			false, false,
		},
		{
			"CHUNKING offered, 503 to BDAT with a recipient", chunkHello + chunkGroup3 + `
S: 250 ok
S: 550 no
S: 250 ok
S: 250 ok
S: 503 bad sequence
gone`, three(),
			[]string{"rcpt 550 no", "data " + ErrChunking.Error(), "data " + ErrChunking.Error()},
			false, false,
		},
		{
			"BDAT not known and nobody to get it: the message is being read as commands", chunkHello + chunkGroup + `
S: 250 ok
S: 550 no
S: 500 what?
gone`, one(),
			[]string{"rcpt 550 no"},
			false, false,
		},
		{
			"421 to MAIL", chunkHello + chunkGroup + `
S: 421 4.7.0 too many messages
close`, one(),
			[]string{"mail 421 4.7.0 too many messages"},
			false, false,
		},
		{
			"421 to the second recipient speaks for those without a verdict", chunkHello + chunkGroup3 + `
S: 250 ok
S: 550 no
S: 421 4.7.0 slow down
close`, three(),
			[]string{"rcpt 550 no", "rcpt 421 4.7.0 slow down", "rcpt 421 4.7.0 slow down"},
			false, false,
		},
		{
			"421 to BDAT", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 421 bye
close`, one(),
			[]string{"final-dot 421 bye"},
			false, false,
		},
		{
			"a reply out of place to BDAT", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 354 go
gone`, one(),
			[]string{"final-dot " + ErrProtocol.Error()},
			false, false,
		},
		{
			"closed silently upon the first command", chunkHello + chunkGroup + "close", one(),
			[]string{"mail peer closed the connection"},
			false, true,
		},
		{
			"closed later: the peer had the whole message", chunkHello + chunkGroup + `
S: 250 ok
close`, one(),
			[]string{"final-dot peer closed the connection"},
			false, false,
		},
		{
			"closed instead of the last answer", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
close`, one(),
			[]string{"final-dot peer closed the connection"},
			false, false,
		},
		{
			"garbage: the peer had the whole message", chunkHello + chunkGroup + `
S: hello there
gone`, one(),
			[]string{"final-dot " + ErrProtocol.Error()},
			false, false,
		},
		{
			"bare LF: nothing is said", chunkHello + "gone",
			with(one(), func(tx *Transaction) { tx.Body = strings.NewReader("a\r\n\n.\r\nMAIL FROM:<evil>\r\n") }),
			[]string{"body message has a bare CR or LF"},
			true, false,
		},
		{
			"CR at the end: nothing is said", chunkHello + "gone",
			with(one(), func(tx *Transaction) { tx.Body = strings.NewReader("a\r\nb\r") }),
			[]string{"body message has a bare CR or LF"},
			true, false,
		},
		{
			"the message cannot be read: nothing is said", chunkHello + "gone",
			with(one(), func(tx *Transaction) { tx.Body = failingBody{} }),
			[]string{"body message cannot be read"},
			true, false,
		},
		{
			"an address with a command in it fails alone", chunkHello + chunkGroup + `
S: 250 ok
S: 250 ok
S: 250 queued
gone`, sized(content, "y@to.example>\r\nRSET", "x@to.example"),
			[]string{"rcpt address cannot be sent over SMTP", "final-dot 250 queued"},
			true, false,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}

// TestLoadProperty: whatever the message and however it is written, the chunk is the message with
// its last line ended, or it is refused for a bare line end.
func TestLoadProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{"\r\n", ".", "a", "\r\n.\r\n", "long line", "\r", "\n"})).Draw(t, "pieces")
		body := make(net.Buffers, 0, len(pieces))
		for _, piece := range pieces {
			body = append(body, []byte(piece))
		}
		s := sending{
			Conn: &Conn{ext: Extensions{Chunking: true}},
			t:    Transaction{Size: rapid.Int64Range(1, 20).Draw(t, "size"), Body: &body},
			r:    Result{Recipients: make([]RcptResult, 1)},
		}
		defer s.unload()
		message := strings.Join(pieces, "")
		bare := strings.ContainsAny(strings.ReplaceAll(message, "\r\n", ""), "\r\n")
		if s.load() == bare || errors.Is(s.r.Recipients[0].Err, ErrBareLineEnd) != bare {
			t.Fatalf("%q: got %s", message, verdict(s.r.Recipients[0]))
		}
		want := strings.TrimSuffix(message, "\r\n") + "\r\n"
		if message == "" {
			want = ""
		}
		if got := s.chunk.String(); !bare && got != want {
			t.Fatalf("chunk %q, want %q", got, want)
		}
	})
}

// TestChunkAfterRefusal: after a refused chunk the next group begins with RSET. Its reply shows
// whether the peer skipped the chunk as it should.
func TestChunkAfterRefusal(t *testing.T) {
	for _, tc := range []struct{ name, second, want string }{
		{"in step", `
S: 250 reset
S: 250 ok
S: 250 ok
S: 250 queued
gone`, "final-dot 250 queued"},
		{"out of step", `
S: 500 unknown command Subject:
S: 250 ok
S: 250 ok
S: 250 queued
gone`, "final-dot " + ErrProtocol.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustDial(t, play(t, chunkHello+chunkGroup+`
S: 550 not you
S: 503 no MAIL
S: 503 no MAIL
C: RSET`+chunkGroup+tc.second), nil)
			for i, want := range []string{"mail 550 not you", tc.want} {
				const content = "Subject: s\r\n\r\nbody\r\n"
				r := c.Send(t.Context(), Transaction{
					From: "a@from.example", Recipients: rcpts("x@to.example"), Size: int64(len(content)), Body: strings.NewReader(content),
				})
				if got := verdict(r.Recipients[0]); got != want {
					t.Errorf("message %d: got %q, want %q", i+1, got, want)
				}
			}
			c.Close()
		})
	}
}

// TestChunkManyRecipients: the message goes with the last group, and not at all where those
// before it were all refused.
func TestChunkManyRecipients(t *testing.T) {
	for _, reply := range []string{"250 ok", "550 no"} {
		var script strings.Builder
		script.WriteString(chunkHello + "\nC: MAIL FROM:<a@from.example>\n")
		tx := Transaction{From: "a@from.example", Size: 3, Body: text("b\n")}
		for i := range pipelineGroup - 1 {
			tx.Recipients = append(tx.Recipients, Rcpt{Address: fmt.Sprintf("r%d@to.example", i)})
			fmt.Fprintf(&script, "C: RCPT TO:<r%d@to.example>\n", i)
		}
		script.WriteString("S: 250 ok\n" + strings.Repeat("S: "+reply+"\n", pipelineGroup-1))
		want := "rcpt 550 no"
		if reply == "250 ok" {
			script.WriteString("C: BDAT 3 LAST\nC: b\nS: 250 queued\n")
			want = "final-dot 250 queued"
		}
		c := mustDial(t, play(t, script.String()+"gone"), nil)
		for i, rcpt := range c.Send(t.Context(), tx).Recipients {
			if got := verdict(rcpt); got != want {
				t.Errorf("recipient %d: got %q, want %q", i, got, want)
			}
		}
		c.Close()
	}
}

// cutConn loses the connection after so many bytes were written.
type cutConn struct {
	net.Conn

	left int
}

func (c *cutConn) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:c.left])
	c.left = 0
	return n, fmt.Errorf("cut: %w", io.ErrClosedPipe)
}

// TestChunkCut: a peer that cannot have the end of the message has not taken it, whatever it
// answered to the envelope.
func TestChunkCut(t *testing.T) {
	const replies = "250 ok\r\n250 ok\r\n"
	for _, tc := range []struct{ last, want string }{
		{"552 5.3.4 too big\r\n", "body 552 5.3.4 too big"},
		{"250 queued\r\n", "body " + ErrPeerClosed.Error()},
		{"", "body " + ErrPeerClosed.Error()},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			far, err := l.Accept()
			if err != nil {
				return
			}
			defer far.Close()
			io.WriteString(far, "220 mx\r\n")
			far.Read(make([]byte, 512))
			io.WriteString(far, "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
			io.ReadFull(far, make([]byte, 1000))
			io.WriteString(far, replies+tc.last)
		}()
		near, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{EHLO: "me.example", Timeouts: testTimeouts}
		c, err := open(t.Context(), &cfg, &cutConn{near, len("EHLO me.example\r\n") + 1000}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		message := bytes.Repeat([]byte("0123456789abcdef\r\n"), 1000)
		r := c.Send(t.Context(), Transaction{
			From: "a@from.example", Recipients: rcpts("x@to.example"), Size: int64(len(message)), Body: bytes.NewReader(message),
		})
		if got := verdict(r.Recipients[0]); got != tc.want || r.Usable || r.ClosedSilently {
			t.Errorf("last reply %q: got %q, usable %v, silent %v, want %q", tc.last, got, r.Usable, r.ClosedSilently, tc.want)
		}
		<-done
		l.Close()
	}
}

func TestChunkingError(t *testing.T) {
	if !errors.Is(ErrChunking, ErrProtocol) {
		t.Errorf("%v is not a kind of %v", ErrChunking, ErrProtocol)
	}
}
