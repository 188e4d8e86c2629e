package loop

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"carom/deploy/receivers/scenarios"
	"carom/schemas/limits"
)

// Random returns the random scenario of a seed: a hidden limit of any size that stays, steps or swings
// with the day, some of penalty, block, outage, few connections, few messages a connection,
// greylisting and texts that say nothing, and load below or above it. The configuration is right,
// too high or too low by up to four times. Adaptive ceilings are open. The same seed is the same scenario
// everywhere.
func Random(seed uint64) Case {
	r := rand.New(rand.NewPCG(seed, 0x72616e64))
	chance := func(p float64) bool { return r.Float64() < p }
	between := func(from, to float64) float64 { return from + (to-from)*r.Float64() }
	// scale draws evenly from a logarithmic scale.
	scale := func(from, to float64) float64 { return from * math.Pow(to/from, r.Float64()) }

	rate := scale(0.1, 60)
	p := receiver(rate)
	p.BurstSeconds = scale(3, 60)
	p.LatencyMS = [2]float64{100 * scale(1, 5), 600 * scale(1, 3)}
	p.UnknownUsers = between(0, 0.03)
	length := 4 * time.Hour
	said := []string{fmt.Sprintf("%.3g/s", rate)}
	say := func(format string, values ...any) { said = append(said, fmt.Sprintf(format, values...)) }

	switch r.IntN(5) {
	case 0: // stays
	case 1:
		at, low := between(40, 120), scale(0.1, 0.7)
		p.Rate = append(p.Rate, scenarios.RateStep{At: minutes(at), PerSecond: rate * low})
		say("drops to %.0f %% at %.0f min", 100*low, at)
	case 2:
		at, high := between(40, 120), scale(1.5, 5)
		p.Rate = append(p.Rate, scenarios.RateStep{At: minutes(at), PerSecond: rate * high})
		say("rises to %.0f %% at %.0f min", 100*high, at)
	case 3:
		at, low, back := between(40, 90), scale(0.1, 0.7), between(30, 80)
		p.Rate = append(p.Rate, scenarios.RateStep{At: minutes(at), PerSecond: rate * low}, scenarios.RateStep{At: minutes(at + back), PerSecond: rate})
		say("drops to %.0f %% from %.0f to %.0f min", 100*low, at, at+back)
	default:
		p.Diurnal = scenarios.Diurnal{Amp: between(0.2, 0.7), Period: minutes(between(4, 24) * 60)}
		say("swings by %.0f %% in %.0f h", 100*p.Diurnal.Amp, p.Diurnal.Period.D().Hours())
	}
	if chance(0.4) {
		p = punishing(p)
		p.Penalty.DownPerMinute, p.Penalty.UpPerMinute = between(0.1, 0.35), between(0.02, 0.1)
		say("penalty")
	}
	if chance(0.3) {
		p = blocking(p)
		p.Block.TriggerFrac = between(0.4, 0.8)
		say("blocks over %.0f %%", 100*p.Block.TriggerFrac)
	}
	if chance(0.15) {
		at, long := between(60, 120), between(15, 50)
		p.Block.Scripted = []scenarios.ScriptedBlock{{At: minutes(at), Len: minutes(long)}}
		p.Block.Extend, p.Block.Len = true, minutes(30)
		say("blocked for %.0f min", long)
	}
	if chance(0.15) {
		kind := scenarios.OutageKinds[r.IntN(len(scenarios.OutageKinds))]
		long := between(5, 30)
		p.Outage = []scenarios.Outage{{At: minutes(between(30, 150)), Len: minutes(long), Kind: kind}}
		say("out for %.0f min (%s)", long, kind)
	}
	if chance(0.25) {
		// As many as carry the rate, and up to three times that.
		need := rate * (p.LatencyMS[0] + p.LatencyMS[1]) / 2000
		p.Conc = []scenarios.ConcStep{{N: 1 + int(math.Ceil(need*scale(1, 3)))}}
		say("%d connections", p.Conc[0].N)
	}
	if chance(0.25) {
		p.MsgsPerConn, p.SilentClose = 5+r.IntN(40), chance(0.3)
		say("%d messages a connection", p.MsgsPerConn)
	}
	if chance(0.15) {
		p.Grey = scenarios.Grey{Frac: between(0.1, 0.7), MinRetry: minutes(4)}
		say("greylists %.0f %%", 100*p.Grey.Frac)
	}
	if chance(0.15) {
		p.Ambiguous = true
		say("says nothing")
	}
	factor := 1.0
	switch r.IntN(4) {
	case 0:
		factor = scale(1, 4)
	case 1:
		factor = scale(0.25, 1)
	default:
	}
	setup := configure(rate * factor)
	say("configured %.0f %%", 100*factor)
	connections := max(4, math.Ceil(2*rate*factor*(p.LatencyMS[0]+p.LatencyMS[1])/2000))
	setup.Static.Connections = uint32(min(limits.Unlimited-1, connections))
	setup.Adaptive.Connections = max(ceilingConnections, 4*setup.Static.Connections)

	offered := rate * between(0.6, 1.4)
	load := offered / rate
	say("load %.0f %%", 100*load)
	s := scene(length, p, offered)
	if chance(0.2) { // the mail comes in bursts of ten minutes an half hour
		s.Load[0].PerS = nil
		for at := 0.0; at < length.Minutes(); at += 30 {
			s.Load[0].PerS = append(s.Load[0].PerS,
				scenarios.LoadStep{At: minutes(at), V: 2.4 * offered}, scenarios.LoadStep{At: minutes(at + 10), V: 0.3 * offered})
		}
		say("in bursts")
	}
	s.Nodes.Weights = s.Nodes.Weights[:1+r.IntN(4)]
	s.Seed = seed
	return Case{Name: fmt.Sprintf("R%d", seed), About: strings.Join(said, ", "), Scenario: s, Setup: setup}
}
