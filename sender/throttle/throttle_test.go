package throttle

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

var key = limits.Key{Provider: "google", Source: "192.0.2.1"}

// path returns a path of a queue with so many messages a second.
func path(queue string, perSecond int64) Path {
	var rate Rate
	if perSecond > 0 {
		rate = Rate{perSecond, time.Second}
	}
	return rated(queue, rate)
}

func rated(queue string, rate Rate) Path {
	return Path{Queue: queue, VMTA: "v", Key: key, Queued: &QueueLimits{Rate: rate, Connections: 20}, VMTALimits: &VMTALimits{}}
}

// forever is more patience than any test has.
const forever = 1000 * time.Hour

func acquire(ctx context.Context, th *Throttle, p Path, n int) (Permit, error) {
	permit, _, err := th.Acquire(ctx, p, n, forever)
	return permit, err
}

func connect(th *Throttle, p Path) bool {
	_, ok := th.Connect(p)
	return ok
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
				if _, err := acquire(ctx, th, p, 1); err != nil {
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

func TestTheSmallestLimitWins(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(*Throttle, *Path)
		want  float64 // messages a second
		scope string
	}{
		{"queue", func(*Throttle, *Path) {}, 50, "queue"},
		{"vmta", func(_ *Throttle, p *Path) { p.VMTALimits.Rate = Rate{20, time.Second} }, 20, "vmta"},
		{"lease", func(th *Throttle, _ *Path) { th.Apply(document(1, lease(1, 10))) }, 10, "loop"},
		{"lease above the configuration", func(th *Throttle, _ *Path) { th.Apply(document(1, lease(1, 500))) }, 50, "queue"},
		{"adaptive ceiling", func(th *Throttle, p *Path) {
			p.Queued.AdaptiveRate = Rate{80, time.Second}
			th.Apply(document(1, lease(1, 500)))
		}, 80, "queue"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 50)
				tc.setup(th, &p)
				if !connect(th, p) {
					t.Fatal("no connection")
				}
				left := send(t, th, p, 3, 100*time.Second+30*time.Millisecond)
				if got := float64(len(left)) / 100; got < tc.want*0.94 || got > tc.want*1.21 {
					t.Errorf("%v messages a second, want %v", got, tc.want)
				}
				permit, err := acquire(t.Context(), th, p, 1)
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
		connect(th, p)
		th.Apply(document(1, lease(1, 1)))
		rates := func() float64 { return th.Gauges(queued(0))[0].EffectiveRate }
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
			if !connect(th, p) {
				t.Fatal("no connection without a lease")
			}
		}
		l := lease(1, 10)
		l.Connections = 3
		th.Apply(document(1, l))
		if connect(th, p) || !th.Surplus(p) {
			t.Error("a lease of 3 connections lets a sixth in")
		}
		th.Disconnect(p)
		th.Disconnect(p)
		if th.Surplus(p) || connect(th, p) || th.Connections(key) != 3 {
			t.Errorf("%d connections under a lease of 3", th.Connections(key))
		}
	})
}

func TestGuardCutsWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		connect(th, p)
		for range 100 {
			th.Observe(key, false, taxonomy.Rate, taxonomy.ScopeNone)
			time.Sleep(100 * time.Millisecond)
		}
		permit, err := acquire(t.Context(), th, p, 1)
		if err != nil || permit.Actor != limits.ByGuard {
			t.Errorf("limit set by %q (%v), want the guard", permit.Actor, err)
		}
		if g := th.Gauges(queued(7))[0]; g.LocalFactor > 0.5 || g.Backlog != 7 {
			t.Errorf("gauge %+v", g)
		}
	})
}

// Where the loop found greylisting, first attempts that are refused without a reason are none of the guard's.
func TestGuardUnderGreylisting(t *testing.T) {
	for _, tc := range []struct {
		first, cut bool
	}{{true, false}, {false, true}} {
		synctest.Test(t, func(t *testing.T) {
			th, p := New(0), path("a/v", 100)
			l := lease(3, 50)
			l.Greylisting = true
			th.Apply(document(1, l))
			connect(th, p)
			for range 100 {
				th.Observe(key, tc.first, taxonomy.Other, taxonomy.ScopeNone)
				time.Sleep(100 * time.Millisecond)
			}
			if f := th.Gauges(queued(0))[0].LocalFactor; (f < 1) != tc.cut {
				t.Errorf("first attempts: %t; the guard leaves %v of the rate", tc.first, f)
			}
		})
	}
}

func TestIdleKeysAreForgottenAndLimitsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, hourly, quick := New(0), rated("hourly/v", Rate{1, time.Hour}), path("quick/v", 10)
		quick.Key.Provider = "other"
		for _, p := range []Path{hourly, quick} {
			if !connect(th, p) {
				t.Fatal("no connection")
			}
			if _, err := acquire(t.Context(), th, p, 1); err != nil {
				t.Fatal(err)
			}
			th.Disconnect(p)
		}
		time.Sleep(20 * time.Minute)
		if gauges := th.Gauges(queued(0)); len(gauges) != 0 {
			t.Errorf("%d idle keys have gauges", len(gauges))
		}
		if len(th.queues) != 1 {
			t.Errorf("%d buckets are kept, want that of one message an hour alone", len(th.queues))
		}
		start := time.Now()
		if _, err := acquire(t.Context(), th, hourly, 1); err != nil || time.Since(start) < 39*time.Minute {
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
		if connect(th, p) {
			got++
		}
	}
	if got != 2 {
		t.Errorf("the vmta got %d connections, want its 2", got)
	}
	if !connect(th, other) || connect(th, other) {
		t.Error("the node's three connections are not what it gets")
	}
}

func TestQueueGetsAdaptiveConnectionsUnderALeaseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		p.Queued.Connections, p.Queued.AdaptiveConnections = 2, 4
		fill := func() (n uint32) {
			for connect(th, p) {
				n++
			}
			return n
		}
		if n := fill(); n != 2 {
			t.Errorf("%d connections without a lease, want the configured 2", n)
		}
		th.Apply(document(1, lease(1, 10)))
		if n := fill(); n != 2 {
			t.Errorf("%d more connections under a lease of 10, want 2", n)
		}
		for range 4 {
			th.Disconnect(p)
		}
		if th.queues[p.Queue].open != 0 || th.Connections(key) != 0 {
			t.Errorf("connections are left: %d, %d", th.queues[p.Queue].open, th.Connections(key))
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
					if _, err := acquire(ctx, th, p, 1); err != nil {
						return
					}
				}
			})
		}
		start := time.Now()
		many, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := acquire(many, th, p, 50); err != nil {
			t.Errorf("a message of 50 recipients waited %v: %v", time.Since(start), err)
		}
	})
}

func TestRefundIsThereForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), rated("a/v", Rate{1, time.Hour})
		start := time.Now()
		for range 3 {
			if _, err := acquire(t.Context(), th, p, 1); err != nil {
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
		th, p := New(0), rated("a/v", Rate{1, 5 * time.Second})
		if _, err := acquire(t.Context(), th, p, 1); err != nil {
			t.Fatal(err)
		}
		th.Apply(document(1, lease(1, 0.0001)))
		time.AfterFunc(100*time.Millisecond, func() { th.Apply(document(2)) })
		permit, err := acquire(t.Context(), th, p, 1)
		if err != nil || permit.LimitingScope != "queue" {
			t.Errorf("held back by %q (%v), want the queue", permit.LimitingScope, err)
		}
	})
}

func TestParseDenial(t *testing.T) {
	for _, d := range []Denial{
		{Scope: ScopeQueue, Limit: "max-msg-rate 100/m", SetBy: "/etc/carom/config:3"},
		{Scope: "loop", Limit: "rate 2/s", SetBy: "loop, epoch 3, reason r1"},
		{Scope: ScopeNode, Limit: "total-max-smtp-out 5"},
	} {
		if got, ok := ParseDenial(d.String()); !ok || got != d {
			t.Errorf("ParseDenial(%q) = %+v, %v, want %+v", d.String(), got, ok, d)
		}
	}
	if got, ok := ParseDenial("lookup a.test: no such host"); ok {
		t.Errorf("an error of DNS is taken for %+v", got)
	}
}
