// Package scoped keeps mail back by what it carries: the holds and the scoped limits that the control
// loop gives a node (design/control.md 5.5, rules 6 and 7).
//
// A hold stops the mail of a tenant, a job or a From domain at a provider, but for a trickle; a scoped
// limit is a rate for the mail that carries a domain (DKIM, SPF or From) or a URL. The limits of the key
// (provider, source), of which all other mail is under too, are package throttle's.
//
// Nothing that is decided here outlives its news for ever: a scoped limit glides to none after the
// document's time to live, as a lease does to the configuration, and a hold ends after HoldTime more. The time
// that the document lay there before the node started counts.
// A Keeper does no I/O and is safe for concurrent use. What it remembers is bounded by the document.
package scoped

import (
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// HoldTime is how long after the document's time to live a hold goes on without news: mail that was
// held for complaints is not to go out as soon as analytics is away, and not to wait for ever either.
// After six hours a hold would let a trickle through by itself.
const HoldTime = 6 * time.Hour

// longestWait bounds what Admit tells a message to wait: limits come and go.
const longestWait = 30 * time.Minute

// Depth says how much of a message has to be known to judge it.
type Depth int

// The depths, each with all before it.
const (
	Nothing  Depth = iota
	Labels         // tenant and job
	Envelope       // From domain
	Message        // the domains that sign it, and its URLs
)

// Mail is what is known of a message; what is under the Depth that was asked for may be empty.
type Mail struct {
	ID                      event.ID
	Provider                string
	Tenant, Job, FromDomain string // domains in lower case
	Domains                 []string
	HasURL                  func(host string) bool // nil if there are none
	Waited                  bool                   // it had to wait before, as a scoped limit may have told it
	Recipients              int
}

// Verdict is what keeps a message back.
type Verdict struct {
	Held  bool          // until the rules change
	Wait  time.Duration // 0 and not Held: nothing does
	Scope string        // ScopeHold, or what the scoped limit is for: a taxonomy.Scope
	About string        // which mail, in words
	By    string        // who wants it, with the reason
}

// ScopeHold is the Scope of a hold.
const ScopeHold = "hold"

// Keeper holds the rules in force. The zero value is not usable; see New.
type Keeper struct {
	start time.Time
	depth atomic.Pointer[depths] // the deepest that any rule needs; nil for Nothing anywhere

	mu     sync.Mutex
	holds  []hold
	limits map[string][]*limit // by provider
}

// depths are by provider, and for all others.
type depths struct {
	at     map[string]Depth
	others Depth
}

type hold struct {
	limits.Hold
	until time.Duration
}

// limit is a scoped limit with its pace: next is when the bucket would be full again, and slot is the
// moment that the last message which had to wait was given.
type limit struct {
	limits.ScopedLimit
	glide      limits.Glide
	next, slot time.Duration
}

// New returns a keeper without rules.
func New() *Keeper { return &Keeper{start: clock.Now(), limits: map[string][]*limit{}} }

func (k *Keeper) now() time.Duration { return clock.Since(k.start) }

// Apply puts the holds and scoped limits of a document in force, in place of those before, and reports
// whether a hold has ended or lets more through: then what was held should be looked at again.
// Documents come in order of their generation.
func (k *Keeper) Apply(d *limits.Document) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	seen := now - d.Age
	before := k.holds
	k.holds = nil
	for _, h := range d.Holds {
		if d.IsOff(h.Provider) {
			continue
		}
		h.FromDomain = strings.ToLower(h.FromDomain)
		k.holds = append(k.holds, hold{h, seen + d.TTL() + HoldTime})
	}
	known := k.limits
	k.limits = map[string][]*limit{}
	for _, s := range d.Scoped {
		if d.IsOff(s.Provider) {
			continue
		}
		s.Value = strings.ToLower(s.Value)
		l := &limit{ScopedLimit: s, glide: limits.Glide{Lease: limits.Lease{Epoch: s.Epoch, RatePerSecond: s.RatePerSecond}, Seen: seen, TTL: d.TTL()}}
		l.next = now + l.depth(s.RatePerSecond) // a new limit starts with an empty bucket
		for _, old := range known[s.Provider] {
			if old.Scope == s.Scope && old.Value == s.Value {
				l.next, l.slot = old.next, old.slot
			}
		}
		k.limits[s.Provider] = append(k.limits[s.Provider], l)
	}
	k.setDepth()
	return slices.ContainsFunc(before, func(old hold) bool {
		return !slices.ContainsFunc(k.holds, func(h hold) bool { return old.same(&h) })
	})
}

// same reports whether two holds stop the same mail.
func (h *hold) same(other *hold) bool {
	a, b := h.Hold, other.Hold
	a.ReasonID, b.ReasonID = "", ""
	return a == b
}

// Lapsed forgets the holds that went without news for too long, and reports whether there were any: then
// what they held should be looked at again.
func (k *Keeper) Lapsed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	before := len(k.holds)
	k.holds = slices.DeleteFunc(k.holds, func(h hold) bool { return h.until < now })
	if len(k.holds) == before {
		return false
	}
	k.setDepth()
	return true
}

// setDepth says how deep the rules look. The caller holds k.mu.
func (k *Keeper) setDepth() {
	d := &depths{at: map[string]Depth{}}
	for i := range k.holds {
		depth := Labels
		if k.holds[i].FromDomain != "" {
			depth = Envelope
		}
		if provider := k.holds[i].Provider; provider == "" {
			d.others = max(d.others, depth)
		} else {
			d.at[provider] = max(d.at[provider], depth)
		}
	}
	for provider := range k.limits {
		d.at[provider] = Message
	}
	for provider := range d.at {
		d.at[provider] = max(d.at[provider], d.others)
	}
	if d.others == Nothing && len(d.at) == 0 {
		d = nil
	}
	k.depth.Store(d)
}

// Depth returns how much of a message to a provider has to be known at present; with Nothing nobody needs to
// ask. It takes no lock.
func (k *Keeper) Depth(provider string) Depth {
	d := k.depth.Load()
	if d == nil {
		return Nothing
	}
	if depth, ok := d.at[provider]; ok {
		return depth
	}
	return d.others
}

// Held returns the hold that stops a message, or a Verdict that stops nothing.
func (k *Keeper) Held(m *Mail) Verdict {
	return k.heldBy(m.Provider, func(h *hold) bool { return h.matches(m) && share(m.ID) >= h.Trickle })
}

// Holding returns the hold that mail with these labels may be stopped by, for what shows it.
func (k *Keeper) Holding(provider, tenant, job string) Verdict {
	return k.heldBy(provider, func(h *hold) bool {
		return h.matches(&Mail{Provider: provider, Tenant: tenant, Job: job, FromDomain: h.FromDomain})
	})
}

// heldBy returns the first hold in force that stops says.
func (k *Keeper) heldBy(provider string, stops func(*hold) bool) Verdict {
	if k.Depth(provider) == Nothing {
		return Verdict{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for i := range k.holds {
		if h := &k.holds[i]; h.until >= now && stops(h) {
			return Verdict{Held: true, Scope: ScopeHold, About: h.about(), By: by(h.ReasonID)}
		}
	}
	return Verdict{}
}

// by names the control loop and its reason, as limits of a key do.
func by(reasonID string) string { return string(limits.ByLoop) + ", reason " + reasonID }

func (h *hold) matches(m *Mail) bool {
	return (h.Provider == "" || h.Provider == m.Provider) && (h.Tenant == "" || h.Tenant == m.Tenant) &&
		(h.Job == "" || h.Job == m.Job) && (h.FromDomain == "" || h.FromDomain == strings.ToLower(m.FromDomain))
}

// about says what mail a hold is about.
func (h *hold) about() string {
	var words []string
	for _, w := range [][2]string{{"tenant", h.Tenant}, {"job", h.Job}, {"From domain", h.FromDomain}} {
		if w[1] != "" {
			words = append(words, w[0]+" "+w[1])
		}
	}
	if len(words) == 0 {
		words = append(words, "all mail")
	}
	text := strings.Join(words, ", ")
	if h.Provider != "" {
		text += " at " + h.Provider
	}
	return text
}

// share places a message evenly in 0 to 1, always at the same place: a trickle lets the same messages
// through whenever they are asked about.
func share(id event.ID) float64 {
	sum := fnv.New64a()
	_, _ = sum.Write(id[:]) // never fails
	x := sum.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // ids of one moment differ in few bits
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}

// Admit takes the recipients of a message off every scoped limit that it is under, or off none: then
// the Verdict says for how long to wait, each message a little longer than the one before, so that they
// come back one by one.
func (k *Keeper) Admit(m *Mail) Verdict {
	if k.Depth(m.Provider) < Message {
		return Verdict{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	under := k.over(m)
	var slowest Verdict
	for _, l := range under {
		if wait := l.wait(now, m.Waited); wait > slowest.Wait {
			slowest = Verdict{Wait: wait, Scope: l.Scope, About: l.Value + " " + strconv.FormatFloat(l.RatePerSecond, 'g', 4, 64) + "/s", By: by(l.ReasonID)}
		}
	}
	if slowest.Wait == 0 {
		for _, l := range under {
			l.take(now, max(1, m.Recipients))
		}
	}
	return slowest
}

// Refund gives back what Admit took for recipients of a message that were not attempted.
func (k *Keeper) Refund(m *Mail, recipients int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for _, l := range k.over(m) {
		l.take(now, -recipients)
	}
}

// over returns the scoped limits that a message is under. The caller holds k.mu.
func (k *Keeper) over(m *Mail) (under []*limit) {
	for _, l := range k.limits[m.Provider] {
		if l.carriedBy(m) {
			under = append(under, l)
		}
	}
	return under
}

func (l *limit) carriedBy(m *Mail) bool {
	if taxonomy.Scope(l.Scope) == taxonomy.ScopeURL {
		return m.HasURL != nil && m.HasURL(l.Value)
	}
	return l.Value == strings.ToLower(m.FromDomain) || slices.Contains(m.Domains, l.Value)
}

// rate returns the messages a second that are allowed at now.
func (l *limit) rate(now time.Duration) float64 { return l.glide.At(now, limits.None()).RatePerSecond }

// space is the time of one recipient at a rate, and depth how much the bucket holds: two seconds of the
// rate, 1 to 20 recipients, as a lease has it.
func space(rate float64) time.Duration {
	return time.Duration(min(float64(time.Second)/rate, float64(longestWait)))
}

func (l *limit) depth(rate float64) time.Duration {
	if rate <= 0 {
		return longestWait
	}
	return time.Duration(min(max(1, 2*rate), 20) * float64(space(rate)))
}

// wait returns how long a message has to wait, and gives it its slot.
func (l *limit) wait(now time.Duration, waited bool) time.Duration {
	rate := l.rate(now)
	switch {
	case math.IsInf(rate, 1):
		return 0
	case rate <= 0:
		return longestWait
	}
	l.next = min(l.next, now+longestWait) // of a rate that was slower
	due := l.next - l.depth(rate) + space(rate)
	if due <= now && (waited || l.slot <= now) {
		return 0
	}
	if l.slot = max(l.slot, due, now) + space(rate); l.slot-now > longestWait {
		l.slot = max(due, now) + space(rate) // the line is longer than that: it begins again beside what has slots
	}
	return min(l.slot-now, longestWait)
}

func (l *limit) take(now time.Duration, n int) {
	if rate := l.rate(now); rate > 0 && !math.IsInf(rate, 1) {
		l.next = max(l.next, now) + time.Duration(n)*space(rate) // below 0 it gives back
	}
}
