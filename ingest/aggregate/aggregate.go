// Package aggregate recognises the reports that receivers send once a day about all mail of a
// domain, and reduces them to counts: DMARC aggregate reports (RFC 7489 appendix C) and SMTP TLS
// reports (RFC 8460). They speak of no single message, so they are neither bounces nor complaints.
//
// What a part is called is not believed: it is unpacked (zip, gzip) and read, and its root decides.
// The reading is a stream that keeps sums, so that memory does not grow with a report; what is
// unpacked beyond maxBytes is left away, and Report.Truncated says so.
//
// A message without such a report gives ErrNotAggregate. Nothing here panics, keeps state or
// touches network, disk or clock; everything is safe for concurrent use. Nobody vouches for what a
// report says.
package aggregate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"carom/ingest/mime"
)

// ErrNotAggregate is returned for a message that holds no aggregate report.
var ErrNotAggregate = errors.New("not an aggregate report")

const (
	// maxBytes bounds what is read of an unpacked report, in bytes. The largest receivers' reports
	// on the largest senders are a few megabytes.
	maxBytes = 8 << 20
	// maxParts bounds the parts that are looked into: a report is one, and is beside one of text.
	maxParts = 8
	// maxWord bounds the texts that are kept of a report, in bytes.
	maxWord = 255
	// maxToken bounds a token of XML, in bytes: a start tag grows twentyfold in memory.
	maxToken = 64 << 10
	// maxDepth bounds elements inside elements; both formats need fewer than ten.
	maxDepth = 32
)

// Kind says which report it is.
type Kind string

// The kinds, as the field FeedbackType of an event names them.
const (
	DMARC Kind = "dmarc-aggregate"
	TLS   Kind = "tls-rpt"
)

// Disposition is what a receiver did with a message by the domain's policy: RFC 7489 appendix C,
// DispositionType.
type Disposition string

// The dispositions. Any other word is counted as NoDisposition.
const (
	NoDisposition Disposition = "none"
	Quarantine    Disposition = "quarantine"
	Reject        Disposition = "reject"
)

// Report is an aggregate report, reduced to sums. Sums end at the greatest int64.
type Report struct {
	Kind         Kind
	Organisation string // that reports
	ID           string // that the organisation gave it
	Domain       string // whose policy it is about, lower-case; the first of several
	Begin, End   time.Time
	Rows         int  // records of DMARC, policies of TLS
	Truncated    bool // the report goes on beyond what was read

	// DMARC alone: messages by result. A message passes if SPF or DKIM passes and is aligned.
	Passed, Failed       int64
	DKIMPassed           int64
	SPFPassed            int64
	Dispositions         map[Disposition]int64
	SessionsOK           int64 // TLS alone, as the rest
	SessionsFailed       int64
	FailedSessionsByType map[string]int64 // by the result types of RFC 8460 section 4.3; others are "other"
}

// Messages returns how many messages a DMARC report is about.
func (r *Report) Messages() int64 { return sum(r.Passed, r.Failed) }

// Parse returns the aggregate report in m: the first part that is one. It returns ErrNotAggregate,
// wrapped, without one.
func Parse(m *mime.Message) (*Report, error) {
	looked := 0
	for i := range m.Parts {
		part := &m.Parts[i]
		if !mayHold(part) {
			continue
		}
		if looked++; looked > maxParts {
			break
		}
		if r, ok := read(part.Body); ok {
			r.Truncated = r.Truncated || part.Cut
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: no part holds a DMARC aggregate report (RFC 7489) or a TLS report (RFC 8460)", ErrNotAggregate)
}

// mayHold reports whether it is worth to look into a part. Reports come as application/gzip,
// application/zip, text/xml and application/tlsrpt+gzip, and as whatever a mail program thinks.
func mayHold(part *mime.Part) bool {
	if len(part.Body) == 0 {
		return false
	}
	kind, _, _ := strings.Cut(part.MediaType, "/")
	switch kind {
	case "application":
		return true
	case "text":
		name := strings.ToLower(part.Params["name"])
		return part.MediaType == "text/xml" || part.MediaType == "text/json" ||
			strings.HasSuffix(name, ".xml") || strings.HasSuffix(name, ".json")
	}
	return false
}

// Counts returns the report as pairs of name and value for an event's headers: a bounded number of
// names of our own, and values of at most 255 bytes. Sums that are zero are left away.
func (r *Report) Counts() map[string]string {
	counts := map[string]string{"rows": strconv.Itoa(r.Rows)}
	word := func(name, value string) {
		if value != "" {
			counts[name] = cut(value)
		}
	}
	number := func(name string, n int64) {
		if n != 0 {
			counts[name] = strconv.FormatInt(n, 10)
		}
	}
	word("organisation", r.Organisation)
	word("report-id", r.ID)
	word("domain", r.Domain)
	word("begin", date(r.Begin))
	word("end", date(r.End))
	if r.Truncated {
		counts["truncated"] = "yes"
	}
	number("messages", r.Messages())
	number("passed", r.Passed)
	number("failed", r.Failed)
	number("dkim-passed", r.DKIMPassed)
	number("spf-passed", r.SPFPassed)
	for disposition, n := range r.Dispositions {
		number("disposition-"+string(disposition), n)
	}
	number("sessions-ok", r.SessionsOK)
	number("sessions-failed", r.SessionsFailed)
	for result, n := range r.FailedSessionsByType {
		number("failed-"+result, n)
	}
	return counts
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// cut returns the first maxWord bytes of s in whole characters, without blanks around them.
func cut(s string) string {
	s = strings.TrimSpace(s)
	return strings.ToValidUTF8(s[:min(len(s), maxWord)], "")
}

// first returns the value that stands, or else the new one, bounded.
func first(standing, value string) string { return cmp.Or(standing, cut(value)) }

// sum adds counts, which are not negative, up to the greatest int64.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// count reads a number of messages; what is none is 0.
func count(value string) int64 {
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63)
	if err != nil {
		return 0
	}
	return int64(n) //nolint:gosec // 63 bits
}

// moment reads seconds since 1970, which DMARC writes, or a date of RFC 3339, which TLS reports
// write. It returns the zero time for what is neither, and for years beyond four digits.
func moment(value string) time.Time {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		if seconds <= 0 || seconds > 253402300799 { // the last second of the year 9999
			return time.Time{}
		}
		return time.Unix(seconds, 0).UTC()
	}
	if len(value) > maxWord {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
