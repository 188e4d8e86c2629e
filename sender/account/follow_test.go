package account

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// events is a log with events whose jobs are their numbers.
type events struct {
	dir string
	log *seglog.Log
}

func newEvents(t *testing.T) *events {
	t.Helper()
	dir := t.TempDir()
	log, err := seglog.Open(filepath.Join(dir, event.StreamEvent), seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return &events{dir, log}
}

func (l *events) add(t *testing.T, kinds ...event.Kind) {
	t.Helper()
	for _, kind := range kinds {
		e := delivered()
		e.Kind, e.FormatVersion, e.Time = kind, event.FormatVersion, time.Now()
		e.Job = fmt.Sprint(l.log.Last() + 1)
		if _, err := l.log.Append(t.Context(), event.Encode(nil, &e)); err != nil {
			t.Fatal(err)
		}
	}
}

// catcher is a Receiver that fails as often as it is told.
type catcher struct {
	mu       sync.Mutex
	failures int
	err      error
	got      []string // job ids of the records, one text for each batch taken
	keys     []string // of all that was tried
	taken    chan struct{}
	closed   int
}

func newCatcher(failures int) *catcher {
	return &catcher{failures: failures, err: errors.New("not now"), taken: make(chan struct{}, 100)}
}

func (c *catcher) Send(_ context.Context, b *Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = append(c.keys, b.Key)
	if c.failures > 0 {
		c.failures--
		return c.err
	}
	c.got = append(c.got, jobs(string(b.Header)+string(b.Lines)))
	c.taken <- struct{}{}
	return nil
}

func (c *catcher) Close() error { c.closed++; return nil }

// jobs returns the job ids in a CSV text.
func jobs(text string) string {
	all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return err.Error()
	}
	var ids []string
	for _, row := range all[1:] {
		for i, name := range all[0] {
			if name == "jobId" {
				ids = append(ids, row[i])
			}
		}
	}
	return strings.Join(ids, " ")
}

func follower(t *testing.T, l *events, r Receiver, change func(o *FollowerOptions)) *Follower {
	t.Helper()
	o := FollowerOptions{
		RecordOptions: RecordOptions{Records: []string{"d", "b"}}, Name: "test", Dir: l.dir, From: 1, MaxBytes: 1 << 20, Keyed: true,
		Wait: func(int) time.Duration { return time.Millisecond }, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	f, err := NewFollower(o, r)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// follow runs a follower until the function that it returns is called.
func follow(t *testing.T, f *Follower) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// TestFollower: each record is handed on once, over restarts, and what is no record is passed.
func TestFollower(t *testing.T) {
	l, c := newEvents(t), newCatcher(2)
	l.add(t, event.Delivered, event.Deferred, event.Bounced)
	f := follower(t, l, c, nil)
	stop := follow(t, f)
	<-c.taken
	l.add(t, event.Received, event.Delivered)
	<-c.taken
	stop()
	if f.Needed() != 6 || c.closed != 1 {
		t.Errorf("needs event %d, closed %d times", f.Needed(), c.closed)
	}
	l.add(t, event.Delivered)
	stop = follow(t, follower(t, l, c, nil))
	<-c.taken
	stop()
	if diff := cmp.Diff([]string{"1 3", "5", "6"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(c.keys) != 5 || c.keys[0] != c.keys[2] || c.keys[2] == c.keys[3] {
		t.Errorf("keys %q", c.keys)
	}
}

// TestFollowerBegins: one that has never run begins with the events that are new.
func TestFollowerBegins(t *testing.T) {
	l, c := newEvents(t), newCatcher(0)
	l.add(t, event.Delivered, event.Delivered)
	stop := follow(t, follower(t, l, c, func(o *FollowerOptions) { o.From = 2 }))
	<-c.taken
	stop()
	if diff := cmp.Diff([]string{"2"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPlaceIsLost: a damaged place is no reason not to start; records are sent again.
func TestPlaceIsLost(t *testing.T) {
	l, c := newEvents(t), newCatcher(0)
	l.add(t, event.Delivered)
	for range 2 {
		f := follower(t, l, c, nil)
		stop := follow(t, f)
		<-c.taken
		stop()
		writeFile(t, filepath.Join(l.dir, f.stream+".cursor"), "no place")
	}
	if diff := cmp.Diff([]string{"1", "1"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBatchIsTheSame: what may have been sent before a restart is sent again with the same key,
// although there are more events by now.
func TestBatchIsTheSame(t *testing.T) {
	l := newEvents(t)
	l.add(t, event.Delivered, event.Delivered)
	failing := newCatcher(1 << 30)
	f := follower(t, l, failing, func(o *FollowerOptions) { o.Wait = func(int) time.Duration { return time.Hour } })
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := f.gather(ctx); err != nil {
		t.Fatal(err)
	}
	cancel() // as if the node were stopped while it waits
	if f.deliver(ctx, time.Now()) {
		t.Fatal("taken")
	}
	l.add(t, event.Delivered)
	c := newCatcher(0)
	stop := follow(t, follower(t, l, c, nil))
	<-c.taken
	<-c.taken
	stop()
	if diff := cmp.Diff([]string{"1 2", "3"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c.keys[0] != failing.keys[0] {
		t.Errorf("key %s, before the restart %s", c.keys[0], failing.keys[0])
	}
}

// TestPlaceIsKept: without keys too, a follower that is stopped goes on where it was, however short ago
// it wrote its place down.
func TestPlaceIsKept(t *testing.T) {
	l, c := newEvents(t), newCatcher(0)
	for range 2 {
		l.add(t, event.Delivered)
		stop := follow(t, follower(t, l, c, func(o *FollowerOptions) { o.Keyed = false }))
		<-c.taken
		l.add(t, event.Delivered)
		<-c.taken
		stop()
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBatchBounds: a batch ends where it is full, or when its time is over.
func TestBatchBounds(t *testing.T) {
	l, c := newEvents(t), newCatcher(0)
	l.add(t, event.Delivered, event.Delivered, event.Delivered)
	stop := follow(t, follower(t, l, c, func(o *FollowerOptions) { o.MaxBytes, o.Interval = 400, 10*time.Millisecond }))
	<-c.taken
	<-c.taken
	stop()
	if diff := cmp.Diff([]string{"1 2", "3"}, c.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestGiveUp: records that nobody takes go when they are too old, and not before.
func TestGiveUp(t *testing.T) {
	l, c := newEvents(t), newCatcher(3)
	c.err = &LaterError{After: time.Millisecond, Err: errors.New("later")}
	l.add(t, event.Delivered)
	f := follower(t, l, c, func(o *FollowerOptions) { o.GiveUp = time.Hour })
	oldest, err := f.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	f.now = func() time.Time {
		looks++
		return oldest.Add(time.Duration(looks) * 40 * time.Minute)
	}
	if !f.deliver(t.Context(), oldest) || len(c.got) > 0 || len(c.keys) != 2 {
		t.Errorf("tried %d times, got %q", len(c.keys), c.got)
	}
}

// TestPrivacyOfAFollower: rules of a file hold for what is handed on.
func TestPrivacyOfAFollower(t *testing.T) {
	l, c := newEvents(t), newCatcher(0)
	l.add(t, event.Delivered)
	f := follower(t, l, c, func(o *FollowerOptions) { o.Privacy = policy(t, Redact, "#") })
	if _, err := f.gather(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := string(f.batch.Lines); !strings.Contains(text, "#@example.com") || strings.Contains(strings.ToLower(text), "ann@") {
		t.Errorf("lines %s", text)
	}
}

// TestMain is also the program that pipes are tested with.
func TestMain(m *testing.M) {
	switch os.Getenv("ACCOUNT_PROGRAM") {
	case "":
		os.Exit(m.Run())
	case "copy": // appends what it reads to a file, and ends after the line "b,"
		out, err := os.OpenFile(os.Getenv("ACCOUNT_OUT"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			os.Exit(3)
		}
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			if _, err := fmt.Fprintln(out, in.Text()); err != nil {
				os.Exit(3)
			}
			if strings.HasPrefix(in.Text(), "b,") {
				os.Exit(7)
			}
		}
	case "deaf": // until it is killed; the runtime would end a program in which nothing can happen any more
		never := make(chan os.Signal, 1)
		signal.Notify(never, syscall.SIGUSR1)
		<-never
	}
}

func program(t *testing.T, kind string) (out string) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	t.Setenv("ACCOUNT_PROGRAM", kind)
	t.Setenv("ACCOUNT_OUT", out)
	return out
}

// TestPipe: a program gets the header once, all records, and its end.
func TestPipe(t *testing.T) {
	out := program(t, "copy")
	p := NewPipe([]string{os.Args[0], "arg"}, time.Minute)
	for i := range 3 {
		b := &Batch{Header: []byte("type,n\r\n"), Lines: fmt.Appendf(nil, "d,%d\r\n", i)}
		if err := p.Send(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("type,n\nd,0\nd,1\nd,2\n", string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := p.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// TestPipeStartsAgain: a program that has ended is an error, and the next try starts it.
func TestPipeStartsAgain(t *testing.T) {
	out := program(t, "copy")
	p := NewPipe([]string{os.Args[0]}, time.Minute)
	send := func(line string) error {
		return p.Send(t.Context(), &Batch{Header: []byte("type,n\r\n"), Lines: []byte(line + "\r\n")})
	}
	if err := send("b,1"); err != nil {
		t.Fatal(err)
	}
	<-awaitEnd(p)
	if err := send("d,2"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("after its end: %v", err)
	}
	if err := send("d,2"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("type,n\nb,1\ntype,n\nd,2\n", string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := NewPipe([]string{filepath.Join(t.TempDir(), "none")}, time.Minute).Send(t.Context(), &Batch{}); err == nil || !strings.HasPrefix(err.Error(), "starting ") {
		t.Errorf("a program that is not there: %v", err)
	}
}

// awaitEnd is closed when the program has ended, whose exit stays to be read.
func awaitEnd(p *Pipe) <-chan struct{} {
	seen := make(chan struct{})
	ended := p.ended
	go func() {
		err := <-ended
		ended <- err
		close(seen)
	}()
	return seen
}

// TestPipeDeaf: a program that reads nothing is ended in time, and holds up nobody.
func TestPipeDeaf(t *testing.T) {
	program(t, "deaf")
	p := NewPipe([]string{os.Args[0]}, 50*time.Millisecond)
	err := p.Send(t.Context(), &Batch{Header: []byte("type\r\n"), Lines: make([]byte, 1<<20)})
	if !errors.Is(err, os.ErrDeadlineExceeded) || p.process != nil {
		t.Errorf("error %v; still there: %v", err, p.process != nil)
	}
}

// TestPipeInterrupted: a node that stops does not wait for a program that reads nothing.
func TestPipeInterrupted(t *testing.T) {
	program(t, "deaf")
	p := NewPipe([]string{os.Args[0]}, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() { sent <- p.Send(ctx, &Batch{Header: []byte("type\r\n"), Lines: make([]byte, 1<<20)}) }()
	cancel()
	if err := <-sent; err == nil {
		t.Error("taken by a program that reads nothing")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestWebhook(t *testing.T) {
	var got []*http.Request
	var bodies []string
	answer := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			in = z
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Error(err)
		}
		got, bodies = append(got, r), append(bodies, string(body))
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(answer)
	}))
	defer server.Close()
	b := &Batch{Key: "k-1-2", Records: 2, Header: []byte("type\r\n"), Lines: []byte("d\r\nb\r\n")}
	for _, zip := range []bool{false, true} {
		w, err := NewWebhook(WebhookOptions{
			URL: server.URL + "/pmta", Headers: []string{"Authorization: Bearer x", "content-type: text/plain"}, Gzip: zip,
			ConnectTimeout: time.Minute, IOTimeout: time.Minute, Verbose: true, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		r := got[len(got)-1]
		if bodies[len(bodies)-1] != "type\r\nd\r\nb\r\n" || r.Method != http.MethodPost || r.URL.Path != "/pmta" || r.Header.Get("Idempotency-Key") != `"k-1-2"` ||
			r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Content-Type") != "text/plain" || r.Header.Get("X-Carom-Records") != "2" {
			t.Errorf("gzip %v: %q %v", zip, bodies, r)
		}
		for _, status := range []int{http.StatusServiceUnavailable, http.StatusBadRequest, http.StatusMovedPermanently} {
			answer = status
			err := w.Send(t.Context(), b)
			if later, ok := errors.AsType[*LaterError](err); !ok || later.After != 7*time.Second {
				t.Errorf("status %d: %v", status, err)
			}
		}
		answer = http.StatusAccepted
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []WebhookOptions{{CAFile: "none"}, {Certificate: "none"}, {CAFile: "follow_test.go"}} {
		if _, err := NewWebhook(o); err == nil {
			t.Errorf("%+v is no error", o)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "5": 5 * time.Second, "99999999": longestPause, "-1": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0} {
		if got, ok := retryAfter(value); got != want || ok != (want > 0) {
			t.Errorf("%q: %v %v", value, got, ok)
		}
	}
}
