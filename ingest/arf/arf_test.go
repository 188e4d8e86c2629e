package arf

import (
	"errors"
	"net/netip"
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

func parse(tb testing.TB, message string) (*Report, error) {
	tb.Helper()
	m, err := mime.Parse([]byte(message), mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return Parse(m)
}

var ignoreHeader = cmp.Comparer(func(mime.Header, mime.Header) bool { return true })

func TestParse(t *testing.T) {
	r, err := parse(t, report(`Feedback-Type: abuse
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
		Type: Abuse, Word: "abuse", UserAgent: "SomeGenerator/1.0", Version: "1", OriginalMailFrom: "b-abc@bounce.shop.example",
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
		{"Feedback-Type: miscategorized", Other, false},
		{"Version: 1", Other, false},
	} {
		t.Run(tc.field, func(t *testing.T) {
			r, err := parse(t, report(tc.field))
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
		r, err := parse(t, report("Feedback-Type: abuse\nSource-IP: "+value))
		if err != nil || r.SourceIP.String() != want {
			t.Errorf("Source-IP %s: %v, %v, want %s", value, r.SourceIP, err, want)
		}
	}
}

func TestNoReport(t *testing.T) {
	for name, message := range map[string]string{
		"plain mail":         "Subject: hello\n\nFeedback-Type: abuse\n",
		"forwarded report":   "Content-Type: message/rfc822\n\n" + report("Feedback-Type: abuse"),
		"empty machine part": report(""),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := parse(t, message); !errors.Is(err, ErrNotARF) {
				t.Errorf("Parse = %+v, %v, want ErrNotARF", r, err)
			}
		})
	}
}

func TestHostileReport(t *testing.T) {
	start := time.Now()
	r, err := parse(t, report("Feedback-Type: abuse\n"+strings.Repeat("Original-Rcpt-To: ann@mail.example\n", 100_000)+"Incidents: 99999999999999999999\nArrival-Date: "+strings.Repeat("(", 1<<19)))
	if err != nil || len(r.OriginalRcptTo) != maxValues || r.Incidents != 1 {
		t.Errorf("%d recipients, %d incidents, %v", len(r.OriginalRcptTo), r.Incidents, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(report("Feedback-Type: abuse\nOriginal-Rcpt-To: <a@b.example>\nSource-IP: [IPv6:::1]\nIncidents: 2")))
	f.Add([]byte(report("Feedback-Type: not-spam\nArrival-Date: (\nOriginal-Mail-From: ><\nReporting-MTA: ;")))
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
		if r.Incidents < 1 || r.Type == "" || len(r.OriginalRcptTo) > maxValues {
			t.Fatalf("Parse = %+v", r)
		}
	})
}
