package control

import (
	"fmt"
	"strings"
	"time"

	"carom/schemas/limits"
)

// Pin is what an operator set for a key. The loop obeys it and goes on computing. A value that is
// nil is not pinned; one that is not positive is taken for nil, since a pin stops nothing.
// The ceiling of the configuration stands above every pin.
type Pin struct {
	// Rate, Connections and MessagesPerConnection are fixed values.
	Rate                  *float64 // messages a second
	Connections           *uint32
	MessagesPerConnection *uint32
	// Ceiling and Floor bound the rate, which the loop moves between them. The floor does not
	// hold while the key is suspended.
	Ceiling *float64
	Floor   *float64

	By     string // who
	Reason string
	Until  time.Duration // the pin ends here; on the clock of Decide's now
}

// Pinned is a Pin in force as State remembers it; 0 is a value that is not pinned.
type Pinned struct {
	Rate                  float64 `json:"rate,omitempty"`
	Connections           uint32  `json:"connections,omitempty"`
	MessagesPerConnection uint32  `json:"messages_per_connection,omitempty"`
	Ceiling               float64 `json:"ceiling,omitempty"`
	Floor                 float64 `json:"floor,omitempty"`
}

// at returns what of the pin is in force at now.
func (p *Pin) at(now time.Duration) Pinned {
	if p == nil || now >= p.Until {
		return Pinned{}
	}
	return Pinned{
		Rate: positive(p.Rate), Connections: positive(p.Connections), MessagesPerConnection: positive(p.MessagesPerConnection),
		Ceiling: positive(p.Ceiling), Floor: positive(p.Floor),
	}
}

// positive returns *v, or 0 where nothing is pinned.
func positive[T float64 | uint32](v *T) T {
	if v != nil && *v > 0 {
		return *v
	}
	return 0
}

// over returns l with the fixed values of p in it.
func (p Pinned) over(l limits.Limit) limits.Limit {
	if p.Rate > 0 {
		l.RatePerSecond = p.Rate
	}
	if p.Connections > 0 {
		l.Connections = p.Connections
	}
	if p.MessagesPerConnection > 0 {
		l.MessagesPerConnection = p.MessagesPerConnection
	}
	return l
}

func (p Pinned) String() string {
	var parts []string
	say := func(set bool, format string, value any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	say(p.Rate > 0, "rate %s", perSecond(p.Rate))
	say(p.Connections > 0, "connections %d", p.Connections)
	say(p.MessagesPerConnection > 0, "messages per connection %d", p.MessagesPerConnection)
	say(p.Ceiling > 0, "at most %s", perSecond(p.Ceiling))
	say(p.Floor > 0, "at least %s", perSecond(p.Floor))
	return strings.Join(parts, ", ")
}

// pin takes up a pin that is new, changed or over, and reports whether it was one.
func (d *decision) pin() bool {
	next := d.w.Pin.at(d.now)
	if next == d.Pinned {
		return false
	}
	d.Pinned, d.AdvisedAt = next, 0
	e := Evidence{From: d.now, To: d.now, MinMessages: NoMessages}
	if next == (Pinned{}) {
		d.because(RuleUnpin, "The pin ended: the loop decides again.", e)
		return true
	}
	d.because(RulePin, fmt.Sprintf("Pinned by %s: %s. Reason: %s.", d.w.Pin.By, next, strings.TrimSuffix(d.w.Pin.Reason, ".")), e)
	return true
}

// underPin says, once in Policy.AdviceEvery, what the loop would do about the rate if it were not
// pinned. Nothing of it is kept.
func (d *decision) underPin() {
	if d.AdvisedAt > 0 && d.now-d.AdvisedAt < d.p.AdviceEvery {
		return
	}
	would := *d
	would.reasons = nil
	would.moveRate()
	if len(would.reasons) == 0 {
		return
	}
	would.clamp()
	d.AdvisedAt = d.now
	after := would.State.InForce(d.w.Static)
	after.RatePerSecond = min(would.RatePerSecond, would.ceiling.RatePerSecond)
	for _, r := range would.reasons {
		r.WouldChange = true
		r.New = after
		d.reasons = append(d.reasons, r)
	}
}
