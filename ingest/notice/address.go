package notice

import (
	"strings"
)

// The bounds of an address, RFC 5321 section 4.5.3.1, and of how many are looked at.
const (
	maxLocal    = 64
	maxDomain   = 255
	maxMentions = 2000
)

// mention is an address in a text.
type mention struct {
	address    string
	start, end int // in text.raw, with angle brackets
	line       int
}

// mentions returns the addresses in t, in their order.
func (t *text) mentions() []mention {
	var found []mention
	for at := 0; len(found) < maxMentions; {
		i := strings.IndexByte(t.raw[at:], '@')
		if i < 0 {
			break
		}
		at += i
		if m, ok := mentionAt(t.raw, at); ok {
			m.line = t.lineAt(m.start)
			found = append(found, m)
			at = m.end
			continue
		}
		at++
	}
	return found
}

// mentionAt returns the address around the "@" at position at of s.
func mentionAt(s string, at int) (mention, bool) {
	start := localStart(s, at)
	end := at + 1
	for end < len(s) && end-at <= maxDomain && isDomainByte(s[end]) {
		end++
	}
	for end > at+1 && (s[end-1] == '.' || s[end-1] == '-') {
		end--
	}
	if start == at || end == at+1 || end-at > maxDomain {
		return mention{}, false
	}
	m := mention{address: s[start:end], start: start, end: end}
	bracketed := start > 0 && s[start-1] == '<' && end < len(s) && s[end] == '>'
	if bracketed {
		m.start, m.end = start-1, end+1
	}
	domain := s[at+1 : end]
	if !bracketed && !strings.Contains(domain, ".") || domain[0] == '.' || allDigits(domain) {
		return mention{}, false
	}
	return m, true
}

// localStart returns where the local part that ends at position at begins; at itself if there is none.
func localStart(s string, at int) int {
	if at > 1 && s[at-1] == '"' { // RFC 5321 section 4.1.2, Quoted-string
		for i := at - 2; i >= 0 && at-i <= maxLocal+2; i-- {
			if s[i] == '"' && (i == 0 || s[i-1] != '\\') {
				return i
			}
		}
		return at
	}
	start := at
	for start > 0 && at-start < maxLocal && isLocalByte(s[start-1]) {
		start--
	}
	for start < at && strings.IndexByte("'.*=-/{|`", s[start]) >= 0 { // quotes and list marks before it
		start++
	}
	return start
}

func isLocalByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

func isDomainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// allDigits reports whether s has no letter, as the domain of no address has.
func allDigits(s string) bool {
	return strings.Trim(s, "0123456789.-_") == ""
}

// addressesIn returns the addresses in the value of a header field, lower-case.
func addressesIn(value string) []string {
	var found []string
	for at := 0; len(found) < maxMentions; {
		i := strings.IndexByte(value[at:], '@')
		if i < 0 {
			break
		}
		at += i
		m, ok := mentionAt(value, at)
		if ok {
			found = append(found, m.address)
			at = m.end
			continue
		}
		at++
	}
	return found
}
