package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// tree writes what the directives of c have set, section by section: all that is not as it is without
// them. Domains are left to "settings", because what counts for one depends on all.
func tree(c *Config) string {
	var b strings.Builder
	changed(&b, "", globals, *c)
	base := DefaultSource()
	for _, a := range c.sourceBase {
		a.apply(&base)
	}
	changed(&b, "", sourceScope, base)
	for _, l := range c.Listeners {
		changed(&b, fmt.Sprintf("<smtp-listener %s:%d>", formatCIDR(l.Prefix), l.Port), listenerScope, l)
	}
	for _, s := range c.Spools {
		changed(&b, "<spool "+s.Dir+">", spoolScope, s)
	}
	for _, name := range slices.Sorted(maps.Keys(c.sourceGroups)) {
		changed(&b, "<source-group "+name+">", sourceGroupScope, *c.sourceGroups[name])
	}
	for _, s := range c.sourceRanges {
		settings := DefaultSource()
		for _, a := range s.assignments {
			a.apply(&settings)
		}
		changed(&b, "<source "+s.name+">", sourceScope, settings)
	}
	for _, name := range slices.Sorted(maps.Keys(c.sourceNames)) {
		settings := c.Source(netip.Addr{}, name)
		changed(&b, "<source "+name+">", sourceScope, settings)
	}
	for _, u := range c.Users() {
		changed(&b, "<smtp-user "+u.Name+">", userScope, *u)
	}
	for _, m := range c.VMTAs() {
		changed(&b, "<virtual-mta "+m.Name+">", vmtaScope, *m)
	}
	for _, p := range c.Pools() {
		changed(&b, "<virtual-mta-pool "+p.Name+">", poolScope, *p)
	}
	for _, name := range slices.Sorted(maps.Keys(c.AddressLists)) {
		changed(&b, "<address-list "+name+">", addressListScope, *c.AddressLists[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.intakeLists)) {
		fmt.Fprintf(&b, "<pattern-list %s> of %d rules\n", name, len(c.intakeLists[name].Rules))
	}
	for _, name := range slices.Sorted(maps.Keys(c.rewriteLists)) {
		changed(&b, "<rewrite-list "+name+">", rewriteScope, *c.rewriteLists[name])
	}
	for _, r := range c.rollups {
		fmt.Fprintf(&b, "<mx-rollup-list> %s %v\n", r.Name, r.MX)
	}
	for _, a := range c.RejectLogs {
		changed(&b, "<rejectlog-file "+a.Path+">", rejectScope, a)
	}
	reportSection(&b, "<bounce-processor>", bounceScope, c.BounceProcessor)
	reportSection(&b, "<feedback-loop-processor>", feedbackScope, c.FeedbackLoopProcessor)
	if s := c.EventStream; s != nil {
		changed(&b, "<event-stream>", eventStreamScope, *s)
	}
	return b.String()
}

func reportSection(b *strings.Builder, title string, s *scope[ReportProcessor], p *ReportProcessor) {
	if p == nil {
		return
	}
	changed(b, title, s, *p)
	for _, l := range p.AddressLists {
		changed(b, title+" <address-list>", addressListScope, *l)
	}
	for _, e := range p.Patterns {
		changed(b, title+" <email-patterns "+e.Name+">", emailPatternsScope, *e)
	}
}

// changed writes the directives of a section whose value in t is not their default.
func changed[T any](b *strings.Builder, title string, s *scope[T], t T) {
	if title != "" {
		fmt.Fprintln(b, title)
	}
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		row := s.rows[name]
		if row.Status == Alias || name == "smtp-listener" { // listeners are sections of the tree
			continue
		}
		if value := row.show(&t); value != row.Default {
			fmt.Fprintln(b, " ", name, value)
		}
	}
}
