//go:build unix

package engine_test

import (
	"os"
	"path/filepath"
	"testing"

	"carom/schemas/warehouse/chtest"
)

func TestReadonlyUser(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := chtest.Start(t, "--readonly-user", "viewer", "--readonly-password-file", password)
	mustPost(t, server.URL(), "CREATE TABLE t (a UInt64, settings String) ENGINE = MergeTree ORDER BY a")
	mustPost(t, server.URL(), "INSERT INTO t VALUES (1, 'x')")
	asViewer := "http://viewer:secret@" + server.Addr() + "/"

	for _, tc := range []struct{ name, sql, params, want string }{
		{"query", "SELECT a FROM t", "", "1\n"},
		{"setting of the URL", "SELECT getSetting('max_threads')", "max_threads=1", "1\n"},
		{"the default of readonly", "SELECT getSetting('readonly')", "readonly=1", "2\n"},
		{"settings in the query", "SELECT a FROM t SETTINGS max_threads = 1, max_block_size = 2", "max_execution_time=5", "1\n"},
		{"settings of a subquery", "SELECT * FROM (SELECT a FROM t SETTINGS max_threads = 1)", "", "1\n"},
		{"settings behind the format", "SELECT a FROM t FORMAT CSV SETTINGS max_threads = 1", "max_block_size=10", "1\n"},
		{"a column called settings", "SELECT settings FROM t", "", "x\n"},
		{"another format", "SELECT a FROM t FORMAT JSONEachRow", "", "{\"a\":1}\n"},
		{"comments and a semicolon", "/* a */ SELECT a -- b\nFROM t;", "", "1\n"},
		{"union and intersection", "SELECT a FROM (SELECT a FROM t UNION ALL SELECT number + 2 FROM numbers(1) INTERSECT SELECT 2) ORDER BY a", "", "1\n2\n"},
		{"common table expression", "WITH x AS (SELECT a FROM t) SELECT a FROM x", "", "1\n"},
		{"parameter", "SELECT {x:String} FROM {t:Identifier}", "param_x=a%5Ctb&param_t=t", "a\\tb\n"},
		{"show", "SHOW TABLES", "", "t\n"},
		{"show with settings", "SHOW TABLES FORMAT TSV SETTINGS max_threads = 1", "", "t\n"},
		{"describe", "DESCRIBE TABLE t", "", "a\tUInt64\t\t\t\t\t\nsettings\tString\t\t\t\t\t\n"},
		{"exists", "EXISTS TABLE t", "", "1\n"},
		{"allowed table of the engine", "SELECT name FROM system.tables WHERE database = 'default'", "", "t\n"},
	} {
		t.Run("may/"+tc.name, func(t *testing.T) {
			if got := mustPost(t, asViewer+"?"+tc.params, tc.sql); got != tc.want {
				t.Errorf("%s = %q, want %q", tc.sql, got, tc.want)
			}
		})
	}
	for _, tc := range []struct {
		name, sql, params string
		want              int // code
	}{
		{"insert", "INSERT INTO t VALUES (2, '')", "", 164},
		{"insert select", "INSERT INTO t SELECT 2, ''", "", 164},
		{"create", "CREATE TABLE u (a Int8) ENGINE = Memory", "", 164},
		{"alter", "ALTER TABLE t DELETE WHERE 1", "", 164},
		{"delete", "DELETE FROM t WHERE 1", "", 164},
		{"system", "SYSTEM FLUSH LOGS", "", 164},
		{"kill", "KILL QUERY WHERE 1", "", 164},
		{"set", "SET readonly = 0", "", 48},
		{"two statements", "SELECT 1; DROP TABLE t", "", 62},
		{"file as a table function", "SELECT * FROM file('/etc/passwd', 'LineAsString')", "", 497},
		{"file in another case", "SELECT * FROM FILE('/etc/passwd', 'LineAsString')", "", 497},
		{"file as a function", "SELECT file('/etc/passwd')", "", 497},
		{"file behind IN", "SELECT 1 IN file('/etc/passwd')", "", 497},
		{"file in a comment's shadow", "SELECT * FROM/**/`file`('/etc/passwd', 'LineAsString')", "", 497},
		{"file in a subquery", "SELECT (SELECT count() FROM file('/etc/passwd', 'LineAsString'))", "", 497},
		{"file in a view", "SELECT * FROM view(SELECT * FROM file('/etc/passwd', 'LineAsString'))", "", 497},
		{"file in EXPLAIN", "EXPLAIN SELECT * FROM file('/etc/passwd', 'LineAsString')", "", 497},
		{"file in DESCRIBE", "DESCRIBE TABLE file('/etc/passwd', 'LineAsString')", "", 497},
		{"url", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "", 497},
		{"remote", "SELECT * FROM remote('127.0.0.1', 'default.t')", "", 497},
		{"executable", "SELECT * FROM executable('id', 'TSV', 'a String')", "", 497},
		{"merge", "SELECT * FROM merge('system', 'processes')", "", 497},
		{"processes", "SELECT query FROM system.processes", "", 497},
		{"processes by parameter", "SELECT * FROM {t:Identifier}", "param_t=system.processes", 497},
		{"processes in quotes", "SELECT query FROM `system`.\"processes\"", "", 497},
		{"processes behind IN", "SELECT 'x' IN system.processes", "", 497},
		{"the database system", "SELECT query FROM processes", "database=system", 497},
		{"SHOW PROCESSLIST", "SHOW PROCESSLIST", "", 497},
		{"EXPLAIN of an insert", "EXPLAIN INSERT INTO t SELECT 1, ''", "", 497},
		{"INTO OUTFILE", "SELECT 1 INTO OUTFILE '/tmp/never'", "", 358},
		{"readonly by URL", "SELECT 1", "readonly=0", 164},
		{"readonly by query", "SELECT 1 SETTINGS readonly = 0", "", 164},
		{"readonly in a subquery", "SELECT * FROM (SELECT 1 SETTINGS `readonly` = 0)", "", 164},
		{"readonly behind the format", "SELECT 1 FORMAT TSV SETTINGS readonly = 0", "", 164},
		{"another setting by URL", "SELECT 1", "max_query_size=10", 164},
		{"another setting by query", "SELECT 1 SETTINGS max_threads = 1, allow_introspection_functions = 1", "", 164},
		{"a setting behind a map", "SELECT 1 SETTINGS additional_table_filters = {'t': 'a = 1'}", "", 164},
		{"unknown table", "SELECT 1 FROM nope", "", 60},
	} {
		t.Run("may not/"+tc.name, func(t *testing.T) {
			if code, body := post(t, asViewer+"?"+tc.params, tc.sql); code != tc.want {
				t.Errorf("%s: code %d, want %d; %s", tc.sql, code, tc.want, body)
			}
		})
	}
	// One that may write is held to the same where the URL asks for it: Grafana does.
	for _, readonly := range []string{"readonly=1", "readonly=2"} {
		if got := mustPost(t, server.URL()+"/?"+readonly, "SELECT a FROM t SETTINGS max_threads = 1"); got != "1\n" {
			t.Errorf("a SELECT with %s: %q", readonly, got)
		}
		for sql, want := range map[string]int{
			"INSERT INTO t VALUES (3, '')": 164, "SELECT 1 SETTINGS readonly = 0": 164, "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')": 497, "SELECT query FROM system.processes": 497,
		} {
			if code, body := post(t, server.URL()+"/?"+readonly, sql); code != want {
				t.Errorf("%s with %s: code %d, want %d; %s", sql, readonly, code, want, body)
			}
		}
	}
	if _, err := os.Stat("/tmp/never"); err == nil {
		t.Error("INTO OUTFILE has written a file")
	}
	if got := mustPost(t, server.URL(), "SELECT count() FROM t"); got != "1\n" {
		t.Errorf("t has %q rows, want 1", got)
	}
}
