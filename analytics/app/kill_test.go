package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/analytics/app"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// runVariable makes the test binary a process that runs carom analytics with the words in it.
const runVariable = "CAROM_TEST_ANALYTICS"

func TestMain(m *testing.M) {
	words := os.Getenv(runVariable)
	if words == "" {
		os.Exit(m.Run())
	}
	err := app.Command(context.Background(), strings.Fields(words), service.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, "test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(service.ExitStatus(err))
}

// history are events that every job finds something in: bounces that suppress, and complaints about
// deliveries.
func history(now time.Time) []event.Event {
	events := make([]event.Event, 0, 20)
	incarnation, delivered := event.NewID(), event.NewID()
	add := func(e event.Event) {
		e.Node, e.Incarnation, e.Seq, e.FormatVersion, e.Recipients = "n1", incarnation, uint64(len(events))+1, event.FormatVersion, 1
		e.Provider, e.Source, e.Tenant = "google", "192.0.2.1", "shop"
		events = append(events, e)
	}
	add(event.Event{Time: now.Add(-10 * time.Minute), Kind: event.Delivered, Dimension: taxonomy.OK, Class: taxonomy.None, MessageID: delivered, RecipientKey: fmt.Sprintf("%032x", 1)})
	add(event.Event{
		Time: now.Add(-time.Minute), Kind: event.Complaint, MessageID: event.NewID(), OriginalMessageID: delivered, MatchConfidence: 1, MatchMethod: "return-path",
		Category: taxonomy.Complaint, FeedbackType: "abuse", RecipientKey: fmt.Sprintf("%032x", 1),
	})
	add(event.Event{Time: now.Add(-3 * time.Hour), Kind: event.Delivered, Dimension: taxonomy.OK, Class: taxonomy.None, MessageID: event.NewID(), RecipientKey: fmt.Sprintf("%032x", 2)})
	for n := range 5 {
		add(event.Event{
			Time: now.Add(-time.Minute), Kind: event.Bounced, Class: taxonomy.Hard, Dimension: taxonomy.User, Category: taxonomy.BadMailbox,
			MessageID: event.NewID(), RecipientKey: fmt.Sprintf("%032x", 10+n), Reply: "550 5.1.1 no such user", Code: 550,
		})
		add(event.Event{
			Time: now.Add(-time.Minute), Kind: event.Bounced, Class: taxonomy.Soft, Dimension: taxonomy.User, Category: taxonomy.MailboxFull,
			MessageID: event.NewID(), RecipientKey: fmt.Sprintf("%032x", 20+n), Reply: "452 4.2.2 full", Code: 452,
		})
	}
	return events
}

// outcome returns all that the jobs have made, as text; times of runs left out.
func outcome(t *testing.T, conn driver.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
SELECT line FROM (
SELECT concat('suppressed ', recipient_key, ' ', tenant, ' ', category, ' ', toString(message_id)) AS line FROM suppressions
UNION ALL
SELECT concat('soft ', recipient_key, ' ', toString(message_id), ' ', category) FROM soft_bounces
UNION ALL
SELECT concat('rolled up ', toString(ts), ' ', provider, ' ', toString(sum(events))) FROM rollup_1h WHERE ts < toStartOfHour(now() - INTERVAL 2 HOUR) GROUP BY ts, provider
UNION ALL
SELECT concat('attributed ', toString(seq), ' ', toString(message_id), ' ', tenant, ' ', toString(proven)) FROM attributions
)
ORDER BY line`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		all = append(all, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// killer is a way to the warehouse that kills a process at one of its inserts: before that reaches the
// warehouse, or after it did and before the process hears of it.
type killer struct {
	*httptest.Server

	process atomic.Pointer[os.Process]
	inserts atomic.Int64
	at      int64 // the insert, from 1
	after   bool
	killed  atomic.Bool
}

func newKiller(t *testing.T, target string, at int64, after bool) *killer {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = ""
	k := &killer{at: at, after: after}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		statement := r.URL.Query().Get("query") + string(body)
		insert := strings.Contains(statement, "INSERT INTO") || strings.Contains(statement, "REPLACE PARTITION")
		kill := insert && k.inserts.Add(1) == k.at
		if kill && !k.after {
			k.kill()
			return
		}
		if kill {
			r = r.WithContext(context.WithoutCancel(r.Context())) // the client is gone, its insert is not
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			k.kill()
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *killer) kill() {
	if p := k.process.Load(); p != nil {
		k.killed.Store(true) // before its end can be seen
		_ = p.Kill()         // it runs: it waits for the answer
	}
}

// TestKilledRunsChangeNothing kills a run at each of its inserts in turn, before or after the insert
// reached ClickHouse; with CAROM_LONG both. What the next run makes of it is what one run that nobody disturbed makes.
func TestKilledRunsChangeNothing(t *testing.T) {
	_, rawURL := chtest.StartWithSchema(t)
	events := history(time.Now().UTC().Truncate(time.Microsecond))
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := warehouse.Events.Insert(t.Context(), conn, "events", events); err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"suppression", "attribution", "rollups"} {
		if _, err := analytics(t, "run", job, "--url", rawURL); err != nil {
			t.Fatal(err)
		}
	}
	want := outcome(t, conn)
	if len(want) != 13 {
		t.Fatalf("undisturbed runs made %d rows, want 13:\n%s", len(want), strings.Join(want, "\n"))
	}
	for _, table := range []string{"suppressions", "suppression_changes", "soft_bounces", "attributions", "rollup_1h", "job_runs"} {
		if err := conn.Exec(t.Context(), "TRUNCATE TABLE "+table); err != nil {
			t.Fatal(err)
		}
	}
	kills, least := 0, 9 // at the claim, at each table that is written, and at the end
	thorough := os.Getenv("CAROM_LONG") != ""
	if thorough {
		least *= 2
	}
	for _, job := range []string{"suppression", "attribution", "rollups"} {
		for at, killed := int64(1), true; killed; at++ {
			if job == "rollups" && at == 4 { // the other tables are filled as the first one is
				if _, err := analytics(t, "run", job, "--url", rawURL); err != nil {
					t.Fatal(err)
				}
				break
			}
			moments := []bool{false, true}
			if !thorough {
				moments = []bool{at%2 == 0}
			}
			for _, after := range moments {
				k := newKiller(t, rawURL, at, after)
				if killed = runUntilKilled(t, k, job); !killed {
					break
				}
				kills++
				endTurns(t, conn)
			}
			if at > 20 {
				t.Fatalf("%s makes no end of inserts", job)
			}
		}
	}
	if kills < least {
		t.Errorf("runs were killed %d times only", kills)
	}
	if diff := cmp.Diff(want, outcome(t, conn)); diff != "" {
		t.Errorf("after runs that were killed (-undisturbed +now):\n%s", diff)
	}
}

// endTurns makes the runs before three minutes older: the turn of one that was killed is over then.
func endTurns(t *testing.T, conn driver.Conn) {
	t.Helper()
	for _, statement := range []string{
		"CREATE TABLE older AS job_runs",
		"INSERT INTO older SELECT * REPLACE (started_at - INTERVAL 3 MINUTE AS started_at, updated_at - INTERVAL 3 MINUTE AS updated_at) FROM job_runs",
		"TRUNCATE TABLE job_runs",
		"INSERT INTO job_runs SELECT * FROM older",
		"DROP TABLE older",
	} {
		if err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// runUntilKilled runs a job in a process whose way to the warehouse is k, and reports whether k killed it.
func runUntilKilled(t *testing.T, k *killer, job string) bool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), exe) //nolint:gosec // the test itself
	child.Env = append(os.Environ(), runVariable+"=run "+job+" --url "+k.URL+"/carom")
	var text bytes.Buffer
	child.Stdout, child.Stderr = &text, &text
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	k.process.Store(child.Process)
	err = child.Wait()
	if killed := k.killed.Load(); killed || err == nil {
		return killed
	}
	t.Fatalf("%s: %v\n%s", job, err, text.String())
	return false
}
