package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, tc := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.99, 7}, {[]float64{3, 1, 2}, 0.5, 2}, {hundred, 0.95, 95}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile of %d values at %v is %v, want %v", len(tc.values), tc.q, got, tc.want)
		}
	}
}

func TestRowsAreJudged(t *testing.T) {
	for _, tc := range []struct {
		name string
		row  Row
		full bool // the row needs a full history, which this is not
		want string
	}{
		{"fast enough", Row{Got: 100, AtLeast: 100}, false, reached},
		{"too slow", Row{Got: 99, AtLeast: 100}, false, missed},
		{"small enough", Row{Got: 10, AtMost: 10}, false, reached},
		{"too large", Row{Got: 10.1, AtMost: 10}, false, missed},
		{"nothing at all", Row{AtMost: 20}, false, reached},
		{"a small history", Row{Got: 99, AtMost: 10}, true, notJudged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &lab{options: options{Size: 20_000_000}, result: &Result{}, progress: &bytes.Buffer{}}
			l.add(tc.row, tc.full)
			if got := l.result.Rows[0].Verdict; got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			l = &lab{options: options{Size: fullSize}, result: &Result{}, progress: &bytes.Buffer{}}
			l.add(tc.row, tc.full)
			if got := l.result.Rows[0].Verdict; got == notJudged {
				t.Error("a full history was not judged")
			}
		})
	}
}

func TestMistakesAreTheOperators(t *testing.T) {
	for _, args := range [][]string{{"--size", "some"}, {"--runs", "1"}, {"--seconds", "0"}, {"--ship", "5"}, {"no-such-part"}} {
		err := Command(t.Context(), args, service.IO{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}})
		if _, ok := errors.AsType[*service.ConfigError](err); !ok {
			t.Errorf("%v: error %v, want a ConfigError", args, err)
		}
	}
}

func TestResultIsPrinted(t *testing.T) {
	r := Result{
		Options:   options{Size: 1000},
		Rows:      []Row{{Name: "stored size, raw", Unit: "bytes an event", Got: 79.5, AtMost: 80, Verdict: reached}},
		Tables:    []TableSize{{Table: "events", Rows: 1000, Bytes: 79500, PerEvent: 79.5}},
		Columns:   []ColumnSize{{"recipient_key", 16000, 16}, {"seq", 4000, 4}},
		Questions: []QuestionTime{{ID: "rates-by-day", Dashboard: true, FirstMillis: 30, MedianMillis: 20, MostMillis: 25, Rows: 7}},
	}
	var b bytes.Buffer
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"79.5 bytes an event", "at most 80.0", "reached", strings.Repeat("#", barWidth), "rates-by-day", "dashboard"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

func TestMailIsWhatANodeWrites(t *testing.T) {
	m := newMail()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	kinds := map[event.Kind]int{}
	ids := map[event.ID]int{}
	for range 1000 {
		var got event.Event
		if err := event.Decode(event.Encode(nil, m.next(now)), &got); err != nil {
			t.Fatal(err)
		}
		kinds[got.Kind]++
		ids[got.MessageID]++
		if got.Kind == event.Received && (got.Provider != "" || got.Attempt != 0) || got.Kind == event.Delivered && (got.Provider == "" || got.Dimension != taxonomy.OK) {
			t.Errorf("a %s event with provider %q, attempt %d and dimension %q", got.Kind, got.Provider, got.Attempt, got.Dimension)
		}
	}
	if kinds[event.Received] != 500 || kinds[event.Delivered] < 400 || kinds[event.Deferred] == 0 || len(ids) != 500 {
		t.Errorf("%v events of %d messages", kinds, len(ids))
	}
}

func TestCounterAddsUp(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/summary" {
			w.Header().Set("X-ClickHouse-Summary", `{"read_rows":"21","read_bytes":"5"}`)
		}
		_, _ = fmt.Fprint(w, r.URL.Path)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c, err := newCounter(t.Context(), "http://"+listener.Addr().String()+"/carom")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/summary", "/nothing", "/summary"} {
		response, err := http.Get(strings.TrimSuffix(c.url, "/carom") + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	if got := c.rows.Load(); got != 42 {
		t.Errorf("%d rows, want 42", got)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

// TestAgentIsMeasured runs the parts that ship, small. The parts that need a history take minutes:
// make bench-history SIZE=100k runs them.
func TestAgentIsMeasured(t *testing.T) {
	server := chtest.Start(t)
	open := func(name string) *engine {
		url := server.URL() + "/" + name
		if _, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "test"); err != nil {
			t.Fatal(err)
		}
		conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &engine{url: url, conn: conn}
	}
	l := &lab{options: options{Ship: 2000, Seconds: 0.2}, result: &Result{}, progress: t.Output()}
	if err := l.sustained(t.Context(), open("ship"), filepath.Join(t.TempDir(), "log")); err != nil {
		t.Error("ship:", err)
	}
	if err := l.lag(t.Context(), open("lag"), filepath.Join(t.TempDir(), "log")); err != nil {
		t.Error("lag:", err)
	}
	if got := len(l.result.Rows); got != 2 {
		t.Fatalf("%d rows, want 2", got)
	}
	for _, r := range l.result.Rows {
		if r.Got <= 0 || r.Verdict == "" {
			t.Errorf("row %s has %v and the verdict %q", r.Name, r.Got, r.Verdict)
		}
	}
	if _, err := json.Marshal(l.result); err != nil {
		t.Error(err)
	}
}
