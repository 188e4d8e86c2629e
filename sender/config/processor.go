package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// AddressList says which addresses something is for.
type AddressList struct {
	Name      string // empty in a processor
	Addresses []AddressPattern
	Domains   []string

	files []addressFile
}

// addressFile holds the addresses and local parts of an address-file, in lower case: such files
// have a line for each customer.
type addressFile struct {
	path    string
	entries map[string]bool
}

func (f addressFile) String() string { return f.path }

var addressListScope = newScope("address-list",
	many("address", parseAddressPattern, func(l *AddressList) *[]AddressPattern { return &l.Addresses }),
	many("address-file", parseAddressFile, func(l *AddressList) *[]addressFile { return &l.files }),
	many("domain", hostName, func(l *AddressList) *[]string { return &l.Domains }),
)

// parseAddressFile reads a file with an address or a local part on each line. Empty lines and those
// that begin with # are skipped.
func parseAddressFile(v *value) (addressFile, error) {
	path, err := filePath(v)
	if err != nil {
		return addressFile{}, err
	}
	data, err := v.files.ReadFile(path)
	if err != nil {
		return addressFile{}, fmt.Errorf("%s: %s", path, fileProblem(err))
	}
	f := addressFile{path: path, entries: map[string]bool{}}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		local, domain, err := splitAddress(line)
		if err != nil {
			return f, fmt.Errorf("%s, line %d: %w; want an address or a local part", path, number, err)
		}
		local = strings.ToLower(local)
		if domain != "" {
			local += "@" + domain
		}
		f.entries[local] = true
	}
	return f, nil
}

// Match reports whether the list holds the address. A list of domains only holds all their
// addresses. With domains and addresses, those addresses that name no domain of their own (a local
// part, a pattern) count in the list's domains only. A pattern is tried on the whole address and
// on the local part.
func (l *AddressList) Match(address string) bool {
	local, domain, err := splitAddress(address)
	if err != nil {
		return false
	}
	local = strings.ToLower(local)
	whole := local + "@" + domain
	inDomains := slices.Contains(l.Domains, domain)
	if len(l.Addresses)+len(l.files) == 0 {
		return inDomains
	}
	anywhere := inDomains || len(l.Domains) == 0
	for _, p := range l.Addresses {
		if (p.domain != "" || anywhere) && p.match(local, domain, whole) {
			return true
		}
	}
	for _, f := range l.files {
		if f.entries[whole] || anywhere && f.entries[local] {
			return true
		}
	}
	return false
}

// ReportProcessor says which incoming mail is read as reports, not delivered: bounces in
// <bounce-processor>, complaints in <feedback-loop-processor>; and what becomes of it then.
type ReportProcessor struct {
	Pos          Pos
	AddressLists []*AddressList

	DeliverMatched     bool     // deliver what was understood as well
	DeliverUnmatched   bool     // deliver what was not understood
	ForwardUnmatchedTo []string // where else it goes
	ForwardErrorsTo    []string // where mail goes that could not be read at all

	Patterns     []*EmailPatterns // for reports that no parser knows, in order
	Rules        []ReportRule     // about what a bounce says, in order; the first that matches counts
	TrustedDKIM  []string         // domains of reporters whose signed reports are believed without a token
	forwardedPos Pos

	deliverMatched, deliverUnmatched []bool // as written
	logBounces                       bool
}

// Match reports whether mail for the address is for the processor. A nil processor has none.
func (p *ReportProcessor) Match(address string) bool {
	return p != nil && slices.ContainsFunc(p.AddressLists, func(l *AddressList) bool { return l.Match(address) })
}

func processorScope(name string, more ...directive[ReportProcessor]) *scope[ReportProcessor] {
	return newScope(name, append([]directive[ReportProcessor]{
		orZero("no", many("deliver-matched-email", boolean, func(p *ReportProcessor) *[]bool { return &p.deliverMatched })),
		alias[ReportProcessor]("deliver-bounces", "deliver-matched-email"),
		many("deliver-unmatched-email", boolean, func(p *ReportProcessor) *[]bool { return &p.deliverUnmatched }),
		many("forward-unmatched-to", mailbox, func(p *ReportProcessor) *[]string { return &p.ForwardUnmatchedTo }),
		many("forward-errors-to", mailbox, func(p *ReportProcessor) *[]string { return &p.ForwardErrorsTo }),
	}, more...)...).withDefaults(func() ReportProcessor { return ReportProcessor{} })
}

var (
	bounceScope = processorScope("bounce-processor",
		many("regex", reportRule, func(p *ReportProcessor) *[]ReportRule { return &p.Rules }),
		one("log-bounces", boolean, func(p *ReportProcessor) *bool { return &p.logBounces }),
	)
	feedbackScope = processorScope("feedback-loop-processor",
		many("trust-dkim-domain", reporterDomain, func(p *ReportProcessor) *[]string { return &p.TrustedDKIM }),
	)
)

// mailboxDomains sign the mail of everybody who has a mailbox there: a report that one of them has
// signed may be anybody's.
var mailboxDomains = []string{
	"126.com", "163.com", "aol.com", "comcast.net", "gmail.com", "gmx.com", "gmx.de", "gmx.net", "googlemail.com", "hotmail.com", "icloud.com",
	"live.com", "mail.ru", "me.com", "msn.com", "outlook.com", "proton.me", "protonmail.com", "qq.com", "web.de", "yahoo.com", "yahoo.co.jp",
	"yandex.com", "yandex.ru", "ymail.com",
}

func reporterDomain(v *value) (string, error) {
	domain, err := hostName(v)
	if err == nil && slices.Contains(mailboxDomains, domain) {
		err = fmt.Errorf("%s signs what its users write, reports of their own making too; want a domain that signs nothing but reports", domain)
	}
	return domain, err
}

// ReportAction is what a rule about bounces asks for.
type ReportAction string

// The actions.
const (
	// DeleteReport drops the mail without passing it on, and suppresses the address that it proves
	// as if it had been said to be dead.
	DeleteReport ReportAction = "delete"
	// SuppressReport only suppresses, as DeleteReport.
	SuppressReport ReportAction = "suppress"
	// KeepReport is a bounce like any other that suppresses nobody.
	KeepReport ReportAction = "keep"
)

// ReportRule is a line "regex REGEX action ACTION": what is done about bounces whose status and
// diagnostic, as "5.2.2;smtp;552 mailbox full", match.
type ReportRule struct {
	Pos     Pos
	Pattern *regexp.Regexp
	Action  ReportAction
}

// String returns the rule as it is written.
func (r ReportRule) String() string {
	return "/" + strings.TrimPrefix(r.Pattern.String(), "(?i)") + "/ action " + string(r.Action)
}

func reportRule(v *value) (ReportRule, error) {
	const want = `want a pattern and an action, for example "5\.2\.2" action delete`
	words, err := v.fields(3, 3, want)
	if err != nil {
		return ReportRule{}, err
	}
	expression := words[0].text
	if len(expression) < 2 || expression[0] != '/' || patternEnd(expression) < 0 {
		expression = "/" + expression + "/" // the slashes are a habit of other directives
	}
	r := ReportRule{Pos: v.pos, Action: ReportAction(strings.ToLower(words[2].text))}
	if !strings.EqualFold(words[1].text, "action") {
		return r, words[1].errorf("unexpected %q; %s", words[1].text, want)
	}
	if !slices.Contains([]ReportAction{DeleteReport, SuppressReport, KeepReport}, r.Action) {
		return r, words[2].errorf("bad action %q; want delete, suppress or keep", words[2].text)
	}
	if words[0].text == "" {
		return r, errors.New("empty pattern; " + want)
	}
	r.Pattern, err = parseRegex(expression)
	return r, err
}

// EmailPatterns is an <email-patterns> section: patterns with named groups that read what is said
// in the text of a report.
type EmailPatterns struct {
	Name         string // empty without one
	Patterns     []BodyPattern
	LogMatchInfo bool // note in the log which pattern matched
}

// BodyPattern is the pattern in a body-pattern-file.
type BodyPattern struct {
	File   string
	Regexp *regexp.Regexp
}

// String returns the name of the file.
func (p BodyPattern) String() string { return p.File }

var emailPatternsScope = newScope("email-patterns",
	many("body-pattern-file", bodyPattern, func(e *EmailPatterns) *[]BodyPattern { return &e.Patterns }),
	one("log-match-info", boolean, func(e *EmailPatterns) *bool { return &e.LogMatchInfo }),
)

// patternGroups are the names of groups that mean something, and which of them a processor needs
// one of.
var patternGroups = map[string]struct{ known, needed []string }{
	"bounce-processor":        {[]string{"r", "or", "orig", "diag", "action", "repMta", "remMta"}, []string{"r", "or"}},
	"feedback-loop-processor": {[]string{"reportedDomainTo", "reportedDomainFrom", "dlvSourceIp", "rcpt", "orig"}, []string{"rcpt"}},
}

// maxPatternFile bounds a body-pattern-file, in bytes: it holds one pattern.
const maxPatternFile = 64 << 10

// bodyPattern reads a file with one pattern, with or without slashes around it.
func bodyPattern(v *value) (BodyPattern, error) {
	path, err := filePath(v)
	if err != nil {
		return BodyPattern{}, err
	}
	data, err := v.files.ReadFile(path)
	switch {
	case err != nil:
		return BodyPattern{}, fmt.Errorf("%s: %s", path, fileProblem(err))
	case len(data) > maxPatternFile:
		return BodyPattern{}, fmt.Errorf("%s is larger than %d KB; want one pattern", path, maxPatternFile>>10)
	}
	expression := strings.TrimSpace(string(data))
	if expression == "" {
		return BodyPattern{}, fmt.Errorf("%s is empty; want one pattern", path)
	}
	if len(expression) < 2 || expression[0] != '/' || expression[len(expression)-1] != '/' {
		expression = "/" + expression + "/"
	}
	re, err := parseRegex(expression)
	if err != nil {
		return BodyPattern{}, fmt.Errorf("%s: %w", path, err)
	}
	return BodyPattern{path, re}, nil
}

// emailPatterns builds an <email-patterns> inside the processor of the given name.
func (b *builder) emailPatterns(n *node, processor string, p *ReportProcessor) {
	groups := patternGroups[processor]
	build(b, n, emailPatternsScope, func(v *value) (EmailPatterns, error) { return EmailPatterns{Name: v.text}, nil }, func(e EmailPatterns) {
		if len(e.Patterns) == 0 {
			b.errorf(n.Pos, "<email-patterns> needs a body-pattern-file")
		}
		for _, pattern := range e.Patterns {
			useful := false
			for _, name := range pattern.Regexp.SubexpNames() {
				if name != "" && !slices.Contains(groups.known, name) {
					b.errorf(n.Pos, "%s: unknown group %q; in a <%s> the groups are %s", pattern.File, name, processor, strings.Join(groups.known, ", "))
				}
				useful = useful || slices.Contains(groups.needed, name)
			}
			if !useful {
				b.errorf(n.Pos, "%s: without a group %s the pattern finds no recipient", pattern.File, strings.Join(groups.needed, " or "))
			}
		}
		p.Patterns = append(p.Patterns, &e)
	})
}

func (b *builder) processor(n *node, s *scope[ReportProcessor], target **ReportProcessor) {
	if *target == nil {
		*target = &ReportProcessor{Pos: n.Pos}
	}
	p := *target
	s.read(b, n.Children, func(a assignment[ReportProcessor]) {
		a.apply(p)
		if a.row.Name == "forward-unmatched-to" || a.row.Name == "forward-errors-to" {
			p.forwardedPos = a.pos
		}
	}, func(inner *node) {
		switch inner.Name {
		case "address-list":
			list := &AddressList{}
			addressListScope.fill(b, inner, list)
			p.AddressLists = append(p.AddressLists, list)
		case "email-patterns":
			b.emailPatterns(inner, n.Name, p)
		default:
			b.section(inner, n.Name)
		}
	})
}

// finishProcessors fills in what follows from what was not said, and refuses a way that leads back
// to the processors: mail that is not understood there would go round for ever.
func (b *builder) finishProcessors() {
	c := b.config
	for _, p := range []*ReportProcessor{c.BounceProcessor, c.FeedbackLoopProcessor} {
		if p == nil {
			continue
		}
		p.DeliverUnmatched = last(p.deliverUnmatched, len(p.ForwardUnmatchedTo) == 0)
		c.LogBounces = c.LogBounces || p.logBounces
		p.DeliverMatched = last(p.deliverMatched, c.DeliverBounces && p == c.BounceProcessor)
		for _, address := range slices.Concat(p.ForwardUnmatchedTo, p.ForwardErrorsTo) {
			if c.Processor(address) != nil {
				b.errorf(p.forwardedPos, "mail cannot be forwarded to %s: it would come to a processor again", address)
			}
		}
	}
}

// last returns the last of given, or otherwise.
func last(given []bool, otherwise bool) bool {
	if len(given) == 0 {
		return otherwise
	}
	return given[len(given)-1]
}

// tokensOnly is the processor of addresses in a bounce-domain that no section is for. There are no
// mailboxes in it: what comes is read, and then it is gone.
var tokensOnly = &ReportProcessor{}

// Processor returns the processor of mail for the address, or nil where mail for it is mail like
// any other. Bounce domains belong to the bounce-processor, where there is one.
func (c *Config) Processor(address string) *ReportProcessor {
	switch {
	case c.BounceProcessor.Match(address):
		return c.BounceProcessor
	case c.FeedbackLoopProcessor.Match(address):
		return c.FeedbackLoopProcessor
	}
	_, domain, err := splitAddress(address)
	if err != nil || !slices.Contains(c.BounceDomains, domain) {
		return nil
	}
	if c.BounceProcessor != nil {
		return c.BounceProcessor
	}
	return tokensOnly
}
