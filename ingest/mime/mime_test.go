package mime

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// crlf turns the line ends of a test's text into those of the wire.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

const report = `From: MAILER-DAEMON@mx.mail.example
Subject: =?iso-8859-1?q?Zur=FCck?=
Content-Type: multipart/report; report-type=delivery-status;
 boundary="=_b1"

preamble
--=_b1
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Zur=FCck
--=_b1
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.mail.example
--=_b1 
Content-Type: message/rfc822

Message-ID: <1@shop.example>
Content-Type: multipart/mixed; boundary=inner

--inner

hello
--inner--
--=_b1--
epilogue
`

// leaf is what the tests compare of a part.
type leaf struct{ Type, Body string }

func leaves(m *Message) []leaf {
	all := make([]leaf, 0, len(m.Parts))
	for _, p := range m.Parts {
		all = append(all, leaf{p.MediaType, string(p.Body)})
	}
	return all
}

func TestParseReport(t *testing.T) {
	original := "Message-ID: <1@shop.example>\nContent-Type: multipart/mixed; boundary=inner\n\n--inner\n\nhello\n--inner--"
	for name, end := range map[string]string{"CRLF": "\r\n", "LF": "\n", "CR": "\r"} {
		t.Run(name, func(t *testing.T) {
			kept := end
			if end == "\r" {
				kept = "\n" // a message without any LF is read as if it had them
			}
			m, err := Parse([]byte(strings.ReplaceAll(report, "\n", end)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			want := []leaf{
				{"text/plain", "Zurück"},
				{"message/delivery-status", "Reporting-MTA: dns; mx.mail.example"},
				{"message/rfc822", strings.ReplaceAll(original, "\n", kept)},
			}
			if diff := cmp.Diff(want, leaves(m)); diff != "" {
				t.Errorf("leaves (-want +got):\n%s", diff)
			}
			if subject, err := m.Header.Text("Subject"); err != nil || subject != "Zurück" {
				t.Errorf("subject %q, %v", subject, err)
			}
			if m.MediaType != "multipart/report" || m.Params["report-type"] != "delivery-status" || m.Text() != "Zurück" {
				t.Errorf("%s %v %q", m.MediaType, m.Params, m.Text())
			}
			if h, ok := m.Original(); !ok || h.Get("Message-Id") != "<1@shop.example>" {
				t.Errorf("original header %v %q", ok, h.Get("Message-Id"))
			}
		})
	}
}

func TestParseIsLenient(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		want          []leaf
	}{
		{"no header at all", "hello\nworld\n", []leaf{{"text/plain", "hello\nworld\n"}}},
		{"header only", "Subject: x", []leaf{{"text/plain", ""}}},
		{"mbox line first", "From ann@mail.example Mon Jan  2\nSubject: x\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"line that is no field", "Subject: x\nno field\nContent-Type: text/html\n\nhello", []leaf{{"text/html", "hello"}}},
		{"continuation first", " folded\nSubject: x\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"no closing delimiter", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n", []leaf{{"text/plain", "one"}, {"text/plain", "two\n"}}},
		{"no delimiter", "Content-Type: multipart/mixed; boundary=b\n\nhello\n", []leaf{{"text/plain", "hello\n"}}},
		{"no boundary", "Content-Type: multipart/mixed\n\n--b\n\none\n", []leaf{{"multipart/mixed", "--b\n\none\n"}}},
		{"unquoted boundary with forbidden bytes", "Content-Type: multipart/mixed; boundary=a=b?c; x\n\n--a=b?c\n\none\n--a=b?c--\n", []leaf{{"text/plain", "one"}}},
		{"boundary that begins like another", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--bb\nstill\n--b--\n", []leaf{{"text/plain", "one\n--bb\nstill"}}},
		{"boundary inside a line", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none --b\n--b--\n", []leaf{{"text/plain", "one --b"}}},
		{
			"inner boundary is the outer", "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b--\n",
			[]leaf{{"text/plain", ""}, {"text/plain", "one"}},
		},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\n--b--\n", []leaf{{"message/rfc822", "Subject: x\n"}}},
		{"base64 cut by junk", "Content-Transfer-Encoding: base64\n\naGVsbG8g\n!!!!", []leaf{{"text/plain", "hello "}}},
		{"unknown transfer encoding", "Content-Transfer-Encoding: x-uuencode\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"unknown charset", "Content-Type: text/plain; charset=klingon\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"Japanese", "Content-Type: text/plain; charset=iso-2022-jp\n\n\x1b$B%F\x1b(B", []leaf{{"text/plain", "テ"}}},
		{
			"machine part in base64", "Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("Action: failed")),
			[]leaf{{"message/delivery-status", "Action: failed"}},
		},
		{"senseless Content-Type", "Content-Type: ;;;\n\nhello", []leaf{{"text/plain", "hello"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Parse([]byte(tc.message), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, leaves(m)); diff != "" {
				t.Errorf("leaves of %q (-want +got):\n%s", tc.message, diff)
			}
		})
	}
}

func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	return b.String() + "\nhello\n"
}

func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		limits        Limits
		want          string // LimitError.What, or ""
	}{
		{"message bytes", "Subject: x\n\nhello", Limits{MessageBytes: 10}, "message bytes"},
		{"header bytes", "Subject: " + strings.Repeat("x", 100) + "\n\nhello", Limits{HeaderBytes: 50}, "header bytes"},
		{"header bytes of a part", "Content-Type: multipart/mixed; boundary=b\n\n--b\nX: " + strings.Repeat("x", 100) + "\n\nhello", Limits{HeaderBytes: 60}, "header bytes"},
		{"depth", nested(4), Limits{Depth: 3}, "depth"},
		{"depth is enough", nested(3), Limits{Depth: 3}, ""},
		{"parts", "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 4), Limits{Parts: 3}, "parts"},
		{"parts are enough", "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 3), Limits{Parts: 3}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.message), tc.limits)
			limit, ok := errors.AsType[*LimitError](err)
			if ok != (tc.want != "") || ok && limit.What != tc.want {
				t.Errorf("Parse = %v, want the limit %q", err, tc.want)
			}
		})
	}
	t.Run("body is cut", func(t *testing.T) {
		for _, encoding := range []string{"7bit", "quoted-printable"} {
			m, err := Parse([]byte("Content-Transfer-Encoding: "+encoding+"\n\nhello world"), Limits{BodyBytes: 5})
			if err != nil {
				t.Fatal(err)
			}
			if p := m.Parts[0]; string(p.Body) != "hello" || !p.Cut {
				t.Errorf("%s: body %q, cut %v", encoding, p.Body, p.Cut)
			}
		}
	})
}

func TestRead(t *testing.T) {
	if m, err := Read(strings.NewReader(crlf(report)), Limits{}); err != nil || len(m.Parts) != 3 {
		t.Errorf("Read = %v, %v", m, err)
	}
	if _, err := Read(strings.NewReader(" \r\n"), Limits{}); !errors.Is(err, ErrEmpty) {
		t.Errorf("Read of blanks = %v, want ErrEmpty", err)
	}
	if _, err := Read(strings.NewReader(strings.Repeat("x", 100)), Limits{MessageBytes: 99}); err == nil {
		t.Error("Read of too much gives no error")
	}
	if _, err := Read(iotest.ErrReader(io.ErrClosedPipe), Limits{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read = %v, want the reader's error", err)
	}
}

func TestParseHeaderKeepsWhatIsBeforeTheLimit(t *testing.T) {
	h, body, err := ParseHeader([]byte("A: 1\nB: "+strings.Repeat("x", 100)+"\n\nbody"), 20)
	if _, ok := errors.AsType[*LimitError](err); !ok || h.Get("A") != "1" || h.Has("B") || string(body) != "body" {
		t.Errorf("got %v, %q, %v", h.Map(), body, err)
	}
}

func TestFields(t *testing.T) {
	type line struct {
		Group int
		Field
	}
	var got []line
	body := "\nReporting-MTA: dns; mx\nno field\n\n\nFinal-Recipient :\n rfc822;\n\tann@mail.example\n \nDiagnostic-Code: smtp; 550\n no\n folded end"
	for group, f := range Fields([]byte(crlf(body))) {
		got = append(got, line{group, f})
	}
	want := []line{
		{0, Field{"reporting-mta", "dns; mx"}},
		{1, Field{"final-recipient", "rfc822; ann@mail.example"}},
		{2, Field{"diagnostic-code", "smtp; 550 no folded end"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Fields (-want +got):\n%s", diff)
	}
}

// TestHostileMessages holds the worst messages that are known to a second and to an error or a
// bounded result.
func TestHostileMessages(t *testing.T) {
	for name, message := range map[string]string{
		"200,000 parts":       "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 200_000),
		"nesting of 2,000":    nested(2000),
		"header of 2 MB":      "Subject: " + strings.Repeat("x", 2<<20) + "\n\nhello",
		"200,000 fields":      strings.Repeat("X-A: b\n", 200_000) + "\nhello",
		"folds":               "Subject: x\n" + strings.Repeat(" y\n", 300_000) + "\nhello",
		"boundary everywhere": "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n" + strings.Repeat("--bb", 1<<20),
		"boundary of dashes":  "Content-Type: multipart/mixed; boundary=" + strings.Repeat("-", 200) + "\n\n" + strings.Repeat("-", 4<<20),
		"base64 junk":         "Content-Transfer-Encoding: base64\n\n" + strings.Repeat("=!A", 1<<20),
		"parameters":          "Content-Type: text/plain" + strings.Repeat("; a*0*=x", 100_000) + "\n\nhello",
		"encoded words":       "Subject: " + strings.Repeat("=?utf-8?q?=", 50_000) + "\n\nhello",
		"CR only":             strings.Repeat("X: y\r", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			m, err := Parse([]byte(message), Limits{})
			if err == nil {
				_, _ = m.Header.Text("Subject") // decoding is part of the cost; its error is not the matter here
			} else if _, ok := errors.AsType[*LimitError](err); !ok {
				t.Errorf("Parse = %v, want a LimitError", err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(report))
	f.Add([]byte(crlf(report)))
	f.Add([]byte(nested(5)))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=\"\"\n\n--\n--\n"))
	f.Add([]byte("Content-Type: text/plain; charset=utf-7\nContent-Transfer-Encoding: base64\n\nAAAA=A"))
	limits := Limits{MessageBytes: 1 << 16, HeaderBytes: 1 << 12, BodyBytes: 1 << 12, Depth: 3, Parts: 10}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, limits)
		if err != nil {
			_, ok := errors.AsType[*LimitError](err)
			if !ok && !errors.Is(err, ErrEmpty) {
				t.Fatalf("Parse = %v", err)
			}
			return
		}
		if len(m.Parts) == 0 || len(m.Parts) > limits.Parts {
			t.Fatalf("%d parts", len(m.Parts))
		}
		for _, p := range m.Parts {
			if len(p.Body) > limits.BodyBytes || p.Depth > limits.Depth || p.MediaType == "" {
				t.Fatalf("part %q of %d bytes at depth %d", p.MediaType, len(p.Body), p.Depth)
			}
			for _, field := range Fields(p.Body) {
				if len(field.Value) > maxFieldValue || field.Name == "" {
					t.Fatalf("field %q with %d bytes", field.Name, len(field.Value))
				}
			}
		}
		m.Original()
		m.Text()
	})
}

func BenchmarkParse(b *testing.B) {
	data := []byte(crlf(report))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
