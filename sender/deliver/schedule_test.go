package deliver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/queue"
)

// TestScheduleHoldsForRetriesToo: mail that gets its turn outside its windows waits for the next one.
func TestScheduleHoldsForRetriesToo(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	window := func(from, to time.Duration) string {
		const layout = "2006-01-02 15:04:05"
		now := time.Now().UTC()
		return now.Add(from).Format(layout) + " / " + now.Add(to).Format(layout)
	}
	b.attrs = map[string]string{AttrSchedule: window(time.Hour, 2*time.Hour)}
	b.put(3*time.Hour, "later@a.test")
	b.attrs = map[string]string{AttrSchedule: window(-time.Hour, time.Hour)}
	b.put(3*time.Hour, "now@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.Recipient != "now@a.test" {
		t.Errorf("%s for %s, want the one inside its window delivered", e.Kind, e.Recipient)
	}
	name := queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA}
	waitFor(t, func() bool {
		waiting := b.manager.Peek(queue.Filter{Queue: name.String()}, 2)
		return len(waiting) == 1 && time.Until(waiting[0].Item.Due.Time()) > 50*time.Minute
	})
	if n := len(p.received()); n != 1 {
		t.Errorf("%d messages were sent, want 1", n)
	}
}

// TestSourceThatIsNotHere: an address that this machine does not have is left out, and mail goes by
// the other one.
func TestSourceThatIsNotHere(t *testing.T) {
	p := newPeer(t, always(nil))
	const vmta = "<virtual-mta v>\nsmtp-source-host 192.0.2.77 gone.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta, names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.putBy("v", time.Hour, "ann@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.SourceIP.String() != "127.0.0.3" {
		t.Errorf("%s from %s, want it delivered from 127.0.0.3", e.Kind, e.SourceIP)
	}
	select {
	case note := <-b.notes:
		if !strings.Contains(note, "192.0.2.77") || !strings.Contains(note, "not an address of this machine") {
			t.Errorf("note %q does not say what is wrong", note)
		}
	default:
		t.Error("nobody is told")
	}
}

func TestMissingSources(t *testing.T) {
	list := []source{{addr: netip.MustParseAddr("127.9.9.9")}, {addr: netip.MustParseAddr("192.0.2.77")}, {addr: netip.MustParseAddr("::1")}}
	if absent := missing(list); len(absent) != 1 || absent[0] != list[1].addr {
		t.Errorf("missing: %v, want 192.0.2.77 alone", absent)
	}
}
