package smtpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// The causes that callers tell apart, with errors.Is. The first group is about the message or
// the configuration, the second about the connection.
var (
	// ErrAddress: the address cannot be put into a command (blank, bracket or control character,
	// or nothing at all). Permanent.
	ErrAddress = errors.New("address cannot be sent over SMTP")
	// ErrTooBig: the message is larger than the peer's SIZE limit (RFC 1870). Permanent.
	ErrTooBig = errors.New("message is larger than the peer accepts")
	// ErrNoUTF8: the message needs SMTPUTF8, the peer does not offer it (RFC 6531). Permanent.
	ErrNoUTF8 = errors.New("message needs SMTPUTF8, which the peer does not offer")
	// ErrBareLineEnd: the body has a CR or LF that is not part of a CRLF (RFC 5321 section
	// 2.3.8). Permanent.
	ErrBareLineEnd = errors.New("message has a bare CR or LF")
	// ErrBody: reading the message failed on this side.
	ErrBody = errors.New("message cannot be read")
	// ErrHeldBack: Transaction.BeforeEnd did not let the message go. It is temporary.
	ErrHeldBack = errors.New("message was held back before its end")
	// ErrNotLocal: Config.LocalIP is not an address of this machine.
	ErrNotLocal = errors.New("source address is not on this machine")

	// ErrNoTLS: TLS is required, the peer does not offer it or refuses it.
	ErrNoTLS = errors.New("TLS is required, the peer does not do it")
	// ErrProtocol: what the peer sent is no SMTP reply, or none that fits.
	ErrProtocol = errors.New("peer broke the protocol")
	// ErrChunking: the peer offers CHUNKING and does not know BDAT; it is an ErrProtocol, too. The
	// caller may dial again with Config.IgnoreChunking.
	ErrChunking = fmt.Errorf("%w: offered CHUNKING, refused BDAT", ErrProtocol)
	// ErrNoAuth: the peer offers no way to log in that the configuration allows.
	ErrNoAuth = errors.New("peer offers no allowed way to authenticate")
	// ErrAuth: the peer refused the login. What it said is in Error.Reply; the cause is this
	// side's configuration, so the error is temporary whatever the code.
	ErrAuth = errors.New("peer refused the login")
	// ErrPeerClosed: the peer closed or reset the connection without saying why.
	ErrPeerClosed = errors.New("peer closed the connection")
	// ErrClosed: the connection was already closed when the call was made.
	ErrClosed = errors.New("connection is closed")
)

// Error is what went wrong other than by the peer's verdict on a recipient.
type Error struct {
	Phase event.Phase
	// Reply is the peer's refusal of the whole connection (from Dial and Reset); zero if the
	// peer said nothing.
	Reply smtpstatus.Reply
	// Err is the cause; nil if Reply is all there is to say.
	Err error
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("%s: peer answered %s", e.Phase, e.Reply)
	case e.Reply.IsZero():
		return fmt.Sprintf("%s: %v", e.Phase, e.Err)
	default:
		return fmt.Sprintf("%s: %v: %s", e.Phase, e.Err, e.Reply)
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same message may succeed later or elsewhere: true unless the
// peer answered 5yz, other than to a login, or the message itself cannot be sent.
func (e *Error) Temporary() bool {
	return (!e.Reply.Permanent() || errors.Is(e.Err, ErrAuth)) && !errors.Is(e.Err, ErrAddress) && !errors.Is(e.Err, ErrTooBig) &&
		!errors.Is(e.Err, ErrNoUTF8) && !errors.Is(e.Err, ErrBareLineEnd)
}

// Timeout reports whether a wait took longer than its timeout.
func (e *Error) Timeout() bool {
	return errors.Is(e.Err, os.ErrDeadlineExceeded) || isNetTimeout(e.Err)
}

func isNetTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// Enhanced returns the enhanced status code that describes e (RFC 3463): the peer's own, or the
// one for the cause.
func (e *Error) Enhanced() smtpstatus.Enhanced {
	code := func(class, subject, detail uint16) smtpstatus.Enhanced {
		return smtpstatus.Enhanced{Class: class, Subject: subject, Detail: detail}
	}
	switch {
	case !e.Reply.Enhanced.IsZero():
		return e.Reply.Enhanced
	case errors.Is(e.Err, ErrAddress):
		return code(5, 1, 3) // bad destination mailbox address syntax
	case errors.Is(e.Err, ErrTooBig):
		return code(5, 3, 4) // message too big for system
	case errors.Is(e.Err, ErrNoUTF8):
		return code(5, 6, 7) // RFC 6531 section 4.2: non-ASCII addresses not permitted
	case errors.Is(e.Err, ErrBareLineEnd):
		return code(5, 6, 0) // other or undefined media error
	case errors.Is(e.Err, ErrBody), errors.Is(e.Err, ErrNotLocal):
		return code(4, 3, 5) // system incorrectly configured
	case errors.Is(e.Err, ErrNoTLS), e.Phase == event.PhaseTLS, e.Phase == event.PhaseAuth:
		return code(4, 7, 0) // other or undefined security status
	case e.Reply.Permanent():
		return code(5, 0, 0)
	case e.Phase == event.PhaseConnect:
		return code(4, 4, 1) // no answer from host
	default:
		return code(4, 4, 2) // bad connection
	}
}

// networkError names the cause of a failed read or write: the end of the context first (it
// closed the connection), then the peer's closing.
func networkError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", ErrPeerClosed, err)
	}
	return err
}
