package bench

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"carom/schemas/service"
)

// wait notes how many messages are to wait: the targets speak of a million, and less says nothing
// about them.
func (m *Measured) wait(l *lab) {
	m.Messages = l.Messages
	if m.Small == "" && l.Messages < million {
		m.Small = "with less than a million messages"
	}
}

// needSpace returns an error unless the disk has room for so many messages, with what the node
// notes of each.
func (l *lab) needSpace(messages, bytes int) error {
	const notes = 2 << 10 // of a message, in spool and event log
	var fs syscall.Statfs_t
	if err := syscall.Statfs(l.dir, &fs); err != nil {
		return fmt.Errorf("look for space: %w", err)
	}
	free, want := fs.Bavail*uint64(fs.Bsize), uint64(messages)*uint64(bytes+notes) //nolint:gosec // not negative
	if free < want {
		return service.Configf("carom bench: the disk of --dir has %d MB free, %d messages need %d MB (see --messages)", free/1e6, messages, want/1e6)
	}
	return nil
}

// fill hands the node messages that it cannot deliver, as many for each recipient.
func (st *stage) fill(ctx context.Context, n *node, recipients []string) (Sample, error) {
	each := st.lab.Messages / len(recipients)
	// A tenth of the slowest peer's rate on a slow machine.
	ctx, cancel := limited(ctx, time.Minute+time.Duration(st.lab.Messages)*50*time.Millisecond)
	defer cancel()
	return measure(ctx, n.usage, each*len(recipients), func() (time.Duration, error) {
		for _, recipient := range recipients {
			if err := st.source(ctx, n.addr, recipient, each); err != nil {
				return 0, fmt.Errorf("fill: %w", err)
			}
		}
		return 0, nil
	})
}
