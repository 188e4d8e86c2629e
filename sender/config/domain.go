package config

import (
	"maps"
	"slices"
	"strings"
)

// domainSection is a <domain> section for one pattern.
type domainSection struct {
	pattern     DomainPattern
	expanded    bool // the pattern came out of a macro, and gives way to a written one
	assignments []assignment[Settings]
}

// domainTable holds the <domain> sections of one scope so that those for a domain are found
// without looking at the others. Sections of one pattern stand in the order in which they apply.
type domainTable struct {
	any      []domainSection
	literals []domainSection            // by length of the prefix
	byDomain map[string]*domainPatterns // by the domain in the pattern
}

type domainPatterns struct{ domainSub, sub, exact []domainSection }

func (t *domainTable) add(s domainSection) {
	switch s.pattern.kind {
	case matchAny:
		t.any = append(t.any, s)
	case matchLiteral:
		t.literals = append(t.literals, s)
	case matchDomainSub:
		p := t.patterns(s.pattern.domain)
		p.domainSub = append(p.domainSub, s)
	case matchSub:
		p := t.patterns(s.pattern.domain)
		p.sub = append(p.sub, s)
	case matchExact:
		p := t.patterns(s.pattern.domain)
		p.exact = append(p.exact, s)
	}
}

func (t *domainTable) patterns(domain string) *domainPatterns {
	if t.byDomain == nil {
		t.byDomain = map[string]*domainPatterns{}
	}
	p := t.byDomain[domain]
	if p == nil {
		p = &domainPatterns{}
		t.byDomain[domain] = p
	}
	return p
}

// sort puts sections out of macros before written ones. It is called once, after the last add.
func (t *domainTable) sort() {
	expandedFirst := func(a, b domainSection) int {
		switch {
		case a.expanded == b.expanded:
			return 0
		case a.expanded:
			return -1
		}
		return 1
	}
	slices.SortStableFunc(t.any, expandedFirst)
	slices.SortStableFunc(t.literals, func(a, b domainSection) int {
		if d := a.pattern.prefix.Bits() - b.pattern.prefix.Bits(); d != 0 {
			return d
		}
		return expandedFirst(a, b)
	})
	for _, p := range t.byDomain {
		slices.SortStableFunc(p.domainSub, expandedFirst)
		slices.SortStableFunc(p.sub, expandedFirst)
		slices.SortStableFunc(p.exact, expandedFirst)
	}
}

// all calls f with every assignment of the scope.
func (t *domainTable) all(f func(assignment[Settings])) {
	each := func(sections []domainSection) {
		for _, s := range sections {
			for _, a := range s.assignments {
				f(a)
			}
		}
	}
	each(t.any)
	each(t.literals)
	for _, domain := range slices.Sorted(maps.Keys(t.byDomain)) {
		p := t.byDomain[domain]
		each(p.domainSub)
		each(p.sub)
		each(p.exact)
	}
}

// empty reports whether the scope has no <domain> section.
func (t *domainTable) empty() bool { return t.any == nil && t.literals == nil && t.byDomain == nil }

// each calls f with the assignments for the domain, from general to specific: "*", then pattern
// by pattern as their domains grow longer, "[*.]x" before "*.x", and the domain itself at last.
func (t *domainTable) each(domain string, f func(assignment[Settings])) {
	apply := func(sections []domainSection) {
		for _, s := range sections {
			for _, a := range s.assignments {
				f(a)
			}
		}
	}
	apply(t.any)
	if a, ok := literalAddr(domain); ok {
		for i, s := range t.literals {
			if cidrContains(s.pattern.prefix, a) {
				apply(t.literals[i : i+1])
			}
		}
		return
	}
	if t.byDomain == nil {
		return
	}
	for end := len(domain); end > 0; {
		start := strings.LastIndexByte(domain[:end], '.') + 1
		if p := t.byDomain[domain[start:]]; p != nil {
			apply(p.domainSub)
			if start > 0 {
				apply(p.sub)
			} else {
				apply(p.exact)
			}
		}
		end = start - 1
	}
}

// eachOfPool calls f with every assignment that counts for the domain's mail in all members of the pool,
// the strongest last. A member may say otherwise.
func (c *Config) eachOfPool(domain string, p *Pool, f func(assignment[Settings])) {
	if d, err := normalDomain(domain); err == nil {
		domain = d
	}
	for _, a := range c.domainBase {
		f(a)
	}
	c.domains.each(domain, f)
	p.domains.each(domain, f)
}

// eachSetting calls f with every assignment that counts for a queue, the strongest last.
func (c *Config) eachSetting(domain, vmta string, f func(assignment[Settings])) {
	if d, err := normalDomain(domain); err == nil {
		domain = d
	}
	for _, a := range c.domainBase {
		f(a)
	}
	c.domains.each(domain, f)
	m, ok := c.VMTA(vmta)
	if !ok {
		return
	}
	for _, name := range m.Pools {
		if p, ok := c.Pool(name); ok {
			p.domains.each(domain, f)
		}
	}
	for _, a := range m.bounceDomain {
		f(a)
	}
	m.domains.each(domain, f)
}

// Domain returns the settings of the queue domain/vmta. Wider scopes give way to narrower ones
// whatever their patterns: global <domain> sections, then those of the vmta's pool, then those of
// the vmta. Within a scope the more specific pattern wins, and of equal ones the later; a pattern
// that came out of a macro gives way to the same pattern written out. An unknown vmta has the
// global settings; "" means {default}. The work grows with the number of sections that match:
// callers keep the result for as long as they keep c.
func (c *Config) Domain(domain, vmta string) Settings {
	s := DefaultSettings()
	c.eachSetting(domain, vmta, func(a assignment[Settings]) { a.apply(&s) })
	return s
}

// Setting is the effective value of one directive, and where it was written.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin Pos    `json:"origin"` // the zero Pos for a built-in default
}

// Explain returns what Domain returns, directive by directive in the order of their names, each
// with its origin.
func (c *Config) Explain(domain, vmta string) []Setting {
	return c.explainDomain(func(f func(assignment[Settings])) { c.eachSetting(domain, vmta, f) })
}

// explainDomain returns the settings that the assignments make, which each hands out, the strongest last.
func (c *Config) explainDomain(each func(func(assignment[Settings]))) []Setting {
	s := DefaultSettings()
	origins := map[string]Pos{}
	each(func(a assignment[Settings]) {
		a.apply(&s)
		origins[a.row.Name] = a.pos
	})
	return explain(domainScope, &s, func(name string) Pos { return origins[name] })
}

// Origin returns where a directive of the queue domain/vmta was written, the zero Pos if it was not.
func (c *Config) Origin(domain, vmta, directive string) (origin Pos) {
	c.eachSetting(domain, vmta, func(a assignment[Settings]) {
		if a.row.Name == directive {
			origin = a.pos
		}
	})
	return origin
}
