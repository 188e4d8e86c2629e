package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/sender/queue"
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
		if len(batch.mail) == 0 {
			select {
			case <-ctx.Done():
			case <-o.wake:
			}
			continue
		}
		var events []*event.Event
		for _, t := range batch.mail {
			events = o.deleted(events, t)
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

// batch takes mail of one order that makes about maxBatch events; there is none if nothing waits.
func (o *Operator) batch() doomed {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.doomed) == 0 {
		return doomed{}
	}
	first := &o.doomed[0]
	n, events := 0, 0
	for n < len(first.mail) && events < maxBatch {
		events += len(first.mail[n].Item.Recipients)
		n++
	}
	batch := doomed{first.order, first.mail[:n:n]}
	if first.mail = first.mail[n:]; len(first.mail) == 0 {
		o.doomed = slices.Delete(o.doomed, 0, 1)
	}
	return batch
}

// done notes that mail is finished.
func (o *Operator) done(ctx context.Context, batch doomed) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range batch.mail {
		o.left[batch.order] -= len(t.Item.Recipients)
	}
	clear(batch.mail) // the rest of the list may stay for long
	if o.left[batch.order] > 0 {
		return nil
	}
	delete(o.left, batch.order)
	order := o.find(batch.order)
	if order == nil {
		return nil
	}
	return o.endIfDone(ctx, order)
}

// deleted appends the events of an item. A message that is gone has had its events; one that cannot
// be read is finished all the same.
func (o *Operator) deleted(events []*event.Event, t queue.Taken) []*event.Event {
	envelope, err := o.Mail.Envelope(t.Item.Message)
	if errors.Is(err, spool.ErrNotFound) {
		return events
	}
	if err != nil {
		o.Logger.Error("deleted message is not readable", "message_id", t.Item.Message.String(), "error", err)
	}
	now := clock.Now().UTC()
	for _, index := range t.Item.Recipients {
		e := &event.Event{MessageID: t.Item.Message, RecipientIdx: index, RecipientDomain: t.Queue.Domain}
		if envelope != nil && int(index) < len(envelope.Recipients) {
			o.Fill(e, envelope, index)
		}
		e.Kind, e.Time, e.Queue, e.VMTA = event.Deleted, now, t.Queue.String(), t.Queue.VMTA
		e.Attempt, e.Queued = uint32(t.Item.Attempts), now.Sub(t.Item.Arrived.Time())
		e.Enhanced, e.Reply, e.ReplyTemplate = deletedStatus, deletedText, deletedText
		e.Category, e.Class, e.Dimension = taxonomy.Unknown, taxonomy.None, taxonomy.Other
		e.PMTACategory = e.Category.PowerMTA()
		events = append(events, e)
	}
	return events
}
