package deliver

import (
	"net/netip"
	"sync"
	"time"

	"carom/sender/throttle"
)

// resting are the sources that a limit of their own holds back: source-ip limits, and leases, glides
// and the guard, which are by provider and source. The others of the virtual MTA go on meanwhile.
type resting struct {
	mu    sync.Mutex
	until map[netip.Addr]rest
}

type rest struct {
	until time.Time
	why   string
}

// leaseRest bounds how long a source rests for a lease or the guard, which may change at any time.
const leaseRest = time.Minute

// ofSource reports whether a limit is that of one source, and how long the source rests for it.
func ofSource(d throttle.Denial) (time.Duration, bool) {
	switch d.Scope {
	case throttle.ScopeNode, throttle.ScopeVMTA, throttle.ScopePool, throttle.ScopeQueue, throttle.ScopeMX, throttle.ScopeIP:
		return 0, false
	case throttle.ScopeSourceIP:
		return d.Wait, d.Wait > 0
	default: // an actor at the key
		return min(d.Wait, leaseRest), d.Wait > 0
	}
}

func (r *resting) note(source netip.Addr, until time.Time, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[netip.Addr]rest{}
	}
	r.until[source] = rest{until, why}
}

// at returns whether a source rests at now, until when and why.
func (r *resting) at(source netip.Addr, now time.Time) (rest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held, ok := r.until[source]
	return held, ok && now.Before(held.until)
}
