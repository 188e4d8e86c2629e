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
		switch kind {
		case entryMark:
			n, err := numbers(v, 1)
			if err != nil {
				return err
			}
			mark = max(mark, n[0])
			return nil
		case entryReceived, entryFinished, entryRescheduled:
		default:
			return nil
		}
		var id event.ID
		if len(v) < len(id) {
			return errState
		}
		copy(id[:], v)
		n, err := numbers(v[len(id):], map[byte]int{entryReceived: 1, entryFinished: 2, entryRescheduled: 3}[kind])
		if err != nil {
			return err
		}
		switch kind {
		case entryReceived:
			x.received(id, n[0])
		case entryFinished:
			x.finished(id, n[0])
		case entryRescheduled:
			for _, i := range n[2:] {
				x.rescheduled(id, i, uint32(n[0]), int64(n[1]))
			}
		}
		return nil
	})
	return mark, err
}

// numbers decodes all numbers in b, which must be at least so many.
func numbers(b []byte, least int) ([]uint64, error) {
	var ns []uint64
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 {
			return nil, errState
		}
		ns, b = append(ns, n), b[w:]
	}
	if len(ns) < least {
		return nil, errState
	}
	return ns, nil
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
