package classify

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// statuses maps subject.detail of an enhanced status code to a category: IANA's registry "SMTP
// Enhanced Status Codes" (RFC 5248).
var statuses = map[string]taxonomy.Category{
	"1.0": taxonomy.BadMailbox, "1.1": taxonomy.BadMailbox, "1.2": taxonomy.BadDomain, "1.3": taxonomy.BadMailbox,
	"1.4": taxonomy.BadMailbox, "1.5": taxonomy.Delivered, "1.6": taxonomy.Moved, "1.7": taxonomy.InvalidSender,
	"1.8": taxonomy.InvalidSender, "1.9": taxonomy.Delivered, "1.10": taxonomy.BadDomain,

	"2.0": taxonomy.RecipientRefused, "2.1": taxonomy.InactiveMailbox, "2.2": taxonomy.MailboxFull,
	"2.3": taxonomy.MessageTooBig, "2.4": taxonomy.Routing,

	"3.0": taxonomy.System, "3.1": taxonomy.System, "3.2": taxonomy.System, "3.3": taxonomy.System,
	"3.4": taxonomy.MessageTooBig, "3.5": taxonomy.System, "3.6": taxonomy.System,

	"4.0": taxonomy.Connection, "4.1": taxonomy.Connection, "4.2": taxonomy.Connection, "4.3": taxonomy.DNSFailure,
	"4.4": taxonomy.Routing, "4.5": taxonomy.RateLimited, "4.6": taxonomy.Routing, "4.7": taxonomy.Expired, "4.8": taxonomy.Routing,

	"5.0": taxonomy.Protocol, "5.1": taxonomy.Protocol, "5.2": taxonomy.Protocol, "5.3": taxonomy.RateLimited,
	"5.4": taxonomy.Protocol, "5.5": taxonomy.Protocol, "5.6": taxonomy.MessageTooBig,

	"6.0": taxonomy.BadContent, "6.1": taxonomy.BadContent, "6.2": taxonomy.BadContent, "6.3": taxonomy.BadContent,
	"6.4": taxonomy.BadContent, "6.5": taxonomy.BadContent, "6.6": taxonomy.BadContent, "6.7": taxonomy.BadContent,
	"6.8": taxonomy.BadContent, "6.9": taxonomy.BadContent, "6.10": taxonomy.BadContent,

	"7.0": taxonomy.Policy, "7.1": taxonomy.Policy, "7.2": taxonomy.Policy, "7.3": taxonomy.Policy, "7.4": taxonomy.TLSRequired,
	"7.5": taxonomy.TLSRequired, "7.6": taxonomy.TLSRequired, "7.7": taxonomy.Policy, "7.8": taxonomy.AuthFailed,
	"7.9": taxonomy.AuthFailed, "7.10": taxonomy.TLSRequired, "7.11": taxonomy.TLSRequired, "7.12": taxonomy.AuthFailed,
	"7.13": taxonomy.InactiveMailbox, "7.14": taxonomy.AuthFailed, "7.15": taxonomy.Policy, "7.16": taxonomy.RateLimited,
	"7.17": taxonomy.BadMailbox, "7.18": taxonomy.BadDomain, "7.19": taxonomy.Policy, "7.20": taxonomy.AuthFailed,
	"7.21": taxonomy.AuthFailed, "7.22": taxonomy.AuthFailed, "7.23": taxonomy.AuthFailed, "7.24": taxonomy.AuthFailed,
	"7.25": taxonomy.AuthFailed, "7.26": taxonomy.AuthFailed, "7.27": taxonomy.InvalidSender, "7.28": taxonomy.RateLimited,
	"7.29": taxonomy.AuthFailed, "7.30": taxonomy.TLSRequired,
}

// exchange maps the codes of Exchange Online that IANA does not know, most with three digits of
// detail, to categories: Microsoft, "Email non-delivery reports and SMTP errors in Exchange Online".
var exchange = []struct {
	status   statusRange
	category taxonomy.Category
}{
	{statusRange{0, 350, 350}, taxonomy.Policy},
	{statusRange{1, 90, 90}, taxonomy.RateLimited}, // the sender's own daily limit
	{statusRange{1, 351, 351}, taxonomy.BadMailbox},
	{statusRange{2, 121, 122}, taxonomy.RateLimited}, // the recipient's
	{statusRange{3, 190, 190}, taxonomy.System},
	{statusRange{4, 11, 11}, taxonomy.BadContent},
	{statusRange{4, 14, 14}, taxonomy.Routing},
	{statusRange{4, 24, 28}, taxonomy.System},
	{statusRange{4, 300, 300}, taxonomy.Expired},
	{statusRange{4, 310, 310}, taxonomy.BadDomain},
	{statusRange{4, 311, 312}, taxonomy.DNSFailure},
	{statusRange{4, 315, 316}, taxonomy.Connection},
	{statusRange{4, 317, 317}, taxonomy.TLSRequired},
	{statusRange{4, 318, 318}, taxonomy.System},
	{statusRange{6, 11, 11}, taxonomy.BadContent},
	{statusRange{7, 51, 51}, taxonomy.TLSRequired}, // a certificate or an address of the connector
	{statusRange{7, 57, 64}, taxonomy.RelayDenied},
	{statusRange{7, 105, 105}, taxonomy.InvalidSender},
	{statusRange{7, 107, 107}, taxonomy.SpamBlock},
	{statusRange{7, 124, 136}, taxonomy.RecipientRefused}, // a group or mailbox takes no mail of this sender
	{statusRange{7, 230, 233}, taxonomy.RateLimited},
	{statusRange{7, 321, 325}, taxonomy.TLSRequired},
	{statusRange{7, 501, 503}, taxonomy.InvalidSender}, // a sender banned for spam
	{statusRange{7, 504, 505}, taxonomy.RecipientRefused},
	{statusRange{7, 506, 506}, taxonomy.AuthFailed}, // HELO
	{statusRange{7, 507, 507}, taxonomy.SpamBlock},
	{statusRange{7, 508, 508}, taxonomy.RateLimited},
	{statusRange{7, 509, 509}, taxonomy.AuthFailed},
	{statusRange{7, 510, 510}, taxonomy.Policy}, // no mail over IPv6
	{statusRange{7, 511, 511}, taxonomy.SpamBlock},
	{statusRange{7, 512, 512}, taxonomy.Protocol},
	{statusRange{7, 513, 513}, taxonomy.SpamBlock},
	{statusRange{7, 515, 515}, taxonomy.AuthFailed},
	{statusRange{7, 606, 649}, taxonomy.SpamBlock},
	{statusRange{7, 650, 652}, taxonomy.SpamBlock},
	{statusRange{7, 700, 749}, taxonomy.RateLimited}, // a tenant over its threshold
	{statusRange{7, 750, 750}, taxonomy.InvalidSender},
	{statusRange{7, 850, 899}, taxonomy.SpamBlock},
	{statusRange{7, 900, 999}, taxonomy.Policy},
}

// categoryOf returns the category of an enhanced status code, of any class.
func categoryOf(e smtpstatus.Enhanced) (taxonomy.Category, bool) {
	if category, ok := statuses[subjectDetail(e)]; ok {
		return category, true
	}
	for _, x := range exchange {
		if x.status.has(e) {
			return x.category, true
		}
	}
	return taxonomy.Unknown, false
}

func subjectDetail(e smtpstatus.Enhanced) string {
	return strconv.Itoa(int(e.Subject)) + "." + strconv.Itoa(int(e.Detail))
}

// tells reports whether e names a cause: "x.0.0", a field without a detail ("x.2.0") and x.7.1,
// which servers give to any refusal, don't.
func tells(e smtpstatus.Enhanced) bool {
	if e.Detail == 0 || e.Subject == 7 && e.Detail == 1 {
		return false
	}
	_, ok := categoryOf(e)
	return ok
}

func byStatus(e smtpstatus.Enhanced) Verdict {
	if e.IsZero() {
		return verdict(taxonomy.Unknown, "none")
	}
	category, _ := categoryOf(e)
	v := verdict(category, "status."+e.String())
	switch e.Subject {
	case 3: // RFC 3463 section 3.4: the mail system; x.3.2 accepts no mail now
		if e.Class == 4 && category == taxonomy.System {
			v.Dimension = taxonomy.Unavailable
		}
	case 2:
		if category == taxonomy.RateLimited { // of the recipient's mailbox
			v.Dimension, v.Scope = taxonomy.User, taxonomy.ScopeRecipient
		}
	case 7:
		if category == taxonomy.SpamBlock {
			v.Scope = taxonomy.ScopeSource
		}
		if category == taxonomy.RecipientRefused { // the sender's right, not the mailbox's state
			v.Dimension = taxonomy.Other
		}
	case 5:
		if e.Detail == 3 { // too many recipients in one transaction is no rate
			v.Dimension = taxonomy.Other
		}
	}
	return v
}

// byCode decides by the reply code and the phase, RFC 5321 sections 4.2.3 and 4.3.2.
func (f *facts) byCode() Verdict {
	category := taxonomy.Unknown
	switch f.code {
	case 0:
		return verdict(taxonomy.Unknown, "none")
	case 421:
		v := verdict(taxonomy.System, "code.421")
		v.Dimension = taxonomy.Unavailable
		return v
	case 450: // mailbox busy or blocked for policy reasons
		if f.phase() == event.PhaseRcpt {
			v := verdict(taxonomy.Unknown, "code.450")
			v.Scope = taxonomy.ScopeRecipient
			return v
		}
	case 451, 452:
		category = taxonomy.System
	case 454: // RFC 3207 section 4
		category = taxonomy.TLSRequired
	case 455, 555, 500, 501, 502, 503, 504:
		category = taxonomy.Protocol
	case 521, 556: // RFC 7504
		category = taxonomy.BadDomain
	case 530, 534, 535, 538: // RFC 4954 section 6
		category = taxonomy.RelayDenied
	case 550, 553: // mailbox unavailable, name not allowed; but also "for policy reasons"
		switch f.phase() {
		case event.PhaseRcpt:
			category = taxonomy.RecipientRefused
		case event.PhaseMail:
			category = taxonomy.InvalidSender
		default:
		}
	case 551: // user not local
		category = taxonomy.Moved
	case 552: // exceeded storage allocation
		category = taxonomy.MailboxFull
	default:
	}
	if category == taxonomy.Unknown && f.code/100 == 5 && (f.phase() == event.PhaseConnect || f.phase() == event.PhaseGreeting) {
		v := verdict(taxonomy.SpamBlock, "code."+strconv.Itoa(f.code)+".greeting") // RFC 5321 section 3.1: 554 to a client that it does not want
		v.Scope = taxonomy.ScopeSource
		return v
	}
	return verdict(category, "code."+strconv.Itoa(f.code))
}

// codesIn finds the first reply code and the first enhanced status code in a folded text. A reply
// code counts at the beginning, behind a colon, quote or bracket, or before an enhanced code.
func codesIn(text string) (code int, enhanced smtpstatus.Enhanced) {
	before := ""
	for word := range strings.FieldsSeq(text) {
		opened := strings.HasSuffix(before, ":") || before == ""
		if i := strings.LastIndexAny(word, ":'\"<("); i >= 0 && i+1 < len(word) {
			word, opened = word[i+1:], true
		}
		word = strings.TrimRight(strings.TrimLeft(word, "#["), ")].,;'\">")
		digits, rest, dashed := strings.Cut(word, "-")
		found := 0
		if len(digits) == 3 && (digits[0] == '4' || digits[0] == '5') && digits[1] <= '5' {
			found, _ = strconv.Atoi(digits)
		}
		if dashed && found != 0 {
			word = rest
		}
		if e, tail := smtpstatus.ParseEnhanced(word); !e.IsZero() && tail == "" && e.Class != 2 {
			if enhanced.IsZero() {
				enhanced = e
			}
			if code == 0 {
				code = replyCode(strings.Trim(before, "'\"#([:"))
			}
		}
		if code == 0 && found != 0 && opened {
			code = found
		}
		if code != 0 && !enhanced.IsZero() {
			break
		}
		before = word
	}
	return code, enhanced
}

func replyCode(word string) int {
	n, err := strconv.Atoi(word)
	if err != nil || n < 400 || n > 599 {
		return 0
	}
	return n
}

// phases are the words by which MTAs say which command was answered: Postfix "in reply to …",
// Exim and Courier "after …".
var phases = []struct {
	words string
	phase event.Phase
}{
	{"in reply to rcpt to", event.PhaseRcpt},
	{"after rcpt to", event.PhaseRcpt},
	{"did not like our rcpt to", event.PhaseRcpt},
	{"does not like recipient", event.PhaseRcpt},
	{"in reply to mail from", event.PhaseMail},
	{"after mail from", event.PhaseMail},
	{"sender was rejected", event.PhaseMail},
	{"in reply to end of data", event.PhaseFinalDot},
	{"after end of data", event.PhaseFinalDot},
	{"failed after i sent the message", event.PhaseFinalDot},
	{"in reply to data", event.PhaseData},
	{"after data", event.PhaseData},
	{"refused to talk to me", event.PhaseGreeting},
	{"after initial connection", event.PhaseGreeting},
	{"in reply to ehlo", event.PhaseEHLO},
	{"in reply to helo", event.PhaseEHLO},
	{"after ehlo", event.PhaseEHLO},
	{"after helo", event.PhaseEHLO},
}

func phaseIn(text string) event.Phase {
	for _, p := range phases {
		if strings.Contains(text, p.words) {
			return p.phase
		}
	}
	return event.PhaseNone
}

// scopeValue returns what a reply aimed at scope names: the first IP address, the domain in the
// first brackets or behind the word "domain" or "from", the first URL's host. "" if there is none.
func scopeValue(scope taxonomy.Scope, text string) string {
	switch scope {
	case taxonomy.ScopeSource:
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" []()<>,;=\"'", r) }) {
			if addr, err := netip.ParseAddr(strings.TrimRight(word, ".:")); err == nil {
				return addr.Unmap().String()
			}
		}
	case taxonomy.ScopeDomain, taxonomy.ScopeURL:
		return domainIn(text)
	default:
	}
	return ""
}

func domainIn(text string) string {
	if _, inside, ok := strings.Cut(text, "["); ok {
		word, _, _ := strings.Cut(strings.TrimLeft(inside, " "), "]")
		word, _, _ = strings.Cut(word, " ")
		if isDomain(word) {
			return word
		}
	}
	before := ""
	for word := range strings.FieldsSeq(text) {
		switch before {
		case "domain", "domains", "from", "for", "email", "url":
			word = strings.Trim(word, "[]()<>,;:.'\"")
			if i := strings.LastIndexByte(word, '@'); i >= 0 {
				word = word[i+1:]
			}
			if isDomain(word) {
				return word
			}
		default:
		}
		before = word
	}
	return ""
}

// isDomain reports whether s looks like a domain of two labels or more, and not like an address.
func isDomain(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") || strings.HasSuffix(s, ".") { // RFC 1035 section 2.3.4
		return false
	}
	for _, c := range []byte(s) {
		if !isWord(c) && c != '-' && c != '.' {
			return false
		}
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	return last != "" && (last[0] < '0' || last[0] > '9')
}

// Local is the cause of an end that the receiver did not decide. The zero value means that it
// did.
type Local string

// The local causes.
const (
	DomainNotFound  Local = "domain-not-found" // NXDOMAIN, or neither MX nor address
	NullMX          Local = "null-mx"          // RFC 7505
	DNSTemporary    Local = "dns-temporary"    // the resolver failed or timed out
	ConnectRefused  Local = "connect-refused"
	ConnectTimeout  Local = "connect-timeout"
	ConnectFailed   Local = "connect-failed" // any other way in which no connection came about
	ConnectionLost  Local = "connection-lost"
	ReplyTimeout    Local = "reply-timeout"
	ProtocolFailure Local = "protocol" // the peer's bytes were no reply
	TLSFailed       Local = "tls-failed"
	QueueExpired    Local = "queue-expired" // of a message that was never answered
	HoldExpired     Local = "hold-expired"  // the same, kept back by the control loop
	Suppressed      Local = "suppressed"
	MessageDamaged  Local = "message-damaged" // in the spool: it can never be sent
)

var locals = map[Local]taxonomy.Category{
	DomainNotFound: taxonomy.BadDomain, NullMX: taxonomy.BadDomain, DNSTemporary: taxonomy.DNSFailure,
	ConnectRefused: taxonomy.Connection, ConnectTimeout: taxonomy.Connection, ConnectFailed: taxonomy.Connection,
	ConnectionLost: taxonomy.Connection, ReplyTimeout: taxonomy.Connection, ProtocolFailure: taxonomy.Protocol,
	TLSFailed: taxonomy.TLSRequired, QueueExpired: taxonomy.Expired, HoldExpired: taxonomy.HeldExpired, Suppressed: taxonomy.Suppressed,
	MessageDamaged: taxonomy.System,
}

// local decides what the receiver did not.
func local(in Input) (Verdict, bool) {
	category, ok := locals[in.Local]
	if !ok {
		return Verdict{}, false
	}
	v := verdict(category, fmt.Sprintf("local.%s", in.Local))
	if in.Local == ConnectionLost && in.Phase == event.PhaseMail && in.MessagesOnConnection > 0 {
		// Some receivers (Yahoo) close the connection without a reply at their limit of messages.
		v.Category, v.Dimension, v.Rule = taxonomy.RateLimited, taxonomy.Messages, "local.closed-between-messages"
	}
	return v, true
}
