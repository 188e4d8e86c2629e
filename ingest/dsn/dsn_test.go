package dsn

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/ingest/mime"
	"carom/schemas/smtpstatus"
)

// report returns a notification with the given machine-readable part and returned header.
func report(status, returned string) string {
	return strings.ReplaceAll(`From: MAILER-DAEMON@mx.mail.example
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

Your message could not be delivered.
--b
Content-Type: message/delivery-status

`+status+`
--b
`+returned+`
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

func TestParse(t *testing.T) {
	r, err := parse(t, report(`Reporting-MTA: dns; mx.mail.example
Original-Envelope-Id: job+2B7
Arrival-Date: Mon, 23 Nov 2026 12:00:00 +0100 (CET)

Original-Recipient: rfc822;Ann@mail.example
Final-Recipient: rfc822; ann@store.mail.example
Action: failed
Status: 5.1.1 (bad destination mailbox address)
Remote-MTA: dns; store.mail.example
Diagnostic-Code: smtp; 550 5.1.1 <ann@store.mail.example>:
 user unknown
Last-Attempt-Date: Mon, 23 Nov 2026 12:00:01 +0100
Final-Log-Id: 7F00

Final-Recipient: rfc822; bob@mail.example
Action: delayed
Status: 4.2.2
Will-Retry-Until: Thu, 26 Nov 2026 12:00:00 +0100`, `Content-Type: text/rfc822-headers

Message-ID: <1@shop.example>
From: news@shop.example
X-Carom-Ref: b-abc`))
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 11, 23, 11, 0, 0, 0, time.UTC)
	want := &Report{
		ReportingMTA: "mx.mail.example", OriginalEnvelopeID: "job+7", ArrivalDate: noon, Format: "rfc3464",
		Recipients: []Recipient{
			{
				Original: "Ann@mail.example", Final: "ann@store.mail.example", Action: Failed,
				Status: smtpstatus.Enhanced{Class: 5, Subject: 1, Detail: 1}, RemoteMTA: "store.mail.example",
				DiagnosticType: "smtp", Diagnostic: "550 5.1.1 <ann@store.mail.example>: user unknown",
				LastAttempt: noon.Add(time.Second), FinalLogID: "7F00",
			},
			{Final: "bob@mail.example", Action: Delayed, Status: smtpstatus.Enhanced{Class: 4, Subject: 2, Detail: 2}, WillRetryUntil: noon.AddDate(0, 0, 3)},
		},
	}
	original := r.Original
	r.Original = mime.Header{}
	if diff := cmp.Diff(want, r, cmp.Comparer(func(mime.Header, mime.Header) bool { return true })); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
	if original.Get("Message-Id") != "<1@shop.example>" || original.Get("X-Carom-Ref") != "b-abc" || original.Get("From") != "news@shop.example" {
		t.Errorf("original header %v", original.Map())
	}
	if diff := cmp.Diff([]string{"Ann@mail.example", "ann@store.mail.example"}, r.Recipients[0].Addresses()); diff != "" {
		t.Errorf("Addresses (-want +got):\n%s", diff)
	}
}

func TestParseIsLenient(t *testing.T) {
	for _, tc := range []struct {
		name, status string
		want         []Recipient
	}{
		{"everything in one group", "Reporting-MTA: dns; mx\nFinal-Recipient: rfc822; a@b.example\nAction: failed", []Recipient{{Final: "a@b.example", Action: Failed}}},
		{
			"no blank line between recipients", "Final-Recipient: a@b.example\nAction: failed\nFinal-Recipient: c@d.example\nAction: relayed",
			[]Recipient{{Final: "a@b.example", Action: Failed}, {Final: "c@d.example", Action: Relayed}},
		},
		{
			"original recipient first in each", "Original-Recipient: rfc822;A@b.example\nFinal-Recipient: rfc822;a@b.example\n\nOriginal-Recipient: rfc822;C@d.example\nFinal-Recipient: rfc822;c@d.example\nAction: expanded",
			[]Recipient{{Original: "A@b.example", Final: "a@b.example"}, {Original: "C@d.example", Final: "c@d.example", Action: Expanded}},
		},
		{"only an original recipient", "Original-Recipient: rfc822;a@b.example\nAction: failed", []Recipient{{Original: "a@b.example", Action: Failed}}},
		{"brackets and a name", "Final-Recipient: rfc822; Ann <a@b.example>\nAction: Failure", []Recipient{{Final: "a@b.example", Action: Failed}}},
		{"blanks before colons, names in capitals", "FINAL-RECIPIENT : RFC822;a@b.example\nACTION : FAILED\nSTATUS : #5.2.2", []Recipient{{Final: "a@b.example", Action: Failed, Status: smtpstatus.Enhanced{Class: 5, Subject: 2, Detail: 2}}}},
		{"no action, permanent status", "Final-Recipient: rfc822;a@b.example\nStatus: 5.0.0", []Recipient{{Final: "a@b.example", Action: Failed, Status: smtpstatus.Enhanced{Class: 5}}}},
		{"no action, transient status", "Final-Recipient: rfc822;a@b.example\nStatus: 4.0.0", []Recipient{{Final: "a@b.example", Action: Delayed, Status: smtpstatus.Enhanced{Class: 4}}}},
		{"no action, success", "Final-Recipient: rfc822;a@b.example\nStatus: 2.0.0", []Recipient{{Final: "a@b.example", Action: Delivered, Status: smtpstatus.Enhanced{Class: 2}}}},
		{"unknown action and status", "Final-Recipient: rfc822;a@b.example\nAction: exploded\nStatus: bad", []Recipient{{Final: "a@b.example"}}},
		{"diagnostic without a type", "Final-Recipient: rfc822;a@b.example\nDiagnostic-Code: 550 no; such user", []Recipient{{Final: "a@b.example", Diagnostic: "550 no; such user"}}},
		{"international address, RFC 6533", `Final-Recipient: utf-8; j\x{FC}rgen\x{110000}\x{40}b.example` + "\nAction: delivered", []Recipient{{Final: `jürgen\x{110000}@b.example`, Action: Delivered}}},
		{"dates that are none", "Final-Recipient: rfc822;a@b.example\nLast-Attempt-Date: yesterday\nWill-Retry-Until: " + strings.Repeat("(", 1000), []Recipient{{Final: "a@b.example"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parse(t, report(tc.status, ""))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, r.Recipients); diff != "" {
				t.Errorf("recipients of %q (-want +got):\n%s", tc.status, diff)
			}
		})
	}
}

func TestParseGlobalReport(t *testing.T) {
	message := strings.Replace(report("Final-Recipient: utf-8; jürgen@b.example\nAction: failed", "Content-Type: message/global-headers\n\nMessage-ID: <2@shop.example>"),
		"message/delivery-status", "message/global-delivery-status", 1)
	r, err := parse(t, message)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Recipients) != 1 || r.Recipients[0].Final != "jürgen@b.example" || r.Original.Get("Message-Id") != "<2@shop.example>" {
		t.Errorf("got %+v", r)
	}
}

func TestNoReport(t *testing.T) {
	forwarded := "Subject: look\nContent-Type: multipart/mixed; boundary=f\n\n--f\nContent-Type: message/rfc822\n\n" +
		report("Final-Recipient: rfc822;a@b.example\nAction: failed", "") + "\n--f--\n"
	for name, message := range map[string]string{
		"plain mail":            "Subject: hello\n\nFinal-Recipient: rfc822;a@b.example\n",
		"forwarded report":      forwarded,
		"no recipient":          report("Reporting-MTA: dns; mx", ""),
		"empty machine part":    report("", ""),
		"recipient without one": report("Final-Recipient:\nAction: failed", ""),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := parse(t, message); !errors.Is(err, ErrNotDSN) {
				t.Errorf("Parse = %+v, %v, want ErrNotDSN", r, err)
			}
		})
	}
}

func TestHostileReports(t *testing.T) {
	for name, message := range map[string]string{
		"100,000 recipients":              report(strings.Repeat("Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\n\n", 100_000), ""),
		"as many without blank lines":     report(strings.Repeat("Final-Recipient:a@b.example\n", 100_000), ""),
		"fold of 2 MB":                    report("Final-Recipient: rfc822; a@b.example\nDiagnostic-Code: smtp;"+strings.Repeat("\n x", 700_000), ""),
		"comments in a date":              report("Arrival-Date: "+strings.Repeat("(", 1<<20)+"\nFinal-Recipient: a@b.example", ""),
		"escapes":                         report(`Final-Recipient: utf-8; `+strings.Repeat(`\x{`, 1<<20), ""),
		"returned header of 2 MB":         report("Final-Recipient: a@b.example", "Content-Type: message/rfc822\n\nSubject: "+strings.Repeat("x", 2<<20)),
		"returned header of 200,000 refs": report("Final-Recipient: a@b.example", "Content-Type: message/rfc822\n\n"+strings.Repeat("X-Carom-Ref: b-\n", 60_000)),
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
			if err != nil || len(r.Recipients) > MaxRecipients {
				t.Errorf("Parse: %v", err)
			}
			if strings.HasPrefix(name, "1") && !r.Truncated {
				t.Error("not marked as truncated")
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%d MiB allocated for %d KiB", grown>>20, len(message)>>10)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(report("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 no", "Content-Type: text/rfc822-headers\n\nX-Carom-Ref: b-x")))
	f.Add([]byte(report(`Final-Recipient: utf-8; \x{41}\x{`, "")))
	f.Add([]byte(report("Original-Envelope-Id: +2\nFinal-Recipient: <>\nArrival-Date: (\nStatus: #", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := mime.Parse(data, mime.Limits{MessageBytes: 1 << 16})
		if err != nil {
			return
		}
		r, err := Parse(m)
		if err != nil {
			if !errors.Is(err, ErrNotDSN) {
				t.Fatalf("Parse = %v", err)
			}
			return
		}
		if len(r.Recipients) == 0 {
			t.Fatal("a report without a recipient")
		}
		for _, one := range r.Recipients {
			if len(one.Addresses()) == 0 {
				t.Fatalf("a recipient without an address: %+v", one)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	message := []byte(report("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 no",
		"Content-Type: message/rfc822\n\n"+fmt.Sprintf("Message-ID: <1@shop.example>\nX-Carom-Ref: b-x\n\n%s", strings.Repeat("text of the message\n", 180))))
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := mime.Parse(message, mime.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Parse(m); err != nil {
			b.Fatal(err)
		}
	}
}
