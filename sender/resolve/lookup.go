package resolve

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is the EDNS buffer size that avoids fragments (dnsflagday.net/2020).
	udpSize = 1232
	// maxChain bounds CNAME chains that a name server leaves to us.
	maxChain = 8
	// serverRest is how long a name server that did not answer is asked last.
	serverRest = 30 * time.Second
)

// answer is what is known about one question. It is shared and never changed.
type answer struct {
	hosts   []Host // MX: names and preferences only
	null    bool   // MX: the null MX, alone
	addrs   []netip.Addr
	texts   []string // TXT
	missing bool     // NXDOMAIN
	failed  error    // there was no answer
	expires time.Time
}

// server is one name server.
type server struct {
	addr      string
	restUntil atomic.Int64 // Unix nanoseconds
}

func systemServers(file string) ([]netip.AddrPort, error) {
	conf, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	port, err := strconv.ParseUint(conf.Port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("read name servers of %s: %w", file, err)
	}
	var servers []netip.AddrPort
	for _, s := range conf.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("read name servers of %s: %w", file, err)
		}
		servers = append(servers, netip.AddrPortFrom(addr, uint16(port)))
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("no name server in %s", file)
	}
	return servers, nil
}

// lookup answers from the cache or asks. It returns an answer that was given, "there is none"
// among them; else an *Error of ErrUnavailable.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*answer, error) {
	if name == "localhost" && qtype != dns.TypeMX { // RFC 6761 section 6.3
		loopback := netip.IPv6Loopback()
		if qtype == dns.TypeA {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return &answer{addrs: []netip.Addr{loopback}, expires: r.now().Add(r.cfg.MaxTTL)}, nil
	}
	q := question{name, qtype}
	a := r.cache.get(q, r.now())
	if a == nil {
		// The asking is shared, so it must not end with the one who happened to be first. It ends
		// by its own timeouts.
		asked := r.asking.DoChan(dns.TypeToString[qtype]+" "+name, func() (any, error) {
			// An asking that ended since the look above has left its answer.
			if a := r.cache.get(q, r.now()); a != nil {
				return a, nil
			}
			a := r.ask(context.WithoutCancel(ctx), name, qtype)
			r.cache.put(q, a)
			return a, nil
		})
		select {
		case <-ctx.Done():
			return nil, &Error{Name: name, Err: fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))}
		case result := <-asked:
			a = result.Val.(*answer) //nolint:errcheck,forcetypeassert // from the function above
		}
	}
	if a.failed != nil {
		return nil, &Error{Name: name, Err: fmt.Errorf("%w: %w", ErrUnavailable, a.failed)}
	}
	return a, nil
}

// ask asks the name servers, and again for the end of a CNAME chain that they did not follow.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) *answer {
	ttl := r.cfg.MaxTTL
	for range maxChain {
		m, err := r.askServers(ctx, name, qtype)
		if err != nil {
			return &answer{failed: err, expires: r.now().Add(failureTTL)}
		}
		records, end, chainTTL := follow(m, name, qtype)
		ttl = min(ttl, chainTTL)
		if len(records) == 0 && end != dns.CanonicalName(name) && m.Rcode == dns.RcodeSuccess && soa(m) == nil {
			name = end
			continue
		}
		return r.answerOf(m, records, ttl)
	}
	return &answer{failed: fmt.Errorf("more than %d CNAME records in a row", maxChain), expires: r.now().Add(failureTTL)}
}

// follow returns the records of qtype that m has for name, behind any CNAME records in m, the
// name at the end of those, and the smallest TTL on the way.
func follow(m *dns.Msg, name string, qtype uint16) (records []dns.RR, end string, ttl time.Duration) {
	end = dns.CanonicalName(name)
	ttl = time.Duration(1<<31-1) * time.Second // RFC 2181 section 8
	for range len(m.Answer) + 1 {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != end {
				continue
			}
			cname, isCNAME := rr.(*dns.CNAME)
			switch {
			case h.Rrtype == qtype:
				records = append(records, rr)
			case isCNAME:
				next = dns.CanonicalName(cname.Target)
			default:
				continue
			}
			ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
		}
		if next == "" || len(records) > 0 {
			break
		}
		end = next
	}
	return records, end, ttl
}

func soa(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if s, ok := rr.(*dns.SOA); ok {
			return s
		}
	}
	return nil
}

// answerOf builds the answer from the records that m gave.
func (r *Resolver) answerOf(m *dns.Msg, records []dns.RR, ttl time.Duration) *answer {
	a := &answer{missing: m.Rcode == dns.RcodeNameError && len(records) == 0}
	if len(records) == 0 {
		// RFC 2308 section 5: the lesser of the SOA record's TTL and its minimum field.
		ttl = min(ttl, r.cfg.MaxNegativeTTL)
		if s := soa(m); s != nil {
			ttl = min(ttl, time.Duration(min(s.Hdr.Ttl, s.Minttl))*time.Second)
		} else {
			ttl = 0
		}
	}
	a.expires = r.now().Add(min(max(ttl, r.cfg.MinTTL), r.cfg.MaxTTL))
	for _, rr := range records {
		switch rr := rr.(type) {
		case *dns.MX:
			if rr.Mx == "." {
				continue // RFC 7505 section 3: beside other records it says nothing
			}
			host := Host{Name: strings.TrimSuffix(dns.CanonicalName(rr.Mx), "."), Preference: rr.Preference}
			if !slices.ContainsFunc(a.hosts, func(h Host) bool { return h.Name == host.Name && h.Preference == host.Preference }) {
				a.hosts = append(a.hosts, host)
			}
		case *dns.A:
			a.addAddr(rr.A)
		case *dns.AAAA:
			a.addAddr(rr.AAAA)
		case *dns.TXT:
			a.addText(rr.Txt)
		}
	}
	a.null = len(records) > 0 && len(a.hosts) == 0 && len(a.addrs) == 0
	return a
}

func (a *answer) addAddr(ip []byte) {
	addr, ok := netip.AddrFromSlice(ip)
	if addr = addr.Unmap(); ok && len(a.addrs) < maxAddrs && !slices.Contains(a.addrs, addr) {
		a.addrs = append(a.addrs, addr)
	}
}

// askServers asks one name server after the other until one knows, in as many rounds as
// configured. Servers that are known not to answer come last.
func (r *Resolver) askServers(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	first := int(r.turn.Add(1) % uint32(len(r.servers))) //nolint:gosec // a handful of servers
	order := make([]*server, 0, len(r.servers))
	var resting []*server
	now := r.now().UnixNano()
	for i := range r.servers {
		s := &r.servers[(first+i)%len(r.servers)]
		if s.restUntil.Load() > now {
			resting = append(resting, s)
		} else {
			order = append(order, s)
		}
	}
	order = append(order, resting...)

	var lastErr error
	for range r.cfg.Rounds {
		silent := false
		for _, s := range order {
			m, err := r.askServer(ctx, s, name, qtype)
			switch {
			case err != nil:
				silent = true
				s.restUntil.Store(r.now().Add(serverRest).UnixNano())
				lastErr = err
			case m.Rcode == dns.RcodeSuccess, m.Rcode == dns.RcodeNameError:
				s.restUntil.Store(0)
				return m, nil
			default:
				lastErr = fmt.Errorf("%s from %s", dns.RcodeToString[m.Rcode], s.addr)
			}
		}
		if !silent {
			break // all have spoken; asking again at once changes nothing
		}
	}
	return nil, lastErr
}

// askServer asks one server: over UDP, without EDNS where the server does not know it, over TCP
// where the answer was cut off.
func (r *Resolver) askServer(ctx context.Context, s *server, name string, qtype uint16) (*dns.Msg, error) {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	query.SetEdns0(udpSize, false)
	m, err := r.exchange(ctx, "udp", s, query)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		query.Extra = nil // RFC 6891 section 7
		m, err = r.exchange(ctx, "udp", s, query)
	}
	if m != nil && m.Truncated {
		m, err = r.exchange(ctx, "tcp", s, query)
	}
	return m, err
}

// exchange returns the answer of s to query. An answer that is cut off may come with an error.
func (r *Resolver) exchange(ctx context.Context, network string, s *server, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	client := dns.Client{Net: network, Timeout: r.cfg.Timeout}
	m, _, err := client.ExchangeContext(ctx, query, s.addr)
	if err != nil {
		return m, fmt.Errorf("ask %s: %w", s.addr, err)
	}
	if m.Rcode == dns.RcodeFormatError && len(m.Question) == 0 {
		return m, nil // a server that did not understand the question need not repeat it
	}
	if !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != query.Question[0].Qtype ||
		!strings.EqualFold(m.Question[0].Name, query.Question[0].Name) {
		return nil, fmt.Errorf("ask %s: answer to another question", s.addr)
	}
	return m, nil
}
