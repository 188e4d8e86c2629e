package reputation

import (
	"math"
	"slices"
	"time"
)

// z is the quantile of the normal distribution that leaves 10 % on one side: intervals hold 80 %.
const z = 1.282

// worstSub is the smallest sub-score.
const worstSub = 0.01

// Component is one component of a score: K cases among N answers, both decayed by age, and the share R0
// that is expected without own numbers.
type Component struct {
	Name string  `json:"component"`
	K    float64 `json:"k"`
	N    float64 `json:"n"`
	R0   float64 `json:"r0"`
	// What Score makes of these.
	R    float64 `json:"r"`    // share, shrunk towards R0
	Low  float64 `json:"low"`  // ends of its 80 % interval
	High float64 `json:"high"` //
	Sub  float64 `json:"sub_score"`
	Fast bool    `json:"fast"` // the last hour is worse than the last days, and counts
}

// Result is a score and what it comes from.
type Result struct {
	Score float64 // 0 to 100; 100 without any component
	// ScoreHigh is the score with the worst component at the good end of its interval: with 90 %
	// certainty the true one is not above it.
	ScoreHigh  float64
	Worst      string // component that costs most; empty without any
	Components []Component
}

// Score computes a score from components, of which it fills what follows from K, N and R0. Components that
// nothing is known of must be left out: their weight drops.
func (p *Policy) Score(components []Component) Result {
	result := Result{Score: 100, ScoreHigh: 100, Components: slices.Clone(components)}
	var sum, weights, least, best float64
	for i := range result.Components {
		c := &result.Components[i]
		policy, ok := p.component(c.Name)
		if !ok {
			continue
		}
		c.fill(&policy)
		cost := policy.Weight * math.Log(c.Sub)
		sum, weights = sum+cost, weights+policy.Weight
		if result.Worst == "" || cost < least {
			result.Worst, least = c.Name, cost
			best = policy.Weight * math.Log(policy.sub(c.Low))
		}
	}
	if weights > 0 {
		result.Score = 100 * math.Exp(sum/weights)
		result.ScoreHigh = 100 * math.Exp((sum-least+best)/weights)
	}
	return result
}

// Sums are what Query knows of somebody: the cases and answers of each component, in the order of the
// components (complaints, unknown users, blocks, refusals), decayed by the short and the long half-life.
type Sums struct {
	Kind, Provider, Name string
	AttemptsPerDay       float64
	Permanent            bool // a reply of the last day says that retrying does not help

	FastK, FastN, SlowK, SlowN []float64
}

// Scores makes a score of each of sums, in their order. Those of keys and tenants stand on what is usual at
// their provider; those with little mail share one prior. A score is bounded where a receiver said that it
// will not relent.
func (p *Policy) Scores(sums []Sums) []Result {
	type group struct{ kind, provider string }
	groupOf := func(s *Sums) group {
		if s.AttemptsPerDay < p.TailPerDay {
			return group{s.Kind, "tail"}
		}
		return group{s.Kind, s.Provider}
	}
	type prior struct{ k, n [4]float64 }
	priors := map[group]*prior{}
	for i := range sums {
		s := &sums[i]
		g := priors[groupOf(s)]
		if g == nil {
			g = &prior{}
			priors[groupOf(s)] = g
		}
		for c := range g.k {
			g.k[c] += positive(s.SlowK, c)
			g.n[c] += positive(s.SlowN, c)
		}
	}
	all := make([]Result, len(sums))
	for i := range sums {
		s := &sums[i]
		g := priors[groupOf(s)]
		var components []Component
		for c, of := range p.components() {
			one := Component{Name: names[c], R0: of.Prior, K: positive(s.SlowK, c), N: positive(s.SlowN, c)}
			if s.Kind == "key" || s.Kind == "tenant" {
				one.R0 = (g.k[c] + of.PriorWeight*of.Prior) / (g.n[c] + of.PriorWeight)
			}
			fastK, fastN := positive(s.FastK, c), positive(s.FastN, c)
			if one.N+fastN <= 0 {
				continue // nothing is known of it
			}
			slow, fast := (one.K+of.PriorWeight*one.R0)/(one.N+of.PriorWeight), (fastK+of.PriorWeight*one.R0)/(fastN+of.PriorWeight)
			if fastN >= p.FastLeast && fast > slow {
				one.K, one.N, one.Fast = fastK, fastN, true
			}
			components = append(components, one)
		}
		all[i] = p.Score(components)
		if s.Permanent {
			all[i].Score, all[i].ScoreHigh = min(all[i].Score, p.PermanentCap), min(all[i].ScoreHigh, p.PermanentCap)
		}
	}
	return all
}

// positive returns a sum that may be a little under zero, because probes were taken out of it.
func positive(list []float64, i int) float64 {
	if i >= len(list) {
		return 0
	}
	return max(0, list[i])
}

// Answers returns how many answers a score stands on, and the weight of the own numbers against the prior:
// that of complaints, or of the component that costs most where they are not known.
func (r *Result) Answers(p *Policy) (answers, confidence float64) {
	for _, c := range r.Components {
		policy, _ := p.component(c.Name)
		switch c.Name {
		case Complaints:
			confidence = c.N / (c.N + policy.PriorWeight)
		case Refusals:
			answers = c.N
		}
		if c.Name == r.Worst && r.Components[0].Name != Complaints {
			confidence = c.N / (c.N + policy.PriorWeight)
		}
	}
	return answers, confidence
}

// fill computes the share, its interval and the sub-score.
func (c *Component) fill(p *ComponentPolicy) {
	a, b := c.K+p.PriorWeight*c.R0, c.N+p.PriorWeight
	c.R = a / b
	if c.Name == Complaints {
		c.Low, c.High = gamma(-z, a, b), gamma(z, a, b)
	} else {
		c.Low, c.High = wilson(-z, c.R, b), wilson(z, c.R, b)
	}
	c.Sub = p.sub(c.R)
}

// sub returns the sub-score of a share, on a logarithmic scale between good and bad.
func (p *ComponentPolicy) sub(share float64) float64 {
	return min(1, max(worstSub, math.Log(p.Bad/share)/math.Log(p.Bad/p.Good)))
}

// gamma returns a quantile of the gamma distribution by Wilson and Hilferty: of a rate of which a cases
// in b were seen. It is for rare cases.
func gamma(z, a, b float64) float64 {
	root := max(0, 1-1/(9*a)+z/(3*math.Sqrt(a)))
	return a / b * root * root * root
}

// wilson returns an end of Wilson's interval of a share of n.
func wilson(z, share, n float64) float64 {
	mid := share + z*z/(2*n)
	half := z * math.Sqrt(share*(1-share)/n+z*z/(4*n*n))
	return min(1, max(0, (mid+half)/(1+z*z/n)))
}

// The bands.
const (
	High    = "high"
	Medium  = "medium"
	Low     = "low"
	Bad     = "bad"
	Unknown = "unknown" // too few answers; treat it as medium
)

// Standing is a band and how it came about.
type Standing struct {
	Band  string
	Since time.Time
	// Toward is the band that the score points at and that does not hold yet; empty for none.
	Toward      string
	TowardSince time.Time
}

// order ranks the bands, the worst first.
var order = []string{Bad, Low, Medium, High}

// bandOf returns the band of a score by the edges alone.
func (b *BandPolicy) bandOf(score float64) string {
	switch {
	case score >= b.High:
		return High
	case score >= b.Medium:
		return Medium
	case score >= b.Low:
		return Low
	default:
		return Bad
	}
}

// Next returns the standing after a score was computed at now, from the one before. A worse band comes at
// once if it is 90 % certain, else after a while; a better one needs a margin above the edge and a longer
// while. answers is what the score stands on.
func (p *Policy) Next(before Standing, score, scoreHigh, answers float64, now time.Time) Standing {
	b := &p.Bands
	if answers < p.UnknownBelow {
		if before.Band == Unknown {
			return Standing{Band: Unknown, Since: before.Since}
		}
		return Standing{Band: Unknown, Since: now}
	}
	target := b.bandOf(score)
	was := slices.Index(order, before.Band)
	if was < 0 {
		return Standing{Band: target, Since: now}
	}
	if slices.Index(order, target) > was {
		target = b.bandOf(score - b.UpMargin)
	}
	is := slices.Index(order, target)
	switch {
	case is == was || is > was && target == before.Band:
		return Standing{Band: before.Band, Since: before.Since}
	case is < was && slices.Index(order, b.bandOf(scoreHigh)) < was:
		sure := Standing{Band: b.bandOf(max(score, scoreHigh)), Since: now}
		if sure.Band != target {
			sure.Toward, sure.TowardSince = target, now
		}
		return sure
	}
	dwell, since := b.UpDwell, now
	if is < was {
		dwell = b.DownDwell
	}
	if toward := slices.Index(order, before.Toward); toward >= 0 && (toward > was) == (is > was) {
		since = before.TowardSince
	}
	if now.Sub(since) >= dwell {
		return Standing{Band: target, Since: now}
	}
	return Standing{Band: before.Band, Since: before.Since, Toward: target, TowardSince: since}
}
