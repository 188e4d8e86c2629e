// Package reports turns the mail that comes to a bounce or feedback-loop processor into events:
// remote bounces and remote statuses from delivery status notifications (RFC 3464), complaints
// from feedback reports (RFC 5965). A feedback report that complains of nothing (not-spam,
// auth-failure) is a remote status too.
//
// Nothing in a report is believed but its signed token (ingest/correlate). A report whose token
// verifies and whose address is the one that was signed suppresses that address, if it is a
// complaint or says that the address is dead; every other one is written down with what it claims
// and moves nothing. Mail that is no report gives ErrNotAReport.
//
// What a stranger can make a node write is bounded: events by maxEvents, texts by maxText. A
// Processor keeps no state and is safe for concurrent use.
package reports

import (
	"cmp"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carom/ingest/arf"
	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/route"
)

// ErrNotAReport is returned for mail that is neither a notification nor a feedback report.
var ErrNotAReport = errors.New("not a report")

const (
	// maxEvents bounds the events of one report. RFC 5321 section 4.5.3.1.8 lets a transaction have
	// 100 recipients; sites that allow more report on each apart.
	maxEvents = 1000
	// The bounds of a diagnostic, of an address and of what stands in a dictionary of the warehouse,
	// in octets.
	maxText    = 2048
	maxAddress = 320
	maxWord    = 255
)

// Mail is what arrived at a processor's address.
type Mail struct {
	ID         event.ID
	Arrived    time.Time
	Recipients []string // of the envelope: the return path of the message that bounced
	ClientIP   netip.Addr
	ClientName string
	Content    []byte
}

// Finding is what a report says.
type Finding struct {
	Events   []*event.Event
	Suppress []string // addresses that the report proves must not be mailed, each once
}

// Processor reads reports.
type Processor struct {
	keys *correlate.Keys
	key  func(address string) string
}

// New returns a processor that believes tokens of keys. The function key gives the suppression
// key of an address.
func New(keys *correlate.Keys, key func(address string) string) *Processor {
	return &Processor{keys: keys, key: key}
}

// Process reads the mail. It returns ErrNotAReport, wrapped, for mail that holds no report, and
// for mail that is too large or too deep to look into.
func (p *Processor) Process(m Mail) (Finding, error) {
	message, err := mime.Parse(m.Content, mime.Limits{})
	if err != nil {
		return Finding{}, fmt.Errorf("%w: %w", ErrNotAReport, err)
	}
	if report, err := dsn.Parse(message); err == nil {
		return p.notification(m, report), nil
	}
	report, err := arf.Parse(message)
	if err != nil {
		return Finding{}, fmt.Errorf("%w: neither a notification (RFC 3464) nor a feedback report (RFC 5965)", ErrNotAReport)
	}
	return p.feedback(m, report), nil
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
	if match.Address != "" {
		recipient = match.Address
	}
	recipient = cut(recipient, maxAddress)
	e := &event.Event{
		Time: m.Arrived, Kind: kind, MessageID: m.ID, RecipientIdx: uint32(index), //nolint:gosec // bounded by maxEvents
		Recipient: recipient, RecipientDomain: route.Domain(recipient),
		MatchMethod: string(match.Method), MatchConfidence: match.Confidence,
		ClientIP: m.ClientIP, ClientMTA: m.ClientName,
	}
	if e.RecipientDomain != "" { // RFC 6590 lets reporters blank addresses out
		e.RecipientKey = p.key(recipient)
	}
	if match.Method != correlate.None {
		e.OriginalMessageID, e.OriginalIdx = match.Ref.MessageID, match.Ref.Index
	}
	return e
}

func (p *Processor) notification(m Mail, report *dsn.Report) Finding {
	reported := report.Recipients[:min(len(report.Recipients), maxEvents)]
	addresses := make([][]string, len(reported))
	for i := range reported {
		addresses[i] = reported[i].Addresses()
	}
	matches := p.matches(correlate.Evidence{
		ReturnPaths: m.Recipients, References: references(report.Original, ""), EnvelopeIDs: []string{report.OriginalEnvelopeID},
	}, addresses, m.Arrived)
	var f Finding
	for i := range reported {
		r, answer := &reported[i], reply(&reported[i])
		kind := event.RemoteStatus
		if r.Action == dsn.Failed || r.Action == "" && answer.Permanent() {
			kind = event.RemoteBounce
		}
		e := p.base(m, kind, i, matches[i], cmp.Or(r.Final, r.Original))
		e.FeedbackType, e.ReportingMTA, e.MXHost = string(r.Action), cut(report.ReportingMTA, maxWord), cut(r.RemoteMTA, maxWord)
		e.MailFrom = returnPath(m)
		e.MailFromDomain = route.Domain(e.MailFrom)
		e.EnvID = envelopeID(report.OriginalEnvelopeID)
		if r.Original != "" {
			e.Headers = map[string]string{"ORCPT": cut(r.Original, maxAddress)}
		}
		e.SetReply(answer)
		if kind == event.RemoteBounce {
			account.SetVerdict(e, classify.Classify(classify.Input{Reply: answer, Enhanced: r.Status}))
			if e.Class == taxonomy.Hard {
				f.suppress(matches[i].Address)
			}
		}
		f.Events = append(f.Events, e)
	}
	return f
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

func (p *Processor) feedback(m Mail, report *arf.Report) Finding {
	reported := report.OriginalRcptTo
	if len(reported) == 0 {
		reported = report.RemovalRecipients
	}
	reported = reported[:min(len(reported), maxEvents)]
	if len(reported) == 0 {
		reported = []string{""} // blanked out: one event all the same
	}
	addresses := make([][]string, len(reported))
	for i, address := range reported {
		addresses[i] = []string{address}
		if len(reported) == 1 {
			addresses[i] = append(addresses[i], candidates(report.Original)...)
		}
	}
	matches := p.matches(correlate.Evidence{
		ReturnPaths: m.Recipients, References: references(report.Original, report.OriginalMailFrom),
		EnvelopeIDs: []string{report.OriginalEnvelopeID},
	}, addresses, m.Arrived)
	var f Finding
	for i, address := range reported {
		kind := event.RemoteStatus
		if report.Type.Complaint() {
			kind = event.Complaint
		}
		e := p.base(m, kind, i, matches[i], address)
		e.FeedbackType, e.ReportingMTA, e.SourceIP = string(report.Type), cut(report.ReportingMTA, maxWord), report.SourceIP
		if matches[i].Method != correlate.None { // else anybody could hang complaints on a source
			e.Source = event.SourceKey(report.SourceIP)
		}
		e.MailFrom = cut(report.OriginalMailFrom, maxAddress)
		e.MailFromDomain = route.Domain(e.MailFrom)
		e.FromDomain = fromDomain(report.Original)
		e.EnvID = envelopeID(report.OriginalEnvelopeID)
		if report.UserAgent != "" {
			e.Headers = map[string]string{"User-Agent": cut(report.UserAgent, maxWord)}
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

// candidates returns addresses in the header of a reported message that its recipient may be: many
// reporters blank out their own fields and leave these. Only the token tells which one it is.
func candidates(original mime.Header) []string {
	found := original.Values("X-HmXmrOriginalRecipient") // Microsoft's JMRP
	if list, err := netmail.ParseAddressList(cut(original.Get("To"), maxText)); err == nil {
		for _, a := range list {
			found = append(found, a.Address)
		}
	}
	return found
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
