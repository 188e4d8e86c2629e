package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// DefaultVMTA is the name of the vmta of mail that no other was chosen for.
const DefaultVMTA = "{default}"

// SourceHost is where outgoing connections come from.
type SourceHost struct {
	// Prefix holds the address, or the range whose local addresses are used in turn.
	Prefix netip.Prefix
	// HostName is the name for EHLO. It is filled in from the vmta's or the node's host name
	// where the file gives none.
	HostName string
}

// Addr returns the address, and false if the source host is a range.
func (h SourceHost) Addr() (netip.Addr, bool) { return h.Prefix.Addr(), h.Prefix.IsSingleIP() }

// String returns the source host as it is written.
func (h SourceHost) String() string {
	return strings.TrimSpace(formatCIDR(h.Prefix) + " " + h.HostName)
}

// VMTA is a virtual MTA: a named way out. What its section leaves open is filled in from the
// global directives.
type VMTA struct {
	Name string // as first written; names are compared without regard to case
	Pos  Pos    // zero for {default} if no section defines it

	SourceHosts []SourceHost // empty: the system chooses the address
	HostName    string       // for EHLO and Message-IDs; never empty
	DomainKeys  []DomainKey  // its own, its pools', then the global ones; the first that fits signs

	MaxSMTPOut     int  // connections over all its queues; 0 means no limit
	MaxSMTPMsgRate Rate // attempted recipients over all its queues
	// MaxSMTPDataVolumeRate counts the bytes that receivers took, over all its queues.
	MaxSMTPDataVolumeRate DataRate

	// ColdVMTAs are the vmtas, as written, that take the first mail of each day in turn; see
	// Limits.MaxColdVirtualMTAMsg.
	ColdVMTAs []string

	SourcePublicIP   netip.Addr // what receivers see if it is behind NAT; else the zero Addr
	WarmupStart      time.Time  // zero: no warm-up
	EstablishedSince time.Time  // zero: not stated
	HoldExempt       HoldExempt

	Pools []string // the pools that it is in

	includeHeaders HeaderLines
	rewriteList    string

	bounceDomain []assignment[Settings]
	domains      domainTable
	autoCold     []SourceHost
	// set holds where the limits were written, by the names of their directives.
	set map[string]Pos
}

// Origin returns where a directive of the vmta was written, the zero Pos if it was not.
func (m *VMTA) Origin(directive string) Pos { return m.set[directive] }

var vmtaScope = newScope("virtual-mta",
	many("smtp-source-host", sourceHost, func(m *VMTA) *[]SourceHost { return &m.SourceHosts }),
	many("smtp-source-ip", sourceIP, func(m *VMTA) *[]SourceHost { return &m.SourceHosts }),
	one("host-name", hostName, func(m *VMTA) *string { return &m.HostName }),
	many("domain-key", domainKey, func(m *VMTA) *[]DomainKey { return &m.DomainKeys }),
	orZero("unlimited", one("max-smtp-out", limit, func(m *VMTA) *int { return &m.MaxSMTPOut })),
	one("max-smtp-msg-rate", rate, func(m *VMTA) *Rate { return &m.MaxSMTPMsgRate }),
	one("max-smtp-data-volume-rate", dataRate, func(m *VMTA) *DataRate { return &m.MaxSMTPDataVolumeRate }),
	many("cold-virtual-mta", identifier, func(m *VMTA) *[]string { return &m.ColdVMTAs }),
	many("auto-cold-virtual-mta", sourceHost, func(m *VMTA) *[]SourceHost { return &m.autoCold }),
	one("rewrite-list", clearable(identifier), func(m *VMTA) *string { return &m.rewriteList }),
	one("include-headers-from", clearable(headerLines), func(m *VMTA) *HeaderLines { return &m.includeHeaders }),
	one("source-public-ip", address, func(m *VMTA) *netip.Addr { return &m.SourcePublicIP }),
	one("warmup-start", date, func(m *VMTA) *time.Time { return &m.WarmupStart }),
	one("established-since", date, func(m *VMTA) *time.Time { return &m.EstablishedSince }),
	one("adaptive-hold", adaptiveHold, func(m *VMTA) *HoldExempt { return &m.HoldExempt }),
).withDefaults(func() VMTA { return VMTA{} })

const wantSourceHost = "want ADDRESS HOSTNAME, for example 192.0.2.1 mail1.example.com"

func sourceHost(v *value) (SourceHost, error) {
	words, err := v.fields(1, 2, wantSourceHost)
	if err != nil {
		return SourceHost{}, err
	}
	prefix, err := parseCIDR(words[0].text)
	if err != nil {
		if len(words) == 2 && isIP(words[1].text) {
			return SourceHost{}, words[0].errorf("the address comes first: write %s %s", words[1].text, words[0].text)
		}
		return SourceHost{}, words[0].errorf("%v; %s", err, wantSourceHost)
	}
	if len(words) < 2 {
		return SourceHost{}, fmt.Errorf("%q is not enough; %s; smtp-source-ip takes an address alone, which goes with host-name", v.text, wantSourceHost)
	}
	host, err := checkHostName(words[1].text)
	if err != nil {
		return SourceHost{}, words[1].errorf("%v; %s", err, wantSourceHost)
	}
	return SourceHost{prefix, host}, nil
}

// sourceIP parses the old form without a host name, which goes with the section's host-name.
var sourceIP = scalar("want an IP address", func(s string) (SourceHost, error) {
	prefix, err := parseCIDR(s)
	return SourceHost{Prefix: prefix}, err
})

// Pool is a named group of vmtas that are used in turn.
type Pool struct {
	Name    string
	Pos     Pos
	Members []string // vmta names as written
	Weights []int    // how often each is used beside the others; 1 where nothing is said

	// Limits that the members share; 0 means no limit.
	MaxSMTPOut            int
	MaxSMTPMsgRate        Rate
	MaxSMTPDataVolumeRate DataRate

	ColdVMTAs []string // of members without their own

	includeHeaders HeaderLines
	rewriteList    string

	domainKeys []DomainKey // of the members, after their own and before the global ones
	domains    domainTable
	set        map[string]Pos
}

// Origin returns where a directive of the pool was written, the zero Pos if it was not.
func (p *Pool) Origin(directive string) Pos { return p.set[directive] }

var poolScope = newScope("virtual-mta-pool",
	poolMember,
	many("domain-key", domainKey, func(p *Pool) *[]DomainKey { return &p.domainKeys }),
	orZero("unlimited", one("max-smtp-out", limit, func(p *Pool) *int { return &p.MaxSMTPOut })),
	one("max-smtp-msg-rate", rate, func(p *Pool) *Rate { return &p.MaxSMTPMsgRate }),
	one("max-smtp-data-volume-rate", dataRate, func(p *Pool) *DataRate { return &p.MaxSMTPDataVolumeRate }),
	one("rewrite-list", clearable(identifier), func(p *Pool) *string { return &p.rewriteList }),
	one("include-headers-from", clearable(headerLines), func(p *Pool) *HeaderLines { return &p.includeHeaders }),
	many("cold-virtual-mta", identifier, func(p *Pool) *[]string { return &p.ColdVMTAs }),
).withDefaults(func() Pool { return Pool{} })

// VMTA returns the vmta of that name; "" means {default}, which always exists.
func (c *Config) VMTA(name string) (*VMTA, bool) {
	if name == "" {
		name = DefaultVMTA
	}
	m, ok := c.vmtas[strings.ToLower(name)]
	return m, ok
}

// VMTAs returns all vmtas in the order of the file, {default} last if no section defines it.
// The slice and what it points to belong to c.
func (c *Config) VMTAs() []*VMTA { return c.vmtaOrder }

// Pool returns the pool of that name.
func (c *Config) Pool(name string) (*Pool, bool) {
	p, ok := c.pools[strings.ToLower(name)]
	return p, ok
}

// Pools returns all pools in the order of the file. The slice and what it points to belong to c.
func (c *Config) Pools() []*Pool { return c.poolOrder }
