package smtpd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSplitHeader(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		names         []string
		rest          string
	}{
		{"header and body", "A: b\r\nC:d\r\n\r\nbody", []string{"A", "C"}, "\r\nbody"},
		{"folded", "A: b\r\n c\r\n\td\r\nE: f\r\n\r\n", []string{"A", "E"}, "\r\n"},
		{"nothing", "", nil, ""},
		{"no line end", "A: b", []string{"A"}, ""},
		{"no colon", "A b\r\nC: d\r\n", nil, "A b\r\nC: d\r\n"},
		{"the colon is in the folded line", "A\r\n b: c\r\n", nil, "A\r\n b: c\r\n"},
		{"blank inside the name", "A b: c\r\n", nil, "A b: c\r\n"},
		{"blank behind the name", "A \t: c\r\n", []string{"A"}, ""},
		{"no name", "A: b\r\n: c\r\n", []string{"A"}, ": c\r\n"},
		{"blanks as name", "A: b\r\nX:\r\n\t:\r\n", []string{"A", "X"}, ""},
		{"empty line with blanks is folding", "A: b\r\n \r\nC: d\r\n", []string{"A", "C"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header, rest := splitHeader(nil, []byte(tc.message), 1000)
			names := make([]string, len(header))
			for i, field := range header {
				names[i] = string(field.name)
			}
			if diff := cmp.Diff(tc.names, names, cmpopts.EquateEmpty()); diff != "" || string(rest) != tc.rest {
				t.Errorf("splitHeader(%q): rest %q, want %q; names (-want +got):\n%s", tc.message, rest, tc.rest, diff)
			}
		})
	}
}

func TestFromDomain(t *testing.T) {
	for _, tc := range []struct{ from, want string }{
		{"ann@example.com", "example.com"},
		{"Ann Lee <ann@EXAMPLE.com>", "example.com"},
		{`"Lee, Ann" <ann@a.test>, bob@b.test`, "a.test"},
		{"=?utf-8?q?=C3=A4?= <ann@a.test>", "a.test"},
		{"=?x-unknown?q?=C3=A4?= <ann@a.test>", "a.test"},
		{"ann@b\xc3\xbccher.test", "b\u00fccher.test"},
		{"Group: ann@a.test;", "a.test"},
		{"Ann <ann@a.test> (with a remark", "a.test"},
		{"a@b, <ann@a.test", "a.test"},
		{"ann@", ""},
		{"Group:;", ""},
		{"", ""},
		{"<@>", ""},
		{"ann@\x01", ""},
		{"a@" + strings.Repeat("x", 400), ""},
	} {
		header, _ := splitHeader(nil, []byte("From: "+tc.from+"\r\n"), 1000)
		if got := header.fromDomain(); got != tc.want {
			t.Errorf("From: %s: got %q, want %q", tc.from, got, tc.want)
		}
	}
}

func TestMailbox(t *testing.T) {
	for _, tc := range []struct {
		unquoted, want string
		ok             bool
	}{
		{"ann@example.com", "ann@example.com", true},
		{"a..n.@example.com", "a..n.@example.com", true}, // Japanese carriers gave such addresses out
		{"o'neill+x=y@example.com", "o'neill+x=y@example.com", true},
		{"a b@example.com", `"a b"@example.com`, true},
		{`a"\b@example.com`, `"a\"\\b"@example.com`, true},
		{"a@b@example.com", `"a@b"@example.com`, true},
		{"a> NOTIFY=NEVER <b@example.com", `"a> NOTIFY=NEVER <b"@example.com`, true},
		{"zwö@bücher.test", "zwö@bücher.test", true},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", true},
		{"a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]", true},
		{"a@b.test.", "a@b.test.", true},
		{"a", "", false},
		{"@b.test", "", false},
		{"a@", "", false},
		{"a\x00@b.test", "", false},
		{"a\r\n@b.test", "", false},
		{"a@b\x7f.test", "", false},
		{"\xff@b.test", "", false},
		{`a@b"c`, "", false},
		{"a@b<c", "", false},
		{strings.Repeat("a", 400) + "@b.test", "", false},
	} {
		if got, ok := mailbox(tc.unquoted); got != tc.want || ok != tc.ok {
			t.Errorf("mailbox(%q) = %q, %t, want %q, %t", tc.unquoted, got, ok, tc.want, tc.ok)
		}
	}
}

func FuzzSplitHeader(f *testing.F) {
	for _, s := range []string{"", "A: b\r\n\r\nc", "A: b\r\n c\r\nD", " :\r\n", "From: a@b\r\n:\r\n", "a\x00: b\n\n"} {
		f.Add([]byte(s), 100)
	}
	f.Fuzz(func(t *testing.T, message []byte, limit int) {
		header, rest := splitHeader(nil, message, limit)
		var joined []byte
		for _, field := range header {
			joined = append(joined, field.raw...)
			if len(field.name) == 0 || !bytes.HasPrefix(field.raw, field.name) {
				t.Errorf("field %q has the name %q", field.raw, field.name)
			}
			if got := header.get(string(field.name)); strings.ContainsAny(got, "\r\n") {
				t.Errorf("value %q of %q has a line end", got, field.name)
			}
		}
		if joined = append(joined, rest...); !bytes.Equal(joined, message) {
			t.Errorf("fields and rest give %q, want %q", joined, message)
		}
		if len(header) > 1 && len(message)-len(rest)-len(header[len(header)-1].raw) > limit {
			t.Errorf("the header goes on %d octets behind the limit %d", len(message)-len(rest), limit)
		}
		header.fromDomain()
	})
}

func FuzzWithCRLF(f *testing.F) {
	for _, s := range []string{"", "a\r\nb", "a\nb\rc\r\r\n\n", "\r", "\n", "\n\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		before := bytes.Clone(message)
		got := withCRLF(message)
		if !bytes.Equal(message, before) {
			t.Error("the input was changed")
		}
		if rest := bytes.ReplaceAll(got, []byte("\r\n"), nil); bytes.ContainsAny(rest, "\r\n") {
			t.Errorf("withCRLF(%q) = %q", message, got)
		}
		if again := withCRLF(got); !bytes.Equal(again, got) {
			t.Errorf("a second time gives %q after %q", again, got)
		}
		strip := func(b []byte) []byte {
			return bytes.Join(bytes.FieldsFunc(b, func(r rune) bool { return r == '\r' || r == ' ' }), nil)
		}
		if a, b := strip(got), strip(message); !bytes.Equal(a, b) {
			t.Errorf("withCRLF(%q) = %q changes more than line ends", message, got)
		}
	})
}

func FuzzMailbox(f *testing.F) {
	for _, s := range []string{"a@b", `a"b@c`, "a b@c", "a@b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, unquoted string) {
		address, ok := mailbox(unquoted)
		if !ok {
			return
		}
		quoted := false
		for i := 0; i < len(address); i++ {
			switch c := address[i]; {
			case c < ' ' || c == 0x7f:
				t.Fatalf("control character in %q", address)
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case !quoted && strings.IndexByte(" <>", c) >= 0:
				t.Fatalf("%q would end the path", address)
			}
		}
		if quoted {
			t.Fatalf("the quote in %q is open", address)
		}
	})
}
