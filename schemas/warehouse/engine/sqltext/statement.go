// Package sqltext looks at the text of one ClickHouse statement: what kind it is, where the data
// of an INSERT begins, which FORMAT and SETTINGS it carries, and where further settings fit in.
//
// It is no parser: ClickHouse stays the judge of the syntax, and what this package takes for a
// keyword it is only careful not to find in quotes, comments and brackets. It works on any bytes
// without panicking (FuzzParse) and touches nothing but its argument.
package sqltext

import (
	"errors"
	"slices"
	"strings"
)

// Kind is what a statement does, as far as the front of the engine has to know.
type Kind int

// The kinds of statements.
const (
	Unknown      Kind = iota // none of the others; it takes no SETTINGS clause
	Select                   // a query; its result can be streamed
	Info                     // SHOW, DESCRIBE, EXISTS, EXPLAIN: reads, and has a result
	Insert                   // INSERT with data behind it
	InsertSelect             // INSERT … SELECT
	Change                   // CREATE, ALTER, DROP and the like, with a FORMAT and SETTINGS at the end
	Lightweight              // DELETE and UPDATE: SETTINGS at the end, no FORMAT
	Kill                     // KILL QUERY, KILL MUTATION
	Session                  // SET, USE and transactions: would change the connection
)

// ErrMultiple is returned by Parse for more than one statement.
var ErrMultiple = errors.New("multi-statements are not allowed")

// Statement is the outline of one statement. Offsets are into Text.
type Statement struct {
	Text     string   // without the semicolon at its end
	Kind     Kind     //
	Format   string   // of the FORMAT clause; of an Insert the format of its data
	Settings []string // names set by SETTINGS clauses outside brackets
	Outfile  bool     // writes INTO OUTFILE
	Infile   bool     // reads FROM INFILE
	Data     string   // an Insert's data that stands in the text

	end         int  // behind the last token: a comment may follow
	formatted   bool // a FORMAT clause ends the query; only SETTINGS can follow
	settingsEnd int  // where ", name = value" continues the last SETTINGS clause; 0 if there is none
	clause      int  // Insert: where VALUES or FORMAT begins; InsertSelect: where the SELECT does
	infileAt    int  // Insert: where FROM INFILE goes
}

// Setting is one name and value for With; the value is unquoted text.
type Setting struct {
	Name  string
	Value string
}

// Parse returns the outline of sql. The only error is ErrMultiple; other mistakes are left to the
// engine, which words them better.
func Parse(sql string) (*Statement, error) {
	p := parser{sql: sql}
	return p.parse()
}

type parser struct {
	sql    string
	tokens []token // outside brackets; a bracket pair stays as its two symbols
}

// is reports whether token i is the bare keyword k, in any case.
func (p *parser) is(i int, k string) bool {
	if i < 0 || i >= len(p.tokens) || p.tokens[i].kind != word {
		return false
	}
	return strings.EqualFold(p.of(i), k)
}

func (p *parser) isSymbol(i int, s string) bool {
	return i >= 0 && i < len(p.tokens) && p.tokens[i].kind == symbol && p.of(i) == s
}

func (p *parser) of(i int) string { return p.sql[p.tokens[i].start:p.tokens[i].end] }

func (p *parser) parse() (*Statement, error) {
	s := &Statement{Text: p.sql}
	lex := lexer{sql: p.sql}
	depth, end := 0, -1
	for {
		t, ok := lex.next()
		if !ok {
			break
		}
		if end >= 0 {
			if t.kind == symbol && p.sql[t.start] == ';' {
				continue
			}
			return nil, ErrMultiple
		}
		if t.kind == symbol {
			switch p.sql[t.start] {
			case '(', '[', '{':
				if depth == 0 {
					p.tokens = append(p.tokens, t)
				}
				depth++
				continue
			case ')', ']', '}':
				depth = max(depth-1, 0)
			case ';':
				// Brackets do not hold a statement together: ClickHouse ends it here.
				end = t.start
				continue
			}
		}
		if depth > 0 {
			continue
		}
		p.tokens = append(p.tokens, t)
		if s.Kind == Unknown && p.is(len(p.tokens)-1, "INSERT") && (len(p.tokens) == 1 || p.is(0, "WITH")) {
			// From here on the text may be data, which is not SQL.
			if done := p.insert(s, &lex); done {
				return s, nil
			}
			s.Kind = InsertSelect
		}
	}
	if end >= 0 {
		s.Text = p.sql[:end]
	}
	if n := len(p.tokens); n > 0 {
		s.end = max(p.tokens[n-1].end, s.end)
	}
	if s.Kind == Unknown {
		s.Kind = p.kind()
	}
	p.clauses(s)
	return s, nil
}

var kinds = map[string]Kind{
	"SELECT": Select, "WITH": Select, "FROM": Select,
	"SHOW": Info, "DESCRIBE": Info, "DESC": Info, "EXISTS": Info, "EXPLAIN": Info,
	"ALTER": Change, "ATTACH": Change, "CHECK": Change, "CREATE": Change, "DETACH": Change, "DROP": Change,
	"EXCHANGE": Change, "OPTIMIZE": Change, "RENAME": Change, "REPLACE": Change, "TRUNCATE": Change, "UNDROP": Change,
	"DELETE": Lightweight, "UPDATE": Lightweight,
	"KILL": Kill,
	"SET":  Session, "USE": Session, "BEGIN": Session, "START": Session, "COMMIT": Session, "ROLLBACK": Session,
}

// withoutOutput are the objects whose CREATE, ALTER and DROP end without FORMAT and SETTINGS.
var withoutOutput = []string{
	"FUNCTION", "USER", "ROLE", "ROW", "POLICY", "QUOTA", "SETTINGS", "PROFILE", "NAMED", "WORKLOAD", "RESOURCE", "INDEX",
}

func (p *parser) kind() Kind {
	if p.isSymbol(0, "(") {
		return Select
	}
	if len(p.tokens) == 0 || p.tokens[0].kind != word {
		return Unknown
	}
	kind := kinds[strings.ToUpper(p.of(0))]
	if kind == Change {
		object := 1
		for p.is(object, "OR") || p.is(object, "REPLACE") || p.is(object, "TEMPORARY") {
			object++
		}
		if object < len(p.tokens) && slices.Contains(withoutOutput, strings.ToUpper(p.of(object))) {
			return Unknown
		}
	}
	return kind
}

// clauses finds FORMAT, SETTINGS and INTO OUTFILE outside brackets.
func (p *parser) clauses(s *Statement) {
	for i := 0; i < len(p.tokens); i++ {
		switch {
		case p.is(i, "INTO") && p.is(i+1, "OUTFILE"):
			s.Outfile = true
		case p.is(i, "SETTINGS") && !p.isSymbol(i-1, ".") && p.isSymbol(i+2, "="):
			i = p.settings(s, i+1)
		case p.is(i, "FORMAT") && !p.isSymbol(i-1, ".") && i+1 < len(p.tokens) && p.tokens[i+1].kind <= quoted &&
			(i+2 == len(p.tokens) || p.is(i+2, "SETTINGS")):
			s.Format = unquote(p.of(i + 1))
			s.settingsEnd = 0
			s.formatted = true
			i++
		}
	}
}

// settings reads "name = value, …" from token i and returns the last token of it.
func (p *parser) settings(s *Statement, i int) int {
	for i+1 < len(p.tokens) && p.tokens[i].kind <= quoted && p.isSymbol(i+1, "=") {
		s.Settings = append(s.Settings, unquote(p.of(i)))
		// The value ends before the comma that the next name follows, or before a keyword.
		i += 2
		for i < len(p.tokens) && !p.isSymbol(i, ",") && !p.endsSettings(i) {
			s.settingsEnd = p.tokens[i].end
			i++
		}
		if !p.isSymbol(i, ",") {
			break
		}
		i++
	}
	return i - 1
}

func (p *parser) endsSettings(i int) bool {
	for _, k := range [...]string{
		"FORMAT", "INTO", "SETTINGS", "SELECT", "WITH", "FROM", "VALUES", "AS", "COMMENT",
		"UNION", "INTERSECT", "EXCEPT", "PARALLEL", "WATCH", "ORDER", "PRIMARY", "PARTITION", "SAMPLE", "TTL", "EMPTY",
	} {
		if p.is(i, k) {
			return true
		}
	}
	return p.isSymbol(i, "(") || p.isSymbol(i, ")")
}

// With returns the text of s with settings added, those that s sets itself left out, and with tag
// as a comment at the end, by which the running statement can be found. A result without a FORMAT
// clause gets format. The statement's kind decides where the settings go; an Unknown and a Session
// statement takes none.
func (s *Statement) With(settings []Setting, format, tag string) string {
	list := s.list(settings)
	comment := " /*" + tag + "*/"
	head := s.Text[:s.end]
	switch s.Kind {
	case Select, Info, Change, Kill:
		switch {
		case list == "":
			return head + comment
		case s.formatted && s.settingsEnd > 0:
			return head + ", " + list + comment
		case s.formatted:
			return head + " SETTINGS " + list + comment
		}
		return head + " FORMAT " + format + " SETTINGS " + list + comment
	case Lightweight, InsertSelect:
		switch {
		case list == "", s.Kind == InsertSelect && s.clause == 0:
			return head + comment
		case s.settingsEnd > 0:
			return s.Text[:s.settingsEnd] + ", " + list + s.Text[s.settingsEnd:s.end] + comment
		case s.Kind == Lightweight:
			return head + " SETTINGS " + list + comment
		}
		return s.Text[:s.clause] + "SETTINGS " + list + " " + s.Text[s.clause:s.end] + comment
	default:
		return head + comment
	}
}

// FromFile returns the text of an Insert that takes its data from the uncompressed file at path
// instead of inline, with settings and tag as for With.
func (s *Statement) FromFile(path string, settings []Setting, tag string) string {
	var b strings.Builder
	b.WriteString(s.Text[:s.infileAt])
	b.WriteString(" FROM INFILE " + Quote(path) + " COMPRESSION 'none' ")
	list := s.list(settings)
	switch {
	case list == "":
		b.WriteString(s.Text[s.infileAt:s.clause])
	case s.settingsEnd > 0:
		b.WriteString(s.Text[s.infileAt:s.settingsEnd] + ", " + list + s.Text[s.settingsEnd:s.clause])
	default:
		b.WriteString("SETTINGS " + list)
	}
	b.WriteString(" FORMAT " + s.Format + " /*" + tag + "*/")
	return b.String()
}

// list writes the settings that s does not set itself as "name = 'value', …".
func (s *Statement) list(settings []Setting) string {
	var b strings.Builder
	for _, setting := range settings {
		if slices.Contains(s.Settings, setting.Name) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(setting.Name + " = " + Quote(setting.Value))
	}
	return b.String()
}

var escaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// Quote returns s as a string literal.
func Quote(s string) string { return "'" + escaper.Replace(s) + "'" }

// IsName reports whether s can stand in a statement as the name of a setting or a format.
func IsName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || c == '$' || !isWordByte(c) || i == 0 && '0' <= c && c <= '9' {
			return false
		}
	}
	return s != ""
}

// unquote returns the name that a word or a quoted identifier stands for. Escapes stay as they
// are: no setting and no format has one in its name.
func unquote(name string) string { return strings.Trim(name, "`\"") }

// SettingNames returns the names that the SETTINGS clauses of sql set, in subqueries too, and how
// many clauses there are.
func SettingNames(sql string) (names []string, clauses int) {
	p := parser{sql: sql}
	for lex := (lexer{sql: sql}); ; {
		t, ok := lex.next()
		if !ok {
			break
		}
		p.tokens = append(p.tokens, t)
	}
	for i := 0; i < len(p.tokens); i++ {
		if !p.is(i, "SETTINGS") || p.isSymbol(i-1, ".") || !p.isSymbol(i+2, "=") {
			continue
		}
		clauses++
		for i++; i+1 < len(p.tokens) && p.tokens[i].kind <= quoted && p.isSymbol(i+1, "="); i++ {
			names = append(names, unquote(p.of(i)))
			i = p.skipValue(i + 2)
			if !p.isSymbol(i, ",") {
				break
			}
		}
		i--
	}
	return names, clauses
}

// skipValue returns the first token behind the value that begins at token i.
func (p *parser) skipValue(i int) int {
	for depth := 0; i < len(p.tokens); i++ {
		switch {
		case p.isSymbol(i, "(") || p.isSymbol(i, "[") || p.isSymbol(i, "{"):
			depth++
		case depth > 0 && (p.isSymbol(i, ")") || p.isSymbol(i, "]") || p.isSymbol(i, "}")):
			depth--
		case depth == 0 && (p.isSymbol(i, ",") || p.isSymbol(i, ")") || p.endsSettings(i)):
			return i
		}
	}
	return i
}
