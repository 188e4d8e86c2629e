package notice

import (
	"bytes"
	"strings"
	"testing"

	"carom/ingest/dsn"
	"carom/ingest/mime"
)

func FuzzParse(f *testing.F) {
	mails, _ := samples(f)
	for _, mail := range mails {
		f.Add(mail)
	}
	f.Add([]byte("From: mailer-daemon\nContent-Type: text/html\n\n<!--<p>a@b.c<style>x</style>&nbsp;"))
	f.Fuzz(func(t *testing.T, mail []byte) {
		m, err := mime.Parse(mail, mime.Limits{})
		if err != nil {
			return
		}
		r, err := Parse(m)
		if err != nil {
			return
		}
		if len(r.Recipients) == 0 {
			t.Fatal("a notice without a recipient")
		}
		for _, rcpt := range r.Recipients {
			if len(rcpt.Diagnostic) > 16<<10 {
				t.Fatalf("a reason of %d bytes; a field has 16 KiB at most", len(rcpt.Diagnostic))
			}
		}
		Complete(m, &dsn.Report{Recipients: []dsn.Recipient{{Action: dsn.Failed}, {Final: "ann@mail.example", Action: dsn.Failed}}})
	})
}

// FuzzText checks what everything stands on: a position in the lower-case text is one in the
// other, and lines cover the text.
func FuzzText(f *testing.F) {
	f.Add([]byte("a  b\r\n\r\n\u00a0c\t D\n> e"))
	f.Add([]byte("\xc2\xa0\xc2\n\xff"))
	f.Fuzz(func(t *testing.T, source []byte) {
		source = source[:min(len(source), maxText)]
		x := newText(source)
		if len(x.raw) != len(x.low) {
			t.Fatalf("%d and %d bytes", len(x.raw), len(x.low))
		}
		for n, l := range x.lines {
			if l.start >= l.end || l.end > len(x.raw) || x.lineAt(l.start) != n || x.lineAt(l.end-1) != n || l.at >= len(source) {
				t.Fatalf("line %d: %+v", n, l)
			}
		}
		for _, m := range x.mentions() {
			if l := x.lines[m.line]; m.start < l.start && m.end > l.end || !strings.Contains(m.address, "@") {
				t.Fatalf("%+v in line %+v", m, l)
			}
		}
		if at := x.returnedAt(); at < len(x.lines) {
			x.headerFrom(at)
		}
		if fields := x.statusFields(); fields != nil && !bytes.Contains(bytes.ToLower(fields), []byte("-recipient")) {
			t.Fatalf("status fields %q", fields)
		}
	})
}
