// Package backoff decides what a queue does about the replies of its receiver: the rules of an
// <smtp-pattern-list>, which of a queue's sources are disabled, and the waits of penalty times.
//
// It does no I/O and has no clock: callers pass the time. A List never changes and is safe for
// concurrent use, as is Sources.
package backoff

import (
	"net/netip"
	"regexp"
	"sync"
	"time"

	"carom/sender/regexset"
)

// Actions is what a rule asks for.
type Actions struct {
	Backoff, Normal bool           // the mode to go to; not both
	ToNormalAfter   *time.Duration // with Backoff: when to leave it again, 0 for never; nil leaves it to Policy

	SkipMX      bool // on to the next host; mail stays queued whatever the reply
	BounceQueue bool // bounce all that the queue holds
	BounceRcpt  bool // bounce the recipient, if the reply is a 4xx to RCPT
	DeferQueue  bool // put the queue into retry

	DisableSource bool           // the queue no longer uses the address that got the reply
	ReenableAfter *time.Duration // until then, 0 for never; nil leaves it to Policy
}

// Rule is one line of a list.
type Rule struct {
	Name    string // the pattern as it is written
	Pattern *regexp.Regexp
	Actions Actions
}

// List is the rules of one <smtp-pattern-list>.
type List struct {
	rules    []Rule
	all      *regexset.Set
	positive []int // the rules that a good reply can match
}

// NewList returns a list. A good reply matches only rules that ask for mode=normal: a success is
// no reason to back off, whatever its text.
func NewList(rules []Rule) *List {
	l := &List{rules: rules}
	patterns := make([]*regexp.Regexp, len(rules))
	for i, r := range rules {
		patterns[i] = r.Pattern
		if r.Actions.Normal {
			l.positive = append(l.positive, i)
		}
	}
	l.all = regexset.New(patterns)
	return l
}

// Policy is what a queue's settings say where the rule does not.
type Policy struct {
	ToNormalAfter time.Duration // 0 is never
	ReenableAfter time.Duration
}

// Decision is what a queue is to do. The zero Decision is nothing.
type Decision struct {
	Rule    string    // the pattern that matched
	Enter   bool      // go to backoff mode
	Until   time.Time // and leave it then; zero for never
	Leave   bool      // go to normal mode
	SkipMX  bool
	Bounce  bool // all that the queue holds
	Reject  bool // bounce the recipient that the reply is about
	Defer   bool
	Disable bool      // the source that got the reply
	Again   time.Time // when it is used again; zero for never
}

// Matters reports whether a reply has to be put to Decide; it spares the text of most good ones.
func (l *List) Matters(positive bool) bool {
	return l != nil && (!positive && len(l.rules) > 0 || positive && len(l.positive) > 0)
}

// Decide returns what the first rule that matches asks for. The text is the whole reply, its code
// first and its lines joined by blanks; toRcpt says that it answered a RCPT command. A nil list
// decides nothing.
func (l *List) Decide(p Policy, text string, code int, toRcpt bool, now time.Time) Decision {
	r := l.match(text, code/100 == 2)
	if r == nil {
		return Decision{}
	}
	a := r.Actions
	return Decision{
		Rule: r.Name, Enter: a.Backoff, Until: after(now, a.Backoff, a.ToNormalAfter, p.ToNormalAfter), Leave: a.Normal,
		SkipMX: a.SkipMX, Bounce: a.BounceQueue, Reject: a.BounceRcpt && toRcpt && code/100 == 4, Defer: a.DeferQueue,
		Disable: a.DisableSource, Again: after(now, a.DisableSource, a.ReenableAfter, p.ReenableAfter),
	}
}

func (l *List) match(text string, positive bool) *Rule {
	switch {
	case l == nil:
		return nil
	case positive:
		for _, i := range l.positive {
			if l.rules[i].Pattern.MatchString(text) {
				return &l.rules[i]
			}
		}
		return nil
	}
	if i := l.all.First(text); i >= 0 {
		return &l.rules[i]
	}
	return nil
}

// after returns now and the rule's time, or that of the settings; the zero Time for never.
func after(now time.Time, applies bool, own *time.Duration, general time.Duration) time.Time {
	if own != nil {
		general = *own
	}
	if !applies || general == 0 {
		return time.Time{}
	}
	return now.Add(general)
}

// Penalties returns the waits of initial-pts and max-pts: each twice the one before, up to most.
// Nil where initial is 0.
func Penalties(initial, most time.Duration) []time.Duration {
	if initial <= 0 {
		return nil
	}
	waits := []time.Duration{min(initial, most)}
	for last := waits[0]; last < most; {
		last = min(2*last, most)
		waits = append(waits, last)
	}
	return waits
}

// Sources is which source addresses a queue does not use at present. The zero value is none.
type Sources struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Time // zero for no end
}

// Disable takes an address out of use until then, for good where until is zero. It reports whether
// the address was in use.
func (s *Sources) Disable(a netip.Addr, until, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.disabled(a, now)
	if s.until == nil {
		s.until = map[netip.Addr]time.Time{}
	}
	s.until[a] = until
	return !was
}

// Disabled reports whether the address is out of use at now, and until when: zero for good.
func (s *Sources) Disabled(a netip.Addr, now time.Time) (until time.Time, disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disabled(a, now)
}

// disabled is Disabled for a caller that holds s.mu.
func (s *Sources) disabled(a netip.Addr, now time.Time) (time.Time, bool) {
	until, ok := s.until[a]
	if ok && !until.IsZero() && !until.After(now) {
		delete(s.until, a)
		return time.Time{}, false
	}
	return until, ok
}
