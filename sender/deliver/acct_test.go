package deliver

import (
	"testing"

	"carom/schemas/event"
	"carom/sender/config"
)

func TestUnaccounted(t *testing.T) {
	c, _, err := config.Parse("test", []byte("<domain a.test>\ndisable-acct-records t,tq\n</domain>\n"))
	if err != nil {
		t.Fatal(err)
	}
	skip := Unaccounted(func() *config.Config { return c })
	for _, tc := range []struct {
		queue string
		kind  event.Kind
		want  bool
	}{
		{"a.test/{default}", event.Deferred, true},
		{"a.test/{default}", event.QueueDeferred, true},
		{"a.test/{default}", event.Delivered, false},
		{"b.test/{default}", event.Deferred, false},
		{"", event.Received, false},
	} {
		if got := skip(&event.Event{Queue: tc.queue, Kind: tc.kind}); got != tc.want {
			t.Errorf("%s of %q is left out: %v", tc.kind, tc.queue, got)
		}
	}
	// A reload counts at once.
	if c, _, err = config.Parse("test", []byte("<domain b.test>\ndisable-acct-records t\n</domain>\n")); err != nil {
		t.Fatal(err)
	}
	for queue, want := range map[string]bool{"a.test/{default}": false, "b.test/{default}": true} {
		if got := skip(&event.Event{Queue: queue, Kind: event.Deferred}); got != want {
			t.Errorf("after the reload t of %q is left out: %v", queue, got)
		}
	}
}
