package ship

import (
	"log/slog"
	"strings"
	"testing"
)

// A table that remembers no tokens would store a repeated batch twice: nothing is shipped until it
// does, and the log says so.
func TestWaitsForATableThatRemembers(t *testing.T) {
	n := newNode(t)
	set := func(window string) {
		if err := n.conn.Exec(t.Context(), "ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = "+window); err != nil {
			t.Fatal(err)
		}
	}
	set("0")
	n.deliver(3)
	var text syncBuffer
	s, stop := n.start(Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	within(t, "the log says why", func() bool { return strings.Contains(text.String(), "events remembers no tokens") })
	if got := s.Status().EventSeq; got != 0 {
		t.Errorf("%d events were shipped to a table that remembers no tokens", got)
	}
	set("20000")
	within(t, "events shipped", func() bool { return s.Status().EventSeq == 3 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	n.wantExact()
}
