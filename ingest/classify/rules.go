package classify

import (
	_ "embed" // for rules.txt
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"carom/schemas/taxonomy"
)

//go:embed rules.txt
var rulesText string

// rule is one rule of rules.txt; doc.go says what the fields mean.
type rule struct {
	id        string
	provider  string
	when      int // 4, 5 or 0
	status    []string
	weak      bool
	category  taxonomy.Category
	dimension taxonomy.Dimension
	scope     taxonomy.Scope
	source    string
	patterns  []*pattern
	yes, no   []string
}

// ruleSet is a parsed rules file with the finder over its patterns.
type ruleSet struct {
	rules  []*rule
	finder *finder
	owners []owner // by anchor id
}

// owner says whose anchor it is.
type owner struct {
	rule    int32
	pattern int32
}

// builtin holds the rules that are part of the program; a mistake in them is found by every test.
var builtin = sync.OnceValue(func() *ruleSet {
	set, err := parseRules(rulesText)
	if err != nil {
		panic("classify: rules.txt: " + err.Error())
	}
	return set
})

// parseRules reads the format of doc.go. The error joins all mistakes, each with its line.
func parseRules(text string) (*ruleSet, error) {
	set := &ruleSet{}
	var errs []error
	ids := make(map[string]bool)
	line := 0
	for l := range strings.Lines(text) {
		line++
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		if id, ok := strings.CutPrefix(l, "["); ok && strings.HasSuffix(id, "]") {
			id = strings.TrimSuffix(id, "]")
			if ids[id] {
				errs = append(errs, fmt.Errorf("line %d: rule %s stands there twice", line, id))
			}
			ids[id] = true
			set.rules = append(set.rules, &rule{id: id})
			continue
		}
		if len(set.rules) == 0 {
			errs = append(errs, fmt.Errorf("line %d: %q before the first rule", line, l))
			continue
		}
		if err := set.rules[len(set.rules)-1].set(l); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", line, err))
		}
	}
	for _, r := range set.rules {
		if err := r.finish(); err != nil {
			errs = append(errs, fmt.Errorf("rule %s: %w", r.id, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return set, set.index()
}

func (r *rule) set(line string) error {
	word, value, _ := strings.Cut(line, " ")
	value = strings.TrimSpace(value)
	if value == "" && word != "weak" {
		return fmt.Errorf("%q has no value", word)
	}
	switch word {
	case "match":
		if value != strings.ToLower(value) {
			return fmt.Errorf("pattern %q is not lower-case", value)
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
	case "status":
		r.status = strings.Fields(value)
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
	var anchors []string
	for i, r := range s.rules {
		for j, p := range r.patterns {
			for _, anchor := range p.anchors {
				anchors = append(anchors, anchor)
				s.owners = append(s.owners, owner{int32(i), int32(j)}) //nolint:gosec // rules are few
			}
		}
	}
	var err error
	s.finder, err = newFinder(anchors)
	return err
}
