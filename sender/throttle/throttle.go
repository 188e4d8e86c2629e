// Package throttle says when a message may leave and when a connection may be opened.
//
// Limits stand above each other and the smallest wins: the node's, the virtual MTA's and its
// pools', the queue's, the queue's at one local address, those of the receiving host and address
// (all from the configuration), and the key's, which is the lease of the control loop, its glide
// after it expired, and the local guard. A key is (provider, source), as receivers see the sender;
// queues of several domains may share one.
//
// A configured rate holds in every window of its length; see pace. Bytes are counted when a message
// was taken, so a data rate may be exceeded by what is on the way at that moment. The key has a
// token bucket of two seconds of its rate, at least 1 message and at most 20.
//
// A Throttle is safe for concurrent use. It writes nothing to disk and knows no queue: callers
// name what they send by a Path. Messages that wait at the same limit leave in the order in which
// they came, and only the first of them has a timer. What is idle is forgotten.
package throttle

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// Throttle holds the limits of a node.
type Throttle struct {
	maxConnections int
	start          time.Time
	hostLimits     []PeerLimit
	addrLimits     []PeerLimit
	canaries       atomic.Pointer[map[limits.Key]string] // tenants of suspended keys; nil for none

	mu          sync.Mutex
	connections int
	vmtas       map[string]*groupState
	pools       map[string]*groupState
	queues      map[string]*queueState
	recent      queueList
	keys        map[limits.Key]*keyState
	leases      map[limits.Key]limits.Glide
	document    *limits.Document   // in force; nil before the first
	seen        time.Duration      // when it came, less its age
	hosts       map[hostSource]int // connections to hosts with a limit
	addrs       map[netip.Addr]int // connections to addresses with a limit
	changed     chan struct{}      // closed when leases change
}

// meter is a rate with those who wait for it.
type meter struct {
	line
	pace
}

// groupState is a virtual MTA or a pool.
type groupState struct {
	messages, data meter
	connections    int
}

// queueState is a queue that was used lately. What the configuration does not limit is nil.
type queueState struct {
	name           string
	messages, data *meter
	connects       *pace
	open           uint32        // connections
	opened         time.Duration // when the last one was opened
	sources        []*sourceState

	used         time.Duration
	older, newer *queueState
}

// sourceState is a local address of a queue with source-ip limits.
type sourceState struct {
	addr           netip.Addr
	messages, data *meter
	connects       *pace
	open           uint32
}

type keyState struct {
	bucket
	line
	guard       limits.Guard
	queues      map[string]*QueueLimits
	static      limits.Limit // the largest of the queues'
	adaptive    limits.Limit
	stale       bool          // static and adaptive may be too large
	warming     bool          // the source is being warmed up
	born        time.Duration // when a session asked first
	summed      time.Duration // when they were worked out last
	connections uint32
	refusal     refusal

	used    time.Duration // when a session last asked
	waiting int           // messages that wait for a rate
	since   time.Duration // when waiting became positive
	bound   time.Duration // time with waiting > 0 since the last gauge
	gauged  time.Duration
	backlog int // recipients that waited then

	source   netip.Addr    // local address of the path that was taken last
	binds    bound         // what held mail back longest since gauged; kept while the rest still waits for it
	longest  time.Duration // how long
	heldBack bool          // binds is of this time
	passed   bool          // a message left since gauged
}

// keeps notes that a limit holds mail of the key back.
func (k *keyState) keeps(b *bound, wait time.Duration) {
	if k.heldBack && wait <= k.longest {
		return
	}
	k.binds, k.longest, k.heldBack = *b, wait, true
}

// refusal is the last reply that the guard held against a key.
type refusal struct {
	at        time.Duration
	dimension taxonomy.Dimension
}

// New returns a throttle for a node with at most maxConnections outbound connections
// (total-max-smtp-out), 0 for unlimited.
func New(maxConnections int) *Throttle {
	return &Throttle{
		maxConnections: maxConnections, start: clock.Now(),
		vmtas: map[string]*groupState{}, pools: map[string]*groupState{}, queues: map[string]*queueState{},
		keys: map[limits.Key]*keyState{}, leases: map[limits.Key]limits.Glide{},
		hosts: map[hostSource]int{}, addrs: map[netip.Addr]int{}, changed: make(chan struct{}),
	}
}

func (t *Throttle) now() time.Duration { return clock.Since(t.start) }

// Apply puts a limits document in force. Documents come in order of their generation: the feed
// sees to that. The age of a lease counts from the call, and from before by the document's Age; its
// NotAfter ends it before its time.
// Where the document switches the loop off there is no lease from now on, and no glide. A lease of a
// smaller epoch than the one in force is no news: that one stays, and gets no older grace by it.
func (t *Throttle) Apply(d *limits.Document) {
	wall := clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	seen := now - d.Age
	t.document, t.seen = d, seen
	before := t.leases
	t.leases = make(map[limits.Key]limits.Glide, len(d.Leases))
	for _, lease := range d.Leases {
		if d.IsOff(lease.Provider) {
			continue
		}
		key := lease.Key()
		held, had := before[key]
		if had && held.Lease.Epoch > lease.Epoch {
			t.leases[key] = held
			continue
		}
		ttl := d.TTL()
		if !lease.NotAfter.IsZero() {
			ttl = min(ttl, lease.NotAfter.Sub(wall)+d.Age)
		}
		t.leases[key] = limits.Glide{Lease: lease, Seen: seen, TTL: ttl}
		k := t.key(key)
		if !had {
			k.bucket = bucket{updated: max(now, 1)} // a new lease starts empty, or each one would send a message for free
		}
		k.guard.Lease(now, lease)
	}
	t.setCanaries(d)
	close(t.changed)
	t.changed = make(chan struct{})
}

// loopRules reports whether the loop has the say at a key: its lease is fresh, or there is none yet and
// the document, which is fresh, says that the loop is active there. Else one reply that matches a
// pattern would put the queue into backoff mode before the loop has seen any, and it never would see
// more.
func (t *Throttle) loopRules(now time.Duration, key limits.Key) bool {
	if glide, ok := t.leases[key]; ok {
		return !glide.Expired(now)
	}
	return t.document != nil && now-t.seen <= t.document.TTL() && t.document.ModeAt(key.Provider) == limits.Active
}

// setCanaries notes whose mail the suspended keys are tried with. The caller holds t.mu.
func (t *Throttle) setCanaries(d *limits.Document) {
	var canaries map[limits.Key]string
	for _, c := range d.Canaries {
		key := limits.Key{Provider: c.Provider, Source: c.Source}
		if !t.leases[key].Lease.Canary {
			continue
		}
		if canaries == nil {
			canaries = map[limits.Key]string{}
		}
		canaries[key] = c.Tenant
	}
	t.canaries.Store(nil)
	if canaries != nil {
		t.canaries.Store(&canaries)
	}
}

// HasCanaries reports whether any key is suspended and to be tried with one tenant's mail. It takes no lock.
func (t *Throttle) HasCanaries() bool { return t.canaries.Load() != nil }

// CanaryTenant returns whose mail a suspended key is tried with first: "" for anybody's, also where
// the key is not suspended. It takes no lock.
func (t *Throttle) CanaryTenant(key limits.Key) string {
	if canaries := t.canaries.Load(); canaries != nil {
		return (*canaries)[key]
	}
	return ""
}

// key returns the state of a key, new if need be. The caller holds t.mu.
func (t *Throttle) key(key limits.Key) *keyState {
	k := t.keys[key]
	if k == nil {
		k = &keyState{queues: map[string]*QueueLimits{}, static: limits.None()}
		t.keys[key] = k
	}
	return k
}

// addQueue notes that the queue sends under the key. The caller holds the throttle's mutex.
func (k *keyState) addQueue(name string, q *QueueLimits) {
	old, known := k.queues[name]
	if old == q {
		return
	}
	k.queues[name] = q
	if len(k.queues) == 1 {
		k.static, k.adaptive = limits.Limit{}, limits.Limit{}
	}
	k.stale = k.stale || known
	k.static = limits.Ceiling(k.static, q.static())
	k.adaptive = limits.Ceiling(k.adaptive, q.adaptive())
}

// sumInterval is how often the ceilings of a key are worked out while its queues change modes: a
// provider may have queues of a hundred thousand domains.
const sumInterval = time.Second

// sum works out the ceilings again after a queue has left or got other limits.
func (k *keyState) sum(now time.Duration) {
	if !k.stale || now-k.summed < sumInterval && len(k.queues) > 1 {
		return
	}
	k.stale, k.summed = false, now
	if len(k.queues) == 0 {
		k.static, k.adaptive = limits.None(), limits.Limit{}
		return
	}
	k.static, k.adaptive = limits.Limit{}, limits.Limit{}
	for _, q := range k.queues {
		k.static = limits.Ceiling(k.static, q.static())
		k.adaptive = limits.Ceiling(k.adaptive, q.adaptive())
	}
}

// effective returns the limit that binds the key now. The caller holds t.mu.
func (t *Throttle) effective(now time.Duration, key limits.Key, k *keyState) limits.Effective {
	k.sum(now)
	var term limits.Term
	if glide, ok := t.leases[key]; ok {
		term = glide.At(now, k.static)
	} else if k.warming && now-k.born < unseenTime && t.loopRules(now, key) {
		term = limits.Term{Limit: limits.Static(warmupRate, 1, 0), Source: limits.FromLease, ReasonID: "warm-up"}
	}
	return limits.Merge(now, k.static, k.adaptive, term, &k.guard)
}

const (
	// warmupRate is what an address that is warmed up sends until the loop, which is active, has seen it and
	// says more: what a warm-up begins with by default, 100 messages an hour.
	warmupRate = 100.0 / 3600
	// unseenTime is how long that may take: a gauge, a run of the loop, and the way of a lease.
	unseenTime = 2 * time.Minute
	// longestWarmup is after how long an address is warm if the loop has no lease for it.
	longestWarmup = 60 * 24 * time.Hour
)

// leastRate is a rate that lets nothing through where 0 would be unlimited, in messages a second.
const leastRate = 1e-9

// route is what limits a path, with its state.
type route struct {
	Queued     *QueueLimits
	VMTALimits *VMTALimits

	queue     *queueState
	source    *sourceState    // nil without limits of the source address
	sourceIP  *SourceIPLimits // the same
	vmta      *groupState
	key       *keyState
	effective limits.Effective
	leased    bool
	loop      bool // the loop has the say, not the configuration's backoff
}

// route finds the state and puts the limits of the path in force. The caller holds t.mu.
func (t *Throttle) route(now time.Duration, p *Path) route {
	r := route{Queued: p.Queued, VMTALimits: p.VMTALimits, queue: t.queue(p.Queue, now), vmta: group(t.vmtas, p.VMTA), key: t.key(p.Key)}
	r.key.used, r.key.source = now, p.Source
	r.key.addQueue(p.Queue, p.Queued)
	if r.key.born == 0 {
		r.key.born = max(now, 1)
	}
	r.key.warming = p.VMTALimits.warmsUp()
	r.effective = t.effective(now, p.Key, r.key)
	r.leased = r.effective.Epoch != 0
	r.loop = t.loopRules(now, p.Key)

	q := r.queue
	setMeter(&q.messages, now, p.Queued.rate(r.leased))
	setMeter(&q.data, now, p.Queued.DataRate)
	setPace(&q.connects, now, p.Queued.ConnectRate)
	if r.sourceIP = p.Queued.of(p.Source); r.sourceIP != nil {
		r.source = q.source(p.Source)
		setMeter(&r.source.messages, now, r.sourceIP.Rate)
		setMeter(&r.source.data, now, r.sourceIP.DataRate)
		setPace(&r.source.connects, now, r.sourceIP.ConnectRate)
	}
	r.vmta.messages.set(now, p.VMTALimits.Rate)
	r.vmta.data.set(now, p.VMTALimits.DataRate)
	for _, l := range p.VMTALimits.Pools {
		g := group(t.pools, l.Name)
		g.messages.set(now, l.Rate)
		g.data.set(now, l.DataRate)
	}
	rate := 0.0 // a configured rate is each queue's own: the key binds only under a lease, a glide or the guard
	if r.effective.Actor != limits.ByConfig && r.effective.HasRate() {
		rate = max(r.effective.RatePerSecond, leastRate) // 0 would be unlimited
	}
	r.key.bucket.set(now, rate)
	return r
}

// setMeter puts a rate in force at a meter that is nil as long as there never was one.
func setMeter(m **meter, now time.Duration, rate Rate) {
	if *m == nil {
		if rate.Unlimited() {
			return
		}
		*m = &meter{}
	}
	(*m).set(now, rate)
}

func setPace(p **pace, now time.Duration, rate Rate) {
	if *p == nil {
		if rate.Unlimited() {
			return
		}
		*p = &pace{}
	}
	(*p).set(now, rate)
}

func group(groups map[string]*groupState, name string) *groupState {
	g := groups[name]
	if g == nil {
		g = &groupState{}
		groups[name] = g
	}
	return g
}

func (q *queueState) source(addr netip.Addr) *sourceState {
	for _, s := range q.sources {
		if s.addr == addr {
			return s
		}
	}
	s := &sourceState{addr: addr}
	q.sources = append(q.sources, s)
	return s
}

// Surplus reports whether the key or the queue has more connections than its limit allows now: the
// connection that asks should be the one to close.
func (t *Throttle) Surplus(p Path) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.key(p.Key)
	effective := t.effective(t.now(), p.Key, k)
	leased := effective.Epoch != 0
	if leased && k.connections > effective.Connections {
		return true
	}
	most, q := p.Queued.connections(leased), t.queues[p.Queue]
	return most > 0 && q != nil && q.open > most
}

// Connections returns the number of open connections of the key.
func (t *Throttle) Connections(key limits.Key) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.keys[key]; k != nil {
		return k.connections
	}
	return 0
}

// MessagesPerConnection returns how many messages a connection of path may carry now.
func (t *Throttle) MessagesPerConnection(p Path) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := p.Queued.static().MessagesPerConnection
	effective := t.effective(t.now(), p.Key, t.key(p.Key))
	if effective.Epoch == 0 {
		return own
	}
	return min(effective.MessagesPerConnection, max(own, p.Queued.AdaptiveMessagesPerConnection))
}

// KeptBack notes for the gauge of the path's key that something holds mail back which the throttle does not
// know of: its scope, the mail that it is about, and who set it.
func (t *Throttle) KeptBack(p Path, scope, about, by string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.route(t.now(), &p)
	r.key.keeps(&bound{scope: scope, directive: about, place: by}, 0)
}

// Observe tells the local guard of the key what a receiver answered, first for a message's first attempt.
func (t *Throttle) Observe(key limits.Key, first bool, dimension taxonomy.Dimension, scope taxonomy.Scope) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, k := t.now(), t.key(key)
	if first && dimension == taxonomy.Other && t.leases[key].Lease.Greylisting {
		dimension = taxonomy.Greylist
	}
	k.guard.Observe(now, dimension, scope)
	switch dimension {
	case taxonomy.Rate, taxonomy.Block, taxonomy.Unavailable, taxonomy.Other:
		k.refusal = refusal{now, dimension}
	default: // says nothing about the rate
	}
}
