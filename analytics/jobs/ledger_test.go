package jobs

import (
	"testing"

	"pgregory.net/rapid"
)

// The ledger says of any order of arrivals what counting each number says.
func TestLedgerEqualsCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l streamLedger
		arrived, rows := map[uint64]uint64{}, uint64(0)
		first := rapid.Uint64Range(1, 20).Draw(t, "first")
		l.begin(first)
		low, high := first, first-1
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			r := seqRange{From: rapid.Uint64Range(1, 60).Draw(t, "from")}
			r.To = r.From + rapid.Uint64Range(0, 15).Draw(t, "length")
			if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
				l.reach(r.To)
				high = max(high, r.To)
				continue
			}
			times := rapid.Uint64Range(1, 2).Draw(t, "times")
			if err := l.add(r, times*r.len()); err != nil {
				t.Fatal(err)
			}
			for seq := r.From; seq <= r.To; seq++ {
				arrived[seq] += times
			}
			rows += times * r.len()
			low, high = min(low, r.From), max(high, r.To)
		}
		var gaps, duplicates uint64
		for seq := low; seq <= high; seq++ {
			if arrived[seq] == 0 {
				gaps++
			} else {
				duplicates += arrived[seq] - 1
			}
		}
		if l.First != low || l.High != high || l.gaps() != gaps || l.Duplicates != duplicates || l.Rows != rows {
			t.Fatalf("ledger %+v with %d gaps; want from %d to %d, %d rows, %d gaps, %d duplicates", l, l.gaps(), low, high, rows, gaps, duplicates)
		}
		for i, m := range l.Missing {
			if m.From > m.To || i > 0 && m.From <= l.Missing[i-1].To {
				t.Fatalf("missing %v is not in order", l.Missing)
			}
		}
	})
}
