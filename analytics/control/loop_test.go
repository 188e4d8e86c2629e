package control_test

import (
	"math"
	"testing"
	"time"

	"carom/analytics/control"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// receiver is one receiving provider: a token bucket whose rate changes with time.
type receiver struct {
	limit  func(t time.Duration) float64 // messages a second
	burst  float64                       // seconds of limit that it lets through at once
	tokens float64
}

func (r *receiver) tick(t, step time.Duration) {
	limit := r.limit(t)
	r.tokens = min(r.tokens+limit*step.Seconds(), max(1, limit*max(0.1, r.burst)))
}

func (r *receiver) take() bool {
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// loop couples Decide, a node with its guard, and a receiver in virtual time.
type loop struct {
	receiver receiver
	static   limits.Limit
	adaptive limits.Limit
	offered  float64 // messages a second that want to go out; what is refused is offered again

	period, settle, pickup time.Duration

	state   control.State
	reasons []control.Reason
	at      []time.Duration // of each reason
	trace   []second
}

// second sums one second.
type second struct {
	accepted, refused int
	limit             float64 // hidden limit
	lease             float64
	epoch             uint64
}

const tick = 50 * time.Millisecond

func (l *loop) run(t *testing.T, until time.Duration) {
	t.Helper()
	policy := control.Default()
	var (
		guard   limits.Guard
		glide   *limits.Glide
		next    *limits.Lease
		arrives time.Duration
		tokens  float64
		backlog float64
		buckets []control.Bucket
	)
	for now := time.Duration(0); now < until; now += tick {
		if next != nil && now >= arrives {
			glide = &limits.Glide{Lease: *next, Seen: now, TTL: limits.DefaultTTL}
			guard.Lease(now, *next)
			tokens, next = 0, nil
		}
		var term limits.Term
		if glide != nil {
			term = glide.At(now, l.static)
		}
		limit := limits.Merge(now, l.static, l.adaptive, term, &guard)

		l.receiver.tick(now, tick)
		backlog = min(backlog+l.offered*tick.Seconds(), 100_000)
		rate := min(limit.RatePerSecond, 1e6)
		tokens = min(tokens+rate*tick.Seconds(), max(1, 2*rate))
		for tokens >= 1 && backlog >= 1 {
			tokens--
			backlog--
			b := bucketAt(&buckets, now, limit.Epoch, policy.Step)
			dimension := taxonomy.OK
			sum := l.second(now)
			if l.receiver.take() {
				b.OK++
				sum.accepted++
			} else {
				b.Rate++
				sum.refused++
				backlog++
				dimension = taxonomy.Rate
				b.Sample = "421 4.7.28 unusual rate"
			}
			guard.Observe(now, dimension, taxonomy.ScopeNone)
		}
		sum := l.second(now)
		sum.limit, sum.lease, sum.epoch = l.receiver.limit(now), limit.RatePerSecond, limit.Epoch

		if (now-l.settle)%l.period != 0 || now < l.period {
			continue
		}
		to := (now - l.settle).Truncate(policy.Step)
		w := control.Windows{
			Static: l.static, Adaptive: l.adaptive, Buckets: buckets, To: to, Newest: to,
			Delay: policy.Step + l.settle + l.period + l.pickup, Nodes: 1, Waiting: 1,
		}
		for _, b := range buckets {
			if b.Start >= to-time.Hour {
				w.Hour.Add(b.Counts)
			}
		}
		state, want, reasons := control.Decide(&policy, l.state, now, &w)
		l.state = state
		for _, r := range reasons {
			l.reasons, l.at = append(l.reasons, r), append(l.at, now)
		}
		if len(reasons) > 0 || (glide != nil && now-glide.Seen > time.Minute) {
			next = &limits.Lease{Provider: "p", Source: "s", Epoch: want.Epoch, RatePerSecond: want.RatePerSecond, Canary: want.Canary}
			arrives = now + l.pickup
		}
	}
}

func bucketAt(buckets *[]control.Bucket, now time.Duration, epoch uint64, step time.Duration) *control.Bucket {
	start := now.Truncate(step)
	if n := len(*buckets); n > 0 {
		if b := &(*buckets)[n-1]; b.Start == start && b.Epoch == epoch {
			return b
		}
	}
	*buckets = append(*buckets, control.Bucket{Start: start, Epoch: epoch, MinMessages: control.NoMessages})
	return &(*buckets)[len(*buckets)-1]
}

func (l *loop) second(now time.Duration) *second {
	i := int(now / time.Second)
	for len(l.trace) <= i {
		l.trace = append(l.trace, second{})
	}
	return &l.trace[i]
}

// goodput is what was accepted between two times as a share of what the receiver would have
// taken, refused the share of attempts that was refused.
func (l *loop) goodput(from, to time.Duration) (goodput, refused float64) {
	var accepted, attempts, possible float64
	for i := int(from / time.Second); i < int(to/time.Second); i++ {
		s := l.trace[i]
		accepted += float64(s.accepted)
		attempts += float64(s.accepted + s.refused)
		possible += min(s.limit, l.offered)
	}
	return accepted / possible, 1 - accepted/attempts
}

func (l *loop) log(t *testing.T) {
	t.Helper()
	for i, r := range l.reasons {
		t.Logf("%6s %-9s epoch %d  %7.2f -> %7.2f  %s", l.at[i], r.Rule, r.Epoch, r.Old.RatePerSecond, r.New.RatePerSecond, r.Text)
	}
}

func newLoop(static, offered, burst float64, limit func(time.Duration) float64) *loop {
	return &loop{
		receiver: receiver{limit: limit, burst: burst}, static: limits.Static(static, 0, 0), offered: offered,
		period: 10 * time.Second, settle: 2 * time.Second, pickup: 3 * time.Second,
	}
}

// step returns a limit that changes at each time to the value behind it.
func step(first float64, changes ...any) func(time.Duration) float64 {
	return func(t time.Duration) float64 {
		limit := first
		for i := 0; i < len(changes); i += 2 {
			at, okAt := changes[i].(time.Duration)
			value, okValue := changes[i+1].(float64)
			if okAt && okValue && t >= at {
				limit = value
			}
		}
		return limit
	}
}

// The demo: 110 a second, cut to a quarter at any moment of a bucket.
func TestLoopAnswersACutToAQuarter(t *testing.T) {
	for _, burst := range []float64{0, 2, 5} {
		for offset := range 10 {
			cut := 50*time.Second + time.Duration(offset)*time.Second
			l := newLoop(110, 110, burst, step(115, cut, 28.0))
			l.run(t, cut+2*time.Minute)
			if len(l.reasons) == 0 || l.reasons[0].Rule != control.RuleBackoff {
				l.log(t)
				t.Fatalf("cut at %s, burst %v s: no BACKOFF first", cut, burst)
			}
			if after := l.at[0] - cut; after > 23*time.Second+time.Duration(burst)*time.Second {
				t.Errorf("cut at %s, burst %v s: BACKOFF after %s", cut, burst, after)
			}
			if l.reasons[0].New.RatePerSecond > 28 {
				t.Errorf("cut at %s, burst %v s: BACKOFF to %v, want less than the receiver's 28", cut, burst, l.reasons[0].New.RatePerSecond)
			}
			good, refused := l.goodput(cut+time.Minute, cut+2*time.Minute)
			if refused > 0.02 || good < 0.8 {
				l.log(t)
				t.Errorf("cut at %s, burst %v s: in the second minute goodput %.3f and refused %.3f, want over 0.8 and under 0.02", cut, burst, good, refused)
			}
		}
	}
}

func TestLoopRecovers(t *testing.T) {
	const down, up, end = 10 * time.Minute, 40 * time.Minute, 100 * time.Minute
	l := newLoop(10, 10, 10, step(10.5, down, 2.5, up, 10.5))
	l.run(t, end)
	low, refusedLow := l.goodput(down+2*time.Minute, up)
	high, refusedHigh := l.goodput(up+30*time.Minute, end)
	all, _ := l.goodput(0, end)
	t.Logf("goodput %.3f, while down %.3f (refused %.4f), after the recovery %.3f (refused %.4f)", all, low, refusedLow, high, refusedHigh)
	if low < 0.88 || refusedLow > 0.04 || high < 0.94 || refusedHigh > 0.03 || all < 0.85 {
		l.log(t)
		t.Error("goodput is too low or too much was refused")
	}
}

// A configured rate that is right is left alone.
func TestLoopLeavesASteadyReceiverAlone(t *testing.T) {
	l := newLoop(10, 12, 10, step(10.5))
	l.run(t, time.Hour)
	good, refused := l.goodput(0, time.Hour)
	if len(l.reasons) > 0 || good < 0.94 || refused > 0.001 {
		l.log(t)
		t.Errorf("goodput %.3f, refused %.4f, %d changes; want none", good, refused, len(l.reasons))
	}
}

func TestLoopFindsTheLimitOfAnUnlimitedConfiguration(t *testing.T) {
	l := newLoop(0, 400, 5, step(40))
	l.run(t, 30*time.Minute)
	good, refused := l.goodput(5*time.Minute, 30*time.Minute)
	t.Logf("goodput %.3f, refused %.4f", good, refused)
	if good < 0.88 || refused > 0.04 {
		l.log(t)
		t.Error("goodput is too low or too much was refused")
	}
	if math.IsInf(l.trace[len(l.trace)-1].lease, 1) {
		t.Error("no limit at the end")
	}
}

// With an adaptive ceiling the loop follows a receiver above the configured rate, and never above
// the ceiling.
func TestLoopGoesAboveTheConfigurationUpToTheAdaptiveCeiling(t *testing.T) {
	l := newLoop(10, 100, 5, step(60))
	l.adaptive = limits.Limit{RatePerSecond: 40}
	l.run(t, 30*time.Minute)
	for i, s := range l.trace {
		if s.lease > 40 {
			t.Fatalf("lease of %v after %d s", s.lease, i)
		}
	}
	if last := l.trace[len(l.trace)-1]; last.lease < 39.9 {
		l.log(t)
		t.Errorf("lease of %v at the end, want the ceiling of 40", last.lease)
	}
}
