package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"
	"time"

	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
)

// budgetInterval is how often the part of the event log that waits to be shipped is measured. A node
// writes a few ten megabytes in that time at most.
const budgetInterval = time.Second

// Shares of the budget in percent. A state is left a good way below where it is entered, so that it
// does not come and go with each batch of the agent.
const (
	budgetScarce     = 80
	budgetScarceOver = 70
	budgetFull       = 100
	budgetFullOver   = 90
)

// budget says whether the event log that waits to be shipped leaves room for new mail. Mail that is
// there already goes on: its events are written whatever the budget says. The zero value has room;
// one goroutine sets it, all may ask.
type budget struct {
	waiting atomic.Int64 // bytes, as last measured
	scarce  atomic.Bool
	full    atomic.Bool
}

// set puts down that waiting bytes of most wait. It returns what to tell the operator if that
// changed something, else "".
func (b *budget) set(waiting, most int64) (name, text string) {
	b.waiting.Store(waiting)
	share := waiting * 100 / most
	said := fmt.Sprintf("%d MB of the event log wait to be shipped, which is %d %% of max-size", waiting>>20, share)
	switch scarce, full := b.scarce.Load(), b.full.Load(); {
	case share >= budgetFull && !full:
		b.scarce.Store(true)
		b.full.Store(true)
		return "event-log-full", said + ": new mail is refused with 452 4.3.1"
	case share < budgetFullOver && full:
		b.full.Store(false)
		b.scarce.Store(share >= budgetScarceOver)
		return "event-log-room", said + ": new mail is taken again"
	case share >= budgetScarce && !scarce:
		b.scarce.Store(true)
		return "event-log-scarce", said + ": at 100 % new mail is refused; look whether the agent runs and ClickHouse answers"
	case share < budgetScarceOver && scarce && !full:
		b.scarce.Store(false)
		return "event-log-room", said
	}
	return "", ""
}

// maxSize returns how many bytes of the event log may wait: its max-size, or without one half of the
// file system that it lies on. A log that no agent ships would otherwise take the room that the spool
// on the same disk needs to go on.
func (n *node) maxSize() (int64, error) {
	log := n.config.Load().EventLog
	if log.MaxSize > 0 {
		return int64(log.MaxSize), nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(log.Dir, &st); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", log.Dir, err)
	}
	return int64(st.Blocks/2) * int64(st.Bsize), nil //nolint:unconvert,gosec // not int64 everywhere; a disk's size fits
}

// watchBudget holds the event log to what may wait of it until ctx is done.
func (n *node) watchBudget(ctx context.Context) error {
	most, err := n.maxSize()
	if err != nil || most == 0 {
		n.logger.Error("the event log has no bound but the disk", "error", err)
		return nil
	}
	ticker := time.NewTicker(budgetInterval)
	defer ticker.Stop()
	blind := false
	for {
		waiting, err := n.unshipped()
		if blind != (err != nil) && err != nil {
			n.logger.Error("size of the event log is unknown", "error", err)
		}
		if blind = err != nil; !blind {
			if name, text := n.budget.set(waiting, most); name != "" {
				n.logger.Warn("event log and its max-size", "state", name, "waiting_bytes", waiting, "max_bytes", most, "text", text)
				if err := n.annotate(context.WithoutCancel(ctx), name, text); err != nil {
					n.logger.Error("annotation not written", "error", err)
				}
			}
			if n.budget.scarce.Load() {
				n.pruneAll()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// unshipped returns about how many bytes of the event log the agent has not confirmed. Within a
// segment, which it may be in the midst of, records count as equally long.
func (n *node) unshipped() (int64, error) {
	var total int64
	for stream, log := range n.streams() {
		shipped, err := cursor.Load(n.config.Load().EventLog.Dir, stream)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if shipped.Incarnation != log.Incarnation() {
			shipped.Seq = 0
		}
		segments, last := log.Segments(), log.Last()
		for i, s := range segments {
			end := last
			if i < len(segments)-1 {
				end = segments[i+1].First - 1
			}
			if end <= shipped.Seq || end < s.First {
				continue
			}
			size, err := log.SegmentSize(s.First)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return 0, err
			}
			left := end - max(shipped.Seq, s.First-1)
			total += int64(float64(size) * float64(left) / float64(end-s.First+1))
		}
	}
	return total, nil
}

// streams returns the logs of the event log by the names of their streams.
func (n *node) streams() map[string]*seglog.Log {
	return map[string]*seglog.Log{
		event.StreamEvent: n.events, event.StreamGauge: n.gauges, event.StreamQueueGauge: n.queueGauges, event.StreamAnnotation: n.notes,
	}
}
