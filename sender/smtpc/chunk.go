package smtpc

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// maxChunk is the largest message that goes out with BDAT (RFC 3030): always as one chunk, in
// one group with its envelope. A larger one goes out with DATA: there a round trip is little
// beside the body, and a peer that refuses all recipients is spared it.
const maxChunk = 256 << 10

var chunks = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// load reads the message into s.chunk if it is to go out with BDAT, whose length comes first.
// It reports whether the message can be sent: one that cannot fails here, before the peer has
// heard of it.
//
// BDAT stuffs no dots, and no line can end it. What it carries still has to be lines that end in
// CRLF: the receiver passes the message on with DATA, maybe to one that sees an end of data
// where the receiver saw none. A last line without an end gets one, as with DATA.
func (s *sending) load() bool {
	if !s.ext.Chunking || s.t.Size <= 0 || s.t.Size > maxChunk {
		return true
	}
	s.chunk = chunks.Get().(*bytes.Buffer) //nolint:errcheck // the pool holds nothing else
	s.chunk.Reset()
	s.chunk.Grow(int(s.t.Size) + len(crlf))
	if _, err := s.t.Body.WriteTo(s.chunk); err != nil {
		s.settle(event.PhaseBody, smtpstatus.Reply{}, fmt.Errorf("%w: %w", ErrBody, err))
		return false
	}
	message := s.chunk.Bytes()
	if bytes.HasSuffix(message, cr) || !onlyCRLF(message) {
		s.settle(event.PhaseBody, smtpstatus.Reply{}, ErrBareLineEnd)
		return false
	}
	if len(message) > 0 && !bytes.HasSuffix(message, lf) {
		_, _ = s.chunk.Write(crlf)
	}
	return true
}

// unload gives the memory of the message back.
func (s *sending) unload() {
	if s.chunk == nil {
		return
	}
	if s.chunk.Cap() <= 2*maxChunk { // more, where Transaction.Size was far too small
		chunks.Put(s.chunk)
	}
	s.chunk = nil
}

// writeChunk writes the BDAT command and the message behind it.
func (s *sending) writeChunk() {
	w := s.bw
	_, _ = w.WriteString("BDAT ")
	_, _ = w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(s.chunk.Len()), 10))
	_, _ = w.WriteString(" LAST\r\n")
	_, _ = w.Write(s.chunk.Bytes())
	s.chunked = true
}

// chunkAnswered acts on the reply to BDAT, other than 421. The whole message was on its way when
// the envelope was answered, so the reply is one to a message that should go to nobody, too.
func (s *sending) chunkAnswered(ctx context.Context, reply smtpstatus.Reply) {
	wanted := s.accepted > 0 && !s.refused
	switch {
	case s.flushErr != nil: // the peer had enough of it, and may have said why
		if reply.Positive() {
			s.fail(event.PhaseBody, smtpstatus.Reply{}, networkError(ctx, s.flushErr))
		} else {
			s.fail(event.PhaseBody, reply, nil)
		}
	case reply.Code/100 == 3:
		s.fail(event.PhaseFinalDot, smtpstatus.Reply{}, unexpected("BDAT", reply))
	case reply.Code == 500, wanted && reply.Code > 500 && reply.Code <= 504:
		// It is the command that was refused. A peer that does not know BDAT goes on to read the
		// message as commands: away from here.
		s.settle(event.PhaseData, smtpstatus.Reply{}, fmt.Errorf("%w: answered with %s", ErrChunking, reply))
		s.Close()
	case s.refused && s.accepted > 0 && reply.Code/100 == 2:
		s.Close() // it refused the sender and took the message: no telling what it does next
	case wanted:
		s.settle(event.PhaseFinalDot, reply, nil)
		s.stale = reply.Code/100 != 2
	default:
		// All were refused, so is the chunk, and RFC 3030 section 2 has the peer skip its bytes.
		// One that does not shows in its reply to the RSET before the next transaction.
	}
}
