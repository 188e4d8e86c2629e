package spool

import (
	"context"
	"errors"

	"carom/schemas/seglog"
)

const (
	// A segment is compacted when less than one part in compactShare of its bytes is live.
	compactShare = 4
	// compactBatch is about how much is copied at once, little beside what Puts share an fsync with.
	compactBatch = 256 << 10
	// Looking for the live messages of a segment counts like copying one part in scanShare of it.
	scanShare = 32
)

// segment is what the keeper knows of a message segment that is not active.
type segment struct {
	bytes int64
	done  bool // was compacted: what is still live in it can't be read
}

// compact copies live messages out of segments in which few are. It doesn't remove those; reclaim
// does, which finds nothing live in them.
//
// At any moment a crash finds at least one durable copy, and the index at load knows it: a checkpoint
// that has the old place was begun before the copy was written, so the copy is among the messages
// that are read after the checkpoint. A message that is finished doesn't come back with its copy: it
// was live when the copy was begun, thus after the last checkpoint, and so is the state that
// finishes it; or a checkpoint that doesn't have it covers the copy too. Both hold because one
// goroutine does checkpoints and copies. The error is that of writing state.
func (s *Spool) compact(ctx context.Context) error {
	budget := s.opt.CompactBytes - s.overrun
	s.overrun = max(0, -budget)
	if budget <= 0 || s.opt.DeliverOnly || s.messages.Err() != nil {
		return nil //nolint:nilerr // Put tells it
	}
	for budget > 0 && !s.stopping() {
		if len(s.todo) == 0 {
			first, ok := s.sparsest()
			if !ok {
				break
			}
			budget -= s.segments[first].bytes / scanShare
			s.todo = s.liveIn(first)
			continue
		}
		bytes, ok := s.copyBatch(ctx, min(budget, compactBatch, s.opt.SegmentBytes/compactShare))
		if !ok {
			break
		}
		budget -= bytes
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.overrun = max(0, -budget)
	return nil
}

func (s *Spool) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// sparsest returns the segment with the fewest live bytes that is to be compacted.
func (s *Spool) sparsest() (first uint64, ok bool) {
	segments := s.messages.Segments()
	segments = segments[:len(segments)-1] // not the active one
	live := make([]int64, len(segments))
	s.mu.Lock()
	for i, seg := range segments {
		live[i] = s.index.inSegment[seg.First].bytes
	}
	s.mu.Unlock()
	least := int64(0)
	for i, seg := range segments {
		if live[i] == 0 || ok && live[i] >= least {
			continue
		}
		if known := s.segment(seg.First); !known.done && live[i] < known.bytes/compactShare {
			first, least, ok = seg.First, live[i], true
		}
	}
	return first, ok
}

func (s *Spool) segment(first uint64) segment {
	seg, ok := s.segments[first]
	if !ok {
		size, err := s.messages.SegmentSize(first)
		seg = segment{bytes: size, done: err != nil}
		s.segments[first] = seg
	}
	return seg
}

// liveIn returns where the live messages are of a segment that is not active. It reads the segment's
// index because walking through all live messages takes longer and keeps others waiting.
func (s *Spool) liveIn(first uint64) (live []place) {
	seg := s.segments[first]
	seg.done = true
	s.segments[first] = seg
	b, err := s.entries(seglog.Segment{First: first})
	if err == nil {
		err = eachEntry(b, first, func(e indexEntry) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if m, _ := s.index.find(e.id); m != nil && m.segment == first && int64(m.offset) == e.offset {
				live = append(live, place{e, m.pos()})
			}
			return nil
		})
	}
	if err != nil {
		s.logger.Error("segment can not be read for compaction", "segment", first, "error", err)
	}
	return live
}

// place is where a message is.
type place struct {
	indexEntry
	pos seglog.Position
}

// copyBatch copies the first of the messages to do, about limit bytes and at least one message, and
// returns how many bytes it copied. If the disk refuses them they are where they were, and ok is false.
func (s *Spool) copyBatch(ctx context.Context, limit int64) (bytes int64, ok bool) {
	var batch []place
	var records [][]byte
	rest := s.todo
	for len(rest) > 0 && bytes < max(1, limit) {
		p := rest[0]
		rest = rest[1:]
		var pair [][]byte
		err := s.at(p.id, func(m message) (err error) {
			_, pair, err = s.read(p.id, m)
			return err
		})
		if errors.Is(err, ErrNotFound) { // finished
			continue
		}
		if err != nil {
			s.logger.Error("message can not be read and stays where it is", "message_id", p.id, "error", err)
			continue
		}
		batch, records = append(batch, p), append(records, pair...)
		bytes += int64(len(pair[0]) + len(pair[1]))
	}
	if len(batch) == 0 {
		s.todo = rest
		return 0, true
	}
	at, err := s.messages.Append(ctx, records...) // in one segment
	if err != nil {
		if !s.stuck {
			s.logger.Error("messages not compacted", "error", err)
		}
		s.stuck = true
		return 0, false
	}
	s.todo, s.stuck = rest, false
	s.mu.Lock()
	defer s.mu.Unlock()
	pos := at.Start
	for i, p := range batch {
		e := p.indexEntry
		e.seq, e.offset = at.First+2*uint64(i), pos.Offset
		e.envelope, e.body = len(records[2*i]), len(records[2*i+1])
		s.index.move(e.id, pos, e.envelope, e.body)
		s.known(pos.Segment, &e)
		pos = seglog.After(seglog.After(pos, e.envelope), e.body)
	}
	s.moved += len(batch)
	return bytes, true
}
