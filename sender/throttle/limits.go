package throttle

import (
	"net/netip"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/limits"
)

// QueueLimits are the configured limits of one queue in one of its modes; 0 is unlimited. Adaptive
// values are how far the loop may go above them, 0 for not at all. What a Path points to must not
// change any more.
type QueueLimits struct {
	Rate                          Rate // attempted recipients
	Connections                   uint32
	MessagesPerConnection         uint32
	AdaptiveRate                  Rate
	AdaptiveConnections           uint32
	AdaptiveMessagesPerConnection uint32

	ConnectRate Rate // connections opened
	DataRate    Rate // bytes of messages that were taken
	// RampUp is the least time between the opening of one connection and of another beside it.
	RampUp time.Duration
	// SourceIP are limits of each local address by itself. The first whose prefix holds the
	// address counts.
	SourceIP []SourceIPLimits

	Backoff bool // these are the limits of backoff mode; for the names of directives
	// Normal are the limits of normal mode where these are of backoff mode and the loop may have the
	// say: they are what it may use, and the gauge says so. nil else.
	Normal *QueueLimits
	// BackoffByConfig says that the configuration's backoff mode sets limits whatever the loop says.
	BackoffByConfig bool
	// Origin says where a directive was written; nil where nobody knows. It is not called under
	// a lock.
	Origin func(directive string) string
}

// SourceIPLimits are what a queue may do from one local address.
type SourceIPLimits struct {
	Prefix      netip.Prefix // the zero Prefix holds every address
	Connections uint32
	Rate        Rate
	ConnectRate Rate
	DataRate    Rate
}

func (q *QueueLimits) static() limits.Limit {
	return limits.Static(q.Rate.PerSecond(), q.Connections, q.MessagesPerConnection)
}

func (q *QueueLimits) adaptive() limits.Limit {
	return limits.Limit{
		RatePerSecond: q.AdaptiveRate.PerSecond(), Connections: q.AdaptiveConnections,
		MessagesPerConnection: q.AdaptiveMessagesPerConnection,
	}
}

// rate returns the message rate in force without a lease, or with one.
func (q *QueueLimits) rate(leased bool) Rate {
	if leased && !q.Rate.Unlimited() && q.AdaptiveRate.PerSecond() > q.Rate.PerSecond() {
		return q.AdaptiveRate
	}
	return q.Rate
}

// connections is the same for connections.
func (q *QueueLimits) connections(leased bool) uint32 {
	if leased && q.Connections > 0 {
		return max(q.Connections, q.AdaptiveConnections)
	}
	return q.Connections
}

// of returns the limits of a local address, nil if there are none.
func (q *QueueLimits) of(source netip.Addr) *SourceIPLimits {
	for i := range q.SourceIP {
		if s := &q.SourceIP[i]; s.Prefix == (netip.Prefix{}) || s.Prefix.Contains(source) {
			return s
		}
	}
	return nil
}

// name returns the name of a directive in the mode of q.
func (q *QueueLimits) name(directive string) string {
	if q.Backoff {
		return "backoff-" + directive
	}
	return directive
}

// VMTALimits are the limits of one virtual MTA on this node, over all its queues; 0 is unlimited.
type VMTALimits struct {
	Rate        Rate // attempted recipients
	Connections int
	DataRate    Rate // bytes of messages that were taken
	Pools       []*PoolLimits
	// WarmupStart is when the warm-up of the addresses begins; zero for those that have none.
	WarmupStart time.Time
	Origin      func(directive string) string // as QueueLimits has it
}

// warmsUp reports whether the warm-up has begun, and not so long ago that it must be over.
func (l *VMTALimits) warmsUp() bool {
	if l.WarmupStart.IsZero() {
		return false
	}
	age := clock.Since(l.WarmupStart)
	return age >= 0 && age < longestWarmup
}

// PoolLimits are the limits of a pool, which its virtual MTAs share; 0 is unlimited. They belong to
// the name: two with one name are one.
type PoolLimits struct {
	Name        string
	Rate        Rate
	Connections int
	DataRate    Rate
	Origin      func(directive string) string
}

// PeerLimit bounds the connections to receiving hosts (mx-connection-limit, for each host and local
// address) or to receiving addresses (ip-connection-limit, for each address).
type PeerLimit struct {
	Connections int
	Host        func(mx string) bool // for hosts
	Prefix      netip.Prefix         // for addresses; the zero Prefix holds every address
	Text        string               // as it was written: "mx-connection-limit *.example 5"
	Origin      string               // where
}

// Path says whose limits an attempt is under.
type Path struct {
	Queue, VMTA string
	Key         limits.Key
	Source      netip.Addr   // local address of the connection; zero: the system's choice
	Queued      *QueueLimits // never nil
	VMTALimits  *VMTALimits  // never nil
}

// Permit says under which limit a message leaves; events carry it.
type Permit struct {
	Epoch         uint64
	Actor         limits.Actor
	ReasonID      string
	LimitingScope string // which limit held the message back longest; "" if none did
	Canary        bool
	Loop          bool // the loop has the say over the limits of the queue in backoff mode
	Cap           Cap  // where a lease held the message back longest
}

// Cap is what a lease that holds mail back lets through; the zero Cap is for no lease.
type Cap struct {
	RatePerSecond float64
	Backlog       int // recipients that waited at the key when its gauge was read last, 0 before
}

// Denial says which limit says no.
type Denial struct {
	// Wait is when to come back; 0 for when a connection is given back.
	Wait time.Duration
	// Scope is one of the scopes, or the actor at a key.
	Scope string
	// Limit is the directive with its value: "max-msg-rate 100/m".
	Limit string
	// SetBy is the place in the configuration, or the actor with its reason.
	SetBy string
	// Cap is that of the lease, if a lease says no.
	Cap Cap
}

// String returns the denial in one line, for people.
func (d Denial) String() string {
	text := strings.TrimSpace(d.Scope + ": " + d.Limit)
	if d.SetBy != "" {
		text += " (" + d.SetBy + ")"
	}
	return text
}

// ParseDenial returns the denial that String made text of, without its Wait and Cap, and false for other texts.
func ParseDenial(text string) (Denial, bool) {
	scope, limit, found := strings.Cut(text, ": ")
	switch scope {
	case ScopeNode, ScopeVMTA, ScopePool, ScopeQueue, ScopeSourceIP,
		string(limits.ByLoop), string(limits.ByGlide), string(limits.ByGuard), string(limits.ByConfig):
	default:
		found = false
	}
	if !found {
		return Denial{}, false
	}
	d := Denial{Scope: scope, Limit: limit}
	if limit, setBy, ok := strings.Cut(limit, " ("); ok && strings.HasSuffix(setBy, ")") {
		d.Limit, d.SetBy = limit, strings.TrimSuffix(setBy, ")")
	}
	return d, true
}

// The scopes of limits. At a key it is the actor's name instead: loop, glide or guard.
const (
	ScopeNode     = "node"
	ScopeVMTA     = "vmta"
	ScopePool     = "pool"
	ScopeQueue    = "queue"
	ScopeSourceIP = "source-ip"
	ScopeMX       = "mx"
	ScopeIP       = "ip"
)

// Unlimited reports whether the pool limits nothing.
func (p *PoolLimits) Unlimited() bool {
	return p.Rate.Unlimited() && p.DataRate.Unlimited() && p.Connections <= 0
}
