package notice

import "testing"

func TestFold(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		indent   int
	}{
		{"", "", 0},
		{"a b", "a b", 0},
		{"  a \t b  c  ", "a b c", 2},
		{"\u00a0a\u00a0\u00a0b", "a b", 2},
		{" ", "", 1},
		{"a\r", "a", 0},
		{"\xc2", "\xc2", 0},
		{"a ", "a", 0},
		{"\t\ta", "a", 2},
	} {
		got, indent := fold(nil, []byte(tc.in))
		if string(got) != tc.want || tc.want != "" && indent != tc.indent {
			t.Errorf("fold(%q) = %q, %d; want %q, %d", tc.in, got, indent, tc.want, tc.indent)
		}
	}
}
