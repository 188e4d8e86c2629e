package queue

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
	"unique"

	"carom/schemas/clock"
)

const (
	// sampleLargest is how many items of one of the largest queues are looked at. To look at one takes
	// up to a microsecond (it is seldom in the cache), in which nothing enters or leaves the queue.
	sampleLargest = 1024
	// sampleOthers is the same of the others, of which there may be 100,000.
	sampleOthers = 8
	// maxShares bounds the shares that a queue is divided into.
	maxShares = 10
)

// Share counts recipients that wait, each of them once. Those in an attempt are not counted.
type Share struct {
	Labels  Labels // zero where the share sums several
	Ready   int    // that are due: a limit is in their way, or what Status.DeferredWhy says
	Waiting int    // for a time: that of their next attempt, or the end of their queue's wait after a failed one
	Held    int    // by a hold about some of the queue's mail, or parked
	Paused  int    // by a hold about all of it
	Oldest  Moment // the first arrival; 0 without mail
	// Estimated says that not every item was looked at: how the whole divides is that of an even sample,
	// and Oldest the first arrival in it.
	Estimated bool
}

// Recipients returns how many s counts.
func (s *Share) Recipients() int { return s.Ready + s.Waiting + s.Held + s.Paused }

// Add sums up shares.
func (s *Share) Add(other Share) {
	s.Ready += other.Ready
	s.Waiting += other.Waiting
	s.Held += other.Held
	s.Paused += other.Paused
	s.Estimated = s.Estimated || other.Estimated
	if s.Oldest == 0 || other.Oldest != 0 && other.Oldest < s.Oldest {
		s.Oldest = other.Oldest
	}
}

// Backlog is what waits in one queue.
type Backlog struct {
	Queue  *Queue
	Status Status  // without Due and OldestArrival
	Shares []Share // by tenant and job, the largest first; where there are too many, the last sums the small ones
}

// Backlogs returns what waits in the largest queues, at most so many, the largest first, and in all
// others together, of which there are queues. It takes its time where there are many queues, but keeps
// none of them for long: of a queue with more items than it looks at it returns the exact number of
// recipients, divided as an even sample of them is.
func (m *Manager) Backlogs(largest int) (backlogs []Backlog, others Share, queues int) {
	type sized struct {
		queue      *Queue
		recipients int
	}
	var filled []sized
	for _, q := range m.all(nil) {
		if n := q.Recipients(); n > 0 {
			filled = append(filled, sized{q, n})
		}
	}
	slices.SortFunc(filled, func(a, b sized) int { return cmp.Compare(b.recipients, a.recipients) })
	now := clock.Now()
	for i, f := range filled {
		if i < largest {
			backlogs = append(backlogs, f.queue.backlog(now))
			continue
		}
		var sum Share
		f.queue.tally(now, sampleOthers, func(unique.Handle[Labels]) *Share { return &sum })
		others.Add(sum)
		queues++
	}
	return backlogs, others, queues
}

// Recipients returns the number of recipients that wait in the queue called name, those in an attempt
// not counted.
func (m *Manager) Recipients(name Name) int {
	if q := m.Queue(name); q != nil {
		return q.Recipients()
	}
	return 0
}

func (q *Queue) backlog(now time.Time) Backlog {
	shares := map[unique.Handle[Labels]]*Share{}
	status := q.tally(now, sampleLargest, func(l unique.Handle[Labels]) *Share {
		s := shares[l]
		if s == nil {
			s = &Share{}
			if l != (unique.Handle[Labels]{}) {
				s.Labels = l.Value()
			}
			shares[l] = s
		}
		return s
	})
	status.WaitsForSlot = q.shard.manager.slots.waits(q)
	b := Backlog{Queue: q, Status: status}
	for _, s := range shares {
		b.Shares = append(b.Shares, *s)
	}
	slices.SortFunc(b.Shares, func(x, y Share) int {
		return cmp.Or(cmp.Compare(y.Recipients(), x.Recipients()), cmp.Compare(x.Labels.Tenant, y.Labels.Tenant), cmp.Compare(x.Labels.Job, y.Labels.Job))
	})
	if len(b.Shares) > maxShares {
		var small Share
		for _, s := range b.Shares[maxShares-1:] {
			small.Add(s)
		}
		b.Shares = append(b.Shares[:maxShares-1], small)
	}
	return b
}

// tally counts what waits into the shares that share returns, from a sample of about limit items, or
// from all if there are no more. What it counts adds up to the recipients of q.
func (q *Queue) tally(now time.Time, limit int, share func(unique.Handle[Labels]) *Share) Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	status := q.state(now)
	s := sample{
		now: At(now), paused: q.paused, waits: q.retryAt.After(now), share: share,
		step: (q.fresh.count + len(q.retries) + len(q.held) + len(q.parked) + limit - 1) / limit,
	}
	for _, l := range q.fresh.levels {
		s.count(l.items[l.head:], false)
	}
	s.count(q.retries, false)
	s.count(q.held, true)
	s.count(q.parked, true)
	s.scale(q.recipients)
	return status
}

// sample counts a part of a queue's items.
type sample struct {
	now           Moment
	paused, waits bool
	share         func(unique.Handle[Labels]) *Share
	step          int // one of so many items is looked at, on average
	next          int // of the items that follow
	touched       []*Share
	recipients    int
}

// count looks at items. The gaps between those that it looks at are random: feeders take turns.
func (s *sample) count(items []*Item, held bool) {
	for ; s.next < len(items); s.next += 1 + rand.IntN(2*s.step-1) { //nolint:gosec // no secret
		item, n := items[s.next], len(items[s.next].Recipients)
		one := Share{Oldest: item.Arrived}
		switch {
		case s.paused:
			one.Paused = n
		case held:
			one.Held = n
		case s.waits || item.Due > s.now:
			one.Waiting = n
		default:
			one.Ready = n
		}
		into := s.share(item.Labels)
		if into.Recipients() == 0 {
			s.touched = append(s.touched, into)
		}
		into.Add(one)
		s.recipients += n
	}
	s.next -= len(items)
}

// scale brings what was counted up to the recipients that there are.
func (s *sample) scale(recipients int) {
	if s.step <= 1 || s.recipients == 0 {
		return
	}
	left := recipients
	var largest *int
	for _, share := range s.touched {
		share.Estimated = true
		for _, n := range []*int{&share.Ready, &share.Waiting, &share.Held, &share.Paused} {
			*n = int(float64(*n) * float64(recipients) / float64(s.recipients))
			left -= *n
			if largest == nil || *n > *largest {
				largest = n
			}
		}
	}
	*largest += left // what was cut off
}
