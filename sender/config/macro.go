package config

import (
	"slices"
	"strings"
)

// Bounds of what macros may stand for. Items of a list are never empty, so these bound the work
// of an expansion too.
const (
	maxPatterns      = 10_000 // in one directive
	maxTotalPatterns = 1_000_000
	maxPatternLength = 300 // a domain has at most 253 bytes (RFC 1035 2.3.4)
)

// macros are the domain-macro directives: names that stand for lists in domain patterns.
type macros struct {
	items map[string][]word
	// using holds the macros whose expansion is under way, to find loops.
	using map[string]bool
	total int
}

func readMacros(l *loader, nodes []*node) *macros {
	const want = "want NAME and a list, for example: domain-macro hotmail hotmail.com,live.com"
	m := &macros{items: map[string][]word{}, using: map[string]bool{}}
	for i, n := range nodes {
		if n.IsSection || n.Name != "domain-macro" {
			continue
		}
		joinMacro(l, n, nodes[i+1:])
		name, _, _ := strings.Cut(strings.ReplaceAll(n.Value, "\t", " "), " ")
		list := newValue(n, l)
		list.text = n.Value[len(name):]
		list.pos.Column += len(name)
		items, err := list.list(want)
		if err == nil && (name == "" || macroName(name) != len(name)) {
			l.errorf(n.ValuePos, "domain-macro: bad name %q; a name holds letters, digits and _", name)
			continue
		}
		if err != nil {
			l.add(n.Name, n.ValuePos, err)
			continue
		}
		if len(items) == 0 || slices.ContainsFunc(items, func(w word) bool { return w.text == "" }) {
			l.errorf(n.ValuePos, "domain-macro: empty item in the list of %s; %s", name, want)
			continue
		}
		m.items[name] = items
	}
	return m
}

// joinMacro puts the lines behind a domain-macro that its list goes on in into its value: files that worked
// with PowerMTA have such. A list goes on where it ends in a comma, or where only the name stands and a domain begins the next
// line.
func joinMacro(l *loader, n *node, following []*node) {
	for _, next := range following[:min(len(following), maxMacroLines)] {
		value := strings.TrimRight(n.Value, blanks)
		_, known := registry[globalScope][next.Name]
		first, _, _ := strings.Cut(next.Name, ",")
		switch {
		case known, next.IsSection, next.Pos.File != n.Pos.File, strings.Trim(first, macroItem) != "":
			return
		case strings.HasSuffix(value, ","):
		case value == "" || macroName(value) != len(value) || !strings.ContainsAny(next.Name, ".,$"):
			return
		}
		n.Value = value + " " + strings.TrimSpace(next.Name+" "+next.Value)
		next.isJoined = true
		l.warnOnce(next.Pos, "domain-macro", "the list goes on from the line above; better write it on one line")
	}
}

// maxMacroLines bounds how many lines of a list are put together.
const maxMacroLines = 100

// macroItem are the characters of an item of a macro's list: of domains and of macros.
const macroItem = "abcdefghijklmnopqrstuvwxyz0123456789-_.$"

// macroName returns how many bytes at the start of s are a macro's name.
func macroName(s string) int {
	for i := range len(s) {
		c := s[i] | 0x20
		if s[i] != '_' && (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') {
			return i
		}
	}
	return len(s)
}

// expandedPattern is a domain pattern and whether a macro was part of it.
type expandedPattern struct {
	DomainPattern
	expanded bool
}

// patterns returns the domain patterns that the value of n stands for.
func (b *builder) patterns(n *node) []expandedPattern {
	const want = "want one domain pattern: *, dom, *.dom, [*.]dom or [10/8]; " +
		"for several domains write domain-macro NAME dom1,dom2 and <domain $NAME>"
	subject := n.Name
	if n.IsSection {
		subject = "<" + n.Name + ">"
	}
	w, err := newValue(n, b.loader).fields(1, 1, want)
	if err != nil {
		b.add(subject, n.ValuePos, err)
		return nil
	}
	texts := []string{w[0].text}
	expanded := strings.Contains(w[0].text, "$")
	if expanded {
		if texts, err = b.macros.expand(w[0]); err != nil {
			b.add(subject, n.ValuePos, err)
			return nil
		}
	}
	all := make([]expandedPattern, 0, len(texts))
	for _, s := range texts {
		p, err := parseDomainPattern(s)
		if err != nil {
			b.add(subject, n.ValuePos, err)
			return nil
		}
		all = append(all, expandedPattern{p, expanded})
	}
	return all
}

// expand returns the texts that w stands for with each $NAME replaced by each item of its list.
func (m *macros) expand(w word) ([]string, error) {
	before, after, ok := strings.Cut(w.text, "$")
	if !ok {
		return []string{w.text}, nil
	}
	length := macroName(after)
	name, rest := after[:length], after[length:]
	items, ok := m.items[name]
	if !ok {
		return nil, w.errorf("the macro $%s is not defined: write domain-macro %s LIST", name, name)
	}
	if m.using[name] {
		return nil, w.errorf("the macro $%s leads back to itself", name)
	}
	m.using[name] = true
	var heads []string
	for _, item := range items {
		texts, err := m.expand(item)
		if err != nil {
			m.using[name] = false
			return nil, err
		}
		if heads = append(heads, texts...); len(heads) > maxPatterns {
			break
		}
	}
	m.using[name] = false
	tails, err := m.expand(word{text: rest, pos: w.pos})
	if err != nil {
		return nil, err
	}
	count := len(heads) * len(tails)
	if m.total += count; count > maxPatterns || m.total > maxTotalPatterns {
		m.total -= count
		return nil, w.errorf("the macros stand for more than %d patterns, or %d in all", maxPatterns, maxTotalPatterns)
	}
	all := make([]string, 0, count)
	for _, h := range heads {
		for _, t := range tails {
			if len(before)+len(h)+len(t) > maxPatternLength {
				return nil, w.errorf("the macros stand for a pattern of more than %d bytes", maxPatternLength)
			}
			all = append(all, before+h+t)
		}
	}
	return all, nil
}
