package app_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/analytics/app"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const token = "0123456789abcdef0123456789abcdef"

func tokenFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(name, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// ask sends a request with the header Authorization, and returns the status and the body.
func ask(t *testing.T, method, address, authorization, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", authorization)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestTrigger(t *testing.T) {
	rawURL := warehouseWith(t)
	address := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log syncBuffer
	done := make(chan error, 1)
	go func() {
		done <- app.Command(ctx, []string{
			"serve", "--url", rawURL, "--policy", writePolicy(t, "mode: active\n"), "--listen", address, "--token-file", tokenFile(t), "--on-demand",
		}, service.IO{Out: io.Discard, Err: &log}, "test")
	}()
	root := "http://" + address
	deadline := time.After(30 * time.Second)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for get(t, root+"/healthz") != "ok\n" {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("nobody listens:\n%s", log.String())
		}
	}
	bearer := "Bearer " + token
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, tc := range []struct {
		name, method, path, authorization, body string
		status                                  int
		want                                    string
	}{
		{"without a token", "POST", "/v1/jobs/throttle", "", "", 401, "Authorization: Bearer"},
		{"with another token", "POST", "/v1/jobs/throttle", bearer + "0", "", 401, ""},
		{"the token alone", "GET", "/v1/jobs", token, "", 401, ""},
		{"a run", "POST", "/v1/jobs/throttle", bearer, "", 200, `"changes":1`},
		{"an unknown job", "POST", "/v1/jobs/dance", bearer, "", 404, `no job \"dance\"`},
		{"a job that the policy does not name", "POST", "/v1/jobs/webhook", bearer, "", 404, ""},
		{"an unknown word", "POST", "/v1/jobs/suppression", bearer, `{"since": "1d"}`, 400, "since"},
		{"a bad time", "POST", "/v1/jobs/suppression", bearer, `{"from": "soon"}`, 400, "soon"},
		{"a range that the job has not", "POST", "/v1/jobs/throttle", bearer, `{"from": "1d"}`, 400, "present"},
		{"too much", "POST", "/v1/jobs/suppression", bearer, `{"from": "` + strings.Repeat("x", 5000) + `"}`, 400, "too large"},
		{"a range", "POST", "/v1/jobs/suppression", bearer, `{"from": "2d", "to": "1d"}`, 200, `"job":"suppression/range"`},
		{"a run that nobody waits for", "POST", "/v1/jobs/attribution?wait=no", bearer, "", 202, `"started":true`},
		{"the list", "GET", "/v1/jobs", bearer, "", 200, `"job":"throttle"`},
		{"another method", "DELETE", "/v1/jobs/throttle", bearer, "", 405, ""},
	} {
		status, body := ask(t, tc.method, root+tc.path, tc.authorization, tc.body)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: status %d, %s; want %d with %s", tc.name, status, body, tc.status, tc.want)
		}
	}
	// Somebody else has the turn.
	if err := conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
		VALUES ('throttle', now64(6), generateUUIDv4(), now64(6), 'running', 9000000000)`); err != nil {
		t.Fatal(err)
	}
	if status, body := ask(t, "POST", root+"/v1/jobs/throttle", bearer, ""); status != 409 || !strings.Contains(body, `"skipped":true`) {
		t.Errorf("while another run has the turn: status %d, %s", status, body)
	}
	if strings.Contains(log.String(), token) {
		t.Error("the log shows the token")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve ended with %v", err)
	}
	// What ran is listed, and what did not.
	out, err := analytics(t, "jobs", "--url", rawURL, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var states []struct {
		Job        string    `json:"job"`
		Period     float64   `json:"period_seconds"`
		LastRun    time.Time `json:"last_run"`
		LastStatus string    `json:"last_status"`
		Watermark  time.Time `json:"watermark"`
		NextRun    time.Time `json:"next_run"`
	}
	if err := json.Unmarshal([]byte(out), &states); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	known := map[string]int{}
	for i, s := range states {
		known[s.Job] = i
	}
	if s := states[known["throttle"]]; s.LastStatus != "running" || s.Watermark.IsZero() || s.NextRun.IsZero() || s.Period != 10 {
		t.Errorf("throttle is listed as %+v", s)
	}
	if s := states[known["webhook"]]; s.Job != "webhook" || !s.LastRun.IsZero() || s.LastStatus != "" {
		t.Errorf("a job that never ran is listed as %+v", s)
	}
	if out, err := analytics(t, "jobs", "--url", rawURL, "--every", "throttle=1m"); err != nil || !strings.Contains(out, "WATERMARK") || !strings.Contains(out, "1m0s") {
		t.Errorf("jobs: %v\n%s", err, out)
	}
}

func TestMistakesAboutJobs(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"a token for nothing", []string{"serve", "--token-file", short}, "--listen"},
		{"a short token", []string{"serve", "--listen", "127.0.0.1:0", "--token-file", short}, "16 to 4096 bytes"},
		{"no token file", []string{"serve", "--listen", "127.0.0.1:0", "--token-file", "missing"}, "missing"},
		{"nobody who could ask", []string{"serve", "--listen", "127.0.0.1:0", "--on-demand"}, "--token-file"},
		{"a period of no job", []string{"serve", "--every", "dance=1s"}, `no job "dance"`},
		{"a short period", []string{"serve", "--every", "throttle=1ms"}, "at least 1s"},
		{"a range without a beginning", []string{"run", "suppression", "--to", "1d"}, "--from"},
		{"an empty range", []string{"run", "suppression", "--from", "1d", "--to", "2d"}, "is empty"},
		{"an argument too many", []string{"jobs", "throttle"}, "throttle"},
	} {
		if _, err := analytics(t, tc.args...); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want a ConfigError with %q", tc.name, err, tc.want)
		}
	}
	if _, err := analytics(t, "run", "throttle", "--from", "1d", "--url", warehouseWith(t)); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "present") {
		t.Errorf("a range of throttle: %v", err)
	}
}
