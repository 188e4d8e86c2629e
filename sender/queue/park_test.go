package queue

import (
	"testing"
	"testing/synctest"
	"time"
)

// parkOf parks the mail of a tenant and notes what else it gets.
func parkOf(tenant string, sent *[]byte) *recorder {
	return &recorder{limit: 1, take: func(q *Queue, i *Item) bool {
		if !i.Parked && i.Labels.Value().Tenant == tenant {
			q.Park(i)
			return true
		}
		*sent = append(*sent, i.Message[0])
		return true
	}}
}

func labelled(n byte, tenant string) *Item {
	i := item(n, time.Time{})
	i.Labels, i.Expires = Label("", tenant), At(time.Now().Add(time.Hour))
	return i
}

// pass lets time pass, and what happened in it be seen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestParkedMailWaitsUntilItIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []byte
		r := parkOf("shop", &sent)
		m := run(t, r)
		name := Name{"a.test", "v"}
		for n, tenant := range []string{"shop", "bank", "shop"} {
			m.Add(name, labelled(byte(n), tenant))
		}
		pass(time.Second)
		if string(sent) != "\x01" {
			t.Fatalf("sent %v, want the bank's alone", sent)
		}
		q := m.Queue(name)
		if s := q.Status(time.Now()); s.Held != 2 || s.Recipients != 2 || s.Due != 0 {
			t.Errorf("status %+v, want two held and none due", s)
		}
		if items, recipients := m.Count(Filter{Tenant: "shop"}); items != 2 || recipients != 2 {
			t.Errorf("an operator sees %d items with %d recipients, want 2 and 2", items, recipients)
		}
		pass(10 * time.Minute)
		if len(sent) != 1 {
			t.Fatalf("sent %v while it is parked", sent)
		}
		r.take = func(_ *Queue, i *Item) bool {
			sent = append(sent, i.Message[0])
			return true
		}
		m.Unpark()
		pass(time.Second)
		if string(sent) != "\x01\x00\x02" {
			t.Errorf("sent %v, want the two others after the hold", sent)
		}
		pass(time.Second)
		if m.Queue(name) != nil {
			t.Error("an empty queue is not forgotten")
		}
	})
}

func TestParkedMailIsFinishedWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []byte
		m := run(t, parkOf("shop", &sent))
		name := Name{"a.test", "v"}
		m.Add(name, labelled(7, "shop"))
		pass(59 * time.Minute)
		seen := 0
		m.Sweep(time.Now(), func(n Name, i *Item) {
			if n == name && i.Message[0] == 7 {
				seen++
			}
		})
		pass(time.Second)
		if seen != 1 || len(sent) != 0 {
			t.Fatalf("seen %d times and sent %v before its time was over", seen, sent)
		}
		pass(time.Minute)
		m.Sweep(time.Now(), func(Name, *Item) {})
		pass(time.Second)
		if string(sent) != "\x07" {
			t.Errorf("%v was handed out to be finished, want the parked message", sent)
		}
	})
}

func TestParkedMailCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []byte
		m := run(t, parkOf("shop", &sent))
		m.Add(Name{"a.test", "v"}, labelled(7, "shop"))
		pass(time.Second)
		taken := m.Take(Filter{Tenant: "shop"}, 10)
		if len(taken) != 1 || taken[0].Item.Parked || m.Recipients(Name{"a.test", "v"}) != 0 {
			t.Errorf("took %+v", taken)
		}
	})
}

func TestNextOfPrefersATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(&recorder{}, Options{})
		name := Name{"a.test", "v"}
		for n, tenant := range []string{"shop", "bank", "shop", "bank"} {
			m.Add(name, labelled(byte(n), tenant))
		}
		q := m.Queue(name)
		late := labelled(9, "bank")
		late.Attempts = 1
		q.Retry(late, time.Now().Add(time.Minute))
		next := func(tenant string) byte {
			i, ok := q.NextOf(tenant, time.Now())
			if !ok {
				t.Fatal("nothing is due")
			}
			return i.Message[0]
		}
		if got := next("bank"); got != 1 {
			t.Errorf("first %d, want the bank's new mail 1", got)
		}
		pass(2 * time.Minute)
		if got := next("bank"); got != 9 {
			t.Errorf("then %d, want the bank's due retry 9", got)
		}
		if got := next("nobody"); got != 0 {
			t.Errorf("then %d, want what is first, 0: the tenant has no mail", got)
		}
		if q.Recipients() != 2 {
			t.Errorf("%d recipients left, want 2", q.Recipients())
		}
	})
}

// Who looks for a tenant's mail in a long queue looks at the first alone, and leaves the order as it was.
func TestNextOfLooksAtTheFirst(t *testing.T) {
	for _, tc := range []struct {
		name  string
		place int
		found bool
	}{{"the first", 0, true}, {"in the middle", 500, true}, {"the last that is looked at", lookahead - 1, true}, {"behind", lookahead, false}} {
		t.Run(tc.name, func(t *testing.T) {
			var f fresh
			for n := range lookahead + 10 {
				i := item(1, time.Time{})
				if i.Labels = Label("", "bank"); n == tc.place {
					i.Labels = Label("", "shop")
				}
				i.Arrived = Moment(n + 1)
				f.add(i)
			}
			seen := 0
			got := f.first(lookahead, func(i *Item) bool {
				seen++
				return isOf(i, "shop")
			})
			if (got != nil) != tc.found || seen != min(tc.place+1, lookahead) {
				t.Fatalf("found %v after %d items", got, seen)
			}
			left := lookahead + 10
			if tc.found {
				left--
			}
			for last := Moment(0); f.count > 0; left-- {
				next := f.next()
				if next.Arrived <= last || tc.found && next.Labels.Value().Tenant == "shop" {
					t.Fatalf("%v of %q follows %v", next.Arrived, next.Labels.Value().Tenant, last)
				}
				last = next.Arrived
			}
			if left != 0 {
				t.Errorf("%d items are missing", left)
			}
		})
	}
}
