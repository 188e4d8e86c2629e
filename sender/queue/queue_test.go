package queue

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
)

// recorder is a Runner that hands what is due to take, until take returns false.
type recorder struct {
	limit  int
	node   int // sessions of all queues
	policy Policy
	take   func(q *Queue, item *Item) bool

	work time.Duration // how long an item takes

	taking sync.Mutex // held in take

	mu      sync.Mutex
	running int
	most    int
}

func (r *recorder) Policy(*Queue) Policy {
	p := r.policy
	p.MaxSessions = r.limit
	return p
}

func (r *recorder) Run(_ context.Context, q *Queue) {
	r.mu.Lock()
	r.running++
	r.most = max(r.most, r.running)
	r.mu.Unlock()
	for {
		item, ok := q.Next(time.Now())
		if !ok {
			break
		}
		r.taking.Lock()
		more := r.take(q, item)
		r.taking.Unlock()
		time.Sleep(r.work) // virtual time
		if !more {
			break
		}
	}
	r.mu.Lock()
	r.running--
	r.mu.Unlock()
}

func item(n byte, due time.Time) *Item {
	return &Item{Message: event.ID{n}, Recipients: []uint32{0}, Arrived: At(time.Now()), Due: At(due), Priority: DefaultPriority}
}

// run starts a manager in a bubble of virtual time and stops it at the end of the test.
func run(t *testing.T, r *recorder) *Manager {
	t.Helper()
	m := NewManager(r, Options{MaxSessions: r.node})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func TestDueRetriesGoBeforeNewMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		q := NewManager(&recorder{}, Options{}).shards[0].get(Name{"a.example", "v"})
		q.place(item(1, time.Time{}), false)
		q.place(item(2, now.Add(-time.Second)), false)
		q.place(item(3, now.Add(-time.Minute)), false)
		q.place(item(4, now.Add(time.Minute)), false)
		var order []byte
		for {
			next, ok := q.Next(now)
			if !ok {
				break
			}
			order = append(order, next.Message[0])
		}
		if string(order) != "\x03\x02\x01" {
			t.Errorf("order %v, want the oldest retry, the other, then new mail", order)
		}
		if s := q.Status(now); s.Recipients != 1 || s.Due != 0 {
			t.Errorf("status %+v, want one that is not due", s)
		}
	})
}

func TestRetryIsTakenWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var took []time.Duration
		r := &recorder{limit: 1, take: func(q *Queue, item *Item) bool {
			took = append(took, time.Since(start))
			if len(took) < 3 {
				q.Retry(item, time.Now().Add(10*time.Minute))
			}
			return true
		}}
		m := run(t, r)
		m.Add(Name{"a.example", "v"}, item(1, time.Time{}))
		time.Sleep(time.Hour) // virtual time
		synctest.Wait()
		if len(took) != 3 || took[1] != 10*time.Minute || took[2] != 20*time.Minute {
			t.Errorf("attempts at %v, want 0, 10m, 20m", took)
		}
		if left := m.Statuses(); len(left) != 0 {
			t.Errorf("queues left: %+v", left)
		}
	})
}

func TestSessionsStayWithinTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{limit: 3, work: time.Second, take: func(*Queue, *Item) bool { return true }}
		m := run(t, r)
		for n := range 30 {
			m.Add(Name{"a.example", "v"}, item(byte(n), time.Time{}))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if r.most != 3 {
			t.Errorf("%d sessions at most, want 3", r.most)
		}
	})
}

func TestDeferHoldsAQueueBackAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		took := map[string][]time.Duration{}
		r := &recorder{limit: 1, take: func(q *Queue, item *Item) bool {
			took[q.Name().Domain] = append(took[q.Name().Domain], time.Since(start))
			if q.Name().Domain == "down.example" && len(took["down.example"]) < 3 {
				q.Failed([]time.Duration{time.Minute}, 0)
				q.Retry(item, time.Time{})
				return false
			}
			return true
		}}
		m := run(t, r)
		m.Add(Name{"down.example", "v"}, item(1, time.Time{}))
		m.Add(Name{"up.example", "v"}, item(2, time.Time{}))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := took["up.example"]; len(got) != 1 || got[0] != 0 {
			t.Errorf("up.example attempted at %v, want at once", got)
		}
		if got := took["down.example"]; len(got) != 3 || got[1] != time.Minute || got[2] != 2*time.Minute {
			t.Errorf("down.example attempted at %v, want 0, 1m, 2m", got)
		}
	})
}

func TestAFailureOfManySessionsIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		waits := []time.Duration{time.Minute, 10 * time.Minute, time.Hour}
		var took []time.Duration
		r := &recorder{limit: 3, work: time.Second, take: func(q *Queue, item *Item) bool {
			took = append(took, time.Since(start))
			q.Retry(item, time.Time{})
			q.Failed(waits, 0)
			q.Defer(time.Now().Add(time.Second), "test") // a session that got no connection does not shorten the wait
			return false
		}}
		m := run(t, r)
		for n := range 3 {
			m.Add(Name{"down.example", "v"}, item(byte(n), time.Time{}))
		}
		time.Sleep(30 * time.Minute) // virtual time
		synctest.Wait()
		want := []time.Duration{0, 0, 0, time.Minute, time.Minute, time.Minute, 11 * time.Minute, 11 * time.Minute, 11 * time.Minute}
		if !slices.Equal(took, want) {
			t.Errorf("attempts at %v, want %v", took, want)
		}
	})
}

func TestAQueueIsInTheTimersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		r := &recorder{limit: 2, take: func(q *Queue, item *Item) bool {
			if first {
				first = false
				q.Retry(item, time.Now().Add(time.Hour))
				return true
			}
			q.Retry(item, time.Time{})
			q.Defer(time.Now().Add(time.Second), "test")
			return false
		}}
		m := run(t, r)
		m.Add(Name{"a.example", "v"}, item(1, time.Time{}))
		synctest.Wait()
		m.Add(Name{"a.example", "v"}, item(2, time.Time{}))
		time.Sleep(10 * time.Minute) // virtual time
		synctest.Wait()
		if queues, timers := state(m); queues != 1 || timers != 1 {
			t.Errorf("%d queues with %d timers, want one", queues, timers)
		}
	})
}

// state returns how many queues and timers m has.
func state(m *Manager) (queues, timers int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		queues += len(s.queues)
		timers += len(s.timers)
		s.mu.Unlock()
	}
	return queues, timers
}

// TestTimerOfAQueueThatIsGone: a queue that was deferred, and then emptied by a session that was
// under way, is forgotten when its wait is over, with its timer.
func TestTimerOfAQueueThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{limit: 1, take: func(q *Queue, _ *Item) bool {
			q.Defer(time.Now().Add(time.Minute), "test")
			return true
		}}
		m := run(t, r)
		m.Add(Name{"a.example", "v"}, item(1, time.Time{}))
		synctest.Wait()
		if queues, timers := state(m); queues != 1 || timers != 1 {
			t.Errorf("%d queues, %d timers; want the deferred one", queues, timers)
		}
		time.Sleep(2 * time.Minute) // virtual time
		synctest.Wait()
		if queues, timers := state(m); queues != 0 || timers != 0 {
			t.Errorf("%d queues, %d timers; want none", queues, timers)
		}
	})
}

func TestTakeSurplusLeavesWhatGoesSoonAndWhatDoesNotGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		m := NewManager(&recorder{}, Options{})
		name := Name{"a.test", "v"}
		m.SetHolds([]Hold{{ID: "1", Filter: Filter{Tenant: "held"}}})
		m.Add(name, labelled(50, "held"))
		q := m.Queue(name)
		urgent := labelled(1, "")
		urgent.Priority = 100
		for n := byte(10); n < 15; n++ {
			m.Add(name, labelled(n, ""))
		}
		m.Add(name, urgent)
		two := labelled(20, "")
		two.AddRecipient(0)
		two.AddRecipient(1)
		m.Add(name, two)
		q.Park(labelled(51, ""))
		q.Retry(labelled(30, ""), now.Add(-time.Second))
		q.Retry(labelled(31, ""), now.Add(time.Hour))
		var wg sync.WaitGroup
		taken := make(chan *Item, 100)
		for range 5 { // sessions that were denied together
			wg.Go(func() {
				for _, item := range q.TakeSurplus(4, now) {
					taken <- item
				}
			})
		}
		wg.Wait()
		close(taken)
		var got []byte
		for item := range taken {
			got = append(got, item.Message[0])
		}
		// The due retry, the urgent one, 10 and 11 are four recipients.
		if string(got) != "\x0c\x0d\x0e\x14" {
			t.Errorf("took %v, want 12, 13, 14 and 20", got)
		}
		if s := q.Status(now); s.Recipients != 7 || s.Held != 2 || s.Due != 4 {
			t.Errorf("left are %d recipients, %d held, %d due; want 7, 2 and 4", s.Recipients, s.Held, s.Due)
		}
		m.Add(name, labelled(40, ""))
		if got := q.TakeSurplus(0, now); len(got) != 4 || got[3].Message[0] != 40 {
			t.Errorf("then took %d items, want the four that are new", len(got))
		}
		m.SetHolds([]Hold{{ID: "1", Filter: Filter{Queue: "a.test/*"}}})
		m.Add(name, labelled(41, ""))
		if got := q.TakeSurplus(0, now); len(got) != 0 {
			t.Errorf("took %d items of a queue that is paused", len(got))
		}
	})
}
