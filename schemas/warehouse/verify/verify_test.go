package verify_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"carom/schemas/service"
	"carom/schemas/warehouse/chtest"
	"carom/schemas/warehouse/verify"
)

func run(t *testing.T, args ...string) (verify.Report, string, error) {
	t.Helper()
	var out, log bytes.Buffer
	err := verify.Command(t.Context(), append(args, "--json"), service.IO{Out: &out, Err: &log}, "test")
	var report verify.Report
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatalf("%v:\n%s", err, out.String())
		}
	}
	return report, log.String(), err
}

func result(t *testing.T, r verify.Report, name string) verify.Check {
	t.Helper()
	for _, c := range r.Checks {
		if strings.HasPrefix(c.Name, name) {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, r.Checks)
	return verify.Check{}
}

// The embedded engine passes what it has, the rest is said not to be checked, and the scratch
// database is gone.
func TestEmbeddedEngine(t *testing.T) {
	engine := chtest.Start(t)
	report, log, err := run(t, "--url", engine.URL())
	t.Log(log)
	if err != nil || !report.Passed {
		t.Fatalf("verify: %v", err)
	}
	notHere := []string{"cluster", "rows of a node are on one shard", "every replica", "roles"}
	for _, name := range notHere {
		if c := result(t, report, name); c.Result != verify.NotChecked || c.Detail == "" {
			t.Errorf("%s: %+v, want it not checked, with a reason", name, c)
		}
	}
	passed := 0
	for _, c := range report.Checks {
		if c.Result == verify.Pass {
			passed++
		}
	}
	if passed != len(report.Checks)-len(notHere) {
		t.Errorf("%d checks passed of %d", passed, len(report.Checks))
	}
	if c := result(t, report, "an answer is lost"); !strings.Contains(c.Detail, "3 answers lost") {
		t.Errorf("not every answer was lost: %s", c.Detail)
	}
	var left uint64
	if err := engine.Conn(t).QueryRow(t.Context(), "SELECT count() FROM system.databases WHERE startsWith(name, 'carom_verify')").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d scratch databases are left, %v", left, err)
	}
}

// A server that forgets tokens fails, and says which promise it breaks.
func TestServerThatForgets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	engine := chtest.Start(t)
	// The proxy takes the whole request and gives the whole answer, so that an insert is stored whether or not
	// anybody waits, and a client that is cut ends nothing else.
	forgetful := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read a request: %v", err)
			return
		}
		q := r.URL.Query()
		if q.Has("insert_deduplication_token") {
			q.Set("insert_deduplication_token", rand.Text())
		}
		request, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, engine.URL()+"/?"+q.Encode(), bytes.NewReader(body))
		if err != nil {
			t.Errorf("make a request: %v", err)
			return
		}
		request.Header = r.Header
		answer, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Errorf("ask the engine: %v", err)
			return
		}
		defer func() { _ = answer.Body.Close() }() // only read
		if body, err = io.ReadAll(answer.Body); err != nil {
			t.Errorf("read an answer: %v", err)
			return
		}
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		_, _ = w.Write(body) // nobody may wait for it
	}))
	defer forgetful.Close()
	report, log, err := run(t, "--url", forgetful.URL)
	if service.ExitStatus(err) != 1 || report.Passed {
		t.Errorf("verify: %v, want exit status 1\n%s", err, log)
	}
	if c := result(t, report, "an answer is lost"); c.Result != verify.Fail || !strings.Contains(c.Detail, "6000 rows are stored, 3000 different ones") {
		t.Errorf("%+v, want it failed", c)
	}
}

func TestNoServer(t *testing.T) {
	report, _, err := run(t, "--url", "http://127.0.0.1:1")
	if !errors.Is(err, verify.ErrFailed) || service.ExitStatus(err) != 1 {
		t.Errorf("verify: %v, want ErrFailed and nothing to clean up", err)
	}
	if c := result(t, report, "server answers"); c.Result != verify.Fail || !strings.Contains(c.Detail, "127.0.0.1:1") || len(report.Checks) != 1 {
		t.Errorf("%+v of %d checks, want the first failed and no other", c, len(report.Checks))
	}
	if _, _, err := run(t, "--cluster", "a b"); err == nil {
		t.Error("a strange name of a cluster is no error")
	}
}
