package events

import (
	"errors"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// small is a history that a test can wait for: planning the statements takes most of the time.
func small() Options {
	return Options{Rows: 40_000, Days: 2, Nodes: 2, Seed: 5, Until: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC), NoRollUps: true}
}

func database(t *testing.T, server *chtest.Server, name string) driver.Conn {
	t.Helper()
	url := server.URL() + "/" + name
	if _, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "test"); err != nil {
		t.Fatal(err)
	}
	conn, err := Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// truths are questions that every history answers with 0.
var truths = []struct{ name, sql string }{
	{"gaps, duplicates and late beginnings of a node", "SELECT toUInt64(sum(gaps + duplicates + before_first)) FROM completeness"},
	{"limits that events name and nobody decided", "SELECT uniqExact(limit_reason) FROM events WHERE limit_reason != '' AND limit_reason NOT IN (SELECT id FROM limit_log)"},
	{"cuts without refusals, or refusals without one", "SELECT count() FROM limit_log WHERE (p > 0.2) != (rule_id = 'BACKOFF') OR rule_id = 'BACKOFF' AND empty(sample_replies)"},
	{"configurations that no start and no reload brought", `
SELECT count() FROM (SELECT node, uniqExact(config_hash) AS n FROM events GROUP BY node) AS e
LEFT JOIN (SELECT node, count() AS brought FROM annotations GROUP BY node) AS a USING (node) WHERE n != brought`},
	{"tables of nodes and jobs that have nothing", `
SELECT toUInt64(countIf(n = 0)) FROM (SELECT count() AS n FROM gauges UNION ALL SELECT count() FROM queue_gauges UNION ALL SELECT count() FROM limit_log)`},
	{"more than the largest twenty backlogs and the rest", "SELECT count() FROM (SELECT 1 FROM queue_gauges GROUP BY node, time HAVING count() > 21 OR countIf(queue = '') > 1)"},
	{"indexes and projections that are not there", `
SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'events' AND active AND (secondary_indices_marks_bytes = 0 OR NOT has(projections, 'by_recipient'))`},
	{"events that stand before an earlier one in their log", `
SELECT count() FROM (SELECT time, lagInFrame(time) OVER (PARTITION BY node ORDER BY seq) AS before FROM events) WHERE time < before`},
	{"messages that do not begin with being received or rejected, once", `
SELECT count() FROM
(
    SELECT message_id, argMin(kind, (time, seq)) AS first, countIf(kind IN ('received', 'rejected')) AS begun
    FROM events WHERE kind NOT IN ('complaint', 'remote-bounce', 'remote-status', 'report-consumed', 'queue-deferred') GROUP BY message_id
)
WHERE first NOT IN ('received', 'rejected') OR begun != 1`},
	{"messages with two ends, or something after the end", `
SELECT count() FROM
(
    SELECT message_id, countIf(kind IN ('delivered', 'bounced', 'expired', 'suppressed')) AS ends, argMax(kind, (time, seq)) AS last
    FROM events WHERE kind NOT IN ('complaint', 'remote-bounce', 'remote-status', 'report-consumed', 'queue-deferred') GROUP BY message_id
)
WHERE ends > 1 OR ends = 1 AND last NOT IN ('delivered', 'bounced', 'expired', 'suppressed')`},
	{"messages whose attempts are not 1, 2, 3 and so on", `
SELECT count() FROM
(
    SELECT message_id, arrayMap(pair -> tupleElement(pair, 2), arraySort(groupArray((time, attempt)))) AS attempts
    FROM events WHERE kind IN ('deferred', 'delivered', 'bounced') GROUP BY message_id
)
WHERE attempts != arrayMap(n -> toUInt32(n), range(1, length(attempts) + 1))`},
	{"attempts that say something else of the time since they were received", `
SELECT count() FROM events AS e INNER JOIN (SELECT message_id, time FROM events WHERE kind = 'received') AS r USING (message_id)
WHERE e.kind IN ('deferred', 'delivered', 'bounced', 'expired', 'suppressed') AND e.queued_us != dateDiff('microsecond', r.time, e.time)`},
	{"ids that are not of version 7, or not of the time of acceptance", `
SELECT count() FROM events WHERE kind = 'received' AND (substring(toString(message_id), 15, 1) != '7' OR abs(dateDiff('millisecond', UUIDv7ToDateTime(message_id, 'UTC'), time)) > 1)`},
	{"reports without the delivery that they are about, or before it", `
SELECT count() FROM (SELECT * FROM events WHERE kind IN ('complaint', 'remote-bounce', 'remote-status')) AS r
LEFT JOIN (SELECT message_id, time FROM events WHERE kind = 'delivered') AS d ON d.message_id = r.original_message_id WHERE d.time >= r.time OR d.time = toDateTime64(0, 6)`},
	{"recipients with two keys, or keys with two recipients", `
SELECT toUInt64(uniqExact(recipient, recipient_key) - uniqExact(recipient) + uniqExact(recipient, recipient_key) - uniqExact(recipient_key)) FROM events WHERE recipient != '' AND kind != 'received'`},
	{"mail that came in with a key", "SELECT count() FROM events WHERE kind = 'received' AND recipient_key != ''"},
	{"domains with two providers", "SELECT count() FROM (SELECT recipient_domain FROM events WHERE provider != '' GROUP BY recipient_domain HAVING uniqExact(provider) > 1)"},
	{"replies that their template does not fit", "SELECT count() FROM events WHERE (reply = '') != (reply_template = '') OR substring(reply, 1, 3) != substring(reply_template, 1, 3)"},
	{"attempts without provider, source, category or tenant", `
SELECT count() FROM events WHERE kind IN ('deferred', 'delivered', 'bounced') AND (provider = '' OR source = '' OR category = '' OR tenant = '' OR queue = '' OR mx_host = '' OR code = 0 AND phase = 'final-dot')`},
	{"events outside the time", "SELECT count() FROM events WHERE time < '2026-11-27 12:00:00' OR time >= '2026-11-29 12:00:00'"},
	{"rows of roll-ups, which views would have made", "SELECT count() FROM (SELECT 1 FROM k10s UNION ALL SELECT 1 FROM rollup_1m UNION ALL SELECT 1 FROM reports)"},
}

func TestHistoryIsConsistent(t *testing.T) {
	if testing.Short() {
		t.Skip("planning the statements takes a while: not with -short")
	}
	server := chtest.Start(t)
	conn := database(t, server, "first")
	result, err := Run(t.Context(), conn, small())
	if err != nil {
		t.Fatal(err)
	}
	if low, high := small().Rows*9/10, small().Rows*11/10; result.Rows < low || result.Rows > high {
		t.Errorf("%d rows, want about %d", result.Rows, small().Rows)
	}
	for _, truth := range truths {
		t.Run(truth.name, func(t *testing.T) {
			var n uint64
			if err := conn.QueryRow(t.Context(), truth.sql).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 0 {
				t.Errorf("%d, want none", n)
			}
		})
	}
	for name, tc := range map[string]struct {
		expression string
		least      uint64
		most       uint64
	}{
		"providers": {"uniqExact(provider) - 1", Providers - 5, Providers}, "sources": {"uniqExact(source) - 1", Sources - warmSources, Sources},
		"tenants": {"uniqExact(tenant) - 1", Tenants / 2, Tenants}, "jobs": {"uniqExact(job) - 1", Jobs / 2, Jobs},
		"recipients": {"uniqExact(recipient)", 15_000, 20_000}, "templates": {"uniqExact(reply_template)", 300, Templates + 4},
		"kinds": {"uniqExact(kind)", 10, 12},
	} {
		t.Run(name, func(t *testing.T) {
			var n uint64
			if err := conn.QueryRow(t.Context(), "SELECT toUInt64("+tc.expression+") FROM events").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n < tc.least || n > tc.most {
				t.Errorf("%d, want %d to %d", n, tc.least, tc.most)
			}
		})
	}

	t.Run("the same options make the same rows", func(t *testing.T) {
		again := database(t, server, "second")
		if _, err := Run(t.Context(), again, small()); err != nil {
			t.Fatal(err)
		}
		var want, got uint64
		const sum = "SELECT groupBitXor(cityHash64(toString(tuple(*)))) FROM events"
		if err := errors.Join(conn.QueryRow(t.Context(), sum).Scan(&want), again.QueryRow(t.Context(), sum).Scan(&got)); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("the rows' hash is %x, and was %x", got, want)
		}
	})
	t.Run("a table with rows is refused", func(t *testing.T) {
		_, err := Run(t.Context(), conn, small())
		if _, ok := errors.AsType[*service.ConfigError](err); !ok {
			t.Errorf("error %v, want a ConfigError", err)
		}
		o := small()
		o.Append = true
		if _, err = Run(t.Context(), conn, o); err == nil {
			t.Error("the same history was added twice")
		}
	})
}
