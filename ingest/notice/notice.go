package notice

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/phrase"
	"carom/schemas/smtpstatus"
)

// ErrNotNotice is returned for a message that tells of no delivery.
var ErrNotNotice = errors.New("not a notice about a delivery")

const (
	// enough is the evidence that makes a notice, enoughHeader the part of it that the header must
	// give: everybody may write about bounces.
	enough       = 5
	enoughHeader = 2
	// most is what the text can give.
	most = 6
)

// Parse reads the notice in m. It returns ErrNotNotice, wrapped with what is missing, if m is none.
// The report has at least one recipient; its address is "" if the notice doesn't name it.
func Parse(m *mime.Message) (*dsn.Report, error) { return builtin().parse(m) }

func (set *ruleSet) parse(m *mime.Message) (*dsn.Report, error) {
	r := reader{set: set, said: map[meaning][]find{}}
	r.header(m)
	if r.evidence+most < enough {
		return nil, fmt.Errorf("%w: nothing in the header says so", ErrNotNotice)
	}
	r.headerEvidence = r.evidence
	whole := newText(textOf(m))
	cut := whole.returnedAt()
	r.text = whole.cut(cut)
	r.read()
	if r.headerEvidence < enoughHeader || r.evidence < enough {
		return nil, fmt.Errorf("%w: evidence %d (header %d), want %d (%d)", ErrNotNotice, r.evidence, r.headerEvidence, enough, enoughHeader)
	}
	original, ok := m.Original()
	if !ok {
		original = whole.headerFrom(cut)
	}
	r.original = original
	return r.report(), nil
}

// find is a phrase that was found.
type find struct {
	rule       *rule
	place      place
	start, end int // in the text
}

// reader reads one notice.
type reader struct {
	set            *ruleSet
	text           text
	original       mime.Header
	subject        string
	said           map[meaning][]find
	evidence       int
	headerEvidence int
	format         string   // id of the rule that tells most
	formatWeight   int      // of that rule
	failedTo       []string // X-Failed-Recipients and its like
	sender         []string // whom the notice was sent to: the sender of the message
}

// header collects what the header of m tells.
func (r *reader) header(m *mime.Message) {
	r.subject = decoded(m.Header, "Subject")
	r.look(inSubject, phrase.Lower(r.subject))
	from := decoded(m.Header, "From")
	r.look(inFrom, phrase.Lower(from))
	r.look(inMailer, phrase.Lower(m.Header.Get("X-Mailer")+" "+m.Header.Get("User-Agent")))
	for fields := m.Header.Fields(); fields.Next(); {
		r.look(inField, phrase.Lower(fields.Key())+":")
	}
	returnPath := strings.Trim(m.Header.Get("Return-Path"), "<> ")
	if m.Header.Has("Return-Path") && returnPath == "" || strings.HasPrefix(phrase.Lower(returnPath), "mailer-daemon") {
		r.evidence += 2 // RFC 5321 section 4.5.5
	}
	if m.Header.Has("From") && strings.Trim(from, "<> ") == "" {
		r.evidence += 2
	}
	if m.MediaType == "multipart/report" && strings.EqualFold(m.Params["report-type"], "delivery-status") {
		r.evidence += 4 // RFC 3464 section 2
	}
	auto := phrase.Lower(m.Header.Get("Auto-Submitted"))
	if strings.HasPrefix(auto, "auto-replied") || strings.HasPrefix(auto, "auto-generated") {
		r.evidence++ // RFC 3834 section 5: of a delivery status, too
	}
	sentByServer := slices.ContainsFunc(r.said[notice], func(f find) bool { return f.place == inFrom })
	if !sentByServer && (m.Header.Has("In-Reply-To") || strings.HasPrefix(phrase.Lower(r.subject), "re:")) {
		r.evidence -= 2
	}
	for _, name := range []string{"X-Failed-Recipients", "X-Failed-Recipient", "X-Mailer-Daemon-Recipients"} {
		for _, value := range m.Header.Values(name) {
			r.failedTo = append(r.failedTo, addressesIn(value)...)
		}
	}
	for _, name := range []string{"To", "Delivered-To", "X-Original-To"} {
		for _, value := range m.Header.Values(name) {
			r.sender = append(r.sender, addressesIn(value)...)
		}
	}
}

// decoded returns the value of a field with its encoded words undone, RFC 2047.
func decoded(header mime.Header, name string) string {
	value, err := header.Text(name)
	if err != nil {
		return header.Get(name)
	}
	return value
}

// look notes the phrases of a place that low holds and counts what they tell. A rule counts once.
func (r *reader) look(where place, low string) {
	f := r.set.finders[where]
	if f == nil {
		return
	}
	for match := range f.All(low) {
		rule := r.set.rules[f.owners[match.ID]]
		found := find{rule, where, match.Start, match.End}
		again := slices.ContainsFunc(r.said[rule.says], func(f find) bool { return f.rule == rule })
		r.said[rule.says] = append(r.said[rule.says], found)
		if again || rule.says == recipient || rule.says == stranger || rule.says == reply {
			continue
		}
		r.evidence += rule.weight
		if rule.weight > r.formatWeight {
			r.format, r.formatWeight = rule.id, rule.weight
		}
	}
}

// read collects what the text tells.
func (r *reader) read() {
	r.look(inText, r.text.low)
	if _, ok := dsn.FindReply(r.text.low, 0); ok {
		r.evidence++
	}
	r.evidence = min(r.evidence, r.headerEvidence+most)
	for _, f := range r.said[returned] {
		if f.place == inText {
			r.text = r.text.cut(r.text.lineAt(f.start) + 1)
			break
		}
	}
}

// report makes the report of what was read.
func (r *reader) report() *dsn.Report {
	if fields := r.text.statusFields(); fields != nil {
		if report, ok := dsn.ParseFields(fields); ok {
			report.Original, report.Format = r.original, cmp.Or(r.format, "fields-in-text")
			return report
		}
	}
	report := &dsn.Report{Original: r.original, Format: cmp.Or(r.format, "generic")}
	action := r.action()
	for _, p := range r.recipients() {
		rcpt := dsn.Recipient{Final: p.address, Action: action, Diagnostic: p.reason}
		rcpt.Status = r.status(p.reason, action)
		report.Recipients = append(report.Recipients, rcpt)
	}
	return report
}

// action returns what the notice says of the delivery. The subject counts first.
func (r *reader) action() dsn.Action {
	for _, where := range []place{inSubject, inText} {
		for _, what := range []struct {
			says   meaning
			action dsn.Action
		}{{failed, dsn.Failed}, {delayed, dsn.Delayed}, {delivered, dsn.Delivered}} {
			if slices.ContainsFunc(r.said[what.says], func(f find) bool { return f.place == where }) {
				return what.action
			}
		}
	}
	return dsn.Failed
}

// status returns the status that a reason gives: its enhanced code, or the class of its reply code,
// or what the product is known to mean.
func (r *reader) status(reason string, action dsn.Action) smtpstatus.Enhanced {
	if code := dsn.FindEnhanced(reason); !code.IsZero() {
		return code
	}
	if at, ok := dsn.FindReply(reason, 0); ok {
		return smtpstatus.Enhanced{Class: uint16(reason[at] - '0')}
	}
	for match := range r.set.finders[inText].All(phrase.Lower(reason)) {
		if rule := r.set.rules[r.set.finders[inText].owners[match.ID]]; !rule.status.IsZero() {
			return rule.status
		}
	}
	switch action {
	case dsn.Delayed:
		return smtpstatus.Enhanced{Class: 4}
	case dsn.Delivered:
		return smtpstatus.Enhanced{Class: 2}
	default:
		return smtpstatus.Enhanced{Class: 5}
	}
}
