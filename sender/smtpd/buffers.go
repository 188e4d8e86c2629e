package smtpd

import (
	"sync"
	"sync/atomic"
)

// sizes are those of the buffers for messages; larger ones are made to measure and not kept.
var sizes = [...]int{16 << 10, 64 << 10, 256 << 10, 1 << 20}

// buffer is what a message is received into.
type buffer struct{ b []byte }

// buffers lends buffers to the sessions and bounds the memory that they take together.
type buffers struct {
	limit int64 // of octets; 0 means none
	used  atomic.Int64
	kept  [len(sizes)]sync.Pool
}

// size returns the size of the buffer for n octets, and which of the pools it is in.
func size(n int) (octets, pool int) {
	for i, s := range sizes {
		if n <= s {
			return s, i
		}
	}
	return n, len(sizes)
}

// lend returns a buffer for n octets, or nil where there is no memory for it.
func (p *buffers) lend(n int) *buffer {
	n, pool := size(n)
	if used := p.used.Add(int64(n)); p.limit > 0 && used > p.limit {
		p.used.Add(-int64(n))
		return nil
	}
	if pool < len(p.kept) {
		if b, ok := p.kept[pool].Get().(*buffer); ok {
			return b
		}
	}
	return &buffer{make([]byte, n)}
}

// scrap returns a small buffer, whatever the memory.
func (p *buffers) scrap() *buffer {
	p.used.Add(int64(sizes[0]))
	if b, ok := p.kept[0].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, sizes[0])}
}

// giveBack takes a buffer back.
func (p *buffers) giveBack(b *buffer) {
	p.used.Add(-int64(len(b.b)))
	if _, pool := size(len(b.b)); pool < len(p.kept) {
		p.kept[pool].Put(b)
	}
}

// exchange returns a buffer of four times the size, at most limit octets, that starts as b, or nil.
// b is given back only then.
func (p *buffers) exchange(b *buffer, limit int) *buffer {
	n := min(4*len(b.b), limit)
	if n <= len(b.b) {
		return nil
	}
	larger := p.lend(n)
	if larger != nil {
		copy(larger.b, b.b)
		p.giveBack(b)
	}
	return larger
}

// hasRoom reports whether a message of n octets could be taken in now.
func (p *buffers) hasRoom(n int64) bool { return p.limit == 0 || p.used.Load()+n <= p.limit }
