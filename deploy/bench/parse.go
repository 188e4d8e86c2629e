package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-message"

	"carom/ingest/classify"
	"carom/ingest/mime"
	"carom/ingest/report"
	"carom/schemas/smtpstatus"
)

// The figures of the scenario parse.
const (
	reportRate    = "reports read and classified, a CPU second"
	walkRate      = "go-message's walk, a CPU second"
	reportRatio   = "report rate ratio"
	classifyMicro = "classify one reply"
)

// reportKinds is how many reports there are of each kind, all different.
const reportKinds = 64

// parseTurn is how long one side works before it is the other's turn: short, so that all meet the
// same machine.
const parseTurn = 50 * time.Millisecond

// measureParse reads generated bounces and complaints of 4.5 KB: all that a node does with one but
// looking for the message that it is about. Beside it, go-message walks through the parts of the same
// bytes and reads them, and does nothing with them.
func measureParse(ctx context.Context, l *lab, m *Measured) error {
	reports := makeReports()
	m.Bytes = len(reports[0])
	replies := parsedReplies()
	period := time.Duration(l.Seconds * float64(time.Second))
	if l.Short {
		period = 3 * parseTurn
	}
	for run := range l.Runs {
		var read, walked, classified counter
		for began := time.Now(); time.Since(began) < period; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := read.turn(func() error { return eachReport(reports, readReport) }, len(reports)); err != nil {
				return err
			}
			if err := walked.turn(func() error { return eachReport(reports, walkReport) }, len(reports)); err != nil {
				return err
			}
			if err := classified.turn(func() error { return classifyReplies(replies) }, len(replies)); err != nil {
				return err
			}
		}
		m.add(reportRate, "/s", read.rate())
		m.add(walkRate, "/s", walked.rate())
		m.add(reportRatio, "", ratio(read.rate(), walked.rate()))
		m.add(classifyMicro, "µs", 1e6/classified.rate())
		l.say("parse, run %d: %.0f reports a CPU second, go-message's walk %.0f", run+1, read.rate(), walked.rate())
	}
	return nil
}

// counter counts what was done in how much CPU time of this process.
type counter struct {
	done int
	cpu  time.Duration
}

// turn does some work of n pieces again and again for a turn.
func (c *counter) turn(work func() error, n int) error {
	before, err := ownCPU()
	if err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < parseTurn; {
		if err := work(); err != nil {
			return err
		}
		c.done += n
	}
	after, err := ownCPU()
	c.cpu += after - before
	return err
}

func (c *counter) rate() float64 { return ratio(float64(c.done), c.cpu.Seconds()) }

func eachReport(reports [][]byte, do func([]byte) error) error {
	for _, r := range reports {
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
}

// readReport does with a report what a node does.
func readReport(data []byte) error {
	m, err := mime.Parse(data, mime.Limits{})
	if err != nil {
		return err
	}
	switch r := report.Parse(m); r.Kind {
	case report.Notification:
		to := r.Notification.Recipients[0]
		result := classify.Classify(classify.Input{Reply: smtpstatus.Parse(to.Diagnostic), Enhanced: to.Status})
		if result.Category == "" {
			return fmt.Errorf("%q has no category", to.Diagnostic)
		}
		return nil
	case report.Feedback:
		if len(r.Feedback.OriginalRcptTo) != 1 {
			return fmt.Errorf("a complaint of %q", r.Feedback.OriginalRcptTo)
		}
		return nil
	default:
		return fmt.Errorf("a report was read as %s: %s", r.Kind, r.Reason)
	}
}

// walkReport walks a report with go-message and reads its bodies.
func walkReport(data []byte) error {
	entity, err := message.Read(bytes.NewReader(data))
	if err != nil {
		return err
	}
	leaves := 0
	err = entity.Walk(func(_ []int, e *message.Entity, err error) error {
		if err != nil || e.MultipartReader() != nil {
			return err
		}
		leaves++
		_, err = io.Copy(io.Discard, e.Body)
		return err
	})
	if err == nil && leaves != 3 {
		err = fmt.Errorf("%d parts", leaves)
	}
	return err
}

func classifyReplies(replies []smtpstatus.Reply) error {
	for _, r := range replies {
		if classify.Classify(classify.Input{Reply: r}).Category == "" {
			return fmt.Errorf("%q has no category", r.String())
		}
	}
	return nil
}

// replies are what receivers say, of each sort some.
var replies = []string{
	"550 5.1.1 <ann@mail.example>: Recipient address rejected: User unknown in virtual mailbox table",
	"550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos",
	"452 4.2.2 The recipient's inbox is out of storage space and inactive",
	"552 5.2.2 mailbox full",
	"421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints",
	"421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address",
	"554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org",
	"550 5.7.26 This mail has been blocked because the sender is unauthenticated",
	"450 4.2.0 <ann@mail.example>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/",
	"550 High probability of spam",
	"554 5.4.4 Host or domain name not found. Name service error for name=mail.example type=MX: Host not found",
	"451 4.3.0 Temporary lookup failure",
	"530 5.7.0 Must issue a STARTTLS command first",
	"571 Delivery not authorized, message refused",
	"550 5.4.1 Recipient address rejected: Access denied. AS(201806281)",
	"999 something that nobody has ever written down",
}

func parsedReplies() []smtpstatus.Reply {
	parsed := make([]smtpstatus.Reply, len(replies))
	for i, r := range replies {
		parsed[i] = smtpstatus.Parse(r)
	}
	return parsed
}

// makeReports returns bounces and complaints of 4.5 KB in turn, each about another recipient.
func makeReports() [][]byte {
	reports := make([][]byte, 0, 2*reportKinds)
	for i := range reportKinds {
		recipient := fmt.Sprintf("user%d@mail.example", i)
		reports = append(reports, makeBounce(recipient, replies[i%len(replies)]), makeComplaint(recipient))
	}
	return reports
}

// reportBytes is how long reports are made.
const reportBytes = 4500

// makeBounce returns a delivery status notification (RFC 3464) as Postfix words it.
func makeBounce(recipient, diagnostic string) []byte {
	return multipart("delivery-status", "MAILER-DAEMON@mx.mail.example (Mail Delivery System)", "Undelivered Mail Returned to Sender",
		"This is the mail system at host mx.mail.example.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\n<"+
			recipient+">: host store.mail.example[192.0.2.9] said:\n    "+diagnostic+" (in reply to RCPT TO command)\n",
		"message/delivery-status", `Reporting-MTA: dns; mx.mail.example
X-Postfix-Queue-ID: 4XyZ1234
X-Postfix-Sender: rfc822; b-4711@bounce.source.test
Arrival-Date: Mon, 23 Nov 2026 12:00:00 +0000 (UTC)

Final-Recipient: rfc822; `+recipient+`
Original-Recipient: rfc822;`+recipient+`
Action: failed
Status: `+status(diagnostic)+`
Remote-MTA: dns; store.mail.example
Diagnostic-Code: smtp; `+diagnostic+"\n", recipient)
}

// status returns the enhanced status code of a diagnostic, or a general one.
func status(diagnostic string) string {
	if code := smtpstatus.Parse(diagnostic).Enhanced; !code.IsZero() {
		return code.String()
	}
	return "5.0.0"
}

// makeComplaint returns a feedback report (RFC 5965).
func makeComplaint(recipient string) []byte {
	return multipart("feedback-report", "Feedback Loop <fbl@mail.example>", "FW: Autumn",
		"This is an email abuse report for an email message received from IP 192.0.2.7\non Mon, 23 Nov 2026 12:00:00 +0000.\n",
		"message/feedback-report", `Feedback-Type: abuse
User-Agent: Feedback/2.0
Version: 1
Original-Mail-From: <b-4711@bounce.source.test>
Original-Rcpt-To: `+recipient+`
Arrival-Date: Mon, 23 Nov 2026 12:00:00 +0000
Source-IP: 192.0.2.7
Reported-Domain: source.test
Authentication-Results: mx.mail.example; dkim=pass header.d=source.test
`, recipient)
}

// multipart returns a report with its three parts: for people, for machines, and the message.
func multipart(kind, from, subject, text, machineType, machine, recipient string) []byte {
	const trace = "Received: from out1.source.test (out1.source.test [192.0.2.7])\n\tby mx.mail.example (Postfix) with ESMTPS id 4XyZ1234\n\tfor <%s>; Mon, 23 Nov 2026 12:00:00 +0000 (UTC)\n"
	received := strings.Repeat(fmt.Sprintf(trace, recipient), 2)
	message := "Return-Path: <>\n" + received + "Date: Mon, 23 Nov 2026 12:00:01 +0000\nFrom: " + from + "\nSubject: " + subject + `
To: b-4711@bounce.source.test
MIME-Version: 1.0
Content-Type: multipart/report; report-type=` + kind + `;
	boundary="4XyZ1234.1795435201/mx.mail.example"
Message-Id: <20261123120001.4XyZ1235@mx.mail.example>

--4XyZ1234.1795435201/mx.mail.example
Content-Type: text/plain; charset=us-ascii

` + text + `
--4XyZ1234.1795435201/mx.mail.example
Content-Type: ` + machineType + `

` + machine + `
--4XyZ1234.1795435201/mx.mail.example
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

` + received + `DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=source.test; s=bench;
	h=From:To:Subject:Date:Message-ID; bh=` + strings.Repeat("Ab0=", 11) + `;
	b=` + strings.Repeat("Cd1/", 86) + `
From: Shop <news@source.test>
To: ` + recipient + `
Subject: Autumn
Date: Mon, 23 Nov 2026 11:59:59 +0000
Message-ID: <4711@source.test>
Content-Type: text/html; charset=utf-8

`
	const line, end = "<p>A line of the message that nobody wanted.</p>\n", "\n--4XyZ1234.1795435201/mx.mail.example--\n"
	lines := strings.Count(message, "\n")
	for len(message)+lines+len(line)+len(end) < reportBytes {
		message += line
		lines++
	}
	return []byte(strings.ReplaceAll(message+end, "\n", "\r\n"))
}
