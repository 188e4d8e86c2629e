package deliver

import (
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/queue"
)

func TestPausesGrowAndEnd(t *testing.T) {
	var h hangups
	now := time.Unix(1000, 0)
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		until := h.hungUp(now)
		if got := until.Sub(now); got != want {
			t.Fatalf("pause of %v, want %v", got, want)
		}
		if again := h.hungUp(now.Add(want / 2)); !again.Equal(until) {
			t.Fatalf("what ends in the pause moves its end to %v, want %v", again, until)
		}
		now = until
	}
	for range 100 {
		now = h.hungUp(now)
	}
	if got := h.hungUp(now).Sub(now); got != longestPause {
		t.Errorf("pause of %v in the end, want %v", got, longestPause)
	}
	h.delivered()
	if got := h.hungUp(now).Sub(now); got != firstPause {
		t.Errorf("pause of %v after a delivery, want %v", got, firstPause)
	}
}

// A provider that answers everything with 421 and hangs up is not called again at once.
func TestEveryTransactionIsAnswered421(t *testing.T) {
	p := newPeer(t, always(map[string]string{"MAIL": "421 4.7.0 try again later", "RSET": "close"}))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 20 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	b.events(1)
	waitFor(t, func() bool {
		q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: "{default}"})
		s := q.Status(time.Now())
		return s.Sessions == 0 && s.DeferredWhy == endedBy421 && s.Recipients == 20
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(b.events(1)); p.conns > n {
		t.Errorf("%d connections for %d answers", p.conns, n)
	}
}

// A connection that was taken over from another queue is no better than it was: nothing was delivered over it.
func TestTakenOverAndEndedBy421(t *testing.T) {
	p := newPeer(t, always(map[string]string{"RCPT TO:<ann@": "550 5.1.1 no such user", "RCPT TO:<bob@": "421 4.7.0 try again later"}))
	b := newBench(t, to(p)+"<domain *>\n connection-idle-timeout 1m\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.start()
	b.put(time.Hour, "ann@a.test")
	if e := b.events(1)[0]; e.Kind != event.Bounced {
		t.Fatalf("%s, want bounced", e.Kind)
	}
	b.put(time.Hour, "bob@b.test")
	waitFor(t, func() bool {
		q := b.manager.Queue(queue.Name{Domain: "b.test", VMTA: "{default}"})
		return q != nil && q.Status(time.Now()).DeferredWhy == endedBy421
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns != 1 {
		t.Errorf("%d connections until the queue waits, want the one that was taken over", p.conns)
	}
}
