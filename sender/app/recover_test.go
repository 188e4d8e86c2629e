package app

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/sender/spool"
)

// TestMessageThatNobodyCanQueueIsDropped: at a start, a message of which neither the tag nor the envelope
// says who the recipients are would stay in the spool for ever.
func TestMessageThatNobodyCanQueueIsDropped(t *testing.T) {
	sink := newSink(t)
	p := newPlace(t, sink)
	dir := p.config.Spools[0].Dir
	s, err := spool.Open(t.Context(), dir, spool.Options{SegmentBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]event.ID, 3)
	for i := range ids { // a segment each, and so an index that knows of the damaged one
		ids[i] = event.NewID()
		if err := s.Put(t.Context(), &spool.Envelope{
			ID: ids[i], From: "news@shop.test", Arrived: time.Now(), VMTA: "{default}", Recipients: []spool.Recipient{{Address: "ann@a.test"}},
			Tag: []byte{0xff},
		}, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "messages", "00000000000000000001.log")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, ids[0][:])] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(func(string) {
		waitFor(t, "the others to be delivered", func() bool { return p.kinds()[event.Delivered] == 2 })
	})
	if live := p.live(); live != 0 {
		t.Errorf("%d recipients in the spool, want none", live)
	}
}
