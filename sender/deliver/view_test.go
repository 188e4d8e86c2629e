package deliver

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/queue"
)

// reload puts another configuration in force.
func (b *bench) reload(text string) {
	b.t.Helper()
	c, _, err := config.Parse("test", []byte("host-name node.test\n"+text))
	if err != nil {
		b.t.Fatal(err)
	}
	put, err := b.agent.Prepare(c)
	if err != nil {
		b.t.Fatal(err)
	}
	put()
}

func (p *peer) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

func TestReloadKeepsTheConnectionsThatStillFit(t *testing.T) {
	const idle = "<domain *>\nmax-smtp-out 1\nconnection-idle-timeout 1m\n"
	first, second := newPeer(t, always(nil)), newPeer(t, always(nil))
	b := newBench(t, to(first)+idle+"</domain>\n", names{mx: "mx.a.test", addr: first.addr.Addr()})
	b.start()
	b.put(time.Hour, "ann@a.test")
	b.events(1)

	b.reload(to(first) + idle + "max-msg-rate 1000/s\nmax-msg-per-connection 500\n</domain>\n")
	b.put(time.Hour, "ann@a.test")
	b.events(2)
	if n := first.connections(); n != 1 {
		t.Errorf("%d connections after other limits, want the first one still", n)
	}

	b.reload(to(second) + idle + "</domain>\n")
	b.put(time.Hour, "ann@a.test")
	for _, e := range b.events(3) {
		if e.Kind != event.Delivered {
			t.Errorf("%s: %s", e.Kind, e.Reply)
		}
	}
	if len(first.received()) != 2 || len(second.received()) != 1 || first.quits.Load() != 1 {
		t.Errorf("the first host took %d messages with %d QUITs, the second %d; want 2, 1, 1", len(first.received()), first.quits.Load(), len(second.received()))
	}
}

func TestReloadWithoutTheVirtualMTA(t *testing.T) {
	p := newPeer(t, always(nil))
	const vmta = "<virtual-mta v>\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta, names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.reload(to(p))
	b.putBy("v", time.Hour, "ann@a.test")
	b.start()
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && s[0].Recipients == 1 && s[0].DeferredWhy == errNoVMTA("v").Error()
	})
	b.reload(to(p) + vmta)
	b.manager.Schedule(func(queue.Name) bool { return true }, true)
	if e := b.events(1)[0]; e.Kind != event.Delivered {
		t.Errorf("%s: %s", e.Kind, e.Reply)
	}
}

// BenchmarkReload puts a configuration in force while 100,000 plans are known, and says how long planning is
// kept from going on.
func BenchmarkReload(b *testing.B) {
	c, _, err := config.Parse("test", []byte("host-name node.test\n"))
	if err != nil {
		b.Fatal(err)
	}
	a, err := New(Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	var paused time.Duration
	for b.Loop() {
		for i := range maxKnown {
			a.Plan(fmt.Sprintf("d%d.test", i), config.DefaultVMTA)
		}
		put, err := a.Prepare(c)
		if err != nil {
			b.Fatal(err)
		}
		since := time.Now()
		put()
		paused += time.Since(since)
	}
	b.ReportMetric(float64(paused.Microseconds())/float64(b.N), "µs-paused")
}
