package classify

import (
	"errors"
	"fmt"
	"strings"
)

// maxGap is the number of bytes that "*" spans at most: about one line of a reply (RFC 5321
// section 4.5.3.1.5 allows 512, receivers write some 100), so that words of one statement match
// and those of two rarely.
const maxGap = 120

// maxNear is the number of bytes that "%" spans at most: a few words.
const maxNear = 30

// node is one step of a pattern.
type node struct {
	gap          int      // "*" or "%": so many bytes at most
	alternatives []string // if there is no gap: one of these comes next
	first        byteSet  // with which an alternative may begin
}

// pattern is a compiled match line.
type pattern struct {
	text  string // as it is written in the rules
	nodes []node
	needs [][]string // of each, one is in every text that matches; the rarest first
	gaps  bool       // has a "*" or "%"
}

// minAnchor is the least length of an anchor. Shorter ones would be in every text.
const minAnchor = 3

func compile(text string) (*pattern, error) {
	p := &pattern{text: text}
	for rest := text; rest != ""; {
		switch i := strings.IndexAny(rest, "*%("); {
		case i < 0:
			p.literal(rest)
			rest = ""
		case i > 0:
			p.literal(rest[:i])
			rest = rest[i:]
		case rest[0] == '*':
			p.nodes = append(p.nodes, node{gap: maxGap})
			rest = rest[1:]
		case rest[0] == '%':
			p.nodes = append(p.nodes, node{gap: maxNear})
			rest = rest[1:]
		default:
			group, after, found := strings.Cut(rest[1:], ")")
			if !found || strings.ContainsAny(group, "(*%") {
				return nil, fmt.Errorf("pattern %q: a choice is not closed or holds (, * or %%", text)
			}
			p.nodes = append(p.nodes, node{alternatives: strings.Split(group, "|")})
			rest = after
		}
	}
	if p.nodes[0].gap > 0 || p.nodes[len(p.nodes)-1].gap > 0 {
		return nil, fmt.Errorf("pattern %q begins or ends with a gap", text)
	}
	best := 0
	for _, n := range p.nodes {
		anchors, shortest := anchorsOf(n)
		if shortest < minAnchor {
			continue
		}
		p.needs = append(p.needs, anchors)
		if shortest > best { // the longer, the rarer
			last := len(p.needs) - 1
			p.needs[0], p.needs[last], best = p.needs[last], p.needs[0], shortest
		}
	}
	if len(p.needs) == 0 {
		return nil, fmt.Errorf("pattern %q has no literal of %d bytes", text, minAnchor)
	}
	p.gaps = strings.ContainsAny(text, "*%")
	for i := range p.nodes {
		p.nodes[i].setFirst()
	}
	return p, nil
}

// byteSet is a set of bytes, a bit each.
type byteSet [4]uint64

func (s *byteSet) add(c byte)      { s[c/64] |= 1 << (c % 64) }
func (s *byteSet) has(c byte) bool { return s[c/64]&(1<<(c%64)) != 0 }

// setFirst notes with which bytes the node may begin: all of them if an alternative is empty.
func (n *node) setFirst() {
	for _, alternative := range n.alternatives {
		alternative = strings.TrimLeft(alternative, "~")
		switch {
		case alternative == "":
			n.first = byteSet{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
		case alternative[0] == '#':
			for c := byte('0'); c <= '9'; c++ {
				n.first.add(c)
			}
		default:
			n.first.add(alternative[0])
		}
	}
}

func (p *pattern) literal(text string) {
	p.nodes = append(p.nodes, node{alternatives: []string{text}})
}

// anchorsOf returns the longest plain run of each alternative and the length of the shortest.
func anchorsOf(n node) (anchors []string, shortest int) {
	for i, alternative := range n.alternatives {
		longest := ""
		for run := range strings.FieldsFuncSeq(alternative, func(r rune) bool { return r == '~' || r == '#' }) {
			if len(run) > len(longest) {
				longest = run
			}
		}
		anchors = append(anchors, longest)
		if i == 0 || len(longest) < shortest {
			shortest = len(longest)
		}
	}
	return anchors, shortest
}

// matcher tries patterns on one text. It remembers which nodes failed where, so that a pattern
// takes time linear in the text.
type matcher struct {
	text   string
	failed []uint64 // bit node*(len(text)+1)+position
}

func (m *matcher) matches(p *pattern) bool {
	if p.gaps {
		words := (len(p.nodes)*(len(m.text)+1) + 63) / 64
		if cap(m.failed) < words {
			m.failed = make([]uint64, words)
		}
		m.failed = m.failed[:words]
		clear(m.failed)
	}
	for at := range len(m.text) {
		if p.nodes[0].first.has(m.text[at]) && m.from(p, 0, at) {
			return true
		}
	}
	return false
}

// from reports whether the nodes from i on match the text at position at.
func (m *matcher) from(p *pattern, i, at int) bool {
	if i == len(p.nodes) {
		return true
	}
	if !p.gaps {
		return m.step(p, i, at)
	}
	bit := i*(len(m.text)+1) + at
	if m.failed[bit/64]&(1<<(bit%64)) != 0 {
		return false
	}
	if m.step(p, i, at) {
		return true
	}
	m.failed[bit/64] |= 1 << (bit % 64)
	return false
}

func (m *matcher) step(p *pattern, i, at int) bool {
	n := &p.nodes[i]
	if n.gap > 0 {
		next := &p.nodes[i+1] // a pattern does not end with a gap
		for to := at; to <= min(at+n.gap, len(m.text)); to++ {
			if (to == len(m.text) || next.gap > 0 || next.first.has(m.text[to])) && m.from(p, i+1, to) {
				return true
			}
		}
		return false
	}
	if at < len(m.text) && !n.first.has(m.text[at]) {
		return false
	}
	for _, alternative := range n.alternatives {
		if end, ok := literalAt(m.text, at, alternative); ok && m.from(p, i+1, end) {
			return true
		}
	}
	return false
}

// literalAt compares literal with text at position at; "#" is a digit, "~" an edge of a word.
func literalAt(text string, at int, literal string) (end int, ok bool) {
	for i := range len(literal) {
		switch c := literal[i]; {
		case c == '~':
			if at > 0 && at < len(text) && isWord(text[at-1]) && isWord(text[at]) {
				return 0, false
			}
		case at >= len(text):
			return 0, false
		case c == '#':
			if text[at] < '0' || text[at] > '9' {
				return 0, false
			}
			at++
		case text[at] != c:
			return 0, false
		default:
			at++
		}
	}
	return at, true
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 0x80
}

// finder finds the anchors of many patterns in one pass: Aho and Corasick's automaton with its
// failure links folded into one table.
type finder struct {
	class   [256]uint8 // of a byte; 0: in no anchor
	classes int
	next    []int32   // state*classes+class
	found   [][]int32 // by state: ids of the anchors that end there
}

var errTooManyBytes = errors.New("anchors use more than 255 different bytes")

func newFinder(anchors []string) (*finder, error) {
	f := &finder{classes: 1}
	for _, a := range anchors {
		for i := range len(a) {
			if f.class[a[i]] != 0 {
				continue
			}
			if f.classes > 255 {
				return nil, errTooManyBytes
			}
			f.class[a[i]] = uint8(f.classes) //nolint:gosec // not more than 255
			f.classes++
		}
	}
	f.addState()
	for id, a := range anchors {
		state := int32(0)
		for i := range len(a) {
			edge := int(state)*f.classes + int(f.class[a[i]])
			if f.next[edge] == 0 {
				f.next[edge] = f.addState()
			}
			state = f.next[edge]
		}
		f.found[state] = append(f.found[state], int32(id)) //nolint:gosec // ids are few
	}
	f.link()
	return f, nil
}

func (f *finder) addState() int32 {
	f.next = append(f.next, make([]int32, f.classes)...)
	f.found = append(f.found, nil)
	return int32(len(f.found) - 1) //nolint:gosec // states are few
}

// link gives each state, in breadth-first order, the edges and finds of its longest suffix.
func (f *finder) link() {
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

// find appends the ids of the anchors in text to ids, each once. seen, by id, has no anchor set
// before and those of ids afterwards.
func (f *finder) find(text string, seen []bool, ids []int32) []int32 {
	state := int32(0)
	for i := range len(text) {
		state = f.next[int(state)*f.classes+int(f.class[text[i]])]
		for _, id := range f.found[state] {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}
