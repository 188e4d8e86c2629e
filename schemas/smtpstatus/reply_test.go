package smtpstatus

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Reply{
		"550 5.1.1 no such user":        {Code: 550, Enhanced: Enhanced{5, 1, 1}, Lines: []string{"5.1.1 no such user"}},
		"550-5.1.1 no\r\n550 5.1.1 one": {Code: 550, Enhanced: Enhanced{5, 1, 1}, Lines: []string{"5.1.1 no", "5.1.1 one"}},
		"250":                           {Code: 250, Lines: []string{""}},
		"250-a\n550 b":                  {Code: 250, Lines: []string{"a", "550 b"}}, // another reply is text
		"no code":                       {Lines: []string{"no code"}},
		"999 x":                         {Lines: []string{"999 x"}},
		"":                              {Lines: []string{""}},
	} {
		if diff := cmp.Diff(want, Parse(text)); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", text, diff)
		}
	}
	if got := Parse("550-5.1.1 no\n550 5.1.1 one").String(); got != "550 5.1.1 no one" {
		t.Errorf("String() = %q", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"550 5.1.1 no such user", "550-5.1.1 no\r\n550 5.1.1 one", "250", "250-a\n550 b", "\xff\x00", "5.1.1", "55", "550-"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := Parse(text)
		if r.Code != 0 && (r.Code < 200 || r.Code > 599) {
			t.Fatalf("Parse(%q).Code = %d", text, r.Code)
		}
		if len(r.Lines) != strings.Count(strings.TrimRight(text, "\r\n"), "\n")+1 {
			t.Fatalf("Parse(%q) has %d lines", text, len(r.Lines))
		}
		if one := Parse(r.String()); one.Code != r.Code && r.Code != 0 {
			t.Fatalf("Parse(%q) = %d, and of its text on one line %d", text, r.Code, one.Code)
		}
		if !r.Enhanced.IsZero() && r.Enhanced.Class != 2 && r.Enhanced.Class != 4 && r.Enhanced.Class != 5 {
			t.Fatalf("Parse(%q).Enhanced = %v", text, r.Enhanced)
		}
		code, rest := ParseEnhanced(text)
		if !code.IsZero() && (!strings.HasSuffix(text, rest) || len(rest) >= len(text)) || code.IsZero() && rest != text {
			t.Fatalf("ParseEnhanced(%q) = %v, %q", text, code, rest)
		}
	})
}
