package mime

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeader(t *testing.T) {
	h, body, err := ParseHeader([]byte(crlf("Subject: one\n two\n\t \n\tthree  \nX-A:1\nx-a : 2\nEmpty:\n\nbody\n")), 0)
	if err != nil || string(body) != "body\r\n" {
		t.Fatalf("body %q, %v", body, err)
	}
	if got := h.Get("SUBJECT"); got != "one two three" {
		t.Errorf("Subject %q", got)
	}
	if got := h.Values("X-A"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("X-A %q", got)
	}
	if !h.Has("empty") || h.Get("empty") != "" || h.Has("X-B") || h.Get("X-B") != "" || h.Values("X-B") != nil || h.Len() != 4 {
		t.Errorf("header %v", h.Map())
	}
	want := map[string][]string{"Subject": {"one two three"}, "X-A": {"1", "2"}, "Empty": {""}}
	if diff := cmp.Diff(want, h.Map()); diff != "" {
		t.Errorf("Map (-want +got):\n%s", diff)
	}
	for name := range h.All() {
		if name != "Subject" {
			t.Errorf("the first field is %s", name)
		}
		break
	}
}

func TestParseHeaderDropsWhatIsNoField(t *testing.T) {
	for _, tc := range []struct{ name, data, want, body string }{
		{"junk between", "A: 1\njunk\n folded junk\nB: 2\n\nx", "A=1 B=2", "x"},
		{"blank in a name", "A: 1\nnot a field: x\nB : 2\n\nx", "A=1 B=2", "x"},
		{"mbox", "From a@b.example Mon\nA: 1\n\nx", "A=1", "x"},
		{"quoted mbox", ">From a@b.example Mon\nA: 1\n\nx", "A=1", "x"},
		{"mbox later", "A: 1\nFrom x\nB: 2\n\nx", "A=1 B=2", "x"},
		{"continuation first", " x: y\nA: 1\n\nx", "A=1", "x"},
		{"none", "hello: \x00\n\nx", "hello=\x00", "x"},
		{"raw name", "\xfcA: 1\nA: 1\n\nx", "", "\xfcA: 1\nA: 1\n\nx"},
		{"no body", "A: 1", "A=1", ""},
		{"blank line first", "\nA: 1\n", "", "A: 1\n"},
	} {
		h, body, err := ParseHeader([]byte(tc.data), 0)
		var got []string
		for name, value := range h.All() {
			got = append(got, name+"="+value)
		}
		if err != nil || strings.Join(got, " ") != tc.want || string(body) != tc.body {
			t.Errorf("%s: %q, body %q, %v, want %q, %q", tc.name, got, body, err, tc.want, tc.body)
		}
	}
}

func TestParseHeaderKeepsWhatThereIsRoomFor(t *testing.T) {
	h, body, err := ParseHeader([]byte("A: 1\nB: "+strings.Repeat("x", 100)+"\n y\nC: 3\n\nbody"), 20)
	if _, ok := errors.AsType[*LimitError](err); !ok || h.Get("A") != "1" || h.Has("B") || h.Get("C") != "3" || string(body) != "body" {
		t.Errorf("got %v, %q, %v", h.Map(), body, err)
	}
	h, _, err = ParseHeader([]byte("A: 1\n "+strings.Repeat("x", 100)+"\n\nbody"), 20)
	if err == nil || h.Get("A") != "1" {
		t.Errorf("a fold beyond the limit: %v, %v", h.Map(), err)
	}
}

func TestFieldsOfAHeaderAreBounded(t *testing.T) {
	h, body, err := ParseHeader([]byte(strings.Repeat("A: 1\n", maxFields+1)+"\nbody"), 0)
	if _, ok := errors.AsType[*LimitError](err); !ok || h.Len() != maxFields || string(body) != "body" {
		t.Errorf("%d fields, body %q, %v", h.Len(), body, err)
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

func TestDecodeWords(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"none", "hello", "hello"},
		{"Q", "=?iso-8859-1?q?Zur=FCck?= an =?ISO-8859-1?Q?Sie_alle?=", "Zurück an Sie alle"},
		{"B", "=?UTF-8?B?w7w=?=", "ü"},
		{"B without padding", "=?UTF-8?B?w7w?=", "ü"},
		{"blanks between words", "a =?utf-8?q?b?=  =?utf-8?q?c?= d", "a bc d"},
		{"blanks between words of two charsets", "=?utf-8?q?b?= =?iso-8859-1?q?=FC?= d", "bü d"},
		{"a character in two words", "=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"},
		{"a Japanese text cut anywhere", "=?iso-2022-jp?B?GyRCJQ==?= =?iso-2022-jp?B?RhsoQg==?=", "テ"},
		{"GBK", "=?gb2312?B?zcvQxQ==?=", "退信"},
		{"language", "=?iso-8859-1*de?q?=FC?=", "ü"},
		{"blanks in a word", "=?utf-8?Q?not found here?=", "not found here"},
		{"empty word", "=?utf-8?q??=x", "x"},
		{"wrong charset", "=?utf-8?q?Zur=FCck?=", "Zurück"},
		{"raw 8 bit", "Zur\xfcck", "Zurück"},
		{"raw UTF-8 beside a word", "ü =?utf-8?q?x?=", "ü x"},
		{"no end", "=?utf-8?q?x", "=?utf-8?q?x"},
		{"no word", "a=?b", "a=?b"},
		{"other encoding", "=?utf-8?x?x?=", "=?utf-8?x?x?="},
		{"cut", "=?", "=?"},
		{"cut behind the charset", "=?utf-8?", "=?utf-8?"},
	} {
		if got, err := decodeWords(tc.value); err != nil || got != tc.want {
			t.Errorf("%s: decodeWords(%q) = %q, %v, want %q", tc.name, tc.value, got, err, tc.want)
		}
	}
	got, err := decodeWords("=?klingon?q?a?= =?klingon?q?b?= =?utf-8?q?c?=")
	if !errors.Is(err, errUnknownCharset) || got != "=?klingon?q?a?= =?klingon?q?b?=c" {
		t.Errorf("unknown charset: %q, %v", got, err)
	}
}

func TestTextOfHTML(t *testing.T) {
	for _, tc := range []struct{ name, page, want string }{
		{"lines", "<html><head><title>t</title><style>p {}</style></head><body><p>Your  message\r\n to<br/><b>ann</b>@mail.example</p><p>failed.</p></body>", "Your message to\nann@mail.example\nfailed."},
		{"entities", "a&nbsp;&lt;b@c.example&gt;&amp;&#252;", "a <b@c.example>&ü"},
		{"table", "<table><tr><td>550</td><td>5.1.1</td></tr><tr><td>x</td></tr></table>", "550 5.1.1\nx"},
		{"script and comment", "a<script>if (a<b) {}</script><!-- <p>no</p> -->b", "ab"},
		{"no tag", "a < b", "a < b"},
		{"open tag", "a <p", "a"},
		{"long tag", "<p>a<p " + strings.Repeat("x", maxTag+1) + ">b", "a"},
	} {
		if got := textOfHTML([]byte(tc.page)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, tc := range []struct{ name, encoding, body, want string }{
		{"base64", "base64", "aGVs\nbG8=\n", "hello"},
		{"base64 with junk", "Base64 (x)", "aG!Vs bG8=", "hello"},
		{"base64 with text behind", "base64", "aGVsbG8=\n--\n", "hello"},
		{"base64 pasted together", "base64", "aA==\naQ==", "hi"},
		{"base64 without padding", "base64", "aGVsbG8", "hello"},
		{"base64 of padding", "base64", "====", ""},
		{"quoted-printable", "quoted-printable", "Z=C3=BCr=  \r\nich \t\r\nx=3d", "Zürich\r\nx="},
		{"quoted-printable with sloppy equal signs", "QUOTED-PRINTABLE;", "a=b =zz 1=1 =", "a=b =zz 1=1 "},
		{"quoted-printable ends in a line", "quoted-printable", "a\n", "a\n"},
		{"8bit", "8bit", "ü", "ü"},
		{"raw", "", "\xfc", "ü"},
	} {
		got, cut := decode(tc.encoding, "text/plain", "", []byte(tc.body), 100)
		if string(got) != tc.want || cut {
			t.Errorf("%s: %q, cut %v, want %q", tc.name, got, cut, tc.want)
		}
	}
	for _, encoding := range []string{"", "base64", "quoted-printable"} {
		for limit := range 6 {
			got, cut := decode(encoding, "application/x", "", []byte("aGVsbG8hIQ=="), limit)
			if len(got) != limit || !cut {
				t.Errorf("%q with limit %d: %q, cut %v", encoding, limit, got, cut)
			}
		}
	}
}

func TestContentType(t *testing.T) {
	for _, tc := range []struct {
		value, want string
		params      map[string]string
	}{
		{`text/plain; charset="UTF-8"`, "text/plain", map[string]string{"charset": "UTF-8"}},
		{`Multipart/Report; Report-Type=delivery-status; boundary="a b"`, "multipart/report", map[string]string{"report-type": "delivery-status", "boundary": "a b"}},
		{`multipart/report; report-type=delivery-status; boundary=a=b?c; x`, "multipart/report", map[string]string{"report-type": "delivery-status", "boundary": "a=b?c"}},
		{`text/plain; charset=us-ascii (plain text)`, "text/plain", map[string]string{"charset": "us-ascii"}},
		{`text/plain (x); a=1; a=2; b="open`, "text/plain", map[string]string{"a": "1", "b": "open"}},
		{"text", "text/html", map[string]string{}},
		{"a text/plain", "text/html", map[string]string{}},
		{"text/plain;;", "text/plain", map[string]string{}},
	} {
		h, _, _ := ParseHeader([]byte("Content-Type: "+tc.value), 0)
		mediaType, params := contentType(h, "text/html")
		if diff := cmp.Diff(tc.params, params); mediaType != tc.want || diff != "" {
			t.Errorf("%s: %s, want %s (-want +got):\n%s", tc.value, mediaType, tc.want, diff)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("From x\nA: 1\n folded\njunk\nB : 2\n\nbody"), 20)
	f.Add([]byte("Subject: =?utf-8?q?=C3?= =?utf-8?b?vA==?=\n\n"), 1000)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		h, body, err := ParseHeader(data, limit)
		if len(body) > len(data) {
			t.Fatalf("a body of %d bytes from %d", len(body), len(data))
		}
		if _, ok := errors.AsType[*LimitError](err); err != nil && !ok {
			t.Fatalf("ParseHeader = %v", err)
		}
		size := 0
		for name, value := range h.All() {
			size += len(name) + len(value)
			if name == "" || strings.ContainsAny(value, "\n") || !h.Has(name) {
				t.Fatalf("field %q: %q", name, value)
			}
		}
		if limit > 0 && size > limit {
			t.Fatalf("%d bytes of fields, the limit is %d", size, limit)
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("Reporting-MTA: dns; mx\n\nFinal-Recipient :\n rfc822;\n\tann@mail.example\nx\n"))
	f.Add([]byte("a:\r\r b:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		last := 0
		for group, field := range Fields(data) {
			if len(field.Value) > maxFieldValue || field.Name == "" || field.Name != strings.ToLower(field.Name) || group < last || group > last+1 {
				t.Fatalf("group %d after %d, field %q with %d bytes", group, last, field.Name, len(field.Value))
			}
			last = group
		}
	})
}

func FuzzWords(f *testing.F) {
	f.Add("a =?iso-8859-1?q?Zur=FCck?= =?UTF-8?B?w7w=?= b")
	f.Add("=?iso-2022-jp?B?GyRCJQ==?= =?iso-2022-jp?B?RhsoQg==?=")
	f.Add("=?utf-16?b?AA==?==?x?y?=")
	f.Fuzz(func(t *testing.T, value string) {
		got, err := decodeWords(value)
		if err != nil && !errors.Is(err, errUnknownCharset) {
			t.Fatalf("decodeWords(%q) = %v", value, err)
		}
		if len(got) > 8*len(value)+8 {
			t.Fatalf("%d bytes from %d", len(got), len(value))
		}
	})
}
