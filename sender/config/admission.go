package config

import (
	"fmt"
	"strings"
)

// SourceGroup is a <source-group>: what the sources that name it have together.
type SourceGroup struct {
	Name           string
	Pos            Pos
	MaxSMTPIn      int // simultaneous connections; 0 means no limit
	ReservedSMTPIn int // connections of total-max-smtp-in that nobody else gets
}

var sourceGroupScope = newScope("source-group",
	orZero("unlimited", one("max-smtp-in", limit, func(g *SourceGroup) *int { return &g.MaxSMTPIn })),
	one("reserved-smtp-in", number(0, maxCount), func(g *SourceGroup) *int { return &g.ReservedSMTPIn }),
).withDefaults(func() SourceGroup { return SourceGroup{} })

// SourceGroup returns the <source-group> of that name.
func (c *Config) SourceGroup(name string) (*SourceGroup, bool) {
	g, ok := c.sourceGroups[strings.ToLower(name)]
	return g, ok
}

// SourceGroups returns all groups in the order of the file. The slice and what it points to belong
// to c.
func (c *Config) SourceGroups() []*SourceGroup { return c.sourceGroupOrder }

func (b *builder) sourceGroup(n *node) {
	build(b, n, sourceGroupScope, func(v *value) (SourceGroup, error) {
		name, err := identifier(v)
		return SourceGroup{Name: name, Pos: n.Pos}, err
	}, func(g SourceGroup) {
		key := strings.ToLower(g.Name)
		if first, ok := b.config.sourceGroups[key]; ok {
			b.errorf(n.Pos, "a second <source-group %s>: the first is at %s", g.Name, first.Pos)
			return
		}
		b.config.sourceGroups[key] = &g
		b.config.sourceGroupOrder = append(b.config.sourceGroupOrder, &g)
	})
}

// validateSourceGroups reports groups that reserve more than there is.
func (b *builder) validateSourceGroups() {
	total, reserved := b.config.TotalMaxSMTPIn, 0
	for _, g := range b.config.sourceGroupOrder {
		if g.MaxSMTPIn > 0 && g.ReservedSMTPIn > g.MaxSMTPIn {
			b.errorf(g.Pos, "<source-group %s>: reserved-smtp-in is more than max-smtp-in", g.Name)
		}
		if reserved += g.ReservedSMTPIn; total > 0 && reserved > total {
			b.errorf(g.Pos, "<source-group %s>: the groups reserve more than total-max-smtp-in %d", g.Name, total)
		}
	}
}

// percent parses 1 to 100.
var percent = number(1, 100)

// leastMemoryPool is what a few small messages need.
const leastMemoryPool = 1 << 20

// spoolMaxRecipients parses N or auto, which is 0: the space on the disk decides.
var spoolMaxRecipients = scalar("want a number, or auto", func(s string) (int, error) {
	if strings.EqualFold(s, "auto") {
		return 0, nil
	}
	n, err := parseNumber(s)
	if err != nil || n < 1 || n > maxCount {
		return 0, fmt.Errorf("bad number %q; want a number, or auto", s)
	}
	return int(n), nil
})
