// Package arf parses feedback reports ("complaints"): RFC 5965, the Abuse Reporting Format.
//
// It reads the part that is meant for machines and the header of the reported message, each
// feedback type apart: "not-spam" is the opposite of a complaint. It does not believe a word of the
// report (ingest/correlate). Addresses that a provider blanked out (RFC 6590) are read as they
// stand.
//
// A message that is no feedback report gives ErrNotARF; missing and malformed fields are left
// zero. Nothing here panics, keeps state or touches network, disk or clock; everything is safe
// for concurrent use.
package arf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"carom/ingest/mime"
)

// ErrNotARF is returned for a message that is no feedback report.
var ErrNotARF = errors.New("not a feedback report")

// maxValues is the number of values that are kept of a field that may stand several times.
const maxValues = 1000

// FeedbackType says what a report is about: IANA's registry "Feedback Report Type Values".
type FeedbackType string

// The types. Other is also what a report without a type or of an unregistered type is; Report.Word
// keeps the word.
const (
	Abuse       FeedbackType = "abuse"
	Fraud       FeedbackType = "fraud"
	Virus       FeedbackType = "virus"
	Other       FeedbackType = "other"
	NotSpam     FeedbackType = "not-spam"
	OptOut      FeedbackType = "opt-out"
	AuthFailure FeedbackType = "auth-failure" // RFC 6591
)

// Complaint reports whether a person complains by a report of type t: abuse, fraud, virus or
// opt-out.
func (t FeedbackType) Complaint() bool {
	return t == Abuse || t == Fraud || t == Virus || t == OptOut
}

// Report is a feedback report. The sections are RFC 5965's.
type Report struct {
	Type FeedbackType // 3.1
	Word string       // Feedback-Type as it stands

	UserAgent          string // 3.1
	Version            string
	OriginalMailFrom   string    // 3.2; without angle brackets
	OriginalEnvelopeID string    // 3.2
	ArrivalDate        time.Time // 3.2: when the message arrived; zero if not given
	ReportingMTA       string    // 3.2; without its type
	SourceIP           netip.Addr
	Incidents          int // 3.2: number of incidents; 1 if not given

	OriginalRcptTo    []string // 3.3; without angle brackets, and so the following
	ReportedDomains   []string
	ReportedURIs      []string
	AuthResults       []string    // Authentication-Results, RFC 8601
	RemovalRecipients []string    // for opt-out
	Original          mime.Header // of the reported message; empty if there was none
}

// Parse reads the feedback report in m. It returns ErrNotARF, wrapped with what is missing, if m
// has no part of the type message/feedback-report with a field in it.
func Parse(m *mime.Message) (*Report, error) {
	part := m.Part("message/feedback-report")
	if part == nil {
		return nil, fmt.Errorf("%w: no part message/feedback-report", ErrNotARF)
	}
	r := &Report{Incidents: 1}
	empty := true
	for _, field := range mime.Fields(part.Body) {
		empty = false
		r.field(field)
	}
	if empty {
		return nil, fmt.Errorf("%w: message/feedback-report is empty", ErrNotARF)
	}
	r.Type = feedbackType(r.Word)
	r.Original, _ = m.Original()
	return r, nil
}

func (r *Report) field(f mime.Field) {
	switch f.Name {
	case "feedback-type":
		r.Word = f.Value
	case "user-agent":
		r.UserAgent = f.Value
	case "version":
		r.Version = f.Value
	case "original-mail-from":
		r.OriginalMailFrom = address(f.Value)
	case "original-envelope-id":
		r.OriginalEnvelopeID = f.Value
	case "arrival-date", "received-date": // RFC 5965 section 3.2 names both
		r.ArrivalDate = mime.Date(f.Value)
	case "reporting-mta":
		r.ReportingMTA = withoutType(f.Value)
	case "source-ip":
		r.SourceIP = ip(f.Value)
	case "incidents":
		if n, err := strconv.ParseUint(f.Value, 10, 31); err == nil && n > 0 {
			r.Incidents = int(n)
		}
	case "original-rcpt-to":
		r.OriginalRcptTo = keep(r.OriginalRcptTo, address(f.Value))
	case "reported-domain":
		r.ReportedDomains = keep(r.ReportedDomains, strings.ToLower(f.Value))
	case "reported-uri":
		r.ReportedURIs = keep(r.ReportedURIs, f.Value)
	case "authentication-results":
		r.AuthResults = keep(r.AuthResults, f.Value)
	case "removal-recipient":
		r.RemovalRecipients = keep(r.RemovalRecipients, address(f.Value))
	}
}

func keep(values []string, value string) []string {
	if value == "" || len(values) >= maxValues {
		return values
	}
	return append(values, value)
}

func feedbackType(word string) FeedbackType {
	word, _, _ = strings.Cut(word, ";")
	switch t := FeedbackType(strings.ToLower(strings.TrimSpace(word))); t {
	case Abuse, Fraud, Virus, NotSpam, OptOut, AuthFailure:
		return t
	default:
		return Other
	}
}

// address returns the address in value without angle brackets and type.
func address(value string) string {
	if begin, end := strings.IndexByte(value, '<'), strings.LastIndexByte(value, '>'); begin >= 0 && end > begin {
		return strings.TrimSpace(value[begin+1 : end])
	}
	return withoutType(value)
}

// withoutType returns value without a type as in "dns; mx.example.com" and "rfc822; a@b.example".
func withoutType(value string) string {
	kind, rest, found := strings.Cut(value, ";")
	if !found || strings.ContainsAny(strings.TrimSpace(kind), " \t@") {
		return strings.TrimSpace(value)
	}
	return strings.TrimSpace(rest)
}

// ip reads an address as it stands, in brackets, or with the SMTP prefix "IPv6:".
func ip(value string) netip.Addr {
	value = strings.Trim(strings.TrimSpace(value), "[]")
	if rest, ok := strings.CutPrefix(value, "IPv6:"); ok {
		value = rest
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}
