// Package phrase finds many phrases in a text in one pass.
//
// A phrase is lower-case text with single blanks. "~" at its beginning or end is the edge of a
// word. The first bytes of a phrase decide whether it is looked at, so that time is the text's length
// times the few phrases that begin alike. A Finder is never changed after New and safe for
// concurrent use.
package phrase

import (
	"fmt"
	"iter"
	"strings"
)

// Match is a phrase that was found.
type Match struct {
	ID         int // index of the phrase
	Start, End int // in the text
}

// head is the number of bytes by which phrases are found, and so the least length of one.
const head = 3

// headBits is the size of the table of heads: so many more than there are phrases that most places of
// a text have none to look at.
const headBits = 13

// Finder looks for phrases.
type Finder struct {
	phrases []edged
	heads   [1 << headBits][]int32 // the phrases by the hash of their head
}

// edged is a phrase without its marks.
type edged struct {
	text        string
	left, right bool // an edge of a word is wanted
}

// New returns a finder for phrases. It returns an error for a phrase that is shorter than three bytes
// or not lower-case.
func New(phrases []string) (*Finder, error) {
	f := &Finder{}
	for id, text := range phrases {
		p := edged{left: strings.HasPrefix(text, "~"), right: strings.HasSuffix(text, "~"), text: strings.Trim(text, "~")}
		if len(p.text) < head || p.text != Lower(p.text) {
			return nil, fmt.Errorf("phrase %q is shorter than %d bytes or not lower-case", text, head)
		}
		f.phrases = append(f.phrases, p)
		h := hash(p.text)
		f.heads[h] = append(f.heads[h], int32(id)) //nolint:gosec // phrases are few
	}
	return f, nil
}

// hash returns the place of the head of s in the table.
func hash(s string) uint32 {
	const spread = 2654435761 // Knuth, The Art of Computer Programming, section 6.4: the golden ratio of 2^32
	return (uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16) * spread >> (32 - headBits)
}

// All yields what is found in text, which must be lower-case, in the order in which it begins.
func (f *Finder) All(text string) iter.Seq[Match] {
	return func(yield func(Match) bool) {
		for start := range len(text) - head + 1 {
			for _, id := range f.heads[hash(text[start:])] {
				p := &f.phrases[id]
				if !strings.HasPrefix(text[start:], p.text) {
					continue
				}
				end := start + len(p.text)
				if p.left && start > 0 && isWord(text[start-1]) || p.right && end < len(text) && isWord(text[end]) {
					continue
				}
				if !yield(Match{ID: int(id), Start: start, End: end}) {
					return
				}
			}
		}
	}
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 0x80
}

// Lower returns s with its ASCII letters in lower case and everything else as it is, so that
// positions in it are positions in s.
func Lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
