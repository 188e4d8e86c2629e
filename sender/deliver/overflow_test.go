package deliver

import (
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/sender/queue"
	"carom/sender/throttle"
)

const coldAndWarm = "<virtual-mta warm>\n smtp-source-host 127.0.0.2 warm.test\n cold-virtual-mta cold\n</virtual-mta>\n" +
	"<virtual-mta cold>\n smtp-source-host 127.0.0.3 cold.test\n warmup-start 2026-01-01\n</virtual-mta>\n" +
	"<virtual-mta alone>\n smtp-source-host 127.0.0.4 alone.test\n</virtual-mta>\n"

// warming returns a bench in which the loop lets so much go by the cold virtual MTA, and by the one that is
// nobody's cold one.
func warming(t *testing.T, perSecond float64, more string) *bench {
	t.Helper()
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+coldAndWarm+more, names{mx: "mx.a.test", addr: p.addr.Addr()})
	d := limitsOf(nil)
	for _, source := range []string{"127.0.0.3", "127.0.0.4"} {
		d.Leases = append(d.Leases, limits.Lease{Provider: "a.test", Source: source, Epoch: 1, RatePerSecond: perSecond, ReasonID: "w1"})
	}
	b.throttle.Apply(d)
	return b
}

// What the loop's limit on a cold address holds back goes by the warm one; what it holds back on an
// address that is nobody's cold one waits.
//
// One session each: what another one has in hand when the queue is looked at waits for the next look.
func TestColdMailOverflowsToTheWarmVMTA(t *testing.T) {
	b := warming(t, 1.0/60, "<domain *>\n max-smtp-out 1\n</domain>\n")
	for range 20 {
		b.putBy("cold", time.Hour, "ann@a.test")
	}
	b.putBy("alone", time.Hour, "eve@a.test")
	b.start()
	for _, e := range b.events(14) {
		if e.Kind != event.Delivered || e.Source != "127.0.0.2" || e.VMTA != "warm" {
			t.Errorf("%s from %s by %s, want delivered by the warm one", e.Kind, e.Source, e.VMTA)
		}
	}
	waitFor(t, func() bool {
		waiting := map[string]int{}
		for _, s := range b.manager.Statuses() {
			waiting[s.Name.VMTA] = s.Recipients
		}
		return waiting["warm"] == 0 && waiting["cold"] > 0 && waiting["cold"] < 7 && waiting["alone"] == 1
	})
}

// A session that is told to wait because others wait before it moves nothing that the cap lets through soon.
func TestWhatTheCapLetsThroughSoonStaysCold(t *testing.T) {
	b := warming(t, 1, "")
	for range 100 {
		b.putBy("cold", time.Hour, "ann@a.test")
	}
	b.start()
	cold := queue.Name{Domain: "a.test", VMTA: "cold"}
	waitFor(t, func() bool { return !b.manager.Queue(cold).Status(time.Now()).DeferredUntil.IsZero() })
	if q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: "warm"}); q != nil {
		t.Errorf("the warm queue has %+v, want nothing: the cap lets 300 through in five minutes", q.Status(time.Now()))
	}
}

// The cap may let a message through within a session's patience, and still be far too low for what waits.
func TestASlowCapOverflowsAlsoWhileItLetsMailThrough(t *testing.T) {
	b := warming(t, 0.5, "<domain *>\n max-smtp-out 1\n</domain>\n")
	for range 200 {
		b.putBy("cold", time.Hour, "ann@a.test")
	}
	b.start()
	by := map[string]int{}
	for _, e := range b.events(48) {
		by[e.VMTA]++
	}
	if by["warm"] < 46 {
		t.Errorf("delivered by virtual MTA: %v, want what is over 150 by the warm one", by)
	}
}

// What is held for what it carries, or was tried by the cold address, is no surplus.
func TestHeldMailDoesNotOverflow(t *testing.T) {
	b := warming(t, 1.0/60, "")
	b.keeper.Apply(limitsOf([]limits.Hold{{Job: "spring", ReasonID: "h1"}}))
	cold := queue.Name{Domain: "a.test", VMTA: "cold"}
	b.job = "spring"
	for range 10 {
		b.putBy("cold", time.Hour, "ann@a.test")
	}
	b.start()
	waitFor(t, func() bool { return b.manager.Queue(cold).Status(time.Now()).Held == 10 })
	b.job = ""
	b.putBy("cold", time.Hour, "ann@a.test")
	waitFor(t, func() bool { return !b.manager.Queue(cold).Status(time.Now()).DeferredUntil.IsZero() })
	waitFor(t, func() bool { return b.manager.Queue(cold).Status(time.Now()).Sessions == 0 })
	if s := b.manager.Queue(cold).Status(time.Now()); s.Held != 10 {
		t.Errorf("%d of 10 are held still", s.Held)
	}
}

func TestSoonIsShared(t *testing.T) {
	for _, tc := range []struct {
		name      string
		c         throttle.Cap
		own       int
		low, high int
	}{
		{"alone", throttle.Cap{RatePerSecond: 2, Backlog: 100}, 1000, 600, 601},
		{"a tenth of what waits", throttle.Cap{RatePerSecond: 2, Backlog: 10_000}, 1000, 60, 61},
		{"one of many", throttle.Cap{RatePerSecond: 1.0 / 36, Backlog: 10_000}, 10, 0, 1},
		{"a suspended key", throttle.Cap{Backlog: 10}, 10, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := soon(tc.c, tc.own); got < tc.low || got > tc.high {
				t.Errorf("%d of %d stay, want %d or %d", got, tc.own, tc.low, tc.high)
			}
		})
	}
}
