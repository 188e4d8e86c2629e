package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// Envelope reads the envelope of a live message. The error is ErrNotFound, or one for which Damaged is
// true, after which the message can only be dropped, or one of the disk.
func (s *Spool) Envelope(id event.ID) (e *Envelope, err error) {
	err = s.at(id, func(m message) error {
		b, err := s.messages.Read(m.pos())
		if err == nil {
			e, err = checkEnvelope(id, b)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("envelope of %s: %w", id, err)
	}
	return e, nil
}

// Read reads the envelope and the body of a live message at once, which costs half of what Envelope
// and Body do; the first time, soon after Put, they come from memory. The body is the caller's. The error is ErrNotFound, or one for
// which Damaged is true, after which the message can only be finished, or one of the disk.
func (s *Spool) Read(id event.ID) (e *Envelope, body []byte, err error) {
	if item := s.takeCached(id); item != nil {
		return item.envelope, item.body, nil
	}
	err = s.at(id, func(m message) error {
		var records [][]byte
		if e, records, err = s.read(id, m); err == nil {
			body = records[1][1:]
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("message %s: %w", id, err)
	}
	return e, body, nil
}

// Body is a reader over the stored body of a message. With the last bytes it returns a
// *seglog.CorruptError if the body is damaged. Close it.
type Body struct {
	spool  *Spool
	record *seglog.Record
}

// Body opens the body of a live message. It can be read to the end even if the message is
// finished meanwhile. The error is ErrNotFound or a *seglog.CorruptError.
func (s *Spool) Body(id event.ID) (*Body, error) {
	b := &Body{spool: s}
	err := s.at(id, func(m message) (err error) {
		b.record, err = s.messages.OpenRecord(seglog.After(m.pos(), int(m.envelope)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("body of %s: %w", id, err)
	}
	var kind [1]byte
	_, err = io.ReadFull(b, kind[:])
	if err == nil && kind[0] != recordBody {
		err = errBody
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("body of %s: %w", id, err), b.Close())
	}
	return b, nil
}

// Size returns the length of the body in bytes.
func (b *Body) Size() int64 { return b.record.Size - 1 }

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.record.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.spool.setAside(err)
	}
	return n, err
}

// Close releases the body.
func (b *Body) Close() error { return b.record.Close() }

// takeCached returns a live message from the cache, once.
func (s *Spool) takeCached(id event.ID) *cached {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := s.cache.take(id)
	if m, _ := s.index.find(id); m == nil {
		return nil
	}
	return item
}

// has returns whether a message is live.
func (s *Spool) has(id event.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, _ := s.index.find(id)
	return m != nil
}

var errBody = fmt.Errorf("%w: another record is in place of the body", ErrDamaged)

// Damaged returns whether an error of Envelope, Read or Body says that the message will never be
// readable: it wraps ErrDamaged or a *seglog.CorruptError. Other errors may be gone later.
func Damaged(err error) bool {
	_, corrupt := errors.AsType[*seglog.CorruptError](err)
	return corrupt || errors.Is(err, ErrDamaged)
}

// at calls read with what is known of a live message, and once more when the message was moved and
// its segment removed before it was read.
func (s *Spool) at(id event.ID, read func(message) error) error {
	var missing error
	for at := (seglog.Position{}); ; {
		s.mu.Lock()
		live, _ := s.index.find(id)
		if live == nil {
			s.mu.Unlock()
			return ErrNotFound
		}
		m := *live
		s.mu.Unlock()
		if m.pos() == at {
			return missing
		}
		at = m.pos()
		err := read(m)
		if !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				s.setAside(err)
			}
			return err
		}
		missing = err
	}
}

// read reads the message id, of which m is known, and returns its records as they are.
func (s *Spool) read(id event.ID, m message) (e *Envelope, records [][]byte, err error) {
	if m.body == 0 {
		r, err := s.messages.OpenRecord(seglog.After(m.pos(), int(m.envelope)))
		if err != nil {
			return nil, nil, err
		}
		m.body = uint32(r.Size)
		if err := r.Close(); err != nil {
			return nil, nil, err
		}
	}
	records, err = s.messages.ReadAdjacent(m.pos(), int(m.envelope), int(m.body))
	if err != nil {
		return nil, nil, err
	}
	if e, err = checkEnvelope(id, records[0]); err != nil {
		return nil, nil, err
	}
	if len(records[1]) == 0 || records[1][0] != recordBody {
		return nil, nil, errBody
	}
	return e, records, nil
}

// checkEnvelope decodes a record that must be the envelope of the message id.
func checkEnvelope(id event.ID, record []byte) (*Envelope, error) {
	if len(record) == 0 || record[0] != recordEnvelope {
		return nil, errEnvelope
	}
	e, err := decodeEnvelope(record[1:])
	if err == nil && e.ID != id {
		err = errEnvelope
	}
	return e, err
}
