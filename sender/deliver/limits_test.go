package deliver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/throttle"
)

const limited = `host-name node.test
mx-connection-limit *.a.test 5
mx-connection-limit mx.a.test unlimited
ip-connection-limit 198.51.100/24 7
<virtual-mta v>
	max-smtp-out 50
	max-smtp-msg-rate 1000/m
	max-smtp-data-volume-rate 1g/h
</virtual-mta>
<virtual-mta-pool p>
	virtual-mta v
	max-smtp-out 60
	max-smtp-msg-rate 2000/m
	max-smtp-data-volume-rate 2g/h
</virtual-mta-pool>
<virtual-mta-pool free>
	virtual-mta v
</virtual-mta-pool>
<domain *>
	max-msg-rate 100/h
	max-connect-rate 10/m
	max-smtp-out 9
	adaptive-max-msg-rate 200/h
	adaptive-max-smtp-out 11
	backoff-max-msg-rate 1/m
	smtp-out-rampup-interval 10s
	source-ip-max-smtp-out 0/0 3
	source-ip-max-msg-rate 192.0.2/24 50/m
</domain>
<domain a.test>
	backoff-max-smtp-out 2
	max-data-volume-rate 10m/h
</domain>`

// TestLimitsOfQueueAndVMTA: what the throttle is told is what the configuration says, and where.
func TestLimitsOfQueueAndVMTA(t *testing.T) {
	c, _, err := config.Parse("test", []byte(limited))
	if err != nil {
		t.Fatal(err)
	}
	s := c.Domain("a.test", "v")
	normal, backoff := limitsOfQueue(c, "a.test", "v", &s)
	rate := func(n int64, per time.Duration) throttle.Rate { return throttle.Rate{Count: n, Per: per} }
	if normal.Rate != rate(100, time.Hour) || normal.AdaptiveRate != rate(200, time.Hour) || normal.ConnectRate != rate(10, time.Minute) ||
		normal.DataRate != rate(10<<20, time.Hour) || normal.Connections != 9 || normal.AdaptiveConnections != 11 || normal.RampUp != 10*time.Second || normal.Backoff {
		t.Errorf("normal mode: %+v", normal)
	}
	if backoff.Rate != rate(1, time.Minute) || !backoff.AdaptiveRate.Unlimited() || backoff.ConnectRate != rate(10, time.Minute) ||
		backoff.DataRate != rate(10<<20, time.Hour) || backoff.Connections != 2 || backoff.RampUp != 10*time.Second || !backoff.Backoff {
		t.Errorf("backoff mode: %+v", backoff)
	}
	for directive, want := range map[string]string{
		"max-msg-rate": "test:20:2", "backoff-max-smtp-out": "test:31:2", "backoff-max-connect-rate": "test:21:2", "source-ip-max-data-volume-rate": "default",
	} {
		if got := backoff.Origin(directive); got != want {
			t.Errorf("%s is set at %s, want %s", directive, got, want)
		}
	}
	if len(normal.SourceIP) != 2 || normal.SourceIP[0].Prefix != netip.MustParsePrefix("192.0.2.0/24") || normal.SourceIP[0].Connections != 3 ||
		normal.SourceIP[0].Rate != rate(50, time.Minute) || normal.SourceIP[1].Connections != 3 {
		t.Errorf("source addresses: %+v", normal.SourceIP)
	}

	vmta, _ := c.VMTA("v")
	limits := limitsOfVMTA(c, vmta)
	if limits.Rate != rate(1000, time.Minute) || limits.Connections != 50 || limits.DataRate != rate(1<<30, time.Hour) || limits.Origin("max-smtp-out") != "test:6:2" {
		t.Errorf("vmta: %+v", limits)
	}
	if len(limits.Pools) != 1 {
		t.Fatalf("%d pools with limits, want p", len(limits.Pools))
	}
	if p := limits.Pools[0]; p.Name != "p" || p.Rate != rate(2000, time.Minute) || p.Connections != 60 || p.DataRate != rate(2<<30, time.Hour) || p.Origin("max-smtp-msg-rate") != "test:13:2" {
		t.Errorf("pool: %+v", p)
	}
}

// TestPeerLimits: the limits of the configuration are those that the throttle keeps.
func TestPeerLimits(t *testing.T) {
	c, _, err := config.Parse("test", []byte(limited))
	if err != nil {
		t.Fatal(err)
	}
	th := throttle.New(0)
	th.LimitPeers(PeerLimits(c))
	p := throttle.Path{Source: netip.MustParseAddr("192.0.2.1")}
	for _, tc := range []struct {
		mx, peer string
		want     int
		denied   string
	}{
		{"in.a.test", "203.0.113.1", 5, "mx: mx-connection-limit *.a.test 5 (test:2:"},
		{"mx.a.test", "203.0.113.2", 20, ""},
		{"mx.b.test", "198.51.100.3", 7, "ip: ip-connection-limit 198.51.100.0/24 7 (test:4:"},
	} {
		got, denied := 0, ""
		for range 20 {
			denial, ok := th.ConnectHost(p, tc.mx, netip.MustParseAddr(tc.peer))
			if !ok {
				denied = denial.String()
				break
			}
			got++
		}
		if got != tc.want || !strings.HasPrefix(denied, tc.denied) || (denied == "") != (tc.denied == "") {
			t.Errorf("%s at %s: %d connections, then %q; want %d, %q", tc.mx, tc.peer, got, denied, tc.want, tc.denied)
		}
	}
}

// TestALimitHoldsTheSecondMessageBack: of two messages the first leaves, and the queue says which
// limit the other waits for, and where that was set.
func TestALimitHoldsTheSecondMessageBack(t *testing.T) {
	for _, tc := range []struct{ name, text, why string }{
		{"connections opened", "<domain *>\nmax-msg-per-connection 1\nmax-smtp-out 1\nmax-connect-rate 1/h\n</domain>", "queue: max-connect-rate 1/h (test:"},
		{"connections from an address", "<domain *>\nmax-msg-per-connection 1\nmax-smtp-out 1\nsource-ip-max-connect-rate 127/8 1/h\n</domain>", "source-ip: source-ip-max-connect-rate 1/h (test:"},
		{"messages from an address", "<domain *>\nmax-smtp-out 1\nsource-ip-max-msg-rate 127/8 1/h\n</domain>", "source-ip: source-ip-max-msg-rate 1/h (test:"},
		{"messages of a vmta", "<virtual-mta {default}>\nmax-smtp-msg-rate 1/h\n</virtual-mta>", "vmta: max-smtp-msg-rate 1/h (test:"},
		{"messages of a pool", "<virtual-mta-pool p>\nvirtual-mta {default}\nmax-smtp-msg-rate 1/h\n</virtual-mta-pool>", "pool: max-smtp-msg-rate 1/h (test:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+tc.text+"\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			b.put(time.Hour, "bob@a.test")
			b.start()
			b.events(1)
			waitFor(t, func() bool {
				s := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA}).Status(time.Now())
				return s.Recipients == 1 && strings.HasPrefix(s.DeferredWhy, tc.why)
			})
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.messages) != 1 {
				t.Errorf("%d messages left, want 1", len(p.messages))
			}
		})
	}
}
