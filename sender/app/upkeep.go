package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/admin"
	"carom/sender/queue"
	"carom/sender/throttle"
)

// pruneInterval is how often shipped segments of the event log are removed.
const pruneInterval = 30 * time.Second

// gauge writes the gauge and queue_gauge streams until ctx is done.
func (n *node) gauge(ctx context.Context) error {
	ticker := clock.NewTicker(event.GaugeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := clock.Now().UTC()
		if err := n.writeGauges(context.WithoutCancel(ctx), now); err != nil {
			return err
		}
		if err := n.writeQueueGauges(context.WithoutCancel(ctx), now); err != nil {
			return err
		}
	}
}

func (n *node) writeGauges(ctx context.Context, now time.Time) error {
	warmup, established := n.sourceDates()
	gauges := n.throttle.Gauges(func(name string, source netip.Addr) throttle.Waiting {
		domain, vmta, _ := strings.Cut(name, "/")
		of := queue.Name{Domain: domain, VMTA: vmta}
		return throttle.Waiting{Recipients: n.queues.Recipients(of), Disabled: n.agent.Disabled(of, source, now)}
	})
	records := make([][]byte, 0, len(gauges))
	for _, g := range gauges {
		g.FormatVersion, g.Time, g.ConfigHash = event.FormatVersion, now, n.config.Load().Hash()
		g.WarmupStart, g.Established = warmup[g.Source], established[g.Source]
		g.Limit, g.LimitBy = cut(g.Limit), cut(g.LimitBy)
		records = append(records, event.EncodeGauge(nil, &g))
	}
	if len(records) == 0 {
		return nil
	}
	if _, err := n.gauges.Append(ctx, records...); err != nil {
		return fmt.Errorf("gauges: %w", err)
	}
	return nil
}

// sourceDates returns warmup-start and established-since by source, as the virtual MTAs give them.
func (n *node) sourceDates() (warmup, established map[string]time.Time) {
	warmup, established = map[string]time.Time{}, map[string]time.Time{}
	for _, vmta := range n.config.Load().VMTAs() {
		for _, host := range vmta.SourceHosts {
			addr, single := host.Addr()
			if !single {
				continue
			}
			if vmta.SourcePublicIP.IsValid() {
				addr = vmta.SourcePublicIP
			}
			key := event.SourceKey(addr)
			warmup[key], established[key] = vmta.WarmupStart, vmta.EstablishedSince
		}
	}
	return warmup, established
}

// prune removes segments that the agent has shipped, and of events those that the spool does not
// need any more, until ctx is done.
func (n *node) prune(ctx context.Context) error {
	ticker := time.NewTicker(pruneInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		n.pruneAll()
	}
}

func (n *node) pruneAll() {
	n.pruneStream(event.StreamEvent, n.events, n.neededByFollowers(n.spool.DurableEvent()))
	n.pruneStream(event.StreamGauge, n.gauges, n.gauges.Last())
	n.pruneStream(event.StreamQueueGauge, n.queueGauges, n.queueGauges.Last())
	n.pruneStream(event.StreamAnnotation, n.notes, n.notes.Last())
}

func (n *node) pruneStream(stream string, log *seglog.Log, needed uint64) {
	shipped, err := cursor.Load(n.config.Load().EventLog.Dir, stream)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // nothing is shipped yet
	case err != nil:
		n.logger.Error("event log not pruned", "stream", stream, "error", err)
		return
	case shipped.Incarnation != log.Incarnation():
		return
	}
	if _, err := log.RemoveBefore(min(shipped.Seq, needed) + 1); err != nil {
		n.logger.Error("event log not pruned", "stream", stream, "error", err)
	}
}

var _ admin.Node = (*node)(nil)

// Status is part of admin.Node.
func (n *node) Status() admin.Status {
	s := admin.Status{
		Node: n.config.Load().HostName(), EventSeq: n.events.Last(), GaugeSeq: n.gauges.Last(), QueueGaugeSeq: n.queueGauges.Last(), AnnotationSeq: n.notes.Last(),
		AcceptedRecipients: n.accepted.Load(), ConfigHash: n.config.Load().HashText(),
	}
	for _, q := range n.queues.Statuses() {
		s.QueuedRecipients += q.Recipients
		s.Sessions += q.Sessions
	}
	stats := n.spool.Stats()
	s.LiveRecipients = stats.Recipients
	s.UnshippedBytes, s.EventLogFull = n.budget.waiting.Load(), n.budget.full.Load()
	return s
}
