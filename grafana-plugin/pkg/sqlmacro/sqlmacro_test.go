package sqlmacro

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func values() Values {
	return Values{
		From: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 29, 12, 30, 0, 500e6, time.UTC),
		Step: 5 * time.Minute, AdHoc: "provider = {p0:String}",
	}
}

const (
	from = "toDateTime64('2026-11-29 10:00:00.000', 3, 'UTC')"
	to   = "toDateTime64('2026-11-29 12:30:00.500', 3, 'UTC')"
)

func TestExpand(t *testing.T) {
	for _, tc := range []struct{ name, sql, want string }{
		{"nothing to expand", "SELECT 1", "SELECT 1"},
		{"time filter", "SELECT 1 WHERE $__timeFilter(time)", "SELECT 1 WHERE (time >= " + from + " AND time < " + to + ")"},
		{"column with a function", "SELECT $__timeInterval(toDateTime(a, 'x)'))", "SELECT toStartOfInterval(toDateTime(toDateTime(a, 'x)'), 'UTC'), INTERVAL 300 SECOND)"},
		{"date filter", "SELECT 1 WHERE $__dateFilter(day)", "SELECT 1 WHERE (day >= toDate('2026-11-29') AND day <= toDate('2026-11-29'))"},
		{"ends", "SELECT $__fromTime,$__toTime", "SELECT " + from + "," + to},
		{"numbers", "SELECT $__interval_s, $__interval_ms, $__from, $__to", "SELECT 300, 300000, 1795946400000, 1795955400500"},
		{"ad hoc", "SELECT 1 WHERE $__adhoc", "SELECT 1 WHERE (provider = {p0:String})"},
		{"in a string", `SELECT '$__fromTime \' $__toTime''$__adhoc'`, `SELECT '$__fromTime \' $__toTime''$__adhoc'`},
		{"in names", "SELECT \"$__adhoc\", `$__adhoc`", "SELECT \"$__adhoc\", `$__adhoc`"},
		{"in comments", "SELECT 1 -- $__adhoc\n/* $__adhoc */ # $__adhoc", "SELECT 1 -- $__adhoc\n/* $__adhoc */ # $__adhoc"},
		{"in comments within comments", "SELECT 1 /* /* $__adhoc */ $__adhoc */ // $__adhoc\n, $__interval_s", "SELECT 1 /* /* $__adhoc */ $__adhoc */ // $__adhoc\n, 300"},
		{"in typographic quotes", "SELECT ‘$__adhoc’ AS “$__adhoc”, $__interval_s", "SELECT ‘$__adhoc’ AS “$__adhoc”, 300"},
		{"beside letters that are no part of words", "SELECT 1−$__interval_s", "SELECT 1−300"},
		{"in a heredoc", "SELECT $x$ $__adhoc $x$, $$ $__adhoc $$", "SELECT $x$ $__adhoc $x$, $$ $__adhoc $$"},
		{"inside a word", "SELECT a$__adhoc", "SELECT a$__adhoc"},
		{"semicolon at the end", "SELECT 1 ;\n", "SELECT 1 "},
		{"column called format", "SELECT format, 1", "SELECT format, 1"},
		{"in parentheses", "(SELECT 1)", "(SELECT 1)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Expand(tc.sql, values())
			if err != nil || got != tc.want {
				t.Errorf("Expand(%q)\n got %q, %v\nwant %q", tc.sql, got, err, tc.want)
			}
		})
	}
	if got, err := Expand("SELECT $__interval_s WHERE $__adhoc", Values{}); err != nil || got != "SELECT 1 WHERE 1" {
		t.Errorf("without step and filters: %q, %v", got, err)
	}
}

func TestExpandRefuses(t *testing.T) {
	for _, tc := range []struct{ name, sql, want string }{
		{"nothing", "  -- x", "the query is empty: write a SELECT, or choose a view in the builder"},
		{"insert", "\n INSERT INTO a VALUES (1)", "line 2, column 2: a query begins with SELECT or WITH: the data source only reads"},
		{"two statements", "SELECT 1; DROP TABLE a", "line 1, column 9: one statement at a time: what follows the semicolon is another one"},
		{"format", "SELECT 1 FORMAT JSON", "line 1, column 10: leave FORMAT out: Grafana takes the rows as they are"},
		{"file", "SELECT 1 INTO OUTFILE 'x'", "line 1, column 15: INTO OUTFILE is not possible here"},
		{"open string", "SELECT 'a", "line 1, column 8: a string, name or comment that begins here has no end"},
		{"open comment within a comment", "SELECT /* /* a */", "line 1, column 8: a string, name or comment that begins here has no end"},
		{"open typographic quote", "SELECT ‘a'", "line 1, column 8: a string, name or comment that begins here has no end"},
		{"a statement behind a comment", "SELECT 1 /* /* */ ' */; DROP TABLE a -- '", "line 1, column 23: one statement at a time: what follows the semicolon is another one"},
		{"open comment", "SELECT /* a", "line 1, column 8: a string, name or comment that begins here has no end"},
		{"no column", "SELECT $__timeFilter", "line 1, column 8: $__timeFilter wants a column in parentheses: $__timeFilter(time)"},
		{"empty column", "SELECT $__timeFilter( )", "line 1, column 8: $__timeFilter wants a column in parentheses: $__timeFilter(time)"},
		{"macro in a macro", "SELECT $__timeFilter($__fromTime)", "line 1, column 8: $__timeFilter cannot have another macro in its parentheses"},
		{"variable", "SELECT $tenant", "line 1, column 8: the variable $tenant has no value here: alert rules have no dashboard variables, and in a dashboard the name must be one of its variables"},
		{"variable in braces", "SELECT ${tenant:csv}", "line 1, column 8: the variable ${tenant} has no value here: alert rules have no dashboard variables, and in a dashboard the name must be one of its variables"},
		{"unknown macro", "SELECT $__timeGroup(a)", "line 1, column 8: there is no macro $__timeGroup; the macros are $__adhoc, $__dateFilter, $__from, $__fromTime, $__interval_ms, $__interval_s, $__timeFilter, $__timeInterval, $__to, $__toTime"},
		{"too long", "SELECT " + strings.Repeat("1", MaxLength), "the query has 262151 octets; 262144 are the most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Expand(tc.sql, values())
			if _, is := errors.AsType[*Error](err); !is || err.Error() != tc.want {
				t.Errorf("Expand(%q)\n got %v\nwant %s", tc.sql, err, tc.want)
			}
		})
	}
}

// FuzzExpand holds the lexer to what it promises: every octet is in one token, and what stands in
// quotes or comments stays as it is.
func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"SELECT $__timeFilter(a) -- $__adhoc", "SELECT '\\", "$$", "$a$b$a$", "/*", "`", "SELECT $__timeInterval((a), ')')", "/* /* */", "/*/", "// \n", "‘a", "“$__to”", "#!", "SELECT \xff$__to"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		var whole strings.Builder
		for _, token := range lex(sql) {
			if token.text == "" || token.pos != whole.Len() {
				t.Fatalf("token %+v at %d", token, whole.Len())
			}
			whole.WriteString(token.text)
		}
		if whole.String() != sql {
			t.Fatalf("the tokens make %q of %q", whole.String(), sql)
		}
		out, err := Expand(sql, values())
		if err != nil {
			return
		}
		var before, after []string
		for _, token := range lex(sql) {
			if token.kind == quoted {
				before = append(before, token.text)
			}
		}
		for _, token := range lex(out) {
			if token.kind == quoted {
				after = append(after, token.text)
			}
		}
		for i := range before { // in this order, with the strings of macros in between
			for len(after) > 0 && after[0] != before[i] {
				after = after[1:]
			}
			if len(after) == 0 {
				t.Fatalf("%q became %q and lost %q", sql, out, before[i])
			}
			after = after[1:]
		}
	})
}
