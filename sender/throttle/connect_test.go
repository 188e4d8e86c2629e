package throttle

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/taxonomy"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// TestEveryConnectionLimitHolds: two connections each, and the third is denied by name.
func TestEveryConnectionLimitHolds(t *testing.T) {
	origin := func(directive string) string { return "set " + directive }
	for _, tc := range []struct {
		name  string
		limit func(*Path)
		nodes int
		want  Denial
	}{
		{"node", func(*Path) {}, 2, Denial{Scope: "node", Limit: "total-max-smtp-out 2"}},
		{"vmta", func(p *Path) { p.VMTALimits.Connections = 2 }, 0, Denial{Scope: "vmta", Limit: "max-smtp-out 2", SetBy: "set max-smtp-out"}},
		{"pool", func(p *Path) {
			p.VMTALimits.Pools = []*PoolLimits{{Name: "x"}, {Name: "p", Connections: 2, Origin: origin}}
		}, 0, Denial{Scope: "pool", Limit: "max-smtp-out 2", SetBy: "set max-smtp-out"}},
		{"queue", func(p *Path) { p.Queued.Connections = 2 }, 0, Denial{Scope: "queue", Limit: "max-smtp-out 2", SetBy: "set max-smtp-out"}},
		{
			"queue in backoff", func(p *Path) { p.Queued.Connections, p.Queued.Backoff = 2, true }, 0,
			Denial{Scope: "queue", Limit: "backoff-max-smtp-out 2", SetBy: "set backoff-max-smtp-out"},
		},
		{
			"source address", func(p *Path) { p.Queued.SourceIP = []SourceIPLimits{{Connections: 2}} }, 0,
			Denial{Scope: "source-ip", Limit: "source-ip-max-smtp-out 2", SetBy: "set source-ip-max-smtp-out"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			th, p := New(tc.nodes), path("a/v", 0)
			p.Source = addr("192.0.2.1")
			p.Queued.Origin, p.VMTALimits.Origin = origin, origin
			tc.limit(&p)
			for i := range 2 {
				if denial, ok := th.Connect(p); !ok {
					t.Fatalf("connection %d: %+v", i+1, denial)
				}
			}
			if denial, ok := th.Connect(p); ok || denial != tc.want {
				t.Errorf("%+v, %v; want %+v", denial, ok, tc.want)
			}
			th.Disconnect(p)
			if denial, ok := th.Connect(p); !ok {
				t.Errorf("after one was given back: %+v", denial)
			}
		})
	}
}

func TestSourceAddressesCountApart(t *testing.T) {
	th, p := New(0), path("a/v", 0)
	p.Queued.SourceIP = []SourceIPLimits{{Prefix: prefix("192.0.2.0/24"), Connections: 1}}
	for _, tc := range []struct {
		source string
		want   int
	}{{"192.0.2.1", 1}, {"192.0.2.2", 1}, {"198.51.100.1", 5}} {
		p.Source = addr(tc.source)
		got := 0
		for range 5 {
			if connect(th, p) {
				got++
			}
		}
		if got != tc.want {
			t.Errorf("%d connections from %s, want %d", got, tc.source, tc.want)
		}
	}
}

func TestPoolIsSharedByItsMembers(t *testing.T) {
	th := New(0)
	pool := &PoolLimits{Name: "p", Connections: 3}
	one, two := path("a/v", 0), path("a/w", 0)
	one.VMTALimits, two.VMTA, two.VMTALimits = &VMTALimits{Pools: []*PoolLimits{pool}}, "w", &VMTALimits{Pools: []*PoolLimits{pool}}
	if !connect(th, one) || !connect(th, two) || !connect(th, one) || connect(th, two) || connect(th, one) {
		t.Error("two virtual MTAs do not share the three connections of their pool")
	}
}

// TestNoWindowExceedsTheConnectRate, of the queue and of a source address.
func TestNoWindowExceedsTheConnectRate(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rates(r)
		bySource := rapid.Bool().Draw(r, "by source")
		synctest.Test(t, func(t *testing.T) {
			th, p := New(0), path("a/v", 0)
			p.Source = addr("192.0.2.1")
			if bySource {
				p.Queued.SourceIP = []SourceIPLimits{{ConnectRate: rate}}
			} else {
				p.Queued.ConnectRate = rate
			}
			var all []passed
			start := time.Now()
			for time.Since(start) < 2*rate.Per {
				denial, ok := th.Connect(p)
				if ok {
					all = append(all, passed{time.Since(start), 1})
					th.Disconnect(p)
					continue
				}
				if denial.Wait <= 0 || !strings.HasSuffix(denial.Limit, "max-connect-rate "+rate.String()) {
					t.Fatalf("%+v", denial)
				}
				time.Sleep(denial.Wait)
			}
			checkWindows(t, "connections", rate, all)
			if want := 0.95*2*float64(rate.Count) - 1; float64(len(all)) < want {
				t.Fatalf("%d connections in two windows of %v", len(all), rate)
			}
		})
	})
}

func TestRampUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("a/v", 0)
		p.Queued.RampUp = 10 * time.Second
		if !connect(th, p) {
			t.Fatal("no first connection")
		}
		time.Sleep(4 * time.Second)
		denial, ok := th.Connect(p)
		if want := (Denial{Wait: 6 * time.Second, Scope: "queue", Limit: "smtp-out-rampup-interval 10s"}); ok || denial != want {
			t.Errorf("%+v, want %+v", denial, want)
		}
		time.Sleep(denial.Wait)
		if !connect(th, p) || connect(th, p) {
			t.Error("after the interval there is not one connection more")
		}
		th.Disconnect(p)
		th.Disconnect(p)
		if !connect(th, p) {
			t.Error("a queue without connections has to wait")
		}
	})
}

func TestPeersHaveTheirLimits(t *testing.T) {
	th, p := New(0), path("a/v", 0)
	p.Source = addr("192.0.2.1")
	th.LimitPeers([]PeerLimit{
		{Connections: 2, Host: func(mx string) bool { return mx == "mx.a.test" }, Text: "mx-connection-limit mx.a.test 2", Origin: "config:7:1"},
		{Connections: 1, Host: func(mx string) bool { return strings.HasSuffix(mx, ".a.test") }},
	}, []PeerLimit{{Connections: 3, Prefix: prefix("198.51.100.0/24"), Text: "ip-connection-limit 198.51.100.0/24 3", Origin: "config:8:1"}})
	peer, other := addr("198.51.100.7"), addr("203.0.113.1")
	elsewhere := p
	elsewhere.Source = addr("192.0.2.2")
	for i, step := range []struct {
		path  Path
		mx    string
		peer  netip.Addr
		limit string // "" for a connection
		scope string
	}{
		{p, "mx.a.test", peer, "", ""},
		{p, "mx.a.test", peer, "", ""},
		{p, "mx.a.test", peer, "mx-connection-limit mx.a.test 2", "mx"},
		{elsewhere, "mx.a.test", peer, "", ""}, // each source address by itself
		{elsewhere, "mx.a.test", peer, "ip-connection-limit 198.51.100.0/24 3", "ip"},
		{elsewhere, "mx.a.test", other, "", ""},
		{p, "mx.b.test", other, "", ""}, // no limit
	} {
		denial, ok := th.ConnectHost(step.path, step.mx, step.peer)
		if ok != (step.limit == "") || denial.Limit != step.limit || denial.Scope != step.scope || ok == (denial.SetBy != "") {
			t.Errorf("step %d: %+v, %v", i, denial, ok)
		}
	}
	th.DisconnectHost(p, "mx.a.test", peer)
	if denial, ok := th.ConnectHost(p, "mx.a.test", peer); !ok {
		t.Errorf("after one was given back: %+v", denial)
	}
	for range 2 {
		th.DisconnectHost(p, "mx.a.test", peer)
	}
	th.DisconnectHost(elsewhere, "mx.a.test", peer)
	th.DisconnectHost(elsewhere, "mx.a.test", other)
	th.DisconnectHost(p, "mx.b.test", other)
	if len(th.hosts) != 0 || len(th.addrs) != 0 {
		t.Errorf("connections are left: %v %v", th.hosts, th.addrs)
	}
}

func TestSurplusInBackoff(t *testing.T) {
	th, p := New(0), path("a/v", 0)
	for range 3 {
		connect(th, p)
	}
	p.Queued = &QueueLimits{Connections: 2, Backoff: true}
	if !th.Surplus(p) {
		t.Error("three connections are not too many for backoff-max-smtp-out 2")
	}
	th.Disconnect(p)
	if th.Surplus(p) {
		t.Error("two connections are too many for backoff-max-smtp-out 2")
	}
}

// TestConnectionsAreCountedRight under concurrency: no limit is passed, and nothing is left.
func TestConnectionsAreCountedRight(t *testing.T) {
	th := New(7)
	var wg sync.WaitGroup
	for i := range 8 {
		p := path([]string{"a/v", "b/v"}[i%2], 0)
		p.Source = addr("192.0.2.1")
		p.Queued.Connections, p.Queued.SourceIP = 4, []SourceIPLimits{{Connections: 3}}
		wg.Go(func() {
			for range 500 {
				if !connect(th, p) {
					continue
				}
				th.mu.Lock()
				if q := th.queues[p.Queue]; th.connections > 7 || q.open > 4 || q.sources[0].open > 3 {
					t.Errorf("%d connections, %d of the queue, %d of the source", th.connections, q.open, q.sources[0].open)
				}
				th.mu.Unlock()
				th.Disconnect(p)
			}
		})
	}
	wg.Wait()
	if th.connections != 0 || th.Connections(key) != 0 || th.queues["a/v"].open != 0 || th.vmtas["v"].connections != 0 {
		t.Error("connections are left")
	}
}

func TestAMillionIdleQueuesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(0), path("", 10)
		for i := range 100_000 {
			p.Queue = "q" + string(rune('a'+i%26)) + time.Duration(i).String()
			if !connect(th, p) {
				t.Fatal("no connection")
			}
			if _, _, err := th.Acquire(t.Context(), p, 1, 0); err != nil {
				t.Fatal(err)
			}
			th.Disconnect(p)
		}
		time.Sleep(idleTime + time.Second)
		th.Gauges(queued(0))
		if len(th.queues) != 0 || th.recent.newest != nil || th.recent.oldest != nil || len(th.keys) != 0 {
			t.Errorf("%d queues and %d keys are kept", len(th.queues), len(th.keys))
		}
	})
}

func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, p := New(100), rated("a/v", Rate{60, time.Minute})
		p.Source = addr("192.0.2.1")
		p.Queued.AdaptiveRate = Rate{120, time.Minute}
		p.Queued.ConnectRate, p.Queued.RampUp = Rate{1, time.Minute}, time.Second
		p.Queued.SourceIP = []SourceIPLimits{{Rate: Rate{10, time.Minute}, Connections: 5}}
		p.Queued.Origin = func(directive string) string { return "config " + directive }
		p.VMTALimits = &VMTALimits{Connections: 50, DataRate: Rate{1 << 30, time.Hour}, Pools: []*PoolLimits{{Name: "p", Rate: Rate{1000, time.Minute}}}}
		connect(th, p)
		th.Apply(document(1, lease(3, 50)))
		if _, err := acquire(t.Context(), th, p, 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		find := func(scope, directive string) Binding {
			for _, b := range th.Explain(p) {
				if b.Scope == scope && b.Directive == directive {
					return b
				}
			}
			t.Fatalf("no %s %s in %+v", scope, directive, th.Explain(p))
			return Binding{}
		}
		if b := find("source-ip", "source-ip-max-msg-rate"); !b.Binds || b.Name != "192.0.2.1" || b.InForce != "10/m" || b.Used != "1" || b.Wait < 4*time.Second || b.SetBy != "config source-ip-max-msg-rate" {
			t.Errorf("%+v", b)
		}
		if b := find("queue", "adaptive-max-msg-rate"); b.Binds || b.Configured != "60/m" || b.InForce != "120/m" || b.SetBy != "config adaptive-max-msg-rate" {
			t.Errorf("%+v", b)
		}
		if b := find("queue", "max-connect-rate"); !b.Binds || b.Wait < 58*time.Second {
			t.Errorf("%+v", b)
		}
		if b := find("node", "total-max-smtp-out"); b.InForce != "100" || b.Used != "1" || b.Binds {
			t.Errorf("%+v", b)
		}
		if b := find("key", "rate"); b.Epoch != 3 || b.Reason != "r3" || b.Expires < 590*time.Second || b.Configured != "1/s" || b.InForce != "2/s" || b.Binds {
			t.Errorf("%+v", b)
		}
		for range 100 {
			th.Observe(key, false, taxonomy.Block, taxonomy.ScopeNone)
			time.Sleep(100 * time.Millisecond)
		}
		if b := find("key", "rate"); b.SetBy != "guard" || !strings.Contains(b.Reason, "r3, the guard allows") || !strings.Contains(b.Reason, "last refused as block 0s ago") {
			t.Errorf("%+v", b)
		}
		find("vmta", "max-smtp-out")
		find("vmta", "max-smtp-data-volume-rate")
		find("pool", "max-smtp-msg-rate")
		find("loop", "connections")
		find("queue", "smtp-out-rampup-interval")
	})
}
