//go:build unix

package plugin_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"carom/schemas/warehouse/chtest"
)

// hostileSQL tries what whoever may edit a panel could try: to write, to reach files and other hosts, to
// see what others do, and to lift the bounds. Nothing of it works, and neither does it where the
// administrator has given Grafana a user that may write.
func hostileSQL(t *testing.T, reader, writer source, server *chtest.Server) {
	conn := server.Conn(t)
	state := func() (text string) {
		if err := conn.QueryRow(t.Context(), "SELECT toString((SELECT (count(), sum(cityHash64(*))) FROM carom.annotations)) || arrayStringConcat(arraySort(groupArray(name)), ' ') FROM system.tables WHERE database = 'carom'").Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := state()
	var asked atomic.Int32
	outside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer outside.Close()
	target := filepath.Join(t.TempDir(), "written")
	statements := map[string]string{
		"insert":                         "INSERT INTO annotations (name) VALUES ('x')",
		"insert behind WITH":             "WITH x AS (SELECT 'x' AS name) INSERT INTO annotations (name) SELECT name FROM x",
		"insert in parentheses":          "(INSERT INTO annotations (name) VALUES ('x'))",
		"alter":                          "ALTER TABLE annotations DELETE WHERE 1",
		"delete":                         "DELETE FROM annotations WHERE 1",
		"truncate":                       "TRUNCATE TABLE annotations",
		"create":                         "CREATE TABLE x (a Int8) ENGINE = Memory",
		"temporary table":                "CREATE TEMPORARY TABLE x (a Int8)",
		"rename":                         "RENAME TABLE annotations TO x",
		"system":                         "SYSTEM STOP MERGES",
		"kill":                           "KILL QUERY WHERE 1",
		"set":                            "SET readonly = 0",
		"use":                            "USE system",
		"grant":                          "GRANT ALL ON *.* TO default",
		"two statements":                 "SELECT 1; DROP TABLE annotations",
		"behind a comment":               "SELECT 1 /* /* */ ' */; DROP TABLE annotations -- '",
		"behind the end of a line":       "SELECT 1 // '\n; DROP TABLE annotations -- '",
		"behind typographic quotes":      "SELECT ‘'’; DROP TABLE annotations -- '",
		"behind a heredoc":               "SELECT $a$ ' $a$; DROP TABLE annotations -- '",
		"explain of an insert":           "EXPLAIN INSERT INTO annotations (name) VALUES ('x')",
		"into a file":                    "SELECT 1 INTO OUTFILE '" + target + "'",
		"into a file, in a subquery":     "SELECT * FROM (SELECT 1 INTO OUTFILE '" + target + "')",
		"another format":                 "SELECT 1 FORMAT JSON",
		"url":                            "SELECT * FROM url('" + outside.URL + "', 'LineAsString', 'a String')",
		"url in a subquery":              "SELECT (SELECT count() FROM url('" + outside.URL + "', 'LineAsString', 'a String'))",
		"url behind IN":                  "SELECT 'a' IN url('" + outside.URL + "', 'LineAsString', 'a String')",
		"url in DESCRIBE":                "DESCRIBE TABLE url('" + outside.URL + "', 'CSV')",
		"url in EXPLAIN":                 "EXPLAIN PIPELINE SELECT * FROM url('" + outside.URL + "', 'CSV')",
		"s3":                             "SELECT * FROM s3('" + outside.URL + "/b/k', 'LineAsString', 'a String')",
		"file":                           "SELECT * FROM file('/etc/passwd', 'LineAsString', 'a String')",
		"file as a function":             "SELECT file('/etc/passwd')",
		"remote":                         "SELECT * FROM remote('127.0.0.1', 'system.one')",
		"mysql":                          "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
		"executable":                     "SELECT * FROM executable('id', 'TSV', 'a String')",
		"processes":                      "SELECT query FROM system.processes",
		"users":                          "SELECT name FROM system.users",
		"may write":                      "SELECT 1 SETTINGS readonly = 0",
		"may write, in a subquery":       "SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
		"may look inside":                "SELECT 1 SETTINGS allow_introspection_functions = 1",
		"another tenant's rows":          "SELECT 1 SETTINGS additional_table_filters = {'carom.events': '1'}",
		"a setting behind a parenthesis": "(SELECT 1) SETTINGS readonly = 0",
	}
	for who, s := range map[string]source{"reads": reader, "may write": writer} {
		for name, text := range statements {
			t.Run(who+"/"+name, func(t *testing.T) {
				r, err := s.ask(t.Context(), ranges["6h"], map[string]any{"mode": "sql", "format": "table", "sql": text})
				if err != nil {
					t.Fatal(err)
				}
				if r.Error == nil || r.ErrorSource != backend.ErrorSourceDownstream {
					t.Errorf("%s: error %v of %q", text, r.Error, r.ErrorSource)
				}
			})
		}
	}
	if after := state(); after != before {
		t.Errorf("the database was\n%s\nand is\n%s", before, after)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("another host was asked %d times", n)
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("a file was written")
	}
}

// boundedSQL asks for more than the data source allows, by its settings and by the query's own.
func boundedSQL(t *testing.T, s *shipped, server *chtest.Server) {
	narrow := s.configured(t, settingsOf(server, map[string]any{"maxRows": 100, "timeoutSeconds": 59}), readerPassword)
	hasty := s.configured(t, settingsOf(server, map[string]any{"timeoutSeconds": 1}), readerPassword)
	for _, text := range []string{"SELECT number, repeat('x', 1000) FROM numbers(1000000000)", "SELECT number FROM numbers(1000000000) SETTINGS max_result_rows = 0, result_overflow_mode = 'throw'"} {
		f := sql(t, narrow, "table", text)
		if f.Rows() != 100 || len(f.Meta.Notices) != 1 || !strings.Contains(f.Meta.Notices[0].Text, "first 100 rows") {
			t.Errorf("%s: %d rows, notices %v", text, f.Rows(), f.Meta.Notices)
		}
	}
	bounds := sql(t, narrow, "table", "SELECT getSetting('max_execution_time') AS seconds, getSetting('max_result_rows') AS rows")
	for i, want := range []float64{59, 101} {
		if got, _ := bounds.Fields[i].FloatAt(0); got != want {
			t.Errorf("%s is %v, want %v", bounds.Fields[i].Name, got, want)
		}
	}
	r, err := hasty.ask(t.Context(), ranges["6h"], map[string]any{"mode": "sql", "format": "table", "sql": "SELECT count() FROM numbers(1e13) WHERE sipHash64(number) = 1"})
	if err != nil || r.Error == nil || !strings.Contains(r.Error.Error(), " 1 s: choose a shorter time range") || r.ErrorSource != backend.ErrorSourceDownstream {
		t.Errorf("a slow query: %v, %v of %q", err, r.Error, r.ErrorSource)
	}
	// A series of the builder has more rows than are read: its end is left out, and said to be.
	f := frame(t, narrow, over{until.Add(-24 * oneHour), until, 10 * 60e9}, map[string]any{"view": "deliverability", "metrics": []string{"delivered"}, "breakdown": []string{"provider"}})
	if n := f.Fields[0].Len(); n == 0 || n >= 144 || !strings.Contains(fmt.Sprint(f.Meta.Notices), "Only the time before ") {
		t.Errorf("%d steps, notices %v", n, f.Meta.Notices)
	}
}

const oneHour = 3600e9

// sameTokens holds the lexer of macros to ClickHouse's own: what it takes for a comment or a string is one.
func sameTokens(t *testing.T, s source) {
	for _, tc := range []struct{ text, want string }{
		{"SELECT '1' /* /* */ , '2' */", "1"},
		{"SELECT '1' // , '2'", "1"},
		{"SELECT '1' --, '2'", "1"},
		{"SELECT '1' # , '2'", "1"},
		{"SELECT ‘$__from’ AS “$__to”", "$__from"},
		{"SELECT $a$ $__from $a$", " $__from "},
		{"SELECT $$ $__from $$", " $__from "},
		{"SELECT 'a''$__from\\''", "a'$__from'"},
		{"SELECT toString(3−1)", "2"},
	} {
		f := sql(t, s, "table", tc.text)
		if v, _ := f.Fields[0].ConcreteAt(0); v != tc.want || len(f.Fields) != 1 {
			t.Errorf("%s: %q in %d fields, want %q", tc.text, v, len(f.Fields), tc.want)
		}
	}
}

// limitsTogether asks for the limits in force by less than a key: those of its keys are put together.
func limitsTogether(t *testing.T, s source) {
	for _, tc := range []struct {
		breakdown []string
		want      string
	}{
		{[]string{"provider"}, "[google 20 5 100] [yahoo 12 12 30]"},
		{[]string{"provider", "source"}, "[google 192.0.2.1 20 5 100] [yahoo 192.0.2.3 7 12 30] [yahoo 192.0.2.2 5 10 20]"},
		{[]string{"source"}, "[192.0.2.1 20 5 100] [192.0.2.3 7 12 30] [192.0.2.2 5 10 20]"},
		{[]string{}, "[32 12 100]"},
	} {
		f := frame(t, s, ranges["6h"], map[string]any{"view": "limits", "format": "table", "metrics": []string{"limit_rate", "limit_connections", "limit_messages"}, "breakdown": tc.breakdown})
		n := len(tc.breakdown) + 3
		rows := make([]string, f.Rows())
		for row := range rows {
			values := make([]any, n)
			for i := range values {
				values[i], _ = f.Fields[i].ConcreteAt(row)
			}
			rows[row] = fmt.Sprint(values)
		}
		if got := strings.Join(rows, " "); got != tc.want || len(f.Fields) != n+1 || f.Fields[n].Config.DisplayNameFromDS != "Since" || f.Fields[len(tc.breakdown)].Config.Unit != "mps" {
			t.Errorf("limits by %v: %s, want %s; %v", tc.breakdown, got, tc.want, f.Fields)
		}
	}
	none := frame(t, s, over{until.Add(-90 * 24 * oneHour), until.Add(-80 * 24 * oneHour), oneHour}, map[string]any{"view": "limits", "format": "table", "metrics": []string{"limit_rate"}, "breakdown": []string{}})
	if none.Rows() != 0 {
		t.Errorf("before any limit: %d rows", none.Rows())
	}
}
