package sqlmacro

import "strings"

// kind says what a token is.
type kind uint8

const (
	space   kind = iota // white space and comments
	word                // identifiers, keywords, numbers; may hold $
	quoted              // strings, quoted identifiers, heredocs
	mark                // one character of punctuation
	unended             // a string or comment without an end
)

// token is a piece of the text; the tokens of a text follow each other without gaps.
type token struct {
	kind kind
	text string
	pos  int // of its first octet in the text
}

// lex cuts sql into tokens as ClickHouse's own lexer does, as far as it matters where strings and
// comments begin and end (src/Parsers/Lexer.cpp of ClickHouse). It accepts any octets.
func lex(sql string) []token {
	var tokens []token
	for pos := 0; pos < len(sql); {
		k, n := next(sql[pos:], pos == 0 || !isWord(sql[pos-1]))
		tokens = append(tokens, token{k, sql[pos : pos+n], pos})
		pos += n
	}
	return tokens
}

// next returns kind and length of the token at the beginning of s, which is not empty.
func next(s string, afterBreak bool) (kind, int) {
	c := s[0]
	switch {
	case isSpace(c):
		n := 1
		for n < len(s) && isSpace(s[n]) {
			n++
		}
		return space, n
	case strings.HasPrefix(s, "--"), strings.HasPrefix(s, "//"), strings.HasPrefix(s, "# "), strings.HasPrefix(s, "#!"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return space, end + 1
		}
		return space, len(s)
	case strings.HasPrefix(s, "/*"):
		return comment(s)
	case strings.HasPrefix(s, "\u2018"):
		return typographic(s, "\u2019")
	case strings.HasPrefix(s, "\u201c"):
		return typographic(s, "\u201d")
	case c == '\'' || c == '"' || c == '`':
		return quote(s)
	case c == '$' && afterBreak:
		if n := heredoc(s); n > 0 {
			return quoted, n
		}
		return word, wordLength(s)
	case isWord(c):
		return word, wordLength(s)
	}
	return mark, 1
}

// comment measures a comment, which may hold others.
func comment(s string) (kind, int) {
	depth := 1
	for i := 2; i+2 <= len(s); {
		switch s[i : i+2] {
		case "/*":
			depth++
			i += 2
		case "*/":
			depth--
			i += 2
			if depth == 0 {
				return space, i
			}
		default:
			i++
		}
	}
	return unended, len(s)
}

// typographic measures a string in ‘’ or a name in “”, in which nothing is escaped.
func typographic(s, closing string) (kind, int) {
	if end := strings.Index(s, closing); end >= 0 {
		return quoted, end + len(closing)
	}
	return unended, len(s)
}

// quote measures a string or quoted identifier: a backslash takes the next character with it, and
// the quote twice is the quote.
func quote(s string) (kind, int) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			if i+1 >= len(s) || s[i+1] != s[0] {
				return quoted, i + 1
			}
			i++
		}
	}
	return unended, len(s)
}

// heredoc measures $tag$…$tag$, or returns 0 if s does not begin with one.
func heredoc(s string) int {
	end := strings.IndexByte(s[1:], '$')
	if end < 0 {
		return 0
	}
	tag := s[:end+2]
	for i := 1; i < len(tag)-1; i++ {
		if !isWord(tag[i]) {
			return 0
		}
	}
	closing := strings.Index(s[len(tag):], tag)
	if closing < 0 {
		return 0
	}
	return len(tag) + closing + len(tag)
}

func wordLength(s string) int {
	n := 1
	for n < len(s) && (isWord(s[n]) || s[n] == '$') {
		n++
	}
	return n
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'
}
