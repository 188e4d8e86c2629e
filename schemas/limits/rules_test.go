package limits_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// answer gives the guard n replies of dimension d, evenly over one second from at.
func answer(g *limits.Guard, at time.Duration, n int, d taxonomy.Dimension) {
	for i := range n {
		g.Observe(at+time.Duration(i)*time.Second/time.Duration(n), d, taxonomy.ScopeNone)
	}
}

func TestGuardCutsWithinTenSeconds(t *testing.T) {
	var g limits.Guard
	at := time.Duration(0)
	for ; at < 30*time.Second; at += time.Second {
		answer(&g, at, 10, taxonomy.OK)
	}
	if f := g.Factor(at); f != 1 {
		t.Fatalf("factor is %v while everything is accepted, want 1", f)
	}
	end := at + 10*time.Second
	for ; at < end; at += time.Second {
		answer(&g, at, 10, taxonomy.Rate)
	}
	if f := g.Factor(at); f > 0.25 {
		t.Errorf("factor is %v after 10 s of refusals, want at most 0.25", f)
	}
	for ; at < end+3*time.Minute; at += time.Second {
		answer(&g, at, 10, taxonomy.OK)
	}
	if f := g.Factor(at); f != 1 {
		t.Errorf("factor is %v after three clean minutes, want 1", f)
	}
}

func TestGuardIgnoresWhatIsNotAboutTheRate(t *testing.T) {
	for _, tc := range []struct {
		name  string
		d     taxonomy.Dimension
		scope taxonomy.Scope
	}{
		{"unknown users", taxonomy.User, taxonomy.ScopeNone},
		{"greylisting", taxonomy.Greylist, taxonomy.ScopeNone},
		{"connections", taxonomy.Connections, taxonomy.ScopeNone},
		{"messages per connection", taxonomy.Messages, taxonomy.ScopeNone},
		{"a DKIM domain", taxonomy.Rate, taxonomy.ScopeDomain},
		{"one recipient", taxonomy.Rate, taxonomy.ScopeRecipient},
		{"a URL", taxonomy.Block, taxonomy.ScopeURL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var g limits.Guard
			for at := time.Duration(0); at < time.Minute; at += 100 * time.Millisecond {
				g.Observe(at, tc.d, tc.scope)
			}
			if f := g.Factor(time.Minute); f != 1 {
				t.Errorf("factor is %v, want 1", f)
			}
		})
	}
}

func TestGuardNeedsEightReplies(t *testing.T) {
	var g limits.Guard
	answer(&g, 0, 7, taxonomy.Rate)
	if f := g.Factor(6 * time.Second); f != 1 {
		t.Errorf("factor is %v after 7 replies, want 1", f)
	}
	answer(&g, 7*time.Second, 1, taxonomy.Rate)
	if f := g.Factor(20 * time.Second); f >= 1 {
		t.Errorf("factor is %v after 8 refusals, want a cut", f)
	}
}

// A block that goes on is made longer by every attempt: five of them in a row cut at once, whatever
// the time, and each five more again.
func TestGuardCutsWithinFiveBlocks(t *testing.T) {
	var g limits.Guard
	for range 100 {
		g.Observe(0, taxonomy.OK, taxonomy.ScopeNone)
	}
	for n := 1; n <= 15; n++ {
		g.Observe(0, taxonomy.Block, taxonomy.ScopeSource)
		want := math.Pow(0.25, float64(n/5))
		if got := g.Factor(0); math.Abs(got-want) > 1e-9 {
			t.Fatalf("after %d blocks in a row the factor is %v, want %v", n, got, want)
		}
	}
	var calm limits.Guard
	for n := range 40 {
		dimension := taxonomy.Block
		if n%5 == 4 {
			dimension = taxonomy.OK
		}
		calm.Observe(0, dimension, taxonomy.ScopeNone)
	}
	if got := calm.Factor(0); got != 1 {
		t.Errorf("blocks that mail gets through between cut to %v before the guard's step, want 1", got)
	}
}

// Blocks may cut before the guard's first step: what they cut is the rate until then.
func TestBlocksCutAnUnlimitedRateFromTheFirstSecond(t *testing.T) {
	var g limits.Guard
	at := time.Hour
	for ; at < time.Hour+3*time.Second; at += time.Second {
		answer(&g, at, 20, taxonomy.OK)
	}
	answer(&g, at, 5, taxonomy.Block)
	if rate := g.Apply(at+time.Second, math.Inf(1)); rate < 3 || rate > 7 {
		t.Errorf("%v a second of about 20 before five blocks in a row, want a quarter", rate)
	}
}

func TestGuardResets(t *testing.T) {
	refused := func() *limits.Guard {
		var g limits.Guard
		g.Lease(0, limits.Lease{Epoch: 5, RatePerSecond: 10})
		for at := time.Duration(0); at < 20*time.Second; at += 50 * time.Millisecond {
			g.Observe(at, taxonomy.Rate, taxonomy.ScopeNone)
		}
		return &g
	}
	const now = 20 * time.Second
	for _, tc := range []struct {
		name  string
		lease limits.Lease
		reset bool
	}{
		{"a new epoch that lowers", limits.Lease{Epoch: 6, RatePerSecond: 3}, true},
		{"a new epoch that raises", limits.Lease{Epoch: 6, RatePerSecond: 12}, false},
		{"a new share of the same epoch", limits.Lease{Epoch: 5, RatePerSecond: 3}, false},
		{"an older epoch", limits.Lease{Epoch: 4, RatePerSecond: 3}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := refused()
			if g.Factor(now) >= 1 {
				t.Fatal("the guard does not act")
			}
			g.Lease(now, tc.lease)
			if got := g.Factor(now) == 1; got != tc.reset {
				t.Errorf("factor is %v, want reset: %v", g.Factor(now), tc.reset)
			}
		})
	}
	t.Run("the end of a suspension", func(t *testing.T) {
		g := refused()
		g.Lease(now, limits.Lease{Epoch: 6, RatePerSecond: 0.03, Canary: true})
		for at := now; at < now+20*time.Second; at += 50 * time.Millisecond {
			g.Observe(at, taxonomy.Block, taxonomy.ScopeNone)
		}
		g.Lease(now+20*time.Second, limits.Lease{Epoch: 7, RatePerSecond: 4})
		if f := g.Factor(now + 20*time.Second); f != 1 {
			t.Errorf("factor is %v, want 1", f)
		}
	})
}

// Trials go out at their own pace however often they are refused: what they are for is to find
// out when it is over.
func TestGuardLeavesTrialsAlone(t *testing.T) {
	for _, d := range []taxonomy.Dimension{taxonomy.Block, taxonomy.Unavailable, taxonomy.Other} {
		var g limits.Guard
		g.Lease(0, limits.Lease{Epoch: 5, RatePerSecond: 10})
		g.Lease(time.Second, limits.Lease{Epoch: 6, RatePerSecond: 1.0 / 30, Canary: true})
		for at := time.Second; at < time.Hour; at += 30 * time.Second {
			g.Observe(at, d, taxonomy.ScopeSource)
			if f := g.Factor(at); f != 1 {
				t.Fatalf("%s: after %s trials go out at %v of their rate", d, at, f)
			}
		}
	}
}

// With analytics away trials end in a glide to the configuration, and there the guard is needed again.
func TestGuardActsWhenTrialsAreOver(t *testing.T) {
	var g limits.Guard
	lease := limits.Lease{Epoch: 6, RatePerSecond: 1.0 / 30, Connections: 1, Canary: true}
	g.Lease(0, lease)
	static := limits.Static(10, 10, 0)
	glide := limits.Glide{Lease: lease, TTL: limits.DefaultTTL}
	at := limits.DefaultTTL + 2*limits.GlideTime
	if term := glide.At(at, static); term.Canary {
		t.Fatalf("the suspension never ends: %+v", term)
	}
	for end := at + time.Minute; at < end; at += time.Second {
		limits.Merge(at, static, limits.Limit{}, glide.At(at, static), &g)
		g.Observe(at, taxonomy.Rate, taxonomy.ScopeNone)
	}
	if f := g.Factor(at); f == 1 {
		t.Error("a minute of refusals at the configured rate, and the guard does nothing")
	}
}

// Answers that were on their way when the guard cut are about the rate before.
func TestGuardCutsOnceForWhatWasInFlight(t *testing.T) {
	var g limits.Guard
	for at := time.Duration(0); at < 10*time.Second; at += 100 * time.Millisecond {
		g.Observe(at, taxonomy.OK, taxonomy.ScopeNone)
	}
	for range 20 {
		g.Observe(10*time.Second, taxonomy.Block, taxonomy.ScopeSource)
	}
	if f := g.Factor(10 * time.Second); f != 0.25 {
		t.Errorf("20 blocks at one moment leave %v of the rate, want a quarter", f)
	}
}

func TestGuardOfAnUnlimitedRate(t *testing.T) {
	var g limits.Guard
	at := time.Duration(0)
	for ; at < 30*time.Second; at += 10 * time.Millisecond {
		g.Observe(at, taxonomy.OK, taxonomy.ScopeNone)
	}
	if rate := g.Apply(at, math.Inf(1)); !math.IsInf(rate, 1) {
		t.Fatalf("rate is %v while everything is accepted, want no limit", rate)
	}
	for ; at < 41*time.Second; at += 10 * time.Millisecond {
		g.Observe(at, taxonomy.Rate, taxonomy.ScopeNone)
	}
	if rate := g.Apply(at, math.Inf(1)); rate > 25 {
		t.Errorf("rate is %v after 11 s of refusals at 100/s, want at most a quarter", rate)
	}
}

func TestGuardStaysInItsRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g limits.Guard
		now := time.Duration(0)
		before := 1.0
		for range rapid.IntRange(1, 400).Draw(t, "replies") {
			now += time.Duration(rapid.Int64Range(0, int64(8*time.Second)).Draw(t, "pause"))
			g.Observe(now, rapid.SampledFrom(taxonomy.Dimensions).Draw(t, "dimension"), taxonomy.ScopeNone)
			f := g.Factor(now)
			if f < 1.0/64-1e-12 || f > 1 {
				t.Fatalf("factor %v at %v", f, now)
			}
			if f > before*1.1+1e-12 {
				t.Fatalf("factor grew from %v to %v in one step", before, f)
			}
			before = f
		}
	})
}

func drawLimit(t *rapid.T, name string) limits.Limit {
	return limits.Static(
		rapid.SampledFrom([]float64{0, 0.05, 0.5, 3, 110, 5000, 50_000}).Draw(t, name+" rate"),
		rapid.SampledFrom([]uint32{0, 1, 5, 64}).Draw(t, name+" connections"),
		rapid.SampledFrom([]uint32{0, 1, 20, 100}).Draw(t, name+" messages"),
	)
}

func drawLease(t *rapid.T) limits.Lease {
	return limits.Lease{
		Provider: "google", Source: "192.0.2.1", Epoch: 9,
		RatePerSecond:         rapid.SampledFrom([]float64{0, 1.0 / 30, 0.1, 2, 80, 900}).Draw(t, "lease rate"),
		Connections:           rapid.SampledFrom([]uint32{0, 1, 7, 200}).Draw(t, "lease connections"),
		MessagesPerConnection: rapid.SampledFrom([]uint32{0, 1, 30}).Draw(t, "lease messages"),
		Canary:                rapid.Bool().Draw(t, "canary"),
	}
}

// No limit is above the ceiling of the configuration, whatever the lease, its age and the guard.
func TestMergeIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		static := drawLimit(t, "static")
		var adaptive limits.Limit
		if rapid.Bool().Draw(t, "has adaptive") {
			adaptive = limits.Limit{RatePerSecond: 200, Connections: 40, MessagesPerConnection: 60}
		}
		g := limits.Glide{Lease: drawLease(t), Seen: time.Minute, TTL: limits.DefaultTTL}
		var guard limits.Guard
		now := time.Minute
		for range rapid.IntRange(0, 60).Draw(t, "replies") {
			now += time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "pause"))
			guard.Observe(now, rapid.SampledFrom(taxonomy.Dimensions).Draw(t, "dimension"), taxonomy.ScopeNone)
		}
		term := g.At(now, static)
		ceiling := limits.Ceiling(static, adaptive)
		bare := limits.Merge(now, static, adaptive, term, nil)
		got := limits.Merge(now, static, adaptive, term, &guard)
		if got.RatePerSecond > ceiling.RatePerSecond || got.Connections > ceiling.Connections || got.MessagesPerConnection > ceiling.MessagesPerConnection {
			t.Fatalf("%+v is above the ceiling %+v", got, ceiling)
		}
		if term.Source == limits.FromNone {
			if bare.Limit != static || bare.Actor != limits.ByConfig || bare.Epoch != 0 {
				t.Fatalf("without a lease %+v binds, want the configuration %+v", bare, static)
			}
		} else if bare.RatePerSecond > term.RatePerSecond {
			t.Fatalf("rate %v is above the lease's %v", bare.RatePerSecond, term.RatePerSecond)
		}
		if got.RatePerSecond > bare.RatePerSecond {
			t.Fatalf("the guard raised %v to %v", bare.RatePerSecond, got.RatePerSecond)
		}
		if (got.Actor == limits.ByGuard) != (got.RatePerSecond < bare.RatePerSecond) {
			t.Fatalf("actor %q, rate %v, without guard %v", got.Actor, got.RatePerSecond, bare.RatePerSecond)
		}
	})
}

// A glide begins at the lease, ends at the configuration, goes one way only and never jumps.
func TestGlideIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		static := drawLimit(t, "static")
		lease := drawLease(t)
		lease.Canary = false
		g := limits.Glide{Lease: lease, Seen: 0, TTL: limits.DefaultTTL}
		if fresh := g.At(g.TTL, static); fresh.Limit != lease.Limit() || fresh.Source != limits.FromLease {
			t.Fatalf("fresh lease %+v demands %+v", lease, fresh)
		}
		if end := g.At(g.TTL+limits.GlideTime, static); end.Limit != static || end.Source != limits.FromNone {
			t.Fatalf("after the glide %+v is in force, want %+v", end, static)
		}
		before := g.At(g.TTL+1, static)
		rising := before.RatePerSecond <= static.RatePerSecond
		for at := g.TTL + time.Second; at < g.TTL+limits.GlideTime; at += 7 * time.Second {
			term := g.At(at, static)
			if rising != (term.RatePerSecond >= before.RatePerSecond) && term.RatePerSecond != before.RatePerSecond {
				t.Fatalf("rate turned from %v to %v at %v", before.RatePerSecond, term.RatePerSecond, at)
			}
			if ratio := term.RatePerSecond / before.RatePerSecond; ratio > 1.2 || ratio < 1/1.2 {
				t.Fatalf("rate jumped from %v to %v at %v", before.RatePerSecond, term.RatePerSecond, at)
			}
			if term.Source != limits.FromGlide || term.Epoch != lease.Epoch {
				t.Fatalf("term %+v at %v", term, at)
			}
			before = term
		}
	})
}

func TestSuspensionExpiresToCanaries(t *testing.T) {
	static := limits.Static(10, 20, 0)
	for _, rate := range []float64{1.0 / 30, 0} { // 0: the trials were another node's
		g := limits.Glide{Lease: limits.Lease{Epoch: 3, RatePerSecond: rate, Connections: 1, Canary: true}, TTL: limits.DefaultTTL}
		trial := g.At(g.TTL+30*time.Second, static)
		if !trial.Canary || trial.Source != limits.FromCanary || trial.RatePerSecond != 1/limits.CanaryInterval.Seconds() || trial.Connections != 1 {
			t.Errorf("lease of %v: 30 s after the end %+v, want trials", rate, trial)
		}
		glide := g.At(g.TTL+3*time.Minute, static)
		if glide.Canary || glide.RatePerSecond > 0.1 {
			t.Errorf("lease of %v: three minutes after the end %+v, want the start of a glide", rate, glide)
		}
	}
}

func TestStaticReadsZeroAsUnlimited(t *testing.T) {
	if got := limits.Static(0, 0, 0); got != limits.None() || got.HasRate() {
		t.Errorf("Static(0, 0, 0) = %+v, want no limit", got)
	}
	if got := (limits.Lease{Epoch: 1}).Limit(); got.RatePerSecond != 0 || got.Connections != limits.Unlimited {
		t.Errorf("a lease of rate 0 is %+v, want one that lets nothing through", got)
	}
}
