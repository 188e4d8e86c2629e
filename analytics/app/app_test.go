package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"carom/analytics/app"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func invoke(t *testing.T, command func(context.Context, service.IO) error) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := command(t.Context(), service.IO{Out: &out, Err: io.Discard})
	return out.String(), err
}

func analytics(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return invoke(t, func(ctx context.Context, stdio service.IO) error { return app.Command(ctx, args, stdio, "test") })
}

func showLimits(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return invoke(t, func(ctx context.Context, stdio service.IO) error { return app.LimitsCommand(ctx, args, stdio, "test") })
}

// warehouseWith returns the URL of a warehouse in which google began to refuse 40 s ago.
func warehouseWith(t *testing.T) string {
	t.Helper()
	_, rawURL := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	inc := uuid.New()
	end := time.Now().Add(-2 * time.Second)
	events := make([]event.Event, 0, 4000)
	for i := range 4000 {
		e := event.Event{
			Node: "n1", Incarnation: inc, Seq: uint64(i) + 1, FormatVersion: event.FormatVersion, Time: end.Add(-time.Duration(i) * 10 * time.Millisecond),
			Kind: event.Deferred, Recipients: 1, Provider: "google", Source: "192.0.2.1", Attempt: 1, Dimension: taxonomy.Rate,
			Class: taxonomy.Soft, Reply: "421 4.7.28 unusual rate", Tenant: "shop",
		}
		if i%4 == 0 {
			e.Kind, e.Dimension, e.Class, e.Reply = event.Delivered, taxonomy.OK, taxonomy.None, "250 ok"
		}
		events = append(events, e)
	}
	// As if the agent had shipped in time: the events below arrive now, the delay is measured.
	if err := warehouse.Events.Insert(t.Context(), conn, "events", events); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), "TRUNCATE TABLE k10s"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), `
INSERT INTO k10s (provider, source, epoch, ts, ok, rate, max_open, min_msgc_idx, sample_reply, last_arrived)
SELECT provider, source, limit_epoch, toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND) AS ts,
    countIf(dimension = 'ok'), countIf(dimension = 'rate'), 4, 4294967295, maxIf(reply, dimension = 'rate'), max(time) + INTERVAL 1 SECOND
FROM events GROUP BY provider, source, limit_epoch, ts`); err != nil {
		t.Fatal(err)
	}
	gauge := event.Gauge{Node: "n1", Incarnation: inc, Seq: 1, Time: end, Provider: "google", Source: "192.0.2.1", Backlog: 900, StaticRate: 100, StaticConnections: 20}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauge", []event.Gauge{gauge}); err != nil {
		t.Fatal(err)
	}
	return rawURL
}

func writePolicy(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRunThenExplain(t *testing.T) {
	rawURL := warehouseWith(t)
	out, err := showLimits(t, "list", "--url", rawURL)
	if err != nil || !strings.Contains(out, "no key yet") {
		t.Errorf("list of an empty warehouse: %q, %v", out, err)
	}
	if _, err := showLimits(t, "explain", "google/192.0.2.1", "--url", rawURL); service.ExitStatus(err) != 2 {
		t.Errorf("explain of an unknown key gives %v, want a ConfigError", err)
	}
	out, err = analytics(t, "run", "throttle", "suppression", "--url", rawURL, "--policy", writePolicy(t, "mode: active\n"))
	if err != nil || !strings.Contains(out, "1 keys, 1 changes") || !strings.Contains(out, "suppression: run ") {
		t.Fatalf("run: %q, %v", out, err)
	}

	out, err = showLimits(t, "list", "--url", rawURL)
	if err != nil || !strings.Contains(out, "google/192.0.2.1  backoff") || !strings.Contains(out, "BACKOFF") {
		t.Errorf("list: %q, %v", out, err)
	}
	out, err = showLimits(t, "explain", "--url", rawURL, "google/192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BACKOFF", "rate 100 -> ", "evidence under epoch 0", "rate, ", " ok; refused 75.0 %", "reply: 421 4.7.28", "epoch 1", "renewed", "suggestion: "} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
	out, err = showLimits(t, "explain", "google/192.0.2.1", "--url", rawURL, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var changes []struct {
		Rule    string            `json:"rule"`
		RateOld float64           `json:"rate_old"`
		RateNew float64           `json:"rate_new"`
		Counts  map[string]uint64 `json:"n_by_class"`
	}
	if err := json.Unmarshal([]byte(out), &changes); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(changes) != 1 || changes[0].Rule != "BACKOFF" || changes[0].RateOld != 100 || changes[0].Counts["rate"] == 0 {
		t.Errorf("explain --json: %+v", changes)
	}
}

// The policy's webhook is told of a complaint; without its secret nothing starts.
func TestRunWebhook(t *testing.T) {
	_, rawURL := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	complaint := event.Event{
		Node: "n1", Seq: 1, Time: time.Now(), Kind: event.Complaint, Recipient: "ann@x.test", RecipientKey: "k", MatchConfidence: 1, Recipients: 1,
	}
	if err := warehouse.Events.Insert(t.Context(), conn, "complaint", []event.Event{complaint}); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		told <- fmt.Sprint(string(body), err)
	}))
	defer server.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	file := writePolicy(t, fmt.Sprintf("complaint-webhook: {url: %q, secret-file: %q}\n", server.URL, secret))
	if _, err := analytics(t, "run", "webhook", "--url", rawURL, "--policy", file); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), secret) {
		t.Errorf("without its secret: %v", err)
	}
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := analytics(t, "run", "webhook", "--url", rawURL, "--policy", file)
	if err != nil || !strings.Contains(out, "webhook: run ") || !strings.Contains(out, "1 changes") {
		t.Errorf("run webhook: %q, %v", out, err)
	}
	if body := <-told; !strings.Contains(body, `"recipient":"ann@x.test"`) {
		t.Errorf("told %s", body)
	}
}

// Whatever a provider, a source or a receiver's reply holds, it is found and shown in one line.
func TestExplainOfOddKeys(t *testing.T) {
	rawURL := warehouseWith(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for i, key := range []string{`o'dd\n"/2001:db8::/64`, "почта\tрф/192.0.2.1", "50%_{x:String}/192.0.2.1"} {
		provider, source, _ := strings.Cut(key, "/")
		for _, row := range []string{
			`INSERT INTO limit_log (id, ts, provider, source, rule_id, reason_text, rate_old, rate_new, connections_new, sample_replies) VALUES
				(?, now64(6), ?, ?, 'BACKOFF', 'test', 123456, 1234.4, 20000, ['421 \x1b[2J no\r\nway'])`,
			`INSERT INTO limit_state (reason_id, provider, source, rate, connections) VALUES (?, ?, ?, 1234.4, 20000)`,
		} {
			if err := conn.Exec(t.Context(), row, i, provider, source); err != nil {
				t.Fatal(err)
			}
		}
		out, err := showLimits(t, "explain", key, "--url", rawURL)
		if err != nil {
			t.Errorf("explain %q: %v", key, err)
		}
		for _, want := range []string{"rate 123456 -> 1234/s, connections unlimited -> 20000", "reply: 421  [2J no  way\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("explain %q does not say %q:\n%q", key, want, out)
			}
		}
	}
	out, err := showLimits(t, "list", "--url", rawURL)
	if err != nil || strings.Count(out, "\n") != 4 || strings.Count(out, "  1234  ") != 3 || strings.Count(out, "  20000  ") != 3 {
		t.Errorf("list: %v\n%s", err, out)
	}
}

func TestMistakesOfTheOperator(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T) (string, error)
		want string
	}{
		{"no verb", func(t *testing.T) (string, error) { return analytics(t) }, "want run, serve or jobs"},
		{"no job", func(t *testing.T) (string, error) { return analytics(t, "run") }, "name a job"},
		{"an unknown job", func(t *testing.T) (string, error) { return analytics(t, "run", "dance") }, `no job "dance"`},
		{"an unknown flag", func(t *testing.T) (string, error) { return analytics(t, "run", "--dance") }, "dance"},
		{"a bad URL", func(t *testing.T) (string, error) { return analytics(t, "serve", "--url", "ftp://x") }, "ftp://x"},
		{"a missing policy", func(t *testing.T) (string, error) { return analytics(t, "run", "throttle", "--policy", "missing.yaml") }, "missing.yaml"},
		{"a bad policy", func(t *testing.T) (string, error) {
			return analytics(t, "serve", "--policy", writePolicy(t, "mode: active\ncolour: red\n"))
		}, "line 2"},
		{"a webhook that no policy names", func(t *testing.T) (string, error) { return analytics(t, "run", "webhook") }, "no complaint-webhook"},
		{"an argument too many", func(t *testing.T) (string, error) { return analytics(t, "serve", "throttle") }, "throttle"},
		{"a short period", func(t *testing.T) (string, error) { return analytics(t, "serve", "--period", "1ms") }, "period"},
		{"no key", func(t *testing.T) (string, error) { return showLimits(t, "explain") }, "provider/source"},
		{"a bad key", func(t *testing.T) (string, error) { return showLimits(t, "explain", "google") }, `key "google"`},
		{"no changes", func(t *testing.T) (string, error) { return showLimits(t, "explain", "x/y", "--last", "0") }, "--last"},
		{"an unknown verb", func(t *testing.T) (string, error) { return showLimits(t, "fix", "x/y") }, "fix x/y"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := tc.run(t)
			if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a ConfigError with %q", err, tc.want)
			}
		})
	}
	for _, help := range []func() (string, error){
		func() (string, error) { return analytics(t, "--help") },
		func() (string, error) { return showLimits(t, "explain", "--help") },
	} {
		if out, err := help(); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out, "Example:") || !strings.Contains(out, "-url") {
			t.Errorf("--help: %v\n%s", err, out)
		}
	}
}

// syncBuffer is a buffer that a running command writes to while the test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freePort returns an address that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestServe(t *testing.T) {
	rawURL := warehouseWith(t)
	address := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log syncBuffer
	done := make(chan error, 1)
	go func() {
		done <- app.Command(ctx, []string{
			"serve", "--url", rawURL, "--policy", writePolicy(t, "mode: active\n"),
			"--period", "1s", "--suppression-period", "1s", "--listen", address,
		}, service.IO{Out: io.Discard, Err: &log}, "test")
	}()
	deadline := time.After(30 * time.Second)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	var metrics string
	for late := false; !late && !strings.Contains(metrics, `carom_analytics_changes_total{job="throttle"} 1`); {
		select {
		case <-look.C:
			metrics = get(t, "http://"+address+"/metrics")
		case <-deadline:
			late = true
		}
	}
	if !strings.Contains(metrics, `carom_analytics_changes_total{job="throttle"} 1`) {
		t.Fatalf("no change within 30 s:\n%s\n%s", log.String(), metrics)
	}
	if health := get(t, "http://"+address+"/healthz"); health != "ok\n" {
		t.Errorf("/healthz says %q", health)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve ended with %v", err)
	}
	if !strings.Contains(log.String(), "rule=BACKOFF") {
		t.Errorf("the log does not tell of the decision:\n%s", log.String())
	}
}

// get returns a body, or "" while nobody listens.
func get(t *testing.T, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	return string(body)
}
