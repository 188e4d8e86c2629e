package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"carom/ingest/classify"
	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// unreadable deals with an item whose message the spool does not give. What is damaged stays so: its
// recipients bounce, or if nobody can say who they are, the message is dropped. A message that is
// finished needs nothing more. Any other error may be gone later.
func (s *session) unreadable(item *queue.Item, err error) {
	damage := err
	var envelope *spool.Envelope
	if spool.Damaged(err) {
		envelope, err = s.Mail.Envelope(item.Message)
	}
	switch {
	case err == nil:
		s.Logger.Error("message is damaged in the spool and bounces", "message_id", item.Message.String(), "recipients", len(item.Recipients), "error", damage)
		s.finishAll(envelope, item, event.Bounced, classify.MessageDamaged)
	case errors.Is(err, spool.ErrNotFound):
	case spool.Damaged(err):
		s.Mail.Drop(item.Message, err)
	default:
		s.Logger.Error("message not readable", "message_id", item.Message.String(), "error", err)
		s.queue.Retry(item, clock.Now().Add(time.Minute))
	}
}

// attempt sends an item, in as many transactions as it takes. It reports whether the session may
// go on; the item is dealt with either way.
func (s *session) attempt(ctx context.Context, item *queue.Item) bool {
	var m *mail
	for len(item.Recipients) > 0 {
		part, rest := s.cut(m, item)
		unread := m == nil
		permit, ok := s.ready(ctx, &m, part)
		if s.kept {
			if rest == nil {
				return true
			}
			item = rest
			continue
		}
		if ok && m == nil { // not before: what has to wait needs no memory
			var err error
			if m, err = s.load(item); err != nil {
				s.refund(len(part.Recipients))
				s.unreadable(item, err)
				return false
			}
		}
		if n := len(part.Recipients); ok && unread && n > 1 && m.hasVERP() {
			part, rest = s.cut(m, item)
			s.refund(n - len(part.Recipients))
		}
		if !ok || !s.transact(ctx, m, part, permit) || s.done() {
			if rest != nil {
				s.back(rest)
			}
			return false
		}
		if rest == nil {
			return true
		}
		item = rest
	}
	return true
}

// done reports whether the connection has done its share, or is one too many.
func (s *session) done() bool {
	if s.over || s.conn != nil && s.conn.Messages() >= s.messagesPerConnection() {
		return true
	}
	if most := s.way.settings.MaxErrorsPerConnection; most > 0 && s.failures >= most {
		return true
	}
	return s.Throttle.Surplus(s.path)
}

func (s *session) messagesPerConnection() int { return int(s.Throttle.MessagesPerConnection(s.path)) }

// dropSuppressed finishes the recipients that were suppressed after they had been accepted, and
// returns the item with the others.
func (s *session) dropSuppressed(m *mail, item *queue.Item) *queue.Item {
	suppressed := func(index uint32) bool {
		return s.Suppressions.Suppressed(m.envelope.Tenant, m.envelope.Recipients[index].Address)
	}
	if !slices.ContainsFunc(item.Recipients, suppressed) {
		return item
	}
	gone, rest := *item, *item
	gone.Recipients, rest.Recipients = nil, nil
	for _, index := range item.Recipients {
		if suppressed(index) {
			gone.Recipients = append(gone.Recipients, index)
		} else {
			rest.Recipients = append(rest.Recipients, index)
		}
	}
	s.finishAll(m.envelope, &gone, event.Suppressed, classify.Suppressed)
	return &rest
}

// cut takes the next transaction off an item: one recipient where the return path is his own,
// else as many as max-rcpt-per-message allows. Rest is nil if there is none; m is nil as long as the
// message is not read.
func (s *session) cut(m *mail, item *queue.Item) (part, rest *queue.Item) {
	most := s.way.settings.MaxRcptPerMessage
	if s.way.settings.BounceDomain != "" && s.Keys != nil || m.hasVERP() {
		most = 1
	}
	n := len(item.Recipients)
	if most == 0 || n <= most {
		return item, nil
	}
	first, others := *item, *item
	first.Recipients, others.Recipients = item.Recipients[:most:most], item.Recipients[most:]
	return &first, &others
}

// transact runs one transaction and deals with each recipient. It reports whether the session may
// go on.
func (s *session) transact(ctx context.Context, m *mail, item *queue.Item, permit throttle.Permit) bool {
	permitted := len(item.Recipients)
	if s.rollsUp() {
		if strangers := s.strangers(ctx, m, item); len(strangers) > 0 {
			item = s.sendAway(item, strangers)
		}
	}
	if item = s.dropSuppressed(m, item); len(item.Recipients) < permitted {
		s.refund(permitted - len(item.Recipients))
	}
	if len(item.Recipients) == 0 {
		return true
	}
	if due, ok := m.due(clock.Now(), item.Expires); !ok {
		s.refund(len(item.Recipients))
		s.queue.Retry(item, due)
		return true
	}
	transaction, signed, err := s.transaction(m, item)
	if err != nil {
		s.Logger.Error("message not sendable", "message_id", item.Message.String(), "error", err)
		s.refund(len(item.Recipients))
		s.queue.Retry(item, clock.Now().Add(time.Minute))
		return true
	}
	conn := s.conn
	s.ended.Store(false)
	result := s.send(transaction)
	rested, now := s.lastSent, clock.Now()
	defer func() { s.fresh, s.lastSent = false, now }()
	if !result.Usable {
		s.drop()
	}
	switch {
	case ctx.Err() != nil && (untried(result) || result.ClosedSilently):
		s.refund(len(item.Recipients))
		s.back(item)
		return false
	case result.ClosedSilently:
		s.refund(len(item.Recipients))
		return s.closedInSilence(ctx, item, result.Message-1, now.Sub(rested))
	case refusedChunks(result):
		s.refusesChunks(s.target.addr.Addr()) // the next connection does without
		s.refund(len(item.Recipients))
		s.back(item)
		return true
	}
	return s.conclude(ctx, &attempted{m, item, conn, &result, &permit, signed, transaction.Size}, now)
}

// attempted is a transaction that was made.
type attempted struct {
	*mail
	item   *queue.Item
	conn   *smtpc.Conn
	result *smtpc.Result
	permit *throttle.Permit
	signed []string // domains
	size   int64
}

// conclude deals with each recipient of a transaction and reports whether the session may go on.
func (s *session) conclude(ctx context.Context, a *attempted, now time.Time) bool {
	open := s.Throttle.Connections(s.path.Key)
	exempt := s.way.view.config.HoldExempt(s.way.vmta, a.envelope.SMTPUser, a.envelope.Job)
	var retry, again, spent []uint32
	var skipped, bounce smtpstatus.Reply
	delivered, refused, survived := false, false, false
	for i, index := range a.item.Recipients {
		r := &a.result.Recipients[i]
		f := failure{phase: r.Phase, reply: r.Reply, err: r.Err}
		heldBack := errors.Is(r.Err, smtpc.ErrHeldBack)
		if heldBack || ctx.Err() != nil && r.Err != nil && r.Phase != event.PhaseFinalDot {
			again = append(again, index) // it was us who ended it
			if heldBack && !s.over {
				s.over = true
				s.queue.Defer(now.Add(time.Minute), "accounting has stopped") // and soon the node
			}
			continue
		}
		d := s.consult(r.Reply, r.Phase == event.PhaseRcpt, now)
		s.act(d, r.Reply, now)
		if d.SkipMX || r.Reply.Code == 421 && s.way.settings.SMTP421MeansMXUnavailable {
			again, skipped = append(again, index), r.Reply
			continue
		}
		verdict := s.judge(f)
		kind := s.kind(r, verdict, a)
		if d.Reject {
			kind = event.Bounced
		}
		if d.Bounce {
			kind, bounce = event.Bounced, r.Reply
		}
		survived = survived || r.Reply.Code == 421
		e := s.outcome(a.envelope, a.item, index, kind, f)
		account.SetVerdict(e, verdict)
		if kind == event.Delivered && r.Err != nil { // assumed
			e.Enhanced = "2.0.0"
			account.SetVerdict(e, classify.Verdict{Category: taxonomy.Delivered, Class: taxonomy.None, Dimension: taxonomy.OK})
		}
		s.connection(e, a.conn, a.result, a.permit, open)
		e.DKIMDomains, e.HoldExempt = a.signed, exempt
		if verdict.Scope == taxonomy.ScopeURL {
			s.urls.refused(s.path.Key.Provider, now)
		}
		if s.urls.watches(s.path.Key.Provider, now) {
			e.URLHosts = a.urlHosts()
		}
		s.submit(e)
		s.Throttle.Observe(s.path.Key, a.item.Attempts == 0, verdict.Dimension, verdict.Scope)
		switch kind {
		case event.Delivered:
			delivered = true
		case event.Deferred:
			s.failures++
			refused = refused || r.Reply.Transient()
			if most := s.way.settings.MaxRetries; most > 0 && int(a.item.Attempts)+1 >= most {
				spent = append(spent, index)
			} else {
				retry = append(retry, index)
			}
		default:
			s.failures++
		}
	}
	s.account(a, delivered, refused, now)
	if len(spent) > 0 {
		last := *a.item
		last.Recipients, last.Attempts = spent, a.item.Attempts+1
		s.finishAll(a.envelope, &last, event.Expired, classify.QueueExpired)
	}
	s.comeBack(a.item, retry)
	return s.goOn(ctx, a, again, skipped, bounce, survived)
}

// account tells the queue and the throttle how a transaction went.
func (s *session) account(a *attempted, delivered, refused bool, now time.Time) {
	if delivered {
		s.delivered = true
		s.way.hangups.delivered()
		s.Throttle.Sent(s.path, a.size)
		s.queue.Succeeded()
		if s.way.settings.BackoffToNormalAfterDelivery && s.queue.Mode(now) == queue.Backoff {
			s.leaveBackoff("a message was delivered")
		}
	}
	if refused && s.way.penalties != nil && !s.way.loopRules() {
		s.queue.Failed(s.way.penalties, s.way.settings.PTSExpiration)
		s.over = true
	}
}

// endedBy421 says why a queue waits after a 421 ended a connection before anything was delivered over it.
const endedBy421 = "receiver hangs up with 421"

// goOn deals with the recipients that were not attempted to the end, and with the connection. It
// reports whether the session may go on.
func (s *session) goOn(ctx context.Context, a *attempted, again []uint32, skipped, bounce smtpstatus.Reply, survived bool) bool {
	others := true
	if !skipped.IsZero() {
		s.skipOf(ctx, a, len(again), skipped)
		others = s.skip(s.target.name, clock.Now())
		if !others {
			s.queue.Failed(s.way.waits[s.way.mode(s.queue, clock.Now())], 0)
		}
	}
	if len(again) > 0 {
		s.refund(len(again))
		rest := *a.item
		rest.Recipients = again
		s.back(&rest)
	}
	if !bounce.IsZero() {
		s.bounceQueue(ctx, bounce)
	}
	if survived && s.conn != nil && s.conn.Reset(ctx) != nil { // did it survive the 421?
		s.drop()
	}
	if survived && s.conn == nil && !s.delivered {
		s.queue.Defer(s.way.hangups.hungUp(clock.Now()), endedBy421)
		s.over = true
	}
	return others && ctx.Err() == nil
}

// skipOf writes down that a host is skipped, in PowerMTA's words, and leaves it.
func (s *session) skipOf(ctx context.Context, a *attempted, recipients int, reply smtpstatus.Reply) {
	e := s.event(nil, a.item, 0, event.QueueDeferred)
	s.describe(e, failure{phase: event.PhaseMail, reply: reply})
	e.Reply = fmt.Sprintf("skip of MX requested: %q received from %s (%s) while connected from %s to %s",
		reply.String(), s.target.name, s.target.addr.Addr(), s.source.ehlo, s.queue.Name().Domain)
	e.ReplyTemplate = event.ReplyTemplate(e.Reply)
	e.Recipients = uint32(recipients) //nolint:gosec // bounded by the envelope
	account.SetVerdict(e, s.judge(failure{phase: event.PhaseMail, reply: reply}))
	s.submit(e)
	s.hangUp(ctx)
}

// hangUp ends the connection, with QUIT when all that was answered over it is durable. When accounting
// has stopped it never will be, and the peer is left in doubt too.
func (s *session) hangUp(ctx context.Context) {
	if s.conn == nil {
		return
	}
	if s.settle(context.WithoutCancel(ctx)) == nil { // else it fails again at the end of Run, which says so
		quit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		s.conn.Quit(quit)
	}
	s.drop()
}

// kind returns what becomes of a recipient.
func (s *session) kind(r *smtpc.RcptResult, v classify.Verdict, a *attempted) event.Kind {
	kind := kindOf(*r, v)
	set := &s.way.settings
	switch {
	case kind == event.Bounced && v.Dimension == taxonomy.Block && set.Block5xx == config.BlockRetry && suspended(a.permit):
		return event.Deferred
	case kind != event.Deferred || r.Err == nil:
		return kind
	case r.Phase == event.PhaseFinalDot && set.AssumeDelivery && timedOut(r.Err):
		return event.Delivered
	case lostInTransfer(r) && (set.BounceUponTransferFailure || set.BounceUponPIXFailure && a.conn.PIX()):
		return event.Bounced
	}
	return kind
}

// suspended reports whether the key gets trials only, or the guard has cut its rate: then a block is
// known, and what it refuses is not to blame (design/control.md 5.5, rule 10).
func suspended(p *throttle.Permit) bool { return p.Canary || p.Actor == limits.ByGuard }

// lostInTransfer reports whether the connection was lost during the body, or after so little of it
// that it was sent at once.
func lostInTransfer(r *smtpc.RcptResult) bool {
	return r.Phase == event.PhaseBody || r.Phase == event.PhaseFinalDot && errors.Is(r.Err, smtpc.ErrPeerClosed)
}

func timedOut(err error) bool {
	e, ok := errors.AsType[*smtpc.Error](err)
	return ok && e.Timeout()
}

// refusedChunks reports whether the peer offers CHUNKING and does not know BDAT: nobody got the
// message.
func refusedChunks(r smtpc.Result) bool {
	return slices.ContainsFunc(r.Recipients, func(recipient smtpc.RcptResult) bool {
		return errors.Is(recipient.Err, smtpc.ErrChunking)
	})
}

// comeBack puts the recipients that were deferred into retry.
func (s *session) comeBack(item *queue.Item, recipients []uint32) {
	if len(recipients) == 0 {
		return
	}
	again := *item
	again.Recipients, again.Attempts = recipients, item.Attempts+1
	due := clock.Now().Add(s.way.settings.RetryRecipientsAfter)
	if expires := item.Expires.Time(); due.After(expires) {
		due = expires // to be finished as expired
	}
	if err := s.Mail.Rescheduled(item.Message, recipients, uint32(again.Attempts), due); err != nil {
		s.Logger.Error("retry not noted in the spool", "message_id", item.Message.String(), "error", err)
	}
	s.queue.Retry(&again, due)
}

// untried reports whether nothing of a transaction was decided by the peer.
func untried(r smtpc.Result) bool {
	for _, recipient := range r.Recipients {
		if !recipient.Reply.IsZero() || recipient.Phase == event.PhaseFinalDot {
			return false
		}
	}
	return true
}

// closedInSilence deals with a peer that closed the connection, after so many messages, before it
// answered the first command of the next: nothing was attempted. At the same number twice in a row
// it is a limit of the receiver, and is written down as one; before the first message it is a
// failure of the connection.
func (s *session) closedInSilence(ctx context.Context, item *queue.Item, messages int, rested time.Duration) bool {
	if messages < 1 {
		s.refused(ctx, item, failure{phase: event.PhaseMail, err: errors.New("connection closed without a reply")})
		return false
	}
	s.back(item)
	if rested > patience || !s.closedSilently(s.path.Key, messages) {
		return true
	}
	e := s.event(nil, item, 0, event.QueueDeferred)
	s.describe(e, failure{phase: event.PhaseMail, err: fmt.Errorf("connection closed without a reply after %d messages", messages)})
	e.Recipients = uint32(len(item.Recipients)) //nolint:gosec // bounded by the envelope
	e.MessageOnConn = uint32(messages) + 1      //nolint:gosec // the one that was refused, as where a reply refuses it
	account.SetVerdict(e, classify.Classify(classify.Input{
		Phase: event.PhaseMail, Provider: s.path.Key.Provider, Local: classify.ConnectionLost, MessagesOnConnection: uint32(messages), //nolint:gosec // at least 1
	}))
	s.submit(e)
	return true
}

// kindOf returns what becomes of a recipient: a permanent refusal bounces it unless the refusal
// is aimed at us for a while and not at the recipient.
func kindOf(r smtpc.RcptResult, v classify.Verdict) event.Kind {
	switch {
	case r.Delivered():
		return event.Delivered
	case r.Err != nil:
		if !(failure{err: r.Err}).temporary() {
			return event.Bounced
		}
		return event.Deferred
	case r.Reply.Permanent() && !passing(v.Dimension):
		return event.Bounced
	default:
		return event.Deferred
	}
}

// passing reports whether a refusal is about how much comes how soon: it says nothing about the
// recipient, whatever its code.
func passing(d taxonomy.Dimension) bool {
	switch d {
	case taxonomy.Rate, taxonomy.Connections, taxonomy.Messages, taxonomy.Greylist:
		return true
	default:
		return false
	}
}
