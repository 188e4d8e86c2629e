package loop

import (
	"time"

	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// refusal reports whether a reply is what the patterns of a usual configuration match.
func refusal(d taxonomy.Dimension) bool {
	switch d {
	case taxonomy.Rate, taxonomy.Block, taxonomy.Unavailable, taxonomy.Other:
		return true
	default:
		return false
	}
}

// static is a node that obeys its configuration and nothing else.
type static struct{}

func (static) start(*world)                                              {}
func (static) tick(*world)                                               {}
func (static) observe(*world, *node, taxonomy.Dimension, taxonomy.Scope) {}
func (static) limit(_ *world, n *node) limits.Effective {
	return limits.Effective{Limit: n.static, Actor: limits.ByConfig}
}

// backoff is PowerMTA's backoff mode: a reply that matches an smtp-pattern-list with mode=backoff
// slows the queue on that node to backoff-max-msg-rate until backoff-to-normal-after.
type backoff struct {
	share float64       // backoff-max-msg-rate as a share of max-msg-rate
	after time.Duration // backoff-to-normal-after
}

// backoffNode is when the backoff mode of a node ends.
type backoffNode struct{ until time.Duration }

func (b backoff) start(w *world) {
	for _, n := range w.nodes {
		n.own = &backoffNode{}
	}
}

func (backoff) tick(*world) {}

func (b backoff) observe(w *world, n *node, d taxonomy.Dimension, _ taxonomy.Scope) {
	if own, ok := n.own.(*backoffNode); ok && w.now >= own.until && (refusal(d) || d == taxonomy.Connections) {
		own.until = w.now + b.after
	}
}

func (b backoff) limit(w *world, n *node) limits.Effective {
	l := n.static
	if own, ok := n.own.(*backoffNode); ok && w.now < own.until {
		l.RatePerSecond = b.share * configured(l)
	}
	return limits.Effective{Limit: l, Actor: limits.ByConfig}
}

// configured is the configured rate, or what stands for one that is not configured.
func configured(l limits.Limit) float64 {
	if l.HasRate() {
		return l.RatePerSecond
	}
	return 50
}

// automation is traffic shaping automation as KumoMTA has it: a rule that matched often enough in
// an hour sets a lower rate, or suspends, for a fixed time over all nodes, and each further match
// renews that time. What it decides reaches the nodes within a minute.
type automation struct {
	threshold int           // matches in an hour before a rule acts
	share     float64       // rate that it sets, as a share of the configured one
	length    time.Duration // for how long
	suspend   time.Duration // what a block or an outage suspends for
}

// automationKey is what the rules of a key have in force.
type automationKey struct {
	matches      []time.Duration // of the last hour
	slowUntil    time.Duration
	suspendUntil time.Duration
	fewUntil     time.Duration // connections
	pulled       [3]time.Duration
}

// pullEvery is how long a node keeps the shaping it fetched.
const pullEvery = time.Minute

func (a automation) start(w *world) {
	for _, k := range w.keys {
		k.own = &automationKey{}
	}
}

func (automation) tick(w *world) {
	if w.now%pullEvery != 0 {
		return
	}
	for _, k := range w.keys {
		if own, ok := k.own.(*automationKey); ok {
			own.pulled = [3]time.Duration{own.slowUntil, own.suspendUntil, own.fewUntil}
		}
	}
}

func (a automation) observe(w *world, n *node, d taxonomy.Dimension, _ taxonomy.Scope) {
	own, ok := n.key.own.(*automationKey)
	if !ok {
		return
	}
	switch d {
	case taxonomy.Connections:
		own.fewUntil = w.now + time.Hour
		return
	case taxonomy.Block, taxonomy.Unavailable:
		own.suspendUntil = w.now + a.suspend
		return
	case taxonomy.Rate, taxonomy.Other:
	default:
		return
	}
	for len(own.matches) > 0 && own.matches[0] < w.now-time.Hour {
		own.matches = own.matches[1:]
	}
	own.matches = append(own.matches, w.now)
	if len(own.matches) > a.threshold {
		own.slowUntil = w.now + a.length
		own.matches = own.matches[len(own.matches)-a.threshold-1:]
	}
}

func (a automation) limit(w *world, n *node) limits.Effective {
	l := n.static
	if own, ok := n.key.own.(*automationKey); ok {
		if w.now < own.pulled[0] {
			l.RatePerSecond = a.share * configured(l)
		}
		if w.now < own.pulled[1] {
			l.RatePerSecond = 0
		}
		if w.now < own.pulled[2] && l.Connections != limits.Unlimited {
			l.Connections = max(1, l.Connections/2)
		}
	}
	return limits.Effective{Limit: l, Actor: limits.ByConfig}
}

// aimd is additive increase and multiplicative decrease, on each node at once, up to the adaptive
// ceiling.
type aimd struct {
	perMinute float64 // increase, as a share of the configured rate
	factor    float64 // of a decrease
	every     time.Duration
}

// aimdNode is the rate of a node.
type aimdNode struct {
	rate float64
	last time.Duration // decrease
}

func (a aimd) start(w *world) {
	for _, n := range w.nodes {
		n.own = &aimdNode{rate: configured(n.static), last: -a.every}
	}
}

func (a aimd) tick(w *world) {
	for _, n := range w.nodes {
		if own, ok := n.own.(*aimdNode); ok && n.tokens < 1 { // an unused rate is not raised
			top := limits.Ceiling(n.static, n.ceiling).RatePerSecond
			own.rate = min(top, own.rate+a.perMinute*configured(n.static)*tick.Minutes())
		}
	}
}

func (a aimd) observe(w *world, n *node, d taxonomy.Dimension, _ taxonomy.Scope) {
	own, ok := n.own.(*aimdNode)
	if !ok || !refusal(d) || w.now-own.last < a.every {
		return
	}
	own.last = w.now
	own.rate = max(configured(n.static)/100, own.rate*a.factor)
}

func (a aimd) limit(_ *world, n *node) limits.Effective {
	l := n.static
	if own, ok := n.own.(*aimdNode); ok {
		l.RatePerSecond = own.rate
	}
	return limits.Effective{Limit: l, Actor: limits.ByConfig}
}
