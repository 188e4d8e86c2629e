package app

import (
	"context"
	"fmt"
	"time"
	"unique"

	"carom/schemas/clock"
	"carom/schemas/limits"
	"carom/sender/queue"
)

// applyLimits puts a limits document in force.
func (n *node) applyLimits(d *limits.Document) {
	n.throttle.Apply(d)
	if n.keeper.Apply(d) && n.queues != nil { // before the first mail nothing is held
		n.queues.Unpark() // sessions park again what is still held
	}
}

// heldInterval is how often what the control loop holds is looked at: what expired is finished then.
const heldInterval = 30 * time.Second

// heldAlerts are the shares of their life after which held mail is spoken of (design/control.md 5.5,
// rule 7): a person has to decide before it expires.
var heldAlerts = [...]float64{0.25, 0.5}

// heldMail is what is held of one tenant and job.
type heldMail struct {
	recipients int
	oldest     float64 // share of its life that is over
	alerted    int     // of heldAlerts
}

// watchHeld finishes held mail whose time is over, and alerts before, until ctx is done.
func (n *node) watchHeld(ctx context.Context) error {
	ticker := clock.NewTicker(heldInterval)
	defer ticker.Stop()
	known := map[unique.Handle[queue.Labels]]*heldMail{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := n.sweepHeld(context.WithoutCancel(ctx), clock.Now(), known); err != nil {
				return err
			}
		}
	}
}

// sweepHeld looks at all held mail once. known is what the last look saw, and is brought up to date.
func (n *node) sweepHeld(ctx context.Context, now time.Time, known map[unique.Handle[queue.Labels]]*heldMail) error {
	if n.keeper.Lapsed() {
		n.queues.Unpark()
	}
	for _, h := range known {
		h.recipients, h.oldest = 0, 0
	}
	n.queues.Sweep(now, func(_ queue.Name, item *queue.Item) {
		h := known[item.Labels]
		if h == nil {
			h = &heldMail{}
			known[item.Labels] = h
		}
		h.recipients += len(item.Recipients)
		if life := item.Expires - item.Arrived; life > 0 {
			h.oldest = max(h.oldest, float64(queue.At(now)-item.Arrived)/float64(life))
		}
	})
	for labels, h := range known {
		if h.recipients == 0 {
			delete(known, labels) // a later hold alerts anew
			continue
		}
		due := 0
		for i, share := range heldAlerts {
			if h.oldest >= share {
				due = i + 1
			}
		}
		if due <= h.alerted {
			continue
		}
		h.alerted = due
		var about queue.Labels
		if labels != (unique.Handle[queue.Labels]{}) {
			about = labels.Value()
		}
		text := fmt.Sprintf("%d recipients of tenant %q, job %q are held by the control loop, the oldest for %.0f %% of the time after which they expire; "+
			"\"carom limits release\" lets them go", h.recipients, about.Tenant, about.Job, 100*h.oldest)
		n.logger.Warn("mail is held", "tenant", about.Tenant, "job", about.Job, "recipients", h.recipients, "share_of_life", h.oldest)
		if err := n.annotate(ctx, "hold", text, "limits"); err != nil {
			return err
		}
	}
	return nil
}
