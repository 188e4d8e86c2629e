// Package sns reads what Amazon SES says of a delivery where Amazon SNS sends it as mail: an object
// of JSON in a text (Amazon SES developer guide, "Amazon SNS notification contents").
//
// Bounce, DeliveryDelay and Delivery become a delivery status notification, Complaint a feedback
// report. Whether the mail is genuine is not looked at. Nothing here panics, keeps state or touches
// network, disk or clock; everything is safe for concurrent use.
package sns

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"carom/ingest/arf"
	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/schemas/smtpstatus"
)

// maxBytes bounds the object. Amazon SNS sends 256 KiB at most.
const maxBytes = 256 << 10

// notification is the part of the object that is read.
type notification struct {
	NotificationType string `json:"notificationType"`
	EventType        string `json:"eventType"` // of event publishing
	Bounce           struct {
		BounceType        string      `json:"bounceType"`
		BouncedRecipients []recipient `json:"bouncedRecipients"`
		ReportingMTA      string      `json:"reportingMTA"`
	} `json:"bounce"`
	DeliveryDelay struct {
		DelayedRecipients []recipient `json:"delayedRecipients"`
		ReportingMTA      string      `json:"reportingMTA"`
	} `json:"deliveryDelay"`
	Delivery struct {
		Recipients   []string `json:"recipients"`
		SMTPResponse string   `json:"smtpResponse"`
		ReportingMTA string   `json:"reportingMTA"`
	} `json:"delivery"`
	Complaint struct {
		ComplainedRecipients []recipient `json:"complainedRecipients"`
		FeedbackType         string      `json:"complaintFeedbackType"`
		UserAgent            string      `json:"userAgent"`
		ArrivalDate          string      `json:"arrivalDate"`
	} `json:"complaint"`
	Mail struct {
		Source  string `json:"source"`
		Headers []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"headers"`
	} `json:"mail"`
}

type recipient struct {
	EmailAddress   string `json:"emailAddress"`
	Action         string `json:"action"`
	Status         string `json:"status"`
	DiagnosticCode string `json:"diagnosticCode"`
}

// Parse reads the notification in m. One of the reports is set if ok.
func Parse(m *mime.Message) (bounce *dsn.Report, complaint *arf.Report, ok bool) {
	part := m.Part("text/plain", "application/json")
	if part == nil {
		return nil, nil, false
	}
	body := bytes.TrimSpace(part.Body)
	if !bytes.HasPrefix(body, []byte("{")) || len(body) > maxBytes || !bytes.Contains(body, []byte(`"mail"`)) {
		return nil, nil, false
	}
	var n notification
	if json.NewDecoder(bytes.NewReader(unbroken(body))).Decode(&n) != nil {
		return nil, nil, false
	}
	kind := n.NotificationType + n.EventType
	switch kind {
	case "Complaint":
		return nil, n.complaint(), true
	case "Bounce":
		bounce = n.report(n.Bounce.BouncedRecipients, n.Bounce.ReportingMTA, dsn.Failed)
	case "DeliveryDelay":
		bounce = n.report(n.DeliveryDelay.DelayedRecipients, n.DeliveryDelay.ReportingMTA, dsn.Delayed)
	case "Delivery":
		bounce = n.delivered()
	default:
		return nil, nil, false
	}
	return bounce, nil, len(bounce.Recipients) > 0
}

// unbroken undoes the breaks that sendmail puts into lines that are too long ("!", line end, blank),
// and turns other line ends, which strings of JSON can't hold, into blanks.
func unbroken(body []byte) []byte {
	body = bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))
	body = bytes.ReplaceAll(body, []byte("!\n "), nil)
	return bytes.ReplaceAll(body, []byte("\n"), []byte(" "))
}

func (n *notification) report(recipients []recipient, reporter string, standard dsn.Action) *dsn.Report {
	r := &dsn.Report{Format: "amazon-sns", ReportingMTA: withoutType(reporter), Original: n.original()}
	for _, from := range recipients[:min(len(recipients), dsn.MaxRecipients)] {
		to := dsn.Recipient{Final: from.EmailAddress, Action: standard, DiagnosticType: "smtp", Diagnostic: withoutType(from.DiagnosticCode)}
		if to.Status = dsn.FindEnhanced(to.Diagnostic); to.Status.IsZero() {
			to.Status, _ = smtpstatus.ParseEnhanced(from.Status)
		}
		if to.Status.IsZero() {
			to.Status.Class = 5
			if n.Bounce.BounceType == "Transient" || standard == dsn.Delayed {
				to.Status.Class = 4
			}
		}
		r.Recipients = append(r.Recipients, to)
	}
	return r
}

func (n *notification) delivered() *dsn.Report {
	r := &dsn.Report{Format: "amazon-sns", ReportingMTA: withoutType(n.Delivery.ReportingMTA), Original: n.original()}
	recipients := n.Delivery.Recipients
	for _, address := range recipients[:min(len(recipients), dsn.MaxRecipients)] {
		to := dsn.Recipient{Final: address, Action: dsn.Delivered, DiagnosticType: "smtp", Diagnostic: n.Delivery.SMTPResponse}
		to.Status = smtpstatus.Parse(to.Diagnostic).Enhanced
		r.Recipients = append(r.Recipients, to)
	}
	return r
}

func (n *notification) complaint() *arf.Report {
	c := n.Complaint
	r := &arf.Report{Format: "amazon-sns", Type: arf.Other, Word: c.FeedbackType, UserAgent: c.UserAgent, OriginalMailFrom: n.Mail.Source, Incidents: 1, Original: n.original()}
	switch t := arf.FeedbackType(strings.ToLower(c.FeedbackType)); t {
	case arf.Abuse, arf.Fraud, arf.Virus, arf.NotSpam, arf.OptOut, arf.AuthFailure:
		r.Type = t
	case "": // the provider didn't say, but somebody complained
		r.Type = arf.Abuse
	default:
	}
	if t, err := time.Parse(time.RFC3339, c.ArrivalDate); err == nil {
		r.ArrivalDate = t.UTC()
	}
	for _, to := range c.ComplainedRecipients[:min(len(c.ComplainedRecipients), dsn.MaxRecipients)] {
		r.OriginalRcptTo = append(r.OriginalRcptTo, to.EmailAddress)
	}
	return r
}

// original returns the header of the message that the notification is about.
func (n *notification) original() mime.Header {
	var b bytes.Buffer
	oneLine := strings.NewReplacer("\r", " ", "\n", " ")
	for _, field := range n.Mail.Headers {
		b.WriteString(oneLine.Replace(field.Name) + ": " + oneLine.Replace(field.Value) + "\r\n")
	}
	// A header that is too long comes back as far as the limit goes, and that is enough here.
	header, _, _ := mime.ParseHeader(b.Bytes(), 0)
	return header
}

// withoutType returns "mx.mail.example" of "dsn; mx.mail.example".
func withoutType(value string) string {
	kind, rest, found := strings.Cut(value, ";")
	if !found || strings.ContainsAny(strings.TrimSpace(kind), " \t@") {
		return strings.TrimSpace(value)
	}
	return strings.TrimSpace(rest)
}
