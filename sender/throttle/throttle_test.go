package throttle

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

var key = limits.Key{Provider: "google", Source: "192.0.2.1"}

func path(queue string, rate float64) Path {
	return Path{Queue: queue, VMTA: "v", Key: key, QueueLimits: QueueLimits{RatePerSecond: rate, Connections: 20}}
}

// send lets workers send messages for the duration in virtual time and returns when each left.
func send(t *testing.T, th *Throttle, p Path, workers int, d time.Duration) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	start := time.Now()
	var mu sync.Mutex
	var left []time.Duration
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				if _, err := th.Acquire(ctx, p, 1); err != nil {
					return
				}
				mu.Lock()
				left = append(left, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return left
}

func document(generation uint64, leases ...limits.Lease) *limits.Document {
	return &limits.Document{Format: limits.Format, Generation: generation, IssuedAt: time.Unix(0, 0), TTLSeconds: 600, Leases: leases}
}

func lease(epoch uint64, rate float64) limits.Lease {
	return limits.Lease{Provider: key.Provider, Source: key.Source, Epoch: epoch, RatePerSecond: rate, Connections: 10, MessagesPerConnection: 100, ReasonID: fmt.Sprint("r", epoch)}
}

func TestConfiguredRateHoldsInEveryWindow(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rapid.Float64Range(0.5, 200).Draw(r, "rate")
		workers := rapid.IntRange(1, 8).Draw(r, "workers")
		synctest.Test(t, func(t *testing.T) {
			left := send(t, New(0), path("a/v", rate), workers, 5*time.Second)
			for i := range left { // over any window from message i on
				for j := i; j < len(left); j++ {
					window := (left[j] - left[i]).Seconds()
					if n := float64(j - i + 1); n > rate*window+staticDepth(rate)+1.001 {
						t.Fatalf("%v messages in %.3f s at %v/s", n, window, rate)
					}
				}
			}
			if want := rate * 5 * 0.95; float64(len(left)) < want-1 {
				t.Fatalf("%d messages in 5 s at %v/s: the limit costs more than 5 %%", len(left), rate)
			}
		})
	})
}

func TestTheSmallestLimitWins(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(*Throttle, *Path)
		want  float64 // messages a second
		scope string
	}{
		{"queue", func(*Throttle, *Path) {}, 50, "queue"},
		{"vmta", func(_ *Throttle, p *Path) { p.VMTALimits.RatePerSecond = 20 }, 20, "vmta"},
		{"lease", func(th *Throttle, _ *Path) { th.Apply(document(1, lease(1, 10))) }, 10, "loop"},
		{"lease above the configuration", func(th *Throttle, _ *Path) { th.Apply(document(1, lease(1, 500))) }, 50, "queue"},
		{"adaptive ceiling", func(th *Throttle, p *Path) {
			p.QueueLimits.AdaptiveRatePerSecond = 80
			th.Apply(document(1, lease(1, 500)))
		}, 80, "queue"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 50)
				tc.setup(th, &p)
				if !th.Connect(p) {
					t.Fatal("no connection")
				}
				left := send(t, th, p, 3, 100*time.Second)
				if got := float64(len(left)) / 100; got < tc.want*0.94 || got > tc.want*1.21 {
					t.Errorf("%v messages a second, want %v", got, tc.want)
				}
				permit, err := th.Acquire(t.Context(), p, 1)
				if err != nil || permit.LimitingScope != tc.scope {
					t.Errorf("held back by %q (%v), want %q", permit.LimitingScope, err, tc.scope)
				}
			})
		})
	}
}

func TestExpiredLeaseGlidesToTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		th.Connect(p)
		th.Apply(document(1, lease(1, 1)))
		rates := func() float64 { return th.Gauges(func(string) int { return 0 })[0].EffectiveRate }
		fresh := rates()
		time.Sleep(25 * time.Minute) // 10 min TTL, half of the glide
		half := rates()
		time.Sleep(time.Hour)
		if end := rates(); fresh != 1 || half < 9 || half > 11 || end != 100 {
			t.Errorf("rates %v, %v, %v; want 1, about 10, 100", fresh, half, end)
		}
	})
}

func TestLeaseLimitsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		for range 5 {
			if !th.Connect(p) {
				t.Fatal("no connection without a lease")
			}
		}
		l := lease(1, 10)
		l.Connections = 3
		th.Apply(document(1, l))
		if th.Connect(p) || !th.Surplus(p) {
			t.Error("a lease of 3 connections lets a sixth in")
		}
		th.Disconnect(p)
		th.Disconnect(p)
		if th.Surplus(p) || th.Connect(p) || th.Connections(key) != 3 {
			t.Errorf("%d connections under a lease of 3", th.Connections(key))
		}
	})
}

func TestGuardCutsWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		th.Connect(p)
		for range 100 {
			th.Observe(key, taxonomy.Rate, taxonomy.ScopeNone)
			time.Sleep(100 * time.Millisecond)
		}
		permit, err := th.Acquire(t.Context(), p, 1)
		if err != nil || permit.Actor != limits.ByGuard {
			t.Errorf("limit set by %q (%v), want the guard", permit.Actor, err)
		}
		if g := th.Gauges(func(string) int { return 7 })[0]; g.LocalFactor > 0.5 || g.Backlog != 7 {
			t.Errorf("gauge %+v", g)
		}
	})
}

func TestIdleKeysAreForgottenAndLimitsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, hourly, quick := New(0), path("hourly/v", 1.0/3600), path("quick/v", 10)
		quick.Key.Provider = "other"
		for _, p := range []Path{hourly, quick} {
			if !th.Connect(p) {
				t.Fatal("no connection")
			}
			if _, err := th.Acquire(t.Context(), p, 1); err != nil {
				t.Fatal(err)
			}
			th.Disconnect(p)
		}
		time.Sleep(20 * time.Minute)
		if gauges := th.Gauges(func(string) int { return 0 }); len(gauges) != 0 {
			t.Errorf("%d idle keys have gauges", len(gauges))
		}
		if len(th.queues) != 1 {
			t.Errorf("%d buckets are kept, want that of one message an hour alone", len(th.queues))
		}
		start := time.Now()
		if _, err := th.Acquire(t.Context(), hourly, 1); err != nil || time.Since(start) < 39*time.Minute {
			t.Errorf("the second message of an hour went out after %v (%v)", 20*time.Minute+time.Since(start), err)
		}
	})
}

func TestConnectionsOfNodeAndVMTA(t *testing.T) {
	p := path("a/v", 0)
	p.VMTALimits.Connections = 2
	th := New(3)
	other := path("b/w", 0)
	other.VMTA = "w"
	got := 0
	for range 5 {
		if th.Connect(p) {
			got++
		}
	}
	if got != 2 {
		t.Errorf("the vmta got %d connections, want its 2", got)
	}
	if !th.Connect(other) || th.Connect(other) {
		t.Error("the node's three connections are not what it gets")
	}
}

func TestQueueGetsAdaptiveConnectionsUnderALeaseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		p.QueueLimits.Connections, p.QueueLimits.AdaptiveConnections = 2, 4
		connect := func() (n uint32) {
			for th.Connect(p) {
				n++
			}
			return n
		}
		if n := connect(); n != 2 {
			t.Errorf("%d connections without a lease, want the configured 2", n)
		}
		th.Apply(document(1, lease(1, 10)))
		if n := connect(); n != 2 {
			t.Errorf("%d more connections under a lease of 10, want 2", n)
		}
		for range 4 {
			th.Disconnect(p)
		}
		if len(th.open) != 0 || th.Connections(key) != 0 {
			t.Errorf("connections are left: %v, %d", th.open, th.Connections(key))
		}
	})
}

func TestManyRecipientsAreNotOvertakenForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		for range 8 {
			wg.Go(func() {
				for {
					if _, err := th.Acquire(ctx, p, 1); err != nil {
						return
					}
				}
			})
		}
		start := time.Now()
		many, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := th.Acquire(many, p, 50); err != nil {
			t.Errorf("a message of 50 recipients waited %v: %v", time.Since(start), err)
		}
	})
}

func TestRefundIsThereForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 1.0/3600)
		start := time.Now()
		for range 3 {
			if _, err := th.Acquire(t.Context(), p, 1); err != nil {
				t.Fatal(err)
			}
			th.Refund(p, 1)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("refunded messages waited %v", waited)
		}
		th.Refund(p, 100)
		if left := send(t, th, p, 1, time.Minute); len(left) != 1 {
			t.Errorf("%d messages in a minute of one an hour", len(left))
		}
	})
}

// TestScopeIsWhatWasWaitedFor: a lease that asks for an hour and goes after a moment held the
// message back for that moment.
func TestScopeIsWhatWasWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0.2)
		if _, err := th.Acquire(t.Context(), p, 1); err != nil {
			t.Fatal(err)
		}
		th.Apply(document(1, lease(1, 0.0001)))
		time.AfterFunc(100*time.Millisecond, func() { th.Apply(document(2)) })
		permit, err := th.Acquire(t.Context(), p, 1)
		if err != nil || permit.LimitingScope != "queue" {
			t.Errorf("held back by %q (%v), want the queue", permit.LimitingScope, err)
		}
	})
}
