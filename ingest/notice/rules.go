package notice

import (
	_ "embed" // for rules.txt
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"carom/ingest/phrase"
	"carom/schemas/smtpstatus"
)

//go:embed rules.txt
var rulesText string

// place is where a phrase is looked for.
type place string

const (
	inText    place = "text"
	inSubject place = "subject"
	inFrom    place = "from"   // display name and address
	inMailer  place = "mailer" // X-Mailer and User-Agent
	inField   place = "field"  // the name of a field of the header
)

// meaning is what a phrase says.
type meaning string

const (
	failed    meaning = "failed"    // delivery failed
	delayed   meaning = "delayed"   // delivery will be tried again
	delivered meaning = "delivered" // delivery succeeded
	notice    meaning = "notice"    // one of the three, or the name of a program that says so
	recipient meaning = "recipient" // the address behind it is one that the notice is about
	stranger  meaning = "stranger"  // the address behind it is not
	returned  meaning = "returned"  // the message that comes back begins behind its line
	reply     meaning = "reply"     // the reason stands behind it
	automatic meaning = "automatic" // an answer that a machine gives on behalf of a person or a list
)

// weights is how much a phrase counts where its rule says nothing else.
var weights = map[meaning]int{failed: 3, delayed: 3, delivered: 3, notice: 2, recipient: 4, stranger: -6, automatic: -4, returned: 1, reply: 0}

// rule is one rule of rules.txt; doc.go says what the fields mean.
type rule struct {
	id, family, source string
	says               meaning
	weight             int
	status             smtpstatus.Enhanced
	phrases            []placed
	yes, no            []string
}

type placed struct {
	place place
	text  string
}

type ruleSet struct {
	rules   []*rule
	finders map[place]*finder
	fields  []*rule // those that look at the names of fields
}

// finder finds the phrases of one place.
type finder struct {
	*phrase.Finder
	owners []int // index of the rule of each phrase
}

var builtin = sync.OnceValue(func() *ruleSet {
	set, err := newRuleSet(rulesText, nil)
	if err != nil {
		panic(err) // a test reads the rules
	}
	return set
})

// newRuleSet compiles rules without those of the families that are left out.
func newRuleSet(source string, without []string) (*ruleSet, error) {
	rules, err := parseRules(source)
	if err != nil {
		return nil, err
	}
	rules = slices.DeleteFunc(rules, func(r *rule) bool { return r.family != "" && slices.Contains(without, r.family) })
	set := &ruleSet{rules: rules, finders: map[place]*finder{}}
	phrases := map[place][]string{}
	owners := map[place][]int{}
	for i, r := range rules {
		if slices.ContainsFunc(r.phrases, func(p placed) bool { return p.place == inField }) {
			set.fields = append(set.fields, r)
		}
		for _, p := range r.phrases {
			phrases[p.place] = append(phrases[p.place], p.text)
			owners[p.place] = append(owners[p.place], i)
		}
	}
	for p, texts := range phrases {
		f, err := phrase.New(texts)
		if err != nil {
			return nil, err
		}
		set.finders[p] = &finder{Finder: f, owners: owners[p]}
	}
	return set, nil
}

// parseRules reads rules.txt and returns all its mistakes.
func parseRules(source string) (rules []*rule, err error) {
	var mistakes []error
	var r *rule
	ids := map[string]bool{}
	for n, line := range strings.Split(source, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if id, ok := strings.CutPrefix(line, "["); ok {
			r = &rule{id: strings.TrimSuffix(id, "]"), says: notice}
			if ids[r.id] {
				mistakes = append(mistakes, fmt.Errorf("line %d: rule %s is there twice", n+1, r.id))
			}
			ids[r.id] = true
			rules = append(rules, r)
			continue
		}
		word, value, _ := strings.Cut(line, " ")
		if r == nil || !r.set(word, strings.TrimSpace(value)) {
			mistakes = append(mistakes, fmt.Errorf("line %d: %q", n+1, line))
		}
	}
	for _, r := range rules {
		if r.weight == 0 {
			r.weight = weights[r.says]
		}
		if len(r.phrases) == 0 || r.source == "" || len(r.yes) == 0 || len(r.no) == 0 {
			mistakes = append(mistakes, fmt.Errorf("rule %s lacks a phrase, a source or a sample", r.id))
		}
	}
	return rules, errors.Join(mistakes...)
}

func (r *rule) set(word, value string) bool {
	switch word {
	case "text", "subject", "from", "mailer", "field":
		p := placed{place(word), value}
		if slices.Contains(r.phrases, p) {
			return false
		}
		r.phrases = append(r.phrases, p)
	case "says":
		r.says = meaning(value)
		_, known := weights[r.says]
		return known
	case "weight":
		n, err := strconv.Atoi(value)
		r.weight = n
		return err == nil && n != 0
	case "status":
		r.status, _ = smtpstatus.ParseEnhanced(value)
		return !r.status.IsZero()
	case "family":
		r.family = value
	case "source":
		r.source = value
	case "yes":
		r.yes = append(r.yes, value)
	case "no":
		r.no = append(r.no, value)
	default:
		return false
	}
	return value != ""
}
