package smtpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// pipelineGroup is how many commands are written before their replies are read. The replies of
// one group, even at 512 octets each, fit the socket buffers of both sides, so that neither
// side can block the other (RFC 2920 section 3.1).
const pipelineGroup = 100

// step is one command of a transaction; rcpt counts only for event.PhaseRcpt. The RSET before a
// transaction has event.PhaseNone.
type step struct {
	phase event.Phase
	rcpt  int
}

// sending is the state of one Send.
type sending struct {
	*Conn

	t        Transaction
	r        Result
	accepted int           // recipients with a 2yz so far
	refused  bool          // MAIL was, and everybody has that verdict
	chunk    *bytes.Buffer // the message until it is written, if it goes out with BDAT
	chunked  bool          // BDAT and the message were written
	flushErr error
	last421  smtpstatus.Reply // that the connection survived so far
	since    time.Time
}

// Send runs one mail transaction and returns what became of each recipient. A recipient whose
// address cannot be sent fails alone. After the call the connection is ready for the next
// transaction, or closed (Result.Usable). Result.Recipients is overwritten by the next call.
func (c *Conn) Send(ctx context.Context, t Transaction) Result {
	c.results = slices.Grow(c.results[:0], len(t.Recipients))[:len(t.Recipients)]
	clear(c.results)
	s := &c.sending
	*s = sending{Conn: c, t: t, r: Result{Recipients: c.results}}
	defer func() { *s = sending{} }() // it holds the message
	s.since = time.Now()
	if s.admit(ctx) && s.load() {
		s.r.Timing.Body = lap(&s.since)
		stop := c.closeOn(ctx)
		s.run(ctx)
		if !stop() {
			c.Close() // the context ended, maybe after the last answer
		}
	}
	s.unload()
	s.r.Usable = !c.closed
	return s.r
}

// admit does the checks that need no peer and plans the commands. It reports whether there is
// anything to send.
func (s *sending) admit(ctx context.Context) bool {
	switch {
	case s.closed:
		s.settle(event.PhaseMail, smtpstatus.Reply{}, ErrClosed)
		return false
	case ctx.Err() != nil:
		s.settle(event.PhaseMail, smtpstatus.Reply{}, context.Cause(ctx))
		return false
	case !sendable(s.t.From):
		s.settle(event.PhaseMail, smtpstatus.Reply{}, fmt.Errorf("%w: sender %q", ErrAddress, s.t.From))
		return false
	case s.t.NeedsUTF8 && !s.ext.SMTPUTF8:
		s.settle(event.PhaseMail, smtpstatus.Reply{}, ErrNoUTF8)
		return false
	case s.ext.MaxBytes > 0 && s.t.Size > s.ext.MaxBytes:
		s.settle(event.PhaseMail, smtpstatus.Reply{},
			fmt.Errorf("%w: %d bytes, limit %d", ErrTooBig, s.t.Size, s.ext.MaxBytes))
		return false
	}
	s.steps = s.steps[:0]
	if s.stale {
		s.steps = append(s.steps, step{phase: event.PhaseNone})
	}
	s.steps = append(s.steps, step{phase: event.PhaseMail})
	envelope := len(s.steps)
	for i, rcpt := range s.t.Recipients {
		if rcpt.Address == "" || !sendable(rcpt.Address) {
			s.r.Recipients[i] = RcptResult{Phase: event.PhaseRcpt, Err: &Error{
				Phase: event.PhaseRcpt, Err: fmt.Errorf("%w: %q", ErrAddress, rcpt.Address),
			}}
			continue
		}
		s.steps = append(s.steps, step{phase: event.PhaseRcpt, rcpt: i})
	}
	if len(s.steps) == envelope {
		return false
	}
	s.steps = append(s.steps, step{phase: event.PhaseData})
	return true
}

// settle gives every recipient without a verdict this one.
func (s *sending) settle(phase event.Phase, reply smtpstatus.Reply, err error) {
	verdict := RcptResult{Phase: phase, Reply: reply}
	if err != nil {
		verdict = RcptResult{Phase: phase, Err: &Error{Phase: phase, Err: err}}
	}
	for i := range s.r.Recipients {
		if s.r.Recipients[i].Phase == event.PhaseNone {
			s.r.Recipients[i] = verdict
		}
	}
}

// fail ends transaction and connection with a verdict for everybody who has none.
func (s *sending) fail(phase event.Phase, reply smtpstatus.Reply, err error) {
	if errors.Is(err, ErrPeerClosed) && !s.last421.IsZero() {
		reply, err = s.last421, nil
	}
	if err != nil && s.chunked && s.flushErr == nil && !s.r.ClosedSilently {
		phase = event.PhaseFinalDot // whatever answer was next, the peer had the whole message
	}
	s.settle(phase, reply, err)
	s.Close()
}

// run sends the planned commands, as many at once as the peer allows, and reads their replies.
func (s *sending) run(ctx context.Context) {
	s.count++
	s.r.Message = s.count
	s.stale = true // until the peer has forgotten the transaction by itself
	if s.br.Buffered() > 0 {
		s.spokeUnasked(ctx)
		return
	}
	group := 1
	if s.ext.Pipelining {
		group = pipelineGroup
	}
	for next := 0; next < len(s.steps); {
		steps := s.steps[next:min(next+group, len(s.steps))]
		if steps[0].phase == event.PhaseData && s.accepted == 0 {
			return // all were refused before DATA was sent
		}
		if s.chunk != nil && steps[len(steps)-1].phase == event.PhaseData && !s.mayEnd() {
			return
		}
		for _, st := range steps {
			s.write(st)
		}
		s.flushErr = s.bw.Flush()
		if s.chunked {
			s.r.Timing.Body += lap(&s.since)
			s.unload()
		}
		for i, st := range steps {
			if !s.answer(ctx, st, next+i == 0) {
				return
			}
		}
		if s.refused {
			s.stale = s.accepted > 0 || s.chunked
			return
		}
		next += len(steps)
	}
}

// spokeUnasked ends a connection on which a reply came that nothing asked for: mostly a 421, else
// replies can no longer be matched to commands.
func (s *sending) spokeUnasked(ctx context.Context) {
	reply, err := s.read(ctx, s.timeouts.Command, false)
	s.r.Timing.Mail = lap(&s.since)
	if err == nil && reply.Positive() {
		err = fmt.Errorf("%w: unasked reply %s", ErrProtocol, reply)
	}
	s.fail(event.PhaseMail, reply, err)
}

func (s *sending) write(st step) {
	switch st.phase {
	case event.PhaseMail:
		s.writeMail(&s.t)
	case event.PhaseRcpt:
		s.writeRcpt(&s.t.Recipients[st.rcpt])
	case event.PhaseData:
		if s.chunk != nil {
			s.writeChunk()
		} else {
			_, _ = s.bw.WriteString("DATA\r\n")
		}
	default:
		_, _ = s.bw.WriteString("RSET\r\n")
	}
}

// answer reads the reply to st and acts on it. It reports whether the next reply is to be read.
func (s *sending) answer(ctx context.Context, st step, first bool) bool {
	phase, timeout := st.phase, s.timeouts.Command
	switch {
	case phase == event.PhaseNone:
		phase = event.PhaseMail
	case phase == event.PhaseData && s.chunked:
		phase, timeout = event.PhaseFinalDot, s.timeouts.FinalDot
	case phase == event.PhaseData:
		timeout = s.timeouts.DataInit
	default:
	}
	reply, err := s.read(ctx, s.patience(s.flushErr, timeout), phase != event.PhaseFinalDot)
	switch phase {
	case event.PhaseMail:
		s.r.Timing.Mail += lap(&s.since)
	case event.PhaseRcpt:
		s.r.Timing.Rcpt += lap(&s.since)
	case event.PhaseData:
		s.r.Timing.Data += lap(&s.since)
	default:
		s.r.Timing.FinalDot += lap(&s.since)
		if s.flushErr != nil {
			phase = event.PhaseBody // the peer cannot have the end of it
		}
	}
	switch {
	case err != nil:
		if s.flushErr != nil {
			err = networkError(ctx, s.flushErr)
		}
		s.r.ClosedSilently = first && errors.Is(err, ErrPeerClosed) && s.last421.IsZero()
		s.fail(phase, reply, err)
		return false
	case reply.Code == 421 && !s.survive421:
		s.fail(phase, reply, nil)
		return false
	case reply.Code == 421:
		s.last421 = reply
	}
	switch st.phase {
	case event.PhaseMail:
		return s.mailAnswered(reply)
	case event.PhaseRcpt:
		return s.rcptAnswered(&s.r.Recipients[st.rcpt], reply)
	case event.PhaseData:
		if s.chunked {
			s.chunkAnswered(ctx, reply)
		} else {
			s.dataAnswered(ctx, reply)
		}
	default:
		if reply.Code/100 != 2 {
			// RSET is not to be refused: this reply is to something else.
			s.fail(event.PhaseMail, smtpstatus.Reply{}, unexpected("RSET", reply))
			return false
		}
	}
	return true
}

func (s *sending) mailAnswered(reply smtpstatus.Reply) bool {
	switch reply.Code / 100 {
	case 2:
		return true
	case 3:
		s.fail(event.PhaseMail, smtpstatus.Reply{}, unexpected("MAIL", reply))
		return false
	}
	// The commands behind it in the group are answered too, mostly with 503.
	s.refused = true
	s.settle(event.PhaseMail, reply, nil)
	return true
}

func (s *sending) rcptAnswered(rcpt *RcptResult, reply smtpstatus.Reply) bool {
	switch reply.Code / 100 {
	case 2:
		s.accepted++
	case 3:
		s.fail(event.PhaseRcpt, smtpstatus.Reply{}, unexpected("RCPT", reply))
		return false
	default:
		if !s.refused {
			*rcpt = RcptResult{Phase: event.PhaseRcpt, Reply: reply}
		}
	}
	return true
}

func (s *sending) dataAnswered(ctx context.Context, reply smtpstatus.Reply) {
	switch {
	case reply.Code/100 == 2:
		s.fail(event.PhaseData, smtpstatus.Reply{}, unexpected("DATA", reply))
	case reply.Code/100 != 3:
		s.settle(event.PhaseData, reply, nil)
	case s.accepted == 0:
		s.emptyBody(ctx)
	case s.refused:
		// It refused the sender, took recipients and wants data: ending the data here could
		// deliver an empty message.
		s.Close()
	default:
		s.body(ctx)
	}
}

func unexpected(command string, reply smtpstatus.Reply) error {
	return fmt.Errorf("%w: %s answered with %s", ErrProtocol, command, reply)
}

// emptyBody answers a 354 that came although every recipient was refused: RFC 2920 section 3.1
// asks for a lone dot. Whatever the peer says to it, nobody is to get the message.
func (s *sending) emptyBody(ctx context.Context) {
	_, _ = s.bw.Write(endOfData)
	err := s.bw.Flush()
	reply, readErr := s.read(ctx, s.patience(err, s.timeouts.FinalDot), true)
	s.r.Timing.FinalDot = lap(&s.since)
	if err != nil || readErr != nil || reply.Code == 421 {
		s.Close()
	}
}

// mayEnd asks Transaction.BeforeEnd. Where it may not, the transaction ends here: the peer has not
// got the message.
func (s *sending) mayEnd() bool {
	if s.t.BeforeEnd == nil {
		return true
	}
	if err := s.t.BeforeEnd(); err != nil {
		s.fail(event.PhaseBody, smtpstatus.Reply{}, fmt.Errorf("%w: %w", ErrHeldBack, err))
		return false
	}
	return true
}

// body sends the message and settles the accepted recipients.
func (s *sending) body(ctx context.Context) {
	d := &s.dots
	*d = dotWriter{w: s.bw, dotAlone: s.dotAlone}
	_, err := s.t.Body.WriteTo(d)
	if err == nil {
		if !s.mayEnd() {
			return
		}
		err = d.finish()
	}
	s.r.Timing.Body = lap(&s.since)
	switch {
	case d.netErr != nil:
		// It may have said why before it closed, as in "552 too big".
		reply, readErr := s.read(ctx, lastWords, false)
		if readErr == nil && !reply.Positive() {
			s.fail(event.PhaseBody, reply, nil)
		} else {
			s.fail(event.PhaseBody, smtpstatus.Reply{}, networkError(ctx, d.netErr))
		}
		return
	case errors.Is(err, ErrBareLineEnd):
		s.fail(event.PhaseBody, smtpstatus.Reply{}, ErrBareLineEnd)
		return
	case err != nil:
		s.fail(event.PhaseBody, smtpstatus.Reply{}, fmt.Errorf("%w: %w", ErrBody, err))
		return
	}
	reply, err := s.read(ctx, s.timeouts.FinalDot, false)
	s.r.Timing.FinalDot = lap(&s.since)
	switch {
	case err != nil:
		s.fail(event.PhaseFinalDot, smtpstatus.Reply{}, err)
	case reply.Code/100 == 3:
		s.fail(event.PhaseFinalDot, smtpstatus.Reply{}, unexpected("end of data", reply))
	case reply.Code == 421 && !s.survive421:
		s.fail(event.PhaseFinalDot, reply, nil)
	default:
		s.settle(event.PhaseFinalDot, reply, nil)
		s.stale = reply.Code/100 != 2 // some peers keep a refused transaction open
	}
}
