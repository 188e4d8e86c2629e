package receivers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"carom/deploy/receivers/scenarios"
)

const dnsTTL = 60 // seconds; short, so that a change of the scenario is seen soon

// records is what the DNS knows: by lower-case name with the final dot.
type records struct {
	names map[string]bool // all names that exist, also those without a record of their own
	mx    map[string][]string
	a     map[string]netip.Addr
}

func zone(providers []scenarios.Provider, hosts []Host) *records {
	z := &records{names: map[string]bool{}, mx: map[string][]string{}, a: map[string]netip.Addr{}}
	for i := range providers {
		for _, domain := range providers[i].Domains {
			z.exists(domain)
			for _, host := range providers[i].MX {
				z.mx[dns.Fqdn(domain)] = append(z.mx[dns.Fqdn(domain)], dns.Fqdn(host))
			}
		}
	}
	for _, host := range hosts {
		z.exists(host.Name)
		z.a[dns.Fqdn(host.Name)] = host.Addr.Addr()
	}
	return z
}

// exists notes name and all that is above it: they are no NXDOMAIN (RFC 8020).
func (z *records) exists(name string) {
	for name != "" {
		z.names[dns.Fqdn(name)] = true
		_, name, _ = strings.Cut(name, ".")
	}
}

// ServeDNS implements dns.Handler.
func (z *records) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg)
	answer.SetReply(query)
	answer.Authoritative = true
	switch {
	case query.Opcode != dns.OpcodeQuery || len(query.Question) != 1:
		answer.Rcode = dns.RcodeNotImplemented
	default:
		z.answer(answer, query.Question[0])
	}
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
		answer.SetEdns0(opt.UDPSize(), false)
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	answer.Truncate(size)
	_ = w.WriteMsg(answer) // the resolver asks again
}

func (z *records) answer(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	header := func(rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: dnsTTL}
	}
	switch {
	case !z.names[name]:
		m.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeMX:
		for _, host := range z.mx[name] {
			m.Answer = append(m.Answer, &dns.MX{Hdr: header(dns.TypeMX), Preference: 10, Mx: host})
			if addr, ok := z.a[host]; ok {
				glue := dns.RR_Header{Name: host, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: dnsTTL}
				m.Extra = append(m.Extra, &dns.A{Hdr: glue, A: addr.AsSlice()})
			}
		}
	case q.Qtype == dns.TypeA:
		if addr, ok := z.a[name]; ok {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: addr.AsSlice()})
		}
	}
	if len(m.Answer) == 0 {
		// RFC 2308: a negative answer carries the SOA that says how long it holds.
		top := name[strings.LastIndexByte(strings.TrimSuffix(name, "."), '.')+1:]
		m.Ns = append(m.Ns, &dns.SOA{
			Hdr: dns.RR_Header{Name: top, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: dnsTTL},
			Ns:  "ns." + top, Mbox: "hostmaster." + top, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: dnsTTL,
		})
	}
}

// dnsServer serves one set of records over UDP and TCP on the same port.
type dnsServer struct {
	udp net.PacketConn
	tcp net.Listener
	all [2]*dns.Server
}

func listenDNS(ctx context.Context, addr string, handler dns.Handler, log *slog.Logger) (*dnsServer, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	for attempt := 1; ; attempt++ {
		udp, err := new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen for DNS: %w", err)
		}
		_, bound, err := net.SplitHostPort(udp.LocalAddr().String())
		if err != nil {
			return nil, errors.Join(err, udp.Close())
		}
		tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, bound))
		if err == nil {
			log.Debug("dns listens", "addr", udp.LocalAddr().String())
			return &dnsServer{
				udp: udp, tcp: tcp,
				all: [2]*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}},
			}, nil
		}
		_ = udp.Close()
		if port != "0" || attempt == portAttempts {
			return nil, fmt.Errorf("listen for DNS: %w", err)
		}
	}
}

func (s *dnsServer) addr() string { return s.udp.LocalAddr().String() }

func (s *dnsServer) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
}

// serve answers until ctx ends.
func (s *dnsServer) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	errs := make([]error, len(s.all))
	var wg sync.WaitGroup
	for i, server := range s.all {
		wg.Go(func() {
			// A closed socket ends ActivateAndServe with an error; at the end of ctx it is none.
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				errs[i] = fmt.Errorf("serve DNS: %w", err)
				s.close()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
