package jobs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/analytics/webhook"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

// TestControl holds what needs nothing but an empty warehouse: one engine serves them all, because to start
// one takes longer than most of them.
func TestControl(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"reputation", testReputation},
		{"outcomes", testOutcomes},
		{"pin", testPin},
		{"cancel", testCancel},
		{"kill switch", testKill},
		{"from active to advise", testGlide},
		{"the loop stood still", testStoodStill},
		{"a row that cannot be read", testUnreadable},
		{"a provider that is off", testProviderOff},
		{"a node that sent nothing yet", testNewNode},
		{"a domain that is refused", func(t *testing.T, w *world) { testScoped(t, w, taxonomy.ScopeDomain) }},
		{"a URL that is refused", func(t *testing.T, w *world) { testScoped(t, w, taxonomy.ScopeURL) }},
		{"late and repeated batches", testLateBatches},
		{"clocks that are wrong", testSkew},
		{"complaints that trickle in", testHolds},
		{"a tenant that lies about its mail", testHoldOfALiar},
		{"the narrowest key is held", testHoldNarrow},
		{"exempt mail is alerted about", testHoldExempt},
		{"changes are told", testChangeWebhook},
		{"more changes than one run tells", testManyChanges},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.empty(t)
			tc.test(t, w)
		})
	}
}

// empty empties every table but that of the migrations.
func (w *world) empty(t *testing.T) {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name != 'schema_migrations' AND total_rows > 0")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		w.exec(t, "TRUNCATE TABLE "+name)
	}
	w.tick(t)
}

func (w *world) exec(t *testing.T, query string) {
	t.Helper()
	if err := w.conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
}

// order is an order of ann's for an hour.
func (w *world) order(t *testing.T) jobs.Order {
	t.Helper()
	return jobs.Order{Actor: "ann", Reason: "a test", Expires: w.now.Add(time.Hour)}
}

// document returns what the last hand-out to the node says beside its leases.
func (w *world) document(t *testing.T) limits.Document {
	t.Helper()
	var text string
	w.scan(t, "SELECT document FROM leases WHERE provider = '' ORDER BY generation DESC LIMIT 1", &text)
	var d limits.Document
	if text != "" {
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
	}
	d.Format, d.TTLSeconds = limits.Format, 600
	if err := d.Validate(); err != nil {
		t.Errorf("a node would refuse the document: %v", err)
	}
	return d
}

// lease returns the rate of google's lease in the last hand-out, and when it ends before its time.
func (w *world) lease(t *testing.T) (rate float64, notAfter time.Time, n uint64) {
	t.Helper()
	w.scan(t, "SELECT sum(rate), max(not_after), count() FROM leases WHERE provider = 'google' AND generation = (SELECT max(generation) FROM leases)", &rate, &notAfter, &n)
	return rate, notAfter, n
}

// row is a row of limit_log.
type row struct{ kind, rule, actor, pinnedBy string }

func (w *world) log(t *testing.T) []row {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), "SELECT toString(kind), rule_id, actor, pinned_by FROM limit_log ORDER BY generation, epoch, kind, rule_id")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var all []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.kind, &r.rule, &r.actor, &r.pinnedBy); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// A pin is in force with the next run, says what the loop would do, and ends.
func testPin(t *testing.T, w *world) {
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	if err := jobs.Unpin(t.Context(), w.conn, google, w.order(t)); !errors.Is(err, jobs.ErrNothing) {
		t.Errorf("unpin without a pin: %v", err)
	}
	if err := jobs.GivePin(t.Context(), w.conn, google, jobs.Pin{RatePerSecond: 500, Connections: 7}, w.order(t)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, job.Run)
	if rate, _, _ := w.lease(t); math.Abs(rate-110) > 1e-6 {
		t.Errorf("a pin above the ceiling gives a lease of %v, want the configured 110", rate)
	}
	if err := jobs.GivePin(t.Context(), w.conn, google, jobs.Pin{RatePerSecond: 5}, w.order(t)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, job.Run)
	if rate, _, _ := w.lease(t); math.Abs(rate-5) > 1e-6 {
		t.Errorf("a pin of 5/s gives a lease of %v", rate)
	}
	if err := jobs.Unpin(t.Context(), w.conn, google, jobs.Order{Actor: "bob", Reason: "done"}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, job.Run)
	equal(t, "limit_log", w.log(t), []row{{"change", "PIN", "ann", "ann"}, {"change", "PIN", "ann", "ann"}, {"change", "UNPIN", "bob", ""}})
	var notes uint64
	if w.scan(t, "SELECT count() FROM annotations WHERE name = 'limit-pin'", &notes); notes != 3 {
		t.Errorf("%d annotations of pins, want 3", notes)
	}
	orders, err := jobs.Orders(t.Context(), w.conn)
	if err != nil || len(orders) != 0 {
		t.Errorf("orders after unpin: %+v, %v", orders, err)
	}
}

// A cancelled change brings the limit of before back, and the loop waits.
func testCancel(t *testing.T, w *world) {
	if _, err := jobs.CancelChange(t.Context(), w.conn, google, w.order(t)); !errors.Is(err, jobs.ErrNothing) {
		t.Errorf("cancel without a change: %v", err)
	}
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	if rate, _, _ := w.lease(t); rate > 50 {
		t.Fatalf("the loop left %v/s", rate)
	}
	id, err := jobs.CancelChange(t.Context(), w.conn, google, w.order(t))
	if err != nil || id != "google/192.0.2.1@1" {
		t.Fatalf("cancel: %q, %v", id, err)
	}
	for range 2 { // the second changes nothing
		mustRun(t, job.Run)
	}
	if _, _, n := w.lease(t); n != 0 {
		t.Errorf("%d leases, want none: the configuration held before", n)
	}
	equal(t, "limit_log", w.log(t), []row{{"change", "BACKOFF", "loop", ""}, {"change", "CANCEL", "ann", ""}})
	var old, rate float64
	w.scan(t, "SELECT rate_old, rate_new FROM limit_log WHERE rule_id = 'CANCEL'", &old, &rate)
	if old > 50 || rate != 110 {
		t.Errorf("CANCEL says %v -> %v, want the rate of the loop -> 110", old, rate)
	}
	if _, err := jobs.CancelChange(t.Context(), w.conn, google, w.order(t)); !errors.Is(err, jobs.ErrNothing) {
		t.Errorf("an operator's change is cancelled as if it were the loop's: %v", err)
	}
}

// The kill switch hands every node its configuration at once, without a run of the jobs, and nothing but
// carom limits on ends it.
func testKill(t *testing.T, w *world) {
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	began := time.Now()
	if err := jobs.Kill(t.Context(), w.conn, w.order(t), slog.New(slog.DiscardHandler), "test"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the kill switch took %s", time.Since(began).Round(time.Millisecond))
	if _, _, n := w.lease(t); n != 0 {
		t.Errorf("%d leases after the kill switch", n)
	}
	if d := w.document(t); !d.IsOff("google") || !d.IsOff("anybody") {
		t.Errorf("the document does not switch the loop off: %+v", d)
	}
	if again := mustRun(t, job.Run); again.Changes != 0 {
		t.Errorf("a run under the kill switch changed something: %+v", again)
	}
	if err := jobs.Unkill(t.Context(), w.conn, jobs.Order{Actor: "bob", Reason: "over"}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, job.Run)
	if d := w.document(t); d.IsOff("google") {
		t.Errorf("the loop is still off: %+v", d)
	}
	log := w.log(t)
	equal(t, "limit_log", log[:2], []row{{"change", "BACKOFF", "loop", ""}, {"change", "RELEASE", "ann", ""}})
	var notes uint64
	if w.scan(t, "SELECT count() FROM annotations WHERE name = 'kill-switch'", &notes); notes != 2 {
		t.Errorf("%d annotations of the kill switch, want 2", notes)
	}
	if err := jobs.Unkill(t.Context(), w.conn, w.order(t)); !errors.Is(err, jobs.ErrNothing) {
		t.Errorf("on without off: %v", err)
	}
}

// From active to advise the nodes glide: the lease stays, over since then.
func testGlide(t *testing.T, w *world) {
	w.overload(t, google)
	mustRun(t, w.throttle(t, limits.Active).Run)
	before, _, _ := w.lease(t)
	result := mustRun(t, w.throttle(t, limits.Advise).Run)
	rate, notAfter, n := w.lease(t)
	if n != 1 || rate != before || notAfter.After(w.now.Add(time.Minute)) || notAfter.Before(w.now) {
		t.Errorf("%d leases of %v until %v; want the one of %v, over now (%v)", n, rate, notAfter, before, w.now)
	}
	var epoch uint64
	w.scan(t, fmt.Sprintf("SELECT epoch FROM leases WHERE provider = 'google' AND generation = %d", result.Generation), &epoch)
	if epoch != 1 {
		t.Errorf("the lease has epoch %d: a node would take it for a new one", epoch)
	}
	// The same is not handed out again at each run.
	mustRun(t, w.throttle(t, limits.Advise).Run)
	var generations uint64
	if w.scan(t, "SELECT uniqExact(generation) FROM leases", &generations); generations != 2 {
		t.Errorf("%d hand-outs, want 2", generations)
	}
	w.exec(t, `INSERT INTO limit_state SELECT * REPLACE (generation + 1 AS generation,
		replaceRegexpOne(state, '"glide_since":[0-9]+', concat('"glide_since":', toString(toUnixTimestamp64Nano(now64(9) - INTERVAL 32 MINUTE)))) AS state) FROM limit_state FINAL`)
	mustRun(t, w.throttle(t, limits.Advise).Run)
	if _, _, n := w.lease(t); n != 0 {
		t.Errorf("%d leases after the glide", n)
	}
}

// After an hour without a run the loop begins under what it knew, and after a day in which little was sent and
// nothing refused, it lets go of a key.
func testStoodStill(t *testing.T, w *world) {
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	const before = 24 // it has climbed back since
	w.exec(t, `INSERT INTO limit_state SELECT * REPLACE (generation + 1 AS generation, replaceRegexpOne(state, '"rate":[0-9.]+', '"rate":24') AS state) FROM limit_state FINAL`)
	w.now = w.now.Add(time.Hour)
	w.gauge(t, google, 110, 5000)
	job.Conn = &machine{Conn: w.conn, now: w.now}
	mustRun(t, job.Run)
	var rate, capacity float64
	w.scan(t, "SELECT rate_new, cap FROM limit_log WHERE rule_id = 'RESTART'", &rate, &capacity)
	if lease, _, _ := w.lease(t); !(rate > 0 && rate < before) || math.Abs(rate-0.8*capacity) > 1e-9 || math.Abs(lease-rate) > 1e-6 {
		t.Errorf("%v/s is leased after %v/s, the row says %v with a capacity of %v; want 0.8 of that", lease, before, rate, capacity)
	}
	w.now = w.now.Add(25 * time.Hour)
	w.gauge(t, google, 110, 0)
	w.exec(t, fmt.Sprintf("INSERT INTO k1m (ts, provider, source, ok) VALUES (%d, 'google', '192.0.2.1', 100)", w.now.Add(-time.Hour).Unix()))
	job.Conn = &machine{Conn: w.conn, now: w.now}
	mustRun(t, job.Run)
	if _, _, n := w.lease(t); n != 0 {
		t.Errorf("%d leases for a key that sends 100 messages a day", n)
	}
	equal(t, "limit_log", w.log(t), []row{{"change", "BACKOFF", "loop", ""}, {"change", "RESTART", "loop", ""}, {"change", "RELEASE", "loop", ""}})
}

// A row of limit_state that nobody understands stops the loop for its key, and for no other.
func testUnreadable(t *testing.T, w *world) {
	other := limits.Key{Provider: "yahoo", Source: "192.0.2.2"}
	w.overload(t, google)
	w.overload(t, other)
	w.exec(t, "INSERT INTO limit_state (provider, source, generation, state) VALUES ('google', '192.0.2.1', 1, '{broken')")
	if result := mustRun(t, w.throttle(t, limits.Active).Run); result.Changes != 1 {
		t.Errorf("result %+v, want the change of the other key", result)
	}
	var providers []string
	w.scan(t, "SELECT groupUniqArray(toString(provider)) FROM leases WHERE provider != ''", &providers)
	equal(t, "leases", providers, []string{"yahoo"})
}

// Where the policy says off, the nodes are told so.
func testProviderOff(t *testing.T, w *world) {
	w.overload(t, google)
	p, err := policy.Parse([]byte("mode: active\nproviders: {google: {mode: \"off\"}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	job := w.throttle(t, limits.Active)
	job.Policy = p
	mustRun(t, job.Run)
	if d := w.document(t); !d.IsOff("google") || d.IsOff("yahoo") {
		t.Errorf("the document says %+v", d)
	}
	if p, err = policy.Parse([]byte("mode: \"off\"\nproviders: {yahoo: {mode: active}}\n")); err != nil {
		t.Fatal(err)
	}
	job.Policy = p
	mustRun(t, job.Run)
	if d := w.document(t); !d.IsOff("google") || d.IsOff("yahoo") {
		t.Errorf("the document says %+v", d)
	}
}

// Refusals that name a domain, or the host of a URL, limit the mail that has it and say nothing of the source.
func testScoped(t *testing.T, w *world, scope taxonomy.Scope) {
	end := w.now.Add(-2 * time.Second).Truncate(10 * time.Second)
	cut := end.Add(-40 * time.Second)
	mail := func(domain string, from, to time.Time, n int, d taxonomy.Dimension) []event.Event {
		events := answers(google, 0, from, to, n, d)
		for i := range events {
			e := &events[i]
			if scope == taxonomy.ScopeURL {
				e.URLHosts = []string{"cdn.test", "www." + domain}
			} else {
				e.DKIMDomains, e.FromDomain, e.MailFromDomain = []string{domain}, domain, "bounce."+domain
			}
			if d != taxonomy.OK {
				e.Scope, e.ScopeValue, e.Reply = scope, domain, "421 4.7.28 unusual rate of mail with it"
			}
		}
		return events
	}
	w.store(t, mail("good.test", end.Add(-2*time.Minute), end, 6000, taxonomy.OK))
	w.store(t, mail("bad.test", end.Add(-2*time.Minute), cut, 1600, taxonomy.OK))
	w.store(t, mail("bad.test", cut, end, 200, taxonomy.OK))
	w.store(t, mail("bad.test", cut, end, 600, taxonomy.Rate))
	w.gauge(t, google, 110, 5000)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if _, _, n := w.lease(t); n != 0 {
		t.Errorf("%d leases: the source is limited for a domain", n)
	}
	d := w.document(t)
	if len(d.Scoped) != 1 || d.Scoped[0].Scope != string(scope) || d.Scoped[0].Value != "bad.test" || d.Scoped[0].RatePerSecond > 6 || d.Scoped[0].RatePerSecond < 2 {
		t.Fatalf("scoped limits are %+v, want about 4.5/s for bad.test", d.Scoped)
	}
	equal(t, "limit_log", w.log(t), []row{{"change", "BACKOFF", "loop", ""}})
	var source string
	w.scan(t, "SELECT source FROM limit_log", &source)
	if source != string(scope)+":bad.test" {
		t.Errorf("the change is of %q", source)
	}
	if again := mustRun(t, w.throttle(t, limits.Active).Run); again.Changes != 0 || len(w.document(t).Scoped) != 1 {
		t.Errorf("the next run: %+v", again)
	}
}

// The evidence of a decision stays what it was: answers under the limit of before, and a batch that comes twice, decide
// nothing more.
func testLateBatches(t *testing.T, w *world) {
	w.overload(t, google)
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	end := w.now.Add(-2 * time.Second).Truncate(10 * time.Second)
	late := answers(google, 0, end.Add(-40*time.Second), end, 4000, taxonomy.Rate)
	for i := range late {
		w.seq++
		late[i].Node, late[i].Incarnation, late[i].Seq, late[i].FormatVersion, late[i].Recipients = w.node, w.inc, w.seq, event.FormatVersion, 1
	}
	var before, after uint64
	w.scan(t, "SELECT sum(rate) FROM k10s", &before)
	for range 2 {
		if err := warehouse.Events.Insert(t.Context(), w.conn, "late", late); err != nil {
			t.Fatal(err)
		}
	}
	if w.scan(t, "SELECT sum(rate) FROM k10s", &after); after != before+4000 {
		t.Errorf("%d refusals are counted after a batch of 4000 that came twice, %d before", after, before)
	}
	if again := mustRun(t, job.Run); again.Changes != 0 {
		t.Errorf("refusals under the limit of before were decided about again: %+v", again)
	}
}

// A node whose clock is half a minute off slows nothing down and speeds nothing up that its answers do not: what it
// says of the future waits for it.
func testSkew(t *testing.T, w *world) {
	ahead, behind := limits.Key{Provider: "yahoo", Source: "192.0.2.2"}, limits.Key{Provider: "orange", Source: "192.0.2.3"}
	real := w.now.Truncate(10 * time.Second).Add(5 * time.Second)
	for key, skew := range map[limits.Key]time.Duration{ahead: 30 * time.Second, behind: -30 * time.Second} {
		w.now = real.Add(skew)
		w.overload(t, key)
	}
	job := w.throttle(t, limits.Active)
	job.Conn = &machine{Conn: w.conn, now: real}
	if result := mustRun(t, job.Run); result.DataTo.After(real) {
		t.Errorf("data to %v at %v", result.DataTo, real)
	}
	equal(t, "limit_log", w.log(t), []row{{"change", "BACKOFF", "loop", ""}}) // of the one behind
	job.Conn = &machine{Conn: w.conn, now: real.Add(35 * time.Second)}
	mustRun(t, job.Run)
	equal(t, "limit_log", w.log(t), []row{{"change", "BACKOFF", "loop", ""}, {"change", "BACKOFF", "loop", ""}})
	var wrong uint64
	w.scan(t, `SELECT count() FROM (
			SELECT any(l.n_by_class['rate']) AS said, any(l.rate_new < l.rate_old AND l.window_to <= l.ts) AS is_down, sum(k.rate) AS refused
			FROM limit_log AS l INNER JOIN k10s AS k ON l.provider = k.provider
			WHERE k.ts >= l.window_from AND k.ts < l.window_to
			GROUP BY l.id
		) WHERE said != refused OR NOT is_down`, &wrong)
	if wrong != 0 {
		t.Errorf("%d changes do not recompute", wrong)
	}
}

// A tenant that sends with the From domain and the job name of another is held, and the other is not: whose mail it is
// comes from the login.
func testHoldOfALiar(t *testing.T, w *world) {
	for _, tenant := range []string{"honest", "liar"} {
		w.delivered(t, "yahoo", tenant, "news", "honest.test", 5*time.Hour, 5_000)
	}
	w.delivered(t, "yahoo", "rest", "r", "rest.test", 5*time.Hour, 100_000)
	w.complained(t, "yahoo", "liar", "news", "honest.test", 5*time.Hour, time.Hour, 200)
	mustRun(t, w.holds(limits.Active).Run)
	held, err := jobs.HeldMail(t.Context(), w.conn)
	if err != nil || len(held) != 1 || held[0].Tenant != "liar" || held[0].Status != "held" {
		t.Fatalf("held %+v, %v; want the liar's mail alone", held, err)
	}
	w.gauge(t, google, 110, 0)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if d := w.document(t); len(d.Holds) != 1 || d.Holds[0].Tenant != "liar" {
		t.Errorf("the nodes hold %+v", d.Holds)
	}
}

// complained stores complaints of different recipients about mail of an age that came some hours later.
func (w *world) complained(t *testing.T, provider, tenant, job, domain string, deliveredAgo, comeAgo time.Duration, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	w.exec(t, fmt.Sprintf(`INSERT INTO attributions (node, incarnation, seq, time, kind, recipient_key, proven, message_id, delivered_at, provider, source, tenant, job, from_domain, attributed_at)
		SELECT 'n1', generateUUIDv4(), number, fromUnixTimestamp64Micro(%d, 'UTC'), 'complaint', toString(generateUUIDv4()), true, generateUUIDv4(), fromUnixTimestamp64Micro(%d, 'UTC'),
			'%s', '192.0.2.1', '%s', '%s', '%s', now64(6) FROM numbers(%d)`,
		w.now.Add(-comeAgo).UnixMicro(), w.now.Add(-deliveredAgo).UnixMicro(), provider, tenant, job, domain, n))
}

// delivered stores deliveries of one hour in the roll-ups that holds read.
func (w *world) delivered(t *testing.T, provider, tenant, job, domain string, ago time.Duration, n int) {
	t.Helper()
	at := w.now.Add(-ago)
	w.exec(t, fmt.Sprintf("INSERT INTO k1m (ts, provider, source, tenant, ok) VALUES (%d, '%s', '192.0.2.1', '%s', %d)", at.Truncate(time.Minute).Unix(), provider, tenant, n))
	w.exec(t, fmt.Sprintf("INSERT INTO jobs_1h (ts, job, tenant, provider, kind, class, dimension, events) VALUES (%d, '%s', '%s', '%s', 'delivered', 'none', 'ok', %d)", at.Truncate(time.Hour).Unix(), job, tenant, provider, n))
	w.exec(t, fmt.Sprintf("INSERT INTO senders_1h (ts, from_domain, dkim_domain, signature, provider, kind, class, dimension, events) VALUES (%d, '%s', '', 0, '%s', 'delivered', 'none', 'ok', %d)", at.Truncate(time.Hour).Unix(), domain, provider, n))
}

// holds returns the job with the loop active.
func (w *world) holds(mode limits.Mode) *jobs.Holds {
	p := policy.Default()
	p.Mode = mode
	return &jobs.Holds{Conn: w.conn, Policy: p, Log: slog.New(slog.DiscardHandler), Version: "test"}
}

// A million is delivered in an evening and complained about over two days: at 0.1 % it goes on, at 0.6 % it
// is held soon after enough has come in. Older mail tells how late complaints come.
func testHolds(t *testing.T, w *world) {
	late := func(provider, tenant string, deliveredAgo, until time.Duration, share float64, mail int) {
		for hour := range 48 { // evenly over two days
			if came := deliveredAgo - time.Duration(hour)*time.Hour - 30*time.Minute; came >= until {
				w.complained(t, provider, tenant, "j-"+tenant, tenant+".test", deliveredAgo, came, int(share*float64(mail)/48))
			}
		}
	}
	const mail = 100_000
	late("yahoo", "old", 120*time.Hour, 0, 0.001, 10*mail) // the cohort
	w.delivered(t, "yahoo", "rest", "r", "rest.test", 8*time.Hour, 20*mail)
	for tenant, share := range map[string]float64{"good": 0.001, "bad": 0.006} {
		w.delivered(t, "yahoo", tenant, "j-"+tenant, tenant+".test", 8*time.Hour, mail)
		late("yahoo", tenant, 8*time.Hour, 0, share, mail)
	}
	if advised := mustRun(t, w.holds(limits.Advise).Run); advised.Advised != 1 || advised.Changes != 0 {
		t.Errorf("where the loop advises: %+v", advised)
	}
	if again := mustRun(t, w.holds(limits.Advise).Run); again.Advised != 0 {
		t.Errorf("advised twice within the hour: %+v", again)
	}
	result := mustRun(t, w.holds(limits.Active).Run)
	held, err := jobs.HeldMail(t.Context(), w.conn)
	if err != nil {
		t.Fatal(err)
	}
	if result.Changes != 1 || len(held) != 1 || held[0].Tenant != "bad" || held[0].Job != "j-bad" || held[0].Status != "held" || held[0].Share != 0 {
		t.Fatalf("%+v, held %+v; want the job of the bad tenant alone", result, held)
	}
	// The decision is made again from the evidence.
	var evidence string
	var low float64
	w.scan(t, "SELECT evidence, wilson_lo FROM limit_log WHERE rule_id = 'HOLD' AND kind = 'change'", &evidence, &low)
	if action, _, again, err := jobs.HoldAgain([]byte(evidence)); err != nil || action != "hold" || again != low || !(low > 0.003) {
		t.Errorf("again: %s, %v, %v; the row says %v", action, again, err, low)
	}
	// The nodes are told.
	w.gauge(t, google, 110, 0)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if d := w.document(t); len(d.Holds) != 1 || d.Holds[0].Job != "j-bad" || d.Holds[0].Provider != "yahoo" || d.Holds[0].Trickle != 0 {
		t.Errorf("the document holds %+v", d.Holds)
	}
	if again := mustRun(t, w.holds(limits.Active).Run); again.Changes != 0 {
		t.Errorf("held twice: %+v", again)
	}
	// Six hours later a little goes out.
	w.exec(t, "INSERT INTO holds SELECT * REPLACE (version + 1 AS version, began_at - INTERVAL 7 HOUR AS began_at) FROM holds FINAL")
	mustRun(t, w.holds(limits.Active).Run)
	if held, err = jobs.HeldMail(t.Context(), w.conn); err != nil || len(held) != 1 || held[0].Status != "trickle" || held[0].Share != 0.02 {
		t.Errorf("after six hours: %+v, %v", held, err)
	}
	// What was before a release does not count any more.
	if _, err := jobs.ReleaseHolds(t.Context(), w.conn, "nobody", w.order(t)); !errors.Is(err, jobs.ErrNothing) {
		t.Errorf("release of nothing: %v", err)
	}
	if released, err := jobs.ReleaseHolds(t.Context(), w.conn, "bad", w.order(t)); err != nil || len(released) != 1 {
		t.Fatalf("released %+v, %v", released, err)
	}
	if again := mustRun(t, w.holds(limits.Active).Run); again.Changes != 0 {
		t.Errorf("held again for the old mail: %+v", again)
	}
	mustRun(t, w.throttle(t, limits.Active).Run)
	if d := w.document(t); len(d.Holds) != 0 {
		t.Errorf("the document still holds %+v", d.Holds)
	}
	var rules []string
	w.scan(t, "SELECT groupArray(rule) FROM (SELECT concat(toString(kind), ' ', rule_id, ' ', actor) AS rule FROM limit_log WHERE rule_id LIKE 'HOLD%' ORDER BY ts)", &rules)
	equal(t, "limit_log", rules, []string{"would_change HOLD loop", "change HOLD loop", "change HOLD-TRICKLE loop", "change HOLD-RELEASE ann"})
}

// One job among several of a tenant explains the complaints: it is held, and past the budget people are
// asked. Complaints that nobody proved never count.
func testHoldNarrow(t *testing.T, w *world) {
	w.delivered(t, "yahoo", "shop", "fine", "shop.test", 5*time.Hour, 50_000)
	w.delivered(t, "yahoo", "shop", "bad", "shop.test", 5*time.Hour, 5_000)
	w.complained(t, "yahoo", "shop", "fine", "shop.test", 5*time.Hour, time.Hour, 5)
	w.complained(t, "yahoo", "shop", "bad", "shop.test", 5*time.Hour, time.Hour, 400)
	w.delivered(t, "comcast", "big", "all", "big.test", 5*time.Hour, 50_000) // all that comcast takes
	w.complained(t, "comcast", "big", "all", "big.test", 5*time.Hour, time.Hour, 500)
	w.delivered(t, "yahoo", "victim", "v", "victim.test", 5*time.Hour, 5_000)
	w.exec(t, `INSERT INTO attributions (node, incarnation, seq, time, kind, recipient_key, proven, message_id, delivered_at, provider, tenant, job)
		SELECT 'n1', generateUUIDv4(), number, now64(6), 'complaint', toString(number), false, generateUUIDv4(), now64(6) - INTERVAL 5 HOUR, 'yahoo', 'victim', 'v' FROM numbers(1000)`)
	mustRun(t, w.holds(limits.Active).Run)
	held, err := jobs.HeldMail(t.Context(), w.conn)
	if err != nil || len(held) != 2 {
		t.Fatalf("held %+v, %v; want two", held, err)
	}
	if held[0].ID != "comcast/job:big/all" || held[0].Status != "asked" || held[1].ID != "yahoo/job:shop/bad" || held[1].Status != "held" {
		t.Errorf("held %+v; want comcast's asked about, because it is all of its volume, and yahoo's bad job held", held)
	}
}

// Mail that the nodes would not hold, because the configuration exempts it, is alerted about once; other mail
// of the same complaints is held.
func testHoldExempt(t *testing.T, w *world) {
	for n, tenant := range []string{"bank", "shop"} {
		w.delivered(t, "yahoo", tenant, "resets", tenant+".test", 5*time.Hour, 50_000)
		w.complained(t, "yahoo", tenant, "resets", tenant+".test", 5*time.Hour, time.Hour, 500)
		events := answers(limits.Key{Provider: "yahoo", Source: "192.0.2.1"}, 0, w.now.Add(-4*time.Hour), w.now.Add(-3*time.Hour), 3, taxonomy.OK)
		for i := range events {
			events[i].Tenant, events[i].Job, events[i].HoldExempt = tenant, "resets", n == 0 || i == 0
		}
		w.store(t, events)
	}
	w.delivered(t, "yahoo", "rest", "r", "rest.test", 5*time.Hour, 5_000_000)
	if first := mustRun(t, w.holds(limits.Active).Run); first.Changes != 2 {
		t.Errorf("%+v, want two changes", first)
	}
	if again := mustRun(t, w.holds(limits.Active).Run); again.Changes != 0 {
		t.Errorf("the next run: %+v, want none", again)
	}
	var got []string
	w.scan(t, "SELECT groupArray(of) FROM (SELECT concat(tenant, ' ', toString(status)) AS of FROM holds FINAL ORDER BY id)", &got)
	equal(t, "holds", got, []string{"bank exempt", "shop held"})
	w.gauge(t, google, 110, 0)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if d := w.document(t); len(d.Holds) != 1 || d.Holds[0].Tenant != "shop" {
		t.Errorf("the document holds %+v, want the shop's mail", d.Holds)
	}
}

// The operator's system is told of each row of limit_log, signed, once where it answers.
func testChangeWebhook(t *testing.T, w *world) {
	var mu sync.Mutex
	var got []webhook.Change
	status := http.StatusServiceUnavailable
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var c webhook.Change
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || r.Header.Get(webhook.HeaderSignature) == "" || !strings.HasPrefix(r.Header.Get(webhook.HeaderKey), "limit/") {
			t.Errorf("%v, headers %v", err, r.Header)
		}
		if status == http.StatusOK {
			got = append(got, c)
		}
		rw.WriteHeader(status)
	}))
	defer server.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(uuid.NewString()), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := webhook.New(server.URL, secret, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	job := &jobs.ChangeWebhook{Conn: w.conn, Client: client, Endpoint: webhook.Endpoint(server.URL), Log: slog.New(slog.DiscardHandler), Version: "test"}
	mustRun(t, job.Run) // tells from here on
	w.overload(t, google)
	mustRun(t, w.throttle(t, limits.Active).Run)
	if down := mustRun(t, job.Run); down.Advised != 1 || down.Changes != 0 {
		t.Errorf("while the endpoint is down: %+v", down)
	}
	mu.Lock()
	status = http.StatusOK
	mu.Unlock()
	w.exec(t, "INSERT INTO webhook_deliveries SELECT * REPLACE (version + 1 AS version, now64(6) - INTERVAL 1 SECOND AS next_at) FROM webhook_deliveries FINAL")
	for range 2 {
		mustRun(t, job.Run)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 1 || got[0].Type != "limit-change" || got[0].Rule != "BACKOFF" || got[0].Key != google.String() || got[0].Actor != "loop" || got[0].RateOld != 110 {
		t.Errorf("told %+v, want the decrease once", got)
	}
}

// More changes than one run can tell are told by the next ones, though the watermark moves meanwhile. Complaints
// that go to the same endpoint are none of this job's.
func testManyChanges(t *testing.T, w *world) {
	var told atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Add(1) }))
	defer server.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(uuid.NewString()), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := webhook.New(server.URL, secret, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	job := &jobs.ChangeWebhook{Conn: w.conn, Client: client, Endpoint: webhook.Endpoint(server.URL), Log: slog.New(slog.DiscardHandler), Version: "test"}
	mustRun(t, job.Run)
	const changes = 500
	w.exec(t, fmt.Sprintf("INSERT INTO limit_log (id, ts, provider, source, epoch, kind, rule_id) SELECT concat('google/192.0.2.1@', toString(number)), now64(6), 'google', '192.0.2.1', number, 'change', 'BACKOFF' FROM numbers(%d)", changes))
	w.exec(t, "INSERT INTO webhook_deliveries (endpoint, event_id, event_time, status, next_at) VALUES ('"+job.Endpoint+"', 'n1/00000000-0000-4000-8000-000000000001/7', now64(6), 'waiting', now64(6))")
	first := mustRun(t, job.Run)
	w.exec(t, "INSERT INTO job_runs SELECT * REPLACE (toUUID('00000000-0000-4000-8000-000000000002') AS run_id, data_to + INTERVAL 1 HOUR AS data_to, generation + 1 AS generation, started_at + INTERVAL 1 SECOND AS started_at) FROM job_runs FINAL WHERE job = 'change-webhook' ORDER BY started_at DESC LIMIT 1")
	second := mustRun(t, job.Run)
	if first.Changes+second.Changes != changes || told.Load() != changes || second.Changes == 0 {
		t.Errorf("%d and %d changes were told in %d posts, want %d over two runs", first.Changes, second.Changes, told.Load(), changes)
	}
}

// testNewNode: a node is told that the loop is active before it sends anything, or the first replies would
// put its queues into backoff mode.
func testNewNode(t *testing.T, w *world) {
	w.exec(t, "INSERT INTO nodes (node, seen_at) SELECT 'new', now64(6) UNION ALL SELECT 'gone', now64(6) - INTERVAL 1 HOUR")
	mustRun(t, w.throttle(t, limits.Active).Run)
	if d := w.document(t); d.ModeAt("anybody") != limits.Active {
		t.Errorf("the document says %+v", d)
	}
	var nodes []string
	w.scan(t, "SELECT groupArray(node) FROM leases", &nodes)
	if !slices.Equal(nodes, []string{"new"}) {
		t.Errorf("nodes with a document are %v, want the new one", nodes)
	}
}
