package account

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
)

// FollowerOptions say what a Follower reads and how it hands it on.
type FollowerOptions struct {
	RecordOptions

	Name     string // tells it from the others of the node; it must not change
	Dir      string // of the event log
	From     uint64 // the first event for a follower that has never run
	MaxBytes int64  // of the records that are sent at once
	// Interval is how long records wait for more; 0: they are sent when there are no more.
	Interval time.Duration
	// Keyed says that the other side tells batches by their keys: where one ends is on disk before it is
	// sent. Else the ends may differ after a restart.
	Keyed  bool
	GiveUp time.Duration // age at which records that nobody takes are dropped; 0: never
	// Wait returns how long to wait after a failure, the n-th in a row, n ≥ 1.
	Wait   func(n int) time.Duration
	Logger *slog.Logger
}

// Receiver takes records. Its methods are called by one goroutine.
type Receiver interface {
	// Send returns nil when the other side has taken the records of the batch. After an error it is
	// called again with the same batch.
	Send(ctx context.Context, b *Batch) error
	// Close lets the other side go.
	Close() error
}

// Batch is what is sent at once: whole lines of CSV.
type Batch struct {
	Key         string // the same for the same records, however often they are sent
	First, Last uint64 // events of the log that the records are of
	Records     int
	Header      []byte // the line that names the columns
	Lines       []byte
}

// Follower hands the events of the node's log on to a Receiver, as records of CSV: to a program or an
// address. It reads what is in the log, so it holds up nobody, needs no memory for what waits, and goes
// on after a restart where it was: every record is sent at least once. With Keyed, a batch that is sent
// again has the same Key. Without, the place is written down once a second at most, so that a program
// that is fed record by record costs the disk little; a crash repeats what was sent since.
//
// The log keeps what a follower has not handed on (Needed), up to GiveUp.
type Follower struct {
	options  FollowerOptions
	layout   *Layout
	receiver Receiver
	now      func() time.Time
	stream   string // the name of the cursor

	reader   *seglog.Reader
	position uint64        // the last event that is done with
	saved    atomic.Uint64 // the position that is on disk
	savedAt  time.Time
	pending  uint64 // where the next batch must end; 0: anywhere
	batch    Batch
}

// NewFollower returns a follower; Run starts it.
func NewFollower(o FollowerOptions, r Receiver) (*Follower, error) {
	layout, err := NewLayout(o.RecordOptions)
	if err != nil {
		return nil, fmt.Errorf("accounting %s: %w", o.Name, err)
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(o.Name)) // a hash takes everything
	f := &Follower{
		options: o, layout: layout, receiver: r, now: time.Now,
		stream: fmt.Sprintf("acct-%016x", hash.Sum64()),
	}
	f.options.Logger = o.Logger.With("accounting", o.Name)
	f.batch.Header = layout.AppendHeader(nil)
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("accounting %s: %w", o.Name, err)
	}
	return f, nil
}

// Needed returns the first event that the follower may still have to read, now or after a crash. It may
// be called at any time.
func (f *Follower) Needed() uint64 { return f.saved.Load() + 1 }

// pendingStream is the cursor that says where a batch ends that may have been sent.
func (f *Follower) pendingStream() string { return f.stream + ".pending" }

// open opens the log where the follower has stopped.
func (f *Follower) open() error {
	dir := f.options.Dir
	at, err := cursor.Load(dir, f.stream)
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case fresh:
		at.Seq = max(f.options.From, 1) - 1
	case errors.Is(err, cursor.ErrMalformed):
		f.options.Logger.Error("place in the event log is lost: records are sent again", "error", err)
		at.Seq, fresh = 0, true
	case err != nil:
		return err
	}
	reader, err := f.openAt(at.Seq + 1)
	if err != nil {
		return err
	}
	if !fresh && at.Incarnation != reader.Incarnation() { // another log: from its beginning
		_ = reader.Close() // only read
		if reader, err = f.openAt(1); err != nil {
			return err
		}
	}
	f.reader = reader
	f.position = reader.Seq() - 1
	f.saved.Store(0) // to be written in any case
	if end, err := cursor.Load(dir, f.pendingStream()); err == nil && end.Incarnation == reader.Incarnation() && end.Seq >= reader.Seq() {
		f.pending = end.Seq
	}
	return f.save()
}

// openAt opens the log at an event, or at the nearest that there is.
func (f *Follower) openAt(from uint64) (*seglog.Reader, error) {
	dir := filepath.Join(f.options.Dir, event.StreamEvent)
	reader, err := seglog.OpenReader(dir, from, seglog.Options{})
	if removed, ok := errors.AsType[*seglog.RemovedError](err); ok {
		f.options.Logger.Error("events are gone that were not handed on", "first_lost", from, "lost", removed.First-from)
		return seglog.OpenReader(dir, removed.First, seglog.Options{})
	}
	if ahead, ok := errors.AsType[*seglog.AheadError](err); ok { // the end of the log was lost
		return seglog.OpenReader(dir, ahead.Last+1, seglog.Options{})
	}
	return reader, err
}

// save writes the position down.
func (f *Follower) save() error {
	at := f.position
	if at == f.saved.Load() && at > 0 {
		return nil
	}
	if err := cursor.Save(f.options.Dir, f.stream, cursor.Cursor{Incarnation: f.reader.Incarnation(), Seq: at}); err != nil {
		return err
	}
	f.saved.Store(at)
	f.savedAt = f.now()
	return nil
}

// saveInterval is how often the position is written down at most, without Keyed.
const saveInterval = time.Second

// Run hands records on until ctx is done. What goes wrong is logged and tried again; the error is
// about the log itself.
func (f *Follower) Run(ctx context.Context) error {
	defer func() {
		if err := errors.Join(f.receiver.Close(), f.save(), f.reader.Close()); err != nil {
			f.options.Logger.Error("accounting not ended well", "error", err)
		}
	}()
	for {
		oldest, err := f.gather(ctx)
		if ctx.Err() != nil {
			return nil // told to stop; what was gathered is in the log
		}
		if err != nil {
			f.options.Logger.Error("event log not readable", "error", err)
			if !f.reopen(ctx) {
				return nil
			}
			continue
		}
		if f.batch.Records > 0 && !f.deliver(ctx, oldest) {
			return nil
		}
		f.position, f.pending = f.batch.Last, 0
		if !f.options.Keyed && f.now().Sub(f.savedAt) < saveInterval {
			continue
		}
		if err := f.save(); err != nil {
			f.options.Logger.Error("position not written", "error", err)
		}
	}
}

// reopen opens the log again, where the position is, as often as it takes; false when ctx is done.
func (f *Follower) reopen(ctx context.Context) bool {
	_ = f.reader.Close() // it is of no more use
	for n := 1; ; n++ {
		if !sleep(ctx, f.options.Wait(n)) {
			return false
		}
		if err := f.open(); err == nil {
			return true
		}
	}
}

// restEvery is after how many events without a record the position is written down.
const restEvery = 4096

// gather reads events until a batch is complete, and returns the time of its oldest record.
func (f *Follower) gather(ctx context.Context) (oldest time.Time, err error) {
	b := &f.batch
	b.First, b.Last, b.Records, b.Lines = f.position+1, f.position, 0, b.Lines[:0]
	var due time.Time
	var e event.Event
	for {
		entry, ok, err := f.next(ctx, due)
		if damage, corrupt := errors.AsType[*seglog.CorruptError](err); corrupt {
			f.options.Logger.Error("event log is damaged", "error", damage)
			continue
		}
		if err != nil || !ok {
			return oldest, err
		}
		b.Last = entry.Seq
		if err := event.Decode(entry.Data, &e); err != nil {
			f.options.Logger.Error("event not readable", "seq", entry.Seq, "error", err)
		} else if lines, isRecord := f.layout.Append(b.Lines, &e); isRecord {
			b.Lines = lines
			if b.Records++; b.Records == 1 {
				oldest, due = e.Time, f.now().Add(f.options.Interval)
			}
		}
		switch {
		case f.pending > 0 && b.Last >= f.pending,
			f.pending == 0 && int64(len(b.Lines)) >= f.options.MaxBytes,
			f.pending == 0 && b.Records == 0 && b.Last-b.First >= restEvery:
			return oldest, nil
		}
	}
}

// next returns the next event; false if the batch is complete without it. Without a record in the
// batch, and for a batch whose end is given, it waits for as long as it takes.
func (f *Follower) next(ctx context.Context, due time.Time) (seglog.Entry, bool, error) {
	if entry, ok, err := f.reader.TryNext(); ok || err != nil {
		return entry, ok, err
	}
	if f.batch.Records == 0 || f.pending > 0 {
		entry, err := f.reader.Next(ctx)
		return entry, err == nil, err
	}
	if f.options.Interval == 0 {
		return seglog.Entry{}, false, nil
	}
	waiting, cancel := context.WithTimeout(ctx, clock.Real(due.Sub(f.now())))
	defer cancel()
	entry, err := f.reader.Next(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return seglog.Entry{}, false, nil
	}
	return entry, err == nil, err
}

// deliver sends the batch as often as it takes; false when ctx is done.
func (f *Follower) deliver(ctx context.Context, oldest time.Time) bool {
	b := &f.batch
	b.Key = fmt.Sprintf("%s-%s-%d-%d", f.reader.Incarnation(), f.stream, b.First, b.Last)
	if f.options.Keyed && f.pending == 0 {
		end := cursor.Cursor{Incarnation: f.reader.Incarnation(), Seq: b.Last}
		if err := cursor.Save(f.options.Dir, f.pendingStream(), end); err != nil {
			f.options.Logger.Error("end of the batch not written", "error", err) // it may get another key if it is sent again
		}
	}
	for n := 1; ; n++ {
		err := f.receiver.Send(ctx, b)
		if err == nil {
			if n > 1 {
				f.options.Logger.Info("records are taken again", "failures", n-1)
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if age := f.now().Sub(oldest); f.options.GiveUp > 0 && age > f.options.GiveUp {
			f.options.Logger.Error("records dropped that nobody took", "records", b.Records, "age", age, "error", err)
			return true
		}
		wait := f.options.Wait(n)
		if asked, ok := errors.AsType[*LaterError](err); ok {
			wait = max(wait, asked.After)
		}
		f.options.Logger.Error("records not taken", "error", err, "again_in", wait)
		if !sleep(ctx, wait) {
			return false
		}
	}
}

// LaterError is a failure of which the other side says when to come again.
type LaterError struct {
	After time.Duration
	Err   error
}

func (e *LaterError) Error() string { return e.Err.Error() }

// Unwrap returns the failure.
func (e *LaterError) Unwrap() error { return e.Err }

// sleep waits; false when ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
