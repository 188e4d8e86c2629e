// Package arf parses feedback reports ("complaints"): RFC 5965, the Abuse Reporting Format, with
// RFC 6591 for failures of authentication and RFC 9477 for addresses in the message; xARF in mail
// (versions 0.2, 3 and 4); and what providers send that know neither (Microsoft's Junk Mail
// Reporting Program, SpamCop, AOL's first format and others: rules.txt).
//
// It reads the part that is meant for machines and the header of the reported message, each
// feedback type apart: "not-spam" is the opposite of a complaint. Fields may stand in a part of the
// wrong type. It does not believe a word of the report (ingest/correlate). Addresses that a
// provider blanked out (RFC 6590) are read as they stand; Recipients says which to look at then.
//
// A message that is no feedback report gives ErrNotARF; missing and malformed fields are left
// zero. Nothing here panics, keeps state or touches network, disk or clock; everything is safe
// for concurrent use.
package arf

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"carom/ingest/mime"
)

// ErrNotARF is returned for a message that is no feedback report.
var ErrNotARF = errors.New("not a feedback report")

const (
	// maxValues is the number of values that are kept of a field that may stand several times.
	maxValues = 1000
	// maxParts is the number of parts that are looked into for what has no part of its own type: a
	// report has three.
	maxParts = 16
)

// The formats that are no rule of rules.txt; Report.Format.
const (
	formatRFC5965 = "rfc5965"
	formatLoose   = "rfc5965.loose" // fields in a part of another type
	formatNoPart  = "rfc5965.text"  // a feedback report by its Content-Type, without fields
	formatXARF    = "xarf"
)

// FeedbackType says what a report is about: IANA's registry "Feedback Report Type Values".
type FeedbackType string

// The types. Other is also what a report of an unregistered type is; Report.Word keeps the word.
const (
	Abuse       FeedbackType = "abuse"
	Fraud       FeedbackType = "fraud"
	Virus       FeedbackType = "virus"
	Other       FeedbackType = "other"
	NotSpam     FeedbackType = "not-spam"
	OptOut      FeedbackType = "opt-out"
	AuthFailure FeedbackType = "auth-failure" // RFC 6591

	// Miscategorized is of the drafts of RFC 5965, and says that a filter was wrong.
	Miscategorized FeedbackType = "miscategorized"
)

// Complaint reports whether a person complains by a report of type t: abuse, fraud, virus or
// opt-out.
func (t FeedbackType) Complaint() bool {
	return t == Abuse || t == Fraud || t == Virus || t == OptOut
}

// Report is a feedback report. The sections are RFC 5965's, if no other RFC is named.
type Report struct {
	Format string // what read it: a rule of rules.txt, "rfc5965", "rfc5965.loose", "rfc5965.text" or "xarf"

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

	Auth AuthFailureReport // RFC 6591; zero but in a report of the type AuthFailure
	CFBL CFBL              // RFC 9477; of the reported message

	// Candidates are addresses in the header of the reported message that its recipient may be, the
	// likeliest first, each once.
	Candidates []string
}

// AuthFailureReport is what RFC 6591 section 3.2 adds, with RFC 7489 section 7.3.1 for DMARC.
type AuthFailureReport struct {
	Failure           string // Auth-Failure, lower-case: "adsp", "bodyhash", "revoked", "signature", "spf" or "dmarc"
	DeliveryResult    string // lower-case: "delivered", "spam", "policy", "reject" or "other"
	IdentityAlignment string // "dkim", "spf", both with a comma, or "none"
	DKIMDomain        string // lower-case
	DKIMIdentity      string
	DKIMSelector      string
	CanonicalHeader   string // DKIM-Canonicalized-Header, base64 as it stands, cut at 16 KiB
	CanonicalBody     string // DKIM-Canonicalized-Body, the same
	ADSPDNS           string // DKIM-ADSP-DNS, the record
	SPFDNS            []string
}

// CFBL is what the reported message says of its feedback address, RFC 9477 section 5.
type CFBL struct {
	Address    string // CFBL-Address without angle brackets and attributes
	FeedbackID string // CFBL-Feedback-ID without blanks and folds
	XARF       bool   // reports were wanted in xARF
}

// Parse reads the feedback report in m. It returns ErrNotARF, wrapped with what is missing, if m
// is none.
func Parse(m *mime.Message) (*Report, error) {
	r, err := parse(m)
	if err != nil {
		return nil, err
	}
	if r.Original.Len() == 0 {
		r.Original = original(m)
	}
	r.CFBL = cfbl(r.Original)
	r.Candidates = candidates(r.Original)
	return r, nil
}

func parse(m *mime.Message) (*Report, error) {
	if part := m.Part("message/feedback-report", "application/feedback-report", "text/feedback-report", "message/feedback"); part != nil {
		if r := fields(part.Body); r != nil {
			r.Format = formatRFC5965
			r.finish(m)
			return r, nil
		}
	}
	if m.Part("message/delivery-status", "message/global-delivery-status") != nil {
		return nil, fmt.Errorf("%w: it is a delivery status notification", ErrNotARF)
	}
	if r := xarf(m); r != nil {
		return r, nil
	}
	if r := loose(m); r != nil {
		r.finish(m)
		return r, nil
	}
	if r := byRule(m); r != nil {
		return r, nil
	}
	if strings.EqualFold(m.Params["report-type"], "feedback-report") {
		r := &Report{Format: formatNoPart, Incidents: 1}
		r.finish(m)
		return r, nil
	}
	return nil, fmt.Errorf("%w: no part message/feedback-report, no xARF, and no rule knows it", ErrNotARF)
}

// original returns the header of the reported message: of the part that is one or, without it, of a
// text that begins like one.
func original(m *mime.Message) mime.Header {
	if header, ok := m.Original(); ok && header.Len() > 0 {
		return header
	}
	for i := 1; i < min(len(m.Parts), maxParts); i++ { // the first is for people
		part := &m.Parts[i]
		if !strings.HasPrefix(part.MediaType, "text/") && part.MediaType != "application/octet-stream" {
			continue
		}
		if header, ok := headerOf(part.Body); ok {
			return header
		}
	}
	return mime.Header{}
}

// headerOf reads the header of a message at the beginning of text; ok is false if it doesn't look
// like one. A header that is too long comes back as far as there is room for it.
func headerOf(text []byte) (header mime.Header, ok bool) {
	for len(text) > 0 && (text[0] == '\r' || text[0] == '\n') {
		text = text[1:]
	}
	header, _, _ = mime.ParseHeader(text, 0)
	known := 0
	for _, name := range []string{"From", "To", "Subject", "Date", "Message-ID", "Received", "Return-Path"} {
		if header.Has(name) {
			known++
		}
	}
	return header, known >= 3
}

// ip reads an address as it stands, in brackets, with the SMTP prefix "IPv6:" or with a comment
// behind it.
func ip(value string) netip.Addr {
	value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
	value = strings.Trim(value, "[](),;")
	if len(value) > len("IPv6:") && strings.EqualFold(value[:len("IPv6:")], "IPv6:") {
		value = value[len("IPv6:"):]
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// firstIP returns the first address among the words of text.
func firstIP(text string) netip.Addr {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n()[]<>,;\"", r) }) {
		if addr := ip(strings.TrimRight(word, ".")); addr.IsValid() {
			return addr
		}
	}
	return netip.Addr{}
}
