package windows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

var (
	google = limits.Key{Provider: "google", Source: "192.0.2.1"}
	odd    = limits.Key{Provider: `o'dd\`, Source: "2001:db8::/64"}
)

func connect(t *testing.T) driver.Conn {
	t.Helper()
	_, rawURL := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// read reads what is known at now, as a job does that runs each ten seconds.
func read(t *testing.T, conn driver.Conn, now time.Time, wanted windows.Wanted) *windows.Snapshot {
	t.Helper()
	policy := control.Default()
	reader := windows.Reader{Conn: conn, Policy: &policy, Period: 10 * time.Second}
	s, err := reader.Read(t.Context(), now, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bucket stores what one agent's batch leaves in the roll-ups.
func bucket(t *testing.T, conn driver.Conn, key limits.Key, epoch uint64, ts, arrived time.Time, ok, rate uint64, index uint32) {
	t.Helper()
	insert := func(table string, values ...any) {
		t.Helper()
		batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO "+table)
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Append(values...); err != nil {
			t.Fatal(err)
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	insert("k10s (provider, source, epoch, ts, ok, rate, max_open, min_msgc_idx, sample_reply, last_arrived)",
		key.Provider, key.Source, epoch, ts, ok, rate, uint32(4), index, "421 slow down", arrived)
	insert("k1m (provider, source, ts, ok, rate)", key.Provider, key.Source, ts.Truncate(time.Minute), ok, rate)
}

func TestRead(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(10 * time.Second).Add(3 * time.Second)
	at := func(seconds int) time.Time {
		return now.Truncate(10 * time.Second).Add(time.Duration(seconds) * time.Second)
	}

	// Two batches fill one bucket; the second came 2 s after its end.
	bucket(t, conn, google, 3, at(-10), at(-4), 40, 1, control.NoMessages)
	bucket(t, conn, google, 3, at(-10), at(2), 60, 2, 21)
	bucket(t, conn, google, 2, at(-10), at(-3), 5, 0, control.NoMessages)
	bucket(t, conn, google, 3, at(0), at(1), 9, 0, control.NoMessages) // still open
	bucket(t, conn, google, 1, at(-1200), at(-1190), 700, 0, control.NoMessages)
	bucket(t, conn, odd, 7, at(-1200), at(-1100), 2, 0, control.NoMessages)

	gauge := func(node string, age time.Duration, change func(*event.Gauge)) event.Gauge {
		g := event.Gauge{
			Node: node, Incarnation: uuid.New(), Seq: 1, Time: now.Add(-age), Provider: google.Provider, Source: google.Source,
			StaticRate: 10, StaticConnections: 4, StaticMessages: 20, LocalFactor: 1,
		}
		if change != nil {
			change(&g)
		}
		return g
	}
	gauges := []event.Gauge{
		gauge("a", 5*time.Second, func(g *event.Gauge) { g.Backlog, g.AdaptiveRate = 12, 30 }),
		gauge("a", 15*time.Second, func(g *event.Gauge) { g.StaticRate = 999 }), // an older one
		gauge("b", 8*time.Second, nil),
		gauge("b", -time.Hour, func(g *event.Gauge) { g.StaticRate = 999 }),    // its clock was wrong
		gauge("c", 5*time.Minute, func(g *event.Gauge) { g.StaticRate = 999 }), // gone
	}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauges", gauges); err != nil {
		t.Fatal(err)
	}

	s := read(t, conn, now, windows.Wanted{})
	if !s.To.Equal(at(0)) || s.Lateness != 2*time.Second || s.Delay != 28*time.Second {
		t.Errorf("to %v, lateness %v, delay %v; want %v, 2s, 28s", s.To, s.Lateness, s.Delay, at(0))
	}
	k := s.Keys[google]
	if k == nil || len(s.Keys) != 1 {
		t.Fatalf("keys are %v, want google alone", s.Keys)
	}
	want := []control.Bucket{
		{Start: windows.Since(at(-10)), Epoch: 2, Counts: control.Counts{OK: 5}, MaxOpen: 4, MinMessages: control.NoMessages, Sample: "421 slow down"},
		{Start: windows.Since(at(-10)), Epoch: 3, Counts: control.Counts{OK: 100, Rate: 3}, MaxOpen: 4, MinMessages: 21, Sample: "421 slow down"},
		{Start: windows.Since(at(0)), Epoch: 3, Counts: control.Counts{OK: 9}, MaxOpen: 4, MinMessages: control.NoMessages, Sample: "421 slow down"},
	}
	if diff := cmp.Diff(want, k.Buckets); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
	if k.Hour.OK != 814 || k.Hour.Rate != 3 {
		t.Errorf("the last hour is %+v", k.Hour)
	}
	if k.Static != limits.Static(20, 8, 20) || k.Adaptive.RatePerSecond != 40 || k.Adaptive.Connections != 8 {
		t.Errorf("configured is %+v, adaptive %+v; want the sums over a and b", k.Static, k.Adaptive)
	}
	if len(k.Nodes) != 2 || k.Windows.Nodes != 2 || k.Waiting != 0.5 || k.Frozen != "" {
		t.Errorf("nodes are %+v, waiting %v", k.Nodes, k.Waiting)
	}
	if k.Newest != windows.Since(now) || k.To != windows.Since(at(0)) {
		t.Errorf("newest is %v, to %v", windows.Time(k.Newest), windows.Time(k.To))
	}

	// A slow key is read further back.
	s = read(t, conn, now, windows.Wanted{Slow: []limits.Key{odd}})
	if k := s.Keys[odd]; k == nil || len(k.Buckets) != 1 || k.Buckets[0].OK != 2 {
		t.Errorf("the slow key has %+v", k)
	}
}

// A bucket that fills late is waited for, within bounds.
func TestReadWaitsForLateData(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(10 * time.Second).Add(3 * time.Second)
	for i, tc := range []struct {
		late time.Duration
		to   time.Duration // before now
	}{
		{0, 3 * time.Second},
		{4 * time.Second, 13 * time.Second},
		{50 * time.Second, 33 * time.Second},
	} {
		t.Run(fmt.Sprint(tc.late), func(t *testing.T) {
			key := limits.Key{Provider: fmt.Sprint("p", i), Source: "192.0.2.1"}
			ts := now.Truncate(10 * time.Second).Add(-60 * time.Second)
			bucket(t, conn, key, 0, ts, ts.Add(10*time.Second+tc.late), 1, 0, control.NoMessages)
			s := read(t, conn, now, windows.Wanted{})
			if want := now.Add(-tc.to); !s.To.Equal(want) || s.Lateness != tc.late {
				t.Errorf("to %v, lateness %v; want %v, %v", s.To, s.Lateness, want, tc.late)
			}
		})
	}
}

// A node that is behind is waited for, in the keys that it sends under.
func TestReadWaitsForANodeThatIsBehind(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(10 * time.Second).Add(5 * time.Second)
	other := limits.Key{Provider: "google", Source: "192.0.2.2"}
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	gauge := func(node string, key limits.Key, at, to time.Time) event.Gauge {
		return event.Gauge{Node: node, Incarnation: uuid.New(), Seq: 1, Time: at, Provider: key.Provider, Source: key.Source, StaticRate: 10, EventsTo: to}
	}
	for _, tc := range []struct {
		name   string
		gauges []event.Gauge
		to     int // seconds before now
	}{
		{"keeps up", []event.Gauge{gauge("a", google, ago(9), ago(11))}, 5},
		{"an old agent does not say", []event.Gauge{gauge("a", google, ago(9), time.Time{})}, 5},
		{"one of two is behind", []event.Gauge{gauge("a", google, ago(1), ago(62)), gauge("b", google, ago(1), ago(2))}, 65},
		{"no word for long", []event.Gauge{gauge("a", google, ago(40), ago(41))}, 45},
		{"no mail under the key any more", []event.Gauge{gauge("a", google, ago(40), ago(41)), gauge("a", other, ago(1), ago(2))}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := conn.Exec(t.Context(), "TRUNCATE TABLE gauges"); err != nil {
				t.Fatal(err)
			}
			if err := warehouse.Gauges.Insert(t.Context(), conn, tc.name, tc.gauges); err != nil {
				t.Fatal(err)
			}
			s := read(t, conn, now, windows.Wanted{})
			if got, want := windows.Time(s.Keys[google].To), ago(tc.to); !got.Equal(want) {
				t.Errorf("complete to %v, want %v", got, want)
			}
			if got, want := windows.Time(s.CompleteTo("google")), ago(tc.to); !got.Equal(want) {
				t.Errorf("the provider is complete to %v, want %v", got, want)
			}
			if k := s.Keys[other]; k != nil && !windows.Time(k.To).Equal(s.To) {
				t.Errorf("the other key is complete to %v, want %v", windows.Time(k.To), s.To)
			}
		})
	}
}

// What only new, warming and suspended keys are asked for.
func TestReadHistory(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(time.Hour).Add(30 * time.Minute)
	warm := limits.Key{Provider: "yahoo", Source: "192.0.2.8"}
	for hour := range 40 { // hourly rates of 1 to 40 a second
		bucket(t, conn, google, 0, now.Add(-time.Duration(hour+1)*time.Hour).Truncate(time.Hour), now, uint64(hour+1)*3600, 0, control.NoMessages)
	}
	fresh := limits.Key{Provider: "gmx", Source: "192.0.2.9"}
	bucket(t, conn, fresh, 0, now.Add(-2*time.Hour), now, 3600, 0, control.NoMessages)
	small := limits.Key{Provider: "gmx", Source: "192.0.2.10"}
	bucket(t, conn, small, 0, now.Add(-30*time.Hour), now, 3000, 0, control.NoMessages)
	bucket(t, conn, small, 0, now.Add(-2*time.Hour), now, 150, 0, control.NoMessages)
	start := now.Add(-50 * time.Hour)
	bucket(t, conn, warm, 0, start.Add(2*time.Hour), now, 900, 100, control.NoMessages)
	bucket(t, conn, warm, 0, start.Add(26*time.Hour), now, 2000, 0, control.NoMessages)
	bucket(t, conn, warm, 0, start.Add(49*time.Hour), now, 5000, 0, control.NoMessages) // this day is not over
	if err := conn.Exec(t.Context(), `INSERT INTO attributions (node, incarnation, seq, time, kind, proven, message_id, delivered_at, provider, source)
		SELECT 'n', generateUUIDv4(), number, now64(6), 'complaint', true, generateUUIDv4(), ?, 'yahoo', '192.0.2.8' FROM numbers(3)`, start.Add(27*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), `INSERT INTO k1m (ts, provider, source, rate, sample_reply) VALUES (?, 'yahoo', '192.0.2.8', 1, '421 4.7.1 [TS03] All messages will be permanently deferred')`, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	gauges := []event.Gauge{
		{Node: "a", Incarnation: uuid.New(), Seq: 1, Time: now, Provider: google.Provider, Source: google.Source, StaticRate: 100, Established: start},
		{Node: "a", Incarnation: uuid.New(), Seq: 2, Time: now, Provider: warm.Provider, Source: warm.Source, StaticRate: 100, WarmupStart: start},
		{Node: "a", Incarnation: uuid.New(), Seq: 3, Time: now, Provider: fresh.Provider, Source: fresh.Source, StaticRate: 100},
		{Node: "a", Incarnation: uuid.New(), Seq: 4, Time: now, Provider: small.Provider, Source: small.Source, StaticRate: 100},
	}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauges", gauges); err != nil {
		t.Fatal(err)
	}
	isKnown := func(k limits.Key) bool { return k == warm }
	s := read(t, conn, now, windows.Wanted{IsKnown: isKnown, Suspended: []limits.Key{warm}})
	if k := s.Keys[google]; k.HistoryRate < 37.9 || k.HistoryRate > 39.1 || !k.Established || k.Warmup != nil || k.PermanentlyDeferred {
		t.Errorf("google: history %v, established %v, warm-up %v", k.HistoryRate, k.Established, k.Warmup)
	}
	if rate := s.Keys[fresh].HistoryRate; rate != 0 {
		t.Errorf("a key that has sent for two hours has a history of %v/s, want none", rate)
	}
	if k := s.Keys[small]; k.HistoryRate != 0 || k.Resting {
		t.Errorf("a key with 150 attempts a day has a history of %v/s, want none; resting %v", k.HistoryRate, k.Resting)
	}
	want := &control.Warmup{Start: windows.Since(start), Days: []control.WarmupDay{
		{Replies: 1000, Accepted: 900, Refused: 100}, {Replies: 2000, Accepted: 2000, Complaints: 3},
	}}
	if k := s.Keys[warm]; k.HistoryRate != 0 || k.Established || !k.PermanentlyDeferred || cmp.Diff(want, k.Warmup) != "" {
		t.Errorf("the warming key: history %v, permanently deferred %v, (-want +got)\n%s", k.HistoryRate, k.PermanentlyDeferred, cmp.Diff(want, k.Warmup))
	}
}

// A key rests that sends little, of which nothing is refused.
func TestReadResting(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(time.Minute)
	little, much, refused := limits.Key{Provider: "gmx", Source: "192.0.2.1"}, limits.Key{Provider: "gmx", Source: "192.0.2.2"}, limits.Key{Provider: "gmx", Source: "192.0.2.3"}
	bucket(t, conn, little, 0, now.Add(-2*time.Hour), now, 150, 0, control.NoMessages)
	bucket(t, conn, little, 0, now.Add(-30*time.Hour), now, 9, 9, control.NoMessages)
	bucket(t, conn, much, 0, now.Add(-2*time.Hour), now, 250, 0, control.NoMessages)
	bucket(t, conn, refused, 0, now.Add(-2*time.Hour), now, 150, 1, control.NoMessages)
	all := []limits.Key{little, much, refused}
	gauges := make([]event.Gauge, len(all))
	for i, key := range all {
		gauges[i] = event.Gauge{Node: "a", Incarnation: uuid.New(), Seq: uint64(i) + 1, Time: now, Provider: key.Provider, Source: key.Source, StaticRate: 100} //nolint:gosec // small
	}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauges", gauges); err != nil {
		t.Fatal(err)
	}
	s := read(t, conn, now, windows.Wanted{Resting: all})
	for i, want := range []bool{true, false, false} {
		if k := s.Keys[all[i]]; k.Resting != want {
			t.Errorf("%s rests: %v, want %v", all[i], k.Resting, want)
		}
	}
}

// A day of half an hour, as trials have it, is made of minutes.
func TestReadShortDaysOfWarmup(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(time.Minute)
	start := now.Add(-100 * time.Minute)
	for i, ok := range []uint64{10, 20, 30, 40} { // the last day is not over
		bucket(t, conn, google, 0, start.Add(time.Duration(i)*30*time.Minute+5*time.Minute), now, ok, 1, control.NoMessages)
	}
	gauge := event.Gauge{Node: "a", Incarnation: uuid.New(), Seq: 1, Time: now, Provider: google.Provider, Source: google.Source, StaticRate: 100, WarmupStart: start}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauges", []event.Gauge{gauge}); err != nil {
		t.Fatal(err)
	}
	policy := control.Default()
	policy.Warmup.Day = 30 * time.Minute
	s, err := (&windows.Reader{Conn: conn, Policy: &policy, Period: 10 * time.Second}).Read(t.Context(), now, windows.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	want := []control.WarmupDay{{Replies: 11, Accepted: 10, Refused: 1}, {Replies: 21, Accepted: 20, Refused: 1}, {Replies: 31, Accepted: 30, Refused: 1}}
	if diff := cmp.Diff(want, s.Keys[google].Warmup.Days); diff != "" {
		t.Errorf("days (-want +got)\n%s", diff)
	}
}

// If nearly all sources of a provider fail to reach it, that is its trouble; if one does, it is not.
func TestReadFreezesAnOutage(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(10 * time.Second).Add(3 * time.Second)
	for _, tc := range []struct {
		provider    string
		down, alive int
		frozen      bool
	}{{"all", 3, 0, true}, {"most", 4, 1, true}, {"half", 3, 3, false}, {"few", 2, 0, false}} {
		for i := range tc.down + tc.alive {
			ok, unav := uint64(1), uint64(9)
			if i >= tc.down {
				ok, unav = 9, 1
			}
			if err := conn.Exec(t.Context(), "INSERT INTO k10s (ts, provider, source, ok, unav, min_msgc_idx, last_arrived) VALUES (?, ?, ?, ?, ?, 4294967295, ?)",
				now.Truncate(10*time.Second).Add(-20*time.Second), tc.provider, fmt.Sprint("192.0.2.", i), ok, unav, now.Add(-10*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := read(t, conn, now, windows.Wanted{})
	for key, k := range s.Keys {
		if want := key.Provider == "all" || key.Provider == "most"; (k.Frozen != "") != want {
			t.Errorf("%s: frozen %q, want %v", key, k.Frozen, want)
		}
	}
}

// What a node knows nothing of neither adds to the ceiling nor lowers it, and a disabled source is nobody's evidence.
func TestReadOfNodesThatSendNothing(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(10 * time.Second).Add(3 * time.Second)
	of := func(provider, node string, change func(*event.Gauge)) event.Gauge {
		g := event.Gauge{
			Node: node, Incarnation: uuid.New(), Seq: 1, Time: now.Add(-5 * time.Second), Provider: provider, Source: "192.0.2.1",
			StaticRate: 10, StaticConnections: 4, AdaptiveRate: 30, LocalFactor: 1,
		}
		if change != nil {
			change(&g)
		}
		return g
	}
	unknown := func(g *event.Gauge) {
		g.StaticUnknown, g.StaticRate, g.StaticConnections, g.AdaptiveRate = true, 0, 0, 0
	}
	if err := warehouse.Gauges.Insert(t.Context(), conn, "gauges", []event.Gauge{
		of("known", "a", nil), of("known", "b", nil), of("known", "c", unknown),
		of("idle", "a", unknown),
		of("off", "a", nil), of("off", "b", func(g *event.Gauge) { g.SourceDisabled = true }),
	}); err != nil {
		t.Fatal(err)
	}
	s := read(t, conn, now, windows.Wanted{})
	key := func(provider string) *windows.Key { return s.Keys[limits.Key{Provider: provider, Source: "192.0.2.1"}] }
	if k := key("known"); k.Frozen != "" || k.Static != limits.Static(30, 12, 0) || k.Adaptive.RatePerSecond != 90 || k.Windows.Nodes != 3 {
		t.Errorf("two of three nodes know it: %+v, adaptive %+v, frozen %q; want that of three", k.Static, k.Adaptive, k.Frozen)
	}
	if k := key("idle"); k.Frozen == "" || k.Static.HasRate() {
		t.Errorf("nobody knows it: %+v, frozen %q", k.Static, k.Frozen)
	}
	if k := key("off"); k.Frozen != "the source is disabled on b" || k.Static != limits.Static(20, 8, 0) {
		t.Errorf("disabled: %+v, frozen %q", k.Static, k.Frozen)
	}
}
