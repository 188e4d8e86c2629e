package dkim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/google/go-cmp/cmp"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

var edKey = sync.OnceValue(func() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// record returns the DNS record that publishes the key.
func record(tb testing.TB, key crypto.Signer) string {
	tb.Helper()
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			tb.Fatal(err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	tb.Fatalf("key of type %T", key.Public())
	return ""
}

// verify checks the only signature of message against key published at name.
func verify(tb testing.TB, message []byte, name string, key crypto.Signer) (*dkim.Verification, error) {
	tb.Helper()
	found, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{
		LookupTXT: func(asked string) ([]string, error) {
			if asked != name {
				return nil, errors.New("asked for " + asked)
			}
			return []string{record(tb, key)}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		tb.Fatalf("%d signatures, want 1", len(found))
	}
	return found[0], found[0].Err
}

// private makes a test's key ready to sign.
func private(key crypto.Signer) *PrivateKey {
	p, err := NewPrivateKey(key)
	if err != nil {
		panic(err)
	}
	return p
}

func newKeys(tb testing.TB, list ...Key) *Keys {
	tb.Helper()
	keys, err := NewKeys(list)
	if err != nil {
		tb.Fatal(err)
	}
	return keys
}

func newSigner(tb testing.TB, keys ...Key) *Signer {
	tb.Helper()
	return newWithOptions(tb, Options{}, keys...)
}

func wire(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

const message = `Received: from somewhere
	by elsewhere
From: "Bulk, Inc." <news@mail.example.com>
To: a@to.example
to : b@to.example
Subject: hello
	 world
List-Unsubscribe: <https://example.com/u>
X-Job: 7

Body  with   blanks 	
.
and the end

`

func TestSignVerifies(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		key           crypto.Signer
		algorithm     string
	}{
		{"rsa", message, rsaKey(), "a=rsa-sha256"},
		{"ed25519", message, edKey(), "a=ed25519-sha256"},
		{"no body", "From: a@example.com\n\n", edKey(), "a=ed25519-sha256"},
		{"no empty line", "From: a@example.com\n", edKey(), "a=ed25519-sha256"},
		{"blank lines only", "From: a@example.com\n\n \n\n\n", edKey(), "a=ed25519-sha256"},
		{"no end of line", "From: a@example.com\n\nx", edKey(), "a=ed25519-sha256"},
		{"many equal fields", "From: a@example.com\n" + strings.Repeat("List-Unsubscribe: x\n", 200) + "\nx", edKey(), "a=ed25519-sha256"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSigner(t, Key{"s1", "Example.com.", private(tc.key)})
			text := wire(tc.message)
			sig, err := s.Sign(NewMessage(text), Request{})
			if err != nil {
				t.Fatal(err)
			}
			if sig.Domain != "example.com" || !bytes.HasPrefix(sig.Header, []byte("DKIM-Signature:")) ||
				!bytes.HasSuffix(sig.Header, []byte("\r\n")) || !bytes.Contains(sig.Header, []byte(tc.algorithm)) {
				t.Errorf("domain %s, header %q", sig.Domain, sig.Header)
			}
			for line := range strings.Lines(string(sig.Header)) {
				if len(line) > 998 {
					t.Errorf("a line of %d octets", len(line))
				}
			}
			signed := append(bytes.Clone(sig.Header), text...)
			if tc.name == "no empty line" {
				signed = append(signed, "\r\n"...) // as a verifier's parser wants it
			}
			if _, err := verify(t, signed, "s1._domainkey.example.com", tc.key); err != nil {
				t.Errorf("verify: %v\n%s", err, signed)
			}
			tampered := bytes.Replace(signed, []byte("From: "), []byte("From: evil"), 1)
			if _, err := verify(t, tampered, "s1._domainkey.example.com", tc.key); err == nil {
				t.Error("a changed message verifies")
			}
		})
	}
}

func TestSignedHeaders(t *testing.T) {
	s := newSigner(t, Key{"s1", AnyDomain, private(edKey())})
	sig, err := s.Sign(NewMessage(wire(message)), Request{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify(t, append(bytes.Clone(sig.Header), wire(message)...), "s1._domainkey.mail.example.com", edKey())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"From", "To", "To", "Subject", "List-Unsubscribe"}, v.HeaderKeys); diff != "" {
		t.Errorf("h= (-want +got):\n%s", diff)
	}
}

func TestPick(t *testing.T) {
	keys := []Key{
		{"sub", "mail.example.com", private(edKey())},
		{"top", "example.com", private(edKey())},
		{"late", "news.example.com", private(edKey())}, // never used: its parent stands before it
		{"idn", "müller.de", private(edKey())},
	}
	for _, tc := range []struct {
		name, header string
		any          bool
		want         string
		err          error
	}{
		{"the domain itself", "From: a@example.com\n", false, "top example.com", nil},
		{"upper case", "FROM: A@Example.COM\n", false, "top example.com", nil},
		{"first in order", "From: a@mail.example.com\n", false, "sub mail.example.com", nil},
		{"a parent", "From: a@x.mail.example.com\n", false, "sub mail.example.com", nil},
		{"order before length", "From: a@news.example.com\n", false, "top example.com", nil},
		{"not a suffix inside a label", "From: a@badexample.com\n", false, "", ErrNoKey},
		{"Sender before From", "From: a@other.com\nSender: b@mail.example.com\n", false, "sub mail.example.com", nil},
		{"Sender without a key", "From: a@example.com\nSender: b@other.com\n", false, "", ErrNoKey},
		{"Sender that is none", "From: a@example.com\nSender: nobody\n", false, "top example.com", nil},
		{"Unicode", "From: a@müller.de\n", false, "idn xn--mller-kva.de", nil},
		{"any domain, last", "From: a@other.com\n", true, "any other.com", nil},
		{"any domain does not come first", "From: a@example.com\n", true, "top example.com", nil},
		{"no From", "Subject: x\nSender: a@example.com\n", true, "", ErrNoFrom},
		{"From without address", "From: undisclosed\n", true, "", ErrNoFrom},
		{"From in the body only", "Subject: x\n\nFrom: a@example.com\n", true, "", ErrNoFrom},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list := keys
			if tc.any {
				list = append(slices.Clip(list), Key{"any", AnyDomain, private(edKey())})
			}
			sig, err := newSigner(t, list...).Sign(NewMessage(wire(tc.header)), Request{})
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err != nil {
				return
			}
			selector, _, _ := strings.Cut(string(sig.Header[bytes.Index(sig.Header, []byte("s="))+2:]), ";")
			if got := selector + " " + sig.Domain; got != tc.want || !bytes.Contains(sig.Header, []byte("d="+sig.Domain+";")) {
				t.Errorf("got %s, want %s\n%s", got, tc.want, sig.Header)
			}
		})
	}
}

func TestAddressDomain(t *testing.T) {
	for value, want := range map[string]string{
		" a@b.com\r\n":                        "b.com",
		"Name <a@b.com>":                      "b.com",
		`"x@y.com, z" <a@b.com>`:              "b.com",
		`"\"x" <a@b.com>`:                     "b.com",
		"x@y.com <a@b.com>":                   "b.com",
		"x@y.com (old) <a@b.com>":             "b.com",
		"a@b.com (Name)":                      "b.com",
		"(me@x.com (nested)) a@b.com":         "b.com",
		"a@b.com, c@d.com":                    "b.com",
		"Group: a@b.com, c@d.com;":            "b.com",
		"<@hop.com:a@b.com>":                  "b.com",
		`"a@x.com"@b.com`:                     "b.com",
		"=?utf-8?q?J=C3=BCrgen?=\r\n <a@b.c>": "b.c",
		"a@b.com.":                            "b.com",
		"":                                    "",
		"nobody":                              "",
		"a@":                                  "",
		"<>":                                  "",
		"a@b;d=evil.com":                      "b",
		"a@b c.com":                           "",
		"a@b é.com":                           "",
		"a@[192.0.2.1]":                       "",
		`"open a@b.com`:                       "",
		"(open a@b.com":                       "",
	} {
		if got, _ := addressDomain(value); got != want {
			t.Errorf("addressDomain(%q) = %q, want %q", value, got, want)
		}
	}
}

// FuzzSign: no message makes signing fail in an unknown way or gets foreign bytes into d=.
func FuzzSign(f *testing.F) {
	f.Add(wire(message))
	f.Add([]byte("From: a@b.com\r\n\r\n"))
	f.Add([]byte("From: (\\"))
	f.Add([]byte("\r\nFrom: a@b.com"))
	s := newSigner(f, Key{"s", AnyDomain, private(edKey())})
	f.Fuzz(func(t *testing.T, in []byte) {
		sig, err := s.Sign(NewMessage(in), Request{})
		if errors.Is(err, ErrNoFrom) {
			return
		}
		if err != nil {
			t.Fatalf("Sign(%q): %v", in, err)
		}
		if strings.ContainsAny(sig.Domain, " ;\r\n@") || sig.Domain == "" {
			t.Fatalf("Sign(%q): domain %q", in, sig.Domain)
		}
	})
}

func TestKeysRefused(t *testing.T) {
	for name, key := range map[string]Key{
		"no selector":  {"", "example.com", private(edKey())},
		"bad selector": {"a;b", "example.com", private(edKey())},
		"no domain":    {"s", "", private(edKey())},
		"bad domain":   {"s", "a b", private(edKey())},
		"no key":       {"s", "example.com", nil},
	} {
		if _, err := NewKeys([]Key{key}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPrivateKeysRefused(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"none":           nil,
		"elliptic curve": ec,
		"short RSA": &rsa.PrivateKey{PublicKey: rsa.PublicKey{
			N: new(big.Int).Lsh(big.NewInt(1), 511), E: 65537,
		}},
	} {
		if _, err := NewPrivateKey(key); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
