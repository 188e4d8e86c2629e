// Package config reads carom's configuration language, which is PowerMTA's with some words more,
// into typed values.
//
// Three steps: lines become a tree of nodes with their places, includes already put in (tree.go,
// include.go); the registry says what each directive is worth in each kind of section, how its
// value is written and what it sets (registry.go and the scopes in settings.go, source.go,
// vmta.go, global.go, sections.go); the result is checked as a whole (validate.go). names.txt
// lists the documented PowerMTA directives that carom accepts without effect.
//
// Where PowerMTA's documentation is silent: relative paths start in the folder of the file that
// holds them; "0/0" covers IPv6 too; a vmta's <domain *> beats a global <domain gmail.com>; of
// two equal sections the later wins, directive by directive; a number where a time is wanted
// counts seconds; a # starts a comment inside quotes and patterns too.
//
// Load and Parse report every mistake at once, each with file, line and column; they never panic
// on any input (FuzzParse), read only files that the text names, and bound includes in depth and
// size. Secrets are never part of a message. Nothing here touches the network, and nothing is
// read again after Load returns: a Config is immutable and safe for concurrent use.
package config

import (
	"crypto"
	"fmt"
	"net/netip"
	"os"

	"carom/schemas/service"
)

// Config is a whole configuration. Its exported fields are the directives outside sections and
// the sections of which there are few; VMTA, Domain and Source answer for the others. It belongs
// to all its readers: nobody changes it.
type Config struct {
	HostNames       []string         // the first names the node; never empty
	Postmasters     []string         // get the mail for postmaster and abuse at the host names
	HostID          int              // part of the Message-IDs that the node makes; 0: none
	Listeners       []Listener       // never empty
	NameServers     []netip.AddrPort // empty: the system's
	TotalMaxSMTPOut int              // 0 means no limit
	TotalMaxSMTPIn  int              // 0 means no limit
	SMTPAwaitSlot   bool             // clients wait for a connection of TotalMaxSMTPIn; else they are refused

	ProcessUser ProcessUser
	RunAsRoot   bool // else the node runs as user pmta or carom, where there is one

	MaxMemoryUsagePercent int  // of the machine's; above it no mail is taken; 100: off
	MemoryPoolBufferSize  Size // of all messages that are being taken in; 0 means no limit
	SpoolMaxRecipients    int  // queued recipients above which no mail is taken; 0 means no limit
	RelayDebug            bool // relay denials are transient

	// DomainSuffix is what addresses with a domain of one label get; empty: nothing.
	DomainSuffix string
	ServerTLS    ServerTLS // of listeners that say nothing else

	// Limits of connections to receivers: the first that fits counts.
	MXConnectionLimits []MXConnectionLimit
	IPConnectionLimits []IPConnectionLimit

	HTTPAccess []HTTPAccess

	RelayDomains   []DomainPattern
	RelayAddresses []AddressPattern
	BounceDomains  []string // every bounce-domain that any section names, once

	// ReferenceKeys sign carom's tokens in outgoing mail: the first signs, all verify.
	ReferenceKeys  []ReferenceKey
	HoldExemptJobs []string // adaptive-hold no for these jobs

	Spools      []Spool
	AcctFiles   []AcctFile
	RejectLogs  []AcctFile // of refused connections and recipients
	EventLog    *EventLog  // never nil, like the three that follow: see finishPlaces
	Feed        *Feed
	EventStream *EventStream
	Admin       *Admin

	BounceCategories []CategoryRule // the first that matches a reply gives the category

	BounceProcessor       *ReportProcessor
	FeedbackLoopProcessor *ReportProcessor
	AddressLists          map[string]*AddressList // by name in lower case

	DeliverBounces bool // what the bounce-processor does where it does not say
	LogBounces     bool // each bounce is a line in the log, and a record where an acct-file names none

	hash uint64
	// set holds where the directives outside sections were written, by name.
	set map[string]Pos

	aliases        []mailAlias
	aliasTable     aliasTable
	includeHeaders HeaderLines
	// oldListener is what the directives say that smtp-listener replaced.
	oldListener struct {
		addr netip.Addr
		port uint16
	}

	fallback vmtaReference
	relayAny Pos // of relay-domain *

	spoolMinFreeSpace Size

	sourceHosts      []SourceHost
	domainKeys       []DomainKey
	keyLists         map[string]*keyList      // by name in lower case
	keyFiles         map[string]crypto.Signer // by path
	domainBase       []assignment[Settings]   // domain directives outside sections
	domains          domainTable
	vmtas            map[string]*VMTA // by name in lower case, as all that follow
	vmtaOrder        []*VMTA
	pools            map[string]*Pool
	poolOrder        []*Pool
	users            map[string]*User
	sourceGroups     map[string]*SourceGroup
	sourceGroupOrder []*SourceGroup
	intakeLists      map[string]*IntakeList

	patternLists map[string]*PatternList // by name in lower case
	rewriteLists map[string]*RewriteList // likewise
	rollups      []*Rollup               // in the order of the file

	disablesRecords bool // some domain has disable-acct-records

	sourceBase   []assignment[Source]
	sourceRanges []*sourceSection // the widest range first
	sourceNames  map[string]*sourceSection
}

// Load reads the configuration in the named file. Its error is a *service.ConfigError, in which
// Errors finds the mistakes one by one; warnings come with and without it.
func Load(path string) (*Config, []Warning, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, &service.ConfigError{Err: &Error{Pos{File: path}, fileProblem(err)}}
	}
	return Parse(path, data)
}

// Parse is Load for a text that is already in memory. The name stands for it in messages, and
// its folder is where relative paths in the text start.
func Parse(name string, data []byte) (*Config, []Warning, error) {
	return parse(name, data, osFiles{})
}

func parse(name string, data []byte, f files) (*Config, []Warning, error) {
	l := newLoader(f)
	if len(data) > maxTotalBytes {
		return nil, nil, service.Configf("%w", &Error{Pos{File: name}, fmt.Sprintf("holds more than %d MB", maxTotalBytes>>20)})
	}
	nodes := l.parse(name, data)
	b := newBuilder(l, nodes)
	b.global(nodes)
	b.finish()
	warnings, err := l.report.finish()
	if err != nil {
		return nil, warnings, &service.ConfigError{Err: err}
	}
	return b.config, warnings, nil
}

// Hash returns a number that stands for the text of the configuration and all its includes.
func (c *Config) Hash() uint64 { return c.hash }

// HashText returns Hash as 16 hexadecimal digits.
func (c *Config) HashText() string { return fmt.Sprintf("%016x", c.hash) }

// HostName returns the node's name.
func (c *Config) HostName() string { return c.HostNames[0] }
