package config

import "strings"

// pcreOnly names the first construct of Perl's regular expressions in s that Go's do not have, or
// returns "". Go's run in time that is linear in the text, which these make impossible.
func pcreOnly(s string) string {
	inClass := false
	for i := 0; i < len(s); i++ {
		rest := s[i:]
		switch {
		case rest[0] == '\\':
			if name := pcreEscape(rest); name != "" && !inClass {
				return name
			}
			i++
		case inClass:
			inClass = rest[0] != ']'
		case rest[0] == '[':
			inClass = true
			// A "]" right behind the start of a class is one of its characters.
			if next := strings.TrimPrefix(rest[1:], "^"); strings.HasPrefix(next, "]") {
				i += len(rest) - len(next)
			}
		case rest[0] == '(':
			for _, c := range pcreGroups {
				if strings.HasPrefix(rest, c.start) {
					return c.name + " " + c.start + "…)"
				}
			}
		case len(rest) > 1 && rest[1] == '+' && strings.IndexByte("*+?}", rest[0]) >= 0:
			return "the possessive quantifier " + rest[:2]
		}
	}
	return ""
}

var pcreGroups = []struct{ start, name string }{
	{"(?=", "the look-ahead"},
	{"(?!", "the look-ahead"},
	{"(?<=", "the look-behind"},
	{"(?<!", "the look-behind"},
	{"(?>", "the atomic group"},
	{"(?(", "the conditional"},
	{"(?|", "the branch reset"},
	{"(?#", "the comment"},
	{"(?R", "the recursion"},
	{"(?&", "the recursion"},
	{"(?P=", "the back-reference"},
	{"(?P>", "the recursion"},
	{"(*", "the verb"},
}

// pcreEscape names the escape at the start of s if it is Perl's alone.
func pcreEscape(s string) string {
	if len(s) < 2 {
		return ""
	}
	switch c := s[1]; {
	case c >= '1' && c <= '9', c == 'k', c == 'g':
		return "the back-reference " + s[:2]
	case strings.IndexByte("KGhHRXVNuUlLeZ", c) >= 0:
		return "the escape " + s[:2]
	}
	return ""
}
