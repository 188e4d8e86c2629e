package deliver

import (
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// TestALimitOnOneSourceHoldsBackNoOther: what may not leave from one source leaves from the other.
func TestALimitOnOneSourceHoldsBackNoOther(t *testing.T) {
	const vmta = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	for name, tc := range map[string]struct {
		text   string
		leases []limits.Lease
		most   int // from the limited source
	}{
		"message rate": {"<domain *>\nsource-ip-max-msg-rate 127.0.0.2/32 1/d\n</domain>\n", nil, 1},
		"connect rate": {"<domain *>\nmax-msg-per-connection 1\nsource-ip-max-connect-rate 127.0.0.2/32 1/d\n</domain>\n", nil, 1},
		"lease": {"", []limits.Lease{
			{Provider: "a.test", Source: "127.0.0.2", Epoch: 1, RatePerSecond: 0, Connections: 1, MessagesPerConnection: 10, ReasonID: "r"},
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+vmta+tc.text, names{mx: "mx.a.test", addr: p.addr.Addr()})
			if tc.leases != nil {
				b.throttle.Apply(&limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Unix(0, 0), TTLSeconds: 600, Leases: tc.leases})
			}
			for range 5 {
				b.putBy("v", time.Hour, "ann@a.test")
			}
			b.start()
			limited := 0
			for _, e := range b.events(5) {
				if e.Kind != event.Delivered {
					t.Errorf("%s: %s", e.Kind, e.Reply)
				}
				if e.SourceIP.String() == "127.0.0.2" {
					limited++
				}
			}
			if limited > tc.most {
				t.Errorf("%d messages from the limited source, want at most %d", limited, tc.most)
			}
		})
	}
}
