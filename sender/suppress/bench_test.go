package suppress

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"carom/schemas/suppression"
)

// BenchmarkChange says what a change since the snapshot costs a node in memory.
func BenchmarkChange(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "own"), secret, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const n = 500_000
	for b.Loop() {
		s.changed = nil
		before := heap()
		for i := range n {
			s.Change([]suppression.Change{{Key: fmt.Sprintf("%032x", i), Suppressed: true, At: time.Unix(0, 0)}})
		}
		b.ReportMetric(float64(heap()-before)/n, "B/change")
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
