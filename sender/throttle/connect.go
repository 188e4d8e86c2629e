package throttle

import (
	"net/netip"
	"time"
)

// Connect takes a connection for path: of the node's, of the virtual MTA's and its pools', of the
// queue's, of its local address's and of the key's. If one of them has none left, or a rate of
// connections is used up, it takes nothing and returns what denies it and false. It never waits.
// The caller gives the connection back with Disconnect.
func (t *Throttle) Connect(p Path) (Denial, bool) {
	t.mu.Lock()
	now := t.now()
	r := t.route(now, &p)
	b, full := t.full(&r)
	var wait time.Duration
	if !full {
		b, wait = r.connectWait(now)
	}
	if full || wait > 0 {
		r.key.keeps(&b, wait)
		t.mu.Unlock()
		return b.denial(wait), false
	}
	t.count(&r, +1)
	r.queue.opened = now
	if r.queue.connects != nil {
		r.queue.connects.take(now, 1)
	}
	if r.source != nil && r.source.connects != nil {
		r.source.connects.take(now, 1)
	}
	t.mu.Unlock()
	return Denial{}, true
}

// full returns the limit of connections that has none left, and whether there is one. The caller
// holds t.mu.
func (t *Throttle) full(r *route) (bound, bool) {
	if t.maxConnections > 0 && t.connections >= t.maxConnections {
		return t.nodeBound(), true
	}
	if b := r.vmtaBound("max-smtp-out", Rate{}); b.count > 0 && r.vmta.connections >= r.VMTALimits.Connections {
		return b, true
	}
	for _, p := range r.VMTALimits.Pools {
		if p.Connections > 0 && group(t.pools, p.Name).connections >= p.Connections {
			return poolBound(p, "max-smtp-out", Rate{}), true
		}
	}
	if most := r.Queued.connections(r.leased); most > 0 && r.queue.open >= most {
		return r.queueConnections(), true
	}
	if r.source != nil && r.sourceIP.Connections > 0 && r.source.open >= r.sourceIP.Connections {
		return r.sourceConnections(), true
	}
	// Without a lease the key has no limit but those of its queues.
	if r.leased && r.key.connections >= r.effective.Connections {
		return r.keyBound(true), true
	}
	return bound{}, false
}

func (t *Throttle) nodeBound() bound {
	return bound{scope: ScopeNode, directive: "total-max-smtp-out", count: count64(t.maxConnections)}
}

// connectWait returns how long the route has to wait until it may open a connection, and for what.
func (r *route) connectWait(now time.Duration) (b bound, wait time.Duration) {
	if q := r.queue; q.open > 0 && q.opened+r.Queued.RampUp > now {
		b, wait = r.rampUp(), q.opened+r.Queued.RampUp-now
	}
	if c := r.queue.connects; c != nil {
		if w := c.delay(now, 1); w > wait {
			b, wait = r.queueConnectRate(), w
		}
	}
	if r.source != nil && r.source.connects != nil {
		if w := r.source.connects.delay(now, 1); w > wait {
			b, wait = r.sourceBound("source-ip-max-connect-rate", r.sourceIP.ConnectRate), w
		}
	}
	return b, wait
}

// Disconnect gives back what Connect took.
func (t *Throttle) Disconnect(p Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.route(t.now(), &p)
	t.count(&r, -1)
}

// count adds n to the connections of all that the route counts under. The caller holds t.mu.
func (t *Throttle) count(r *route, n int) {
	t.connections += n
	r.vmta.connections += n
	for _, p := range r.VMTALimits.Pools {
		group(t.pools, p.Name).connections += n
	}
	r.queue.open = uint32(int(r.queue.open) + n)           //nolint:gosec // never below zero, and few
	r.key.connections = uint32(int(r.key.connections) + n) //nolint:gosec // never below zero, and few
	if r.source != nil {
		r.source.open = uint32(int(r.source.open) + n) //nolint:gosec // never below zero, and few
	}
}

// hostSource is a receiving host as one local address sees it.
type hostSource struct {
	host   string
	source netip.Addr
}

// LimitPeers sets mx-connection-limit and ip-connection-limit. Of several limits that fit, the
// first counts. It is called once, before the first connection.
func (t *Throttle) LimitPeers(hosts, addrs []PeerLimit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hostLimits, t.addrLimits = hosts, addrs
}

// hostLimit returns the limit of a receiving host, nil if there is none.
func (t *Throttle) hostLimit(mx string) *PeerLimit {
	for i := range t.hostLimits {
		if t.hostLimits[i].Host(mx) {
			return &t.hostLimits[i]
		}
	}
	return nil
}

func (t *Throttle) addrLimit(peer netip.Addr) *PeerLimit {
	for i := range t.addrLimits {
		if l := &t.addrLimits[i]; l.Prefix == (netip.Prefix{}) || l.Prefix.Contains(peer) {
			return l
		}
	}
	return nil
}

// ConnectHost takes a connection to a receiving host at one of its addresses, beside what Connect
// took. If there is none left it takes nothing and returns what denies it and false. The caller
// gives it back with DisconnectHost. Where nothing limits connections to the peer, nothing is
// counted.
func (t *Throttle) ConnectHost(p Path, mx string, peer netip.Addr) (Denial, bool) {
	host, addr := t.hostLimit(mx), t.addrLimit(peer)
	if host == nil && addr == nil {
		return Denial{}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if host != nil && host.Connections > 0 && t.hosts[hostSource{mx, p.Source}] >= host.Connections {
		return Denial{Scope: ScopeMX, Limit: host.Text, SetBy: host.Origin}, false
	}
	if addr != nil && addr.Connections > 0 && t.addrs[peer] >= addr.Connections {
		return Denial{Scope: ScopeIP, Limit: addr.Text, SetBy: addr.Origin}, false
	}
	if host != nil {
		t.hosts[hostSource{mx, p.Source}]++
	}
	if addr != nil {
		t.addrs[peer]++
	}
	return Denial{}, true
}

// DisconnectHost gives back what ConnectHost took.
func (t *Throttle) DisconnectHost(p Path, mx string, peer netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	release(t.hosts, hostSource{mx, p.Source})
	release(t.addrs, peer)
}

func release[K comparable](counts map[K]int, key K) {
	switch n := counts[key]; n {
	case 0: // nothing limits it
	case 1:
		delete(counts, key)
	default:
		counts[key] = n - 1
	}
}
