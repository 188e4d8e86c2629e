//go:build unix

package engine_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"carom/schemas/warehouse/chtest"
)

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, method, target string, body io.Reader, header ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return fetchAll(t, request)
}

// fetchAll sends request and reads the whole response.
func fetchAll(tb testing.TB, request *http.Request) answer {
	tb.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if closeErr := response.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		tb.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

// post returns the exception code of the answer, 0 for none, and its body.
func post(t *testing.T, target, sql string) (code int, body string) {
	t.Helper()
	got := send(t, http.MethodPost, target, strings.NewReader(sql))
	header := got.header.Get("X-ClickHouse-Exception-Code")
	if header == "" {
		if got.status != http.StatusOK {
			t.Errorf("%s: status %d without an exception code", sql, got.status)
		}
		return 0, got.body
	}
	code, err := strconv.Atoi(header)
	if err != nil {
		t.Fatalf("%s: X-ClickHouse-Exception-Code %q", sql, header)
	}
	if want := fmt.Sprintf("Code: %d. DB::Exception: ", code); !strings.HasPrefix(got.body, want) {
		t.Errorf("%s: body %q does not begin with %q", sql, got.body, want)
	}
	return code, got.body
}

func mustPost(t *testing.T, target, sql string) string {
	t.Helper()
	code, body := post(t, target, sql)
	if code != 0 {
		t.Fatalf("%s: %s", sql, body)
	}
	return body
}

// failsLate is a query that fails after it has given some megabytes of result, which no
// compression makes smaller than what the front holds back.
const failsLate = "SELECT randomString(100) AS s, throwIf(number = 30000) FROM numbers(40000) SETTINGS max_block_size = 1000"

func TestExceptions(t *testing.T) {
	server := chtest.Start(t)
	for _, tc := range []struct {
		name, sql, params string
		status, code      int
		body              string
	}{
		{"unknown table", "SELECT * FROM nope", "", 404, 60, "Unknown table expression identifier 'nope'"},
		{"syntax", "SELEC 1", "", 400, 62, "Syntax error"},
		{"two statements", "SELECT 1; SELECT 2", "", 400, 62, "Multi-statements are not allowed"},
		{"empty", " ", "", 400, 62, "Empty query"},
		{"unknown setting", "SELECT 1", "nosuch=1", 404, 115, "Unknown setting 'nosuch'"},
		{"setting with a bad name", "SELECT 1", "a%20b=1", 404, 115, "Unknown setting"},
		{"bad value of a setting", "SELECT 1", "max_threads=many", 400, 27, "Cannot parse"},
		{"unknown database", "SELECT 1", "database=nope", 404, 81, "Database nope does not exist"},
		{"unknown format", "SELECT 1 FORMAT Nope", "", 404, 73, "Unknown format Nope"},
		{"parameter missing", "SELECT {x:String}", "", 500, 456, "Substitution `x` is not set"},
		{"too slow", "SELECT sleepEachRow(1) FROM numbers(30)", "max_execution_time=1&max_block_size=1", 408, 159, "Timeout exceeded"},
		{"too many rows", "SELECT number FROM numbers(100)", "max_result_rows=10", 500, 396, "Limit for result exceeded"},
		{"session", "SELECT 1", "session_id=a", 501, 48, "no sessions"},
		{"infile", "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString", "", 404, 78, "infile"},
		{"insert into nothing", "INSERT INTO nope VALUES (1)", "", 404, 60, "nope"},
		{"wrong user", "SELECT 1", "user=nobody", 403, 516, "Authentication failed"},
		{"query too long", "SELECT '" + strings.Repeat("x", 300000) + "'", "", 400, 62, "Max query size exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := send(t, http.MethodPost, server.URL()+"/?"+tc.params, strings.NewReader(tc.sql))
			code := got.header.Get("X-ClickHouse-Exception-Code")
			if got.status != tc.status || code != strconv.Itoa(tc.code) {
				t.Errorf("status %d, code %s, want %d and %d", got.status, code, tc.status, tc.code)
			}
			if !strings.Contains(got.body, tc.body) || !strings.Contains(got.body, "(version ") || strings.Contains(got.body, "carom:") {
				t.Errorf("body %q, want one with %q and the version, without the statement's mark", got.body, tc.body)
			}
		})
	}
	t.Run("nothing of a failed result comes with the next", func(t *testing.T) {
		for range 20 { // each connection gets some
			post(t, server.URL(), "SELECT throwIf(number = 50000) FROM numbers(100000) SETTINGS max_block_size = 1000 FORMAT JSON")
			if got := mustPost(t, server.URL(), "SELECT 'clean'"); got != "clean\n" {
				t.Fatalf("got %.100q, want clean", got)
			}
		}
	})
	t.Run("GET does not modify", func(t *testing.T) {
		got := send(t, http.MethodGet, server.URL()+"/?query=CREATE+TABLE+x+(a+Int8)+ENGINE=Memory", nil)
		if got.header.Get("X-ClickHouse-Exception-Code") != "164" {
			t.Errorf("got %d: %s, want code 164", got.status, got.body)
		}
	})
	t.Run("a foreign web page cannot post", func(t *testing.T) {
		got := send(t, http.MethodPost, server.URL(), strings.NewReader("SELECT 1"), "Origin", "https://example.com", "Sec-Fetch-Site", "cross-site")
		if got.status != http.StatusForbidden {
			t.Errorf("got %d, want 403", got.status)
		}
	})
}

func TestAnswer(t *testing.T) {
	server := chtest.Start(t)
	t.Run("headers", func(t *testing.T) {
		got := send(t, http.MethodGet, server.URL()+"/?query_id=mine&query=SELECT+number+FROM+numbers(10)+FORMAT+CSV", nil)
		if got.body != "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" {
			t.Errorf("body %q", got.body)
		}
		for name, want := range map[string]string{
			"X-ClickHouse-Query-Id": "mine", "X-ClickHouse-Format": "CSV", "X-ClickHouse-Timezone": "UTC",
			"Content-Type": "text/csv; charset=UTF-8; header=absent",
		} {
			if value := got.header.Get(name); value != want {
				t.Errorf("%s: %q, want %q", name, value, want)
			}
		}
		var summary map[string]string
		if err := json.Unmarshal([]byte(got.header.Get("X-ClickHouse-Summary")), &summary); err != nil {
			t.Fatalf("X-ClickHouse-Summary: %v", err)
		}
		if summary["read_rows"] != "10" || summary["result_rows"] != "10" || summary["read_bytes"] != "80" || summary["elapsed_ns"] == "0" {
			t.Errorf("X-ClickHouse-Summary: %v", summary)
		}
	})
	t.Run("ping", func(t *testing.T) {
		for _, path := range []string{"/ping", "/"} {
			if got := send(t, http.MethodGet, server.URL()+path, nil); got.body != "Ok.\n" {
				t.Errorf("%s: %q", path, got.body)
			}
		}
	})
	t.Run("query in URL and body", func(t *testing.T) {
		if got := mustPost(t, server.URL()+"/?query=SELECT", "1 + 1"); got != "2\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("gzip", func(t *testing.T) {
		got := send(t, http.MethodPost, server.URL(), strings.NewReader("SELECT 'zipped'"), "Accept-Encoding", "gzip")
		if coding := got.header.Get("Content-Encoding"); coding != "gzip" {
			t.Fatalf("Content-Encoding %q", coding)
		}
		reader, err := gzip.NewReader(strings.NewReader(got.body))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(reader); err != nil || string(text) != "zipped\n" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	t.Run("gzip request", func(t *testing.T) {
		var zipped bytes.Buffer
		writer := gzip.NewWriter(&zipped)
		if _, err := io.WriteString(writer, "SELECT 'unzipped'"); err != nil {
			t.Fatal(err)
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		if got := send(t, http.MethodPost, server.URL(), &zipped, "Content-Encoding", "gzip"); got.body != "unzipped\n" {
			t.Errorf("got %q", got.body)
		}
	})
	t.Run("result over several parts in a format with a frame", func(t *testing.T) {
		body := mustPost(t, server.URL(), "SELECT number FROM numbers(200000) FORMAT JSON")
		var document struct {
			Data []struct{ Number json.Number }
			Rows int
		}
		if err := json.Unmarshal([]byte(body), &document); err != nil {
			t.Fatal(err)
		}
		if document.Rows != 200000 || len(document.Data) != 200000 {
			t.Errorf("%d rows, %d data", document.Rows, len(document.Data))
		}
	})
	t.Run("exception inside a body", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL(), strings.NewReader(failsLate))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil {
			t.Error("the body ended properly")
		}
		tag := response.Header.Get("X-ClickHouse-Exception-Tag")
		_, frame, found := strings.Cut(string(body), "\r\n__exception__\r\n"+tag+"\r\n")
		if response.StatusCode != http.StatusOK || !found || !strings.HasPrefix(frame, "Code: 395. DB::Exception: ") {
			t.Errorf("status %s, frame %.300q", response.Status, frame)
		}
	})
	t.Run("wait_end_of_query", func(t *testing.T) {
		if code, _ := post(t, server.URL()+"/?wait_end_of_query=1", failsLate); code != 395 {
			t.Errorf("code %d, want 395", code)
		}
		body := mustPost(t, server.URL()+"/?wait_end_of_query=1", "SELECT number FROM numbers(500000)")
		if n := strings.Count(body, "\n"); n != 500000 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestInsertData(t *testing.T) {
	server := chtest.Start(t)
	mustPost(t, server.URL(), "CREATE TABLE t (a UInt64, b String DEFAULT concat('b', toString(a))) ENGINE = MergeTree ORDER BY a")
	for _, tc := range []struct{ name, query, body, want string }{
		{"values in the body", "", "INSERT INTO t VALUES (1, 'x;y'), (2, concat('a', 'b'));", "1\tx;y\n2\tab\n"},
		{"defaults", "", "INSERT INTO t (a) VALUES (1)", "1\tb1\n"},
		{"format in the URL", "INSERT INTO t FORMAT TSV", "1\tx\n2\ty\n", "1\tx\n2\ty\n"},
		{"values in the URL", "INSERT INTO t VALUES (1, 'x')", "", "1\tx\n"},
		{"json", "INSERT INTO t (a) FORMAT JSONEachRow", `{"a": 7}`, "7\tb7\n"},
		{"settings", "INSERT INTO t SETTINGS input_format_tsv_empty_as_default = 1 FORMAT TSV", "3\t\n", "3\tb3\n"},
		{"parameter", "INSERT INTO t VALUES ({x:UInt64}, 'p')", "", "9\tp\n"},
		{"select", "", "INSERT INTO t SELECT number, 's' FROM numbers(2)", "0\ts\n1\ts\n"},
		{"large body", "", "INSERT INTO t FORMAT TSV\n" + strings.Repeat("1\tx\n", 100000) + "2\ty\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mustPost(t, server.URL(), "TRUNCATE TABLE t")
			got := send(t, http.MethodPost, server.URL()+"/?max_threads=2&param_x=9&query="+url.QueryEscape(tc.query), strings.NewReader(tc.body))
			if got.status != http.StatusOK {
				t.Fatalf("%d: %s", got.status, got.body)
			}
			if tc.want == "" {
				if rows := mustPost(t, server.URL(), "SELECT count(), max(a) FROM t"); rows != "100001\t2\n" {
					t.Errorf("got %q", rows)
				}
				if s := got.header.Get("X-ClickHouse-Summary"); !strings.Contains(s, `"written_rows":"100001"`) {
					t.Errorf("summary %s", s)
				}
				return
			}
			if rows := mustPost(t, server.URL(), "SELECT * FROM t ORDER BY ALL"); rows != tc.want {
				t.Errorf("got %q, want %q", rows, tc.want)
			}
		})
	}
	t.Run("a body that breaks off inserts nothing", func(t *testing.T) {
		mustPost(t, server.URL(), "TRUNCATE TABLE t")
		broken := io.MultiReader(strings.NewReader(strings.Repeat("1\tx\n", 10000)), errorReader{})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL()+"/?query=INSERT+INTO+t+FORMAT+TSV", broken)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
			t.Fatal("the broken request succeeded")
		}
		mustPost(t, server.URL()+"/?query=INSERT+INTO+t+FORMAT+TSV", "5\tmarker\n") // inserts run one after another
		if got := mustPost(t, server.URL(), "SELECT * FROM t"); got != "5\tmarker\n" {
			t.Errorf("got %.100q", got)
		}
	})
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("needs curl, which is not installed; TestAnswer sends the same by net/http")
	}
	server := chtest.Start(t)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"get", []string{server.URL() + "/?query=SELECT%201"}, "1\n"},
		{"post", []string{server.URL(), "-d", "SELECT 1, 'a' FORMAT CSV"}, "1,\"a\"\n"},
		{"compressed", []string{"--compressed", server.URL(), "-d", "SELECT 'z'"}, "z\n"},
		{"create", []string{server.URL(), "-d", "CREATE TABLE c (a UInt64) ENGINE = MergeTree ORDER BY a"}, ""},
		{"insert", []string{server.URL() + "/?query=INSERT+INTO+c+FORMAT+CSV", "--data-binary", "1\n2\n"}, ""},
		{"chunked", []string{server.URL() + "/?query=INSERT+INTO+c+FORMAT+CSV", "-H", "Transfer-Encoding: chunked", "--data-binary", "3\n"}, ""},
		{"sum", []string{server.URL(), "-d", "SELECT sum(a) FROM c"}, "6\n"},
		{"user", []string{"-u", "default:", server.URL(), "-d", "SELECT 1"}, "1\n"},
		{"ping", []string{server.URL() + "/ping"}, "Ok.\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := run(tc.args...); got != tc.want {
				t.Errorf("curl %q = %q, want %q", tc.args, got, tc.want)
			}
		})
	}
}
