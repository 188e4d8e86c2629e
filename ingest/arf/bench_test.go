package arf

import (
	"strings"
	"testing"

	"carom/ingest/mime"
)

// BenchmarkParse reads a report, and a mail that is none, which every rule looks at.
func BenchmarkParse(b *testing.B) {
	for name, message := range map[string]string{
		"report": report("Feedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\nOriginal-Mail-From: <b-abc@bounce.shop.example>\nOriginal-Rcpt-To: ann@mail.example\nSource-IP: 192.0.2.7"),
		"none":   "From: ann@mail.example\nTo: bob@shop.example\nSubject: hello\n\n" + strings.Repeat("A line of a mail that is no report.\n", 100),
	} {
		b.Run(name, func(b *testing.B) {
			m, err := mime.Parse([]byte(message), mime.Limits{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if r, err := Parse(m); (err == nil) != (name == "report") {
					b.Fatal(r, err)
				}
			}
		})
	}
}
