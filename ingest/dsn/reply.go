package dsn

import (
	"strings"

	"carom/schemas/smtpstatus"
)

// FindReply returns the position of the first SMTP reply code of 4yz or 5yz in s from position from on.
func FindReply(s string, from int) (at int, ok bool) {
	for i := from; i+3 <= len(s); i++ {
		if s[i] != '4' && s[i] != '5' {
			continue
		}
		if isReply(s, i) {
			return i, true
		}
		for i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' {
			i++
		}
	}
	return 0, false
}

// isReply reports whether the three bytes of s at position i are a reply code with a text behind
// it: no part of a number, an address or a URL, and no count of something.
func isReply(s string, i int) bool {
	if s[i+1] < '0' || s[i+1] > '7' || s[i+2] < '0' || s[i+2] > '9' {
		return false
	}
	if i > 0 && s[i-1] == '#' && i+4 < len(s) && s[i+3] == ' ' { // "#550 5.1.1": Exchange
		code, _ := codeAt(s[i+4:])
		return !code.IsZero()
	}
	if i > 0 && strings.IndexByte(" (\"':;>[-", s[i-1]) < 0 {
		return false
	}
	if i > 0 && s[i-1] == '-' && i > 1 && s[i-2] != '-' && s[i-2] != ' ' {
		return false
	}
	rest := s[i+3:]
	if rest == "" {
		return true
	}
	if strings.IndexByte(" -:,)\"'#.", rest[0]) < 0 || len(rest) > 1 && (rest[0] == '.' || rest[0] == ',' || rest[0] == ':') && rest[1] != ' ' {
		return false
	}
	word := rest[:min(len(rest), maxUnit)]
	word = strings.ToLower(strings.TrimLeft(word, " "))
	if strings.Trim(word[:min(len(word), 4)], "0123456789") == "" && len(word) >= 4 { // an order's number, or a telephone's
		return false
	}
	for _, unit := range units {
		if strings.HasPrefix(word, unit) {
			return false
		}
	}
	return true
}

// maxUnit is how far behind a number its unit is looked for, in bytes.
const maxUnit = 16

// units stand behind a number that counts something.
var units = []string{
	"bytes", "kb", "mb", "kilobytes", "megabytes", "seconds", "minutes", "hours", "days", "recipients", "messages", "lines", "characters", "times", "k ", "x ",
}

// FindEnhanced returns the enhanced status code in s: the one behind the first reply code, or else the
// first that is there.
func FindEnhanced(s string) smtpstatus.Enhanced {
	for from := 0; ; {
		at, ok := FindReply(s, from)
		if !ok {
			break
		}
		rest := strings.TrimLeft(s[at+3:], " -#('")
		if code, _ := codeAt(rest); !code.IsZero() && code.Class == uint16(s[at]-'0') {
			return code
		}
		from = at + 3
	}
	for i := range len(s) {
		if (s[i] == '5' || s[i] == '4' || s[i] == '2') && (i == 0 || strings.IndexByte(" #([\"':", s[i-1]) >= 0) {
			if code, _ := codeAt(s[i:]); !code.IsZero() {
				return code
			}
		}
	}
	return smtpstatus.Enhanced{}
}

// maxSubject is the last subject of RFC 3463 section 3: more is the number of a version.
const maxSubject = 7

// codeAt returns the enhanced status code at the beginning of s and its length.
func codeAt(s string) (code smtpstatus.Enhanced, length int) {
	for length < len(s) && length < len("5.999.999.") && (s[length] >= '0' && s[length] <= '9' || s[length] == '.') {
		length++
	}
	word := strings.TrimSuffix(s[:length], ".")
	code, _ = smtpstatus.ParseEnhanced(word)
	if code.Subject > maxSubject || length < len(s) && (s[length] == '-' && length+1 < len(s) && s[length+1] >= '0' && s[length+1] <= '9' || s[length] == '_') {
		return smtpstatus.Enhanced{}, 0
	}
	return code, len(word)
}
