package app

import (
	"fmt"
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
	c, _, err := config.Parse("test", []byte("alias info@a.test ann@b.test,bob@c.test\n"))
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
}

func TestExpandIsBounded(t *testing.T) {
	var text strings.Builder
	recipients := make([]smtpd.Recipient, 0, maxExpanded/1000+1)
	for group := range maxExpanded/1000 + 1 {
		fmt.Fprintf(&text, "alias g%d@a.test ", group)
		for i := range 1000 {
			if i > 0 {
				text.WriteByte(',')
			}
			fmt.Fprintf(&text, "u%d.%d@b.test", group, i)
		}
		text.WriteByte('\n')
		recipients = append(recipients, smtpd.Recipient{Address: fmt.Sprintf("g%d@a.test", group)})
	}
	c, _, err := config.Parse("test", []byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := expand(c, recipients[1:]); err != nil || len(got) != maxExpanded {
		t.Errorf("%d recipients, %v", len(got), err)
	}
	if _, err := expand(c, recipients); err == nil || !strings.Contains(err.Error(), "554 5.4.6") {
		t.Errorf("too many: %v", err)
	}
}
