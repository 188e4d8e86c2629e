package config

import "strings"

// validate checks what one directive says against what others say.
func (b *builder) validate() {
	b.validateMTAs()
	b.validateReferences()
	c := b.config
	b.validateIntakeLists()
	b.validateSourceGroups()
	if f := c.fallback; f.name != "" {
		b.vmtaExists(f.pos, "invalid-virtual-mta-fallback", f.name)
	}
	for _, section := range c.sourceRanges {
		b.validateSource(section)
	}
	for _, section := range c.sourceNames {
		b.validateSource(section)
	}
	for _, l := range c.Listeners {
		b.sourceExists(l.Pos, l.Source)
	}
	for _, u := range c.users {
		b.sourceExists(u.Pos, u.Source)
	}
	dirs := map[string]Pos{}
	for _, s := range c.Spools {
		b.unique(dirs, s.Dir, s.Pos, "spool")
	}
	accounts := map[string]Pos{}
	for _, a := range c.AcctFiles {
		if len(a.Command) == 0 {
			b.unique(accounts, a.Path, a.Pos, "acct-file")
		}
	}
	for _, a := range c.RejectLogs {
		b.unique(accounts, a.Path, a.Pos, "rejectlog-file")
	}
	ids := map[uint8]bool{}
	for _, k := range c.ReferenceKeys {
		if ids[k.ID] {
			b.errorf(k.pos, "reference-key: a second key with the ID %d", k.ID)
		}
		ids[k.ID] = true
	}
}

func (b *builder) unique(seen map[string]Pos, key string, pos Pos, what string) {
	if first, ok := seen[key]; ok {
		b.errorf(pos, "a second %s %s: the first is at %s", what, key, first)
	}
	seen[key] = pos
}

func (b *builder) validateMTAs() {
	c := b.config
	for _, p := range c.poolOrder {
		if m, ok := c.vmtas[strings.ToLower(p.Name)]; ok {
			b.errorf(p.Pos, "<virtual-mta-pool %s> has the name of the virtual-mta at %s: vmtas and pools share their names", p.Name, m.Pos)
		}
		if len(p.Members) == 0 {
			b.errorf(p.Pos, "<virtual-mta-pool %s> has no virtual-mta", p.Name)
		}
		for _, name := range p.Members {
			if m, ok := c.vmtas[strings.ToLower(name)]; ok {
				m.Pools = append(m.Pools, p.Name)
			} else {
				b.errorf(p.Pos, "<virtual-mta-pool %s>: there is no virtual-mta %q", p.Name, name)
			}
		}
	}
	b.validateColdVMTAs()
	for _, m := range c.vmtaOrder {
		ruling := "" // the pool whose <domain> sections count for m
		for _, name := range m.Pools {
			switch p, _ := c.Pool(name); {
			case p.domains.empty() || p.Name == ruling:
			case ruling != "":
				b.errorf(p.Pos, "the pools %s and %s share the virtual-mta %s, and both hold <domain> sections", ruling, p.Name, m.Name)
			default:
				ruling = p.Name
			}
		}
		if !m.WarmupStart.IsZero() && !m.EstablishedSince.IsZero() {
			b.errorf(m.Pos, "<virtual-mta %s> has both warmup-start and established-since: it is one or the other", m.Name)
		}
	}
}

func (b *builder) validateSource(section *sourceSection) {
	for _, a := range section.assignments {
		var s Source
		switch a.apply(&s); a.row.Name {
		case "default-virtual-mta":
			if name := s.DefaultVirtualMTA; name != "" && !strings.EqualFold(name, BySMTPSourceIP) {
				b.vmtaExists(a.pos, a.row.Name, name)
			}
		case "source-group":
			if _, ok := b.config.SourceGroup(s.SourceGroup); !ok && s.SourceGroup != "" {
				b.errorf(a.pos, "source-group: there is no <source-group %s>", s.SourceGroup)
			}
		case "suppression-lists":
			for _, name := range s.SuppressionLists {
				if b.config.AddressLists[strings.ToLower(name)] == nil {
					b.errorf(a.pos, "suppression-lists: there is no <address-list %s>", name)
				}
			}
		case "pattern-list":
			if list := s.PatternList; list != "" && b.config.intakeLists[strings.ToLower(list)] == nil {
				b.errorf(a.pos, "pattern-list: there is no <pattern-list %s>", list)
			}
		}
	}
}

// sourceExists reports a reference to a named source that no section defines. The reserved ones
// need no section.
func (b *builder) sourceExists(pos Pos, name string) {
	key := strings.ToLower(name)
	if key == "" || key == "{auth}" || key == "{pickup}" || b.config.sourceNames[key] != nil {
		return
	}
	b.errorf(pos, "there is no <source %s>", name)
}
