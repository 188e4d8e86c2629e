package arf

import (
	"encoding/base64"
	"slices"
	"testing"
	"time"
)

const xarf4 = `{"xarf_version": "4.0.0", "report_id": "1", "timestamp": "2026-11-23T12:00:00Z",
 "reporter": {"org": "Mail", "contact": "abuse@mail.example", "domain": "mail.example"},
 "source_identifier": "192.0.2.7", "category": "messaging", "type": "spam", "protocol": "smtp",
 "smtp_from": "<b-abc@bounce.shop.example>", "smtp_to": "ann@mail.example", "subject": "Autumn", "message_id": "<1@shop.example>"}`

// xarf3 holds the message as a sample.
var xarf3 = `{"Version": "3", "ReporterInfo": {"ReporterOrg": "Mail", "ReporterOrgDomain": "mail.example", "ReporterOrgEmail": "abuse@mail.example"},
 "Disclosure": true, "Report": {"ReportClass": "Activity", "ReportType": "Spam", "Date": "2026-11-23T12:00:00Z", "SourceIp": "192.0.2.7", "SourcePort": 25,
 "SmtpMailFromAddress": "b-abc@bounce.shop.example", "SmtpRcptToAddress": "ann@mail.example",
 "Samples": [{"ContentType": "message/rfc822", "Base64Encoded": true, "Payload": "` +
	base64.StdEncoding.EncodeToString([]byte("From: news@shop.example\nTo: ann@mail.example\nMessage-ID: <1@shop.example>\n\nhello\n")) + `"}]}}`

const xarf02 = `---
Reported-From: reports@mail.example
Category: abuse
Report-Type: spam
Service: smtp
Version: 0.2
User-Agent: generator 1
Date: Mon, 23 Nov 2026 12:00:00 +0000
Source-Type: ip-address
Source: 192.0.2.7
Schema-URL: http://www.x-arf.org/schema/abuse_spam_0.1.2.json
`

const sample = "Content-Type: message/rfc822\n\nFrom: news@shop.example\nTo: ann@mail.example\nMessage-ID: <1@shop.example>\n\nhello\n--b--\n"

func TestXARF(t *testing.T) {
	const multipart = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nA report.\n--b\n"
	for _, tc := range []struct{ name, message string }{
		{"4", "X-XARF: PLAIN\n" + multipart + "Content-Type: application/json; name=xarf.json\n\n" + xarf4 + "\n--b--\n"},
		{"4 without a mark", multipart + "Content-Type: application/json\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte(xarf4)) + "\n--b--\n"},
		{"4 alone", "Content-Type: application/json\n\n" + xarf4},
		{"3", "X-XARF: PLAIN\n" + multipart + "Content-Type: application/json; name=xarf.json\n\n" + xarf3 + "\n--b--\n"},
		{"0.2", "X-XARF: PLAIN\n" + multipart + "Content-Type: text/plain; charset=utf-8; name=report.txt\n\n" + xarf02 + "--b\n" + sample},
		{"0.2 without a mark", multipart + "Content-Type: text/plain; name=report.txt\n\n" + xarf02 + "--b\n" + sample},
		{"0.2 signed", "X-XARF: SECURE\nContent-Type: multipart/signed; boundary=s\n\n--s\n" + multipart + "Content-Type: text/plain\n\n" + xarf02 + "--b\n" + sample + "--s\nContent-Type: application/pkcs7-signature\n\nx\n--s--\n"},
		{"0.1", "X-ARF: yes\n" + multipart + "Content-Type: text/plain\n\n" + xarf02 + "--b\n" + sample},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parseText(t, tc.message)
			if err != nil {
				t.Fatal(err)
			}
			if r.Format != formatXARF || r.Type != Abuse || r.SourceIP.String() != "192.0.2.7" || r.ReportingMTA != "mail.example" || !r.ArrivalDate.Equal(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)) {
				t.Errorf("Parse = %+v", r)
			}
			if !slices.Equal(r.Recipients(), []string{"ann@mail.example"}) || r.Original.Get("Message-ID") != "<1@shop.example>" {
				t.Errorf("recipients %q, Message-ID %q", r.Recipients(), r.Original.Get("Message-ID"))
			}
		})
	}
}

func TestXARFType(t *testing.T) {
	for _, tc := range []struct {
		category, kind, service string
		want                    FeedbackType
	}{
		{"abuse", "spam", "smtp", Abuse},
		{"messaging", "bulk_messaging", "", Abuse},
		{"messaging", "something_new", "", Abuse},
		{"Activity", "Spam", "", Abuse},
		{"fraud", "phishing", "http", Fraud},
		{"content", "phishing", "", Fraud},
		{"abuse", "malware-attack", "http", Virus},
		{"abuse", "login-attack", "ssh", Other},
		{"connection", "port_scan", "", Other},
		{"copyright", "p2p", "", Other},
	} {
		if got := xarfType(tc.category, tc.kind, tc.service); got != tc.want {
			t.Errorf("xarfType(%s, %s, %s) = %s, want %s", tc.category, tc.kind, tc.service, got, tc.want)
		}
	}
}

func TestNoXARF(t *testing.T) {
	for name, message := range map[string]string{
		"other JSON":       "Content-Type: application/json\n\n{\"type\": \"spam\"}",
		"broken JSON":      "Content-Type: application/json\n\n{\"xarf_version\": \"4\", \"type\": \"spam\"",
		"fields, no mark":  "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b\nContent-Type: text/plain\n\nReport-Type: spam\nSource: 192.0.2.7\n--b--\n",
		"mark, no report":  "X-XARF: PLAIN\n\nhello\n",
		"quoted in a mail": "Subject: x\n\n" + xarf02,
	} {
		if r, err := parseText(t, message); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, evidence := range []string{"5", `"x"`, "[5]", "[", `[{"payload": 5}]`, "{}", "null"} {
		message := `Content-Type: application/json` + "\n\n" + `{"xarf_version": "4.0.0", "type": "spam", "smtp_to": "ann@mail.example", "evidence": ` + evidence + "}"
		if r, err := parseText(t, message); (err == nil) != (evidence != "[") || err == nil && !slices.Equal(r.Recipients(), []string{"ann@mail.example"}) {
			t.Errorf("evidence %s: %+v, %v", evidence, r, err)
		}
	}
	wrongType := `{"xarf_version": "4.0.0", "type": "spam", "source_identifier": 5, "smtp_to": "ann@mail.example"}`
	if r, err := parseText(t, "Content-Type: application/json\n\n"+wrongType); err != nil || !slices.Equal(r.Recipients(), []string{"ann@mail.example"}) {
		t.Errorf("wrong type of a member: %+v, %v", r, err)
	}
}
