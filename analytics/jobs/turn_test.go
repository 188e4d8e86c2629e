package jobs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// emptyWarehouse returns a connection to a warehouse with the schema and nothing in it.
func emptyWarehouse(t *testing.T) driver.Conn {
	t.Helper()
	_, rawURL := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// until asks a question of the warehouse until the answer is yes.
func until(ctx context.Context, conn driver.Conn, question string) error {
	for {
		var yes bool
		if err := conn.QueryRow(ctx, "SELECT toBool("+question+")").Scan(&yes); err != nil || yes {
			return err
		}
	}
}

// quickly is a term whose turn is renewed all the time and lasts for long.
var quickly = term{turn: time.Hour, limit: time.Minute, renew: 10 * time.Millisecond}

func TestTurns(t *testing.T) {
	conn := emptyWarehouse(t)
	for name, test := range map[string]func(*testing.T, driver.Conn){
		"a turn is renewed": turnIsRenewed, "an overtaken run ends": overtakenRunEnds,
		"a turn ends with its last renewal": turnEndsWithItsLastRenewal, "a watermark ignores ranges": watermarkIgnoresRanges,
	} {
		t.Run(name, func(t *testing.T) { test(t, conn) })
	}
}

func turnIsRenewed(t *testing.T, conn driver.Conn) {
	t.Helper()
	result, err := inTerm(t.Context(), conn, quickly, "renewed", "test", func(ctx context.Context, _ *run, _ *Result) error {
		return until(ctx, conn, "(SELECT count() FROM job_runs WHERE job = 'renewed' AND status = 'running') >= 3")
	})
	if err != nil || result.Skipped {
		t.Fatalf("the run: %+v, %v", result, err)
	}
	var rows, running uint64
	if err := conn.QueryRow(t.Context(), "SELECT count(), countIf(status = 'running') FROM job_runs FINAL WHERE job = 'renewed'").Scan(&rows, &running); err != nil || rows != 1 || running != 0 {
		t.Errorf("%d runs are stored, %d of them under way, %v; want one that is over", rows, running, err)
	}
}

func overtakenRunEnds(t *testing.T, conn driver.Conn) {
	t.Helper()
	_, err := inTerm(t.Context(), conn, quickly, "overtaken", "test", func(ctx context.Context, r *run, _ *Result) error {
		other := run{job: r.job, generation: r.generation + 1, started: r.started, began: r.began}
		if err := other.write(ctx, conn, "other", r.started, "running", Result{}, nil); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, ErrOvertaken) {
		t.Errorf("the run that was overtaken ended with %v", err)
	}
}

// A turn that is renewed is kept, however long ago it began; one that is not is free in the end.
func turnEndsWithItsLastRenewal(t *testing.T, conn driver.Conn) {
	t.Helper()
	began := func(generation, renewed string) {
		t.Helper()
		if err := conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
SELECT 'kept', now64(6) - INTERVAL 1 HOUR, toUUID('00000000-0000-0000-0000-00000000000`+generation+`'), now64(6) - INTERVAL `+renewed+`, 'running', `+generation); err != nil {
			t.Fatal(err)
		}
	}
	try := func() bool {
		t.Helper()
		result, err := inLongTurn(t.Context(), conn, "kept", "test", func(context.Context, *run, *Result) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return !result.Skipped
	}
	began("1", "1 HOUR")
	if !try() {
		t.Error("a run that died an hour ago keeps the turn")
	}
	began("2", "10 SECOND")
	if try() {
		t.Error("a second run has the turn while the first one renews it")
	}
}

func watermarkIgnoresRanges(t *testing.T, conn driver.Conn) {
	t.Helper()
	to := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	if w, err := loadWatermark(t.Context(), conn, "ranged"); err != nil || !w.dataTo.IsZero() || w.isFresh() {
		t.Errorf("a job that never ran has the watermark %+v, %v", w, err)
	}
	if _, err := inTurn(t.Context(), conn, "ranged", "test", func(_ context.Context, _ *run, result *Result) error {
		result.DataTo = to
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var pieces []string
	result, err := inPieces(t.Context(), conn, "ranged", "test", to.Add(-5*time.Hour), to, 2*time.Hour, func(_ context.Context, r *run, from, to time.Time, result *Result) error {
		pieces = append(pieces, from.Format("15:04-")+to.Format("15:04 ")+r.token("x"))
		result.Changes++
		return nil
	})
	if err != nil || result.Changes != 3 || len(pieces) != 3 || pieces[0][:11] != "03:00-05:00" || pieces[2][:11] != "07:00-08:00" || pieces[0][12:] == pieces[1][12:] {
		t.Errorf("pieces %q, %+v, %v", pieces, result, err)
	}
	if w, err := loadWatermark(t.Context(), conn, "ranged"); err != nil || !w.dataTo.Equal(to) || !w.isFresh() {
		t.Errorf("the watermark is %+v, %v; want %s", w, err, to)
	}
	all, _, err := Statuses(t.Context(), conn)
	s := all["ranged"]
	if err != nil || s.Runs != 2 || s.LastStatus != "ok" || !s.Watermark.Equal(to) || s.Failures != 0 || s.LastError != "" || !s.LastErrorAt.IsZero() {
		t.Errorf("statuses are %+v, %v", all, err)
	}
}
