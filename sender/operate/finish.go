package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/sender/spool"
)

// maxBatch bounds the events of deleted mail that wait for the log at once, so that those of mail
// under way get their turn.
const maxBatch = 256

// Deleted mail says what it says in PowerMTA, with RFC 3463's status for "other".
const (
	deletedText   = "deleted by administrator"
	deletedStatus = "5.0.0"
)

// finish writes the events of deleted mail until ctx is done.
func (o *Operator) finish(ctx context.Context) error {
	for ctx.Err() == nil {
		batch := o.batch()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-o.wake:
			}
			continue
		}
		var events []*event.Event
		for _, d := range batch {
			events = o.deleted(events, d)
		}
		if err := o.Recorder.Record(context.WithoutCancel(ctx), events...); err != nil {
			return fmt.Errorf("events of deleted mail: %w", err)
		}
		if err := o.done(context.WithoutCancel(ctx), batch); err != nil {
			o.Logger.Error("order not ended", "error", err) // at the next start there is nothing left to do for it
		}
	}
	return nil
}

// batch takes mail that makes about maxBatch events.
func (o *Operator) batch() []doomed {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, events := 0, 0
	for n < len(o.doomed) && events < maxBatch {
		events += len(o.doomed[n].Item.Recipients)
		n++
	}
	batch := o.doomed[:n:n]
	if o.doomed = o.doomed[n:]; len(o.doomed) == 0 {
		o.doomed = nil
	}
	return batch
}

// done notes that mail is finished.
func (o *Operator) done(ctx context.Context, batch []doomed) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, d := range batch {
		o.left[d.order] -= len(d.Item.Recipients)
		if o.left[d.order] > 0 {
			continue
		}
		delete(o.left, d.order)
		if order := o.find(d.order); order != nil {
			errs = append(errs, o.endIfDone(ctx, order))
		}
	}
	return errors.Join(errs...)
}

// deleted appends the events of an item. A message that is gone has had its events; one that cannot
// be read is finished all the same.
func (o *Operator) deleted(events []*event.Event, d doomed) []*event.Event {
	envelope, err := o.Mail.Envelope(d.Item.Message)
	if errors.Is(err, spool.ErrNotFound) {
		return events
	}
	if err != nil {
		o.Logger.Error("deleted message is not readable", "message_id", d.Item.Message.String(), "error", err)
	}
	now := time.Now().UTC()
	for _, index := range d.Item.Recipients {
		e := &event.Event{MessageID: d.Item.Message, RecipientIdx: index, RecipientDomain: d.Queue.Domain}
		if envelope != nil && int(index) < len(envelope.Recipients) {
			o.Fill(e, envelope, index)
		}
		e.Kind, e.Time, e.Queue, e.VMTA = event.Deleted, now, d.Queue.String(), d.Queue.VMTA
		e.Attempt, e.Queued = uint32(d.Item.Attempts), now.Sub(d.Item.Arrived.Time())
		e.Enhanced, e.Reply, e.ReplyTemplate = deletedStatus, deletedText, deletedText
		e.Category, e.Class, e.Dimension = taxonomy.Unknown, taxonomy.None, taxonomy.Other
		e.PMTACategory = e.Category.PowerMTA()
		events = append(events, e)
	}
	return events
}
