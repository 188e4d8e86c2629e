package app

import (
	"context"

	"carom/sender/spool"
)

// openSpool opens the spool folders of the configuration.
func (n *node) openSpool(ctx context.Context) (*spool.Set, error) {
	folders := make([]spool.Folder, 0, len(n.config.Load().Spools))
	for _, s := range n.config.Load().Spools {
		folders = append(folders, spool.Folder{
			Dir: s.Dir, Priority: s.Priority, DeliverOnly: s.DeliverOnly, MinFree: int64(s.MinFreeSpace),
		})
	}
	return spool.OpenSet(ctx, folders, spool.Options{Logger: n.logger, EventLog: n.events.Incarnation()})
}

// recover queues what is live in the spool and returns how many recipients that are. Messages are not
// read, but for those whose tag does not say enough or whose received events are missing.
func (n *node) recover(ctx context.Context) (recipients int, err error) {
	var tags tagReader
	err = n.spool.Recover(func(m spool.LiveMessage) error {
		t, err := tags.decode(m.Tag, m.Count)
		if err != nil || m.Received < m.Count {
			envelope, readErr := n.spool.Envelope(m.ID)
			switch {
			case readErr == nil:
				t = tagOf(envelope)
				n.received(envelope, m.Received)
			case spool.Damaged(readErr) && err != nil: // nobody can say who the recipients are
				n.spool.Drop(m.ID, readErr)
				return ctx.Err()
			case err != nil:
				n.logger.Error("message in the spool can not be queued", "message_id", m.ID.String(), "error", readErr)
				return ctx.Err()
			default: // delivery finds it unreadable too
				n.logger.Error("received events are missing", "message_id", m.ID.String(), "error", readErr)
			}
		}
		n.enqueue(m.ID, m.Arrived, &t, m.Recipients)
		recipients += len(m.Recipients)
		return ctx.Err()
	})
	return recipients, err
}
