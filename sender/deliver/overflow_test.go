package deliver

import (
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// What the loop's limit on a cold address holds back goes by the warm one; what it holds back on an
// address that is nobody's cold one waits.
func TestColdMailOverflowsToTheWarmVMTA(t *testing.T) {
	const vmtas = "<virtual-mta warm>\n smtp-source-host 127.0.0.2 warm.test\n cold-virtual-mta cold\n</virtual-mta>\n" +
		"<virtual-mta cold>\n smtp-source-host 127.0.0.3 cold.test\n warmup-start 2026-01-01\n</virtual-mta>\n" +
		"<virtual-mta alone>\n smtp-source-host 127.0.0.4 alone.test\n</virtual-mta>\n"
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+vmtas, names{mx: "mx.a.test", addr: p.addr.Addr()})
	d := limitsOf(nil)
	for _, source := range []string{"127.0.0.3", "127.0.0.4"} {
		d.Leases = append(d.Leases, limits.Lease{Provider: "a.test", Source: source, Epoch: 1, RatePerSecond: 1.0 / 60, ReasonID: "w1"})
	}
	b.throttle.Apply(d)
	for range 20 {
		b.putBy("cold", time.Hour, "ann@a.test")
	}
	b.putBy("alone", time.Hour, "eve@a.test")
	b.start()
	for _, e := range b.events(14) {
		if e.Kind != event.Delivered || e.Source != "127.0.0.2" || e.VMTA != "warm" {
			t.Errorf("%s from %s by %s, want delivered by the warm one", e.Kind, e.Source, e.VMTA)
		}
	}
	waitFor(t, func() bool {
		waiting := map[string]int{}
		for _, s := range b.manager.Statuses() {
			waiting[s.Name.VMTA] = s.Recipients
		}
		return waiting["warm"] == 0 && waiting["cold"] > 0 && waiting["cold"] < 7 && waiting["alone"] == 1
	})
}
