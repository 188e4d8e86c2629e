package warehouse_test

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// BenchmarkInsert sends events in batches as the agent does and reports the CPU time of a row in
// the engine and in the client, in microseconds. Half of the rows are of accepted recipients and
// half of delivered ones, each of a message of its own.
func BenchmarkInsert(b *testing.B) {
	for _, rows := range []int{1_000, 10_000, 50_000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			server, url := chtest.StartWithSchema(b)
			conn, err := warehouse.Open(b.Context(), url, warehouse.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			events, block := benchEvents(rows), warehouse.Events.NewBlock()
			var seq uint64
			engine, client := cpuOf(b, server.PID()), cpuOf(b, os.Getpid())
			for b.Loop() {
				block.Reset()
				for i := range events {
					seq++
					events[i].Seq, events[i].Time = seq, time.Now()
					events[i].MessageID = event.ID{0: 1, 8: byte(seq >> 25), 9: byte(seq >> 17), 10: byte(seq >> 9), 11: byte(seq >> 1)}
					if err := block.Append(&events[i]); err != nil {
						b.Fatal(err)
					}
				}
				if err := warehouse.Events.InsertBlock(b.Context(), conn, strconv.FormatUint(seq, 10), block); err != nil {
					b.Fatal(err)
				}
			}
			perRow := 1e6 / float64(rows) / float64(b.N)
			b.ReportMetric((cpuOf(b, server.PID())-engine).Seconds()*perRow, "engine-µs/row")
			b.ReportMetric((cpuOf(b, os.Getpid())-client).Seconds()*perRow, "client-µs/row")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchEvents(n int) []event.Event {
	events := make([]event.Event, n)
	for i := range events {
		user := i / 2
		e := event.Event{
			Node: "n1", Incarnation: event.ID{0: 9}, FormatVersion: 1, Kind: event.Received, Recipients: 1,
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
		events[i] = e
	}
	return events
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
