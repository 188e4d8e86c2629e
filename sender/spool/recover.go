package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
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
	if err := s.removeStrayIndexes(); err != nil {
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

// loadMessages adds the messages after record through to the index. It reads the indexes of their
// segments, and of the active segment the messages.
func (s *Spool) loadMessages(through uint64) error {
	s.through = through
	segments := s.messages.Segments()
	for i, seg := range segments {
		if !seg.Active && segments[i+1].First <= through+1 {
			continue
		}
		var b []byte
		var err error
		if seg.Active {
			b, err = s.scanSegment(seg.First)
			s.unwritten[seg.First] = b
		} else {
			b, err = s.entries(seg)
		}
		if err != nil {
			return err
		}
		if err := eachEntry(b, seg.First, func(e indexEntry) error {
			if e.seq > through {
				s.index.stored(e.id, seglog.Position{Segment: seg.First, Offset: e.offset}, e.envelope, e.body, e.recipients)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	s.through = s.messages.Last()
	return nil
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
	lost := false
	for segment := range s.index.inSegment {
		lost = lost || !there[segment]
	}
	if !lost {
		return
	}
	for id, h := range s.index.byID {
		if segment := s.index.at(h).segment; !there[segment] {
			s.note(fmt.Errorf("message %s is lost with segment %d", id, segment))
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
	ID         event.ID
	Arrived    time.Time
	Tag        []byte          // the envelope's
	Recipients []LiveRecipient // those that are not finished, at least one
	Count      int             // of all recipients, finished or not
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

// Recover calls f with every live message, segment by segment as they are on disk, and reads none of
// them. Call it at start, after the event log was read from DurableEvent on and before the first
// Put. f must not keep Tag and Recipients. A message that was lost with a damaged part of the disk is
// logged, counted and dropped. An error of f ends it.
func (s *Spool) Recover(f func(LiveMessage) error) error {
	s.moving.Lock()
	defer s.moving.Unlock()
	for _, seg := range s.messages.Segments() {
		s.mu.Lock()
		want := s.index.inSegment[seg.First].messages
		s.mu.Unlock()
		if want == 0 {
			continue
		}
		entries, err := s.entries(seg)
		if errors.Is(err, fs.ErrNotExist) { // all were finished meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if err := s.recoverSegment(seg.First, entries, want, f); err != nil {
			return err
		}
	}
	return nil
}

// recoverSegment calls f with the live messages among the entries of a segment's index. If it finds
// less than the want that should be there, the others are dropped.
func (s *Spool) recoverSegment(segment uint64, entries []byte, want int, f func(LiveMessage) error) error {
	found := 0
	live := LiveMessage{}
	if err := eachEntry(entries, segment, func(e indexEntry) error {
		s.mu.Lock()
		m, h := s.index.find(e.id)
		if m == nil || m.segment != segment || int64(m.offset) != e.offset {
			s.mu.Unlock()
			return nil
		}
		live.Recipients, live.Received = s.index.live(live.Recipients[:0], m, h), int(m.received)
		s.mu.Unlock()
		found++
		live.ID, live.Arrived, live.Tag, live.Count = e.id, time.UnixMicro(e.arrived).UTC(), e.tag, e.recipients
		return f(live)
	}); err != nil || found >= want {
		return err
	}
	there := make(map[event.ID]bool)
	if err := eachEntry(entries, segment, func(e indexEntry) error {
		there[e.id] = true
		return nil
	}); err != nil {
		return err
	}
	var lost []event.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, h := range s.index.byID {
		if s.index.at(h).segment == segment && !there[id] {
			lost = append(lost, id)
		}
	}
	for _, id := range lost {
		s.drop(id, errEnvelope)
	}
	return nil
}
