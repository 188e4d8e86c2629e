// Package deliver makes the attempts: a session takes due mail of one queue, finds the way to its
// receiver, opens a connection, and sends one message after another as the throttle allows.
//
// What the receiver answers is judged once, by the classifier, and that verdict drives everything:
// whether the recipient is done or comes back, what the event says, and what the local guard sees.
// The queue's smtp-pattern-list has the first word where the operator wrote one.
//
// An outcome is durable in the event log before the queue's next message can be delivered: a
// session sends the end of a message only when the outcome of the one before is on disk, so a crash
// repeats at most one attempt of each connection.
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
	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/backoff"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/route"
	"carom/sender/scoped"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// Mail is where messages lie; see package spool.
type Mail interface {
	Envelope(id event.ID) (*spool.Envelope, error)
	Read(id event.ID) (*spool.Envelope, []byte, error)
	// Drop finishes a message of which not even the envelope can be read; err says why.
	Drop(id event.ID, err error)
	// Rescheduled notes, without waiting for the disk, that recipients come back at due.
	Rescheduled(id event.ID, recipients []uint32, attempts uint32, due time.Time) error
}

// The attributes of an envelope that events carry.
const (
	AttrFromDomain = "from-domain" // of the From header
	AttrListener   = "listener"    // address and port that the message came in by
	AttrVERP       = "verp"        // set: each recipient has a return path of his own
	AttrDate       = "date"        // set: the message gets a Date when it is sent
	AttrSchedule   = "schedule"    // windows of delivery, as schedule.Parse reads them
)

// Resolver finds the way to a domain.
type Resolver interface {
	Route(ctx context.Context, domain string) (resolve.Route, error)
	LookupHost(ctx context.Context, name string) ([]netip.Addr, error)
}

// Recorder makes events durable; the ticket says when. What one goroutine submits becomes durable in
// that order.
type Recorder interface {
	Submit(e *event.Event) *account.Ticket
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
	HasCanaries() bool
	CanaryTenant(key limits.Key) string
	Sent(p throttle.Path, bytes int64)
	KeptBack(p throttle.Path, scope, about, by string)
	Observe(key limits.Key, first bool, dimension taxonomy.Dimension, scope taxonomy.Scope)
}

var _ Throttle = (*throttle.Throttle)(nil)

// Keeper says which mail is kept back for what it carries; see package scoped.
type Keeper interface {
	Depth(provider string) scoped.Depth
	Held(m *scoped.Mail) scoped.Verdict
	Admit(m *scoped.Mail) scoped.Verdict
	Refund(m *scoped.Mail, recipients int)
}

var _ Keeper = (*scoped.Keeper)(nil)

// Suppressions says who must not be mailed, and under which key an address is known.
type Suppressions interface {
	Suppressed(tenant, address string) bool
	Key(address string) string
}

// Options are what an Agent works with; all are needed but those that say what nil means.
type Options struct {
	Config       *config.Config // at the start; see Prepare
	Mail         Mail
	Resolver     Resolver
	Recorder     Recorder
	Throttle     Throttle
	Keeper       Keeper // nil: nothing is kept back
	Suppressions Suppressions
	Keys         *correlate.Keys // nil: mail carries no reference token
	Logger       *slog.Logger

	// Requeue puts an item into a queue, as Manager.Add does. It is not called before the first Run.
	Requeue func(name queue.Name, item *queue.Item)
	// Note writes down a change of mode or of a source for people to see; nil: it is only logged.
	Note func(name, text string)
	// SourceDisabled reports whether an operator keeps a queue (domain/vmta) from using a source
	// address; nil: never.
	SourceDisabled func(queue string, source netip.Addr) bool
}

// Agent delivers. It implements queue.Runner.
type Agent struct {
	Options

	view     atomic.Pointer[view]
	sessions *smtpc.Sessions // of TLS, for all connections
	pool     pool
	turns    route.Turns // of the members of pools that mail is rerouted to
	urls     urlRefusals

	mu       sync.Mutex
	silent   map[limits.Key]int              // messages after which the peer closed last without a word
	noChunks map[netip.Addr]bool             // peers that offer CHUNKING and cannot do it
	disabled map[queue.Name]*backoff.Sources // queues that had a source disabled
	members  map[string]member               // of rollups, by domain
	plans    map[queue.Name]Plan
}

var _ queue.Runner = (*Agent)(nil)

// tlsSessions is how many TLS sessions are kept for reuse: about 2 KiB each.
const tlsSessions = 10_000

// maxKnown bounds what is remembered of peers and domains, each kind by itself.
const maxKnown = 100_000

// New returns an agent.
func New(o Options) (*Agent, error) {
	a := &Agent{
		Options: o, sessions: smtpc.NewSessions(tlsSessions),
		silent: map[limits.Key]int{}, noChunks: map[netip.Addr]bool{}, disabled: map[queue.Name]*backoff.Sources{},
		members: map[string]member{}, plans: map[queue.Name]Plan{},
	}
	v, err := newView(o.Config, o.Logger)
	if err != nil {
		return nil, err
	}
	a.view.Store(v)
	return a, nil
}

// exit is a virtual MTA with the sources that take turns.
type exit struct {
	vmta    *config.VMTA
	sources []source
	caps    *throttle.VMTALimits
	turn    atomic.Uint32
}

func rules(list *config.PatternList) []backoff.Rule {
	all := make([]backoff.Rule, len(list.Rules))
	for i, r := range list.Rules {
		a := backoff.Actions{
			Backoff: r.Actions.Backoff, Normal: r.Actions.Normal, SkipMX: r.Actions.SkipMX, BounceQueue: r.Actions.BounceQueue,
			BounceRcpt: r.Actions.BounceRcpt, DeferQueue: r.Actions.DeferQueue, DisableSource: r.Actions.DisableSource,
		}
		if r.Actions.ToNormalGiven {
			a.ToNormalAfter = &r.Actions.ToNormalAfter
		}
		if r.Actions.ReenableGiven {
			a.ReenableAfter = &r.Actions.ReenableAfter
		}
		all[i] = backoff.Rule{Name: r.String(), Pattern: r.Pattern, Actions: a}
	}
	return all
}

// Policy is part of queue.Runner.
func (a *Agent) Policy(q *queue.Queue) queue.Policy {
	w, err := a.way(q)
	if err != nil {
		return queue.Policy{MaxSessions: 1, Priority: queue.DefaultPriority} // the session says what is wrong
	}
	return w.policies[w.mode(q, clock.Now())]
}

// Run is part of queue.Runner.
func (a *Agent) Run(ctx context.Context, q *queue.Queue) {
	w, err := a.way(q)
	if err != nil {
		a.Logger.Error("queue cannot be delivered", "queue", q.String(), "error", err)
		q.Defer(clock.Now().Add(time.Minute), err.Error())
		return
	}
	if to, ok := a.reroute(w, q); ok {
		q.MoveTo(to)
		return
	}
	s := &session{Agent: a, way: w, queue: q}
	lasting := context.WithoutCancel(ctx)
	s.beforeEnd = func() error {
		err := s.settle(lasting)
		s.ended.Store(err == nil)
		return err
	}
	s.send = func(t smtpc.Transaction) smtpc.Result { return s.conn.Send(lasting, t) }
	s.run(ctx)
	s.close(ctx)
	if err := s.settle(lasting); err != nil {
		a.Logger.Error("outcome not recorded", "queue", q.String(), "error", err)
	}
}

// note writes down what an operator should know of a queue.
func (a *Agent) note(name, text string) {
	a.Logger.Info("annotation", "name", name, "text", text)
	if a.Note != nil {
		a.Note(name, text)
	}
}

// closedSilently notes that a peer closed a connection of the key without a word after so many
// messages, and reports whether it did so at the same number the time before: then it is a limit.
func (a *Agent) closedSilently(key limits.Key, messages int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := a.silent[key] == messages
	remember(a.silent, key, messages)
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
	remember(a.noChunks, peer, true)
}

// remember puts a value into a map that is emptied when it is full: what is in it can be learned
// again.
func remember[K comparable, V any](known map[K]V, key K, value V) {
	if len(known) >= maxKnown {
		clear(known)
	}
	known[key] = value
}

// sourcesOf returns what is known of disabled sources of a queue; with add it is never nil.
func (a *Agent) sourcesOf(name queue.Name, add bool) *backoff.Sources {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.disabled[name]
	if s == nil && add {
		s = &backoff.Sources{}
		a.disabled[name] = s // few: nothing is put in but by disable-source-ip
	}
	return s
}

// errNoVMTA is for a queue whose virtual MTA the configuration has no more.
func errNoVMTA(name string) error { return fmt.Errorf("virtual MTA %q does not exist any more", name) }
