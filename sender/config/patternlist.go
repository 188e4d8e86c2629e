package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// PatternList is an <smtp-pattern-list>: what a queue does about replies. The first rule that
// matches a reply counts.
type PatternList struct {
	Name  string
	Pos   Pos
	Rules []PatternRule
}

// PatternRule is one line of a pattern list.
type PatternRule struct {
	Pos     Pos
	Pattern *regexp.Regexp
	Actions PatternActions
}

// PatternActions is what a rule asks for. Not all combinations occur: modes exclude each other, and
// SkipMX excludes BounceQueue.
type PatternActions struct {
	Backoff       bool          // mode=backoff
	Normal        bool          // mode=normal
	ToNormalAfter time.Duration // with Backoff: 0 is for never, or for the domain's if ToNormalGiven is not set
	ToNormalGiven bool          // backoff-to-normal-after stands in the rule

	SkipMX      bool
	BounceQueue bool
	BounceRcpt  bool
	DeferQueue  bool

	DisableSource bool
	ReenableAfter time.Duration // with DisableSource: as ToNormalAfter
	ReenableGiven bool
}

var patternListScope = newScope("smtp-pattern-list",
	many("reply", patternRule, func(l *PatternList) *[]PatternRule { return &l.Rules }),
)

// String returns the rule as it is written, less its actions.
func (r PatternRule) String() string {
	return "/" + strings.TrimPrefix(r.Pattern.String(), "(?i)") + "/"
}

// patternRule parses "/REGEX/ ACTION[,ACTION…]".
func patternRule(v *value) (PatternRule, error) {
	const want = "want /PATTERN/ and actions, for example /421 .*try later/ mode=backoff"
	if !strings.HasPrefix(v.text, "/") {
		if i := strings.Index(v.text, " /"); i >= 0 && patternEnd(v.text[i+1:]) >= 0 {
			return PatternRule{}, fmt.Errorf("the arguments are reversed: write %s %s", v.text[i+1:], v.text[:i])
		}
		return PatternRule{}, fmt.Errorf("bad value %q; %s", v.text, want)
	}
	end := patternEnd(v.text)
	if end < 0 {
		return PatternRule{}, fmt.Errorf("the pattern %s has no closing /: is the line broken in two?", v.text)
	}
	r := PatternRule{Pos: v.pos}
	var err error
	if r.Pattern, err = parseRegex(v.text[:end]); err != nil {
		return r, err
	}
	pos := v.pos
	pos.Column += end
	items, err := (&value{v.text[end:], pos, v.loader}).list(want)
	if err != nil {
		return r, err
	}
	if len(items) == 0 {
		return r, errors.New("no action; " + want)
	}
	for _, item := range items {
		if err := r.Actions.set(item); err != nil {
			return r, err
		}
	}
	if r.Actions.ToNormalGiven && !r.Actions.Backoff {
		return r, errors.New("backoff-to-normal-after needs mode=backoff")
	}
	return r, nil
}

const wantAction = "want mode=backoff, mode=normal, backoff-to-normal-after=TIME, skip-mx, bounce-queue, bounce-rcpt, disable-source-ip, reenable-after=TIME or defer-queue"

// set adds one action and refuses those that do not go with the ones before it.
func (a *PatternActions) set(item word) error {
	key, argument, _ := strings.Cut(strings.ToLower(item.text), "=")
	switch whole := strings.ToLower(item.text); whole {
	case "mode=backoff":
		a.Backoff = true
	case "mode=normal":
		a.Normal = true
	case "skip-mx":
		a.SkipMX = true
	case "bounce-queue":
		a.BounceQueue = true
	case "bounce-rcpt":
		a.BounceRcpt = true
	case "disable-source-ip":
		a.DisableSource = true
	case "defer-queue":
		a.DeferQueue = true
	default:
		d, err := neverOr(positiveInterval)(&value{text: argument, pos: item.pos})
		switch {
		case key != "backoff-to-normal-after" && key != "reenable-after":
			return item.errorf("bad action %q; %s", item.text, wantAction)
		case err != nil:
			return item.errorf("%s: %v", key, err)
		case key == "reenable-after" && !a.DisableSource:
			return item.errorf("reenable-after needs disable-source-ip before it")
		case key == "reenable-after" && a.ReenableGiven:
			return item.errorf("a second reenable-after")
		case key == "reenable-after":
			a.ReenableAfter, a.ReenableGiven = d, true
		case a.ToNormalGiven:
			return item.errorf("a second backoff-to-normal-after")
		default:
			a.ToNormalAfter, a.ToNormalGiven = d, true
		}
	}
	switch {
	case a.Backoff && a.Normal:
		return item.errorf("mode=backoff and mode=normal exclude each other")
	case a.SkipMX && a.BounceQueue:
		return item.errorf("skip-mx and bounce-queue exclude each other")
	}
	return nil
}

// PatternList returns the <smtp-pattern-list> of that name.
func (c *Config) PatternList(name string) (*PatternList, bool) {
	l, ok := c.patternLists[strings.ToLower(name)]
	return l, ok
}

func (b *builder) patternList(n *node) {
	name, err := identifier(newValue(n, b.loader))
	if err != nil {
		b.add("<smtp-pattern-list>", n.ValuePos, err)
	}
	list := b.config.patternLists[strings.ToLower(name)]
	if list == nil {
		list = &PatternList{Name: name, Pos: n.Pos}
		if err == nil {
			b.config.patternLists[strings.ToLower(name)] = list
		}
	}
	patternListScope.read(b, n.Children, func(a assignment[PatternList]) { a.apply(list) }, b.misplaced(n))
}

// references remembers what a domain's directive names, to be looked up when all is read.
func (b *builder) references(a assignment[Settings]) {
	switch a.row.Name {
	case "smtp-pattern-list", "reroute-to-virtual-mta", "backoff-reroute-to-virtual-mta":
		b.named = append(b.named, a)
	case "disable-acct-records":
		b.config.disablesRecords = true
	}
}

// validateReferences reports directives of domains that name what does not exist.
func (b *builder) validateReferences() {
	for _, a := range b.named {
		var s Settings
		a.apply(&s)
		if list := s.SMTPPatternList; list != "" {
			if _, ok := b.config.PatternList(list); !ok {
				b.errorf(a.pos, "%s: there is no <smtp-pattern-list %s>", a.row.Name, list)
			}
		}
		name := s.RerouteToVirtualMTA + s.BackoffRerouteToVirtualMTA // one of them is set
		if _, ok := b.config.VMTA(name); ok {
			continue
		}
		if _, ok := b.config.Pool(name); !ok {
			b.errorf(a.pos, "%s: there is no virtual-mta or pool %q", a.row.Name, name)
		}
	}
}
