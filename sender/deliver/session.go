package deliver

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"carom/ingest/classify"
	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/scoped"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// session delivers mail of one queue over one connection.
type session struct {
	*Agent
	way   *way
	queue *queue.Queue

	found   found // the way to the receiver; see resolve
	source  source
	targets []target // of found, those that source reaches and nothing has ruled out
	target  target   // the one that conn goes to
	dns     time.Duration
	path    throttle.Path
	slot    bool // taken from the throttle
	conn    *smtpc.Conn
	about   about // conn, for events
	unwatch func() bool

	fresh     bool          // nothing was sent over conn yet
	failures  int           // recipients that failed over conn
	delivered bool          // a message was delivered over conn
	lastSent  time.Time     // when the last transaction over conn ended
	idled     time.Duration // since the last message
	over      bool          // the session is to end before the next message
	kept      bool          // ready put the item aside for what it carries
	admitted  *scoped.Mail  // took its share of the limits of what it carries; nil if there are none

	// Kept for their memory, from one message to the next.
	rcpts   []smtpc.Rcpt
	head    []byte
	body    buffers
	scratch event.Event

	last      *account.Ticket                      // of the events that were submitted
	beforeEnd func() error                         // waits until they are durable
	send      func(smtpc.Transaction) smtpc.Result // over conn; watch cuts it
	ended     atomic.Bool                          // the end of the message in hand may have been sent
}

// run delivers until nothing is due or the connection has done its share; the manager starts
// another session for what is still due then.
func (s *session) run(ctx context.Context) {
	for {
		if !s.current() {
			return
		}
		item, ok := s.next(ctx)
		if !ok {
			if !s.idle(ctx) {
				return
			}
			continue
		}
		if s.way.settings.Type == config.DeliverDiscard {
			if !s.discard(item) || s.queue.ShouldYield() {
				return
			}
			continue
		}
		if s.lostSource() {
			s.back(item)
			return
		}
		if !s.attempt(ctx, item) || s.over || s.queue.ShouldYield() {
			return
		}
		s.idled = 0
	}
}

// idle keeps the connection for connection-idle-timeout and reports whether there is mail for it
// again. Meanwhile sessions of other queues may take the connection: then this one ends.
func (s *session) idle(ctx context.Context) bool {
	keep := max(s.way.settings.ConnectionIdleTimeout, handOver)
	if s.conn == nil || ctx.Err() != nil || s.idled >= keep || s.over || s.beforeEnd() != nil {
		return false
	}
	waiting, taken := context.WithCancel(ctx)
	defer taken()
	o := &offer{
		link: s.link(s.target), conn: s.conn, path: s.path, about: s.about, failures: s.failures, delivered: s.delivered, lastSent: s.lastSent,
		unwatch: s.unwatch, taken: taken,
	}
	since := clock.Now()
	s.pool.offer(o)
	ready := s.queue.Await(waiting, keep-s.idled)
	if !s.pool.withdraw(o) {
		s.conn, s.slot, s.unwatch = nil, false, nil
		return false
	}
	s.idled += clock.Since(since)
	return ready && ctx.Err() == nil
}

// next takes the next item that should be attempted; expired mail is finished here.
func (s *session) next(ctx context.Context) (*queue.Item, bool) {
	for ctx.Err() == nil {
		now := clock.Now()
		item, ok := s.take(now)
		if !ok {
			return nil, false
		}
		if queue.At(now) < item.Expires {
			return item, true
		}
		cause := classify.QueueExpired
		if item.Parked {
			cause = classify.HoldExpired
		}
		if !s.finish(item, event.Expired, cause) {
			return nil, false
		}
	}
	return nil, false
}

// back puts an item back that was not attempted.
func (s *session) back(item *queue.Item) { s.queue.Retry(item, time.Time{}) }

// discard ends an item of a queue of type discard.
func (s *session) discard(item *queue.Item) bool {
	if s.way.settings.DiscardAsBounce {
		return s.finish(item, event.Bounced, "")
	}
	return s.finish(item, event.Discarded, "")
}

// finish ends all recipients of an item without an attempt, for a cause of our own.
func (s *session) finish(item *queue.Item, kind event.Kind, cause classify.Local) bool {
	envelope, err := s.Mail.Envelope(item.Message)
	if err != nil {
		s.unreadable(item, err)
		return false
	}
	s.finishAll(envelope, item, kind, cause)
	return true
}

func (s *session) finishAll(envelope *spool.Envelope, item *queue.Item, kind event.Kind, cause classify.Local) {
	verdict := classify.Verdict{Category: taxonomy.Delivered, Class: taxonomy.None, Dimension: taxonomy.OK} // discarded
	switch {
	case cause != "":
		verdict = classify.Classify(classify.Input{Local: cause})
	case kind == event.Bounced:
		verdict = classify.Verdict{Category: taxonomy.Policy, Class: taxonomy.None, Dimension: taxonomy.Other}
	}
	for _, index := range item.Recipients {
		e := s.event(envelope, item, index, kind)
		switch {
		case kind == event.Expired:
			e.Enhanced, e.Reply = "4.4.7", "delivery time expired" // RFC 3463 section 3.5
		case kind == event.Suppressed:
			e.Enhanced, e.Reply = "5.7.1", "recipient is suppressed"
		case cause == classify.MessageDamaged:
			e.Enhanced, e.Reply = "5.3.0", "message is damaged in the spool"
		case kind == event.Bounced:
			e.Enhanced, e.Reply = "5.0.0", "mail is discarded (discard-as-bounce)"
		default: // discarded: there is nothing to say
		}
		e.ReplyTemplate = e.Reply
		account.SetVerdict(e, verdict)
		s.submit(e)
	}
}

// submit hands an event over that becomes durable after all before it.
func (s *session) submit(e *event.Event) { s.last = s.Recorder.Submit(e) }

// settle waits until all that was submitted is durable. If that fails the node is stopping, and the
// spool keeps what is not recorded for the next start.
func (s *session) settle(ctx context.Context) error {
	if s.last == nil {
		return nil
	}
	if err := s.last.Wait(ctx); err != nil {
		return err
	}
	s.last = nil
	return nil
}

// take takes the next item of the queue, where the key is suspended one of the tenant that the control
// loop wants to be tried first.
func (s *session) take(now time.Time) (*queue.Item, bool) {
	if s.Throttle.HasCanaries() {
		if tenant := s.Throttle.CanaryTenant(s.way.paths.key()); tenant != "" {
			return s.queue.NextOf(tenant, now)
		}
	}
	return s.queue.Next(now)
}

// ready gets an item all that its transaction needs: a way, the throttle's permit, and a
// connection. If it returns false, the item is dealt with; the session is over unless it was kept
// back for what it carries, which kept says. To know what it carries the message may have to be read, into m.
//
// The permit comes before the connection, so that nobody opens one to be silent on it, and what
// would have to wait for long gives everything back.
func (s *session) ready(ctx context.Context, m **mail, item *queue.Item) (throttle.Permit, bool) {
	s.kept = false
	if s.slot && s.conn == nil { // of a connection that is gone: the next one counts anew, and may go another way
		s.Throttle.Disconnect(s.path)
		s.slot = false
	}
	if !s.resolve(ctx, item) {
		return throttle.Permit{}, false
	}
	s.path.Queued = s.way.limits[s.way.mode(s.queue, clock.Now())]
	if s.kept = s.keptBack(item) || s.scopedWait(m, item); s.kept {
		return throttle.Permit{}, false
	}
	if !s.takeSlot(ctx, item) {
		s.unadmit(len(item.Recipients))
		return throttle.Permit{}, false
	}
	permit, ok := s.permit(ctx, item)
	if !ok {
		s.unadmit(len(item.Recipients))
		return permit, false
	}
	if s.conn == nil && !s.open(ctx, item) {
		s.refund(len(item.Recipients))
		return permit, false
	}
	return permit, true
}

// patience is how long a session waits for a rate with its connection open. Impatient receivers hang
// up after ten seconds.
const patience = 5 * time.Second

// permit takes an item off the rates. What would have to wait for longer than patience goes back, and
// the queue waits without a session.
func (s *session) permit(ctx context.Context, item *queue.Item) (throttle.Permit, bool) {
	wait := patience
	if left := clock.Until(item.Expires.Time()); left < wait {
		wait = max(left, 0)
	}
	permit, denial, err := s.Throttle.Acquire(ctx, s.path, len(item.Recipients), wait)
	if err == nil {
		s.way.leased.Store(permit.Loop)
		s.overflow(permit.Cap, nil)
		return permit, true
	}
	s.close(ctx)
	if errors.Is(err, throttle.ErrLater) {
		s.deferFor(item, denial)
		if s.overflow(denial.Cap, item) {
			return permit, false
		}
	}
	s.back(item)
	return permit, false
}

// deferFor lets the queue wait for a limit, but not past the end of an item's life: then it is to be
// finished as expired.
//
// Where the limit is that of one of several sources, that source rests and the queue does not wait:
// the next session takes another one.
func (s *session) deferFor(item *queue.Item, d throttle.Denial) {
	if rests, ok := ofSource(d); ok && len(s.way.sources) > 1 {
		s.way.resting.note(s.source.addr, clock.Now().Add(rests), d.String())
		return
	}
	wait := d.Wait
	if wait <= 0 {
		wait = slotWait
	}
	until := clock.Now().Add(wait)
	if expires := item.Expires.Time(); expires.Before(until) {
		until = expires
	}
	s.queue.Defer(until, d.String())
}

// slotWait is how long a queue waits before it asks again for a connection that it did not get.
const slotWait = 250 * time.Millisecond

// takeSlot takes a connection from the throttle; where there is none, that of an idle session which
// goes the same way. If there is none either, the item goes back.
func (s *session) takeSlot(ctx context.Context, item *queue.Item) bool {
	if s.slot {
		return true
	}
	denial, ok := s.Throttle.Connect(s.path)
	if !ok && denial.Wait == 0 && s.takeOver(ctx) { // no connection is free, but one that could be had
		if denial, ok = s.Throttle.Connect(s.path); !ok {
			s.hangUp(ctx)
		}
	}
	if s.slot = ok; !ok {
		s.deferFor(item, denial) // first, or the item starts another session
		s.back(item)
	}
	return ok
}

// close ends the connection and gives its slot back. First all that was answered over it becomes durable:
// with the slot the next session may send, and what a crash repeats is one message a connection.
func (s *session) close(ctx context.Context) {
	s.hangUp(ctx)
	if s.slot {
		s.Throttle.Disconnect(s.path)
		s.slot = false
	}
}

// drop forgets a connection that is closed, or to be closed without a word.
func (s *session) drop() {
	if s.conn == nil {
		return
	}
	s.unwatch()
	s.conn.Close()
	s.conn, s.unwatch = nil, nil
	s.Throttle.DisconnectHost(s.path, s.target.name, s.target.addr.Addr())
}
