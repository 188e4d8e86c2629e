package throttle

import (
	"math"
	"net/netip"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// gaugeChunk is how many keys are looked at before others get the throttle.
const gaugeChunk = 256

// Waiting says what a queue holds for the gauge of its key.
type Waiting struct {
	Recipients int  // that wait
	Disabled   bool // the queue must not use the source address
}

// Gauges returns the state of every key since the last call, and forgets what is idle. What a key's
// queues hold is for the caller to say: waiting is asked for each queue with the local address of the key's
// connections, and must not call the throttle.
func (t *Throttle) Gauges(waiting func(queue string, source netip.Addr) Waiting) []event.Gauge {
	gauges, binding := t.gauges(waiting)
	for i := range gauges {
		if b := &binding[i]; b.scope != "" { // not under the lock: see bound.denial
			d := b.denial(0)
			gauges[i].LimitScope, gauges[i].Limit, gauges[i].LimitBy = d.Scope, d.Limit, d.SetBy
		}
	}
	return gauges
}

// gauges is Gauges, with what binds beside each gauge.
func (t *Throttle) gauges(waiting func(queue string, source netip.Addr) Waiting) (gauges []event.Gauge, binding []bound) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetQueues(t.now())
	keys := make([]limits.Key, 0, len(t.keys))
	for key := range t.keys {
		keys = append(keys, key)
	}
	for i, key := range keys {
		if i%gaugeChunk == gaugeChunk-1 {
			t.mu.Unlock()
			t.mu.Lock()
		}
		if k := t.keys[key]; k != nil && !t.forgetKey(t.now(), key, k) {
			gauges = append(gauges, t.gauge(t.now(), key, k, waiting))
			binding = append(binding, k.binds)
		}
	}
	return gauges, binding
}

func (t *Throttle) gauge(now time.Duration, key limits.Key, k *keyState, waiting func(queue string, source netip.Addr) Waiting) event.Gauge {
	if k.waiting > 0 {
		k.bound += now - max(k.since, k.gauged)
		k.since = now
	}
	for queue := range k.queues {
		if t.queues[queue] == nil {
			delete(k.queues, queue)
			k.stale = true
		}
	}
	effective := t.effective(now, key, k)
	static, adaptive := k.static, k.adaptive
	for _, q := range k.queues {
		if q.Normal != nil {
			static, adaptive = limits.Ceiling(static, q.Normal.static()), limits.Ceiling(adaptive, q.Normal.adaptive())
		}
	}
	g := event.Gauge{
		Provider: key.Provider, Source: key.Source,
		OpenConnections: k.connections, ThrottleBound: share(k.bound, now-k.gauged), LocalFactor: float32(k.guard.Factor(now)),
		LeaseEpoch: effective.Epoch, EffectiveRate: finite(effective.RatePerSecond), StaticUnknown: len(k.queues) == 0,
	}
	if !g.StaticUnknown {
		g.StaticRate, g.StaticConnections, g.StaticMessages = finite(static.RatePerSecond), count(static.Connections), count(static.MessagesPerConnection)
		g.AdaptiveRate, g.AdaptiveConnections, g.AdaptiveMessages = adaptive.RatePerSecond, adaptive.Connections, adaptive.MessagesPerConnection
	}
	if glide, ok := t.leases[key]; ok {
		g.LeaseRate = glide.Lease.RatePerSecond
	}
	usable := false
	for queue, configured := range k.queues {
		w := waiting(queue, k.source)
		g.BackoffByConfig = g.BackoffByConfig || configured.BackoffByConfig
		g.Backlog += uint64(max(0, w.Recipients)) //nolint:gosec // not negative
		g.SourceDisabled = g.SourceDisabled || w.Disabled && w.Recipients > 0
		usable = usable || !w.Disabled && w.Recipients > 0
	}
	g.SourceDisabled = g.SourceDisabled && !usable
	if !k.heldBack && (k.passed || g.Backlog == 0) {
		k.binds = bound{} // else what waits for longer than ten seconds still waits for it
	}
	k.heldBack, k.passed, k.longest = false, false, 0
	k.bound, k.gauged, k.backlog = 0, now, int(g.Backlog) //nolint:gosec // a node holds fewer
	return g
}

func share(part, whole time.Duration) float32 {
	if whole <= 0 {
		return 0
	}
	return float32(min(1, part.Seconds()/whole.Seconds()))
}

// finite writes a rate as the gauge does: an unlimited one as 0, one of 0 as almost none.
func finite(rate float64) float64 {
	if math.IsInf(rate, 1) {
		return 0
	}
	return max(rate, leastRate)
}

// count writes an unlimited number as the gauge does, as 0.
func count(n uint32) uint32 {
	if n == limits.Unlimited {
		return 0
	}
	return n
}
