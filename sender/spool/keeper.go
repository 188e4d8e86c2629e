package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"carom/schemas/seglog"
)

const (
	// flushDelay is how long state waits for more before it is written: the death of the process costs
	// that much of it, of which the event log has all but the times of retries.
	flushDelay = 20 * time.Millisecond
	// flushBytes is how much state is written without waiting.
	flushBytes = 64 << 10
)

// keep is the keeper: the one goroutine that writes state and frees space.
func (s *Spool) keep(ctx context.Context) {
	defer close(s.stopped)
	ticker := time.NewTicker(s.opt.SyncInterval)
	defer ticker.Stop()
	soon := time.NewTimer(time.Hour)
	defer soon.Stop()
	for {
		select {
		case <-s.wake:
			s.mu.Lock()
			much := len(s.pending.buf) >= flushBytes
			s.mu.Unlock()
			if !much {
				soon.Reset(flushDelay)
				continue
			}
			s.report(s.flush(ctx))
		case <-soon.C:
			s.report(s.flush(ctx))
		case <-ticker.C:
			s.report(s.tick(ctx))
		case done := <-s.requests:
			err := s.tick(ctx)
			s.report(err)
			done <- err
		case <-s.stop:
			s.closeErr = errors.Join(s.sync(ctx), s.checkpoint(ctx))
			return
		}
	}
}

// report logs the first of a row of errors. After one that leaves the disk unknown the spool takes
// no more state.
func (s *Spool) report(err error) {
	if err == nil {
		s.failing = false
		return
	}
	if !s.failing {
		s.failing = true
		s.logger.Error("spool state not written", "error", err)
	}
	if errors.Is(err, seglog.ErrPoisoned) {
		s.mu.Lock()
		s.err = fmt.Errorf("spool state: %w", err)
		s.mu.Unlock()
	}
}

// tick does what is to be done every SyncInterval.
func (s *Spool) tick(ctx context.Context) error {
	err := s.sync(ctx)
	s.mu.Lock()
	lost := s.pending.lost
	s.mu.Unlock()
	if lost || s.written >= s.opt.CheckpointBytes {
		err = errors.Join(err, s.checkpoint(ctx))
	}
	s.makeRoom(ctx)
	if err == nil && s.moving.TryLock() {
		err = s.compact(ctx)
		s.moving.Unlock()
	}
	err = errors.Join(err, s.reclaim())
	s.writeIndexes()
	return err
}

// makeRoom ends the active segment when the disk has no room, if it has no live message, or so few
// that compaction will empty it; else a disk with less room than a segment would stay full for ever.
// If there is no room for a new file either, the next tick tries again.
func (s *Spool) makeRoom(ctx context.Context) {
	if !s.space.scarce() || s.messages.Err() != nil {
		return
	}
	segments := s.messages.Segments()
	active := segments[len(segments)-1].First
	s.mu.Lock()
	live := s.index.inSegment[active].bytes
	s.mu.Unlock()
	if live > 0 {
		if size, err := s.messages.SegmentSize(active); err != nil || live >= size/compactShare {
			return
		}
	}
	err := s.messages.Roll(ctx)
	if err == nil {
		s.space.refused.Store(false)
	} else if !s.noRoll {
		s.logger.Error("segment not ended to make room", "error", err)
	}
	s.noRoll = err != nil
}

// flush writes what is pending, so that it survives the death of the process.
func (s *Spool) flush(ctx context.Context) error {
	s.mu.Lock()
	entries := s.pending.take(s.spare)
	s.mu.Unlock()
	s.spare = entries
	if cap(s.spare) > 1<<20 {
		s.spare = nil
	}
	return s.write(ctx, entries)
}

func (s *Spool) write(ctx context.Context, entries []byte) error {
	if len(entries) == 0 {
		return nil
	}
	if _, err := s.state.Write(ctx, entries); err != nil {
		s.mu.Lock()
		s.pending.lost = true // memory still knows; a checkpoint will say it
		s.mu.Unlock()
		return err
	}
	s.written += int64(len(entries))
	return nil
}

// sync makes everything durable that the spool was told, and then says through which event.
func (s *Spool) sync(ctx context.Context) error {
	s.mu.Lock()
	mark := s.mark
	s.mu.Unlock()
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	lost := s.pending.lost
	s.mu.Unlock()
	if lost {
		return nil // only a checkpoint helps
	}
	if mark > s.marked {
		if err := s.write(ctx, appendEntry([]byte{stateVersion}, entryMark, nil, mark)); err != nil {
			return err
		}
		s.marked = mark
	}
	if s.state.Durable() == s.state.Last() {
		return nil
	}
	if err := s.state.Sync(ctx); err != nil {
		return err
	}
	s.setDurable(mark)
	return nil
}

func (s *Spool) setDurable(mark uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = max(s.durable, mark)
}

// reclaim removes the message segments in which no message is live. The committer tells of all messages
// of a segment before it begins the next one, so none of them is still on its way to the index.
func (s *Spool) reclaim() error {
	segments := s.messages.Segments()
	segments = segments[:len(segments)-1] // not the active one
	var free []uint64
	s.mu.Lock()
	for _, seg := range segments {
		if s.index.inSegment[seg.First].messages == 0 {
			free = append(free, seg.First)
		}
	}
	s.mu.Unlock()
	for _, first := range free {
		if err := s.messages.RemoveSegment(first); err != nil {
			return err
		}
		delete(s.segments, first)
		s.mu.Lock()
		delete(s.unwritten, first)
		s.mu.Unlock()
		if err := s.opt.FS.Remove(s.indexName(first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove index: %w", err)
		}
	}
	return nil
}
