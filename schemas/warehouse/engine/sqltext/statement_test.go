package sqltext

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, sql string
		want      Statement
	}{
		{"empty", "", Statement{}},
		{"only a comment", "-- nothing", Statement{}},
		{"select", "SELECT 1", Statement{Kind: Select}},
		{"lower case behind a comment", "/* SHOW */ select 1;", Statement{Kind: Select}},
		{"brackets", "(SELECT 1) UNION ALL (SELECT 2)", Statement{Kind: Select}},
		{"from first", "FROM t SELECT a", Statement{Kind: Select}},
		{"with", "WITH (SELECT 1) AS x SELECT x", Statement{Kind: Select}},
		{"format", "SELECT 1 FORMAT JSON", Statement{Kind: Select, Format: "JSON"}},
		{"format as a column", "SELECT t.format x FROM t", Statement{Kind: Select}},
		{"format in a string", "SELECT ' FORMAT JSON'", Statement{Kind: Select}},
		{"format in a subquery stays there", "SELECT * FROM (SELECT 1 SETTINGS a = 1)", Statement{Kind: Select}},
		{
			"settings before and after format", "SELECT 1 SETTINGS a = 1, `b`='x,y' FORMAT TSV SETTINGS c=3",
			Statement{Kind: Select, Format: "TSV", Settings: []string{"a", "b", "c"}},
		},
		{
			"a map as setting", "SELECT 1 SETTINGS additional_table_filters = {'t': 'a = 1'}, b = 2",
			Statement{Kind: Select, Settings: []string{"additional_table_filters", "b"}},
		},
		{"into outfile", "SELECT 1 INTO OUTFILE '/tmp/x' FORMAT TSV", Statement{Kind: Select, Outfile: true, Format: "TSV"}},
		{"show", "SHOW TABLES FORMAT TSV", Statement{Kind: Info, Format: "TSV"}},
		{"explain insert", "EXPLAIN INSERT INTO t SELECT 1", Statement{Kind: Info}},
		{"kill", "KILL QUERY WHERE 1 SYNC", Statement{Kind: Kill}},
		{"set", "SET max_threads = 1", Statement{Kind: Session}},
		{"create", "CREATE TABLE t (a Int8) ENGINE = Memory", Statement{Kind: Change}},
		{"create or replace", "CREATE OR REPLACE TABLE t (a Int8) ENGINE = Memory", Statement{Kind: Change}},
		{"create function", "CREATE FUNCTION f AS (x) -> x", Statement{}},
		{"delete", "DELETE FROM t WHERE a = 1 SETTINGS x = 1", Statement{Kind: Lightweight, Settings: []string{"x"}}},
		{"system", "SYSTEM FLUSH LOGS", Statement{}},
		{"insert values", "INSERT INTO t (a, b) VALUES (1, ';')", Statement{Kind: Insert, Format: "Values", Data: " (1, ';')"}},
		{"insert into a table called values", "INSERT INTO values VALUES (1)", Statement{Kind: Insert, Format: "Values", Data: " (1)"}},
		{"insert into table", "INSERT INTO TABLE d.t FORMAT TSV\n1\t2;3\n", Statement{Kind: Insert, Format: "TSV", Data: "1\t2;3\n"}},
		{"insert into a quoted table", "INSERT INTO `d`.\"FORMAT\" FORMAT TSV \r\n1", Statement{Kind: Insert, Format: "TSV", Data: "1"}},
		{
			"insert with settings", "INSERT INTO t SETTINGS a = 'FORMAT', b=2 FORMAT Native\x00\x01;",
			Statement{Kind: Insert, Format: "Native", Settings: []string{"a", "b"}, Data: "\x00\x01;"},
		},
		{"insert from infile", "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT TSV", Statement{Kind: Insert, Format: "TSV", Infile: true}},
		{"insert select", "INSERT INTO t (a) SELECT 1 SETTINGS x=1", Statement{Kind: InsertSelect, Settings: []string{"x"}}},
		{"insert select in brackets", "INSERT INTO t (a) ( /* c */ SELECT (1))", Statement{Kind: InsertSelect}},
		{"insert from first", "INSERT INTO t FROM u SELECT a", Statement{Kind: InsertSelect}},
		{"with insert", "WITH 1 AS x INSERT INTO t SELECT x", Statement{Kind: InsertSelect}},
		{"insert into function", "INSERT INTO FUNCTION file('x') SELECT 1", Statement{Kind: InsertSelect}},
		{"comment with a quote", "SELECT 1 -- don't\n, 2", Statement{Kind: Select}},
		{"comment in a comment", "SELECT 1 /* a /* b */ ' */ + 2; -- c", Statement{Kind: Select}},
		{"comment behind slashes", "SELECT 1 // don't; DROP\n, 2", Statement{Kind: Select}},
		{"heredoc", "SELECT $a$ ; ' $a$ FORMAT TSV", Statement{Kind: Select, Format: "TSV"}},
		{"quote that does not end", "SELECT 'abc", Statement{Kind: Select}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.sql)
			if err != nil {
				t.Fatalf("Parse(%q): %v", tc.sql, err)
			}
			ignore := cmpopts.IgnoreUnexported(Statement{})
			if diff := cmp.Diff(tc.want, *got, ignore, cmpopts.IgnoreFields(Statement{}, "Text")); diff != "" {
				t.Errorf("Parse(%q) (-want +got):\n%s", tc.sql, diff)
			}
		})
	}
}

func TestParseRefusesTwoStatements(t *testing.T) {
	for _, sql := range []string{
		"SELECT 1; SELECT 2",
		"SELECT 1;;DROP TABLE t",
		"SELECT (1; DROP TABLE t",
		"INSERT INTO t SELECT 1; DROP TABLE t",
		"INSERT INTO t (; DROP TABLE t",
	} {
		if s, err := Parse(sql); !errors.Is(err, ErrMultiple) {
			t.Errorf("Parse(%q) = %+v, %v, want ErrMultiple", sql, s, err)
		}
	}
}

func TestWith(t *testing.T) {
	settings := []Setting{{"a", "1"}, {"b", `it's \`}}
	for _, tc := range []struct{ sql, want string }{
		{"SELECT 1", `SELECT 1 FORMAT Native SETTINGS a = '1', b = 'it\'s \\' /*tag*/`},
		{"SELECT 1 -- end", `SELECT 1 FORMAT Native SETTINGS a = '1', b = 'it\'s \\' /*tag*/`},
		{"SELECT 1 FORMAT JSON;", `SELECT 1 FORMAT JSON SETTINGS a = '1', b = 'it\'s \\' /*tag*/`},
		{"SELECT 1 FORMAT JSON SETTINGS b = 2", `SELECT 1 FORMAT JSON SETTINGS b = 2, a = '1' /*tag*/`},
		{"SELECT 1 SETTINGS a = 2, b = 3", `SELECT 1 SETTINGS a = 2, b = 3 /*tag*/`},
		{"DELETE FROM t WHERE 1", `DELETE FROM t WHERE 1 SETTINGS a = '1', b = 'it\'s \\' /*tag*/`},
		{"DELETE FROM t WHERE 1 SETTINGS a = 2", `DELETE FROM t WHERE 1 SETTINGS a = 2, b = 'it\'s \\' /*tag*/`},
		{"INSERT INTO t SELECT 1", `INSERT INTO t SETTINGS a = '1', b = 'it\'s \\' SELECT 1 /*tag*/`},
		{"INSERT INTO t (SELECT 1)", `INSERT INTO t SETTINGS a = '1', b = 'it\'s \\' (SELECT 1) /*tag*/`},
		{"INSERT INTO t SETTINGS a = 2 SELECT 1", `INSERT INTO t SETTINGS a = 2, b = 'it\'s \\' SELECT 1 /*tag*/`},
		{"SYSTEM FLUSH LOGS", "SYSTEM FLUSH LOGS /*tag*/"},
	} {
		s, err := Parse(tc.sql)
		if err != nil {
			t.Fatalf("Parse(%q): %v", tc.sql, err)
		}
		if got := s.With(settings, "Native", "tag"); got != tc.want {
			t.Errorf("With of %q\n got %s\nwant %s", tc.sql, got, tc.want)
		}
	}
}

func TestFromFile(t *testing.T) {
	settings := []Setting{{"a", "1"}}
	for _, tc := range []struct{ sql, want string }{
		{"INSERT INTO t (x) VALUES (1)", `INSERT INTO t (x)  FROM INFILE '/dev/fd/3' COMPRESSION 'none' SETTINGS a = '1' FORMAT Values /*tag*/`},
		{
			"INSERT INTO t SETTINGS b = 2 FORMAT TSV\n1",
			`INSERT INTO t  FROM INFILE '/dev/fd/3' COMPRESSION 'none' SETTINGS b = 2, a = '1'  FORMAT TSV /*tag*/`,
		},
		{
			"INSERT INTO t SETTINGS a = 2 FORMAT TSV\n1",
			`INSERT INTO t  FROM INFILE '/dev/fd/3' COMPRESSION 'none' SETTINGS a = 2  FORMAT TSV /*tag*/`,
		},
	} {
		s, err := Parse(tc.sql)
		if err != nil {
			t.Fatalf("Parse(%q): %v", tc.sql, err)
		}
		if got := s.FromFile("/dev/fd/3", settings, "tag"); got != tc.want {
			t.Errorf("FromFile of %q\n got %s\nwant %s", tc.sql, got, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, sql := range []string{
		"SELECT 1 FORMAT TSV SETTINGS a = 1", "INSERT INTO t (a) SETTINGS b=1 VALUES (1)", "INSERT INTO t(SELECT 1)",
		"WITH x AS (SELECT 1) INSERT INTO t SELECT 1;", "SELECT $a$ $a$ 'x' \"y\" /* */ -- z", "DELETE FROM t SETTINGS a=[1,2]",
		"INSERT INTO", "INSERT INTO t SETTINGS", "(((", "\u2018x\u2019",
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		s, err := Parse(sql)
		if err != nil {
			return
		}
		settings := []Setting{{"carom_a", "1"}}
		if s.Kind == Insert {
			if !strings.HasSuffix(sql, s.Data) {
				t.Errorf("data %q is no suffix of %q", s.Data, sql)
			}
			if got := s.FromFile("/dev/fd/3", settings, "tag"); !strings.HasSuffix(got, "/*tag*/") {
				t.Errorf("FromFile of %q = %q", sql, got)
			}
			return
		}
		if got := s.With(settings, "TSV", "tag"); !strings.HasSuffix(got, "/*tag*/") {
			t.Errorf("With of %q = %q", sql, got)
		}
	})
}
