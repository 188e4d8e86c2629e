package config

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep sections may stand in each other. The language needs three levels.
const maxDepth = 8

// node is one line of a configuration file: a directive or, with IsSection, a section and what
// stands in it. Includes are already replaced by what they bring in.
type node struct {
	Pos       Pos
	Name      string // in lower case
	Value     string // the rest of a directive's line, or a tag's argument, as written
	ValuePos  Pos
	IsSection bool
	isJoined  bool // part of the directive before it
	Children  []*node
}

// tag returns the section's opening tag for messages. Of a section that carom does not know, and of a
// command, the argument is left out: it may hold a password.
func (n *node) tag() string {
	argument := withoutUserInfo(n.Value)
	known := sectionRules[n.Name].in != nil || sectionAliases[n.Name] != ""
	switch command, isCommand := strings.CutPrefix(strings.TrimLeft(argument, `"`), "|"); {
	case argument == "":
		return "<" + n.Name + ">"
	case !known:
		return "<" + n.Name + " …>"
	case isCommand:
		if program, arguments, ok := strings.Cut(strings.TrimLeft(command, blanks), " "); ok && arguments != "" {
			argument = "|" + program + " …"
		}
	}
	return "<" + n.Name + " " + argument + ">"
}

// start returns the first word of a text that is no name, for messages: a password may follow it, behind
// a blank or behind a sign that was taken for one.
func start(text string) string {
	if i := strings.IndexAny(text, blanks+`=:"',`); i > 0 && i+1 < len(text) {
		return text[:i+1] + "…"
	}
	return text
}

func (n *node) hasChild(name string) bool {
	return slices.ContainsFunc(n.Children, func(c *node) bool { return c.Name == name })
}

// withoutUserInfo returns s without what may be a password in an address: scheme://THIS@host.
func withoutUserInfo(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 {
		return scheme + "://…" + rest[i:]
	}
	return s
}

// treeReader turns the text of one file into nodes.
type treeReader struct {
	*report
	file string
	root node
	open []*node // the section being read, innermost last; open[0] is the root
	// include returns the nodes that an include directive stands for.
	include func(n *node) []*node
	// includeFrom does what an include-from directive says.
	includeFrom func(n *node)
}

func (t *treeReader) read(data []byte) []*node {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if i := bytes.IndexByte(data, 0); i >= 0 {
		t.errorf(Pos{t.file, 1 + bytes.Count(data[:i], []byte("\n")), 0}, "not a text file: it holds a zero byte")
		return nil
	}
	if bytes.HasPrefix(data, []byte("-----BEGIN ")) || bytes.Contains(data, []byte("\n-----BEGIN ")) {
		// Taken for directives, the lines of a key would show up in messages.
		t.errorf(Pos{t.file, 1, 0}, "not a configuration: it holds a key or certificate in PEM")
		return nil
	}
	t.open = []*node{&t.root}
	lineNumber := 0
	for line := range strings.Lines(string(data)) {
		lineNumber++
		t.line(line, lineNumber)
	}
	for _, n := range t.open[1:] {
		t.errorf(n.Pos, "%s is never closed: </%s> is missing before the end of the file (line %d)", n.tag(), n.Name, max(1, lineNumber))
	}
	return t.root.Children
}

const blanks = " \t\r\n\v\f"

func (t *treeReader) line(text string, number int) {
	// A comment starts at any "#", in quotes and in patterns too.
	text, _, _ = strings.Cut(text, "#")
	text = strings.TrimRight(text, blanks)
	body := strings.TrimLeft(text, blanks)
	if body == "" {
		return
	}
	pos := Pos{t.file, number, len(text) - len(body) + 1}
	if !utf8.ValidString(body) {
		t.errorf(pos, "the line is not valid UTF-8")
		return
	}
	if body[0] == '<' {
		t.tags(body, pos)
		return
	}
	if c := t.current(); body[0] == '/' && (c == &t.root || c.Name == "bounce-category-patterns") {
		// Lines of bounce categories have no name, and they may come from a file of their own.
		t.add(&node{Pos: pos, Name: "pattern", Value: body, ValuePos: pos})
		return
	}
	n := &node{Pos: pos, Name: body, ValuePos: pos}
	if i := strings.IndexAny(body, blanks); i >= 0 {
		n.Name = body[:i]
		n.Value = strings.TrimLeft(body[i:], blanks)
	}
	n.ValuePos.Column += len(body) - len(n.Value)
	n.Name = strings.ToLower(n.Name)
	switch {
	case n.Name == "include":
		t.add(t.include(n)...)
		return
	case n.Name == "include-from" && t.current() == &t.root:
		t.includeFrom(n)
		return
	}
	t.add(n)
	// The result of a pattern may be a pattern list of its own, opened on the same line.
	if i := strings.LastIndexByte(n.Value, '<'); i >= 0 && t.current().Name == "pattern-list" &&
		strings.EqualFold(n.Value[i:], "<pattern-list>") {
		at := n.ValuePos
		at.Column += i
		t.tags(n.Value[i:], at)
	}
}

func (t *treeReader) current() *node { return t.open[len(t.open)-1] }

func (t *treeReader) add(nodes ...*node) {
	c := t.current()
	c.Children = append(c.Children, nodes...)
}

// tags reads a line of tags: one, or an opening and its closing tag.
func (t *treeReader) tags(body string, pos Pos) {
	for body != "" {
		end := tagEnd(body)
		if end < 0 {
			t.errorf(pos, "the tag %s has no closing \">\" on its line", start(body))
			return
		}
		inner := body[1:end]
		name := strings.TrimLeft(inner, blanks)
		argument := ""
		if i := strings.IndexAny(name, blanks); i >= 0 {
			name, argument = name[:i], strings.TrimLeft(name[i:], blanks)
		}
		if closing, ok := strings.CutPrefix(name, "/"); ok {
			t.closeTag(strings.ToLower(closing), pos)
		} else {
			valuePos := pos
			valuePos.Column += 1 + len(inner) - len(argument)
			t.openTag(&node{
				Pos: pos, Name: strings.ToLower(name), Value: strings.TrimRight(argument, blanks),
				ValuePos: valuePos, IsSection: true,
			})
		}
		rest := strings.TrimLeft(body[end+1:], blanks)
		pos.Column += len(body) - len(rest)
		body = rest
		if body != "" && body[0] != '<' {
			t.errorf(pos, "unexpected %q after a tag: a tag stands on a line of its own, and an argument that holds \">\" needs quotes", start(body))
			return
		}
	}
}

// tagEnd returns the index of the ">" that ends the tag at the start of s, or -1.
// A ">" inside quotes does not end it.
func tagEnd(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

func (t *treeReader) openTag(n *node) {
	if n.Name == "" {
		t.errorf(n.Pos, "a tag without a name")
		return
	}
	// Only pattern lists stand in themselves; for all others the closing tag was forgotten.
	if c := t.current(); c.Name == n.Name && n.Name != "pattern-list" {
		t.errorf(n.Pos, "%s starts inside %s, opened at %s: </%s> is missing before it", n.tag(), c.tag(), c.Pos, c.Name)
		t.open = t.open[:len(t.open)-1]
	}
	t.add(n)
	if len(t.open) > maxDepth {
		// Its closing tag will be reported too; the file is beyond repair by guessing.
		t.errorf(n.Pos, "sections stand more than %d deep in each other", maxDepth)
		return
	}
	t.open = append(t.open, n)
}

func (t *treeReader) closeTag(name string, pos Pos) {
	for i := len(t.open) - 1; i > 0; i-- {
		if t.open[i].Name != name {
			continue
		}
		for _, inner := range t.open[i+1:] {
			t.errorf(pos, "</%s> closes %s, but %s, opened at %s, is still open: </%s> is missing before it",
				name, t.open[i].tag(), inner.tag(), inner.Pos, inner.Name)
		}
		t.open = t.open[:i]
		return
	}
	if c := t.current(); c != &t.root {
		t.errorf(pos, "</%s> does not match %s, opened at %s: want </%s>", name, c.tag(), c.Pos, c.Name)
		return
	}
	t.errorf(pos, "</%s> closes nothing: no <%s> is open here", name, name)
}
