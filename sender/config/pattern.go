package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

type patternKind uint8

// The kinds of domain patterns, from general to specific.
const (
	matchAny       patternKind = iota // *
	matchLiteral                      // [ip/mask]
	matchDomainSub                    // [*.]dom
	matchSub                          // *.dom
	matchExact                        // dom
)

// DomainPattern says which domains a section or a relay rule is for: "*" for all, "dom" for that
// one, "*.dom" for what is below it, "[*.]dom" for both, "[10/8]" for address literals by their
// address. The zero DomainPattern matches every domain.
type DomainPattern struct {
	kind   patternKind
	domain string
	prefix netip.Prefix
}

// parseDomainPattern returns the pattern that s writes. Domains may be written in Unicode.
func parseDomainPattern(s string) (DomainPattern, error) {
	bad := fmt.Errorf("bad domain pattern %q; want *, dom, *.dom, [*.]dom or [10/8]", s)
	p := DomainPattern{kind: matchExact, domain: s}
	switch {
	case s == "*":
		return DomainPattern{}, nil
	case strings.HasPrefix(s, "[*.]"):
		p.kind, p.domain = matchDomainSub, s[4:]
	case strings.HasPrefix(s, "*."):
		p.kind, p.domain = matchSub, s[2:]
	case strings.HasPrefix(s, "["):
		inner, ok := strings.CutSuffix(s[1:], "]")
		prefix, err := parseCIDR(strings.TrimPrefix(strings.ToLower(inner), "ipv6:"))
		if !ok || err != nil {
			return DomainPattern{}, bad
		}
		return DomainPattern{kind: matchLiteral, prefix: prefix}, nil
	}
	d, err := normalDomain(p.domain)
	if err != nil || d == "" || strings.ContainsAny(d, "*[]@:,;$/\\\" \t") || strings.Contains(d, "..") || d[0] == '.' {
		return DomainPattern{}, bad
	}
	p.domain = d
	return p, nil
}

// Match reports whether the pattern covers the domain.
func (p DomainPattern) Match(domain string) bool {
	d, err := normalDomain(domain)
	if err != nil {
		return p.kind == matchAny
	}
	switch p.kind {
	case matchAny:
		return true
	case matchLiteral:
		a, ok := literalAddr(d)
		return ok && cidrContains(p.prefix, a)
	case matchExact:
		return d == p.domain
	default:
		rest, ok := strings.CutSuffix(d, p.domain)
		return ok && (rest == "" && p.kind == matchDomainSub || len(rest) > 1 && rest[len(rest)-1] == '.')
	}
}

// String returns the pattern as it is written.
func (p DomainPattern) String() string {
	switch p.kind {
	case matchAny:
		return "*"
	case matchLiteral:
		return "[" + p.prefix.String() + "]"
	case matchDomainSub:
		return "[*.]" + p.domain
	case matchSub:
		return "*." + p.domain
	default:
		return p.domain
	}
}

// normalDomain returns the form under which domains are compared: lower case, ASCII (RFC 5891),
// without the final dot.
func normalDomain(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	for i := range len(s) {
		if s[i] >= 0x80 {
			if !utf8.ValidString(s) {
				return "", errors.New("not UTF-8")
			}
			return idna.Lookup.ToASCII(s)
		}
	}
	return strings.ToLower(s), nil
}

// literalAddr returns the address of an address literal (RFC 5321 4.1.3) in lower case.
func literalAddr(domain string) (netip.Addr, bool) {
	if len(domain) < 2 || domain[0] != '[' || domain[len(domain)-1] != ']' {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.TrimPrefix(domain[1:len(domain)-1], "ipv6:"))
	return a.Unmap(), err == nil
}

// everyAddress is what "0/0" means: every address of both families. It is kept apart from
// 0.0.0.0/0 by its bits, and sorts before every other range.
var everyAddress = netip.Prefix{}

// parseCIDR returns the range of addresses that s writes. Missing octets count as zero ("10/8"),
// a missing length means the one address. "0/0" covers IPv6 too, and is the zero Prefix.
func parseCIDR(s string) (netip.Prefix, error) {
	bad := fmt.Errorf("bad address range %q; want for example 10.0.0.0/8, 10/8, 0/0 or 2001:db8::/32", s)
	if s == "0/0" {
		return everyAddress, nil
	}
	base, bits, ranged := strings.Cut(s, "/")
	if ranged && !strings.Contains(base, ":") {
		base += strings.Repeat(".0", max(0, 3-strings.Count(base, ".")))
	}
	a, err := netip.ParseAddr(base)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, bad
	}
	n := int64(a.BitLen())
	if ranged {
		if n, err = parseNumber(bits); err != nil {
			return netip.Prefix{}, bad
		}
	}
	if a.Is4In6() && n >= 96 {
		a, n = a.Unmap(), n-96
	}
	p, err := a.Prefix(int(min(n, 1000)))
	if err != nil {
		return netip.Prefix{}, bad
	}
	return p, nil
}

func cidrContains(p netip.Prefix, a netip.Addr) bool {
	return p == everyAddress || p.Contains(a.Unmap())
}

func formatCIDR(p netip.Prefix) string {
	switch {
	case p == everyAddress:
		return "0/0"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// AddressPattern says which addresses a rule is for: one address, one local part at any domain,
// or all that a regular expression matches.
type AddressPattern struct {
	local, domain string // domain is empty if only a local part was written
	regex         *regexp.Regexp
}

// parseAddressPattern parses an address, a local part or /regex/.
func parseAddressPattern(v *value) (AddressPattern, error) {
	const want = "want an address, a local part or /pattern/"
	if strings.HasPrefix(v.text, "/") && patternEnd(v.text) < 0 {
		return AddressPattern{}, fmt.Errorf("the pattern %s has no closing /: is the line broken in two?", v.text)
	}
	s, err := v.single(want)
	if err != nil {
		return AddressPattern{}, err
	}
	if strings.HasPrefix(s, "/") {
		re, err := parseRegex(s)
		return AddressPattern{regex: re}, err
	}
	if s == "" {
		return AddressPattern{}, errors.New("empty value; " + want)
	}
	local, domain, err := splitAddress(s)
	if err != nil {
		return AddressPattern{}, err
	}
	return AddressPattern{local: strings.ToLower(local), domain: domain}, nil
}

// parseRegex compiles a /pattern/. It matches without regard to case unless (?-i) says otherwise.
func parseRegex(s string) (*regexp.Regexp, error) {
	expression := strings.ReplaceAll(s[1:len(s)-1], `\/`, "/")
	re, err := regexp.Compile("(?i)" + expression)
	if e, ok := errors.AsType[*syntax.Error](err); ok {
		if construct := pcreOnly(expression); construct != "" {
			return nil, fmt.Errorf("bad pattern %s: %s is PCRE's alone and not supported; write the pattern without it", s, construct)
		}
		return nil, fmt.Errorf("bad pattern %s: %s: %s", s, e.Code, e.Expr)
	}
	return re, err
}

// splitAddress splits at the last @. The domain is empty if there is none.
func splitAddress(s string) (local, domain string, err error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">")
	local = s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		local = s[:i]
		if domain, err = normalDomain(s[i+1:]); err != nil || domain == "" {
			return "", "", fmt.Errorf("bad address %q", s)
		}
	}
	if local == "" || strings.ContainsAny(s, " \t<>,;") {
		return "", "", fmt.Errorf("bad address %q", s)
	}
	return local, domain, nil
}

// match takes the parts of an address in lower case and the whole of it.
func (p AddressPattern) match(local, domain, whole string) bool {
	switch {
	case p.regex != nil:
		return p.regex.MatchString(whole) || p.regex.MatchString(local)
	case p.domain != "" && p.domain != domain:
		return false
	}
	return p.local == local
}

// String returns the pattern as it is written.
func (p AddressPattern) String() string {
	switch {
	case p.regex != nil:
		return "/" + strings.TrimPrefix(p.regex.String(), "(?i)") + "/"
	case p.domain == "":
		return p.local
	}
	return p.local + "@" + p.domain
}
