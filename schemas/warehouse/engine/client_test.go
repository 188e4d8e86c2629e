//go:build unix

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/schemas/warehouse/chtest"
)

// compressions are those that carom's configuration offers, and gzip for the HTTP path.
var compressions = map[string]*clickhouse.Compression{
	"none": nil,
	"lz4":  {Method: clickhouse.CompressionLZ4},
	"zstd": {Method: clickhouse.CompressionZSTD},
	"gzip": {Method: clickhouse.CompressionGZIP, Level: 3},
}

func withCompression(c *clickhouse.Compression) func(*clickhouse.Options) {
	return func(o *clickhouse.Options) { o.Compression = c }
}

// row has a column of each type that carom's tables use, and some that they may come to use.
type row struct {
	ID       uint64              `ch:"id"`
	Small    uint8               `ch:"small"`
	Signed   int32               `ch:"signed"`
	Text     string              `ch:"text"`
	Low      string              `ch:"low"`
	LowNull  *string             `ch:"low_null"`
	Fixed    string              `ch:"fixed"`
	Flag     bool                `ch:"flag"`
	Ratio    float64             `ch:"ratio"`
	At       time.Time           `ch:"at"`
	Day      time.Time           `ch:"day"`
	Kind     string              `ch:"kind"`
	Headers  map[string]string   `ch:"headers"`
	Domains  []string            `ch:"domains"`
	Low2     []string            `ch:"low_list"`
	Counts   map[string][]uint64 `ch:"counts"`
	Maybe    *int64              `ch:"maybe"`
	MaybeAt  *time.Time          `ch:"maybe_at"`
	IP       net.IP              `ch:"ip"`
	IPv4     net.IP              `ch:"ipv4"`
	UUID     uuid.UUID           `ch:"uuid"`
	Nested   []string            `ch:"n.a"`
	NestedIP []uint8             `ch:"n.b"`
}

const rowsTable = `CREATE TABLE rows (
	id UInt64, small UInt8, signed Int32, text String, low LowCardinality(String), low_null LowCardinality(Nullable(String)),
	fixed FixedString(4), flag Bool, ratio Float64, at DateTime64(6, 'UTC'), day Date, kind Enum8('received' = 1, 'delivered' = 2),
	headers Map(String, String), domains Array(String), low_list Array(LowCardinality(String)), counts Map(LowCardinality(String), Array(UInt64)),
	maybe Nullable(Int64), maybe_at Nullable(DateTime64(6, 'UTC')), ip IPv6, ipv4 IPv4, uuid UUID, n Nested(a String, b UInt8)
) ENGINE = MergeTree ORDER BY id`

func sampleRow(i int) row {
	r := row{
		ID: uint64(i), Small: uint8(i), Signed: int32(-i), Text: fmt.Sprintf("text %d \x00\n'\\", i), Low: "provider" + strconv.Itoa(i%300),
		Fixed: fmt.Sprintf("%04d", i%10000), Flag: i%2 == 0, Ratio: float64(i) / 3,
		At:  time.Date(2026, 7, 1, 12, 30, 15, 123456000, time.UTC).Add(time.Duration(i) * time.Microsecond),
		Day: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), Kind: []string{"received", "delivered"}[i%2],
		Headers: map[string]string{"x-job": strconv.Itoa(i)}, Domains: []string{"a.example", "b.example"}[:i%3%3%2+1],
		Low2: []string{"x", "y"}, Counts: map[string][]uint64{"k": {uint64(i), 2}},
		IP: netip.MustParseAddr("2001:db8::" + strconv.FormatInt(int64(i%65536), 16)).AsSlice(), IPv4: net.IPv4(192, 0, 2, byte(i)).To4(),
		UUID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(strconv.Itoa(i))), Nested: []string{"p", "q"}, NestedIP: []uint8{1, 2},
	}
	if i%3 == 0 {
		n, at, low := int64(i), r.At, "set"
		r.Maybe, r.MaybeAt, r.LowNull = &n, &at, &low
	}
	return r
}

func TestTypesRoundTrip(t *testing.T) {
	server := chtest.Start(t)
	for name, compression := range compressions {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			conn := server.Conn(t, withCompression(compression))
			if err := conn.Exec(ctx, "DROP TABLE IF EXISTS rows"); err != nil {
				t.Fatal(err)
			}
			if err := conn.Exec(ctx, rowsTable); err != nil {
				t.Fatal(err)
			}
			const n = 1000
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO rows")
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				r := sampleRow(i)
				if err := batch.AppendStruct(&r); err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			rows, err := conn.Query(ctx, "SELECT * FROM rows ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			read := 0
			for ; rows.Next(); read++ {
				var got row
				if err := rows.ScanStruct(&got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(sampleRow(read), got, cmp.Comparer(net.IP.Equal)); diff != "" {
					t.Fatalf("row %d (-want +got):\n%s", read, diff)
				}
			}
			if err := rows.Err(); err != nil || read != n {
				t.Errorf("read %d rows, %v; want %d", read, err, n)
			}
		})
	}
}

func TestOtherTypes(t *testing.T) {
	conn := chtest.Start(t).Conn(t)
	rows, err := conn.Query(t.Context(), `SELECT toUInt128(5), toInt256(-7), toDecimal64(1.5, 3), toDate32('2026-01-01'), now(),
		(1, 'a')::Tuple(x UInt8, y String), [[1], [2, 3]], toFloat32(0.5), CAST('b', 'Enum16(\'a\' = 1, \'b\' = 2)'),
		NULL, [toNullable(1), NULL], '1.2.3.4'::IPv4, toIntervalDay(3), toLowCardinality(toUInt8(3)) FROM numbers(3)`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil || n != 3 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestParameters(t *testing.T) {
	conn := chtest.Start(t).Conn(t)
	ctx := t.Context()
	at := time.Date(2026, 7, 1, 1, 2, 3, 456789000, time.UTC)
	for _, tc := range []struct {
		name, sql string
		args      []any
		want      string
	}{
		{"string", "SELECT {s:String}", []any{clickhouse.Named("s", `it's "\ x`)}, `it's "\ x`},
		{"control characters", "SELECT {s:String}", []any{clickhouse.Named("s", "a\tb\nc\x00")}, "a\tb\nc\x00"},
		{"number", "SELECT toString({n:UInt64} + 1)", []any{clickhouse.Named("n", uint64(41))}, "42"},
		{"array", "SELECT toString(arrayStringConcat({a:Array(String)}, '|'))", []any{clickhouse.Named("a", []string{"x'", "y"})}, "x'|y"},
		{"time", "SELECT toString({t:DateTime64(6, 'UTC')})", []any{clickhouse.Named("t", at)}, "2026-07-01 01:02:03.456789"},
		{"null", "SELECT toString({n:Nullable(UInt8)} IS NULL)", []any{clickhouse.Named("n", nil)}, "1"},
		{"identifier", "SELECT toString(count()) FROM {d:Identifier}.{t:Identifier}", []any{clickhouse.Named("d", "system"), clickhouse.Named("t", "one")}, "1"},
		{"bound by the client", "SELECT ?", []any{"x'y"}, "x'y"},
		{"an attack stays text", "SELECT {s:String}", []any{clickhouse.Named("s", "'; DROP TABLE t; --")}, "'; DROP TABLE t; --"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got string
			if err := conn.QueryRow(ctx, tc.sql, tc.args...).Scan(&got); err != nil || got != tc.want {
				t.Errorf("%s = %q, %v, want %q", tc.sql, got, err, tc.want)
			}
		})
	}
	if err := conn.Exec(ctx, "CREATE TABLE p (a UInt64, s String) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(ctx, "INSERT INTO p SELECT {n:UInt64}, {s:String}", clickhouse.Named("n", 3), clickhouse.Named("s", "three")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(ctx, "ALTER TABLE p DELETE WHERE a = {n:UInt64} SETTINGS mutations_sync = 2", clickhouse.Named("n", 3)); err != nil {
		t.Fatal(err)
	}
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM p").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v, want 0", n, err)
	}
}

func TestSettingsDoNotStick(t *testing.T) {
	conn := chtest.Start(t, "--connections", "4").Conn(t, func(o *clickhouse.Options) {
		o.Settings = clickhouse.Settings{"max_block_size": 4321, "max_execution_time": 60}
	})
	setting := func(ctx context.Context, name string) string {
		t.Helper()
		var value string
		if err := conn.QueryRow(ctx, "SELECT toString(getSetting({name:String}))", clickhouse.Named("name", name)).Scan(&value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	with := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 1234, "join_use_nulls": 1}))
	for _, tc := range []struct {
		ctx  context.Context
		name string
		want string
	}{
		{t.Context(), "max_block_size", "4321"},
		{with, "max_block_size", "1234"},
		{with, "join_use_nulls", "true"},
		{t.Context(), "max_block_size", "4321"},
		{t.Context(), "join_use_nulls", "false"},
	} {
		if got := setting(tc.ctx, tc.name); got != tc.want {
			t.Errorf("%s = %s, want %s", tc.name, got, tc.want)
		}
	}
	// Settings of the connection go with every kind of statement.
	for _, sql := range []string{
		"CREATE DATABASE IF NOT EXISTS other",
		"CREATE TABLE other.t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS index_granularity = 1024",
		"CREATE MATERIALIZED VIEW other.v ENGINE = MergeTree ORDER BY a AS SELECT a FROM other.t",
		"ALTER TABLE other.t ADD COLUMN b UInt8 DEFAULT 1",
		"INSERT INTO other.t (a) VALUES (1), (2)",
		"DELETE FROM other.t WHERE a = 1",
		"OPTIMIZE TABLE other.t FINAL",
		"RENAME TABLE other.t TO other.u",
		"TRUNCATE TABLE other.u",
		"SYSTEM FLUSH LOGS",
		"DROP DATABASE other",
	} {
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestClientSeesExceptions(t *testing.T) {
	server := chtest.Start(t)
	for name, compression := range compressions {
		t.Run(name, func(t *testing.T) {
			conn := server.Conn(t, withCompression(compression))
			check := func(name string, err error, code int32, codeName string) {
				t.Helper()
				var exception *clickhouse.Exception
				if !errors.As(err, &exception) || exception.Code != code || exception.CodeName != codeName {
					t.Errorf("%s: %v, want code %d (%s)", name, err, code, codeName)
				}
			}
			_, err := conn.Query(t.Context(), "SELECT * FROM nope")
			check("query", err, 60, "UNKNOWN_TABLE")
			check("exec", conn.Exec(t.Context(), "CREATE TABLE x (a Nope) ENGINE = Memory"), 50, "UNKNOWN_TYPE")
			_, err = conn.PrepareBatch(t.Context(), "INSERT INTO nope")
			check("batch", err, 60, "UNKNOWN_TABLE")

			rows, err := conn.Query(t.Context(), failsLate)
			if err == nil {
				for rows.Next() {
				}
				err = rows.Err()
			}
			check("in mid-stream", err, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO")
		})
	}
	t.Run("status", func(t *testing.T) {
		_, err := server.Conn(t).Query(t.Context(), "SELECT * FROM nope")
		var httpError *clickhouse.HTTPError
		if !errors.As(err, &httpError) || httpError.StatusCode != 404 {
			t.Errorf("%v, want a HTTPError with status 404", err)
		}
	})
}

// until polls condition, which asks the engine itself, for at most ten seconds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

func running(t *testing.T, conn driver.Conn, part string) uint64 {
	t.Helper()
	var n uint64
	err := conn.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE position(query, {part:String}) > 0 AND position(query, 'system.processes') = 0",
		clickhouse.Named("part", part)).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// oneRowBlocks makes each row of an insert a block of its own.
var oneRowBlocks = clickhouse.Settings{"max_insert_block_size": 1, "min_insert_block_size_rows": 1, "min_insert_block_size_bytes": 1}

func TestCancelEndsTheStatement(t *testing.T) {
	server := chtest.Start(t)
	conn := server.Conn(t)
	for _, sql := range []string{
		"CREATE TABLE sink (a UInt64) ENGINE = Null",
		"CREATE TABLE slow (a UInt64, b UInt8 DEFAULT sleepEachRow(1)) ENGINE = Memory",
	} {
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ name, sql string }{
		{"query without a result yet", "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"},
		{"streaming", "SELECT number FROM numbers(1000000000000)"},
		{"result in memory", "SELECT sum(number) AS s FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number)) FORMAT JSON"},
		{"insert select", "INSERT INTO sink SELECT number FROM numbers(1000000000000) WHERE sipHash64(number) = 1"},
		{"insert", "INSERT INTO slow (a) VALUES " + strings.Repeat("(1), ", 30) + "(2)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(clickhouse.Context(t.Context(), clickhouse.WithSettings(oneRowBlocks)))
			defer cancel()
			done := make(chan error, 1)
			go func() {
				rows, err := conn.Query(ctx, tc.sql)
				if err == nil {
					for rows.Next() {
					}
					err = rows.Err()
				}
				done <- err
			}()
			part := tc.sql[:16]
			until(t, "the statement runs", func() bool { return running(t, conn, part) == 1 })
			cancel()
			if err := <-done; err == nil {
				t.Error("the client got no error")
			}
			until(t, "the statement has ended", func() bool { return running(t, conn, part) == 0 })
		})
	}
}

func TestDeduplicationToken(t *testing.T) {
	server := chtest.Start(t)
	conn := server.Conn(t, withCompression(compressions["lz4"]))
	ctx := t.Context()
	for _, sql := range []string{
		"CREATE TABLE src (node LowCardinality(String), seq UInt64) ENGINE = MergeTree PARTITION BY node ORDER BY seq SETTINGS non_replicated_deduplication_window = 1000",
		"CREATE TABLE agg (k UInt64, n UInt64) ENGINE = SummingMergeTree ORDER BY k SETTINGS non_replicated_deduplication_window = 1000",
		"CREATE MATERIALIZED VIEW agg_mv TO agg AS SELECT seq % 7 AS k, count() AS n FROM src GROUP BY k",
	} {
		if err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	send := func(token string, from, to int) {
		t.Helper()
		settings := clickhouse.Settings{"insert_deduplication_token": token, "deduplicate_blocks_in_dependent_materialized_views": 1}
		batch, err := conn.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), "INSERT INTO src (node, seq)")
		if err != nil {
			t.Fatal(err)
		}
		for i := from; i < to; i++ {
			if err := batch.Append([]string{"n1", "n2"}[i%2], uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, want uint64) {
		t.Helper()
		var src, distinct, agg uint64
		if err := conn.QueryRow(ctx, "SELECT count(), uniqExact(seq), (SELECT sum(n) FROM agg) FROM src").Scan(&src, &distinct, &agg); err != nil {
			t.Fatal(err)
		}
		if src != want || distinct != want || agg != want {
			t.Errorf("%s: %d rows, %d of them distinct, %d in the view; want %d each", what, src, distinct, agg, want)
		}
	}
	send("n/1-1000", 0, 1000)
	check("once", 1000)
	send("n/1-1000", 0, 1000)
	check("the same batch again", 1000)
	send("n/1001-2000", 1000, 2000)
	check("the next batch", 2000)
	// Many blocks in one insert, and again after a crash.
	var text strings.Builder
	for i := 2000; i < 52000; i++ {
		fmt.Fprintf(&text, "n%d\t%d\n", i%2, i)
	}
	many := func() {
		t.Helper()
		mustPost(t, server.URL()+"/?insert_deduplication_token=n/2001-52000&max_insert_block_size=1000&min_insert_block_size_rows=1"+
			"&min_insert_block_size_bytes=1&input_format_parallel_parsing=0&query=INSERT+INTO+src+FORMAT+TSV", text.String())
	}
	mustPost(t, server.URL(), "SYSTEM STOP MERGES src")
	many()
	check("many blocks", 52000)
	var parts uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.parts WHERE table = 'src' AND active").Scan(&parts); err != nil || parts < 100 {
		t.Errorf("%d parts, %v, want 100 of the last insert", parts, err)
	}
	many()
	check("many blocks again", 52000)
	server.Kill()
	server.Restart(t)
	conn = server.Conn(t)
	many()
	check("again after kill -9", 52000)
}

func TestParallelClients(t *testing.T) {
	server := chtest.Start(t)
	setup := server.Conn(t)
	if err := setup.Exec(t.Context(), "CREATE TABLE par (client UInt8, n UInt64) ENGINE = MergeTree ORDER BY (client, n)"); err != nil {
		t.Fatal(err)
	}
	const clients, batches, size = 4, 10, 500
	var group sync.WaitGroup
	for client := range clients {
		conn := server.Conn(t)
		group.Go(func() {
			for b := range batches {
				batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO par")
				if err != nil {
					t.Errorf("client %d: %v", client, err)
					return
				}
				for i := range size {
					if err := batch.Append(uint8(client), uint64(b*size+i)); err != nil {
						t.Errorf("client %d: %v", client, err)
						return
					}
				}
				if err := batch.Send(); err != nil {
					t.Errorf("client %d: %v", client, err)
					return
				}
				var n, last uint64
				if err := conn.QueryRow(t.Context(), "SELECT count(), max(n) FROM par WHERE client = ?", uint8(client)).Scan(&n, &last); err != nil {
					t.Errorf("client %d: %v", client, err)
				} else if want := uint64((b + 1) * size); n != want || last != want-1 {
					t.Errorf("client %d: %d rows up to %d after %d", client, n, last, want)
				}
				if _, err := conn.Query(t.Context(), "SELECT * FROM nope"); err == nil {
					t.Errorf("client %d: no error", client)
				}
			}
		})
	}
	group.Wait()
}

func TestFullQueue(t *testing.T) {
	server := chtest.Start(t, "--connections", "4", "--max-queued", "1")
	conn := server.Conn(t, func(o *clickhouse.Options) { o.MaxOpenConns = 8 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// One runs, one waits, and no more have room. Whichever gets there first.
	const slow = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 2"
	errs := make(chan error, 3)
	for range 3 {
		go func() { errs <- conn.Exec(ctx, slow) }()
	}
	var exception *clickhouse.Exception
	if err := <-errs; !errors.As(err, &exception) || exception.Code != 202 {
		t.Errorf("%v, want code 202", err)
	}
	// The control connection is not concerned.
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("a cancelled statement gave no error")
		}
	}
	until(t, "the connection for reads is free", func() bool {
		var one uint8
		return conn.QueryRow(t.Context(), "SELECT toUInt8(2)").Scan(&one) == nil
	})
}

// residentBytes returns how much memory process pid has, without the pages of files it maps.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("needs /proc to see how much memory the engine takes: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if kilobytes, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kilobytes), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Skip("needs RssAnon in /proc/pid/status")
	return 0
}

func TestLargeResultInLittleMemory(t *testing.T) {
	server := chtest.Start(t)
	conn := server.Conn(t)
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := residentBytes(t, server.PID())
	const n = 200_000 // of 4000 bytes: 800 MB
	rows, err := conn.Query(t.Context(), "SELECT number, repeat('x', 3992) AS s FROM numbers(200000) SETTINGS max_block_size = 5000")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var read, peak int64
	for rows.Next() {
		if read++; read%20000 == 0 {
			peak = max(peak, residentBytes(t, server.PID()))
		}
	}
	if err := rows.Err(); err != nil || read != n {
		t.Fatalf("read %d rows, %v", read, err)
	}
	if grown := peak - before; grown > 300<<20 {
		t.Errorf("the engine grew by %d MB for a result of 800 MB", grown>>20)
	}
}

func TestLargeInsert(t *testing.T) {
	server := chtest.Start(t)
	conn := server.Conn(t, withCompression(compressions["lz4"]))
	ctx := t.Context()
	if err := conn.Exec(ctx, "CREATE TABLE large (a UInt64, s String) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO large")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("y", 200)
	const n = 300_000 // 60 MB
	for i := range n {
		if err := batch.Append(uint64(i), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	var count, length uint64
	if err := conn.QueryRow(ctx, "SELECT count(), sum(length(s)) FROM large").Scan(&count, &length); err != nil || count != n || length != n*200 {
		t.Errorf("%d rows, %d bytes, %v", count, length, err)
	}
}
