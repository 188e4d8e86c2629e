package deliver

import (
	"context"
	"crypto/tls"
	"time"

	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/route"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// session delivers mail of one queue over one connection.
type session struct {
	*Agent
	way   *way
	queue *queue.Queue

	source  source
	targets []target
	target  target // the one that conn goes to
	dns     time.Duration
	path    throttle.Path
	slot    bool // taken from the throttle
	conn    *smtpc.Conn

	fresh    bool          // nothing was sent over conn yet
	lastSent time.Time     // when the last transaction over conn ended
	idled    time.Duration // since the last message
}

// run delivers until nothing is due or the connection has done its share; the manager starts
// another session for what is still due then.
func (s *session) run(ctx context.Context) {
	for {
		item, ok := s.next(ctx)
		if !ok && !s.idle(ctx) {
			return
		}
		if !ok {
			continue
		}
		if s.way.settings.Type == config.DeliverDiscard {
			if !s.finish(ctx, item, event.Discarded, "") {
				return
			}
			continue
		}
		if !s.attempt(ctx, item) {
			return
		}
		s.idled = 0
	}
}

// idle keeps the connection for connection-idle-timeout and reports whether there may be mail for
// it again.
func (s *session) idle(ctx context.Context) bool {
	if s.conn == nil || s.way.settings.ConnectionIdleTimeout == 0 || ctx.Err() != nil || s.idled >= s.way.settings.ConnectionIdleTimeout {
		return false
	}
	since := time.Now()
	due := s.queue.Await(ctx, s.way.settings.ConnectionIdleTimeout-s.idled)
	s.idled += time.Since(since)
	return due
}

// next takes the next item that should be attempted; expired mail is finished here.
func (s *session) next(ctx context.Context) (*queue.Item, bool) {
	for ctx.Err() == nil {
		now := time.Now()
		item, ok := s.queue.Next(now)
		if !ok {
			return nil, false
		}
		if queue.At(now) < item.Expires {
			return item, true
		}
		if !s.finish(ctx, item, event.Expired, classify.QueueExpired) {
			return nil, false
		}
	}
	return nil, false
}

// back puts an item back that was not attempted.
func (s *session) back(item *queue.Item) { s.queue.Retry(item, time.Time{}) }

// finish ends all recipients of an item without an attempt, for a cause of our own.
func (s *session) finish(ctx context.Context, item *queue.Item, kind event.Kind, cause classify.Local) bool {
	envelope, err := s.Mail.Envelope(item.Message)
	if err != nil {
		s.unreadable(item, err)
		return false
	}
	return s.finishAll(ctx, envelope, item, kind, cause)
}

func (s *session) finishAll(ctx context.Context, envelope *spool.Envelope, item *queue.Item, kind event.Kind, cause classify.Local) bool {
	verdict := classify.Verdict{Category: taxonomy.Delivered, Class: taxonomy.None, Dimension: taxonomy.OK} // discarded
	if cause != "" {
		verdict = classify.Classify(classify.Input{Local: cause})
	}
	events := make([]*event.Event, len(item.Recipients))
	for i, index := range item.Recipients {
		e := s.event(envelope, item, index, kind)
		switch kind {
		case event.Expired:
			e.Enhanced, e.Reply = "4.4.7", "delivery time expired" // RFC 3463 section 3.5
		case event.Suppressed:
			e.Enhanced, e.Reply = "5.7.1", "recipient is suppressed"
		default: // discarded: there is nothing to say
		}
		e.ReplyTemplate = e.Reply
		account.SetVerdict(e, verdict)
		events[i] = e
	}
	return s.record(ctx, item, events...)
}

// record makes events durable. If it cannot, the node is stopping, and the spool keeps the item
// for the next start.
func (s *session) record(ctx context.Context, item *queue.Item, events ...*event.Event) bool {
	// What happened must be written even when the node is told to stop just now.
	if err := s.Recorder.Record(context.WithoutCancel(ctx), events...); err != nil {
		s.Logger.Error("outcome not recorded", "queue", s.queue.Name().String(), "message_id", item.Message.String(), "error", err)
		return false
	}
	return true
}

// ready gets an item all that its transaction needs: a way, the throttle's permit, and a
// connection. If it returns false, the item is dealt with and the session is over.
//
// The permit comes before the connection, so that nobody opens one to be silent on it, and while
// it takes long the node's connections are for others.
func (s *session) ready(ctx context.Context, item *queue.Item) (throttle.Permit, bool) {
	if !s.resolve(ctx, item) || !s.takeSlot(item) {
		return throttle.Permit{}, false
	}
	permit, err := s.permit(ctx, item)
	if err != nil {
		s.back(item)
		return permit, false
	}
	if s.conn == nil && !s.open(ctx, item) {
		s.Throttle.Refund(s.path, len(item.Recipients))
		return permit, false
	}
	return permit, true
}

// permit waits for the throttle until the item expires, for longer than longRest without connection
// and slot.
func (s *session) permit(ctx context.Context, item *queue.Item) (throttle.Permit, error) {
	ctx, cancel := context.WithDeadline(ctx, item.Expires.Time())
	defer cancel()
	patient, stop := context.WithTimeout(ctx, longRest)
	defer stop()
	permit, err := s.Throttle.Acquire(patient, s.path, len(item.Recipients))
	if err == nil || ctx.Err() != nil {
		return permit, err
	}
	s.close(ctx)
	return s.Throttle.Acquire(ctx, s.path, len(item.Recipients))
}

// takeSlot takes a connection from the throttle. If there is none, the item goes back.
func (s *session) takeSlot(item *queue.Item) bool {
	if s.slot {
		return true
	}
	if s.slot = s.Throttle.Connect(s.path); !s.slot {
		s.queue.Defer(time.Now().Add(slotWait), "no connection to be had") // first, or the item starts another session
		s.back(item)
	}
	return s.slot
}

// open opens a connection to the best target that there is. If it returns false, the item is dealt
// with and the session is over.
func (s *session) open(ctx context.Context, item *queue.Item) bool {
	if !s.takeSlot(item) {
		return false
	}
	var failed failure
	for _, t := range s.targets {
		conn, err := s.dial(ctx, t)
		if err == nil {
			s.conn, s.target, s.fresh, s.lastSent = conn, t, true, time.Now()
			return true
		}
		if ctx.Err() != nil {
			s.back(item)
			return false
		}
		s.target, failed = t, failureOf(err)
		if failed.reply.Permanent() {
			break // the receiver has decided
		}
	}
	s.refused(ctx, item, failed)
	return false
}

func (s *session) dial(ctx context.Context, t target) (*smtpc.Conn, error) {
	settings := s.way.settings
	c := smtpc.Config{
		RemoteAddr: t.addr, LocalIP: s.source.bind, EHLO: s.source.ehlo, ServerName: t.name,
		Timeouts: smtpc.Timeouts{
			Connect: settings.ConnectTimeout, Greeting: settings.SMTPGreetingTimeout,
			Block: settings.DataSendTimeout, FinalDot: settings.SMTPDataTerminationTimeout,
		},
		IgnorePipelining: settings.IgnorePipelining, Ignore8BitMIME: settings.Ignore8BitMIME,
		IgnoreChunking: settings.IgnoreChunking || !s.takesChunks(t.addr.Addr()), Sessions: s.sessions,
	}
	switch {
	case settings.RequireStartTLS:
		c.TLS = smtpc.TLSRequired
	case settings.UseStartTLS:
		c.TLS = smtpc.TLSOpportunistic
	}
	if settings.SMTPTLSCAFile.Pool != nil {
		c.TLSConfig = &tls.Config{RootCAs: settings.SMTPTLSCAFile.Pool, MinVersion: tls.VersionTLS12}
	} else if settings.RequireStartTLS {
		c.TLSConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // without smtp-tls-ca-file require-starttls asks for encryption, not for identity
	}
	conn, err := smtpc.Dial(ctx, c)
	if err != nil && c.TLS == smtpc.TLSOpportunistic && failureOf(err).phase == event.PhaseTLS && ctx.Err() == nil {
		c.TLS = smtpc.TLSOff // RFC 7435: better in the clear than not at all
		conn, err = smtpc.Dial(ctx, c)
	}
	return conn, err
}

// resolve finds targets, source and key. Without targets the item is dealt with.
func (s *session) resolve(ctx context.Context, item *queue.Item) bool {
	if s.targets != nil {
		s.dns = 0
		return true
	}
	start := time.Now()
	name := s.queue.Name()
	targets, preferred, err := s.find(ctx, s.way.settings, name.Domain)
	s.dns = time.Since(start)
	if ctx.Err() != nil {
		s.back(item)
		return false
	}
	if err != nil {
		s.path.Key = limits.Key{Provider: route.Provider(s.way.settings, name.Domain, "")}
		s.refused(ctx, item, failure{phase: event.PhaseResolve, err: err})
		return false
	}
	s.source, s.targets = s.way.source(targets)
	s.path = throttle.Path{
		Queue: name.String(), QueueLimits: s.way.limits, VMTA: s.way.vmta.Name, VMTALimits: s.way.caps,
		Key: limits.Key{Provider: route.Provider(s.way.settings, name.Domain, preferred), Source: s.source.key},
	}
	return true
}

// refused deals with an item when there is no way to the receiver at all: a permanent answer
// bounces it, anything else puts the whole queue into retry.
func (s *session) refused(ctx context.Context, item *queue.Item, failed failure) {
	verdict := s.judge(failed)
	if permanent(verdict, failed) {
		envelope, err := s.Mail.Envelope(item.Message)
		if err != nil {
			s.unreadable(item, err)
			return
		}
		events := make([]*event.Event, len(item.Recipients))
		for i, index := range item.Recipients {
			events[i] = s.outcome(envelope, item, index, event.Bounced, failed)
			account.SetVerdict(events[i], verdict)
		}
		s.record(ctx, item, events...)
		return
	}
	now := time.Now()
	s.back(item)
	e := s.event(nil, item, 0, event.QueueDeferred)
	e.Recipients = uint32(max(1, s.queue.Status(now).Recipients)) //nolint:gosec // not negative
	s.describe(e, failed)
	account.SetVerdict(e, verdict)
	if !s.record(ctx, item, e) {
		return
	}
	if s.path.Key.Source != "" {
		s.Throttle.Observe(s.path.Key, verdict.Dimension, verdict.Scope)
	}
	if verdict.Dimension == taxonomy.Connections && s.Throttle.Connections(s.path.Key) > 1 {
		s.queue.Defer(now.Add(connectionHold), "the receiver said that there are too many connections") // the other connections go on
		return
	}
	s.queue.Failed(s.way.settings.RetryAfter, 0)
}

// connectionHold is how long a queue opens no further connection after a receiver said that there
// are too many, while others of it are at work.
const connectionHold = 5 * time.Second

// permanent reports whether an answer to the whole connection, or no way at all, bounces mail.
// Refusals that speak of the source or of a passing state do not, whatever their code: the
// recipient is not to blame.
func permanent(v classify.Verdict, failed failure) bool {
	if passing(v.Dimension) || v.Dimension == taxonomy.Block {
		return false
	}
	if failed.reply.IsZero() {
		return failed.phase == event.PhaseResolve && !failed.temporary()
	}
	return failed.reply.Permanent()
}

func (s *session) judge(f failure) classify.Verdict {
	return classify.Classify(classify.Input{
		Reply: f.reply, Enhanced: f.enhanced(), Phase: f.phase, Provider: s.path.Key.Provider, Local: f.cause(),
	})
}

// close ends the connection and gives its slot back.
func (s *session) close(ctx context.Context) {
	if s.conn != nil {
		quit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		s.conn.Quit(quit)
		cancel()
		s.conn.Close()
		s.conn = nil
	}
	if s.slot {
		s.Throttle.Disconnect(s.path)
		s.slot = false
	}
}
