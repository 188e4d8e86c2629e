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
	"time"

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

// Ticket is an event on its way to the log.
type Ticket struct {
	recorder *Recorder
	event    *event.Event
	written  chan struct{} // closed when the event is durable
}

// Wait returns when the event is durable, or with the error that kept it from being so: ErrStopped,
// with the reason if there is one, or that of ctx. With the latter the event may become durable all
// the same.
func (t *Ticket) Wait(ctx context.Context) error {
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
	configHash uint64
	logger     *slog.Logger

	tickets chan *Ticket
	stopped chan struct{} // closed when Run returns
	failure error         // why Run returned; set before stopped is closed
}

// sink is a Sink and whether it takes what it is given.
type sink struct {
	Sink
	failing bool
}

// NewRecorder returns a recorder; Run starts it. Events carry configHash.
func NewRecorder(log Log, spool Spool, sinks []Sink, configHash uint64, logger *slog.Logger) *Recorder {
	r := &Recorder{
		log: log, spool: spool, configHash: configHash, logger: logger,
		tickets: make(chan *Ticket, queueLength), stopped: make(chan struct{}),
	}
	for _, s := range sinks {
		r.sinks = append(r.sinks, &sink{Sink: s})
	}
	return r
}

// Submit hands an event over and returns at once unless queueLength events wait. It fills in
// format version, time (where it is zero), number of recipients (where it is 0) and configuration
// hash. The event must not be changed afterwards.
func (r *Recorder) Submit(e *event.Event) *Ticket {
	e.FormatVersion = event.FormatVersion
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	if e.Recipients == 0 {
		e.Recipients = 1
	}
	e.ConfigHash = r.configHash
	t := &Ticket{recorder: r, event: e, written: make(chan struct{})}
	select {
	case r.tickets <- t:
	case <-r.stopped: // Wait says so; and so it does of what is put into the queue from now on
	}
	return t
}

// Record submits events and returns when all of them are durable.
func (r *Recorder) Record(ctx context.Context, events ...*event.Event) error {
	tickets := make([]*Ticket, len(events))
	for i, e := range events {
		tickets[i] = r.Submit(e)
	}
	for _, t := range tickets {
		if err := t.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Run writes events until ctx is done and everything submitted before is written. It returns an
// error when the log or the spool refused. It runs once.
func (r *Recorder) Run(ctx context.Context) error {
	defer close(r.stopped)
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	var buffers [maxBatch][]byte
	batch := make([]*Ticket, 0, maxBatch)
	for {
		var first *Ticket
		select {
		case first = <-r.tickets:
		case <-ticker.C:
			r.flush()
			continue
		case <-ctx.Done():
			select {
			case first = <-r.tickets:
			default:
				return nil
			}
		}
		batch = append(batch[:0], first)
		for len(batch) < maxBatch && len(r.tickets) > 0 {
			batch = append(batch, <-r.tickets)
		}
		// The log gets no context: a batch that was begun is finished.
		if err := r.write(context.WithoutCancel(ctx), batch, &buffers); err != nil {
			r.failure = err
			return err
		}
	}
}

func (r *Recorder) write(ctx context.Context, batch []*Ticket, buffers *[maxBatch][]byte) error {
	for i, t := range batch {
		buffers[i] = event.Encode(buffers[i][:0], t.event)
	}
	places, err := r.log.Append(ctx, buffers[:len(batch)]...)
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	for i, t := range batch {
		if err := Tell(r.spool, t.event, places.First+uint64(i)); err != nil { //nolint:gosec // i is not negative
			return fmt.Errorf("spool: %w", err)
		}
	}
	if err := r.spool.Mark(places.Last); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for _, t := range batch {
		close(t.written)
	}
	for _, s := range r.sinks {
		r.noteSink(s, s.write(batch, places.First))
	}
	return nil
}

// write hands a batch to the sink and returns the first error.
func (s *sink) write(batch []*Ticket, first uint64) error {
	var failed error
	for i, t := range batch {
		if err := s.Write(t.event, first+uint64(i)); err != nil && failed == nil { //nolint:gosec // i is not negative
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
	switch {
	case e.Kind == event.Received:
		return spool.Received(e.MessageID, seq)
	case e.Kind.Final():
		return spool.Finished(e.MessageID, e.RecipientIdx, seq)
	}
	return nil
}
