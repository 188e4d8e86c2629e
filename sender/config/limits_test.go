package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// mustParse parses a configuration that holds no mistake and nothing without effect.
func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, warnings, err := parse("/etc/carom/config", []byte("host-name mail.example.com\n"+text), testKeys())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "virtual-mta: accepted") { // of pools
			t.Errorf("warning: %v", w)
		}
	}
	return c
}

func TestParseDataRate(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want DataRate
		text string
	}{
		{"unlimited", DataRate{}, "unlimited"},
		{"0", DataRate{}, "unlimited"},
		{"10m/h", DataRate{10 << 20, time.Hour}, "10m/h"},
		{"500K/15min", DataRate{500 << 10, 15 * time.Minute}, "500k/15m"},
		{"1000/s", DataRate{1000, time.Second}, "1000b/s"},
		{"2G/day", DataRate{2 << 30, 24 * time.Hour}, "2g/d"},
	} {
		got, err := ParseDataRate(tc.in)
		if err != nil || got != tc.want || got.String() != tc.text {
			t.Errorf("ParseDataRate(%q) = %v %q, %v; want %v %q", tc.in, got, got, err, tc.want, tc.text)
		}
		if again, err := ParseDataRate(got.String()); err != nil || again != got {
			t.Errorf("ParseDataRate(%q) = %v, %v", got, again, err)
		}
	}
	for _, in := range []string{"", "10m", "m/h", "10m/", "10x/h", "-1m/h", "0/h", "0m/h", "10m/0h", "10m/x", "9999999999999t/h"} {
		if got, err := ParseDataRate(in); err == nil {
			t.Errorf("ParseDataRate(%q) = %v; want an error", in, got)
		}
	}
}

func TestLimitsOfADomain(t *testing.T) {
	c := mustParse(t, `
<domain *>
	max-msg-rate 100/h
	max-connect-rate 10/m
	max-data-volume-rate 10m/h
	source-ip-max-smtp-out 0/0 10
	max-cold-virtual-mta-msg 100/d,200/day, 400/d
</domain>
<domain a.test>
	smtp-out-rampup-interval 30s
	backoff-max-smtp-out 1
	backoff-max-msg-per-hour 7
	backoff-max-connect-rate unlimited
	source-ip-max-smtp-out 192.0.2/24 5
	source-ip-max-smtp-out 192.0.2.1 2
	source-ip-max-msg-rate 192.0/16 50/m
	source-ip-max-connect-rate 2001:db8::/32 1/s
	source-ip-max-data-volume-rate 192.0.2.0/24 1m/m
	source-ip-max-data-volume-rate 192.0.2.0/24 2m/m
</domain>
<domain b.test>
	max-smtp-out-per-source-ip 3
</domain>`)
	s := c.Domain("a.test", "")
	if got := s.BackoffMaxMsgRate.Or(s.MaxMsgRate); got != (Rate{7, time.Hour}) {
		t.Errorf("backoff-max-msg-rate %v", got)
	}
	if got := s.BackoffMaxConnectRate.Or(s.MaxConnectRate); !got.Unlimited() {
		t.Errorf("backoff-max-connect-rate %v", got)
	}
	if got := s.BackoffMaxDataVolumeRate.Or(s.MaxDataVolumeRate); got != (DataRate{10 << 20, time.Hour}) {
		t.Errorf("backoff-max-data-volume-rate %v", got)
	}
	if s.BackoffMaxSMTPOut != 1 || s.SMTPOutRampupInterval != 30*time.Second || s.MaxConnectRate != (Rate{10, time.Minute}) {
		t.Errorf("settings %+v", s.Limits)
	}
	for day, want := range map[int]int{0: 100, 1: 100, 2: 200, 3: 400, 4: 400, 1000: 400} {
		if got := s.MaxColdVirtualMTAMsg.Day(day); got != want {
			t.Errorf("day %d: %d messages, want %d", day, got, want)
		}
	}
	want := []SourceLimits{
		{netip.MustParsePrefix("192.0.2.1/32"), 2, Rate{50, time.Minute}, Rate{}, DataRate{2 << 20, time.Minute}},
		{netip.MustParsePrefix("2001:db8::/32"), 10, Rate{}, Rate{1, time.Second}, DataRate{}},
		{netip.MustParsePrefix("192.0.2.0/24"), 5, Rate{50, time.Minute}, Rate{}, DataRate{2 << 20, time.Minute}},
		{netip.MustParsePrefix("192.0.0.0/16"), 10, Rate{50, time.Minute}, Rate{}, DataRate{}},
		{everyAddress, 10, Rate{}, Rate{}, DataRate{}},
	}
	byPrefix := cmpopts.SortSlices(func(a, b SourceLimits) bool { return a.Prefix.String() < b.Prefix.String() })
	if diff := cmp.Diff(want, s.SourceLimits(), byPrefix, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("source limits (-want +got):\n%s", diff)
	}
	b := c.Domain("b.test", "")
	if got := b.SourceLimits(); len(got) != 1 || got[0].MaxSMTPOut != 3 {
		t.Errorf("max-smtp-out-per-source-ip 3: %+v", got)
	}
	if got := (&Limits{}).SourceLimits(); len(got) != 0 || DefaultSettings().MaxColdVirtualMTAMsg.Day(1) != 0 || DefaultSettings().BackoffMaxSMTPOut != 20 {
		t.Error("the defaults are not PowerMTA's")
	}
}

// TestSourceLimitsAreThoseOfTheNarrowestRange for any address, whatever the ranges.
func TestSourceLimitsAreThoseOfTheNarrowestRange(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var l Limits
		for range rapid.IntRange(0, 6).Draw(r, "limits") {
			prefix := everyAddress
			if bits := rapid.IntRange(-1, 32).Draw(r, "bits"); bits >= 0 {
				prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 3).Draw(r, "last"))}), bits).Masked()
			}
			n := rapid.IntRange(0, 5).Draw(r, "n")
			if rapid.Bool().Draw(r, "connections") {
				l.SourceIPMaxSMTPOut = append(l.SourceIPMaxSMTPOut, SourceLimit[Count]{prefix, Count(n)})
			} else {
				l.SourceIPMaxMsgRate = append(l.SourceIPMaxMsgRate, SourceLimit[Rate]{prefix, Rate{n, time.Second}})
			}
		}
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 3).Draw(r, "address"))})
		var want, got SourceLimits
		bits := -2
		for _, s := range l.SourceIPMaxSMTPOut {
			if cidrContains(s.Prefix, a) && s.Prefix.Bits() >= bits {
				bits, want.MaxSMTPOut = s.Prefix.Bits(), int(s.Value)
			}
		}
		bits = -2
		for _, s := range l.SourceIPMaxMsgRate {
			if cidrContains(s.Prefix, a) && s.Prefix.Bits() >= bits {
				bits, want.MaxMsgRate = s.Prefix.Bits(), s.Value
			}
		}
		for _, s := range l.SourceLimits() {
			if cidrContains(s.Prefix, a) {
				got = s
				break
			}
		}
		if got.MaxSMTPOut != want.MaxSMTPOut || got.MaxMsgRate != want.MaxMsgRate {
			r.Fatalf("%s: %+v, want %+v of %+v", a, got, want, l)
		}
	})
}

func TestPeerLimits(t *testing.T) {
	c := mustParse(t, `
mx-connection-limit * 50
mx-connection-limit *.mail.test 5
mx-connection-limit mx*.mail.test 4
mx-connection-limit [*.]other.test 3
mx-connection-limit mx1.mail.test 2
mx-connection-limit MX1.mail.test 1
ip-connection-limit 0/0 100
ip-connection-limit 198.51.100/24 7
ip-connection-limit 198.51.100.9 unlimited`)
	for host, want := range map[string]int{
		"mx1.mail.test": 1, "mx2.Mail.test.": 4, "in.mail.test": 5, "mail.test": 50, "other.test": 3, "a.other.test": 3, "another.test": 50,
	} {
		got := -1
		for _, l := range c.MXConnectionLimits {
			if l.Pattern.Match(host) {
				got = l.Max
				break
			}
		}
		if got != want {
			t.Errorf("mx-connection-limit of %s is %d, want %d", host, got, want)
		}
	}
	ips := make([]string, 0, len(c.IPConnectionLimits))
	for _, l := range c.IPConnectionLimits {
		ips = append(ips, l.String())
	}
	if want := []string{"198.51.100.9 unlimited", "198.51.100.0/24 7", "0/0 100"}; !cmp.Equal(ips, want) {
		t.Errorf("ip-connection-limit %q, want %q", ips, want)
	}
	if p := c.MXConnectionLimits[0]; p.Pos.Line != 8 || p.String() != "mx1.mail.test 1" {
		t.Errorf("%v at %v", p, p.Pos)
	}
}

func TestColdVMTAs(t *testing.T) {
	c := mustParse(t, `
domain-key global,*,keys/rsa.pem
<virtual-mta warm>
	smtp-source-host 192.0.2.1 warm.example.com
	domain-key own,*,keys/rsa.pem
	cold-virtual-mta cold1
	cold-virtual-mta COLD2
	max-smtp-data-volume-rate 10m/h
</virtual-mta>
<virtual-mta cold1>
</virtual-mta>
<virtual-mta cold2>
</virtual-mta>
<virtual-mta auto>
	smtp-source-host 192.0.2.2 auto.example.com
	auto-cold-virtual-mta 192.0.2.64/28 cold.example.com
	<domain a.test>
		max-smtp-out 3
	</domain>
</virtual-mta>
<virtual-mta pooled>
</virtual-mta>
<virtual-mta-pool p>
	virtual-mta warm
	virtual-mta pooled
	virtual-mta cold2
	cold-virtual-mta cold2
	domain-key pool,*,keys/rsa.pem
	max-smtp-out 100
	max-smtp-msg-rate 1000/m
	max-smtp-data-volume-rate 1g/d
</virtual-mta-pool>`)
	for name, want := range map[string][]string{
		"warm": {"cold1", "COLD2"}, "cold1": nil, "cold2": nil, "auto": {"auto-cold"}, "pooled": {"cold2"}, "auto-cold": nil,
	} {
		m, ok := c.VMTA(name)
		if !ok {
			t.Fatalf("no vmta %s", name)
		}
		if diff := cmp.Diff(want, m.ColdVMTAs); diff != "" {
			t.Errorf("cold vmtas of %s (-want +got):\n%s", name, diff)
		}
	}
	cold, _ := c.VMTA("auto-cold")
	if len(cold.SourceHosts) != 1 || cold.SourceHosts[0].String() != "192.0.2.64/28 cold.example.com" || c.Domain("a.test", "auto-cold").MaxSMTPOut != 3 {
		t.Errorf("auto-cold: %+v", cold)
	}
	warm, _ := c.VMTA("warm")
	selectors := make([]string, 0, len(warm.DomainKeys))
	for _, k := range warm.DomainKeys {
		selectors = append(selectors, strings.SplitN(k.String(), ",", 2)[0])
	}
	if diff := cmp.Diff([]string{"own", "pool", "global"}, selectors); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	p, _ := c.Pool("p")
	if p.MaxSMTPOut != 100 || p.MaxSMTPMsgRate != (Rate{1000, time.Minute}) || p.MaxSMTPDataVolumeRate != (DataRate{1 << 30, 24 * time.Hour}) ||
		warm.MaxSMTPDataVolumeRate != (DataRate{10 << 20, time.Hour}) {
		t.Errorf("pool %+v, vmta %+v", p, warm)
	}
	if p.Origin("max-smtp-msg-rate").Line == 0 || warm.Origin("max-smtp-data-volume-rate").Line != 9 || (warm.Origin("max-smtp-out") != Pos{}) {
		t.Errorf("origins %v, %v", p.Origin("max-smtp-msg-rate"), warm.Origin("max-smtp-data-volume-rate"))
	}
}

func TestMistakesInLimits(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"<domain *>\nmax-data-volume-rate 10\n</domain>", `2:22: max-data-volume-rate: bad data rate "10"`},
		{"<domain *>\nbackoff-max-msg-rate 5/x\n</domain>", `bad rate "5/x"`},
		{"<domain *>\nbackoff-max-msg-per-hour -1\n</domain>", `bad number "-1"`},
		{"<domain *>\nsource-ip-max-smtp-out 5\n</domain>", `"5" is not enough; want CIDR N`},
		{"<domain *>\nsource-ip-max-smtp-out x/y 5\n</domain>", `bad address range "x/y"`},
		{"<domain *>\nsource-ip-max-smtp-out 10/8 -5\n</domain>", `bad number "-5"`},
		{"<domain *>\nsource-ip-max-msg-rate 10/8 5\n</domain>", `2:29: source-ip-max-msg-rate: bad rate "5"`},
		{"<domain *>\nsource-ip-max-data-volume-rate 10/8 5/h/d\n</domain>", `bad data rate`},
		{"<domain *>\nmax-smtp-out-per-source-ip many\n</domain>", `bad number "many"`},
		{"<domain *>\nsmtp-out-rampup-interval soon\n</domain>", `bad time "soon"`},
		{"<domain *>\nmax-cold-virtual-mta-msg 100\n</domain>", `bad daily limit "100"`},
		{"<domain *>\nmax-cold-virtual-mta-msg 100/h\n</domain>", `bad daily limit "100/h"`},
		{"<domain *>\nmax-cold-virtual-mta-msg 1/d" + strings.Repeat(",1/d", 366) + "\n</domain>", "367 days"},
		{"mx-connection-limit 5", `"5" is not enough; want MX-PATTERN N`},
		{"mx-connection-limit a..b 5", `bad host name`},
		{"mx-connection-limit *.a.test x", `bad number "x"`},
		{"ip-connection-limit 10/8 x", `bad number "x"`},
		{"ip-connection-limit host 5", `bad address range "host"`},
		{"<virtual-mta a>\ncold-virtual-mta b\n</virtual-mta>", `2:1: cold-virtual-mta: there is no virtual-mta "b"`},
		{"<virtual-mta a>\ncold-virtual-mta A\n</virtual-mta>", `cannot be its own`},
		{"<virtual-mta a>\nauto-cold-virtual-mta 192.0.2.1\n</virtual-mta>", `"192.0.2.1" is not enough`},
		{"<virtual-mta a>\nmax-smtp-data-volume-rate 1\n</virtual-mta>", `bad data rate "1"`},
		{"<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta a\nmax-smtp-msg-rate x\n</virtual-mta-pool>", `bad rate "x"`},
		{"<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta a\ncold-virtual-mta b\n</virtual-mta-pool>", `there is no virtual-mta "b"`},
	} {
		_, _, err := parse("config", []byte(tc.text), memory{})
		if err == nil || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s\ngives %v; want %q", tc.text, err, tc.want)
		}
	}
}
