package loop

import (
	"math"
	"slices"
	"strings"
	"time"

	"carom/analytics/control"
	"carom/analytics/leases"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// change is a decision of the loop with its time.
type change struct {
	At     time.Duration
	Reason control.Reason
}

// pickup is how long a lease takes to a node at most: it asks every five seconds.
const pickup = 5 * time.Second

// loopSender is carom: the loop's job every period, leases, and on every node the guard and the
// glide. It sees answers Delay-Period late, as it would through the event log.
type loopSender struct {
	policy control.Policy
	phase  time.Duration // of the job in its period
}

// loopKey is what the loop knows of a key.
type loopKey struct {
	state   control.State
	changes []change
	shares  map[string]leases.Node
	// checked counts the reasons whose evidence adds up again from the buckets.
	checked   int
	leaseOver float64       // largest sum of shares over the limit that they came from
	oldest    time.Duration // largest age of a lease in use
}

func (l *loopSender) start(w *world) {
	l.policy = w.setup.Policy
	l.phase = time.Duration(w.rng.Int64N(int64(w.setup.Period/tick))) * tick
	for _, k := range w.keys {
		k.own = &loopKey{shares: map[string]leases.Node{}}
		l.decide(w, k) // the loop knew the key before the mail came
	}
}

func (l *loopSender) tick(w *world) {
	for _, n := range w.nodes {
		if n.coming != nil && n.comes <= w.now {
			n.glide = &limits.Glide{Lease: *n.coming, Seen: w.now, TTL: limits.DefaultTTL}
			n.guard.Lease(w.now, *n.coming)
			n.grey, n.coming = n.comingGrey, nil
		}
	}
	if w.now%w.setup.Period != l.phase || w.fault("analytics_stop", "clickhouse_stop", "controller_stop") {
		return
	}
	times := 1
	if w.setup.Scheduler {
		switch n := w.now / w.setup.Period; {
		case n%20 == 19:
			return // this run was killed
		case n%10 == 9:
			times = 2
		}
	}
	for range times {
		for _, k := range w.keys {
			l.decide(w, k)
		}
		l.decideScoped(w)
	}
}

func (l *loopSender) decide(w *world, k *key) {
	own, ok := k.own.(*loopKey)
	if !ok {
		return
	}
	windows := l.windows(w, k)
	state, want, reasons := control.Decide(&l.policy, own.state, w.now, &windows)
	own.state = state
	changed := false
	for _, r := range reasons {
		own.changes = append(own.changes, change{w.now, r})
		if recomputes(windows.Buckets, &r, &l.policy) {
			own.checked++
		}
		changed = changed || !r.WouldChange
	}
	if changed {
		k.limits = append(k.limits, point{w.now, want.RatePerSecond})
	}
	if want.Epoch == 0 {
		return // the configuration holds
	}
	l.handOut(w, k, own, want)
}

// windows is what the job reads from ClickHouse.
func (l *loopSender) windows(w *world, k *key) control.Windows {
	count := float64(len(k.nodes))
	windows := control.Windows{
		Static: times(k.nodes[0].static, count), Adaptive: times(k.nodes[0].ceiling, count),
		To: max(0, w.now-w.setup.Delay+w.setup.Period+pickup).Truncate(bucketStep), Delay: w.setup.Delay, Nodes: len(k.nodes),
		Pin: w.setup.pin(w.now), Warmup: w.warmup(k),
	}
	to, _ := slices.BinarySearchFunc(k.buckets, windows.To, func(b control.Bucket, t time.Duration) int { return int(b.Start - t) })
	from, _ := slices.BinarySearchFunc(k.buckets, windows.To-l.policy.WindowMax, func(b control.Bucket, t time.Duration) int { return int(b.Start - t) })
	windows.Buckets = k.buckets[from:to]
	for i := len(windows.Buckets) - 1; i >= 0 && windows.Buckets[i].Start >= windows.To-time.Hour; i-- {
		windows.Hour.Add(windows.Buckets[i].Counts)
	}
	if to > 0 {
		windows.Newest = k.buckets[to-1].Start + bucketStep
	}
	windows.PermanentlyDeferred = slices.ContainsFunc(windows.Buckets, func(b control.Bucket) bool { return strings.Contains(b.Sample, "permanently deferred") })
	for _, n := range k.nodes {
		if n.backlog > 0 {
			windows.Waiting += 1 / count
		}
	}
	return windows
}

// times multiplies what a node may do by the number of nodes.
func times(l limits.Limit, count float64) limits.Limit {
	l.RatePerSecond *= count
	if l.Connections != limits.Unlimited {
		l.Connections = uint32(float64(l.Connections) * count)
	}
	return l
}

// handOut splits the limit over the nodes of the key.
func (l *loopSender) handOut(w *world, k *key, own *loopKey, want control.Limits) {
	nodes := make([]leases.Node, len(k.nodes))
	for i, n := range k.nodes {
		nodes[i] = own.shares[n.name]
		nodes[i].Name, nodes[i].Backlog = n.name, n.backlog
	}
	limit := want.Limit
	if own.state.Connections == 0 && own.state.Pinned.Connections == 0 {
		limit.Connections = limits.Unlimited // the configuration's, on every node
	}
	sum := 0.0
	for i, share := range leases.Split(limit, nodes) {
		n := k.nodes[i]
		lease := limits.Lease{
			Provider: k.id.Provider, Source: k.id.Source, Epoch: want.Epoch, RatePerSecond: share.RatePerSecond,
			Connections: share.Connections, Canary: want.Canary,
		}
		if want.MessagesPerConnection != limits.Unlimited {
			lease.MessagesPerConnection = want.MessagesPerConnection
		}
		n.coming = &lease
		n.comes = w.now + time.Duration(w.rng.Int64N(int64(pickup/tick)))*tick
		n.comingGrey = want.Greylisting
		own.shares[n.name] = leases.Node{HeldRate: min(share.RatePerSecond, limits.UnlimitedRate), HeldConnections: share.Connections}
		sum += share.RatePerSecond
	}
	if !math.IsInf(want.RatePerSecond, 1) {
		own.leaseOver = max(own.leaseOver, sum/want.RatePerSecond)
	}
}

func (l *loopSender) limit(w *world, n *node) limits.Effective {
	var term limits.Term
	if n.glide != nil {
		term = n.glide.At(w.now, n.static)
		if own, ok := n.key.own.(*loopKey); ok && term.Source == limits.FromLease {
			own.oldest = max(own.oldest, w.now-n.glide.Seen)
		}
	}
	return limits.Merge(w.now, n.static, n.ceiling, term, &n.guard)
}

func (l *loopSender) observe(w *world, n *node, dimension taxonomy.Dimension, scope taxonomy.Scope) {
	n.guard.Observe(w.now, dimension, scope)
}

// recomputes reports whether the counts of a reason's evidence add up again from the buckets.
func recomputes(buckets []control.Bucket, r *control.Reason, p *control.Policy) bool {
	var sum control.Counts
	for i := range buckets {
		b := &buckets[i]
		if b.Epoch == r.EpochFrom && b.Start >= r.Evidence.From && b.Start+p.Step <= r.Evidence.To {
			sum.Add(b.Counts)
		}
	}
	if r.Evidence.Greylisting { // first attempts were counted as greylisting: what is compared is the sum
		sum.Other, sum.Greylist = 0, sum.Other+sum.Greylist
		e := r.Evidence.Counts
		e.Other, e.Greylist = 0, e.Other+e.Greylist
		return sum == e
	}
	return sum == r.Evidence.Counts || r.Evidence.From == r.Evidence.To || r.Rule == control.RuleGreylisting || r.Rule == control.RuleGreylistingOver
}

// fault reports whether one of the kinds of faults is in force.
func (w *world) fault(kinds ...string) bool {
	return slices.ContainsFunc(w.scenario.Faults, func(f scenarios.Fault) bool {
		return slices.Contains(kinds, f.Kind) && f.At.D() <= w.now && w.now < (f.At+f.Len).D()
	})
}

// warmup says how the days of a new source went, where the setup warms up.
func (w *world) warmup(k *key) *control.Warmup {
	if !w.setup.Warmup {
		return nil
	}
	day := w.setup.Policy.Warmup.Day
	out := &control.Warmup{Days: make([]control.WarmupDay, int(w.now/day))}
	for i := range k.buckets {
		b := &k.buckets[i]
		if d := int(b.Start / day); d < len(out.Days) {
			out.Days[d].Replies += b.OK + b.User + b.Rate + b.Block + b.Unavailable + b.Other
			out.Days[d].Accepted += b.OK + b.User
			out.Days[d].Refused += b.Rate + b.Block + b.Unavailable
		}
	}
	return out
}
