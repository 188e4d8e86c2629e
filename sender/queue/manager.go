package queue

import (
	"container/heap"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"carom/schemas/clock"
)

// ErrInterrupted is the cause with which the context of a session ends that is interrupted in a
// transfer for a queue of higher priority (allow-priority-interruption-during-transfer).
var ErrInterrupted = errors.New("interrupted by a queue of higher priority")

// Runner delivers the mail of one queue over one connection: it returns when nothing is due any
// more, when the connection has done its share, when Queue.ShouldYield says so, or when ctx is done.
type Runner interface {
	Run(ctx context.Context, q *Queue)
	// Policy returns what the configuration says about the queue now. It is asked often.
	Policy(q *Queue) Policy
}

// Policy is what the Manager needs to know about a queue.
type Policy struct {
	MaxSessions int    // at once (max-smtp-out)
	Group       string // name of the queues that share GroupMax sessions; "" for none
	GroupMax    int    // 0 means no limit
	Priority    int    // 0 to 100 (queue-priority)

	Interruptible           bool // between two messages, for a higher priority
	InterruptibleInTransfer bool
	RetryUponNewMail        bool // new mail ends the wait after a failure
}

// Options are the settings of a Manager.
type Options struct {
	MaxSessions int // of all queues together (total-max-smtp-out); 0 means no limit
}

// noLimit stands for a number of sessions that nothing bounds.
const noLimit = 1 << 20

// shardCount spreads queues so that feeders and sessions seldom wait for each other's lock.
const shardCount = 16

// Manager owns the queues and starts their sessions.
type Manager struct {
	runner   Runner
	slots    slots
	seed     maphash.Seed
	shards   [shardCount]shard
	sessions sync.WaitGroup

	holding sync.Mutex // held while holds are put in force
}

// shard is a part of the queues. One goroutine, run, looks at them.
type shard struct {
	manager *Manager
	wake    chan struct{}

	mu     sync.Mutex
	queues map[Name]*Queue
	stale  []*Queue // looked at in the next round
	timers timerHeap
	holds  []Hold // for new queues
}

// NewManager returns a manager without queues; Run starts it.
func NewManager(runner Runner, o Options) *Manager {
	m := &Manager{runner: runner, seed: maphash.MakeSeed()}
	m.slots = slots{node: pool{max: o.MaxSessions}, idle: map[*Queue]bool{}, cuttable: map[*Queue]bool{}}
	for i := range m.shards {
		m.shards[i] = shard{manager: m, wake: make(chan struct{}, 1), queues: map[Name]*Queue{}}
	}
	return m
}

func (m *Manager) shardOf(name Name) *shard {
	return &m.shards[maphash.Comparable(m.seed, name)%shardCount]
}

// Add puts item into the queue called name, which it makes if there is none.
func (m *Manager) Add(name Name, item *Item) {
	s := m.shardOf(name)
	for {
		q := s.get(name)
		q.mu.Lock()
		if q.gone { // forgotten in between
			q.mu.Unlock()
			continue
		}
		q.place(item, false)
		if q.policy.RetryUponNewMail {
			q.retryAt = time.Time{}
		}
		ready := !q.paused && !q.waitsUntil().After(clock.Now())
		woken := item.Due == 0 && ready && q.wakeIdle(1) > 0
		// Sessions that are busy come for it themselves: a look could start no other.
		full := q.policy.MaxSessions > 0 && q.sessions >= q.policy.MaxSessions && item.Due == 0
		q.mu.Unlock()
		if !woken && !full {
			s.changed(q, item.Due.Time())
		}
		return
	}
}

func (s *shard) get(name Name) *Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[name]
	if q == nil {
		q = &Queue{name: name, text: name.String(), shard: s}
		q.share.weight = weight(DefaultPriority)
		if len(s.holds) > 0 {
			q.setHolds(s.holds)
		}
		s.queues[name] = q
	}
	return q
}

// Queue returns the queue called name, nil if there is none.
func (m *Manager) Queue(name Name) *Queue {
	s := m.shardOf(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queues[name]
}

// Run starts sessions as mail gets due, until ctx is done; then it waits for the sessions.
func (m *Manager) Run(ctx context.Context) error {
	var owners sync.WaitGroup
	for i := range m.shards {
		owners.Go(func() { m.shards[i].run(ctx) })
	}
	owners.Wait()
	m.sessions.Wait()
	return nil
}

// run is the owner of a shard.
func (s *shard) run(ctx context.Context) {
	timer := clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := s.round(ctx); next.IsZero() {
			timer.Reset(clock.Real(time.Hour))
		} else {
			timer.Reset(clock.Real(max(clock.Until(next), 0)))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// round looks at the queues that changed and returns when the next one wants to be looked at.
func (s *shard) round(ctx context.Context) time.Time {
	now := clock.Now()
	s.mu.Lock()
	for len(s.timers) > 0 && !s.timers[0].timer.After(now) {
		q := s.timers[0]
		s.unschedule(q)
		s.mark(q)
	}
	todo := s.stale
	s.stale = nil
	for _, q := range todo {
		q.stale = false
	}
	s.mu.Unlock()
	for _, q := range todo {
		again := s.look(ctx, q, now)
		s.mu.Lock()
		s.forget(q, now)
		if !q.gone && !again.IsZero() {
			s.schedule(q, again)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.timers) == 0 {
		return time.Time{}
	}
	return s.timers[0].timer
}

// look starts the sessions that q needs and returns when to look again if nothing changes before
// (zero for never).
func (s *shard) look(ctx context.Context, q *Queue, now time.Time) (again time.Time) {
	policy := s.manager.runner.Policy(q)
	slots := &s.manager.slots
	q.mu.Lock()
	q.policy = policy
	want := 0
	switch until := q.waitsUntil(); {
	case q.paused:
	case until.After(now):
		if q.fresh.count+len(q.retries) > 0 {
			again = until
		}
	default:
		room := max(0, policy.MaxSessions-q.sessions)
		if policy.MaxSessions <= 0 {
			room = noLimit
		}
		due := q.due(At(now), room+q.starting+len(q.waiters))
		want = min(room, max(0, due-q.wakeIdle(due)-q.starting))
		if len(q.retries) > 0 && q.retries[0].Due > At(now) {
			again = q.retries[0].Due.Time()
		}
	}
	if done, at := q.forgettable(now); !done && !at.IsZero() && (again.IsZero() || at.Before(again)) {
		again = at // to be forgotten then
	}
	q.mu.Unlock()

	granted := slots.takeGranted(q)
	for ; want > 0 && ctx.Err() == nil; want-- {
		if granted > 0 {
			granted--
		} else if !slots.acquire(q, policy) {
			s.manager.makeRoom(q)
			break
		}
		s.start(ctx, q)
	}
	if want == 0 {
		slots.leave(q)
	}
	for range granted {
		s.manager.released(slots.release(q))
	}
	return again
}

// makeRoom ends sessions that have no work, and one in a transfer that may be interrupted for q.
func (m *Manager) makeRoom(q *Queue) {
	idle, transfer := m.slots.victims(q)
	for _, other := range idle {
		other.mu.Lock()
		other.wakeIdle(1)
		other.mu.Unlock()
	}
	if transfer != nil {
		transfer.interrupt()
	}
}

// running is a session as others can end it.
type running struct{ cancel context.CancelCauseFunc }

// interrupt ends one session of q.
func (q *Queue) interrupt() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.running); n > 0 {
		q.running[n-1].cancel(ErrInterrupted)
	}
}

func (s *shard) start(ctx context.Context, q *Queue) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &running{cancel}
	q.mu.Lock()
	q.sessions++
	q.starting++
	q.running = append(q.running, r)
	q.mu.Unlock()
	s.manager.sessions.Go(func() {
		defer cancel(nil)
		s.manager.runner.Run(ctx, q)
		q.mu.Lock()
		q.sessions--
		q.starting = min(q.starting, q.sessions) // of those that took nothing
		q.running = slices.DeleteFunc(q.running, func(other *running) bool { return other == r })
		q.mu.Unlock()
		s.manager.released(s.manager.slots.release(q))
		s.changed(q, time.Time{})
	})
}

// released lets the owners look at queues that were given a session.
func (m *Manager) released(granted []*Queue) {
	for _, q := range granted {
		q.shard.changed(q, time.Time{})
	}
}

// changed lets the owner look at q at the given time; the zero time is now.
func (s *shard) changed(q *Queue, at time.Time) {
	s.mu.Lock()
	if at.After(clock.Now()) {
		s.schedule(q, at)
	} else {
		s.mark(q)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up is under way
	}
}

// mark lets the owner look at q in its next round. The caller holds s.mu, as for the three below.
func (s *shard) mark(q *Queue) {
	if !q.stale && !q.gone {
		q.stale = true
		s.stale = append(s.stale, q)
	}
}

// schedule lets the owner look at q at the given time or before.
func (s *shard) schedule(q *Queue, at time.Time) {
	switch {
	case q.gone:
	case q.timer.IsZero():
		q.timer = at
		heap.Push(&s.timers, q)
	case at.Before(q.timer):
		q.timer = at
		heap.Fix(&s.timers, q.timerPlace)
	default: // it is looked at before, and then look tells the next time
	}
}

// unschedule takes q out of the timers.
func (s *shard) unschedule(q *Queue) {
	if !q.timer.IsZero() {
		heap.Remove(&s.timers, q.timerPlace)
		q.timer = time.Time{}
	}
}

// forget drops q if it holds nothing.
func (s *shard) forget(q *Queue, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if done, _ := q.forgettable(now); !done || q.stale || q.gone || s.manager.slots.knows(q) {
		return // who took the last mail lets the owner look again
	}
	q.gone = true
	s.unschedule(q)
	delete(s.queues, q.name)
}

// all returns the queues that match says.
func (m *Manager) all(match func(Name) bool) (queues []*Queue) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for name, q := range s.queues {
			if match == nil || match(name) {
				queues = append(queues, q)
			}
		}
		s.mu.Unlock()
	}
	return queues
}

// Statuses returns the state of every queue, ordered by name.
func (m *Manager) Statuses() []Status {
	queues := m.all(nil)
	now := clock.Now()
	statuses := make([]Status, 0, len(queues))
	for _, q := range queues {
		statuses = append(statuses, q.Status(now))
	}
	slices.SortFunc(statuses, func(a, b Status) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	return statuses
}

// Schedule lets the queues that match says be tried now, and with retries also the recipients in
// them that wait for a time of their own. It returns the number of queues.
func (m *Manager) Schedule(match func(Name) bool, retries bool) int {
	queues := m.all(match)
	for _, q := range queues {
		q.Schedule(retries)
	}
	return len(queues)
}

// SetMode puts the queues that match says into a mode, backoff until something ends it, and returns
// how many had the other one.
func (m *Manager) SetMode(match func(Name) bool, mode Mode, why string) (changed int) {
	for _, q := range m.all(match) {
		if mode == Backoff && q.EnterBackoff(why, time.Time{}) || mode == Normal && q.LeaveBackoff(why) {
			changed++
		}
	}
	return changed
}

// SetHolds puts holds in force in place of those before. Sessions under way end with the message that
// they are in: their queue gives them no other.
func (m *Manager) SetHolds(holds []Hold) {
	m.holding.Lock()
	defer m.holding.Unlock()
	holds = slices.Clone(holds)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.holds = holds
		queues := make([]*Queue, 0, len(s.queues))
		for _, q := range s.queues {
			queues = append(queues, q)
		}
		s.mu.Unlock()
		for _, q := range queues {
			q.setHolds(holds)
			s.changed(q, time.Time{})
		}
	}
}

// Taken is an item that Take removed, and the queue that it was in.
type Taken struct {
	Queue Name
	Item  *Item
}

// Take removes waiting items that f selects, at most limit. What is in an attempt is not waiting.
func (m *Manager) Take(f Filter, limit int) (taken []Taken) {
	for _, q := range m.all(f.MatchQueue) {
		if len(taken) >= limit {
			break
		}
		for _, item := range q.take(&f, limit-len(taken)) {
			taken = append(taken, Taken{q.name, item})
		}
		q.shard.changed(q, time.Time{})
	}
	return taken
}

// Count returns how many items and recipients f selects now, for what only looks.
func (m *Manager) Count(f Filter) (items, recipients int) {
	for _, q := range m.all(f.MatchQueue) {
		q.each(func(item *Item) {
			if f.MatchItem(item) {
				items++
				recipients += len(item.Recipients)
			}
		})
	}
	return items, recipients
}

// Peek returns up to limit waiting items that f selects, for what lists them.
func (m *Manager) Peek(f Filter, limit int) (found []Taken) {
	for _, q := range m.all(f.MatchQueue) {
		q.each(func(item *Item) {
			if len(found) < limit && f.MatchItem(item) {
				listed := *item
				found = append(found, Taken{q.name, &listed})
			}
		})
	}
	return found
}

// each calls f with every waiting item; f must not keep it.
func (q *Queue) each(f func(*Item)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.fresh.levels {
		for _, item := range l.items[l.head:] {
			f(item)
		}
	}
	for _, item := range q.retries {
		f(item)
	}
	for _, item := range q.held {
		f(item)
	}
	for _, item := range q.parked {
		f(item)
	}
}

// timerHeap orders queues by the time at which to look at them; each is in it once.
type timerHeap []*Queue

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].timer.Before(h[j].timer) }

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timerPlace, h[j].timerPlace = i, j
}

// Push adds x; part of heap.Interface.
func (h *timerHeap) Push(x any) {
	q := x.(*Queue) //nolint:errcheck,forcetypeassert // only queues are pushed
	q.timerPlace = len(*h)
	*h = append(*h, q)
}

// Pop removes the last queue; part of heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return q
}
