// Package deliver makes the attempts: a session takes due mail of one queue, finds the way to its
// receiver, opens a connection, and sends one message after another as the throttle allows.
//
// What the receiver answers is judged once, by the classifier, and that verdict drives everything:
// whether the recipient is done or comes back, what the event says, and what the local guard sees.
// An outcome is durable in the event log before the queue forgets the recipient, so a crash
// repeats at most the attempts in flight.
//
// An Agent is safe for concurrent use; each session belongs to one goroutine.
package deliver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// Mail is where messages lie; see package spool.
type Mail interface {
	Envelope(id event.ID) (*spool.Envelope, error)
	Read(id event.ID) (*spool.Envelope, []byte, error)
	// Rescheduled notes, without waiting for the disk, that recipients come back at due.
	Rescheduled(id event.ID, recipients []uint32, attempts uint32, due time.Time) error
}

// The attributes of an envelope that events carry.
const (
	AttrFromDomain = "from-domain" // of the From header
	AttrListener   = "listener"    // address and port that the message came in by
)

// Resolver finds the way to a domain.
type Resolver interface {
	Route(ctx context.Context, domain string) (resolve.Route, error)
	LookupHost(ctx context.Context, name string) ([]netip.Addr, error)
}

// Recorder makes events durable; Record returns when they are.
type Recorder interface {
	Record(ctx context.Context, events ...*event.Event) error
}

// Throttle says when a connection may be opened and a message sent; see package throttle.
type Throttle interface {
	Connect(p throttle.Path) (throttle.Denial, bool)
	Disconnect(p throttle.Path)
	ConnectHost(p throttle.Path, mx string, peer netip.Addr) (throttle.Denial, bool)
	DisconnectHost(p throttle.Path, mx string, peer netip.Addr)
	Surplus(p throttle.Path) bool
	Connections(key limits.Key) uint32
	MessagesPerConnection(p throttle.Path) uint32
	Acquire(ctx context.Context, p throttle.Path, recipients int, patience time.Duration) (throttle.Permit, throttle.Denial, error)
	Refund(p throttle.Path, recipients int)
	Sent(p throttle.Path, bytes int64)
	Observe(key limits.Key, dimension taxonomy.Dimension, scope taxonomy.Scope)
}

// Suppressions says who must not be mailed, and under which key an address is known.
type Suppressions interface {
	Suppressed(tenant, address string) bool
	Key(address string) string
}

// Options are what an Agent works with; all are needed but Keys.
type Options struct {
	Config       *config.Config
	Mail         Mail
	Resolver     Resolver
	Recorder     Recorder
	Throttle     Throttle
	Suppressions Suppressions
	Keys         *correlate.Keys // nil: mail carries no reference token
	Logger       *slog.Logger
}

// Agent delivers. It implements queue.Runner.
type Agent struct {
	Options

	vmtas    map[string]*exit // by the name of the virtual MTA
	signing  *signing
	sessions *smtpc.Sessions // of TLS, for all connections

	mu       sync.Mutex
	silent   map[limits.Key]int  // messages after which the peer closed last without a word
	noChunks map[netip.Addr]bool // peers that offer CHUNKING and cannot do it
}

var _ queue.Runner = (*Agent)(nil)

// tlsSessions is how many TLS sessions are kept for reuse: about 2 KiB each.
const tlsSessions = 10_000

// maxNoChunks bounds the peers that are remembered as unable to take chunks.
const maxNoChunks = 10_000

// New returns an agent.
func New(o Options) (*Agent, error) {
	a := &Agent{Options: o, vmtas: map[string]*exit{}, sessions: smtpc.NewSessions(tlsSessions), silent: map[limits.Key]int{}, noChunks: map[netip.Addr]bool{}}
	var err error
	if a.signing, err = newSigning(o.Config, o.Logger); err != nil {
		return nil, err
	}
	for _, vmta := range o.Config.VMTAs() {
		list, err := sources(vmta)
		if err != nil {
			return nil, err
		}
		a.vmtas[vmta.Name] = &exit{vmta: vmta, sources: list, caps: limitsOfVMTA(o.Config, vmta)}
	}
	return a, nil
}

// exit is a virtual MTA with the sources that take turns.
type exit struct {
	vmta    *config.VMTA
	sources []source
	caps    *throttle.VMTALimits
	turn    atomic.Uint32
}

// way is what the configuration says about one queue, worked out once in the queue's life.
type way struct {
	*exit
	settings config.Settings
	signer   *signer
	limits   *throttle.QueueLimits
}

func (a *Agent) way(q *queue.Queue) (*way, error) {
	if w, ok := q.Memo.Load().(*way); ok {
		return w, nil
	}
	name := q.Name()
	vmta, ok := a.Config.VMTA(name.VMTA)
	if !ok {
		return nil, fmt.Errorf("virtual MTA %q does not exist any more", name.VMTA)
	}
	settings := a.Config.Domain(name.Domain, name.VMTA)
	s, err := a.signing.signer(vmta, settings.DKIM)
	if err != nil {
		return nil, err
	}
	normal, _ := limitsOfQueue(a.Config, name.Domain, name.VMTA, &settings)
	w := &way{exit: a.vmtas[vmta.Name], settings: settings, signer: s, limits: normal}
	q.Memo.Store(w)
	return w, nil
}

// Policy is part of queue.Runner: max-smtp-out, or the adaptive ceiling above it, which the throttle
// then holds to the lease.
func (a *Agent) Policy(q *queue.Queue) queue.Policy {
	w, err := a.way(q)
	if err != nil {
		return queue.Policy{MaxSessions: 1, Priority: queue.DefaultPriority} // the session says what is wrong
	}
	most := max(w.settings.MaxSMTPOut, w.settings.AdaptiveMaxSMTPOut)
	if w.settings.MaxSMTPOut == 0 {
		most = maxSessions
	}
	return queue.Policy{
		MaxSessions: most, Group: w.vmta.Name, GroupMax: w.vmta.MaxSMTPOut, Priority: queue.DefaultPriority, Interruptible: true,
	}
}

// maxSessions bounds the connections of a queue whose max-smtp-out is 0 for unlimited.
const maxSessions = 1000

// slotWait is how long a queue waits before it asks again for a connection that it did not get.
const slotWait = 250 * time.Millisecond

// Run is part of queue.Runner.
func (a *Agent) Run(ctx context.Context, q *queue.Queue) {
	w, err := a.way(q)
	if err != nil {
		a.Logger.Error("queue cannot be delivered", "queue", q.Name().String(), "error", err)
		q.Defer(time.Now().Add(time.Minute), err.Error())
		return
	}
	s := &session{Agent: a, way: w, queue: q}
	defer s.close(ctx)
	s.run(ctx)
}

// closedSilently notes that a peer closed a connection of the key without a word after so many
// messages, and reports whether it did so at the same number the time before: then it is a limit.
func (a *Agent) closedSilently(key limits.Key, messages int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := a.silent[key] == messages
	a.silent[key] = messages
	return again
}

// takesChunks reports whether nothing speaks against BDAT to the peer.
func (a *Agent) takesChunks(peer netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.noChunks[peer]
}

// refusesChunks remembers a peer that offers CHUNKING and refused BDAT as a command.
func (a *Agent) refusesChunks(peer netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.noChunks) >= maxNoChunks {
		clear(a.noChunks)
	}
	a.noChunks[peer] = true
}
