package classify

import (
	"cmp"
	"slices"
	"sync"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// Version is the version of the rules and of the steps around them. It goes up by one with every
// change that can change a verdict.
const Version uint32 = 3

// Input is what is to be classified. Only what is known is set.
type Input struct {
	// Reply is the reply of the receiver. A diagnostic of a bounce message goes through
	// smtpstatus.Parse first; codes that stand inside its text are found there.
	Reply smtpstatus.Reply

	// Enhanced is an enhanced status code from elsewhere, such as the Status of a bounce message. It
	// counts where the reply has none or only a general one.
	Enhanced smtpstatus.Enhanced

	Phase    event.Phase // where the attempt ended; PhaseNone: taken from the text, if it says so
	Provider string      // the receiving provider; rules of one provider need it
	Local    Local       // the local cause, if the receiver decided nothing

	// GaveUp says that nobody tries again: a bounce message whose Action is failed. A transient reply
	// then has the class of its category; in all other cases it is soft.
	GaveUp bool

	// MessagesOnConnection is the number of messages that the connection carried before this one.
	MessagesOnConnection uint32
}

// Verdict is what a reply means.
type Verdict struct {
	Category   taxonomy.Category
	Class      taxonomy.Class
	Dimension  taxonomy.Dimension
	Scope      taxonomy.Scope
	ScopeValue string // the IP, domain or URL that the reply names; "" if it names none
	Rule       string // id of the rule or step that decided
	Version    uint32
}

// greeting is the code of a server's greeting (RFC 5321 section 4.2.3). It is never the end of a
// message: in a diagnostic that begins with it, the refusal stands behind it.
const greeting = 220

// maxText is the number of bytes of a reply that count.
const maxText = 4096

// Classify says what in means. It always gives a verdict; what nothing fits is
// taxonomy.Unknown.
func Classify(in Input) Verdict {
	if v, ok := local(in); ok {
		return v
	}
	if in.Reply.IsZero() && in.Enhanced.IsZero() {
		return verdict(taxonomy.Unknown, "none")
	}
	f := factsOf(in)
	if in.Reply.Positive() && (in.Reply.Code != greeting || f.code == greeting) {
		return verdict(taxonomy.Delivered, "code.2yz")
	}
	v := f.decide(builtin())
	if f.severity == 4 && !in.GaveUp && v.Class != taxonomy.None {
		v.Class = taxonomy.Soft // RFC 5321 section 4.2.1: try again
	}
	if v.Scope != taxonomy.ScopeNone {
		v.ScopeValue = scopeValue(v.Scope, f.text)
	}
	return v
}

// facts are what the steps look at.
type facts struct {
	text     string              // as fold leaves it
	masked   string              // and mask
	code     int                 // reply code, 0 if there is none
	enhanced smtpstatus.Enhanced // zero if there is none
	severity int                 // 4 or 5; 0 if nothing tells
	known    event.Phase         // PhaseNone: see phase
	looked   bool                // phase has looked into the text
	provider string
}

func factsOf(in Input) facts {
	f := facts{text: fold(in.Reply.String()), code: in.Reply.Code, enhanced: in.Reply.Enhanced, known: in.Phase, provider: in.Provider}
	if f.code == 0 || f.code == greeting || f.enhanced.IsZero() {
		code, enhanced := codesIn(f.text)
		if code != 0 && (f.code == 0 || f.code == greeting) {
			f.code = code
		}
		if f.enhanced.IsZero() {
			f.enhanced = enhanced
		}
	}
	if f.enhanced.IsZero() || !tells(f.enhanced) && tells(in.Enhanced) {
		f.enhanced = cmp.Or(in.Enhanced, f.enhanced)
	}
	f.masked = mask(f.text)
	f.severity = f.code / 100
	if f.code == 0 {
		f.severity = int(f.enhanced.Class)
	}
	return f
}

// phase says where the attempt ended, from the text if nobody else does.
func (f *facts) phase() event.Phase {
	if f.known == event.PhaseNone && !f.looked {
		f.known, f.looked = phaseIn(f.text), true
	}
	return f.known
}

func (f *facts) decide(set *ruleSet) Verdict {
	s, _ := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.collect(set, f.masked)
	if r := s.first(set, f, false); r != nil {
		return r.verdict()
	}
	if tells(f.enhanced) {
		return byStatus(f.enhanced)
	}
	if r := s.first(set, f, true); r != nil {
		return r.verdict()
	}
	if v := byStatus(f.enhanced); v.Category != taxonomy.Unknown {
		return v
	}
	return f.byCode()
}

// scratch is the memory of one decision.
type scratch struct {
	matcher    matcher
	seen       []bool  // by anchor: it is in the text
	found      []int32 // the anchors that are
	candidates []int32 // patterns that may match, in the order of their rules
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// collect finds the patterns that may match text: those of which each need is met.
func (s *scratch) collect(set *ruleSet, text string) {
	s.matcher.text = text
	if len(s.seen) != len(set.rarest) {
		s.seen = make([]bool, len(set.rarest))
	}
	s.found = set.finder.find(text, s.seen, s.found[:0])
	s.candidates = s.candidates[:0]
	for _, anchor := range s.found {
		for _, p := range set.rarest[anchor] {
			if s.meets(set.patterns[p].also) {
				s.candidates = append(s.candidates, p)
			}
		}
	}
	for _, anchor := range s.found {
		s.seen[anchor] = false
	}
	slices.Sort(s.candidates)
	s.candidates = slices.Compact(s.candidates)
}

func (s *scratch) meets(needs [][]int32) bool {
	for _, anchors := range needs {
		if !slices.ContainsFunc(anchors, func(a int32) bool { return s.seen[a] }) {
			return false
		}
	}
	return true
}

// first returns the first rule that matches, of the weak ones or of the others.
func (s *scratch) first(set *ruleSet, f *facts, weak bool) *rule {
	for _, c := range s.candidates {
		p := set.patterns[c]
		if p.rule.weak == weak && p.rule.admits(f) && s.matcher.matches(p.pattern) {
			return p.rule
		}
	}
	return nil
}

// admits reports whether everything but the text fits r.
func (r *rule) admits(f *facts) bool {
	switch {
	case r.provider != "" && r.provider != f.provider,
		r.when != 0 && f.severity != 0 && r.when != f.severity,
		len(r.codes) > 0 && !slices.Contains(r.codes, f.code),
		len(r.phases) > 0 && !slices.Contains(r.phases, f.phase()):
		return false
	}
	return len(r.status) == 0 || slices.ContainsFunc(r.status, func(s statusRange) bool { return s.has(f.enhanced) })
}

func (s statusRange) has(e smtpstatus.Enhanced) bool {
	return !e.IsZero() && e.Subject == s.subject && e.Detail >= s.from && e.Detail <= s.to
}

func (r *rule) verdict() Verdict {
	v := verdict(r.category, r.id)
	v.Dimension, v.Scope = r.dimension, r.scope
	return v
}

// verdict returns the verdict for a category with everything that goes with it.
func verdict(c taxonomy.Category, rule string) Verdict {
	return Verdict{Category: c, Class: c.Class(), Dimension: dimensionOf(c), Scope: scopeOf(c), Rule: rule, Version: Version}
}

// dimensionOf says which actuator answers a category, where no rule says otherwise.
func dimensionOf(c taxonomy.Category) taxonomy.Dimension {
	switch c {
	case taxonomy.BadMailbox, taxonomy.InactiveMailbox, taxonomy.Moved, taxonomy.RecipientRefused, taxonomy.BadDomain,
		taxonomy.MailboxFull, taxonomy.Suppressed, taxonomy.Complaint:
		return taxonomy.User
	case taxonomy.RateLimited:
		return taxonomy.Rate
	case taxonomy.Greylisted:
		return taxonomy.Greylist
	case taxonomy.SpamBlock:
		return taxonomy.Block
	case taxonomy.SpamContent, taxonomy.Virus, taxonomy.BadContent, taxonomy.MessageTooBig:
		return taxonomy.Content
	case taxonomy.AuthFailed, taxonomy.TLSRequired, taxonomy.InvalidSender:
		return taxonomy.Auth
	case taxonomy.Connection, taxonomy.DNSFailure:
		return taxonomy.Unavailable
	case taxonomy.Delivered, taxonomy.AutoReply:
		return taxonomy.OK
	default: // policy, relay-denied, routing, expired, protocol, system, undetermined
		return taxonomy.Other
	}
}

// scopeOf says whom a category is aimed at, where no rule says otherwise. Unknown users have no
// scope: they count against the source that mails them.
func scopeOf(c taxonomy.Category) taxonomy.Scope {
	switch c {
	case taxonomy.MailboxFull, taxonomy.InactiveMailbox, taxonomy.Moved, taxonomy.RecipientRefused:
		return taxonomy.ScopeRecipient
	default:
		return taxonomy.ScopeNone
	}
}
