package load

import (
	"math"
	"time"
)

// histogram counts durations in buckets that are 2 % wide, from 10 µs to hours.
type histogram struct {
	counts [1100]int
	n      int
}

const (
	histogramBase = 1.02
	histogramUnit = 10 * time.Microsecond
)

func (h *histogram) add(d time.Duration) {
	i := 0
	if d > histogramUnit {
		i = int(math.Log(float64(d)/float64(histogramUnit)) / math.Log(histogramBase))
	}
	h.counts[min(i, len(h.counts)-1)]++
	h.n++
}

// quantile returns the value in milliseconds that the share q lies at or below, 0 without values.
func (h *histogram) quantile(q float64) float64 {
	left := int(math.Ceil(q * float64(h.n)))
	if left == 0 {
		return 0
	}
	for i, n := range h.counts {
		if left -= n; left <= 0 {
			upper := float64(histogramUnit) * math.Pow(histogramBase, float64(i+1))
			return math.Round(upper/float64(time.Millisecond)*100) / 100
		}
	}
	return 0
}
