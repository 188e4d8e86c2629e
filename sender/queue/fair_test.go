package queue

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/event"
)

// worker is a Runner whose sessions take an item, work on it for a time and go on until they should
// yield. It notes when which queue was served.
type worker struct {
	policy func(q *Queue) Policy
	work   time.Duration

	mu     sync.Mutex
	served map[string]int
	first  map[string]time.Duration
	most   int
	now    int
	began  time.Time
	cut    map[string]int // interrupted in a transfer
}

func (w *worker) Policy(q *Queue) Policy { return w.policy(q) }

func (w *worker) Run(ctx context.Context, q *Queue) {
	w.mu.Lock()
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	for !q.ShouldYield() && ctx.Err() == nil {
		item, ok := q.Next(time.Now())
		if !ok {
			return
		}
		select {
		case <-time.After(w.work): // virtual time
		case <-ctx.Done():
			q.Retry(item, time.Time{})
			w.mu.Lock()
			w.cut[q.Name().Domain]++
			w.mu.Unlock()
			return
		}
		w.mu.Lock()
		if _, seen := w.first[q.Name().Domain]; !seen {
			w.first[q.Name().Domain] = time.Since(w.began)
		}
		w.served[q.Name().Domain]++
		w.mu.Unlock()
	}
}

// count returns how often a domain was served.
func (w *worker) count(domain string) int { return w.all()[domain] }

// all returns how often each domain was served.
func (w *worker) all() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.served)
}

// serve runs queues with the given policies and n items each for a time, on a node with so many
// sessions. The first queue has its mail a second before the others.
func serve(t *testing.T, sessions, n int, d, work time.Duration, policies ...Policy) *worker {
	t.Helper()
	w := &worker{work: work, served: map[string]int{}, first: map[string]time.Duration{}, cut: map[string]int{}}
	w.policy = func(q *Queue) Policy {
		var i int
		_, _ = fmt.Sscanf(q.Name().Domain, "q%d", &i)
		return policies[i]
	}
	m := NewManager(w, Options{MaxSessions: sessions})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	for i := range policies {
		for k := range n {
			m.Add(Name{fmt.Sprintf("q%d", i), "v"}, &Item{Message: event.ID{byte(i), byte(k >> 8), byte(k)}, Recipients: []uint32{0}, Priority: DefaultPriority})
		}
		if i == 0 {
			time.Sleep(time.Second) // virtual time
			w.mu.Lock()
			w.began = time.Now()
			w.mu.Unlock()
		}
	}
	time.Sleep(d) // virtual time
	cancel()
	<-done
	return w
}

func TestSessionsAreSharedByWeight(t *testing.T) {
	for _, tc := range []struct {
		name     string
		sessions int
		policies []Policy
		want     []float64 // shares
	}{
		{"alike", 10, []Policy{{MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 50}}, []float64{0.5, 0.5}},
		{"fewer sessions than queues", 2, []Policy{{MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 50}}, []float64{0.25, 0.25, 0.25, 0.25}},
		{"by priority", 10, []Policy{{MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 60}}, []float64{1 / 3.59, 2.59 / 3.59}},
		{"one wants little", 10, []Policy{{MaxSessions: 20, Priority: 50}, {MaxSessions: 1, Priority: 50}}, []float64{0.9, 0.1}},
		{"a group", 10, []Policy{{MaxSessions: 20, Priority: 50, Group: "v", GroupMax: 2}, {MaxSessions: 20, Priority: 50, Group: "v", GroupMax: 2}, {MaxSessions: 20, Priority: 50}}, []float64{0.1, 0.1, 0.8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := serve(t, tc.sessions, 20_000, 100*time.Second, 100*time.Millisecond, tc.policies...)
				total := 0
				for _, n := range w.served {
					total += n
				}
				if w.most > tc.sessions {
					t.Errorf("%d sessions at once, want at most %d", w.most, tc.sessions)
				}
				if want := tc.sessions * 1000 * 9 / 10; total < want {
					t.Errorf("%d served, want at least %d: sessions stood idle", total, want)
				}
				for i, want := range tc.want {
					if got := float64(w.served[fmt.Sprintf("q%d", i)]) / float64(total); got < want*0.8 || got > want*1.25 {
						t.Errorf("queue %d was served %.3f of all, want about %.3f", i, got, want)
					}
				}
			})
		})
	}
}

// TestBusyQueuesDelayNoNewOne: mail for a queue that was idle waits for one message of another, not
// for its million.
func TestBusyQueuesDelayNoNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policies := []Policy{{MaxSessions: 20, Priority: 50}, {MaxSessions: 20, Priority: 50}}
		w := serve(t, 5, 20_000, 10*time.Second, 100*time.Millisecond, policies...)
		if got := w.first["q1"]; got == 0 || got > 300*time.Millisecond {
			t.Errorf("the first message of a new queue took %v beside a busy one", got)
		}
	})
}

func TestHigherPriorityInterrupts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy Policy // of the busy queue
		work   time.Duration
		within time.Duration
		cut    bool
	}{
		{"between messages", Policy{MaxSessions: 20, Priority: 50, Interruptible: true}, time.Second, 3 * time.Second, false},
		{"in a transfer", Policy{MaxSessions: 20, Priority: 50, Interruptible: true, InterruptibleInTransfer: true}, time.Hour, 2 * time.Hour, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := serve(t, 1, 100, 3*time.Hour, tc.work, tc.policy, Policy{MaxSessions: 1, Priority: 90})
				if got := w.first["q1"]; got == 0 || got > tc.within {
					t.Errorf("served after %v, want within %v", got, tc.within)
				}
				if cut := w.cut["q0"] > 0; cut != tc.cut {
					t.Errorf("interrupted in a transfer: %v, want %v", cut, tc.cut)
				}
			})
		})
	}
}

func TestIdleSessionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		served := make(chan string, 10)
		r := &keeper{served: served}
		m := NewManager(r, Options{MaxSessions: 1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		for _, name := range []string{"a", "b", "a"} {
			m.Add(Name{name, "v"}, &Item{Recipients: []uint32{0}})
			if got := <-served; got != name || time.Since(began) > time.Second {
				t.Errorf("%s was served after %v, want %s at once", got, time.Since(began), name)
			}
		}
		cancel()
		<-done
	})
}

// keeper is a Runner that keeps its session for more mail.
type keeper struct{ served chan string }

func (*keeper) Policy(*Queue) Policy { return Policy{MaxSessions: 20} }

func (k *keeper) Run(ctx context.Context, q *Queue) {
	for {
		if _, ok := q.Next(time.Now()); ok {
			k.served <- q.Name().Domain
		} else if !q.Await(ctx, time.Hour) {
			return
		}
	}
}

// TestNoSessionIsLost runs random queues to the end on few sessions, in groups or not, with
// sessions that fail and queues that wait: all is served, no session too many.
func TestNoSessionIsLost(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		node := rapid.IntRange(1, 6).Draw(r, "node")
		policies := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) Policy {
			p := Policy{MaxSessions: rapid.IntRange(1, 8).Draw(r, "sessions"), Priority: rapid.IntRange(0, 100).Draw(r, "priority"), Interruptible: rapid.Bool().Draw(r, "yields"), InterruptibleInTransfer: rapid.Bool().Draw(r, "cut")}
			if g := rapid.IntRange(0, 2).Draw(r, "group"); g > 0 {
				p.Group, p.GroupMax = fmt.Sprint("g", g), g
			}
			return p
		}), 1, 6).Draw(r, "policies")
		n := rapid.IntRange(1, 120).Draw(r, "items")
		synctest.Test(t, func(t *testing.T) {
			w := serve(t, node, n, 100*time.Hour, time.Second, policies...)
			for i := range policies {
				if got := w.served[fmt.Sprintf("q%d", i)]; got != n {
					t.Fatalf("queue %d of %+v: %d of %d items served", i, policies, got, n)
				}
			}
			if w.most > node {
				t.Fatalf("%d sessions on a node of %d", w.most, node)
			}
		})
	})
}

func TestHoldsKeepMailBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{policy: func(*Queue) Policy { return Policy{MaxSessions: 5} }, served: map[string]int{}, first: map[string]time.Duration{}}
		m := NewManager(w, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		m.SetHolds([]Hold{{ID: "1", Filter: Filter{Queue: "a.example/*"}}, {ID: "2", Filter: Filter{Job: "j"}}})
		add := func(domain, job string) {
			m.Add(Name{domain, "v"}, &Item{Recipients: []uint32{0}, Labels: Label(job, "t"), Arrived: At(time.Now())})
		}
		for range 3 {
			add("a.example", "")
			add("b.example", "j")
			add("b.example", "k")
		}
		time.Sleep(time.Hour) // virtual time
		if w.count("a.example") != 0 || w.count("b.example") != 3 {
			t.Errorf("served %v, want the three of b.example's other job", w.all())
		}
		for _, s := range m.Statuses() {
			if s.Recipients != 3 || s.Paused != (s.Name.Domain == "a.example") {
				t.Errorf("status %+v, want three recipients, a.example paused", s)
			}
		}
		if items, recipients := m.Count(Filter{Tenant: "t"}); items != 6 || recipients != 6 {
			t.Errorf("%d items with %d recipients of the tenant, want 6", items, recipients)
		}
		m.SetHolds([]Hold{{ID: "2", Filter: Filter{Job: "j"}}})
		time.Sleep(time.Second) // virtual time
		if w.count("a.example") != 3 || w.count("b.example") != 3 {
			t.Errorf("served %v after a.example was resumed", w.all())
		}
		if taken := m.Take(Filter{Job: "j", ArrivedBefore: At(time.Now())}, 2); len(taken) != 2 || taken[0].Queue.Domain != "b.example" {
			t.Errorf("took %+v, want two of the held items", taken)
		}
		m.SetHolds(nil)
		time.Sleep(time.Second) // virtual time
		if w.count("b.example") != 4 {
			t.Errorf("served %v, want the one that was not taken", w.all())
		}
		if left := m.Statuses(); len(left) != 0 {
			t.Errorf("queues left: %+v", left)
		}
		cancel()
		<-done
	})
}

func TestFilter(t *testing.T) {
	item := &Item{Labels: Label("j", "t"), Arrived: 1000}
	for _, tc := range []struct {
		filter Filter
		queue  Name
		want   bool
	}{
		{Filter{}, Name{"a.example", "v"}, true},
		{Filter{Queue: "a.example"}, Name{"a.example", "v"}, true},
		{Filter{Queue: "a.example/w"}, Name{"a.example", "v"}, false},
		{Filter{Queue: "*/V"}, Name{"a.example", "v"}, true},
		{Filter{Queue: "*.example/*"}, Name{"a.example", "v"}, true},
		{Filter{Queue: "a*b*c/v"}, Name{"aXbXc", "v"}, true},
		{Filter{Queue: "a*b*c/v"}, Name{"aXcXb", "v"}, false},
		{Filter{Queue: "*b"}, Name{"b", "v"}, true},
		{Filter{Domain: "b.example"}, Name{"a.example", "v"}, false},
		{Filter{VMTA: "v", Job: "j", Tenant: "t"}, Name{"a.example", "v"}, true},
		{Filter{Job: "k"}, Name{"a.example", "v"}, false},
		{Filter{ArrivedBefore: 1000}, Name{"a.example", "v"}, false},
		{Filter{ArrivedBefore: 1001}, Name{"a.example", "v"}, true},
	} {
		if got := tc.filter.MatchQueue(tc.queue) && tc.filter.MatchItem(item); got != tc.want {
			t.Errorf("%+v selects mail of %s: %v, want %v", tc.filter, tc.queue, got, tc.want)
		}
	}
}

func TestPriorityWithinAQueue(t *testing.T) {
	q := NewManager(&worker{}, Options{}).shards[0].get(Name{"a.example", "v"})
	now := time.Now()
	add := func(n byte, priority uint8, due time.Time) {
		q.place(&Item{Message: event.ID{n}, Recipients: []uint32{0}, Priority: priority, Due: At(due)}, false)
	}
	add(5, 50, time.Time{})
	add(6, 10, time.Time{})
	add(2, 90, time.Time{})
	add(4, 50, now.Add(-time.Second))
	add(3, 90, time.Time{})
	add(1, 90, now.Add(-time.Minute))
	for want := byte(1); want <= 6; want++ {
		item, ok := q.Next(now)
		if !ok || item.Message[0] != want {
			t.Fatalf("item %v, want %d: high priority first, due retries before new mail of their priority", item, want)
		}
	}
}

func TestModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(&worker{}, Options{})
		q := m.shardOf(Name{"a.example", "v"}).get(Name{"a.example", "v"})
		if q.LeaveBackoff("x") || !q.EnterBackoff("421", time.Now().Add(time.Hour)) || q.EnterBackoff("again", time.Now().Add(time.Hour)) {
			t.Error("what changes the mode is not told from what does not")
		}
		if q.Mode(time.Now()) != Backoff {
			t.Error("not in backoff mode")
		}
		time.Sleep(time.Hour)
		if q.Mode(time.Now()) != Normal {
			t.Error("in backoff mode after its time")
		}
		if n := m.SetMode(func(n Name) bool { return n.Domain == "a.example" }, Backoff, "operator"); n != 1 || q.Mode(time.Now()) != Backoff {
			t.Errorf("%d queues set to backoff, want 1", n)
		}
		if n := m.SetMode(func(Name) bool { return true }, Normal, "operator"); n != 1 || q.Mode(time.Now()) != Normal {
			t.Errorf("%d queues set to normal, want 1", n)
		}
	})
}

func TestNewMailEndsTheWaitWhereItShould(t *testing.T) {
	for _, upon := range []bool{false, true} {
		t.Run(fmt.Sprint(upon), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var took []time.Duration
				r := &recorder{limit: 1, policy: Policy{RetryUponNewMail: upon}, take: func(q *Queue, item *Item) bool {
					took = append(took, time.Since(began))
					if len(took) == 1 {
						q.Retry(item, time.Time{})
						q.Failed([]time.Duration{time.Hour}, 0)
						return false
					}
					return true
				}}
				m := run(t, r)
				m.Add(Name{"a.example", "v"}, item(1, time.Time{}))
				time.Sleep(time.Minute)
				m.Add(Name{"a.example", "v"}, item(2, time.Time{}))
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				want := time.Hour
				if upon {
					want = time.Minute
				}
				if len(took) != 3 || took[1] != want {
					t.Errorf("attempts at %v, want the second at %v", took, want)
				}
			})
		})
	}
}

func TestMoveToAndSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{policy: func(*Queue) Policy { return Policy{MaxSessions: 1} }, served: map[string]int{}, first: map[string]time.Duration{}}
		m := NewManager(w, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		m.Add(Name{"a.example", "v"}, &Item{Recipients: []uint32{0, 1}, Due: At(time.Now().Add(time.Hour))})
		synctest.Wait()
		if moved := m.Queue(Name{"a.example", "v"}).MoveTo(Name{"b.example", "v"}); moved != 2 {
			t.Errorf("%d recipients moved, want 2", moved)
		}
		synctest.Wait()
		if n := m.Schedule(func(n Name) bool { return n.Domain == "b.example" }, true); n != 1 {
			t.Errorf("%d queues scheduled, want 1", n)
		}
		time.Sleep(time.Second) // virtual time, far from the hour
		if w.count("b.example") != 1 || len(m.Statuses()) != 0 {
			t.Errorf("served %v, left %+v", w.all(), m.Statuses())
		}
		cancel()
		<-done
	})
}

// TestMovedMailCostsNoShare: a queue whose mail went elsewhere is not behind those that were served.
func TestMovedMailCostsNoShare(t *testing.T) {
	m := NewManager(&recorder{limit: 1}, Options{})
	name := Name{"a.example", "v"}
	for range 100 {
		m.Add(name, &Item{Recipients: []uint32{0}})
	}
	q := m.Queue(name)
	if moved := q.MoveTo(Name{"b.example", "v"}); moved != 100 || q.recipients != 0 {
		t.Fatalf("%d recipients moved, %d left; want 100 and none", moved, q.recipients)
	}
	if m.slots.acquire(q, Policy{Priority: DefaultPriority}); q.share.virtual != 0 {
		t.Errorf("the queue was served for %v", q.share.virtual)
	}
}

// TestMemoryOfAnItem bounds what a waiting message costs: a node holds millions.
func TestMemoryOfAnItem(t *testing.T) {
	const n = 200_000
	m := NewManager(&worker{}, Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		item := &Item{Message: event.ID{byte(i >> 16), byte(i >> 8), byte(i)}, Labels: Label("job", "tenant"), Priority: DefaultPriority}
		item.AddRecipient(0)
		m.Add(Name{"a.example", "v"}, item)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (after.HeapAlloc - before.HeapAlloc) / n; each > 100 {
		t.Errorf("%d bytes an item, want at most 100", each)
	}
	runtime.KeepAlive(m)
}

func BenchmarkAddNext(b *testing.B) {
	m := NewManager(&worker{}, Options{})
	q := m.shardOf(Name{"a.example", "v"}).get(Name{"a.example", "v"})
	q.policy.MaxSessions, q.sessions = 1, 1
	item := &Item{Recipients: []uint32{0}}
	b.ReportAllocs()
	for b.Loop() {
		m.Add(Name{"a.example", "v"}, item)
		if _, ok := q.Next(time.Now()); !ok {
			b.Fatal("nothing to take")
		}
	}
}

// TestAQueueInLineIsNotForgotten: mail of a queue that waits for a session is taken out, and the owner
// looks at the queue before it was told. The session that the queue then gets must come back.
func TestAQueueInLineIsNotForgotten(t *testing.T) {
	m := NewManager(&recorder{limit: 1}, Options{MaxSessions: 1})
	busy, q := m.shardOf(Name{"busy", "v"}).get(Name{"busy", "v"}), m.shardOf(Name{"q", "v"}).get(Name{"q", "v"})
	if p := (Policy{MaxSessions: 1}); !m.slots.acquire(busy, p) || m.slots.acquire(q, p) {
		t.Fatal("want the one session for the first queue, and the second in line")
	}
	now := time.Now()
	q.shard.mu.Lock()
	q.shard.forget(q, now)
	gone := q.gone
	q.shard.mu.Unlock()
	if gone {
		t.Fatal("forgotten while in line")
	}
	m.released(m.slots.release(busy))
	q.shard.round(t.Context())
	if used := m.slots.node.used; used != 0 {
		t.Errorf("%d sessions are in use, want none", used)
	}
	if m.Queue(q.name) != nil {
		t.Error("not forgotten when it had given its session back")
	}
}
