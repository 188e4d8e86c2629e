package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// IntakeList is a <pattern-list>: what a message's envelope and header say about its way. The first
// rule that matches decides; where it leads to a list in which nothing matches, the next ones are
// asked.
type IntakeList struct {
	Name  string // "" inside another
	Pos   Pos
	Rules []IntakeRule
}

// IntakeRule is a line of a <pattern-list>.
type IntakeRule struct {
	pos     Pos
	part    intakePart
	header  string         // the field of partHeader
	pattern *regexp.Regexp // nil for partAny

	virtualMTA string // a vmta or a pool; empty: not decided here
	priority   int    // recipient-priority, or -1
	callTo     string // name of the list that decides
	inner      *IntakeList
}

// intakePart is what a rule looks at.
type intakePart uint8

const (
	partMailFrom intakePart = iota
	partRcptTo
	partHeader
	partAny
)

const wantIntakeResult = "want virtual-mta=NAME, recipient-priority=0..100 or call-to:LIST"

var intakeListScope = newScope("pattern-list",
	many("mail-from", intakeRule(partMailFrom), func(l *IntakeList) *[]IntakeRule { return &l.Rules }),
	many("rcpt-to", intakeRule(partRcptTo), func(l *IntakeList) *[]IntakeRule { return &l.Rules }),
	many("header", intakeRule(partHeader), func(l *IntakeList) *[]IntakeRule { return &l.Rules }),
	many("*", intakeRule(partAny), func(l *IntakeList) *[]IntakeRule { return &l.Rules }),
)

// intakeRule parses [HEADER] /PATTERN/ RESULT. The result may be missing where a <pattern-list>
// follows.
func intakeRule(part intakePart) parser[IntakeRule] {
	return func(v *value) (IntakeRule, error) {
		r := IntakeRule{pos: v.pos, part: part, priority: -1}
		words, err := v.words()
		if err != nil {
			return r, err
		}
		next := func(want string) (word, error) {
			if len(words) == 0 {
				return word{}, fmt.Errorf("%q is not enough; want %s", v.text, want)
			}
			w := words[0]
			words = words[1:]
			return w, nil
		}
		if part == partHeader {
			w, err := next("the name of a header")
			if err != nil {
				return r, err
			}
			r.header = strings.TrimSuffix(w.text, ":")
		}
		if part != partAny {
			w, err := next("a /pattern/")
			if err != nil {
				return r, err
			}
			if len(w.text) < 2 || w.text[0] != '/' || w.text[len(w.text)-1] != '/' {
				if len(words) > 0 && strings.HasPrefix(words[0].text, "/") {
					return r, w.errorf("the arguments are reversed: write %s %s", words[0].text, w.text)
				}
				if strings.HasPrefix(w.text, "/") {
					return r, w.errorf("the pattern %s has no closing /: is the line broken in two?", w.text)
				}
				return r, w.errorf("bad pattern %q; want a /pattern/", w.text)
			}
			if r.pattern, err = parseRegex(w.text); err != nil {
				return r, w.errorf("%v", err)
			}
		}
		var result strings.Builder
		for _, w := range words {
			result.WriteString(w.text)
		}
		return r, r.decide(result.String())
	}
}

// decide parses the result of a rule.
func (r *IntakeRule) decide(result string) error {
	if result == "" || strings.EqualFold(result, "<pattern-list>") { // the list follows
		return nil
	}
	if list, ok := cutFold(result, "call-to:"); ok && list != "" {
		r.callTo = list
		return nil
	}
	for item := range strings.SplitSeq(result, ",") {
		if name, ok := cutFold(item, "virtual-mta="); ok {
			if _, err := checkName(name); err != nil || name == "" {
				return fmt.Errorf("bad name %q; %s", name, wantIntakeResult)
			}
			r.virtualMTA = name
		} else if text, ok := cutFold(item, "recipient-priority="); ok {
			n, err := strconv.ParseUint(text, 10, 8)
			if err != nil || n > 100 {
				return fmt.Errorf("bad priority %q; want 0 to 100", text)
			}
			r.priority = int(n)
		} else {
			return fmt.Errorf("unexpected %q; %s", item, wantIntakeResult)
		}
	}
	return nil
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// IntakeDecision is what a <pattern-list> says about a message.
type IntakeDecision struct {
	VirtualMTA string // a vmta or a pool; empty: not decided
	Priority   int    // of the recipients within their queue, or -1
}

// Decide asks the <pattern-list> of that name about a message; header returns the values of a
// field as they stand in the message. It reports false where nothing matches.
func (c *Config) Decide(list, mailFrom string, recipients func(yield func(string) bool), header func(name string) []string) (IntakeDecision, bool) {
	l, ok := c.intakeLists[strings.ToLower(list)]
	if !ok {
		return IntakeDecision{}, false
	}
	matches := func(r *IntakeRule) bool {
		switch r.part {
		case partMailFrom:
			return r.pattern.MatchString(mailFrom)
		case partRcptTo:
			for address := range recipients {
				if r.pattern.MatchString(address) {
					return true
				}
			}
			return false
		case partHeader:
			return slices.ContainsFunc(header(r.header), r.pattern.MatchString)
		case partAny:
		}
		return true
	}
	return c.decide(l, matches)
}

func (c *Config) decide(l *IntakeList, matches func(*IntakeRule) bool) (IntakeDecision, bool) {
	for i := range l.Rules {
		r := &l.Rules[i]
		if !matches(r) {
			continue
		}
		inner := r.inner
		if r.callTo != "" {
			inner = c.intakeLists[strings.ToLower(r.callTo)]
		}
		if inner == nil {
			return IntakeDecision{r.virtualMTA, r.priority}, true
		}
		if d, ok := c.decide(inner, matches); ok {
			return d, true
		}
	}
	return IntakeDecision{Priority: -1}, false
}

// intakeList builds a <pattern-list> outside other sections.
func (b *builder) intakeList(n *node) {
	name, err := identifier(newValue(n, b.loader))
	if err != nil {
		b.add("<pattern-list>", n.ValuePos, err)
		return
	}
	key := strings.ToLower(name)
	list := b.config.intakeLists[key]
	if list == nil {
		list = &IntakeList{Name: name, Pos: n.Pos}
		b.config.intakeLists[key] = list
	}
	b.intakeRules(n, list)
}

func (b *builder) intakeRules(n *node, list *IntakeList) {
	for i := range n.Children {
		intakeListScope.read(b, n.Children[i:i+1], func(a assignment[IntakeList]) { a.apply(list) }, func(inner *node) {
			last := len(list.Rules) - 1
			if inner.Name != "pattern-list" || inner.Value != "" {
				b.section(inner, n.Name)
				return
			}
			if last < 0 || list.Rules[last].isDecided() {
				b.errorf(inner.Pos, "<pattern-list> stands behind no pattern that it is the result of")
				return
			}
			list.Rules[last].inner = &IntakeList{Pos: inner.Pos}
			b.intakeRules(inner, list.Rules[last].inner)
		})
	}
	for _, r := range list.Rules {
		if !r.isDecided() {
			b.errorf(r.pos, "result missing; %s", wantIntakeResult)
		}
	}
}

func (r *IntakeRule) isDecided() bool {
	return r.virtualMTA != "" || r.priority >= 0 || r.callTo != "" || r.inner != nil
}

// validateIntakeLists reports what rules name and is not there, and lists that lead back to
// themselves.
func (b *builder) validateIntakeLists() {
	for _, l := range b.config.intakeLists {
		b.validateIntakeRules(l, []*IntakeList{l})
	}
}

func (b *builder) validateIntakeRules(l *IntakeList, path []*IntakeList) {
	for _, r := range l.Rules {
		switch {
		case r.inner != nil:
			b.validateIntakeRules(r.inner, path)
		case r.callTo != "":
			b.validateCall(r, path)
		case r.virtualMTA != "":
			b.vmtaExists(r.pos, "virtual-mta", r.virtualMTA)
		}
	}
}

func (b *builder) validateCall(r IntakeRule, path []*IntakeList) {
	called, ok := b.config.intakeLists[strings.ToLower(r.callTo)]
	if !ok {
		b.errorf(r.pos, "call-to: there is no <pattern-list %s>", r.callTo)
		return
	}
	for _, l := range path {
		if l == called {
			if l == path[0] { // else it is reported where it begins
				b.errorf(r.pos, "call-to: <pattern-list %s> leads back to itself", r.callTo)
			}
			return
		}
	}
	b.validateIntakeRules(called, append(slices.Clip(path), called))
}

// vmtaExists reports a name that is none of a vmta or a pool.
func (b *builder) vmtaExists(pos Pos, directive, name string) {
	key := strings.ToLower(name)
	if key == DefaultVMTA || b.config.vmtas[key] != nil || b.config.pools[key] != nil {
		return
	}
	b.errorf(pos, "%s: there is no virtual-mta or pool %q", directive, name)
}

// vmtaReference is the name of a vmta or a pool where it stands.
type vmtaReference struct {
	name string
	pos  Pos
}

// String returns the name.
func (r vmtaReference) String() string { return r.name }

func referenceToVMTA(v *value) (vmtaReference, error) {
	name, err := identifier(v)
	return vmtaReference{name, v.pos}, err
}

// InvalidVMTAFallback returns the vmta or pool for mail that asks for one that there is not, where
// the source does not reject it; empty: none.
func (c *Config) InvalidVMTAFallback() string { return c.fallback.name }

const wantPoolMember = "want NAME or NAME weight N"

// poolMember is the directive virtual-mta of a pool. The weight is carom's own.
var poolMember = directive[Pool]{
	Directive: Directive{Name: "virtual-mta", Status: Implemented},
	compile: func(v *value) (func(*Pool), error) {
		words, err := v.fields(1, 3, wantPoolMember)
		if err != nil {
			return nil, err
		}
		name, err := checkName(words[0].text)
		if err != nil {
			return nil, words[0].errorf("%v", err)
		}
		weight := 1
		if len(words) > 1 {
			n := 0
			if len(words) == 3 {
				n, err = strconv.Atoi(words[2].text)
			}
			if err != nil || n < 1 || n > maxWeight || !strings.EqualFold(words[1].text, "weight") {
				return nil, words[1].errorf("bad weight; %s, N from 1 to %d", wantPoolMember, maxWeight)
			}
			weight = n
		}
		return func(p *Pool) {
			p.Members = append(p.Members, name)
			p.Weights = append(p.Weights, weight)
		}, nil
	},
	show: func(p *Pool) string { return strings.Join(p.Members, ", ") },
}

const maxWeight = 1000
