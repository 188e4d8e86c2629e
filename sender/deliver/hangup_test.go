package deliver

import (
	"testing"
	"time"

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
