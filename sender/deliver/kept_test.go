package deliver

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/queue"
)

var aTest = queue.Name{Domain: "a.test", VMTA: "{default}"}

func limitsOf(holds []limits.Hold, scoped ...limits.ScopedLimit) *limits.Document {
	return &limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Unix(0, 0), TTLSeconds: 600, Holds: holds, Scoped: scoped}
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
				if e := b.events(1)[0]; e.Kind != event.Delivered {
					t.Errorf("event %s, want delivered", e.Kind)
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

func TestURLHosts(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"plain", "\r\nsee http://A.test/x and https://b.test.", "a.test b.test"},
		{"with port and user", "\r\nhttps://me@c.test:8443/?q=1", "c.test"},
		{"HTML", "Content-Type: text/html\r\n\r\n<a href='https://d.test'>x</a>", "d.test"},
		{"not in an attachment", "Content-Type: application/pdf\r\n\r\nhttps://e.test/", ""},
		{"nothing", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := strings.Join(slices.Sorted(maps.Keys(urlHosts([]byte("From: a@b.test\r\n"+tc.content)))), " "); got != tc.want {
				t.Errorf("hosts %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTagValue(t *testing.T) {
	if got := tagValue("v=1; a=rsa-sha256; d=Shop.\r\n\tTest; bh=d=", "d"); got != "Shop.Test" {
		t.Errorf("d is %q, want Shop.Test", got)
	}
}
