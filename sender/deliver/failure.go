package deliver

import (
	"errors"
	"syscall"

	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/sender/resolve"
	"carom/sender/smtpc"
)

// failure is how an attempt ended: by a reply, which may be a good one, or by an error of our
// own. Exactly one of reply and err says it.
type failure struct {
	phase event.Phase
	reply smtpstatus.Reply
	err   error

	stays       bool // the mail stays queued although the reply is permanent
	bounceQueue bool // a pattern bounces all that the queue holds
	sourceGone  bool // a pattern disabled the source
}

// failureOf returns what an error of opening a connection says.
func failureOf(err error) failure {
	e, ok := errors.AsType[*smtpc.Error](err)
	if !ok {
		return failure{phase: event.PhaseConnect, err: err}
	}
	if !e.Reply.IsZero() {
		// A login that is refused, and TLS that is required and refused, are no fault of the recipient's.
		ours := errors.Is(e.Err, smtpc.ErrAuth) || errors.Is(e.Err, smtpc.ErrNoTLS)
		return failure{phase: e.Phase, reply: e.Reply, stays: ours}
	}
	return failure{phase: e.Phase, err: err}
}

// temporary reports whether an error may be gone later. An error that does not say is temporary.
func (f failure) temporary() bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](f.err)
	return !ok || t.Temporary()
}

// enhanced returns the enhanced status code that an error gives itself, or the zero value.
func (f failure) enhanced() smtpstatus.Enhanced {
	e, ok := errors.AsType[interface {
		error
		Enhanced() smtpstatus.Enhanced
	}](f.err)
	if !ok {
		return smtpstatus.Enhanced{}
	}
	return e.Enhanced()
}

// cause returns the classifier's word for an error; "" where a reply decided, or where the status
// code says it all.
func (f failure) cause() classify.Local {
	var timeout bool
	if e, ok := errors.AsType[*smtpc.Error](f.err); ok {
		timeout = e.Timeout()
	}
	switch {
	case f.err == nil, errors.Is(f.err, smtpc.ErrAddress), errors.Is(f.err, smtpc.ErrTooBig), errors.Is(f.err, smtpc.ErrNoUTF8), errors.Is(f.err, smtpc.ErrBareLineEnd):
		return "" // about the message: its enhanced status code says it
	case errors.Is(f.err, resolve.ErrNullMX):
		return classify.NullMX
	case errors.Is(f.err, resolve.ErrUnavailable):
		return classify.DNSTemporary
	case f.phase == event.PhaseResolve:
		return classify.DomainNotFound
	case f.phase == event.PhaseTLS:
		return classify.TLSFailed
	case errors.Is(f.err, smtpc.ErrProtocol):
		return classify.ProtocolFailure
	case f.phase != event.PhaseConnect && timeout:
		return classify.ReplyTimeout
	case f.phase != event.PhaseConnect:
		return classify.ConnectionLost
	case timeout:
		return classify.ConnectTimeout
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return classify.ConnectRefused
	default:
		return classify.ConnectFailed
	}
}
