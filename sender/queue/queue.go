// Package queue holds what waits to be delivered: one Queue for each recipient domain and
// virtual MTA, and a Manager that starts sessions for the queues that have due mail.
//
// A queue keeps references to messages in the spool, never their content. Due retries go before
// new mail, the oldest first; within new mail the order is that of arrival. What a session does
// is not known here: the Manager starts a Runner, which takes items with Next and gives back what
// stays with Retry. Nothing here is durable: the spool and the event log are, and the node fills
// the queues from them when it starts.
//
// All methods are safe for concurrent use. No lock is held while a Runner runs.
package queue

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/event"
)

// Name identifies a queue: the recipient domain (lower case) and the virtual MTA. It is the unit
// of PowerMTA's per-domain limits.
type Name struct {
	Domain, VMTA string
}

// String returns the name as PowerMTA writes it, "domain/vmta".
func (n Name) String() string { return n.Domain + "/" + n.VMTA }

// Item is the part of one message that waits in one queue: recipients that are due together.
type Item struct {
	Message    event.ID
	Recipients []uint32 // indexes of the recipients in the message's envelope
	Attempts   uint32   // that were made for these recipients
	Arrived    time.Time
	Expires    time.Time
	Due        time.Time // zero for new mail
}

// Queue is the mail for one domain by one virtual MTA.
type Queue struct {
	name    Name
	manager *Manager

	// Memo is for the Runner: what it worked out about the queue. It lives as long as the queue and
	// is not touched here.
	Memo atomic.Value

	mu            sync.Mutex
	fresh         []*Item // new mail in order of arrival; fresh[0] is next
	retries       retryHeap
	recipients    int
	sessions      int
	deferredUntil time.Time // no session starts before it
	failures      int       // failed attempts of the whole queue in a row
	retryAt       time.Time // when the wait for the last of them ends

	wake chan struct{} // closed when something is due while sessions are there; nil without a waiter

	timer      time.Time // when the manager looks at the queue, zero for not; guarded by manager.mu
	timerPlace int       // in manager.timers while timer is set; guarded by manager.mu
}

// Name returns the name of q.
func (q *Queue) Name() Name { return q.name }

// Next takes the next item that is due at now: a due retry, else new mail. It returns false when
// nothing is due.
func (q *Queue) Next(now time.Time) (*Item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var item *Item
	switch {
	case len(q.retries) > 0 && !q.retries[0].Due.After(now):
		item = heap.Pop(&q.retries).(*Item) //nolint:errcheck // the heap holds nothing else
	case len(q.fresh) > 0:
		item = q.fresh[0]
		q.fresh[0] = nil
		q.fresh = q.fresh[1:]
	default:
		return nil, false
	}
	q.recipients -= len(item.Recipients)
	return item, true
}

// Retry puts an item back that a session took. With a zero due time it is due at once, before
// everything else.
func (q *Queue) Retry(item *Item, due time.Time) {
	item.Due = due
	q.mu.Lock()
	heap.Push(&q.retries, item)
	q.recipients += len(item.Recipients)
	q.mu.Unlock()
	q.manager.changed(q, due)
}

// Defer keeps sessions from starting before until, for a reason that concerns the whole queue. A
// longer wait that is on already stays.
func (q *Queue) Defer(until time.Time) {
	q.mu.Lock()
	if q.deferredUntil.After(until) {
		until = q.deferredUntil
	}
	q.deferredUntil = until
	q.mu.Unlock()
	q.manager.changed(q, until)
}

// Failed notes a failed attempt of the whole queue and defers it: by the first of waits, after the
// second failure in a row by the second, and so on; the last one repeats (PowerMTA's retry-after).
// What fails while that wait is on, in sessions that were under way, is the same failure.
func (q *Queue) Failed(waits []time.Duration) {
	q.mu.Lock()
	now := time.Now()
	if q.retryAt.After(now) {
		q.mu.Unlock()
		return
	}
	q.failures++
	q.retryAt = now.Add(waits[min(q.failures, len(waits))-1])
	until := q.retryAt
	q.mu.Unlock()
	q.Defer(until)
}

// Succeeded notes that a message was delivered: the next failure is the first in a row again.
func (q *Queue) Succeeded() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures = 0
}

// Await waits until something may be due, at most d. A session that keeps its connection for more
// mail waits here.
func (q *Queue) Await(ctx context.Context, d time.Duration) {
	q.mu.Lock()
	if q.due(time.Now(), 1) > 0 {
		q.mu.Unlock()
		return
	}
	if q.wake == nil {
		q.wake = make(chan struct{})
	}
	wake := q.wake
	q.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Status is what a queue looks like at one moment.
type Status struct {
	Name          Name
	Recipients    int // that wait, those in an attempt not counted
	Due           int // items that could be tried now
	Sessions      int
	DeferredUntil time.Time
	OldestArrival time.Time
}

// Status returns the state of q at now.
func (q *Queue) Status(now time.Time) Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{Name: q.name, Recipients: q.recipients, Sessions: q.sessions, Due: q.due(now, math.MaxInt)}
	if q.deferredUntil.After(now) {
		s.DeferredUntil = q.deferredUntil
	}
	if len(q.fresh) > 0 {
		s.OldestArrival = q.fresh[0].Arrived
	}
	for _, item := range q.retries {
		if s.OldestArrival.IsZero() || item.Arrived.Before(s.OldestArrival) {
			s.OldestArrival = item.Arrived
		}
	}
	return s
}

// due returns how many items could be tried at now, at most limit. The caller holds q.mu.
func (q *Queue) due(now time.Time, limit int) int {
	if len(q.fresh) >= limit {
		return limit
	}
	return len(q.fresh) + q.retries.due(now, 0, limit-len(q.fresh))
}

// plan returns how many sessions may be started at now, at most limit in all, and when to look
// again if nothing is due (zero: only when something changes). It counts the sessions as started.
func (q *Queue) plan(now time.Time, limit int) (start int, again time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deferredUntil.After(now) {
		if len(q.fresh)+len(q.retries) > 0 {
			again = q.deferredUntil
		}
		return 0, again
	}
	due := q.due(now, limit)
	if due > 0 && q.wake != nil {
		close(q.wake)
		q.wake = nil
	}
	start = max(0, due-q.sessions)
	q.sessions += start
	if len(q.retries) > 0 && q.retries[0].Due.After(now) {
		again = q.retries[0].Due
	}
	return start, again
}

func (q *Queue) add(item *Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if item.Due.IsZero() {
		q.fresh = append(q.fresh, item)
	} else {
		heap.Push(&q.retries, item)
	}
	q.recipients += len(item.Recipients)
}

// ended notes the end of a session and reports whether the queue is empty and idle.
func (q *Queue) ended() (idle bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sessions--
	return q.sessions == 0 && len(q.fresh)+len(q.retries) == 0
}

// retryHeap orders items by the time they are due, then by arrival.
type retryHeap []*Item

func (h retryHeap) Len() int { return len(h) }
func (h retryHeap) Less(i, j int) bool {
	if !h[i].Due.Equal(h[j].Due) {
		return h[i].Due.Before(h[j].Due)
	}
	return h[i].Arrived.Before(h[j].Arrived)
}
func (h retryHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// due counts the items of the subtree at i that are due at now, at most limit: nothing below an
// item that is not due can be due.
func (h retryHeap) due(now time.Time, i, limit int) int {
	if limit <= 0 || i >= len(h) || h[i].Due.After(now) {
		return 0
	}
	n := 1 + h.due(now, 2*i+1, limit-1)
	return n + h.due(now, 2*i+2, limit-n)
}

// Push adds x; part of heap.Interface.
func (h *retryHeap) Push(x any) { *h = append(*h, x.(*Item)) } //nolint:errcheck // only items are pushed

// Pop removes the last item; part of heap.Interface.
func (h *retryHeap) Pop() any {
	old := *h
	item := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return item
}
