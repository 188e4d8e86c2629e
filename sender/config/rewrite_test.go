package config

import (
	"net/netip"
	"testing"
)

const rewriteText = `<rewrite-list of-source>
mail-from news@old.example.com bounce@new.example.com
mail-from *@old.example.com *@new.example.com
mail-from info@* info@new.example.com
mail-from <> null@new.example.com
mail-from gone@gone.example.com <>
from-domain [*.]old.example.com new.example.com
</rewrite-list>
<rewrite-list of-vmta>
mail-from *@* back@*
</rewrite-list>
<rewrite-list of-pool>
from-domain * pool.example.com
</rewrite-list>
<source 10/8>
rewrite-list of-source
</source>
<virtual-mta v>
rewrite-list of-vmta
</virtual-mta>
<virtual-mta w>
</virtual-mta>
<virtual-mta-pool p>
virtual-mta w
rewrite-list of-pool
</virtual-mta-pool>
`

func TestRewriteLists(t *testing.T) {
	c, _, err := parse("/etc/carom/config", []byte(rewriteText), memory{})
	if err != nil {
		t.Fatal(err)
	}
	source, other := c.Source(netip.MustParseAddr("10.0.0.1")), c.Source(netip.MustParseAddr("192.0.2.1"))
	for _, tc := range []struct {
		s          *Source
		vmta, pool string
		want       string
	}{
		{&source, "v", "", "of-source"},
		{&other, "v", "", "of-vmta"},
		{&other, "w", "p", "of-pool"},
		{&other, "w", "", ""},
		{&other, "", "", ""},
	} {
		got := ""
		if l := c.RewriteListOf(tc.s, tc.vmta, tc.pool); l != nil {
			got = l.Name
		}
		if got != tc.want {
			t.Errorf("the list for %q of %q is %q, want %q", tc.vmta, tc.pool, got, tc.want)
		}
	}
	l := c.RewriteListOf(&source, "", "")
	for from, want := range map[string]string{
		"News@OLD.example.com": "bounce@new.example.com", "ann@old.example.com": "ann@new.example.com",
		"info@any.example": "info@new.example.com", "": "null@new.example.com", "gone@gone.example.com": "",
		"x@y.example": "x@y.example", "nodomain": "nodomain",
	} {
		if got := l.MailFrom(from); got != want {
			t.Errorf("MailFrom(%q) = %q, want %q", from, got, want)
		}
	}
	for domain, want := range map[string]string{"old.example.com": "new.example.com", "a.Old.example.com": "new.example.com", "example.com": "example.com"} {
		if got := l.FromDomain(domain); got != want {
			t.Errorf("FromDomain(%q) = %q, want %q", domain, got, want)
		}
	}
	if got := c.RewriteListOf(&other, "v", "").MailFrom("a@b.example"); got != "back@b.example" {
		t.Errorf("MailFrom = %q", got)
	}
}
