package throttle

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// queued says that so many recipients wait in every queue.
func queued(recipients int) func(string, netip.Addr) Waiting {
	return func(string, netip.Addr) Waiting { return Waiting{Recipients: recipients} }
}

// gaugeOf returns the only gauge.
func gaugeOf(t *testing.T, th *Throttle) event.Gauge {
	t.Helper()
	gauges := th.Gauges(queued(0))
	if len(gauges) != 1 {
		t.Fatalf("%d gauges, want 1", len(gauges))
	}
	return gauges[0]
}

func TestDocumentTakesEffect(t *testing.T) {
	off := func(provider string) *limits.Document {
		d := document(2, lease(1, 10))
		d.Modes = []limits.ProviderMode{{Provider: provider, Mode: limits.Off}}
		return d
	}
	ended := lease(2, 10)
	for _, tc := range []struct {
		name string
		next func() *limits.Document
		rate float64 // in force after it
	}{
		{"off returns to the configuration at once", func() *limits.Document { return off(key.Provider) }, 100},
		{"the kill switch too", func() *limits.Document { return off(limits.EveryProvider) }, 100},
		{"off elsewhere changes nothing", func() *limits.Document { return off("yahoo") }, 10},
		{"a smaller epoch changes nothing", func() *limits.Document { return document(2, lease(1, 50)) }, 10},
		{"the same epoch is split anew", func() *limits.Document { return document(2, lease(5, 7)) }, 7},
		{"a lease that is no longer there", func() *limits.Document { return document(2) }, 100},
		{"a lease that ended before it came", func() *limits.Document {
			ended.Epoch, ended.NotAfter = 9, time.Now().Add(-time.Hour)
			return document(2, ended)
		}, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 100)
				connect(th, p)
				th.Apply(document(1, lease(5, 10)))
				th.Apply(tc.next())
				if got := gaugeOf(t, th).EffectiveRate; got != tc.rate {
					t.Errorf("%v messages a second in force, want %v", got, tc.rate)
				}
			})
		})
	}
}

// What a node may use is bounded by the lease's end, whenever it saw the document first.
func TestNotAfterEndsALeaseBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 100)
		connect(th, p)
		l := lease(1, 10)
		l.NotAfter = time.Now().Add(time.Minute)
		th.Apply(document(1, l))
		time.Sleep(time.Minute)
		if got := gaugeOf(t, th).EffectiveRate; got != 10 {
			t.Errorf("%v messages a second while the lease is fresh, want 10", got)
		}
		time.Sleep(limits.GlideTime)
		if got := gaugeOf(t, th).EffectiveRate; got != 100 {
			t.Errorf("%v messages a second after the glide, want 100", got)
		}
	})
}

// What a node finds when it starts is as old as it is: it glides on, and does not begin anew.
func TestDocumentFromBeforeAStop(t *testing.T) {
	for _, tc := range []struct {
		name      string
		age       time.Duration
		notAfter  time.Duration // from now; 0 for none
		low, high float64       // messages a second in force
		loop      bool          // it has the say over backoff
	}{
		{"fresh", 9 * time.Minute, 0, 10, 10, true},
		{"half the glide", 25 * time.Minute, 0, 25, 40, false},
		{"long ago", time.Hour, 0, 100, 100, false},
		{"its end is known too", 25 * time.Minute, -15 * time.Minute, 25, 40, false},
		{"its end is not yet", 5 * time.Minute, time.Minute, 10, 10, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 100)
				connect(th, p)
				d := document(1, lease(1, 10))
				d.Age = tc.age
				if tc.notAfter != 0 {
					d.Leases[0].NotAfter = time.Now().Add(tc.notAfter)
				}
				th.Apply(d)
				if got := gaugeOf(t, th).EffectiveRate; got < tc.low || got > tc.high {
					t.Errorf("%v messages a second in force, want %v to %v", got, tc.low, tc.high)
				}
				p.Key.Source = "192.0.2.99" // without a lease
				d.Modes = []limits.ProviderMode{{Provider: key.Provider, Mode: limits.Active}}
				if permit, err := acquire(t.Context(), th, p, 1); err != nil || permit.Loop != tc.loop {
					t.Errorf("the loop has the say: %t (%v), want %t", permit.Loop, err, tc.loop)
				}
			})
		})
	}
}

// After a restart nothing was sent for a key yet; who splits limits must see that the node is there, and
// must take neither its lease nor nothing for what is configured.
func TestLeasedKeyHasAGaugeBeforeItsFirstMessage(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	th.Apply(document(1, lease(3, 2)))
	g := gaugeOf(t, th)
	if g.LeaseEpoch != 3 || g.LeaseRate != 2 || !g.StaticUnknown || g.StaticRate != 0 || g.StaticConnections != 0 || g.AdaptiveRate != 0 {
		t.Errorf("gauge %+v, want epoch 3, a lease of 2, and nothing known of the configuration", g)
	}
	connect(th, p)
	if g := gaugeOf(t, th); g.StaticUnknown || g.StaticRate != 100 || g.StaticConnections != 20 {
		t.Errorf("gauge %+v after the first message, want what is configured", g)
	}
}

// A node that gets nothing of a small limit is not one without a limit.
func TestALeaseOfNothingIsNotUnlimited(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	connect(th, p)
	th.Apply(document(1, lease(1, 0)))
	if got := gaugeOf(t, th).EffectiveRate; got <= 0 || got > 1e-6 {
		t.Errorf("%v messages a second in force, want almost none and not 0", got)
	}
}

func TestGaugeNamesWhatBinds(t *testing.T) {
	over := func(t *testing.T, th *Throttle, p Path) { // uses the rate up and asks once more
		t.Helper()
		for range 100 {
			if _, _, err := th.Acquire(t.Context(), p, 1, 0); err != nil {
				return
			}
		}
		t.Fatal("nothing binds")
	}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, th *Throttle, p Path)
		want [3]string // scope, limit, who set it
	}{
		{"nothing", func(t *testing.T, th *Throttle, p Path) { connect(th, p) }, [3]string{}},
		{"the configuration", func(t *testing.T, th *Throttle, p Path) { over(t, th, p) }, [3]string{"queue", "max-msg-rate 1/s", "config max-msg-rate"}},
		{"backoff mode", func(t *testing.T, th *Throttle, p Path) {
			p.Queued.Backoff = true
			over(t, th, p)
		}, [3]string{"queue", "backoff-max-msg-rate 1/s", "config backoff-max-msg-rate"}},
		{"the virtual MTA", func(t *testing.T, th *Throttle, p Path) {
			p.VMTALimits.Rate = Rate{Count: 1, Per: time.Minute}
			over(t, th, p)
		}, [3]string{"vmta", "max-smtp-msg-rate 1/m", ""}},
		{"a lease", func(t *testing.T, th *Throttle, p Path) {
			th.Apply(document(1, lease(7, 0.01)))
			over(t, th, p)
		}, [3]string{"loop", "rate 0.01/s", "loop, epoch 7, reason r7"}},
		{"connections of a lease", func(t *testing.T, th *Throttle, p Path) {
			l := lease(7, 100)
			l.Connections = 1
			th.Apply(document(1, l))
			connect(th, p)
			connect(th, p)
		}, [3]string{"loop", "connections 1", "loop, epoch 7, reason r7"}},
		{"a glide", func(t *testing.T, th *Throttle, p Path) {
			d := document(1, lease(7, 0.01))
			d.Age = d.TTL() + time.Minute
			th.Apply(d)
			over(t, th, p)
		}, [3]string{"glide", "rate 0.108/s", "glide, epoch 7, reason r7"}},
		{"the guard", func(t *testing.T, th *Throttle, p Path) {
			p.Queued.Rate = Rate{Count: 1, Per: 10 * time.Second}
			connect(th, p)
			for range 5 {
				th.Observe(p.Key, false, taxonomy.Block, taxonomy.ScopeNone)
			}
			time.Sleep(time.Minute)
			over(t, th, p)
		}, [3]string{"guard", "rate 0.025/s", "guard"}},
		{"a hold", func(t *testing.T, th *Throttle, p Path) {
			th.KeptBack(p, "hold", "tenant shop", "loop, reason h1")
		}, [3]string{"hold", "tenant shop", "loop, reason h1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 1)
				p.Queued.Origin = func(directive string) string { return "config " + directive }
				tc.do(t, th, p)
				for range 3 { // as long as nothing leaves it is the same limit
					g := th.Gauges(queued(1))[0]
					if got := [3]string{g.LimitScope, g.Limit, g.LimitBy}; got != tc.want {
						t.Errorf("bound by %q, want %q", got, tc.want)
					}
					time.Sleep(10 * time.Second)
				}
				if g := th.Gauges(queued(0))[0]; g.Limit != "" {
					t.Errorf("bound by %q when nothing waits any more", g.Limit)
				}
			})
		})
	}
}

// What held mail back is over when the next message leaves.
func TestGaugeForgetsWhatBoundWhenMailFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 1)
		for range 3 {
			_, _, _ = th.Acquire(t.Context(), p, 1, 0)
		}
		if g := gaugeOf(t, th); g.Limit != "max-msg-rate 1/s" {
			t.Errorf("bound by %q", g.Limit)
		}
		time.Sleep(10 * time.Second)
		if _, _, err := th.Acquire(t.Context(), p, 1, 0); err != nil {
			t.Fatal(err)
		}
		if g := th.Gauges(queued(5))[0]; g.Limit != "" {
			t.Errorf("still bound by %q", g.Limit)
		}
	})
}

func TestGaugeSaysThatTheSourceIsDisabled(t *testing.T) {
	for _, tc := range []struct {
		name string
		a, b Waiting
		want bool
	}{
		{"in no queue", Waiting{Recipients: 1}, Waiting{Recipients: 1}, false},
		{"in one of two", Waiting{1, true}, Waiting{1, false}, false},
		{"in all", Waiting{1, true}, Waiting{1, true}, true},
		{"in all that have mail", Waiting{1, true}, Waiting{0, false}, true},
		{"where there is no mail", Waiting{0, true}, Waiting{0, true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			th, a, b := New(0), path("a/v", 100), path("b/v", 100)
			a.Source = netip.MustParseAddr("127.0.0.7")
			b.Source = a.Source
			connect(th, a)
			connect(th, b)
			g := th.Gauges(func(queue string, source netip.Addr) Waiting {
				if source != a.Source {
					t.Errorf("asked about source %s, want %s", source, a.Source)
				}
				return map[string]Waiting{"a/v": tc.a, "b/v": tc.b}[queue]
			})[0]
			if g.SourceDisabled != tc.want {
				t.Errorf("disabled: %t, want %t", g.SourceDisabled, tc.want)
			}
		})
	}
}

func TestGaugeSaysWhoHasAuthorityOverBackoff(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	connect(th, p)
	if gaugeOf(t, th).BackoffByConfig {
		t.Error("the configuration has authority over backoff, want the loop")
	}
	q := path("b/v", 100)
	q.Queued.BackoffByConfig = true
	connect(th, q)
	if !gaugeOf(t, th).BackoffByConfig {
		t.Error("the loop has authority over backoff although a queue of the key says config")
	}
}

// The loop must not take what backoff mode allows for all that it may use: backoff mode ends with its word.
func TestGaugeInBackoffModeSaysWhatTheLoopMayUse(t *testing.T) {
	th, p := New(0), path("a/v", 100)
	normal := *p.Queued
	p.Queued = &QueueLimits{Rate: Rate{5, time.Second}, Connections: 1, Backoff: true, Normal: &normal}
	connect(th, p)
	if g := gaugeOf(t, th); g.StaticRate != 100 || g.EffectiveRate != 5 {
		t.Errorf("the gauge says %v messages a second are configured and %v in force, want 100 and 5", g.StaticRate, g.EffectiveRate)
	}
}

func TestCanaryTenant(t *testing.T) {
	th := New(0)
	l := lease(3, 2)
	d := document(1, l)
	d.Canaries = []limits.CanaryTenant{{Provider: key.Provider, Source: key.Source, Tenant: "shop"}}
	th.Apply(d)
	if got := th.CanaryTenant(key); got != "" || th.HasCanaries() {
		t.Errorf("a key that is not suspended is tried with mail of %q, want anybody's", got)
	}
	d.Leases[0].Epoch, d.Leases[0].Canary = 4, true
	th.Apply(d)
	if got := th.CanaryTenant(key); got != "shop" || !th.HasCanaries() {
		t.Errorf("the key is tried with mail of %q, want shop", got)
	}
	d.Leases[0].Epoch, d.Leases[0].Canary = 5, false
	if th.Apply(d); th.CanaryTenant(key) != "" || th.HasCanaries() {
		t.Error("the key is tried with one tenant's mail after its suspension")
	}
}

// The loop has the say over backoff mode where it is active, also before its first lease; not when its
// news grow old, and not where it only advises.
func TestWhoHasTheSay(t *testing.T) {
	active := []limits.ProviderMode{{Provider: key.Provider, Mode: limits.Active}}
	for _, tc := range []struct {
		name     string
		document *limits.Document
		after    time.Duration
		want     bool
	}{
		{"no document", nil, 0, false},
		{"a lease", document(1, lease(1, 10)), 0, true},
		{"a lease that is old", document(1, lease(1, 10)), 11 * time.Minute, false},
		{"active without a lease", &limits.Document{TTLSeconds: 600, Modes: active}, 0, true},
		{"the same, old", &limits.Document{TTLSeconds: 600, Modes: active}, 11 * time.Minute, false},
		{"nobody says", document(1), 0, false},
		{"advice", &limits.Document{TTLSeconds: 600, Modes: []limits.ProviderMode{{Provider: key.Provider, Mode: limits.Advise}}}, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th, p := New(0), path("a/v", 100)
				if tc.document != nil {
					th.Apply(tc.document)
				}
				time.Sleep(tc.after)
				permit, err := acquire(t.Context(), th, p, 1)
				if err != nil || permit.Loop != tc.want {
					t.Errorf("the loop has the say: %t (%v), want %t", permit.Loop, err, tc.want)
				}
			})
		})
	}
}
