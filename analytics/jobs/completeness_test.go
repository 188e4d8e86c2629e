package jobs

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// shipped stores deliveries with the numbers from from to to, as an agent does.
func shipped(t *testing.T, conn driver.Conn, node string, from, to uint64, at time.Time) {
	t.Helper()
	var events []event.Event
	for seq := from; seq <= to; seq++ {
		events = append(events, event.Event{
			Node: node, Incarnation: uuid.UUID{0: 1}, Seq: seq, FormatVersion: 1, Time: at, Kind: event.Delivered, Recipients: 1, Attempt: 1,
			Provider: "google", Source: "192.0.2.1", Tenant: "t", Dimension: taxonomy.OK, Class: taxonomy.None, RecipientDomain: "example.com", Job: "j",
		})
	}
	if err := warehouse.Events.Insert(t.Context(), conn, fmt.Sprint(node, from, to, uuid.New()), events); err != nil {
		t.Fatal(err)
	}
}

func TestCompleteness(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	_, url := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	job := &Completeness{Conn: conn, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), idle: true}
	run := func(what string, rows uint64) *CompletenessReport {
		t.Helper()
		result, err := job.Run(t.Context())
		if err != nil || result.Skipped {
			t.Fatalf("%s: %+v, %v", what, result, err)
		}
		if got := result.Completeness.Rows; got != rows {
			t.Errorf("%s: %d rows were looked at, want %d", what, got, rows)
		}
		return result.Completeness
	}
	want := func(what string, r *CompletenessReport, node string, first, highest, gaps, duplicates uint64) {
		t.Helper()
		i := slices.IndexFunc(r.Streams, func(s StreamReport) bool { return s.Node == node && s.Stream == "event" })
		if i < 0 {
			t.Fatalf("%s: nothing of %s in %+v", what, node, r)
		}
		s := r.Streams[i]
		if s.First != first || s.Highest != highest || s.Gaps != gaps || s.Duplicates != duplicates {
			t.Errorf("%s: %+v, want %d to %d with %d gaps and %d duplicates", what, s, first, highest, gaps, duplicates)
		}
		if wrong := strings.Contains(strings.Join(r.Wrong, "\n"), node+" "); wrong != (gaps+duplicates > 0) {
			t.Errorf("%s: wrong is %q", what, r.Wrong)
		}
	}
	hour := time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour)

	if r := run("an empty warehouse", 0); len(r.Wrong)+len(r.Streams) != 0 {
		t.Errorf("report of nothing: %+v", r)
	}
	shipped(t, conn, "n1", 1, 100, hour)
	shipped(t, conn, "n2", 1, 10, hour)
	r := run("all is well", 110)
	want("all is well", r, "n1", 1, 100, 0, 0)
	want("all is well", r, "n2", 1, 10, 0, 0)
	run("nothing new", 0)

	shipped(t, conn, "n1", 151, 200, hour) // 101 to 150 come later
	shipped(t, conn, "n2", 5, 6, hour)     // again
	r = run("a hole and repetitions", 52)
	want("a hole", r, "n1", 1, 200, 50, 0)
	want("repetitions", r, "n2", 1, 10, 0, 2)
	shipped(t, conn, "n1", 101, 149, hour)
	r = run("filled but for one", 49)
	want("filled but for one", r, "n1", 1, 200, 1, 0)

	// What an agent said to be stored is missing at the end.
	if err := conn.Exec(t.Context(), `INSERT INTO nodes (node, incarnation, seen_at, started_at, event_seq)
VALUES ('n1', ?, now64(6), now64(6), 203)`, uuid.UUID{0: 1}); err != nil {
		t.Fatal(err)
	}
	r = run("a tail that is missing", 0)
	want("a tail that is missing", r, "n1", 1, 203, 4, 0)

	// A roll-up loses its part of a batch.
	if err := conn.Exec(t.Context(), "ALTER TABLE k1m DELETE WHERE true SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	shipped(t, conn, "n3", 1, 10, hour)
	r = run("a roll-up lost rows", 10)
	want("a roll-up lost rows", r, "n3", 1, 10, 0, 0)
	if len(r.RebuiltHours) != 1 || !r.RebuiltHours[0].Equal(hour) || len(r.Differences) != 0 {
		t.Errorf("rebuilt %v, differences %v; want the hour rebuilt and no difference left", r.RebuiltHours, r.Differences)
	}
	var counted, there uint64
	if err := conn.QueryRow(t.Context(), "SELECT (SELECT sum(ok) FROM k1m), (SELECT count() FROM events)").Scan(&counted, &there); err != nil || counted != there {
		t.Errorf("k1m counts %d of %d events, %v", counted, there, err)
	}

	// What the job rollups fills is late, and not wrong, for what it has not seen.
	shipped(t, conn, "n5", 1, 10, hour)
	if _, err := (&RollUps{Conn: conn}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	shipped(t, conn, "n6", 1, 10, hour)
	if r = run("more came for the hour", 10); len(r.RebuiltHours) != 0 {
		t.Errorf("rebuilt %v because of what came after the job rollups", r.RebuiltHours)
	}
	// Of what it has seen a part is lost.
	if err := conn.Exec(t.Context(), "ALTER TABLE jobs_1h DELETE WHERE true SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	shipped(t, conn, "n4", 1, 10, hour)
	if r = run("not rolled up yet", 0); len(r.RebuiltHours) != 0 {
		t.Errorf("rebuilt %v before the job rollups saw what arrived", r.RebuiltHours)
	}
	if err := conn.Exec(t.Context(), "INSERT INTO job_runs (job, started_at, status, data_to) VALUES ('rollups', now64(6) + 1, 'ok', now64(6) + 1)"); err != nil {
		t.Fatal(err)
	}
	r = run("a roll-up of the job lost rows", 20)
	if len(r.RebuiltHours) != 1 || len(r.Differences) != 0 {
		t.Errorf("rebuilt %v, differences %v; want the hour rebuilt and no difference left", r.RebuiltHours, r.Differences)
	}

	// A range is counted again, whatever the ledger says.
	result, err := job.RunRange(t.Context(), hour, time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	want("a range", result.Completeness, "n1", 1, 200, 1, 0)
	want("a range", result.Completeness, "n2", 1, 10, 0, 2)
}
