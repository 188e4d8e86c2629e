package dkim

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/google/go-cmp/cmp"
)

func newWithOptions(tb testing.TB, o Options, keys ...Key) *Signer {
	tb.Helper()
	s, err := NewSigner(newKeys(tb, keys...), o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// tags returns the tags of a signature field without folds.
func tags(field []byte) map[string]string {
	_, value, _ := strings.Cut(strings.NewReplacer("\r\n", "", "\t", "").Replace(string(field)), ":")
	all := map[string]string{}
	for tag := range strings.SplitSeq(value, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(tag), "=")
		all[name] = value
	}
	return all
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options Options
		want    map[string]string // tags beside v, a, d, s, bh and b
		tamper  string            // put before the message, must break the signature
	}{
		{"default", Options{}, map[string]string{"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe"}, ""},
		{
			"canonicalization",
			Options{HeaderCanonicalization: Simple, BodyCanonicalization: Simple, Headers: []string{"X-Job"}},
			map[string]string{"c": "simple/simple", "h": "From:To:To:Subject:List-Unsubscribe:X-Job"},
			"",
		},
		{
			"relaxed header only",
			Options{BodyCanonicalization: Simple},
			map[string]string{"c": "relaxed/simple", "h": "From:To:To:Subject:List-Unsubscribe"},
			"",
		},
		{
			"simple header only",
			Options{HeaderCanonicalization: Simple},
			map[string]string{"c": "simple/relaxed", "h": "From:To:To:Subject:List-Unsubscribe"},
			"",
		},
		{"identity", Options{Identity: "o;x=y@Sub.Example.com"}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "i": "o=3Bx=3Dy@sub.example.com",
		}, ""},
		{"identity of a domain", Options{Identity: "@example.com"}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "i": "@example.com",
		}, ""},
		{"fallback", Options{Identity: "@other.com", IdentityFallback: "@mail.example.com"}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "i": "@mail.example.com",
		}, ""},
		{
			"headers",
			Options{Headers: []string{"x-job", "to", "Received", "bcc", "X-Absent"}},
			map[string]string{"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe:x-job"},
			"",
		},
		{
			"patterns",
			Options{Headers: []string{"/^x-/", "/^(received|FROM)$/"}},
			map[string]string{"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe:x-job"},
			"",
		},
		{
			"closed",
			Options{Closed: []string{"Subject", "Reply-To", "X-Closed", "Received"}},
			map[string]string{"c": "relaxed/relaxed", "h": "From:Reply-To:To:To:Subject:Subject:List-Unsubscribe:X-Closed"},
			"Subject: another\n",
		},
		{
			"closed and absent",
			Options{Closed: []string{"reply-to"}},
			map[string]string{"c": "relaxed/relaxed", "h": "From:Reply-To:To:To:Subject:List-Unsubscribe"},
			"Reply-To: x@example.com\n",
		},
		{"times", Options{Timestamp: true, ExpireAfter: time.Hour}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "t": "946684800", "x": "946688400",
		}, ""},
		{"expiry alone", Options{ExpireAfter: time.Hour}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "x": "946688400",
		}, ""},
		{"query method", Options{QueryMethod: "dns/txt"}, map[string]string{
			"c": "relaxed/relaxed", "h": "From:To:To:Subject:List-Unsubscribe", "q": "dns/txt",
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // whose clock stands at the beginning of 2000
				s := newWithOptions(t, tc.options, Key{"s1", "example.com", private(edKey())})
				text := wire(message)
				sig, err := s.Sign(NewMessage(text), Request{})
				if err != nil {
					t.Fatal(err)
				}
				got := tags(sig.Header)
				for _, name := range []string{"v", "a", "d", "s", "bh", "b"} {
					if got[name] == "" {
						t.Errorf("no %s= in %q", name, sig.Header)
					}
					delete(got, name)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("tags (-want +got):\n%s", diff)
				}
				if _, err := verify(t, append(bytes.Clone(sig.Header), text...), "s1._domainkey.example.com", edKey()); err != nil {
					t.Errorf("verify: %v\n%s", err, sig.Header)
				}
				if tc.tamper != "" {
					changed := append(append(bytes.Clone(sig.Header), wire(tc.tamper)...), text...)
					if _, err := verify(t, changed, "s1._domainkey.example.com", edKey()); err == nil {
						t.Errorf("verifies with %q added", tc.tamper)
					}
				}
			})
		})
	}
}

func TestStrictFrom(t *testing.T) {
	text := wire("Sender: a@other.com\nFrom: a@example.com\n\nx\n")
	key := Key{"s1", "example.com", private(edKey())}
	if _, err := newWithOptions(t, Options{Identity: StrictFrom}, key).Sign(NewMessage(text), Request{}); err != nil {
		t.Errorf("strict-from: %v", err)
	}
	if _, err := newWithOptions(t, Options{Identity: SenderOrFrom}, key).Sign(NewMessage(text), Request{}); err == nil {
		t.Error("sender-or-from signs for the From field though there is a Sender field")
	}
}

// TestBodyLimit: go-msgauth refuses every l=, so the signature is verified by hand.
func TestBodyLimit(t *testing.T) {
	text := wire(message)
	sig, err := newWithOptions(t, Options{BodyLimit: true}, Key{"s1", "example.com", private(edKey())}).Sign(NewMessage(text), Request{})
	if err != nil {
		t.Fatal(err)
	}
	body := canonicalBody(Relaxed, string(text[headerEnd(text):]))
	tag := tags(sig.Header)
	if tag["l"] != strconv.Itoa(len(body)) {
		t.Errorf("l=%s, want %d", tag["l"], len(body))
	}
	signed := "from:\"Bulk, Inc.\" <news@mail.example.com>\r\nto:b@to.example\r\nto:a@to.example\r\n" +
		"subject:hello world\r\nlist-unsubscribe:<https://example.com/u>\r\ndkim-signature:"
	_, value, _ := strings.Cut(string(sig.Header), ":")
	value, _, _ = strings.Cut(value, "b="+tag["b"][:8])
	signed += strings.TrimLeft(strings.Join(strings.Fields(value), " "), " ") + " b="
	digest := sha256.Sum256([]byte(signed))
	signature, err := base64.StdEncoding.DecodeString(tag["b"])
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(edKey().Public().(ed25519.PublicKey), digest[:], signature) {
		t.Errorf("the signature does not verify for %q", signed)
	}
}

// TestTwoSignatures of one Message, which canonicalize alike or not.
func TestTwoSignatures(t *testing.T) {
	for _, second := range []Options{{}, {BodyCanonicalization: Simple, Headers: []string{"X-Job"}}} {
		m := NewMessage(wire(message))
		first, err := newSigner(t, Key{"r", "example.com", private(rsaKey())}).Sign(m, Request{})
		if err != nil {
			t.Fatal(err)
		}
		other, err := newWithOptions(t, second, Key{"e", "mail.example.com", private(edKey())}).Sign(m, Request{})
		if err != nil {
			t.Fatal(err)
		}
		verifyBoth(t, slices.Concat(other.Header, first.Header, wire(message)))
	}
}

func verifyBoth(t *testing.T, signed []byte) {
	t.Helper()
	found, err := dkim.VerifyWithOptions(bytes.NewReader(signed), &dkim.VerifyOptions{
		LookupTXT: func(asked string) ([]string, error) {
			if asked == "r._domainkey.example.com" {
				return []string{record(t, rsaKey())}, nil
			}
			return []string{record(t, edKey())}, nil
		},
	})
	if err != nil || len(found) != 2 {
		t.Fatalf("%d signatures, %v", len(found), err)
	}
	for _, v := range found {
		if v.Err != nil {
			t.Errorf("%s: %v", v.Domain, v.Err)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"identity without @":   {Identity: "sender"},
		"identity, bad domain": {Identity: "a@b c"},
		"fallback":             {IdentityFallback: "example.com"},
		"header name":          {Headers: []string{"a b"}},
		"no header name":       {Headers: []string{""}},
		"open pattern":         {Headers: []string{"/x"}},
		"bad pattern":          {Headers: []string{"/(/"}},
		"closed name":          {Closed: []string{"a:b"}},
		"negative expiry":      {ExpireAfter: -time.Second},
		"expiry at once":       {ExpireAfter: time.Millisecond},
		"query method":         {QueryMethod: "dns; x"},
		"algorithm":            {Algorithm: "rsa-sha1"},
	} {
		if _, err := NewSigner(newKeys(t, Key{"s", "example.com", private(edKey())}), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
