// Package reports turns the mail that comes to a bounce or feedback-loop processor into events:
// remote bounces and remote statuses from delivery status notifications (RFC 3464), complaints
// from feedback reports (RFC 5965).
//
// Nothing in a report is believed but its signed token (ingest/correlate). A report whose token
// verifies and whose address is the one that was signed suppresses that address; every other one
// is written down with what it claims and moves nothing. Mail that is no report gives
// ErrNotAReport. A Processor keeps no state and is safe for concurrent use.
package reports

import (
	"errors"
	"fmt"
	"net/netip"
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
	Suppress []string // addresses that the report proves must not be mailed
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

// base returns an event about recipient that carries what a match proves.
func (p *Processor) base(m Mail, kind event.Kind, match correlate.Match, recipient string) *event.Event {
	if match.Address != "" {
		recipient = match.Address
	}
	e := &event.Event{
		Time: m.Arrived, Kind: kind, MessageID: m.ID, Recipient: recipient, RecipientDomain: route.Domain(recipient),
		MatchMethod: string(match.Method), MatchConfidence: match.Confidence,
		ClientIP: m.ClientIP, ClientMTA: m.ClientName,
	}
	if recipient != "" {
		e.RecipientKey = p.key(recipient)
	}
	if match.Method != correlate.None {
		e.OriginalMessageID, e.OriginalIdx = match.Ref.MessageID, match.Ref.Index
	}
	return e
}

func (p *Processor) notification(m Mail, report *dsn.Report) Finding {
	var f Finding
	for i := range report.Recipients {
		r := &report.Recipients[i]
		match := p.keys.Match(correlate.Evidence{
			ReturnPaths: m.Recipients, References: report.Original.Values(correlate.Field),
			EnvelopeIDs: []string{report.OriginalEnvelopeID}, Addresses: r.Addresses(),
		}, m.Arrived)
		kind := event.RemoteStatus
		if r.Action == dsn.Failed {
			kind = event.RemoteBounce
		}
		e := p.base(m, kind, match, r.Final)
		e.RecipientIdx = uint32(i) //nolint:gosec // bounded by dsn.MaxRecipients
		e.FeedbackType, e.ReportingMTA, e.MXHost = string(r.Action), report.ReportingMTA, r.RemoteMTA
		e.EnvID = report.OriginalEnvelopeID
		e.SetReply(reply(r))
		if kind == event.RemoteBounce {
			verdict := classify.Classify(classify.Input{Reply: reply(r), Enhanced: r.Status})
			account.SetVerdict(e, verdict)
			if match.Address != "" && e.Class == taxonomy.Hard {
				f.Suppress = append(f.Suppress, match.Address)
			}
		}
		f.Events = append(f.Events, e)
	}
	return f
}

// reply returns the diagnostic as the SMTP reply that it quotes, with the report's status where
// the diagnostic has none.
func reply(r *dsn.Recipient) smtpstatus.Reply {
	parsed := smtpstatus.Parse(r.Diagnostic)
	if parsed.Enhanced.IsZero() {
		parsed.Enhanced = r.Status
	}
	return parsed
}

func (p *Processor) feedback(m Mail, report *arf.Report) Finding {
	var f Finding
	addresses := report.OriginalRcptTo
	if len(addresses) == 0 {
		addresses = report.RemovalRecipients
	}
	evidence := correlate.Evidence{
		ReturnPaths: []string{report.OriginalMailFrom}, References: report.Original.Values(correlate.Field),
		EnvelopeIDs: []string{report.OriginalEnvelopeID},
	}
	if len(addresses) == 0 {
		addresses = []string{""} // blanked out: one event all the same
	}
	for i, address := range addresses {
		if address != "" {
			evidence.Addresses = []string{address}
		}
		match := p.keys.Match(evidence, m.Arrived)
		kind := event.RemoteStatus
		if report.Type.Complaint() {
			kind = event.Complaint
		}
		e := p.base(m, kind, match, address)
		e.RecipientIdx = uint32(i) //nolint:gosec // bounded by the parser
		e.FeedbackType, e.ReportingMTA, e.SourceIP = string(report.Type), report.ReportingMTA, report.SourceIP
		e.Source = event.SourceKey(report.SourceIP)
		e.MailFrom, e.EnvID = report.OriginalMailFrom, report.OriginalEnvelopeID
		e.Category, e.Class = taxonomy.Complaint, taxonomy.None
		e.PMTACategory = taxonomy.Complaint.PowerMTA()
		e.Headers = map[string]string{"User-Agent": report.UserAgent}
		f.Events = append(f.Events, e)
		if kind == event.Complaint && match.Address != "" {
			f.Suppress = append(f.Suppress, match.Address)
		}
	}
	return f
}
