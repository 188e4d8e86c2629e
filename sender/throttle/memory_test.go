package throttle

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkQueueMemory says what a queue with a message rate costs, its share of the maps included.
func BenchmarkQueueMemory(b *testing.B) {
	const queues = 200_000
	for b.Loop() {
		names := make([]string, queues)
		for i := range names {
			names[i] = fmt.Sprint("queue", i)
		}
		th, p := New(0), path("", 1000)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for _, p.Queue = range names {
			connect(th, p)
			th.Disconnect(p)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/queues, "B/queue")
		runtime.KeepAlive(th)
	}
}
