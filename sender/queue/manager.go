package queue

import (
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Runner delivers the mail of one queue over one connection: it returns when nothing is due any
// more, when the connection has done its share, or when ctx is done.
type Runner interface {
	Run(ctx context.Context, q *Queue)
	// MaxSessions returns how many sessions the queue may have at once (max-smtp-out).
	MaxSessions(q *Queue) int
}

// Manager owns the queues and starts their sessions.
type Manager struct {
	runner Runner
	wake   chan struct{}

	mu     sync.Mutex
	queues map[Name]*Queue
	stale  map[Name]*Queue // looked at in the next round
	timers timerHeap
}

// NewManager returns a manager without queues; Run starts it.
func NewManager(runner Runner) *Manager {
	return &Manager{
		runner: runner, wake: make(chan struct{}, 1),
		queues: map[Name]*Queue{}, stale: map[Name]*Queue{},
	}
}

// Add puts item into the queue called name, which it makes if there is none.
func (m *Manager) Add(name Name, item *Item) {
	m.mu.Lock()
	q := m.queues[name]
	if q == nil {
		q = &Queue{name: name, manager: m}
		m.queues[name] = q
	}
	q.add(item) // under m.mu, so that forget cannot drop the queue in between
	m.stale[name] = q
	m.mu.Unlock()
	m.poke()
}

// Run starts sessions as mail gets due, until ctx is done; then it waits for the sessions.
func (m *Manager) Run(ctx context.Context) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := m.round(ctx, &sessions)
		if next.IsZero() {
			timer.Reset(time.Hour)
		} else {
			timer.Reset(max(time.Until(next), 0))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// round starts what can be started and returns when the next queue wants to be looked at.
func (m *Manager) round(ctx context.Context, sessions *sync.WaitGroup) time.Time {
	now := time.Now()
	m.mu.Lock()
	for len(m.timers) > 0 && !m.timers[0].timer.After(now) {
		q := m.timers[0]
		m.stop(q)
		m.stale[q.name] = q
	}
	todo := m.stale
	m.stale = map[Name]*Queue{}
	m.mu.Unlock()

	for _, q := range todo {
		start, again := q.plan(now, m.runner.MaxSessions(q))
		for range start {
			sessions.Go(func() { m.session(ctx, q) })
		}
		if !again.IsZero() {
			m.mu.Lock()
			m.wakeAt(q, again)
			m.mu.Unlock()
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.timers) == 0 {
		return time.Time{}
	}
	return m.timers[0].timer
}

func (m *Manager) session(ctx context.Context, q *Queue) {
	m.runner.Run(ctx, q)
	m.mu.Lock()
	if q.ended() {
		m.stop(q) // or the timer would put it in the place of a new queue of the name
		delete(m.queues, q.name)
		delete(m.stale, q.name)
	} else {
		m.stale[q.name] = q
	}
	m.mu.Unlock()
	m.poke()
}

// changed notes that q has something to do at the given time.
func (m *Manager) changed(q *Queue, at time.Time) {
	m.mu.Lock()
	m.queues[q.name] = q
	if at.After(time.Now()) {
		m.wakeAt(q, at)
	} else {
		m.stale[q.name] = q
	}
	m.mu.Unlock()
	m.poke()
}

// wakeAt makes Run look at q at the given time or before. The caller holds m.mu.
func (m *Manager) wakeAt(q *Queue, at time.Time) {
	switch {
	case q.timer.IsZero():
		q.timer = at
		heap.Push(&m.timers, q)
	case at.Before(q.timer):
		q.timer = at
		heap.Fix(&m.timers, q.timerPlace)
	default: // it is looked at before, and then plan tells the next time
	}
}

// stop takes q out of the timers. The caller holds m.mu.
func (m *Manager) stop(q *Queue) {
	if !q.timer.IsZero() {
		heap.Remove(&m.timers, q.timerPlace)
		q.timer = time.Time{}
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // a wake-up is under way
	}
}

// Statuses returns the state of every queue, ordered by name.
func (m *Manager) Statuses() []Status {
	m.mu.Lock()
	queues := make([]*Queue, 0, len(m.queues))
	for _, q := range m.queues {
		queues = append(queues, q)
	}
	m.mu.Unlock()
	now := time.Now()
	statuses := make([]Status, 0, len(queues))
	for _, q := range queues {
		statuses = append(statuses, q.Status(now))
	}
	slices.SortFunc(statuses, func(a, b Status) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	return statuses
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
