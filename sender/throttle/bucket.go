package throttle

import (
	"math"
	"time"
)

// leaseDepth is two seconds of a lease, 1 to 20 messages (design/control.md 5.2).
func leaseDepth(rate float64) float64 { return min(max(1, 2*rate), 20) }

// longestKeyWait bounds what a key says about when to come back: leases come and go.
const longestKeyWait = time.Minute

// bucket is the token bucket of a key, whose rate moves all the time. The zero value lets
// everything through. A bucket that gets its first rate is full, unless updated was set before.
type bucket struct {
	rate    float64 // messages a second; 0 is unlimited
	depth   float64
	tokens  float64
	updated time.Duration
}

// set fills the bucket for the time that has passed and puts a rate in force.
func (b *bucket) set(now time.Duration, rate float64) {
	if rate == 0 || math.IsInf(rate, 1) {
		b.rate = 0
		return
	}
	d := leaseDepth(rate)
	switch {
	case b.rate > 0:
		b.tokens = min(b.depth, b.tokens+b.rate*(now-b.updated).Seconds())
	case b.updated == 0:
		b.tokens = d
	}
	b.rate, b.depth, b.updated = rate, d, now
	b.tokens = min(b.tokens, d)
}

// delay returns how long to wait until one message more than ahead others may pass; 0 means now.
func (b *bucket) delay(ahead int) time.Duration {
	if b.rate == 0 {
		return 0
	}
	missing := 1 + float64(ahead) - b.tokens
	if missing <= 1e-9 { // rounding
		return 0
	}
	return max(time.Microsecond, time.Duration(min(missing/b.rate, longestKeyWait.Seconds())*float64(time.Second)))
}

// give puts n messages back.
func (b *bucket) give(n float64) {
	if b.rate > 0 {
		b.tokens = min(b.depth, b.tokens+n)
	}
}

// take removes n messages; the bucket may owe some.
func (b *bucket) take(n float64) {
	if b.rate > 0 {
		b.tokens -= n
	}
}
