package deliver

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/sender/config"
	"carom/sender/queue"
)

// TestRollupWithADomainThatIsGone: what became of one domain of a message does not concern its
// recipients in others.
func TestRollupWithADomainThatIsGone(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+rollups, routes{
		"alive.test": {mx(1, "mx1.big.test", "127.0.0.1"), mx(1, "mx2.big.test", "127.0.0.1")},
		"left.test":  {mx(1, "mx.left.test", "127.0.0.1")},
	})
	name := queue.Name{Domain: "big.rollup", VMTA: config.DefaultVMTA}
	b.putInto(name, "x@gone.test", "y@alive.test")
	b.putInto(name, "z@left.test", "w@alive.test")
	b.start()
	for _, e := range b.events(4) {
		want, by := event.Delivered, "big.rollup"
		switch e.RecipientDomain {
		case "gone.test":
			want = event.Bounced
		case "left.test":
			by = "left.test"
		}
		if e.Kind != want || e.Queue != by+"/{default}" {
			t.Errorf("%s: %s by %s (%s), want %s by %s", e.Recipient, e.Kind, e.Queue, e.Reply, want, by)
		}
	}
}

// hangsUp closes at every second MAIL.
func hangsUp() func(string) string {
	var mails atomic.Int32
	return func(command string) string {
		if strings.HasPrefix(command, "MAIL") && mails.Add(1)%2 == 0 {
			return "close"
		}
		return ""
	}
}

// TestReconnectsCount: a session whose connection is gone asks for the next one like any other, and
// gives back what it took.
func TestReconnectsCount(t *testing.T) {
	p := newPeer(t, hangsUp())
	const vmta = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 6 {
		b.putBy("v", time.Hour, "ann@a.test")
	}
	b.start()
	waitFor(t, func() bool { return len(p.received()) == 6 && len(b.manager.Statuses()) == 0 })
	for _, source := range []string{"127.0.0.2", "127.0.0.3"} {
		waitFor(t, func() bool {
			return b.throttle.Connections(limits.Key{Provider: "a.test", Source: source}) == 0
		})
	}
}

func TestConnectRateHoldsForReconnects(t *testing.T) {
	p := newPeer(t, hangsUp())
	b := newBench(t, to(p)+"<domain *>\nmax-connect-rate 1/m\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 4 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && s[0].Sessions == 0 && strings.Contains(s[0].DeferredWhy, "connect")
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns != 1 {
		t.Errorf("%d connections in a minute of one", p.conns)
	}
}
