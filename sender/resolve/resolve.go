// Package resolve finds the hosts that take mail for a domain: MX records, or the domain's own
// addresses where it has none, through recursive name servers and a cache. It finds TXT records too,
// for the keys of those who sign their reports.
//
// Answers are cached for their TTL within bounds, negative answers by RFC 2308, failures for a
// moment by RFC 9520; the cache is bounded too, and questions asked at the same time by many are
// asked once. Private and loopback addresses are answers like any other. Nothing is read from
// /etc/hosts, no DNSSEC is validated, and which host to try is the caller's choice.
//
// Failures are an *Error that says whether the domain cannot take mail at all or the answer may
// be different later. A Resolver is safe for concurrent use.
//
// RFC 1035 (DNS), 2308 (negative caching), 5321 section 5.1 (locating the target host), 6891
// (EDNS), 7505 (null MX), 7766 (TCP), 9520 (caching of failures).
package resolve

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/idna"
	"golang.org/x/sync/singleflight"
)

// Family says which addresses of a host to look up, and in which order to return them.
type Family uint8

// The families.
const (
	IPv4First Family = iota // both, IPv4 in front
	IPv6First               // both, IPv6 in front
	IPv4Only
	IPv6Only
)

// Config says whom to ask and how long to remember. The zero value asks the system's name
// servers.
type Config struct {
	// Servers are recursive name servers, asked in turn; where one does not answer the next is
	// asked. Empty means those of ResolvConf.
	Servers []netip.AddrPort
	// ResolvConf is read once by New if Servers is empty; "" means /etc/resolv.conf. Its search
	// list is not used: mail domains are absolute.
	ResolvConf string

	Family Family

	Timeout time.Duration // for one question to one server; 0 means 5 s
	Rounds  int           // through the list of servers before giving up; 0 means 2

	MinTTL         time.Duration // shorter answers are kept this long; 0 means 5 s
	MaxTTL         time.Duration // longer ones no longer than this; 0 means 24 h
	MaxNegativeTTL time.Duration // the same for "there is none"; 0 means 15 min
	CacheEntries   int           // questions remembered; 0 means 100,000
}

// failureTTL is how long a failure to get an answer is remembered: RFC 9520 section 3.2 wants at
// least 1 s and at most 5 min.
const failureTTL = 5 * time.Second

// maxHosts bounds the MX hosts used of one domain; the most preferred ones stay. Receivers
// publish up to a dozen.
const maxHosts = 20

// maxAddrs bounds the addresses used of one host.
const maxAddrs = 32

// Route is the way to the hosts of a domain.
type Route struct {
	// Hosts by preference, the lowest first, in random order within one preference (RFC 5321
	// section 5.1). Hosts without a usable address are in it too: they count when the receiver's
	// provider is told from its MX hosts.
	Hosts []Host
	// TTL is how long the route may be used.
	TTL time.Duration
	// Implicit reports that there was no MX record: the domain is its own host.
	Implicit bool
}

// Host is one host of a route.
type Host struct {
	Name       string // lower case, without the final dot; an address literal keeps its brackets
	Preference uint16
	Addrs      []netip.Addr // by Config.Family, shuffled within one family
	Err        error        // an *Error if Addrs is empty
}

// Resolver asks and remembers. New makes one.
type Resolver struct {
	cfg     Config
	servers []server
	turn    atomic.Uint32
	asking  singleflight.Group
	cache   cache
	now     func() time.Time
}

// New returns a Resolver. It fails if there is no name server to ask.
func New(cfg Config) (*Resolver, error) {
	if len(cfg.Servers) == 0 {
		servers, err := systemServers(cmp.Or(cfg.ResolvConf, "/etc/resolv.conf"))
		if err != nil {
			return nil, err
		}
		cfg.Servers = servers
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	cfg.Rounds = cmp.Or(cfg.Rounds, 2)
	cfg.MinTTL = cmp.Or(cfg.MinTTL, 5*time.Second)
	cfg.MaxTTL = max(cmp.Or(cfg.MaxTTL, 24*time.Hour), cfg.MinTTL)
	cfg.MaxNegativeTTL = max(cmp.Or(cfg.MaxNegativeTTL, 15*time.Minute), cfg.MinTTL)
	r := &Resolver{cfg: cfg, servers: make([]server, len(cfg.Servers)), now: time.Now}
	r.cache.limit = cmp.Or(cfg.CacheEntries, 100_000)
	for i, addr := range cfg.Servers {
		r.servers[i].addr = addr.String()
	}
	return r, nil
}

// Route returns the way to domain: a domain name, in Unicode too, or an address literal as in
// "[192.0.2.1]" and "[IPv6:2001:db8::1]" (RFC 5321 section 4.1.3).
//
// The error is an *Error. Where the domain has MX records but none of their hosts an address, the
// route is returned beside the error, for the names in it.
func (r *Resolver) Route(ctx context.Context, domain string) (Route, error) {
	if strings.HasPrefix(domain, "[") {
		addr, ok := parseLiteral(domain)
		if !ok {
			return Route{}, &Error{Name: domain, Err: ErrBadName}
		}
		return Route{Hosts: []Host{{Name: strings.ToLower(domain), Addrs: []netip.Addr{addr}}}, TTL: r.cfg.MaxTTL}, nil
	}
	name, ok := asciiName(domain)
	if !ok {
		return Route{}, &Error{Name: domain, Err: ErrBadName}
	}
	mx, err := r.lookup(ctx, name, dns.TypeMX)
	if err != nil {
		return Route{}, err
	}
	route := Route{TTL: mx.expires.Sub(r.now())}
	switch {
	case mx.missing:
		return Route{}, &Error{Name: name, Err: ErrNotFound}
	case mx.null:
		return Route{}, &Error{Name: name, Err: ErrNullMX}
	case len(mx.hosts) == 0:
		route.Hosts, route.Implicit = []Host{{Name: name}}, true
	default:
		route.Hosts = slices.Clone(mx.hosts)
		rand.Shuffle(len(route.Hosts), func(i, j int) {
			route.Hosts[i], route.Hosts[j] = route.Hosts[j], route.Hosts[i]
		})
		slices.SortStableFunc(route.Hosts, func(a, b Host) int { return cmp.Compare(a.Preference, b.Preference) })
		route.Hosts = route.Hosts[:min(len(route.Hosts), maxHosts)]
	}
	return route, r.fillAddrs(ctx, name, &route)
}

// fillAddrs looks up the addresses of all hosts of route, at the same time. It returns an error
// if no host has one.
func (r *Resolver) fillAddrs(ctx context.Context, name string, route *Route) error {
	ttls := make([]time.Duration, len(route.Hosts))
	var wg sync.WaitGroup
	for i := range route.Hosts {
		wg.Go(func() {
			h := &route.Hosts[i]
			h.Addrs, ttls[i], h.Err = r.hostAddrs(ctx, h.Name)
		})
	}
	wg.Wait()
	err := &Error{Name: name, Err: ErrNoAddress}
	usable := false
	for i, h := range route.Hosts {
		route.TTL = max(min(route.TTL, ttls[i]), 0)
		usable = usable || len(h.Addrs) > 0
		if e, ok := errors.AsType[*Error](h.Err); ok && e.Temporary() {
			err = e
		}
	}
	if usable {
		return nil
	}
	return err
}

// LookupHost returns the addresses of a host, without a look at MX records: what smtp-hosts
// names. IP addresses, with or without brackets, stand for themselves. The error is an *Error.
func (r *Resolver) LookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if addr, ok := parseLiteral(host); ok {
		return []netip.Addr{addr}, nil
	}
	name, ok := asciiName(host)
	if !ok {
		return nil, &Error{Name: host, Err: ErrBadName}
	}
	addrs, _, err := r.hostAddrs(ctx, name)
	return addrs, err
}

// hostAddrs looks up the addresses of the families asked for, at the same time. One family that
// fails does not matter where the other has an address.
func (r *Resolver) hostAddrs(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	var types []uint16
	switch r.cfg.Family {
	case IPv6First:
		types = []uint16{dns.TypeAAAA, dns.TypeA}
	case IPv4Only:
		types = []uint16{dns.TypeA}
	case IPv6Only:
		types = []uint16{dns.TypeAAAA}
	default:
		types = []uint16{dns.TypeA, dns.TypeAAAA}
	}
	answers := make([]*answer, len(types))
	errs := make([]error, len(types))
	var wg sync.WaitGroup
	for i, qtype := range types[1:] {
		wg.Go(func() { answers[i+1], errs[i+1] = r.lookup(ctx, name, qtype) })
	}
	answers[0], errs[0] = r.lookup(ctx, name, types[0])
	wg.Wait()
	var addrs []netip.Addr
	now, ttl := r.now(), r.cfg.MaxTTL
	for _, a := range answers {
		if a == nil {
			continue
		}
		from := len(addrs)
		addrs = append(addrs, a.addrs...)
		own := addrs[from:]
		rand.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		ttl = min(ttl, a.expires.Sub(now))
	}
	if len(addrs) > 0 {
		return addrs, ttl, nil
	}
	for _, err := range errs {
		if err != nil {
			return nil, min(ttl, failureTTL), err
		}
	}
	if answers[0].missing {
		return nil, ttl, &Error{Name: name, Err: ErrNotFound}
	}
	return nil, ttl, &Error{Name: name, Err: ErrNoAddress}
}

// parseLiteral reads an address literal of RFC 5321 section 4.1.3.
func parseLiteral(s string) (netip.Addr, bool) {
	s, ok := strings.CutPrefix(s, "[")
	if !ok {
		return netip.Addr{}, false
	}
	if s, ok = strings.CutSuffix(s, "]"); !ok {
		return netip.Addr{}, false
	}
	v6 := len(s) > 5 && strings.EqualFold(s[:5], "IPv6:")
	if v6 {
		s = s[5:]
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Is4() == v6 || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// asciiName returns a domain name as it is asked for: ASCII, lower case, no final dot.
func asciiName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if strings.IndexFunc(name, func(c rune) bool { return c > '~' }) >= 0 {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", false
		}
		name = ascii
	}
	name = strings.ToLower(name)
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return "", false
		}
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return "", false
	}
	return name, true
}
