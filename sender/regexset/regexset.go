// Package regexset tries a list of regular expressions on a text and finds the first that matches, without
// trying them all.
//
// Most expressions ask for some literal text ("try again", "5.7.1"). One pass over the text finds which of
// these occur (package phrase), and only the expressions whose literals are there are tried, and those of
// which nothing is known. The answer is the same as that of trying one after the other.
//
// A Set does no I/O, never changes and is safe for concurrent use.
package regexset

import (
	"math/bits"
	"regexp"
	"regexp/syntax"
	"strings"

	"carom/ingest/phrase"
)

// Set is a list of regular expressions.
type Set struct {
	patterns []*regexp.Regexp
	finder   *phrase.Finder
	asking   []int    // by phrase: the pattern that asks for it
	always   []uint64 // a bit for each pattern that asks for nothing
}

// New returns the set of the patterns, in their order.
func New(patterns []*regexp.Regexp) *Set {
	s := &Set{patterns: patterns, always: make([]uint64, (len(patterns)+63)/64)}
	var phrases []string
	for i, p := range patterns {
		literals := required(p.String())
		if literals == nil {
			s.always[i/64] |= 1 << (i % 64)
		}
		for _, literal := range literals {
			phrases = append(phrases, literal)
			s.asking = append(s.asking, i)
		}
	}
	finder, err := phrase.New(phrases)
	if err != nil { // required returns nothing that it refuses; without a finder all are tried
		for i := range patterns {
			s.always[i/64] |= 1 << (i % 64)
		}
		return s
	}
	s.finder = finder
	return s
}

// First returns the index of the first pattern that matches text, -1 if none does.
func (s *Set) First(text string) int {
	candidates := append([]uint64(nil), s.always...)
	if s.finder != nil {
		for m := range s.finder.All(fold(text)) {
			i := s.asking[m.ID]
			candidates[i/64] |= 1 << (i % 64)
		}
	}
	for word, set := range candidates {
		for ; set != 0; set &= set - 1 {
			if i := word*64 + bits.TrailingZeros64(set); s.patterns[i].MatchString(text) {
				return i
			}
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
)

// required returns literals of which every match of the expression holds at least one, case aside; nil if
// there are none to be told.
func required(expression string) []string {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil
	}
	literals := analyse(parsed).claim()
	trimmed := make([]string, 0, len(literals))
	for _, l := range literals {
		if l = strings.Trim(l, "~"); l == "" { // the mark of an edge in package phrase
			return nil
		}
		trimmed = append(trimmed, l)
	}
	if len(trimmed) == 0 {
		return nil
	}
	return trimmed
}

// facts are what is known of the texts that an expression matches.
type facts struct {
	exact []string // all of them, in lower case; nil if that is not known
	some  []string // every one holds one of these; nil if that is not known
}

// claim returns the literals of which one must occur.
func (f facts) claim() []string {
	if f.some == nil {
		return useful(f.exact)
	}
	return useful(f.some)
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
		return facts{some: analyse(re.Sub[0]).claim()}
	case syntax.OpRepeat:
		if re.Min > 0 {
			return facts{some: analyse(re.Sub[0]).claim()}
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
	return facts{some: []string{longest}}
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

// concat joins the exact texts of neighbours as long as they stay few, and keeps the best claim.
func concat(parts []*syntax.Regexp) facts {
	var best []string
	better := func(literals []string) {
		if literals = useful(literals); shortest(literals) > shortest(best) {
			best = literals
		}
	}
	run, whole := []string{""}, true
	for _, part := range parts {
		f := analyse(part)
		if f.exact == nil {
			better(run)
			better(f.claim())
			run, whole = []string{""}, false
			continue
		}
		if len(run)*len(f.exact) > mostLiterals {
			better(run)
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
	better(run)
	if whole {
		return facts{exact: run, some: best}
	}
	return facts{some: best}
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
		f.some = some
	}
	return f
}
