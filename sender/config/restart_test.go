package config

import (
	"slices"
	"strings"
	"testing"
)

func TestNeedsRestart(t *testing.T) {
	const text = "host-name a.test\nsmtp-listener 127.0.0.1:25\n<spool /var/spool/carom>\n</spool>\n<domain *>\nmax-smtp-out 3\n</domain>\n<feed /feed>\nsuppression-key-file key1\n</feed>\n"
	m := memory{"/etc/carom/key1": "0123456789abcdef0123456789abcdef", "/etc/carom/key2": "another-0123456789abcdef01234567"}
	load := func(text string) *Config {
		t.Helper()
		c, _, err := parse("/etc/carom/config", []byte(text), m)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := load(text)
	for _, tc := range []struct {
		name, next string
		want       []string
	}{
		{"nothing", text, nil},
		{"other places", "# a comment\n\n" + text, nil},
		{"what a node takes at once", text + "<virtual-mta v>\nmax-smtp-out 5\n</virtual-mta>\n<source 10/8>\n</source>\nrelay-domain a.test\n", nil},
		{"a listener", text + "smtp-listener 127.0.0.1:26\n", []string{"smtp-listener"}},
		{"a folder and a number", text + "total-max-smtp-out 9\n<spool /more>\n</spool>\n", []string{"total-max-smtp-out", "<spool>"}},
		{"a section that was not there", text + "<event-log /log>\n</event-log>\n", []string{"<event-log>"}},
		{"the first cold vmta", text + "<virtual-mta v>\ncold-virtual-mta c\n</virtual-mta>\n<virtual-mta c>\n</virtual-mta>\n", []string{"cold-virtual-mta"}},
		{"reject logs", text + "<rejectlog-file r.csv>\n</rejectlog-file>\n", []string{"<rejectlog-file>"}},
		{"bounce categories", text + "<bounce-category-patterns>\n/x/ other\n</bounce-category-patterns>\n", nil},
		{"a secret", strings.Replace(text, "key1", "key2", 1), []string{"<feed>"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := first.NeedsRestart(load(tc.next)); !slices.Equal(got, tc.want) {
				t.Errorf("NeedsRestart = %q, want %q", got, tc.want)
			}
		})
	}
}

// TestNeedsRestartOfAccounting: what a file hides and filters is part of it.
func TestNeedsRestartOfAccounting(t *testing.T) {
	load := func(line string) *Config {
		t.Helper()
		c, _, err := parse("/etc/carom/config", []byte("<acct-file a.csv>\n"+line+"\n</acct-file>\n"), memory{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, pair := range [][2]string{
		{"privacy-policy siphash one", "privacy-policy siphash two"},
		{"queue-filter a.test/*", "queue-filter b.test/*"},
		{"http-webhook-url http://a.test/x", "http-webhook-url http://a.test/y"},
	} {
		if got := load(pair[0]).NeedsRestart(load(pair[1])); !slices.Equal(got, []string{"<acct-file>"}) {
			t.Errorf("%q: NeedsRestart = %q", pair, got)
		}
		if got := load(pair[0]).NeedsRestart(load(pair[0])); len(got) > 0 {
			t.Errorf("%q twice: NeedsRestart = %q", pair[0], got)
		}
	}
}
