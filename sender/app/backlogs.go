package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"carom/schemas/event"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/throttle"
)

// maxLimitText bounds what a queue gauge says of a limit; why a name has no address may be long.
const maxLimitText = 200

// writeQueueGauges writes what waits: a row for each of the largest backlogs, and one for the rest.
func (n *node) writeQueueGauges(ctx context.Context, now time.Time) error {
	gauges := n.queueGaugesAt(now, n.config.Load().EventLog.QueueGauges)
	records := make([][]byte, 0, len(gauges))
	for i := range gauges {
		records = append(records, event.EncodeQueueGauge(nil, &gauges[i]))
	}
	if _, err := n.queueGauges.Append(ctx, records...); err != nil {
		return fmt.Errorf("queue gauges: %w", err)
	}
	return nil
}

// queueGaugesAt returns at most so many rows for the largest backlogs by queue, tenant and job, the
// largest first, and at last the row of the rest, which is there even if nothing waits.
func (n *node) queueGaugesAt(now time.Time, most int) []event.QueueGauge {
	type row struct {
		backlog int // its place in backlogs
		share   queue.Share
	}
	backlogs, rest, queues := n.queues.Backlogs(most)
	var rows []row
	for i := range backlogs {
		for _, share := range backlogs[i].Shares {
			rows = append(rows, row{i, share})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.share.Recipients(), a.share.Recipients()) })
	shown := map[int]*event.QueueGauge{} // what the rows of a queue have in common
	gauges := make([]event.QueueGauge, 0, min(len(rows), most)+1)
	for i, r := range rows {
		if i >= most {
			rest.Add(r.share)
			continue
		}
		common := shown[r.backlog]
		if common == nil {
			common = n.aboutQueue(&backlogs[r.backlog], now)
			shown[r.backlog] = common
		}
		g := *common
		g.Tenant, g.Job = r.share.Labels.Tenant, r.share.Labels.Job
		if (r.share.Paused > 0 || r.share.Held > 0 && r.share.Ready == 0) && !n.showOrder(&g, &backlogs[r.backlog].Status) {
			n.showHold(&g)
		}
		n.countShare(&g, &r.share, now)
		gauges = append(gauges, g)
	}
	var others event.QueueGauge
	others.Queues = uint32(queues + len(backlogs) - len(shown)) //nolint:gosec // a node has no 2^32 queues
	n.countShare(&others, &rest, now)
	return append(gauges, others)
}

// countShare fills in what waits.
func (n *node) countShare(g *event.QueueGauge, s *queue.Share, now time.Time) {
	g.FormatVersion, g.Time, g.ConfigHash = event.FormatVersion, now, n.config.Load().Hash()
	g.Ready, g.Waiting, g.Held, g.Paused = count(s.Ready), count(s.Waiting), count(s.Held), count(s.Paused)
	g.Estimated = s.Estimated
	if s.Oldest != 0 {
		g.OldestAge = uint64(max(0, now.Sub(s.Oldest.Time())) / time.Second) //nolint:gosec // not negative
	}
}

func count(n int) uint64 { return uint64(max(0, n)) } //nolint:gosec // not negative

// aboutQueue says which way the mail of a queue takes, and what is in its way.
func (n *node) aboutQueue(b *queue.Backlog, now time.Time) *event.QueueGauge {
	s := &b.Status
	g := &event.QueueGauge{Queue: s.Name.String(), VMTA: s.Name.VMTA, Queues: 1, Backoff: s.Mode == queue.Backoff}
	taken := n.agent.Paths(b.Queue)
	if len(taken) > 0 {
		g.Provider, g.Source = taken[0].Key.Provider, taken[0].Key.Source
	}
	d := n.inTheWay(s, taken)
	g.LimitScope, g.Limit, g.LimitBy = d.Scope, cut(d.Limit), cut(d.SetBy)
	return g
}

// showOrder says whose order keeps mail of a queue back: the first about all of it, or about this
// tenant and job. It reports whether there is one.
func (n *node) showOrder(g *event.QueueGauge, s *queue.Status) bool {
	for _, o := range n.operator.About(s.Name) {
		f := o.Filter
		if o.Kind == orders.Pause && (f.Job == "" || f.Job == g.Job) && (f.Tenant == "" || f.Tenant == g.Tenant) {
			g.LimitScope, g.Limit, g.LimitBy = "order", cut(fmt.Sprintf("order %d: %s", o.ID, &o.Order)), cut(o.Actor)
			return true
		}
	}
	return false
}

// showHold says which hold of the control loop keeps mail of a queue back.
func (n *node) showHold(g *event.QueueGauge) {
	if v := n.keeper.Holding(g.Provider, g.Tenant, g.Job); v.Held {
		g.LimitScope, g.Limit, g.LimitBy = v.Scope, cut(v.About), cut(v.By)
	}
}

// inTheWay returns the limit that keeps mail of a queue which is due, as the first of these says it: the
// wait that the queue is in, the node's connections, the limits on the way that its last session took.
func (n *node) inTheWay(s *queue.Status, taken []throttle.Path) throttle.Denial {
	switch {
	case s.DeferredWhy == "retry":
		return throttle.Denial{Scope: throttle.ScopeQueue, Limit: "retry-after", SetBy: "receiver"}
	case s.DeferredWhy != "":
		if d, ok := throttle.ParseDenial(s.DeferredWhy); ok {
			return d
		}
		return throttle.Denial{Scope: throttle.ScopeQueue, Limit: s.DeferredWhy}
	case s.WaitsForSlot:
		return throttle.Denial{Scope: throttle.ScopeNode, Limit: "total-max-smtp-out " + strconv.Itoa(n.started.TotalMaxSMTPOut), SetBy: "config"}
	case len(taken) == 0:
		return throttle.Denial{}
	}
	for _, b := range n.throttle.Explain(taken[0]) {
		if b.Binds {
			return throttle.Denial{Scope: b.Scope, Limit: b.Directive + " " + b.InForce, SetBy: b.SetBy}
		}
	}
	return throttle.Denial{}
}

func cut(text string) string {
	if len(text) > maxLimitText {
		return text[:maxLimitText]
	}
	return text
}
