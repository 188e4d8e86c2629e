package rig

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// DNS is a name server that knows a few names and can fall silent.
type DNS struct {
	Address string

	mx     map[string]string
	a      map[string]netip.Addr
	silent atomic.Bool
	asked  atomic.Int64
}

// NewDNS starts a name server on a loopback address. mx maps domains to their MX host, a maps hosts
// to their address; everything else does not exist.
func NewDNS(tb testing.TB, mx map[string]string, a map[string]netip.Addr) *DNS {
	tb.Helper()
	packets, err := new(net.ListenConfig).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	d := &DNS{Address: packets.LocalAddr().String(), mx: mx, a: a}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(d.serve)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ActivateAndServe() // it ends with the socket
	}()
	tb.Cleanup(func() {
		_ = packets.Close()
		<-ended
	})
	return d
}

// Silence makes the server stop answering, or answer again.
func (d *DNS) Silence(silent bool) { d.silent.Store(silent) }

// Asked returns how many queries have come.
func (d *DNS) Asked() int64 { return d.asked.Load() }

func (d *DNS) serve(w dns.ResponseWriter, query *dns.Msg) {
	d.asked.Add(1)
	if d.silent.Load() || len(query.Question) != 1 {
		return
	}
	answer := new(dns.Msg)
	answer.SetReply(query)
	q := query.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}
	host, isDomain := d.mx[name]
	address, isHost := d.a[name]
	switch {
	case q.Qtype == dns.TypeMX && isDomain:
		answer.Answer = append(answer.Answer, &dns.MX{Hdr: header, Preference: 10, Mx: dns.Fqdn(host)})
	case q.Qtype == dns.TypeA && isHost:
		answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: address.AsSlice()})
	case !isDomain && !isHost:
		answer.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(answer) // who does not get it asks again
}
