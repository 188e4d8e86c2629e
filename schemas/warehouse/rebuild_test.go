package warehouse_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// history inserts events that ended an hour ago or more, reach over a midnight, and are young enough
// for every table to keep them. It returns their span.
func history(t *testing.T, conn driver.Conn) (events []event.Event, from, to time.Time) {
	t.Helper()
	midnight := time.Now().UTC().Add(-5 * time.Hour).Truncate(24 * time.Hour)
	from, to = midnight.Add(-4*time.Hour), midnight.Add(4*time.Hour)
	rng := rand.New(rand.NewPCG(5, 6))
	events = attempts(rng, 1, 4000, from)
	for i := range events {
		e := &events[i]
		e.Time = from.Add(time.Duration(i) * to.Sub(from) / 4000)
		e.RecipientDomain, e.FromDomain = fmt.Sprintf("d%d.example", rng.IntN(9)), fmt.Sprintf("f%d.example", rng.IntN(3))
		e.Job, e.VMTA, e.Size, e.ReplyTemplate = fmt.Sprintf("job%d", rng.IntN(4)), "v1", rng.Uint64N(9000), "421 4.7.0 [TS#] wait"
		e.Class, e.Category = taxonomy.Soft, taxonomy.RateLimited
		e.Queued, e.Transfer = time.Duration(rng.IntN(7200))*time.Second, time.Duration(rng.IntN(900)+1)*time.Millisecond
		if i%3 == 0 {
			e.DKIMDomains = nil
		}
		if e.Scope == taxonomy.ScopeDomain || e.Scope == taxonomy.ScopeURL {
			e.ScopeValue = e.FromDomain
		}
	}
	insert(t, conn, "history", events)
	return events, from, to
}

func insert(t *testing.T, conn driver.Conn, token string, events []event.Event) {
	t.Helper()
	if err := warehouse.Events.Insert(t.Context(), conn, token, events); err != nil {
		t.Fatal(err)
	}
}

// rollAllUp runs RollUp for every coarser table.
func rollAllUp(t *testing.T, conn driver.Conn, from, to time.Time) {
	t.Helper()
	for _, table := range warehouse.Coarser() {
		if err := warehouse.RollUp(t.Context(), conn, table, from, to); err != nil {
			t.Fatal(err)
		}
	}
}

// different returns the tables in which Differences finds something.
func different(t *testing.T, conn driver.Conn, from, to time.Time) []string {
	t.Helper()
	found, err := warehouse.Differences(t.Context(), conn, from, to)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for i, d := range found {
		if i == 0 || found[i-1].Table != d.Table {
			tables = append(tables, d.Table)
		}
	}
	return tables
}

// content returns what a reader of each roll-up gets, states finished.
func content(t *testing.T, conn driver.Conn) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, table := range warehouse.RollUps() {
		// The numbers in a state of quantiles stand in no order of their own.
		columns := one[string](t, conn, `SELECT arrayStringConcat(groupArray(if(startsWith(type, 'AggregateFunction'), concat('finalizeAggregation(', name, ')'), name)), ', ')
FROM system.columns WHERE database = currentDatabase() AND table = ?`, table)
		all[table] = one[string](t, conn, fmt.Sprintf(`SELECT arrayStringConcat(arraySort(groupArray(toString(tuple(%s)))), '\n') FROM %s FINAL`, columns, table))
	}
	return all
}

// The roll-ups agree with the events, whether views and RollUp or Rebuild filled them, and doing
// any of it again changes nothing.
func TestRollUpsAgreeWithEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	conn := migrated(t)
	_, from, to := history(t, conn)
	rollAllUp(t, conn, from, to)
	if got := different(t, conn, from.Truncate(24*time.Hour), to); got != nil {
		t.Fatalf("differences after RollUp: %v", got)
	}
	for _, table := range warehouse.RollUps() {
		if one[uint64](t, conn, "SELECT count() FROM "+table) == 0 {
			t.Errorf("%s is empty", table)
		}
	}
	before := content(t, conn)
	rollAllUp(t, conn, from, to.Add(-2*time.Hour)) // a late, shorter run does not take away what a longer one did
	if diff := cmp.Diff(before, content(t, conn)); diff != "" {
		t.Errorf("RollUp again changed (-before +after):\n%.2000s", diff)
	}
	if err := warehouse.Rebuild(t.Context(), conn, from, to, warehouse.RebuildOptions{Idle: true}); err != nil {
		t.Fatal(err)
	}
	after := content(t, conn)
	delete(before, "reply_templates") // its sample is any
	delete(after, "reply_templates")
	for table := range before {
		// A state of quantiles keeps its values in the order in which they came.
		if !strings.HasPrefix(table, "latency") && before[table] != after[table] {
			t.Errorf("Rebuild changed %s (-before +after):\n%.2000s", table, cmp.Diff(before[table], after[table]))
		}
	}
	quantilesAgree(t, conn)
	rollUpKeepsWhatTheFinerOneLost(t, conn, from, to)
}

// quantilesAgree asks for quantiles at other levels than the states were made with.
func quantilesAgree(t *testing.T, conn driver.Conn) {
	t.Helper()
	exact := one[[]float64](t, conn, "SELECT quantilesExactIf(0.5, 0.95)(queued_us, kind = 'delivered') FROM events WHERE kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0")
	for _, table := range []string{"latency_1h", "latency_1d"} {
		got := one[[]float64](t, conn, "SELECT quantilesBFloat16Merge(0.5, 0.95)(to_deliver) FROM "+table)
		for i := range exact {
			if off := got[i]/exact[i] - 1; off < -0.05 || off > 0.05 {
				t.Errorf("%s: quantiles %v, want %v within 5 %%", table, got, exact)
			}
		}
	}
}

// rollUpKeepsWhatTheFinerOneLost ends the retention of events: that of the hours goes on.
func rollUpKeepsWhatTheFinerOneLost(t *testing.T, conn driver.Conn, from, to time.Time) {
	t.Helper()
	before := content(t, conn)["rollup_1h"]
	if err := conn.Exec(t.Context(), "ALTER TABLE events DELETE WHERE toHour(time) < 23 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.RollUp(t.Context(), conn, "rollup_1h", from, to); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, content(t, conn)["rollup_1h"]); diff != "" {
		t.Errorf("rollup_1h (-before +after):\n%.2000s", diff)
	}
	if err := warehouse.RollUp(t.Context(), conn, "rollup_1m", from, to); err == nil {
		t.Error("RollUp of a table that a view fills is no error")
	}
}

// What was lost or counted twice is found, and mended for the span that is asked for.
func TestRebuildMends(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	conn := migrated(t)
	_, from, to := history(t, conn)
	rollAllUp(t, conn, from, to)
	for _, table := range warehouse.RollUps() {
		// Twice what is there; for the coarser tables it is the finer one that makes the difference.
		columns := one[string](t, conn, "SELECT arrayStringConcat(groupArray(name), ', ') FROM system.columns WHERE database = currentDatabase() AND table = ?", table)
		if err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", table, columns, columns, table)); err != nil {
			t.Fatal(err)
		}
	}
	first := from.Truncate(24 * time.Hour)
	doubled := different(t, conn, first, to)
	for _, table := range []string{"k10s", "k1m", "provider_minutes", "scoped_refusals", "rollup_1m", "rollup_1h", "latency_1h", "jobs_1h", "domains_1h", "senders_1h"} {
		if !slices.Contains(doubled, table) {
			t.Errorf("the doubled %s is not found", table)
		}
	}
	// One hour first: nothing around it changes.
	others := "SELECT sum(events) FROM rollup_1m WHERE ts < ? OR ts >= ?"
	before := one[uint64](t, conn, others, from.Add(time.Hour), from.Add(2*time.Hour))
	if err := warehouse.Rebuild(t.Context(), conn, from.Add(time.Hour), from.Add(2*time.Hour), warehouse.RebuildOptions{Idle: true}); err != nil {
		t.Fatal(err)
	}
	if after := one[uint64](t, conn, others, from.Add(time.Hour), from.Add(2*time.Hour)); after != before {
		t.Errorf("a rebuild of one hour changed others: %d events, had %d", after, before)
	}
	if got := different(t, conn, from.Add(time.Hour), from.Add(2*time.Hour)); slices.Contains(got, "rollup_1m") || slices.Contains(got, "k10s") {
		t.Errorf("the rebuilt hour still differs: %v", got)
	}
	var tables []string
	if err := warehouse.Rebuild(t.Context(), conn, from, to, warehouse.RebuildOptions{Idle: true, Report: func(r warehouse.Rebuilt) { tables = append(tables, r.Table) }}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(warehouse.RollUps(), tables); diff != "" {
		t.Errorf("Rebuild reports (-want +got):\n%s", diff)
	}
	if got := different(t, conn, first, to); got != nil {
		t.Errorf("after Rebuild these differ: %v", got)
	}
	if n := one[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE '%\\_stage\\_%'"); n != 0 {
		t.Errorf("%d staging tables are left", n)
	}
}

// A rebuild of old hours while other events come in goes through, and a repaired row counts.
func TestRebuildWhileAgentsInsert(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	conn := migrated(t)
	events, from, to := history(t, conn)
	if err := conn.Exec(t.Context(), "ALTER TABLE events DELETE WHERE seq <= 100 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.Events.Repair(t.Context(), conn, "repair", blockOf(t, events[:100])); err != nil {
		t.Fatal(err)
	}
	// The events of the history are of long ago.
	if err := conn.Exec(t.Context(), "ALTER TABLE events UPDATE arrived = arrived - toIntervalHour(2) WHERE true SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			live := attempts(rand.New(rand.NewPCG(7, uint64(n))), uint64(10_000+n*50), 50, time.Now().UTC().Add(-time.Minute)) //nolint:gosec // small
			if err := warehouse.Events.Insert(t.Context(), conn, fmt.Sprintf("live-%d", n), live); err != nil {
				done <- err
				return
			}
		}
	}()
	err := warehouse.Rebuild(t.Context(), conn, from, to, warehouse.RebuildOptions{})
	close(stop)
	if inserting := <-done; inserting != nil {
		t.Fatal(inserting)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := from.Truncate(24 * time.Hour)
	if got := different(t, conn, first, to); got != nil {
		t.Errorf("these differ: %v", got)
	}
	// The live events are counted once too.
	if got, want := one[uint64](t, conn, "SELECT sum(events) FROM rollup_1m"), one[uint64](t, conn, "SELECT count() FROM events"); got != want {
		t.Errorf("rollup_1m counts %d events of %d", got, want)
	}
}

// A rebuild of old hours takes the events, and only for the span that was asked for; and so does one of
// days further back than the roll-up by the hour keeps its rows.
func TestRebuildBeforeTheRetentionOfTheFinerOne(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	conn := migrated(t)
	events, _, _ := history(t, conn)
	old := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -20)
	for i := range events {
		events[i].Seq += 100_000
		events[i].Time = old.Add(time.Duration(i%4) * time.Hour)
	}
	insert(t, conn, "old", events)
	hours := "SELECT [sumIf(events, toHour(ts) = 0), sumIf(events, toHour(ts) = 1), sumIf(events, toHour(ts) = 2), sumIf(events, toHour(ts) = 3)] FROM rollup_1h WHERE toDate(ts) = toDate(now('UTC')) - 20"
	for _, step := range []struct {
		from, to time.Duration
		want     []uint64
	}{
		{time.Hour, 2 * time.Hour, []uint64{0, 1000, 0, 0}},
		{2 * time.Hour, 4 * time.Hour, []uint64{0, 1000, 1000, 1000}},
		{0, 24 * time.Hour, []uint64{1000, 1000, 1000, 1000}},
	} {
		if err := warehouse.Rebuild(t.Context(), conn, old.Add(step.from), old.Add(step.to), warehouse.RebuildOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := one[[]uint64](t, conn, hours); !slices.Equal(got, step.want) {
			t.Errorf("after a rebuild from %v to %v the hours have %v events, want %v", step.from, step.to, got, step.want)
		}
	}
	if got := one[uint64](t, conn, "SELECT sum(events) FROM rollup_1d WHERE toDate(ts) = toDate(now('UTC')) - 20"); got != 4000 {
		t.Errorf("the day has %d events, want 4000", got)
	}
}

func TestRebuildCommand(t *testing.T) {
	_, url := chtest.StartWithSchema(t)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := warehouse.Command(t.Context(), append([]string{"rebuild", "--url", url}, args...), service.IO{Out: &out, Err: &out}, "1.0")
		return out.String(), err
	}
	for _, args := range [][]string{{}, {"--from", "yesterday"}, {"--from", "2026-01-02", "--to", "2026-01-01"}, {"--from", "2026-01-02", "2026-01-03"}} {
		if _, err := run(args...); service.ExitStatus(err) != 2 {
			t.Errorf("rebuild %v: %v, want exit status 2", args, err)
		}
	}
	if out, err := run("--from", "2026-01-02", "--to", "2026-01-03"); err != nil || !strings.Contains(out, "k10s             nothing: it keeps rows from") {
		t.Errorf("rebuild of what is past retention: %v\n%s", err, out)
	}
	out, err := run("--from", "2026-01-02T10:30", "--to", "2026-01-02T11:30", "--json")
	if err != nil || strings.Count(out, "\n") != len(warehouse.RollUps()) || !strings.Contains(out, `{"table":"rollup_1h","from":"2026-01-02T10:00:00Z","to":"2026-01-02T12:00:00Z","done":7,`) {
		t.Errorf("rebuild: %v, %d lines for %d tables\n%s", err, strings.Count(out, "\n"), len(warehouse.RollUps()), out)
	}
}
