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
	"unicode/utf8"

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
		{"empty lines first", "\r\n\nSubject: x\nContent-Type: text/html\n\nhello", []leaf{{"text/html", "hello"}}},
		{"mbox line first", "From ann@mail.example Mon Jan  2\nSubject: x\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"line that is no field", "Subject: x\nno field\nContent-Type: text/html\n\nhello", []leaf{{"text/html", "hello"}}},
		{"continuation first", " folded\nSubject: x\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"no closing delimiter", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n", []leaf{{"text/plain", "one"}, {"text/plain", "two\n"}}},
		{"no delimiter", "Content-Type: multipart/mixed; boundary=b\n\nhello\n", []leaf{{"text/plain", "hello\n"}}},
		{"no boundary", "Content-Type: multipart/mixed\n\n--b\n\none\n", []leaf{{"text/plain", "--b\n\none\n"}}},
		{"no boundary in the header", "Content-Type: multipart/report\n\npreamble\n--b=?\nContent-Type: text/plain\n\none\n--b=?--\n", []leaf{{"text/plain", "one"}}},
		{"another boundary in the header", "Content-Type: multipart/report; boundary=x\n\n--b\ncontent-type: text/html\n\none\n--b--\n", []leaf{{"text/html", "one"}}},
		{"empty boundary", "Content-Type: multipart/mixed; boundary=\"\"\n\n--\nContent-Type: text/html\n\none\n----\n", []leaf{{"text/plain", "--\nContent-Type: text/html\n\none\n----\n"}}},
		{"boundary of 200 bytes", "Content-Type: multipart/mixed; boundary=" + strings.Repeat("b", 200) + "\n\n--" + strings.Repeat("b", 200) + "\n\none\n", []leaf{{"text/plain", "one\n"}}},
		{"boundary of regular expressions", "Content-Type: multipart/mixed; boundary=\".*+?[(\"\n\n--.*+?[(\n\none\n--.*+?[(--", []leaf{{"text/plain", "one"}}},
		{"boundary with a line end in it", "Content-Type: multipart/mixed; boundary*=us-ascii''%0D%0A\n\nhello\n", []leaf{{"text/plain", "hello\n"}}},
		{"boundary in continuations", "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\n\n--ab\n\none\n--ab--", []leaf{{"text/plain", "one"}}},
		{"comment in Content-Type", "Content-Type: multipart/mixed (mixed); (x) boundary=b (b)\n\n--b\nContent-Type: text/html (page); charset=iso-8859-1 (old)\n\n\xfc\n--b--", []leaf{{"text/html", "ü"}}},
		{"CR twice", "Subject: x\r\r\nContent-Type: multipart/mixed; boundary=b\r\r\n\r\r\n--b\r\r\n\r\r\none\r\r\n--b--\r\r\n", []leaf{{"text/plain", "one\r"}}},
		{"unquoted boundary with forbidden bytes", "Content-Type: multipart/mixed; boundary=a=b?c; x\n\n--a=b?c\n\none\n--a=b?c--\n", []leaf{{"text/plain", "one"}}},
		{"boundary that begins like another", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--bb\nstill\n--b--\n", []leaf{{"text/plain", "one\n--bb\nstill"}}},
		{"boundary inside a line", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none --b\n--b--\n", []leaf{{"text/plain", "one --b"}}},
		{
			"inner boundary is the outer", "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b--\n",
			[]leaf{{"text/plain", ""}, {"text/plain", "one"}},
		},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\n--b--\n", []leaf{{"message/rfc822", "Subject: x\n"}}},
		{"unknown transfer encoding", "Content-Transfer-Encoding: x-uuencode\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"unknown charset", "Content-Type: text/plain; charset=klingon\n\nhello", []leaf{{"text/plain", "hello"}}},
		{"Japanese", "Content-Type: text/plain; charset=iso-2022-jp\n\n\x1b$B%F\x1b(B", []leaf{{"text/plain", "テ"}}},
		{
			"machine part in base64", "Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("Action: failed")),
			[]leaf{{"message/delivery-status", "Action: failed"}},
		},
		{"signed and opaque", "Content-Type: application/pkcs7-mime; name=smime.p7m\n\nMIIB", []leaf{{"application/pkcs7-mime", "MIIB"}}},
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

// TestLimits: what stands before a limit is there, and Cut says which limit it was.
func TestLimits(t *testing.T) {
	multipart := "Content-Type: multipart/mixed; boundary=b\n\n"
	for _, tc := range []struct {
		name, message string
		limits        Limits
		cut           string // LimitError.What, or ""
		want          []leaf
	}{
		{"message bytes", "Subject: x\n\nhello", Limits{MessageBytes: 14}, "message bytes", []leaf{{"text/plain", "he"}}},
		{"header bytes", "Subject: " + strings.Repeat("x", 100) + "\n\nhello", Limits{HeaderBytes: 50}, "header bytes", []leaf{{"text/plain", "hello"}}},
		{
			"header bytes of a part", multipart + "--b\nContent-Type: text/html\nX: " + strings.Repeat("x", 100) + "\n\nhello",
			Limits{HeaderBytes: 60},
			"header bytes",
			[]leaf{{"text/html", "hello"}},
		},
		{"body bytes", multipart + "--b\n\nhello\n--b\n\nx\n", Limits{BodyBytes: 3}, "body bytes", []leaf{{"text/plain", "hel"}, {"text/plain", "x\n"}}},
		{"depth", nested(4), Limits{Depth: 3}, "depth", []leaf{{"multipart/mixed", "--b3\n\nhello\n"}}},
		{"depth is enough", nested(3), Limits{Depth: 3}, "", []leaf{{"text/plain", "hello\n"}}},
		{"parts", multipart + strings.Repeat("--b\n\nx\n", 4), Limits{Parts: 2}, "parts", []leaf{{"text/plain", "x"}, {"text/plain", "x"}}},
		{"parts are enough", multipart + strings.Repeat("--b\n\nx\n", 2), Limits{Parts: 2}, "", []leaf{{"text/plain", "x"}, {"text/plain", "x\n"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Parse([]byte(tc.message), tc.limits)
			if err != nil {
				t.Fatal(err)
			}
			if (m.Cut != nil) != (tc.cut != "") || m.Cut != nil && m.Cut.What != tc.cut {
				t.Errorf("cut by %v, want %q", m.Cut, tc.cut)
			}
			if diff := cmp.Diff(tc.want, leaves(m)); diff != "" {
				t.Errorf("leaves (-want +got):\n%s", diff)
			}
			if cut := tc.cut == messageBytes || tc.cut == "body bytes"; m.Parts[0].Cut != cut {
				t.Errorf("the first part is cut: %v, want %v", m.Parts[0].Cut, cut)
			}
		})
	}
}

func TestText(t *testing.T) {
	multipart := "Content-Type: multipart/alternative; boundary=b\n\n"
	for _, tc := range []struct{ name, message, want string }{
		{"text", multipart + "--b\n\nhello\n--b\nContent-Type: text/html\n\n<p>page\n--b--", "hello"},
		{"empty text before text", multipart + "--b\n\n \n--b\nContent-Type: text/html\n\n<p>page\n--b\n\nhello\n--b--", "hello"},
		{"page alone", "Content-Type: text/html; charset=iso-8859-1\n\n<p>Zur\xfcck", "Zurück"},
		{"empty text and page", multipart + "--b\n\n\n--b\nContent-Type: text/html\n\n<p>page\n--b--", "page"},
		{"neither", "Content-Type: application/ms-tnef\n\nhello", ""},
		{"inside a message", "Content-Type: message/rfc822\n\nSubject: x\n\nhello", ""},
	} {
		m, err := Parse([]byte(tc.message), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Text(); got != tc.want {
			t.Errorf("%s: text %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestDate(t *testing.T) {
	for value, want := range map[string]string{
		"Mon, 23 Nov 2026 12:00:00 +0100":       "2026-11-23T11:00:00Z",
		"Mon, 23 Nov 2026 12:00:00 +0100 (CET)": "2026-11-23T11:00:00Z",
		"Mon,  3 Aug 2026 12:00:00 -0000 (x)":   "2026-08-03T12:00:00Z",
		"23 Nov 26 12:00 GMT":                   "2026-11-23T12:00:00Z",
		"Mon, 23 Nov 2026 12:00:00":             "",
		"yesterday (x)":                         "",
		"Mon, 32 Nov 2026 12:00:00 +0000":       "",
		strings.Repeat("(", 200):                "",
	} {
		got := Date(value)
		if want == "" && !got.IsZero() || want != "" && got.Format(time.RFC3339) != want {
			t.Errorf("Date(%q) = %v, want %q", value, got, want)
		}
	}
}

func TestRead(t *testing.T) {
	if m, err := Read(strings.NewReader(crlf(report)), Limits{}); err != nil || len(m.Parts) != 3 {
		t.Errorf("Read = %v, %v", m, err)
	}
	if _, err := Read(strings.NewReader(" \r\n"), Limits{}); !errors.Is(err, ErrEmpty) {
		t.Errorf("Read of blanks = %v, want ErrEmpty", err)
	}
	if m, err := Read(strings.NewReader(strings.Repeat("x", 100)), Limits{MessageBytes: 99}); err != nil || m.Cut == nil || len(m.Parts[0].Body) != 99 {
		t.Errorf("Read of too much = %+v, %v", m, err)
	}
	if _, err := Read(iotest.ErrReader(io.ErrClosedPipe), Limits{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read = %v, want the reader's error", err)
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
			if !errors.Is(err, ErrEmpty) {
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
			if strings.HasPrefix(p.MediaType, "text/") && !utf8.Valid(p.Body) && !p.Cut {
				t.Fatalf("part %q is no UTF-8: %q", p.MediaType, p.Body)
			}
		}
		m.Original()
		m.Text()
	})
}
