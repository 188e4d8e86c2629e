package arf

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"carom/ingest/mime"
)

// maxXARF bounds the object of a report, in bytes. It may hold the message that it is about.
const maxXARF = 2 << 20

// xarf reads an xARF report in m, or returns nil if there is none.
func xarf(m *mime.Message) *Report {
	marked := m.Header.Has("X-XARF") || m.Header.Has("X-ARF")
	for i := range min(len(m.Parts), maxParts) {
		part := &m.Parts[i]
		if len(part.Body) > maxXARF || !marked && i == 0 && len(m.Parts) > 1 {
			continue
		}
		switch part.MediaType {
		case "application/json", "text/json", "application/xarf+json", "application/octet-stream", "text/plain":
		default:
			continue
		}
		body := bytes.TrimSpace(bytes.TrimPrefix(part.Body, []byte("\xef\xbb\xbf")))
		var r *Report
		if bytes.HasPrefix(body, []byte{'{'}) {
			r = xarfJSON(body)
		} else if marked || i > 0 {
			r = xarfYAML(body, marked)
		}
		if r != nil {
			r.Format = formatXARF
			return r
		}
	}
	return nil
}

// xarfYAML reads version 0.2: lines that look like fields (abusix/xarf-specification, x-arf.org).
func xarfYAML(body []byte, marked bool) *Report {
	r := &Report{Incidents: 1}
	var category, kind, schema, source, service string
	for group, f := range mime.Fields(body) {
		if group > 0 {
			break
		}
		value := strings.Trim(f.Value, `"'`)
		switch f.Name {
		case "category":
			category = value
		case "report-type":
			kind = value
		case "schema-url":
			schema = value
		case "source":
			source = value
		case "service":
			service = value
		case "reported-from":
			r.ReportingMTA = domainOf(value)
		case "user-agent":
			r.UserAgent = value
		case "version":
			r.Version = value
		case "date":
			r.ArrivalDate = mime.Date(value)
		case "original-rcpt-to":
			r.OriginalRcptTo = keep(r.OriginalRcptTo, address(value))
		}
	}
	if kind == "" || source == "" || !marked && !strings.Contains(strings.ToLower(schema), "arf") {
		return nil
	}
	r.Word, r.Type, r.SourceIP = kind, xarfType(category, kind, service), ip(source)
	return r
}

// xarfObject is what is read of versions 3 (ReporterInfo, Report) and 4 (the rest).
type xarfObject struct {
	Version      string `json:"xarf_version"`
	ReporterInfo *struct {
		ReporterOrgDomain string
	}
	Report *struct {
		ReportClass         string
		ReportType          string
		Date                string
		SourceIP            string
		SMTPMailFromAddress string `json:"SmtpMailFromAddress"`
		SMTPRcptToAddress   string `json:"SmtpRcptToAddress"`
		Samples             xarfSamples
	}
	Reporter struct {
		Domain string `json:"domain"`
	} `json:"reporter"`
	Category  string      `json:"category"`
	Class     string      `json:"class"` // of the drafts
	Type      string      `json:"type"`
	Timestamp string      `json:"timestamp"`
	Source    string      `json:"source_identifier"`
	From      string      `json:"smtp_from"`
	To        string      `json:"smtp_to"`
	MessageID string      `json:"message_id"`
	Subject   string      `json:"subject"`
	Evidence  xarfSamples `json:"evidence"`
}

// maxSamples is the number of pieces of evidence that are read; the reported message is the first.
const maxSamples = 8

// xarfSamples are the first maxSamples pieces of evidence.
type xarfSamples []xarfSample

// UnmarshalJSON is part of json.Unmarshaler. What is no list of samples is none.
func (s *xarfSamples) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return nil //nolint:nilerr // the rest of the report counts
	}
	for d.More() && len(*s) < maxSamples {
		var sample xarfSample
		if err := d.Decode(&sample); err != nil {
			return nil //nolint:nilerr // the same
		}
		*s = append(*s, sample)
	}
	return nil
}

// xarfSample is a piece of evidence.
type xarfSample struct {
	ContentType   string
	ContentTypeV4 string `json:"content_type"`
	Payload       string
	Base64Encoded bool
}

// xarfJSON reads versions 3 and 4.
func xarfJSON(body []byte) *Report {
	var o xarfObject
	if err := json.Unmarshal(body, &o); err != nil {
		if _, wrongType := errors.AsType[*json.UnmarshalTypeError](err); !wrongType {
			return nil // and with a wrong type, the rest was read
		}
	}
	r := &Report{Incidents: 1}
	switch {
	case o.Version != "" && o.Type != "":
		class := o.Category + o.Class
		r.Version, r.Word, r.Type = o.Version, o.Type, xarfType(class, o.Type, "")
		r.ReportingMTA, r.SourceIP = o.Reporter.Domain, ip(o.Source)
		r.OriginalMailFrom, r.OriginalRcptTo = address(o.From), keep(nil, address(o.To))
		r.ArrivalDate = timestamp(o.Timestamp)
		r.Original = xarfOriginal(o.Evidence, o.MessageID, o.Subject)
	case o.ReporterInfo != nil && o.Report != nil && o.Report.ReportType != "":
		p := o.Report
		r.Version, r.Word, r.Type = "3", p.ReportType, xarfType(p.ReportClass, p.ReportType, "")
		r.ReportingMTA, r.SourceIP = o.ReporterInfo.ReporterOrgDomain, ip(p.SourceIP)
		r.OriginalMailFrom, r.OriginalRcptTo = address(p.SMTPMailFromAddress), keep(nil, address(p.SMTPRcptToAddress))
		r.ArrivalDate = timestamp(p.Date)
		r.Original = xarfOriginal(p.Samples, "", "")
	default:
		return nil
	}
	return r
}

// xarfType returns the feedback type of an xARF report. Reports about what is no mail (attacks on
// logins, scans, copyright) are Other: nobody complains of a message by them.
func xarfType(category, kind, service string) FeedbackType {
	kind = strings.ToLower(kind)
	for _, known := range []struct {
		word string
		is   FeedbackType
	}{{"phish", Fraud}, {"fraud", Fraud}, {"scam", Fraud}, {"malware", Virus}, {"virus", Virus}, {"spam", Abuse}, {"bulk", Abuse}, {"unsolicited", Abuse}} {
		if strings.Contains(kind, known.word) {
			return known.is
		}
	}
	switch strings.ToLower(category) {
	case "messaging":
		return Abuse
	case "fraud":
		return Fraud
	case "abuse":
		if strings.EqualFold(service, "smtp") && kind == "abuse" {
			return Abuse
		}
	}
	return Other
}

// xarfOriginal returns the header of the reported message in the evidence, or one of what the report
// says of it.
func xarfOriginal(samples xarfSamples, messageID, subject string) mime.Header {
	for _, s := range samples {
		if contentType := strings.ToLower(s.ContentType + s.ContentTypeV4); !strings.HasPrefix(contentType, "message/rfc822") && !strings.HasPrefix(contentType, "text/") {
			continue
		}
		payload := []byte(s.Payload)
		if decoded, err := base64.StdEncoding.DecodeString(s.Payload); err == nil && (s.Base64Encoded || len(decoded) > 0) {
			payload = decoded
		}
		if header, ok := headerOf(payload); ok {
			return header
		}
	}
	oneLine := strings.NewReplacer("\r", " ", "\n", " ")
	text := ""
	if messageID != "" {
		text += "Message-ID: " + oneLine.Replace(messageID) + "\n"
	}
	if subject != "" {
		text += "Subject: " + oneLine.Replace(subject) + "\n"
	}
	header, _, _ := mime.ParseHeader([]byte(text), 0)
	return header
}

// timestamp reads a date of RFC 3339 or RFC 5322.
func timestamp(value string) time.Time {
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t.UTC()
	}
	return mime.Date(value)
}

// domainOf returns the domain of an address, lower-case.
func domainOf(a string) string {
	return strings.ToLower(a[strings.LastIndexByte(a, '@')+1:])
}
