package warehouse_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// migrated returns a connection to a new database with the schema in it.
func migrated(t *testing.T) driver.Conn {
	t.Helper()
	_, url := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// one returns the single value of a query.
func one[T any](t *testing.T, conn driver.Conn, query string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	url := chtest.Start(t).URL() + "/carom"
	first, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "1.0")
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != int(warehouse.Version()) || len(first) == 0 {
		t.Errorf("the first Apply applied %d migrations, want %d", len(first), warehouse.Version())
	}
	again, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "1.1")
	if err != nil || len(again) != 0 {
		t.Errorf("the second Apply applied %v, %v, want nothing", again, err)
	}
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	states, err := warehouse.Status(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.AppliedAt == nil || s.AppliedBy != "1.0" || s.Changed || s.Unknown {
			t.Errorf("after two Apply: %+v", s)
		}
	}
	if err := warehouse.Check(t.Context(), conn); err != nil {
		t.Errorf("Check: %v", err)
	}

	// A statement that died half-way is simply run again: forget that the first one ran.
	if err := conn.Exec(t.Context(), "ALTER TABLE schema_migrations DELETE WHERE version = 1 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.Check(t.Context(), conn); !errors.Is(err, warehouse.ErrSchemaBehind) {
		t.Errorf("Check without migration 1: %v, want ErrSchemaBehind", err)
	}
	again, err = warehouse.Apply(t.Context(), url, warehouse.Options{}, "1.1")
	if err != nil || len(again) != 1 || again[0].Version != 1 {
		t.Errorf("Apply without migration 1 = %v, %v, want migration 1", again, err)
	}
}

func TestApplyRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, tc := range []struct {
		name, insert string
		want         error
	}{
		{"newer", "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (999, 'future', 1, now64(6))", warehouse.ErrSchemaAhead},
		{"changed", "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (1, 'events', 1, now64(6) + 1)", warehouse.ErrSchemaChanged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, url := chtest.StartWithSchema(t)
			conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Exec(t.Context(), tc.insert); err != nil {
				t.Fatal(err)
			}
			if _, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "test"); !errors.Is(err, tc.want) {
				t.Errorf("Apply: %v, want %v", err, tc.want)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	url := chtest.Start(t).URL() + "/carom"
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := warehouse.Command(t.Context(), args, service.IO{Out: &out, Err: &out}, "1.0")
		return out.String(), err
	}
	if _, err := run("status", "--url", url); err == nil {
		t.Error("status of a database that does not exist is no error")
	} else if !strings.Contains(err.Error(), "carom schema apply") {
		t.Errorf("status of a database that does not exist: %v, want the way out", err)
	}
	if out, err := run("apply", "--url", url); err != nil || !strings.Contains(out, "0001 events") {
		t.Errorf("apply: %v\n%s", err, out)
	}
	if out, err := run("apply", "--url", url); err != nil || !strings.Contains(out, "up to date") {
		t.Errorf("apply again: %v\n%s", err, out)
	}
	out, err := run("status", "--json", "--url", url)
	var states []warehouse.Migration
	if err != nil || json.Unmarshal([]byte(out), &states) != nil || len(states) != int(warehouse.Version()) {
		t.Errorf("status --json: %v\n%s", err, out)
	}
	if out, err := run("print"); err != nil || !strings.Contains(out, "CREATE TABLE IF NOT EXISTS events") {
		t.Errorf("print: %v\n%s", err, out)
	}
	if _, err := run("destroy"); service.ExitStatus(err) != 2 {
		t.Errorf("an unknown verb: %v, want exit status 2", err)
	}
}

func agree[T any](t *testing.T, conn driver.Conn, table warehouse.Table[T]) {
	t.Helper()
	type column struct{ Name, Type, Comment string }
	var got []column
	want := make([]column, len(table.Columns))
	for i, c := range table.Columns {
		want[i] = column{c.Name, c.Type, c.Comment}
	}
	rows, err := conn.Query(t.Context(), "SELECT name, type, comment FROM system.columns WHERE database = currentDatabase() AND table = ? ORDER BY position", table.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.Name, &c.Type, &c.Comment); err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(got) <= len(want) || got[len(want)].Name != "arrived" {
		t.Fatalf("arrived does not follow the columns of %s: %v", table.Name, got)
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Errorf("columns of %s (-schemas/event +ClickHouse):\n%s", table.Name, diff)
	}
}

func TestColumnsAgreeWithSchema(t *testing.T) {
	conn := migrated(t)
	agree(t, conn, warehouse.Events)
	agree(t, conn, warehouse.Gauges)
	agree(t, conn, warehouse.QueueGauges)
	agree(t, conn, warehouse.Annotations)
}

func TestEverythingHasAComment(t *testing.T) {
	conn := migrated(t)
	without := one[[]string](t, conn, "SELECT groupArray(name) FROM system.tables WHERE database = currentDatabase() AND comment = ''")
	if len(without) > 0 {
		t.Errorf("tables without a comment: %v", without)
	}
	without = one[[]string](t, conn, `SELECT groupArray(table || '.' || name) FROM system.columns
WHERE database = currentDatabase() AND comment = ''
    AND table NOT IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'MaterializedView')`)
	if len(without) > 0 {
		t.Errorf("columns without a comment: %v", without)
	}
	for _, table := range []string{
		"events", "gauges", "annotations", "k10s", "k1m", "leases", "limit_state", "limit_log", "overrides",
		"suppressions", "suppressed", "suppressions_pending", "suppression_changes", "suppression_waves", "soft_bounces",
		"provider_minutes", "webhook_deliveries", "nodes", "job_runs", "imports", "schema_migrations", "completeness",
		"reports", "attributions", "attributed", "report_cohorts",
		"rollup_1m", "rollup_1h", "rollup_1d", "latency_1h", "latency_1d", "jobs_1h", "jobs_1d",
		"domains_1h", "domains_1d", "senders_1h", "senders_1d", "reply_templates",
	} {
		if one[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = ?", table) != 1 {
			t.Errorf("there is no table %s", table)
		}
	}
}

var (
	node        = "mail1.example.com"
	incarnation = uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
)

// attempts returns n events from number first on, a second apart and in the order of time, with
// everything that the roll-ups look at.
func attempts(rng *rand.Rand, first uint64, n int, start time.Time) []event.Event {
	kinds := []event.Kind{event.Received, event.Delivered, event.Deferred, event.Bounced, event.QueueDeferred, event.Complaint}
	scopes := []taxonomy.Scope{"", "", "", taxonomy.ScopeSource, taxonomy.ScopeRecipient, taxonomy.ScopeURL, taxonomy.ScopeDomain}
	dimensions := append([]taxonomy.Dimension{""}, taxonomy.Dimensions...)
	events := make([]event.Event, n)
	for i := range events {
		e := event.Event{
			Node: node, Incarnation: incarnation, Seq: first + uint64(i), FormatVersion: event.FormatVersion,
			Time: start.Add(time.Duration(i) * time.Second), Kind: kinds[rng.IntN(len(kinds))],
			MessageID: event.NewID(), Recipients: 1,
			Provider: []string{"", "google", "yahoo"}[rng.IntN(3)], Source: []string{"", "192.0.2.1", "192.0.2.2"}[rng.IntN(3)],
			Tenant: fmt.Sprintf("tenant%d", rng.IntN(3)), LimitEpoch: rng.Uint64N(3),
			Dimension: dimensions[rng.IntN(len(dimensions))], Scope: scopes[rng.IntN(len(scopes))],
			Attempt: rng.Uint32N(4), OpenConnections: rng.Uint32N(20), MessageOnConn: rng.Uint32N(30),
			Canary: rng.IntN(10) == 0, Reply: fmt.Sprintf("421 4.7.0 [TS%02d] wait", rng.IntN(5)),
			Headers: map[string]string{"x-job": "7"}, DKIMDomains: []string{"example.com", "example.net"},
		}
		events[i] = e
	}
	return events
}

type rollupKey struct {
	provider, source, more string
	ts                     time.Time
}

type rollup struct {
	Counts                   map[string]uint64
	MaxOpen, MinMessages     uint32
	SampleReply              string
	N1, F1, N2, F2, Canaries uint64
	CanaryBlock              uint64
}

// names of the counters by dimension.
var counters = map[taxonomy.Dimension]string{
	taxonomy.OK: "ok", taxonomy.User: "usr", taxonomy.Rate: "rate", taxonomy.Connections: "conn", taxonomy.Messages: "msgc",
	taxonomy.Block: "block", taxonomy.Greylist: "grey", taxonomy.Unavailable: "unav", taxonomy.Content: "content",
	taxonomy.Auth: "auth", taxonomy.Other: "other", "": "other",
}

// recompute is the definition of the roll-ups in Go.
func recompute(events []event.Event, step time.Duration, more func(event.Event) string) map[rollupKey]rollup {
	out := map[rollupKey]rollup{}
	for _, e := range events {
		attempt := e.Kind == event.Delivered || e.Kind == event.Deferred || e.Kind == event.Bounced || e.Kind == event.QueueDeferred
		aside := e.Scope == taxonomy.ScopeURL || e.Scope == taxonomy.ScopeDomain ||
			e.Scope == taxonomy.ScopeRecipient && e.Dimension != taxonomy.User
		if !attempt || aside || e.Provider == "" || e.Source == "" {
			continue
		}
		key := rollupKey{e.Provider, e.Source, more(e), e.Time.Truncate(step)}
		r, ok := out[key]
		if !ok {
			r = rollup{Counts: map[string]uint64{}, MinMessages: 1<<32 - 1}
			for _, name := range counters {
				r.Counts[name] = 0
			}
		}
		r.Counts[counters[e.Dimension]]++
		unclassified := e.Dimension == "" || e.Dimension == taxonomy.Other
		if e.Kind != event.QueueDeferred {
			if e.Attempt <= 1 {
				r.N1++
				if unclassified {
					r.F1++
				}
			} else {
				r.N2++
				if unclassified {
					r.F2++
				}
			}
		}
		if e.Canary {
			r.Canaries++
			if e.Dimension == taxonomy.Block {
				r.CanaryBlock++
			}
		}
		r.MaxOpen = max(r.MaxOpen, e.OpenConnections)
		if e.Dimension == taxonomy.Messages && e.MessageOnConn > 0 {
			r.MinMessages = min(r.MinMessages, e.MessageOnConn)
		}
		if e.Dimension != taxonomy.OK && e.Dimension != taxonomy.User {
			r.SampleReply = max(r.SampleReply, e.Reply)
		}
		out[key] = r
	}
	return out
}

func readRollup(t *testing.T, conn driver.Conn, table, more string) map[rollupKey]rollup {
	t.Helper()
	names := []string{"ok", "usr", "rate", "conn", "msgc", "block", "grey", "unav", "content", "auth", "other"}
	rows, err := conn.Query(t.Context(), fmt.Sprintf(`SELECT provider, source, toString(%s), ts, [sum(%s)],
    sum(n1), sum(f1), sum(n2), sum(f2), sum(canaries), sum(canary_block), max(max_open), min(min_msgc_idx), max(sample_reply)
FROM %s GROUP BY provider, source, %s, ts`, more, strings.Join(names, "), sum("), table, more))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[rollupKey]rollup{}
	for rows.Next() {
		var k rollupKey
		var r rollup
		var counts []uint64
		if err := rows.Scan(&k.provider, &k.source, &k.more, &k.ts, &counts, &r.N1, &r.F1, &r.N2, &r.F2, &r.Canaries, &r.CanaryBlock,
			&r.MaxOpen, &r.MinMessages, &r.SampleReply); err != nil {
			t.Fatal(err)
		}
		r.Counts = map[string]uint64{}
		for i, name := range names {
			r.Counts[name] = counts[i]
		}
		k.ts = k.ts.UTC()
		out[k] = r
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Every batch is inserted up to three times under its token, some side by side with themselves,
// and the batches span a midnight: events and roll-ups hold each event once, and the roll-ups are
// what their definition in Go gives.
func TestRollupsEqualRecomputation(t *testing.T) {
	conn := migrated(t)
	rng := rand.New(rand.NewPCG(1, 2))
	midnight := time.Now().UTC().Truncate(24 * time.Hour)
	all := attempts(rng, 1, 5000, midnight.Add(-2500*time.Second))
	for first := 0; first < len(all); first += 700 {
		batch := all[first:min(first+700, len(all))]
		token := fmt.Sprintf("batch-%d", first)
		done := make(chan error, 3)
		times := 1 + rng.IntN(3)
		for range times {
			go func() { done <- warehouse.Events.Insert(t.Context(), conn, token, batch) }()
		}
		for range times {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := one[uint64](t, conn, "SELECT count() FROM events"); n != uint64(len(all)) {
		t.Errorf("events has %d rows, want %d", n, len(all))
	}
	epoch := func(e event.Event) string { return fmt.Sprint(e.LimitEpoch) }
	if diff := cmp.Diff(recompute(all, 10*time.Second, epoch), readRollup(t, conn, "k10s", "epoch")); diff != "" {
		t.Errorf("k10s (-recomputed +ClickHouse):\n%.3000s", diff)
	}
	tenant := func(e event.Event) string { return e.Tenant }
	if diff := cmp.Diff(recompute(all, time.Minute, tenant), readRollup(t, conn, "k1m", "tenant")); diff != "" {
		t.Errorf("k1m (-recomputed +ClickHouse):\n%.3000s", diff)
	}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	conn := migrated(t)
	e := attempts(rand.New(rand.NewPCG(3, 4)), 7, 1, time.Now().UTC().Truncate(time.Microsecond))[0]
	if err := warehouse.Events.Insert(t.Context(), conn, "t", []event.Event{e}); err != nil {
		t.Fatal(err)
	}
	var id, inc uuid.UUID
	var at time.Time
	var kind, dimension string
	var headers map[string]string
	var domains []string
	if err := conn.QueryRow(t.Context(), "SELECT message_id, incarnation, time, kind, dimension, headers, dkim_domains FROM events WHERE message_id = ?", e.MessageID).
		Scan(&id, &inc, &at, &kind, &dimension, &headers, &domains); err != nil {
		t.Fatal(err)
	}
	if id != e.MessageID || inc != incarnation || !at.Equal(e.Time) || kind != e.Kind.String() || dimension != string(e.Dimension) ||
		!cmp.Equal(headers, e.Headers) || !cmp.Equal(domains, e.DKIMDomains) {
		t.Errorf("stored %v, %v, %v, %s, %s, %v, %v of %+v", id, inc, at, kind, dimension, headers, domains, e)
	}
}

func TestGaugesAndAnnotations(t *testing.T) {
	conn := migrated(t)
	for range 2 {
		if err := warehouse.Gauges.Insert(t.Context(), conn, "g", []event.Gauge{
			{Node: node, Incarnation: incarnation, Seq: 1, Time: time.Now(), Provider: "google", Source: "192.0.2.1", Backlog: 5, LocalFactor: 0.5},
		}); err != nil {
			t.Fatal(err)
		}
		if err := warehouse.Annotations.Insert(t.Context(), conn, "a", []event.Annotation{
			{Node: node, Incarnation: incarnation, Seq: 1, Time: time.Now(), Name: "start", Tags: []string{"x"}},
			{Node: node, Incarnation: incarnation, Seq: 2, Time: time.Now(), Name: "stop"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if n := one[uint64](t, conn, "SELECT sum(row_count) FROM completeness WHERE gaps = 0 AND duplicates = 0 AND stream IN ('gauge', 'annotation')"); n != 3 {
		t.Errorf("completeness counts %d whole rows, want 3", n)
	}
}

// The check of the checker: what is missing and what is there twice shows.
func TestCompletenessShowsGapsAndDuplicates(t *testing.T) {
	conn := migrated(t)
	all := attempts(rand.New(rand.NewPCG(5, 6)), 1, 100, time.Now())
	for token, part := range map[string][]event.Event{"a": all[9:40], "b": all[50:90], "again": all[20:25]} {
		if err := warehouse.Events.Insert(t.Context(), conn, token, part); err != nil {
			t.Fatal(err)
		}
	}
	var first, last, rows, gaps, duplicates, before uint64
	if err := conn.QueryRow(t.Context(), `SELECT first_seq, last_seq, row_count, toUInt64(gaps), toUInt64(duplicates), toUInt64(before_first)
FROM completeness WHERE node = ? AND stream = 'event'`, node).Scan(&first, &last, &rows, &gaps, &duplicates, &before); err != nil {
		t.Fatal(err)
	}
	if first != 10 || last != 90 || rows != 76 || gaps != 10 || duplicates != 5 || before != 9 {
		t.Errorf("first %d, last %d, rows %d, gaps %d, duplicates %d, before %d; want 10, 90, 76, 10, 5, 9",
			first, last, rows, gaps, duplicates, before)
	}
}

func TestLanded(t *testing.T) {
	conn := migrated(t)
	all := attempts(rand.New(rand.NewPCG(7, 8)), 1, 30, time.Now())
	if err := warehouse.Events.Insert(t.Context(), conn, "a", all[10:20]); err != nil {
		t.Fatal(err)
	}
	place := warehouse.Place{Node: node, Incarnation: incarnation, From: 1, To: 15}
	seqs, forgotten, err := warehouse.Events.Landed(t.Context(), conn, place)
	if err != nil || forgotten || !cmp.Equal(seqs, []uint64{11, 12, 13, 14, 15}) {
		t.Errorf("Landed(1 to 15) = %v, %v, %v, want 11 to 15", seqs, forgotten, err)
	}
	place.To = 10
	if seqs, forgotten, err = warehouse.Events.Landed(t.Context(), conn, place); err != nil || forgotten || len(seqs) > 0 {
		t.Errorf("Landed(1 to 10) = %v, %v, %v, want nothing", seqs, forgotten, err)
	}
	// As many inserts of other nodes as the table may have forgotten ours after.
	if err := conn.Exec(t.Context(), `INSERT INTO events (node, seq, time, kind, arrived)
SELECT 'other', number, now64(6), 'received', now64(6) + toIntervalMicrosecond(number + 1) FROM numbers(20000)`); err != nil {
		t.Fatal(err)
	}
	place.To = 15
	if seqs, forgotten, err = warehouse.Events.Landed(t.Context(), conn, place); err != nil || !forgotten || len(seqs) != 5 {
		t.Errorf("Landed after 20000 inserts = %v, %v, %v, want 11 to 15, forgotten", seqs, forgotten, err)
	}
}

// Rows that a dying ClickHouse forgot, but not their token.
func TestRepair(t *testing.T) {
	conn := migrated(t)
	all := attempts(rand.New(rand.NewPCG(11, 12)), 1, 100, time.Now().UTC().Truncate(time.Minute))
	if err := warehouse.Events.Insert(t.Context(), conn, "a", all); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), "ALTER TABLE events DELETE WHERE seq > 40 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.Events.Insert(t.Context(), conn, "a", all); err != nil {
		t.Fatal(err)
	}
	if n := one[uint64](t, conn, "SELECT count() FROM events"); n != 40 {
		t.Fatalf("%d rows after the repetition, want 40: the token must be known", n)
	}
	for range 2 {
		if err := warehouse.Events.Repair(t.Context(), conn, "a/repair-1", blockOf(t, all[40:])); err != nil {
			t.Fatal(err)
		}
	}
	if n := one[uint64](t, conn, "SELECT count() FROM events"); n != 100 {
		t.Errorf("%d rows after the repair, want 100", n)
	}
	epoch := func(e event.Event) string { return fmt.Sprint(e.LimitEpoch) }
	if diff := cmp.Diff(recompute(all, 10*time.Second, epoch), readRollup(t, conn, "k10s", "epoch")); diff != "" {
		t.Errorf("k10s (-recomputed +ClickHouse):\n%.3000s", diff)
	}
}

func blockOf(t *testing.T, events []event.Event) *event.Block[event.Event] {
	t.Helper()
	block := warehouse.Events.NewBlock()
	for i := range events {
		if err := block.Append(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	return block
}

func TestBadData(t *testing.T) {
	conn := migrated(t)
	all := attempts(rand.New(rand.NewPCG(9, 10)), 1, 3, time.Now())
	all[1].Kind = 99 // a kind of a later version
	err := warehouse.Events.Insert(t.Context(), conn, "a", all)
	row, ok := errors.AsType[*warehouse.RowError](err)
	if !ok || row.Index != 1 || !warehouse.BadData(err) {
		t.Errorf("insert of an unknown kind: %v, want a RowError of row 1", err)
	}
	if err := conn.Exec(t.Context(), "ALTER TABLE events ADD CONSTRAINT known CHECK recipient != 'refused'"); err != nil {
		t.Fatal(err)
	}
	all[1].Kind, all[1].Recipient = event.Received, "refused"
	if err := warehouse.Events.Insert(t.Context(), conn, "b", all); !warehouse.BadData(err) {
		t.Errorf("insert against a constraint: %v, want BadData", err)
	}
	if n := one[uint64](t, conn, "SELECT count() FROM events"); n != 0 {
		t.Errorf("%d rows of refused batches are stored", n)
	}
	if err := conn.Exec(t.Context(), "DROP TABLE events"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.Events.Insert(t.Context(), conn, "c", all); warehouse.RemedyOf(err) != warehouse.Operator {
		t.Errorf("insert without a table: %v, want one for the operator", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := warehouse.Events.Insert(ctx, conn, "d", all); err == nil || warehouse.RemedyOf(err) != warehouse.Retry {
		t.Errorf("insert with an ended context: %v, want an error that may pass", err)
	}
}

func TestSuppressed(t *testing.T) {
	conn := migrated(t)
	if err := conn.Exec(t.Context(), `INSERT INTO suppressions (recipient_key, tenant, time, tombstone, category, expires_at) VALUES
    ('forever', '', '2026-01-01 00:00:00', false, 'bad-mailbox', 0),
    ('taken back', '', '2026-01-01 00:00:00', false, 'bad-mailbox', 0),
    ('taken back', '', '2026-01-02 00:00:00', true, 'manual', 0),
    ('and again', 't', '2026-01-01 00:00:00', false, 'complaint', 0),
    ('and again', 't', '2026-01-02 00:00:00', true, 'manual', 0),
    ('and again', 't', '2026-01-03 00:00:00', false, 'complaint', 0),
    ('same moment', '', '2026-01-01 00:00:00', true, 'manual', 0),
    ('same moment', '', '2026-01-01 00:00:00', false, 'complaint', 0),
    ('expired', '', '2026-01-01 00:00:00', false, 'manual', '2026-01-02 00:00:00'),
    ('longer before', '', '2026-01-01 00:00:00', false, 'complaint', 0),
    ('longer before', '', '2026-01-02 00:00:00', false, 'mailbox-full', '2026-01-03 00:00:00'),
    ('not yet', '', '2026-01-01 00:00:00', false, 'manual', '2199-01-01 00:00:00')`); err != nil {
		t.Fatal(err)
	}
	got := one[[]string](t, conn, "SELECT groupArray(recipient_key || '/' || tenant || '/' || category) FROM (SELECT * FROM suppressed ORDER BY recipient_key)")
	want := []string{"and again/t/complaint", "forever//bad-mailbox", "longer before//complaint", "not yet//manual", "same moment//complaint"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suppressed (-want +got):\n%s", diff)
	}
}

// The evidence of the breaker counts what a provider said of addresses, and a repeated batch once.
func TestProviderMinutes(t *testing.T) {
	conn := migrated(t)
	at := time.Date(2026, 11, 23, 12, 0, 30, 0, time.UTC)
	var events []event.Event
	add := func(kind event.Kind, class taxonomy.Class, d taxonomy.Dimension, c taxonomy.Category) {
		events = append(events, event.Event{
			Node: node, Incarnation: incarnation, Seq: uint64(len(events)) + 1, Time: at, Kind: kind, Class: class, Dimension: d, Category: c, Provider: "google", Recipients: 1,
		})
	}
	for range 3 {
		add(event.Delivered, taxonomy.None, taxonomy.OK, taxonomy.Delivered)
	}
	add(event.Bounced, taxonomy.Hard, taxonomy.User, taxonomy.BadMailbox)
	add(event.Bounced, taxonomy.Hard, taxonomy.User, taxonomy.BadMailbox)
	add(event.Bounced, taxonomy.Soft, taxonomy.User, taxonomy.MailboxFull)
	add(event.Bounced, taxonomy.Hard, taxonomy.User, taxonomy.Suppressed)
	add(event.Bounced, taxonomy.Soft, taxonomy.Block, taxonomy.SpamBlock)
	add(event.Deferred, taxonomy.Soft, taxonomy.Rate, taxonomy.RateLimited)
	for range 2 {
		if err := warehouse.Events.Insert(t.Context(), conn, "batch", events); err != nil {
			t.Fatal(err)
		}
	}
	got := one[[]string](t, conn, `SELECT groupArray(concat(provider, ' ', toString(ts), ' ', toString(d), ' ', toString(u)))
FROM (SELECT provider, ts, sum(delivered) AS d, sum(unknown) AS u FROM provider_minutes GROUP BY provider, ts)`)
	if diff := cmp.Diff([]string{"google 2026-11-23 12:00:00 3 2"}, got); diff != "" {
		t.Errorf("provider_minutes (-want +got):\n%s", diff)
	}
}

// What waits for a second bounce is not suppressed, and what is settled later does not wait.
func TestPendingSuppressions(t *testing.T) {
	conn := migrated(t)
	if err := conn.Exec(t.Context(), `INSERT INTO suppressions (recipient_key, time, tombstone, pending, provider, expires_at) VALUES
    ('waits', '2026-01-01 00:00:00', false, true, 'a', 0),
    ('waits', '2026-01-01 10:00:00', false, true, 'b', 0),
    ('confirmed', '2026-01-01 00:00:00', false, true, 'a', 0),
    ('confirmed', '2026-01-02 10:00:00', false, false, 'a', 0),
    ('taken back', '2026-01-01 00:00:00', false, true, 'a', 0),
    ('taken back', '2026-01-03 00:00:00', true, false, 'a', 0),
    ('suppressed before', '2026-01-01 00:00:00', false, false, 'a', 0),
    ('suppressed before', '2026-01-02 00:00:00', false, true, 'a', 0),
    ('waits again', '2026-01-01 00:00:00', false, false, 'a', 0),
    ('waits again', '2026-01-02 00:00:00', true, false, 'a', 0),
    ('waits again', '2026-01-03 00:00:00', false, true, 'a', 0),
    ('after its end', '2026-01-01 00:00:00', false, false, 'a', '2026-01-02 00:00:00'),
    ('after its end', '2026-01-03 00:00:00', false, true, 'a', 0)`); err != nil {
		t.Fatal(err)
	}
	got := one[[]string](t, conn, `SELECT groupArray(recipient_key || '/' || provider || '/' || toString(since) || '/' || toString(bounces))
FROM (SELECT * FROM suppressions_pending ORDER BY recipient_key)`)
	want := []string{
		"after its end/a/2026-01-03 00:00:00.000000/1", "waits/b/2026-01-01 00:00:00.000000/2", "waits again/a/2026-01-03 00:00:00.000000/1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	got = one[[]string](t, conn, "SELECT arraySort(groupArray(recipient_key)) FROM suppressed")
	if diff := cmp.Diff([]string{"confirmed", "suppressed before"}, got); diff != "" {
		t.Errorf("suppressed (-want +got):\n%s", diff)
	}
	if n := one[uint64](t, conn, "SELECT uniqExact(recipient_key) FROM suppression_changes"); n != 6 {
		t.Errorf("suppression_changes has %d keys, want 6", n)
	}
}

// Complaints are counted by their age after the delivery, and a second one about a message not at all.
func TestCohortsByAge(t *testing.T) {
	conn := migrated(t)
	if err := conn.Exec(t.Context(), `INSERT INTO attributions (node, seq, time, kind, class, proven, message_id, delivered_at, provider, source, tenant)
SELECT 'n1', number, toDateTime64('2026-11-02 10:30:00', 6, 'UTC') + toIntervalHour([0, 23, 24, 71, 72, 167, 168, 1, 71, 73, 9][number + 1]),
    if(number IN (8, 9), 'remote-bounce', 'complaint'), if(number = 8, 'hard', 'soft'), number != 10,
    toUUID('00000000-0000-7000-8000-00000000000' || toString(if(number = 7, 0, least(number, 9)))), toDateTime64('2026-11-02 10:30:00', 6, 'UTC'), 'google', '192.0.2.1', 'shop'
FROM numbers(11)`); err != nil {
		t.Fatal(err)
	}
	got := one[[]uint64](t, conn, `SELECT [accepted, complained, complained_24h, complained_72h, complained_7d, bounced, bounced_72h, bounced_hard]
FROM report_cohorts WHERE provider = 'google' AND hour = '2026-11-02 10:00:00'`)
	if want := []uint64{0, 7, 2, 4, 6, 2, 1, 1}; !cmp.Equal(want, got) {
		t.Errorf("accepted, complained, within 24 h, 72 h and 7 d, bounced, within 72 h, hard = %v, want %v", got, want)
	}
}

// Addresses, ids, jobs and templates are found without reading everything.
func TestLookUps(t *testing.T) {
	conn := migrated(t)
	if err := conn.Exec(t.Context(), `INSERT INTO events (node, seq, time, kind, message_id, recipient, recipient_key, provider, source, job, reply_template)
SELECT 'n1', number + 1, toDateTime64('2026-11-02 00:00:00', 6, 'UTC') + toIntervalMillisecond(number * 500), 'delivered',
    reinterpretAsUUID(sipHash128(number)), concat('user', toString(cityHash64(number) % 50000), '@example.com'), '', concat('p', toString(number % 5)), 's',
    concat('job', toString(intDiv(number, 10000))), concat('250 ok ', toString(intDiv(number, 40000)))
FROM numbers(120000)`); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		condition, index string
		rows             uint64
	}{
		{"recipient = 'user4711@example.com'", "by_recipient", 0},
		{"recipient IN ('user4711@example.com', 'user4712@example.com') AND time >= '2026-11-02 00:00:00'", "by_recipient", 0},
		{"message_id = (SELECT message_id FROM events WHERE seq = 77)", "message_id_bloom", 1},
		{"job = 'job3'", "job_set", 10000},
		{"reply_template = '250 ok 2'", "reply_template_set", 40000},
	} {
		rows := one[uint64](t, conn, "SELECT count() FROM events WHERE "+tc.condition)
		if want := one[uint64](t, conn, "SELECT count() FROM events WHERE "+tc.condition+" SETTINGS use_skip_indexes = 0, optimize_use_projections = 0"); rows != want || tc.rows != 0 && rows != tc.rows {
			t.Errorf("%s: %d rows, %d without indexes, want %d", tc.condition, rows, want, tc.rows)
		}
		plan := one[[]string](t, conn, "SELECT groupArray(explain) FROM (EXPLAIN indexes = 1, projections = 1 SELECT count() FROM events WHERE "+tc.condition+
			" SETTINGS min_table_rows_to_use_projection_index = 0)") // else it is used from a million rows on
		if !strings.Contains(strings.Join(plan, "\n"), tc.index) {
			t.Errorf("%s does not use %s:\n%s", tc.condition, tc.index, strings.Join(plan, "\n"))
		}
	}
}
