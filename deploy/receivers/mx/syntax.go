package mx

import (
	"errors"
	"strconv"
	"strings"
)

// path is the argument of MAIL or RCPT.
type path struct {
	address    string            // without the brackets
	parameters map[string]string // by upper-case keyword
}

// parsePath parses "FROM:<address> KEY=value …"; a space after the colon is forgiven. Addresses are
// printable ASCII: SMTPUTF8 is not offered.
func parsePath(keyword, arg string) (path, bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return path{}, false
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(arg[len(keyword):], " "), "<")
	if !ok {
		return path{}, false
	}
	end := closingBracket(rest)
	if end < 0 {
		return path{}, false
	}
	p := path{address: rest[:end]}
	if strings.ContainsFunc(p.address, func(r rune) bool { return r < ' ' || r > '~' }) {
		return path{}, false
	}
	if p.address != "" && (strings.LastIndexByte(p.address, '@') <= 0 || strings.HasSuffix(p.address, "@")) {
		return path{}, false
	}
	for field := range strings.FieldsSeq(rest[end+1:]) {
		key, value, _ := strings.Cut(field, "=")
		if p.parameters == nil {
			p.parameters = map[string]string{}
		}
		p.parameters[strings.ToUpper(key)] = value
	}
	return p, true
}

// closingBracket finds the '>' that ends a path, past one in a quoted local part.
func closingBracket(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

var errXtext = errors.New("not xtext")

// decodeXtext decodes xtext (RFC 3461 4). Control characters are refused: the values end up in the
// fields of a report.
func decodeXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+3 > len(s) {
				return "", errXtext
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errXtext
			}
			c = byte(n)
			i += 2
		}
		if c < ' ' || c > '~' {
			return "", errXtext
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}
