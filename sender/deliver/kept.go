package deliver

import (
	"slices"
	"strings"
	"unique"

	"carom/ingest/mime"
	"carom/schemas/clock"
	"carom/sender/queue"
	"carom/sender/scoped"
	"carom/sender/spool"
)

// carried returns what the item itself says of its mail.
func (s *session) carried(item *queue.Item) *scoped.Mail {
	m := &scoped.Mail{ID: item.Message, Provider: s.path.Key.Provider, Waited: item.Due != 0, Recipients: len(item.Recipients)}
	if item.Labels != (unique.Handle[queue.Labels]{}) {
		labels := item.Labels.Value()
		m.Tenant, m.Job = labels.Tenant, labels.Job
	}
	return m
}

// keptBack parks an item that a hold stops, and reports whether it did. The envelope is read only if
// a hold asks for what is in it, or stops the item: who is exempt is the user that has logged in, not
// the tenant that a header of the message may name.
func (s *session) keptBack(item *queue.Item) bool {
	if s.Keeper == nil {
		return false
	}
	depth := s.Keeper.Depth(s.path.Key.Provider)
	if depth < scoped.Labels {
		return false
	}
	m := s.carried(item)
	var envelope *spool.Envelope
	var err error
	if depth >= scoped.Envelope {
		if envelope, err = s.Mail.Envelope(item.Message); err != nil {
			return false // whoever reads it next deals with that
		}
		m.FromDomain = strings.ToLower(envelope.Attrs[AttrFromDomain])
	}
	v := s.Keeper.Held(m)
	if !v.Held {
		return false
	}
	if envelope == nil {
		if envelope, err = s.Mail.Envelope(item.Message); err != nil {
			return false
		}
	}
	if s.way.view.config.HoldExempt(s.way.vmta, envelope.SMTPUser, m.Job) {
		return false
	}
	s.Throttle.KeptBack(s.path, v.Scope, v.About, v.By)
	s.queue.Park(item)
	if !s.Keeper.Held(m).Held { // the hold ended before the item was among those that its end lets go
		s.queue.Unpark()
	}
	return true
}

// scopedWait puts an item back for as long as a limit of what its message carries says, and reports
// whether it did: before it takes a permit or a connection, so the message is read for it, into m. Where
// nothing limits it, what it took stands in s.admitted, for unadmit.
func (s *session) scopedWait(m **mail, item *queue.Item) bool {
	s.admitted = nil
	if s.Keeper == nil || s.Keeper.Depth(s.path.Key.Provider) < scoped.Message {
		return false
	}
	if *m == nil {
		read, err := s.load(item)
		if err != nil {
			return false // whoever reads it next deals with that
		}
		*m = read
	}
	about := s.carried(item)
	about.FromDomain = strings.ToLower((*m).envelope.Attrs[AttrFromDomain])
	about.Domains, about.HasURL = s.domainsOf(*m), (*m).hasURL
	v := s.Keeper.Admit(about)
	if v.Wait <= 0 {
		s.admitted = about
		return false
	}
	s.Throttle.KeptBack(s.path, v.Scope, v.About, v.By)
	due := clock.Now().Add(v.Wait)
	if expires := item.Expires.Time(); due.After(expires) {
		due = expires // to be finished as expired
	}
	s.queue.Retry(item, due)
	return true
}

// unadmit gives back what scopedWait took for recipients that were not attempted.
func (s *session) unadmit(recipients int) {
	if s.admitted != nil && recipients > 0 {
		s.Keeper.Refund(s.admitted, recipients)
	}
}

// refund gives back a permit, and what scopedWait took, for recipients that were not attempted.
func (s *session) refund(recipients int) {
	s.Throttle.Refund(s.path, recipients)
	s.unadmit(recipients)
}

// domainsOf returns the domains that stand for a message at a receiver: those that sign it, here or
// before it came, and that of its return path (SPF).
func (s *session) domainsOf(m *mail) []string {
	_, signed := s.way.signer.sign(m)
	domains := slices.Clone(signed)
	if header, _, err := mime.ParseHeader(m.content, maxLookedAt); err == nil {
		for _, signature := range header.Values("DKIM-Signature") {
			if d := tagValue(signature, "d"); d != "" {
				domains = append(domains, d)
			}
		}
	}
	domains = append(domains, mailFromDomain(m.envelope.From), s.way.settings.BounceDomain)
	for i := range domains {
		domains[i] = strings.ToLower(domains[i])
	}
	return slices.DeleteFunc(domains, func(d string) bool { return d == "" })
}

// tagValue returns the value of a tag of a DKIM signature (RFC 6376 section 3.2), "" if it has none.
func tagValue(signature, name string) string {
	for tag := range strings.SplitSeq(signature, ";") {
		if key, value, ok := strings.Cut(tag, "="); ok && strings.TrimSpace(key) == name {
			return strings.Join(strings.Fields(value), "")
		}
	}
	return ""
}
