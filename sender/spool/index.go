package spool

import (
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// message is what stays in memory of a live message, about 100 bytes with its place in the map.
type message struct {
	pos         seglog.Position // of the envelope; the body follows it
	receivedSeq uint64          // highest seq of a received event
	received    uint32          // received events in the event log
	envelope    uint32          // bytes of the envelope's record
	body        uint32          // bytes of the body's record; 0 if an old checkpoint did not say it
	left        uint32          // recipients that are not finished
	one         recipient       // the only recipient, if more is nil
	more        []recipient
}

// recipient is the state of one recipient.
type recipient struct {
	due      int64 // microseconds since 1970; 0 for new mail
	attempts uint32
	done     bool
}

func newMessage(pos seglog.Position, envelope, body, recipients int) *message {
	m := &message{pos: pos, envelope: uint32(envelope), body: uint32(body), left: uint32(recipients)}
	if recipients > 1 {
		m.more = make([]recipient, recipients)
	}
	return m
}

// recipient returns recipient i, or nil if there is none.
func (m *message) recipient(i uint64) *recipient {
	switch {
	case m.more == nil && i == 0:
		return &m.one
	case i < uint64(len(m.more)):
		return &m.more[i]
	default:
		return nil
	}
}

// bytes returns how much of its segment the message takes.
func (m *message) bytes() int64 { return m.end().Offset - m.pos.Offset }

// end returns the position behind the message.
func (m *message) end() seglog.Position {
	return seglog.After(seglog.After(m.pos, int(m.envelope)), int(m.body))
}

// count returns the number of recipients, finished or not.
func (m *message) count() int { return max(1, len(m.more)) }

// live returns the recipients that are not finished.
func (m *message) live() []LiveRecipient {
	rs := make([]LiveRecipient, 0, m.left)
	for i := range uint64(m.count()) {
		r := m.recipient(i)
		if r.done {
			continue
		}
		l := LiveRecipient{Index: uint32(i), Attempts: r.attempts}
		if r.due != 0 {
			l.Due = time.UnixMicro(r.due).UTC()
		}
		rs = append(rs, l)
	}
	return rs
}

// index holds the live messages. The Spool's mutex guards it.
type index struct {
	messages   map[event.ID]*message
	inSegment  map[uint64]usage
	recipients int // unfinished ones
}

// usage is what is live in a segment.
type usage struct {
	messages int
	bytes    int64
}

func newIndex() index {
	return index{messages: make(map[event.ID]*message), inSegment: make(map[uint64]usage)}
}

func (x *index) add(id event.ID, m *message) {
	x.messages[id] = m
	x.use(m, 1)
	x.recipients += int(m.left)
}

func (x *index) remove(id event.ID) {
	m := x.messages[id]
	if m == nil {
		return
	}
	delete(x.messages, id)
	x.use(m, -1)
	x.recipients -= int(m.left)
}

// use counts messages of the size and in the segment of m.
func (x *index) use(m *message, messages int) {
	u := x.inSegment[m.pos.Segment]
	u.messages += messages
	u.bytes += int64(messages) * m.bytes()
	if u.messages == 0 {
		delete(x.inSegment, m.pos.Segment)
		return
	}
	x.inSegment[m.pos.Segment] = u
}

// move notes that a live message has a later copy, and where. What became of its recipients stays.
func (x *index) move(id event.ID, pos seglog.Position, envelope, body int) {
	m := x.messages[id]
	if m == nil {
		return
	}
	x.use(m, -1)
	m.pos, m.envelope, m.body = pos, uint32(envelope), uint32(body)
	x.use(m, 1)
}

// received notes one received event more. What was noted before is not counted twice.
func (x *index) received(id event.ID, seq uint64) {
	if m := x.messages[id]; m != nil && seq > m.receivedSeq {
		m.received++
		m.receivedSeq = seq
	}
}

// finished notes that a recipient is done; the message goes with its last one.
func (x *index) finished(id event.ID, i uint64) {
	m := x.messages[id]
	if m == nil {
		return
	}
	r := m.recipient(i)
	if r == nil || r.done {
		return
	}
	r.done = true
	m.left--
	x.recipients--
	if m.left == 0 {
		x.remove(id)
	}
}

func (x *index) rescheduled(id event.ID, i uint64, attempts uint32, due int64) {
	if m := x.messages[id]; m != nil {
		if r := m.recipient(i); r != nil {
			r.attempts, r.due = attempts, due
		}
	}
}
