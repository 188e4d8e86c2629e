// Package phrase finds many phrases in a text in one pass (Aho and Corasick's automaton).
//
// A phrase is lower-case text with single blanks. "~" at its beginning or end is the edge of a
// word. Time is linear in the text and in the number of finds; a Finder is never changed after
// New and safe for concurrent use.
package phrase

import (
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Match is a phrase that was found.
type Match struct {
	ID         int // index of the phrase
	Start, End int // in the text
}

// Finder looks for phrases.
type Finder struct {
	phrases []edged
	class   [256]uint8 // of a byte; 0: in no phrase
	classes int
	next    []int32   // state*classes+class
	found   [][]int32 // by state: the phrases that end there
}

// edged is a phrase without its marks.
type edged struct {
	length      int
	left, right bool // an edge of a word is wanted
}

// New returns a finder for phrases. It returns an error for a phrase that is empty or not
// lower-case, and for phrases of more than 255 different bytes.
func New(phrases []string) (*Finder, error) {
	f := &Finder{classes: 1}
	for _, text := range phrases {
		p := edged{left: strings.HasPrefix(text, "~"), right: strings.HasSuffix(text, "~")}
		text = strings.Trim(text, "~")
		if text == "" || text != Lower(text) {
			return nil, fmt.Errorf("phrase %q is empty or not lower-case", text)
		}
		p.length = len(text)
		f.phrases = append(f.phrases, p)
		if err := f.addClasses(text); err != nil {
			return nil, err
		}
	}
	f.addState()
	for id, text := range phrases {
		f.add(int32(id), strings.Trim(text, "~")) //nolint:gosec // phrases are few
	}
	f.link()
	return f, nil
}

var errTooManyBytes = errors.New("phrases use more than 255 different bytes")

func (f *Finder) addClasses(text string) error {
	for i := range len(text) {
		if f.class[text[i]] != 0 {
			continue
		}
		if f.classes > 255 {
			return errTooManyBytes
		}
		f.class[text[i]] = uint8(f.classes) //nolint:gosec // not more than 255
		f.classes++
	}
	return nil
}

func (f *Finder) addState() int32 {
	f.next = append(f.next, make([]int32, f.classes)...)
	f.found = append(f.found, nil)
	return int32(len(f.found) - 1) //nolint:gosec // states are few
}

func (f *Finder) add(id int32, text string) {
	state := int32(0)
	for i := range len(text) {
		edge := int(state)*f.classes + int(f.class[text[i]])
		if f.next[edge] == 0 {
			f.next[edge] = f.addState()
		}
		state = f.next[edge]
	}
	f.found[state] = append(f.found[state], id)
}

// link gives each state, in breadth-first order, the edges and finds of its longest suffix.
func (f *Finder) link() {
	fail := make([]int32, len(f.found))
	queue := make([]int32, 0, len(f.found))
	for _, child := range f.next[:f.classes] {
		if child != 0 {
			queue = append(queue, child)
		}
	}
	for i := 0; i < len(queue); i++ {
		state := queue[i]
		suffix := fail[state]
		f.found[state] = append(f.found[state], f.found[suffix]...)
		for class := range f.classes {
			edge, other := int(state)*f.classes+class, f.next[int(suffix)*f.classes+class]
			if child := f.next[edge]; child != 0 {
				fail[child] = other
				queue = append(queue, child)
			} else {
				f.next[edge] = other
			}
		}
	}
}

// All yields what is found in text, which must be lower-case, in the order in which it ends.
func (f *Finder) All(text string) iter.Seq[Match] {
	return func(yield func(Match) bool) {
		state := int32(0)
		for i := range len(text) {
			state = f.next[int(state)*f.classes+int(f.class[text[i]])]
			for _, id := range f.found[state] {
				p := f.phrases[id]
				start := i + 1 - p.length
				if p.left && start > 0 && isWord(text[start-1]) || p.right && i+1 < len(text) && isWord(text[i+1]) {
					continue
				}
				if !yield(Match{ID: int(id), Start: start, End: i + 1}) {
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
