package arf

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"carom/ingest/mime"
)

// fields reads the fields of a machine-readable part, or returns nil if there is none in it.
func fields(body []byte) *Report {
	r := &Report{Incidents: 1}
	empty := true
	for _, f := range mime.Fields(body) {
		empty = false
		if !r.field(f) {
			r.authField(f)
		}
	}
	if empty {
		return nil
	}
	return r
}

// finish gives r its type: by the word or, where there is none, by what else it says.
func (r *Report) finish(m *mime.Message) {
	switch {
	case r.Word != "":
		r.Type = feedbackType(r.Word)
	case r.Auth.Failure != "":
		r.Type = AuthFailure
	default:
		r.Type = typeOfText(m.Text())
	}
}

// typeOfText returns the type of a report that has no Feedback-Type. The phrases are those of the
// examples in RFC 5965 and RFC 6591, which most reporters use.
func typeOfText(text string) FeedbackType {
	text = plain(text)
	switch {
	case strings.Contains(text, "authentication failure report"), strings.Contains(text, "authentication-failure report"):
		return AuthFailure
	case strings.Contains(text, "opt-out report"):
		return OptOut
	case strings.Contains(text, "abuse report"), strings.Contains(text, "spam report"), strings.Contains(text, "abuse complaint"):
		return Abuse
	}
	return Other
}

// field takes a field of RFC 5965, and reports whether it is one.
func (r *Report) field(f mime.Field) bool {
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
	case "arrival-date", "received-date": // section 3.2 names both
		r.ArrivalDate = mime.Date(f.Value)
	case "reporting-mta":
		r.ReportingMTA = withoutType(f.Value)
	case "source-ip":
		r.SourceIP = ip(f.Value)
	case "incidents":
		if n, err := strconv.ParseUint(f.Value, 10, 31); err == nil && n > 0 {
			r.Incidents = int(n)
		}
	case "original-rcpt-to", "original-recipient": // the second is RFC 3464's
		r.OriginalRcptTo = keepAddresses(r.OriginalRcptTo, f.Value)
	case "reported-domain":
		r.ReportedDomains = keep(r.ReportedDomains, strings.ToLower(f.Value))
	case "reported-uri":
		r.ReportedURIs = keep(r.ReportedURIs, f.Value)
	case "authentication-results":
		r.AuthResults = keep(r.AuthResults, f.Value)
	case "removal-recipient":
		r.RemovalRecipients = keepAddresses(r.RemovalRecipients, f.Value)
	default:
		return false
	}
	return true
}

// authField takes a field of RFC 6591.
func (r *Report) authField(f mime.Field) {
	a := &r.Auth
	switch f.Name {
	case "auth-failure":
		a.Failure = strings.ToLower(f.Value)
	case "delivery-result":
		a.DeliveryResult = strings.ToLower(f.Value)
	case "identity-alignment":
		a.IdentityAlignment = strings.ToLower(f.Value)
	case "dkim-domain":
		a.DKIMDomain = strings.ToLower(f.Value)
	case "dkim-identity":
		a.DKIMIdentity = f.Value
	case "dkim-selector":
		a.DKIMSelector = f.Value
	case "dkim-canonicalized-header":
		a.CanonicalHeader = f.Value
	case "dkim-canonicalized-body":
		a.CanonicalBody = f.Value
	case "dkim-adsp-dns":
		a.ADSPDNS = f.Value
	case "spf-dns":
		a.SPFDNS = keep(a.SPFDNS, f.Value)
	}
}

func keep(values []string, value string) []string {
	if value == "" || len(values) >= maxValues {
		return values
	}
	return append(values, value)
}

// keepAddresses keeps the address in value, or several with commas between them, which section 3.3
// does not allow.
func keepAddresses(values []string, value string) []string {
	if !strings.Contains(value, ",") {
		return keep(values, address(value))
	}
	for _, a := range addresses(withoutType(value)) {
		values = keep(values, a)
	}
	return values
}

// feedbackType reads a Feedback-Type. Beside the registered words it knows those of the drafts of RFC
// 5965, and what reporters write who don't look into the registry.
func feedbackType(word string) FeedbackType {
	word, _, _ = strings.Cut(word, ";")
	switch t := FeedbackType(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(word)), "_", "-")); t {
	case Abuse, Fraud, Virus, NotSpam, OptOut, AuthFailure, Miscategorized:
		return t
	case "spam", "complaint":
		return Abuse
	case "phishing":
		return Fraud
	case "malware":
		return Virus
	case "notspam", "ham":
		return NotSpam
	case "opt-out-list", "optout", "unsubscribe":
		return OptOut
	case "dkim", "dmarc", "authfailure":
		return AuthFailure
	default:
		return Other
	}
}

// looseNames are the fields that tell a feedback report in a part of another type: the required
// ones, and those that no other report has.
var looseNames = []string{"feedback-type", "user-agent", "version", "original-mail-from", "original-rcpt-to", "source-ip", "reported-domain", "arrival-date", "received-date"}

// loose reads a report whose fields stand in a part of another type: a text that begins with them,
// or one behind the first if the message says that it is a feedback report.
func loose(m *mime.Message) *Report {
	isReport := strings.EqualFold(m.Params["report-type"], "feedback-report")
	for i := range min(len(m.Parts), maxParts) {
		part := &m.Parts[i]
		if !strings.HasPrefix(part.MediaType, "text/plain") && part.MediaType != "application/octet-stream" {
			continue
		}
		body := part.Body
		if at := fieldsBegin(body); at > 0 && (isReport || i > 0) {
			body = body[at:]
		} else if at != 0 {
			continue
		}
		if r := fields(firstGroup(body)); r != nil {
			r.Format = formatLoose
			return r
		}
	}
	return nil
}

// maxLoose is how far a text is looked through for the fields of a report, in bytes.
const maxLoose = 16 << 10

// fieldsBegin returns where the first group of lines begins that has a Feedback-Type and two more of
// looseNames, 0 standing for the first line that is not empty, or -1.
func fieldsBegin(body []byte) int {
	begin, known, typed, first := 0, 0, false, true
	for at := 0; at < min(len(body), maxLoose); {
		end := bytes.IndexByte(body[at:], '\n')
		if end < 0 {
			end = len(body) - at - 1
		}
		line := bytes.TrimSpace(body[at : at+end+1])
		at += end + 1
		if len(line) == 0 {
			if known > 0 {
				first = false
			}
			begin, known, typed = at, 0, false
			continue
		}
		name, _, isField := bytes.Cut(line, []byte{':'})
		if !isField || !slices.Contains(looseNames, strings.ToLower(string(name))) {
			if known == 0 { // text before the fields
				begin, first = at, false
			}
			continue
		}
		known++
		if typed = typed || strings.EqualFold(string(name), "Feedback-Type"); typed && known >= 3 {
			if first {
				return 0
			}
			return begin
		}
	}
	return -1
}

// firstGroup returns body up to its first blank line, without blank lines at the beginning.
func firstGroup(body []byte) []byte {
	body = bytes.TrimLeft(body, " \t\r\n")
	for at := 0; at < len(body); {
		end := bytes.IndexByte(body[at:], '\n')
		if end < 0 {
			break
		}
		if len(bytes.TrimSpace(body[at:at+end])) == 0 {
			return body[:at]
		}
		at += end + 1
	}
	return body
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

// cfbl reads the fields of RFC 9477 section 5.
func cfbl(original mime.Header) CFBL {
	value, attributes, _ := strings.Cut(original.Get("CFBL-Address"), ";")
	c := CFBL{Address: address(value), FeedbackID: strings.Join(strings.Fields(original.Get("CFBL-Feedback-ID")), "")}
	if c.Address != "" {
		c.XARF = strings.Contains(strings.ToLower(attributes), "xarf")
	}
	return c
}
