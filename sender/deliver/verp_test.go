package deliver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVERPAddress(t *testing.T) {
	for _, tc := range []struct{ from, to, want string }{
		{"jsmith@example.com", "jdoe@yahoo.com", "jsmith-jdoe=yahoo.com@example.com"},
		{"a+b@example.com", "c.d+e@sub.yahoo.com", "a+b-c.d+e=sub.yahoo.com@example.com"},
		{`"a b"@example.com`, "c@d.com", `"a b-c=d.com"@example.com`},
		{"a@example.com", `"c\\"@d"@e.com`, `"a-c\\"@d=e.com"@example.com`},
		{"a@example.com", "c@[192.0.2.1]", `"a-c=[192.0.2.1]"@example.com`},
		{"a@example.com", "zwö@bücher.test", "a-zwö=bücher.test@example.com"},
		{"", "c@d.com", ""},
		{"a@example.com", "c", "a@example.com"},
	} {
		if got := verp(tc.from, tc.to); got != tc.want {
			t.Errorf("verp(%q, %q) = %q; want %q", tc.from, tc.to, got, tc.want)
		}
	}
}

// TestVERPDelivery: each recipient has a transaction of his own, whose return path names him.
func TestVERPDelivery(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.attrs = map[string]string{AttrVERP: "yes"}
	b.put(time.Hour, "ann@a.test", "bob@a.test", "carl@a.test")
	b.start()
	for _, e := range b.events(3) {
		if e.MailFrom != "news@shop.test" {
			t.Errorf("the event of %s tells the sender %s", e.Recipient, e.MailFrom)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range []string{"ann", "bob", "carl"} {
		want := fmt.Sprintf("MAIL FROM:<news-%s=a.test@shop.test>", name)
		if !slices.ContainsFunc(p.messages, func(m string) bool {
			return strings.HasPrefix(m, want) && strings.Contains(m, "RCPT TO:<"+name+"@a.test>") && strings.Count(m, "RCPT") == 1
		}) {
			t.Errorf("no message with %s among %q", want, p.messages)
		}
	}
}

// TestDateIsAddedAtDelivery: the field stands in front of the others, and remove-header sees it.
func TestDateIsAddedAtDelivery(t *testing.T) {
	for _, tc := range []struct {
		more string
		want bool
	}{{"", true}, {"<domain a.test>\nremove-header Date\n</domain>\n", false}} {
		p := newPeer(t, always(nil))
		b := newBench(t, to(p)+tc.more, names{mx: "mx.a.test", addr: p.addr.Addr()})
		b.attrs = map[string]string{AttrDate: "yes"}
		b.put(time.Hour, "ann@a.test")
		b.start()
		b.events(1)
		p.mu.Lock()
		_, after, found := strings.Cut(p.messages[0], "\nDate: ")
		p.mu.Unlock()
		if found != tc.want {
			t.Errorf("with %q a Date is there: %v; want %v", tc.more, found, tc.want)
		}
		if !tc.want {
			continue
		}
		line, _, _ := strings.Cut(after, "\n")
		if when, err := time.Parse(time.RFC1123Z, strings.TrimSpace(line)); err != nil || time.Since(when) > time.Hour {
			t.Errorf("Date: %q, %v", line, err)
		}
	}
}
