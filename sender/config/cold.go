package config

import (
	"cmp"
	"slices"
	"strings"
)

// note keeps where a directive was written.
func note(set *map[string]Pos, directive string, pos Pos) {
	if *set == nil {
		*set = map[string]Pos{}
	}
	(*set)[directive] = pos
}

// addColdVMTAs makes the vmtas that auto-cold-virtual-mta stands for: NAME-cold, which differs from
// NAME in its source hosts alone. A section of that name only gets the hosts.
func (b *builder) addColdVMTAs() {
	c := b.config
	for _, m := range slices.Clone(c.vmtaOrder) {
		if len(m.autoCold) == 0 {
			continue
		}
		name := m.Name + "-cold"
		cold := c.vmtas[strings.ToLower(name)]
		if cold == nil {
			cold = &VMTA{
				Name: name, Pos: m.Pos, HostName: m.HostName, DomainKeys: slices.Clone(m.DomainKeys),
				bounceDomain: m.bounceDomain, domains: m.domains.clone(), includeHeaders: m.includeHeaders, rewriteList: m.rewriteList,
			}
			c.vmtas[strings.ToLower(name)] = cold
			c.vmtaOrder = append(c.vmtaOrder, cold)
		}
		cold.SourceHosts = append(cold.SourceHosts, m.autoCold...)
		m.ColdVMTAs = append(m.ColdVMTAs, name)
	}
}

// validateColdVMTAs checks that every cold-virtual-mta exists, and is not its own.
func (b *builder) validateColdVMTAs() {
	c := b.config
	check := func(section string, pos Pos, self string, names []string) {
		for _, name := range names {
			switch {
			case c.vmtas[strings.ToLower(name)] == nil:
				b.errorf(pos, "cold-virtual-mta: there is no virtual-mta %q", name)
			case strings.EqualFold(name, self):
				b.errorf(pos, "cold-virtual-mta: <%s> cannot be its own", section)
			}
		}
	}
	for _, m := range c.vmtaOrder {
		check("virtual-mta "+m.Name, cmp.Or(m.set["cold-virtual-mta"], m.Pos), m.Name, m.ColdVMTAs)
	}
	for _, p := range c.poolOrder {
		check("virtual-mta-pool "+p.Name, cmp.Or(p.set["cold-virtual-mta"], p.Pos), "", p.ColdVMTAs)
	}
}

// completeColdVMTAs fills in the cold vmtas where the vmta's section leaves them to its pools. A cold vmta of a pool does
// not warm itself up.
func (m *VMTA) completeColdVMTAs(c *Config) {
	own := len(m.ColdVMTAs) > 0
	for _, name := range m.Pools {
		p, _ := c.Pool(name)
		if !own && !slices.ContainsFunc(p.ColdVMTAs, func(s string) bool { return strings.EqualFold(s, m.Name) }) {
			m.ColdVMTAs = append(m.ColdVMTAs, p.ColdVMTAs...)
		}
	}
}

// clone returns a table that can be added to and sorted by itself.
func (t *domainTable) clone() domainTable {
	c := domainTable{any: slices.Clone(t.any), literals: slices.Clone(t.literals)}
	for domain, p := range t.byDomain {
		*c.patterns(domain) = domainPatterns{slices.Clone(p.domainSub), slices.Clone(p.sub), slices.Clone(p.exact)}
	}
	return c
}
