//go:build unix

package chdb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseError(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Error
	}{
		{
			"plain", "Code: 60. DB::Exception: Unknown table expression identifier 'nope' in scope SELECT * FROM nope. (UNKNOWN_TABLE)",
			Error{60, "UNKNOWN_TABLE", "Unknown table expression identifier 'nope' in scope SELECT * FROM nope."},
		},
		{
			"wrapped", "Code: 115. DB::Exception: Code: 115. DB::Exception: Unknown setting 'nosuch'. (UNKNOWN_SETTING) (version 26.5.1.1). (UNKNOWN_SETTING)",
			Error{115, "UNKNOWN_SETTING", "Unknown setting 'nosuch'."},
		},
		{
			"derived class", "Code: 27. DB::ParsingException: Cannot parse (at row 1)\n. (CANNOT_PARSE_INPUT_ASSERTION_FAILED)",
			Error{27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "Cannot parse (at row 1)\n."},
		},
		{"no code", "something broke", Error{49, "LOGICAL_ERROR", "something broke"}},
		{"no name", "Code: 6. DB::Exception: text", Error{6, "LOGICAL_ERROR", "text"}},
		{"empty", "", Error{49, "LOGICAL_ERROR", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, *ParseError(tc.text)); diff != "" {
				t.Errorf("ParseError(%q) (-want +got):\n%s", tc.text, diff)
			}
		})
	}
}

func FuzzParseError(f *testing.F) {
	f.Add("Code: 60. DB::Exception: a (B_C) (version 1). (B_C)")
	f.Fuzz(func(t *testing.T, text string) {
		if e := ParseError(text); e.Code <= 0 || len(e.Message) > len(text) {
			t.Errorf("ParseError(%q) = %+v", text, e)
		}
	})
}

func TestLoadRefusesOtherFiles(t *testing.T) {
	for name, path := range map[string]string{"a folder": t.TempDir(), "nothing": "/nonexistent/libchdb.so"} {
		if l, err := Load(path); err == nil {
			t.Errorf("Load of %s gave %v", name, l)
		}
	}
}
