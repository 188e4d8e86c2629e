package arf

import (
	_ "embed" // for rules.txt
	"errors"
	"fmt"
	"strings"
	"sync"

	"carom/ingest/mime"
)

//go:embed rules.txt
var rulesText string

// rule is one rule of rules.txt, which says what the words mean.
type rule struct {
	id         string
	source     string
	conditions []condition
	kind       FeedbackType
	recipient  string   // "from", or the name of a field of the reported message
	copies     []string // lower-case; behind one of them in the text is the reported message
	ip         string   // "subject" or "text"
}

// condition is one word of a rule with its patterns, of which one must match.
type condition struct {
	where    string
	patterns []string // lower-case, with "*"
}

// builtin holds the rules that are part of the program; a mistake in them is found by every test.
var builtin = sync.OnceValue(func() []*rule {
	rules, err := parseRules(rulesText)
	if err != nil {
		panic("arf: rules.txt: " + err.Error())
	}
	return rules
})

// parseRules reads the format that rules.txt describes. The error joins all mistakes.
func parseRules(text string) ([]*rule, error) {
	var rules []*rule
	var errs []error
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if id, ok := strings.CutPrefix(line, "["); ok {
			rules = append(rules, &rule{id: strings.TrimSuffix(id, "]")})
			continue
		}
		if len(rules) == 0 {
			errs = append(errs, fmt.Errorf("%q before the first rule", line))
			continue
		}
		r := rules[len(rules)-1]
		if err := r.set(line); err != nil {
			errs = append(errs, fmt.Errorf("rule %s: %w", r.id, err))
		}
	}
	for _, r := range rules {
		if len(r.conditions) == 0 || r.kind == "" || r.source == "" {
			errs = append(errs, fmt.Errorf("rule %s: want a condition, type and source", r.id))
		}
	}
	return rules, errors.Join(errs...)
}

func (r *rule) set(line string) error {
	word, value, _ := strings.Cut(line, " ")
	value = strings.TrimSpace(value)
	if value == "" {
		return fmt.Errorf("%q has no value", word)
	}
	switch word {
	case "from", "subject", "text":
		r.when(word, value)
	case "header", "original":
		name, pattern, _ := strings.Cut(value, " ")
		if pattern == "" {
			pattern = "*"
		}
		r.when(word+" "+name, pattern)
	case "type":
		r.kind = feedbackType(value)
	case "recipient":
		r.recipient = value
	case "copy":
		r.copies = append(r.copies, strings.ToLower(value))
	case "ip":
		r.ip = value
	case "source":
		r.source = value
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

// when adds a condition, or a pattern to the one that looks at the same place.
func (r *rule) when(where, pattern string) {
	pattern = strings.ToLower(pattern)
	for i := range r.conditions {
		if r.conditions[i].where == where {
			r.conditions[i].patterns = append(r.conditions[i].patterns, pattern)
			return
		}
	}
	r.conditions = append(r.conditions, condition{where, []string{pattern}})
}

// mail is a message with what rules look at, each looked up once.
type mail struct {
	*mime.Message

	original mime.Header
	from     string
	subject  string
	text     string // plain
	hasText  bool
}

// byRule returns the report of the first rule that fits m, or nil.
func byRule(m *mime.Message) *Report {
	subject, _ := m.Header.Text("Subject") // a word in an unknown charset stands as it is
	l := &mail{Message: m, subject: strings.ToLower(subject)}
	if from := addresses(m.Header.Get("From")); len(from) > 0 {
		l.from = strings.ToLower(from[0])
	}
	l.original, _ = m.Original()
	for _, r := range builtin() {
		if r.matches(l) {
			return r.report(l)
		}
	}
	return nil
}

func (r *rule) matches(l *mail) bool {
	for _, c := range r.conditions {
		if !c.holds(l) {
			return false
		}
	}
	return true
}

func (c condition) holds(l *mail) bool {
	where, name, _ := strings.Cut(c.where, " ")
	var values []string
	switch where {
	case "from":
		values = []string{l.from}
	case "subject":
		values = []string{l.subject}
	case "text":
		if !l.hasText {
			l.text, l.hasText = plain(l.Text()), true
		}
		values = []string{l.text}
	case "header":
		values = lowered(l.Header.Values(name))
	case "original":
		values = lowered(l.original.Values(name))
	}
	for _, value := range values {
		for _, pattern := range c.patterns {
			if glob(pattern, value) {
				return true
			}
		}
	}
	return false
}

// lowered returns values lower-case.
func lowered(values []string) []string {
	for i := range values {
		values[i] = strings.ToLower(values[i])
	}
	return values
}

// report returns what a rule reads of a message that it fits.
func (r *rule) report(l *mail) *Report {
	report := &Report{Format: r.id, Type: r.kind, Incidents: 1}
	switch r.recipient {
	case "":
	case "from":
		report.OriginalRcptTo = keep(nil, l.from)
	default:
		for _, value := range l.original.Values(r.recipient) {
			report.OriginalRcptTo = keep(report.OriginalRcptTo, address(value))
		}
	}
	switch r.ip {
	case "subject":
		report.SourceIP = firstIP(l.subject)
	case "text":
		report.SourceIP = firstIP(l.Text()[:min(len(l.Text()), maxPlain)])
	}
	if l.original.Len() == 0 {
		report.Original = r.copied(l.Text())
	}
	return report
}

// copied returns the header of the message that stands in a text behind one of the rule's lines.
func (r *rule) copied(text string) mime.Header {
	lower := strings.ToLower(text)
	for _, line := range r.copies {
		at := strings.Index(lower, line)
		if at < 0 || len(lower) != len(text) {
			continue
		}
		_, after, _ := strings.Cut(text[at:], "\n")
		if header, ok := headerOf([]byte(after)); ok {
			return header
		}
	}
	return mime.Header{}
}

// maxPlain is how much of a text rules look at, in bytes: what a report is stands at its beginning.
const maxPlain = 2 << 10

// plain returns the beginning of a text on one line, with one blank between words, and its ASCII
// letters lower-case.
func plain(text string) string {
	b := make([]byte, 0, min(len(text), maxPlain))
	for _, c := range []byte(text[:min(len(text), maxPlain)]) {
		switch {
		case c <= ' ':
			if len(b) > 0 && b[len(b)-1] != ' ' {
				b = append(b, ' ')
			}
		case 'A' <= c && c <= 'Z':
			b = append(b, c+('a'-'A'))
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// glob reports whether pattern fits all of s; "*" stands for any text.
func glob(pattern, s string) bool {
	before, rest, star := strings.Cut(pattern, "*")
	if !star {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, before)
	for ok {
		piece, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, piece)
		}
		_, s, ok = strings.Cut(s, piece)
		rest = after
	}
	return false
}
