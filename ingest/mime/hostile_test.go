package mime

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// maxHostile bounds what reading the worst message may allocate in all, in bytes. What lives at a
// time is less.
const maxHostile = 64 << 20

// hostile are the worst messages that are known, and some that only look bad. The shapes are those
// that other parsers hang or fall over on.
func hostile() map[string]string {
	multipart := "Content-Type: multipart/mixed; boundary=b\n\n"
	recipients := "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.mail.example\n" +
		strings.Repeat("\nFinal-Recipient: rfc822; ann@mail.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 no such user\n", 100_000) + "--b--\n"
	charsets := "Subject:"
	for i := range 10_000 {
		charsets += fmt.Sprintf(" =?%s?q?=FC?=", []string{"iso-8859-1", "koi8-r", "gb18030", "iso-2022-jp", "utf-16", fmt.Sprint("x", i)}[i%6])
	}
	parts := "Content-Type: multipart/mixed; boundary=b\n\n"
	for i := range 1000 {
		parts += fmt.Sprintf("--b\nContent-Type: text/plain; charset=%s\nContent-Transfer-Encoding: quoted-printable\n\n=FC\n", []string{"iso-8859-1", "big5", "utf-16", "x"}[i%4])
	}
	levels := "" // each level has the boundary of the one outside and one more byte
	for i := range 300 {
		levels += "Content-Type: multipart/mixed; boundary=" + strings.Repeat("b", i+1) + "\n\n--" + strings.Repeat("b", i+1) + "\n"
	}
	return map[string]string{
		"100,000 recipients":         recipients,
		"200,000 parts":              multipart + strings.Repeat("--b\n\nx\n", 200_000),
		"200,000 closed parts":       multipart + strings.Repeat("--b--\n", 200_000),
		"nesting of 2,000":           nested(2000),
		"nesting of boundaries":      levels + "\nhello\n",
		"nesting in one boundary":    strings.Repeat("Content-Type: multipart/mixed; boundary=b\n\n--b\n", 20_000),
		"header of 2 MB":             "Subject: " + strings.Repeat("x", 2<<20) + "\n\nhello",
		"header of 2 MB of blanks":   "Subject:" + strings.Repeat(" ", 2<<20) + "\n\nhello",
		"200,000 fields":             strings.Repeat("X-A: b\n", 200_000) + "\nhello",
		"fields without value":       strings.Repeat("a:\n", 1<<20) + "\nhello",
		"lines that are no fields":   "A: b\n" + strings.Repeat("no\n", 1<<20),
		"folds":                      "Subject: x\n" + strings.Repeat(" y\n", 300_000) + "\nhello",
		"boundary everywhere":        multipart + "--b\n\n" + strings.Repeat("--bb", 1<<20),
		"boundary in each line":      multipart + "--b\n\n" + strings.Repeat("\n--b x", 1<<20),
		"boundary without line ends": multipart + strings.Repeat("--b", 1<<20),
		"boundary of dashes":         "Content-Type: multipart/mixed; boundary=" + strings.Repeat("-", 200) + "\n\n" + strings.Repeat("-", 4<<20),
		"boundary of 10,000 bytes":   "Content-Type: multipart/mixed; boundary=" + strings.Repeat("b", 10_000) + "\n\n" + strings.Repeat("--"+strings.Repeat("b", 10_000)+"\n", 100),
		"empty boundary":             "Content-Type: multipart/mixed; boundary=\"\"\n\n" + strings.Repeat("--\n", 1<<20),
		"boundary of CRLF":           "Content-Type: multipart/mixed; boundary*=us-ascii''%0D%0A\n\n" + strings.Repeat("--\r\n", 1<<20),
		"boundary to guess":          "Content-Type: multipart/mixed\n\n" + strings.Repeat("--x\n", 1<<20),
		"base64 junk":                "Content-Transfer-Encoding: base64\n\n" + strings.Repeat("=!A", 1<<20),
		"base64 of 24 MB":            "Content-Transfer-Encoding: base64\n\n" + strings.Repeat("AAAA", 6<<20),
		"soft breaks":                "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=\n", 2<<20),
		"one line of equal signs":    "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=", 8<<20),
		"text that grows in UTF-8":   "Content-Type: text/plain; charset=windows-1252\n\n" + strings.Repeat("\x80", 4<<20),
		"parameters":                 "Content-Type: text/plain" + strings.Repeat("; a*0*=x", 100_000) + "\n\nhello",
		"parameters that are loose":  "Content-Type: text/plain; (;" + strings.Repeat("a=b;", 100_000) + "\n\nhello",
		"comments":                   "Content-Type: text/plain " + strings.Repeat("(", 1<<20) + "\nDate: " + strings.Repeat("(", 1<<20) + "\n\nhello",
		"encoded words":              "Subject: " + strings.Repeat("=?utf-8?q?x?= ", 50_000) + "\n\nhello",
		"encoded words without end":  "Subject: " + strings.Repeat("=?utf-8?q?=", 50_000) + "\n\nhello",
		"encoded words of charsets":  charsets + "\n\nhello",
		"bodies of charsets":         parts,
		"CR only":                    strings.Repeat("X: y\r", 100_000),
		"page of tags":               "Content-Type: text/html\n\n" + strings.Repeat("<p><a b=c>", 400_000),
		"page of one tag":            "Content-Type: text/html\n\n<p " + strings.Repeat("a=b ", 1<<20),
		"page of entities":           "Content-Type: text/html\n\n" + strings.Repeat("&lt;&#x41;&nosuch", 200_000),
		"page that is never closed":  "Content-Type: text/html\n\n" + strings.Repeat("<script><!--", 200_000),
	}
}

// readAll does with a message all that parsers of reports do with it.
func readAll(m *Message) (fields int) {
	subject, _ := m.Header.Text("Subject") // an unknown charset is not the matter here
	if original, ok := m.Original(); ok {
		fields = original.Len()
	}
	fields += len(subject) + len(m.Text()) + Date(m.Header.Get("Date")).Nanosecond()
	for i := range m.Parts {
		for range Fields(m.Parts[i].Body) {
			fields++
		}
	}
	return fields
}

// TestHostileMessages holds the worst messages that are known to bounded memory. That it ends says
// that time is bounded too: what is not linear takes hours. BenchmarkHostile measures it.
func TestHostileMessages(t *testing.T) {
	for name, message := range hostile() {
		t.Run(name, func(t *testing.T) {
			data := []byte(message)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			m, err := Parse(data, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			readAll(m)
			runtime.ReadMemStats(&after)
			used := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes, %d parts, cut by %v, allocated %d KiB", len(data), len(m.Parts), m.Cut, used>>10)
			if used > maxHostile {
				t.Errorf("allocated %d MiB", used>>20)
			}
		})
	}
}

// TestManyRecipientsAreRead: what exceeds a limit does not take what stands before it away.
func TestManyRecipientsAreRead(t *testing.T) {
	m, err := Parse([]byte(hostile()["100,000 recipients"]), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	recipients := 0
	if !m.Part("message/delivery-status").Cut {
		t.Error("the part is not cut")
	}
	for _, f := range Fields(m.Part("message/delivery-status").Body) {
		if f.Name == "final-recipient" {
			recipients++
		}
	}
	if limit, ok := errors.AsType[*LimitError](error(m.Cut)); recipients < 30_000 || !ok || limit.What != "message bytes" {
		t.Errorf("%d recipients, cut by %v", recipients, m.Cut)
	}
}

func BenchmarkHostile(b *testing.B) {
	for name, message := range hostile() {
		b.Run(name, func(b *testing.B) {
			data := []byte(message)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := Parse(data, Limits{})
				if err != nil {
					b.Fatal(err)
				}
				readAll(m)
			}
		})
	}
}
