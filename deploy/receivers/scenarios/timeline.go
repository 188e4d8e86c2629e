package scenarios

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Limit returns the rate at t in recipients per second, before any penalty: the schedule, the
// daily curve and the warm-up cap. It is +Inf where the scenario names no limit.
func (p *Provider) Limit(t time.Duration) float64 {
	limit := math.Inf(1)
	for _, r := range p.Rate {
		if r.At.D() > t {
			break
		}
		limit = r.PerSecond
	}
	if p.Diurnal.Amp > 0 {
		limit *= 1 + p.Diurnal.Amp*math.Sin(2*math.Pi*t.Seconds()/p.Diurnal.Period.D().Seconds())
	}
	if w := p.Warmup; w.On {
		limit = min(limit, w.R0*math.Pow(w.Factor, math.Floor(float64(t)/float64(w.Day))))
	}
	return limit
}

// Connections returns the connection limit at t, 0 for none.
func (p *Provider) Connections(t time.Duration) int {
	n := 0
	for _, c := range p.Conc {
		if c.At.D() > t {
			break
		}
		n = c.N
	}
	return n
}

// OutageAt returns the kind of the outage at t, or "" when there is none.
func (p *Provider) OutageAt(t time.Duration) OutageKind {
	for _, o := range p.Outage {
		if o.At.D() <= t && t < o.At.D()+o.Len.D() {
			return o.Kind
		}
	}
	return ""
}

// ScriptedUntil returns the end of the scripted block at t, and whether there is one.
func (p *Provider) ScriptedUntil(t time.Duration) (time.Duration, bool) {
	end, blocked := time.Duration(0), false
	for _, b := range p.Block.Scripted {
		if b.At.D() <= t && t < b.At.D()+b.Len.D() {
			end, blocked = max(end, b.At.D()+b.Len.D()), true
		}
	}
	return end, blocked
}

// Offered returns how many messages the stream has offered by t, the backlog included.
func (l *Load) Offered(t time.Duration) float64 {
	n := float64(l.Backlog)
	for i, s := range l.PerS {
		if s.At.D() >= t {
			break
		}
		end := t
		if i+1 < len(l.PerS) {
			end = min(end, l.PerS[i+1].At.D())
		}
		n += s.V * (end - s.At.D()).Seconds()
	}
	return n
}

// DueAt returns when message n of the stream (n ≥ 0) is offered, and false if it never is.
// The backlog is due at 0.
func (l *Load) DueAt(n int) (time.Duration, bool) {
	left := float64(n - l.Backlog)
	if left < 0 {
		return 0, true
	}
	for i, s := range l.PerS {
		last := i+1 == len(l.PerS)
		if !last {
			size := s.V * (l.PerS[i+1].At - s.At).D().Seconds()
			if left >= size {
				left -= size
				continue
			}
		}
		if s.V <= 0 {
			return 0, false
		}
		return s.At.D() + time.Duration(left/s.V*float64(time.Second)), true
	}
	return 0, false
}

// Share returns the share of the stream's messages that go to provider p.
func (l *Load) Share(p *Provider) float64 {
	sum, mine := 0.0, 0.0
	// In the order of the names, so that rounding is the same in every run.
	for _, d := range slices.Sorted(maps.Keys(l.Domains)) {
		sum += l.Domains[d]
		if slices.Contains(p.Domains, d) {
			mine += l.Domains[d]
		}
	}
	return mine / sum
}

// OracleResult is what a sender that knows every hidden limit could have handed to a provider.
type OracleResult struct {
	Provider string  `json:"provider"`
	Offered  float64 `json:"offered"` // messages that the load offered
	Oracle   float64 `json:"oracle"`  // of these, those that the limits let through
}

// oracleStep is the step of the oracle's integral. Steps of schedules fall on whole seconds in practice.
const oracleStep = time.Second

// Oracle returns the reference integral for p from 0 to until: in each second what is waiting (offered
// and not yet delivered) goes through as far as the limit allows, and nothing does during scripted
// blocks and outages, which no sender caused. Penalties and blocks that a sender brought upon
// itself, and the burst allowance, do not enter. Limits apply per source, so sources (at least 1)
// multiplies them. The load ends at the scenario's duration; what waits then may still be delivered.
func (s *Scenario) Oracle(p *Provider, until time.Duration, sources int) OracleResult {
	offered := func(t time.Duration) float64 {
		if s.Duration > 0 {
			t = min(t, s.Duration.D())
		}
		n := 0.0
		for i := range s.Load {
			n += s.Load[i].Offered(t) * s.Load[i].Share(p)
		}
		return n
	}
	r := OracleResult{Provider: p.Name, Offered: offered(until)}
	for t := time.Duration(0); t < until; t += oracleStep {
		step := min(oracleStep, until-t)
		_, blocked := p.ScriptedUntil(t)
		if blocked || p.OutageAt(t) != "" {
			continue
		}
		capacity := p.Limit(t) * float64(max(1, sources)) * step.Seconds()
		r.Oracle += min(capacity, offered(t+step)-r.Oracle)
	}
	return r
}
