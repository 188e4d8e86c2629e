package warehouse_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func TestRetentionMistakes(t *testing.T) {
	for _, tc := range []struct{ arg, want string }{
		{"events", "want TABLE=DAYSd"},
		{"events=400", "number of days"},
		{"events=0d", "number of days"},
		{"events=-1d", "number of days"},
		{"events=99999d", "too many"},
		{"events=2d", "too few"},
		{"k1m=1d", "too few"},
		{"suppressions=400d", "for ever"},
		{"nothing=400d", "no such table"},
	} {
		if _, err := warehouse.ParseRetention([]string{tc.arg}); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want exit status 2 and %q", tc.arg, err, tc.want)
		}
	}
	if _, err := warehouse.ParseRetention([]string{"events=400d", "events=30d"}); service.ExitStatus(err) != 2 {
		t.Errorf("a table twice: %v, want exit status 2", err)
	}
	if _, err := warehouse.ReadRetention(strings.NewReader("events: [1]")); service.ExitStatus(err) != 2 {
		t.Errorf("a file of another form: %v, want exit status 2", err)
	}
	if r, err := warehouse.ReadRetention(strings.NewReader("# ours\nevents: 400d\ngauges: 30d\n")); err != nil || r["events"] != 400 || r["gauges"] != 30 {
		t.Errorf("a file: %v, %v", r, err)
	}
}

func TestRetention(t *testing.T) {
	url := chtest.Start(t).URL() + "/carom"
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := warehouse.Command(t.Context(), args, service.IO{Out: &out, Err: &out}, "1.0")
		return out.String(), err
	}
	if _, err := run("apply", "--url", url); err != nil {
		t.Fatal(err)
	}
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	all, err := warehouse.Layout{}.Retention(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if with := one[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = 'carom' AND position(engine_full, ' TTL ') > 0"); uint64(len(all)) != with {
		t.Errorf("retention knows %d tables, %d have a TTL", len(all), with)
	}
	for _, k := range all {
		if k.Days != k.Default || k.Least > k.Days {
			t.Errorf("a new schema keeps %+v", k)
		}
	}

	// Events of three weeks, one an hour.
	if err := conn.Exec(t.Context(), `INSERT INTO events (node, incarnation, seq, time, arrived, kind, message_id)
SELECT 'n', generateUUIDv4(), number + 1, now64(6) - toIntervalHour(number), now64(6) - toIntervalHour(number) - INTERVAL 30 MINUTE, 'received', generateUUIDv4() FROM numbers(504)`); err != nil {
		t.Fatal(err)
	}
	out, err := run("retention", "--url", url, "events=14d", "annotations=500d")
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "--yes") || !strings.Contains(out, "events: 14 days instead of 180; 168 rows") {
		t.Errorf("a retention that deletes, without --yes: %v\n%s", err, out)
	}
	unchanged, err := warehouse.Layout{}.Keep(t.Context(), conn, warehouse.Retention{"events": 14}, false)
	if !errors.Is(err, warehouse.ErrWouldDelete) || len(unchanged) != 1 || unchanged[0].From != 180 {
		t.Errorf("without --yes something was changed: %+v, %v", unchanged, err)
	}
	out, err = run("retention", "--url", url, "--yes", "--json", "events=14d", "annotations=500d")
	var changes []warehouse.RetentionChange
	if err != nil || json.Unmarshal([]byte(out), &changes) != nil || len(changes) != 2 || changes[1].Rows != 168 || changes[1].Bytes == 0 {
		t.Errorf("with --yes: %v\n%s", err, out)
	}

	// Whatever applies the schema again, they stay.
	if err := conn.Exec(t.Context(), "ALTER TABLE schema_migrations DELETE WHERE version = 1 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "retention.yaml")
	if err := os.WriteFile(file, []byte("events: 30d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("apply", "--url", url); err != nil || !strings.Contains(out, "events") {
		t.Errorf("apply again: %v\n%s", err, out)
	}
	if got := keptDays(t, conn, "events"); got != 14 {
		t.Errorf("after another apply events are kept %d days, want 14", got)
	}
	if out, err := run("apply", "--url", url, "--retention", file); err != nil || !strings.Contains(out, "events: 30 days instead of 14; 0 rows") {
		t.Errorf("apply with a file: %v\n%s", err, out)
	}
	if got := keptDays(t, conn, "events"); got != 30 {
		t.Errorf("after apply with a file events are kept %d days, want 30", got)
	}
	if out, err := run("retention", "--url", url); err != nil || !strings.Contains(out, "annotations") || !strings.Contains(out, "500") {
		t.Errorf("show: %v\n%s", err, out)
	}
}

func keptDays(t *testing.T, conn driver.Conn, table string) int {
	t.Helper()
	all, err := warehouse.Layout{}.Retention(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		if k.Table == table {
			return k.Days
		}
	}
	t.Fatalf("no retention of %s", table)
	return 0
}

func TestDedupWindow(t *testing.T) {
	conn := migrated(t)
	w, err := warehouse.DedupWindow(t.Context(), conn, "events")
	if err != nil || w != (warehouse.Window{Blocks: 20_000}) {
		t.Errorf("window of events: %+v, %v", w, err)
	}
	for _, tc := range []struct {
		engine string
		want   warehouse.Window
	}{
		{"MergeTree ORDER BY a", warehouse.Window{}},
		{"MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 7", warehouse.Window{Blocks: 7}},
	} {
		if err := conn.Exec(t.Context(), "CREATE OR REPLACE TABLE w (a UInt8) ENGINE = "+tc.engine); err != nil {
			t.Fatal(err)
		}
		if got, err := warehouse.DedupWindow(t.Context(), conn, "w"); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", tc.engine, got, err, tc.want)
		}
	}
	if _, err := warehouse.DedupWindow(t.Context(), conn, "nothing"); !errors.Is(err, warehouse.ErrSchemaBehind) {
		t.Errorf("window of no table: %v, want ErrSchemaBehind", err)
	}
}
