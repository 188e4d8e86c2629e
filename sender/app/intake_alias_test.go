package app

import (
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/smtpd"
)

func TestAliasesAreExpanded(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s, "postmaster ops@far.test", "alias info@a.test ann@b.test,bob@c.test")
	p.run(func(address string) {
		p.send(address, "info@a.test", "postmaster@node.test", "ann@b.test")
		waitFor(t, "three deliveries", func() bool { return p.kinds()[event.Delivered] == 3 })
	})
	if counts := p.kinds(); counts[event.Received] != 3 || p.live() != 0 {
		t.Errorf("received %d, left %d; want 3 and 0", counts[event.Received], p.live())
	}
}

func TestExpandKeepsWhatWasAsked(t *testing.T) {
	c, _, err := config.Parse("test", []byte("alias info@a.test ann@b.test,bob@c.test\nalias *@loop.test x@loop2.test\nalias *@loop2.test y@loop.test\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := expand(c, []smtpd.Recipient{{Address: "info@a.test", Notify: "FAILURE"}, {Address: "Ann@b.test"}, {Address: "carl@d.test", ORcpt: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []smtpd.Recipient{
		{Address: "ann@b.test", ORcpt: "info@a.test", Notify: "FAILURE"},
		{Address: "bob@c.test", ORcpt: "info@a.test", Notify: "FAILURE"},
		{Address: "carl@d.test", ORcpt: "x"},
	}
	if len(got) != len(want) {
		t.Fatalf("expand = %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("recipient %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if _, err := expand(c, []smtpd.Recipient{{Address: "a@loop.test"}}); err == nil || !strings.Contains(err.Error(), "554 5.4.6") {
		t.Errorf("a circle: %v", err)
	}
}
