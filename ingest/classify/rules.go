package classify

import (
	"embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

//go:embed rules/*.txt
var ruleFiles embed.FS

// precedence names the files of rules/, in which the first rule that matches wins: what one
// receiver says, what one product says, what anybody may say.
var precedence = []string{"receivers.txt", "filters.txt", "general.txt"}

// rule is one rule; doc.go says what the fields mean.
type rule struct {
	id        string
	provider  string
	when      int // 4, 5 or 0
	codes     []int
	phases    []event.Phase
	status    []statusRange
	weak      bool
	category  taxonomy.Category
	dimension taxonomy.Dimension
	scope     taxonomy.Scope
	source    string
	patterns  []*pattern
	yes, no   []string
}

// ruleSet are parsed rules with the finder over the anchors of their patterns.
type ruleSet struct {
	rules    []*rule
	patterns []numbered // in the order of the rules
	finder   *finder
	rarest   [][]int32 // by anchor, the finder's ids: the patterns whose rarest need it meets
}

// numbered is a pattern, whose it is, and the anchors of its needs but the rarest.
type numbered struct {
	*pattern
	rule *rule
	also [][]int32
}

// builtin holds the rules that are part of the program; a mistake in them is found by every test.
var builtin = sync.OnceValue(func() *ruleSet {
	var p parser
	for _, name := range precedence {
		text, err := ruleFiles.ReadFile("rules/" + name)
		if err != nil {
			panic("classify: " + err.Error())
		}
		p.read(name, string(text))
	}
	set, err := p.finish()
	if err != nil {
		panic("classify: rules: " + err.Error())
	}
	return set
})

// parser reads files in the format of doc.go, in order.
type parser struct {
	set   ruleSet
	ids   map[string]bool
	words *strings.Replacer // "{name}" to the choices of its line "words"
	pairs []string          // what words replaces
	errs  []error
}

// read adds the rules of one file.
func (p *parser) read(file, text string) {
	line := 0
	for l := range strings.Lines(text) {
		line++
		if err := p.line(strings.TrimSpace(l)); err != nil {
			p.errs = append(p.errs, fmt.Errorf("%s line %d: %w", file, line, err))
		}
	}
}

func (p *parser) line(l string) error {
	if l == "" || l[0] == '#' {
		return nil
	}
	if id, ok := strings.CutPrefix(l, "["); ok && strings.HasSuffix(id, "]") {
		id = strings.TrimSuffix(id, "]")
		if p.ids == nil {
			p.ids = make(map[string]bool)
		}
		twice := p.ids[id]
		p.ids[id] = true
		p.set.rules = append(p.set.rules, &rule{id: id})
		if id == "" || twice {
			return fmt.Errorf("rule %q has no id or stands there twice", id)
		}
		return nil
	}
	if definition, ok := strings.CutPrefix(l, "words "); ok {
		name, choices, ok := strings.Cut(definition, " ")
		if !ok || choices != strings.ToLower(choices) || strings.ContainsAny(choices, "{}()*%") {
			return fmt.Errorf("words %q: want a name and its choices in lower case, such as \"who user|recipient\"", definition)
		}
		p.pairs = append(p.pairs, "{"+name+"}", strings.TrimSpace(choices))
		p.words = strings.NewReplacer(p.pairs...)
		return nil
	}
	if len(p.set.rules) == 0 {
		return fmt.Errorf("%q before the first rule", l)
	}
	r := p.set.rules[len(p.set.rules)-1]
	if p.words == nil || !strings.HasPrefix(l, "match ") {
		return r.set(l)
	}
	if err := r.set(p.words.Replace(l)); err != nil {
		return err
	}
	r.patterns[len(r.patterns)-1].text = strings.TrimSpace(strings.TrimPrefix(l, "match "))
	return nil
}

// finish checks the rules and prepares them for use. The error joins all mistakes, each with its
// file and line or its rule.
func (p *parser) finish() (*ruleSet, error) {
	for _, r := range p.set.rules {
		if err := r.finish(); err != nil {
			p.errs = append(p.errs, fmt.Errorf("rule %s: %w", r.id, err))
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return &p.set, p.set.index()
}

func (r *rule) set(line string) error {
	word, value, _ := strings.Cut(line, " ")
	value = strings.TrimSpace(value)
	if value == "" && word != "weak" {
		return fmt.Errorf("%q has no value", word)
	}
	switch word {
	case "match":
		if value != fold(value) {
			return fmt.Errorf("pattern %q is not lower-case or has accents: want %q", value, fold(value))
		}
		p, err := compile(value)
		if err != nil {
			return err
		}
		r.patterns = append(r.patterns, p)
	case "provider":
		r.provider = value
	case "when":
		n, err := strconv.Atoi(value)
		if err != nil || n != 4 && n != 5 {
			return fmt.Errorf("when %q: want 4 or 5", value)
		}
		r.when = n
	case "code":
		for word := range strings.FieldsSeq(value) {
			n, err := strconv.Atoi(word)
			if err != nil || n < 400 || n > 599 {
				return fmt.Errorf("code %q: want 400 to 599", word)
			}
			r.codes = append(r.codes, n)
		}
	case "phase":
		for word := range strings.FieldsSeq(value) {
			phase, err := phaseNamed(word)
			if err != nil && word != "none" {
				return err
			}
			r.phases = append(r.phases, phase) // "none": nobody knows the phase
		}
	case "status":
		for word := range strings.FieldsSeq(value) {
			s, err := parseStatusRange(word)
			if err != nil {
				return err
			}
			r.status = append(r.status, s)
		}
	case "weak":
		r.weak = true
	case "category":
		r.category = taxonomy.Category(value)
	case "dimension":
		r.dimension = taxonomy.Dimension(value)
	case "scope":
		r.scope = taxonomy.Scope(value)
	case "source":
		r.source = value
	case "yes":
		r.yes = append(r.yes, value)
	case "no":
		r.no = append(r.no, value)
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

// finish checks a rule and fills in the defaults.
func (r *rule) finish() error {
	var errs []error
	if !r.category.Known() {
		errs = append(errs, fmt.Errorf("category %q is none", r.category))
	}
	if r.dimension == "" {
		r.dimension = dimensionOf(r.category)
	}
	if !slices.Contains(taxonomy.Dimensions, r.dimension) {
		errs = append(errs, fmt.Errorf("dimension %q is none", r.dimension))
	}
	switch r.scope {
	case taxonomy.ScopeNone:
		r.scope = scopeOf(r.category)
	case taxonomy.ScopeRecipient, taxonomy.ScopeDomain, taxonomy.ScopeURL, taxonomy.ScopeSource, taxonomy.ScopeProvider:
	default:
		errs = append(errs, fmt.Errorf("scope %q is none", r.scope))
	}
	if len(r.patterns) == 0 || r.source == "" || len(r.yes) == 0 || len(r.no) == 0 {
		errs = append(errs, errors.New("want match, source, yes and no, at least one each"))
	}
	return errors.Join(errs...)
}

func (s *ruleSet) index() error {
	ids := make(map[string]int32)
	var texts []string
	idsOf := func(need []string) []int32 {
		all := make([]int32, 0, len(need))
		for _, anchor := range need {
			id, ok := ids[anchor]
			if !ok {
				id = int32(len(texts)) //nolint:gosec // anchors are few
				ids[anchor] = id
				texts = append(texts, anchor)
				s.rarest = append(s.rarest, nil)
			}
			all = append(all, id)
		}
		return all
	}
	for _, r := range s.rules {
		for _, p := range r.patterns {
			n := numbered{pattern: p, rule: r}
			for i, need := range p.needs {
				anchors := idsOf(need)
				if i > 0 {
					n.also = append(n.also, anchors)
					continue
				}
				for _, id := range anchors {
					s.rarest[id] = append(s.rarest[id], int32(len(s.patterns))) //nolint:gosec // patterns are few
				}
			}
			s.patterns = append(s.patterns, n)
		}
	}
	var err error
	s.finder, err = newFinder(texts)
	return err
}

// statusRange are enhanced status codes of one subject, of any class.
type statusRange struct{ subject, from, to uint16 }

// parseStatusRange reads "7.1" or "7.606-649".
func parseStatusRange(text string) (statusRange, error) {
	subject, details, _ := strings.Cut(text, ".")
	from, to, isRange := strings.Cut(details, "-")
	if !isRange {
		to = from
	}
	var s statusRange
	for _, part := range []struct {
		text  string
		value *uint16
	}{{subject, &s.subject}, {from, &s.from}, {to, &s.to}} {
		n, err := strconv.ParseUint(part.text, 10, 16)
		if err != nil {
			return statusRange{}, fmt.Errorf("status %q: want subject.detail or subject.from-to", text)
		}
		*part.value = uint16(n)
	}
	return s, nil
}

// phaseNamed returns the phase with this name.
func phaseNamed(name string) (event.Phase, error) {
	var names []string
	for _, p := range event.Phases() {
		if p.String() == name {
			return p, nil
		}
		if p != event.PhaseNone {
			names = append(names, p.String())
		}
	}
	return event.PhaseNone, fmt.Errorf("phase %q: want one of %s", name, strings.Join(names, ", "))
}
