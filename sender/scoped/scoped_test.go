package scoped

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

func document(generation uint64) *limits.Document {
	return &limits.Document{Format: limits.Format, Generation: generation, IssuedAt: time.Unix(0, 0), TTLSeconds: 600}
}

func id(n int) (id event.ID) {
	id[14], id[15] = byte(n>>8), byte(n)
	return id
}

func TestHolds(t *testing.T) {
	for _, tc := range []struct {
		name string
		hold limits.Hold
		mail Mail
		held bool
	}{
		{"the tenant", limits.Hold{Tenant: "shop"}, Mail{Tenant: "shop", Provider: "yahoo"}, true},
		{"another tenant", limits.Hold{Tenant: "shop"}, Mail{Tenant: "bank"}, false},
		{"the tenant at the provider", limits.Hold{Provider: "yahoo", Tenant: "shop"}, Mail{Tenant: "shop", Provider: "yahoo"}, true},
		{"the tenant elsewhere", limits.Hold{Provider: "yahoo", Tenant: "shop"}, Mail{Tenant: "shop", Provider: "google"}, false},
		{"the job", limits.Hold{Tenant: "shop", Job: "spring"}, Mail{Tenant: "shop", Job: "spring"}, true},
		{"another job", limits.Hold{Tenant: "shop", Job: "spring"}, Mail{Tenant: "shop", Job: "autumn"}, false},
		{"the From domain, in capitals", limits.Hold{FromDomain: "Shop.Example"}, Mail{FromDomain: "shop.example"}, true},
		{"another From domain", limits.Hold{FromDomain: "shop.example"}, Mail{FromDomain: "mail.shop.example"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, d := New(), document(1)
			tc.hold.ReasonID = "h1"
			d.Holds = []limits.Hold{tc.hold}
			k.Apply(d)
			v := k.Held(&tc.mail)
			if v.Held != tc.held || tc.held && (v.Scope != ScopeHold || v.By != "loop, reason h1" || v.About == "") {
				t.Errorf("%+v under %+v: %+v, want held %t", tc.mail, tc.hold, v, tc.held)
			}
		})
	}
}

func TestTrickleLetsItsShareThrough(t *testing.T) {
	k, d := New(), document(1)
	d.Holds = []limits.Hold{{Tenant: "shop", Trickle: 0.02}}
	k.Apply(d)
	const all = 20_000
	through := map[int]bool{}
	for n := range all {
		if !k.Held(&Mail{ID: id(n), Tenant: "shop"}).Held {
			through[n] = true
		}
	}
	if n := len(through); n < all*15/1000 || n > all*25/1000 {
		t.Errorf("%d of %d go through, want about 2 %%", n, all)
	}
	for n := range all {
		if k.Held(&Mail{ID: id(n), Tenant: "shop"}).Held == through[n] {
			t.Fatalf("message %d is judged another way the second time", n)
		}
	}
}

func TestWhatAnOffDoesToHolds(t *testing.T) {
	k, d := New(), document(1)
	d.Holds = []limits.Hold{{Provider: "yahoo", Tenant: "shop"}}
	d.Scoped = []limits.ScopedLimit{{Provider: "yahoo", Scope: "domain", Value: "shop.example", RatePerSecond: 1}}
	k.Apply(d)
	d.Modes = []limits.ProviderMode{{Provider: limits.EveryProvider, Mode: limits.Off}}
	if !k.Apply(d) || k.Depth("yahoo") != Nothing || k.Held(&Mail{Provider: "yahoo", Tenant: "shop"}).Held {
		t.Errorf("the kill switch leaves mail held (depth %d)", k.Depth("yahoo"))
	}
}

// What is held is looked at again when a hold has ended or lets more through; a walk over all mail for
// nothing else.
func TestWhenHeldMailIsLookedAtAgain(t *testing.T) {
	shop, bank := limits.Hold{Tenant: "shop", ReasonID: "h1"}, limits.Hold{Provider: "yahoo", Tenant: "bank", ReasonID: "h2"}
	trickle, again := shop, shop
	trickle.Trickle, again.ReasonID = 0.02, "h9"
	for _, tc := range []struct {
		name        string
		first, then []limits.Hold
		want        bool
	}{
		{"the first hold", nil, []limits.Hold{shop}, false},
		{"the same", []limits.Hold{shop}, []limits.Hold{shop}, false},
		{"one more", []limits.Hold{shop}, []limits.Hold{bank, shop}, false},
		{"in another order", []limits.Hold{shop, bank}, []limits.Hold{bank, shop}, false},
		{"for another reason", []limits.Hold{shop}, []limits.Hold{again}, false},
		{"one ended", []limits.Hold{shop, bank}, []limits.Hold{bank}, true},
		{"a trickle", []limits.Hold{shop}, []limits.Hold{trickle}, true},
		{"another instead", []limits.Hold{shop}, []limits.Hold{bank}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, d := New(), document(1)
			d.Holds = tc.first
			k.Apply(d)
			d.Holds = tc.then
			if got := k.Apply(d); got != tc.want {
				t.Errorf("changed: %t, want %t", got, tc.want)
			}
		})
	}
}

// Only mail to a provider that has rules is looked into.
func TestDepthIsByProvider(t *testing.T) {
	k, d := New(), document(1)
	d.Holds = []limits.Hold{{Provider: "yahoo", Tenant: "shop"}, {Provider: "gmx", FromDomain: "shop.example"}}
	d.Scoped = []limits.ScopedLimit{{Provider: "google", Scope: "domain", Value: "shop.example", RatePerSecond: 1}}
	want := func(all map[string]Depth) {
		t.Helper()
		for provider, depth := range all {
			if got := k.Depth(provider); got != depth {
				t.Errorf("depth at %s is %d, want %d", provider, got, depth)
			}
		}
	}
	want(map[string]Depth{"yahoo": Nothing})
	k.Apply(d)
	want(map[string]Depth{"yahoo": Labels, "gmx": Envelope, "google": Message, "apple": Nothing})
	d.Holds = append(d.Holds, limits.Hold{FromDomain: "bank.example"})
	k.Apply(d)
	want(map[string]Depth{"yahoo": Envelope, "gmx": Envelope, "google": Message, "apple": Envelope})
}

func TestRefundGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, d := New(), document(1)
		d.Scoped = []limits.ScopedLimit{{Provider: "google", Scope: "domain", Value: "shop.example", RatePerSecond: 0.1}}
		k.Apply(d)
		mail := &Mail{Provider: "google", FromDomain: "shop.example", Recipients: 1}
		time.Sleep(time.Minute)
		for range 20 {
			if v := k.Admit(mail); v.Wait != 0 {
				t.Fatalf("%+v, want the one that was given back", v)
			}
			k.Refund(mail, 1)
		}
		if k.Admit(mail).Wait != 0 || k.Admit(mail).Wait == 0 {
			t.Error("want one through and the next to wait")
		}
	})
}

func TestHoldingShowsWhatMayBeHeld(t *testing.T) {
	k, d := New(), document(1)
	d.Holds = []limits.Hold{{Provider: "yahoo", Tenant: "shop", FromDomain: "shop.example", ReasonID: "h1"}}
	k.Apply(d)
	if v := k.Holding("yahoo", "shop", "spring"); !v.Held || v.About != "tenant shop, From domain shop.example at yahoo" {
		t.Errorf("%+v", v)
	}
	if v := k.Holding("yahoo", "bank", ""); v.Held {
		t.Errorf("another tenant: %+v", v)
	}
}

func TestHoldEndsWithoutNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, d := New(), document(1)
		d.Holds = []limits.Hold{{Tenant: "shop"}}
		k.Apply(d)
		mail := Mail{Tenant: "shop"}
		time.Sleep(d.TTL() + HoldTime)
		if !k.Held(&mail).Held || k.Lapsed() {
			t.Error("the hold ended before its time")
		}
		time.Sleep(time.Second)
		if k.Held(&mail).Held {
			t.Error("the hold goes on without news")
		}
		if !k.Lapsed() || k.Lapsed() || k.Depth("yahoo") != Nothing {
			t.Errorf("the end of the hold is not told once (depth %d)", k.Depth("yahoo"))
		}
	})
}

// What a node finds when it starts counts from when it was written.
func TestRulesFromBeforeAStop(t *testing.T) {
	for _, tc := range []struct {
		name string
		age  time.Duration
		held bool
		rate float64 // of the scoped limit; 0 for any that is slower than without one
	}{
		{"fresh", time.Minute, true, 1},
		{"it glides", 25 * time.Minute, true, 0},
		{"long ago", 7 * time.Hour, false, math.Inf(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, d := New(), document(1)
			d.Age = tc.age
			d.Holds = []limits.Hold{{Tenant: "shop"}}
			d.Scoped = []limits.ScopedLimit{{Provider: "yahoo", Scope: "domain", Value: "shop.example", RatePerSecond: 1}}
			k.Apply(d)
			if got := k.Held(&Mail{Tenant: "shop"}).Held; got != tc.held {
				t.Errorf("held: %t, want %t", got, tc.held)
			}
			rate := k.limits["yahoo"][0].rate(k.now())
			if tc.rate == 0 && (rate <= 1 || math.IsInf(rate, 1)) || tc.rate != 0 && rate != tc.rate {
				t.Errorf("%v a second, want %v", rate, tc.rate)
			}
		})
	}
}

func TestScopedLimitIsForTheMailThatCarriesIt(t *testing.T) {
	url := func(host string) func(string) bool { return func(asked string) bool { return asked == host } }
	for _, tc := range []struct {
		name  string
		limit limits.ScopedLimit
		mail  Mail
		want  bool
	}{
		{"From domain", limits.ScopedLimit{Scope: "domain", Value: "shop.example"}, Mail{FromDomain: "shop.example"}, true},
		{"DKIM domain", limits.ScopedLimit{Scope: "domain", Value: "SHOP.example"}, Mail{FromDomain: "a.test", Domains: []string{"shop.example"}}, true},
		{"neither", limits.ScopedLimit{Scope: "domain", Value: "shop.example"}, Mail{FromDomain: "a.test", HasURL: url("shop.example")}, false},
		{"URL", limits.ScopedLimit{Scope: "url", Value: "shop.example"}, Mail{FromDomain: "a.test", HasURL: url("shop.example")}, true},
		{"another URL", limits.ScopedLimit{Scope: "url", Value: "shop.example"}, Mail{FromDomain: "shop.example", HasURL: url("a.test")}, false},
		{"no URL", limits.ScopedLimit{Scope: "url", Value: "shop.example"}, Mail{FromDomain: "shop.example"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, d := New(), document(1)
			tc.limit.Provider, tc.limit.RatePerSecond = "google", 0
			d.Scoped = []limits.ScopedLimit{tc.limit}
			k.Apply(d)
			tc.mail.Provider = "google"
			if v := k.Admit(&tc.mail); (v.Wait > 0) != tc.want {
				t.Errorf("%+v, want limited %t", v, tc.want)
			}
			tc.mail.Provider = "yahoo"
			if v := k.Admit(&tc.mail); v.Wait > 0 {
				t.Errorf("at another provider: %+v, want no limit", v)
			}
		})
	}
}

// Messages come back when they were told to, and together they keep the rate, from the first second
// on; after the document's end the limit glides away.
func TestScopedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, d := New(), document(1)
		d.Scoped = []limits.ScopedLimit{{Provider: "google", Scope: "domain", Value: "shop.example", RatePerSecond: 0.5}}
		k.Apply(d)
		sent, refusals := 0, 0
		send := func(until time.Duration) {
			start := time.Now()
			type waiting struct {
				at   time.Time
				mail *Mail
			}
			queue := make([]waiting, 0, 400)
			for range 400 {
				queue = append(queue, waiting{start, &Mail{Provider: "google", FromDomain: "shop.example"}})
			}
			for time.Since(start) < until {
				for i := range queue {
					w := &queue[i]
					if w.mail == nil || w.at.After(time.Now()) {
						continue
					}
					v := k.Admit(w.mail)
					if v.Wait == 0 {
						sent, w.mail = sent+1, nil
						continue
					}
					refusals++
					w.at, w.mail.Waited = time.Now().Add(v.Wait), true
				}
				time.Sleep(time.Second)
			}
		}
		send(100 * time.Second)
		if sent < 45 || sent > 51 {
			t.Errorf("%d messages in 100 s, want 50", sent)
		}
		if refusals > 600 {
			t.Errorf("400 messages were looked at in vain %d times", refusals)
		}
		time.Sleep(d.TTL() + limits.GlideTime)
		if v := k.Admit(&Mail{Provider: "google", FromDomain: "shop.example"}); v.Wait != 0 {
			t.Errorf("after the glide a message waits: %+v", v)
		}
	})
}

// A line that is longer than the longest wait keeps the rate as well.
func TestScopedRateOfALongLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, d := New(), document(1)
		d.Scoped = []limits.ScopedLimit{{Provider: "google", Scope: "domain", Value: "shop.example", RatePerSecond: 1}}
		const messages, seconds = 6000, 5000
		at := make([]time.Time, messages) // when each is due; zero once it is sent
		for i := range at {
			at[i] = time.Now()
		}
		sent, refusals := 0, 0
		for second := range seconds {
			if second%60 == 0 {
				k.Apply(d) // news
			}
			for i := range at {
				if at[i].IsZero() || at[i].After(time.Now()) {
					continue
				}
				v := k.Admit(&Mail{Provider: "google", FromDomain: "shop.example", Waited: second > 0})
				if v.Wait == 0 {
					sent, at[i] = sent+1, time.Time{}
					continue
				}
				refusals++
				at[i] = time.Now().Add(v.Wait)
			}
			time.Sleep(time.Second)
		}
		if sent < seconds*9/10 || sent > seconds+5 {
			t.Errorf("%d messages in %d s at 1/s", sent, seconds)
		}
		if refusals > 10*messages {
			t.Errorf("%d messages were looked at in vain %d times", messages, refusals)
		}
	})
}
