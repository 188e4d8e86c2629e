package throttle

import (
	"fmt"
	"strconv"
	"time"

	"carom/schemas/limits"
)

// Binding is one limit on a path as an operator wants to see it.
type Binding struct {
	Scope     string `json:"scope"`     // what is limited: one of the scopes, or "key"
	Name      string `json:"name"`      // which one of them
	Directive string `json:"directive"` // as the configuration calls it; at the key "rate" or "connections"
	// Configured is what the configuration says, InForce what counts now; they differ where the
	// control loop or the guard had a say. "unlimited" where there is none.
	Configured string `json:"configured"`
	InForce    string `json:"in_force"`
	// Used is the number of open connections, or of recipients or bytes that a rate is owed.
	Used    string `json:"used"`
	Waiting int    `json:"waiting,omitempty"` // recipients that wait for it
	// Wait is when the next may pass that comes now; 0 is at once, or when a connection is given
	// back.
	Wait    time.Duration `json:"wait,omitempty"`
	SetBy   string        `json:"set_by"` // a place in the configuration, or an actor
	Reason  string        `json:"reason,omitempty"`
	Epoch   uint64        `json:"epoch,omitempty"`
	Expires time.Duration `json:"expires_in,omitempty"` // how long a lease is still fresh; negative: for how long it is not
	// Binds says that it is this limit that would hold a message, or a connection, back now.
	Binds bool `json:"binds"`
}

// explained is a Binding to be, with what is asked only outside the lock.
type explained struct {
	Binding
	bound
	configured string
}

// Explain returns every limit that a message or a connection of the path is under.
func (t *Throttle) Explain(p Path) []Binding {
	t.mu.Lock()
	now := t.now()
	r := t.route(now, &p)
	all := t.explainConnections(now, &p, &r)
	rates := t.explainRates(now, &p, &r)
	key := t.explainKey(now, &p, &r)
	t.mu.Unlock()

	longest := -1
	for i := range rates {
		if rates[i].Wait > 0 && (longest < 0 || rates[i].Wait > rates[longest].Wait) {
			longest = i
		}
	}
	if longest >= 0 && rates[longest].Wait >= key.Wait {
		rates[longest].Binds, key.Binds = true, false
	}
	bindings := make([]Binding, 0, len(all)+len(rates)+1)
	for _, e := range append(all, rates...) {
		e.Binding.Scope, e.Directive, e.InForce = e.bound.scope, e.bound.name(), e.bound.value()
		e.SetBy, e.Configured = e.bound.setBy(), e.configured
		if e.Configured == "" {
			e.Configured = e.InForce
		}
		bindings = append(bindings, e.Binding)
	}
	return append(bindings, key)
}

func (t *Throttle) explainConnections(now time.Duration, p *Path, r *route) []explained {
	var all []explained
	add := func(name string, b bound, used int) {
		if b.count > 0 {
			full := used >= 0 && uint64(used) >= b.count
			all = append(all, explained{bound: b, Binding: Binding{Name: name, Used: strconv.Itoa(used), Binds: full}})
		}
	}
	add("", t.nodeBound(), t.connections)
	add(p.VMTA, r.vmtaBound("max-smtp-out", Rate{}), r.vmta.connections)
	for _, pool := range r.VMTALimits.Pools {
		add(pool.Name, poolBound(pool, "max-smtp-out", Rate{}), group(t.pools, pool.Name).connections)
	}
	add(p.Queue, r.queueConnections(), int(r.queue.open))
	if n := len(all); n > 0 && all[n-1].leased {
		all[n-1].configured = strconv.FormatUint(uint64(r.Queued.Connections), 10)
	}
	if r.source != nil {
		add(p.Source.String(), r.sourceConnections(), int(r.source.open))
	}
	// The key's connections stand in one line with what its lease says of the rate.
	if r.leased && r.effective.Connections != limits.Unlimited {
		add(p.Key.String(), r.keyBound(true), int(r.key.connections))
	}
	opening := func(name string, b bound, c *pace) {
		if c != nil && !c.rate.Unlimited() {
			wait := c.delay(now, 1)
			all = append(all, explained{bound: b, Binding: Binding{Name: name, Used: owed(c, now), Wait: wait, Binds: wait > 0}})
		}
	}
	opening(p.Queue, r.queueConnectRate(), r.queue.connects)
	if r.source != nil {
		opening(p.Source.String(), r.sourceBound("source-ip-max-connect-rate", r.sourceIP.ConnectRate), r.source.connects)
	}
	if r.Queued.RampUp > 0 {
		wait := time.Duration(0)
		if r.queue.open > 0 {
			wait = max(0, r.queue.opened+r.Queued.RampUp-now)
		}
		all = append(all, explained{bound: r.rampUp(), Binding: Binding{Name: p.Queue, Used: "", Wait: wait, Binds: wait > 0}})
	}
	return all
}

func (t *Throttle) explainRates(now time.Duration, p *Path, r *route) []explained {
	var all []explained
	add := func(name string, b bound, m *meter) {
		if m == nil || m.rate.Unlimited() {
			return
		}
		e := explained{bound: b, Binding: Binding{Name: name, Used: owed(&m.pace, now), Waiting: m.ahead}}
		e.Wait = max(m.delay(now, 1), m.behind(now, m.ahead))
		all = append(all, e)
	}
	add(p.Queue, r.queueRate(), r.queue.messages)
	if n := len(all); n > 0 && all[n-1].leased {
		all[n-1].configured = r.Queued.Rate.String()
	}
	add(p.Queue, r.queueDataRate(), r.queue.data)
	if r.source != nil {
		add(p.Source.String(), r.sourceBound("source-ip-max-msg-rate", r.sourceIP.Rate), r.source.messages)
		add(p.Source.String(), r.sourceBound("source-ip-max-data-volume-rate", r.sourceIP.DataRate), r.source.data)
	}
	add(p.VMTA, r.vmtaBound("max-smtp-msg-rate", r.VMTALimits.Rate), &r.vmta.messages)
	add(p.VMTA, r.vmtaBound("max-smtp-data-volume-rate", r.VMTALimits.DataRate), &r.vmta.data)
	for _, pool := range r.VMTALimits.Pools {
		g := group(t.pools, pool.Name)
		add(pool.Name, poolBound(pool, "max-smtp-msg-rate", pool.Rate), &g.messages)
		add(pool.Name, poolBound(pool, "max-smtp-data-volume-rate", pool.DataRate), &g.data)
	}
	return all
}

// explainKey says what the control loop and the guard make of the key.
func (t *Throttle) explainKey(now time.Duration, p *Path, r *route) Binding {
	e, k := r.effective, r.key
	b := Binding{
		Scope: "key", Name: p.Key.String(), Directive: "rate", Configured: "unlimited", InForce: "unlimited",
		Used: strconv.FormatUint(uint64(k.connections), 10) + " connections", Waiting: k.ahead, Wait: k.delay(k.ahead),
		SetBy: string(e.Actor), Reason: e.ReasonID, Epoch: e.Epoch,
	}
	b.Binds = b.Wait > 0
	if k.static.HasRate() {
		b.Configured = perSecond(k.static.RatePerSecond)
	}
	if e.HasRate() {
		b.InForce = perSecond(e.RatePerSecond)
	}
	if glide, ok := t.leases[p.Key]; ok {
		b.Expires = glide.TTL - (now - glide.Seen)
	}
	if factor := k.guard.Factor(now); factor < 1 {
		reason := fmt.Sprintf("the guard allows %.0f %%", 100*factor)
		if k.refusal.dimension != "" {
			reason += fmt.Sprintf(": last refused as %s %s ago", k.refusal.dimension, (now - k.refusal.at).Round(time.Second))
		}
		if b.Reason != "" {
			reason = b.Reason + ", " + reason
		}
		b.Reason = reason
	}
	return b
}

// owed returns how many units a pace waits for to be paid, in whole ones.
func owed(p *pace, now time.Duration) string {
	if p.next <= now || p.last == never {
		return "0"
	}
	return strconv.FormatFloat(float64(p.next-now)/p.interval, 'f', 0, 64)
}
