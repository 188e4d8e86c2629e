// Package throttle says when a message may leave and when a connection may be opened.
//
// Four kinds of limits stand above each other and the smallest wins: the node's, the virtual
// MTA's, the queue's (all three from the configuration) and the key's, which is the lease of the
// control loop, its glide after it expired, and the local guard. A key is (provider, source), as
// receivers see the sender; queues of several domains may share one.
//
// A Throttle is safe for concurrent use. It writes nothing to disk and knows no queue: callers
// name what they send by a Path. Rates are token buckets that hold a tenth of a second of a
// configured rate and two seconds of a lease (at least 1 message, at most 20).
package throttle

import (
	"context"
	"math"
	"sync"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// The scopes that events name as the limit that held an attempt back longest; at the key it is
// the actor's name instead.
const (
	scopeVMTA  = "vmta"
	scopeQueue = "queue"
	scopeKey   = "key"
)

// VMTALimits are the limits of one virtual MTA on this node; 0 is unlimited.
type VMTALimits struct {
	RatePerSecond float64
	Connections   int
}

// QueueLimits are the configured limits of one queue; 0 is unlimited. Adaptive values are how far
// the loop may go above them, 0 for not at all.
type QueueLimits struct {
	RatePerSecond                 float64
	Connections                   uint32
	MessagesPerConnection         uint32
	AdaptiveRatePerSecond         float64
	AdaptiveConnections           uint32
	AdaptiveMessagesPerConnection uint32
}

func (q QueueLimits) static() limits.Limit {
	return limits.Static(q.RatePerSecond, q.Connections, q.MessagesPerConnection)
}

func (q QueueLimits) adaptive() limits.Limit {
	return limits.Limit{
		RatePerSecond: q.AdaptiveRatePerSecond, Connections: q.AdaptiveConnections,
		MessagesPerConnection: q.AdaptiveMessagesPerConnection,
	}
}

// Path says whose limits an attempt is under.
type Path struct {
	Queue       string
	QueueLimits QueueLimits
	VMTA        string
	VMTALimits  VMTALimits
	Key         limits.Key
}

// Permit says under which limit a message leaves; events carry it.
type Permit struct {
	Epoch         uint64
	Actor         limits.Actor
	ReasonID      string
	LimitingScope string // which limit held the message back longest; "" if none did
	Canary        bool
}

// Throttle holds the limits of a node.
type Throttle struct {
	maxConnections int
	start          time.Time

	mu          sync.Mutex
	connections int
	vmtas       map[string]*vmtaState
	queues      map[string]*bucket
	open        map[string]uint32 // connections by queue
	keys        map[limits.Key]*keyState
	leases      map[limits.Key]limits.Glide
	changed     chan struct{} // closed when leases change
}

type vmtaState struct {
	bucket
	connections int
}

type keyState struct {
	bucket
	guard       limits.Guard
	queues      map[string]QueueLimits
	static      limits.Limit // the largest of the queues'
	adaptive    limits.Limit
	connections uint32

	used    time.Duration // when a session last asked
	waiting int           // messages that wait for a rate
	since   time.Duration // when waiting became positive
	bound   time.Duration // time with waiting > 0 since the last gauge
	gauged  time.Duration
}

// New returns a throttle for a node with at most maxConnections outbound connections
// (total-max-smtp-out), 0 for unlimited.
func New(maxConnections int) *Throttle {
	return &Throttle{
		maxConnections: maxConnections, start: time.Now(),
		vmtas: map[string]*vmtaState{}, queues: map[string]*bucket{}, open: map[string]uint32{}, keys: map[limits.Key]*keyState{},
		leases: map[limits.Key]limits.Glide{}, changed: make(chan struct{}),
	}
}

func (t *Throttle) now() time.Duration { return time.Since(t.start) }

// Apply puts a limits document in force. Documents come in order of their generation: the feed
// sees to that. The age of a lease counts from the call.
func (t *Throttle) Apply(d *limits.Document) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	before := t.leases
	t.leases = make(map[limits.Key]limits.Glide, len(d.Leases))
	for _, lease := range d.Leases {
		key := lease.Key()
		t.leases[key] = limits.Glide{Lease: lease, Seen: now, TTL: d.TTL()}
		k := t.key(key)
		if _, had := before[key]; !had {
			k.bucket = bucket{updated: now} // a new lease starts empty, or each one would send a message for free
		}
		k.guard.Lease(now, lease)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// key returns the state of a key, new if need be. The caller holds t.mu.
func (t *Throttle) key(key limits.Key) *keyState {
	k := t.keys[key]
	if k == nil {
		k = &keyState{queues: map[string]QueueLimits{}, static: limits.None()}
		t.keys[key] = k
	}
	return k
}

// addQueue notes that the queue sends under the key. The caller holds the throttle's mutex.
func (k *keyState) addQueue(name string, q QueueLimits) {
	old, known := k.queues[name]
	if known && old == q {
		return
	}
	k.queues[name] = q
	if known || len(k.queues) == 1 {
		k.static, k.adaptive = limits.Limit{}, limits.Limit{}
		for _, q := range k.queues {
			k.raise(q)
		}
		return
	}
	k.raise(q) // a provider may have queues of a hundred thousand domains
}

func (k *keyState) raise(q QueueLimits) {
	k.static = limits.Ceiling(k.static, q.static())
	k.adaptive = limits.Ceiling(k.adaptive, q.adaptive())
}

// effective returns the limit that binds the key now. The caller holds t.mu.
func (t *Throttle) effective(now time.Duration, key limits.Key, k *keyState) limits.Effective {
	var term limits.Term
	if glide, ok := t.leases[key]; ok {
		term = glide.At(now, k.static)
	}
	return limits.Merge(now, k.static, k.adaptive, term, &k.guard)
}

// Connect takes a connection for path and reports whether there was one: of the node's, of the
// virtual MTA's, of the queue's and of the key's. The caller gives it back with Disconnect.
func (t *Throttle) Connect(p Path) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, k := t.vmta(p.VMTA), t.key(p.Key)
	k.addQueue(p.Queue, p.QueueLimits)
	k.used = t.now()
	if t.maxConnections > 0 && t.connections >= t.maxConnections ||
		p.VMTALimits.Connections > 0 && v.connections >= p.VMTALimits.Connections ||
		t.queueIsFull(p, k) || k.connections >= t.keyConnections(p.Key, k) {
		return false
	}
	t.connections++
	t.open[p.Queue]++
	v.connections++
	k.connections++
	return true
}

// queueIsFull reports whether the queue has the connections that its configuration gives it, which
// are more while the key has a lease. The caller holds t.mu.
func (t *Throttle) queueIsFull(p Path, k *keyState) bool {
	most := p.QueueLimits.Connections
	if most > 0 && t.effective(t.now(), p.Key, k).Epoch != 0 {
		most = max(most, p.QueueLimits.AdaptiveConnections)
	}
	return most > 0 && t.open[p.Queue] >= most
}

// keyConnections returns how many connections the key may have. Without a lease there is no limit
// but those of its queues. The caller holds t.mu.
func (t *Throttle) keyConnections(key limits.Key, k *keyState) uint32 {
	effective := t.effective(t.now(), key, k)
	if effective.Epoch == 0 {
		return limits.Unlimited
	}
	return effective.Connections
}

// Disconnect gives back what Connect took.
func (t *Throttle) Disconnect(p Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connections--
	if t.open[p.Queue]--; t.open[p.Queue] == 0 {
		delete(t.open, p.Queue)
	}
	t.vmta(p.VMTA).connections--
	t.key(p.Key).connections--
}

func (t *Throttle) vmta(name string) *vmtaState {
	v := t.vmtas[name]
	if v == nil {
		v = &vmtaState{}
		t.vmtas[name] = v
	}
	return v
}

// Surplus reports whether the key has more connections than its limit allows now: the connection
// that asks should be the one to close.
func (t *Throttle) Surplus(p Path) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.key(p.Key)
	return k.connections > t.keyConnections(p.Key, k)
}

// Connections returns the number of open connections of the key.
func (t *Throttle) Connections(key limits.Key) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.key(key).connections
}

// MessagesPerConnection returns how many messages a connection of path may carry now.
func (t *Throttle) MessagesPerConnection(p Path) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := p.QueueLimits.static().MessagesPerConnection
	effective := t.effective(t.now(), p.Key, t.key(p.Key))
	if effective.Epoch == 0 {
		return own
	}
	return min(effective.MessagesPerConnection, max(own, p.QueueLimits.AdaptiveMessagesPerConnection))
}

// Acquire waits until a message with the given number of recipients may be attempted on path, and
// takes it off every limit at once. A message of many recipients goes when there is room for one of
// them, or single ones would overtake it for ever; those behind it wait for the rest. Acquire
// returns early only with the error of ctx.
func (t *Throttle) Acquire(ctx context.Context, p Path, recipients int) (Permit, error) {
	var waited map[string]time.Duration
	for {
		permit, wait, scope, changed := t.try(p, float64(recipients))
		if wait == 0 {
			permit.LimitingScope = longest(waited)
			return permit, nil
		}
		if waited == nil {
			waited = map[string]time.Duration{}
		}
		since := t.now()
		if err := t.wait(ctx, p.Key, wait, changed); err != nil {
			return Permit{}, err
		}
		waited[scope] += t.now() - since
	}
}

// wait waits for the time, for a change of leases or for the end of ctx, and counts the key as
// held back meanwhile.
func (t *Throttle) wait(ctx context.Context, key limits.Key, d time.Duration, changed <-chan struct{}) error {
	t.hold(key, +1)
	defer t.hold(key, -1)
	timer := time.NewTimer(min(d, time.Second)) // the guard may have moved meanwhile
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Throttle) hold(key limits.Key, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, now := t.key(key), t.now()
	if k.waiting > 0 {
		k.bound += now - max(k.since, k.gauged)
	}
	k.waiting += n
	k.since = now
}

// try takes the message off all limits, or says how long the slowest of them wants to wait.
func (t *Throttle) try(p Path, n float64) (permit Permit, wait time.Duration, scope string, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	k := t.key(p.Key)
	k.used = now
	effective := t.effective(now, p.Key, k)
	permit = Permit{Epoch: effective.Epoch, Actor: effective.Actor, ReasonID: effective.ReasonID, Canary: effective.Canary}

	own := p.QueueLimits.RatePerSecond
	if effective.Epoch != 0 && own > 0 {
		own = max(own, p.QueueLimits.AdaptiveRatePerSecond)
	}
	q := t.queues[p.Queue]
	if q == nil {
		q = &bucket{}
		if own > 0 {
			t.queues[p.Queue] = q
		}
	}
	v := t.vmta(p.VMTA)

	q.set(now, own, staticDepth)
	v.set(now, p.VMTALimits.RatePerSecond, staticDepth)
	rate := 0.0 // a configured rate is each queue's own: the key binds only under a lease, a glide or the guard
	if effective.Actor != limits.ByConfig && effective.HasRate() {
		rate = max(effective.RatePerSecond, 1e-9) // 0 would be unlimited
	}
	k.set(now, rate, leaseDepth)

	for _, b := range []struct {
		*bucket
		scope string
	}{{q, scopeQueue}, {&v.bucket, scopeVMTA}, {&k.bucket, scopeKey}} {
		if w := b.delay(); w > wait {
			wait, scope = w, b.scope
		}
	}
	if wait > 0 {
		if scope == scopeKey {
			scope = string(effective.Actor)
		}
		return permit, wait, scope, t.changed
	}
	q.take(n)
	v.take(n)
	k.take(n)
	return permit, 0, "", nil
}

// Refund gives back what Acquire took for recipients that were not attempted.
func (t *Throttle) Refund(p Path, recipients int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := float64(recipients)
	if q := t.queues[p.Queue]; q != nil {
		q.give(n)
	}
	t.vmta(p.VMTA).give(n)
	t.key(p.Key).give(n)
}

func longest(waited map[string]time.Duration) string {
	var scope string
	var most time.Duration
	for s, d := range waited {
		if d > most || d == most && s < scope {
			scope, most = s, d
		}
	}
	return scope
}

// Observe tells the local guard of the key what a receiver answered.
func (t *Throttle) Observe(key limits.Key, dimension taxonomy.Dimension, scope taxonomy.Scope) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.key(key).guard.Observe(t.now(), dimension, scope)
}

// Gauges returns the state of every key since the last call. What a key's queues hold is for the
// caller to say: backlog is asked for each queue.
func (t *Throttle) Gauges(backlog func(queue string) int) []event.Gauge {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	gauges := make([]event.Gauge, 0, len(t.keys))
	t.forget(now)
	for key, k := range t.keys {
		if k.waiting > 0 {
			k.bound += now - max(k.since, k.gauged)
			k.since = now
		}
		effective := t.effective(now, key, k)
		g := event.Gauge{
			Provider: key.Provider, Source: key.Source,
			OpenConnections: k.connections, ThrottleBound: share(k.bound, now-k.gauged), LocalFactor: float32(k.guard.Factor(now)),
			StaticRate: finite(k.static.RatePerSecond), StaticConnections: count(k.static.Connections), StaticMessages: count(k.static.MessagesPerConnection),
			AdaptiveRate: k.adaptive.RatePerSecond, AdaptiveConnections: k.adaptive.Connections, AdaptiveMessages: k.adaptive.MessagesPerConnection,
			LeaseEpoch: effective.Epoch, EffectiveRate: finite(effective.RatePerSecond),
		}
		if glide, ok := t.leases[key]; ok {
			g.LeaseRate = glide.Lease.RatePerSecond
		}
		for queue := range k.queues {
			g.Backlog += uint64(max(0, backlog(queue))) //nolint:gosec // not negative
		}
		k.bound, k.gauged = 0, now
		gauges = append(gauges, g)
	}
	return gauges
}

// idleTime is how long a key or a queue is remembered that nobody sends to.
const idleTime = 10 * time.Minute

// forget drops what is idle and would come back the same: keys that are under no lease and that
// the guard leaves alone, buckets that are full. The caller holds t.mu.
func (t *Throttle) forget(now time.Duration) {
	for name, b := range t.queues {
		if now-b.updated > idleTime && b.full(now) {
			delete(t.queues, name)
		}
	}
	for key, k := range t.keys {
		_, leased := t.leases[key]
		if now-k.used > idleTime && k.connections == 0 && k.waiting == 0 && !leased && k.guard.Factor(now) == 1 {
			delete(t.keys, key)
		}
	}
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
