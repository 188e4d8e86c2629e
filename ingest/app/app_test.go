package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/seglog"
	"carom/schemas/service"
	"carom/schemas/suppression"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// agent returns the options of an agent with folders of its own and a warehouse with the schema.
func agent(t testing.TB) (Options, driver.Conn) {
	t.Helper()
	dir := t.TempDir()
	_, url := chtest.StartWithSchema(t)
	o := Options{
		EventLog: filepath.Join(dir, "events"), Feed: filepath.Join(dir, "feed"), Node: "mail1", URL: url, Version: "1.0", Once: true,
	}
	conn, err := warehouse.Open(t.Context(), o.URL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return o, conn
}

func logger(t testing.TB) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func exec(t testing.TB, conn driver.Conn, query string, args ...any) {
	t.Helper()
	if err := conn.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func run(t *testing.T, o Options) {
	t.Helper()
	if err := Run(t.Context(), o, logger(t)); err != nil {
		t.Fatal(err)
	}
}

const insertLease = `INSERT INTO leases (node, generation, provider, source, issued_at, ttl_seconds, epoch, rate, connections,
    messages_per_connection, canary, greylisting, not_after, reason_id, document) VALUES `

func TestLimitsBecomeAFile(t *testing.T) {
	o, conn := agent(t)
	name := filepath.Join(o.Feed, limits.FileName)

	run(t, o)
	if _, err := limits.Load(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without leases: %v, want no file", err)
	}

	exec(t, conn, insertLease+`
    ('mail1', 6, '', '', now64(6), 600, 0, 0, 0, 0, false, false, 0, '', ''),
    ('mail1', 6, 'old', '192.0.2.1', now64(6), 600, 1, 1, 1, 1, false, false, 0, 'r0', ''),
    ('mail1', 7, '', '', now64(6), 12.5, 0, 0, 0, 0, false, false, 0, '', '{"modes":[{"provider":"google","mode":"active"}],"holds":[{"tenant":"shop","trickle":0.02,"reason_id":"h1"}]}'),
    ('mail1', 7, 'google', '192.0.2.1', now64(6), 12.5, 3, 2.5, 4, 20, true, false, now64(6) + 5000, 'r1', ''),
    ('mail1', 7, 'yahoo', '192.0.2.1', now64(6), 12.5, 4, 0, 0, 0, false, true, 0, 'r2', ''),
    ('mail2', 8, '', '', now64(6), 600, 0, 0, 0, 0, false, false, 0, '', '')`)
	run(t, o)
	got, err := limits.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(got.IssuedAt).Abs() > time.Hour {
		t.Errorf("issued at %v", got.IssuedAt)
	}
	// What is left of 12.5 s, and when that ends: a node that sees it later has no more.
	if got.TTLSeconds <= 0 || got.TTLSeconds > 12.5 {
		t.Errorf("ttl of %v s, want what is left of 12.5 s", got.TTLSeconds)
	}
	ends := got.Leases[0].NotAfter
	if left := time.Until(ends); left > 12500*time.Millisecond || left < -time.Hour {
		t.Errorf("a lease ends in %v, want within 12.5 s", left)
	}
	want := &limits.Document{
		Format: limits.Format, Generation: 7, IssuedAt: got.IssuedAt, TTLSeconds: got.TTLSeconds,
		Leases: []limits.Lease{
			{
				Provider: "google", Source: "192.0.2.1", Epoch: 3, RatePerSecond: 2.5, Connections: 4, MessagesPerConnection: 20, Canary: true,
				ReasonID: "r1", NotAfter: ends,
			},
			{Provider: "yahoo", Source: "192.0.2.1", Epoch: 4, Greylisting: true, ReasonID: "r2", NotAfter: ends},
		},
		Holds: []limits.Hold{{Tenant: "shop", Trickle: 0.02, ReasonID: "h1"}},
		Modes: []limits.ProviderMode{{Provider: "google", Mode: limits.Active}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}

	for _, tc := range []struct{ name, rows string }{
		{"the same generation", `('mail1', 7, '', '', now64(6), 600, 0, 0, 0, 0, false, false, 0, '', '')`},
		{"a generation that outlived its TTL", `('mail1', 9, '', '', now64(6) - 601, 600, 0, 0, 0, 0, false, false, 0, '', '')`},
	} {
		exec(t, conn, insertLease+tc.rows)
		run(t, o)
		if again, err := limits.Load(name); err != nil || !cmp.Equal(again, want) {
			t.Errorf("after %s: %+v, %v, want the file as it was", tc.name, again, err)
		}
	}

	exec(t, conn, insertLease+`('mail1', 10, '', '', now64(6), 600, 0, 0, 0, 0, false, false, 0, '', '')`)
	run(t, o)
	if got, err := limits.Load(name); err != nil || got.Generation != 10 || len(got.Leases) != 0 {
		t.Errorf("after a generation without leases: %+v, %v", got, err)
	}
}

func key(n int) string { return fmt.Sprintf("%032x", n) }

// inForce reads the suppression files as a node does, and returns those of the probes that are
// suppressed, as tenant/number.
func inForce(t *testing.T, dir string, numbers ...int) string {
	t.Helper()
	s, err := suppression.Load(filepath.Join(dir, suppression.FileName))
	if err != nil {
		t.Fatal(err)
	}
	var tail suppression.Tail
	changes, err := tail.Read(filepath.Join(dir, suppression.DeltaName), s.Generation())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range numbers {
		for _, tenant := range []string{"", "acme"} {
			suppressed := s.Holds(tenant, key(n))
			for _, c := range changes {
				if c.Tenant == tenant && c.Key == key(n) {
					suppressed = c.Suppressed
				}
			}
			if suppressed {
				got = append(got, fmt.Sprintf("%s/%d", tenant, n))
			}
		}
	}
	return strings.Join(got, " ")
}

func deltaSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, suppression.DeltaName))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestSuppressionsReachTheFeed(t *testing.T) {
	o, conn := agent(t)
	run(t, o)
	if got := inForce(t, o.Feed, 1); got != "" {
		t.Errorf("an empty warehouse gives %s", got)
	}
	f := newFeed(o, conn, logger(t))
	look := func() error { return errors.Join(f.snapshot(t.Context()), f.suppressions(t.Context())) }
	want := func(when, want string) {
		t.Helper()
		if err := look(); err != nil {
			t.Fatal(err)
		}
		if got := inForce(t, o.Feed, 1, 2, 3, 4, 5); got != want {
			t.Errorf("%s: in force are %q, want %q", when, got, want)
		}
	}
	want("nothing yet", "")
	exec(t, conn, `INSERT INTO suppressions (recipient_key, tenant, time, tombstone, category) VALUES
    (?, '', now64(6) - 3, false, 'bad-mailbox'), (?, 'acme', now64(6) - 3, false, 'complaint'), ('no key', '', now64(6), false, 'manual')`, key(1), key(2))
	want("two", "/1 acme/2")
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time, pending) VALUES (?, now64(6) - 2, true)", key(4))
	exec(t, conn, "INSERT INTO suppressions (recipient_key, tenant, time, tombstone) VALUES (?, '', now64(6) - 1, true)", key(1))
	want("a tombstone, and one that waits", "acme/2")

	// What was told is told once.
	size := deltaSize(t, o.Feed)
	want("nothing new", "acme/2")
	if again := deltaSize(t, o.Feed); again != size {
		t.Errorf("the delta grew from %d to %d bytes without news", size, again)
	}

	// Another agent starts with the same list in a snapshot, which says who is let go.
	snapshot := f.list.snapshot
	f = newFeed(o, conn, logger(t))
	want("after a restart", "acme/2")
	s, err := suppression.Load(filepath.Join(o.Feed, suppression.FileName))
	if err != nil || s.Generation() <= snapshot || s.Len() != 1 {
		t.Fatalf("a snapshot of generation %d after %d with %d entries, %v", s.Generation(), snapshot, s.Len(), err)
	}
	for _, n := range []int{1, 4} {
		if at, ok := s.Released(key(n)); !ok || time.Since(at) > time.Minute {
			t.Errorf("released %d: %v, %v", n, at, ok)
		}
	}

	// An entry that ends by itself between two looks.
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time, expires_at) VALUES (?, now64(6), now64(6) + toIntervalMillisecond(500))", key(3))
	if err := look(); err != nil {
		t.Fatal(err)
	}
	within(t, "the expired entry is gone", func() bool {
		f.list.ended = f.list.ended.Add(-expiryPeriod) // as if it had been a while
		if err := look(); err != nil {
			t.Fatal(err)
		}
		return inForce(t, o.Feed, 3) == ""
	})

	// Too many changes make a new snapshot, and so does a delta that cannot be written.
	before := f.list.snapshot
	f.list.changes = minDelta + 1
	want("after many changes", "acme/2")
	if f.list.snapshot <= before || f.list.changes >= minDelta {
		t.Errorf("after many changes: snapshot %d after %d, %d changes", f.list.snapshot, before, f.list.changes)
	}
	if err := os.Remove(filepath.Join(o.Feed, suppression.DeltaName)); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time) VALUES (?, now64(6))", key(5))
	if err := look(); err == nil {
		t.Error("changes without a delta were written")
	}
	want("after the delta was lost", "acme/2 /5")

	// Another, empty warehouse must not mail everybody again.
	exec(t, conn, "TRUNCATE TABLE suppressions")
	same := f
	for name, one := range map[string]*feed{"the same agent": same, "another agent": newFeed(o, conn, logger(t))} {
		if f = one; look() == nil || inForce(t, o.Feed, 2) != "acme/2" {
			t.Errorf("an empty warehouse, %s: in force are %q, and no error", name, inForce(t, o.Feed, 2))
		}
	}
	f = same
	if err := os.Remove(filepath.Join(o.Feed, suppression.FileName)); err != nil {
		t.Fatal(err)
	}
	want("the operator removed the file", "")
}

// within polls until done, for at most a minute.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		<-tick.C
	}
}

func TestAgentShipsAndRegisters(t *testing.T) {
	o, conn := agent(t)
	log, err := seglog.Open(filepath.Join(o.EventLog, event.StreamEvent), seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	deliver := func() {
		t.Helper()
		if _, err := log.Append(t.Context(), event.Encode(nil, &event.Event{Kind: event.Received, Time: time.Now()})); err != nil {
			t.Fatal(err)
		}
	}
	deliver()
	run(t, o)
	var version string
	var seq, rows uint64
	registered := func() {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT version, event_seq, (SELECT count() FROM events) FROM nodes FINAL WHERE node = 'mail1'").
			Scan(&version, &seq, &rows); err != nil {
			t.Fatal(err)
		}
	}
	if registered(); version != "1.0" || seq != 1 || rows != 1 {
		t.Errorf("registered %s, event %d, %d rows; want 1.0, 1, 1", version, seq, rows)
	}

	// The same as a process that stays, with limits that arrive while it runs.
	o.Once = false
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o, logger(t)) }()
	deliver()
	exec(t, conn, insertLease+`('mail1', 7, '', '', now64(6), 600, 0, 0, 0, 0, false, false, 0, '', '')`)
	within(t, "limits written and event shipped", func() bool {
		d, err := limits.Load(filepath.Join(o.Feed, limits.FileName))
		registered()
		return err == nil && d.Generation == 7 && rows == 2
	})
	if err := Run(ctx, o, logger(t)); !errors.Is(err, seglog.ErrLocked) {
		t.Errorf("a second agent: %v, want ErrLocked", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run after its context ended: %v, want nil", err)
	}
}

// The files stay while ClickHouse is down, and the agent stays alive and stops when it is told to.
func TestFilesStayWhileClickHouseIsDown(t *testing.T) {
	dir := t.TempDir()
	o := Options{EventLog: filepath.Join(dir, "events"), Feed: dir, Node: "mail1", URL: "http://127.0.0.1:1/carom"}
	document := &limits.Document{Format: limits.Format, Generation: 5, IssuedAt: time.Now().UTC(), TTLSeconds: 600, Leases: []limits.Lease{}}
	if err := limits.Save(filepath.Join(dir, limits.FileName), document); err != nil {
		t.Fatal(err)
	}
	list := &suppression.List{}
	if err := errors.Join(list.Suppress("", key(1)), suppression.Save(filepath.Join(dir, suppression.FileName), 1, time.Now(), list)); err != nil {
		t.Fatal(err)
	}
	failed := make(chan string, 100)
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) {
		if strings.Contains(string(p), "level=WARN") {
			failed <- string(p)
		}
	}), nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o, log) }()
	if line := <-failed; !strings.Contains(line, "127.0.0.1:1 refuses the connection") {
		t.Errorf("the warning does not say what is wrong: %s", line)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if len(failed) > 0 {
		t.Errorf("one outage, another warning: %s", <-failed)
	}
	if d, err := limits.Load(filepath.Join(dir, limits.FileName)); err != nil || d.Generation != 5 {
		t.Errorf("limits = %+v, %v", d, err)
	}
	if s, err := suppression.Load(filepath.Join(dir, suppression.FileName)); err != nil || !s.Contains("", key(1)) {
		t.Errorf("suppressions: %v", err)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestCommandMistakes(t *testing.T) {
	var out bytes.Buffer
	stdio := service.IO{Out: &out, Err: &out}
	noFile := func(file string) (Options, error) { return Options{}, service.Configf("%s: no such file", file) }
	if err := Command(t.Context(), []string{"--help"}, stdio, "1.0", noFile); service.ExitStatus(err) != 0 || !strings.Contains(out.String(), "--event-log") {
		t.Errorf("--help: %v\n%s", err, out.String())
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing given", nil, "missing: --event-log, --feed, --node (see"},
		{"configuration that is not there", []string{"-c", "nowhere.conf"}, "nowhere.conf: no such file"},
		{"configuration and what it says", []string{"-c", "nowhere.conf", "--node", "n"}, "--node and -c exclude each other"},
		{"less than one", []string{"--event-log", "e", "--feed", "f", "--node", "n", "--batch-rows", "-1"}, "--batch-rows -1"},
		{"unknown flag", []string{"--colour"}, "colour"},
		{"bad URL", []string{"--event-log", t.TempDir(), "--feed", t.TempDir(), "--node", "n", "--url", "ftp://x"}, "ftp://x"},
		{"an argument", []string{"now"}, `"now"`},
		{"log level", []string{"--log-level", "loud"}, "loud"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Command(t.Context(), tc.args, stdio, "1.0", noFile)
			if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Command(%q): %v, want exit status 2 and %q", tc.args, err, tc.want)
			}
		})
	}
}
