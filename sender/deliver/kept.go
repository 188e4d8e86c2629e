package deliver

import (
	"bytes"
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
	depth := s.Keeper.Depth()
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
	if !s.Keeper.Held(m).Held {
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
	s.queue.Park(item)
	if !s.Keeper.Held(m).Held { // the hold ended before the item was among those that its end lets go
		s.queue.Unpark()
	}
	return true
}

// scopedWait puts an item back for as long as a limit of what its message carries says, and reports
// whether it did. What the throttle gave for it is given back.
func (s *session) scopedWait(m *mail, item *queue.Item) bool {
	if s.Keeper == nil || s.Keeper.Depth() < scoped.Message {
		return false
	}
	about := s.carried(item)
	about.FromDomain = strings.ToLower(m.envelope.Attrs[AttrFromDomain])
	about.Domains, about.HasURL = s.domainsOf(m), m.hasURL
	v := s.Keeper.Admit(about)
	if v.Wait <= 0 {
		return false
	}
	s.Throttle.Refund(s.path, len(item.Recipients))
	due := clock.Now().Add(v.Wait)
	if expires := item.Expires.Time(); due.After(expires) {
		due = expires // to be finished as expired
	}
	s.queue.Retry(item, due)
	return true
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

// maxLookedAt bounds the bytes of a message in which URLs, and of its header in which signatures are
// looked for.
const maxLookedAt = 1 << 20

// urlNames are the host names in the URLs of a message, in lower case, read once.
type urlNames struct {
	read  bool
	names map[string]bool
}

// hasURL reports whether a message has a URL of the host, or of one below it.
func (m *mail) hasURL(host string) bool {
	if !m.hosts.read {
		m.hosts.read, m.hosts.names = true, urlHosts(m.content)
	}
	if m.hosts.names[host] {
		return true
	}
	for name := range m.hosts.names {
		if strings.HasSuffix(name, "."+host) {
			return true
		}
	}
	return false
}

// maxHosts bounds the hosts that are remembered of one message.
const maxHosts = 1000

// urlHosts returns the hosts of what looks like a URL in the text parts of a message. A message that
// cannot be read as one has none.
func urlHosts(content []byte) map[string]bool {
	names := map[string]bool{}
	parsed, err := mime.Parse(content, mime.Limits{MessageBytes: maxLookedAt})
	if err != nil {
		return names
	}
	for _, part := range parsed.Parts {
		if !strings.HasPrefix(part.MediaType, "text/") {
			continue
		}
		for text := part.Body; len(names) < maxHosts; {
			_, after, found := bytes.Cut(text, []byte("://"))
			if !found {
				break
			}
			end := bytes.IndexFunc(after, func(r rune) bool { return strings.ContainsRune("/?#:\"'<> \t\r\n)]\\", r) })
			if end < 0 {
				end = len(after)
			}
			name := strings.ToLower(strings.TrimRight(string(after[:end]), "."))
			if _, bare, ok := strings.Cut(name, "@"); ok {
				name = bare
			}
			if name != "" {
				names[name] = true
			}
			text = after[end:]
		}
	}
	return names
}
