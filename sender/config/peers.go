package config

import (
	"net/netip"
	"slices"
	"strings"
)

// HostPattern says which receiving hosts a limit is for: a name in which * stands for any
// characters, or "[*.]dom" for a domain with what is below it.
type HostPattern struct{ text string }

func parseHostPattern(s string) (HostPattern, error) {
	plain := strings.TrimPrefix(s, "[*.]")
	if p := strings.ReplaceAll(plain, "*", "x"); p != "x" {
		if _, err := checkHostName(p); err != nil {
			return HostPattern{}, err
		}
	}
	return HostPattern{strings.ToLower(strings.TrimSuffix(s, "."))}, nil
}

// Match reports whether the pattern covers the host.
func (p HostPattern) Match(host string) bool {
	host, err := normalDomain(host)
	if err != nil {
		return p.text == "*"
	}
	if base, ok := strings.CutPrefix(p.text, "[*.]"); ok {
		return globMatch(base, host) || globMatch("*."+base, host)
	}
	return globMatch(p.text, host)
}

// String returns the pattern as it is written.
func (p HostPattern) String() string { return p.text }

// narrow returns how many characters the pattern asks for.
func (p HostPattern) narrow() int { return len(p.text) - strings.Count(p.text, "*") }

// globMatch matches s against a pattern in which * stands for any characters, also none. It takes
// time in proportion to the product of the lengths at most.
func globMatch(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// MXConnectionLimit bounds the connections to a receiving host from one local address.
type MXConnectionLimit struct {
	Pos     Pos
	Pattern HostPattern
	Max     int // 0 means no limit
}

// String returns the limit as it is written.
func (l MXConnectionLimit) String() string { return l.Pattern.String() + " " + Count(l.Max).String() }

// IPConnectionLimit bounds the connections to each receiving address in a range.
type IPConnectionLimit struct {
	Pos    Pos
	Prefix netip.Prefix // the zero Prefix holds every address
	Max    int          // 0 means no limit
}

// String returns the limit as it is written.
func (l IPConnectionLimit) String() string { return formatCIDR(l.Prefix) + " " + Count(l.Max).String() }

func mxConnectionLimit(v *value) (MXConnectionLimit, error) {
	const want = "want MX-PATTERN N, for example *.example.com 10"
	words, err := v.fields(2, 2, want)
	if err != nil {
		return MXConnectionLimit{}, err
	}
	pattern, err := parseHostPattern(words[0].text)
	if err != nil {
		return MXConnectionLimit{}, words[0].errorf("%v; %s", err, want)
	}
	if _, err := parseCount(words[0].text); err == nil && !isCount(words[1].text) {
		return MXConnectionLimit{}, words[0].errorf("bad MX pattern %q; %s", words[0].text, reversed(words, func(string) bool { return true }, want))
	}
	n, err := parseCount(words[1].text)
	if err != nil {
		return MXConnectionLimit{}, words[1].errorf("%v", err)
	}
	return MXConnectionLimit{v.pos, pattern, int(n)}, nil
}

func ipConnectionLimit(v *value) (IPConnectionLimit, error) {
	l, err := sourceLimit(parseCount, "want CIDR N, for example 198.51.100.0/24 10")(v)
	return IPConnectionLimit{v.pos, l.Prefix, int(l.Value)}, err
}

// sortPeerLimits puts the narrower limits before the wider ones, and of equal ones the later first:
// the first that fits counts.
func (c *Config) sortPeerLimits() {
	slices.Reverse(c.MXConnectionLimits)
	slices.SortStableFunc(c.MXConnectionLimits, func(a, b MXConnectionLimit) int { return b.Pattern.narrow() - a.Pattern.narrow() })
	slices.Reverse(c.IPConnectionLimits)
	narrowestFirst(c.IPConnectionLimits, func(l IPConnectionLimit) netip.Prefix { return l.Prefix })
}
