package spool

import (
	"encoding/binary"
	"errors"
	"fmt"

	"carom/schemas/event"
)

// Kinds of state entries. A record of the state log is its version and a number of entries, each
// a kind, the length of the rest, and the rest. Unknown kinds are passed over, so that a later
// version can keep other things here (a pause, a hold) and still be followed by this one.
const (
	stateVersion = 1

	entryReceived    = 1 // id, seq
	entryFinished    = 2 // id, recipient, seq
	entryRescheduled = 3 // id, attempts, due in microseconds, recipients …
	entryMark        = 4 // seq
)

var errState = errors.New("malformed state record")

// appendEntry appends an entry: the id where it has one, and numbers.
func appendEntry(b []byte, kind byte, id *event.ID, numbers ...uint64) []byte {
	length := 0
	if id != nil {
		length = len(id)
	}
	for _, n := range numbers {
		length += uvarintLen(n)
	}
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(length))
	if id != nil {
		b = append(b, id[:]...)
	}
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func uvarintLen(n uint64) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

// apply does to x what a record of the state log says. It returns the highest mark in it.
func (x *index) apply(record []byte) (mark uint64, err error) {
	if len(record) == 0 || record[0] != stateVersion {
		return 0, fmt.Errorf("%w: unknown version", errState)
	}
	err = eachField(record[1:], func(kind byte, v []byte) error {
		c := cursor{b: v}
		if kind == entryMark {
			mark = max(mark, c.uvarint())
			return c.err()
		}
		if kind != entryReceived && kind != entryFinished && kind != entryRescheduled {
			return nil
		}
		var id event.ID
		c.id(&id)
		a, b := c.uvarint(), uint64(0)
		if kind != entryReceived {
			b = c.uvarint()
		}
		if c.bad {
			return errState
		}
		switch kind {
		case entryReceived:
			x.received(id, a)
		case entryFinished:
			x.finished(id, a)
		case entryRescheduled:
			for len(c.b) > 0 {
				if i := c.uvarint(); !c.bad {
					x.rescheduled(id, i, uint32(a), int64(b))
				}
			}
		}
		return c.err()
	})
	return mark, err
}

// err returns an error if something could not be decoded.
func (c *cursor) err() error {
	if c.bad {
		return errState
	}
	return nil
}

// pendingState gathers entries until the keeper writes them.
type pendingState struct {
	buf  []byte
	lost bool // entries were lost since the last checkpoint; marks must not be written
}

// maxPendingState bounds the memory for state that can't be written. Over it the entries are given
// up, and a checkpoint of what they did must come before the next mark.
const maxPendingState = 32 << 20

func (p *pendingState) add(kind byte, id *event.ID, numbers ...uint64) {
	if len(p.buf) > maxPendingState {
		p.buf, p.lost = nil, true
	}
	if len(p.buf) == 0 {
		p.buf = append(p.buf, stateVersion)
	}
	p.buf = appendEntry(p.buf, kind, id, numbers...)
}

// take returns what is pending and goes on in the memory of spare.
func (p *pendingState) take(spare []byte) []byte {
	b := p.buf
	p.buf = spare[:0]
	return b
}
