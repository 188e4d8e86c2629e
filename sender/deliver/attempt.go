package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/queue"
	"carom/sender/route"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// tokenLife is how long a reference token is believed after the message was accepted. Receivers
// report complaints for weeks; none is known to do so after two months.
const tokenLife = 60 * 24 * time.Hour

// mail is a message that was read for an attempt.
type mail struct {
	envelope *spool.Envelope
	content  []byte

	signatures signatures // made for the last transaction
}

// unreadable puts an item back whose message the spool does not give now.
func (s *session) unreadable(item *queue.Item, err error) {
	s.Logger.Error("message not readable", "message_id", item.Message.String(), "error", err)
	s.queue.Retry(item, time.Now().Add(time.Minute))
}

func (s *session) load(id event.ID) (*mail, error) {
	envelope, content, err := s.Mail.Read(id)
	if err != nil {
		return nil, err
	}
	return &mail{envelope: envelope, content: content}, nil
}

// attempt sends an item, in as many transactions as it takes. It reports whether the session may
// go on; the item is dealt with either way.
func (s *session) attempt(ctx context.Context, item *queue.Item) bool {
	var m *mail
	for len(item.Recipients) > 0 {
		part, rest := s.cut(item)
		permit, ok := s.ready(ctx, part)
		if ok && m == nil { // not before: what has to wait needs no memory
			var err error
			if m, err = s.load(item.Message); err != nil {
				s.Throttle.Refund(s.path, len(part.Recipients))
				s.unreadable(item, err)
				return false
			}
		}
		if !ok || !s.transact(ctx, m, part, permit) || s.done() {
			if len(rest.Recipients) > 0 {
				s.back(rest)
			}
			return false
		}
		item = rest
	}
	return true
}

// done reports whether the connection has done its share, or is one too many.
func (s *session) done() bool {
	return s.conn != nil && s.conn.Messages() >= int(s.Throttle.MessagesPerConnection(s.path)) || s.Throttle.Surplus(s.path) || s.queue.ShouldYield()
}

// dropSuppressed finishes the recipients that were suppressed after they had been accepted, and
// returns the item with the others.
func (s *session) dropSuppressed(ctx context.Context, m *mail, item *queue.Item) (*queue.Item, bool) {
	var suppressed, others []uint32
	for _, index := range item.Recipients {
		if s.Suppressions.Suppressed(m.envelope.Tenant, m.envelope.Recipients[index].Address) {
			suppressed = append(suppressed, index)
		} else {
			others = append(others, index)
		}
	}
	if len(suppressed) == 0 {
		return item, true
	}
	gone, rest := *item, *item
	gone.Recipients, rest.Recipients = suppressed, others
	return &rest, s.finishAll(ctx, m.envelope, &gone, event.Suppressed, classify.Suppressed)
}

// cut takes the next transaction off an item: one recipient where the return path carries a token,
// else as many as max-rcpt-per-message allows.
func (s *session) cut(item *queue.Item) (part, rest *queue.Item) {
	most := s.way.settings.MaxRcptPerMessage
	if s.way.settings.BounceDomain != "" && s.Keys != nil {
		most = 1
	}
	n := len(item.Recipients)
	if most > 0 {
		n = min(n, most)
	}
	first, others := *item, *item
	first.Recipients, others.Recipients = item.Recipients[:n:n], item.Recipients[n:]
	return &first, &others
}

// transact runs one transaction and deals with each recipient. It reports whether the session may
// go on.
func (s *session) transact(ctx context.Context, m *mail, item *queue.Item, permit throttle.Permit) bool {
	permitted := len(item.Recipients)
	item, ok := s.dropSuppressed(ctx, m, item)
	s.Throttle.Refund(s.path, permitted-len(item.Recipients))
	if !ok || len(item.Recipients) == 0 {
		return ok
	}
	transaction, signed, err := s.transaction(m, item)
	if err != nil {
		s.Logger.Error("message not sendable", "message_id", item.Message.String(), "error", err)
		s.Throttle.Refund(s.path, len(item.Recipients))
		s.queue.Retry(item, time.Now().Add(time.Minute))
		return true
	}
	conn := s.conn
	sending, done := outlast(ctx)
	result := conn.Send(sending, transaction)
	done()
	if !result.Usable {
		s.conn = nil
	}
	rested := time.Since(s.lastSent)
	defer func() { s.fresh, s.lastSent = false, time.Now() }()
	switch {
	case ctx.Err() != nil && (untried(result) || result.ClosedSilently):
		s.Throttle.Refund(s.path, len(item.Recipients))
		s.back(item)
		return false
	case result.ClosedSilently:
		s.Throttle.Refund(s.path, len(item.Recipients))
		return s.closedInSilence(ctx, item, result.Message-1, rested)
	case refusedChunks(result):
		s.refusesChunks(s.target.addr.Addr()) // the next connection does without
		s.Throttle.Refund(s.path, len(item.Recipients))
		s.back(item)
		return true
	}

	events := make([]*event.Event, len(item.Recipients))
	verdicts := make([]classify.Verdict, len(item.Recipients))
	for i, index := range item.Recipients {
		r := result.Recipients[i]
		decided := failure{phase: r.Phase, reply: r.Reply, err: r.Err}
		verdicts[i] = s.judge(decided)
		events[i] = s.outcome(m.envelope, item, index, kindOf(r, verdicts[i]), decided)
		account.SetVerdict(events[i], verdicts[i])
		s.connection(events[i], conn, result, permit)
		events[i].DKIMDomains = signed
	}
	var retry []uint32
	for i, e := range events {
		s.Throttle.Observe(s.path.Key, verdicts[i].Dimension, verdicts[i].Scope)
		if e.Kind == event.Deferred {
			retry = append(retry, item.Recipients[i])
		}
		if e.Kind == event.Delivered {
			s.queue.Succeeded()
		}
	}
	if !s.record(ctx, item, events...) {
		return false
	}
	s.comeBack(item, retry)
	return true
}

// stopGrace is how long a transaction may go on after the node was told to stop. A connection that
// is cut in the middle makes a duplicate of a message that the peer has just taken; supervisors
// kill what does not stop in 10 s or more.
const stopGrace = 8 * time.Second

// outlast returns a context that ends stopGrace after ctx does, or with done.
func outlast(ctx context.Context) (longer context.Context, done func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })
	return longer, func() {
		stop()
		cancel()
	}
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
	due := time.Now().Add(s.way.settings.RetryRecipientsAfter)
	if queue.At(due) > item.Expires {
		due = item.Expires.Time() // to be finished as expired
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

// longRest is a pause after which a peer that hangs up may do so because of the pause: impatient
// receivers wait ten seconds, RFC 5321 section 4.5.3.2.7 asks for five minutes.
const longRest = 5 * time.Second

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
	if rested > longRest || !s.closedSilently(s.path.Key, messages) {
		return true
	}
	e := s.event(nil, item, 0, event.QueueDeferred)
	s.describe(e, failure{phase: event.PhaseMail, err: fmt.Errorf("connection closed without a reply after %d messages", messages)})
	e.Recipients = uint32(len(item.Recipients)) //nolint:gosec // bounded by the envelope
	e.MessageOnConn = uint32(messages) + 1      //nolint:gosec // the one that was refused, as where a reply refuses it
	account.SetVerdict(e, classify.Classify(classify.Input{
		Phase: event.PhaseMail, Provider: s.path.Key.Provider, Local: classify.ConnectionLost, MessagesOnConnection: uint32(messages), //nolint:gosec // at least 1
	}))
	return s.record(ctx, item, e)
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

// transaction builds what is sent: the stored message with carom's reference and a signature in
// front. It returns the domains that signed.
func (s *session) transaction(m *mail, item *queue.Item) (smtpc.Transaction, []string, error) {
	t := smtpc.Transaction{
		From: m.envelope.From, EnvID: m.envelope.EnvID, Ret: m.envelope.Ret,
		Needs8Bit: has8Bit(m.content), Recipients: make([]smtpc.Rcpt, len(item.Recipients)),
	}
	for i, index := range item.Recipients {
		r := m.envelope.Recipients[index]
		t.Recipients[i] = smtpc.Rcpt{Address: r.Address, ORcpt: r.ORcpt, Notify: notify(r.Notify)}
		t.NeedsUTF8 = t.NeedsUTF8 || !isASCII(r.Address)
	}
	t.NeedsUTF8 = t.NeedsUTF8 || !isASCII(t.From)
	var head strings.Builder
	if s.Keys != nil && len(item.Recipients) == 1 {
		index := item.Recipients[0]
		token, err := s.Keys.Sign(item.Message, index, m.envelope.Recipients[index].Address, item.Arrived.Time().Add(tokenLife))
		if err != nil {
			return t, nil, err
		}
		fmt.Fprintf(&head, "%s: %s\r\n", correlate.Field, token)
		if t.EnvID == "" {
			t.EnvID = token
		}
		if s.way.settings.BounceDomain != "" && t.From != "" {
			t.From = token + "@" + s.way.settings.BounceDomain
		}
	}
	signature, domains := s.way.signer.sign(m)
	body := net.Buffers{[]byte(head.String()), signature, m.content}
	for _, part := range body {
		t.Size += int64(len(part))
	}
	t.Body = buffers(body)
	return t, domains, nil
}

// notify reads the value of NOTIFY (RFC 3461 section 4.1) as the spool keeps it; words that are
// none do not count.
func notify(value string) smtpc.Notify {
	var n smtpc.Notify
	for word := range strings.SplitSeq(value, ",") {
		switch strings.ToUpper(strings.TrimSpace(word)) {
		case "NEVER":
			return smtpc.NotifyNever
		case "SUCCESS":
			n |= smtpc.NotifySuccess
		case "FAILURE":
			n |= smtpc.NotifyFailure
		case "DELAY":
			n |= smtpc.NotifyDelay
		}
	}
	return n
}

// buffers is a body in parts. Unlike net.Buffers it can be written again.
type buffers [][]byte

// WriteTo is part of io.WriterTo.
func (b buffers) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, part := range b {
		n, err := w.Write(part)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func has8Bit(content []byte) bool {
	for _, c := range content {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// event returns an event of the queue, about a recipient if envelope is not nil.
func (s *session) event(envelope *spool.Envelope, item *queue.Item, index uint32, kind event.Kind) *event.Event {
	e := &event.Event{
		Time: time.Now().UTC(), Kind: kind, Queue: s.queue.Name().String(), VMTA: s.way.vmta.Name,
		RecipientDomain: s.queue.Name().Domain, Provider: s.path.Key.Provider, Source: s.path.Key.Source, SourceIP: s.source.addr, EHLO: s.source.ehlo,
	}
	if envelope == nil {
		return e
	}
	FillEnvelope(e, envelope, index, s.Suppressions)
	e.Attempt = uint32(item.Attempts)
	e.Queued = e.Time.Sub(item.Arrived.Time())
	return e
}

// FillEnvelope fills in what the envelope says about one recipient.
func FillEnvelope(e *event.Event, envelope *spool.Envelope, index uint32, suppressions Suppressions) {
	r := envelope.Recipients[index]
	e.MessageID, e.RecipientIdx = envelope.ID, index
	e.MailFrom, e.MailFromDomain = envelope.From, mailFromDomain(envelope.From)
	e.FromDomain, e.Recipient, e.RecipientDomain = envelope.Attrs[AttrFromDomain], r.Address, route.Domain(r.Address)
	e.RecipientKey = suppressions.Key(r.Address)
	e.VMTA, e.Pool, e.Job, e.EnvID, e.Tenant, e.SMTPUser = envelope.VMTA, envelope.Pool, envelope.Job, envelope.EnvID, envelope.Tenant, envelope.SMTPUser
	e.Listener, e.ClientIP, e.ClientMTA = envelope.Attrs[AttrListener], envelope.ClientIP, envelope.ClientHost
	e.Size = uint64(max(0, envelope.Size)) //nolint:gosec // not negative
	if r.ORcpt != "" {
		e.Headers = map[string]string{"ORCPT": r.ORcpt}
	}
}

func mailFromDomain(from string) string {
	if !strings.Contains(from, "@") {
		return ""
	}
	return route.Domain(from)
}

// outcome returns the event of one recipient's attempt.
func (s *session) outcome(envelope *spool.Envelope, item *queue.Item, index uint32, kind event.Kind, f failure) *event.Event {
	e := s.event(envelope, item, index, kind)
	e.Attempt = uint32(item.Attempts) + 1
	s.describe(e, f)
	return e
}

// describe fills in what was answered, or what went wrong here.
func (s *session) describe(e *event.Event, f failure) {
	e.Phase = f.phase
	e.MXHost, e.MXIP = s.target.name, s.target.addr.Addr()
	if !f.reply.IsZero() {
		e.SetReply(f.reply)
		return
	}
	if f.err != nil {
		e.Reply = f.err.Error()
		e.ReplyTemplate = event.ReplyTemplate(e.Reply)
		e.Enhanced = f.enhanced().String()
	}
}

// connection fills in what an attempt says about its connection and its limit.
func (s *session) connection(e *event.Event, conn *smtpc.Conn, r smtpc.Result, permit throttle.Permit) {
	e.ConnectionID, e.MessageOnConn = conn.ID(), uint32(max(0, r.Message)) //nolint:gosec // not negative
	e.OpenConnections = s.Throttle.Connections(s.path.Key)
	e.Transfer = r.Timing.Total()
	if s.fresh {
		timing := conn.Timing()
		e.DNS, e.Connect, e.TLS = s.dns, timing.Connect+timing.Greeting, timing.TLS
	}
	if state := conn.TLS(); state != nil {
		e.TLSVersion, e.TLSCipher = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	}
	e.LimitEpoch, e.LimitActor, e.LimitReason = permit.Epoch, string(permit.Actor), permit.ReasonID
	e.LimitingScope, e.Canary = permit.LimitingScope, permit.Canary
	if e.Headers == nil {
		e.Headers = map[string]string{}
	}
	e.Headers["ESMTP"] = strings.Join(conn.Extensions().Keywords, ",")
}
