package operate

import (
	"errors"
	"fmt"
	"time"

	"carom/sender/admin"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/spool"
)

// Messages returns waiting mail that meets f, at most limit recipients; see admin.Node.
func (o *Operator) Messages(f orders.Filter, limit int) ([]admin.Message, error) {
	if f.IsZero() {
		f.Queue = "*/*"
	}
	if err := (&orders.Order{Kind: orders.Pause, Filter: f}).Validate(); err != nil {
		return nil, err
	}
	var messages []admin.Message
	for _, found := range o.Queues.Peek(filter(f), limit) {
		envelope, err := o.Mail.Envelope(found.Item.Message)
		if errors.Is(err, spool.ErrNotFound) {
			continue // finished in between
		}
		if err != nil {
			return nil, fmt.Errorf("message %s: %w", found.Item.Message, err)
		}
		for _, index := range found.Item.Recipients {
			if len(messages) == limit || int(index) >= len(envelope.Recipients) {
				break
			}
			messages = append(messages, admin.Message{
				ID: envelope.ID.String(), Queue: found.Queue.String(), Recipient: envelope.Recipients[index].Address, MailFrom: envelope.From,
				Job: envelope.Job, Tenant: envelope.Tenant, EnvID: envelope.EnvID, Size: envelope.Size,
				Attempts: uint32(found.Item.Attempts), Priority: found.Item.Priority,
				Arrived: envelope.Arrived, Due: found.Item.Due.Time().UTC(), Expires: found.Item.Expires.Time().UTC(),
			})
		}
	}
	return messages, nil
}

// Describe fills in what orders say about a queue: which pause mail in it.
func (o *Operator) Describe(q *admin.Queue, name queue.Name) {
	for _, order := range o.Store.List() {
		if order.Kind != orders.Pause || !order.Filter.MatchesQueue(name.Domain, name.VMTA) {
			continue
		}
		q.PausedBy = append(q.PausedBy, order.ID)
		selected := filter(order.Filter)
		q.Paused = q.Paused || selected.WholeQueues()
	}
}

// About returns the orders in force that may concern a queue.
func (o *Operator) About(name queue.Name) []admin.Order {
	about := []admin.Order{}
	for _, order := range o.Orders() {
		if order.Filter.MatchesQueue(name.Domain, name.VMTA) {
			about = append(about, order)
		}
	}
	return about
}

// Waits says why the mail of a queue does not go out now, the decisive reason first.
func (o *Operator) Waits(s *queue.Status, now time.Time) []string {
	var waits []string
	for _, order := range o.Store.List() {
		if order.Kind == orders.Pause && (s.Paused || s.Held > 0) && order.Filter.MatchesQueue(s.Name.Domain, s.Name.VMTA) {
			waits = append(waits, signed(&order))
		}
	}
	if !s.DeferredUntil.IsZero() {
		waits = append(waits, fmt.Sprintf("until %s: %s", s.DeferredUntil.UTC().Format(time.RFC3339), s.DeferredWhy))
	}
	if s.WaitsForSlot {
		waits = append(waits, "for a connection: as many as total-max-smtp-out allows are open")
	}
	if s.Recipients > 0 && s.Due == 0 && s.Held == 0 && !s.Paused {
		waits = append(waits, "nothing is due: every recipient waits for its next attempt")
	}
	if s.Mode == queue.Backoff {
		why := "backoff mode: " + s.ModeWhy
		if !s.ModeUntil.IsZero() {
			why += ", until " + s.ModeUntil.UTC().Format(time.RFC3339)
		}
		waits = append(waits, why)
	}
	return waits
}
