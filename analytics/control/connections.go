package control

import (
	"fmt"
	"math"
	"strconv"

	"carom/schemas/limits"
)

// decideConnections answers refused connections, and raises the number where it is what binds
// (design/control.md 4.4).
func (d *decision) decideConnections() {
	if d.Pinned.Connections > 0 {
		return
	}
	p := &d.p.Connections
	old := d.before.InForce(d.w.Static).Connections
	e := d.last(p.Window)
	refused := e.Counts.Connections
	if refused >= p.MinRefusals && float64(refused) > p.Share*float64(e.Counts.all()) {
		d.fewerConnections(old, e)
		return
	}
	rate := d.rate()
	switch {
	case old >= d.ceiling.Connections || d.now < d.ConnectionsUntil || d.stale() || d.badList():
		return
	case e.duration() < p.CleanTime || refused > 0 || !d.clean(&e) || e.Replies < d.p.Increase.MinReplies:
		return
	case d.w.Waiting <= p.Waiting || e.AttemptRate >= d.p.Increase.Binding*rate:
		return
	case float64(e.MaxOpen)*float64(d.w.Nodes) < p.Open*float64(old):
		return
	}
	d.ConnectionsGood = old
	d.ConnectionsStep = min(p.Steps, max(1, 2*d.ConnectionsStep))
	d.Connections = min(old+d.ConnectionsStep, d.ceiling.Connections)
	d.because(RuleConnectionsUp, fmt.Sprintf("All %s connections were in use, mail waited and none was refused in %s. Connections %s -> %s.",
		count(old), e.duration(), count(old), count(d.Connections)), e)
}

// fewerConnections goes back to the number before our own raise, or to what was open when
// connections were refused.
func (d *decision) fewerConnections(old uint32, e Evidence) {
	p := &d.p.Connections
	next := uint64(d.ConnectionsGood)
	wait := min(p.WaitMax, max(p.Wait, stretch(d.ConnectionsWait, p.WaitGrowth)))
	probed := next > 0
	if !probed {
		next, wait = uint64(d.refusedAt())*uint64(max(1, d.w.Nodes)), p.WaitDrop //nolint:gosec // not negative
		if next == 0 {
			next = math.MaxUint32
		}
	}
	next = max(1, min(next, uint64(max(1, old)-1)))
	if next >= uint64(old) || next >= limits.Unlimited-1 {
		return
	}
	d.Connections = uint32(next) //nolint:gosec // under old
	d.ConnectionsGood, d.ConnectionsStep, d.ConnectionsUntil = 0, 0, d.now+wait
	if probed {
		d.ConnectionsWait = wait
	}
	d.because(RuleConnectionsDown, fmt.Sprintf("%d connections were refused in %s. Connections %s -> %s.",
		e.Counts.Connections, e.duration(), count(old), count(d.Connections)), e)
}

// refusedAt returns the most connections that one node had open while connections were refused.
func (d *decision) refusedAt() uint32 {
	var open uint32
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		inside := b.Epoch == d.before.Epoch && b.Start >= d.w.end()-d.p.Connections.Window && b.Start+d.p.Step <= d.w.end()
		if inside && b.Connections > 0 {
			open = max(open, b.MaxOpen)
		}
	}
	return open
}

// decideMessages takes the receiver's own number of messages per connection, and tries more after
// hours (design/control.md 4.4).
func (d *decision) decideMessages() {
	if d.Pinned.MessagesPerConnection > 0 {
		return
	}
	p := &d.p.Messages
	old := d.before.InForce(d.w.Static).MessagesPerConnection
	e := d.whole(d.rate())
	if e.Counts.Messages > 0 && e.MinMessages != NoMessages {
		// The number counts from 1 and is that of the message that was refused.
		next := max(1, e.MinMessages-1)
		if next >= old {
			return
		}
		d.MessagesPerConnection, d.MessagesUntil = next, d.now+p.Hold
		d.because(RuleMessagesDown, fmt.Sprintf("The receiver refused message %d on a connection. Messages per connection %s -> %s.",
			e.MinMessages, count(old), count(next)), e)
		return
	}
	next := min(2*uint64(old), uint64(p.Max), uint64(d.ceiling.MessagesPerConnection))
	switch {
	case d.before.MessagesPerConnection == 0 || next <= uint64(old) || d.now < d.MessagesUntil || d.stale() || d.badList():
		return
	case e.duration() < d.p.Increase.MinTime || e.Replies < d.p.Increase.MinReplies || !d.clean(&e):
		return
	}
	d.MessagesPerConnection, d.MessagesUntil = uint32(next), d.now+p.Interval //nolint:gosec // under Max
	d.because(RuleMessagesUp, fmt.Sprintf("No connection was refused another message since the limit was learned. Messages per connection %s -> %s.",
		count(old), count(d.MessagesPerConnection)), e)
}

func count(n uint32) string {
	if n == limits.Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(uint64(n), 10)
}
