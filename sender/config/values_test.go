package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseRate(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Rate
		text string
	}{
		{"unlimited", Rate{}, "unlimited"},
		{"0", Rate{}, "unlimited"},
		{"100/m", Rate{100, time.Minute}, "100/m"},
		{"250/min", Rate{250, time.Minute}, "250/m"},
		{"1/6m", Rate{1, 6 * time.Minute}, "1/6m"},
		{"500/DAY", Rate{500, 24 * time.Hour}, "500/d"},
		{"20/h", Rate{20, time.Hour}, "20/h"},
		{"20/60m", Rate{20, time.Hour}, "20/h"},
		{"9/90s", Rate{9, 90 * time.Second}, "9/90s"},
	} {
		got, err := ParseRate(tc.in)
		if err != nil || got != tc.want || got.String() != tc.text {
			t.Errorf("ParseRate(%q) = %v %q, %v; want %v %q", tc.in, got, got, err, tc.want, tc.text)
		}
	}
	for _, in := range []string{"", "5", "5/", "/m", "5/x", "5/0m", "-5/m", "+5/m", "0/m", "5/m5", "5 /m", "99999999999/m", "1/9999999999999d"} {
		if got, err := ParseRate(in); err == nil {
			t.Errorf("ParseRate(%q) = %v; want an error", in, got)
		}
	}
	if got := (Rate{90, time.Minute}).PerSecond(); got != 1.5 {
		t.Errorf("90/m per second = %v; want 1.5", got)
	}
	if got := (Rate{}).PerSecond(); !math.IsInf(got, 1) {
		t.Errorf("unlimited per second = %v; want +Inf", got)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{"0": 0, "17": 17, "17b": 17, "1k": 1024, "2M": 2 << 20, "3g": 3 << 30, "1T": 1 << 40} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "k", "-1", "1kk", "1.5m", "9999999999999t", "1 k"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %v; want an error", in, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"0": 0, "90": 90 * time.Second, "300s": 5 * time.Minute, "4d12h": 108 * time.Hour,
		"1w2d12h": 9*day + 12*time.Hour, "10M": 10 * time.Minute,
	} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"m", "1y", "1h 2m", "1h2", "-1h", "99999999999999w", "9999999999999999999"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("parseDuration(%q) = %v; want an error", in, got)
		}
	}
}

func TestWritingAndReadingBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{rapid.IntRange(1, maxCount).Draw(t, "count"), time.Duration(rapid.IntRange(1, 1e6).Draw(t, "seconds")) * time.Second}
		if got, err := ParseRate(r.String()); err != nil || got != r {
			t.Errorf("ParseRate(%q) = %v, %v", r, got, err)
		}
		s := Size(rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Errorf("ParseSize(%q) = %v, %v", s, got, err)
		}
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64/int64(time.Second)).Draw(t, "duration")) * time.Second
		if got, err := parseDuration(FormatDuration(d)); err != nil || got != d {
			t.Errorf("parseDuration(%q) = %v, %v", FormatDuration(d), got, err)
		}
	})
}

func TestParseCIDR(t *testing.T) {
	for in, want := range map[string]string{
		"10/8": "10.0.0.0/8", "10.1/16": "10.1.0.0/16", "10.0.0.0/8": "10.0.0.0/8", "0/0": "0/0",
		"1.2.3.4": "1.2.3.4", "::1": "::1", "2001:db8::/32": "2001:db8::/32", "10.9.9.9/8": "10.0.0.0/8",
		"::ffff:1.2.3.4": "1.2.3.4", "0.0.0.0/0": "0.0.0.0/0",
	} {
		if got, err := parseCIDR(in); err != nil || formatCIDR(got) != want {
			t.Errorf("parseCIDR(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "10", "10.1", "10/33", "10/-1", "10/", "/8", "1.2.3.4.5/8", "a.b", "fe80::1%eth0", "::/129", "10/99999999999"} {
		if got, err := parseCIDR(in); err == nil {
			t.Errorf("parseCIDR(%q) = %v; want an error", in, got)
		}
	}
}

func TestDomainPatternMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern  string
		yes, not []string
	}{
		{"*", []string{"a.com", "[1.2.3.4]", ""}, nil},
		{"a.com", []string{"a.com", "A.COM.", "a.com"}, []string{"b.a.com", "com", "xa.com", ""}},
		{"*.a.com", []string{"b.a.com", "c.b.a.com"}, []string{"a.com", ".a.com", "xa.com"}},
		{"[*.]a.com", []string{"a.com", "b.a.com"}, []string{"xa.com", ".a.com", "com"}},
		{"[10/8]", []string{"[10.1.2.3]"}, []string{"[11.1.2.3]", "10.1.2.3", "a.com"}},
		{"[0/0]", []string{"[10.1.2.3]", "[IPv6:::1]"}, []string{"a.com"}},
		{"bücher.example", []string{"BÜCHER.example", "xn--bcher-kva.example"}, []string{"bucher.example"}},
		{"yahoo.rollup", []string{"yahoo.rollup"}, []string{"yahoo.com"}},
		{"{bounce}", []string{"{bounce}"}, nil},
	} {
		p, err := parseDomainPattern(tc.pattern)
		if err != nil {
			t.Errorf("parseDomainPattern(%q): %v", tc.pattern, err)
			continue
		}
		for _, d := range tc.yes {
			if !p.Match(d) {
				t.Errorf("%s does not match %q", p, d)
			}
		}
		for _, d := range tc.not {
			if p.Match(d) {
				t.Errorf("%s matches %q", p, d)
			}
		}
	}
	for _, in := range []string{"", ".", "*.", "[*.]", "*.*", "a.*", "a b", "[10/8", "[x]", "a@b", "a..b", ".a", "$a", "*.a.", "ü\xff"} {
		if p, err := parseDomainPattern(in); err == nil && in != "*.a." {
			t.Errorf("parseDomainPattern(%q) = %v; want an error", in, p)
		}
	}
}

// TestTableAgreesWithMatch checks that the index finds the sections that Match would, and that
// each wider pattern comes before the narrower ones.
func TestTableAgreesWithMatch(t *testing.T) {
	labels := rapid.SampledFrom([]string{"a", "b", "com"})
	domain := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(labels, 1, 4).Draw(t, "labels"), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		var table domainTable
		count := rapid.IntRange(0, 20).Draw(t, "patterns")
		patterns := make([]DomainPattern, 0, count)
		for i := range count {
			text := rapid.SampledFrom([]string{"", "*.", "[*.]"}).Draw(t, "kind") + domain.Draw(t, "pattern")
			if rapid.IntRange(0, 9).Draw(t, "any") == 0 {
				text = "*"
			}
			p, err := parseDomainPattern(text)
			if err != nil {
				t.Fatal(err)
			}
			patterns = append(patterns, p)
			table.add(domainSection{pattern: p, assignments: []assignment[Settings]{{pos: Pos{Line: i}}}})
		}
		table.sort()
		d := domain.Draw(t, "domain")
		found := map[int]bool{}
		var last DomainPattern
		table.each(d, func(a assignment[Settings]) {
			p := patterns[a.pos.Line]
			found[a.pos.Line] = true
			if len(p.domain) < len(last.domain) || len(p.domain) == len(last.domain) && p.kind < last.kind {
				t.Errorf("for %s, %s comes after %s", d, p, last)
			}
			last = p
		})
		for i, p := range patterns {
			if p.Match(d) != found[i] {
				t.Errorf("%s matches %s: %v, but the table finds it: %v", p, d, p.Match(d), found[i])
			}
		}
	})
}

func TestSecretShowsNothing(t *testing.T) {
	const plain = "hunter2"
	user := User{Name: "joe", Password: NewSecret(plain)}
	encoded, err := json.Marshal(user)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", user.Password, "user", user)
	inner := struct{ hidden Secret }{user.Password}
	for _, s := range []string{
		string(encoded), logged.String(), fmt.Sprintf("%v %+v %#v %s %q", user, user, user, user.Password, user.Password),
		fmt.Sprintf("%v %+v %#v", inner, inner, inner),
	} {
		if strings.Contains(s, plain) {
			t.Errorf("the secret is in %q", s)
		}
	}
	if got := user.Password.Reveal(); got != plain {
		t.Errorf("Reveal() = %q; want %q", got, plain)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		`a b	c`:                     {"a", "b", "c"},
		`"a b" c`:                   {"a b", "c"},
		`"a\"b\\c\ d\$e" ""`:        {`a"b\c d$e`, ""},
		`c:\pmta\m.pem`:             {`c:\pmta\m.pem`},
		`"c:\pmta"`:                 {`c:\pmta`},
		`/a b\/ c/ d`:               {`/a b\/ c/`, "d"},
		`/var/log/x /y`:             {"/var/log/x", "/y"},
		`/^[45]\.1\.1/ bad-mailbox`: {`/^[45]\.1\.1/`, "bad-mailbox"},
	} {
		words, err := (&value{text: in}).words()
		var got []string
		for _, w := range words {
			got = append(got, w.text)
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("words of %s: %v (-want +got):\n%s", in, err, diff)
		}
	}
}

func TestAddressListMatch(t *testing.T) {
	c, _, err := parse("config", []byte(`
		host-name mail.example.com
		relay-domain [*.]relay.example
		relay-address Abuse@other.example
		relay-address /^list-.*@lists\.example$/
		<virtual-mta a>
			bounce-domain bounce.example
		</virtual-mta>
		<address-list domains>
			domain a.example
			domain b.example
		</address-list>
		<address-list mixed>
			domain a.example
			address fbl
			address /^bounce-[0-9]+$/
			address exact@c.example
		</address-list>
		<address-list locals>
			address fbl
			address /@d\.example$/
		</address-list>`), memory{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		list, address string
		want          bool
	}{
		{"domains", "x@a.example", true},
		{"domains", "x@B.Example.", true},
		{"domains", "x@c.example", false},
		{"mixed", "FBL@a.example", true},
		{"mixed", "fbl@c.example", false},
		{"mixed", "bounce-17@a.example", true},
		{"mixed", "bounce-17@c.example", false},
		{"mixed", "other@a.example", false},
		{"mixed", "exact@c.example", true},
		{"locals", "fbl@any.example", true},
		{"locals", "x@d.example", true},
		{"locals", "x@e.example", false},
		{"locals", "", false},
	} {
		if got := c.AddressLists[tc.list].Match(tc.address); got != tc.want {
			t.Errorf("%s matches %q: %v; want %v", tc.list, tc.address, got, tc.want)
		}
	}
	for address, want := range map[string]bool{
		"x@mail.example.com": true, "x@a.relay.example": true, "abuse@other.example": true, "x@other.example": false,
		"list-1@lists.example": true, "list-1@lists.example.org": false, "x@bounce.example": true,
		"x@example.com": false, "x": false, "@": false, "x@mail.example.com@evil.example": false,
	} {
		if got := c.Relays(address); got != want {
			t.Errorf("Relays(%q) = %v; want %v", address, got, want)
		}
	}
	if (*ReportProcessor)(nil).Match("x@a.example") {
		t.Error("no processor matches an address")
	}
}

func TestSourceOfNoAddress(t *testing.T) {
	c, _, err := parse("config", []byte("<source 0/0>\nprocess-x-job yes\n</source>\n<source {pickup}>\nprocess-x-envid yes\n</source>"), memory{})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Source(netip.Addr{}, "{PICKUP}")
	if s.Name != "{pickup}" || s.ProcessXJob || !s.ProcessXEnvid {
		t.Errorf("Source(no address, {pickup}) = %+v", s)
	}
}
