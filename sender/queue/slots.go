package queue

import (
	"container/heap"
	"math"
	"sync"
	"sync/atomic"
)

// quantum is how many messages a session is good for when shares are compared, so that queues do
// not take a connection from each other for every message.
const quantum = 50

// slots hands out sessions where they are short: by start-time fair queueing (Goyal, Vin and Cheng,
// 1996). Each queue has a virtual time that grows with the messages that it was served, divided by
// its weight; of those that wait the one with the least goes first. A queue that was idle begins at
// the virtual time of those that were not, so that nobody saves up.
type slots struct {
	waiting atomic.Int32 // queues in any line

	mu       sync.Mutex
	node     pool
	groups   map[string]*pool
	virtual  float64
	idle     map[*Queue]bool // with sessions in Await
	cuttable map[*Queue]bool // with sessions that may be interrupted in a transfer
}

// pool is a number of sessions that queues share.
type pool struct {
	max, used int // max 0 means no limit
	line      line
}

func (p *pool) room() bool { return p.max <= 0 || p.used < p.max }

// share is what slots know of a queue.
type share struct {
	virtual  float64
	counted  int64 // of Queue.served
	since    int64 // Queue.served when it last took a session
	weight   float64
	priority int
	yields   bool // to a higher priority, between two messages
	cuttable bool // and in a transfer
	sessions int
	granted  int // sessions that were handed out and not begun
	group    *pool
	waitsIn  *pool
	place    int // in waitsIn.line
}

// weight returns the share of a queue-priority. Ten points more are about 2.6 times the share: strong
// enough to go before the others, too little to starve them.
func weight(priority int) float64 { return math.Pow(1.1, float64(priority-50)) }

// acquire takes a session for q, or puts q into the line for one.
func (s *slots) acquire(q *Queue, p Policy) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &q.share
	s.settle(q)
	if h.sessions == 0 && h.waitsIn == nil {
		h.virtual = max(h.virtual, s.virtual)
	}
	h.weight, h.priority, h.yields, h.cuttable = weight(p.Priority), p.Priority, p.Interruptible, p.InterruptibleInTransfer
	s.join(q, p)
	s.fix(q)
	switch {
	case h.waitsIn != nil:
		return false
	case h.group != nil && !h.group.room():
		s.wait(q, h.group)
		return false
	case !s.node.room():
		s.wait(q, &s.node)
		return false
	}
	s.take(q)
	return true
}

// join notes the group of q, which changes only while q has no session.
func (s *slots) join(q *Queue, p Policy) {
	h := &q.share
	if h.sessions > 0 || h.granted > 0 || h.waitsIn != nil {
		if h.group != nil {
			h.group.max = p.GroupMax
		}
		return
	}
	h.group = nil
	if p.Group == "" || p.GroupMax <= 0 {
		return
	}
	if s.groups == nil {
		s.groups = map[string]*pool{}
	}
	if h.group = s.groups[p.Group]; h.group == nil {
		h.group = &pool{}
		s.groups[p.Group] = h.group
	}
	h.group.max = p.GroupMax
}

func (s *slots) take(q *Queue) {
	h := &q.share
	h.sessions++
	h.since = q.served.Load()
	s.node.used++
	if h.group != nil {
		h.group.used++
	}
	s.virtual = max(s.virtual, h.virtual)
	if h.cuttable {
		s.cuttable[q] = true
	}
}

func (s *slots) wait(q *Queue, in *pool) {
	q.share.waitsIn = in
	heap.Push(&in.line, q)
	s.waiting.Add(1)
}

// leave takes q out of its line.
func (s *slots) leave(q *Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(q)
}

func (s *slots) remove(q *Queue) {
	if in := q.share.waitsIn; in != nil {
		heap.Remove(&in.line, q.share.place)
		q.share.waitsIn = nil
		s.waiting.Add(-1)
	}
}

// takeGranted returns how many sessions q was given from a line.
func (s *slots) takeGranted(q *Queue) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := q.share.granted
	q.share.granted = 0
	return n
}

// release gives a session of q back and returns the queues that got one.
func (s *slots) release(q *Queue) (granted []*Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &q.share
	s.settle(q)
	if h.sessions--; h.sessions == 0 {
		delete(s.cuttable, q)
	}
	s.fix(q)
	s.node.used--
	if h.group != nil {
		h.group.used--
		for h.group.room() && len(h.group.line) > 0 {
			next := h.group.line[0]
			s.remove(next)
			if s.node.room() {
				granted = append(granted, s.grant(next))
			} else {
				s.wait(next, &s.node)
			}
		}
	}
	for s.node.room() && len(s.node.line) > 0 {
		next := s.node.line[0]
		s.remove(next)
		if g := next.share.group; g != nil && !g.room() {
			s.wait(next, g)
			continue
		}
		granted = append(granted, s.grant(next))
	}
	return granted
}

func (s *slots) grant(q *Queue) *Queue {
	s.take(q)
	q.share.granted++
	return q
}

// settle brings the virtual time of q up to what it was served.
func (s *slots) settle(q *Queue) {
	h := &q.share
	served := q.served.Load()
	if h.weight > 0 {
		h.virtual += float64(served-h.counted) / h.weight
	}
	h.counted = served
	s.fix(q)
}

// fix puts q in its place in line after what orders it has changed.
func (s *slots) fix(q *Queue) {
	if in := q.share.waitsIn; in != nil {
		heap.Fix(&in.line, q.share.place)
	}
}

// rest notes that q has a session without work, or that it has none any more.
func (s *slots) rest(q *Queue, resting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if resting {
		s.idle[q] = true
	} else {
		delete(s.idle, q)
	}
}

// victims returns the queues that have idle sessions, which should end now that q waits for one, and
// a queue of lower priority whose transfer may be interrupted for q, nil if there is none.
func (s *slots) victims(q *Queue) (idle []*Queue, transfer *Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := q.share.waitsIn
	helps := func(other *Queue) bool { return other != q && in != nil && (in == &s.node || in == other.share.group) }
	for other := range s.idle {
		if helps(other) {
			idle = append(idle, other)
		}
	}
	for other := range s.cuttable {
		if helps(other) && other.share.priority < q.share.priority && (transfer == nil || other.share.priority < transfer.share.priority) {
			transfer = other
		}
	}
	return idle, transfer
}

// tag is the virtual time of q when its sessions have served their quantum.
func (h *share) tag(sessions int) float64 { return h.virtual + quantum*float64(sessions)/h.weight }

// shouldYield reports whether a queue in line has a better right to a session than q: by a higher
// priority, or by its share. A queue that was given a session serves a message before it yields, or
// two could hand one to and fro.
func (s *slots) shouldYield(q *Queue) bool {
	if s.waiting.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(q)
	h := &q.share
	if h.counted <= h.since {
		return false
	}
	for _, p := range [2]*pool{h.group, &s.node} {
		if p == nil || len(p.line) == 0 {
			continue
		}
		first := &p.line[0].share
		if first.priority > h.priority && h.yields || h.tag(h.sessions-1) > first.tag(first.sessions)+quantum/h.weight {
			return true
		}
	}
	return false
}

// needed reports whether a queue waits for a session that q could give.
func (s *slots) needed(q *Queue) bool {
	if s.waiting.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.node.line) > 0 || q.share.group != nil && len(q.share.group.line) > 0
}

// waits reports whether q is in a line.
func (s *slots) waits(q *Queue) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.share.waitsIn != nil
}

// knows reports whether q has a session that is not given back, or waits for one. Of a queue that is
// gone nobody would take what it is given.
func (s *slots) knows(q *Queue) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.share.sessions > 0 || q.share.waitsIn != nil
}

// line orders the queues that wait for a session by their virtual times; each is in one line once.
type line []*Queue

func (l line) Len() int { return len(l) }

func (l line) Less(i, j int) bool {
	return l[i].share.tag(l[i].share.sessions) < l[j].share.tag(l[j].share.sessions)
}

func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].share.place, l[j].share.place = i, j
}

// Push adds x; part of heap.Interface.
func (l *line) Push(x any) {
	q := x.(*Queue) //nolint:errcheck,forcetypeassert // only queues are pushed
	q.share.place = len(*l)
	*l = append(*l, q)
}

// Pop removes the last queue; part of heap.Interface.
func (l *line) Pop() any {
	old := *l
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*l = old[:len(old)-1]
	return q
}
