package event

import "strings"

// maxTemplate bounds a reply template, in bytes: templates are a dictionary in the warehouse.
const maxTemplate = 240

// ReplyTemplate returns reply with what differs from message to message replaced, so that
// replies group: addresses in angle brackets or with an "@" become <addr>, IP addresses <ip>,
// words that mix letters and digits and are longer than 7 characters <id>, and other runs of
// digits <n>. Reply and enhanced status codes at the beginning stay, and so do short words that
// begin with a letter: they are a provider's own codes.
func ReplyTemplate(reply string) string {
	var b strings.Builder
	for i, word := range strings.Fields(reply) {
		if b.Len() > maxTemplate {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		if i < 2 && isStatus(word) {
			b.WriteString(word)
			continue
		}
		templateWord(&b, word)
	}
	return truncate(b.String(), maxTemplate)
}

// isStatus reports whether word is made of digits, dots and one dash: "550", "5.1.1", "421-4.7.28".
func isStatus(word string) bool {
	for _, c := range word {
		if (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return len(word) <= len("421-4.7.28x") && strings.Count(word, ".") <= 2
}

func templateWord(b *strings.Builder, word string) {
	core := strings.Trim(word, `<>()[]{}"',;:.!?`)
	if core == "" {
		b.WriteString(word)
		return
	}
	start := strings.Index(word, core)
	b.WriteString(word[:start])
	switch {
	case strings.Contains(core, "@"):
		b.WriteString("<addr>")
	case isIP(core):
		b.WriteString("<ip>")
	case isID(core):
		b.WriteString("<id>")
	case isLetter(core[0]) && len(core) < 8: // a provider's own code, as in [TS04] or (S775)
		b.WriteString(core)
	default:
		replaceDigits(b, core)
	}
	b.WriteString(word[start+len(core):])
}

// isIP is loose on purpose: what looks like an address of either family is one here.
func isIP(s string) bool {
	dots, colons := strings.Count(s, "."), strings.Count(s, ":")
	if dots != 3 && colons < 2 {
		return false
	}
	for _, c := range s {
		hex := c >= '0' && c <= '9' || colons > 0 && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F')
		if !hex && c != '.' && c != ':' {
			return false
		}
	}
	return true
}

// isID reports whether s is a word no language has: eight characters or more, letters and digits
// in turn. Words with a slash or more than one dot are names and URLs and are left alone.
func isID(s string) bool {
	var digits, letters int
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			letters++
		case c == '/' || c == '\\':
			return false
		}
	}
	return len(s) >= 8 && digits >= 2 && letters >= 2 && strings.Count(s, ".") <= 1
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func replaceDigits(b *strings.Builder, s string) {
	inDigits := false
	for _, c := range s {
		isDigit := c >= '0' && c <= '9'
		if isDigit && !inDigits {
			b.WriteString("<n>")
		}
		if !isDigit {
			b.WriteRune(c)
		}
		inDigits = isDigit
	}
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
