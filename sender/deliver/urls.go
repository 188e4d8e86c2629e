package deliver

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carom/ingest/mime"
)

// maxLookedAt bounds the bytes of a message in which URLs, and of its header in which signatures are
// looked for.
const maxLookedAt = 1 << 20

// urlNames are the host names in the URLs of a message, in lower case, read once.
type urlNames struct {
	read  bool
	names map[string]bool
}

// hostNames returns the hosts of the URLs of a message.
func (m *mail) hostNames() map[string]bool {
	if !m.hosts.read {
		m.hosts.read, m.hosts.names = true, urlHosts(m.content)
	}
	return m.hosts.names
}

// hasURL reports whether a message has a URL of the host, or of one below it.
func (m *mail) hasURL(host string) bool {
	names := m.hostNames()
	if names[host] {
		return true
	}
	for name := range names {
		if strings.HasSuffix(name, "."+host) {
			return true
		}
	}
	return false
}

// maxHosts bounds the hosts that are remembered of one message, and maxEventHosts those that an event names.
const (
	maxHosts      = 1000
	maxEventHosts = 20
)

// urlHosts returns the hosts as an event names them.
func (m *mail) urlHosts() []string {
	hosts := slices.Sorted(maps.Keys(m.hostNames()))
	return hosts[:min(len(hosts), maxEventHosts)]
}

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
			if len(name) <= maxHostName && strings.Contains(name, ".") {
				names[name] = true
			}
			text = after[end:]
		}
	}
	return names
}

// maxHostName is the length of the longest host name (RFC 1035 section 2.3.4).
const maxHostName = 253

// urlWatch is how long after a refusal for a URL the events of a provider name the hosts of URLs, so that
// what mail with the refused host is answered can be counted.
const urlWatch = time.Hour

// urlRefusals knows the providers that refused mail for a URL lately. The zero value is ready for use.
type urlRefusals struct {
	any   atomic.Bool // looked at for each recipient, so without a lock
	mu    sync.Mutex
	until map[string]time.Time
}

// refused notes a refusal for a URL.
func (u *urlRefusals) refused(provider string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	remember(u.until, provider, now.Add(urlWatch))
	u.any.Store(true)
}

// watches reports whether the provider refused mail for a URL lately.
func (u *urlRefusals) watches(provider string, now time.Time) bool {
	if !u.any.Load() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[provider]
	if ok && !now.Before(until) {
		delete(u.until, provider)
		u.any.Store(len(u.until) > 0)
		ok = false
	}
	return ok
}
