package deliver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
)

// gate is a receiver that holds its answer to each message until the test lets it go, and tells
// slow@a.test to come back later.
type gate struct {
	let chan struct{} // one answer a value; closed for all

	mu     sync.Mutex
	held   int
	hellos map[string]int // connections by the name in EHLO
}

func newGate() *gate { return &gate{let: make(chan struct{}), hellos: map[string]int{}} }

func (g *gate) answer(command string) string {
	verb, argument, _ := strings.Cut(command, " ")
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case strings.HasPrefix(argument, "TO:<slow@"):
		return "450 4.7.0 slow down"
	case verb == "EHLO":
		g.hellos[argument]++
		return "250 peer.test" // without PIPELINING no DATA comes after that RCPT
	case verb == "DOT":
		g.held++
		g.mu.Unlock()
		<-g.let
		g.mu.Lock()
	}
	return ""
}

// holds reports whether so many messages wait for their answer.
func (g *gate) holds(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held == n
}

// letOne answers one message that waits.
func (g *gate) letOne() {
	g.mu.Lock()
	g.held--
	g.mu.Unlock()
	g.let <- struct{}{}
}

// limitCase is what the tests of one limit have in common.
type limitCase struct {
	name, text string
	backoff    bool     // the queue of a.test is in backoff mode
	vmtas      []string // of the messages, in turn; nil for {default}
	domains    []string // the same; nil for a.test
	why        string   // how the reason starts for which a queue waits; "" where none does
}

// start starts a bench of the case, its queue in backoff mode if it should be.
func (tc *limitCase) start(t *testing.T, p *peer) *bench {
	t.Helper()
	text := to(p) + tc.text
	if tc.backoff {
		text += fmt.Sprintf(patterns, "reply /slow/ mode=backoff", "")
	}
	hosts := []resolve.Host{mx(1, "mx1.a.test", "127.0.0.1"), mx(2, "mx2.a.test", "127.0.0.1")}
	b := newBench(t, text, routes{"a.test": hosts, "b.test": hosts})
	b.throttle.LimitPeers(PeerLimits(b.agent.Config))
	b.start()
	if tc.backoff {
		b.put(time.Hour, "slow@a.test")
		waitFor(t, func() bool {
			s := b.manager.Statuses()
			return len(s) == 1 && s[0].Mode == queue.Backoff && s[0].Sessions == 0
		})
	}
	return b
}

// put queues a message, the i-th of the case.
func (tc *limitCase) put(b *bench, i int) {
	b.t.Helper()
	vmta, domain := config.DefaultVMTA, "a.test"
	if tc.vmtas != nil {
		vmta = tc.vmtas[i%len(tc.vmtas)]
	}
	if tc.domains != nil {
		domain = tc.domains[i%len(tc.domains)]
	}
	b.putBy(vmta, time.Hour, "ann@"+domain)
}

const (
	twoSources = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	twoVMTAs   = "<virtual-mta v>\n</virtual-mta>\n<virtual-mta w>\n</virtual-mta>\n"
)

func everywhere(settings string) string { return "<domain *>\n" + settings + "\n</domain>\n" }

// TestConnectionLimitsAtThePeer: the receiver never sees more connections than a limit allows, and
// all mail leaves over those.
func TestConnectionLimitsAtThePeer(t *testing.T) {
	for _, tc := range []struct {
		limitCase
		open   int            // connections at once
		hellos map[string]int // of them by source, before the first message was answered; nil for any
	}{
		{limitCase{name: "max-smtp-out", text: everywhere("max-smtp-out 2")}, 2, nil},
		{limitCase{name: "backoff-max-smtp-out", text: everywhere("max-smtp-out 4\nbackoff-max-smtp-out 2"), backoff: true}, 2, nil},
		{
			limitCase{name: "source-ip-max-smtp-out of every address", text: twoSources + everywhere("source-ip-max-smtp-out 0/0 1"), vmtas: []string{"v"}, why: "source-ip: source-ip-max-smtp-out 1 (test:"},
			2,
			map[string]int{"two.test": 1, "three.test": 1},
		},
		{
			limitCase{name: "source-ip-max-smtp-out of one address", text: twoSources + everywhere("max-smtp-out 4\nsource-ip-max-smtp-out 127.0.0.2/32 1"), vmtas: []string{"v"}},
			4,
			map[string]int{"two.test": 1, "three.test": 3},
		},
		{limitCase{name: "smtp-out-rampup-interval", text: everywhere("smtp-out-rampup-interval 1h"), why: "queue: smtp-out-rampup-interval 1h0m0s (test:"}, 1, nil},
		{limitCase{name: "max-connect-rate", text: everywhere("max-connect-rate 1/d"), why: "queue: max-connect-rate 1/d (test:"}, 1, nil},
		{limitCase{name: "backoff-max-connect-rate", text: everywhere("backoff-max-connect-rate 1/d"), backoff: true, why: "queue: backoff-max-connect-rate 1/d (test:"}, 1, nil},
		{
			limitCase{name: "source-ip-max-connect-rate", text: twoSources + everywhere("source-ip-max-connect-rate 0/0 1/d"), vmtas: []string{"v"}, why: "source-ip: source-ip-max-connect-rate 1/d (test:"},
			2,
			map[string]int{"two.test": 1, "three.test": 1},
		},
		{limitCase{name: "mx-connection-limit for each host", text: "mx-connection-limit *.a.test 1\n", why: "mx: mx-connection-limit *.a.test 1 (test:"}, 2, nil},
		{
			limitCase{name: "mx-connection-limit for each source", text: "mx-connection-limit *.a.test 1\n" + twoSources, vmtas: []string{"v"}, why: "mx: mx-connection-limit *.a.test 1 (test:"},
			4,
			map[string]int{"two.test": 2, "three.test": 2},
		},
		{
			limitCase{name: "mx-connection-limit by name", text: "mx-connection-limit mx1.a.test 1\nmx-connection-limit mx2.a.test 3\n", why: "mx: mx-connection-limit mx2.a.test 3 (test:"},
			4, nil,
		},
		{limitCase{name: "ip-connection-limit", text: "ip-connection-limit 127.0.0.0/8 1\n" + twoSources, vmtas: []string{"v"}, why: "ip: ip-connection-limit 127.0.0.0/8 1 (test:"}, 1, nil},
		{limitCase{name: "max-smtp-out of a virtual MTA", text: "<virtual-mta v>\nmax-smtp-out 2\n</virtual-mta>\n", vmtas: []string{"v"}, domains: []string{"a.test", "b.test"}}, 2, nil},
		{
			limitCase{
				name: "max-smtp-out of a pool", text: twoVMTAs + "<virtual-mta-pool p>\nvirtual-mta v\nvirtual-mta w\nmax-smtp-out 2\n</virtual-mta-pool>\n",
				vmtas: []string{"v", "w"}, why: "pool: max-smtp-out 2 (test:",
			}, 2, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGate()
			p := newPeer(t, g.answer)
			defer close(g.let)
			b := tc.start(t, p)
			const messages = 6
			for i := range messages {
				tc.put(b, i)
			}
			for left := messages; left > 0; left-- {
				waitFor(t, func() bool { return g.holds(min(left, tc.open)) })
				if left == messages {
					g.check(t, tc.hellos)
					waitFor(t, func() bool { return tc.why == "" || waitsFor(b, tc.why) })
				}
				g.letOne()
			}
			b.events(messages)
			if p.mu.Lock(); p.most != tc.open {
				t.Errorf("%d connections were open at once, want %d", p.most, tc.open)
			}
			p.mu.Unlock()
		})
	}
}

// check compares the connections by source, if want is not nil.
func (g *gate) check(t *testing.T, want map[string]int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if want != nil && !maps.Equal(g.hellos, want) {
		t.Errorf("connections by source: %v, want %v", g.hellos, want)
	}
}

// waitsFor reports whether any queue waits for a reason that starts so.
func waitsFor(b *bench, why string) bool {
	return slices.ContainsFunc(b.manager.Statuses(), func(s queue.Status) bool { return strings.HasPrefix(s.DeferredWhy, why) })
}

// TestRatesAtThePeer: what a rate of one a day allows leaves, and all queues with more mail wait for
// the rate.
func TestRatesAtThePeer(t *testing.T) {
	for _, tc := range []struct {
		limitCase
		leave int
	}{
		{limitCase{name: "max-msg-rate", text: everywhere("max-msg-rate 1/d"), why: "queue: max-msg-rate 1/d (test:"}, 1},
		{limitCase{name: "backoff-max-msg-rate", text: everywhere("backoff-max-msg-rate 1/d"), backoff: true, why: "queue: backoff-max-msg-rate 1/d (test:"}, 1},
		{limitCase{name: "max-data-volume-rate", text: everywhere("max-data-volume-rate 1b/d"), why: "queue: max-data-volume-rate 1/d (test:"}, 1},
		{limitCase{name: "backoff-max-data-volume-rate", text: everywhere("backoff-max-data-volume-rate 1b/d"), backoff: true, why: "queue: backoff-max-data-volume-rate 1/d (test:"}, 1},
		{limitCase{name: "source-ip-max-msg-rate", text: twoSources + everywhere("source-ip-max-msg-rate 0/0 1/d"), vmtas: []string{"v"}, why: "source-ip: source-ip-max-msg-rate 1/d (test:"}, 2},
		{limitCase{name: "source-ip-max-data-volume-rate", text: twoSources + everywhere("source-ip-max-data-volume-rate 0/0 1b/d"), vmtas: []string{"v"}, why: "source-ip: source-ip-max-data-volume-rate 1/d (test:"}, 2},
		{limitCase{name: "max-smtp-msg-rate of a virtual MTA", text: "<virtual-mta v>\nmax-smtp-msg-rate 1/d\n</virtual-mta>\n", vmtas: []string{"v"}, domains: []string{"a.test", "b.test"}, why: "vmta: max-smtp-msg-rate 1/d (test:"}, 1},
		{limitCase{name: "max-smtp-data-volume-rate of a virtual MTA", text: "<virtual-mta v>\nmax-smtp-data-volume-rate 1b/d\n</virtual-mta>\n", vmtas: []string{"v"}, domains: []string{"a.test", "b.test"}, why: "vmta: max-smtp-data-volume-rate 1/d (test:"}, 1},
		{limitCase{name: "max-smtp-msg-rate of a pool", text: twoVMTAs + "<virtual-mta-pool p>\nvirtual-mta v\nvirtual-mta w\nmax-smtp-msg-rate 1/d\n</virtual-mta-pool>\n", vmtas: []string{"v", "w"}, why: "pool: max-smtp-msg-rate 1/d (test:"}, 1},
		{limitCase{name: "max-smtp-data-volume-rate of a pool", text: twoVMTAs + "<virtual-mta-pool p>\nvirtual-mta v\nvirtual-mta w\nmax-smtp-data-volume-rate 1b/d\n</virtual-mta-pool>\n", vmtas: []string{"v", "w"}, why: "pool: max-smtp-data-volume-rate 1/d (test:"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGate()
			close(g.let)
			p := newPeer(t, g.answer)
			b := tc.start(t, p)
			const messages = 5
			for i := range messages {
				tc.put(b, i)
				waitFor(t, func() bool { // one after the other: bytes count when a message was taken
					return !slices.ContainsFunc(b.manager.Statuses(), func(s queue.Status) bool { return s.Sessions > 0 || s.Due > 0 && s.DeferredWhy == "" })
				})
			}
			if n := len(p.received()); n != tc.leave {
				t.Errorf("%d messages left, want %d", n, tc.leave)
			}
			for _, s := range b.manager.Statuses() {
				if s.Due > 0 && !strings.HasPrefix(s.DeferredWhy, tc.why) {
					t.Errorf("queue %v waits for %q, want %q", s.Name, s.DeferredWhy, tc.why)
				}
			}
		})
	}
}
