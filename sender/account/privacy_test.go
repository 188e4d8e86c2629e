package account

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
)

// TestSipHash: vectors of the authors' reference implementation, key 00 01 … 0f and text 00 01 ….
func TestSipHash(t *testing.T) {
	var key [sipKey]byte
	text := make([]byte, 16)
	for i := range text {
		key[i], text[i] = byte(i), byte(i)
	}
	for n, want := range map[int]string{0: "726fdb47dd0e0e31", 1: "74f839c593dc67fd", 8: "93f5f5799a932462", 15: "a129ca6149be45e5"} {
		if got := fmt.Sprintf("%016x", sipHash(&key, string(text[:n]))); got != want {
			t.Errorf("%d octets: %s, want %s", n, got, want)
		}
	}
}

func policy(t testing.TB, way, key string) *Privacy {
	t.Helper()
	p, err := NewPrivacy(way, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrivacy(t *testing.T) {
	for _, tc := range []struct{ way, key, local, want string }{
		{Redact, "...", "Ann", "..."},
		{Redact, "", "Ann", ""},
		{SIPHash, "secret", "Ann", policy(t, SIPHash, "secret\x00\x00").replace("ann")},
		// RFC 4231, test case 2, in lower case.
		{HMAC, "Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
	} {
		if got := policy(t, tc.way, tc.key).replace(tc.local); got != tc.want {
			t.Errorf("%s of %s: %s, want %s", tc.way, tc.local, got, tc.want)
		}
	}
	for _, tc := range [][2]string{{SIPHash, "seventeen octets!"}, {"rot13", ""}} {
		if _, err := NewPrivacy(tc[0], []byte(tc[1])); err == nil {
			t.Errorf("%q is no error", tc)
		}
	}
}

func TestHide(t *testing.T) {
	e := delivered()
	e.Recipient, e.MailFrom = "Ann.Lee@example.com", "bounce-7-ann.lee=example.com@shop.test"
	e.Reply, e.ReplyTemplate = "550 5.1.1 <ann.lee@example.com>: no mailbox ANN.LEE, joann.lee or ann.leeds", "550 5.1.1 <{addr}>"
	e.ScopeValue, e.RecipientKey = "ann.lee@example.com", "key"
	e.Headers = map[string]string{"ORCPT": "rfc822;Anna@alias.test", "Subject": "for anna@alias.test"}
	before := e.Headers["ORCPT"]
	headers := e.Headers
	policy(t, Redact, "...").Hide(&e)
	for _, tc := range [][2]string{
		{e.Recipient, "...@example.com"},
		{e.MailFrom, "bounce-7-...=example.com@shop.test"},
		{e.Reply, "550 5.1.1 <...@example.com>: no mailbox ..., joann.lee or ann.leeds"},
		{e.ReplyTemplate, "550 5.1.1 <{addr}>"},
		{e.ScopeValue, "...@example.com"},
		{e.RecipientKey, "key"},
		{e.Headers["ORCPT"], "rfc822;...@alias.test"},
		{e.Headers["Subject"], "for ...@alias.test"},
		{headers["ORCPT"], before},
	} {
		if diff := cmp.Diff(tc[1], tc[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}

	// Whom else a text names.
	e = delivered()
	e.Recipient, e.MailFrom = "ann@example.com", "news@shop.test"
	e.Reply = "551 ann@example.com and <Bob+x@example.org> moved to ann.new@example.net; news@shop.test may ask postmaster@example.com, not @home"
	e.Headers = map[string]string{"To": "Ann <ann@example.com>, bob@example.org", "From": "Shop <shop@shop.test>"}
	hidden := policy(t, SIPHash, "k")
	hidden.Hide(&e)
	for _, tc := range [][2]string{
		{e.Reply, "551 " + hidden.replace("ann") + "@example.com and <" + hidden.replace("bob+x") + "@example.org> moved to " + hidden.replace("ann.new") +
			"@example.net; news@shop.test may ask postmaster@example.com, not @home"},
		{e.Headers["To"], hidden.replace("ann") + " <" + hidden.replace("ann") + "@example.com>, " + hidden.replace("bob") + "@example.org"},
		{e.Headers["From"], "Shop <shop@shop.test>"},
	} {
		if diff := cmp.Diff(tc[1], tc[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	empty := event.Event{Reply: "ok"}
	policy(t, Redact, "...").Hide(&empty)
	if empty.Reply != "ok" {
		t.Errorf("without a recipient: %q", empty.Reply)
	}
}

// TestPrivacyOfAFile: what a layout is given stays as it is, for the next one.
func TestPrivacyOfAFile(t *testing.T) {
	e := delivered()
	got := rows(t, RecordOptions{Records: []string{"d"}, Privacy: policy(t, SIPHash, "k")}, e)
	if cell := cellOf(t, got, 1, "rcpt"); !strings.HasSuffix(cell, "@example.com") || strings.Contains(cell, "ann") || len(cell) != 16+len("@example.com") {
		t.Errorf("rcpt %q", cell)
	}
	if strings.Contains(strings.ToLower(strings.Join(got[1], ",")), "ann@") || e.Recipient != "ann@example.com" || e.Headers["ORCPT"] != "Ann@example.com" {
		t.Errorf("row %q; event %s %s", got[1], e.Recipient, e.Headers["ORCPT"])
	}
}

func FuzzHide(f *testing.F) {
	f.Add("ann@example.com", "550 <ann@example.com> ann\xff")
	f.Fuzz(func(t *testing.T, address, text string) {
		h := policy(t, Redact, "#").hider(address)
		got := h.hide(text)
		if len(h.local) > 0 && len(text) == len(h.local) && strings.EqualFold(text, h.local) && got != "#" {
			t.Fatalf("%q of %q: %q", address, text, got)
		}
		policy(t, Redact, "#").hideAddresses(text, address)
	})
}
