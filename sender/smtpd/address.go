package smtpd

import (
	"strings"
	"unicode/utf8"
)

// maxAddress bounds an address in octets: 64 for the local part and 255 for the domain (RFC 5321
// section 4.5.3.1), which return paths with a token in them need together.
const maxAddress = 64 + 1 + 255

// mailbox returns an address as it stands in a command: go-smtp takes the quotes of a quoted local
// part away. It reports false for what can be no address: what holds control characters, is no
// UTF-8 or has a domain with special characters in it.
func mailbox(unquoted string) (address string, ok bool) {
	local, domain, _ := cutLast(unquoted, "@")
	if local == "" || domain == "" || len(unquoted) > maxAddress || !utf8.ValidString(unquoted) ||
		strings.ContainsFunc(unquoted, isControl) || strings.ContainsAny(domain, ` "\()<>,;`) {
		return "", false
	}
	if !strings.ContainsAny(local, ` "\()<>[]:;,@`) { // RFC 5322 section 3.2.3: the specials but the dot
		return unquoted, true
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"@` + domain, true
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// printable returns s in at most limit octets, a question mark for all that is no printable text.
func printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s[:min(len(s), limit)])
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}
