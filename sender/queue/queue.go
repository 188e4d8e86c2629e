// Package queue holds what waits to be delivered: one Queue for each recipient domain (or rollup)
// and virtual MTA, and a Manager that starts sessions for the queues that have due mail.
//
// A queue keeps references to messages in the spool, never their content. Due retries go before
// new mail of the same priority, the oldest first; within new mail the order is that of arrival.
// What a session does is not known here: the Manager starts a Runner, which takes items with Next
// and gives back what stays with Retry. Nothing here is durable: the spool and the event log are,
// and the node fills the queues from them when it starts.
//
// Queues are spread over shards, each with one goroutine that looks at its queues when something
// has changed. Where sessions are short, on the node or in a group of queues (a virtual MTA), they
// go round by weighted fair service (slots.go): a queue with a million messages gets its share and
// no more, and a queue that waits for a time has no session at all.
//
// All methods are safe for concurrent use. No lock is held while a Runner runs.
package queue

import (
	"container/heap"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
)

// Name identifies a queue: the recipient domain (lower case), the name of queue-to or of a rollup,
// and the virtual MTA. It is the unit of PowerMTA's per-domain limits.
type Name struct {
	Domain, VMTA string
}

// String returns the name as PowerMTA writes it, "domain/vmta".
func (n Name) String() string { return n.Domain + "/" + n.VMTA }

// Mode is PowerMTA's queue mode.
type Mode uint8

// The modes of a queue.
const (
	Normal Mode = iota
	Backoff
)

// String returns the mode as PowerMTA writes it.
func (m Mode) String() string {
	if m == Backoff {
		return "backoff"
	}
	return "normal"
}

// Queue is the mail for one domain by one virtual MTA.
type Queue struct {
	name  Name
	text  string // the name
	shard *shard

	// Memo is for the Runner: what it worked out about the queue. It lives as long as the queue and
	// is not touched here.
	Memo atomic.Value

	served atomic.Int64 // items taken, for the fair share
	share  share        // guarded by the slots

	mu         sync.Mutex
	fresh      fresh     // new mail
	retries    retryHeap // what was tried, or waits for a time
	held       []*Item   // that holds keep back
	parked     []*Item   // that the Runner keeps back
	holds      []Hold    // that match the name
	paused     bool      // one of holds is for the whole queue
	recipients int
	policy     Policy // when the manager looked last
	sessions   int
	starting   int             // sessions that have not taken an item yet
	running    []*running      // sessions, to interrupt them
	waiters    []chan struct{} // idle sessions, the last the one that came last

	deferredUntil time.Time // no session starts before it
	deferredWhy   string
	failures      int       // failed attempts of the whole queue in a row
	retryAt       time.Time // when the wait for the last of them ends
	mode          Mode
	modeUntil     time.Time // backoff ends then, unless zero
	modeWhy       string
	gone          bool // forgotten by the manager: mail goes into a new queue of the name

	// Guarded by shard.mu.
	stale      bool
	timer      time.Time // when the shard looks at the queue, zero for not
	timerPlace int       // in shard.timers while timer is set
}

// Name returns the name of q.
func (q *Queue) Name() Name { return q.name }

// String returns the name as PowerMTA writes it.
func (q *Queue) String() string { return q.text }

// Next takes the next item that is due at now: a due retry or new mail, whichever has the higher
// priority, of equal ones the retry. It returns false when nothing is due and when the queue is
// paused. That the queue waits keeps new sessions from starting, not those that run from going on.
func (q *Queue) Next(now time.Time) (*Item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.starting > 0 {
		q.starting--
	}
	if q.paused {
		return nil, false
	}
	due := len(q.retries) > 0 && q.retries[0].Due <= At(now)
	if due && (q.fresh.count == 0 || q.retries[0].Priority >= q.fresh.levels[0].priority) {
		return q.took(heap.Pop(&q.retries).(*Item)), true //nolint:errcheck,forcetypeassert // the heap holds nothing else
	}
	if item := q.fresh.next(); item != nil {
		return q.took(item), true
	}
	return nil, false
}

// NextAny takes an item whether it is due or not, held or not: for what ends all mail of a queue, or
// moves it. Such mail is not served, and costs the queue nothing of its share.
func (q *Queue) NextAny() (*Item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	item := q.fresh.next()
	switch n := len(q.held); {
	case item != nil:
	case len(q.retries) > 0:
		item = heap.Pop(&q.retries).(*Item) //nolint:errcheck,forcetypeassert // the heap holds nothing else
	case n > 0:
		item = q.held[n-1]
		q.held[n-1] = nil
		q.held = q.held[:n-1]
	case len(q.parked) > 0:
		last := len(q.parked) - 1
		item = q.parked[last]
		q.parked[last] = nil
		q.parked = q.parked[:last]
	default:
		return nil, false
	}
	item.Parked = false
	q.recipients -= len(item.Recipients)
	return item, true
}

// TakeSurplus takes out the new mail that stands behind what goes first at now: due retries, and new mail
// up to so many recipients together. It is for what goes another way because it would wait too long. What is
// held, paused or has been tried stays, and of several that ask at once each sees what the others left.
func (q *Queue) TakeSurplus(keep int, now time.Time) []*Item {
	q.mu.Lock()
	var taken []*Item
	if !q.paused {
		taken = q.fresh.beyond(keep - q.retries.due(At(now), 0, keep))
	}
	q.mu.Unlock()
	recipients := 0
	for _, item := range taken { // there may be a million
		recipients += len(item.Recipients)
	}
	q.mu.Lock()
	q.recipients -= recipients
	q.mu.Unlock()
	return taken
}

// took counts an item that leaves. The caller holds q.mu.
func (q *Queue) took(item *Item) *Item {
	q.recipients -= len(item.Recipients)
	q.served.Add(1)
	return item
}

// Retry puts an item back that a session took. With a zero due time it is due at once, before
// everything else of its priority.
func (q *Queue) Retry(item *Item, due time.Time) {
	item.Due = At(due)
	q.mu.Lock()
	q.place(item, true)
	q.mu.Unlock()
	if due.IsZero() {
		due = clock.Now()
	}
	q.shard.changed(q, due)
}

// place puts an item where it belongs. The caller holds q.mu.
func (q *Queue) place(item *Item, tried bool) {
	q.recipients += len(item.Recipients)
	switch {
	case q.isHeld(item):
		q.held = append(q.held, item)
	case tried || item.Due != 0:
		heap.Push(&q.retries, item)
	default:
		q.fresh.add(item)
	}
}

func (q *Queue) isHeld(item *Item) bool {
	for i := range q.holds {
		if f := &q.holds[i].Filter; !f.WholeQueues() && f.MatchItem(item) {
			return true
		}
	}
	return false
}

// Defer keeps sessions from starting before until, for a reason that concerns the whole queue; why
// says it to operators. A longer wait that is on already stays.
func (q *Queue) Defer(until time.Time, why string) {
	q.mu.Lock()
	if until.After(q.deferredUntil) {
		q.deferredUntil, q.deferredWhy = until, why
	}
	until = q.deferredUntil
	q.mu.Unlock()
	q.shard.changed(q, until)
}

// Failed notes a failed attempt of the whole queue and lets it wait: for the first of waits, after
// the second failure in a row for the second, and so on; the last one repeats (PowerMTA's
// retry-after). What fails while that wait is on, in sessions that were under way, is the same
// failure. If forget is not 0, a failure that long after the end of the last wait is the first again.
func (q *Queue) Failed(waits []time.Duration, forget time.Duration) {
	q.mu.Lock()
	now := clock.Now()
	if q.retryAt.After(now) {
		q.mu.Unlock()
		return
	}
	if forget > 0 && !q.retryAt.IsZero() && now.Sub(q.retryAt) >= forget {
		q.failures = 0
	}
	q.failures++
	q.retryAt = now.Add(waits[min(q.failures, len(waits))-1])
	until := q.waitsUntil()
	q.mu.Unlock()
	q.shard.changed(q, until)
}

// Succeeded notes that a message was delivered: the next failure is the first in a row again.
func (q *Queue) Succeeded() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures = 0
}

// waitsUntil returns when sessions may start. The caller holds q.mu.
func (q *Queue) waitsUntil() time.Time {
	if q.retryAt.After(q.deferredUntil) {
		return q.retryAt
	}
	return q.deferredUntil
}

// Schedule ends every wait: the queue is tried now, and with retries so are recipients that wait for
// a time of their own.
func (q *Queue) Schedule(retries bool) {
	q.mu.Lock()
	q.deferredUntil, q.retryAt = time.Time{}, time.Time{}
	if retries {
		for _, item := range q.retries {
			item.Due = 0
		}
		heap.Init(&q.retries)
	}
	q.mu.Unlock()
	q.shard.changed(q, clock.Now())
}

// Mode returns the mode of q at now.
func (q *Queue) Mode(now time.Time) Mode {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.modeAt(now)
}

func (q *Queue) modeAt(now time.Time) Mode {
	if q.mode == Backoff && !q.modeUntil.IsZero() && !now.Before(q.modeUntil) {
		q.mode, q.modeWhy = Normal, "backoff-to-normal-after has passed"
	}
	return q.mode
}

// EnterBackoff puts q into backoff mode until the given time, for good if that is zero, and reports
// whether it was in normal mode.
func (q *Queue) EnterBackoff(why string, until time.Time) bool {
	q.mu.Lock()
	entered := q.modeAt(clock.Now()) == Normal
	q.mode, q.modeWhy, q.modeUntil = Backoff, why, until
	q.mu.Unlock()
	q.shard.changed(q, clock.Now())
	return entered
}

// LeaveBackoff puts q into normal mode and reports whether it was in backoff mode.
func (q *Queue) LeaveBackoff(why string) bool {
	q.mu.Lock()
	left := q.modeAt(clock.Now()) == Backoff
	if left {
		q.mode, q.modeWhy, q.modeUntil = Normal, why, time.Time{}
	}
	q.mu.Unlock()
	q.shard.changed(q, clock.Now())
	return left
}

// MoveTo puts all waiting mail of q into another queue and returns the number of recipients moved.
func (q *Queue) MoveTo(to Name) int {
	if to == q.name {
		return 0
	}
	moved := 0
	for {
		item, ok := q.NextAny()
		if !ok {
			q.shard.changed(q, clock.Now())
			return moved
		}
		moved += len(item.Recipients)
		q.shard.manager.Add(to, item)
	}
}

// Await waits until something may be due and reports whether that is so. It returns false after d,
// when ctx is done, and when another queue needs the session. A session that keeps its connection
// for more mail waits here.
func (q *Queue) Await(ctx context.Context, d time.Duration) bool {
	q.mu.Lock()
	if q.ready() {
		q.mu.Unlock()
		return true
	}
	wake := make(chan struct{}, 1)
	q.waiters = append(q.waiters, wake)
	q.rest()
	needed := q.shard.manager.slots.needed(q) // after rest, or makeRoom might look in between
	q.mu.Unlock()
	if !needed {
		timer := clock.NewTimer(d)
		defer timer.Stop()
		select {
		case <-wake:
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.ready()
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiters = slices.DeleteFunc(q.waiters, func(w chan struct{}) bool { return w == wake })
	q.rest()
	return q.ready() && ctx.Err() == nil
}

// ready reports whether something can be taken now. The caller holds q.mu.
func (q *Queue) ready() bool { return !q.paused && q.due(At(clock.Now()), 1) > 0 }

// rest tells the slots whether q has idle sessions. The caller holds q.mu.
func (q *Queue) rest() { q.shard.manager.slots.rest(q, len(q.waiters) > 0) }

// wakeIdle wakes at most n idle sessions, those first that came last, and returns how many. The
// caller holds q.mu.
func (q *Queue) wakeIdle(n int) int {
	n = min(n, len(q.waiters))
	for range n {
		last := len(q.waiters) - 1
		q.waiters[last] <- struct{}{} // has room for the one
		q.waiters[last] = nil
		q.waiters = q.waiters[:last]
	}
	if n > 0 {
		q.rest()
	}
	return n
}

// ShouldYield reports whether a session of q should end before its next message: q has more of them
// than it may, or another queue waits for one that has a better right to it.
func (q *Queue) ShouldYield() bool {
	q.mu.Lock()
	surplus := q.policy.MaxSessions > 0 && q.sessions > q.policy.MaxSessions
	q.mu.Unlock()
	return surplus || q.shard.manager.slots.shouldYield(q)
}

// Recipients returns the number of recipients that wait, those in an attempt not counted.
func (q *Queue) Recipients() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.recipients
}

// Status is what a queue looks like at one moment.
type Status struct {
	Name          Name
	Recipients    int // that wait, those in an attempt not counted
	Held          int // items of them that a hold keeps back, or that are parked
	Due           int // items that could be tried now
	Sessions      int
	Mode          Mode
	ModeWhy       string
	ModeUntil     time.Time // of backoff; zero: until something ends it
	Paused        bool
	DeferredUntil time.Time // no session starts before it
	DeferredWhy   string
	Failures      int // of the whole queue in a row
	WaitsForSlot  bool
	OldestArrival time.Time
}

// Status returns the state of q at now.
func (q *Queue) Status(now time.Time) Status {
	waits := q.shard.manager.slots.waits(q)
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.state(now)
	s.WaitsForSlot, s.Due = waits, q.due(At(now), math.MaxInt)
	oldest := q.fresh.oldest()
	for _, list := range [][]*Item{q.retries, q.held, q.parked} {
		for _, item := range list {
			if oldest == 0 || item.Arrived < oldest {
				oldest = item.Arrived
			}
		}
	}
	s.OldestArrival = oldest.Time()
	return s
}

// state returns what is known of q at now without looking at items: all but Due, WaitsForSlot and
// OldestArrival. The caller holds q.mu.
func (q *Queue) state(now time.Time) Status {
	s := Status{
		Name: q.name, Recipients: q.recipients, Held: len(q.held) + len(q.parked), Sessions: q.sessions,
		Mode: q.modeAt(now), ModeWhy: q.modeWhy, ModeUntil: q.modeUntil, Paused: q.paused, Failures: q.failures,
	}
	if until := q.waitsUntil(); until.After(now) {
		s.DeferredUntil, s.DeferredWhy = until, q.deferredWhy
		if until.Equal(q.retryAt) {
			s.DeferredWhy = "retry"
		}
	}
	return s
}

// due returns how many items could be tried at now, at most limit. The caller holds q.mu.
func (q *Queue) due(now Moment, limit int) int {
	if q.fresh.count >= limit {
		return limit
	}
	return q.fresh.count + q.retries.due(now, 0, limit-q.fresh.count)
}

// setHolds puts holds in force that match the name of q.
func (q *Queue) setHolds(holds []Hold) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holds, q.paused = nil, false
	for _, h := range holds {
		if h.Filter.MatchQueue(q.name) {
			q.holds = append(q.holds, h)
			q.paused = q.paused || h.Filter.WholeQueues()
		}
	}
	released := q.held
	q.held = nil
	for _, item := range released {
		q.recipients -= len(item.Recipients) // place counts them again
		q.place(item, item.Attempts > 0 || item.Due != 0)
	}
	if len(q.holds) == 0 {
		return
	}
	q.held = append(q.held, q.fresh.remove(q.isHeld, math.MaxInt)...)
	q.held = append(q.held, q.retries.remove(q.isHeld, math.MaxInt)...)
}

// take removes items that f selects, at most limit.
func (q *Queue) take(f *Filter, limit int) []*Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := q.fresh.remove(f.MatchItem, limit)
	taken = append(taken, q.retries.remove(f.MatchItem, limit-len(taken))...)
	for _, list := range []*[]*Item{&q.held, &q.parked} {
		kept := (*list)[:0]
		for _, item := range *list {
			if len(taken) < limit && f.MatchItem(item) {
				taken = append(taken, item)
			} else {
				kept = append(kept, item)
			}
		}
		clear((*list)[len(kept):])
		*list = kept
	}
	for _, item := range taken {
		item.Parked = false
		q.recipients -= len(item.Recipients)
	}
	return taken
}

// forgettable reports whether q holds nothing that a new queue of its name would not have, now or at
// the returned time (zero: not by time alone). The caller holds q.mu.
func (q *Queue) forgettable(now time.Time) (bool, time.Time) {
	if q.sessions > 0 || q.fresh.count+len(q.retries)+len(q.held)+len(q.parked) > 0 {
		return false, time.Time{}
	}
	until := q.waitsUntil()
	if q.modeAt(now) == Backoff {
		if q.modeUntil.IsZero() {
			return false, time.Time{}
		}
		if q.modeUntil.After(until) {
			until = q.modeUntil
		}
	}
	return !until.After(now), until
}
