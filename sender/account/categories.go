package account

import (
	"cmp"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"carom/ingest/phrase"
	"carom/schemas/event"
)

// CategoryRule says which replies are of a category.
type CategoryRule struct {
	Pattern  *regexp.Regexp
	Category string
}

// Categories finds an operator's bounce category of a reply: that of the first rule that matches. What
// a pattern matches is the enhanced status code and the diagnostic, as in
// "5.1.1;smtp;550 5.1.1 no such user".
//
// A thousand patterns are not tried one after another. Most of them have words of which a text that
// they match holds one, and often several such sets. All words are looked for in one pass, and only
// the patterns of which each set was hit are tried. Categories are safe for concurrent use.
type Categories struct {
	rules  []CategoryRule
	sets   []uint8        // by rule: a bit for each of its sets of words
	words  *phrase.Finder // nil without any
	owners [][]owner      // by word: the sets that it is in
}

// owner is a set of words of a rule.
type owner struct {
	rule int32
	set  uint8 // its bit
}

// NewCategories returns the rules, the first of which counts.
func NewCategories(rules []CategoryRule) (*Categories, error) {
	c := &Categories{rules: rules, sets: make([]uint8, len(rules))}
	known := map[string]int{}
	var words []string
	for i, rule := range rules {
		parsed, err := syntax.Parse(rule.Pattern.String(), syntax.Perl)
		if err != nil {
			return nil, fmt.Errorf("pattern %s: %w", rule.Pattern, err)
		}
		sets := neededWords(parsed.Simplify())
		for n, set := range sets[:min(len(sets), mostSets)] {
			c.sets[i] |= 1 << n
			for _, word := range set {
				id, ok := known[word]
				if !ok {
					id = len(words)
					known[word] = id
					words = append(words, word)
					c.owners = append(c.owners, nil)
				}
				c.owners[id] = append(c.owners[id], owner{int32(i), 1 << n}) //nolint:gosec // lines of a configuration
			}
		}
	}
	if len(words) == 0 {
		return c, nil
	}
	var err error
	if c.words, err = phrase.New(words); err != nil {
		return nil, fmt.Errorf("bounce categories: %w", err)
	}
	return c, nil
}

// maxCategoryText bounds what patterns are tried on, in octets. Replies are shorter.
const maxCategoryText = 4 << 10

// Find returns the category of a text, false if no rule matches.
func (c *Categories) Find(text string) (string, bool) {
	text = text[:min(len(text), maxCategoryText)]
	var few [1024]uint8
	hit := few[:]
	if len(c.rules) > len(hit) {
		hit = make([]uint8, len(c.rules))
	}
	if c.words != nil {
		for match := range c.words.All(fold(text)) {
			for _, o := range c.owners[match.ID] {
				hit[o.rule] |= o.set
			}
		}
	}
	for i := range c.rules {
		if hit[i] == c.sets[i] && c.rules[i].Pattern.MatchString(text) {
			return c.rules[i].Category, true
		}
	}
	return "", false
}

// apply sets the category of an event that has one in PowerMTA's files. Without a rule for it the
// classifier's stays.
func (c *Categories) apply(e *event.Event) {
	if letter := e.Kind.PowerMTA(); letter == "" || letter == "r" || letter == "d" || letter == "f" {
		return
	}
	code := e.Enhanced
	if code == "" {
		code = impliedStatus(e)
	}
	text := make([]byte, 0, 256)
	text = append(append(text, code...), ';')
	if category, ok := c.Find(string(diagnostic(text, e, nil))); ok {
		e.PMTACategory = category
	}
}

const (
	leastWord = 3  // octets; shorter ones are in every text
	mostWords = 64 // of one set
	mostSets  = 8  // of one pattern: the bits of owner.set
)

// neededWords returns sets of words in lower case: a text that re matches holds a word of each.
func neededWords(re *syntax.Regexp) [][]string {
	switch re.Op { //nolint:exhaustive // the others need nothing
	case syntax.OpLiteral:
		return longestWord(re.Rune)
	case syntax.OpCapture, syntax.OpPlus:
		return neededWords(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return neededWords(re.Sub[0])
		}
	case syntax.OpConcat:
		var all [][]string
		for _, sub := range re.Sub {
			all = append(all, neededWords(sub)...)
		}
		// The longest ones say most.
		slices.SortStableFunc(all, func(a, b []string) int { return cmp.Compare(shortest(b), shortest(a)) })
		return all
	case syntax.OpAlternate:
		var either []string
		for _, sub := range re.Sub {
			sets := neededWords(sub)
			if len(sets) == 0 || len(either)+len(sets[0]) > mostWords {
				return nil
			}
			either = append(either, sets[0]...)
		}
		return [][]string{either}
	}
	return nil
}

// longestWord returns the longest run of ASCII in a literal that can be looked for.
func longestWord(literal []rune) [][]string {
	best, run := "", ""
	for _, r := range literal {
		if r < ' ' || r >= utf8.RuneSelf || r == '~' { // phrase's own sign
			run = ""
			continue
		}
		if run += strings.ToLower(string(r)); len(run) > len(best) {
			best = run
		}
	}
	if len(best) < leastWord {
		return nil
	}
	return [][]string{{best}}
}

func shortest(words []string) int {
	n := len(words[0])
	for _, word := range words[1:] {
		n = min(n, len(word))
	}
	return n
}

// fold returns text in lower case, and in it the two letters outside ASCII that a pattern without
// regard to case takes for letters of ASCII.
func fold(text string) string {
	lower := phrase.Lower(text)
	for i := range len(lower) {
		if lower[i] >= utf8.RuneSelf {
			return strings.NewReplacer("\u017f", "s", "\u212a", "k").Replace(lower)
		}
	}
	return lower
}
