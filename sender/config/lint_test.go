package config

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// goodText is a configuration that no rule of Lint has anything to say about.
const goodText = `host-name mail.example.com
run-as-root no
total-max-smtp-out 100
smtp-listener 192.0.2.9:25
<source 10/8>
always-allow-relaying yes
</source>
http-access 127.0.0.1 admin
http-access 0/0 none
domain-key s1,example.com,keys/rsa.pem
<virtual-mta mail1>
smtp-source-host 192.0.2.1 mail1.example.com
</virtual-mta>
<domain *>
max-msg-per-connection 100
smtp-out-rampup-interval 2s
initial-pts 60s
dkim-sign yes
</domain>
`

// zone is a DNS of names that lead to addresses and back.
type zone map[string]string

func (z zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	a, err := netip.ParseAddr(z[host])
	return []netip.Addr{a}, err
}

func (z zone) LookupAddr(_ context.Context, addr string) ([]string, error) {
	if name, ok := z[addr]; ok {
		return []string{name}, nil
	}
	return nil, errors.New("no such name")
}

var (
	goodZone    = zone{"mail1.example.com": "192.0.2.1", "192.0.2.1": "MAIL1.example.com."}
	goodMachine = Machine{Memory: 2 << 30, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, DNS: goodZone}
)

func lint(t *testing.T, text string, m Machine) []Advice {
	t.Helper()
	c, _, err := parse("/etc/carom/config", []byte(text), testKeys())
	if err != nil {
		t.Fatal(err)
	}
	return Lint(t.Context(), c, "/etc/carom/config", m)
}

func TestLint(t *testing.T) {
	if advice := lint(t, goodText, goodMachine); len(advice) != 0 {
		t.Errorf("a good configuration gets the advice %+v", advice)
	}
	with := func(dns zone) Machine {
		m := goodMachine
		m.DNS = dns
		return m
	}
	fires := map[string]bool{}
	for _, tc := range []struct {
		rule, what, old, new string
		machine              Machine
		line                 int // that the advice is about; 0: the file
		want                 string
	}{
		{"connections-memory", "written", "total-max-smtp-out 100", "total-max-smtp-out 300", goodMachine, 3, "write total-max-smtp-out 256"},
		{"connections-memory", "unlimited", "total-max-smtp-out 100", "total-max-smtp-out unlimited", goodMachine, 3, "2g of memory"},
		{"connections-memory", "by default", "total-max-smtp-out 100", "", goodMachine, 0, "total-max-smtp-out 1200"},
		{"no-domain-star", "none", "<domain *>", "<domain a.com>", goodMachine, 0, "20 connections"},
		{"endless-connection", "by default", "max-msg-per-connection 100", "", goodMachine, 0, "50 to 200"},
		{"endless-connection", "written", "max-msg-per-connection 100", "max-msg-per-connection 0", goodMachine, 15, "is 0"},
		{"endless-connection", "of one domain", "<domain *>", "<domain a.com>\nmax-msg-per-connection 0\n</domain>\n<domain *>", goodMachine, 15, "never closes"},
		{"no-ramp-up", "none", "smtp-out-rampup-interval 2s", "", goodMachine, 0, "20 connections"},
		{"no-ramp-up", "taken back by a vmta", "</virtual-mta>", "<domain *>\nsmtp-out-rampup-interval 0\n</domain>\n</virtual-mta>", goodMachine, 14, "opened at once"},
		{"no-penalty-time", "none", "initial-pts 60s", "", goodMachine, 0, "same pace"},
		{"runs-as-root", "by default", "run-as-root no", "", goodMachine, 0, "root"},
		{"runs-as-root", "written", "run-as-root no", "run-as-root yes", goodMachine, 2, "process-user"},
		{"open-relay", "everybody", "<source 10/8>", "<source 0/0>", goodMachine, 6, "strangers"},
		{"open-relay", "half the world", "<source 10/8>", "<source 64/2>", goodMachine, 6, "64.0.0.0"},
		{"open-relay", "outside of sections", "run-as-root no", "run-as-root no\nalways-allow-relaying yes", goodMachine, 3, "strangers"},
		{"open-relay", "by the listener's source", "smtp-listener 192.0.2.9:25\n<source 10/8>", "smtp-listener 192.0.2.9:25 source=in\n<source in>", goodMachine, 6, "strangers"},
		{"open-relay", "any recipient", "run-as-root no", "run-as-root no\nrelay-domain *", goodMachine, 3, "any recipient"},
		{"open-relay", "a pattern for any recipient", "run-as-root no", "run-as-root no\nrelay-address /.*@/", goodMachine, 3, "any recipient"},
		{"shadowed-http-access", "everything first", "http-access 127.0.0.1 admin\nhttp-access 0/0 none", "http-access 0/0 monitor\nhttp-access 127.0.0.1 admin", goodMachine, 9, "never reached"},
		{"shadowed-http-access", "a wider range first", "http-access 127.0.0.1 admin", "http-access 10/8 monitor\nhttp-access 10.1.0.0/16 admin", goodMachine, 9, "10.0.0.0/8"},
		{"unused-domain-key", "nobody signs", "dkim-sign yes", "", goodMachine, 10, "signs nothing"},
		{"unused-domain-key", "of a vmta", "dkim-sign yes\n</domain>", "</domain>\n<virtual-mta b>\ndomain-key s1,a.com,keys/rsa.pem\n</virtual-mta>\n<virtual-mta c>\n<domain *>\ndkim-sign yes\n</domain>\n</virtual-mta>", goodMachine, 20, "of b signs nothing"},
		{"sign-without-key", "no key", "domain-key s1,example.com,keys/rsa.pem\n", "", goodMachine, 17, "no domain-key"},
		{"short-privacy-key", "of an HMAC", "run-as-root no", "run-as-root no\n<acct-file a.csv>\nprivacy-policy hmac-sha256 0123456789012345678901234567890\n</acct-file>", goodMachine, 3, "31 octets"},
		{"short-privacy-key", "of the event log", "run-as-root no", "run-as-root no\n<event-log /e>\nprivacy-policy siphash-hexkey 0011\n</event-log>", goodMachine, 3, "openssl rand -hex 16"},
		{"short-privacy-key", "of the reject log", "run-as-root no", "run-as-root no\n<rejectlog-file a.csv>\nprivacy-policy siphash abc\n</rejectlog-file>", goodMachine, 3, "3 octets"},
		{"foreign-source-ip", "not here", "192.0.2.1 mail1", "192.0.2.0/31 mail1", Machine{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}, 12, "192.0.2.0/31"},
		{"ehlo-mismatch", "no address", "", "", with(zone{}), 12, "does not resolve"},
		{"ehlo-mismatch", "another address", "", "", with(zone{"mail1.example.com": "192.0.2.7"}), 12, "does not resolve to 192.0.2.1"},
		{"ehlo-mismatch", "no name", "", "", with(zone{"mail1.example.com": "192.0.2.1"}), 12, "no name (PTR)"},
		{"ehlo-mismatch", "another name", "", "", with(zone{"mail1.example.com": "192.0.2.1", "192.0.2.1": "x.example."}), 12, "x.example."},
	} {
		t.Run(tc.rule+" "+tc.what, func(t *testing.T) {
			if !strings.Contains(goodText, tc.old) {
				t.Fatalf("%q is not in the text", tc.old)
			}
			fires[tc.rule] = true
			advice := lint(t, strings.Replace(goodText, tc.old, tc.new, 1), tc.machine)
			found := false
			for _, a := range advice {
				if a.Reason == "" || a.Fix == "" || a.Pos.File == "" {
					t.Errorf("incomplete advice %+v", a)
				}
				found = found || a.Rule == tc.rule && a.Pos.Line == tc.line && strings.Contains(a.Reason+a.Fix, tc.want)
			}
			if !found {
				t.Errorf("no %s about line %d with %q in %+v", tc.rule, tc.line, tc.want, advice)
			}
		})
	}
	page, err := os.ReadFile("../../deploy/docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range lintRules {
		if !fires[r.id] {
			t.Errorf("no test makes %s fire", r.id)
		}
		if row := fmt.Sprintf("| `%s` | %s |\n", r.id, cell(r.about)); !strings.Contains(string(page), row) {
			t.Errorf("deploy/docs/configuration.md lacks the row\n%s", row)
		}
	}
}

// What other rules may say is not the matter here: these do not fire.
func TestLintIsSilent(t *testing.T) {
	for _, tc := range []struct{ rule, what, old, new string }{
		{"open-relay", "only with a login", "always-allow-relaying yes", "always-allow-relaying yes\nrequire-auth yes\n</source>\n<source 0/0>\nalways-allow-relaying yes\nrequire-auth yes"},
		{"open-relay", "nobody comes from elsewhere", "smtp-listener 192.0.2.9:25\n<source 10/8>", "smtp-listener 127.0.0.1:25\n<source 0/0>"},
		{"open-relay", "no service", "<source 10/8>", "<source 0/0>\nsmtp-service no"},
		{"open-relay", "own addresses", "relay", "relay"},
		{"open-relay", "a pattern with a domain", "run-as-root no", "run-as-root no\nrelay-address /@example\\.com$/\nrelay-domain example.com"},
		{"shadowed-http-access", "the same level", "http-access 127.0.0.1 admin", "http-access 127/8 admin\nhttp-access 127.0.0.1 admin"},
		{"runs-as-root", "a user", "run-as-root no", "process-user mail"},
		{"sign-without-key", "keys of a list", "domain-key s1,example.com,keys/rsa.pem", "<domain-key-list x>\ndomain-key s1,example.com,keys/rsa.pem\n</domain-key-list>"},
		{"short-privacy-key", "no hash", "run-as-root no", "run-as-root no\n<acct-file a.csv>\nprivacy-policy redact x\n</acct-file>\n<acct-file b.csv>\nprivacy-policy hmac-sha256 01234567890123456789012345678901\n</acct-file>"},
		{"foreign-source-ip", "loopback", "192.0.2.1 mail1", "127.0.0.2 mail1"},
		{"endless-connection", "every vmta says so", "max-msg-per-connection 100", "max-msg-per-connection 1"},
	} {
		t.Run(tc.rule+" "+tc.what, func(t *testing.T) {
			advice := lint(t, strings.Replace(goodText, tc.old, tc.new, 1), goodMachine)
			if i := slices.IndexFunc(advice, func(a Advice) bool { return a.Rule == tc.rule }); i >= 0 {
				t.Errorf("%+v", advice[i])
			}
		})
	}
	if advice := lint(t, strings.Replace(goodText, "100", "100000", 1), Machine{}); len(advice) != 0 {
		t.Errorf("what is not known is judged: %+v", advice)
	}
}

func TestMemTotal(t *testing.T) {
	for text, want := range map[string]int64{
		"MemTotal:        2046144 kB\nMemFree: 1 kB\n": 2046144 << 10,
		"MemFree: 1 kB\n": 0, "MemTotal: x kB": 0, "": 0, "MemTotal:": 0,
	} {
		if got := memTotal([]byte(text)); got != want {
			t.Errorf("memTotal(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestPCREOnly(t *testing.T) {
	for pattern, want := range map[string]string{
		`a(?=b)`: "look-ahead", `a(?!b)`: "look-ahead", `(?<=a)b`: "look-behind", `(?<!a)b`: "look-behind",
		`(a)\1`: `back-reference \1`, `(?<n>a)\k<n>`: "back-reference", `a++b`: "possessive quantifier ++", `a{2}+`: "possessive",
		`(?>a)b`: "atomic group", `(?(1)a|b)`: "conditional", `a\Kb`: `escape \K`, `(?#x)a`: "comment", `(?|a|b)`: "branch reset",
	} {
		_, err := parseRegex("/" + pattern + "/")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "PCRE") {
			t.Errorf("%s: %v; want %q", pattern, err, want)
		}
	}
	for _, pattern := range []string{`[*+?]+`, `\(?=`, `[]\1]`, `(?i)a(?:b)(?P<n>c)`, `a\+\+`, `550 5\.1\.1`} {
		if c := pcreOnly(pattern); c != "" {
			t.Errorf("%s: %s", pattern, c)
		}
	}
	if _, err := parseRegex(`/a(b/`); err == nil || strings.Contains(err.Error(), "PCRE") {
		t.Errorf("a pattern that is just wrong: %v", err)
	}
}
