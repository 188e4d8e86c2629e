package resolve

import (
	"container/list"
	"sync"
	"time"
)

// question is what the cache is keyed by.
type question struct {
	name  string
	qtype uint16
}

// cache remembers answers until they expire; when it is full, the one not used for longest goes.
type cache struct {
	limit int

	mu     sync.Mutex
	byUse  list.List // of *cached, the last used in front
	byName map[question]*list.Element
}

type cached struct {
	q question
	a *answer
}

// get returns the answer to q, nil if it is not known at now.
func (c *cache) get(q question, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byName[q]
	if !ok {
		return nil
	}
	entry := e.Value.(*cached) //nolint:errcheck,forcetypeassert // the list holds nothing else
	if !now.Before(entry.a.expires) {
		c.byUse.Remove(e)
		delete(c.byName, q)
		return nil
	}
	c.byUse.MoveToFront(e)
	return entry.a
}

func (c *cache) put(q question, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName == nil {
		c.byName = make(map[question]*list.Element)
	}
	if e, ok := c.byName[q]; ok {
		c.byUse.Remove(e)
	}
	c.byName[q] = c.byUse.PushFront(&cached{q, a})
	if c.byUse.Len() > c.limit {
		oldest := c.byUse.Remove(c.byUse.Back()).(*cached) //nolint:errcheck,forcetypeassert // as above
		delete(c.byName, oldest.q)
	}
}
