package deliver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/route"
)

// source is where a connection comes from.
type source struct {
	addr netip.Addr // local address of connections
	bind netip.Addr // addr, or the zero Addr to leave it to the system
	ehlo string
	key  string // as receivers see it
}

// sources returns the sources of a virtual MTA. A range stands for the addresses of this machine
// inside it, 127.0.0.1 not among them (PowerMTA's smtp-source-host); it is an error if there is
// none.
func sources(vmta *config.VMTA) ([]source, error) {
	var list []source
	for _, host := range vmta.SourceHosts {
		if addr, single := host.Addr(); single {
			list = append(list, newSource(addr, host.HostName, vmta))
			continue
		}
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of this machine: %w", err)
		}
		found := false
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || !host.Prefix.Contains(prefix.Addr().Unmap()) || prefix.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
				continue
			}
			found = true
			list = append(list, newSource(prefix.Addr().Unmap(), host.HostName, vmta))
		}
		if !found {
			return nil, fmt.Errorf("virtual-mta %s: smtp-source-host %s holds no address of this machine", vmta.Name, host.Prefix)
		}
	}
	return list, nil
}

// missing returns the sources that are no address of this machine now. Every address of 127.0.0.0/8 is
// one.
func missing(list []source) (absent []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // connecting will tell
	}
	for _, s := range list {
		here := s.addr.IsLoopback() || slices.ContainsFunc(addrs, func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Addr().Unmap() == s.addr
		})
		if !here {
			absent = append(absent, s.addr)
		}
	}
	return absent
}

func newSource(addr netip.Addr, ehlo string, vmta *config.VMTA) source {
	seen := addr
	if vmta.SourcePublicIP.IsValid() {
		seen = vmta.SourcePublicIP
	}
	return source{addr: addr, bind: addr, ehlo: ehlo, key: event.SourceKey(seen)}
}

// source returns the next source in turn that is in use and reaches any of the targets, and the
// targets that it reaches: those of its address family. Without a configured one it is the address
// that the system would choose. Where none fits, all targets are returned, and dialling says what is
// wrong. It returns false if all sources that could be used are disabled.
func (e *exit) source(targets []target, disabled func(netip.Addr) bool) (source, []target, bool) {
	out := 0
	fallback := -1
	first := e.turn.Add(1) - 1 // queues ask side by side, and each must see every source
	for n := range e.sources {
		i := int((first + uint32(n)) % uint32(len(e.sources))) //nolint:gosec // a handful of sources
		next := e.sources[i]
		if disabled(next.addr) {
			out++
			continue
		}
		fallback = i
		if reached := ofFamily(targets, next.addr); len(reached) > 0 {
			e.turn.Add(uint32(n)) //nolint:gosec // those passed over have had their turn
			return next, reached, true
		}
	}
	switch {
	case fallback >= 0:
		return e.sources[fallback], targets, true
	case out > 0:
		return source{}, nil, false
	}
	for _, t := range targets {
		if local := localTowards(t.addr); local.IsValid() {
			chosen := newSource(local, e.vmta.HostName, e.vmta)
			chosen.bind = netip.Addr{}
			return chosen, ofFamily(targets, local), !disabled(local)
		}
	}
	return source{ehlo: e.vmta.HostName}, targets, true
}

func ofFamily(targets []target, local netip.Addr) []target {
	var same []target
	for _, t := range targets {
		if t.addr.Addr().Is4() == local.Is4() {
			same = append(same, t)
		}
	}
	return same
}

// localTowards returns the local address of packets to the destination. Nothing is sent: binding
// a UDP socket asks the routing table.
func localTowards(to netip.AddrPort) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = conn.Close() }()
	local, ok := netip.AddrFromSlice(conn.LocalAddr().(*net.UDPAddr).IP) //nolint:errcheck // DialUDP gives no other
	if !ok {
		return netip.Addr{}
	}
	return local.Unmap()
}

// target is one address of a receiving host.
type target struct {
	name string // of the host; for an address literal the literal
	addr netip.AddrPort
}

// found is the way to the receiver of a domain.
type found struct {
	targets   []target // the best first
	preferred string   // name of the most preferred MX host, "" where nothing says who decides about the mail
	lowest    []string // names of the MX hosts of the lowest preference; nil where there are no MX records
	implicit  bool     // the domain has no MX record and is its own host
	until     time.Time
}

// hostTTL is for how long addresses of smtp-hosts are used without a look at the resolver's cache.
const hostTTL = time.Minute

// domain returns whose hosts take an item: the queue's, which may be the name of queue-to, or in a
// rollup without smtp-hosts the recipient's.
func (s *session) domain(item *queue.Item) (string, bool) {
	if !s.rollsUp() {
		return s.queue.Name().Domain, true
	}
	envelope, err := s.Mail.Envelope(item.Message)
	if err != nil {
		s.unreadable(item, err)
		return "", false
	}
	return route.Domain(envelope.Recipients[item.Recipients[0]].Address), true
}

// rollsUp reports whether the queue is a rollup that sends to the MX hosts of its domains.
func (s *session) rollsUp() bool { return s.way.rollup != nil && len(s.way.settings.SMTPHosts) == 0 }

// find returns the way to a domain. At most mx-connection-attempts targets are worth a try.
func (s *session) find(ctx context.Context, domain string) (found, error) {
	settings := &s.way.settings
	if len(settings.SMTPHosts) == 0 {
		f, err := s.byMX(ctx, domain, settings.DefaultSMTPPort)
		f.targets = f.targets[:min(len(f.targets), settings.MXConnectionAttempts)]
		return f, err
	}
	f := found{until: clock.Now().Add(hostTTL)}
	var err error
	for _, group := range settings.SMTPHosts {
		for _, i := range rand.Perm(len(group)) { // hosts of one preference share the load, as MX hosts do
			host := group[i]
			port := settings.DefaultSMTPPort
			if host.Port != 0 {
				port = host.Port
			}
			targets, name, hostErr := s.lookUp(ctx, host, port)
			if err == nil || hostErr != nil && (failure{err: hostErr}).temporary() {
				err = hostErr // what may change decides
			}
			f.targets = append(f.targets, targets...)
			if f.preferred == "" {
				f.preferred = name
			}
		}
	}
	if len(f.targets) > 0 {
		err = nil
	}
	f.targets = f.targets[:min(len(f.targets), settings.MXConnectionAttempts)]
	return f, err
}

func (s *session) lookUp(ctx context.Context, host config.Host, port uint16) ([]target, string, error) {
	switch {
	case host.MXOf != "":
		f, err := s.byMX(ctx, host.MXOf, port)
		return f.targets, f.preferred, err
	case host.Addr.IsValid():
		return []target{{host.Addr.String(), netip.AddrPortFrom(host.Addr, port)}}, "", nil
	}
	addrs, err := s.Resolver.LookupHost(ctx, host.Name)
	if err != nil {
		return nil, "", err
	}
	targets := make([]target, len(addrs))
	for i, addr := range addrs {
		targets[i] = target{host.Name, netip.AddrPortFrom(addr, port)}
	}
	return targets, "", nil
}

// byMX returns the way by the MX records of a domain; in a rollup only hosts of the rollup count.
func (s *session) byMX(ctx context.Context, domain string, port uint16) (found, error) {
	r, err := s.Resolver.Route(ctx, domain)
	if err != nil {
		return found{}, err
	}
	f := found{implicit: r.Implicit, until: clock.Now().Add(r.TTL)}
	if !r.Implicit && len(r.Hosts) > 0 { // a domain that is its own host has none that speaks of a provider
		f.preferred = r.Hosts[0].Name
	}
	for _, host := range r.Hosts {
		if !r.Implicit && host.Preference == r.Hosts[0].Preference {
			f.lowest = append(f.lowest, host.Name)
		}
		for _, addr := range host.Addrs {
			f.targets = append(f.targets, target{host.Name, netip.AddrPortFrom(addr, port)})
		}
	}
	if s.rollsUp() {
		if own := slices.DeleteFunc(slices.Clone(f.targets), func(t target) bool { return !s.way.rollup.Takes(t.name) }); len(own) > 0 {
			f.targets = own
		}
	}
	return f, nil
}

// rolledUp deals with an item whose domain belongs into a rollup, or no longer into this one, and
// reports whether it did: then the session is over.
func (s *session) rolledUp(item *queue.Item, domain string, f found) bool {
	name := s.queue.Name()
	switch {
	case s.rollsUp() && !s.way.rollup.Covers(f.lowest):
		s.joins(domain, "", f.until)
		s.Requeue(queue.Name{Domain: domain, VMTA: name.VMTA}, s.only(item))
		return true
	case s.rollsUp():
		s.joins(domain, name.Domain, f.until)
		return false
	case s.way.rollup != nil, s.way.settings.DisableMXRollup, f.lowest == nil, len(s.way.settings.SMTPHosts) > 0, !s.way.view.config.HasRollups():
		return false
	}
	r, ok := s.way.view.config.Rollup(f.lowest)
	if !ok {
		s.joins(domain, "", f.until)
		return false
	}
	s.joins(domain, r.Name, f.until)
	to := queue.Name{Domain: r.Name, VMTA: name.VMTA}
	s.Requeue(to, item)
	s.queue.MoveTo(to)
	return true
}

// only returns an item with the recipients of the domain that its first one has. The others, which an
// item of a rollup may have, go back.
func (s *session) only(item *queue.Item) *queue.Item {
	if s.way.rollup == nil || len(item.Recipients) == 1 {
		return item
	}
	envelope, err := s.Mail.Envelope(item.Message)
	if err != nil {
		return item // whoever reads it next deals with that
	}
	domain := func(index uint32) string { return route.Domain(envelope.Recipients[index].Address) }
	same, others := *item, *item
	same.Recipients, others.Recipients = nil, nil
	for _, index := range item.Recipients {
		if domain(index) == domain(item.Recipients[0]) {
			same.Recipients = append(same.Recipients, index)
		} else {
			others.Recipients = append(others.Recipients, index)
		}
	}
	if len(others.Recipients) > 0 {
		s.back(&others)
	}
	return &same
}

// strangers returns the recipients of an item whose domains do not belong to the session's rollup any
// more, by domain. MX records change while mail waits.
func (s *session) strangers(ctx context.Context, m *mail, item *queue.Item) map[string][]uint32 {
	var strangers map[string][]uint32
	now := clock.Now()
	for _, index := range item.Recipients {
		domain := route.Domain(m.envelope.Recipients[index].Address)
		if s.belongs(domain, s.way.rollup.Name, now) {
			continue
		}
		f, err := s.byMX(ctx, domain, s.way.settings.DefaultSMTPPort)
		switch {
		case err != nil:
			continue // nothing says that it has left
		case s.way.rollup.Covers(f.lowest):
			s.joins(domain, s.way.rollup.Name, f.until)
			continue
		}
		s.joins(domain, "", f.until)
		if strangers == nil {
			strangers = map[string][]uint32{}
		}
		strangers[domain] = append(strangers[domain], index)
	}
	return strangers
}

// sendAway puts the recipients that do not belong to the rollup into the queues of their domains and
// returns the item with the others.
func (s *session) sendAway(item *queue.Item, strangers map[string][]uint32) *queue.Item {
	rest := *item
	rest.Recipients = nil
	var gone []uint32
	for domain, recipients := range strangers {
		other := *item
		other.Recipients = recipients
		s.Requeue(queue.Name{Domain: domain, VMTA: s.queue.Name().VMTA}, &other)
		gone = append(gone, recipients...)
	}
	for _, index := range item.Recipients {
		if !slices.Contains(gone, index) {
			rest.Recipients = append(rest.Recipients, index)
		}
	}
	return &rest
}
