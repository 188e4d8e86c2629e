package config

import (
	"errors"
	"slices"
	"strings"
)

// RollupSuffix ends the names of the queues of mx-rollup-list.
const RollupSuffix = ".rollup"

// Rollup is a queue for the domains that share MX hosts. A domain joins it when every pattern in MX
// matches one of its most preferred MX hosts.
type Rollup struct {
	Name string // ends in RollupSuffix
	MX   []DomainPattern
	// ByIP sends to the domains' own hosts that match; without it patterns that are no names need
	// smtp-hosts in the <domain> of the rollup.
	ByIP bool

	pos Pos
}

// rollupLine is one "mx" line.
type rollupLine struct {
	pattern DomainPattern
	name    string
	byIP    bool
	pos     Pos
}

type rollupList struct{ lines []rollupLine }

// String returns the line as it is written.
func (l rollupLine) String() string { return l.pattern.String() + " " + l.name }

var rollupScope = newScope("mx-rollup-list",
	many("mx", mxRollup, func(l *rollupList) *[]rollupLine { return &l.lines }),
)

// mxRollup parses "MX-PATTERN NAME.rollup [rollup-by-ip]".
func mxRollup(v *value) (rollupLine, error) {
	const want = "want MX-PATTERN NAME.rollup [rollup-by-ip], for example *.google.com google.rollup rollup-by-ip"
	words, err := v.fields(2, 3, want)
	if err != nil {
		return rollupLine{}, err
	}
	l := rollupLine{pos: v.pos, byIP: len(words) == 3}
	if l.byIP && !strings.EqualFold(words[2].text, "rollup-by-ip") {
		return l, words[2].errorf("unexpected %q; %s", words[2].text, want)
	}
	if l.pattern, err = parseDomainPattern(words[0].text); err != nil {
		return l, words[0].errorf("%v", err)
	}
	if l.pattern.kind == matchLiteral {
		return l, words[0].errorf("bad MX pattern %q; %s", words[0].text, want)
	}
	if l.name, err = checkHostName(words[1].text); err != nil || !strings.HasSuffix(l.name, RollupSuffix) || len(l.name) == len(RollupSuffix) {
		return l, words[1].errorf("bad name %q; the name of a rollup ends in %s", words[1].text, RollupSuffix)
	}
	return l, nil
}

// Rollup returns the rollup whose queue a domain with these MX hosts joins: the first in the order
// of the file. The hosts are the most preferred ones, in lower case.
func (c *Config) Rollup(hosts []string) (*Rollup, bool) {
	for _, r := range c.rollups {
		if r.Covers(hosts) {
			return r, true
		}
	}
	return nil, false
}

// RollupNamed returns the rollup whose queues have the name as their domain.
func (c *Config) RollupNamed(name string) (*Rollup, bool) {
	if !strings.HasSuffix(name, RollupSuffix) {
		return nil, false
	}
	for _, r := range c.rollups {
		if r.Name == name {
			return r, true
		}
	}
	return nil, false
}

// HasRollups reports whether any domain can join a rollup.
func (c *Config) HasRollups() bool { return len(c.rollups) > 0 }

// Covers reports whether every pattern of the rollup matches one of the hosts.
func (r *Rollup) Covers(hosts []string) bool {
	for _, p := range r.MX {
		if !slices.ContainsFunc(hosts, p.Match) {
			return false
		}
	}
	return true
}

// Takes reports whether a host is one of the rollup's.
func (r *Rollup) Takes(host string) bool {
	return slices.ContainsFunc(r.MX, func(p DomainPattern) bool { return p.Match(host) })
}

// Exact reports whether all hosts are named, none by a pattern.
func (r *Rollup) Exact() bool {
	for _, p := range r.MX {
		if p.kind != matchExact {
			return false
		}
	}
	return true
}

func (b *builder) rollupList(n *node) {
	var list rollupList
	rollupScope.read(b, n.Children, func(a assignment[rollupList]) { a.apply(&list) }, b.misplaced(n))
	for _, line := range list.lines {
		r, ok := b.config.RollupNamed(line.name)
		if !ok {
			r = &Rollup{Name: line.name, pos: line.pos}
			b.config.rollups = append(b.config.rollups, r)
		}
		r.MX = append(r.MX, line.pattern)
		r.ByIP = r.ByIP || line.byIP
	}
}

// validateRollups reports rollups that say nothing about where their mail goes.
func (b *builder) validateRollups() {
	for _, r := range b.config.rollups {
		if !r.Exact() && !r.ByIP && len(b.config.Domain(r.Name, "").SMTPHosts) == 0 {
			b.add("mx", r.pos, errors.New("a pattern needs rollup-by-ip, or smtp-hosts in <domain "+r.Name+">"))
		}
	}
}
