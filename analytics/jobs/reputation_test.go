package jobs_test

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"carom/analytics/jobs"
	"carom/analytics/reputation"
)

// minutes stores answers of a key in k1m, as the view would have made them: one row an hour ago, or at
// another age.
func (w *world) minutes(t *testing.T, provider, source, tenant string, age time.Duration, ok, usr, rate, block uint64) {
	t.Helper()
	if err := w.conn.Exec(t.Context(), `INSERT INTO k1m (ts, provider, source, tenant, ok, usr, rate, block) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		w.now.Add(-age).Truncate(time.Minute), provider, source, tenant, ok, usr, rate, block); err != nil {
		t.Fatal(err)
	}
}

// complaints stores n proven complaints about mail that was delivered age ago.
func (w *world) complaints(t *testing.T, provider, source, tenant string, age time.Duration, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	if err := w.conn.Exec(t.Context(), fmt.Sprintf(`INSERT INTO attributions (node, incarnation, seq, time, kind, recipient_key, proven, message_id, delivered_at, provider, source, tenant, attributed_at)
		SELECT 'n1', generateUUIDv4(), number, now64(6), 'complaint', toString(rand64()), true, generateUUIDv4(), ?, ?, ?, ?, now64(6) FROM numbers(%d)`, n),
		w.now.Add(-age), provider, source, tenant); err != nil {
		t.Fatal(err)
	}
}

func (w *world) reputation() *jobs.Reputation {
	return &jobs.Reputation{Conn: w.conn, Policy: reputation.Default(), Log: slog.New(slog.DiscardHandler), Version: "test"}
}

// rated is a stored score.
type rated struct {
	score, scoreHigh, answers, confidence float64
	band, worst, feedback                 string
	components                            []reputation.Component
}

func one(t *testing.T, all map[[3]string]rated, kind, provider, name string) rated {
	t.Helper()
	r, ok := all[[3]string{kind, provider, name}]
	if !ok {
		t.Fatalf("no score of %s %s %s", kind, provider, name)
	}
	return r
}

// allRated returns the last score of everybody.
func (w *world) allRated(t *testing.T) map[[3]string]rated {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), `SELECT toString(kind), provider, name, score, score_high, n_eff, confidence, band, worst, feedback, components, k, n, r0, r, low, high, sub, fast
		FROM reputation ORDER BY ts`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[[3]string]rated{}
	for rows.Next() {
		var id [3]string
		var r rated
		var words []string
		var k, n, r0, share, low, high, sub []float64
		var fast []bool
		if err := rows.Scan(&id[0], &id[1], &id[2], &r.score, &r.scoreHigh, &r.answers, &r.confidence, &r.band, &r.worst, &r.feedback,
			&words, &k, &n, &r0, &share, &low, &high, &sub, &fast); err != nil {
			t.Fatal(err)
		}
		for i, word := range words {
			r.components = append(r.components, reputation.Component{Name: word, K: k[i], N: n[i], R0: r0[i], R: share[i], Low: low[i], High: high[i], Sub: sub[i], Fast: fast[i]})
		}
		all[id] = r
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within || math.IsNaN(got) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// Complaint rates give the scores of the design, and every row agrees with the formula in SQL and in Go.
func testReputation(t *testing.T, w *world) {
	// So many that the prior is next to nothing, and everything else is perfect.
	const many = 2_000_000
	shares := map[string]struct{ complaints, score float64 }{
		"192.0.2.1": {0.0005, 100}, "192.0.2.2": {0.001, 82}, "192.0.2.3": {0.002, 55}, "192.0.2.4": {0.003, 16}, "192.0.2.5": {0.006, 16},
	}
	for source, tc := range shares {
		w.minutes(t, "yahoo", source, "shop", 5*time.Hour, many, 0, 0, 0)
		w.complaints(t, "yahoo", source, "shop", 5*time.Hour, int(many*tc.complaints))
	}
	w.minutes(t, "google", "192.0.2.1", "shop", 5*time.Hour, 10_000, 0, 0, 0)     // has no feedback loop
	w.minutes(t, "google", "192.0.2.9", "bad", 20*time.Minute, 500, 1000, 0, 0)   // a list that was bought
	w.minutes(t, "google", "192.0.2.9", "bad", 30*time.Hour, 100_000, 500, 0, 0)  // and was well before
	w.minutes(t, "comcast", "192.0.2.7", "shop", 5*time.Hour, 100, 0, 0, 10_000)  // blocked
	w.minutes(t, "orange", "192.0.2.7", "shop", 5*time.Hour, 1000, 0, 9000, 0)    // refused, but in a probe
	w.minutes(t, "tiny", "192.0.2.7", "shop", 5*time.Hour, 10, 0, 0, 0)           // too few
	w.minutes(t, "hush", "192.0.2.1", "shop", 5*24*time.Hour, 1_000_000, 0, 0, 0) // reports stopped
	w.minutes(t, "hush", "192.0.2.1", "shop", 5*time.Hour, 1_000_000, 0, 0, 0)
	w.exec(t, `INSERT INTO attributions (node, incarnation, seq, time, kind, proven, message_id, delivered_at, provider, source, tenant)
		SELECT 'n1', generateUUIDv4(), number, now64(6) - INTERVAL 4 DAY, 'complaint', true, generateUUIDv4(), now64(6) - INTERVAL 5 DAY, 'hush', '192.0.2.1', 'shop' FROM numbers(500)`)
	w.exec(t, `INSERT INTO limit_log (id, ts, provider, source, epoch, kind, rule_id) VALUES ('p', now64(6) - INTERVAL 5 HOUR, 'orange', '192.0.2.7', 4, 'change', 'PROBE')`)
	w.exec(t, `INSERT INTO k10s (ts, provider, source, epoch, ok, rate) VALUES (toStartOfMinute(now() - INTERVAL 5 HOUR), 'orange', '192.0.2.7', 4, 0, 9000)`)
	w.exec(t, `INSERT INTO senders_1h (ts, from_domain, dkim_domain, signature, provider, kind, class, dimension, events) VALUES
		(toStartOfHour(now() - INTERVAL 6 HOUR), 'news.shop.test', 'esp.test', 0, 'yahoo', 'delivered', 'none', 'ok', 5000),
		(toStartOfHour(now() - INTERVAL 6 HOUR), 'news.shop.test', 'shop.test', 1, 'yahoo', 'delivered', 'none', 'ok', 5000),
		(toStartOfHour(now() - INTERVAL 6 HOUR), 'plain.test', 'esp.test', 0, 'yahoo', 'bounced', 'hard', 'user', 900),
		(toStartOfHour(now() - INTERVAL 6 HOUR), 'plain.test', 'esp.test', 0, 'yahoo', 'delivered', 'none', 'ok', 100)`)
	w.exec(t, `INSERT INTO domains_1h (ts, recipient_domain, provider, kind, class, dimension, events) VALUES
		(toStartOfHour(now() - INTERVAL 6 HOUR), 'big.test', 'yahoo', 'delivered', 'none', 'ok', 200), (toStartOfHour(now() - INTERVAL 6 HOUR), 'small.test', 'yahoo', 'delivered', 'none', 'ok', 199)`)
	mustRun(t, w.reputation().Run)

	all := w.allRated(t)
	for source, tc := range shares {
		r := one(t, all, "key", "yahoo", source)
		near(t, "score of yahoo/"+source, r.score, tc.score, 1)
		near(t, "confidence of yahoo/"+source, r.confidence, 1, 0.01)
		if r.feedback != "live" {
			t.Errorf("yahoo's feedback loop is %s", r.feedback)
		}
	}
	p := reputation.Default()
	n := len(all)
	for id, stored := range all {
		name := strings.Join(id[:], " ")
		again := p.Score(stored.components)
		near(t, "score of "+name, stored.score, again.Score, 1e-9)
		near(t, "high score of "+name, stored.scoreHigh, again.ScoreHigh, 1e-9)
		if stored.worst != again.Worst {
			t.Errorf("%s: the worst is %s, Go says %s", name, stored.worst, again.Worst)
		}
		for i, c := range again.Components {
			for what, pair := range map[string][2]float64{"r": {stored.components[i].R, c.R}, "low": {stored.components[i].Low, c.Low}, "high": {stored.components[i].High, c.High}, "sub": {stored.components[i].Sub, c.Sub}} {
				near(t, fmt.Sprintf("%s of %s of %s", what, c.Name, name), pair[0], pair[1], 1e-9)
			}
		}
	}
	if n < 20 {
		t.Fatalf("%d scores", n)
	}

	// The formula of the design in SQL, over the stored k, n and r0.
	var wrong uint64
	w.scan(t, `SELECT countIf(abs(score - 100 * exp(costs / weights)) > 1e-6)
		FROM (
			SELECT kind, provider, name, any(score) AS score, sum(w.2 * log(least(1, greatest(0.01, log(w.4 / r) / log(w.4 / w.3))))) AS costs, sum(w.2) AS weights
			FROM (
				SELECT kind, provider, name, score, w, (one_k + w.1 * one_r0) / (one_n + w.1) AS r
				FROM reputation
				ARRAY JOIN k AS one_k, n AS one_n, r0 AS one_r0,
					arrayMap(c -> multiIf(c = 'complaints', (2000., 0.4, 0.0005, 0.003), c = 'unknown-users', (500., 0.2, 0.005, 0.08), c = 'blocks', (200., 0.25, 0.002, 0.1), (100., 0.15, 0.02, 0.3)), components) AS w
			)
			GROUP BY kind, provider, name
		)`, &wrong)
	if wrong != 0 {
		t.Errorf("%d scores are not what the formula in SQL gives", wrong)
	}

	google := one(t, all, "key", "google", "192.0.2.1")
	if google.feedback != "none" || len(google.components) != 3 || google.components[0].Name == "complaints" {
		t.Errorf("google has no feedback loop, and %+v", google)
	}
	if bad := one(t, all, "tenant", "google", "bad"); bad.worst != "unknown-users" || !bad.components[0].Fast || bad.score > 50 {
		t.Errorf("a list that turned bad in the last hour: %+v", bad)
	}
	if blocked := one(t, all, "key", "comcast", "192.0.2.7"); blocked.worst != "blocks" || blocked.band != "bad" && blocked.band != "low" {
		t.Errorf("a blocked source: %+v", blocked)
	}
	if probed := one(t, all, "key", "orange", "192.0.2.7"); probed.score < 95 {
		t.Errorf("refusals that a probe asked for cost the score: %+v", probed)
	}
	if tiny := one(t, all, "key", "tiny", "192.0.2.7"); tiny.band != "unknown" || tiny.components[0].R0 == p.UnknownUsers.Prior {
		t.Errorf("ten answers: %+v, want an unknown band and the prior of the tail", tiny)
	}
	if hush := one(t, all, "key", "hush", "192.0.2.1"); hush.feedback != "silent" || len(hush.components) != 3 {
		t.Errorf("a feedback loop without reports: %+v, want complaints left out", hush)
	}
	one(t, all, "sender", "", "shop.test")
	if plain := one(t, all, "sender", "", "plain.test"); plain.worst != "unknown-users" {
		t.Errorf("a From domain without an aligned signature: %+v", plain)
	}
	one(t, all, "recipient", "", "big.test")
	var others, notes uint64
	w.scan(t, "SELECT count() FROM reputation WHERE name IN ('small.test', 'esp.test', 'news.shop.test')", &others)
	w.scan(t, "SELECT count() FROM annotations WHERE name = 'feedback-loop' AND has(tags, 'hush')", &notes)
	if others != 0 || notes != 1 {
		t.Errorf("%d scores of domains that have none, %d notes of the silent feedback loop", others, notes)
	}
	// The second run finds the bands of the first, and says nothing again.
	if again := mustRun(t, w.reputation().Run); again.Changes != 0 || again.Keys != n {
		t.Errorf("the second run: %+v, want %d keys and no change of a band", again, n)
	}
	w.scan(t, "SELECT count() FROM annotations WHERE name = 'feedback-loop'", &notes)
	if notes != 1 {
		t.Errorf("%d notes of the silent feedback loop, want 1", notes)
	}
}

// What came of a decrease is written down when its time has come, once.
func testOutcomes(t *testing.T, w *world) {
	w.exec(t, `INSERT INTO limit_log (id, ts, provider, source, epoch, kind, rule_id, rate_new) VALUES
		('a', now64(6) - INTERVAL 2 HOUR, 'google', '192.0.2.1', 1, 'change', 'BACKOFF', 10), ('b', now64(6) - INTERVAL 100 MINUTE, 'google', '192.0.2.1', 2, 'change', 'RECOVER', 15),
		('c', now64(6) - INTERVAL 5 MINUTE, 'google', '192.0.2.1', 3, 'change', 'BACKOFF', 11)`)
	w.minutes(t, "google", "192.0.2.1", "shop", 110*time.Minute, 100, 3, 7, 1)
	w.minutes(t, "google", "192.0.2.1", "shop", 90*time.Minute, 1000, 0, 0, 0)
	w.minutes(t, "google", "192.0.2.1", "shop", 3*time.Hour, 5000, 0, 0, 0) // before
	for range 2 {
		mustRun(t, w.reputation().Run)
	}
	type outcome struct {
		accepted, refused, unknown, changes uint64
		rate                                float64
	}
	for minutes, want := range map[int]outcome{15: {100, 8, 3, 0, 10}, 60: {1100, 8, 3, 1, 15}} {
		var got outcome
		w.scan(t, fmt.Sprintf("SELECT accepted, refused, unknown, changes, rate FROM limit_outcomes WHERE id = 'a' AND after_minutes = %d", minutes),
			&got.accepted, &got.refused, &got.unknown, &got.changes, &got.rate)
		if got != want {
			t.Errorf("after %d minutes: %+v, want %+v", minutes, got, want)
		}
	}
	var n uint64
	if w.scan(t, "SELECT count() FROM limit_outcomes", &n); n != 2 {
		t.Errorf("%d outcomes, want 2", n)
	}
}
