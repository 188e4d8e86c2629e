package pmta

import (
	"net/netip"
	"strings"

	"carom/schemas/event"
)

// maxWaiting bounds the deferred recipients that a Memory counts attempts of, in entries: twice as many
// are there at most, some 100 MB.
const maxWaiting = 1 << 20

// maxLearned bounds the domains and virtual MTAs that a Memory knows; then it begins anew.
const maxLearned = 1 << 18

// Memory knows what the records before one tell of it. A record of PowerMTA has no number of its attempt,
// one of an attempt that reached nobody has no host, and that of a bounce often no source.
type Memory struct {
	attempts  map[event.ID]uint32 // of deferred recipients
	older     map[event.ID]uint32 // the same, before attempts was full
	providers map[string]string   // by domain, of recipients and of queues
	sources   map[string]netip.Addr
}

// NewMemory returns a memory that knows nothing yet.
func NewMemory() *Memory {
	return &Memory{attempts: map[event.ID]uint32{}, providers: map[string]string{}, sources: map[string]netip.Addr{}}
}

// Complete fills in what the events before e say of it, and remembers e. Events come in the order of
// their file, files in the order of their time.
func (m *Memory) Complete(e *event.Event) {
	switch e.Kind {
	case event.Delivered, event.Bounced, event.Deferred, event.QueueDeferred:
		m.learn(e)
		m.fill(e)
	case event.Expired, event.Deleted, event.Suppressed, event.Discarded:
		m.fill(e)
	default: // reports and receipts: nothing is known of an attempt
		return
	}
	m.count(e)
}

// learn notes whose host a domain has, and which address a virtual MTA.
func (m *Memory) learn(e *event.Event) {
	if e.Provider != "" {
		remember(m.providers, e.RecipientDomain, e.Provider)
		remember(m.providers, queueDomain(e.Queue), e.Provider)
	}
	if e.VMTA == "" || !e.SourceIP.IsValid() {
		return
	}
	had, ok := m.sources[e.VMTA]
	switch {
	case !ok && len(m.sources) < maxLearned:
		m.sources[strings.Clone(e.VMTA)] = e.SourceIP
	case ok && had != e.SourceIP:
		m.sources[e.VMTA] = netip.Addr{} // it has several: nothing follows from its name
	}
}

func remember(known map[string]string, domain, provider string) {
	if domain == "" || known[domain] == provider {
		return
	}
	if len(known) >= maxLearned {
		clear(known)
	}
	known[strings.Clone(domain)] = strings.Clone(provider)
}

// fill takes provider and source from what was learned. Where nothing better is known, the domain
// stands for the provider.
func (m *Memory) fill(e *event.Event) {
	if e.Provider == "" {
		for _, domain := range []string{e.RecipientDomain, queueDomain(e.Queue)} {
			if name, ok := m.providers[domain]; ok {
				e.Provider = name
				break
			}
		}
	}
	if e.Provider == "" {
		e.Provider = ofDomain(e.RecipientDomain)
	}
	if !e.SourceIP.IsValid() && e.Code != 0 { // without an answer there may have been no connection
		if ip := m.sources[e.VMTA]; ip.IsValid() {
			e.SourceIP, e.Source = ip, event.SourceKey(ip)
		}
	}
}

// count numbers the attempt.
func (m *Memory) count(e *event.Event) {
	if e.MessageID == (event.ID{}) {
		return
	}
	before, ok := m.attempts[e.MessageID]
	if !ok {
		before = m.older[e.MessageID]
	}
	switch e.Kind {
	case event.Deferred:
		e.Attempt = before + 1
		if len(m.attempts) >= maxWaiting {
			m.older, m.attempts = m.attempts, map[event.ID]uint32{}
		}
		m.attempts[e.MessageID] = e.Attempt
		return
	case event.Delivered, event.Bounced:
		e.Attempt = before + 1
	default: // it ended without another attempt
		e.Attempt = before
	}
	delete(m.attempts, e.MessageID)
	delete(m.older, e.MessageID)
}

// domains names the providers of mailbox domains that need no look-up: for files without dsnMta.
var domains = map[string]string{
	"gmail.com": "google", "googlemail.com": "google",
	"outlook.com": "outlook", "hotmail.com": "outlook", "live.com": "outlook", "msn.com": "outlook",
	"hotmail.co.uk": "outlook", "hotmail.fr": "outlook", "hotmail.de": "outlook", "hotmail.it": "outlook", "live.co.uk": "outlook", "live.fr": "outlook",
	"yahoo.com": "yahoo", "ymail.com": "yahoo", "rocketmail.com": "yahoo", "aol.com": "yahoo", "aim.com": "yahoo", "att.net": "yahoo",
	"sbcglobal.net": "yahoo", "bellsouth.net": "yahoo", "yahoo.co.uk": "yahoo", "yahoo.fr": "yahoo", "yahoo.de": "yahoo", "yahoo.it": "yahoo",
	"icloud.com": "apple", "me.com": "apple", "mac.com": "apple",
	"comcast.net": "comcast", "orange.fr": "orange", "wanadoo.fr": "orange", "gmx.net": "gmx", "gmx.de": "gmx", "gmx.com": "gmx", "web.de": "gmx",
	"t-online.de": "t-online", "libero.it": "libero", "mail.ru": "mailru", "yandex.ru": "yandex", "qq.com": "qq", "163.com": "netease", "126.com": "netease",
	"proton.me": "proton", "protonmail.com": "proton", "fastmail.com": "fastmail", "free.fr": "free", "sfr.fr": "sfr", "laposte.net": "laposte",
	"cox.net": "cox", "charter.net": "charter", "seznam.cz": "seznam", "wp.pl": "wp", "onet.pl": "onet",
}

// ofDomain returns the provider of a domain of which no host was seen: the domain itself, if it is not
// well known.
func ofDomain(domain string) string {
	if name, ok := domains[domain]; ok {
		return name
	}
	return domain
}
