package deliver

import (
	"crypto/tls"
	"maps"
	"strings"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/account"
	"carom/sender/queue"
	"carom/sender/route"
	"carom/sender/smtpc"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// about is what events say of a connection, worked out once. The map is shared by events, which
// nobody changes.
type about struct {
	id         event.ID
	tlsVersion string
	tlsCipher  string
	headers    map[string]string
}

func aboutConn(conn *smtpc.Conn) about {
	a := about{id: conn.ID(), headers: map[string]string{"ESMTP": strings.Join(conn.Extensions().Keywords, ",")}}
	if state := conn.TLS(); state != nil {
		a.tlsVersion, a.tlsCipher = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	}
	return a
}

// event returns an event of the queue, about a recipient if envelope is not nil. It is the session's
// only one, a kilobyte, and serves until the next call: the recorder keeps none.
func (s *session) event(envelope *spool.Envelope, item *queue.Item, index uint32, kind event.Kind) *event.Event {
	e := &s.scratch
	*e = event.Event{
		Time: clock.Now().UTC(), Kind: kind, Queue: s.queue.String(), RecipientDomain: s.queue.Name().Domain,
		Provider: s.path.Key.Provider, Source: s.path.Key.Source, SourceIP: s.source.addr, EHLO: s.source.ehlo,
	}
	if envelope != nil {
		FillEnvelope(e, envelope, index, s.Suppressions)
		e.Attempt = uint32(item.Attempts)
		e.Queued = e.Time.Sub(item.Arrived.Time())
	}
	e.VMTA = s.way.vmta.Name // mail may have been rerouted since it was accepted
	return e
}

// FillEnvelope fills in what the envelope says about one recipient.
func FillEnvelope(e *event.Event, envelope *spool.Envelope, index uint32, suppressions Suppressions) {
	r := &envelope.Recipients[index]
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
	for name, value := range envelope.Headers {
		if name == account.MessageIDHeader {
			continue // the received event has it
		}
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers[name] = value
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
	e.Attempt++
	s.describe(e, f)
	return e
}

// unavailable is what replace-smtp-421-service-response writes in place of a 421.
const unavailable = "service unavailable"

// describe fills in what was answered, or what went wrong here.
func (s *session) describe(e *event.Event, f failure) {
	e.Phase = f.phase
	e.MXHost, e.MXIP = s.target.name, s.target.addr.Addr()
	switch {
	case !f.reply.IsZero():
		e.SetReply(f.reply)
		if s.meansBadMailbox(f) {
			e.Enhanced = badMailbox.String()
		}
		if f.reply.Code == 421 && s.way.settings.ReplaceSMTP421ServiceResponse {
			e.Reply, e.ReplyTemplate = unavailable, unavailable
		}
	case f.err != nil:
		e.Reply = f.err.Error()
		e.ReplyTemplate = event.ReplyTemplate(e.Reply)
		e.Enhanced = f.enhanced().String()
	}
}

// connection fills in what an attempt says about its connection and its limit.
func (s *session) connection(e *event.Event, conn *smtpc.Conn, r *smtpc.Result, permit *throttle.Permit, open uint32) {
	e.ConnectionID, e.MessageOnConn = s.about.id, uint32(max(0, r.Message)) //nolint:gosec // not negative
	e.OpenConnections = open
	e.Transfer = r.Timing.Total()
	e.Mail, e.Rcpt, e.Data, e.Body, e.FinalDot = r.Timing.Mail, r.Timing.Rcpt, r.Timing.Data, r.Timing.Body, r.Timing.FinalDot
	if s.fresh {
		timing := conn.Timing()
		e.DNS, e.Connect, e.TLS = s.dns, timing.Connect+timing.Greeting, timing.TLS
	}
	e.TLSVersion, e.TLSCipher = s.about.tlsVersion, s.about.tlsCipher
	e.LimitEpoch, e.LimitActor, e.LimitReason = permit.Epoch, string(permit.Actor), permit.ReasonID
	e.LimitingScope, e.Canary = permit.LimitingScope, permit.Canary
	if e.Headers == nil {
		e.Headers = s.about.headers
		return
	}
	maps.Copy(e.Headers, s.about.headers) // those of the recipient are its own
}
