package config

import (
	"fmt"
	"slices"
	"strings"
)

// mailAlias says to whom mail for an address goes instead.
type mailAlias struct {
	Pos     Pos
	local   string // in lower case; "*" for all of the domain
	domain  string // empty: each host-name
	targets []string
}

// String returns the alias as it is written.
func (a mailAlias) String() string {
	from := a.local
	if a.domain != "" {
		from += "@" + a.domain
	}
	return from + " " + strings.Join(a.targets, ",")
}

const wantAlias = "want ADDRESS TARGET[,TARGET…], for example info@example.com ann@example.org,bob@example.org (*@example.com: the whole domain; info: at each host-name)"

func parseAlias(v *value) (mailAlias, error) {
	from, rest, _ := strings.Cut(strings.ReplaceAll(v.text, "\t", " "), " ")
	if from == "" {
		return mailAlias{}, fmt.Errorf("value missing; %s", wantAlias)
	}
	a := mailAlias{Pos: v.pos}
	local, domain, err := splitAddress(strings.TrimSuffix(from, ":")) // the aliases of Unix have a colon
	if err != nil {
		return a, fmt.Errorf("%w; %s", err, wantAlias)
	}
	a.local, a.domain = strings.ToLower(local), domain
	if a.local == "*" && a.domain == "" {
		return a, fmt.Errorf("bad address %q; %s", from, wantAlias)
	}
	pos := v.pos
	pos.Column += len(v.text) - len(rest)
	items, err := (&value{rest, pos, v.loader}).list(wantAlias)
	if err != nil {
		return a, err
	}
	if len(items) == 0 || len(items) > maxAliasTargets {
		return a, fmt.Errorf("%d targets; want 1 to %d", len(items), maxAliasTargets)
	}
	for _, item := range items {
		local, domain, err := splitAddress(item.text)
		if err != nil {
			return a, item.errorf("%v", err)
		}
		if domain != "" {
			local += "@" + domain
		}
		a.targets = append(a.targets, local)
	}
	return a, nil
}

// The bounds of aliases: as many targets of one, as many steps from one to the next, as much work for one
// address, and as many addresses in all.
const (
	maxAliasTargets = 1000
	maxAliasSteps   = 10
	maxAliasWork    = 10_000 // targets looked at for one address
	maxAliasTotal   = 100_000
)

// aliasTable finds aliases by their address.
type aliasTable map[string][]string

// aliasList is an <aliases> section.
type aliasList struct{ aliases []mailAlias }

var aliasScope = newScope("aliases", many("alias", parseAlias, func(l *aliasList) *[]mailAlias { return &l.aliases }))

// finishAliases puts the aliases into the table: the first of an address counts. Mail for postmaster and
// abuse at a host-name goes to the postmasters, where no alias says otherwise.
func (b *builder) finishAliases() {
	c := b.config
	c.aliasTable = aliasTable{}
	total := 0
	for _, a := range c.aliases {
		if total += a.size(c); total > maxAliasTotal {
			b.errorf(a.Pos, "alias: the aliases have more than %d addresses in all", maxAliasTotal)
			return
		}
		c.aliasTable.add(c, a)
	}
	if len(c.Postmasters) > 0 {
		for _, local := range []string{"postmaster", "abuse"} { // RFC 5321 section 4.5.1, RFC 2142
			c.aliasTable.add(c, mailAlias{local: local, targets: c.Postmasters})
		}
	}
	depths := aliasDepths{c.aliasTable, map[string]int{}}
	for _, a := range c.aliases {
		if n := depths.of(a.keys(c)[0]); n < 0 || n > maxAliasSteps {
			b.errorf(a.Pos, "alias: %s leads back to itself, or over more than %d steps", a.keys(c)[0], maxAliasSteps)
		}
	}
}

// keys returns the addresses that the alias is for, as the table has them.
func (a mailAlias) keys(c *Config) []string {
	if a.domain != "" {
		return []string{a.local + "@" + a.domain}
	}
	all := make([]string, len(c.HostNames))
	for i, name := range c.HostNames {
		all[i] = a.local + "@" + name
	}
	return all
}

func (a mailAlias) size(c *Config) int {
	if a.domain != "" {
		return 1 + len(a.targets)
	}
	return len(c.HostNames) + len(a.targets)
}

func (t aliasTable) add(c *Config, a mailAlias) {
	targets := make([]string, len(a.targets))
	for i, target := range a.targets {
		if targets[i] = target; !strings.Contains(target, "@") {
			targets[i] += "@" + c.HostName()
		}
	}
	for _, key := range a.keys(c) {
		if _, ok := t[key]; !ok {
			t[key] = targets
		}
	}
}

// entry returns the key of the entry that an address has: its own, or its domain's; "" for none.
func (t aliasTable) entry(address string) string {
	local, domain, err := splitAddress(address)
	if err != nil {
		return ""
	}
	for _, key := range [2]string{strings.ToLower(local) + "@" + domain, "*@" + domain} {
		if _, ok := t[key]; ok {
			return key
		}
	}
	return ""
}

// isMailbox reports whether the target of an entry is the address itself, or one of the domain that the
// entry is for as a whole: then it is a mailbox and no alias.
func (t aliasTable) isMailbox(entry, target string) bool {
	return t.entry(target) == entry && (strings.EqualFold(target, entry) || strings.HasPrefix(entry, "*@"))
}

// aliasDepths works out over how many steps each entry of a table leads.
type aliasDepths struct {
	table aliasTable
	known map[string]int // by entry; -1 for those that lead in a circle, and while they are worked out
}

func (d aliasDepths) of(entry string) int {
	if n, ok := d.known[entry]; ok {
		return n
	}
	d.known[entry] = -1
	most := 0
	for _, target := range d.table[entry] {
		next := d.table.entry(target)
		if next == "" || d.table.isMailbox(entry, target) {
			continue
		}
		n := d.of(next)
		if n < 0 {
			return -1
		}
		most = max(most, n)
	}
	d.known[entry] = most + 1
	return most + 1
}

// HasAliases reports whether mail for some address goes to another.
func (c *Config) HasAliases() bool { return len(c.aliasTable) > 0 }

// Expand returns the addresses that mail for the address goes to: itself without an alias. It reports false
// for aliases that lead to too many.
func (c *Config) Expand(address string) (to []string, ok bool) {
	if len(c.aliasTable) == 0 {
		return []string{address}, true
	}
	work := maxAliasWork
	return c.expand(address, 0, &work)
}

func (c *Config) expand(address string, steps int, work *int) (to []string, ok bool) {
	entry := c.aliasTable.entry(address)
	targets := c.aliasTable[entry]
	switch {
	case entry == "":
		return []string{address}, true
	case steps == maxAliasSteps, *work < len(targets):
		return nil, false
	}
	*work -= len(targets)
	for _, target := range targets {
		more := []string{target}
		if !c.aliasTable.isMailbox(entry, target) {
			if more, ok = c.expand(target, steps+1, work); !ok {
				return nil, false
			}
		}
		for _, a := range more {
			if !slices.Contains(to, a) {
				to = append(to, a)
			}
		}
		if len(to) > maxAliasTargets {
			return nil, false
		}
	}
	return to, true
}
