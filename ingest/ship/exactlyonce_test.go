package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/warehouse"
)

var errKilled = errors.New("killed")

// The agent dies before each of its steps, once per life, until everything is shipped. What it left
// is all that the next life has.
func TestExactlyOnceWhereverTheAgentDies(t *testing.T) {
	for _, step := range []string{"save pending", "insert", "inserted", "move cursor"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			n.deliver(95)
			deaths := 0
			for {
				// Each life gets one step further than the last before it dies.
				seen := 0
				_, err := n.live(t.Context(), Options{Once: true, BatchRows: 20, fault: func(stream, at string) error {
					if stream != event.StreamEvent || at != step {
						return nil
					}
					if seen++; seen == 1+deaths%2 {
						return errKilled
					}
					return nil
				}})
				if err == nil {
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				if deaths++; deaths > 40 {
					// A death before a durable step makes no progress: that is where it stands still.
					break
				}
			}
			if deaths < 3 {
				t.Fatalf("the agent died %d times only", deaths)
			}
			n.finish()
			n.wantExact()
			n.wantCursor(event.StreamEvent, n.sent)
		})
	}
}

// front is an HTTP proxy before the engine that does harm.
type front struct {
	url  string
	harm atomic.Pointer[func(w http.ResponseWriter, r *http.Request, pass http.Handler)]
}

func newFront(t *testing.T, backend string) *front {
	t.Helper()
	u, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: u.Scheme, Host: u.Host}) },
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(t.Output(), nil), slog.LevelWarn),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if harm := f.harm.Load(); harm != nil {
			(*harm)(w, r, proxy)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = strings.Replace(backend, u.Scheme+"://"+u.Host, server.URL, 1)
	return f
}

func isInsert(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Query().Get("query"), "INSERT INTO events")
}

// cut ends the connection of a request without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func (f *front) set(harm func(w http.ResponseWriter, r *http.Request, pass http.Handler)) {
	if harm == nil {
		f.harm.Store(nil)
		return
	}
	f.harm.Store(&harm)
}

// ClickHouse stores the batch, and its answer is lost, three times for each batch.
func TestExactlyOnceWhenTheAnswerIsLost(t *testing.T) {
	n := newNode(t)
	f := newFront(t, n.url)
	var lost atomic.Int64
	f.set(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if !isInsert(r) || lost.Load()%4 == 3 {
			if isInsert(r) {
				lost.Add(1)
			}
			pass.ServeHTTP(w, r)
			return
		}
		lost.Add(1)
		pass.ServeHTTP(httptest.NewRecorder(), r)
		cut(w)
	})
	n.deliver(60)
	if _, err := n.live(t.Context(), Options{Once: true, BatchRows: 20, Conn: dial(t, f.url)}); err != nil {
		t.Fatal(err)
	}
	if lost.Load() < 12 {
		t.Fatalf("the proxy saw %d inserts, want 12 of 3 batches: the test tests nothing", lost.Load())
	}
	n.wantExact()
}

// The connection breaks in the middle of the batch.
func TestExactlyOnceWhenTheRequestIsCut(t *testing.T) {
	n := newNode(t)
	f := newFront(t, n.url)
	var cuts atomic.Int64
	f.set(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if !isInsert(r) || cuts.Load() >= 3 {
			pass.ServeHTTP(w, r)
			return
		}
		cuts.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		half := r.Clone(r.Context())
		half.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), brokenReader{}))
		pass.ServeHTTP(httptest.NewRecorder(), half)
		cut(w)
	})
	n.deliver(2000)
	if _, err := n.live(t.Context(), Options{Once: true, Conn: dial(t, f.url)}); err != nil {
		t.Fatal(err)
	}
	if cuts.Load() != 3 {
		t.Fatalf("%d requests were cut, want 3", cuts.Load())
	}
	n.wantExact()
	if q := n.quarantine(); len(q) != 0 {
		t.Errorf("quarantine holds %+v", q)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestWaitsOutAClickHouseThatIsDown(t *testing.T) {
	n := newNode(t)
	f := newFront(t, n.url)
	var refused atomic.Int64
	down := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		refused.Add(1)
		cut(w)
	}
	f.set(down)
	s, stop := n.start(Options{Conn: dial(t, f.url), BatchAge: 10 * time.Millisecond})
	n.deliver(10)
	within(t, "a try", func() bool { return refused.Load() >= 3 })
	f.set(nil)
	within(t, "events shipped", func() bool { return s.Status().EventSeq == 10 })
	// Down again, and busy: an answer is no cut connection.
	busy := refused.Load()
	f.set(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		refused.Add(1)
		w.Header().Set("X-ClickHouse-Exception-Code", "202")
		http.Error(w, "Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES) (version 26.5.1.1)", http.StatusInternalServerError)
	})
	n.deliver(10)
	within(t, "a try", func() bool { return refused.Load() >= busy+3 })
	f.set(nil)
	within(t, "events shipped", func() bool { return s.Status().EventSeq == 20 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	n.wantExact()
	if q := n.quarantine(); len(q) != 0 {
		t.Errorf("quarantine holds %+v", q)
	}
}

// ClickHouse is killed with SIGKILL while batches come in, some time after an insert began.
func TestExactlyOnceWhenClickHouseIsKilled(t *testing.T) {
	begin := time.Now()
	n := newNode(t)
	f := newFront(t, n.url)
	inserting := make(chan struct{}, 1)
	f.set(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if isInsert(r) {
			select {
			case inserting <- struct{}{}:
			default:
			}
		}
		pass.ServeHTTP(w, r)
	})
	s, stop := n.start(Options{Conn: dial(t, f.url), BatchRows: 200, BatchAge: 10 * time.Millisecond})
	for life := range 6 {
		n.deliver(1000)
		<-inserting
		timer := time.NewTimer(time.Duration(life*8) * time.Millisecond)
		<-timer.C
		n.server.Kill()
		n.server.Restart(t)
	}
	within(t, "events shipped", func() bool { return s.Status().EventSeq == n.sent })
	if err := stop(); err != nil {
		t.Error(err)
	}
	// A roll-up may lose its part of a batch (warehouse.Repair says how), but never counts one twice. What it
	// lost is computed again, as the job completeness does.
	if got := n.stored(); got.RolledUp > n.sent {
		t.Errorf("%d events are rolled up of %d", got.RolledUp, n.sent)
	}
	if err := warehouse.Rebuild(t.Context(), n.conn, begin, time.Now(), warehouse.RebuildOptions{Idle: true}); err != nil {
		t.Fatal(err)
	}
	n.wantExact()
	n.wantBuckets()
}

// ClickHouse died after it had written the token down and before the rows were there: the same
// state, made by deleting the rows. The roll-ups have the batch from the repetition.
func TestExactlyOnceWhenClickHouseDiesBetweenTokenAndRows(t *testing.T) {
	for _, step := range []string{"inserted", "move cursor"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			n.deliver(30)
			_, err := n.live(t.Context(), Options{Once: true, fault: func(stream, at string) error {
				if stream == event.StreamEvent && at == step {
					return errKilled
				}
				return nil
			}})
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			if err := n.conn.Exec(t.Context(), "ALTER TABLE events DELETE WHERE true SETTINGS mutations_sync = 2"); err != nil {
				t.Fatal(err)
			}
			n.deliver(10)
			n.finish()
			n.wantExact()
			n.wantCursor(event.StreamEvent, n.sent)
		})
	}
}

// The agent was away for so long that other nodes' inserts pushed its token out of the table's
// memory: what is stored decides.
func TestExactlyOnceAfterTheTokenIsForgotten(t *testing.T) {
	n := newNode(t)
	if err := n.conn.Exec(t.Context(), "ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 1"); err != nil {
		t.Fatal(err)
	}
	n.deliver(20)
	_, err := n.live(t.Context(), Options{Once: true, fault: func(stream, step string) error {
		if stream == event.StreamEvent && step == "inserted" {
			return errKilled
		}
		return nil
	}})
	if !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if err := n.conn.Exec(t.Context(), `INSERT INTO events (node, seq, time, kind, arrived)
SELECT 'other', number + 1, now64(6), 'received', now64(6) + toIntervalMicrosecond(number + 1) FROM numbers(20000)`); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(2) {
		other := []event.Event{{Node: "other", Seq: 30_000 + seq, Time: time.Now(), Kind: event.Received}}
		if err := warehouse.Events.Insert(t.Context(), n.conn, fmt.Sprint("other", seq), other); err != nil {
			t.Fatal(err)
		}
	}
	n.finish()
	n.wantExact()
	n.wantCursor(event.StreamEvent, n.sent)
}

const (
	envDir = "CAROM_TEST_SHIP_DIR"
	envURL = "CAROM_TEST_SHIP_URL"
)

// TestMain is the agent instead of the tests where TestExactlyOnceUnderKill starts it so.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		os.Exit(agentProcess(dir, os.Getenv(envURL)))
	}
	os.Exit(m.Run())
}

func agentProcess(dir, address string) int {
	conn, err := warehouse.Dial(address, warehouse.Options{})
	if err != nil {
		return 1
	}
	s, err := New(Options{Dir: dir, Node: "mail1", Conn: conn, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), BatchRows: 50, BatchAge: 5 * time.Millisecond})
	if err != nil {
		return 1
	}
	if err := s.Run(context.Background()); err != nil {
		return 1
	}
	return 0
}

// The process is killed with SIGKILL, a little later in its life each time, while events come in.
func TestExactlyOnceUnderKill(t *testing.T) {
	n := newNode(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const lives = 12
	for life := range lives {
		n.deliver(300)
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), envDir+"="+n.dir, envURL+"="+n.url)
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Some lives end at a durable step of theirs, some at no special moment.
		before, _ := os.ReadFile(pendingFile(n.dir, event.StreamEvent))
		within(t, "the agent sends a batch", func() bool {
			now, _ := os.ReadFile(pendingFile(n.dir, event.StreamEvent))
			return !bytes.Equal(before, now)
		})
		timer := time.NewTimer(time.Duration(life*7) * time.Millisecond)
		<-timer.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	n.finish()
	n.wantExact()
}
