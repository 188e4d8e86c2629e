package smtpc

import (
	"io"
	"strconv"
	"strings"
	"time"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// Transaction is one message to one or more recipients.
type Transaction struct {
	From       string // reverse path without angle brackets; "" is the null sender
	Recipients []Rcpt

	// EnvID and Ret are the DSN parameters ENVID (in the clear) and RET ("FULL", "HDRS" or "").
	// They are left out where the peer does not offer DSN.
	EnvID string
	Ret   string

	// Size in bytes, for the SIZE parameter and for CHUNKING; 0 leaves both out.
	Size int64

	// Body writes the message, lines ended by CRLF, not dot-stuffed. WriteTo is called at most
	// once, and not at all if nobody is to get the message; with CHUNKING it is called before
	// the peer has said who that is. Send keeps nothing of what it is given. A *bytes.Reader serves well, as does a *net.Buffers of header and body.
	Body io.WriterTo

	// BeforeEnd, if it is not nil, is called once before the end of the message is sent, the final dot
	// or the BDAT command; not if nobody is to get the message. It may block. After an error the
	// connection is dropped without the end, and recipients without a verdict get ErrHeldBack.
	BeforeEnd func() error

	// Needs8Bit says that the body has bytes over 127. It is announced where the peer offers
	// 8BITMIME; where it does not, the message goes out unchanged all the same, because
	// converting it would break its signatures and refusing it would lose it.
	Needs8Bit bool
	// NeedsUTF8 says that an address or a header is not ASCII; without SMTPUTF8 at the peer the
	// transaction fails with ErrNoUTF8.
	NeedsUTF8 bool
}

// Rcpt is one recipient of a Transaction.
type Rcpt struct {
	Address string // forward path without angle brackets
	ORcpt   string // original recipient in the clear (RFC 3461 section 4.2), "" for none; left out unless ASCII
	Notify  Notify // left out, like ORcpt, where the peer does not offer DSN
}

// Notify says when the sender wants a report (RFC 3461 section 4.1). The zero value leaves the
// parameter out.
type Notify uint8

// The values of NOTIFY. NotifyNever stands alone, the others may be combined.
const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// String returns the value as in "SUCCESS,FAILURE", "" for the zero value.
func (n Notify) String() string {
	if n&NotifyNever != 0 {
		return "NEVER"
	}
	var words []string
	for _, v := range []struct {
		bit  Notify
		word string
	}{{NotifySuccess, "SUCCESS"}, {NotifyFailure, "FAILURE"}, {NotifyDelay, "DELAY"}} {
		if n&v.bit != 0 {
			words = append(words, v.word)
		}
	}
	return strings.Join(words, ",")
}

// Result is what became of a transaction.
type Result struct {
	// Recipients has one entry for each of Transaction.Recipients, in their order.
	Recipients []RcptResult
	// Message is the number of the transaction on its connection, from 1; 0 if nothing was sent
	// because no recipient, or not the message, could be sent.
	Message int
	// ClosedSilently reports that the peer had closed the connection, or closed it then, without
	// answering the first command of this transaction. Always at the same Message, it is the
	// peer's way to limit messages per connection. A peer that says nothing to MAIL has not
	// taken the message, though with CHUNKING it may have been sent whole.
	ClosedSilently bool
	// Usable reports whether the connection is good for another transaction.
	Usable bool
	Timing Timing
}

// Timing says how long the parts of a transaction took, each counted from the end of the part
// before. With PIPELINING most of the envelope's time is in Mail. With CHUNKING reading and
// writing the message come first, Data is 0, and what is written in one group with the envelope
// is in Body.
type Timing struct {
	Mail     time.Duration // until the answer to MAIL, with a RSET before it
	Rcpt     time.Duration // until the last answer to RCPT
	Data     time.Duration // until the answer to DATA
	Body     time.Duration // until the last byte was handed to the system
	FinalDot time.Duration // until the answer to the end of data, or to BDAT
}

// Total returns the time from the first command to the last answer.
func (t Timing) Total() time.Duration { return t.Mail + t.Rcpt + t.Data + t.Body + t.FinalDot }

// RcptResult is what became of one recipient: the reply that decided, or a local error.
type RcptResult struct {
	// Phase is where it was decided; event.PhaseFinalDot for everything delivered.
	Phase event.Phase
	// Reply is the peer's verdict. Where MAIL, DATA or the end of data was refused, or a 421
	// ended the connection, it is that reply. Zero if Err is set.
	Reply smtpstatus.Reply
	// Err is an *Error if the peer did not decide, else nil. An error in event.PhaseFinalDot
	// leaves open whether the peer took the message (RFC 5321 section 4.5.3.2.6). With CHUNKING
	// that is the phase from the moment the message is written, whichever answer comes next.
	Err error
}

// Delivered reports whether the peer took responsibility for the recipient.
func (r RcptResult) Delivered() bool {
	return r.Err == nil && r.Phase == event.PhaseFinalDot && r.Reply.Code/100 == 2
}

// writeMail writes the MAIL command into the buffer of c.
func (c *Conn) writeMail(t *Transaction) {
	w := c.bw // its errors come back from Flush
	_, _ = w.WriteString("MAIL FROM:<")
	_, _ = w.WriteString(t.From)
	_ = w.WriteByte('>')
	if c.ext.Size && t.Size > 0 {
		_, _ = w.WriteString(" SIZE=")
		_, _ = w.Write(strconv.AppendInt(w.AvailableBuffer(), t.Size, 10))
	}
	if c.ext.EightBitMIME && t.Needs8Bit {
		_, _ = w.WriteString(" BODY=8BITMIME")
	}
	if t.NeedsUTF8 {
		_, _ = w.WriteString(" SMTPUTF8")
	}
	if c.ext.DSN && (t.Ret == "FULL" || t.Ret == "HDRS") {
		_, _ = w.WriteString(" RET=")
		_, _ = w.WriteString(t.Ret)
	}
	if c.ext.DSN && t.EnvID != "" {
		_, _ = w.WriteString(" ENVID=")
		_, _ = w.WriteString(xtext(t.EnvID))
	}
	_, _ = w.WriteString("\r\n")
}

// writeRcpt writes the RCPT command into the buffer of c.
func (c *Conn) writeRcpt(r *Rcpt) {
	w := c.bw
	_, _ = w.WriteString("RCPT TO:<")
	_, _ = w.WriteString(r.Address)
	_ = w.WriteByte('>')
	if c.ext.DSN && r.Notify != 0 {
		_, _ = w.WriteString(" NOTIFY=")
		_, _ = w.WriteString(r.Notify.String())
	}
	if c.ext.DSN && r.ORcpt != "" && isASCII(r.ORcpt) { // RFC 6533's utf-8 type is not universal
		_, _ = w.WriteString(" ORCPT=rfc822;")
		_, _ = w.WriteString(xtext(r.ORcpt))
	}
	_, _ = w.WriteString("\r\n")
}

// xtext encodes s for a DSN parameter (RFC 3461 section 4).
func xtext(s string) string {
	plain := func(b byte) bool { return b > ' ' && b < 0x7f && b != '+' && b != '=' }
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	const hex = "0123456789ABCDEF"
	out := []byte(s[:i])
	for ; i < len(s); i++ {
		if plain(s[i]) {
			out = append(out, s[i])
		} else {
			out = append(out, '+', hex[s[i]>>4], hex[s[i]&15])
		}
	}
	return string(out)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// sendable reports whether an address can stand between angle brackets without ending them:
// nothing that would let it add a parameter or a command of its own.
func sendable(address string) bool {
	quoted := false
	for i := 0; i < len(address); i++ {
		switch b := address[i]; {
		case b < ' ' || b == 0x7f:
			return false
		case b == '\\' && quoted:
			if i++; i == len(address) || address[i] < ' ' || address[i] == 0x7f {
				return false
			}
		case b == '"':
			quoted = !quoted
		case !quoted && (b == ' ' || b == '<' || b == '>'):
			return false
		}
	}
	return !quoted
}
