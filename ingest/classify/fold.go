package classify

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"carom/schemas/smtpstatus"
)

// fold brings the first maxText bytes of s into the form in which patterns are written: lower
// case, Latin letters without their accents, each run of blanks one blank, and without the codes
// that continued lines repeat ("550-5.1.1").
func fold(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	var b strings.Builder
	b.Grow(len(s))
	var codes codePair
	for i := 0; i < len(s); {
		if isBlank(s[i]) {
			i++
			continue
		}
		start := i
		for i < len(s) && !isBlank(s[i]) {
			i++
		}
		word := s[start:i]
		if repeated := codes.repeatedIn(s[start:]); repeated > 0 {
			i = start + repeated
			continue
		}
		if b.Len() > 0 {
			if isRepeatedCode(word) {
				continue
			}
			b.WriteByte(' ')
		}
		foldWord(&b, word)
	}
	return b.String()
}

func foldWord(b *strings.Builder, word string) {
	for i := 0; i < len(word); {
		c := word[i]
		if c < utf8.RuneSelf {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			b.WriteByte(c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(word[i:])
		i += size
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteByte(c) // not UTF-8: as it is
		case r >= firstAccented && r-firstAccented < rune(len(unaccented)):
			b.WriteByte(unaccented[r-firstAccented])
		case r == '\u2019' || r == '\u2018': // typographic apostrophes
			b.WriteByte('\'')
		case r == '\u00a0': // no-break space
			b.WriteByte(' ')
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
}

// unaccented are the letters from U+00C0 to U+017F (Unicode's blocks Latin-1 Supplement and Latin
// Extended-A) in lower case and without what marks them, one byte each.
const (
	firstAccented = '\u00c0'
	unaccented    = "aaaaaaaceeeeiiiidnoooooxouuuuytsaaaaaaaceeeeiiiidnooooo-ouuuuyty" +
		"aaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiiiiijjkkklllllll" +
		"lllnnnnnnnnnoooooooorrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzs"
)

// mask leaves out what only names somebody, so that no rule takes it for a word of the reply: of
// mail addresses all but the "@" ("<spam@mail.example>"), and names of hosts before their address in
// brackets ("spam.mail.example[192.0.2.1]").
func mask(text string) string {
	if !strings.ContainsAny(text, "@[") {
		return text
	}
	var b strings.Builder
	b.Grow(len(text))
	from := 0 // what is written ends here
	for i := range len(text) {
		switch {
		case text[i] == '@':
			start, end := i, i+1
			for start > from && !endsName(text[start-1]) {
				start--
			}
			for end < len(text) && !endsName(text[end]) {
				end++
			}
			b.WriteString(text[from:max(from, start)])
			b.WriteByte('@')
			from = max(from, end)
		case text[i] == '[' && i+1 < len(text) && text[i+1] >= '0' && text[i+1] <= '9':
			start := i
			for start > from && !endsName(text[start-1]) {
				start--
			}
			b.WriteString(text[from:max(from, start)])
			from = max(from, i)
		default:
		}
	}
	b.WriteString(text[from:])
	return b.String()
}

// endsName reports whether c is in no mail address and no host name, as replies write them.
func endsName(c byte) bool { return c <= ' ' || strings.IndexByte("<>()[],;:\"'", c) >= 0 }

func isBlank(c byte) bool { return c <= ' ' }

// isRepeatedCode reports whether word is a reply code, a dash and an enhanced status code.
func isRepeatedCode(word string) bool {
	if len(word) < len("550-5.1.1") || word[3] != '-' || word[0] < '4' || word[0] > '5' {
		return false
	}
	enhanced, rest := smtpstatus.ParseEnhanced(word[4:])
	return !enhanced.IsZero() && rest == ""
}

// codePair is the first "550 5.1.1" of a text. Programs that join the lines of a reply leave it in
// the middle of its sentences.
type codePair struct{ text string }

// repeatedIn returns the length of the pair if text begins with it once more, and otherwise 0.
func (p *codePair) repeatedIn(text string) int {
	if len(text) < len("550 5.1.1") || text[3] != ' ' && text[3] != '-' || text[0] < '4' || text[0] > '5' || text[5] != '.' {
		return 0
	}
	word, _, _ := strings.Cut(text[4:], " ")
	if enhanced, rest := smtpstatus.ParseEnhanced(word); enhanced.IsZero() || rest != "" {
		return 0
	}
	pair := text[:4+len(word)]
	if p.text == "" {
		p.text = pair
		return 0
	}
	if pair[:3] == p.text[:3] && pair[4:] == p.text[4:] {
		return len(pair)
	}
	return 0
}
