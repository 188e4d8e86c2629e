package ship

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// BenchmarkShip ships a log of half a million events, as an agent does that was away, and reports
// events a second and the CPU time of an event in the agent and in the engine, in microseconds.
func BenchmarkShip(b *testing.B) {
	const count = 500_000
	dir := b.TempDir()
	log, err := seglog.Open(filepath.Join(dir, event.StreamEvent), seglog.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var records [][]byte
	for i := range count {
		if records = append(records, benchEvent(i)); len(records) == 1000 {
			if _, err := log.Append(b.Context(), records...); err != nil {
				b.Fatal(err)
			}
			records = records[:0]
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	for _, rows := range []int{30_000, 50_000, 100_000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			server, url := chtest.StartWithSchema(b)
			conn, err := warehouse.Dial(url, warehouse.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			var took, engine, agent time.Duration
			for n := range b.N {
				e, a, begin := cpuOf(b, server.PID()), cpuOf(b, os.Getpid()), time.Now()
				s, err := New(Options{Dir: dir, Node: fmt.Sprint("n", n), Conn: conn, Log: slog.New(slog.DiscardHandler), BatchRows: rows, BatchBytes: 64 << 20, Once: true})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Run(b.Context()); err != nil {
					b.Fatal(err)
				}
				took += time.Since(begin)
				engine += cpuOf(b, server.PID()) - e
				agent += cpuOf(b, os.Getpid()) - a
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				for _, name := range []string{"event.cursor", "event.pending"} {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						b.Fatal(err)
					}
				}
			}
			events := float64(count) * float64(b.N)
			b.ReportMetric(events/took.Seconds(), "events/s")
			b.ReportMetric(engine.Seconds()*1e6/events, "engine-µs/event")
			b.ReportMetric(agent.Seconds()*1e6/events, "agent-µs/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// benchEvent returns the record of an accepted recipient or, for odd i, of its delivery.
func benchEvent(i int) []byte {
	user := i / 2
	e := event.Event{
		FormatVersion: 1, Kind: event.Received, Recipients: 1, Time: time.Now(), MessageID: event.ID{0: 1, 8: byte(user >> 24), 9: byte(user >> 16), 10: byte(user >> 8), 11: byte(user)},
		MailFrom: "news@shop.example", MailFromDomain: "shop.example", FromDomain: "shop.example",
		Recipient: fmt.Sprintf("user%d@provider%d.example", user, user%20), RecipientDomain: fmt.Sprintf("provider%d.example", user%20),
		RecipientKey: fmt.Sprintf("%032x", user*2654435761), VMTA: "v1", Job: "job-7", Tenant: "shop", SMTPUser: "shop", Listener: "127.0.0.1:2525",
		ClientIP: netip.MustParseAddr("127.0.0.1"), ClientMTA: "feeder.example", Size: 4096, ConfigHash: 77,
	}
	if i%2 == 1 {
		e.Kind, e.Provider, e.Source, e.SourceIP = event.Delivered, e.RecipientDomain, "192.0.2.1", netip.MustParseAddr("192.0.2.1")
		e.Queue, e.EHLO, e.MXHost, e.MXIP = e.RecipientDomain+"/v1", "mta.example", "mx."+e.RecipientDomain, netip.MustParseAddr("198.51.100.7")
		e.Attempt, e.Phase, e.Code, e.Enhanced, e.Reply = 1, event.PhaseFinalDot, 250, "2.0.0", fmt.Sprintf("250 2.0.0 Ok: queued as %X", user)
		e.ReplyTemplate, e.Category, e.Class, e.Dimension = "250 2.0.0 Ok: queued as #", taxonomy.Delivered, taxonomy.None, taxonomy.OK
		e.Queued, e.Transfer, e.Mail, e.FinalDot = 1500*time.Microsecond, 700*time.Microsecond, 200*time.Microsecond, 500*time.Microsecond
		e.ConnectionID, e.MessageOnConn, e.OpenConnections, e.ClassifierVersion = event.ID{0: 5, 15: byte(user)}, uint32(user%100+1), 20, 2 //nolint:gosec // small
	}
	return event.Encode(nil, &e)
}

// cpuOf returns the CPU time that a process has used.
func cpuOf(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			tb.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Skipf("the CPU time of another process is read from /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime; proc(5)
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
