package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Collecting costs as much as what is live, so a node with a small queue lets garbage grow to a
// multiple of it, and one with a large queue, where that would be memory it needs, to a part.
const (
	leastGarbage = 48 << 20 // bytes between collections at least
	garbageShare = 0.35     // of what is live, above that
)

// garbagePercent returns the value for debug.SetGCPercent with so many live bytes.
func garbagePercent(live uint64) int {
	const percent = 100
	least := percent * leastGarbage / max(live, 4<<20)
	return int(max(least, percent*garbageShare)) //nolint:gosec // at most 1200
}

// tuneGC adapts the garbage collector to what is live, until ctx is done.
func tuneGC(ctx context.Context) error {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	before := debug.SetGCPercent(garbagePercent(0))
	defer debug.SetGCPercent(before)
	current := garbagePercent(0)
	for {
		metrics.Read(sample)
		if wanted := garbagePercent(sample[0].Value.Uint64()); wanted < current*9/10 || wanted > current*11/10 {
			debug.SetGCPercent(wanted)
			current = wanted
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
