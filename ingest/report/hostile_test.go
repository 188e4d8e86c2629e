package report

import (
	"runtime"
	"strings"
	"testing"

	"carom/ingest/mime"
)

// hostile are mails that cost as much as their writer can make them.
func hostile() map[string]string {
	many := strings.Repeat
	fields := func(s string) string {
		return "From: MAILER-DAEMON@mail.example\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\ntext\n--b\nContent-Type: message/delivery-status\n\n" + s + "\n--b--\n"
	}
	text := func(s string) string {
		return "From: MAILER-DAEMON@mail.example\nSubject: failure notice\n\nThis message could not be delivered:\n" + s
	}
	return map[string]string{
		"100,000 recipients":            fields("Reporting-MTA: dns; a\n\n" + many("Final-Recipient: rfc822; ann@mail.example\nAction: failed\nStatus: 5.1.1\n\n", 100_000)),
		"100,000 recipients, no reason": fields("Reporting-MTA: dns; a\n\n" + many("Final-Recipient: rfc822; ann\nAction: failed\n\n", 100_000)),
		"addresses in a text":           text(many("<ann@mail.example>:\n550 no\n\n", 200_000)),
		"addresses in one line":         text(many("a@b.c ", 500_000)),
		"@ alone":                       text(many("@", 5_000_000)),
		"quotes":                        text(many(`"@`, 2_000_000)),
		"labels":                        text(many("recipient: ", 400_000)),
		"reply codes":                   text(many("550 ", 1_000_000)),
		"numbers":                       text(many("5", 5_000_000)),
		"fields":                        text(many("Received: a\n", 400_000)),
		"lines of fields":               text(many("a: b\n", 500_000)),
		"status fields":                 text(many("Final-Recipient: a@b.c\n\n", 300_000)),
		"indented status fields":        text(many("  Final-Recipient: a@b.c\n\n", 300_000)),
		"quotations":                    text(many("> Received: a\n", 400_000)),
		"tags":                          "From: MAILER-DAEMON@a\nContent-Type: text/html\n\n" + many("<a", 2_000_000),
		"comments":                      "From: MAILER-DAEMON@a\nContent-Type: text/html\n\n" + many("<!--", 1_000_000),
		"entities":                      "From: MAILER-DAEMON@a\nContent-Type: text/html\n\n" + many("&lt", 1_000_000),
		"nested notices":                text(many("Return-Path: <>\nReceived: from a\nFrom: MAILER-DAEMON@a\nSubject: failure notice\n\nThis message could not be delivered\n\n", 30_000)),
		"open brackets of JSON":         "Subject: a\n\n{\"mail\":" + many("[", 200_000),
	}
}

// TestHostileMail bounds what a mail can make us allocate; a run that takes more than linear time
// would not end within the test's timeout.
func TestHostileMail(t *testing.T) {
	const limit = 64 << 20
	for name, mail := range hostile() {
		t.Run(name, func(t *testing.T) {
			m, err := mime.Parse([]byte(mail), mime.Limits{})
			if err != nil {
				return
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := Parse(m)
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > limit {
				t.Errorf("%s: %d MiB allocated for %d KiB", r.Kind, grown>>20, len(mail)>>10)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	padding := strings.Repeat("X-Padding: "+strings.Repeat("x", 60)+"\n", 40)
	returned := "\n--b\nContent-Type: message/rfc822\n\nReceived: from shop.example\nFrom: news@shop.example\nMessage-ID: <1@shop.example>\n" + padding + "\nHello\n--b--\n"
	for _, tc := range []struct{ name, mail string }{
		{"rfc3464", strings.Replace(notification, "\n--b--\n", returned, 1)},
		{"text", textOnly + "\n--- Below this line is a copy of the message.\n\nReceived: from shop.example\n" + padding},
		{"letter", "From: ann@mail.example\nSubject: Hello\n" + padding + "\nHow are you?\n"},
	} {
		mail := []byte(tc.mail)
		b.Run(tc.name, func(b *testing.B) {
			b.SetBytes(int64(len(mail)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := mime.Parse(mail, mime.Limits{})
				if err != nil {
					b.Fatal(err)
				}
				if Parse(m).Kind == "" {
					b.Fatal("no kind")
				}
			}
		})
		b.Run(tc.name+"/walk", func(b *testing.B) {
			b.SetBytes(int64(len(mail)))
			for b.Loop() {
				if _, err := mime.Parse(mail, mime.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
