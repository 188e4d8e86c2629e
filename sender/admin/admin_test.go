package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type node struct{ queues []Queue }

func (n node) Queues() []Queue { return n.queues }

func (n node) Status() Status {
	return Status{
		Node: "mx.test", ConfigHash: "00000000000000ff", EventSeq: 1, GaugeSeq: 2, AnnotationSeq: 3,
		AcceptedRecipients: 4, QueuedRecipients: 5, LiveRecipients: 6, Sessions: 7,
	}
}

// socket returns the path of a socket that does not exist yet. It is short: a name has 107 octets
// (unix(7)), and the test's own folder may take most of them.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "sub", "admin.sock")
}

// start runs the socket until the test is over, or the returned function is called.
func start(t *testing.T, path string, n Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, path, n, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(stop)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func get(t *testing.T, path, url string) (status int, kind, body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}
	response, err := client.Get("http://node" + url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Content-Type"), string(b)
}

func TestAnswers(t *testing.T) {
	path := socket(t)
	deferred := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	stop := start(t, path, node{[]Queue{{Name: "a.test/vmta1", Recipients: 3, Due: 2, Sessions: 1, DeferredUntil: deferred, OldestArrival: deferred}, {Name: "b.test/{default}"}}})
	for url, want := range map[string]string{
		"/v1/status": `{"node":"mx.test","config_hash":"00000000000000ff","event_seq":1,"gauge_seq":2,"annotation_seq":3,` +
			`"accepted_recipients":4,"queued_recipients":5,"live_recipients":6,"sessions":7}`,
		"/v1/queues": `[{"name":"a.test/vmta1","recipients":3,"due":2,"sessions":1,"deferred_until":"2026-11-23T12:00:00Z","oldest_arrival":"2026-11-23T12:00:00Z"},` +
			`{"name":"b.test/{default}","recipients":0,"due":0,"sessions":0}]`,
	} {
		status, kind, body := get(t, path, url)
		if status != http.StatusOK || kind != "application/json" || strings.TrimSpace(body) != want {
			t.Errorf("GET %s: %d %s\n got %s\nwant %s", url, status, kind, body, want)
		}
	}
	if status, _, _ := get(t, path, "/v1/nothing"); status != http.StatusNotFound {
		t.Errorf("GET /v1/nothing: %d", status)
	}
	var back Status
	_, _, body := get(t, path, "/v1/status")
	if err := json.Unmarshal([]byte(body), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(node{}.Status(), back); diff != "" {
		t.Errorf("status read back (-want +got):\n%s", diff)
	}
	stop()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestNoQueuesAreAnEmptyList(t *testing.T) {
	path := socket(t)
	start(t, path, node{})
	if _, _, body := get(t, path, "/v1/queues"); strings.TrimSpace(body) != "[]" {
		t.Errorf("got %s, want []", body)
	}
}

func TestOnlyTheUserMayEnter(t *testing.T) {
	path := socket(t)
	start(t, path, node{})
	for name, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("mode of %s is %s, want %s", name, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v), want the socket alone", entries, err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socket(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	start(t, path, node{})
	if status, _, _ := get(t, path, "/v1/status"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

func TestRefusals(t *testing.T) {
	path := socket(t)
	start(t, path, node{})
	if err := Run(t.Context(), path, node{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("socket in use: %v", err)
	}
	if status, _, _ := get(t, path, "/v1/status"); status != http.StatusOK {
		t.Errorf("the first does not answer any more: %d", status)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), file, node{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in its place: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if err := Run(t.Context(), filepath.Join(file, "admin.sock"), node{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder that cannot be made is no error")
	}
	long := filepath.Join(filepath.Dir(path), strings.Repeat("x", maxPath))
	if err := Run(t.Context(), long, node{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a name that is too long: %v", err)
	}
}
