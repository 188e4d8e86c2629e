// Package dsn parses delivery status notifications: RFC 3464, and RFC 6533 for international
// addresses.
//
// It reads the part that is meant for machines and the header of the returned message. It accepts
// fields that are missing, repeated, misspelt or in the wrong group, and infers an action from a
// status. It does not read the text that is meant for people, judge a diagnostic (ingest/classify)
// or believe a word of the report (ingest/correlate).
//
// A message that is no notification gives ErrNotDSN. Recipients beyond MaxRecipients are dropped.
// Nothing here panics, keeps state or touches network, disk or clock; everything is safe for
// concurrent use.
package dsn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"carom/ingest/mime"
	"carom/schemas/smtpstatus"
)

// MaxRecipients is the number of recipients that are read of one notification. RFC 5321 section
// 4.5.3.1.8 lets a transaction have 100; large sites allow a few thousand.
const MaxRecipients = 10_000

// ErrNotDSN is returned for a message that is no delivery status notification.
var ErrNotDSN = errors.New("not a delivery status notification")

// Action is what the reporting MTA did, RFC 3464 section 2.3.3.
type Action string

// The actions. Only Failed is a bounce.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed"
	Expanded  Action = "expanded"
)

// Report is a delivery status notification.
type Report struct {
	ReportingMTA       string    // name without its type; RFC 3464 section 2.2.2
	OriginalEnvelopeID string    // the ENVID of the transaction, xtext decoded; section 2.2.1
	ArrivalDate        time.Time // when the reporting MTA took the message; zero if not given
	Recipients         []Recipient
	Truncated          bool        // the report has more recipients than were read
	Original           mime.Header // of the returned message; empty if there was none
	Format             string      // "rfc3464" (or 6533), "text", or the rule of ingest/notice for the product that wrote it
}

// Recipient is what a notification says about one recipient.
type Recipient struct {
	Original       string              // address as the sender gave it; "" if not given
	Final          string              // address as the reporting MTA knows it
	Action         Action              // inferred from Status where the report has none; "" if neither is there
	Status         smtpstatus.Enhanced // the one that Diagnostic quotes, or else the field's
	RemoteMTA      string              // that gave the diagnostic, without its type
	DiagnosticType string              // "smtp" as a rule, lower-case
	Diagnostic     string              // without its type, on one line
	LastAttempt    time.Time
	WillRetryUntil time.Time
	FinalLogID     string
}

// Addresses returns the addresses by which the report names r, without repetition.
func (r *Recipient) Addresses() []string {
	var addresses []string
	for _, a := range []string{r.Original, r.Final} {
		if a != "" && (len(addresses) == 0 || addresses[0] != a) {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// Parse reads the notification in m. It returns ErrNotDSN, wrapped with what is missing, if m has
// no part of the type message/delivery-status (RFC 3464) or message/global-delivery-status (RFC
// 6533), or if that part names no recipient.
func Parse(m *mime.Message) (*Report, error) {
	part := m.Part("message/delivery-status", "message/global-delivery-status")
	if part == nil {
		return nil, fmt.Errorf("%w: no part message/delivery-status", ErrNotDSN)
	}
	r, ok := ParseFields(part.Body)
	if !ok {
		return nil, fmt.Errorf("%w: no recipient in message/delivery-status", ErrNotDSN)
	}
	r.Truncated = r.Truncated || part.Cut
	r.Original, _ = m.Original()
	return r, nil
}

// ParseFields reads the groups of fields in body, RFC 3464 section 2.1. ok is false if no recipient
// is in them.
func ParseFields(body []byte) (r *Report, ok bool) {
	p := parser{report: &Report{Format: "rfc3464"}}
	for group, field := range mime.Fields(body) {
		if group != p.group {
			p.group = group
			p.close()
		}
		if p.report.Truncated {
			break
		}
		p.field(field)
	}
	p.close()
	return p.report, len(p.report.Recipients) > 0
}

// parser reads fields in their order: groups separate recipients, and so does a second
// Final-Recipient in the same group. Per-message fields are taken wherever they stand.
type parser struct {
	report  *Report
	group   int
	current Recipient
	open    bool // current has a field
}

func (p *parser) close() {
	if p.open && (p.current.Final != "" || p.current.Original != "") {
		if len(p.report.Recipients) < MaxRecipients {
			p.current.inferStatus()
			p.current.inferAction()
			p.current.skipGreeting()
			p.report.Recipients = append(p.report.Recipients, p.current)
		} else {
			p.report.Truncated = true
		}
	}
	p.current, p.open = Recipient{}, false
}

func (p *parser) field(f mime.Field) {
	switch f.Name {
	case "reporting-mta":
		_, p.report.ReportingMTA = typed(f.Value)
	case "original-envelope-id":
		p.report.OriginalEnvelopeID = xtext(f.Value)
	case "arrival-date":
		p.report.ArrivalDate = mime.Date(f.Value)
	default:
		p.recipientField(f)
	}
}

func (p *parser) recipientField(f mime.Field) {
	r := &p.current
	switch f.Name {
	case "original-recipient":
		if r.Original != "" {
			p.close()
		}
		r.Original = address(f.Value)
	case "final-recipient":
		if r.Final != "" {
			p.close()
		}
		r.Final = address(f.Value)
	case "action":
		r.Action = action(f.Value)
	case "status":
		r.Status = status(f.Value)
	case "remote-mta":
		_, r.RemoteMTA = typed(f.Value)
	case "diagnostic-code":
		r.DiagnosticType, r.Diagnostic = typed(f.Value)
	case "last-attempt-date":
		r.LastAttempt = mime.Date(f.Value)
	case "will-retry-until":
		r.WillRetryUntil = mime.Date(f.Value)
	case "final-log-id":
		r.FinalLogID = f.Value
	default:
		return
	}
	p.open = true
}

// skipGreeting takes the refusal of a diagnostic that begins with the server's greeting.
func (r *Recipient) skipGreeting() {
	if r.Action != Failed && r.Action != Delayed || !strings.HasPrefix(r.Diagnostic, "2") {
		return
	}
	if at, ok := FindReply(r.Diagnostic, 0); ok && at > 0 && smtpstatus.Parse(r.Diagnostic).Positive() {
		r.Diagnostic = r.Diagnostic[at:]
	}
}

// inferStatus takes the code that the diagnostic quotes: of what the remote server said, the
// reporting MTA's own code is a summary at best ("5.0.0", or 4.4.7 for a refusal that outlasted the queue).
func (r *Recipient) inferStatus() {
	if said := FindEnhanced(r.Diagnostic); !said.IsZero() && (said.Subject != 0 || r.Status.IsZero()) {
		r.Status = said
	}
}

func (r *Recipient) inferAction() {
	if r.Action != "" {
		return
	}
	switch r.Status.Class { // RFC 3463 section 3.1
	case 2:
		r.Action = Delivered
	case 4:
		r.Action = Delayed
	case 5:
		r.Action = Failed
	}
}

// action reads the first word of an Action field by its beginning: "failed", "failure", "FAIL".
func action(value string) Action {
	word := strings.ToLower(firstWord(value))
	for _, known := range []struct {
		beginning string
		action    Action
	}{{"fail", Failed}, {"undeliverable", Failed}, {"delay", Delayed}, {"deliver", Delivered}, {"relay", Relayed}, {"expand", Expanded}} {
		if strings.HasPrefix(word, known.beginning) {
			return known.action
		}
	}
	return ""
}

// status reads "5.1.1", also with a comment or text behind it or "#" before it.
func status(value string) smtpstatus.Enhanced {
	code, _ := smtpstatus.ParseEnhanced(firstWord(strings.TrimLeft(value, "# ")))
	return code
}

func firstWord(s string) string {
	if i := strings.IndexAny(s, " \t(;,"); i >= 0 {
		return s[:i]
	}
	return s
}

// typed splits "dns; mx.example.com" (RFC 3464 section 2.1.2). Without a type all of it is the
// value.
func typed(value string) (kind, rest string) {
	kind, rest, found := strings.Cut(value, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if !found || strings.ContainsAny(kind, " \t<@") {
		return "", strings.TrimSpace(value)
	}
	return kind, strings.TrimSpace(rest)
}

// address reads "rfc822; user@example.com" and "utf-8; …" without angle brackets.
func address(value string) string {
	kind, addr := typed(value)
	if begin, end := strings.IndexByte(addr, '<'), strings.LastIndexByte(addr, '>'); begin >= 0 && end > begin {
		addr = addr[begin+1 : end]
	}
	addr = strings.TrimSpace(addr)
	if open := strings.Index(addr, " ("); open > 0 && strings.HasSuffix(addr, ")") { // RFC 3464 section 2.1: comments
		addr = addr[:open]
	}
	if kind == "utf-8" {
		addr = unitext(addr)
	}
	return addr
}

// unitext decodes the escapes \x{HEX} of an address of the type utf-8, RFC 6533 section 3. What
// is no valid escape stays.
func unitext(s string) string {
	if !strings.Contains(s, `\x{`) {
		return s
	}
	var b strings.Builder
	for {
		before, escape, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		digits := escape[:min(len(escape), len("10FFFF}"))]
		digits, _, closed := strings.Cut(digits, "}")
		n, err := strconv.ParseUint(digits, 16, 32)
		if !closed || err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			b.WriteString(`\x{`)
			s = escape
			continue
		}
		b.WriteRune(rune(n))
		s = escape[len(digits)+1:]
	}
}

// xtext decodes "+2B" as "+", RFC 3461 section 4. What is no valid escape stays.
func xtext(s string) string {
	if !strings.Contains(s, "+") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
