package sqltext

import "strings"

type tokenKind byte

const (
	word   tokenKind = iota // keyword, bare identifier or number
	quoted                  // "identifier" or `identifier`
	text                    // 'string' or $tag$string$tag$
	symbol                  // one other character
	broken                  // a quote or comment that does not end
)

// token is a piece of a statement; start and end are offsets in its text.
type token struct {
	kind       tokenKind
	start, end int
}

// lexer cuts SQL into tokens the way ClickHouse's lexer does, as far as needed to tell keywords
// and separators from what stands in quotes and comments.
type lexer struct {
	sql string
	at  int
}

// next returns the next token; ok is false at the end.
func (l *lexer) next() (t token, ok bool) {
	for l.at < len(l.sql) {
		start := l.at
		rest := l.sql[start:]
		switch c := rest[0]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			l.at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "), strings.HasPrefix(rest, "//"):
			l.skipPast("\n")
		case strings.HasPrefix(rest, "/*"):
			if !l.skipComment() {
				return token{broken, start, l.at}, true
			}
		case c == '\'':
			return l.quote('\'', text), true
		case c == '"' || c == '`':
			return l.quote(c, quoted), true
		case strings.HasPrefix(rest, "\u2018"):
			return l.delimited("\u2018", "\u2019", text), true
		case strings.HasPrefix(rest, "\u201c"):
			return l.delimited("\u201c", "\u201d", quoted), true
		case c == '$':
			if tag, isHeredoc := heredocTag(rest); isHeredoc {
				return l.delimited(tag, tag, text), true
			}
			return l.word(), true
		case isWordByte(c):
			return l.word(), true
		default:
			l.at++
			return token{symbol, start, l.at}, true
		}
	}
	return token{}, false
}

// skipPast moves behind the next occurrence of end, or to the end of the text.
func (l *lexer) skipPast(end string) bool {
	i := strings.Index(l.sql[l.at:], end)
	if i < 0 {
		l.at = len(l.sql)
		return false
	}
	l.at += i + len(end)
	return true
}

// skipComment moves behind a comment, which may hold comments.
func (l *lexer) skipComment() bool {
	for depth := 0; l.at < len(l.sql); {
		switch rest := l.sql[l.at:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.at += 2
		case strings.HasPrefix(rest, "*/"):
			l.at += 2
			if depth--; depth == 0 {
				return true
			}
		default:
			l.at++
		}
	}
	return false
}

// quote reads a token quoted by c, in which backslash escapes and c itself can be doubled.
func (l *lexer) quote(c byte, kind tokenKind) token {
	start := l.at
	for l.at++; l.at < len(l.sql); l.at++ {
		switch l.sql[l.at] {
		case '\\':
			l.at++
		case c:
			if l.at+1 < len(l.sql) && l.sql[l.at+1] == c {
				l.at++
				continue
			}
			l.at++
			return token{kind, start, l.at}
		}
	}
	l.at = len(l.sql)
	return token{broken, start, l.at}
}

func (l *lexer) delimited(open, end string, kind tokenKind) token {
	start := l.at
	l.at += len(open)
	if !l.skipPast(end) {
		kind = broken
	}
	return token{kind, start, l.at}
}

// skipBrackets moves behind the end of depth open brackets.
func (l *lexer) skipBrackets(depth int) {
	for depth > 0 {
		t, ok := l.next()
		if !ok {
			return
		}
		if t.kind == symbol {
			switch l.sql[t.start] {
			case '(', '[', '{':
				depth++
			case ')', ']', '}':
				depth--
			}
		}
	}
}

func (l *lexer) word() token {
	start := l.at
	for l.at < len(l.sql) && isWordByte(l.sql[l.at]) {
		l.at++
	}
	return token{word, start, l.at}
}

// heredocTag returns the "$tag$" that rest begins with, if its end is there too.
func heredocTag(rest string) (tag string, ok bool) {
	i := strings.IndexByte(rest[1:], '$')
	if i < 0 {
		return "", false
	}
	tag = rest[:i+2]
	for j := 1; j < len(tag)-1; j++ {
		if tag[j] == '$' || !isWordByte(tag[j]) {
			return "", false
		}
	}
	return tag, strings.Contains(rest[len(tag):], tag)
}

func isWordByte(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 ||
		'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
