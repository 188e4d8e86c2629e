package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// AddDateHeader is the value of add-date-header.
type AddDateHeader string

// The values of add-date-header.
const (
	AddDateNo       AddDateHeader = "no"
	AddDateYes      AddDateHeader = "yes"      // where it is missing
	AddDateOverride AddDateHeader = "override" // in place of what is there
)

// DateHeaderTime is the value of date-header-time: which time an added Date field tells.
type DateHeaderTime string

// The times: when the message came in, or when it is tried.
const (
	DateAtReception DateHeaderTime = "reception"
	DateAtDelivery  DateHeaderTime = "delivery"
)

// DSNReturn is the value of dsn-return-default: what DSNs return of a message whose feeder did not say.
type DSNReturn string

// The values of dsn-return-default.
const (
	ReturnHeaders DSNReturn = "headers"
	ReturnFull    DSNReturn = "full"
	ReturnSystem  DSNReturn = "system" // what the system that writes the DSN chooses
)

// SuppressedRecipients is what becomes of a recipient who must not be mailed.
type SuppressedRecipients string

// The ways: refused at RCPT, or accepted and bounced with 5.7.1, for feeders that drop a whole
// message when one recipient is refused.
const (
	SuppressedReject SuppressedRecipients = "reject"
	SuppressedBounce SuppressedRecipients = "bounce"
)

// Source is what the <source> sections say about mail from one place.
type Source struct {
	// Name is the argument of the most specific section that applies ("10/8", "{auth}"), as
	// written; "0/0" if none does. It names the tenant of mail that nothing else names.
	Name string

	SMTPService         bool
	AlwaysAllowRelaying bool
	RequireAuth         bool
	AllowAuth           bool

	AllowStartTLS             bool
	RequireStartTLSBeforeAuth bool
	AllowUnencryptedPlainAuth bool
	SMTPMaxAuthFailureRate    Rate // of logins that failed, from one address

	AllowChunking  bool
	AllowSMTPUTF8  bool
	FixBareNewline bool // else a message with a CR or LF that is not part of a CRLF is refused

	SMTPCommandTimeout time.Duration // for a command, from its first octet to its last
	SMTPDataTimeout    time.Duration // for a message likewise

	DefaultVirtualMTA  string // empty, a vmta, a pool, or BySMTPSourceIP
	ProcessXVirtualMTA bool
	RetainXVirtualMTA  bool
	ProcessXJob        bool
	RetainXJob         bool
	JobIDHeader        string // empty: none
	ProcessXEnvid      bool
	TenantHeader       string // empty: none
	// SuppressedRecipients says what becomes of recipients who must not be mailed.
	SuppressedRecipients SuppressedRecipients
	ProcessXSchedule     bool
	RetainXSchedule      bool
	ProcessXDKIMOptions,
	RetainXDKIMOptions bool
	JobIDPrefix             string // JobIDPrefixAuth for the user's name
	PatternList             string // empty: none
	RejectInvalidVirtualMTA bool   // else invalid-virtual-mta-fallback, or what it would be without asking
	AllowEmptyXVirtualMTA   bool   // an empty X-Virtual-MTA asks for {default}
	AddXVirtualMTAHeader    bool
	RemoveHeader            []string
	RemoveReceivedHeaders   bool
	AutoQualifyDomain       bool // of addresses whose domain is one label, by domain-suffix

	MaxMessageSize    Size // 0 means no limit
	MaxRcptPerMessage int  // 0 means no limit
	MaxMessageHops    int

	TooManyRcptsFailsMessage   bool // else those beyond MaxRcptPerMessage are refused
	DisconnectOnTransientError bool // in place of a reply 4xx
	SourceGroup                string

	SuppressionLists []string // names of <address-list>s whose addresses are refused
	RewriteList      string   // empty: that of the vmta or the pool
	BCC              string   // gets a copy of every message; empty: nobody

	AddReceivedHeader  bool
	AddDateHeader      AddDateHeader
	DateHeaderTime     DateHeaderTime
	AddMessageIDHeader bool
	HideMessageSource  bool

	VERPDefault      bool // each recipient's mail has a return path that names him
	DSNReturnDefault DSNReturn
}

// BySMTPSourceIP as default-virtual-mta chooses the vmta whose source IP is the local address
// that the client connected to.
const BySMTPSourceIP = "by-smtp-source-ip"

// DefaultSource returns PowerMTA's documented defaults.
func DefaultSource() Source {
	return Source{
		Name:        "0/0",
		SMTPService: true,
		AllowAuth:   true,

		AllowChunking: true, AllowSMTPUTF8: true,
		SMTPCommandTimeout: 10 * time.Minute, SMTPDataTimeout: 10 * time.Minute,

		MaxMessageHops:    100,
		AddReceivedHeader: true,

		RejectInvalidVirtualMTA: true, AutoQualifyDomain: true,
		AddDateHeader: AddDateNo, DateHeaderTime: DateAtReception, SuppressedRecipients: SuppressedReject,
		DSNReturnDefault: ReturnSystem,
	}
}

var sourceScope = newScope("source",
	one("smtp-service", boolean, func(s *Source) *bool { return &s.SMTPService }),
	one("always-allow-relaying", boolean, func(s *Source) *bool { return &s.AlwaysAllowRelaying }),
	alias[Source]("allow-relay", "always-allow-relaying"),
	one("require-auth", boolean, func(s *Source) *bool { return &s.RequireAuth }),
	one("allow-auth", boolean, func(s *Source) *bool { return &s.AllowAuth }),
	one("allow-starttls", boolean, func(s *Source) *bool { return &s.AllowStartTLS }),
	one("require-starttls-before-auth", boolean, func(s *Source) *bool { return &s.RequireStartTLSBeforeAuth }),
	one("allow-unencrypted-plain-auth", boolean, func(s *Source) *bool { return &s.AllowUnencryptedPlainAuth }),
	one("smtp-max-auth-failure-rate", rate, func(s *Source) *Rate { return &s.SMTPMaxAuthFailureRate }),
	one("allow-chunking", boolean, func(s *Source) *bool { return &s.AllowChunking }),
	one("allow-smtputf8", boolean, func(s *Source) *bool { return &s.AllowSMTPUTF8 }),
	one("fix-bare-newline", boolean, func(s *Source) *bool { return &s.FixBareNewline }),
	one("smtp-command-timeout", positiveInterval, func(s *Source) *time.Duration { return &s.SMTPCommandTimeout }),
	one("smtp-data-timeout", positiveInterval, func(s *Source) *time.Duration { return &s.SMTPDataTimeout }),
	one("default-virtual-mta", clearable(identifier), func(s *Source) *string { return &s.DefaultVirtualMTA }),
	one("process-x-virtual-mta", boolean, func(s *Source) *bool { return &s.ProcessXVirtualMTA }),
	one("retain-x-virtual-mta", boolean, func(s *Source) *bool { return &s.RetainXVirtualMTA }),
	one("process-x-job", boolean, func(s *Source) *bool { return &s.ProcessXJob }),
	one("retain-x-job", boolean, func(s *Source) *bool { return &s.RetainXJob }),
	one("jobid-header", clearable(headerName), func(s *Source) *string { return &s.JobIDHeader }),
	one("process-x-envid", boolean, func(s *Source) *bool { return &s.ProcessXEnvid }),
	one("tenant-header", clearable(headerName), func(s *Source) *string { return &s.TenantHeader }),
	one("suppressed-recipients", choice(SuppressedReject, SuppressedBounce), func(s *Source) *SuppressedRecipients { return &s.SuppressedRecipients }),
	one("process-x-schedule", boolean, func(s *Source) *bool { return &s.ProcessXSchedule }),
	one("retain-x-schedule", boolean, func(s *Source) *bool { return &s.RetainXSchedule }),
	one("process-x-dkim-options", boolean, func(s *Source) *bool { return &s.ProcessXDKIMOptions }),
	one("retain-x-dkim-options", boolean, func(s *Source) *bool { return &s.RetainXDKIMOptions }),
	one("jobid-prefix", clearable(jobIDPrefix), func(s *Source) *string { return &s.JobIDPrefix }),
	one("pattern-list", clearable(identifier), func(s *Source) *string { return &s.PatternList }),
	one("reject-invalid-virtual-mta", boolean, func(s *Source) *bool { return &s.RejectInvalidVirtualMTA }),
	one("allow-empty-x-virtual-mta", boolean, func(s *Source) *bool { return &s.AllowEmptyXVirtualMTA }),
	one("add-x-virtual-mta-header", boolean, func(s *Source) *bool { return &s.AddXVirtualMTAHeader }),
	one("remove-header", headerNames, func(s *Source) *[]string { return &s.RemoveHeader }),
	one("remove-received-headers", boolean, func(s *Source) *bool { return &s.RemoveReceivedHeaders }),
	one("auto-qualify-domain", boolean, func(s *Source) *bool { return &s.AutoQualifyDomain }),
	orZero("unlimited", one("max-message-size", sizeLimit, func(s *Source) *Size { return &s.MaxMessageSize })),
	one("max-rcpt-per-message", limit, func(s *Source) *int { return &s.MaxRcptPerMessage }),
	one("too-many-rcpts-fails-message", boolean, func(s *Source) *bool { return &s.TooManyRcptsFailsMessage }),
	one("disconnect-on-transient-error", boolean, func(s *Source) *bool { return &s.DisconnectOnTransientError }),
	one("source-group", clearable(identifier), func(s *Source) *string { return &s.SourceGroup }),
	one("suppression-lists", names, func(s *Source) *[]string { return &s.SuppressionLists }),
	one("rewrite-list", clearable(identifier), func(s *Source) *string { return &s.RewriteList }),
	one("bcc", clearable(mailbox), func(s *Source) *string { return &s.BCC }),
	one("max-message-hops", number(1, maxCount), func(s *Source) *int { return &s.MaxMessageHops }),
	one("add-received-header", boolean, func(s *Source) *bool { return &s.AddReceivedHeader }),
	one("add-date-header", addDateHeader, func(s *Source) *AddDateHeader { return &s.AddDateHeader }),
	one("date-header-time", choice(DateAtReception, DateAtDelivery), func(s *Source) *DateHeaderTime { return &s.DateHeaderTime }),
	one("verp-default", boolean, func(s *Source) *bool { return &s.VERPDefault }),
	one("dsn-return-default", choice(ReturnHeaders, ReturnFull, ReturnSystem), func(s *Source) *DSNReturn { return &s.DSNReturnDefault }),
	one("add-message-id-header", boolean, func(s *Source) *bool { return &s.AddMessageIDHeader }),
	one("hide-message-source", boolean, func(s *Source) *bool { return &s.HideMessageSource }),
).withDefaults(DefaultSource)

var addDateHeader = scalar("want no, yes or override", func(s string) (AddDateHeader, error) {
	switch strings.ToLower(s) {
	case "no", "false":
		return AddDateNo, nil
	case "yes", "true":
		return AddDateYes, nil
	case "override":
		return AddDateOverride, nil
	}
	return "", fmt.Errorf("bad value %q; want no, yes or override", s)
})

// JobIDPrefixAuth as jobid-prefix stands for the name of who has logged in.
const JobIDPrefixAuth = "{auth}"

// jobIDPrefix parses the beginning of a job ID, which has no white space.
var jobIDPrefix = scalar("want a word", func(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fmt.Errorf("bad prefix %q; a job ID has no white space", s)
	}
	return s, nil
})

// sourceSection is one or more <source> sections with the same argument.
type sourceSection struct {
	name        string
	prefix      netip.Prefix // of a section for a range of addresses
	assignments []assignment[Source]
}

// sourceArgument returns the range of addresses that the argument of a <source> is, if it is one
// and no name.
func sourceArgument(s string) (prefix netip.Prefix, isRange bool) {
	if s == "*" {
		return everyAddress, true
	}
	p, err := parseCIDR(s)
	return p, err == nil
}

// Source returns the settings of mail from addr: the global ones, then those of every range that
// holds addr, the narrowest last, then those of the named sources in the order given (the
// listener's first). Empty names are skipped, and so are names that no section has. For mail that
// does not come over the network addr is the zero Addr.
func (c *Config) Source(addr netip.Addr, named ...string) Source {
	s := DefaultSource()
	c.eachSource(addr, named, func(name string) { s.Name = name }, func(a assignment[Source]) { a.apply(&s) })
	return s
}

// eachSource calls f with every assignment that counts for mail from addr, the strongest last, and
// section with the argument of each section before its own.
func (c *Config) eachSource(addr netip.Addr, named []string, section func(name string), f func(assignment[Source])) {
	for _, a := range c.sourceBase {
		f(a)
	}
	apply := func(s *sourceSection) {
		section(s.name)
		for _, a := range s.assignments {
			f(a)
		}
	}
	for _, section := range c.sourceRanges {
		if addr.IsValid() && cidrContains(section.prefix, addr) {
			apply(section)
		}
	}
	for _, name := range named {
		if section, ok := c.sourceNames[strings.ToLower(name)]; ok {
			apply(section)
		}
	}
}
