package config

import (
	"slices"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	const text = `host-name mail.example.com
host-name mx.example.com
postmaster ops@example.org
alias info@example.com ann@example.org, bob@example.org
alias sales info@example.com,carl
alias *@old.example.com ann@example.org
alias keep@example.com keep@example.com,copy@example.org
alias *@loop.example.com any@loop.example.com
`
	c, _, err := parse("/etc/carom/config", []byte(text), memory{})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"INFO@Example.com":            "ann@example.org bob@example.org",
		"sales@mx.example.com":        "ann@example.org bob@example.org carl@mail.example.com",
		"sales@example.com":           "sales@example.com",
		"x@old.example.com":           "ann@example.org",
		"keep@example.com":            "keep@example.com copy@example.org",
		"Postmaster@mail.example.com": "ops@example.org",
		"abuse@mx.example.com":        "ops@example.org",
		"other@mail.example.com":      "other@mail.example.com",
		"any@loop.example.com":        "any@loop.example.com",
		"other@loop.example.com":      "any@loop.example.com",
	} {
		if got, ok := c.Expand(address); !ok || strings.Join(got, " ") != want {
			t.Errorf("Expand(%q) = %q, %v; want %q", address, got, ok, want)
		}
	}
	empty, _, err := parse("/etc/carom/config", nil, memory{})
	if err != nil || empty.HasAliases() {
		t.Fatalf("aliases in an empty file (%v)", err)
	}
	if got, ok := empty.Expand("a@b.test"); !ok || !slices.Equal(got, []string{"a@b.test"}) {
		t.Errorf("without aliases Expand = %q, %v", got, ok)
	}
}

func TestSuppressionList(t *testing.T) {
	const text = "<address-list Gone>\naddress a@b.test\n</address-list>\n<source 0/0>\nsuppression-lists gone\n</source>\n"
	c, _, err := parse("/etc/carom/config", []byte(text), memory{})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Source(c.Listeners[0].Prefix.Addr())
	for address, want := range map[string]string{"A@B.test": "Gone", "c@b.test": ""} {
		if got := c.SuppressionList(&s, address); got != want {
			t.Errorf("SuppressionList(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestHeaderLines(t *testing.T) {
	m := memory{"/etc/carom/a": "X-A: 1\n\tfolded\n\n", "/etc/carom/b": "X-B: 2", "/etc/carom/c": "X-C: 3\r\n"}
	const text = "include-headers-from a\n<virtual-mta v>\ninclude-headers-from c\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta v\ninclude-headers-from b\n</virtual-mta-pool>\n"
	c, _, err := parse("/etc/carom/config", []byte(text), m)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := c.VMTA("v")
	if got, want := c.HeadersOf(v), "X-A: 1\r\n\tfolded\r\nX-B: 2\r\nX-C: 3\r\n"; got != want {
		t.Errorf("HeadersOf = %q, want %q", got, want)
	}
}
