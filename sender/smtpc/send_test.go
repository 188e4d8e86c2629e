package smtpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// verdict writes a recipient's result as in "rcpt 550 5.1.1 no such user" or "mail error".
func verdict(r RcptResult) string {
	if r.Err != nil {
		cause := "error"
		for _, known := range []error{
			ErrAddress, ErrTooBig, ErrNoUTF8, ErrBareLineEnd, ErrBody, ErrProtocol, ErrChunking, ErrPeerClosed, ErrClosed, context.Canceled,
		} {
			if errors.Is(r.Err, known) {
				cause = known.Error()
			}
		}
		return fmt.Sprintf("%s %s", r.Phase, cause)
	}
	return fmt.Sprintf("%s %s", r.Phase, r.Reply)
}

func rcpts(addresses ...string) []Rcpt {
	list := make([]Rcpt, 0, len(addresses))
	for _, a := range addresses {
		list = append(list, Rcpt{Address: a})
	}
	return list
}

func text(s string) io.WriterTo { return strings.NewReader(strings.ReplaceAll(s, "\n", "\r\n")) }

type failingBody struct{}

func (failingBody) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, "Subject: half\r\n")
	if err != nil {
		return int64(n), err
	}
	return int64(n), errors.New("disk on fire")
}

// dialogue is one transaction with a peer that plays script.
type dialogue struct {
	name   string
	script string
	tx     Transaction
	want   []string // a verdict for each recipient
	usable bool
	silent bool
}

func (d dialogue) run(t *testing.T) {
	c := mustDial(t, play(t, d.script), nil)
	r := c.Send(t.Context(), d.tx)
	got := make([]string, 0, len(r.Recipients))
	for _, rcpt := range r.Recipients {
		got = append(got, verdict(rcpt))
	}
	if diff := cmp.Diff(d.want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if r.Usable != d.usable || c.Usable() != d.usable {
		t.Errorf("usable: result %v, connection %v, want %v", r.Usable, c.Usable(), d.usable)
	}
	if r.ClosedSilently != d.silent {
		t.Errorf("closed silently: got %v, want %v", r.ClosedSilently, d.silent)
	}
	for i, rcpt := range r.Recipients {
		if want := strings.HasPrefix(d.want[i], "final-dot 250"); rcpt.Delivered() != want {
			t.Errorf("recipient %d: delivered %v, want %v", i, rcpt.Delivered(), want)
		}
	}
	c.Close()
}

func TestSend(t *testing.T) {
	one := func() Transaction {
		return Transaction{From: "a@from.example", Recipients: rcpts("x@to.example"), Body: text("Subject: s\n\nbody\n")}
	}
	three := func() Transaction {
		tx := one()
		tx.Recipients = rcpts("x@to.example", "y@to.example", "z@to.example")
		return tx
	}
	with := func(tx Transaction, change func(*Transaction)) Transaction {
		change(&tx)
		return tx
	}
	for _, tc := range []dialogue{
		{
			"pipelined: three commands before the first answer", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 2.1.0 ok
S: 250 2.1.5 ok
S: 354 go
C: Subject: s
C:
C: body
C: .
S: 250 2.0.0 queued as 1
gone`, one(),
			[]string{"final-dot 250 2.0.0 queued as 1"},
			true, false,
		},
		{
			"one by one without PIPELINING", plainHello + `
C: MAIL FROM:<a@from.example>
S: 250 ok
C: RCPT TO:<x@to.example>
S: 250 ok
C: DATA
S: 354 go
C: Subject: s
C:
C: body
C: .
S: 250 queued
gone`, one(),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"parameters of SIZE, 8BITMIME, SMTPUTF8 and DSN", hello + `
C: MAIL FROM:<> SIZE=99 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc
C: RCPT TO:<x@to.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+20x@to.example
C: RCPT TO:<ü@to.example> NOTIFY=NEVER
C: DATA
S: 250 ok
S: 250 ok
S: 251 will forward
S: 354 go
C: .
S: 250 queued
gone`,
			Transaction{
				Size: 99, Needs8Bit: true, NeedsUTF8: true, EnvID: "a+b=c", Ret: "HDRS", Body: text(""),
				Recipients: []Rcpt{
					{Address: "x@to.example", ORcpt: "o x@to.example", Notify: NotifySuccess | NotifyFailure},
					{Address: "ü@to.example", ORcpt: "ü@to.example", Notify: NotifyNever},
				},
			},
			[]string{"final-dot 250 queued", "final-dot 250 queued"},
			true, false,
		},
		{
			"no parameters that were not offered", plainHello + `
C: MAIL FROM:<a@from.example>
S: 250 ok
C: RCPT TO:<x@to.example>
S: 250 ok
C: DATA
S: 354 go
C: b
C: .
S: 250 queued
gone`,
			Transaction{
				From: "a@from.example", Size: 99, Needs8Bit: true, EnvID: "e", Ret: "FULL", Body: text("b"),
				Recipients: []Rcpt{{Address: "x@to.example", ORcpt: "o@to.example", Notify: NotifyNever}},
			},
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"dots are doubled", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C: ..
C: ...two
C: a.b
C: ..
C: .
S: 250 queued
gone`, with(one(), func(tx *Transaction) { tx.Body = text(".\n..two\na.b\n.") }),
			[]string{"final-dot 250 queued"},
			true, false,
		},
		{
			"some recipients are refused", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: RCPT TO:<z@to.example>
C: DATA
S: 250 ok
S: 550 5.1.1 no such user
S: 250 ok
S: 451-4.7.1 greylisted,
S: 451 4.7.1 come again
S: 354 go
C: Subject: s
C:
C: body
C: .
S: 250 queued
gone`, three(),
			[]string{"rcpt 550 5.1.1 no such user", "final-dot 250 queued", "rcpt 451 4.7.1 greylisted, come again"},
			true, false,
		},
		{
			"all recipients are refused, DATA too", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 503 no valid recipients
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"all recipients are refused, DATA is not: a lone dot", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 354 go
C: .
S: 554 no recipients
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"the answer to the lone dot is 421", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 354 go
C: .
S: 421 bye
gone`, one(),
			[]string{"rcpt 550 no"},
			false, false,
		},
		{
			"all refused without PIPELINING: no DATA", plainHello + `
C: MAIL FROM:<a@from.example>
S: 250 ok
C: RCPT TO:<x@to.example>
S: 550 no
gone`, one(),
			[]string{"rcpt 550 no"},
			true, false,
		},
		{
			"sender refused, the rest answered 503", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: RCPT TO:<z@to.example>
C: DATA
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
			"sender refused without PIPELINING", plainHello + `
C: MAIL FROM:<a@from.example>
S: 451 later
gone`, one(),
			[]string{"mail 451 later"},
			true, false,
		},
		{
			"sender refused, recipient and DATA accepted: nothing may be delivered", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 550 not you
S: 250 ok
S: 354 go
gone`, one(),
			[]string{"mail 550 not you"},
			false, false,
		},
		{
			"DATA refused", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: RCPT TO:<z@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 550 no
S: 250 ok
S: 451 4.3.0 disk full
gone`, three(),
			[]string{"data 451 4.3.0 disk full", "rcpt 550 no", "data 451 4.3.0 disk full"},
			true, false,
		},
		{
			"message refused", hello + `
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
S: 554 5.7.1 spam
gone`, one(),
			[]string{"final-dot 554 5.7.1 spam"},
			true, false,
		},
		{
			"421 to MAIL", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 421 4.7.0 too many messages
close`, one(),
			[]string{"mail 421 4.7.0 too many messages"},
			false, false,
		},
		{
			"421 unasked before the first command", hello + `
S: 421 4.4.2 idle too long
close`, one(),
			[]string{"mail 421 4.4.2 idle too long"},
			false, false,
		},
		{
			"421 to the second recipient speaks for those without a verdict", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: RCPT TO:<y@to.example>
C: RCPT TO:<z@to.example>
C: DATA
S: 250 ok
S: 550 no
S: 421 4.7.0 slow down
close`, three(),
			[]string{"rcpt 550 no", "rcpt 421 4.7.0 slow down", "rcpt 421 4.7.0 slow down"},
			false, false,
		},
		{
			"421 to DATA", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 421 bye
close`, one(),
			[]string{"data 421 bye"},
			false, false,
		},
		{
			"421 to the end of data", hello + `
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
S: 421 bye
close`, one(),
			[]string{"final-dot 421 bye"},
			false, false,
		},
		{
			"closed silently before the first command", hello + "close", one(),
			[]string{"mail peer closed the connection"},
			false, true,
		},
		{
			"closed silently upon the first command", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
close`, one(),
			[]string{"mail peer closed the connection"},
			false, true,
		},
		{
			"reset upon the first command", hello + `
C: MAIL FROM:<a@from.example>
reset`, one(),
			[]string{"mail peer closed the connection"},
			false, true,
		},
		{
			"closed later is not silent in that sense", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
close`, one(),
			[]string{"rcpt peer closed the connection"},
			false, false,
		},
		{
			"closed instead of the last answer", hello + `
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
close`, one(),
			[]string{"final-dot peer closed the connection"},
			false, false,
		},
		{
			"garbage", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: hello there
gone`, one(),
			[]string{"mail peer broke the protocol"},
			false, false,
		},
		{
			"a reply out of place to DATA", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 250 ok
gone`, one(),
			[]string{"data peer broke the protocol"},
			false, false,
		},
		{
			"a reply out of place to RCPT", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 354 go
gone`, one(),
			[]string{"rcpt peer broke the protocol"},
			false, false,
		},
		{
			"bare LF: the message does not end in a dot", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
gone`, with(one(), func(tx *Transaction) { tx.Body = strings.NewReader("a\r\n\n.\r\nMAIL FROM:<evil>\r\n") }),
			[]string{"body message has a bare CR or LF"},
			false, false,
		},
		{
			"the message cannot be read", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<x@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
gone`, with(one(), func(tx *Transaction) { tx.Body = failingBody{} }),
			[]string{"body message cannot be read"},
			false, false,
		},
		{
			"an address with a command in it fails alone", hello + `
C: MAIL FROM:<a@from.example>
C: RCPT TO:<y@to.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C: Subject: s
C:
C: body
C: .
S: 250 queued
gone`, with(one(), func(tx *Transaction) {
				tx.Recipients = rcpts("x@to.example>\r\nRSET", "y@to.example", "", "b> ORCPT=<c")
			}),
			[]string{
				"rcpt address cannot be sent over SMTP", "final-dot 250 queued",
				"rcpt address cannot be sent over SMTP", "rcpt address cannot be sent over SMTP",
			},
			true, false,
		},
		{
			"nothing is said for a bad sender", hello + "gone", with(one(), func(tx *Transaction) { tx.From = "a\nb" }),
			[]string{"mail address cannot be sent over SMTP"},
			true, false,
		},
		{
			"nothing is said for a message over SIZE", hello + "gone", with(one(), func(tx *Transaction) { tx.Size = 10001 }),
			[]string{"mail message is larger than the peer accepts"},
			true, false,
		},
		{
			"nothing is said for SMTPUTF8 that is not offered", plainHello + "gone",
			with(one(), func(tx *Transaction) { tx.NeedsUTF8 = true }),
			[]string{"mail message needs SMTPUTF8, which the peer does not offer"},
			true, false,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}
