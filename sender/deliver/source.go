package deliver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/resolve"
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

func newSource(addr netip.Addr, ehlo string, vmta *config.VMTA) source {
	seen := addr
	if vmta.SourcePublicIP.IsValid() {
		seen = vmta.SourcePublicIP
	}
	return source{addr: addr, bind: addr, ehlo: ehlo, key: event.SourceKey(seen)}
}

// source returns the next source in turn that reaches any of the targets, and the targets that it
// reaches: those of its address family. Without a configured one it is the address that the system
// would choose. Where none fits, all targets are returned, and dialling says what is wrong.
func (e *exit) source(targets []target) (source, []target) {
	for range e.sources {
		next := e.sources[int(e.turn.Add(1)-1)%len(e.sources)]
		if reached := ofFamily(targets, next.addr); len(reached) > 0 {
			return next, reached
		}
	}
	if len(e.sources) > 0 {
		return e.sources[0], targets
	}
	for _, t := range targets {
		if local := localTowards(t.addr); local.IsValid() {
			chosen := newSource(local, e.vmta.HostName, e.vmta)
			chosen.bind = netip.Addr{}
			return chosen, ofFamily(targets, local)
		}
	}
	return source{ehlo: e.vmta.HostName}, targets
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

// maxTargets bounds the addresses that one session tries (PowerMTA's mx-connection-attempts).
const maxTargets = 10

// find returns the addresses to try for a domain, the best first, and the name of the most
// preferred MX host ("" where smtp-hosts say nothing about the receiver).
func (s *session) find(ctx context.Context, settings config.Settings, domain string) (targets []target, preferred string, err error) {
	if len(settings.SMTPHosts) == 0 {
		return s.byMX(ctx, domain, settings.DefaultSMTPPort)
	}
	for _, group := range settings.SMTPHosts {
		for _, i := range rand.Perm(len(group)) { // hosts of one preference share the load, as MX hosts do
			host := group[i]
			port := settings.DefaultSMTPPort
			if host.Port != 0 {
				port = host.Port
			}
			found, name, hostErr := s.lookUp(ctx, host, port)
			if err == nil || hostErr != nil && (failure{err: hostErr}).temporary() {
				err = hostErr // what may change decides
			}
			targets = append(targets, found...)
			if preferred == "" {
				preferred = name
			}
		}
	}
	if len(targets) > 0 {
		err = nil
	}
	return targets[:min(len(targets), maxTargets)], preferred, err
}

func (s *session) lookUp(ctx context.Context, host config.Host, port uint16) ([]target, string, error) {
	switch {
	case host.MXOf != "":
		return s.byMX(ctx, host.MXOf, port)
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

func (s *session) byMX(ctx context.Context, domain string, port uint16) ([]target, string, error) {
	r, err := s.Resolver.Route(ctx, domain)
	if err != nil {
		return nil, "", err
	}
	var targets []target
	for _, host := range r.Hosts {
		for _, addr := range host.Addrs {
			targets = append(targets, target{host.Name, netip.AddrPortFrom(addr, port)})
		}
	}
	return targets[:min(len(targets), maxTargets)], mostPreferred(r), nil
}

// mostPreferred returns the name of the MX host with the lowest preference; a domain that is its
// own host has none that speaks of a provider.
func mostPreferred(r resolve.Route) string {
	if r.Implicit || len(r.Hosts) == 0 {
		return ""
	}
	return r.Hosts[0].Name
}
