package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// BenchmarkLimits measures what a node's question for new limits costs ClickHouse where there are none, which is
// nearly always: of 100 nodes with 50 keys each and a history of hand-outs. At one question a second and node,
// engine-µs/question is the share of a core that 100 nodes take, in hundredths of a percent.
func BenchmarkLimits(b *testing.B) {
	server, url := chtest.StartWithSchema(b)
	conn, err := warehouse.Open(b.Context(), url, warehouse.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	exec(b, conn, `INSERT INTO leases (node, generation, provider, source, issued_at, ttl_seconds, epoch, rate, connections, messages_per_connection)
		SELECT concat('node', toString(n)), g, if(number = 0, '', concat('provider', toString(number))), if(number = 0, '', '192.0.2.1'), now64(6) - toIntervalSecond(60 * (200 - g)), 600, 1, 10, 4, 20
		FROM numbers(51) ARRAY JOIN range(100) AS n ARRAY JOIN range(1, 201) AS g`)
	f := newFeed(Options{Node: "node7", Feed: b.TempDir()}, conn, logger(b))
	if err := f.limits(b.Context()); err != nil || f.generation.Load() != 200 {
		b.Fatalf("generation %d, %v; want 200", f.generation.Load(), err)
	}
	before := cpuOf(b, server.PID())
	for b.Loop() {
		if err := f.limits(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuOf(b, server.PID())-before).Microseconds())/float64(b.N), "engine-µs/question")
}

// cpuOf returns the CPU time that a process has used; proc(5).
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		b.Skipf("the CPU time of another process is read from /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var ticks int64
	for _, field := range strings.Fields(rest)[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(fmt.Errorf("%s: %w", stat, err))
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
