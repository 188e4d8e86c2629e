//go:build unix

package engine_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"carom/schemas/warehouse/chtest"
)

// BenchmarkInsert sends batches of 10,000 rows of 16 columns as FORMAT Native, the way the node
// agent does, from one client.
func BenchmarkInsert(b *testing.B) {
	server := chtest.Start(b)
	post := func(query, body string) string {
		b.Helper()
		request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL()+"/?query="+url.QueryEscape(query), strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		got := fetchAll(b, request)
		if got.status != http.StatusOK {
			b.Fatalf("%s: %s", query, got.body)
		}
		return got.body
	}
	const columns = `number AS seq, now64(6) AS at, toLowCardinality(concat('provider', toString(number % 50))) AS provider,
		toLowCardinality('queue/vmta') AS queue, concat('user', toString(number), '@example.com') AS recipient, 'example.com' AS domain,
		toIPv6('2001:db8::1') AS source, generateUUIDv4() AS id, toUInt16(250) AS code, '2.0.0' AS enhanced,
		'250 2.0.0 Ok: queued as 4fWq2M3xYz' AS reply, map('x-job', 'j1') AS headers, ['example.com'] AS domains, toFloat64(0.25) AS seconds,
		toUInt32(1200) AS size, toUInt8(1) AS attempt`
	post("CREATE TABLE events ENGINE = MergeTree ORDER BY (provider, seq) AS SELECT "+columns+" FROM numbers(0)", "")
	const rows = 10_000
	block := post("SELECT "+columns+" FROM numbers(10000) FORMAT Native SETTINGS max_block_size = 10000", "")
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		post("INSERT INTO events FORMAT Native", block)
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
