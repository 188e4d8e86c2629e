package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
	"carom/sender/orders"
)

// node answers what the test says, and writes down what it was told.
type node struct {
	queues []Queue
	told   []string
	err    error
}

func (n *node) Queues() []Queue { return n.queues }

func (n *node) Messages(f orders.Filter, limit int) ([]Message, error) {
	n.told = append(n.told, fmt.Sprintf("messages %s, %s, %d", f, f.ArrivedBefore.Format(time.RFC3339), limit))
	return []Message{{ID: "1", Recipient: "ann@a.test", Arrived: noon}}, n.err
}

func (n *node) Explain(queue string) (*Explanation, error) {
	n.told = append(n.told, "explain "+queue)
	return &Explanation{Queue: Queue{Name: queue}, Waits: []string{"why"}}, n.err
}

func (n *node) Orders() []Order {
	return []Order{{Order: orders.Order{ID: 1, Kind: orders.Pause, Filter: orders.Filter{Job: "june"}, Made: noon}, Left: 7}}
}

func (n *node) Give(_ context.Context, i Instruction, actor string) (*Result, error) {
	n.told = append(n.told, fmt.Sprintf("%s %s by %s", i.Kind, i.Filter, actor))
	return &Result{DryRun: i.DryRun, Recipients: 3, Order: &orders.Order{ID: 2, Kind: i.Kind}}, n.err
}

func (n *node) End(_ context.Context, id uint64, actor string) (*orders.Order, error) {
	n.told = append(n.told, fmt.Sprintf("end %d by %s", id, actor))
	return &orders.Order{ID: id}, n.err
}

func (n *node) Schedule(_ context.Context, pattern, actor string) (int, error) {
	n.told = append(n.told, fmt.Sprintf("schedule %s by %s", pattern, actor))
	return 4, n.err
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func (n *node) Reload(context.Context, string) (*Reloaded, error) {
	return nil, service.Configf("config:3:1: unknown directive %q", "x")
}

func (n *node) Status() Status {
	return Status{
		Node: "mx.test", ConfigHash: "00000000000000ff", EventSeq: 1, GaugeSeq: 2, QueueGaugeSeq: 8, AnnotationSeq: 3,
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
func start(t *testing.T, path string, n *node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	opened, err := Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- opened.Serve(ctx, n, n, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
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
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not return")
		}
	}
	t.Cleanup(stop)
	return stop
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}
}

func get(t *testing.T, path, url string) (status int, kind, body string) {
	t.Helper()
	response, err := unixClient(path).Get("http://node" + url)
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
	stop := start(t, path, &node{queues: []Queue{{Name: "a.test/vmta1", Recipients: 3, Due: 2, Sessions: 1, DeferredUntil: deferred, OldestArrival: deferred}, {Name: "b.test/{default}"}}})
	for url, want := range map[string]string{
		"/v1/status": `{"node":"mx.test","config_hash":"00000000000000ff","event_seq":1,"gauge_seq":2,"queue_gauge_seq":8,"annotation_seq":3,` +
			`"accepted_recipients":4,"queued_recipients":5,"live_recipients":6,"sessions":7,"event_log_unshipped_bytes":0,"event_log_full":false}`,
		"/v1/queues": `[{"name":"a.test/vmta1","recipients":3,"due":2,"sessions":1,"deferred_until":"2026-11-23T12:00:00Z","oldest_arrival":"2026-11-23T12:00:00Z","in_per_minute":0,"out_per_minute":0},` +
			`{"name":"b.test/{default}","recipients":0,"due":0,"sessions":0,"in_per_minute":0,"out_per_minute":0}]`,
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
	if diff := cmp.Diff((&node{}).Status(), back); diff != "" {
		t.Errorf("status read back (-want +got):\n%s", diff)
	}
	stop()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestClientAndNodeUnderstandEachOther(t *testing.T) {
	path := socket(t)
	n := &node{}
	start(t, path, n)
	c := NewClient(path)
	ctx := t.Context()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	status, statusErr := c.Status(ctx)
	queues, queuesErr := c.Queues(ctx)
	messages, messagesErr := c.Messages(ctx, orders.Filter{Queue: "a.test/*", Job: "june & may", ArrivedBefore: noon}, 5)
	e, explainErr := c.Explain(ctx, "a.test/{default}")
	all, ordersErr := c.Orders(ctx)
	r, giveErr := c.Give(ctx, Instruction{Kind: orders.Pause, Filter: orders.Filter{Tenant: "shop"}, DryRun: true})
	ended, endErr := c.End(ctx, 12)
	scheduled, scheduleErr := c.Schedule(ctx, "*/*")
	if err := errors.Join(statusErr, queuesErr, messagesErr, explainErr, ordersErr, giveErr, endErr, scheduleErr); err != nil {
		t.Fatal(err)
	}
	if status != n.Status() || len(queues) != 0 || len(messages) != 1 || messages[0].Recipient != "ann@a.test" || e.Queue.Name != "a.test/{default}" ||
		len(all) != 1 || all[0].Left != 7 || all[0].Filter.Job != "june" || !r.DryRun || r.Recipients != 3 || ended.ID != 12 || scheduled != 4 {
		t.Errorf("answers: %v, %v, %v, %v, %v, %v, %v, %d", status, queues, messages, e, all, r, ended, scheduled)
	}
	want := []string{
		"messages queue a.test/* job june & may, 2026-11-23T12:00:00Z, 5", "explain a.test/{default}",
		"pause tenant shop by " + me.Username, "end 12 by " + me.Username, "schedule */* by " + me.Username,
	}
	if diff := cmp.Diff(want, n.told); diff != "" {
		t.Errorf("the node was told (-want +got):\n%s", diff)
	}
}

func TestErrorsHaveTheirStatus(t *testing.T) {
	path := socket(t)
	n := &node{}
	start(t, path, n)
	c := NewClient(path)
	for _, tc := range []struct {
		err  error
		want int
	}{
		{&orders.InvalidError{Text: "pause what?"}, http.StatusBadRequest},
		{fmt.Errorf("order 7: %w", orders.ErrUnknown), http.StatusNotFound},
		{ErrNoQueue, http.StatusNotFound},
		{errors.New("the disk is full"), http.StatusInternalServerError},
	} {
		n.err = tc.err
		_, err := c.Give(t.Context(), Instruction{Kind: orders.Pause})
		if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != tc.want || refused.Text != tc.err.Error() {
			t.Errorf("%v became %v, want status %d", tc.err, err, tc.want)
		}
	}
}

// TestRequestsAreReadStrictly: what is not understood does nothing.
func TestRequestsAreReadStrictly(t *testing.T) {
	path := socket(t)
	n := &node{}
	start(t, path, n)
	client := unixClient(path)
	for _, tc := range []struct {
		method, url, body string
		want              int
	}{
		{"POST", "/v1/orders", `{"kind":"pause"}`, http.StatusOK},
		{"POST", "/v1/orders", `{"kind":"pause","filter":{"que":"*/*"}}`, http.StatusBadRequest},
		{"POST", "/v1/orders", `{"kind":"pause"}{}`, http.StatusBadRequest},
		{"POST", "/v1/orders", ``, http.StatusBadRequest},
		{"POST", "/v1/orders", `[1]`, http.StatusBadRequest},
		{"POST", "/v1/orders", `{"kind":"pause","expires":"2h"}`, http.StatusBadRequest},
		{"POST", "/v1/orders", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, http.StatusBadRequest},
		{"POST", "/v1/schedule", `{"queues":"*/*"}`, http.StatusBadRequest},
		{"DELETE", "/v1/orders/x", ``, http.StatusBadRequest},
		{"DELETE", "/v1/orders/-1", ``, http.StatusBadRequest},
		{"GET", "/v1/messages?limit=0", ``, http.StatusBadRequest},
		{"GET", "/v1/messages?limit=1000000", ``, http.StatusBadRequest},
		{"GET", "/v1/messages?jobs=june", ``, http.StatusBadRequest},
		{"GET", "/v1/messages?job=june&job=may", ``, http.StatusBadRequest},
		{"GET", "/v1/messages?arrived_before=yesterday", ``, http.StatusBadRequest},
		{"GET", "/v1/explain?queue=%zz", ``, http.StatusBadRequest},
		{"PUT", "/v1/orders", `{}`, http.StatusMethodNotAllowed},
	} {
		request, err := http.NewRequest(tc.method, "http://node"+tc.url, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var f failure
		if response.StatusCode == http.StatusBadRequest {
			if err := json.NewDecoder(response.Body).Decode(&f); err != nil || f.Error == "" {
				t.Errorf("%s %s %.80s: the refusal says nothing (%v)", tc.method, tc.url, tc.body, err)
			}
		}
		response.Body.Close()
		if response.StatusCode != tc.want {
			t.Errorf("%s %s %.80s: %d %s, want %d", tc.method, tc.url, tc.body, response.StatusCode, f.Error, tc.want)
		}
	}
	if len(n.told) != 1 {
		t.Errorf("the node was told %q, want only what was understood", n.told)
	}
}

// TestWhoMayAsk: nobody but root and the node's own user, even where the socket lets others in.
func TestWhoMayAsk(t *testing.T) {
	n := &node{}
	handler := (&api{n, n, slog.New(slog.DiscardHandler)}).routes()
	for _, tc := range []struct {
		name string
		peer any
		want int
	}{
		{"root", 0, http.StatusOK},
		{"the node's own user", os.Geteuid(), http.StatusOK},
		{"somebody else", os.Geteuid() + 1, http.StatusForbidden},
		{"somebody unknown", nobody, http.StatusForbidden},
		{"no connection of the socket", nil, http.StatusForbidden},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, tc.peer), http.MethodGet, "/v1/status", http.NoBody)
		handler.ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, w.Code, tc.want)
		}
	}
	if got := actor(context.WithValue(t.Context(), peerKey{}, 987654)); got != "uid 987654" {
		t.Errorf("a user without a name is %q", got)
	}
}

func FuzzInstruction(f *testing.F) {
	f.Add([]byte(`{"kind":"pause","filter":{"queue":"a.test/*","arrived_before":"2026-11-23T12:00:00Z"},"expires":"2026-11-23T12:00:00Z","dry_run":true}`))
	f.Add([]byte(`{"kind":"reroute","filter":{"job":"june"},"to":"mail2","reason":"\u0000"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var i, again Instruction
		if err := decode(httptest.NewRequest(http.MethodPost, "/v1/orders", bytes.NewReader(data)), &i); err != nil {
			return
		}
		written, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := decode(httptest.NewRequest(http.MethodPost, "/v1/orders", bytes.NewReader(written)), &again); err != nil {
			t.Fatalf("%s is not read back: %v", written, err)
		}
		if !i.Expires.Equal(again.Expires) || !i.Filter.ArrivedBefore.Equal(again.Filter.ArrivedBefore) {
			t.Errorf("%+v became %+v", i, again)
		}
		i.Expires, i.Filter.ArrivedBefore = again.Expires, again.Filter.ArrivedBefore
		if i != again {
			t.Errorf("%+v became %+v", i, again)
		}
	})
}

func TestReloadOfABadFileIsTheAskersMistake(t *testing.T) {
	path := socket(t)
	start(t, path, &node{})
	_, err := NewClient(path).Reload(t.Context())
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Status != http.StatusBadRequest || !strings.Contains(refused.Text, `unknown directive "x"`) {
		t.Errorf("Reload: %v", err)
	}
}

func TestNoQueuesAreAnEmptyList(t *testing.T) {
	path := socket(t)
	start(t, path, &node{})
	if _, _, body := get(t, path, "/v1/queues"); strings.TrimSpace(body) != "[]" {
		t.Errorf("got %s, want []", body)
	}
}

func TestOnlyTheUserMayEnter(t *testing.T) {
	path := socket(t)
	start(t, path, &node{})
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
	start(t, path, &node{})
	if status, _, _ := get(t, path, "/v1/status"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

func TestRefusals(t *testing.T) {
	path := socket(t)
	start(t, path, &node{})
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("socket in use: %v", err)
	}
	if status, _, _ := get(t, path, "/v1/status"); status != http.StatusOK {
		t.Errorf("the first does not answer any more: %d", status)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in its place: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if _, err := Open(t.Context(), filepath.Join(file, "admin.sock")); err == nil {
		t.Error("a folder that cannot be made is no error")
	}
	long := filepath.Join(filepath.Dir(path), strings.Repeat("x", maxPath))
	if _, err := Open(t.Context(), long); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a name that is too long: %v", err)
	}
}
