package spool

import (
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// slabSize is how many messages are made room for at once.
const slabSize = 4096

// message is what stays in memory of a live message: 48 bytes without pointers, beside its place in
// the map of IDs. What differs between several recipients is in index.more.
type message struct {
	segment     uint64 // where the envelope is; the body follows it
	receivedSeq uint64 // highest seq of a received event
	due         int64  // of a single recipient, as in recipient
	offset      uint32
	envelope    uint32 // bytes of the envelope's record
	body        uint32 // bytes of the body's record; 0 if an old checkpoint did not say it
	received    uint32 // received events in the event log
	left        uint32 // recipients that are not finished
	attempts    uint32 // of a single recipient
}

// recipient is the state of one of several recipients.
type recipient struct {
	due      int64 // microseconds since 1970; 0 for new mail
	attempts uint32
	done     bool
}

func newMessage(pos seglog.Position, envelope, body, recipients int) message {
	m := message{envelope: uint32(envelope), body: uint32(body), left: uint32(recipients)}
	m.place(pos)
	return m
}

// place sets where the message is. Options.withDefaults bounds segments so that offsets fit.
func (m *message) place(pos seglog.Position) { m.segment, m.offset = pos.Segment, uint32(pos.Offset) }

func (m *message) pos() seglog.Position {
	return seglog.Position{Segment: m.segment, Offset: int64(m.offset)}
}

// bytes returns how much of its segment the message takes.
func (m *message) bytes() int64 {
	pos := m.pos()
	return seglog.After(seglog.After(pos, int(m.envelope)), int(m.body)).Offset - pos.Offset
}

// handle is the number of a message in the slabs.
type handle uint32

// index holds the live messages. The Spool's mutex guards it. A message with one recipient takes
// about 80 bytes in all; memory of finished ones is used again.
type index struct {
	byID       map[event.ID]handle
	slabs      [][]message
	free       []handle
	more       map[handle][]recipient // of messages with several
	inSegment  map[uint64]usage
	recipients int // unfinished ones
}

// usage is what is live in a segment.
type usage struct {
	messages int
	bytes    int64
}

func newIndex() index {
	return index{byID: make(map[event.ID]handle), more: make(map[handle][]recipient), inSegment: make(map[uint64]usage)}
}

func (x *index) at(h handle) *message { return &x.slabs[h/slabSize][h%slabSize] }

// find returns a live message, or nil. The pointer is good until the message is finished.
func (x *index) find(id event.ID) (*message, handle) {
	h, ok := x.byID[id]
	if !ok {
		return nil, 0
	}
	return x.at(h), h
}

// add adds a message. Without more all its recipients are new.
func (x *index) add(id event.ID, m message, more []recipient) {
	if len(x.free) == 0 {
		first := handle(len(x.slabs) * slabSize)
		x.slabs = append(x.slabs, make([]message, slabSize))
		for i := range handle(slabSize) {
			x.free = append(x.free, first+slabSize-1-i)
		}
	}
	h := x.free[len(x.free)-1]
	x.free = x.free[:len(x.free)-1]
	*x.at(h) = m
	x.byID[id] = h
	if more == nil && m.left > 1 {
		more = make([]recipient, m.left)
	}
	if more != nil {
		x.more[h] = more
	}
	x.use(&m, 1)
	x.recipients += int(m.left)
}

func (x *index) remove(id event.ID) {
	m, h := x.find(id)
	if m == nil {
		return
	}
	x.use(m, -1)
	x.recipients -= int(m.left)
	delete(x.byID, id)
	delete(x.more, h)
	x.free = append(x.free, h)
}

// use counts messages of the size and in the segment of m.
func (x *index) use(m *message, messages int) {
	u := x.inSegment[m.segment]
	u.messages += messages
	u.bytes += int64(messages) * m.bytes()
	if u.messages == 0 {
		delete(x.inSegment, m.segment)
		return
	}
	x.inSegment[m.segment] = u
}

// stored notes that a message was stored, or that there is a later copy of one, and where. What became
// of the recipients of a copy stays.
func (x *index) stored(id event.ID, pos seglog.Position, envelope, body, recipients int) {
	if m, _ := x.find(id); m == nil {
		x.add(id, newMessage(pos, envelope, body, recipients), nil)
		return
	}
	x.move(id, pos, envelope, body)
}

// move notes that a live message has a later copy, and where. What became of its recipients stays.
func (x *index) move(id event.ID, pos seglog.Position, envelope, body int) {
	m, _ := x.find(id)
	if m == nil {
		return
	}
	x.use(m, -1)
	m.place(pos)
	m.envelope, m.body = uint32(envelope), uint32(body)
	x.use(m, 1)
}

// received notes one received event more. What was noted before is not counted twice.
func (x *index) received(id event.ID, seq uint64) {
	if m, _ := x.find(id); m != nil && seq > m.receivedSeq {
		m.received++
		m.receivedSeq = seq
	}
}

// finished notes that a recipient is done; the message goes with its last one.
func (x *index) finished(id event.ID, i uint64) {
	m, h := x.find(id)
	if m == nil {
		return
	}
	if more := x.more[h]; more != nil {
		if i >= uint64(len(more)) || more[i].done {
			return
		}
		more[i].done = true
	} else if i != 0 {
		return
	}
	if m.left == 1 {
		x.remove(id)
		return
	}
	m.left--
	x.recipients--
}

func (x *index) rescheduled(id event.ID, i uint64, attempts uint32, due int64) {
	m, h := x.find(id)
	if m == nil {
		return
	}
	switch more := x.more[h]; {
	case i < uint64(len(more)):
		more[i].attempts, more[i].due = attempts, due
	case more == nil && i == 0:
		m.attempts, m.due = attempts, due
	}
}

// live appends the recipients of m that are not finished to rs.
func (x *index) live(rs []LiveRecipient, m *message, h handle) []LiveRecipient {
	more := x.more[h]
	if more == nil {
		return append(rs, liveRecipient(0, m.attempts, m.due))
	}
	for i, r := range more {
		if !r.done {
			rs = append(rs, liveRecipient(uint32(i), r.attempts, r.due))
		}
	}
	return rs
}

func liveRecipient(i, attempts uint32, due int64) LiveRecipient {
	l := LiveRecipient{Index: i, Attempts: attempts}
	if due != 0 {
		l.Due = time.UnixMicro(due).UTC()
	}
	return l
}
