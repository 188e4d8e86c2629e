package deliver

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/queue"
	"carom/sender/scoped"
	"carom/sender/throttle"
)

var aTest = queue.Name{Domain: "a.test", VMTA: "{default}"}

func limitsOf(holds []limits.Hold, rates ...limits.ScopedLimit) *limits.Document {
	return &limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Unix(0, 0), TTLSeconds: 600, Holds: holds, Scoped: rates}
}

// gauge returns the only gauge.
func (b *bench) gauge() event.Gauge {
	b.t.Helper()
	gauges := b.throttle.Gauges(func(string, netip.Addr) throttle.Waiting { return throttle.Waiting{Recipients: 1} })
	if len(gauges) != 1 {
		b.t.Fatalf("%d gauges, want 1", len(gauges))
	}
	return gauges[0]
}

func TestHeldMailStaysAndOthersGo(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\n provider big\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.keeper.Apply(limitsOf([]limits.Hold{{Provider: "big", FromDomain: "shop.test", ReasonID: "h1"}}))
	b.attrs = map[string]string{AttrFromDomain: "shop.test"}
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.attrs = map[string]string{AttrFromDomain: "bank.test"}
	free := b.put(time.Hour, "eve@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.MessageID != free {
		t.Fatalf("first event %s of %s, want the bank's delivery", e.Kind, e.MessageID)
	}
	waitFor(t, func() bool {
		s := b.manager.Queue(aTest).Status(time.Now())
		return s.Held == 2 && s.Sessions == 0 && s.Recipients == 2
	})
	if b.keeper.Apply(limitsOf(nil)) {
		b.manager.Unpark()
	}
	for _, e := range b.events(3) {
		if e.Kind != event.Delivered {
			t.Errorf("event %s %s after the hold, want delivered", e.Kind, e.Reply)
		}
	}
}

func TestHeldMailExpiresWithACategoryOfItsOwn(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.keeper.Apply(limitsOf([]limits.Hold{{Tenant: "shop", ReasonID: "h1"}}))
	b.put(time.Hour, "ann@a.test")
	b.start()
	waitFor(t, func() bool {
		q := b.manager.Queue(aTest)
		return q != nil && q.Status(time.Now()).Held == 1
	})
	b.manager.Sweep(time.Now(), func(_ queue.Name, item *queue.Item) { item.Expires = 1 })
	e := b.events(1)[0]
	if e.Kind != event.Expired || e.Category != taxonomy.HeldExpired || e.Class != taxonomy.None {
		t.Errorf("event %s, category %s, class %s; want expired, held-expired, none", e.Kind, e.Category, e.Class)
	}
	if len(p.received()) != 0 {
		t.Error("held mail was sent")
	}
}

func TestExemptMailIsNotHeld(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		user, job  string
		held       bool
	}{
		{"nobody is exempt", "", "billing", "resets", true},
		{"the virtual MTA", "<virtual-mta {default}>\n adaptive-hold no\n</virtual-mta>\n", "", "", false},
		{"the user", "<smtp-user billing>\n password x\n adaptive-hold no\n</smtp-user>\n", "billing", "", false},
		{"a tenant that a header calls like the user", "<smtp-user shop>\n password x\n adaptive-hold no\n</smtp-user>\n", "", "", true},
		{"the job", "adaptive-hold-exempt-job Resets\n", "", "resets", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+tc.text, names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.keeper.Apply(limitsOf([]limits.Hold{{Tenant: "shop", ReasonID: "h1"}}))
			b.user, b.job = tc.user, tc.job
			b.put(time.Hour, "ann@a.test")
			b.start()
			if !tc.held {
				if e := b.events(1)[0]; e.Kind != event.Delivered || !e.HoldExempt {
					t.Errorf("event %s, exempt %t; want delivered, which says that it is exempt", e.Kind, e.HoldExempt)
				}
				return
			}
			waitFor(t, func() bool {
				q := b.manager.Queue(aTest)
				return q != nil && q.Status(time.Now()).Held == 1
			})
		})
	}
}

// What a scoped limit is about waits; the other mail of the queue goes on at once.
func TestScopedLimitHoldsBackTheMailThatCarriesIt(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\n provider big\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.keeper.Apply(limitsOf(nil, limits.ScopedLimit{Provider: "big", Scope: "url", Value: "sale.test", ReasonID: "s1"}))
	b.content = "From: news@shop.test\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		"PGEgaHJlZj0iaHR0cHM6Ly93d3cuU2FsZS50ZXN0L3giPmdvPC9hPg==\r\n" // <a href="https://www.Sale.test/x">go</a>
	b.put(time.Hour, "ann@a.test")
	b.content = "From: news@shop.test\r\n\r\nsee https://other.test/sale.test\r\n"
	free := b.put(time.Hour, "eve@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.MessageID != free {
		t.Fatalf("first event %s of %s, want the other's delivery", e.Kind, e.MessageID)
	}
	waitFor(t, func() bool {
		s := b.manager.Queue(aTest).Status(time.Now())
		return s.Recipients == 1 && s.Due == 0 && s.Sessions == 0
	})
}

// What a scoped limit holds back takes nothing that other mail could have: no connection, and no permit.
func TestScopedLimitTakesNoConnectionAndNoPermit(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\n provider big\n max-msg-rate 1/h\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.keeper.Apply(limitsOf(nil, limits.ScopedLimit{Provider: "big", Scope: "domain", Value: "shop.test", ReasonID: "s1"}))
	for range 5 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	waitFor(t, func() bool {
		q := b.manager.Queue(aTest)
		if q == nil {
			return false
		}
		s := q.Status(time.Now())
		return s.Recipients == 5 && s.Due == 0 && s.Sessions == 0
	})
	if p.mu.Lock(); p.conns != 0 {
		t.Errorf("%d connections for mail that waits", p.conns)
	}
	p.mu.Unlock()
	if g := b.gauge(); g.LimitScope != "domain" || g.Limit != "shop.test 0/s" || g.LimitBy != "loop, reason s1" {
		t.Errorf("the gauge says %q %q by %q", g.LimitScope, g.Limit, g.LimitBy)
	}
	b.keeper.Apply(limitsOf(nil))
	b.manager.Schedule(nil, true)
	if e := b.events(1)[0]; e.Kind != event.Delivered {
		t.Errorf("%s after the limit, want delivered: the one permit of the hour is left", e.Kind)
	}
}

// counted is a Keeper that counts what it admits and what comes back.
type counted struct {
	Keeper
	admitted, refunded atomic.Int64
}

func (c *counted) Admit(m *scoped.Mail) scoped.Verdict {
	v := c.Keeper.Admit(m)
	if v.Wait == 0 {
		c.admitted.Add(int64(m.Recipients))
	}
	return v
}

func (c *counted) Refund(m *scoped.Mail, recipients int) {
	c.refunded.Add(int64(recipients))
	c.Keeper.Refund(m, recipients)
}

// Mail that has no permit takes nothing of a scoped limit either.
func TestScopedLimitGetsBackWhatAnotherLimitStops(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\n provider big\n max-msg-rate 1/h\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	keeper := &counted{Keeper: b.keeper}
	b.agent.Keeper = keeper
	b.keeper.Apply(limitsOf(nil, limits.ScopedLimit{Provider: "big", Scope: "domain", Value: "shop.test", RatePerSecond: 20, ReasonID: "s1"}))
	b.put(time.Hour, "ann@a.test", "bob@a.test")
	b.start()
	b.events(2)
	b.put(time.Hour, "cid@a.test")
	waitFor(t, func() bool {
		q := b.manager.Queue(aTest)
		return q != nil && q.Status(time.Now()).DeferredWhy != "" && q.Status(time.Now()).Sessions == 0
	})
	if admitted, refunded := keeper.admitted.Load(), keeper.refunded.Load(); admitted-refunded != 2 {
		t.Errorf("%d admitted, %d given back; want two kept, those that went", admitted, refunded)
	}
}

func TestHoldIsNamedInTheGauge(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\n provider big\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.keeper.Apply(limitsOf([]limits.Hold{{Provider: "big", Tenant: "shop", ReasonID: "h1"}}))
	b.put(time.Hour, "ann@a.test")
	b.start()
	waitFor(t, func() bool {
		return b.manager.Queue(aTest) != nil && b.manager.Queue(aTest).Status(time.Now()).Held == 1
	})
	if g := b.gauge(); g.LimitScope != "hold" || g.Limit != "tenant shop at big" || g.LimitBy != "loop, reason h1" {
		t.Errorf("the gauge says %q %q by %q", g.LimitScope, g.Limit, g.LimitBy)
	}
}

func TestTagValue(t *testing.T) {
	if got := tagValue("v=1; a=rsa-sha256; d=Shop.\r\n\tTest; bh=d=", "d"); got != "Shop.Test" {
		t.Errorf("d is %q, want Shop.Test", got)
	}
}
