package spool

import "carom/schemas/event"

const (
	// cacheShare is which part of the cache one message may take at most.
	cacheShare = 16
	// cacheOverhead is about what a cached message takes beside its records.
	cacheOverhead = 768
)

// cache keeps messages that were just stored for whoever reads them first, which for most mail is the
// only one. The oldest make room for new ones. The Spool's mutex guards it.
type cache struct {
	limit int64
	bytes int64
	items map[event.ID]*cached
	// The ring of all items; the one behind head is the oldest.
	head cached
}

// cached is a message in memory.
type cached struct {
	envelope   *Envelope
	body       []byte
	size       int64
	prev, next *cached
}

func (c *cache) init(limit int64) {
	c.limit, c.items = limit, make(map[event.ID]*cached)
	c.head.prev, c.head.next = &c.head, &c.head
}

// fits returns whether add keeps a message with records of so many bytes.
func (c *cache) fits(bytes int64) bool { return (bytes+cacheOverhead)*cacheShare <= c.limit }

// add keeps a message. Both parts are the cache's from now on.
func (c *cache) add(e *Envelope, body []byte, bytes int64) {
	item := &cached{envelope: e, body: body, size: bytes + cacheOverhead}
	c.take(e.ID)
	for c.bytes+item.size > c.limit {
		c.take(c.head.next.envelope.ID)
	}
	item.prev, item.next = c.head.prev, &c.head
	item.prev.next, item.next.prev = item, item
	c.items[e.ID] = item
	c.bytes += item.size
}

// take returns a message and forgets it, or returns nil.
func (c *cache) take(id event.ID) *cached {
	item := c.items[id]
	if item == nil {
		return nil
	}
	delete(c.items, id)
	item.prev.next, item.next.prev = item.next, item.prev
	c.bytes -= item.size
	return item
}
