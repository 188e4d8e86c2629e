package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTXT(t *testing.T) {
	var many strings.Builder
	for range maxTXT + 5 {
		many.WriteString("many.com. 300 IN TXT \"x\"\n")
	}
	s := startServer(t, zone(t, exampleZone+many.String()+`
s._domainkey.example.com. 300 IN TXT "v=DKIM1; p=abc" "def"
s._domainkey.example.com. 300 IN TXT "other"
t._domainkey.example.com. 300 IN CNAME s._domainkey.example.com.
`))
	r := newResolver(t, Config{}, s)
	for _, tc := range []struct {
		name string
		want []string
		err  error
	}{
		{"s._domainkey.example.com", []string{"v=DKIM1; p=abcdef", "other"}, nil},
		{"S._DomainKey.Example.com.", []string{"v=DKIM1; p=abcdef", "other"}, nil},
		{"t._domainkey.example.com", []string{"v=DKIM1; p=abcdef", "other"}, nil},
		{"nothing.com", []string{"x"}, nil},
		{"many.com", strings.Split(strings.Repeat("x", maxTXT), ""), nil},
		{"example.com", nil, ErrNotFound},
		{"gone.example.com", nil, ErrNotFound},
		{"servfail.com", nil, ErrUnavailable},
		{"", nil, ErrBadName},
		{strings.Repeat("a", 64) + ".com", nil, ErrBadName},
	} {
		got, err := r.TXT(t.Context(), tc.name)
		if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(err, tc.err) {
			t.Errorf("TXT(%q): %v, want %v (-want +got):\n%s", tc.name, err, tc.err, diff)
		}
	}
	var a answer
	if a.addText([]string{strings.Repeat("a", maxTXTBytes), "b"}); len(a.texts) > 0 {
		t.Errorf("a record of %d bytes is kept", len(a.texts[0]))
	}
}
