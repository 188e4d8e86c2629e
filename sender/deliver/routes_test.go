package deliver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
)

// TestSkipMX: the message goes to the next host, although the first has said no for good.
func TestSkipMX(t *testing.T) {
	for name, text := range map[string]string{
		"skip-mx": fmt.Sprintf(patterns, "reply /go away/ skip-mx", ""),
		"421":     "<domain a.test>\nsmtp-421-means-mx-unavailable yes\n</domain>\n",
	} {
		for _, command := range []string{"CONNECT", "MAIL", "RCPT", "DOT"} {
			t.Run(name+" at "+command, func(t *testing.T) {
				reply := "550 5.7.1 go away"
				if name == "421" {
					reply = "421 4.7.0 busy"
				}
				first := newPeer(t, always(map[string]string{command: reply}))
				second := newPeerAt(t, fmt.Sprintf("127.0.0.2:%d", first.addr.Port()), always(nil))
				b := newBench(t, to(first)+text, routes{"a.test": {mx(1, "mx1.a.test", "127.0.0.1"), mx(2, "mx2.a.test", "127.0.0.2")}})
				b.put(time.Hour, "ann@a.test")
				b.start()
				n := 2
				if command == "CONNECT" {
					n = 1 // the next host is tried without a word
				}
				events := b.events(n)
				if e := events[0]; n == 2 && (e.Kind != event.QueueDeferred || !strings.HasPrefix(e.Reply, `skip of MX requested: "`+reply+`" received from mx1.a.test (127.0.0.1) while connected from node.test`)) {
					t.Errorf("%s: %s", e.Kind, e.Reply)
				}
				if e := events[n-1]; e.Kind != event.Delivered || e.MXHost != "mx2.a.test" || e.Attempt != 1 {
					t.Errorf("%s by %s, attempt %d", e.Kind, e.MXHost, e.Attempt)
				}
				if len(second.received()) != 1 {
					t.Errorf("the second host got %d messages", len(second.received()))
				}
			})
		}
	}
}

// TestBounceQueue: one reply bounces all that the queue holds, due or not.
func TestBounceQueue(t *testing.T) {
	for _, command := range []string{"CONNECT", "RCPT"} {
		t.Run(command, func(t *testing.T) {
			p := newPeer(t, always(map[string]string{command: "550 5.7.1 closed for ever"}))
			b := newBench(t, to(p)+fmt.Sprintf(patterns, "reply /for ever/ bounce-queue", "max-smtp-out 1"), names{mx: "mx.a.test", addr: p.addr.Addr()})
			for range 4 {
				b.put(time.Hour, "ann@a.test", "bob@a.test")
			}
			b.start()
			others := 0
			waitFor(t, func() bool { return b.spool.Stats().Messages == 0 })
			for _, e := range b.events(8) {
				switch {
				case e.Kind == event.QueueDeferred:
				case e.Kind != event.Bounced:
					t.Errorf("%s: %s", e.Kind, e.Reply)
				case e.Reply == "bounce-queue;reply:550 5.7.1 closed for ever" && e.Code == 0 && e.Enhanced == "5.7.1":
					others++
				}
			}
			if others < 6 {
				t.Errorf("%d recipients bounced with the queue, want 6 or more", others)
			}
		})
	}
}

func TestReroute(t *testing.T) {
	inDomain := func(directive string) string { return "<domain *>\n" + directive + "\n</domain>\n" }
	for _, tc := range []struct {
		name, a, b string
		backoff    bool
		want       string // addresses
	}{
		{"always", inDomain("reroute-to-virtual-mta b"), "", false, "127.0.0.3"},
		{"chain", inDomain("reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta c"), false, "127.0.0.4"},
		{"loop", inDomain("reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta a"), false, "127.0.0.2"},
		{"itself", inDomain("reroute-to-virtual-mta a"), "", false, "127.0.0.2"},
		{"pool", inDomain("reroute-to-virtual-mta p"), "", false, "127.0.0.3 127.0.0.4"},
		{"in backoff mode", inDomain("backoff-reroute-to-virtual-mta c"), "", true, "127.0.0.4"},
		{"not in backoff mode", inDomain("backoff-reroute-to-virtual-mta c"), "", false, "127.0.0.2"},
		{"loop by backoff", inDomain("backoff-reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta a"), true, "127.0.0.2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+fmt.Sprintf(ways, tc.a, tc.b), names{mx: "mx.a.test", addr: p.addr.Addr()})
			// Into the queue of the virtual MTA itself, as mail that waited before a change would be.
			for range 2 {
				b.putInto(queue.Name{Domain: "a.test", VMTA: "a"}, "ann@a.test")
			}
			if tc.backoff {
				b.manager.Queue(queue.Name{Domain: "a.test", VMTA: "a"}).EnterBackoff("test", time.Time{})
			}
			b.start()
			var used []string
			for _, e := range b.events(2) {
				if e.Kind != event.Delivered {
					t.Errorf("%s: %s", e.Kind, e.Reply)
				}
				used = append(used, e.SourceIP.String())
			}
			slices.Sort(used)
			if !strings.Contains(tc.want, " ") {
				used = slices.Compact(used)
			}
			got := strings.Join(used, " ")
			if tc.name == "pool" && strings.Contains(tc.want, used[0]) {
				got = tc.want // one session may have moved both
			}
			if got != tc.want {
				t.Errorf("mail left by %s, want %s", got, tc.want)
			}
		})
	}
	b := newBench(t, fmt.Sprintf(ways, inDomain("reroute-to-virtual-mta p\nqueue-to big.queue"), ""), names{})
	first, second := b.agent.Plan("a.test", "a"), b.agent.Plan("a.test", "a")
	if first.Queue.Domain != "big.queue" || first.Queue.VMTA != "b" || second.Queue.VMTA != "c" || second.BounceAfter == 0 {
		t.Errorf("plans %+v and %+v", first, second)
	}
}

// TestQueueTo: the mail of two domains waits in one queue with its own hosts.
func TestQueueTo(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, fmt.Sprintf("<domain a.test>\nqueue-to big.queue\n</domain>\n<domain b.test>\nqueue-to big.queue\n</domain>\n<domain big.queue>\nsmtp-hosts [127.0.0.1]:%d\nmax-smtp-out 1\n</domain>\n", p.addr.Port()), routes{})
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@b.test")
	b.start()
	domains := map[string]bool{}
	for _, e := range b.events(2) {
		domains[e.RecipientDomain] = e.Kind == event.Delivered && e.Queue == "big.queue/{default}"
	}
	if !domains["a.test"] || !domains["b.test"] {
		t.Errorf("outcomes %v", domains)
	}
}

// TestRollup: domains of the same MX hosts share a queue, and with it a connection.
func TestRollup(t *testing.T) {
	p := newPeer(t, always(nil))
	big := []resolve.Host{mx(1, "mx1.big.test", "127.0.0.1"), mx(1, "mx2.big.test", "127.0.0.1"), mx(1, "other.test", "127.0.0.9")}
	b := newBench(t, to(p)+rollups, routes{
		"a.test": big, "b.test": big, "alone.test": big,
		"c.test": {mx(1, "mx1.big.test", "127.0.0.1"), mx(2, "mx2.big.test", "127.0.0.1")},
		"d.test": {mx(5, "alt.wild.test", "127.0.0.1")},
	})
	for _, domain := range []string{"a.test", "b.test", "c.test", "d.test", "alone.test"} {
		b.put(time.Hour, "ann@"+domain)
	}
	b.start()
	got := map[string]string{}
	conns := map[event.ID]bool{}
	for _, e := range b.events(5) {
		got[e.RecipientDomain] = e.Queue
		if e.Kind != event.Delivered {
			t.Errorf("%s: %s %s", e.Recipient, e.Kind, e.Reply)
		}
		if e.Queue == "big.rollup/{default}" {
			conns[e.ConnectionID] = true
		}
	}
	for domain, want := range map[string]string{"a.test": "big.rollup", "b.test": "big.rollup", "c.test": "c.test", "d.test": "wild.rollup", "alone.test": "alone.test"} {
		if got[domain] != want+"/{default}" {
			t.Errorf("%s went by %s, want %s", domain, got[domain], want)
		}
	}
	if q := b.agent.Plan("a.test", config.DefaultVMTA).Queue.Domain; q != "big.rollup" {
		t.Errorf("further mail for a.test waits in %s", q)
	}
}

// TestLeavingARollup: a domain whose MX records changed while its mail waited goes its own way.
func TestLeavingARollup(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+rollups, routes{
		"a.test": {mx(1, "mx1.big.test", "127.0.0.1"), mx(1, "mx2.big.test", "127.0.0.1")},
		"b.test": {mx(1, "mx.b.test", "127.0.0.1")},
	})
	name := queue.Name{Domain: "big.rollup", VMTA: config.DefaultVMTA}
	b.putInto(name, "ann@a.test", "bob@b.test")
	b.putInto(name, "cid@b.test")
	b.start()
	for _, e := range b.events(3) {
		want := "big.rollup/{default}"
		if e.RecipientDomain == "b.test" {
			want = "b.test/{default}"
		}
		if e.Kind != event.Delivered || e.Queue != want {
			t.Errorf("%s: %s by %s", e.Recipient, e.Kind, e.Queue)
		}
	}
}

// TestFailOver: a host that nobody listens on gives way to the next, and so does an address of the
// other family than the source's.
func TestFailOver(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\n</virtual-mta>\n", routes{"a.test": {
		mx(1, "mx6.a.test", "::1"), mx(2, "closed.a.test", "127.0.0.7"), mx(3, "mx.a.test", "127.0.0.1"),
	}})
	b.putBy("v", time.Hour, "ann@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.MXHost != "mx.a.test" || e.Provider != "a.test" || e.EHLO != "two.test" {
		t.Errorf("%s by %s of %s: %s", e.Kind, e.MXHost, e.Provider, e.Reply)
	}
}

// TestNoMX: bounce-upon-no-mx bounces at once, or when the mail is old enough.
func TestNoMX(t *testing.T) {
	for value, want := range map[string]event.Kind{"no": event.Delivered, "yes": event.Bounced, "1h": event.Delivered, "0s": event.Bounced} {
		t.Run(value, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+"<domain *>\nbounce-upon-no-mx "+value+"\n</domain>\n", implicit{p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			b.start()
			if e := b.events(1)[0]; e.Kind != want || want == event.Bounced && (e.Enhanced != "5.4.4" || e.Phase != event.PhaseResolve) {
				t.Errorf("%s, status %s, phase %s", e.Kind, e.Enhanced, e.Phase)
			}
		})
	}
}

// implicit is a Resolver of domains without MX records.
type implicit struct{ addr netip.Addr }

func (i implicit) Route(_ context.Context, domain string) (resolve.Route, error) {
	return resolve.Route{Hosts: []resolve.Host{{Name: domain, Addrs: []netip.Addr{i.addr}}}, Implicit: true, TTL: time.Minute}, nil
}

func (i implicit) LookupHost(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{i.addr}, nil
}

// TestDNSFailure: the queue waits for retry-after-dns-error, not for retry-after.
func TestDNSFailure(t *testing.T) {
	b := newBench(t, "<domain *>\nretry-after 5h\nretry-after-dns-error 2h\n</domain>\n", names{err: &resolve.Error{Name: "a.test", Err: resolve.ErrUnavailable}})
	b.put(24*time.Hour, "ann@a.test")
	b.start()
	b.events(1)
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && s[0].Sessions == 0 && time.Until(s[0].DeferredUntil) > time.Hour && time.Until(s[0].DeferredUntil) < 3*time.Hour
	})
}
