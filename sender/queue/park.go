package queue

import (
	"container/heap"
	"time"
	"unique"
)

// Park keeps an item back that a session took: it is not due, whatever the time, until Unpark, or until
// Sweep finds that its time is over. A hold of an operator comes first.
func (q *Queue) Park(item *Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.isHeld(item) {
		q.place(item, true)
		return
	}
	item.Parked = true
	q.recipients += len(item.Recipients)
	q.parked = append(q.parked, item)
}

// Unpark makes all parked items due again, each as it was before.
func (m *Manager) Unpark() {
	for _, q := range m.all(nil) {
		q.Unpark()
	}
}

// Unpark makes the queue's parked items due again, each as it was before.
func (q *Queue) Unpark() {
	if q.unpark(func(*Item) bool { return true }, false) {
		q.shard.changed(q, time.Time{})
	}
}

// Sweep calls visit for every parked item, and lets sessions finish those that have expired by now:
// their Parked stays set. It must not keep what it is given.
func (m *Manager) Sweep(now time.Time, visit func(Name, *Item)) {
	at := At(now)
	for _, q := range m.all(nil) {
		over := q.unpark(func(item *Item) bool {
			visit(q.name, item)
			return item.Expires <= at
		}, true)
		if over {
			q.shard.changed(q, time.Time{})
		}
	}
}

// unpark puts the parked items that match says back among the others and reports whether there were
// any. With expired they keep their mark.
func (q *Queue) unpark(match func(*Item) bool, expired bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept := q.parked[:0]
	n := len(q.parked)
	for _, item := range q.parked {
		if !match(item) {
			kept = append(kept, item)
			continue
		}
		item.Parked = expired
		q.recipients -= len(item.Recipients) // place counts them again
		q.place(item, expired || item.Attempts > 0 || item.Due != 0)
	}
	clear(q.parked[len(kept):])
	q.parked = kept
	return len(kept) < n
}

// lookahead is how many items NextOf looks at for one of the tenant.
const lookahead = 1000

// NextOf is Next, but of what is due it takes mail of the tenant first where it finds some soon: the
// first due retry, else the first new mail.
func (q *Queue) NextOf(tenant string, now time.Time) (*Item, bool) {
	q.mu.Lock()
	if item := q.firstOf(tenant, At(now)); item != nil {
		if q.starting > 0 {
			q.starting--
		}
		defer q.mu.Unlock()
		return q.took(item), true
	}
	q.mu.Unlock()
	return q.Next(now)
}

// firstOf takes an item of the tenant out, nil if it sees none. The caller holds q.mu.
func (q *Queue) firstOf(tenant string, now Moment) *Item {
	if q.paused {
		return nil
	}
	best := -1
	for i, item := range q.retries[:min(len(q.retries), lookahead)] {
		if item.Due <= now && isOf(item, tenant) && (best < 0 || q.retries.Less(i, best)) {
			best = i
		}
	}
	if best >= 0 {
		return heap.Remove(&q.retries, best).(*Item) //nolint:errcheck,forcetypeassert // the heap holds nothing else
	}
	return q.fresh.first(lookahead, func(item *Item) bool { return isOf(item, tenant) })
}

func isOf(item *Item, tenant string) bool {
	return item.Labels != (unique.Handle[Labels]{}) && item.Labels.Value().Tenant == tenant
}
