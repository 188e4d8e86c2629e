package route

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"carom/sender/config"
)

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, _, err := config.Parse("test.conf", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const vmtas = `
<virtual-mta Range>
    smtp-source-host 192.0.2.0/24 range.test
</virtual-mta>
<virtual-mta One>
    smtp-source-host 192.0.2.1 one.test
</virtual-mta>
<virtual-mta Six>
    smtp-source-host 2001:db8::1 six.test
    smtp-source-host fe80::1 six.test
</virtual-mta>
<virtual-mta AlsoOne>
    smtp-source-host 192.0.2.1 also.test
</virtual-mta>
`

func TestSelectVMTA(t *testing.T) {
	for _, tc := range []struct{ name, standard, asked, local, want string }{
		{"nothing said", "", "", "192.0.2.1", "{default}"},
		{"asked, in another case", "", "oNE", "192.0.2.9", "One"},
		{"asked wins over the source", "six", "one", "192.0.2.9", "One"},
		{"the source's", "six", "", "192.0.2.9", "Six"},
		{"default by name", "six", "{default}", "192.0.2.9", "{default}"},
		{"by local address, the first", config.BySMTPSourceIP, "", "192.0.2.1", "One"},
		{"by local address, mapped", config.BySMTPSourceIP, "", "::ffff:192.0.2.1", "One"},
		{"by local address, IPv6", config.BySMTPSourceIP, "", "2001:db8::1", "Six"},
		{"by local address, with a zone", config.BySMTPSourceIP, "", "fe80::1%eth0", "Six"},
		{"by local address, a range does not count", config.BySMTPSourceIP, "", "192.0.2.2", "{default}"},
		{"unknown", "", "nope", "192.0.2.1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := parse(t, vmtas)
			source := config.DefaultSource()
			source.DefaultVirtualMTA = tc.standard
			choice, err := new(Turns).SelectVMTA(c, &source, tc.asked, netip.MustParseAddr(tc.local))
			got := choice.VMTA
			if got != tc.want || choice.Pool != "" {
				t.Errorf("got %q, %v, want %q", got, err, tc.want)
			}
			if unknown, ok := errors.AsType[*UnknownVMTAError](err); ok != (tc.want == "") || ok && unknown.Name != tc.asked {
				t.Errorf("error %v", err)
			}
		})
	}
	if got := (&UnknownVMTAError{"x"}).Error(); got != "specified Virtual MTA 'x' does not exist" {
		t.Errorf("text %q is not PowerMTA's", got)
	}
	source := &config.Source{DefaultVirtualMTA: config.BySMTPSourceIP}
	if got, err := new(Turns).SelectVMTA(parse(t, ""), source, "", netip.Addr{}); got.VMTA != "{default}" || err != nil {
		t.Errorf("without an address: %q, %v", got, err)
	}
}

func TestInvalidVMTA(t *testing.T) {
	for _, tc := range []struct{ name, more, standard, want string }{
		{"with a fallback", "invalid-virtual-mta-fallback six\n", "one", "Six"},
		{"with a pool", "invalid-virtual-mta-fallback both\n<virtual-mta-pool both>\nvirtual-mta one\n</virtual-mta-pool>\n", "", "One"},
		{"without one", "", "one", "One"},
	} {
		source := config.DefaultSource()
		source.DefaultVirtualMTA, source.RejectInvalidVirtualMTA = tc.standard, false
		if got, err := new(Turns).SelectVMTA(parse(t, vmtas+tc.more), &source, "nope", netip.Addr{}); got.VMTA != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
}

func TestPoolsTakeTurns(t *testing.T) {
	c := parse(t, vmtas+"<virtual-mta-pool p>\nvirtual-mta one weight 3\nvirtual-mta six\nvirtual-mta alsoone weight 2\n</virtual-mta-pool>\n")
	source := config.DefaultSource()
	source.DefaultVirtualMTA = "P"
	var turns Turns
	order := make([]string, 0, 12)
	for range 12 {
		choice, err := turns.SelectVMTA(c, &source, "", netip.Addr{})
		if err != nil || choice.Pool != "p" {
			t.Fatalf("%v, %v", choice, err)
		}
		order = append(order, choice.VMTA)
	}
	if got := strings.Join(order, " "); got != "One AlsoOne One Six AlsoOne One One AlsoOne One Six AlsoOne One" {
		t.Errorf("turns: %s", got)
	}
}

func TestDomain(t *testing.T) {
	for _, tc := range []struct{ address, want string }{
		{"ann@example.com", "example.com"},
		{"ann@EXAMPLE.Com.", "example.com"},
		{`"a@b"@example.com`, "example.com"},
		{"ann@Bücher.example", "xn--bcher-kva.example"},
		{"ann@XN--bcher-kva.example", "xn--bcher-kva.example"},
		{"ann@[192.0.2.1]", "[192.0.2.1]"},
		{"ann@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"},
		{"ann@a_b.example", "a_b.example"},
		{"ann@\u00e4\u200b_\u00fc", "\u00e4\u200b_\u00fc"}, // no domain of IDNA: as it is
		{"postmaster", ""},
		{"ann@", ""},
		{"", ""},
	} {
		if got := Domain(tc.address); got != tc.want {
			t.Errorf("Domain(%q) = %q, want %q", tc.address, got, tc.want)
		}
	}
}

func TestProvider(t *testing.T) {
	for _, tc := range []struct{ name, configured, domain, preferred, want string }{
		{"configured", "mine", "gmail.com", "gmail-smtp-in.l.google.com", "mine"},
		{"a provider of the table", "", "gmail.com", "gmail-smtp-in.l.google.com.", "google"},
		{"registrable domain of the host", "", "shop.test", "mx1.mail.example.co.uk", "example.co.uk"},
		{"the domain itself", "", "shop.test", "", "shop.test"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Provider(config.Settings{Provider: tc.configured}, tc.domain, tc.preferred); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
