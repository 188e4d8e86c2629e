package app

import (
	"net/smtp"
	"testing"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

// TestSourceDirectivesReachTheDelivery: what a source says of its mail holds until it is sent.
func TestSourceDirectivesReachTheDelivery(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s, "<source 127.0.0.1>", "verp-default yes", "</source>")
	p.run(func(address string) {
		p.send(address, "ann@a.test", "bob@a.test")
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
	})
	want := []string{"<news-ann=a.test@shop.test> to <ann@a.test>", "<news-bob=a.test@shop.test> to <bob@a.test>"}
	if got := s.delivered(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("sent %q; want %q", got, want)
	}
}

// TestRefusalOfSuppression: a recipient of a suppression list is refused as suppressed; PowerMTA's word
// for it is that of all policies. Who may not relay is refused as a matter of policy.
func TestRefusalOfSuppression(t *testing.T) {
	p := newPlace(t, newSink(t), "<address-list gone>", "address ann@a.test", "</address-list>",
		"<source 127.0.0.1>", "suppression-lists gone", "</source>")
	p.run(func(address string) {
		if err := smtp.SendMail(address, nil, "news@shop.test", []string{"ann@a.test"}, []byte("A: b\r\n\r\n")); err == nil {
			t.Error("a recipient of a suppression list is taken")
		}
		waitFor(t, "the refusal", func() bool { return p.kinds()[event.Rejected] == 1 })
	})
	e := p.events(event.Rejected)[0]
	if e.Category != taxonomy.Suppressed || e.PMTACategory != "policy-related" {
		t.Errorf("refused as %s, %s; want suppressed, policy-related", e.Category, e.PMTACategory)
	}
}
