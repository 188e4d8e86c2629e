package jobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/analytics/suppression"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// world is an empty warehouse that a test fills.
type world struct {
	conn   driver.Conn
	rawURL string
	node   string
	inc    event.ID
	seq    uint64
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	_, rawURL := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w := &world{conn: conn, rawURL: rawURL, node: "n1", inc: uuid.New()}
	w.tick(t)
	return w
}

// tick reads the warehouse's clock.
func (w *world) tick(t *testing.T) {
	t.Helper()
	if err := w.conn.QueryRow(t.Context(), "SELECT now64(6, 'UTC')").Scan(&w.now); err != nil {
		t.Fatal(err)
	}
}

// store inserts events as an agent would have: each arrived a second after it happened.
func (w *world) store(t *testing.T, events []event.Event) {
	t.Helper()
	names := strings.Join(event.Names(event.Columns), ", ")
	batch, err := w.conn.PrepareBatch(t.Context(), "INSERT INTO events ("+names+", arrived)")
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		e := &events[i]
		w.seq++
		e.Node, e.Incarnation, e.Seq, e.FormatVersion, e.Recipients = w.node, w.inc, w.seq, event.FormatVersion, 1
		values := make([]any, 0, len(event.Columns)+1)
		for _, c := range event.Columns {
			values = append(values, c.Value(e))
		}
		if err := batch.Append(append(values, e.Time.Add(time.Second))...); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
}

// answers returns n events of one key, evenly between two times.
func answers(key limits.Key, epoch uint64, from, to time.Time, n int, d taxonomy.Dimension) []event.Event {
	events := make([]event.Event, n)
	for i := range events {
		e := event.Event{
			Time: from.Add(time.Duration(i) * to.Sub(from) / time.Duration(n)), Kind: event.Delivered,
			Provider: key.Provider, Source: key.Source, LimitEpoch: epoch, Attempt: 1, Dimension: d, Class: taxonomy.None,
			MessageID: event.NewID(), Tenant: "shop", OpenConnections: 4, MessageOnConn: 1, Reply: "250 ok",
		}
		if d != taxonomy.OK {
			e.Kind, e.Class, e.Reply = event.Deferred, taxonomy.Soft, "421 4.7.28 unusual rate"
		}
		events[i] = e
	}
	return events
}

func (w *world) gauge(t *testing.T, key limits.Key, rate float64, backlog uint64) {
	t.Helper()
	w.seq++
	g := event.Gauge{
		Node: w.node, Incarnation: w.inc, Seq: w.seq, FormatVersion: event.FormatVersion, Time: w.now.Add(-time.Second),
		Provider: key.Provider, Source: key.Source, Backlog: backlog, OpenConnections: 4, ThrottleBound: 1, LocalFactor: 1,
		StaticRate: rate, StaticConnections: 20, EffectiveRate: rate,
	}
	if err := warehouse.Gauges.Insert(t.Context(), w.conn, fmt.Sprint("gauge", w.node, w.seq), []event.Gauge{g}); err != nil {
		t.Fatal(err)
	}
}

// overload stores a minute of a provider that takes a quarter of what is sent since 40 s ago.
func (w *world) overload(t *testing.T, key limits.Key) {
	t.Helper()
	end := w.now.Add(-2 * time.Second).Truncate(10 * time.Second)
	cut := end.Add(-40 * time.Second)
	events := answers(key, 0, end.Add(-2*time.Minute), cut, 80*100, taxonomy.OK)
	events = append(events, answers(key, 0, cut, end, 40*25, taxonomy.OK)...)
	events = append(events, answers(key, 0, cut, end, 40*75, taxonomy.Rate)...)
	w.store(t, events)
	w.gauge(t, key, 110, 5000)
}

func (w *world) throttle(t *testing.T, mode limits.Mode) *jobs.Throttle {
	t.Helper()
	p := policy.Default()
	p.Mode = mode
	return &jobs.Throttle{Conn: w.conn, Policy: p, Log: slog.New(slog.DiscardHandler), Period: 10 * time.Second, Version: "test"}
}

func (w *world) scan(t *testing.T, query string, into ...any) {
	t.Helper()
	if err := w.conn.QueryRow(t.Context(), query).Scan(into...); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
}

func mustRun(t *testing.T, run func(context.Context) (jobs.Result, error)) jobs.Result {
	t.Helper()
	result, err := run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

var google = limits.Key{Provider: "google", Source: "192.0.2.1"}

func TestThrottleClosesTheLoop(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	result := mustRun(t, w.throttle(t, limits.Active).Run)
	if result.Changes != 1 || result.Keys != 1 || result.Skipped {
		t.Fatalf("result is %+v, want one change", result)
	}

	// The row's numbers recompute from the events and from the roll-up.
	var n map[string]uint64
	var p, low, a, rateOld, rateNew float64
	var from, to time.Time
	var rule, text, id, evidence string
	var samples []string
	var epoch, epochFrom uint64
	w.scan(t, `SELECT n_by_class, p, wilson_lo, accepted_rate, rate_old, rate_new, window_from, window_to, rule_id, reason_text, id, sample_replies,
		epoch, epoch_from, evidence FROM limit_log WHERE kind = 'change'`,
		&n, &p, &low, &a, &rateOld, &rateNew, &from, &to, &rule, &text, &id, &samples, &epoch, &epochFrom, &evidence)
	if rule != "BACKOFF" || epoch != 1 || epochFrom != 0 || rateOld != 110 || rateNew >= 25 || rateNew < 5 {
		t.Errorf("%s in epoch %d (from %d): %v -> %v: %s", rule, epoch, epochFrom, rateOld, rateNew, text)
	}
	if len(samples) != 1 || !strings.HasPrefix(samples[0], "421 4.7.28") {
		t.Errorf("samples are %q", samples)
	}
	parameters := clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{
		"from": fmt.Sprint(from.UnixMicro()), "to": fmt.Sprint(to.UnixMicro()),
	}))
	for table, query := range map[string]string{
		"k10s": `SELECT sum(ok), sum(rate) FROM k10s WHERE provider = 'google' AND source = '192.0.2.1' AND epoch = 0
			AND ts >= fromUnixTimestamp64Micro({from:Int64}) AND ts < fromUnixTimestamp64Micro({to:Int64})`,
		"events": `SELECT countIf(dimension = 'ok'), countIf(dimension = 'rate') FROM events WHERE provider = 'google' AND source = '192.0.2.1'
			AND limit_epoch = 0 AND time >= fromUnixTimestamp64Micro({from:Int64}) AND time < fromUnixTimestamp64Micro({to:Int64})`,
	} {
		var ok, refused uint64
		if err := w.conn.QueryRow(parameters, query).Scan(&ok, &refused); err != nil {
			t.Fatal(err)
		}
		if ok != n["ok"] || refused != n["rate"] || ok == 0 || refused == 0 {
			t.Errorf("%s has %d ok and %d rate, the row says %v", table, ok, refused, n)
		}
		if want := float64(refused) / float64(ok+refused); math.Abs(p-want) > 1e-12 {
			t.Errorf("p is %v, %s gives %v", p, table, want)
		}
	}
	var more struct {
		FirstRefusal  time.Time `json:"first_refusal_bucket_end"`
		AcceptedSince uint64    `json:"accepted_since"`
	}
	if err := json.Unmarshal([]byte(evidence), &more); err != nil {
		t.Fatal(err)
	}
	if want := (float64(more.AcceptedSince) + 4) / (to.Sub(more.FirstRefusal).Seconds() + 5/rateOld); math.Abs(a-want) > 1e-9 {
		t.Errorf("accepted rate is %v, the evidence gives %v", a, want)
	}

	// The lease is the limit.
	var leaseRate float64
	var reason string
	var generation uint64
	w.scan(t, "SELECT rate, reason_id, generation FROM leases WHERE node = 'n1' AND provider = 'google'", &leaseRate, &reason, &generation)
	if math.Abs(leaseRate-rateNew) > 1e-6*rateNew || leaseRate > rateNew || reason != id || generation != result.Generation {
		t.Errorf("lease of %v for %q in generation %d; want %v for %q in %d", leaseRate, reason, generation, rateNew, id, result.Generation)
	}
	var heads uint64
	w.scan(t, "SELECT count() FROM leases WHERE node = 'n1' AND provider = '' AND ttl_seconds = 600", &heads)
	if heads != 1 {
		t.Errorf("%d head rows, want 1", heads)
	}

	// Nothing new was seen under the new limit: one decision per epoch.
	again := mustRun(t, w.throttle(t, limits.Active).Run)
	var rows, issued uint64
	w.scan(t, "SELECT count() FROM limit_log", &rows)
	w.scan(t, "SELECT uniqExact(generation) FROM leases", &issued)
	if again.Changes != 0 || rows != 1 || issued != 1 {
		t.Errorf("second run: %+v, %d rows in limit_log, %d generations of leases; want no change", again, rows, issued)
	}
	if again.Generation <= result.Generation {
		t.Errorf("generation %d after %d", again.Generation, result.Generation)
	}
}

func TestThrottleAdvises(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	job := w.throttle(t, limits.Advise)
	first, second := mustRun(t, job.Run), mustRun(t, job.Run)
	var advice, changes, leases uint64
	w.scan(t, "SELECT countIf(kind = 'would_change'), countIf(kind = 'change') FROM limit_log", &advice, &changes)
	w.scan(t, "SELECT count() FROM leases", &leases)
	if first.Advised != 1 || second.Advised != 0 || advice != 1 || changes != 0 || leases != 0 {
		t.Errorf("advised %d, then %d; %d and %d rows, %d leases; want one advice and no lease", first.Advised, second.Advised, advice, changes, leases)
	}
}

// A server that dies may remember the token of a row that it never stored: the job goes on all the
// same.
func TestTurnWhoseRowWasLost(t *testing.T) {
	w := newWorld(t)
	last := w.now.Add(-5 * time.Minute)
	insert := func(ctx context.Context, at time.Time) {
		t.Helper()
		if err := w.conn.Exec(ctx, fmt.Sprintf(`INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
			SELECT 'throttle', fromUnixTimestamp64Micro(%d, 'UTC'), generateUUIDv4(), now64(6), 'ok', 77`, at.UnixMicro())); err != nil {
			t.Fatal(err)
		}
	}
	insert(clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate": 1, "insert_deduplication_token": "analytics/throttle/after/77/0",
	})), last)
	if result := mustRun(t, w.throttle(t, limits.Active).Run); result.Skipped {
		t.Errorf("nobody had the turn, and the run was skipped: %+v", result)
	}
}

// Without a gauge nobody knows what is configured, and no node would obey.
func TestThrottleNeedsALiveNode(t *testing.T) {
	w := newWorld(t)
	w.now = w.now.Add(-2 * time.Minute) // of the gauge
	w.gauge(t, google, 110, 5000)
	w.tick(t)
	w.store(t, answers(google, 0, w.now.Add(-time.Minute), w.now, 600, taxonomy.Rate))
	if result := mustRun(t, w.throttle(t, limits.Active).Run); result.Changes != 0 || result.Keys != 1 {
		t.Errorf("result is %+v, want one key and no change", result)
	}
}

func TestThrottleIsOff(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	result := mustRun(t, w.throttle(t, limits.Off).Run)
	var rows uint64
	w.scan(t, "SELECT count() FROM limit_log", &rows)
	if result.Changes != 0 || result.Advised != 0 || rows != 0 {
		t.Errorf("result %+v and %d rows, want nothing", result, rows)
	}
}

// Turning the loop off gives the nodes their configuration back, by a hand-out without leases.
func TestThrottleReleases(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if err := w.conn.Exec(t.Context(), `INSERT INTO overrides (id, version, kind, created_at, actor, reason) VALUES (generateUUIDv4(), 1, 'kill', now64(6), 'ann', 'test')`); err != nil {
		t.Fatal(err)
	}
	result := mustRun(t, w.throttle(t, limits.Active).Run)
	var rule, mode string
	var epoch, last uint64
	w.scan(t, "SELECT rule_id, mode_to FROM limit_log ORDER BY generation DESC LIMIT 1", &rule, &mode)
	w.scan(t, "SELECT epoch, JSONExtractUInt(state, 'control', 'last_epoch') FROM limit_state FINAL", &epoch, &last)
	if result.Changes != 1 || rule != "RELEASE" || mode != "startup" || epoch != 0 || last != 2 {
		t.Errorf("result %+v, rule %s, mode %s, epoch %d, last epoch %d", result, rule, mode, epoch, last)
	}
	var heads, leases uint64
	w.scan(t, fmt.Sprintf("SELECT countIf(provider = ''), countIf(provider != '') FROM leases WHERE generation = %d", result.Generation), &heads, &leases)
	if heads != 1 || leases != 0 {
		t.Errorf("the last hand-out has %d heads and %d leases, want 1 and 0", heads, leases)
	}
}

// Whatever a killed run had written, the next one ends with the same limit, state and leases.
func TestThrottleFinishesWhatAKilledRunBegan(t *testing.T) {
	for _, lost := range []struct {
		name   string
		tables []string
	}{
		{"killed after limit_log", []string{"limit_state", "leases"}},
		{"killed after limit_state", []string{"leases"}},
	} {
		t.Run(lost.name, func(t *testing.T) {
			w := newWorld(t)
			w.overload(t, google)
			job := w.throttle(t, limits.Active)
			mustRun(t, job.Run)
			var want, got float64
			w.scan(t, "SELECT rate_new FROM limit_log", &want)
			for _, table := range lost.tables {
				if err := w.conn.Exec(t.Context(), "TRUNCATE TABLE "+table); err != nil {
					t.Fatal(err)
				}
			}
			again := mustRun(t, job.Run)
			if again.Changes != 0 {
				t.Errorf("the decision was made twice: %+v", again)
			}
			w.scan(t, "SELECT rate FROM leases WHERE provider = 'google'", &got)
			if math.Abs(got-want) > 1e-6*want {
				t.Errorf("lease of %v, want %v", got, want)
			}
			var epoch uint64
			w.scan(t, "SELECT epoch FROM limit_state FINAL", &epoch)
			if epoch != 1 {
				t.Errorf("state in epoch %d, want 1", epoch)
			}
		})
	}
}

func TestOneRunHasTheTurn(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	const runs = 6
	results := make(chan jobs.Result, runs)
	errs := make(chan error, runs)
	for range runs {
		go func() {
			result, err := w.throttle(t, limits.Active).Run(context.WithoutCancel(t.Context()))
			results <- result
			errs <- err
		}()
	}
	generations := map[uint64]bool{}
	changes := 0
	for range runs {
		if err := <-errs; err != nil {
			t.Error(err)
		}
		result := <-results
		changes += result.Changes
		if result.Skipped {
			continue
		}
		if generations[result.Generation] {
			t.Errorf("two runs had generation %d", result.Generation)
		}
		generations[result.Generation] = true
	}
	var rows, epochs uint64
	w.scan(t, "SELECT count(), uniqExact(epoch) FROM limit_log", &rows, &epochs)
	if len(generations) == 0 || changes != 1 || rows != 1 || epochs != 1 {
		t.Errorf("%d runs, %d changes, %d rows; want one change", len(generations), changes, rows)
	}
	// A run that was killed holds the turn for a while and no longer.
	if err := w.conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
		VALUES ('throttle', now64(6), generateUUIDv4(), now64(6), 'running', 9000000000)`); err != nil {
		t.Fatal(err)
	}
	if result := mustRun(t, w.throttle(t, limits.Active).Run); !result.Skipped {
		t.Errorf("a second run had the turn: %+v", result)
	}
	if err := w.conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
		SELECT job, started_at - INTERVAL 1 MINUTE, run_id, updated_at - INTERVAL 1 MINUTE, 'running', 9000000000 FROM job_runs FINAL WHERE generation = 9000000000`); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
		SELECT job, started_at, run_id, updated_at + INTERVAL 1 SECOND, 'failed', 9000000000 FROM job_runs FINAL WHERE generation = 9000000000 AND started_at > now64(6) - INTERVAL 30 SECOND`); err != nil {
		t.Fatal(err)
	}
	if result := mustRun(t, w.throttle(t, limits.Active).Run); result.Skipped || result.Generation != 9000000001 {
		t.Errorf("after a killed run: %+v, want generation 9000000001", result)
	}
}

// Data that stopped coming raises nothing, and a lease that grows old is issued again.
func TestThrottleRenewsLeases(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	if err := w.conn.Exec(t.Context(), `INSERT INTO leases SELECT * REPLACE (issued_at - INTERVAL 3 MINUTE AS issued_at) FROM leases`); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Exec(t.Context(), `ALTER TABLE leases DELETE WHERE issued_at > now64(6) - INTERVAL 2 MINUTE SETTINGS mutations_sync = 1`); err != nil {
		t.Fatal(err)
	}
	result := mustRun(t, job.Run)
	var epoch, generation uint64
	w.scan(t, "SELECT epoch, generation FROM leases WHERE provider = 'google' ORDER BY generation DESC LIMIT 1", &epoch, &generation)
	if generation != result.Generation || epoch != 1 {
		t.Errorf("last lease is of generation %d, epoch %d; want %d and 1", generation, epoch, result.Generation)
	}
}

// suppression returns the job with the default policy.
func (w *world) suppression() *jobs.Suppression {
	return &jobs.Suppression{Conn: w.conn, Policy: suppression.Default(), Log: slog.New(slog.DiscardHandler), Version: "test"}
}

func TestSuppression(t *testing.T) {
	w := newWorld(t)
	at := w.now.Add(-time.Minute).Truncate(time.Microsecond)
	key := func(n int) string { return fmt.Sprintf("%032x", n) }
	base := event.Event{Time: at, MessageID: event.NewID(), RecipientIdx: 3, Tenant: "shop", OriginalMessageID: event.NewID(), OriginalIdx: 5}
	one := func(n int, kind event.Kind, class taxonomy.Class, confidence float32) event.Event {
		e := base
		e.RecipientKey, e.Kind, e.Class, e.MatchConfidence, e.Category = key(n), kind, class, confidence, taxonomy.BadMailbox
		if kind == event.Complaint {
			e.Category, e.FeedbackType = taxonomy.Complaint, "abuse"
		}
		return e
	}
	refused := func(n int, kind event.Kind, d taxonomy.Dimension) event.Event {
		e := one(n, kind, taxonomy.Hard, 1)
		e.Dimension = d
		return e
	}
	suppressed := one(9, event.Bounced, taxonomy.Hard, 0)
	suppressed.Category = taxonomy.Suppressed
	events := []event.Event{
		one(1, event.Bounced, taxonomy.Hard, 0),
		one(2, event.Bounced, taxonomy.Soft, 0),
		one(3, event.RemoteBounce, taxonomy.Hard, 1),
		one(4, event.RemoteBounce, taxonomy.Hard, 0.5), // not verified
		one(5, event.RemoteBounce, taxonomy.Soft, 1),
		one(6, event.Complaint, taxonomy.None, 1),
		one(7, event.Complaint, taxonomy.None, 0), // forged
		one(8, event.Delivered, taxonomy.None, 0),
		suppressed,
		{Time: at, Kind: event.Bounced, Class: taxonomy.Hard, Category: taxonomy.BadMailbox}, // no key
	}
	// Aimed at us, whatever the class says: only an unknown user is about the address.
	for i, d := range taxonomy.Dimensions {
		if d != taxonomy.User {
			events = append(events, refused(20+i, event.Bounced, d), refused(40+i, event.RemoteBounce, d))
		}
	}
	w.store(t, events)
	job := w.suppression()
	first, second := mustRun(t, job.Run), mustRun(t, job.Run)
	if first.Changes != 3 || second.Changes != 0 {
		t.Errorf("first run added %d, second %d; want 3 and 0", first.Changes, second.Changes)
	}
	type row struct {
		Key, Tenant, Category string
		Message               uuid.UUID
		Index                 uint32
		Time                  time.Time
	}
	var got []row
	rows, err := w.conn.Query(t.Context(), "SELECT recipient_key, tenant, category, message_id, recipient_index, time FROM suppressions ORDER BY recipient_key")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Key, &r.Tenant, &r.Category, &r.Message, &r.Index, &r.Time); err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	want := []row{
		{key(1), "", "bad-mailbox", base.MessageID, 3, at},
		{key(3), "", "bad-mailbox", base.OriginalMessageID, 5, at},
		{key(6), "shop", "complaint", base.OriginalMessageID, 5, at},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suppressions (-want +got):\n%s", diff)
	}

	// What is stored later, with an older time, is found all the same.
	late := one(10, event.Bounced, taxonomy.Hard, 0)
	late.Time = at.Add(-time.Hour)
	if err := warehouse.Events.Insert(t.Context(), w.conn, "late", []event.Event{late}); err != nil {
		t.Fatal(err)
	}
	if third := mustRun(t, job.Run); third.Changes != 1 {
		t.Errorf("a late event added %d, want 1", third.Changes)
	}
}

// The first run over an empty warehouse leaves out nothing that comes after it.
func TestSuppressionBeginsEmpty(t *testing.T) {
	w := newWorld(t)
	job := w.suppression()
	if first := mustRun(t, job.Run); first.Changes != 0 || first.DataTo.Before(w.now) {
		t.Errorf("the first run is %+v, want nothing added up to now", first)
	}
	bounce := event.Event{
		Time: w.now.Add(-2 * time.Second), Kind: event.Bounced, Class: taxonomy.Hard, Dimension: taxonomy.User, Category: taxonomy.BadMailbox,
		MessageID: event.NewID(), RecipientKey: strings.Repeat("a", 32),
	}
	w.store(t, []event.Event{bounce})
	added := 0
	for range 2 {
		added += mustRun(t, job.Run).Changes
	}
	if added != 1 {
		t.Errorf("%d suppressions after a bounce, want 1", added)
	}
}

// After days without a run the job catches up in pieces, and leaves nothing out.
func TestSuppressionCatchesUp(t *testing.T) {
	w := newWorld(t)
	events := make([]event.Event, 4)
	for i := range events {
		events[i] = event.Event{
			Time: w.now.Add(-time.Duration(i)*5*time.Hour - time.Minute), Kind: event.Bounced, Class: taxonomy.Hard, Category: taxonomy.BadMailbox,
			MessageID: event.NewID(), RecipientKey: fmt.Sprintf("%032x", i),
		}
	}
	w.store(t, events)
	job := w.suppression()
	first := mustRun(t, job.Run)
	if first.Changes != 2 || !first.DataTo.Before(w.now.Add(-8*time.Hour)) {
		t.Errorf("the first run added %d up to %s, want the first six hours: 2", first.Changes, first.DataTo)
	}
	added := first.Changes
	for range 5 {
		added += mustRun(t, job.Run).Changes
	}
	if added != len(events) {
		t.Errorf("%d suppressions in the end, want %d", added, len(events))
	}
}

// gate holds the first row that a run writes back until it is opened.
type gate struct {
	driver.Conn
	once  sync.Once
	asked chan struct{}
	open  chan struct{}
}

func (g *gate) PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error) {
	g.once.Do(func() {
		close(g.asked)
		<-g.open
	})
	return g.Conn.PrepareBatch(ctx, query, options...)
}

// Two runs that ask for the turn in different seconds, before either has written that it has it,
// are not both served.
func TestOneRunHasTheTurnAtTheEndOfASecond(t *testing.T) {
	w := newWorld(t)
	open := make(chan struct{})
	results := make(chan jobs.Result, 2)
	second := func() (s uint64) {
		w.scan(t, "SELECT toUInt64(toUnixTimestamp(now()))", &s)
		return s
	}
	for range 2 {
		g := &gate{Conn: w.conn, asked: make(chan struct{}), open: open}
		job := w.throttle(t, limits.Active)
		job.Conn = g
		go func() {
			result, err := job.Run(context.WithoutCancel(t.Context()))
			if err != nil {
				t.Error(err)
			}
			results <- result
		}()
		<-g.asked
		for now := second(); second() == now; {
			continue // the warehouse's next second
		}
	}
	close(open)
	if a, b := <-results, <-results; a.Skipped == b.Skipped {
		t.Errorf("results are %+v and %+v, want one run with the turn", a, b)
	}
}

// The moment from which the row after the last run counts as lost may pass between two runs that ask.
func TestOneRunHasTheTurnWhenARowMayBeLost(t *testing.T) {
	w := newWorld(t)
	if err := w.conn.Exec(t.Context(), `INSERT INTO job_runs (job, started_at, run_id, updated_at, status, generation)
		SELECT 'throttle', now64(6) - INTERVAL 148 SECOND, generateUUIDv4(), now64(6), 'ok', 77`); err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	results := make(chan jobs.Result, 2)
	for range 2 {
		g := &gate{Conn: w.conn, asked: make(chan struct{}), open: open}
		job := w.throttle(t, limits.Active)
		job.Conn = g
		go func() {
			result, err := job.Run(context.WithoutCancel(t.Context()))
			if err != nil {
				t.Error(err)
			}
			results <- result
		}()
		<-g.asked
		for passed := false; !passed; {
			w.scan(t, "SELECT toBool(max(started_at) < now64(6) - INTERVAL 150 SECOND) FROM job_runs WHERE status = 'ok'", &passed)
		}
	}
	close(open)
	if a, b := <-results, <-results; !a.Skipped && !b.Skipped {
		t.Errorf("results are %+v and %+v, want one run with the turn at most", a, b)
	}
	var running uint64
	w.scan(t, "SELECT countIf(status = 'running') FROM job_runs FINAL", &running)
	if running != 0 {
		t.Errorf("%d runs keep the turn", running)
	}
}
