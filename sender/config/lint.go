package config

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Advice is something in a configuration that works and that operators regret.
type Advice struct {
	Rule   string // of lintRules
	Pos    Pos
	Reason string // what is the matter, and what comes of it
	Fix    string
}

// Machine is what Lint knows of the machine that the configuration is for. What is not known is not
// judged.
type Machine struct {
	Memory int64        // bytes; 0: not known
	Addrs  []netip.Addr // its addresses; nil: not known
	// DNS looks names up, and addresses; nil: nothing is looked up.
	DNS DNS
}

// DNS is what Lint asks; *net.Resolver does it.
type DNS interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// lintRule is one kind of advice.
type lintRule struct {
	id    string
	about string // for the documentation: when it is given
	check func(*linter)
}

// lintRules are in the order of the documentation.
var lintRules = []lintRule{
	{"connections-memory", "the connections of total-max-smtp-out may need more memory than there is (8 MB each, which is 250 on 2 GB)", (*linter).connections},
	{"no-domain-star", "no <domain *> outside the virtual MTAs: a domain without a section of its own has the built-in limits", (*linter).domainStar},
	{"endless-connection", "max-msg-per-connection is 0: connections are never closed and opened again", (*linter).endlessConnections},
	{"no-ramp-up", "no smtp-out-rampup-interval in <domain *>: all connections of a queue are opened at once", (*linter).rampUp},
	{"no-penalty-time", "no initial-pts in <domain *>: a queue comes back as fast after a 4xx as before", (*linter).penaltyTime},
	{"runs-as-root", "the node keeps root once its ports are open", (*linter).root},
	{"open-relay", "strangers may send mail to any recipient", (*linter).openRelay},
	{"shadowed-http-access", "an http-access line that an earlier one hides: the first that fits counts", (*linter).shadowedAccess},
	{"unused-domain-key", "a domain-key where no dkim-sign asks for a signature", (*linter).unusedKeys},
	{"sign-without-key", "dkim-sign where there is no domain-key", (*linter).signWithoutKey},
	{"short-privacy-key", "a key of privacy-policy that is shorter than the hash wants: hmac-sha256 32 octets, siphash 16", (*linter).privacyKeys},
	{"foreign-source-ip", "a smtp-source-host whose address the machine does not have", (*linter).foreignAddrs},
	{"ehlo-mismatch", "with --dns: the name for EHLO and the address do not lead to each other", (*linter).helloNames},
}

// linter is one run of the rules over c.
type linter struct {
	c       *Config
	ctx     context.Context //nolint:containedctx // it lives as long as one call of Lint
	machine Machine
	file    Pos // for what stands nowhere
	rule    string
	advice  []Advice
}

// Lint judges a configuration that has no mistakes, which was read from file: what is valid and
// unwise. The context bounds the questions to DNS.
func Lint(ctx context.Context, c *Config, file string, m Machine) []Advice {
	l := &linter{c: c, ctx: ctx, machine: m, file: Pos{File: file}}
	for _, r := range lintRules {
		l.rule = r.id
		r.check(l)
	}
	return l.advice
}

// advise adds advice about what stands at pos; the zero Pos is for what stands nowhere.
func (l *linter) advise(pos Pos, fix, reason string, args ...any) {
	l.advice = append(l.advice, Advice{l.rule, cmp.Or(pos, l.file), fmt.Sprintf(reason, args...), fix})
}

// connectionMemory is what a connection may need, in bytes: 250 connections on a machine with 2 GB.
const connectionMemory = 8 << 20

func (l *linter) connections() {
	most := l.machine.Memory / connectionMemory
	if n := int64(l.c.TotalMaxSMTPOut); l.machine.Memory > 0 && (n == 0 || n > most) {
		l.advise(l.c.set["total-max-smtp-out"], fmt.Sprintf("write total-max-smtp-out %d", max(1, most)),
			"total-max-smtp-out %s on a machine with %s of memory: a flood of connections may take more than there is",
			Count(n), Size(l.machine.Memory>>20<<20))
	}
}

func (l *linter) domainStar() {
	if len(l.c.domains.any) == 0 {
		l.advise(Pos{}, "add <domain *> with max-smtp-out, max-msg-rate, retry-after and bounce-after",
			"there is no <domain *>: every domain without a section of its own has the built-in limits, %d connections and no rate", DefaultSettings().MaxSMTPOut)
	}
}

// everywhere calls f with the settings of a domain without a section of its own, for each vmta.
func (l *linter) everywhere(f func(s *Settings, origin func(directive string) Pos) (goOn bool)) {
	const nobodys = "*" // no exact or sub-domain pattern matches it
	for _, m := range l.c.vmtaOrder {
		s := l.c.Domain(nobodys, m.Name)
		if !f(&s, func(directive string) Pos { return l.c.Origin(nobodys, m.Name, directive) }) {
			return
		}
	}
}

func (l *linter) endlessConnections() {
	const fix = "write max-msg-per-connection 100 (50 to 200) in <domain *>"
	l.everywhere(func(s *Settings, origin func(string) Pos) bool {
		if s.MaxMsgPerConnection == 0 {
			l.advise(origin("max-msg-per-connection"), fix,
				"max-msg-per-connection is 0 for domains without a section of their own: a connection is never closed while there is mail, and receivers that count per connection block it")
			return false
		}
		return true
	})
	l.assigned(func(a assignment[Settings], s *Settings) {
		known := slices.ContainsFunc(l.advice, func(d Advice) bool { return d.Pos == a.pos })
		if a.row.Name == "max-msg-per-connection" && s.MaxMsgPerConnection == 0 && !known {
			l.advise(a.pos, fix, "max-msg-per-connection 0 never closes a connection while there is mail")
		}
	})
}

func (l *linter) rampUp() {
	l.everywhere(func(s *Settings, origin func(string) Pos) bool {
		if s.SMTPOutRampupInterval == 0 {
			l.advise(origin("smtp-out-rampup-interval"), "write smtp-out-rampup-interval 2s in <domain *>",
				"no smtp-out-rampup-interval for domains without a section of their own: up to %s connections of a queue are opened at once", Count(s.MaxSMTPOut))
		}
		return s.SMTPOutRampupInterval != 0
	})
}

func (l *linter) penaltyTime() {
	l.everywhere(func(s *Settings, origin func(string) Pos) bool {
		if s.InitialPTS == 0 {
			l.advise(origin("initial-pts"), "write initial-pts 60s in <domain *>",
				"no initial-pts (penalty time) for domains without a section of their own: a receiver that answers 4xx is asked again at the same pace")
		}
		return s.InitialPTS != 0
	})
}

func (l *linter) root() {
	if l.c.RunAsRoot && l.c.ProcessUser.User == "" {
		l.advise(l.c.set["run-as-root"], "write run-as-root no, or process-user USER",
			"the node keeps running as root if root starts it: who breaks into it owns the machine")
	}
}

// wide is the length of a range of addresses, in bits, up to which it holds strangers.
const wide = 16

func (l *linter) openRelay() {
	c := l.c
	const fix = "write always-allow-relaying no for strangers, or require-auth yes; name your own networks in <source CIDR> sections"
	open := map[Pos]bool{}
	for _, listener := range c.Listeners {
		if listener.Prefix.Addr().IsLoopback() {
			continue
		}
		for _, stranger := range c.strangers() {
			s := c.Source(stranger, listener.Source)
			if !s.SMTPService || !s.AlwaysAllowRelaying || s.RequireAuth {
				continue
			}
			pos := c.sourceOrigin("always-allow-relaying", stranger, listener.Source)
			if !open[pos] {
				open[pos] = true
				l.advise(pos, fix, "always-allow-relaying yes without require-auth reaches strangers such as %s: spammers will find it", stranger)
			}
		}
	}
	for _, p := range c.RelayDomains {
		if p.kind == matchAny {
			l.advise(c.relayAny, "name the domains that you take mail for", "relay-domain * takes mail for any recipient from anybody")
		}
	}
	for _, p := range c.RelayAddresses {
		if p.regex != nil && p.regex.MatchString("a@example.com") && p.regex.MatchString("b@example.org") {
			l.advise(c.set["relay-address"], "let the pattern name a domain", "relay-address %s takes mail for any recipient from anybody", p)
		}
	}
}

// strangers returns addresses of others on the internet: one that no section names, and one of each wide range.
func (c *Config) strangers() []netip.Addr {
	all := []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")} // RFC 5737, RFC 3849
	for _, s := range c.sourceRanges {
		a := s.prefix.Addr()
		if !a.IsValid() || s.prefix.Bits() > wide {
			continue
		}
		if s.prefix.Bits() > 0 && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()) {
			continue
		}
		all = append(all, a)
	}
	return all
}

// sourceOrigin returns where a directive of the source was written, the zero Pos if it was not.
func (c *Config) sourceOrigin(directive string, addr netip.Addr, named string) (origin Pos) {
	c.eachSource(addr, []string{named}, func(string) {}, func(a assignment[Source]) {
		if a.row.Name == directive {
			origin = a.pos
		}
	})
	return origin
}

func (l *linter) shadowedAccess() {
	lines := l.c.HTTPAccess
	for i, later := range lines {
		for _, earlier := range lines[:i] {
			covers := earlier.Prefix == everyAddress ||
				earlier.Prefix.Bits() <= later.Prefix.Bits() && cidrContains(earlier.Prefix, later.Prefix.Addr()) && later.Prefix != everyAddress
			if covers && earlier.Level != later.Level {
				l.advise(later.Pos, "put this line before the one at "+earlier.Pos.String(),
					"http-access %s is never reached: %s comes first, and the first that fits counts", later, earlier)
				break
			}
		}
	}
}

// assigned calls f with each directive of all <domain> sections, and with the settings that it alone makes.
func (l *linter) assigned(f func(a assignment[Settings], alone *Settings)) {
	one := func(a assignment[Settings]) {
		var s Settings
		a.apply(&s)
		f(a, &s)
	}
	for _, a := range l.c.domainBase {
		one(a)
	}
	l.c.domains.all(one)
	for _, p := range l.c.poolOrder {
		p.domains.all(one)
	}
	for _, m := range l.c.vmtaOrder {
		m.domains.all(one)
	}
}

// asksToSign reports whether an assignment asks for a signature.
func asksToSign(a assignment[Settings]) bool {
	if a.row.Name != "dkim-sign" && a.row.Name != "second-dkim-sign" {
		return false
	}
	var s Settings
	a.apply(&s)
	return s.FirstDKIM.Sign != "" && s.FirstDKIM.Sign != DKIMNo || s.SecondDKIM.Sign != "" && s.SecondDKIM.Sign != DKIMNo
}

// signs reports whether some <domain> of the scope asks for a signature.
func (t *domainTable) signs() (signs bool) {
	t.all(func(a assignment[Settings]) { signs = signs || asksToSign(a) })
	return signs
}

func (l *linter) unusedKeys() {
	const fix = "write dkim-sign yes in <domain *>"
	everywhere := l.c.domains.signs() // once: there may be thousands of domains, and hundreds of virtual MTAs
	pools := map[string]bool{}
	for _, p := range l.c.poolOrder {
		pools[strings.ToLower(p.Name)] = p.domains.signs()
	}
	signed := everywhere
	for _, m := range l.c.vmtaOrder {
		signs := everywhere || m.domains.signs() || slices.ContainsFunc(m.Pools, func(name string) bool { return pools[strings.ToLower(name)] })
		signed = signed || signs
		if pos := m.set["domain-key"]; pos != (Pos{}) && !signs {
			l.advise(pos, fix, "the domain-key of %s signs nothing: no <domain> that counts for it has dkim-sign yes", m.Name)
		}
	}
	if pos := l.c.set["domain-key"]; pos != (Pos{}) && !signed {
		l.advise(pos, fix, "domain-key signs nothing: no <domain> has dkim-sign yes")
	}
}

func (l *linter) signWithoutKey() {
	if len(l.c.keyLists) > 0 || slices.ContainsFunc(l.c.vmtaOrder, func(m *VMTA) bool { return len(m.DomainKeys) > 0 }) {
		return
	}
	told := false
	l.assigned(func(a assignment[Settings], _ *Settings) {
		if asksToSign(a) && !told {
			told = true
			l.advise(a.pos, "write domain-key SELECTOR,DOMAIN,FILE", "%s asks for a signature, and there is no domain-key", a.row.Name)
		}
	})
}

// sources calls f with every source host of each vmta, once for each place and host.
func (l *linter) sources(f func(pos Pos, m *VMTA, h SourceHost)) {
	type known struct {
		pos  Pos
		host SourceHost
	}
	seen := map[known]bool{}
	for _, m := range l.c.vmtaOrder {
		pos := cmp.Or(m.set["smtp-source-host"], m.set["smtp-source-ip"], l.c.set["smtp-source-host"], m.Pos)
		for _, h := range m.SourceHosts {
			if k := (known{pos, h}); !seen[k] {
				seen[k] = true
				f(pos, m, h)
			}
		}
	}
}

// privacyKeys judges the keys of hashes by what is known of them: an HMAC with a key shorter than the
// hash's output is weaker than the hash (RFC 2104 section 3), and SipHash has keys of 16 octets.
func (l *linter) privacyKeys() {
	one := func(pos Pos, p Privacy) {
		enough := map[string]int{"hmac-sha256": 32, "siphash": 16}[p.Way]
		if have := len(p.Key.Reveal()); have < enough {
			l.advise(pos, fmt.Sprintf("write %s-hexkey with %d random octets: openssl rand -hex %d", p.Way, enough, enough),
				"the key of privacy-policy %s has %d octets: who guesses it learns every address", p.Way, have)
		}
	}
	for _, a := range slices.Concat(l.c.AcctFiles, l.c.RejectLogs) {
		one(a.Pos, a.Privacy)
	}
	if e := l.c.EventLog; e != nil {
		one(e.Pos, e.Privacy)
	}
}

func (l *linter) foreignAddrs() {
	if l.machine.Addrs == nil {
		return
	}
	l.sources(func(pos Pos, m *VMTA, h SourceHost) {
		here := slices.ContainsFunc(l.machine.Addrs, func(a netip.Addr) bool { return cidrContains(h.Prefix, a) })
		if !here && !h.Prefix.Addr().IsLoopback() {
			l.advise(pos, "add the address to an interface of the machine, or take it out",
				"the machine does not have %s of virtual-mta %s: connections cannot come from there", formatCIDR(h.Prefix), m.Name)
		}
	})
}

// The bounds of questions to DNS: as many at once, and as long for each.
const (
	lookups       = 16
	lookupTimeout = 5 * time.Second
)

func (l *linter) helloNames() {
	if l.machine.DNS == nil {
		return
	}
	type question struct {
		pos    Pos
		host   SourceHost
		addr   netip.Addr
		answer string
	}
	var all []*question
	l.sources(func(pos Pos, m *VMTA, h SourceHost) {
		if addr, single := h.Addr(); single && !addr.IsLoopback() {
			if m.SourcePublicIP.IsValid() {
				addr = m.SourcePublicIP
			}
			all = append(all, &question{pos: pos, host: h, addr: addr})
		}
	})
	var group errgroup.Group
	group.SetLimit(lookups)
	for _, q := range all {
		group.Go(func() error {
			q.answer = l.mismatch(q.host.HostName, q.addr)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	for _, q := range all {
		if q.answer != "" {
			l.advise(q.pos, fmt.Sprintf("let %s have the address %s, and the address that name (PTR)", q.host.HostName, q.addr),
				"%s: many receivers refuse such a client", q.answer)
		}
	}
}

// mismatch says how a name and an address do not lead to each other, or nothing.
func (l *linter) mismatch(name string, addr netip.Addr) string {
	ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
	defer cancel()
	addrs, err := l.machine.DNS.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return fmt.Sprintf("the EHLO name %s does not resolve", name)
	}
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == addr.Unmap() }) {
		return fmt.Sprintf("the EHLO name %s does not resolve to %s", name, addr)
	}
	names, err := l.machine.DNS.LookupAddr(ctx, addr.String())
	if err != nil {
		return fmt.Sprintf("the address %s has no name (PTR)", addr)
	}
	if !slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(strings.TrimSuffix(s, "."), name) }) {
		return fmt.Sprintf("the address %s has the name %s, not %s", addr, strings.Join(names, ", "), name)
	}
	return ""
}
