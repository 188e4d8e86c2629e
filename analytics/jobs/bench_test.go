package jobs

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"carom/analytics/policy"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// BenchmarkThrottle measures one run over keys of 20 nodes: half an hour of answers, of which some are refusals.
// It reports the CPU time of a run here and in the engine, and the largest memory of this process, which is that
// of the analytics (design: 5,000 keys in 2 s and 200 MB).
func BenchmarkThrottle(b *testing.B) {
	for _, keys := range []int{1000, 5000} {
		b.Run(strconv.Itoa(keys), func(b *testing.B) { benchmarkThrottle(b, keys) })
	}
}

func benchmarkThrottle(b *testing.B, keys int) {
	b.Helper()
	server, rawURL := chtest.StartWithSchema(b)
	conn, err := warehouse.Open(b.Context(), rawURL, warehouse.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	exec := func(query string) {
		b.Helper()
		if err := conn.Exec(b.Context(), query); err != nil {
			b.Fatal(err)
		}
	}
	before := shortTerm.limit
	shortTerm.limit = 10 * time.Minute // the machine may be busy; what is measured is the time of the CPUs
	defer func() { shortTerm.limit = before }()
	now := time.Now().Truncate(10 * time.Second).Unix()
	const key = "concat('provider', toString(number % 250)), concat('192.0.2.', toString(intDiv(number, 250)))"
	exec(fmt.Sprintf(`INSERT INTO k10s (provider, source, epoch, ts, ok, usr, rate, max_open, min_msgc_idx, sample_reply, last_arrived)
		SELECT %s, 0, %d - 10 * b, 90 + number %% 20, 1, if(number %% 100 = 7 AND b < 6, 60, 0), 4, 4294967295, if(number %% 100 = 7 AND b < 6, '421 4.7.28 unusual rate', ''), %[2]d - 10 * b + 11
		FROM numbers(%d) ARRAY JOIN range(1, 180) AS b`, key, now, keys))
	exec(fmt.Sprintf(`INSERT INTO k1m (provider, source, tenant, ts, ok, usr) SELECT %s, 'shop', %d - 60 * b, 700, 6 FROM numbers(%d) ARRAY JOIN range(1, 61) AS b`, key, now, keys))
	exec(fmt.Sprintf(`INSERT INTO gauges (node, incarnation, seq, format_version, time, provider, source, backlog, open_connections, throttle_bound, local_factor, static_rate, static_connections, effective_rate)
		SELECT concat('node', toString(intDiv(number, %d))), generateUUIDv4(), number, 1, now64(6) + INTERVAL 1 MINUTE - toIntervalSecond(10 * g + 1), %s, 5000, 4, 1, 1, 11, 20, 11 FROM numbers(%d) ARRAY JOIN range(12) AS g`, keys/20, key, keys))
	p := policy.Default()
	p.Mode = limits.Active
	job := &Throttle{Conn: conn, Policy: p, Log: slog.New(slog.DiscardHandler), Period: 10 * time.Second, Version: "test"}
	var here, there, runs time.Duration
	b.ReportAllocs()
	for b.Loop() {
		ours, engine := cpuOf(b, os.Getpid()), cpuOf(b, server.PID())
		result, err := job.Run(b.Context())
		if err != nil || result.Keys != keys {
			b.Fatalf("%+v, %v; want %d keys", result, err, keys)
		}
		here, there, runs = here+cpuOf(b, os.Getpid())-ours, there+cpuOf(b, server.PID())-engine, runs+1
	}
	b.ReportMetric(here.Seconds()/float64(runs), "client-s/run")
	b.ReportMetric(there.Seconds()/float64(runs), "engine-s/run")
	b.ReportMetric(peak(b), "MB-peak")
}

// cpuOf returns the CPU time that a process has used; proc(5).
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Skipf("the CPU time of a process is read from /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var ticks int64
	for _, field := range strings.Fields(rest)[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// peak returns the largest resident memory that this process has had, in MB; 0 where Linux does not say.
func peak(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}
