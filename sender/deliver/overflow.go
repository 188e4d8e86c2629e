package deliver

import (
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/throttle"
)

const (
	// overflowTime is how much mail of a virtual MTA that is warmed up waits for the control loop: what it
	// allows in this time. The rest goes by the warm virtual MTA, as what is over max-cold-virtual-mta-msg
	// does when it comes in.
	overflowTime = 5 * time.Minute
	// overflowInterval is how often a queue is looked at. Between two looks the gauges are read, which know
	// what waits in the other queues of the key.
	overflowInterval = 15 * time.Second
)

// warmVMTAs returns the warm virtual MTA of each cold one (cold-virtual-mta), by name in lower case.
func warmVMTAs(c *config.Config) map[string]string {
	warm := map[string]string{}
	for _, m := range c.VMTAs() {
		for _, name := range m.ColdVMTAs {
			warm[strings.ToLower(name)] = m.Name
		}
	}
	return warm
}

// overflow moves what the lease of a cold virtual MTA cannot let through soon to the warm one: new mail
// alone, since a receiver that greylists knows what was tried by its source. Other limits, and leases of
// addresses that are not warmed up, move nothing. It reports whether it moved the item too, which the
// session has in hand; nil for none.
func (s *session) overflow(c throttle.Cap, item *queue.Item) bool {
	if c == (throttle.Cap{}) || s.Requeue == nil {
		return false
	}
	to := s.way.view.warm[strings.ToLower(s.way.vmta.Name)]
	now := clock.Now()
	last := s.way.surplus.Load()
	if to == "" || now.UnixNano() < last+int64(overflowInterval) || !s.way.surplus.CompareAndSwap(last, now.UnixNano()) {
		return false // another session does it for all
	}
	c.RatePerSecond *= float64(max(1, len(s.way.sources))) // which have leases of their own
	name := queue.Name{Domain: s.queue.Name().Domain, VMTA: to}
	own := s.queue.Recipients()
	if item != nil {
		own += len(item.Recipients)
	}
	keep := soon(c, own)
	moves := item != nil && keep <= 0 && item.Attempts == 0
	switch {
	case moves:
		s.Requeue(name, item)
	case item != nil:
		keep -= len(item.Recipients)
	}
	for _, surplus := range s.queue.TakeSurplus(max(0, keep), now) {
		s.Requeue(name, surplus)
	}
	return moves
}

// soon returns how many of the recipients of a queue its lease lets through in overflowTime. The queues of
// a key share it by what waits in each. Where many wait with little in each, chance says which of them
// keep one.
func soon(c throttle.Cap, own int) int {
	share := c.RatePerSecond * overflowTime.Seconds() * float64(own) / float64(max(1, own, c.Backlog))
	return int(min(math.Floor(share+rand.Float64()), math.MaxInt32)) //nolint:gosec // no secret
}
