package dkim

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestRequest(t *testing.T) {
	keys := newKeys(
		t,
		Key{"one", "example.com", private(edKey())},
		Key{"two", "Example.com", private(edKey())},
		Key{"sub", "mail.example.com", private(edKey())},
		Key{"any", AnyDomain, private(edKey())},
	)
	s, err := NewSigner(keys, Options{IdentityFallback: "@fallback.example.com", QueryMethod: "dns/other"})
	if err != nil {
		t.Fatal(err)
	}
	text := wire(message) // from news@mail.example.com
	for _, tc := range []struct {
		request string
		want    string // s= d= i= q=
	}{
		{"", "one example.com  dns/other"},
		{"S = TWO", "two example.com  dns/other"},
		{"s=sub;", "sub mail.example.com  dns/other"},
		{"s=any", "any mail.example.com  dns/other"},
		{"s=none", ""},
		{"d=mail.example.com", "sub mail.example.com  dns/other"},
		{"d=EXAMPLE.com.", "one example.com  dns/other"},
		{"d=example.com; s=two", "two example.com  dns/other"},
		{"d=other.org", "any other.org  dns/other"},
		{"d=other.org; s=one", ""},
		{"d=sub.example.com", "any sub.example.com  dns/other"}, // a key of a parent has no record there
		{"i=a=b@x.mail.example.com", "one example.com a=3Db@x.mail.example.com dns/other"},
		{"i=@mail.example.com; s=sub", "sub mail.example.com @mail.example.com dns/other"},
		{"i=me@other.org", "any other.org me@other.org dns/other"},
		{"i=me@other.org; s=two", "two example.com @fallback.example.com dns/other"},
		{"i=me@x.example.com;\r\n\td=example.com;\r\n q=dns/txt", "one example.com me@x.example.com dns/txt"},
		{"key-list=some; z=1", "one example.com  dns/other"},
	} {
		t.Run(tc.request, func(t *testing.T) {
			r, err := ParseRequest(tc.request)
			if err != nil {
				t.Fatal(err)
			}
			sig, err := s.Sign(NewMessage(text), r)
			if tc.want == "" {
				if !errors.Is(err, ErrNoKey) {
					t.Errorf("%s, %v; want ErrNoKey", sig.Header, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tag := tags(sig.Header)
			if got := strings.Join([]string{tag["s"], tag["d"], tag["i"], tag["q"]}, " "); got != tc.want || sig.Domain != tag["d"] {
				t.Errorf("got %s (domain %s), want %s", got, sig.Domain, tc.want)
			}
			if tag["q"] != "dns/txt" {
				return // a verifier knows no other
			}
			if _, err := verify(t, append(bytes.Clone(sig.Header), text...), tag["s"]+"._domainkey."+tag["d"], edKey()); err != nil {
				t.Errorf("verify: %v\n%s", err, sig.Header)
			}
		})
	}
}

func TestRequestKeyList(t *testing.T) {
	if r, err := ParseRequest(" key-list = Customers ; s=a"); err != nil || r.KeyList != "Customers" || r.Selector != "a" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestBadRequests(t *testing.T) {
	for _, text := range []string{
		"s", "s=", "=x;d", "d=a b", "d=a;d=b", "s=a;S=b", "s=a b", "s=a.", "i=nobody", "i=a@b c", "i=a@other.org;d=example.com",
		"i=a@xexample.com;d=example.com", "q=a\x00", "key-list=", "d=example.com\r\nX-Evil: 1", strings.Repeat(" ", 3000),
	} {
		if r, err := ParseRequest(text); err == nil {
			t.Errorf("ParseRequest(%q) = %+v, no error", text, r)
		}
	}
}

// FuzzRequest: whatever the field says, the signature is one field that says what was asked.
func FuzzRequest(f *testing.F) {
	for _, text := range []string{"s=any; d=example.com; i=a@x.example.com; q=dns/txt; key-list=x", "i=\"a;b\"@c", "d=ü.de", ";;", "s=a\r\n\t;d=b"} {
		f.Add(text)
	}
	s := newSigner(f, Key{"any", AnyDomain, private(edKey())})
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRequest(text)
		if err != nil {
			return
		}
		sig, err := s.Sign(NewMessage(wire(message)), r)
		if errors.Is(err, ErrNoKey) && r.Selector != "" {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if r.QueryMethod != "" && r.QueryMethod != "dns/txt" {
			return
		}
		signed := append(bytes.Clone(sig.Header), wire(message)...)
		if _, err := verify(t, signed, "any._domainkey."+sig.Domain, edKey()); err != nil {
			t.Fatalf("%q: %v\n%s", text, err, sig.Header)
		}
	})
}
