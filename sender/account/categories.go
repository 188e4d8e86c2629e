package account

import (
	"regexp"

	"carom/schemas/event"
	"carom/sender/regexset"
)

// CategoryRule says which replies are of a category.
type CategoryRule struct {
	Pattern  *regexp.Regexp
	Category string
}

// Categories finds an operator's bounce category of a reply: that of the first rule that matches. What
// a pattern matches is the enhanced status code and the diagnostic, as in
// "5.1.1;smtp;550 5.1.1 no such user". Categories are safe for concurrent use.
type Categories struct {
	names    []string
	patterns *regexset.Set
}

// NewCategories returns the rules, the first of which counts.
func NewCategories(rules []CategoryRule) *Categories {
	c := &Categories{}
	patterns := make([]*regexp.Regexp, 0, len(rules))
	for _, rule := range rules {
		patterns = append(patterns, rule.Pattern)
		c.names = append(c.names, rule.Category)
	}
	c.patterns = regexset.New(patterns)
	return c
}

// maxCategoryText bounds what patterns are tried on, in octets. Replies are shorter.
const maxCategoryText = 4 << 10

// Find returns the category of a text, false if no rule matches.
func (c *Categories) Find(text string) (string, bool) {
	i := c.patterns.First(text[:min(len(text), maxCategoryText)])
	if i < 0 {
		return "", false
	}
	return c.names[i], true
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
