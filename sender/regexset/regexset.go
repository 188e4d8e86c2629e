// Package regexset tries a list of regular expressions on a text and finds the first that matches, without
// trying them all.
//
// Most expressions ask for some literal text ("try again", "5.7.1"), and many for several. One pass over the
// text finds which of these occur (package phrase), and only the expressions all of whose literals are there
// are tried, and those of which nothing is known. The answer is the same as that of trying one after the
// other.
//
// A Set does no I/O, never changes and is safe for concurrent use.
package regexset

import (
	"cmp"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"carom/ingest/phrase"
)

// Set is a list of regular expressions.
type Set struct {
	patterns []*regexp.Regexp
	claims   []uint8 // by pattern: a bit for each claim; with 0 it is tried on every text
	finder   *phrase.Finder
	asking   [][]claim // by phrase
}

// claim is one of the things that a pattern asks for: one of several literals.
type claim struct {
	pattern int
	bit     uint8
}

// New returns the set of the patterns, in their order.
func New(patterns []*regexp.Regexp) *Set {
	s := &Set{patterns: patterns, claims: make([]uint8, len(patterns))}
	var phrases []string
	known := map[string]int{}
	for i, p := range patterns {
		for n, literals := range required(p.String()) {
			s.claims[i] |= 1 << n
			for _, literal := range literals {
				id, ok := known[literal]
				if !ok {
					id = len(phrases)
					known[literal] = id
					phrases, s.asking = append(phrases, literal), append(s.asking, nil)
				}
				s.asking[id] = append(s.asking[id], claim{i, 1 << n})
			}
		}
	}
	finder, err := phrase.New(phrases)
	if err != nil { // required returns nothing that it refuses; without a finder all are tried
		clear(s.claims)
		return s
	}
	s.finder = finder
	return s
}

// First returns the index of the first pattern that matches text, -1 if none does.
func (s *Set) First(text string) int {
	var few [1024]uint8
	met := few[:]
	if len(s.patterns) > len(met) {
		met = make([]uint8, len(s.patterns))
	}
	if s.finder != nil {
		for m := range s.finder.All(fold(text)) {
			for _, c := range s.asking[m.ID] {
				met[c.pattern] |= c.bit
			}
		}
	}
	for i, p := range s.patterns {
		if met[i] == s.claims[i] && p.MatchString(text) {
			return i
		}
	}
	return -1
}

// foreign are the letters beyond ASCII that Go's expressions count as the same as one of ASCII where case
// does not matter: the long s and the Kelvin sign.
var foreign = strings.NewReplacer("ſ", "s", "\u212a", "k")

// fold returns text as literals are looked for in it.
func fold(text string) string { return phrase.Lower(foreign.Replace(text)) }

// The bounds of what is worked out: literals shorter than leastLiteral say nothing about a text, and more
// than mostLiterals of one pattern cost more than they spare.
const (
	leastLiteral = 3
	mostLiterals = 32
	mostClaims   = 8 // of one pattern: the bits of claim
)

// required returns lists of literals: every match of the expression holds at least one of each list, case
// aside. The lists that say most come first.
func required(expression string) [][]string {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil
	}
	var all [][]string
	for _, literals := range analyse(parsed).claims() {
		trimmed := make([]string, 0, len(literals))
		for _, l := range literals {
			trimmed = append(trimmed, strings.Trim(l, "~")) // the mark of an edge in package phrase
		}
		if !slices.Contains(trimmed, "") {
			all = append(all, trimmed)
		}
	}
	return all[:min(len(all), mostClaims)]
}

// facts are what is known of the texts that an expression matches.
type facts struct {
	exact []string   // all of them, in lower case; nil if that is not known
	some  [][]string // every one holds one of each of these lists
}

// claims returns the lists of literals that say something, those with the longest literals first.
func (f facts) claims() [][]string {
	lists := f.some
	if len(lists) == 0 {
		lists = [][]string{f.exact}
	}
	var all [][]string
	for _, literals := range lists {
		if literals = useful(literals); literals != nil {
			all = append(all, literals)
		}
	}
	slices.SortStableFunc(all, func(a, b []string) int { return cmp.Compare(shortest(b), shortest(a)) })
	return all
}

// claim returns the list that says most, nil if none says anything.
func (f facts) claim() []string {
	if all := f.claims(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// useful returns literals if they say something.
func useful(literals []string) []string {
	if shortest(literals) < leastLiteral || len(literals) > mostLiterals {
		return nil
	}
	return literals
}

// shortest returns the length of the shortest literal, 0 if there is none.
func shortest(literals []string) int {
	least := 0
	for i, l := range literals {
		if i == 0 || len(l) < least {
			least = len(l)
		}
	}
	return least
}

func analyse(re *syntax.Regexp) facts {
	switch re.Op {
	case syntax.OpLiteral:
		return literal(re.Rune)
	case syntax.OpCharClass:
		return class(re.Rune)
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return facts{exact: []string{""}}
	case syntax.OpCapture:
		return analyse(re.Sub[0])
	case syntax.OpQuest:
		if f := analyse(re.Sub[0]); f.exact != nil {
			return facts{exact: append([]string{""}, f.exact...)}
		}
	case syntax.OpPlus:
		return facts{some: analyse(re.Sub[0]).claims()}
	case syntax.OpRepeat:
		if re.Min > 0 {
			return facts{some: analyse(re.Sub[0]).claims()}
		}
	case syntax.OpConcat:
		return concat(re.Sub)
	case syntax.OpAlternate:
		return alternate(re.Sub)
	case syntax.OpNoMatch, syntax.OpAnyCharNotNL, syntax.OpAnyChar, syntax.OpStar: // say nothing
	}
	return facts{}
}

// literal returns the text itself, or the longest part of it in ASCII: case beyond that is not folded here.
func literal(runes []rune) facts {
	text := fold(string(runes))
	longest := ""
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r >= 0x80 }) {
		if len(part) > len(longest) {
			longest = part
		}
	}
	if longest == text {
		return facts{exact: []string{text}}
	}
	if longest == "" {
		return facts{}
	}
	return facts{some: [][]string{{longest}}}
}

// class returns the characters of a class of few, given as pairs of bounds.
func class(bounds []rune) facts {
	const most = 16
	var all []string
	known := map[string]bool{}
	for i := 0; i+1 < len(bounds); i += 2 {
		if bounds[i+1]-bounds[i] >= most {
			return facts{}
		}
		for r := bounds[i]; r <= bounds[i+1]; r++ {
			text := fold(string(r))
			if text[0] >= 0x80 || len(all) > most {
				return facts{}
			}
			if !known[text] {
				known[text] = true
				all = append(all, text)
			}
		}
	}
	return facts{exact: all}
}

// concat joins the exact texts of neighbours as long as they stay few, and keeps what each part asks for.
func concat(parts []*syntax.Regexp) facts {
	var some [][]string
	run, whole := []string{""}, true
	for _, part := range parts {
		f := analyse(part)
		if f.exact == nil {
			some = append(append(some, run), f.claims()...)
			run, whole = []string{""}, false
			continue
		}
		if len(run)*len(f.exact) > mostLiterals {
			some = append(some, run)
			run, whole = []string{""}, false
		}
		joined := make([]string, 0, len(run)*len(f.exact))
		for _, head := range run {
			for _, tail := range f.exact {
				joined = append(joined, head+tail)
			}
		}
		run = joined
	}
	if whole {
		return facts{exact: run}
	}
	return facts{some: append(some, run)}
}

func alternate(parts []*syntax.Regexp) facts {
	var exact, some []string
	whole, claimed := true, true
	for _, part := range parts {
		f := analyse(part)
		if f.exact == nil {
			whole = false
		}
		exact = append(exact, f.exact...)
		c := f.claim()
		if c == nil {
			claimed = false
		}
		some = append(some, c...)
	}
	var f facts
	if whole && len(exact) <= mostLiterals {
		f.exact = exact
	}
	if claimed {
		f.some = [][]string{some}
	}
	return f
}
