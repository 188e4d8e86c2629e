package throttle

import (
	"math"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// gaugeChunk is how many keys are looked at before others get the throttle.
const gaugeChunk = 256

// Gauges returns the state of every key since the last call, and forgets what is idle. What a key's
// queues hold is for the caller to say: backlog is asked for each queue, and must not call the
// throttle.
func (t *Throttle) Gauges(backlog func(queue string) int) []event.Gauge {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetQueues(t.now())
	keys := make([]limits.Key, 0, len(t.keys))
	for key := range t.keys {
		keys = append(keys, key)
	}
	gauges := make([]event.Gauge, 0, len(keys))
	for i, key := range keys {
		if i%gaugeChunk == gaugeChunk-1 {
			t.mu.Unlock()
			t.mu.Lock()
		}
		if k := t.keys[key]; k != nil && !t.forgetKey(t.now(), key, k) {
			gauges = append(gauges, t.gauge(t.now(), key, k, backlog))
		}
	}
	return gauges
}

func (t *Throttle) gauge(now time.Duration, key limits.Key, k *keyState, backlog func(queue string) int) event.Gauge {
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
		StaticRate: finite(static.RatePerSecond), StaticConnections: count(static.Connections), StaticMessages: count(static.MessagesPerConnection),
		AdaptiveRate: adaptive.RatePerSecond, AdaptiveConnections: adaptive.Connections, AdaptiveMessages: adaptive.MessagesPerConnection,
		LeaseEpoch: effective.Epoch, EffectiveRate: finite(effective.RatePerSecond),
	}
	if glide, ok := t.leases[key]; ok {
		g.LeaseRate = glide.Lease.RatePerSecond
		if len(k.queues) == 0 { // since the start nothing was sent here: what is configured is not known yet, and is not unlimited
			static := glide.Lease.Limit()
			g.StaticRate, g.StaticConnections, g.StaticMessages = finite(static.RatePerSecond), count(static.Connections), count(static.MessagesPerConnection)
		}
	}
	for queue, configured := range k.queues {
		g.BackoffByConfig = g.BackoffByConfig || configured.BackoffByConfig
		g.Backlog += uint64(max(0, backlog(queue))) //nolint:gosec // not negative
	}
	k.bound, k.gauged = 0, now
	return g
}

func share(part, whole time.Duration) float32 {
	if whole <= 0 {
		return 0
	}
	return float32(min(1, part.Seconds()/whole.Seconds()))
}

// finite writes an unlimited rate as the gauge does, as 0.
func finite(rate float64) float64 {
	if math.IsInf(rate, 1) {
		return 0
	}
	return rate
}

// count writes an unlimited number as the gauge does, as 0.
func count(n uint32) uint32 {
	if n == limits.Unlimited {
		return 0
	}
	return n
}
