package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"carom/schemas/event"
)

// Folder is one folder of a Set.
type Folder struct {
	Dir      string
	Priority int // the highest with room takes new mail, equal ones in turn
	// DeliverOnly folders take no new mail, and nothing is copied in them: they drain.
	DeliverOnly bool
	MinFree     int64 // as Options.MinFree
}

// Set is several spools that work as one, on disks of their own. A message is in one of them; which
// one is asked of their indexes. The methods are those of Spool.
//
// New mail goes to the folder of the highest priority that has room; it is refused for lack of space
// only when no folder has any. When the disk of a folder fails, mail for it is refused, and so is its
// state, as a Spool does.
type Set struct {
	all  []*Spool
	take [][]*Spool // those that take new mail, by priority, the highest first
	turn atomic.Uint32
}

// OpenSet opens the spools in folders, of which there is at least one. Options apply to each, but for
// what a Folder says itself. Errors are those of Open.
func OpenSet(ctx context.Context, folders []Folder, o Options) (*Set, error) {
	t := &Set{}
	folders = slices.Clone(folders)
	slices.SortStableFunc(folders, func(a, b Folder) int { return cmp.Compare(b.Priority, a.Priority) })
	last := 0
	for _, f := range folders {
		o.DeliverOnly, o.MinFree = f.DeliverOnly, f.MinFree
		s, err := Open(ctx, f.Dir, o)
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		t.all = append(t.all, s)
		if f.DeliverOnly {
			continue
		}
		if len(t.take) == 0 || f.Priority != last {
			t.take = append(t.take, nil)
			last = f.Priority
		}
		t.take[len(t.take)-1] = append(t.take[len(t.take)-1], s)
	}
	return t, nil
}

// Put stores a message as Spool.Put does.
func (t *Set) Put(ctx context.Context, e *Envelope, body ...[]byte) error {
	if len(t.all) > 1 && t.of(e.ID) != nil {
		return fmt.Errorf("put %s: %w", e.ID, ErrDuplicate)
	}
	err := ErrNoSpace
	for _, equal := range t.take {
		first := 0
		if len(equal) > 1 {
			first = int(t.turn.Add(1) % uint32(len(equal)))
		}
		for i := range equal {
			if err = equal[(first+i)%len(equal)].Put(ctx, e, body...); !errors.Is(err, syscall.ENOSPC) {
				return err
			}
		}
	}
	return err
}

// Room returns ErrNoSpace if Put would refuse a message of so many bytes now.
func (t *Set) Room(bytes int64) error {
	for _, equal := range t.take {
		for _, s := range equal {
			if s.Room(bytes) == nil {
				return nil
			}
		}
	}
	return ErrNoSpace
}

// of returns the spool that has a live message, or nil.
func (t *Set) of(id event.ID) *Spool {
	if len(t.all) == 1 {
		return t.all[0]
	}
	for _, s := range t.all {
		if s.has(id) {
			return s
		}
	}
	return nil
}

// Envelope reads the envelope of a live message as Spool.Envelope does.
func (t *Set) Envelope(id event.ID) (*Envelope, error) {
	if s := t.of(id); s != nil {
		return s.Envelope(id)
	}
	return nil, fmt.Errorf("envelope of %s: %w", id, ErrNotFound)
}

// Read reads envelope and body of a live message as Spool.Read does.
func (t *Set) Read(id event.ID) (*Envelope, []byte, error) {
	if s := t.of(id); s != nil {
		return s.Read(id)
	}
	return nil, nil, fmt.Errorf("message %s: %w", id, ErrNotFound)
}

// Body opens the body of a live message as Spool.Body does.
func (t *Set) Body(id event.ID) (*Body, error) {
	if s := t.of(id); s != nil {
		return s.Body(id)
	}
	return nil, fmt.Errorf("body of %s: %w", id, ErrNotFound)
}

// Received is Spool.Received of the spool that has the message.
func (t *Set) Received(id event.ID, seq uint64) error {
	return t.tell(id, func(s *Spool) error { return s.Received(id, seq) })
}

// Finished is Spool.Finished of the spool that has the message.
func (t *Set) Finished(id event.ID, recipient uint32, seq uint64) error {
	return t.tell(id, func(s *Spool) error { return s.Finished(id, recipient, seq) })
}

// Rescheduled is Spool.Rescheduled of the spool that has the message.
func (t *Set) Rescheduled(id event.ID, recipients []uint32, attempts uint32, due time.Time) error {
	return t.tell(id, func(s *Spool) error { return s.Rescheduled(id, recipients, attempts, due) })
}

// Drop is Spool.Drop of the spool that has the message.
func (t *Set) Drop(id event.ID, err error) {
	if s := t.of(id); s != nil {
		s.Drop(id, err)
	}
}

func (t *Set) tell(id event.ID, tell func(*Spool) error) error {
	if s := t.of(id); s != nil {
		return tell(s)
	}
	return nil // not live, as a Spool ignores it
}

// Mark tells every spool what Spool.Mark says.
func (t *Set) Mark(seq uint64) error {
	return t.join(func(s *Spool) error { return s.Mark(seq) })
}

// Sync is Spool.Sync of every spool.
func (t *Set) Sync(ctx context.Context) error {
	return t.join(func(s *Spool) error { return s.Sync(ctx) })
}

// Close closes every spool.
func (t *Set) Close() error { return t.join((*Spool).Close) }

func (t *Set) join(f func(*Spool) error) error {
	errs := make([]error, 0, len(t.all))
	for _, s := range t.all {
		errs = append(errs, f(s))
	}
	return errors.Join(errs...)
}

// DurableEvent returns the least of what the spools say. One that never held a message needs no event,
// so that the event log is not read from its start because of a new folder.
func (t *Set) DurableEvent() uint64 {
	least, ok := uint64(0), false
	for _, s := range t.all {
		if s.messages.Last() == 0 {
			continue
		}
		if d := s.DurableEvent(); !ok || d < least {
			least, ok = d, true
		}
	}
	if !ok {
		return t.all[0].DurableEvent()
	}
	return least
}

// Recover is Spool.Recover of one spool after the other.
func (t *Set) Recover(f func(LiveMessage) error) error {
	for _, s := range t.all {
		if err := s.Recover(f); err != nil {
			return err
		}
	}
	return nil
}

// Stats returns the sums of what the spools count.
func (t *Set) Stats() (sum Stats) {
	for _, s := range t.all {
		st := s.Stats()
		sum.Messages += st.Messages
		sum.Recipients += st.Recipients
		sum.Segments += st.Segments
		sum.Damaged += st.Damaged
		sum.Moved += st.Moved
	}
	return sum
}
