package report

import (
	"strings"
	"testing"

	"carom/ingest/dsn"
	"carom/ingest/mime"
)

const (
	notification = `From: MAILER-DAEMON@mail.example
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

Sorry, <ann@mail.example>: host mx.mail.example said: 550 5.1.1 no such user
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example

Final-Recipient: rfc822; ann@mail.example
Action: failed
Status: 5.0.0
--b--
`
	complaint = `From: fbl@mail.example
Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b

A person complained.
--b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: x/1
Version: 1
--b
Content-Type: message/rfc822

From: news@shop.example
--b--
`
	tlsReport = `From: tls@mail.example
Subject: Report Domain: shop.example
Content-Type: application/tlsrpt+json

{"organization-name":"Mail","date-range":{"start-datetime":"2026-06-01T00:00:00Z","end-datetime":"2026-06-01T23:59:59Z"},
"report-id":"1","policies":[{"policy":{"policy-type":"sts","policy-domain":"shop.example"},"summary":{"total-successful-session-count":3,"total-failure-session-count":1}}]}
`
	textOnly = `From: MAILER-DAEMON@mail.example
Subject: failure notice

Hi. This is the qmail-send program at mail.example.
I'm afraid I wasn't able to deliver your message to the following addresses.

<ann@mail.example>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 no such user
Giving up on 192.0.2.7.
`
	snsBounce = `From: SES <no-reply@sns.mail.example>
Subject: AWS Notification Message

{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","bouncedRecipients":[{"emailAddress":"ann@mail.example","action":"failed","status":"5.1.1","diagnosticCode":"smtp; 550 5.1.1 no!
  such user"}],"reportingMTA":"dsn; a.mail.example"},"mail":{"source":"news@shop.example","headers":[{"name":"Message-ID","value":"<1@shop.example>"}]}}
--
Unsubscribe here.
`
	snsComplaint = `From: SES <no-reply@sns.mail.example>

{"notificationType":"Complaint","complaint":{"complainedRecipients":[{"emailAddress":"ann@mail.example"}],"complaintFeedbackType":"abuse","arrivalDate":"2026-06-01T10:00:00.000Z"},"mail":{"source":"news@shop.example"}}
`
	absence = `From: ann@mail.example
Subject: Out of office
Auto-Submitted: auto-replied

I am away.
`
	letter = `From: ann@mail.example
Subject: Hello

How are you?
`
)

func parse(tb testing.TB, mail string) Report {
	tb.Helper()
	m, err := mime.Parse([]byte(strings.ReplaceAll(mail, "\n", "\r\n")), mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return Parse(m)
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, mail string
		kind       Kind
		format     string // of the notification
	}{
		{"RFC 3464", notification, Notification, "rfc3464"},
		{"a complaint", complaint, Feedback, ""},
		{"a TLS report", tlsReport, Aggregate, ""},
		{"text for people", textOnly, Notification, "qmail"},
		{"Amazon's bounce", snsBounce, Notification, "amazon-sns"},
		{"Amazon's complaint", snsComplaint, Feedback, ""},
		{"an absence notice", absence, AutoReply, ""},
		{"a letter", letter, None, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := parse(t, tc.mail)
			if r.Kind != tc.kind {
				t.Fatalf("kind %q (%s), want %q", r.Kind, r.Reason, tc.kind)
			}
			if (r.Notification != nil) != (tc.kind == Notification) || (r.Feedback != nil) != (tc.kind == Feedback) || (r.Aggregate != nil) != (tc.kind == Aggregate) {
				t.Errorf("reports %v %v %v don't fit kind %q", r.Notification, r.Feedback, r.Aggregate, r.Kind)
			}
			if (r.Reason != "") != (tc.kind == AutoReply || tc.kind == None) {
				t.Errorf("reason %q", r.Reason)
			}
			if r.Notification == nil {
				return
			}
			rcpt := r.Notification.Recipients[0]
			if r.Notification.Format != tc.format || rcpt.Final != "ann@mail.example" || rcpt.Status.String() != "5.1.1" || rcpt.Action != dsn.Failed || !strings.Contains(rcpt.Diagnostic, "550 5.1.1 no such user") {
				t.Errorf("format %s, recipient %+v", r.Notification.Format, rcpt)
			}
		})
	}
}

func TestAmazonGivesTheHeaderOfTheMessage(t *testing.T) {
	if id := parse(t, snsBounce).Notification.Original.Get("Message-ID"); id != "<1@shop.example>" {
		t.Errorf("Message-ID %q", id)
	}
}

func FuzzParse(f *testing.F) {
	for _, mail := range []string{notification, complaint, tlsReport, textOnly, snsBounce, snsComplaint, absence, letter} {
		f.Add([]byte(mail))
	}
	f.Fuzz(func(t *testing.T, mail []byte) {
		m, err := mime.Parse(mail, mime.Limits{})
		if err != nil {
			return
		}
		r := Parse(m)
		switch {
		case r.Kind == Notification && r.Notification != nil, r.Kind == Feedback && r.Feedback != nil, r.Kind == Aggregate && r.Aggregate != nil:
		case (r.Kind == AutoReply || r.Kind == None) && r.Reason != "":
		default:
			t.Fatalf("%+v", r)
		}
	})
}
