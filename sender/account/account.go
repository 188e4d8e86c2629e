// Package account writes down what happened: each event to the node's event log, durably, then to
// the accounting files, and then it tells the spool which recipients are finished.
//
// That order is the guarantee: an outcome is on disk in the event log before the recipient is done
// in the spool, so after a crash the log says who is finished. A Recorder does it in one goroutine
// for all sessions at once: what arrives while one batch is being synced makes the next batch.
//
// A Recorder that could not write stops for good: Run returns the error, and every Ticket that is
// not written gets it, with ErrStopped. A node that cannot account must not send.
//
// A Recorder is safe for concurrent use, a File is not.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/seglog"
)

// maxBatch bounds the events of one write to the log. With 32 KiB a record, a bound that no reply
// text reaches, a batch stays below 16 MiB.
const maxBatch = 512

// queueLength bounds the events that wait for the log; beyond it Submit blocks. Accounting never
// drops.
const queueLength = 4 * maxBatch

// ErrStopped is returned for events that were not written because the recorder had stopped.
var ErrStopped = errors.New("accounting has stopped")

// Log is the node's event stream. Append returns when the records are durable.
type Log interface {
	Append(ctx context.Context, records ...[]byte) (seglog.Range, error)
}

// Spool is told which events are in the log: the sequence number proves it.
type Spool interface {
	// Received notes that the message's received events, the last of them seq, are in the log.
	Received(message event.ID, seq uint64) error
	// Finished notes that the recipient is done.
	Finished(message event.ID, recipient uint32, seq uint64) error
	// Mark notes that of all events up to seq the spool has been told.
	Mark(seq uint64) error
}

// Sink is a place where events go for people and programs to read, an accounting file. It is not
// what carom's own counts stand on: its errors are logged and end nothing.
type Sink interface {
	// Write takes the next event, in the order of the log. It keeps no reference to it.
	Write(e *event.Event, seq uint64) error
	// Flush is called when a batch is written, and every flushInterval.
	Flush() error
}

// flushInterval is how often sinks hear from a recorder that has nothing to write.
const flushInterval = 10 * time.Second

// Ticket is one event or several, of whichever goroutines, on their way to the log together.
type Ticket struct {
	recorder *Recorder
	written  chan struct{} // closed when the events are durable

	// Guarded by recorder.mu until Run takes the ticket.
	records []byte // of all events, one behind the other
	ends    []int  // where each record ends
	news    []news
	events  []event.Event // for the sinks; none without any
}

// news is what the spool is told of an event.
type news struct {
	kind      event.Kind
	message   event.ID
	recipient uint32
}

// Wait returns when the events are durable, or with the error that kept them from being so:
// ErrStopped, with the reason if there is one, or that of ctx. With the latter they may become
// durable all the same.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.written:
		return nil
	default:
	}
	select {
	case <-t.written:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.recorder.stopped:
	}
	select {
	case <-t.written: // it was among the last
		return nil
	default:
		return errors.Join(ErrStopped, t.recorder.failure)
	}
}

// Recorder writes events in the order in which they are submitted.
type Recorder struct {
	log        Log
	spool      Spool
	sinks      []*sink
	configHash atomic.Uint64
	categories atomic.Pointer[Categories] // nil: the classifier's
	privacy    *Privacy                   // of the log; nil: recipients are shown
	logger     *slog.Logger

	rotations chan chan error

	wake    chan struct{} // something waits
	stopped chan struct{} // closed when Run returns
	failure error         // why Run returned; set before stopped is closed

	mu      sync.Mutex
	room    sync.Cond // for Submit, when queueLength events wait
	waiting []*Ticket // the last one takes events until it holds maxBatch
	events  int       // in waiting
	ended   bool      // Run has returned
	spare   *Ticket   // memory for the next ticket
}

// sink is a Sink and whether it takes what it is given.
type sink struct {
	Sink
	failing bool
}

// NewRecorder returns a recorder; Run starts it. Events carry configHash.
func NewRecorder(log Log, spool Spool, sinks []Sink, configHash uint64, logger *slog.Logger) *Recorder {
	r := &Recorder{
		log: log, spool: spool, logger: logger,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), rotations: make(chan chan error),
	}
	r.configHash.Store(configHash)
	r.room.L = &r.mu
	for _, s := range sinks {
		r.sinks = append(r.sinks, &sink{Sink: s})
	}
	return r
}

// SetConfigHash sets the hash that events carry from now on.
func (r *Recorder) SetConfigHash(hash uint64) { r.configHash.Store(hash) }

// Categorize makes bounces carry the operator's categories from now on, where a rule of c matches; nil
// for none.
func (r *Recorder) Categorize(c *Categories) { r.categories.Store(c) }

// HideInLog hides recipients in what is written to the log; sinks have policies of their own. It is
// called before anything is submitted.
func (r *Recorder) HideInLog(p *Privacy) { r.privacy = p }

// Rotater is a Sink that can begin a new file.
type Rotater interface {
	// Rotate ends the current file. The next record begins a new one.
	Rotate() error
}

// Rotate makes the sinks begin new files, behind what was submitted and written before. It returns
// ErrStopped when Run has returned.
func (r *Recorder) Rotate(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.rotations <- done:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	case <-r.stopped:
		return ErrStopped
	}
}

func (r *Recorder) rotate() error {
	var failed []error
	for _, s := range r.sinks {
		if rotater, ok := s.Sink.(Rotater); ok {
			failed = append(failed, rotater.Rotate())
		}
	}
	return errors.Join(failed...)
}

// scratch holds buffers in which events are encoded.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Submit hands an event over and returns at once unless queueLength events wait. It fills in
// format version, time (where it is zero), number of recipients (where it is 0) and configuration
// hash. It keeps nothing of the event but its maps and lists.
func (r *Recorder) Submit(e *event.Event) *Ticket {
	e.FormatVersion = event.FormatVersion
	if e.Time.IsZero() {
		e.Time = clock.Now().UTC()
	}
	if e.Recipients == 0 {
		e.Recipients = 1
	}
	e.ConfigHash = r.configHash.Load()
	if c := r.categories.Load(); c != nil {
		c.apply(e)
	}
	buffer := scratch.Get().(*[]byte)                 //nolint:errcheck,forcetypeassert // the pool holds nothing else
	*buffer = event.Encode((*buffer)[:0], r.shown(e)) // here, where there are many to do it
	t := r.add(e, *buffer)
	scratch.Put(buffer)
	select {
	case r.wake <- struct{}{}:
	default: // a wake-up is under way
	}
	return t
}

// shown returns e as the log may show it. Of mail that comes in and whose address is shown, the key is
// left out: suppression asks for it when there is an answer, and it would be a sixth of the event.
func (r *Recorder) shown(e *event.Event) *event.Event {
	if r.privacy == nil && (e.Kind != event.Received || e.RecipientKey == "") {
		return e
	}
	shown := *e
	if r.privacy != nil {
		r.privacy.Hide(&shown)
	} else {
		shown.RecipientKey = ""
	}
	return &shown
}

// add puts an event and its record into the last ticket, or a new one.
func (r *Recorder) add(e *event.Event, record []byte) *Ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.events >= queueLength && !r.ended {
		r.room.Wait()
	}
	if n := len(r.waiting); n == 0 || len(r.waiting[n-1].ends) >= maxBatch {
		r.waiting = append(r.waiting, r.newTicket())
	}
	t := r.waiting[len(r.waiting)-1]
	t.records = append(t.records, record...)
	t.ends = append(t.ends, len(t.records))
	t.news = append(t.news, news{e.Kind, e.MessageID, e.RecipientIdx})
	if len(r.sinks) > 0 {
		t.events = append(t.events, *e)
	}
	r.events++
	return t // after Run has returned it is never written, and Wait says so
}

// newTicket returns a ticket in the memory of one that was written. The caller holds r.mu.
func (r *Recorder) newTicket() *Ticket {
	t := &Ticket{recorder: r, written: make(chan struct{})}
	if old := r.spare; old != nil {
		t.records, t.ends, t.news, t.events = old.records[:0], old.ends[:0], old.news[:0], old.events[:0]
		r.spare = nil
	}
	return t
}

// next returns the first ticket, nil if nothing waits.
func (r *Recorder) next() *Ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	t := r.waiting[0]
	r.waiting[0] = nil
	if r.waiting = r.waiting[1:]; len(r.waiting) == 0 {
		r.waiting = nil
	}
	r.events -= len(t.ends)
	r.room.Broadcast()
	return t
}

// Record submits events and returns when all of them are durable.
func (r *Recorder) Record(ctx context.Context, events ...*event.Event) error {
	var last *Ticket
	for _, e := range events {
		last = r.Submit(e)
	}
	if last == nil {
		return nil
	}
	return last.Wait(ctx) // those before it are in the same ticket or an earlier one
}

// Run writes events until ctx is done and everything submitted before is written. It returns an
// error when the log or the spool refused. It runs once.
func (r *Recorder) Run(ctx context.Context) error {
	defer r.end()
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	var records [][]byte
	for {
		t := r.next()
		if t == nil {
			select {
			case <-r.wake:
			case <-ticker.C:
				r.flush()
			case done := <-r.rotations:
				done <- r.rotate()
			case <-ctx.Done():
				if t = r.next(); t == nil {
					return nil
				}
			}
		}
		if t == nil {
			continue
		}
		records = t.cut(records[:0])
		// The log gets no context: a batch that was begun is finished.
		if err := r.write(context.WithoutCancel(ctx), t, records); err != nil {
			r.failure = err
			return err
		}
		r.mu.Lock()
		r.spare = t
		r.mu.Unlock()
	}
}

// end lets go everybody who waits.
func (r *Recorder) end() {
	r.mu.Lock()
	r.ended = true
	r.room.Broadcast()
	r.mu.Unlock()
	close(r.stopped)
}

// cut appends the records one by one.
func (t *Ticket) cut(records [][]byte) [][]byte {
	start := 0
	for _, end := range t.ends {
		records = append(records, t.records[start:end:end])
		start = end
	}
	return records
}

func (r *Recorder) write(ctx context.Context, t *Ticket, records [][]byte) error {
	places, err := r.log.Append(ctx, records...)
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	for i, n := range t.news {
		if err := n.tell(r.spool, places.First+uint64(i)); err != nil { //nolint:gosec // i is not negative
			return fmt.Errorf("spool: %w", err)
		}
	}
	if err := r.spool.Mark(places.Last); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	close(t.written)
	for _, s := range r.sinks {
		r.noteSink(s, s.write(t.events, places.First))
	}
	clear(t.events)
	return nil
}

// write hands a batch to the sink and returns the first error.
func (s *sink) write(events []event.Event, first uint64) error {
	var failed error
	for i := range events {
		if err := s.Write(&events[i], first+uint64(i)); err != nil && failed == nil { //nolint:gosec // i is not negative
			failed = err
		}
	}
	if err := s.Flush(); err != nil && failed == nil {
		failed = err
	}
	return failed
}

func (r *Recorder) flush() {
	for _, s := range r.sinks {
		if !s.failing { // flushing nothing proves nothing
			r.noteSink(s, s.Flush())
		}
	}
}

// noteSink logs when a sink begins to refuse and when it goes on.
func (r *Recorder) noteSink(s *sink, err error) {
	switch {
	case err != nil && !s.failing:
		r.logger.Error("accounting file lacks records", "error", err)
	case err == nil && s.failing:
		r.logger.Info("accounting file is written again")
	}
	s.failing = err != nil
}

// Tell passes on to the spool what an event means for it. It is also how a node that starts tells
// the spool what the log says. Events of messages that the spool does not hold, such as reports,
// change nothing there.
func Tell(spool Spool, e *event.Event, seq uint64) error {
	return news{e.Kind, e.MessageID, e.RecipientIdx}.tell(spool, seq)
}

func (n news) tell(spool Spool, seq uint64) error {
	switch {
	case n.kind == event.Received:
		return spool.Received(n.message, seq)
	case n.kind.Final():
		return spool.Finished(n.message, n.recipient, seq)
	}
	return nil
}
