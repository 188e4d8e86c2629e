package limits

import (
	"math"
	"time"
)

// The numbers of the fallback (design/control.md 5.3, 4.5 and 5.2).
const (
	// DefaultTTL is how long a document is obeyed without a newer one.
	DefaultTTL = 10 * time.Minute
	// GlideTime is how long an expired lease takes to reach the configuration.
	GlideTime = 30 * time.Minute
	// CanaryInterval is the time between two trials at a suspended key.
	CanaryInterval = 30 * time.Second
	// SmallestRate is the smallest lease of a key that is not suspended, in messages a second.
	SmallestRate = 0.1

	// canaryTime is how long trials go out after a suspension expired, before the glide begins:
	// two trials, the number that ends a suspension.
	canaryTime = 2 * CanaryInterval
	// glideTop stands for an unlimited rate at the end of a glide, in messages a second; where
	// the glide ends the rate is unlimited again.
	glideTop = 10_000
)

// Source says where a lease in force comes from.
type Source string

// The sources of a Term.
const (
	FromNone   Source = ""       // no lease: the configuration alone
	FromLease  Source = "lease"  // a lease that is fresh
	FromCanary Source = "canary" // trials, because a suspension expired
	FromGlide  Source = "glide"  // a lease that expired, on its way to the configuration
)

// Term is what a lease demands at one moment.
type Term struct {
	Limit
	Source   Source
	Epoch    uint64
	ReasonID string
	Canary   bool
}

// Glide is a lease with its age. Seen is when the node first saw the document's generation, on
// the clock that now of At is read from.
type Glide struct {
	Lease Lease
	Seen  time.Duration
	TTL   time.Duration
}

// Expired reports whether the lease is no longer fresh at time now.
func (g Glide) Expired(now time.Duration) bool { return now-g.Seen > g.TTL }

// At returns what the lease demands at time now, where static is the node's own configuration.
// A fresh lease demands itself. An expired one glides geometrically to static in GlideTime; an
// expired suspension sends trials first. After that the Term is that of no lease.
func (g Glide) At(now time.Duration, static Limit) Term {
	term := Term{Limit: g.Lease.Limit(), Source: FromLease, Epoch: g.Lease.Epoch, ReasonID: g.Lease.ReasonID, Canary: g.Lease.Canary}
	past := now - g.Seen - g.TTL
	if past <= 0 {
		return term
	}
	smallest := SmallestRate
	if g.Lease.Canary {
		smallest = 1 / CanaryInterval.Seconds()
		if past <= canaryTime {
			term.RatePerSecond = min(max(term.RatePerSecond, smallest), static.RatePerSecond)
			term.Connections = 1
			term.Source = FromCanary
			return term
		}
		past -= canaryTime
	}
	if past >= GlideTime {
		return Term{Limit: static}
	}
	x := float64(past) / float64(GlideTime)
	term.Source, term.Canary = FromGlide, false
	from := max(term.RatePerSecond, min(smallest, static.RatePerSecond))
	term.RatePerSecond = geometric(from, min(static.RatePerSecond, max(glideTop, from)), x)
	term.Connections = geometricCount(term.Connections, static.Connections, x)
	term.MessagesPerConnection = geometricCount(term.MessagesPerConnection, static.MessagesPerConnection, x)
	return term
}

// geometric returns the point at x, 0 to 1, between from and to on a logarithmic scale.
func geometric(from, to, x float64) float64 {
	if from <= 0 || to <= 0 || math.IsInf(from, 1) {
		return to
	}
	return from * math.Pow(to/from, x)
}

// glideCount stands for unlimited connections or messages per connection in a glide.
const glideCount = 1000

func geometricCount(from, to uint32, x float64) uint32 {
	if from == Unlimited {
		return to
	}
	n := geometric(float64(max(1, from)), float64(min(to, max(glideCount, from))), x)
	return uint32(max(1, math.Round(n)))
}
