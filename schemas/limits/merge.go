package limits

import "time"

// Actor says who set a limit, as events write it in limit_actor.
type Actor string

// The actors.
const (
	ByConfig Actor = "config" // the node's configuration
	ByLoop   Actor = "loop"   // a lease
	ByGuard  Actor = "guard"  // the local guard
	ByGlide  Actor = "glide"  // an expired lease on its way to the configuration
)

// Effective is the limit that binds a key on a node.
type Effective struct {
	Limit
	// Actor is who set the rate.
	Actor Actor
	// Epoch and ReasonID are those of the lease, 0 and "" without one.
	Epoch    uint64
	ReasonID string
	Canary   bool
}

// Merge returns the limit that binds at time now: the term (of Glide.At; the zero Term for no
// lease) under the ceiling that static and adaptive make, and the rate under the guard. Without a
// lease the static limit binds, guarded as well. adaptive has 0 where the configuration gives no
// adaptive ceiling. guard may be nil.
func Merge(now time.Duration, static, adaptive Limit, term Term, guard *Guard) Effective {
	out := Effective{Limit: static, Actor: ByConfig}
	if term.Source != FromNone {
		ceiling := Ceiling(static, adaptive)
		out = Effective{Limit: term.Min(ceiling), Actor: ByLoop, Epoch: term.Epoch, ReasonID: term.ReasonID, Canary: term.Canary}
		switch {
		case ceiling.RatePerSecond < term.RatePerSecond:
			out.Actor = ByConfig
		case term.Source != FromLease:
			out.Actor = ByGlide
		}
	}
	if guard == nil {
		return out
	}
	guard.trials = out.Canary // which end with the lease, also without the next one
	if rate := guard.Apply(now, out.RatePerSecond); rate < out.RatePerSecond {
		out.RatePerSecond, out.Actor = rate, ByGuard
	}
	return out
}
