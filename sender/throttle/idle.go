package throttle

import (
	"time"

	"carom/schemas/limits"
)

// idleTime is how long a key or a queue is remembered that nobody sends to.
const idleTime = 10 * time.Minute

// queueList holds queues in the order of their last use, so that the idle ones are found without
// looking at the others.
type queueList struct{ newest, oldest *queueState }

func (l *queueList) remove(q *queueState) {
	if q.newer == nil {
		l.newest = q.older
	} else {
		q.newer.older = q.older
	}
	if q.older == nil {
		l.oldest = q.newer
	} else {
		q.older.newer = q.newer
	}
	q.older, q.newer = nil, nil
}

func (l *queueList) add(q *queueState) {
	q.older, q.newer = l.newest, nil
	if l.newest == nil {
		l.oldest = q
	} else {
		l.newest.newer = q
	}
	l.newest = q
}

// queue returns the state of a queue, new if need be. The caller holds t.mu.
func (t *Throttle) queue(name string, now time.Duration) *queueState {
	q := t.queues[name]
	if q == nil {
		q = &queueState{name: name}
		t.queues[name] = q
		t.recent.add(q)
	} else if t.recent.newest != q {
		t.recent.remove(q)
		t.recent.add(q)
	}
	q.used = now
	return q
}

// forgetQueues drops queues that are idle and would come back the same. The others of their age are
// looked at again later. The caller holds t.mu.
func (t *Throttle) forgetQueues(now time.Duration) {
	for q := t.recent.oldest; q != nil && now-q.used > idleTime; q = t.recent.oldest {
		t.recent.remove(q)
		if q.settled(now) {
			delete(t.queues, q.name)
			continue
		}
		q.used = now
		t.recent.add(q)
	}
}

func (q *queueState) settled(now time.Duration) bool {
	if q.open > 0 || !q.messages.idle(now) || !q.data.idle(now) || q.connects != nil && !q.connects.settled(now) {
		return false
	}
	for _, s := range q.sources {
		if !s.messages.idle(now) || !s.data.idle(now) || s.connects != nil && !s.connects.settled(now) {
			return false
		}
	}
	return true
}

// idle reports whether nothing is lost when the meter is forgotten.
func (m *meter) idle(now time.Duration) bool { return m == nil || m.first == nil && m.settled(now) }

// forgetKey drops a key that is idle, under no lease, and that the guard leaves alone. The caller
// holds t.mu.
func (t *Throttle) forgetKey(now time.Duration, key limits.Key, k *keyState) bool {
	_, leased := t.leases[key]
	if now-k.used <= idleTime || k.connections > 0 || k.waiting > 0 || leased || k.guard.Factor(now) < 1 {
		return false
	}
	delete(t.keys, key)
	return true
}
