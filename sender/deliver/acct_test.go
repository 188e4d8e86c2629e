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
	skip := Unaccounted(c)
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
	if c, _, err = config.Parse("test", nil); err != nil || Unaccounted(c) != nil {
		t.Errorf("there is something to leave out without the directive (%v)", err)
	}
}
