package arf

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/ingest/mime"
)

// report returns a feedback report with the given machine-readable part.
func report(fields string) string {
	return strings.ReplaceAll(`From: fbl@mail.example
Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b

This is an abuse report.
--b
Content-Type: message/feedback-report

`+fields+`
--b
Content-Type: message/rfc822

Message-ID: <1@shop.example>
From: news@shop.example
X-Carom-Ref: b-abc

hello
--b--
`, "\n", "\r\n")
}

func parseText(tb testing.TB, message string) (*Report, error) {
	tb.Helper()
	m, err := mime.Parse([]byte(message), mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return Parse(m)
}

var ignoreHeader = cmp.Comparer(func(mime.Header, mime.Header) bool { return true })

func TestParse(t *testing.T) {
	r, err := parseText(t, report(`Feedback-Type: abuse
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <b-abc@bounce.shop.example>
Original-Rcpt-To: <ann@mail.example>
Original-Rcpt-To: rfc822; bob@mail.example
Received-Date: Mon, 23 Nov 2026 12:00:00 GMT
Source-IP: 192.0.2.7
Authentication-Results: mail.example; dkim=pass
 header.d=shop.example
Reported-Domain: Shop.Example
Reported-Uri: https://shop.example/
Reporting-MTA: dns; mx.mail.example
Original-Envelope-Id: job7
Incidents: 3
Removal-Recipient: ann@mail.example
X-Other: ignored`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Report{
		Format: "rfc5965", Type: Abuse, Word: "abuse", UserAgent: "SomeGenerator/1.0", Version: "1", OriginalMailFrom: "b-abc@bounce.shop.example",
		OriginalEnvelopeID: "job7", ArrivalDate: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), ReportingMTA: "mx.mail.example",
		SourceIP: netip.MustParseAddr("192.0.2.7"), Incidents: 3, OriginalRcptTo: []string{"ann@mail.example", "bob@mail.example"},
		ReportedDomains: []string{"shop.example"}, ReportedURIs: []string{"https://shop.example/"},
		AuthResults: []string{"mail.example; dkim=pass header.d=shop.example"}, RemovalRecipients: []string{"ann@mail.example"},
	}
	if diff := cmp.Diff(want, r, ignoreHeader, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
	if r.Original.Get("Message-Id") != "<1@shop.example>" || r.Original.Get("X-Carom-Ref") != "b-abc" {
		t.Errorf("original header %v", r.Original.Map())
	}
}

func TestFeedbackType(t *testing.T) {
	for _, tc := range []struct {
		field     string
		want      FeedbackType
		complaint bool
	}{
		{"Feedback-Type: abuse", Abuse, true},
		{"Feedback-Type: Fraud", Fraud, true},
		{"Feedback-Type: VIRUS", Virus, true},
		{"Feedback-Type: opt-out", OptOut, true},
		{"Feedback-Type: not-spam", NotSpam, false},
		{"Feedback-Type: auth-failure", AuthFailure, false},
		{"Feedback-Type: other", Other, false},
		{"Feedback-Type: miscategorized", Miscategorized, false},
		{"Feedback-Type: spam", Abuse, true},
		{"Feedback-Type: phishing", Fraud, true},
		{"Feedback-Type: malware", Virus, true},
		{"Feedback-Type: notspam", NotSpam, false},
		{"Feedback-Type: unsubscribe", OptOut, true},
		{"Feedback-Type: something else", Other, false},
		{"Feedback-Type: auth_failure", AuthFailure, false},
		{"Feedback-Type: opt-out-list", OptOut, true},
		{"Feedback-Type: dkim", AuthFailure, false},
		{"Feedback-Type: abuse; v=1", Abuse, true},
		{"Version: 1", Abuse, true},                           // the text says "abuse report"
		{"Version: 1\nAuth-Failure: spf", AuthFailure, false}, // and the field that it is none
	} {
		t.Run(tc.field, func(t *testing.T) {
			r, err := parseText(t, report(tc.field))
			if err != nil || r.Type != tc.want || r.Type.Complaint() != tc.complaint {
				t.Errorf("got %+v, %v, want %s, complaint %v", r, err, tc.want, tc.complaint)
			}
		})
	}
}

func TestSourceIP(t *testing.T) {
	for value, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "[192.0.2.7]": "192.0.2.7", "2001:db8::1": "2001:db8::1", "[IPv6:2001:db8::1]": "2001:db8::1", "::ffff:192.0.2.7": "192.0.2.7", "unknown": "invalid IP",
	} {
		r, err := parseText(t, report("Feedback-Type: abuse\nSource-IP: "+value))
		if err != nil || r.SourceIP.String() != want {
			t.Errorf("Source-IP %s: %v, %v, want %s", value, r.SourceIP, err, want)
		}
	}
}

func TestNoReport(t *testing.T) {
	for name, message := range map[string]string{
		"plain mail":           "Subject: hello\n\nhello\n",
		"one field":            "Subject: hello\n\nFeedback-Type: abuse\n",
		"forwarded report":     "Content-Type: message/rfc822\n\n" + report("Feedback-Type: abuse"),
		"fields in a question": "Subject: how to read these?\n\nI got this:\n\nFeedback-Type: abuse\nUser-Agent: x\nVersion: 1\n",
		"a notification about a report": "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nFinal-Recipient: rfc822; a@b.example\n" +
			"--b\nContent-Type: text/plain\n\nFeedback-Type: abuse\nUser-Agent: x\nVersion: 1\n--b--\n",
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := parseText(t, message); !errors.Is(err, ErrNotARF) {
				t.Errorf("Parse = %+v, %v, want ErrNotARF", r, err)
			}
		})
	}
}

// TestMalformedReport reads what is meant to be RFC 5965 and is not.
func TestMalformedReport(t *testing.T) {
	const machine = "Feedback-Type: fraud\nUser-Agent: x/1\nVersion: 1\nOriginal-Rcpt-To: ann@mail.example\n"
	const multipart = "Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nThis is an email abuse report.\n"
	for _, tc := range []struct {
		name, message, format string
		kind                  FeedbackType
	}{
		{"base64", multipart + "--b\nContent-Type: message/feedback-report\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte(machine)) + "\n--b--\n", formatRFC5965, Fraud},
		{"wrong type", multipart + "--b\nContent-Type: text/plain; name=report.txt\n\n" + machine + "--b--\n", formatLoose, Fraud},
		{"wrong type in mixed", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nA report.\n--b\nContent-Type: text/plain\n\n" + machine + "--b--\n", formatLoose, Fraud},
		{"octets", multipart + "--b\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename=feedback-report\n\n" + machine + "--b--\n", formatLoose, Fraud},
		{"misspelt type", multipart + "--b\nContent-Type: text/feedback-report\n\n" + machine + "--b--\n", formatRFC5965, Fraud},
		{"no multipart", "Subject: report\n\n" + machine + "\nFrom: x\n", formatLoose, Fraud},
		{"behind a text in one part", "Content-Type: text/plain; report-type=feedback-report\n\nThis is a report.\n\n" + machine, formatLoose, Fraud},
		{"no machine part", multipart + "--b\nContent-Type: message/rfc822\n\nTo: ann@mail.example\n\nx\n--b--\n", formatNoPart, Abuse},
		{"empty machine part", multipart + "--b\nContent-Type: message/feedback-report\n\n\n--b\nContent-Type: message/rfc822\n\nTo: ann@mail.example\n\n--b--\n", formatNoPart, Abuse},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parseText(t, tc.message)
			if err != nil || r.Format != tc.format || r.Type != tc.kind || !slices.Equal(r.Recipients(), []string{"ann@mail.example"}) {
				t.Errorf("Parse = %+v, %v, want %s, %s", r, err, tc.format, tc.kind)
			}
		})
	}
}

func TestOriginalInAPartOfAnotherType(t *testing.T) {
	const head = "Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nA report.\n--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n"
	r, err := parseText(t, head+"--b\nContent-Type: text/plain; name=message.eml\n\nReceived: by x\nFrom: news@shop.example\nTo: ann@mail.example\n\nhello\n--b--\n")
	if err != nil || r.Original.Get("From") != "news@shop.example" || !slices.Equal(r.Recipients(), []string{"ann@mail.example"}) {
		t.Errorf("Parse = %+v, %v", r, err)
	}
	r, err = parseText(t, head+"--b\nContent-Type: text/plain\n\nFrom: is no header\n--b--\n")
	if err != nil || r.Original.Len() != 0 {
		t.Errorf("Parse = %+v, %v, want no original", r, err)
	}
}

func TestAuthFailure(t *testing.T) {
	r, err := parseText(t, report(`Feedback-Type: auth-failure
User-Agent: filter/1
Version: 1
Auth-Failure: BodyHash
Delivery-Result: Spam
Identity-Alignment: dkim, spf
DKIM-Domain: Shop.example
DKIM-Identity: @shop.example
DKIM-Selector: s1
DKIM-Canonicalized-Header: ZnJvbTp4
DKIM-Canonicalized-Body: aGVs
 bG8=
DKIM-ADSP-DNS: "dkim=all"
SPF-DNS: txt : shop.example : "v=spf1 -all"
SPF-DNS: spf : shop.example : "v=spf1 ~all"
Source-IP: 192.0.2.7 (out1.shop.example)
Reported-Domain: shop.example`))
	if err != nil {
		t.Fatal(err)
	}
	want := AuthFailureReport{
		Failure: "bodyhash", DeliveryResult: "spam", IdentityAlignment: "dkim, spf", DKIMDomain: "shop.example", DKIMIdentity: "@shop.example", DKIMSelector: "s1",
		CanonicalHeader: "ZnJvbTp4", CanonicalBody: "aGVs bG8=", ADSPDNS: `"dkim=all"`, SPFDNS: []string{`txt : shop.example : "v=spf1 -all"`, `spf : shop.example : "v=spf1 ~all"`},
	}
	if diff := cmp.Diff(want, r.Auth); diff != "" || r.Type != AuthFailure || r.SourceIP.String() != "192.0.2.7" {
		t.Errorf("%s from %v (-want +got):\n%s", r.Type, r.SourceIP, diff)
	}
}

func TestCFBL(t *testing.T) {
	for _, tc := range []struct {
		fields string
		want   CFBL
	}{
		{"CFBL-Address: <fbl@shop.example>; report=arf\nCFBL-Feedback-ID: 111:222:\n 333", CFBL{"fbl@shop.example", "111:222:333", false}},
		{"CFBL-Address: fbl@shop.example ; report=xarf", CFBL{"fbl@shop.example", "", true}},
		{"From: x", CFBL{}},
	} {
		message := strings.Replace(report("Feedback-Type: abuse"), "X-Carom-Ref: b-abc", tc.fields, 1)
		if r, err := parseText(t, message); err != nil || r.CFBL != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", tc.fields, r.CFBL, err, tc.want)
		}
	}
}

func TestRecipients(t *testing.T) {
	for _, tc := range []struct{ name, machine, original, want string }{
		{"given", "Original-Rcpt-To: <ann@mail.example>\nOriginal-Rcpt-To: bob@mail.example", "To: eve@mail.example", "ann@mail.example bob@mail.example"},
		{"several in one field", "Original-Rcpt-To: <ann@mail.example>, bob@mail.example", "To: eve@mail.example", "ann@mail.example bob@mail.example"},
		{"by another name", "Original-Recipient: rfc822; ann@mail.example", "To: eve@mail.example", "ann@mail.example"},
		{"removal", "Removal-Recipient: ann@mail.example", "To: eve@mail.example", "ann@mail.example"},
		{"blanked out in the report", "Original-Rcpt-To: redacted", "To: \"Ann, A.\" <ann@mail.example>", "ann@mail.example"},
		{"AOL's half address", "Redacted-Address: redacted@", "To: ann@mail.example", "ann@mail.example"},
		{"hashed", "Original-Rcpt-To: rZ8cqXWG@mail.example", "To: ann@mail.example", "rZ8cqXWG@mail.example"},
		{"JMRP", "", "X-HmXmrOriginalRecipient: ann@mail.example\nTo: list@shop.example", "ann@mail.example"},
		{"blanked out in the message", "", "To: redacted@mail.example\nDelivered-To: ann@mail.example", "ann@mail.example"},
		{"all blanked out", "", "To: redacted@mail.example", "redacted@mail.example"},
		{"many", "", "To: a@mail.example, b@mail.example\nX-Apparently-To: b@mail.example; Mon, 23 Nov 2026 12:00:00 +0000", "b@mail.example"},
		{"many, and a trace", "", "Received: from x by y for <ann@mail.example>; Mon, 23 Nov 2026 12:00:00 +0000\nTo: a@mail.example, b@mail.example", "ann@mail.example"},
		{"not disclosed", "", "To: undisclosed-recipients:;", ""},
		{"not disclosed, wrongly", "", "To: <Undisclosed Recipients>", ""},
		{"wrong syntax", "", "To: Ann [ann] <ann@mail.example>", "ann@mail.example"},
		{"no header", "", "X: y", ""},
	} {
		message := strings.Replace(report("Feedback-Type: abuse\n"+tc.machine), "X-Carom-Ref: b-abc", tc.original, 1)
		r, err := parseText(t, message)
		if got := strings.Join(r.Recipients(), " "); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestHostileReport(t *testing.T) {
	r, err := parseText(t, report("Feedback-Type: abuse\n"+strings.Repeat("Original-Rcpt-To: ann@mail.example\n", 100_000)+"Incidents: 99999999999999999999\nArrival-Date: "+strings.Repeat("(", 1<<19)))
	if err != nil || len(r.OriginalRcptTo) != maxValues || r.Incidents != 1 {
		t.Errorf("%d recipients, %d incidents, %v", len(r.OriginalRcptTo), r.Incidents, err)
	}
	original := "To: " + strings.Repeat("(", 100_000) + "\nReceived: " + strings.Repeat(" for <a@b.example>;", 10_000) + strings.Repeat("\nDelivered-To: a@b.example", 5_000)
	r, err = parseText(t, strings.Replace(report("Feedback-Type: abuse"), "X-Carom-Ref: b-abc", original, 1))
	if err != nil || !slices.Equal(r.Candidates, []string{"a@b.example"}) {
		t.Errorf("candidates %d, %v", len(r.Candidates), err)
	}
}

// TestHostileMemory holds messages that are made to grow to bounded memory.
func TestHostileMemory(t *testing.T) {
	const multipart = "Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
	const object = `{"xarf_version": "4.0.0", "type": "spam", "smtp_to": "ann@mail.example", "evidence": `
	for name, message := range map[string]string{
		"evidence":         "Content-Type: application/json\n\n" + object + "[" + strings.Repeat("{},", 600_000) + "{}]}",
		"deep evidence":    "Content-Type: application/json\n\n" + object + strings.Repeat("[", 1<<20),
		"large evidence":   "Content-Type: application/json\n\n" + object + `[{"payload": "` + strings.Repeat("A", 1<<20) + `"}]}`,
		"many objects":     multipart + strings.Repeat("--b\nContent-Type: application/json\n\n{\"a\":["+strings.Repeat("1,", 1000)+"1]}\n", 1000),
		"many texts":       multipart + strings.Repeat("--b\n\nFrom: a\nTo: b\n"+strings.Repeat("X: y\n", 500)+"\n", 1000),
		"fields":           "Subject: x\n\n" + strings.Repeat("Version: 1\nUser-Agent: x\n", 100_000),
		"YAML":             "X-XARF: yes\n\n---\n" + strings.Repeat("Report-Type: spam\nSource: x\n", 100_000),
		"copy":             "From: a@reports.spamcop.net\n\nSpamCop V5\n" + strings.Repeat("[ Offending message ]\n", 100_000),
		"fields to repeat": report("Feedback-Type: abuse\n" + strings.Repeat("SPF-DNS: "+strings.Repeat("x", 900)+"\n", 4_000)),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := mime.Parse([]byte(message), mime.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := Parse(m)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
				t.Errorf("allocated %d MiB: %v", used>>20, err)
			} else {
				t.Logf("allocated %d KiB: %v, %v", used>>10, r != nil, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(report("Feedback-Type: abuse\nOriginal-Rcpt-To: <a@b.example>\nSource-IP: [IPv6:::1]\nIncidents: 2")))
	f.Add([]byte(report("Feedback-Type: not-spam\nArrival-Date: (\nOriginal-Mail-From: ><\nReporting-MTA: ;")))
	f.Add([]byte("X-XARF: yes\n\n---\nCategory: abuse\nReport-Type: spam\nSource: 192.0.2.7\n"))
	f.Add([]byte("Content-Type: application/json\n\n" + xarf4))
	f.Add([]byte("From: a@reports.spamcop.net\nSubject: [192.0.2.7]\n\nSpamCop V5\n[ Offending message ]\nFrom: a\nTo: b\nSubject: c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := mime.Parse(data, mime.Limits{MessageBytes: 1 << 16})
		if err != nil {
			return
		}
		r, err := Parse(m)
		if err != nil {
			if !errors.Is(err, ErrNotARF) {
				t.Fatalf("Parse = %v", err)
			}
			return
		}
		if r.Incidents < 1 || r.Type == "" || r.Format == "" || len(r.OriginalRcptTo) > maxValues || len(r.Candidates) > maxCandidates {
			t.Fatalf("Parse = %+v", r)
		}
	})
}
