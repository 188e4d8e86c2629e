// Package reports turns the mail that comes to a bounce or feedback-loop processor into events:
// remote bounces and remote statuses from delivery status notifications (RFC 3464), complaints
// from feedback reports (RFC 5965). A feedback report that complains of nothing (not-spam,
// auth-failure) is a remote status too.
//
// Nothing in a report is believed but its signed token (ingest/correlate). A report whose token
// verifies and whose address is the one that was signed suppresses that address, if it is a
// complaint or says that the address is dead; every other one is written down with what it claims
// and moves nothing. That goes for the source too: the event has the address that the report
// names, but which source a complaint counts against comes from the delivery that the token names,
// which a job looks up. A report without a token whose DKIM signature shows a reporter whom the
// operator trusts is marked as such, and left to that job as well.
//
// A report about many messages at once (DMARC, TLS-RPT) is one remote status with its counts.
//
// An automatic reply is no bounce and nobody waits for it at an address that was made for bounces:
// it is taken as read, and counted. Mail that is no report gives ErrNotAReport, and mail that is
// too large or too deep to look into ErrUnreadable.
//
// What a stranger can make a node write is bounded: events by maxEvents, texts by maxText. A
// Processor keeps no state and is safe for concurrent use. It asks the name servers only to verify
// a signature of a reporter who is trusted.
package reports

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"carom/ingest/aggregate"
	"carom/ingest/arf"
	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/report"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/route"
)

// The errors of Process.
var (
	ErrNotAReport = errors.New("not a report")
	ErrUnreadable = errors.New("not readable")
)

const (
	// maxEvents bounds the events of one report. RFC 5321 section 4.5.3.1.8 lets a transaction have
	// 100 recipients; sites that allow more report on each apart.
	maxEvents = 1000
	// The bounds of a diagnostic, of an address and of what stands in a dictionary of the warehouse,
	// in octets.
	maxText    = 2048
	maxAddress = 320
	maxWord    = 255
	// maxCandidates bounds the addresses that are tried for a recipient who was blanked out.
	maxCandidates = 20
	// maxMessageID bounds a Message-ID, in octets: as RFC 5322 section 2.1.1 does a line.
	maxMessageID = 998
)

// MessageIDHeader is the name under which an event carries a Message-ID: a received event that of its
// message, a report that of the message it quotes. By it a job finds one for the other.
const MessageIDHeader = account.MessageIDHeader

// Rule is what an operator wants done about bounces that say something.
type Rule struct {
	Pattern  *regexp.Regexp // of "5.2.2;smtp;552 mailbox full"
	Suppress bool           // suppress the address that is proven; else suppress nobody
	Delete   bool           // pass the mail on to nobody
}

// Mail is what arrived at a processor's address.
type Mail struct {
	ID         event.ID
	Arrived    time.Time
	Recipients []string // of the envelope: the return path of the message that bounced
	ClientIP   netip.Addr
	ClientName string
	Content    []byte
	Handling   *Handling // by the processor of that address; nil for nothing special
}

// Handling is what the operator has said about the reports of a processor.
type Handling struct {
	Patterns []Pattern // for mail that no parser knows, in order
	Rules    []Rule    // about bounces, in order; the first that matches counts
	Trusted  []string  // domains of reporters whose signed reports count without a token, in lower case
}

// Finding is what a mail says.
type Finding struct {
	Kind     string         // what it is, in one word: dsn, arf, autoreply or aggregate
	Events   []*event.Event // what it says of recipients; none of an automatic reply
	Suppress []string       // addresses that the report proves must not be mailed, each once
	Delete   bool           // a rule wants the mail passed on to nobody
	Pattern  *Pattern       // that read it, nil if a parser did
}

// Processor reads reports.
type Processor struct {
	keys *correlate.Keys
	key  func(address string) string
	txt  LookupTXT

	headers []string // that events have of the messages they are about
}

// KeepHeaders makes events carry headers of the messages that reports quote, where they are there. It is
// called before Process.
func (p *Processor) KeepHeaders(names []string) { p.headers = names }

// keep notes the headers of a quoted message that are wanted.
func (p *Processor) keep(e *event.Event, original mime.Header) {
	for _, name := range p.headers {
		key := account.HeaderKey(name)
		if _, known := e.Headers[key]; !known { // what the report says of itself stays
			setHeader(e, key, original.Get(name), maxMessageID)
		}
	}
}

// keepFields notes what a feedback report says beside what has a column, under PowerMTA's arf_NAME.
func keepFields(e *event.Event, said *arf.Report) {
	for name, value := range map[string]string{
		"Reported-Domain": strings.Join(said.ReportedDomains, ","), "Reported-Uri": strings.Join(said.ReportedURIs, ","),
		"Original-Rcpt-To": strings.Join(said.OriginalRcptTo, ","), "Original-Mail-From": said.OriginalMailFrom, "Version": said.Version,
		"Authentication-Results": strings.Join(said.AuthResults, ","),
	} {
		setHeader(e, "arf_"+name, value, maxMessageID)
	}
}

// New returns a processor that believes tokens of keys. The function key gives the suppression
// key of an address, txt the TXT records of a name; without txt no reporter is trusted.
func New(keys *correlate.Keys, key func(address string) string, txt LookupTXT) *Processor {
	return &Processor{keys: keys, key: key, txt: txt}
}

// Process reads the mail. It returns ErrNotAReport and ErrUnreadable, wrapped. It waits for name
// servers as long as ctx allows, and a few seconds at most.
func (p *Processor) Process(ctx context.Context, m Mail) (Finding, error) {
	if m.Handling == nil {
		m.Handling = &Handling{}
	}
	message, err := mime.Parse(m.Content, mime.Limits{})
	if err != nil {
		return Finding{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	read, pattern := parse(message, m.Handling.Patterns)
	var f Finding
	switch read.Kind {
	case report.Notification:
		f = p.notification(m, read.Notification)
	case report.Feedback:
		f = p.feedback(ctx, m, read.Feedback)
	case report.AutoReply:
	case report.Aggregate:
		f.Events = []*event.Event{p.aggregate(m, read.Aggregate)}
	default:
		if message.Cut != nil {
			return Finding{}, fmt.Errorf("%w: %w", ErrUnreadable, message.Cut)
		}
		return Finding{}, fmt.Errorf("%w: %s", ErrNotAReport, read.Reason)
	}
	f.Kind, f.Pattern = string(read.Kind), pattern
	for _, e := range f.Events {
		setHeader(e, account.FormatHeader, format(&read, pattern), maxWord)
	}
	return f, nil
}

// format names what read a report, as PowerMTA's accounting files do: "" for the two formats of the
// RFCs, else the pattern's file, jmrp, or the rule of the parser.
func format(read *report.Report, pattern *Pattern) string {
	switch {
	case pattern != nil:
		return filepath.Base(pattern.Name)
	case read.Kind == report.Notification && read.Notification.Format != "rfc3464":
		return read.Notification.Format
	case read.Kind != report.Feedback || strings.HasPrefix(read.Feedback.Format, "rfc5965"):
		return ""
	case strings.HasPrefix(read.Feedback.Format, "microsoft.jmrp"):
		return "jmrp"
	}
	return read.Feedback.Format
}

// parse reads the message, by the operator's patterns where nothing else knows it as a report.
func parse(message *mime.Message, patterns []Pattern) (report.Report, *Pattern) {
	read := report.Parse(message)
	if read.Kind != report.None && read.Kind != report.AutoReply {
		return read, nil
	}
	for i := range patterns {
		if found, ok := patterns[i].read(message); ok {
			return found, &patterns[i]
		}
	}
	return read, nil
}

// matches joins each recipient of a report, by the addresses that it is known by, to the message
// and recipient that the evidence proves. A token speaks of one recipient: where it proves one by
// its address, it says nothing of the others.
func (p *Processor) matches(evidence correlate.Evidence, recipients [][]string, now time.Time) []correlate.Match {
	found := make([]correlate.Match, len(recipients))
	proven := map[ref]bool{}
	for i, addresses := range recipients {
		evidence.Addresses = addresses
		found[i] = p.keys.Match(evidence, now)
		if found[i].Address != "" {
			proven[refOf(found[i])] = true
		}
	}
	for i, match := range found {
		if match.Address == "" && proven[refOf(match)] {
			found[i] = correlate.Match{Method: correlate.None}
		}
	}
	return found
}

type ref struct {
	message event.ID
	index   uint32
}

func refOf(m correlate.Match) ref { return ref{m.Ref.MessageID, m.Ref.Index} }

// references returns what a report quotes that may hold a token: carom's own field, and the return
// path in the header that it returns or in a field of its own.
func references(original mime.Header, returnPath string) []string {
	return append(original.Values(correlate.Field), append(original.Values("Return-Path"), returnPath)...)
}

// base returns an event about recipient that carries what a match proves.
func (p *Processor) base(m Mail, kind event.Kind, index int, match correlate.Match, recipient string) *event.Event {
	recipient = cut(cmp.Or(match.Address, match.Claimed, recipient), maxAddress)
	e := &event.Event{
		Time: m.Arrived, Kind: kind, MessageID: m.ID, RecipientIdx: uint32(index), //nolint:gosec // bounded by maxEvents
		Recipient: recipient, RecipientDomain: route.Domain(recipient),
		MatchMethod: string(match.Method), MatchConfidence: match.Confidence,
		ClientIP: m.ClientIP, ClientMTA: m.ClientName,
	}
	if e.RecipientDomain != "" { // RFC 6590 lets reporters blank addresses out
		e.RecipientKey = p.key(recipient)
	}
	if match.Method != correlate.None { // the zero Ref where the method names no message
		e.OriginalMessageID, e.OriginalIdx = match.Ref.MessageID, match.Ref.Index
	}
	return e
}

func (p *Processor) notification(m Mail, said *dsn.Report) Finding {
	reported := said.Recipients[:min(len(said.Recipients), maxEvents)]
	addresses := make([][]string, len(reported))
	for i := range reported {
		addresses[i] = reported[i].Addresses()
	}
	matches := p.matches(correlate.Evidence{
		ReturnPaths: m.Recipients, References: references(said.Original, ""), EnvelopeIDs: []string{said.OriginalEnvelopeID},
	}, addresses, m.Arrived)
	var f Finding
	for i := range reported {
		r, answer := &reported[i], reply(&reported[i])
		kind := event.RemoteStatus
		if r.Action == dsn.Failed || r.Action == "" && answer.Permanent() {
			kind = event.RemoteBounce
		}
		e := p.base(m, kind, i, matches[i], cmp.Or(r.Final, r.Original))
		e.FeedbackType, e.ReportingMTA, e.MXHost = string(r.Action), cut(said.ReportingMTA, maxWord), cut(r.RemoteMTA, maxWord)
		e.MailFrom = returnPath(m)
		e.MailFromDomain = route.Domain(e.MailFrom)
		e.EnvID = envelopeID(said.OriginalEnvelopeID)
		setHeader(e, "ORCPT", r.Original, maxAddress)
		setHeader(e, MessageIDHeader, said.Original.Get("Message-Id"), maxMessageID)
		p.keep(e, said.Original)
		e.SetReply(answer)
		if kind == event.RemoteBounce {
			account.SetVerdict(e, report.Verdict(r))
			f.rule(e, r, m.Handling.Rules)
			if e.Class == taxonomy.Hard && !transient(answer) && (e.Dimension == taxonomy.User || e.Dimension == "") {
				// A block or refused content says nothing of the address, and after a transient answer some
				// gateways give up at once.
				f.suppress(matches[i].Address)
			}
		}
		f.Events = append(f.Events, e)
	}
	return f
}

// rule does what the first rule that matches says of a bounce.
func (f *Finding) rule(e *event.Event, r *dsn.Recipient, rules []Rule) {
	if len(rules) == 0 {
		return
	}
	text := e.Enhanced + ";" + r.DiagnosticType + ";" + cut(r.Diagnostic, maxText)
	for _, rule := range rules {
		if !rule.Pattern.MatchString(text) {
			continue
		}
		f.Delete = f.Delete || rule.Delete
		e.Class = taxonomy.Soft
		if rule.Suppress { // the operator says so: for the job over all nodes as well
			e.Class, e.Dimension = taxonomy.Hard, taxonomy.User
		}
		return
	}
}

// setHeader notes a value of the report beside those that have a column, unless it is empty.
func setHeader(e *event.Event, name, value string, limit int) {
	if value == "" {
		return
	}
	if e.Headers == nil {
		e.Headers = map[string]string{}
	}
	e.Headers[name] = cut(value, limit)
}

// suppress notes an address that a match has proven; "" stands for none.
func (f *Finding) suppress(address string) {
	if address != "" && !slices.Contains(f.Suppress, address) {
		f.Suppress = append(f.Suppress, address)
	}
}

// returnPath returns the MAIL FROM of the message that bounced: the address that the notification
// came to.
func returnPath(m Mail) string {
	if len(m.Recipients) == 0 {
		return ""
	}
	return m.Recipients[0]
}

// envelopeID returns the customer's ENVID: without one, carom sends its token in its place.
func envelopeID(id string) string {
	if _, ok := correlate.Find(id); ok {
		return ""
	}
	return cut(id, maxWord)
}

// reply returns the diagnostic as the SMTP reply that it quotes, with the report's status where
// the diagnostic has none.
func reply(r *dsn.Recipient) smtpstatus.Reply {
	if r.Diagnostic == "" {
		return smtpstatus.Reply{Enhanced: r.Status}
	}
	parsed := smtpstatus.Parse(cut(r.Diagnostic, maxText))
	if parsed.Enhanced.IsZero() {
		parsed.Enhanced = r.Status
	}
	return parsed
}

// transient reports whether the receiver asked to try again.
func transient(answer smtpstatus.Reply) bool {
	return answer.Transient() || answer.Code == 0 && answer.Enhanced.Class == 4
}

func (p *Processor) feedback(ctx context.Context, m Mail, said *arf.Report) Finding {
	reported := said.OriginalRcptTo
	if len(reported) == 0 {
		reported = said.RemovalRecipients
	}
	reported = reported[:min(len(reported), maxEvents)]
	if len(reported) == 0 {
		reported = []string{""} // blanked out: one event all the same
	}
	addresses := make([][]string, len(reported))
	for i, address := range reported {
		addresses[i] = []string{address}
		if len(reported) == 1 {
			addresses[i] = append(addresses[i], said.Candidates[:min(len(said.Candidates), maxCandidates)]...)
		}
	}
	matches := p.matches(correlate.Evidence{
		ReturnPaths: m.Recipients, References: references(said.Original, said.OriginalMailFrom),
		EnvelopeIDs: []string{said.OriginalEnvelopeID},
	}, addresses, m.Arrived)
	reporter := ""
	if strings.HasPrefix(said.Format, "rfc5965") {
		// The recipient stands in the reporter's own fields. Other formats take it from the header of
		// the reported message, and so from whoever wrote that.
		reporter = p.reporter(ctx, m, matches, reported)
	}
	var f Finding
	for i, address := range reported {
		if reporter != "" && matches[i].Method == correlate.None && matches[i].Err == nil && !mailboxDomain(address, reporter) {
			matches[i] = correlate.Match{Method: correlate.DKIMReporter, Confidence: correlate.DKIMConfidence}
		}
		kind := event.RemoteStatus
		if said.Type.Complaint() {
			kind = event.Complaint
		}
		e := p.base(m, kind, i, matches[i], address)
		e.FeedbackType, e.ReportingMTA, e.SourceIP = string(said.Type), cut(said.ReportingMTA, maxWord), said.SourceIP
		e.MailFrom = cut(said.OriginalMailFrom, maxAddress)
		e.MailFromDomain = route.Domain(e.MailFrom)
		e.FromDomain = fromDomain(said.Original)
		e.EnvID = envelopeID(said.OriginalEnvelopeID)
		setHeader(e, "User-Agent", said.UserAgent, maxWord)
		setHeader(e, MessageIDHeader, said.Original.Get("Message-Id"), maxMessageID)
		if len(p.headers) > 0 { // a file has such records
			p.keep(e, said.Original)
			keepFields(e, said)
		}
		if matches[i].Method == correlate.DKIMReporter {
			setHeader(e, "DKIM-Reporter", reporter, maxWord)
		}
		if kind == event.Complaint {
			e.Category, e.Class, e.Dimension = taxonomy.Complaint, taxonomy.Complaint.Class(), taxonomy.User
			e.PMTACategory, e.ClassifierVersion = taxonomy.Complaint.PowerMTA(), classify.Version
			f.suppress(matches[i].Address)
		}
		f.Events = append(f.Events, e)
	}
	return f
}

// aggregate returns the event of a report about many messages. It names no recipient and is joined
// to nothing: whoever wants to may send one.
func (p *Processor) aggregate(m Mail, said *aggregate.Report) *event.Event {
	e := p.base(m, event.RemoteStatus, 0, correlate.Match{Method: correlate.None}, "")
	e.FeedbackType, e.ReportingMTA, e.Headers = string(said.Kind), cut(said.Organisation, maxWord), said.Counts()
	return e
}

func fromDomain(original mime.Header) string {
	list, err := netmail.ParseAddressList(cut(original.Get("From"), maxText))
	if err != nil || len(list) == 0 {
		return ""
	}
	return cut(route.Domain(list[0].Address), maxWord)
}

// cut returns the first n octets of s, in whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
