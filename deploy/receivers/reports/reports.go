// Package reports writes what simulated providers send back (complaints by RFC 5965, delivery status
// notifications by RFC 3464) and mails it, each kind in one fixed form.
//
// The forms are pure functions of their arguments. The Mailer retries until the target takes a
// report or maxAge passes; reports are held in memory and lost with the process. A report whose
// acknowledgement was lost is sent again with the same Message-ID.
package reports

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime/quotedprintable"
	"net/netip"
	"strings"
	"time"
)

// Original is the delivery that a report is about.
type Original struct {
	MX        string // host that took the message, the reporting MTA
	Source    netip.Addr
	Arrival   time.Time
	MailFrom  string
	EnvID     string // ENVID of MAIL, or empty
	Recipient string
	// OriginalRecipient is ORCPT of RCPT with its type ("rfc822;user@example.com"), or empty.
	OriginalRecipient string
	Header            []byte // CRLF lines, without the empty line after them
}

// Complaint returns an abuse report (RFC 5965) to the address to.
func Complaint(o *Original, to string, now time.Time) []byte {
	m := newMessage("complaint", o, now)
	m.field("From", "feedback@"+o.MX)
	m.field("To", to)
	m.field("Subject", "Abuse report")
	m.open("feedback-report")
	m.part("text/plain; charset=us-ascii", fmt.Sprintf(
		"This is an abuse report for a message that came from the address\r\n%s on %s.\r\n",
		o.Source, o.Arrival.UTC().Format(time.RFC1123Z)))
	var b message
	b.field("Feedback-Type", "abuse")
	b.field("User-Agent", "carom-receivers/1.0")
	b.field("Version", "1")
	b.field("Original-Mail-From", "<"+o.MailFrom+">")
	b.field("Original-Rcpt-To", "<"+o.Recipient+">")
	if o.EnvID != "" {
		b.field("Original-Envelope-Id", o.EnvID)
	}
	b.field("Arrival-Date", o.Arrival.UTC().Format(time.RFC1123Z))
	b.field("Source-IP", o.Source.String())
	b.field("Reporting-MTA", "dns; "+o.MX)
	if at := strings.LastIndexByte(o.MailFrom, '@'); at >= 0 {
		b.field("Reported-Domain", o.MailFrom[at+1:])
	}
	m.part("message/feedback-report", b.String())
	return m.close(o.Header)
}

// Bounce returns a delivery status notification (RFC 3464) to o.MailFrom that says the address failed
// after all. The diagnostic is a reply of the provider, its lines parted by \n.
func Bounce(o *Original, diagnostic string, now time.Time) []byte {
	m := newMessage("bounce", o, now)
	m.field("From", "Mail Delivery Subsystem <mailer-daemon@"+o.MX+">")
	m.field("To", o.MailFrom)
	m.field("Subject", "Delivery Status Notification (Failure)")
	m.field("Auto-Submitted", "auto-replied") // RFC 3834 5
	m.open("delivery-status")
	m.part("text/plain; charset=us-ascii", "Your message could not be delivered to\r\n\r\n    "+o.Recipient+
		"\r\n\r\nThis is a permanent error.\r\n")
	var b message
	if o.EnvID != "" {
		b.field("Original-Envelope-Id", o.EnvID)
	}
	b.field("Reporting-MTA", "dns; "+o.MX)
	b.field("Arrival-Date", o.Arrival.UTC().Format(time.RFC1123Z))
	_, _ = b.WriteString("\r\n")
	if o.OriginalRecipient != "" {
		b.field("Original-Recipient", o.OriginalRecipient)
	}
	b.field("Final-Recipient", "rfc822; "+o.Recipient)
	b.field("Action", "failed")
	b.field("Status", "5.1.1") // RFC 3463 3.2: bad destination mailbox address
	b.field("Diagnostic-Code", "smtp; "+oneLine(diagnostic))
	b.field("Last-Attempt-Date", now.UTC().Format(time.RFC1123Z))
	m.part("message/delivery-status", b.String())
	return m.close(o.Header)
}

// oneLine joins the lines of a reply, with the code (and enhanced code) of the first only.
func oneLine(reply string) string {
	lines := strings.Split(reply, "\n")
	code := lines[0][:3]
	first := code + " " + strings.TrimLeft(lines[0][3:], "- ")
	enhanced, _, _ := strings.Cut(first[4:], " ")
	for _, line := range lines[1:] {
		rest := strings.TrimLeft(strings.TrimPrefix(line, code), "- ")
		if strings.Count(enhanced, ".") == 2 {
			rest = strings.TrimLeft(strings.TrimPrefix(rest, enhanced), " ")
		}
		first += " " + rest
	}
	return first
}

// message is a multipart/report (RFC 6522) in the making.
type message struct {
	bytes.Buffer
	boundary string
}

// newMessage begins a message whose Message-ID is the same whenever the same report is made.
func newMessage(kind string, o *Original, now time.Time) *message {
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\x00%s\x00%s\x00%d\x00", kind, o.Recipient, o.MailFrom, o.Arrival.UnixNano())
	_, _ = sum.Write(o.Header)
	id := hex.EncodeToString(sum.Sum(nil))[:32]
	m := &message{boundary: "=_" + id}
	m.field("Message-ID", "<"+kind+"."+id+"@"+o.MX+">")
	m.field("Date", now.UTC().Format(time.RFC1123Z))
	return m
}

// field writes a header field, folded at spaces where it would pass 78 characters (RFC 5322 2.1.1).
func (m *message) field(name, value string) {
	line := name + ":"
	for word := range strings.FieldsSeq(value) {
		if len(line)+1+len(word) > 78 && strings.TrimSpace(line) != name+":" {
			_, _ = m.WriteString(line + "\r\n")
			line = ""
		}
		line += " " + word
	}
	_, _ = m.WriteString(line + "\r\n")
}

func (m *message) open(reportType string) {
	m.field("MIME-Version", "1.0")
	_, _ = fmt.Fprintf(m, "Content-Type: multipart/report; report-type=%s;\r\n boundary=\"%s\"\r\n\r\n", reportType, m.boundary)
}

func (m *message) part(contentType, body string) {
	_, _ = fmt.Fprintf(m, "--%s\r\nContent-Type: %s\r\n\r\n%s\r\n", m.boundary, contentType, body)
}

// close adds the original's header as the last part. RFC 6522 4 wants it in 7 bits and
// quoted-printable where it is not.
func (m *message) close(header []byte) []byte {
	body, contentType := string(header), "text/rfc822-headers"
	if bytes.ContainsFunc(header, func(r rune) bool { return r > '~' }) {
		var encoded bytes.Buffer
		w := quotedprintable.NewWriter(&encoded)
		_, _ = w.Write(header) // into a buffer
		_ = w.Close()
		body = encoded.String()
		contentType += "\r\nContent-Transfer-Encoding: quoted-printable"
	}
	m.part(contentType, body)
	_, _ = fmt.Fprintf(m, "--%s--\r\n", m.boundary)
	return m.Bytes()
}
