// Package account writes down what happened: each event to the node's event log, durably, then to
// the accounting files, and then it tells the spool which recipients are finished.
//
// That order is the guarantee: an outcome is on disk in the event log before the recipient is done
// in the spool, so after a crash the log says who is finished. A Recorder does it in one goroutine
// for all sessions at once: what arrives while one batch is being synced makes the next batch.
//
// A Recorder that could not write stops for good (Run returns the error, and so does every Submit
// after it): a node that cannot account must not send.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
// what carom's own counts stand on.
type Sink interface {
	Write(e *event.Event, seq uint64) error
	Flush() error
}

// Ticket is an event on its way to the log.
type Ticket struct {
	event *event.Event
	done  chan struct{}
	err   error
}

// Wait returns when the event is durable, or with the error that kept it from being so.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Recorder writes events in the order in which they are submitted.
type Recorder struct {
	log        Log
	spool      Spool
	sinks      []Sink
	configHash uint64
	logger     *slog.Logger

	tickets chan *Ticket
	stopped chan struct{} // closed when Run has returned
	once    sync.Once
}

// NewRecorder returns a recorder; Run starts it. Events carry configHash.
func NewRecorder(log Log, spool Spool, sinks []Sink, configHash uint64, logger *slog.Logger) *Recorder {
	return &Recorder{
		log: log, spool: spool, sinks: sinks, configHash: configHash, logger: logger,
		tickets: make(chan *Ticket, queueLength), stopped: make(chan struct{}),
	}
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
	t := &Ticket{event: e, done: make(chan struct{})}
	select {
	case <-r.stopped:
		t.finish(ErrStopped)
		return t
	default:
	}
	select {
	case r.tickets <- t:
	case <-r.stopped:
		t.finish(ErrStopped)
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

func (t *Ticket) finish(err error) {
	t.err = err
	close(t.done)
}

// Run writes events until ctx is done and everything submitted before is written. It returns an
// error when the log or the spool refused.
func (r *Recorder) Run(ctx context.Context) error {
	defer r.once.Do(func() { close(r.stopped) })
	var buffers [maxBatch][]byte
	batch := make([]*Ticket, 0, maxBatch)
	for {
		var first *Ticket
		select {
		case first = <-r.tickets:
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
		err := r.write(context.WithoutCancel(ctx), batch, &buffers)
		for _, t := range batch {
			t.finish(err)
		}
		if err != nil {
			r.failRest()
			return err
		}
	}
}

// failRest answers those who submitted before the recorder stopped.
func (r *Recorder) failRest() {
	r.once.Do(func() { close(r.stopped) })
	for {
		select {
		case t := <-r.tickets:
			t.finish(ErrStopped)
		default:
			return
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
		seq := places.First + uint64(i) //nolint:gosec // i is not negative
		if err := Tell(r.spool, t.event, seq); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		for _, sink := range r.sinks {
			if err := sink.Write(t.event, seq); err != nil {
				r.logger.Error("accounting file not written", "error", err, "seq", seq)
			}
		}
	}
	if err := r.spool.Mark(places.Last); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for _, sink := range r.sinks {
		if err := sink.Flush(); err != nil {
			r.logger.Error("accounting file not written", "error", err, "seq", places.Last)
		}
	}
	return nil
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
