package config

import (
	"fmt"
	"strings"
)

// RewriteList is a <rewrite-list>: senders that are written otherwise. Of each kind the first rule that
// fits counts.
type RewriteList struct {
	Name string
	Pos  Pos

	mailFrom   []mailFromRewrite
	fromDomain []fromDomainRewrite
}

// mailFromRewrite is a line "mail-from SRC DST". In both a part may be "*": any, and that of the source.
type mailFromRewrite struct{ from, to senderPattern }

// senderPattern is an address of which a part may be "*". The zero value is the null sender.
type senderPattern struct{ local, domain string }

func (p senderPattern) isNull() bool { return p.local == "" }

// String returns the pattern as it is written.
func (p senderPattern) String() string {
	if p.isNull() {
		return "<>"
	}
	return p.local + "@" + p.domain
}

// String returns the rule as it is written.
func (r mailFromRewrite) String() string { return r.from.String() + " " + r.to.String() }

// fromDomainRewrite is a line "from-domain PATTERN DOMAIN".
type fromDomainRewrite struct {
	pattern DomainPattern
	to      string
}

// String returns the rule as it is written.
func (r fromDomainRewrite) String() string { return r.pattern.String() + " " + r.to }

var rewriteScope = newScope("rewrite-list",
	many("mail-from", parseMailFromRewrite, func(l *RewriteList) *[]mailFromRewrite { return &l.mailFrom }),
	many("from-domain", parseFromDomainRewrite, func(l *RewriteList) *[]fromDomainRewrite { return &l.fromDomain }),
)

const wantRewrite = "want SOURCE TARGET, for example *@old.example.com *@new.example.com"

func parseMailFromRewrite(v *value) (r mailFromRewrite, err error) {
	words, err := v.fields(2, 2, wantRewrite)
	if err != nil {
		return r, err
	}
	if r.from, err = parseSenderPattern(words[0].text); err != nil {
		return r, words[0].errorf("%v", err)
	}
	if r.to, err = parseSenderPattern(words[1].text); err != nil {
		return r, words[1].errorf("%v", err)
	}
	switch wild := r.to.local == "*" || r.to.domain == "*"; {
	case r.from.isNull() && wild:
		return r, words[1].errorf("bad target %q; <> has no part that * could stand for", words[1].text)
	case r.to.local == "*" && r.to.domain == "*":
		return r, words[1].errorf("bad target %q; it changes nothing", words[1].text)
	}
	return r, nil
}

func parseSenderPattern(s string) (senderPattern, error) {
	if s == "<>" {
		return senderPattern{}, nil
	}
	local, domain, err := splitAddress(s)
	if err != nil || domain == "" || strings.Contains(local, "*") && local != "*" || strings.Contains(domain, "*") && domain != "*" {
		return senderPattern{}, fmt.Errorf("bad address %q; want a@b, a@*, *@b or <>", s)
	}
	return senderPattern{local, domain}, nil
}

func parseFromDomainRewrite(v *value) (r fromDomainRewrite, err error) {
	words, err := v.fields(2, 2, "want PATTERN DOMAIN, for example [*.]old.example.com new.example.com")
	if err != nil {
		return r, err
	}
	if r.pattern, err = parseDomainPattern(words[0].text); err != nil {
		return r, words[0].errorf("%v", err)
	}
	if r.to, err = checkHostName(words[1].text); err != nil {
		return r, words[1].errorf("%v", err)
	}
	return r, nil
}

// rewriteList builds a <rewrite-list>. Sections of one name make one list.
func (b *builder) rewriteList(n *node) {
	name, err := identifier(newValue(n, b.loader))
	if err != nil {
		b.add("<rewrite-list>", n.ValuePos, err)
	}
	key := strings.ToLower(name)
	list := b.config.rewriteLists[key]
	if list == nil {
		list = &RewriteList{Name: name, Pos: n.Pos}
		if err == nil {
			b.config.rewriteLists[key] = list
		}
	}
	rewriteScope.fill(b, n, list)
}

// validateRewriteLists reports names of lists that there are not.
func (b *builder) validateRewriteLists() {
	exists := func(pos Pos, name string) {
		if name != "" && b.config.rewriteLists[strings.ToLower(name)] == nil {
			b.errorf(pos, "rewrite-list: there is no <rewrite-list %s>", name)
		}
	}
	for _, m := range b.config.vmtaOrder {
		exists(m.set["rewrite-list"], m.rewriteList)
	}
	for _, p := range b.config.poolOrder {
		exists(p.set["rewrite-list"], p.rewriteList)
	}
}

// RewriteListOf returns the list for a message of the source that goes by the vmta, which was taken from
// the pool ("" for none): the source's, else the vmta's, else the pool's; nil if none has one.
func (c *Config) RewriteListOf(s *Source, vmta, pool string) *RewriteList {
	name := s.RewriteList
	if m, ok := c.VMTA(vmta); ok && name == "" {
		name = m.rewriteList
	}
	if p, ok := c.Pool(pool); ok && name == "" {
		name = p.rewriteList
	}
	return c.rewriteLists[strings.ToLower(name)]
}

// MailFrom returns the reverse-path that takes the place of from; both are "" for the null sender.
func (l *RewriteList) MailFrom(from string) string {
	local, domain := "", ""
	if i := strings.LastIndexByte(from, '@'); i >= 0 {
		local, domain = from[:i], from[i+1:]
	} else if from != "" {
		return from
	}
	for _, r := range l.mailFrom {
		if !r.from.fits(local, domain) {
			continue
		}
		if r.to.isNull() {
			return ""
		}
		if r.to.local != "*" {
			local = r.to.local
		}
		if r.to.domain != "*" {
			domain = r.to.domain
		}
		return local + "@" + domain
	}
	return from
}

// fits reports whether the pattern covers an address; local is "" for the null sender.
func (p senderPattern) fits(local, domain string) bool {
	if p.isNull() || local == "" {
		return p.isNull() && local == ""
	}
	return (p.local == "*" || strings.EqualFold(p.local, local)) && (p.domain == "*" || strings.EqualFold(p.domain, domain))
}

// FromDomain returns the domain that takes the place of the one in the From field.
func (l *RewriteList) FromDomain(domain string) string {
	for _, r := range l.fromDomain {
		if r.pattern.Match(domain) {
			return r.to
		}
	}
	return domain
}
