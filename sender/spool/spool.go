// Package spool stores accepted messages until each of their recipients is finished.
//
// Put returns when message and envelope are fsynced, so that the 250 that follows it is true. The
// spool knows nothing of queues, schedules or SMTP: it keeps what it is told and gives it back
// after a restart.
//
// # On disk
//
// The folder holds two logs (package seglog), a checkpoint, and what was damaged:
//
//	messages/    two records a message, the envelope and the body, fsynced in groups; beside each full
//	             segment its index, which says what lies in it
//	state/       what became of recipients: small entries, written in 20 ms, fsynced every second
//	checkpoint   the index of live messages at one moment, replaced as a whole
//	damaged/     bytes that could not be read, set aside for a person to look at
//
// A message segment is removed when no live message is in it. The active one is ended for that when
// the disk has no room and less than a quarter of it is live. State segments are removed when a
// checkpoint has replaced them.
//
// A restart reads the checkpoint, the state after it, the indexes of the segments and the messages of
// the active segment, whatever the number of messages, and also after kill -9. An index that is
// missing or damaged is made again from its segment.
//
// Messages that stay long don't keep the dead ones around them: a segment of which less than a
// quarter is live, by bytes, is compacted. Its live messages are appended to the messages log once
// more, as they are, and it is removed when the copies are durable. So the log has at most four times
// the size of the live messages and a few segments, and freeing space costs writing at most a third
// of it. Compaction writes at most Options.CompactBytes each SyncInterval, the emptiest segment
// first. Of two copies of a message the later one counts; both are one message, known by its ID, with
// one state. A message that can't be read stays where it is, and its segment with it.
//
// # After a crash
//
// State entries may be lost; outcomes may not. The event log closes the gap: an outcome is durable
// there before the spool is told (Received, Finished), and Mark says through which event that was
// done. DurableEvent is the last mark that is certain to be on disk together with everything before
// it. At start the owner reads the event log from DurableEvent()+1 on and tells the spool again;
// telling it twice changes nothing. Then Recover hands out what is live. Event segments behind
// DurableEvent must not be removed.
//
// Finished messages don't come back, not even if power loss brings back a removed segment: a
// message from before the checkpoint that isn't in it is finished.
//
// # Failures
//
// Damaged records are logged, counted (Stats) and set aside; they never keep the spool from
// opening. Whoever reads a message learns it (Damaged), and finishes its recipients or, where the
// envelope is lost, drops it. A damaged checkpoint or state log is not trusted at all: every stored message is then
// live again and DurableEvent goes back, so that only the event log decides who is finished; mail
// may be repeated, none is lost. Below Options.MinFree Put is refused with ErrNoSpace, and on a full
// disk with another error that wraps syscall.ENOSPC; a full disk also delays state, which then waits
// in memory and in the event log, and compaction. After a disk
// error that leaves the content unknown every call returns an error that wraps
// seglog.ErrPoisoned, until a restart.
//
// All methods of Spool are safe for concurrent use.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

var (
	// ErrNotFound is returned for a message that isn't live: finished, or never stored.
	ErrNotFound = errors.New("message is not in the spool")
	// ErrDamaged is wrapped by the error for a message whose records are whole and not those of a
	// message; see Damaged.
	ErrDamaged = errors.New("message is damaged")
	// ErrDuplicate is returned by Put for the ID of a live message.
	ErrDuplicate = errors.New("message is in the spool already")
	// ErrNoRecipients is returned by Put for an envelope without an ID or without recipients.
	ErrNoRecipients = errors.New("envelope has no ID or no recipients")
	// ErrNoSpace is returned by Put and Room when Options.MinFree would not stay free. It wraps
	// syscall.ENOSPC.
	ErrNoSpace = fmt.Errorf("minimum of free disk space is reached: %w", syscall.ENOSPC)
	// ErrDeliverOnly is returned by Put and Room with Options.DeliverOnly.
	ErrDeliverOnly = errors.New("spool takes no new mail")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("spool is closed")
)

const (
	messagesDir    = "messages"
	stateDir       = "state"
	damagedDir     = "damaged"
	checkpointName = "checkpoint"

	// Kinds of the records of the messages log, their first byte.
	recordEnvelope = 1
	recordBody     = 2
)

// Options are the settings of a spool. The zero value means the defaults on the real disk.
type Options struct {
	// Logger gets damage and disk errors; nil discards them.
	Logger *slog.Logger
	// EventLog is the incarnation of the event log whose sequence numbers the spool is told. With
	// another one than before DurableEvent begins at 0 again.
	EventLog string
	// MaxMessageBytes bounds the body, 64 MiB if 0.
	MaxMessageBytes int
	// SegmentBytes is the size of a message segment, 64 MiB if 0, at most 2 GiB.
	SegmentBytes int64
	// CheckpointBytes is how much state is written before a checkpoint replaces it, 64 MiB if 0.
	CheckpointBytes int64
	// SyncInterval is the time between fsyncs of the state, one second if 0. More of it costs
	// longer reading of the event log after power loss, never mail.
	SyncInterval time.Duration
	// CompactBytes bounds how much compaction copies each SyncInterval, 8 MiB if 0. A longer message
	// is copied all the same, and what it took too much is saved afterwards.
	CompactBytes int64
	// DeliverOnly refuses every Put with ErrDeliverOnly, and nothing is compacted: the spool drains.
	DeliverOnly bool
	// MinFree is how many bytes of the disk messages leave free; 0 means no bound. State, compaction
	// and other files of the disk may use them.
	MinFree int64
	// Free returns how many bytes are free on the disk that holds the folder dir, for MinFree. It is
	// asked at most every 250 ms. If nil, statfs(2) is.
	Free func(dir string) (int64, error)
	// CacheBytes bounds the memory for messages that were just stored and are kept for the first Read,
	// 16 MiB if 0. None are kept if it is negative.
	CacheBytes int64
	// FS is the file system, that of the machine if nil.
	FS seglog.FS
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxMessageBytes <= 0 {
		o.MaxMessageBytes = 64 << 20
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 64 << 20
	}
	o.SegmentBytes = min(o.SegmentBytes, 1<<31) // the index keeps offsets in 32 bits
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = 64 << 20
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = time.Second
	}
	if o.CompactBytes <= 0 {
		o.CompactBytes = 8 << 20
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 16 << 20
	}
	if o.Free == nil {
		o.Free = freeBytes
	}
	if o.FS == nil {
		o.FS = seglog.OS{}
	}
	return o
}

// Spool is an open spool. Open makes one.
type Spool struct {
	dir      string
	opt      Options
	logger   *slog.Logger
	messages *seglog.Log
	state    *seglog.Log
	space    space

	puts sync.Pool // of *deposit

	// moving is held while messages are moved, and by Recover, which must see each of them once.
	moving sync.Mutex

	mu      sync.Mutex
	index   index
	cache   cache
	pending pendingState
	// unwritten has the entries of the indexes of segments that are not yet in a file.
	unwritten map[uint64][]byte
	through   uint64 // last record of the messages log that the index knows
	mark      uint64 // highest event that Mark was told
	durable   uint64 // highest mark on disk
	err       error  // why no more state is taken
	damaged   int
	moved     int // messages that compaction has copied
	closed    bool

	wake     chan struct{} // something is pending, or much is
	stop     chan struct{} // closed by Close
	stopped  chan struct{} // closed when the keeper has ended
	requests chan chan error
	once     sync.Once
	closeErr error

	// The keeper goroutine owns what follows.
	spare   []byte
	written int64  // bytes of state since the last checkpoint
	marked  uint64 // highest mark written
	failing bool   // the last attempt to write state failed, and was logged
	noIndex bool   // the last attempt to write an index failed, and was logged
	noRoll  bool   // the last attempt to end the active segment failed, and was logged
	// What compaction knows.
	segments map[uint64]segment
	todo     []place // messages of one segment to copy
	overrun  int64   // bytes copied beyond CompactBytes
	stuck    bool    // the last attempt to copy failed, and was logged
}

// Open opens the spool in dir, and makes it where there is none. It refuses a spool that another
// process has open (seglog.ErrLocked).
func Open(ctx context.Context, dir string, o Options) (*Spool, error) {
	o = o.withDefaults()
	s := &Spool{
		dir: dir, opt: o, logger: o.Logger.With("component", "spool"), index: newIndex(),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		requests: make(chan chan error), segments: make(map[uint64]segment), unwritten: make(map[uint64][]byte),
	}
	s.cache.init(o.CacheBytes)
	s.space.min, s.space.began, s.space.logger = o.MinFree, time.Now(), s.logger
	s.space.free = func() (int64, error) { return o.Free(dir) }
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool %s: %w", dir, err), s.closeLogs())
	}
	go s.keep(context.WithoutCancel(ctx)) // ended by Close
	return s, nil
}

func (s *Spool) open(ctx context.Context) (err error) {
	s.messages, err = seglog.Open(filepath.Join(s.dir, messagesDir), seglog.Options{
		FS: s.opt.FS, SegmentBytes: s.opt.SegmentBytes, MaxRecordBytes: s.opt.MaxMessageBytes + 1,
	})
	if err != nil {
		return err
	}
	if s.state, err = seglog.Open(filepath.Join(s.dir, stateDir), seglog.Options{
		FS: s.opt.FS, SegmentBytes: s.opt.CheckpointBytes,
	}); err != nil {
		return err
	}
	return s.load(ctx)
}

// Put stores a message and returns when it is durable. The body may come in pieces, which are
// written one after the other and must not be changed before Put returns. Put sets e.Size and rounds the
// times to what is stored; from then on nobody may change e, because Read may return it. An ID must never
// be used for a second message, not even after the first is finished. After an error the
// message is not in the spool, except for one that wraps seglog.ErrPoisoned: then it may be there
// after a restart. ErrNoSpace refuses it before the disk is full. ctx ends the wait for room in
// memory, not that for the disk.
func (s *Spool) Put(ctx context.Context, e *Envelope, body ...[]byte) error {
	if e.ID == (event.ID{}) || len(e.Recipients) == 0 {
		return ErrNoRecipients
	}
	if s.opt.DeliverOnly {
		return ErrDeliverOnly
	}
	if len(e.Tag) > maxTagBytes {
		return fmt.Errorf("tag of %d bytes, at most %d: %w", len(e.Tag), maxTagBytes, seglog.ErrTooLarge)
	}
	e.Size = 0
	for _, p := range body {
		e.Size += int64(len(p))
	}
	if e.Size > int64(s.opt.MaxMessageBytes) {
		return fmt.Errorf("message of %d bytes, at most %d: %w", e.Size, s.opt.MaxMessageBytes, seglog.ErrTooLarge)
	}
	s.mu.Lock()
	m, _ := s.index.find(e.ID)
	err := s.err
	s.mu.Unlock()
	switch {
	case err != nil: // what becomes of new mail could not be written down
		return err
	case m != nil:
		return fmt.Errorf("put %s: %w", e.ID, ErrDuplicate)
	}
	p := s.newDeposit()
	defer s.puts.Put(p)
	p.prepare(e, body)
	defer p.forget()
	if !s.space.take(int64(p.envelope) + e.Size) {
		return ErrNoSpace
	}
	if err := s.messages.EnqueueCommit(ctx, p.commit); err != nil {
		return s.putError(err)
	}
	// Whoever gives up now would not know whether the message will be there.
	if _, err := p.commit.Await(); err != nil {
		return s.putError(err)
	}
	return nil
}

// deposit is a Put on its way to the disk. It is used again.
type deposit struct {
	spool    *Spool
	commit   *seglog.Commit
	message  *Envelope
	envelope int      // bytes of its record
	body     int      // bytes of its record
	buf      []byte   // the envelope's record, and the first byte of the body's
	parts    [][]byte // of both records
	kept     bool     // in the cache from now on
}

func (s *Spool) newDeposit() *deposit {
	if p, ok := s.puts.Get().(*deposit); ok {
		return p
	}
	p := &deposit{spool: s}
	p.commit = seglog.NewCommit(p.stored)
	return p
}

func (p *deposit) prepare(e *Envelope, body [][]byte) {
	p.message = e
	e.Arrived, e.Expires = stored(e.Arrived), stored(e.Expires)
	p.buf = appendEnvelope(append(p.buf[:0], recordEnvelope), e)
	p.envelope, p.body = len(p.buf), 1+int(e.Size)
	p.buf = append(p.buf, recordBody)
	if p.kept = p.spool.cache.fits(int64(p.envelope + p.body)); p.kept {
		// The copy is made of memory of its own, and written from there.
		own := make([]byte, 0, p.body)
		own = append(own, recordBody)
		for _, b := range body {
			own = append(own, b...)
		}
		p.parts = append(p.parts[:0], p.buf[:p.envelope], own)
	} else {
		p.parts = append(p.parts[:0], p.buf[:p.envelope], p.buf[p.envelope:])
		p.parts = append(p.parts, body...)
	}
	p.commit.Reset()
	p.commit.Add(p.parts[:1]...)
	p.commit.Add(p.parts[1:]...)
}

// forget lets go of the caller's memory, and of an unusual amount of our own.
func (p *deposit) forget() {
	p.message = nil
	clear(p.parts)
	if cap(p.buf) > 64<<10 {
		p.buf = nil
	}
}

// stored is called by the committer when the message is durable, before Put returns.
func (p *deposit) stored(at seglog.Range) {
	s := p.spool
	e := entryOf(p.message, at.First, at.Start.Offset, p.envelope, p.body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.stored(e.id, at.Start, e.envelope, e.body, e.recipients)
	s.known(at.Start.Segment, &e)
	if p.kept {
		s.cache.add(p.message, p.parts[1][1:], int64(e.envelope+e.body))
	}
}

// known notes for the index of its segment what was written. The caller holds mu.
func (s *Spool) known(segment uint64, e *indexEntry) {
	s.unwritten[segment] = appendIndexEntry(s.unwritten[segment], segment, e)
	s.through = max(s.through, e.seq+1)
}

func (s *Spool) putError(err error) error {
	if errors.Is(err, seglog.ErrClosed) {
		return ErrClosed
	}
	if errors.Is(err, syscall.ENOSPC) {
		s.space.refused.Store(true)
	}
	return fmt.Errorf("store message: %w", err)
}

// Received notes that a received event of the message is in the event log, as record seq. It is
// told once for each recipient's event.
func (s *Spool) Received(id event.ID, seq uint64) error {
	return s.tell(func() {
		s.index.received(id, seq)
		s.pending.add(entryReceived, &id, seq)
	})
}

// Finished notes that a recipient needs no more attempts: record seq of the event log says why. A
// message that isn't live is ignored, as it is when the event log is read again.
func (s *Spool) Finished(id event.ID, recipient uint32, seq uint64) error {
	return s.tell(func() {
		s.index.finished(id, uint64(recipient))
		s.pending.add(entryFinished, &id, uint64(recipient), seq)
	})
}

// Rescheduled notes that recipients had so many attempts and are due again at due.
func (s *Spool) Rescheduled(id event.ID, recipients []uint32, attempts uint32, due time.Time) error {
	micros := max(due.UnixMicro(), 1)
	numbers := make([]uint64, 0, 2+len(recipients))
	numbers = append(numbers, uint64(attempts), uint64(micros))
	return s.tell(func() {
		for _, i := range recipients {
			s.index.rescheduled(id, uint64(i), attempts, micros)
			numbers = append(numbers, uint64(i))
		}
		s.pending.add(entryRescheduled, &id, numbers...)
	})
}

// Drop finishes all recipients of a message that nobody can account for because not even its envelope
// can be read; err is what Envelope returned. It is logged.
func (s *Spool) Drop(id event.ID, err error) {
	if tellErr := s.tell(func() { s.drop(id, err) }); tellErr != nil {
		s.logger.Error("damaged message not dropped", "message_id", id, "error", tellErr)
	}
}

// drop is Drop. The caller holds mu.
func (s *Spool) drop(id event.ID, err error) {
	m, h := s.index.find(id)
	if m == nil {
		return
	}
	lost := *m
	for _, r := range s.index.live(nil, m, h) {
		s.index.finished(id, uint64(r.Index))
		s.pending.add(entryFinished, &id, uint64(r.Index), 0) // no event says why
	}
	s.logger.Error("message is damaged and dropped", "message_id", id, "recipients", lost.left,
		"file", s.messages.SegmentPath(lost.segment), "offset", lost.offset, "error", err)
}

// Mark notes that the spool was told of all events through seq, and of every one before it.
func (s *Spool) Mark(seq uint64) error {
	return s.tell(func() { s.mark = max(s.mark, seq) })
}

// tell changes state in memory, at once; the keeper writes it.
func (s *Spool) tell(change func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.err != nil {
		return s.err
	}
	before := len(s.pending.buf)
	change()
	if after := len(s.pending.buf); before == 0 && after > 0 || before < flushBytes && after >= flushBytes {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// Sync does at once what is otherwise done every SyncInterval: everything that the spool was told
// becomes durable, and space that isn't needed is freed.
func (s *Spool) Sync(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case s.requests <- done:
	case <-s.stopped:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-done
}

// DurableEvent returns the event through which everything that the spool was told is on disk.
func (s *Spool) DurableEvent() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Stats are counts of a moment.
type Stats struct {
	Messages   int // live
	Recipients int // not finished
	Segments   int // files of the messages log
	Damaged    int // damaged places found since Open
	Moved      int // messages copied by compaction since Open
}

// Stats returns the counts.
func (s *Spool) Stats() Stats {
	segments := len(s.messages.Segments())
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Messages: len(s.index.byID), Recipients: s.index.recipients,
		Segments: segments, Damaged: s.damaged, Moved: s.moved,
	}
}

// Close writes and fsyncs the state with a checkpoint and gives up the spool. Whoever is in Put is
// waited for. It is idempotent.
func (s *Spool) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.stop)
		<-s.stopped
		s.closeErr = errors.Join(s.closeErr, s.closeLogs())
	})
	return s.closeErr
}

func (s *Spool) closeLogs() error {
	var errs []error
	for _, l := range []*seglog.Log{s.messages, s.state} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}
