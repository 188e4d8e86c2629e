package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"carom/schemas/smtpstatus"
)

// nameServer answers on UDP and TCP of one port of 127.0.0.1 and counts what it is asked.
type nameServer struct {
	addr   netip.AddrPort
	answer func(network string, query, m *dns.Msg) (silent bool)

	mu    sync.Mutex
	asked map[string]int // by "TYPE name network"
}

// startServer runs a name server. answer fills m, which is a reply with RcodeSuccess.
func startServer(tb testing.TB, answer func(network string, query, m *dns.Msg) (silent bool)) *nameServer {
	tb.Helper()
	s := &nameServer{answer: answer, asked: map[string]int{}}
	pc, l := listenBoth(tb)
	s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	for _, server := range []*dns.Server{
		{PacketConn: pc, Handler: s.handler("udp")}, {Listener: l, Handler: s.handler("tcp")},
	} {
		up := make(chan struct{})
		server.NotifyStartedFunc = func() { close(up) }
		done := make(chan error, 1)
		go func() { done <- server.ActivateAndServe() }()
		<-up
		tb.Cleanup(func() {
			server.Shutdown()
			<-done
		})
	}
	return s
}

// listenBoth listens on one free port with both protocols. A port that is free for one may be in use
// for the other.
func listenBoth(tb testing.TB) (net.PacketConn, net.Listener) {
	tb.Helper()
	for tries := 0; ; tries++ {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l
		}
		_ = pc.Close()
		if tries == 20 {
			tb.Fatal(err)
		}
	}
}

func (s *nameServer) handler(network string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) {
		s.mu.Lock()
		q := query.Question[0]
		s.asked[fmt.Sprintf("%s %s %s", dns.TypeToString[q.Qtype], q.Name, network)]++
		s.mu.Unlock()
		m := new(dns.Msg).SetReply(query)
		if !s.answer(network, query, m) {
			w.WriteMsg(m)
		}
	}
}

func (s *nameServer) count(question string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[question]
}

func (s *nameServer) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.asked {
		n += c
	}
	return n
}

// zone answers from records as in a zone file. It follows no CNAME by itself. A name with no
// record at all does not exist; one named servfail fails.
func zone(tb testing.TB, text string) func(network string, query, m *dns.Msg) bool {
	tb.Helper()
	var records []dns.RR
	parser := dns.NewZoneParser(strings.NewReader(text), ".", "")
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		records = append(records, rr)
	}
	if err := parser.Err(); err != nil {
		tb.Fatal(err)
	}
	return func(_ string, _, m *dns.Msg) bool {
		q := m.Question[0]
		exists := false
		for _, rr := range records {
			h := rr.Header()
			if !strings.EqualFold(h.Name, q.Name) {
				continue
			}
			exists = true
			if h.Rrtype == q.Qtype || h.Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, dns.Copy(rr))
			}
		}
		if strings.HasPrefix(q.Name, "servfail.") {
			m.Rcode = dns.RcodeServerFailure
		} else if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 && m.Rcode != dns.RcodeServerFailure {
			soa, _ := dns.NewRR(". 600 IN SOA ns. admin. 1 2 3 4 60")
			m.Ns = append(m.Ns, soa)
		}
		return false
	}
}

const exampleZone = `
example.com.      300 IN MX 20 b.example.com.
example.com.      300 IN MX 10 A1.example.com.
example.com.      300 IN MX 10 a2.example.com.
example.com.      300 IN MX 10 a2.example.com.
a1.example.com.   300 IN A 127.0.0.1
a2.example.com.   300 IN A 127.0.0.2
a2.example.com.   200 IN AAAA 2001:db8::2
b.example.com.    300 IN A 10.0.0.3
direct.com.       300 IN A 192.0.2.7
null.com.         300 IN MX 0 .
null2.com.        300 IN MX 0 .
null2.com.        300 IN MX 10 b.example.com.
nothing.com.      300 IN TXT "x"
dead.com.         300 IN MX 10 gone.dead.com.
dead.com.         300 IN MX 10 nothing.com.
maybe.com.        300 IN MX 10 gone.dead.com.
maybe.com.        300 IN MX 20 servfail.com.
half.com.         300 IN MX 10 servfail.com.
half.com.         300 IN MX 20 b.example.com.
alias.com.        100 IN CNAME alias2.com.
alias2.com.       300 IN CNAME example.com.
mxalias.com.      300 IN MX 10 alias3.com.
alias3.com.       300 IN CNAME b.example.com.
loop.com.         300 IN CNAME loop2.com.
loop2.com.        300 IN CNAME loop.com.
xn--mller-kva.de. 300 IN MX 10 b.example.com.
local.com.        300 IN MX 10 localhost.
`

func newResolver(tb testing.TB, cfg Config, servers ...*nameServer) *Resolver {
	tb.Helper()
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, s.addr)
	}
	r, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// write returns a route as in "10 a=127.0.0.1 | 20 b=", hosts of one preference sorted.
func write(route Route) string {
	hosts := make([]string, 0, len(route.Hosts))
	for _, h := range route.Hosts {
		addrs := make([]string, 0, len(h.Addrs))
		for _, a := range h.Addrs {
			addrs = append(addrs, a.String())
		}
		hosts = append(hosts, fmt.Sprintf("%d %s=%s", h.Preference, h.Name, strings.Join(addrs, ",")))
	}
	slices.Sort(hosts)
	return strings.Join(hosts, " | ")
}

func TestRoute(t *testing.T) {
	s := startServer(t, zone(t, exampleZone))
	for _, tc := range []struct {
		domain   string
		want     string
		ttl      time.Duration
		implicit bool
		err      error
		enhanced string
	}{
		{"example.com", "10 a1.example.com=127.0.0.1 | 10 a2.example.com=127.0.0.2,2001:db8::2 | 20 b.example.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"EXAMPLE.com.", "10 a1.example.com=127.0.0.1 | 10 a2.example.com=127.0.0.2,2001:db8::2 | 20 b.example.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"direct.com", "0 direct.com=192.0.2.7", 60 * time.Second, true, nil, ""},
		{"alias.com", "10 a1.example.com=127.0.0.1 | 10 a2.example.com=127.0.0.2,2001:db8::2 | 20 b.example.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"mxalias.com", "10 alias3.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"müller.de", "10 b.example.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"local.com", "10 localhost=127.0.0.1,::1", 300 * time.Second, false, nil, ""},
		{"null2.com", "10 b.example.com=10.0.0.3", 60 * time.Second, false, nil, ""},
		{"half.com", "10 servfail.com= | 20 b.example.com=10.0.0.3", 5 * time.Second, false, nil, ""},
		{"[127.0.0.1]", "0 [127.0.0.1]=127.0.0.1", 24 * time.Hour, false, nil, ""},
		{"[IPv6:2001:db8::1]", "0 [ipv6:2001:db8::1]=2001:db8::1", 24 * time.Hour, false, nil, ""},
		{"null.com", "", 0, false, ErrNullMX, "5.1.10"},
		{"nowhere.com", "", 0, false, ErrNotFound, "5.1.2"},
		{"nothing.com", "0 nothing.com=", 60 * time.Second, true, ErrNoAddress, "5.4.4"},
		{"dead.com", "10 gone.dead.com= | 10 nothing.com=", 60 * time.Second, false, ErrNoAddress, "5.4.4"},
		{"maybe.com", "10 gone.dead.com= | 20 servfail.com=", 5 * time.Second, false, ErrUnavailable, "4.4.3"},
		{"servfail.com", "", 0, false, ErrUnavailable, "4.4.3"},
		{"loop.com", "", 0, false, ErrUnavailable, "4.4.3"},
		{"", "", 0, false, ErrBadName, "5.1.2"},
		{"a b.com", "", 0, false, ErrBadName, "5.1.2"},
		{"a..com", "", 0, false, ErrBadName, "5.1.2"},
		{"[1.2.3]", "", 0, false, ErrBadName, "5.1.2"},
		{"[2001:db8::1]", "", 0, false, ErrBadName, "5.1.2"},
		{"[IPv6:127.0.0.1]", "", 0, false, ErrBadName, "5.1.2"},
		{"[1.2.3.4", "", 0, false, ErrBadName, "5.1.2"},
	} {
		t.Run(tc.domain, func(t *testing.T) {
			r := newResolver(t, Config{}, s)
			now := time.Now()
			r.now = func() time.Time { return now }
			for _, from := range []string{"servers", "cache"} {
				route, err := r.Route(t.Context(), tc.domain)
				if !errors.Is(err, tc.err) {
					t.Fatalf("from %s: error %v, want %v", from, err, tc.err)
				}
				if e, ok := errors.AsType[*Error](err); ok {
					if e.Temporary() != errors.Is(tc.err, ErrUnavailable) || e.Enhanced().String() != tc.enhanced {
						t.Errorf("temporary %v, %s, want %s", e.Temporary(), e.Enhanced(), tc.enhanced)
					}
				}
				if got := write(route); got != tc.want {
					t.Errorf("from %s: got  %s\nwant %s", from, got, tc.want)
				}
				if route.TTL != tc.ttl || route.Implicit != tc.implicit {
					t.Errorf("from %s: ttl %v, implicit %v, want %v and %v", from, route.TTL, route.Implicit, tc.ttl, tc.implicit)
				}
			}
		})
	}
}

func TestOrderWithinPreference(t *testing.T) {
	r := newResolver(t, Config{}, startServer(t, zone(t, exampleZone)))
	first := map[string]bool{}
	for range 200 {
		route, err := r.Route(t.Context(), "example.com")
		if err != nil {
			t.Fatal(err)
		}
		first[route.Hosts[0].Name] = true
		if last := route.Hosts[2].Name; last != "b.example.com" {
			t.Fatalf("least preferred host is %s", last)
		}
	}
	if diff := cmp.Diff(map[string]bool{"a1.example.com": true, "a2.example.com": true}, first); diff != "" {
		t.Errorf("hosts that came first (-want +got):\n%s", diff)
	}
}

func TestFamily(t *testing.T) {
	s := startServer(t, zone(t, exampleZone))
	for _, tc := range []struct {
		family Family
		want   string
	}{
		{IPv4First, "127.0.0.2 2001:db8::2"},
		{IPv6First, "2001:db8::2 127.0.0.2"},
		{IPv4Only, "127.0.0.2"},
		{IPv6Only, "2001:db8::2"},
	} {
		addrs, err := newResolver(t, Config{Family: tc.family}, s).LookupHost(t.Context(), "a2.example.com")
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); got != tc.want || err != nil {
			t.Errorf("family %d: got %s, %v, want %s", tc.family, got, err, tc.want)
		}
	}
	if _, err := newResolver(t, Config{Family: IPv6Only}, s).LookupHost(t.Context(), "a1.example.com"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("IPv6 of a host with IPv4 only: %v, want %v", err, ErrNoAddress)
	}
}

func TestLookupHost(t *testing.T) {
	r := newResolver(t, Config{}, startServer(t, zone(t, exampleZone)))
	for _, tc := range []struct {
		host, want string
		err        error
	}{
		{"b.example.com", "10.0.0.3", nil},
		{"192.0.2.1", "192.0.2.1", nil},
		{"2001:db8::5", "2001:db8::5", nil},
		{"[192.0.2.1]", "192.0.2.1", nil},
		{"localhost", "127.0.0.1 ::1", nil},
		{"gone.example.com", "", ErrNotFound},
		{"servfail.com", "", ErrUnavailable},
		{"a/b", "", ErrBadName},
	} {
		addrs, err := r.LookupHost(t.Context(), tc.host)
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("LookupHost(%q) = %s, %v, want %s, %v", tc.host, got, err, tc.want, tc.err)
		}
	}
}

func TestCache(t *testing.T) {
	s := startServer(t, zone(t, exampleZone+"short.com. 0 IN A 192.0.2.1\nlong.com. 999999 IN A 192.0.2.2\n"))
	for _, tc := range []struct {
		name, host, question string
		fresh                time.Duration // still from the cache
		stale                time.Duration // asked again
	}{
		{"TTL of the answer", "b.example.com", "A b.example.com. udp", 299 * time.Second, 300 * time.Second},
		{"at least MinTTL", "short.com", "A short.com. udp", 4 * time.Second, 5 * time.Second},
		{"at most MaxTTL", "long.com", "A long.com. udp", time.Hour - 1, time.Hour},
		{"NXDOMAIN: minimum of the SOA", "gone.com", "A gone.com. udp", 59 * time.Second, 60 * time.Second},
		{"no data: minimum of the SOA", "b.example.com", "AAAA b.example.com. udp", 59 * time.Second, 60 * time.Second},
		{"failure", "servfail.com", "A servfail.com. udp", 4 * time.Second, 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newResolver(t, Config{MaxTTL: time.Hour}, s)
			now := time.Now()
			ask := func(after time.Duration) int {
				r.now = func() time.Time { return now.Add(after) }
				before := s.count(tc.question)
				_, _ = r.LookupHost(t.Context(), tc.host)
				return s.count(tc.question) - before
			}
			if got := ask(0); got != 1 {
				t.Errorf("first: asked %d times, want 1", got)
			}
			if got := ask(tc.fresh); got != 0 {
				t.Errorf("after %v: asked %d times, want 0", tc.fresh, got)
			}
			if got := ask(tc.stale); got != 1 {
				t.Errorf("after %v: asked %d times, want 1", tc.stale, got)
			}
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := startServer(t, func(_ string, _, m *dns.Msg) bool {
		rr, err := dns.NewRR(m.Question[0].Name + " 300 IN A 192.0.2.1")
		m.Answer = append(m.Answer, rr)
		return err != nil
	})
	r := newResolver(t, Config{CacheEntries: 3, Family: IPv4Only}, s)
	for _, host := range []string{"a", "b", "c", "a", "d", "a", "c", "d", "b"} {
		if _, err := r.LookupHost(t.Context(), host+".example"); err != nil {
			t.Fatal(err)
		}
	}
	// d drops b, the one not used for longest; b comes back and drops a.
	want := map[string]int{"A a.example. udp": 1, "A b.example. udp": 2, "A c.example. udp": 1, "A d.example. udp": 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(want, s.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if len(r.cache.byName) != 3 || r.cache.byUse.Len() != 3 {
		t.Errorf("cache holds %d and %d, want 3", len(r.cache.byName), r.cache.byUse.Len())
	}
}

func TestAskedOnceByMany(t *testing.T) {
	const many = 50
	release := make(chan struct{})
	answer := zone(t, exampleZone)
	s := startServer(t, func(network string, query, m *dns.Msg) bool {
		<-release
		return answer(network, query, m)
	})
	r := newResolver(t, Config{}, s)

	// One who gives up does not take the question away from the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Route(ctx, "example.com"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, many)
	for i := range many {
		wg.Go(func() { _, errs[i] = r.Route(t.Context(), "example.com") })
	}
	close(release)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if got := s.count("MX example.com. udp"); got != 1 {
		t.Errorf("MX asked %d times, want 1", got)
	}
}

func TestTruncated(t *testing.T) {
	s := startServer(t, func(network string, query, m *dns.Msg) bool {
		if network == "udp" {
			m.Truncated = true
			return false
		}
		for i := range 40 {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 300 IN MX %d mx%d.a-long-name-to-fill-the-packet.example.", query.Question[0].Name, i, i))
			m.Answer = append(m.Answer, rr)
		}
		return false
	})
	r := newResolver(t, Config{Family: IPv4Only}, s)
	route, err := r.Route(t.Context(), "big.com")
	if len(route.Hosts) != maxHosts || route.Hosts[0].Preference != 0 {
		t.Errorf("%d hosts, first %+v; want %d hosts from preference 0 on", len(route.Hosts), route.Hosts[0], maxHosts)
	}
	if !errors.Is(err, ErrNoAddress) { // the server has MX records only
		t.Errorf("error %v, want %v", err, ErrNoAddress)
	}
	if got := s.count("MX big.com. tcp"); got != 1 {
		t.Errorf("asked %d times over TCP, want 1", got)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	answer := zone(t, exampleZone)
	s := startServer(t, func(network string, query, m *dns.Msg) bool {
		if query.IsEdns0() != nil {
			m.Rcode, m.Question = dns.RcodeFormatError, nil
			return false
		}
		return answer(network, query, m)
	})
	if _, err := newResolver(t, Config{Family: IPv4Only}, s).LookupHost(t.Context(), "b.example.com"); err != nil {
		t.Error(err)
	}
}

func TestFailOver(t *testing.T) {
	good := startServer(t, zone(t, exampleZone))
	silent := startServer(t, func(string, *dns.Msg, *dns.Msg) bool { return true })
	failing := startServer(t, func(_ string, _, m *dns.Msg) bool { m.Rcode = dns.RcodeServerFailure; return false })
	foreign := startServer(t, func(_ string, _, m *dns.Msg) bool { m.Question[0].Name = "other.example."; return false })
	r := newResolver(t, Config{Timeout: 100 * time.Millisecond, Family: IPv4Only}, silent, failing, foreign, good)
	for i := range 8 {
		r.cache = cache{limit: 1}
		if _, err := r.LookupHost(t.Context(), "b.example.com"); err != nil {
			t.Errorf("question %d: %v", i, err)
		}
	}
	if got := silent.total(); got != 1 {
		t.Errorf("the silent server was asked %d times, want 1: it rests afterwards", got)
	}
}

func TestNobodyAnswers(t *testing.T) {
	silent := startServer(t, func(string, *dns.Msg, *dns.Msg) bool { return true })
	r := newResolver(t, Config{Timeout: 20 * time.Millisecond, Rounds: 3}, silent)
	_, err := r.Route(t.Context(), "example.com")
	e, ok := errors.AsType[*Error](err)
	if !ok || !e.Temporary() || e.Name != "example.com" || e.Enhanced() != (smtpstatus.Enhanced{Class: 4, Subject: 4, Detail: 3}) {
		t.Errorf("got %v, want a temporary *Error", err)
	}
	if got := silent.total(); got != 3 {
		t.Errorf("asked %d times, want 3", got)
	}
}

func TestResolvConf(t *testing.T) {
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	r, err := New(Config{ResolvConf: write("# comment\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n")})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.servers[0].addr+" "+r.servers[1].addr, "192.0.2.1:53 [2001:db8::1]:53"; got != want {
		t.Errorf("servers %s, want %s", got, want)
	}
	for name, file := range map[string]string{
		"no server":  write("search example.com\n"),
		"bad server": write("nameserver here\n"),
		"no file":    filepath.Join(t.TempDir(), "none"),
	} {
		if _, err := New(Config{ResolvConf: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: error %v, want one that names %s", name, err, file)
		}
	}
}

func BenchmarkRouteFromCache(b *testing.B) {
	r := newResolver(b, Config{}, startServer(b, zone(b, exampleZone)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Route(b.Context(), "example.com"); err != nil {
			b.Fatal(err)
		}
	}
}
