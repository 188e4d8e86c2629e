package sqltext

import "strings"

// insert reads on behind the keyword INSERT up to its data or its SELECT. It returns true if the
// statement is complete because the rest is data.
func (p *parser) insert(s *Statement, lex *lexer) (done bool) {
	depth, named := 0, false
	settings := -1 // token that begins the SETTINGS clause
	open := -1     // bracket that the token before opened
	for {
		t, ok := lex.next()
		if !ok {
			return false
		}
		if t.kind == symbol {
			switch p.sql[t.start] {
			case ';':
				lex.at = t.start
				return false
			case '(', '[', '{':
				if depth == 0 {
					open = t.start
					p.tokens = append(p.tokens, t)
				}
				depth++
				continue
			case ')', ']', '}':
				depth = max(depth-1, 0)
			}
		}
		if depth > 0 {
			name := p.sql[t.start:t.end]
			if named && open >= 0 && (strings.EqualFold(name, "SELECT") || strings.EqualFold(name, "WITH")) {
				// INSERT INTO t (SELECT …)
				s.clause = open
				lex.skipBrackets(depth)
				s.end = lex.at
				return false
			}
			open = -1
			continue
		}
		p.tokens = append(p.tokens, t)
		i := len(p.tokens) - 1
		if !named {
			// INTO, TABLE and FUNCTION come before the name; the name ends with a token that
			// neither is nor follows a dot.
			named = !p.is(i, "INTO") && (!p.is(i, "TABLE") || !p.is(i-1, "INTO")) && !p.is(i, "FUNCTION") && !p.isSymbol(i, ".")
			continue
		}
		if p.isSymbol(i, ".") {
			named = false
			continue
		}
		switch {
		case p.is(i, "FROM"):
			ahead := *lex
			if after, ok := ahead.next(); !ok || !strings.EqualFold(p.sql[after.start:after.end], "INFILE") {
				s.clause = t.start // FROM t2 SELECT …
				return false
			}
			s.Infile = true
		case p.is(i, "SETTINGS"):
			settings = i
		case p.is(i, "SELECT") || p.is(i, "WITH") || p.is(i, "WATCH"):
			s.clause = t.start
			return false
		case p.is(i, "VALUES"):
			p.data(s, settings, t.start, "Values", p.sql[t.end:])
			return true
		case p.is(i, "FORMAT"):
			name, ok := lex.next()
			if !ok || name.kind > quoted {
				return false
			}
			p.data(s, settings, t.start, unquote(p.sql[name.start:name.end]), afterFormat(p.sql[name.end:]))
			return true
		}
	}
}

// data completes an Insert whose data clause begins at clause.
func (p *parser) data(s *Statement, settings, clause int, format, data string) {
	s.Kind = Insert
	s.Format = format
	s.Data = data
	s.clause = clause
	s.infileAt = clause
	if settings >= 0 {
		s.infileAt = p.tokens[settings].start
		p.settings(s, settings+1)
	}
}

// afterFormat returns the data behind a format's name: blanks and one line end belong to the text.
func afterFormat(rest string) string {
	rest = strings.TrimLeft(rest, " \t\f\v")
	rest = strings.TrimPrefix(rest, "\r")
	return strings.TrimPrefix(rest, "\n")
}
