package throttle

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"carom/schemas/limits"
)

// bound is one limit on a path that says no, or could. It is made without allocating; its texts are
// made when somebody wants to read them.
type bound struct {
	scope     string
	directive string

	// What is limited to how much: one of these, or that of the key.
	rate      Rate
	gap       time.Duration
	count     uint64
	key       bool
	effective limits.Effective // of the key
	backlog   int              // of the key

	queue  *QueueLimits // for directives with a variant in backoff mode
	leased bool         // the adaptive directive is in force
	origin func(directive string) string
	place  string // where there is no origin
}

// name returns the directive that is in force.
func (b *bound) name() string {
	switch {
	case b.leased:
		return "adaptive-" + b.directive
	case b.queue != nil:
		return b.queue.name(b.directive)
	}
	return b.directive
}

// value returns what the directive says.
func (b *bound) value() string {
	switch {
	case b.key && b.count > 0:
		return strconv.FormatUint(b.count, 10)
	case b.key:
		return perSecond(b.effective.RatePerSecond)
	case !b.rate.Unlimited():
		return b.rate.String()
	case b.gap > 0:
		return b.gap.String()
	case b.count > 0:
		return strconv.FormatUint(b.count, 10)
	}
	return "" // what is about mail has none
}

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'g', 4, 64) + "/s" }

// setBy says who set it: a place in the configuration, or an actor with its reason.
func (b *bound) setBy() string {
	switch {
	case b.key:
		by := string(b.effective.Actor)
		if b.effective.Epoch != 0 {
			by = fmt.Sprintf("%s, epoch %d, reason %s", by, b.effective.Epoch, b.effective.ReasonID)
		}
		return by
	case b.origin != nil:
		return b.origin(b.name())
	}
	return b.place
}

// denial must not be called under the throttle's mutex, because origin is not ours.
func (b *bound) denial(wait time.Duration) Denial {
	return Denial{Wait: wait, Scope: b.scope, Limit: strings.TrimSpace(b.name() + " " + b.value()), SetBy: b.setBy(), Cap: b.cap()}
}

// cap returns what the rate of a lease lets through; the zero Cap for other bounds.
func (b *bound) cap() Cap {
	if !b.key || b.count > 0 || b.effective.Actor != limits.ByLoop {
		return Cap{}
	}
	return Cap{RatePerSecond: b.effective.RatePerSecond, Backlog: b.backlog}
}

// The limits of a route, as bounds.

func (r *route) queueBound(directive string) bound {
	return bound{scope: ScopeQueue, directive: directive, queue: r.Queued, origin: r.Queued.Origin}
}

func (r *route) queueRate() bound {
	b := r.queueBound("max-msg-rate")
	b.rate = r.Queued.rate(r.leased)
	b.leased = b.rate != r.Queued.Rate
	return b
}

func (r *route) queueConnections() bound {
	b := r.queueBound("max-smtp-out")
	b.count = uint64(r.Queued.connections(r.leased))
	b.leased = b.count != uint64(r.Queued.Connections)
	return b
}

func (r *route) queueConnectRate() bound {
	b := r.queueBound("max-connect-rate")
	b.rate = r.Queued.ConnectRate
	return b
}

func (r *route) queueDataRate() bound {
	b := r.queueBound("max-data-volume-rate")
	b.rate = r.Queued.DataRate
	return b
}

func (r *route) rampUp() bound {
	return bound{scope: ScopeQueue, directive: "smtp-out-rampup-interval", gap: r.Queued.RampUp, origin: r.Queued.Origin}
}

func (r *route) sourceBound(directive string, rate Rate) bound {
	return bound{scope: ScopeSourceIP, directive: directive, rate: rate, origin: r.Queued.Origin}
}

func (r *route) sourceConnections() bound {
	b := r.sourceBound("source-ip-max-smtp-out", Rate{})
	b.count = uint64(r.sourceIP.Connections)
	return b
}

func (r *route) vmtaBound(directive string, rate Rate) bound {
	return bound{scope: ScopeVMTA, directive: directive, rate: rate, count: count64(r.VMTALimits.Connections), origin: r.VMTALimits.Origin}
}

func poolBound(p *PoolLimits, directive string, rate Rate) bound {
	return bound{scope: ScopePool, directive: directive, rate: rate, count: count64(p.Connections), origin: p.Origin}
}

// keyBound is the limit of the control loop or of the guard; connections says which part of it.
func (r *route) keyBound(connections bool) bound {
	b := bound{scope: string(r.effective.Actor), directive: "rate", key: true, effective: r.effective, backlog: r.key.backlog}
	if connections {
		b.directive, b.count = "connections", uint64(r.effective.Connections)
		if b.effective.Actor != limits.ByGlide { // the actor is that of the rate
			b.effective.Actor = limits.ByLoop
		}
		b.scope = string(b.effective.Actor)
	}
	return b
}

func count64(n int) uint64 { return uint64(max(0, n)) }
