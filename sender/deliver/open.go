package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carom/ingest/classify"
	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/route"
	"carom/sender/smtpc"
	"carom/sender/throttle"
)

// resolve finds targets, source and key. Without targets the item is dealt with.
func (s *session) resolve(ctx context.Context, item *queue.Item) bool {
	now := clock.Now()
	if s.targets != nil && (s.conn != nil || now.Before(s.found.until)) {
		s.dns = 0
		return s.hasMX(item, now)
	}
	domain, ok := s.domain(item)
	if !ok {
		return false
	}
	f, err := s.find(ctx, domain)
	s.dns = clock.Since(now)
	switch {
	case ctx.Err() != nil:
		s.back(item)
		return false
	case err != nil:
		s.path.Key = limits.Key{Provider: route.Provider(s.way.settings, s.queue.Name().Domain, "")}
		s.path.Queue, s.path.Queued, s.path.VMTA, s.path.VMTALimits = s.queue.String(), s.way.limits[queue.Normal], s.way.vmta.Name, s.way.caps
		s.refused(ctx, item, failure{phase: event.PhaseResolve, err: err})
		return false
	case s.rolledUp(item, domain, f):
		return false
	}
	s.found = f
	if !s.chooseSource(item, f.targets, now) {
		return false
	}
	s.path = throttle.Path{
		Queue: s.queue.String(), VMTA: s.way.vmta.Name, VMTALimits: s.way.caps, Source: s.source.addr,
		Key: limits.Key{Provider: route.Provider(s.way.settings, s.queue.Name().Domain, f.preferred), Source: s.source.key},
	}
	s.path.Queued = s.way.limits[s.way.mode(s.queue, now)]
	s.way.paths.note(s.path)
	return s.hasMX(item, now)
}

// AllSourcesDisabled says why a queue waits that has no source left, in PowerMTA's words.
func AllSourcesDisabled(name string) string {
	return fmt.Sprintf("All SMTP sources for queue %s are now disabled.", name)
}

// allDisabledWait is how long a queue whose sources are all disabled for good waits before it looks
// again.
const allDisabledWait = time.Hour

// chooseSource takes the next source that is not disabled. If all are, the queue waits for the first
// to come back.
func (s *session) chooseSource(item *queue.Item, targets []target, now time.Time) bool {
	out := s.disabledSources(now)
	if left := s.way.skips.filter(targets, now); len(left) > 0 {
		targets = left
	}
	var ok bool
	if s.source, s.targets, ok = s.way.source(targets, out.disabled); ok {
		return true
	}
	until := out.first
	if until.IsZero() {
		until = now.Add(allDisabledWait)
	}
	if expires := item.Expires.Time(); expires.Before(until) {
		until = expires
	}
	why := out.why
	if why == "" {
		why = AllSourcesDisabled(s.queue.String())
	}
	s.queue.Defer(until, why)
	s.back(item)
	return false
}

// errNoMX is the cause of bounce-upon-no-mx. It is what the resolver calls a domain without a host.
var errNoMX = &resolve.Error{Name: "bounce-upon-no-mx", Err: resolve.ErrNoAddress}

// hasMX reports whether an item may be sent to a domain without MX records, should it be one. If not
// it is bounced.
func (s *session) hasMX(item *queue.Item, now time.Time) bool {
	rule := s.way.settings.BounceUponNoMX
	if !s.found.implicit || !rule.Bounce || now.Sub(item.Arrived.Time()) < rule.After {
		return true
	}
	s.bounceAll(item, failure{phase: event.PhaseResolve, err: errNoMX})
	return false
}

// bounceAll bounces the recipients of an item for one failure.
func (s *session) bounceAll(item *queue.Item, f failure) {
	envelope, err := s.Mail.Envelope(item.Message)
	if err != nil {
		s.unreadable(item, err)
		return
	}
	verdict := s.judge(f)
	for _, index := range item.Recipients {
		e := s.outcome(envelope, item, index, event.Bounced, f)
		account.SetVerdict(e, verdict)
		s.submit(e)
	}
}

// link says what a connection to t would be good for.
func (s *session) link(t target) link {
	return link{s.way.vmta.Name, s.source, t, s.way.transport}
}

// takeOver takes the connection of an idle session that goes the same way, and reports whether there
// was one. Its place in the throttle is given back: the caller's counts.
func (s *session) takeOver(ctx context.Context) bool {
	for _, t := range s.targets {
		o := s.pool.take(s.link(t))
		if o == nil {
			continue
		}
		s.Throttle.Disconnect(o.path)
		s.conn, s.target, s.about, s.failures, s.delivered, s.lastSent, s.fresh = o.conn, t, o.about, o.failures, o.delivered, o.lastSent, false
		s.watch(ctx)
		if s.conn.Messages() < s.messagesPerConnection() {
			return true
		}
		s.hangUp(ctx) // it has done its share in this queue
	}
	return false
}

// open opens a connection to the best target that there is, or takes over an idle one. If it returns
// false, the item is dealt with and the session is over.
func (s *session) open(ctx context.Context, item *queue.Item) bool {
	if s.takeOver(ctx) {
		return true
	}
	var failed failure
	var denied throttle.Denial
	for _, t := range s.targets {
		denial, ok := s.Throttle.ConnectHost(s.path, t.name, t.addr.Addr())
		if !ok {
			denied = denial
			continue
		}
		s.target = t
		conn, err := s.dial(ctx, t)
		if err == nil {
			s.conn, s.about, s.fresh, s.failures, s.lastSent = conn, aboutConn(conn), true, 0, clock.Now()
			s.delivered = false
			s.watch(ctx)
			return true
		}
		s.Throttle.DisconnectHost(s.path, t.name, t.addr.Addr())
		if ctx.Err() != nil {
			s.back(item)
			return false
		}
		if errors.Is(err, smtpc.ErrNotLocal) {
			s.notLocal(item)
			return false
		}
		if failed = failureOf(err); !s.next5xx(&failed) {
			break // the receiver has decided
		}
	}
	if failed.phase == event.PhaseNone && denied != (throttle.Denial{}) {
		s.deferFor(item, denied)
		s.back(item)
		return false
	}
	s.refused(ctx, item, failed)
	return false
}

// notLocalWait is how long a source that this machine does not have is not used by a queue.
const notLocalWait = time.Minute

// notLocal takes a source out of use for a while that is no address of this machine: the others of the
// virtual MTA go on, and nobody else is to blame.
func (s *session) notLocal(item *queue.Item) {
	now := clock.Now()
	s.disable(s.source.addr, "it is not an address of this machine", now.Add(notLocalWait), now)
	s.back(item)
}

// dial opens a connection to a target, in the clear if TLS is not needed and does not come about.
func (s *session) dial(ctx context.Context, t target) (*smtpc.Conn, error) {
	c := s.way.dial
	c.RemoteAddr, c.LocalIP, c.EHLO, c.ServerName = t.addr, s.source.bind, s.source.ehlo, t.name
	c.IgnoreChunking = c.IgnoreChunking || !s.takesChunks(t.addr.Addr())
	conn, err := smtpc.Dial(ctx, c)
	if err != nil && c.TLS == smtpc.TLSOpportunistic && failureOf(err).phase == event.PhaseTLS && ctx.Err() == nil {
		c.TLS = smtpc.TLSOff // RFC 7435: better in the clear than not at all
		conn, err = smtpc.Dial(ctx, c)
	}
	return conn, err
}

// stopGrace is how long a transaction may go on after the node was told to stop. A connection that
// is cut in the middle makes a duplicate of a message that the peer has just taken; supervisors
// kill what does not stop in 10 s or more.
const stopGrace = 8 * time.Second

// watch cuts the connection when ctx ends in the middle of a transfer: at once for a queue of higher
// priority as long as the end of the message is not sent, else after stopGrace, and not at all
// without allow-cancel-during-transfer.
func (s *session) watch(ctx context.Context) { s.watchWith(ctx, s.conn.Abort()) }

func (s *session) watchWith(ctx context.Context, abort func()) {
	cancels := s.way.settings.AllowCancelDuringTransfer
	s.unwatch = context.AfterFunc(ctx, func() {
		switch {
		case errors.Is(context.Cause(ctx), queue.ErrInterrupted) && !s.ended.Load():
			abort()
		case cancels:
			time.AfterFunc(stopGrace, abort) // closing it again harms nothing
		}
	})
}

// refused deals with an item when there is no way to the receiver at all: a permanent answer
// bounces it, anything else puts the whole queue into retry.
func (s *session) refused(ctx context.Context, item *queue.Item, failed failure) {
	verdict := s.judge(failed)
	if s.permanent(verdict, failed) && !failed.bounceQueue {
		if failed.phase == event.PhaseResolve {
			item = s.only(item) // what is wrong with a domain concerns its recipients alone
		}
		s.bounceAll(item, failed)
		return
	}
	now := clock.Now()
	switch {
	case verdict.Dimension == taxonomy.Connections && s.Throttle.Connections(s.path.Key) > 1:
		s.queue.Defer(now.Add(connectionHold), "receiver allows no more connections") // the others go on
	case failed.sourceGone && s.sourceLeft(now): // the next session comes from another one
	case failed.phase == event.PhaseResolve:
		s.queue.Defer(now.Add(s.way.settings.RetryAfterDNSError), failed.err.Error())
	default:
		s.queue.Failed(s.way.waits[s.way.mode(s.queue, now)], 0)
	}
	s.queueDeferred(item, failed, verdict) // before another session can do better
	s.back(item)
	if s.path.Key.Source != "" {
		s.Throttle.Observe(s.path.Key, false, verdict.Dimension, verdict.Scope)
	}
	if failed.bounceQueue {
		s.bounceQueue(ctx, failed.reply)
	}
}

// queueDeferred writes down a failure of the whole queue.
func (s *session) queueDeferred(item *queue.Item, f failure, verdict classify.Verdict) {
	e := s.event(nil, item, 0, event.QueueDeferred)
	e.Recipients = uint32(s.queue.Recipients() + len(item.Recipients)) //nolint:gosec // not negative
	s.describe(e, f)
	account.SetVerdict(e, verdict)
	s.submit(e)
}

// connectionHold is how long a queue opens no further connection after a receiver said that there
// are too many, while others of it are at work.
const connectionHold = 5 * time.Second

// permanent reports whether an answer to the whole connection, or no way at all, bounces mail.
// Refusals that speak of the source or of a passing state do not, whatever their code: the
// recipient is not to blame.
func (s *session) permanent(v classify.Verdict, f failure) bool {
	switch {
	case f.stays, passing(v.Dimension), v.Dimension == taxonomy.Block && s.way.settings.Block5xx == config.BlockRetry:
		return false
	case f.reply.IsZero():
		return f.phase == event.PhaseResolve && !f.temporary()
	}
	return f.reply.Permanent()
}

func (s *session) judge(f failure) classify.Verdict {
	in := classify.Input{Reply: f.reply, Enhanced: f.enhanced(), Phase: f.phase, Provider: s.path.Key.Provider, Local: f.cause()}
	if s.meansBadMailbox(f) {
		in.Enhanced = badMailbox
	}
	return classify.Classify(in)
}
