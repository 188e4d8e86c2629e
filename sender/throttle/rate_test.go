package throttle

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/limits"
)

// passed is so many recipients or connections at a time.
type passed struct {
	at time.Duration
	n  int
}

// checkWindows fails if a window of rate.Per saw more than rate.Count, single messages above it
// apart: they may go when nothing else is in their window.
func checkWindows(t *testing.T, what string, rate Rate, all []passed) {
	t.Helper()
	first, sum := 0, 0
	for i, p := range all {
		for ; all[first].at+rate.Per <= p.at; first++ {
			sum -= all[first].n
		}
		sum += p.n
		if int64(sum) > rate.Count && first != i {
			t.Fatalf("%s: %d within %v from %v on, at %v", what, sum, p.at-all[first].at, all[first].at, rate)
		}
	}
}

func rates(r *rapid.T) Rate {
	return Rate{
		Count: rapid.OneOf(rapid.Int64Range(1, 60), rapid.Int64Range(1, 3000)).Draw(r, "count"),
		Per:   rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(r, "per"),
	}
}

// TestNoWindowExceedsTheRate: over three windows, with any mixture of message sizes, workers and
// pauses.
func TestNoWindowExceedsTheRate(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rates(r)
		workers := rapid.IntRange(1, 6).Draw(r, "workers")
		largest := rapid.SampledFrom([]int{1, 1, 2, 5, 40}).Draw(r, "largest message")
		pauses := rapid.Bool().Draw(r, "pauses")
		refunds := rapid.Bool().Draw(r, "refunds")
		seed := rapid.Uint64().Draw(r, "seed")
		synctest.Test(t, func(t *testing.T) {
			th, p := New(0), rated("a/v", rate)
			span := 3 * rate.Per
			ctx, cancel := context.WithTimeout(t.Context(), span)
			defer cancel()
			start := time.Now()
			var mu sync.Mutex
			var all []passed
			total := 0
			var wg sync.WaitGroup
			for worker := range workers {
				random := rand.New(rand.NewPCG(seed, uint64(worker)))
				wg.Go(func() {
					for {
						n := 1 + random.IntN(largest)
						if _, err := acquire(ctx, th, p, n); err != nil {
							return
						}
						if refunds && workers == 1 && random.IntN(10) == 0 {
							th.Refund(p, n)
							continue
						}
						mu.Lock()
						all = append(all, passed{time.Since(start), n})
						total += n
						mu.Unlock()
						if pauses && random.IntN(4) == 0 {
							time.Sleep(time.Duration(random.Int64N(int64(rate.Per))))
						}
					}
				})
			}
			wg.Wait()
			checkWindows(t, "messages", rate, all)
			// Single messages get 95 % of the rate; larger ones what fits into windows as they come.
			if want := 0.95*3*float64(rate.Count) - 1; largest == 1 && !pauses && !refunds && float64(total) < want {
				t.Fatalf("%d recipients in three windows of %v: the limit costs more than 5 %%", total, rate)
			}
		})
	})
}

// TestMessagesOfManyRecipientsGetTheRate: messages of one size that fits get most of a rate.
func TestMessagesOfManyRecipientsGetTheRate(t *testing.T) {
	for _, n := range []int{2, 5, 10, 100} {
		synctest.Test(t, func(t *testing.T) {
			th, rate := New(0), Rate{1000, time.Hour}
			p, start, total := rated("a/v", rate), time.Now(), 0
			var all []passed
			for {
				if _, err := acquire(t.Context(), th, p, n); err != nil {
					t.Fatal(err)
				}
				at := time.Since(start)
				if at >= 10*time.Hour {
					break
				}
				all = append(all, passed{at, n})
				total += n
			}
			checkWindows(t, "messages", rate, all)
			if total < 9000 {
				t.Errorf("messages of %d: %d recipients in 10 hours of %v", n, total, rate)
			}
		})
	}
}

func TestMessageAboveTheCountLeavesAndIsPaidOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p, start := New(0), rated("a/v", Rate{10, time.Minute}), time.Now()
		for _, step := range []struct {
			n     int
			least time.Duration
			most  time.Duration
		}{
			{1, 0, 0},
			{50, time.Minute, 65 * time.Second}, // when the window is empty
			{1, 6 * time.Minute, 6*time.Minute + 15*time.Second},
		} {
			if _, err := acquire(t.Context(), th, p, step.n); err != nil {
				t.Fatal(err)
			}
			if at := time.Since(start); at < step.least || at > step.most {
				t.Errorf("%d recipients left after %v, want %v to %v", step.n, at, step.least, step.most)
			}
		}
	})
}

func TestRestartGivesNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := path("a/v", 1000)
		for range 5 {
			if left := send(t, New(0), p, 4, 10*time.Millisecond); len(left) > 11 {
				t.Errorf("%d messages in 10 ms at 1000/s after a start", len(left))
			}
		}
	})
}

// TestFlappingModesGivesNothingAway: a queue that goes from mode to mode keeps the space of the
// rate that is in force.
func TestFlappingModesGivesNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, normal := New(0), rated("a/v", Rate{100, time.Hour})
		backoff := rated("a/v", Rate{10, time.Hour})
		var all []passed
		start := time.Now()
		for time.Since(start) < 10*time.Hour {
			for _, p := range []Path{normal, backoff} {
				if _, _, err := th.Acquire(t.Context(), p, 1, 0); err == nil {
					all = append(all, passed{time.Since(start), 1})
				} else if !errors.Is(err, ErrLater) {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		checkWindows(t, "messages", Rate{100, time.Hour}, all)
		if len(all) < 90 {
			t.Errorf("%d messages in 10 hours", len(all))
		}
	})
}

func TestWaitersLeaveInTheOrderInWhichTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 2)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := acquire(t.Context(), th, p, 1); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait()
		}
		wg.Wait()
		for i, who := range order {
			if who != i {
				t.Fatalf("order %v", order)
			}
		}
	})
}

// TestPatience: who would wait longer than it may is told at once when to come back, and takes
// nothing; then it is right.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), rated("a/v", Rate{6, time.Minute})
		p.Queued.Origin = func(directive string) string { return "config:3:2 " + directive }
		start := time.Now()
		for i := range 4 {
			permit, denial, err := th.Acquire(t.Context(), p, 1, 0)
			switch {
			case i == 0 && err == nil:
				continue
			case i == 0:
				t.Fatal(err)
			case !errors.Is(err, ErrLater) || permit != (Permit{}):
				t.Fatalf("%+v, %v; want ErrLater", permit, err)
			case denial.Wait < 10*time.Second || denial.Wait > 11*time.Second:
				t.Fatalf("wait %v, want a little more than 10 s", denial.Wait)
			}
			want := Denial{Wait: denial.Wait, Scope: "queue", Limit: "max-msg-rate 6/m", SetBy: "config:3:2 max-msg-rate"}
			if denial != want {
				t.Errorf("%+v, want %+v", denial, want)
			}
			if i == 3 {
				time.Sleep(denial.Wait)
				if _, _, err := th.Acquire(t.Context(), p, 1, 0); err != nil {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			}
		}
		var wg sync.WaitGroup
		results := make(chan error, 6)
		for range 6 { // one every 10 s: two have patience enough
			wg.Go(func() {
				_, _, err := th.Acquire(t.Context(), p, 1, 25*time.Second)
				results <- err
			})
			synctest.Wait()
		}
		before := time.Now()
		wg.Wait()
		good := 0
		for range 6 {
			if err := <-results; err == nil {
				good++
			} else if !errors.Is(err, ErrLater) {
				t.Error(err)
			}
		}
		if took := time.Since(before); good != 2 || took > 25*time.Second {
			t.Errorf("%d of 6 left within %v, want 2", good, took)
		}
	})
}

func TestCancelledWaitersGiveTheirPlaceUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 1)
		if _, err := acquire(t.Context(), th, p, 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := acquire(ctx, th, p, 1); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		start := time.Now()
		if _, err := acquire(t.Context(), th, p, 1); err != nil || time.Since(start) > 1100*time.Millisecond {
			t.Errorf("left after %v: %v", time.Since(start), err)
		}
		wg.Wait()
		if q := th.queues["a/v"]; q.messages.first != nil || q.messages.ahead != 0 || th.keys[key].waiting != 0 {
			t.Errorf("somebody is left in line: %+v", q.messages.line)
		}
	})
}

func TestNothingLeavesAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := acquire(ctx, New(0), path("a/v", 0), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want the error of the context", err)
	}
}

// TestALeaseWakesThoseWhoWait: one that ends sets free what it held back.
func TestALeaseWakesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		connect(th, p)
		th.Apply(document(1, lease(1, 0)))
		time.AfterFunc(90*time.Second, func() { th.Apply(document(2)) })
		start := time.Now()
		permit, err := acquire(t.Context(), th, p, 1)
		if waited := time.Since(start); err != nil || waited != 90*time.Second || permit.LimitingScope != string(limits.ByLoop) {
			t.Errorf("left after %v, held back by %q (%v)", waited, permit.LimitingScope, err)
		}
	})
}

// TestASlowQueueHoldsNobodyElseBack: the limits that it shares are free for others while it waits
// for its own.
func TestASlowQueueHoldsNobodyElseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, slow, quick := New(0), rated("slow/v", Rate{1, time.Hour}), path("quick/v", 0)
		shared := &VMTALimits{Rate: Rate{100, time.Second}, Pools: []*PoolLimits{{Name: "p", Rate: Rate{200, time.Second}}}}
		slow.VMTALimits, quick.VMTALimits = shared, shared
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for {
					if _, err := acquire(ctx, th, slow, 1); err != nil {
						return
					}
				}
			})
		}
		left := send(t, th, quick, 4, 10*time.Second)
		cancel()
		wg.Wait()
		if len(left) < 940 {
			t.Errorf("%d messages in 10 s of 100/s beside a slow queue", len(left))
		}
	})
}

func TestRefundOfAnOlderMessageKeepsTheSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), rated("a/v", Rate{10, time.Hour})
		for range 2 {
			if _, err := acquire(t.Context(), th, p, 1); err != nil {
				t.Fatal(err)
			}
		}
		th.Refund(p, 1) // of the first of two
		start := time.Now()
		if _, err := acquire(t.Context(), th, p, 1); err != nil || time.Since(start) < 6*time.Minute {
			t.Errorf("the next left %v after the last (%v)", time.Since(start), err)
		}
	})
}

func TestDataRateCountsWhatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		p.Queued.DataRate = Rate{1 << 20, time.Minute}
		const size = 16 << 10
		start := time.Now()
		var all []passed
		for i := 0; time.Since(start) < 5*time.Minute; i++ {
			if _, err := acquire(t.Context(), th, p, 1); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 { // the others fail and count nothing
				all = append(all, passed{time.Since(start), size})
				th.Sent(p, size)
			}
		}
		checkWindows(t, "bytes", p.Queued.DataRate, all)
		if want := 0.95*5*(1<<20)/size - 1; float64(len(all)) < want {
			t.Errorf("%d messages in 5 minutes, want %v", len(all), want)
		}
		th.Sent(p, 10<<20)
		_, denial, err := th.Acquire(t.Context(), p, 1, time.Minute)
		if !errors.Is(err, ErrLater) || denial.Limit != "max-data-volume-rate 1048576/m" || denial.Wait < 9*time.Minute {
			t.Errorf("%+v (%v)", denial, err)
		}
	})
}

func TestRateOfASourceAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, one := New(0), path("a/v", 0)
		one.Queued.SourceIP = []SourceIPLimits{
			{Prefix: prefix("192.0.2.1/32"), Rate: Rate{5, time.Second}},
			{Rate: Rate{10, time.Second}},
		}
		two, three := one, one
		one.Source, two.Source, three.Source = addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::3")
		for _, tc := range []struct {
			p    Path
			want int
		}{{one, 50}, {two, 100}, {three, 100}} {
			if n := len(send(t, th, tc.p, 2, 10*time.Second)); n < tc.want*95/100 || n > tc.want+1 {
				t.Errorf("%s sent %d messages in 10 s, want about %d", tc.p.Source, n, tc.want)
			}
		}
	})
}

func TestAcquireDoesNotAllocate(t *testing.T) {
	th, p := New(0), path("a/v", 1e9)
	p.Source = addr("192.0.2.1")
	p.Queued.SourceIP = []SourceIPLimits{{Rate: Rate{1e9, time.Second}}}
	p.VMTALimits.Pools = []*PoolLimits{{Name: "p", Rate: Rate{1e9, time.Second}}}
	connect(th, p)
	ctx := t.Context()
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := acquire(ctx, th, p, 1); err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations a message", allocations)
	}
}

func BenchmarkAcquire(b *testing.B) {
	th, p := New(0), path("a/v", 1e9)
	connect(th, p)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := acquire(ctx, th, p, 1); err != nil {
			b.Fatal(err)
		}
		_ = th.Surplus(p)
		_ = th.MessagesPerConnection(p)
	}
}
