package limits

import (
	"math"
	"time"

	"carom/schemas/taxonomy"
)

// The numbers of the local guard (design/control.md 5.1).
const (
	guardStep        = 5 * time.Second
	guardAlpha       = 1.0 / 20 // weight of one reply
	guardCutAbove    = 0.25     // refused share above which it cuts
	guardGrowBelow   = 0.10     // refused share below which it grows
	guardCutReplies  = 8        // replies since the last step that acted
	guardGrowReplies = 5
	guardSmallest    = 1.0 / 64
	guardSmallestCut = 0.25
	guardDrain       = 0.9
	guardGrowth      = 1.10
	guardAfterCut    = 0.10 // refused share assumed after a cut
	guardDefaultBase = 1.0  // messages a second, if nothing was measured
	// guardBlocks is how many blocks in a row cut the rate at once, by guardBlockCut (design/control.md
	// 5.5, rule 10): a receiver that blocks the source makes the block longer for every attempt.
	guardBlocks   = 5
	guardBlockCut = 0.25
)

// Guard is a node's own answer to refusals at one key. It needs no analytics: when a receiver
// starts refusing it cuts the rate within seconds, and it gives the rate back slowly.
//
// The zero value is ready to use and does not act. Times must not decrease.
type Guard struct {
	cut     float64 // 1 - factor, so that the zero value does not act
	refused float64 // moving average of refusals, 0 to 1
	replies int     // since the last step that acted
	blocks  int     // in a row
	stepped time.Duration
	blocked time.Duration // when blocks cut the rate last

	stepReplies int     // since the last step
	base        float64 // replies a second before the guard acted

	epoch  uint64
	rate   float64
	canary bool // the last lease was for trials
	trials bool // what is sent now is trials
}

// Observe takes one reply at time now into account. Refusals are the dimensions rate, block,
// unavailable and other; connections, messages and greylist say nothing about the rate and are
// not counted, nor is a reply that is aimed at a domain, a URL or a recipient, nor what is answered to
// the trials of a suspended key.
func (g *Guard) Observe(now time.Duration, dimension taxonomy.Dimension, scope taxonomy.Scope) {
	g.step(now)
	if g.trials {
		return // they are to be refused, and slower ones would find out later that it is over
	}
	var x float64
	switch dimension {
	case taxonomy.Connections, taxonomy.Messages, taxonomy.Greylist:
		return
	case taxonomy.Rate, taxonomy.Block, taxonomy.Unavailable, taxonomy.Other:
		if scope == taxonomy.ScopeDomain || scope == taxonomy.ScopeURL || scope == taxonomy.ScopeRecipient {
			return
		}
		x = 1
	default:
	}
	g.refused += guardAlpha * (x - g.refused)
	g.replies++
	g.stepReplies++
	if dimension != taxonomy.Block {
		g.blocks = 0
		return
	}
	if g.blocks++; g.blocks >= guardBlocks && (g.blocked == 0 || now-g.blocked >= guardStep) {
		g.blocked = now // what was on its way then says nothing about the new rate
		if g.base == 0 {
			g.measure(now) // the first step is still to come
		}
		g.cut = 1 - max(guardSmallest, (1-g.cut)*guardBlockCut)
		g.refused, g.replies, g.blocks = guardAfterCut, 0, 0
	}
}

// step acts at most once in guardStep.
func (g *Guard) step(now time.Duration) {
	if now-g.stepped < guardStep {
		return
	}
	g.measure(now)
	g.stepped, g.stepReplies = now, 0
	factor := 1 - g.cut
	switch {
	case g.replies >= guardCutReplies && g.refused > guardCutAbove:
		factor = max(guardSmallest, factor*max(guardSmallestCut, guardDrain*(1-g.refused)))
		g.refused, g.replies = guardAfterCut, 0
	case g.replies >= guardGrowReplies && g.refused < guardGrowBelow:
		factor = min(1, factor*guardGrowth)
		g.replies = 0
	}
	g.cut = 1 - factor
}

// measure takes the replies since the last step as the rate before the guard acts. Of less than a second it
// makes one.
func (g *Guard) measure(now time.Duration) {
	if g.cut == 0 && g.stepReplies > 0 {
		g.base = float64(g.stepReplies) / max(1, (now-g.stepped).Seconds())
	}
}

// Factor returns the factor in force at time now, 1/64 to 1.
func (g *Guard) Factor(now time.Duration) float64 {
	g.step(now)
	return 1 - g.cut
}

// Apply returns the rate that the guard makes of rate, both in messages a second. Where rate is
// unlimited and the guard acts, the factor applies to the rate of replies before it acted.
func (g *Guard) Apply(now time.Duration, rate float64) float64 {
	factor := g.Factor(now)
	if factor == 1 {
		return rate
	}
	if math.IsInf(rate, 1) {
		rate = g.base
		if rate == 0 {
			rate = guardDefaultBase
		}
	}
	return rate * factor
}

// Lease tells the guard which lease is in force. A new epoch that lowers the limit, or that ends a
// suspension, resets the guard: analytics has seen what the guard saw. A lease of the same epoch
// changes nothing.
func (g *Guard) Lease(now time.Duration, l Lease) {
	if l.Epoch <= g.epoch {
		return
	}
	first := g.epoch == 0 // the limit before was the configuration's
	if first || l.RatePerSecond < g.rate || (g.canary && !l.Canary) {
		g.cut, g.refused, g.replies, g.blocks, g.stepped = 0, guardAfterCut, 0, 0, now
	}
	g.epoch, g.rate, g.canary, g.trials = l.Epoch, l.RatePerSecond, l.Canary, l.Canary
}
