package deliver

import (
	"context"
	"slices"
	"sync"
	"time"

	"carom/sender/smtpc"
	"carom/sender/throttle"
)

// handOver is how long a connection without work is kept for another queue of its receiver where
// connection-idle-timeout keeps it for no longer: enough for the queues of a provider's many domains
// to follow one another, too little for a receiver to mind.
const handOver = 250 * time.Millisecond

// pool knows the connections of sessions without work. A session of another queue with the same way
// takes one over, so that the domains of one receiver share connections.
type pool struct {
	mu     sync.Mutex
	offers map[link][]*offer
}

// link says what a connection is good for.
type link struct {
	vmta      string
	source    source
	target    target
	transport [32]byte
}

// offer is an open connection with what goes with it.
type offer struct {
	link
	conn      *smtpc.Conn
	path      throttle.Path // under which it was taken from the throttle
	about     about
	failures  int
	delivered bool
	lastSent  time.Time
	unwatch   func() bool
	taken     context.CancelFunc // tells the session that its connection is gone
}

func (p *pool) offer(o *offer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.offers == nil {
		p.offers = map[link][]*offer{}
	}
	p.offers[o.link] = append(p.offers[o.link], o)
}

// withdraw takes an offer back and reports whether it was still there.
func (p *pool) withdraw(o *offer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.offers[o.link], o)
	if i < 0 {
		return false
	}
	p.remove(o.link, i)
	return true
}

// take returns an offered connection, the one that has worked last, nil if there is none. It is the
// caller's now, in the throttle too.
func (p *pool) take(l link) *offer {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.offers[l])
	if n == 0 {
		return nil
	}
	o := p.offers[l][n-1]
	p.remove(l, n-1)
	o.unwatch() // before its session learns of it, ends, and with it the context that cuts the connection
	o.taken()
	return o
}

func (p *pool) remove(l link, i int) {
	if list := slices.Delete(p.offers[l], i, i+1); len(list) > 0 {
		p.offers[l] = list
	} else {
		delete(p.offers, l)
	}
}
