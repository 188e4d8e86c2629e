package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// load fills the index from checkpoint, messages and state. It runs before anybody else has s.
func (s *Spool) load(ctx context.Context) error {
	for _, l := range []*seglog.Log{s.messages, s.state} {
		for _, d := range l.Damage() {
			s.logger.Error("spool log is damaged", "file", d.File, "offset", d.Offset, "error", d)
		}
	}
	head, trusted, err := s.loadCheckpoint()
	if err != nil {
		return err
	}
	if err := s.loadMessages(head.messageSeq); err != nil {
		return err
	}
	if trusted, err = s.loadState(head, trusted); err != nil {
		return err
	}
	s.dropLost()
	if trusted {
		return nil
	}
	// Until there is a checkpoint for this event log no mark may be written.
	s.pending.lost = true
	s.report(s.checkpoint(ctx))
	return nil
}

// loadMessages adds the messages after record through to the index.
func (s *Spool) loadMessages(through uint64) error {
	segments := s.messages.Segments()
	for i, seg := range segments {
		if !seg.Active && segments[i+1].First <= through+1 {
			continue
		}
		if err := s.loadSegment(seg.First, through); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) loadSegment(segment, through uint64) error {
	var envelope *Envelope // waits for its body
	var at seglog.Item
	for item, err := range s.messages.Scan(segment) {
		if err != nil {
			if !s.setAside(err) {
				return err
			}
			envelope = nil
			continue
		}
		if item.Seq <= through {
			continue
		}
		kind, err := item.Peek(1)
		if err != nil {
			return err
		}
		switch {
		case len(kind) == 1 && kind[0] == recordEnvelope:
			// An envelope without a body is what a torn tail left of a message that was never
			// acknowledged.
			if envelope, err = s.loadEnvelope(item); err != nil {
				return err
			}
			at = item
		case len(kind) == 1 && kind[0] == recordBody:
			switch {
			case envelope == nil:
			case s.index.messages[envelope.ID] != nil: // in the checkpoint, or this is a copy
				s.index.move(envelope.ID, at.Pos, at.Size, item.Size)
			default:
				s.index.add(envelope.ID, newMessage(at.Pos, at.Size, item.Size, len(envelope.Recipients)))
			}
			envelope = nil
		default:
			s.note(fmt.Errorf("record %d at offset %d of segment %d is of no known kind", item.Seq, item.Pos.Offset, segment))
			envelope = nil
		}
	}
	return nil
}

// loadEnvelope returns nil for an envelope that is damaged.
func (s *Spool) loadEnvelope(item seglog.Item) (*Envelope, error) {
	b, err := item.Data()
	if err != nil {
		if s.setAside(err) {
			err = nil
		}
		return nil, err
	}
	e, err := decodeEnvelope(b[1:])
	if err != nil {
		s.note(fmt.Errorf("record %d at offset %d of segment %d: %w", item.Seq, item.Pos.Offset, item.Pos.Segment, err))
		return nil, nil //nolint:nilnil // reported; the scan goes on
	}
	return e, nil
}

// loadState applies the state records after those in the checkpoint. A mark counts only if nothing
// before it was lost and it belongs to the event log of today.
func (s *Spool) loadState(head checkpointHead, trusted bool) (bool, error) {
	trusted = trusted && head.eventLog == s.opt.EventLog
	mark := head.mark
	next := head.stateSeq + 1
	for _, seg := range s.state.Segments() {
		for item, err := range s.state.Scan(seg.First) {
			var data []byte
			if err == nil {
				if item.Seq < next {
					continue
				}
				trusted = trusted && item.Seq == next
				next = item.Seq + 1
				data, err = item.Data()
			}
			var m uint64
			if err == nil {
				if m, err = s.index.apply(data); err != nil {
					s.note(fmt.Errorf("state record %d: %w", item.Seq, err))
					trusted = false
					continue
				}
			}
			if err != nil {
				if !s.setAside(err) {
					return false, err
				}
				trusted = false
				continue
			}
			if trusted {
				mark = max(mark, m)
			}
		}
	}
	if head.eventLog != s.opt.EventLog {
		mark = 0
	}
	s.mark, s.marked, s.durable = mark, mark, mark
	return trusted, nil
}

// dropLost removes what the index has in segments that are gone.
func (s *Spool) dropLost() {
	there := make(map[uint64]bool)
	for _, seg := range s.messages.Segments() {
		there[seg.First] = true
	}
	for id, m := range s.index.messages {
		if !there[m.pos.Segment] {
			s.note(fmt.Errorf("message %s is lost with segment %d", id, m.pos.Segment))
			s.index.remove(id)
		}
	}
}

// note logs and counts damage.
func (s *Spool) note(err error) {
	s.logger.Error("spool is damaged", "error", err)
	s.mu.Lock()
	s.damaged++
	s.mu.Unlock()
}

// setAside notes damage and copies the bytes into the folder damaged, because their segment will be
// removed one day. It returns false for an error that isn't damage.
func (s *Spool) setAside(err error) bool {
	c, ok := errors.AsType[*seglog.CorruptError](err)
	if !ok {
		return false
	}
	s.note(c)
	if c.End <= c.Offset {
		return true
	}
	name := fmt.Sprintf("%s-%s-%d", filepath.Base(filepath.Dir(c.File)), filepath.Base(c.File), c.Offset)
	if err := s.copyDamaged(c, filepath.Join(s.dir, damagedDir, name)); err != nil {
		s.logger.Error("damaged bytes not set aside", "file", c.File, "offset", c.Offset, "error", err)
	}
	return true
}

func (s *Spool) copyDamaged(c *seglog.CorruptError, name string) error {
	if err := s.opt.FS.MkdirAll(filepath.Dir(name)); err != nil {
		return err
	}
	from, err := s.opt.FS.Open(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if old, err := s.opt.FS.Open(name); err == nil {
		return old.Close() // set aside before
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return seglog.WriteFile(s.opt.FS, name, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(from, c.Offset, c.End-c.Offset))
		return err
	})
}

// LiveMessage is a message that Recover hands out.
type LiveMessage struct {
	Envelope   *Envelope
	Recipients []LiveRecipient // those that are not finished, at least one
	// Received is how many of its received events are in the event log. They are logged one for
	// each recipient, in their order, so those of the recipients from this index on are missing.
	Received int
}

// LiveRecipient is a recipient that is not finished.
type LiveRecipient struct {
	Index    uint32
	Attempts uint32
	Due      time.Time // zero if there was no attempt yet
}

// Recover calls f with every live message, in the order in which they are on disk. Call it at start,
// after the event log was read from DurableEvent on and before the first Put. A message whose
// envelope can't be read is logged, counted and dropped. An error of f ends it.
func (s *Spool) Recover(f func(LiveMessage) error) error {
	for _, p := range s.places() {
		e, err := s.Envelope(p.id)
		_, corrupt := errors.AsType[*seglog.CorruptError](err)
		switch {
		case errors.Is(err, ErrNotFound): // finished meanwhile
			continue
		case corrupt || errors.Is(err, errEnvelope):
			s.drop(p.id, err)
			continue
		case err != nil:
			return err
		}
		s.mu.Lock()
		m := s.index.messages[p.id]
		live := LiveMessage{Envelope: e}
		if m != nil {
			live.Recipients, live.Received = m.live(), int(m.received)
		}
		s.mu.Unlock()
		if m == nil {
			continue
		}
		if err := f(live); err != nil {
			return err
		}
	}
	return nil
}

// place is where a message is.
type place struct {
	id  event.ID
	pos seglog.Position
}

// places returns where the live messages are, in the order in which they are on disk.
func (s *Spool) places() []place {
	s.mu.Lock()
	all := make([]place, 0, len(s.index.messages))
	for id, m := range s.index.messages {
		all = append(all, place{id, m.pos})
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b place) int {
		if a.pos.Segment != b.pos.Segment {
			return cmp.Compare(a.pos.Segment, b.pos.Segment)
		}
		return cmp.Compare(a.pos.Offset, b.pos.Offset)
	})
	return all
}

// drop gives up a message that can't be delivered.
func (s *Spool) drop(id event.ID, err error) {
	s.mu.Lock()
	recipients := uint32(0)
	if m := s.index.messages[id]; m != nil {
		recipients = m.left
	}
	s.index.remove(id)
	s.mu.Unlock()
	s.logger.Error("message is damaged and dropped", "message_id", id, "recipients", recipients, "error", err)
}
