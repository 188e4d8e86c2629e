package config

import (
	"cmp"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// sectionRule says where a section may stand and whether its tag has an argument.
type sectionRule struct {
	in       []string
	argument argumentRule
	// inert tells what carom has instead, for sections that are accepted without effect; "" for
	// those with one.
	inert string
}

type argumentRule uint8

const (
	withoutArgument argumentRule = iota
	withArgument
	perhapsArgument
)

const notYet = "accepted, has no effect yet"

var (
	outside   = []string{globalScope}
	processor = []string{"bounce-processor", "feedback-loop-processor"}
)

var sectionRules = map[string]sectionRule{
	"acct-file":                {in: outside, argument: withArgument},
	"address-list":             {in: append([]string{globalScope}, processor...), argument: perhapsArgument},
	"admin":                    {in: outside, argument: withArgument},
	"bounce-category-patterns": {in: outside},
	"bounce-processor":         {in: outside},
	"domain-key-list":          {in: outside, argument: withArgument},
	"domain":                   {in: []string{globalScope, "virtual-mta", "virtual-mta-pool"}, argument: withArgument},
	"email-patterns":           {in: processor, argument: perhapsArgument},
	"event-log":                {in: outside, argument: withArgument},
	"event-stream":             {in: outside, argument: withArgument},
	"feed":                     {in: outside, argument: withArgument},
	"feedback-loop-processor":  {in: outside},
	"mx-rollup-list":           {in: outside},
	"rejectlog-file":           {in: outside, argument: withArgument},
	"smtp-listener":            {in: outside, argument: withArgument},
	"smtp-pattern-list":        {in: outside, argument: withArgument},
	"pattern-list":             {in: outside, argument: withArgument},
	"source-group":             {in: outside, argument: withArgument},
	"smtp-user":                {in: outside, argument: withArgument},
	"source":                   {in: outside, argument: withArgument},
	"spool":                    {in: outside, argument: withArgument},
	"virtual-mta":              {in: outside, argument: withArgument},
	"virtual-mta-pool":         {in: outside, argument: withArgument},

	"aliases":                    {in: outside},
	"dns":                        {in: outside, inert: "accepted, has no effect: the resolver asks nothing in advance"},
	"proxy":                      {in: outside, argument: withArgument, inert: notYet + ": proxies are to come"},
	"rewrite-list":               {in: outside, argument: withArgument},
	"signals":                    {in: outside, argument: perhapsArgument, inert: "accepted, has no effect: SparkPost Signals is not served"},
	"signals-filter":             {in: outside, argument: withArgument, inert: "accepted, has no effect: SparkPost Signals is not served"},
	"sparkpost-analytics":        {in: outside, argument: perhapsArgument, inert: "accepted, has no effect: SparkPost Signals is not served"},
	"transmissions-api":          {in: outside, inert: notYet + ": submission by HTTP is to come"},
	"transmissions-api-listener": {in: outside, argument: withArgument, inert: notYet + ": submission by HTTP is to come"},
	"vault":                      {in: outside, inert: notYet + ": keys out of Vault are to come"},
}

// sectionAliases are other names under which sections occur.
var sectionAliases = map[string]string{"suppression-list": "address-list", "disk-queue": "spool", "vmta": "virtual-mta", "vmta-pool": "virtual-mta-pool"}

// builder turns the tree into a Config.
type builder struct {
	*loader
	config *Config
	macros *macros

	suggested    int                    // unknown directives with a suggestion
	bounceDomain map[string]bool        // those already in config.BounceDomains
	named        []assignment[Settings] // of domains, that name something to look up at the end
}

func newBuilder(l *loader, nodes []*node) *builder {
	return &builder{
		loader:       l,
		config:       newConfig(l),
		macros:       readMacros(l, nodes),
		bounceDomain: map[string]bool{},
	}
}

// defaultConfig returns PowerMTA's documented defaults of the directives outside sections.
func defaultConfig() Config {
	return Config{TotalMaxSMTPOut: 1200, TotalMaxSMTPIn: 100, MaxMemoryUsagePercent: 90, RunAsRoot: true, ServerTLS: defaultServerTLS()}
}

func newConfig(l *loader) *Config {
	c := defaultConfig()
	c.hash = l.hash()
	c.AddressLists = map[string]*AddressList{}
	c.keyLists, c.keyFiles = map[string]*keyList{}, l.signers
	c.vmtas, c.pools, c.users = map[string]*VMTA{}, map[string]*Pool{}, map[string]*User{}
	c.sourceNames, c.sourceGroups = map[string]*sourceSection{}, map[string]*SourceGroup{}
	c.rewriteLists = map[string]*RewriteList{}
	c.patternLists, c.intakeLists = map[string]*PatternList{}, map[string]*IntakeList{}
	return &c
}

// global builds what stands outside sections, and from there everything.
func (b *builder) global(nodes []*node) {
	c := b.config
	for i, n := range nodes {
		switch one := nodes[i : i+1]; {
		case n.isJoined:
		case n.IsSection:
			b.section(n, globalScope)
		case n.Name == "domain-macro": // read before, by newBuilder
		case n.Name == "relay-domain":
			for _, p := range b.patterns(n) {
				c.RelayDomains = append(c.RelayDomains, p.DomainPattern)
				if p.kind == matchAny {
					c.relayAny = n.Pos
				}
			}
		case globalDomain.has(n):
			globalDomain.read(b, one, b.toDomain(&c.domainBase), nil)
		case globalSource.has(n):
			globalSource.read(b, one, func(a assignment[Source]) { c.sourceBase = append(c.sourceBase, a) }, nil)
		default:
			globals.read(b, one, func(a assignment[Config]) { a.apply(c); note(&c.set, a.row.Name, a.pos) }, nil)
		}
	}
}

func (s *scope[T]) has(n *node) bool {
	_, ok := s.rows[n.Name]
	return ok
}

// section builds one section that stands in a section of the kind parent.
func (b *builder) section(n *node, parent string) {
	if target, ok := sectionAliases[n.Name]; ok {
		n.Name = target
	}
	rule, ok := sectionRules[n.Name]
	if !ok {
		b.errorf(n.Pos, "unknown section <%s>%s", n.Name, suggestSection(n.Name))
		return
	}
	if !slices.Contains(rule.in, parent) {
		b.errorf(n.Pos, "%s cannot stand in a <%s>: is </%s> missing before it?", n.tag(), parent, parent)
		return
	}
	switch rule.argument {
	case withArgument:
		if n.Value == "" {
			b.errorf(n.Pos, "<%s> needs an argument: <%s …>", n.Name, n.Name)
			return
		}
	case withoutArgument:
		if n.Value != "" {
			b.errorf(n.ValuePos, "<%s> has no argument", n.Name)
			return
		}
	case perhapsArgument:
	}
	if rule.inert != "" {
		b.warnOnce(n.Pos, "<"+n.Name+">", rule.inert)
		b.inertSection(n)
		return
	}
	b.known(n)
}

// known builds a section that carom implements, in its right place.
func (b *builder) known(n *node) {
	c := b.config
	switch n.Name {
	case "domain":
		b.domain(n, &c.domains)
	case "domain-key-list":
		b.keyList(n)
	case "virtual-mta":
		b.vmta(n)
	case "virtual-mta-pool":
		b.pool(n)
	case "source":
		b.source(n)
	case "smtp-user":
		b.user(n)
	case "smtp-listener":
		build(b, n, listenerScope, func(v *value) (Listener, error) {
			l, err := scalar(wantListener, parseListener)(v)
			l.Pos = n.Pos
			return l, err
		}, func(l Listener) { c.Listeners = append(c.Listeners, l) })
	case "spool":
		build(b, n, spoolScope, func(v *value) (Spool, error) {
			dir, err := filePath(v)
			return newSpool(n.Pos, dir), err
		}, func(s Spool) { c.Spools = append(c.Spools, s) })
	case "acct-file":
		b.acctFile(n)
	case "rejectlog-file":
		b.rejectLog(n)
	case "bounce-category-patterns":
		b.categories(n)
	case "bounce-processor":
		b.processor(n, bounceScope, &c.BounceProcessor)
	case "feedback-loop-processor":
		b.processor(n, feedbackScope, &c.FeedbackLoopProcessor)
	case "address-list":
		b.addressList(n)
	case "event-log":
		single(b, n, eventLogScope, func(v *value) (EventLog, error) {
			dir, err := filePath(v)
			e := defaultEventLog()
			e.Pos, e.Dir = n.Pos, dir
			return e, err
		}, &c.EventLog)
	case "feed":
		single(b, n, feedScope, func(v *value) (Feed, error) {
			dir, err := filePath(v)
			f := defaultFeed()
			f.Pos, f.Dir = n.Pos, dir
			return f, err
		}, &c.Feed)
	case "event-stream":
		single(b, n, eventStreamScope, func(v *value) (EventStream, error) {
			u, err := streamURL(v)
			s := defaultEventStream()
			s.Pos, s.URL = n.Pos, u
			return s, err
		}, &c.EventStream)
	case "aliases":
		var l aliasList
		aliasScope.fill(b, n, &l)
		c.aliases = append(c.aliases, l.aliases...)
	case "rewrite-list":
		b.rewriteList(n)
	case "source-group":
		b.sourceGroup(n)
	case "pattern-list":
		b.intakeList(n)
	case "smtp-pattern-list":
		b.patternList(n)
	case "mx-rollup-list":
		b.rollupList(n)
	case "admin":
		single(b, n, adminScope, func(v *value) (Admin, error) {
			path, err := filePath(v)
			return Admin{Pos: n.Pos, Path: path}, err
		}, &c.Admin)
	}
}

// build makes a T from a section's argument, fills it and hands it on. Where the argument is
// bad the directives are checked all the same.
func build[T any](b *builder, n *node, s *scope[T], open parser[T], done func(T)) {
	t, err := open(newValue(n, b.loader))
	if err != nil {
		b.add("<"+n.Name+">", n.ValuePos, err)
	}
	s.fill(b, n, &t)
	if err == nil {
		done(t)
	}
}

// single is build for a section that occurs once.
func single[T any](b *builder, n *node, s *scope[T], open parser[T], target **T) {
	build(b, n, s, open, func(t T) {
		if *target != nil {
			b.errorf(n.Pos, "a second <%s>: there can be only one", n.Name)
			return
		}
		*target = &t
	})
}

// misplaced returns what reports a section inside n, which can hold none.
func (b *builder) misplaced(n *node) func(*node) {
	return func(inner *node) { b.section(inner, n.Name) }
}

// toDomain returns a sink that keeps domain settings, and notes the bounce domains among them.
func (b *builder) toDomain(to *[]assignment[Settings]) func(assignment[Settings]) {
	return func(a assignment[Settings]) {
		*to = append(*to, a)
		b.references(a)
		if a.row.Name == "bounce-domain" {
			var s Settings
			a.apply(&s)
			if d := s.BounceDomain; d != "" && !b.bounceDomain[d] {
				b.bounceDomain[d] = true
				b.config.BounceDomains = append(b.config.BounceDomains, d)
			}
		}
	}
}

func (b *builder) domain(n *node, table *domainTable) {
	var assignments []assignment[Settings]
	domainScope.read(b, n.Children, b.toDomain(&assignments), b.misplaced(n))
	for _, p := range b.patterns(n) {
		table.add(domainSection{p.DomainPattern, p.expanded, assignments})
	}
}

func (b *builder) vmta(n *node) {
	name, err := identifier(newValue(n, b.loader))
	if err != nil {
		b.add("<virtual-mta>", n.ValuePos, err)
	}
	m := b.config.vmtas[strings.ToLower(name)]
	if m == nil {
		m = &VMTA{Name: name, Pos: n.Pos}
		if err == nil {
			b.config.vmtas[strings.ToLower(name)] = m
			b.config.vmtaOrder = append(b.config.vmtaOrder, m)
		}
	}
	for i, child := range n.Children {
		one := n.Children[i : i+1]
		switch {
		case child.IsSection && child.Name == "domain" && child.Value != "":
			b.domain(child, &m.domains)
		case vmtaDomain.has(child) && !child.IsSection:
			vmtaDomain.read(b, one, b.toDomain(&m.bounceDomain), nil)
		default:
			vmtaScope.read(b, one, func(a assignment[VMTA]) { a.apply(m); note(&m.set, a.row.Name, a.pos) }, b.misplaced(n))
		}
	}
}

func (b *builder) pool(n *node) {
	name, err := identifier(newValue(n, b.loader))
	if err != nil {
		b.add("<virtual-mta-pool>", n.ValuePos, err)
	}
	p := b.config.pools[strings.ToLower(name)]
	if p == nil {
		p = &Pool{Name: name, Pos: n.Pos}
		if err == nil {
			b.config.pools[strings.ToLower(name)] = p
			b.config.poolOrder = append(b.config.poolOrder, p)
		}
	}
	poolScope.read(b, n.Children, func(a assignment[Pool]) { a.apply(p); note(&p.set, a.row.Name, a.pos) }, func(inner *node) {
		if inner.Name == "domain" && inner.Value != "" {
			b.domain(inner, &p.domains)
			return
		}
		b.section(inner, n.Name)
	})
}

func (b *builder) source(n *node) {
	name, err := scalar("want an address range or a name", func(s string) (string, error) { return s, nil })(newValue(n, b.loader))
	if err != nil {
		b.add("<source>", n.ValuePos, err)
		return
	}
	c := b.config
	section := &sourceSection{name: name}
	if prefix, ok := sourceArgument(name); ok {
		section.prefix = prefix
		if i := slices.IndexFunc(c.sourceRanges, func(s *sourceSection) bool { return s.prefix == prefix }); i >= 0 {
			section = c.sourceRanges[i]
		} else {
			c.sourceRanges = append(c.sourceRanges, section)
		}
	} else if _, err := checkName(name); err != nil {
		b.errorf(n.ValuePos, "<source>: bad argument %q; want an address range (10/8, 0/0, 2001:db8::/32) or a name", name)
	} else if known := c.sourceNames[strings.ToLower(name)]; known != nil {
		section = known
	} else {
		c.sourceNames[strings.ToLower(name)] = section
	}
	section.assignments = append(section.assignments, sourceScope.layer(b, n)...)
}

func (b *builder) user(n *node) {
	build(b, n, userScope, func(v *value) (User, error) {
		name, err := freeText(v)
		return User{Name: name, Pos: n.Pos, Method: ByPassword}, err
	}, func(u User) {
		key := strings.ToLower(u.Name)
		if first, ok := b.config.users[key]; ok {
			b.errorf(n.Pos, "a second <smtp-user %s>: the first is at %s", u.Name, first.Pos)
			return
		}
		b.checkUser(n, &u)
		b.config.users[key] = &u
	})
}

func (b *builder) addressList(n *node) {
	build(b, n, addressListScope, func(v *value) (AddressList, error) {
		name, err := identifier(v)
		return AddressList{Name: name}, err
	}, func(l AddressList) { b.config.AddressLists[strings.ToLower(l.Name)] = &l })
}

// finish fills in what depends on the whole and checks it.
func (b *builder) finish() {
	c := b.config
	if len(c.HostNames) == 0 {
		c.HostNames = []string{systemName()}
	}
	if len(c.Listeners) == 0 {
		addr, port := netip.IPv4Unspecified(), uint16(25)
		if a := c.oldListener.addr; a.IsValid() {
			addr = a
		}
		if p := c.oldListener.port; p != 0 {
			port = p
		}
		c.Listeners = []Listener{{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Port: port}}
	}
	if _, ok := c.vmtas[DefaultVMTA]; !ok {
		m := &VMTA{Name: DefaultVMTA}
		c.vmtas[DefaultVMTA] = m
		c.vmtaOrder = append(c.vmtaOrder, m)
	}
	b.finishListeners()
	c.finishPlaces()
	c.completeSpools()
	b.addColdVMTAs()
	b.finishAliases()
	b.finishProcessors()
	c.finishAcctFiles()
	b.validate()
	c.sortPeerLimits()
	for _, m := range c.vmtaOrder {
		m.complete(c)
	}
	c.domains.sort()
	b.validateRollups()
	for _, p := range c.pools {
		p.domains.sort()
	}
	slices.SortStableFunc(c.sourceRanges, func(x, y *sourceSection) int {
		return cmp.Compare(x.prefix.Bits(), y.prefix.Bits())
	})
}

// systemName returns what the operating system calls the machine.
func systemName() string {
	if name, err := os.Hostname(); err == nil {
		if name, err = checkHostName(name); err == nil {
			return name
		}
	}
	return "localhost"
}

// complete fills in what the vmta's section leaves to the global directives.
func (m *VMTA) complete(c *Config) {
	m.completeKeys(c)
	m.completeColdVMTAs(c)
	if len(m.SourceHosts) == 0 {
		m.SourceHosts = slices.Clone(c.sourceHosts)
	}
	if m.HostName == "" {
		m.HostName = c.HostName()
	}
	for i := range m.SourceHosts {
		m.SourceHosts[i].HostName = cmp.Or(m.SourceHosts[i].HostName, m.HostName)
	}
	m.domains.sort()
}
