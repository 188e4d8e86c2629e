package loop

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"carom/analytics/control"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

const (
	tick = 100 * time.Millisecond
	// connectionHold is how long a node opens no connection after one was refused, and idleTime
	// how long it keeps one that carries nothing.
	connectionHold = time.Second
	idleTime       = 5 * time.Second
	// bucketStep is the width of the rows of statistics, on both sides.
	bucketStep = provider.BucketSize
	// silence is how long a connection hangs at a receiver that says nothing.
	silence = 30 * time.Second
	// deepest and depthTime are the token bucket of a key on a node, as sender/throttle has it.
	deepest   = 20
	depthTime = 2.0
)

// message is one recipient of one message.
type message struct {
	born     time.Duration
	stream   int32
	attempts int32
	number   int32 // in its stream
}

// world is one provider with the nodes that send to it. Keys are independent of each other, so
// every provider of a scenario is a world of its own.
type world struct {
	scenario *scenarios.Scenario
	setup    *Setup
	hidden   *provider.Provider
	config   scenarios.Provider
	rng      *rand.Rand
	now      time.Duration
	end      time.Duration

	nodes    []*node
	keys     []*key
	messages []message
	made     []int      // messages of each stream
	shares   []float64  // of each stream that goes to the provider
	senders  []string   // address that each stream sends from
	special  []*special // of each stream, nil for most
	accepted []int      // of each stream
	weights  float64

	verdicts map[asked]verdict
	address  []byte    // of the last recipient, to build the next in
	delays   []float32 // seconds from arrival to acceptance
	sender   sender
}

// asked is what a verdict of the receiver depends on in one run.
type asked struct {
	class  provider.Class
	outage scenarios.OutageKind
}

// verdict is what the classifier makes of a reply.
type verdict struct {
	dimension taxonomy.Dimension
	scope     taxonomy.Scope
}

// key is one (provider, source).
type key struct {
	id      limits.Key
	source  netip.Addr
	nodes   []*node
	buckets []control.Bucket
	limits  []point // what was in force, at each change
	own     any     // what the sender remembers
}

// point is a value from a time on.
type point struct {
	at time.Duration
	v  float64
}

// node is one sending node.
type node struct {
	*key
	name    string
	weight  float64
	credit  float64 // of messages to come
	static  limits.Limit
	ceiling limits.Limit

	fresh      []int32 // messages that were never tried, oldest first
	retries    retryHeap
	conns      []conn
	reopen     time.Duration
	tokens     float64
	refilled   time.Duration
	limit      limits.Effective
	guard      limits.Guard
	glide      *limits.Glide
	grey       bool
	coming     *limits.Lease // on its way to the node
	comes      time.Duration
	comingGrey bool
	backlog    uint64 // of the last gauge
	own        any    // what the sender remembers
}

// conn is an open connection.
type conn struct {
	free time.Duration // when its transaction is over
	sent int
	hung bool // nothing will ever be said on it
}

// run simulates one provider of a scenario under a sender.
func run(s *scenarios.Scenario, index int, setup *Setup, seed uint64, send sender) *world {
	cfg := s.Providers[index]
	w := &world{
		scenario: s, setup: setup, config: cfg, sender: send,
		hidden: provider.New(cfg, seed), rng: rand.New(rand.NewPCG(seed, 0x6c6f6f70)),
		end: s.Duration.D() + setup.Drain, made: make([]int, len(s.Load)), verdicts: map[asked]verdict{},
	}
	for i := range s.Load {
		w.shares = append(w.shares, s.Load[i].Share(&cfg))
		w.special, w.accepted = append(w.special, nil), append(w.accepted, 0)
		if one, ok := setup.Special[s.Load[i].Tenant]; ok {
			w.special[i] = &special{Special: one}
		}
		w.senders = append(w.senders, s.Load[i].Tenant+"@sender.test")
	}
	w.messages = make([]message, 0, int(w.offered(w.end))+1)
	w.delays = make([]float32, 0, cap(w.messages))
	w.connectNodes()
	w.start()
	for ; w.now < w.end; w.now += tick {
		w.arrive()
		if w.now%event.GaugeInterval == 0 {
			for _, n := range w.nodes {
				n.backlog = n.due(w.now)
			}
		}
		w.sender.tick(w)
		for _, n := range w.nodes {
			n.run(w)
		}
	}
	return w
}

// connectNodes makes the nodes and their keys. The configuration stands on every node, as it does
// in PowerMTA: each has its part of what Setup says for all.
func (w *world) connectNodes() {
	weights := w.scenario.Nodes.Weights
	if len(weights) == 0 {
		weights = []float64{1}
	}
	count := float64(len(weights))
	split := func(l limits.Limit) limits.Limit {
		l.RatePerSecond /= count
		if l.Connections != limits.Unlimited && l.Connections > 0 {
			l.Connections = max(1, uint32(float64(l.Connections)/count))
		}
		return l
	}
	for i, weight := range weights {
		if i == 0 || w.setup.OwnSources {
			address := netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)})
			w.keys = append(w.keys, &key{id: limits.Key{Provider: w.config.Name, Source: address.String()}, source: address})
		}
		k := w.keys[len(w.keys)-1]
		n := &node{
			key: k, name: fmt.Sprintf("node%d", i+1), weight: weight,
			static: split(w.setup.Static), ceiling: split(w.setup.Adaptive),
			tokens: w.rng.Float64(), // nodes do not send in step
		}
		k.nodes = append(k.nodes, n)
		w.nodes = append(w.nodes, n)
		w.weights += weight
	}
}

func (w *world) start() {
	for _, k := range w.keys {
		k.limits = []point{{0, w.setup.Static.RatePerSecond / float64(len(w.keys))}}
	}
	w.sender.start(w)
}

// arrive hands the mail of this tick to the nodes, by weight.
func (w *world) arrive() {
	until := w.now
	if w.scenario.Duration > 0 {
		until = min(until, w.scenario.Duration.D())
	}
	for i := range w.scenario.Load {
		load := &w.scenario.Load[i]
		for want := int(load.Offered(until) * w.shares[i]); w.made[i] < want; w.made[i]++ {
			n := w.nextNode()
			id := int32(len(w.messages)) //nolint:gosec // bounded by the scenario's size
			w.messages = append(w.messages, message{
				born: w.now, stream: int32(i), //nolint:gosec // a scenario has few streams
				number: int32(w.made[i]), //nolint:gosec // as above
			})
			n.fresh = append(n.fresh, id)
		}
	}
}

func (w *world) nextNode() *node {
	var best *node
	for _, n := range w.nodes {
		n.credit += n.weight / w.weights
		if best == nil || n.credit > best.credit {
			best = n
		}
	}
	best.credit--
	return best
}

// due counts what waits on the node and may be tried at now.
func (n *node) due(now time.Duration) uint64 {
	count := uint64(len(n.fresh))
	for _, r := range n.retries {
		if r.due <= now {
			count++
		}
	}
	return count
}

// run sends what the limit in force lets through in one tick.
func (n *node) run(w *world) {
	now := w.now
	before := n.limit
	n.limit = w.sender.limit(w, n)
	rate := min(n.limit.RatePerSecond, 1e6)
	if n.limit.Epoch != before.Epoch {
		n.tokens = 0 // a new lease starts with an empty bucket
	}
	depth := min(deepest, max(1, depthTime*rate))
	n.tokens = min(depth, n.tokens+rate*(now-n.refilled).Seconds())
	n.refilled = now
	n.closeIdle(w)
	for n.tokens >= 1 {
		id, retry, ok := n.next(now)
		if !ok {
			return
		}
		if s := w.special[w.messages[id].stream]; s != nil && !s.may(now) {
			n.take(retry)
			n.retries.push(again{due: now + scopedHold, id: id})
			continue
		}
		c, refused := n.connection(w)
		if c != nil {
			n.take(retry)
			n.attempt(w, c, id)
			continue
		}
		switch refused.Class {
		case "": // none is free and none may be opened
		case provider.Conn: // the message was not spoken of
			n.reopen = now + connectionHold
			n.record(w, refused, id, 0)
		default:
			n.take(retry)
			n.tokens--
			n.reopen = now + connectionHold
			n.record(w, refused, id, 0)
			n.later(w, id)
		}
		return
	}
}

// next returns the message to try: retries that are due before new mail, the oldest first.
func (n *node) next(now time.Duration) (id int32, retry, ok bool) {
	if len(n.retries) > 0 && n.retries[0].due <= now {
		return n.retries[0].id, true, true
	}
	if len(n.fresh) > 0 {
		return n.fresh[0], false, true
	}
	return 0, false, false
}

func (n *node) take(retry bool) {
	if retry {
		n.retries.pop()
		return
	}
	n.fresh = n.fresh[1:]
}
