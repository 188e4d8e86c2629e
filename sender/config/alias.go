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

// The bounds of aliases: as many targets of one address, as many steps from one to the next, and as much work.
const (
	maxAliasTargets = 1000
	maxAliasSteps   = 10
	maxAliasWork    = 10_000 // targets looked at for one address
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
	add := func(a mailAlias) {
		domains := []string{a.domain}
		if a.domain == "" {
			domains = c.HostNames
		}
		for _, domain := range domains {
			key := a.local + "@" + domain
			if _, ok := c.aliasTable[key]; ok {
				continue
			}
			targets := make([]string, len(a.targets))
			for i, t := range a.targets {
				if targets[i] = t; !strings.Contains(t, "@") {
					targets[i] += "@" + c.HostName()
				}
			}
			c.aliasTable[key] = targets
		}
	}
	for _, a := range c.aliases {
		add(a)
	}
	if len(c.Postmasters) > 0 {
		for _, local := range []string{"postmaster", "abuse"} { // RFC 5321 section 4.5.1, RFC 2142
			add(mailAlias{local: local, targets: c.Postmasters})
		}
	}
	for _, a := range c.aliases {
		domain := a.domain
		if domain == "" {
			domain = c.HostName()
		}
		if _, ok := c.Expand(a.local + "@" + domain); !ok && a.local != "*" {
			b.errorf(a.Pos, "alias: %s leads back to itself, or over more than %d others", a.local+"@"+domain, maxAliasSteps)
		}
	}
}

// HasAliases reports whether mail for some address goes to another.
func (c *Config) HasAliases() bool { return len(c.aliasTable) > 0 }

// Expand returns the addresses that mail for the address goes to: itself without an alias. It reports false
// for aliases that lead in a circle, which no configuration without mistakes has but for a whole domain.
func (c *Config) Expand(address string) (to []string, ok bool) {
	if len(c.aliasTable) == 0 {
		return []string{address}, true
	}
	work := maxAliasWork
	return c.expand(address, 0, &work)
}

func (c *Config) expand(address string, steps int, work *int) (to []string, ok bool) {
	local, domain, err := splitAddress(address)
	if err != nil {
		return []string{address}, true
	}
	targets, found := c.aliasTable[strings.ToLower(local)+"@"+domain]
	if !found {
		targets, found = c.aliasTable["*@"+domain]
	}
	switch {
	case !found || len(targets) == 1 && strings.EqualFold(targets[0], address):
		return []string{address}, true
	case steps == maxAliasSteps, *work < len(targets):
		return nil, false
	}
	*work -= len(targets)
	for _, target := range targets {
		more := []string{target}
		if !strings.EqualFold(target, address) { // itself among others: its own mailbox
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
