package app

import (
	"path/filepath"
	"testing"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// TestFirstMailOfTheDayGoesToTheColdVMTA: as much as the quota says, over a restart.
func TestFirstMailOfTheDayGoesToTheColdVMTA(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s, `
<source 127.0.0.1>
 default-virtual-mta warm
</source>
<virtual-mta warm>
 cold-virtual-mta COLD
 <domain a.test>
  max-cold-virtual-mta-msg 3/d,9/d
 </domain>
</virtual-mta>
<virtual-mta cold>
</virtual-mta>`)
	for range 2 {
		p.run(func(address string) {
			before := s.taken.Load()
			p.send(address, "ann@a.test", "bob@a.test")
			p.send(address, "ann@a.test")
			p.send(address, "ann@b.test")
			p.send(address, "ann@a.test", "ann@b.test")
			waitFor(t, "deliveries", func() bool { return s.taken.Load() >= before+5 })
		})
	}
	got := map[string]int{}
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamEvent), 1, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == event.Delivered {
			got[e.VMTA+" "+e.RecipientDomain]++
		}
	}
	// Three messages of the four to a.test alone: two with two recipients and one with one.
	if got["cold a.test"] != 5 || got["warm a.test"] != 1+2 || got["warm b.test"] != 4 || len(got) != 3 {
		t.Errorf("delivered recipients %v", got)
	}
}
