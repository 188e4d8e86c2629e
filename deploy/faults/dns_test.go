package faults

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"carom/deploy/rig"
	"carom/schemas/event"
)

// dnsConfig finds its peer by DNS. It wants the name server, the port and the queue that does not.
const dnsConfig = `name-server %s
default-smtp-port %s
<domain lost.test>
    retry-after 1s
    retry-after-dns-error 1s
</domain>
%s`

// TestSilentNameServer has a name server that does not answer: mail for the domains that need it waits,
// other mail goes on, and when the server answers again nothing is missing.
func TestSilentNameServer(t *testing.T) {
	s := &scene{audit: &rig.Audit{}}
	receiver := rig.NewReceiver(t, s.audit, nil)
	dns := rig.NewDNS(t, map[string]string{"lost.test": "mx.lost.test"}, map[string]netip.Addr{"mx.lost.test": netip.MustParseAddr("127.0.0.1")})
	s.node = rig.NewNode(t, fmt.Sprintf(dnsConfig, dns.Address, receiver.Port(), fmt.Sprintf(goodConfig, receiver.Port())))
	dns.Silence(true)
	if err := s.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.send(t, "lost.test", 10, 2000)
	s.send(t, "good.test", 10, 2000)
	s.arrived(t, 10, "mail that needs no name server")
	rig.Await(t, patience, "the queue to be put off", func(context.Context) error {
		events, err := rig.Events(s.node.Events())
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Kind == event.QueueDeferred && e.RecipientDomain == "lost.test" && e.Phase == event.PhaseResolve {
				return nil
			}
		}
		return errors.New("no event says so")
	})
	if dns.Asked() == 0 {
		t.Error("nobody asked the name server")
	}
	dns.Silence(false)
	s.arrived(t, 20, "mail that waited for the name server")
	s.settle(t)
}
