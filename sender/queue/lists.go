package queue

import (
	"container/heap"
	"slices"
)

// fresh is new mail: the higher priority first, within one in order of arrival.
type fresh struct {
	levels []level // the highest priority first
	count  int
}

type level struct {
	priority uint8
	items    []*Item // items[head] is next
	head     int
}

func (f *fresh) add(item *Item) {
	f.count++
	i := 0
	for i < len(f.levels) && f.levels[i].priority > item.Priority {
		i++
	}
	if i == len(f.levels) || f.levels[i].priority != item.Priority {
		f.levels = slices.Insert(f.levels, i, level{priority: item.Priority})
	}
	f.levels[i].items = append(f.levels[i].items, item)
}

// next takes the next item, nil if there is none.
func (f *fresh) next() *Item {
	if f.count == 0 {
		return nil
	}
	return f.nextOf(0)
}

// nextOf takes the next item of a level.
func (f *fresh) nextOf(n int) *Item {
	f.count--
	l := &f.levels[n]
	item := l.items[l.head]
	l.items[l.head] = nil
	if l.head++; l.head == len(l.items) {
		f.levels = slices.Delete(f.levels, n, n+1)
	} else if l.head >= 1024 && l.head > len(l.items)/2 {
		l.items = slices.Clone(l.items[l.head:]) // or what has gone would be kept
		l.head = 0
	}
	return item
}

// first takes out the first item that match says, nil if there is none among so many. It moves none but those
// before it.
func (f *fresh) first(among int, match func(*Item) bool) *Item {
	for n := range f.levels {
		l := &f.levels[n]
		for i := l.head; i < len(l.items) && among > 0; i++ {
			among--
			if !match(l.items[i]) {
				continue
			}
			item := l.items[i]
			copy(l.items[l.head+1:i+1], l.items[l.head:i])
			l.items[l.head] = item // for next to take
			return f.nextOf(n)
		}
	}
	return nil
}

// remove takes out the items that match says, at most limit.
func (f *fresh) remove(match func(*Item) bool, limit int) (removed []*Item) {
	for n := range f.levels {
		l := &f.levels[n]
		kept := l.items[l.head:l.head]
		for _, item := range l.items[l.head:] {
			if len(removed) < limit && match(item) {
				removed = append(removed, item)
			} else {
				kept = append(kept, item)
			}
		}
		clear(l.items[l.head+len(kept):])
		l.items = l.items[:l.head+len(kept)]
	}
	f.levels = slices.DeleteFunc(f.levels, func(l level) bool { return l.head == len(l.items) })
	f.count -= len(removed)
	return removed
}

// beyond takes out the items that stand behind the first ones with so many recipients, in order. It looks at
// none of those that it takes.
func (f *fresh) beyond(recipients int) (taken []*Item) {
	for n := range f.levels {
		l := &f.levels[n]
		i := l.head
		for ; i < len(l.items) && recipients > 0; i++ {
			recipients -= len(l.items[i].Recipients)
		}
		tail := l.items[i:]
		f.count -= len(tail)
		if taken == nil {
			taken = tail
		} else {
			taken = append(taken, tail...)
		}
		l.items = l.items[:i:i] // what is added next is not to overwrite the tail
	}
	f.levels = slices.DeleteFunc(f.levels, func(l level) bool { return l.head == len(l.items) })
	return taken
}

// oldest returns the first arrival, 0 without mail.
func (f *fresh) oldest() (first Moment) {
	for _, l := range f.levels {
		if at := l.items[l.head].Arrived; first == 0 || at < first {
			first = at
		}
	}
	return first
}

// retryHeap orders items by the time they are due, then by priority and arrival.
type retryHeap []*Item

func (h retryHeap) Len() int { return len(h) }

func (h retryHeap) Less(i, j int) bool {
	switch a, b := h[i], h[j]; {
	case a.Due != b.Due:
		return a.Due < b.Due
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	default:
		return a.Arrived < b.Arrived
	}
}

func (h retryHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// due counts the items of the subtree at i that are due at now, at most limit: nothing below an
// item that is not due can be due.
func (h retryHeap) due(now Moment, i, limit int) int {
	if limit <= 0 || i >= len(h) || h[i].Due > now {
		return 0
	}
	n := 1 + h.due(now, 2*i+1, limit-1)
	return n + h.due(now, 2*i+2, limit-n)
}

// remove takes out the items that match says, at most limit.
func (h *retryHeap) remove(match func(*Item) bool, limit int) (removed []*Item) {
	kept := (*h)[:0]
	for _, item := range *h {
		if len(removed) < limit && match(item) {
			removed = append(removed, item)
		} else {
			kept = append(kept, item)
		}
	}
	clear((*h)[len(kept):])
	*h = kept
	if len(removed) > 0 {
		heap.Init(h)
	}
	return removed
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
