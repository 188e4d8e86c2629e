package deliver

import (
	"time"

	"carom/schemas/clock"
	"carom/sender/config"
	"carom/sender/queue"
)

// Plan is where a recipient's mail waits and what the queue needs to know of it.
type Plan struct {
	Queue       queue.Name
	BounceAfter time.Duration
	RetryAfter  time.Duration // retry-recipients-after

	pool string // whose members take turns as Queue.VMTA; empty for none
}

// Plan returns the queue for mail to a domain (in lower case) that was accepted for a virtual MTA:
// queue-to, reroute-to-virtual-mta and the rollup that the domain is known to belong to are applied.
// It is cheap enough for every message.
func (a *Agent) Plan(domain, vmta string) Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := queue.Name{Domain: domain, VMTA: vmta}
	p, ok := a.plans[key]
	if !ok {
		p = a.plan(domain, vmta)
		remember(a.plans, key, p)
	}
	if p.pool != "" {
		if to, ok := a.target(p.pool); ok {
			p.Queue.VMTA = to
		}
	}
	if m, ok := a.members[domain]; ok && p.Queue.Domain == domain && m.rollup != "" && clock.Now().Before(m.until) {
		p.Queue.Domain = m.rollup
	}
	return p
}

func (a *Agent) plan(domain, vmta string) Plan {
	s := a.view.Load().config.Domain(domain, vmta)
	p := Plan{Queue: queue.Name{Domain: domain, VMTA: vmta}, BounceAfter: s.BounceAfter}
	if s.QueueTo != "" {
		p.Queue.Domain = s.QueueTo
		s = a.view.Load().config.Domain(s.QueueTo, vmta)
	}
	if s.RerouteToVirtualMTA != "" && !a.circular(p.Queue.Domain, vmta) {
		p.pool = s.RerouteToVirtualMTA
	}
	p.RetryAfter = s.RetryRecipientsAfter
	return p
}

// reroute returns the queue to which all mail of q goes, if reroute-to-virtual-mta or, in backoff
// mode, backoff-reroute-to-virtual-mta says so.
func (a *Agent) reroute(w *way, q *queue.Queue) (queue.Name, bool) {
	name := q.Name()
	to := w.settings.RerouteToVirtualMTA
	if b := w.settings.BackoffRerouteToVirtualMTA; b != "" && q.Mode(clock.Now()) == queue.Backoff {
		to = b
	}
	if to == "" {
		return name, false
	}
	if a.circular(name.Domain, name.VMTA) {
		a.Logger.Error("reroute-to-virtual-mta leads back to where it begins and is ignored", "queue", q.String())
		return name, false
	}
	target, ok := a.target(to)
	if !ok || target == w.vmta.Name {
		return name, false
	}
	return queue.Name{Domain: name.Domain, VMTA: target}, true
}

// target returns the virtual MTA of that name, or the next member of the pool.
func (a *Agent) target(name string) (string, bool) {
	if pool, ok := a.view.Load().config.Pool(name); ok && len(pool.Members) > 0 {
		name = a.turns.Next(pool)
	}
	vmta, ok := a.view.Load().config.VMTA(name)
	if !ok {
		return "", false
	}
	return vmta.Name, true
}

// circular reports whether rerouting can lead mail for a domain from a virtual MTA back to it. Both
// kinds of rerouting count: a queue in backoff mode must not send to one that may send back.
func (a *Agent) circular(domain, vmta string) bool {
	start, ok := a.view.Load().config.VMTA(vmta)
	if !ok {
		return false
	}
	seen := map[string]bool{}
	var leads func(vmta string) bool
	leads = func(vmta string) bool {
		if seen[vmta] {
			return false
		}
		seen[vmta] = true
		s := a.view.Load().config.Domain(domain, vmta)
		for _, name := range [2]string{s.RerouteToVirtualMTA, s.BackoffRerouteToVirtualMTA} {
			for _, next := range membersOf(a.view.Load().config, name) {
				if next != vmta && (next == start.Name || leads(next)) { // to itself is no way at all
					return true
				}
			}
		}
		return false
	}
	return leads(start.Name)
}

// membersOf returns the virtual MTAs that a name stands for.
func membersOf(c *config.Config, name string) []string {
	if name == "" {
		return nil
	}
	names := []string{name}
	if pool, ok := c.Pool(name); ok {
		names = pool.Members
	}
	var all []string
	for _, n := range names {
		if vmta, ok := c.VMTA(n); ok {
			all = append(all, vmta.Name)
		}
	}
	return all
}

// member says which rollup a domain belongs to.
type member struct {
	rollup string // "" for none
	until  time.Time
}

// joins remembers which rollup a domain belongs to by its most preferred MX hosts, "" for none.
func (a *Agent) joins(domain, rollup string, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	remember(a.members, domain, member{rollup, until})
}

// belongs reports whether a domain is known to belong to a rollup at now.
func (a *Agent) belongs(domain, rollup string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, ok := a.members[domain]
	return ok && m.rollup == rollup && now.Before(m.until)
}
