package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// httpToCome is why directives of the HTTP interface are planned.
const httpToCome = "the HTTP interface is to come"

// globals are the directives outside sections. Those that set a default of other scopes are
// in globalDomain and globalSource.
var globals = newScope(globalScope, append(
	serverTLSRows("smtp-server-", func(c *Config, change func(*ServerTLS)) { change(&c.ServerTLS) }),
	many("host-name", hostName, func(c *Config) *[]string { return &c.HostNames }),
	many("postmaster", mailbox, func(c *Config) *[]string { return &c.Postmasters }),
	many("alias", parseAlias, func(c *Config) *[]mailAlias { return &c.aliases }),
	one("host-id", number(0, maxCount), func(c *Config) *int { return &c.HostID }),
	one("include-headers-from", clearable(headerLines), func(c *Config) *HeaderLines { return &c.includeHeaders }),
	one("smtp-ip", address, func(c *Config) *netip.Addr { return &c.oldListener.addr }),
	one("smtp-port", port, func(c *Config) *uint16 { return &c.oldListener.port }),
	many("smtp-listener", listener, func(c *Config) *[]Listener { return &c.Listeners }),
	planned(httpToCome, many("http-access", httpAccess, func(c *Config) *[]HTTPAccess { return &c.HTTPAccess })),
	many("name-server", nameServer, func(c *Config) *[]netip.AddrPort { return &c.NameServers }),
	one("total-max-smtp-out", limit, func(c *Config) *int { return &c.TotalMaxSMTPOut }),
	alias[Config]("max-smtp-out", "total-max-smtp-out"),
	many("mx-connection-limit", mxConnectionLimit, func(c *Config) *[]MXConnectionLimit { return &c.MXConnectionLimits }),
	many("ip-connection-limit", ipConnectionLimit, func(c *Config) *[]IPConnectionLimit { return &c.IPConnectionLimits }),
	one("total-max-smtp-in", limit, func(c *Config) *int { return &c.TotalMaxSMTPIn }),
	one("process-user", processUser, func(c *Config) *ProcessUser { return &c.ProcessUser }),
	one("run-as-root", boolean, func(c *Config) *bool { return &c.RunAsRoot }),
	one("smtp-await-slot", boolean, func(c *Config) *bool { return &c.SMTPAwaitSlot }),
	one("max-memory-usage-percent", percent, func(c *Config) *int { return &c.MaxMemoryUsagePercent }),
	one("memory-pool-buffer-size", sizeAtLeast(leastMemoryPool), func(c *Config) *Size { return &c.MemoryPoolBufferSize }),
	orZero("auto", one("spool-max-recipients", spoolMaxRecipients, func(c *Config) *int { return &c.SpoolMaxRecipients })),
	one("relay-debug", boolean, func(c *Config) *bool { return &c.RelayDebug }),
	one("domain-suffix", hostName, func(c *Config) *string { return &c.DomainSuffix }),
	one("invalid-virtual-mta-fallback", referenceToVMTA, func(c *Config) *vmtaReference { return &c.fallback }),
	many("relay-address", parseAddressPattern, func(c *Config) *[]AddressPattern { return &c.RelayAddresses }),
	many("smtp-source-host", sourceHost, func(c *Config) *[]SourceHost { return &c.sourceHosts }),
	many("domain-key", domainKey, func(c *Config) *[]DomainKey { return &c.domainKeys }),
	many("reference-key", referenceKey, func(c *Config) *[]ReferenceKey { return &c.ReferenceKeys }),
	many("adaptive-hold-exempt-job", identifier, func(c *Config) *[]string { return &c.HoldExemptJobs }),
	many("spool", spoolDirectory, func(c *Config) *[]Spool { return &c.Spools }),
	alias[Config]("disk-queue", "spool"),
	one("deliver-bounces", boolean, func(c *Config) *bool { return &c.DeliverBounces }),
	one("log-bounces", boolean, func(c *Config) *bool { return &c.LogBounces }),
	one("spool-min-free-space", megabytes, func(c *Config) *Size { return &c.spoolMinFreeSpace }),
)...).withDefaults(defaultConfig)

// Directives of other scopes that are allowed outside sections, where they count as weaker than
// any section, and those that work on the whole tree.
var (
	globalDomain = registerAt(globalScope, domainScope, "default-smtp-port", "smtp-hosts", "route", "bounce-domain")
	globalSource = registerAt(globalScope, sourceScope, "always-allow-relaying", "allow-relay")
	vmtaDomain   = registerAt("virtual-mta", domainScope, "bounce-domain")
	_            = registerNames(globalScope, "include", "include-from", "domain-macro", "relay-domain")
	_            = registerNames("source", "include") + registerNames("domain", "include") + registerNames("virtual-mta", "include") +
		registerNames("virtual-mta-pool", "include") + registerNames("smtp-pattern-list", "include")
)

// registerAt adds directives of s to another scope and returns s with only these.
func registerAt[T any](scopeName string, s *scope[T], names ...string) *scope[T] {
	only := &scope[T]{name: scopeName, rows: map[string]directive[T]{}}
	for _, name := range names {
		row := s.rows[name]
		row.Scope = scopeName
		register(row.Directive)
		only.rows[name] = row
	}
	return only
}

func registerNames(scopeName string, names ...string) int {
	for _, name := range names {
		register(Directive{Scope: scopeName, Name: name, Status: Implemented})
	}
	return len(names)
}

// mailbox parses an address with its domain.
var mailbox = scalar("want an address", func(s string) (string, error) {
	local, domain, err := splitAddress(s)
	if err == nil && domain == "" {
		err = fmt.Errorf("bad address %q; want one with a domain", s)
	}
	return local + "@" + domain, err
})

// Relays reports whether mail for the address is accepted from anybody: its domain is one of the
// node's host names, a relay-domain or a bounce-domain, or the address is a relay-address.
func (c *Config) Relays(address string) bool {
	local, domain, err := splitAddress(address)
	if err != nil || domain == "" {
		return false
	}
	if slices.Contains(c.HostNames, domain) || slices.Contains(c.BounceDomains, domain) {
		return true
	}
	for _, p := range c.RelayDomains {
		if p.Match(domain) {
			return true
		}
	}
	local = strings.ToLower(local)
	for _, p := range c.RelayAddresses {
		if (p.regex != nil || p.domain != "") && p.match(local, domain, local+"@"+domain) {
			return true
		}
	}
	return false
}
