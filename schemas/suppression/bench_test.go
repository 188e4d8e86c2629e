package suppression_test

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"carom/schemas/suppression"
)

// BenchmarkSnapshot says what a list of 10^6 and 10^7 entries costs: seconds to sort and write, seconds
// to load, bytes of memory an entry on the node, nanoseconds a look-up.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			name := filepath.Join(b.TempDir(), suppression.FileName)
			keys := make([]string, 1000)
			for b.Loop() {
				fill := func() *suppression.List {
					list := &suppression.List{}
					state := uint64(1)
					var raw [16]byte
					for i := range n {
						for j := range raw {
							state = state*6364136223846793005 + 1442695040888963407
							raw[j] = byte(state >> 56)
						}
						key := hex.EncodeToString(raw[:])
						keys[i%len(keys)] = key
						if err := list.Suppress(suppression.Global, key); err != nil {
							b.Fatal(err)
						}
					}
					return list
				}
				list := fill()
				began := time.Now()
				if err := suppression.Save(name, 1, time.Unix(0, 0), list); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds(), "s/save")
				runtime.KeepAlive(list)
				before := heap() // without the list
				began = time.Now()
				s, err := suppression.Load(name)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds(), "s/load")
				b.ReportMetric(float64(heap()-before)/float64(n), "B/entry")
				began = time.Now()
				const looks = 1_000_000
				for i := range looks {
					if !s.Contains("shop", keys[i%len(keys)]) {
						b.Fatal("an entry is missing")
					}
				}
				b.ReportMetric(float64(time.Since(began).Nanoseconds())/looks, "ns/look-up")
				runtime.KeepAlive(s)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
