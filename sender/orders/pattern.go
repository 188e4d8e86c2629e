package orders

import "strings"

// Match reports whether name fits pattern, in which * stands for any text, also none. Case does not
// count.
func Match(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	p, n := 0, 0
	star, mark := -1, 0 // the last * seen, and where in name it began to stand for something
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0: // let the last * stand for one byte more
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Covers reports whether every name that fits the pattern other fits pattern too. It may say no
// where that takes more than letting a * of pattern stand for a piece of other.
func Covers(pattern, other string) bool { return Match(pattern, other) }

// QueuePattern returns the pattern domain/vmta for what an operator wrote: a pattern without a
// virtual MTA means all of them.
func QueuePattern(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.Contains(s, "/") {
		return s
	}
	return s + "/*"
}
