package deliver

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/taxonomy"
	"carom/sender/spool"
)

// brokenMail is a spool that fails to read some messages. Messages that were dropped stay in it.
type brokenMail struct {
	Mail
	whole, envelope error // what Read and Envelope fail with
	dropped         atomic.Pointer[error]
}

func (m *brokenMail) Envelope(id event.ID) (*spool.Envelope, error) {
	if m.envelope != nil {
		return nil, m.envelope
	}
	return m.Mail.Envelope(id)
}

func (m *brokenMail) Read(id event.ID) (*spool.Envelope, []byte, error) { return nil, nil, m.whole }

func (m *brokenMail) Drop(_ event.ID, err error) { m.dropped.Store(&err) }

// TestUnreadableMessage: the recipients of a damaged message are accounted for and not tried again; only
// errors that may be gone later keep them.
func TestUnreadableMessage(t *testing.T) {
	corrupt := fmt.Errorf("message: %w", &seglog.CorruptError{File: "1.log", Offset: 40, Reason: "payload does not match its checksum"})
	malformed := fmt.Errorf("message: %w", spool.ErrDamaged)
	gone := fmt.Errorf("message: %w", spool.ErrNotFound)
	broken := fmt.Errorf("read record: %w", syscall.EIO)
	for _, tc := range []struct {
		name            string
		whole, envelope error
		expires         time.Duration
		bounced, queued int
		dropped         error
	}{
		{name: "body is damaged", whole: corrupt, expires: time.Hour, bounced: 2},
		{name: "body is another record", whole: malformed, expires: time.Hour, bounced: 2},
		{name: "envelope is damaged", whole: corrupt, envelope: corrupt, expires: time.Hour, dropped: corrupt},
		{name: "envelope is malformed", whole: malformed, envelope: malformed, expires: time.Hour, dropped: malformed},
		{name: "envelope of an expired message is damaged", envelope: corrupt, expires: -time.Second, dropped: corrupt},
		{name: "finished", whole: gone, expires: time.Hour},
		{name: "damaged, then finished", whole: corrupt, envelope: gone, expires: time.Hour},
		{name: "disk fails", whole: broken, expires: time.Hour, queued: 2},
		{name: "damaged, then the disk fails", whole: corrupt, envelope: broken, expires: time.Hour, queued: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
			mail := &brokenMail{Mail: b.spool, whole: tc.whole, envelope: tc.envelope}
			b.agent.Mail = mail
			b.put(tc.expires, "ann@a.test", "bob@a.test")
			b.start()
			waitFor(t, func() bool { // tried, and at rest
				queued, due, sessions := 0, 0, 0
				for _, s := range b.manager.Statuses() {
					queued, due, sessions = queued+s.Recipients, due+s.Due, sessions+s.Sessions
				}
				return queued == tc.queued && due == 0 && sessions == 0
			})
			for _, e := range b.events(tc.bounced) {
				if e.Kind != event.Bounced || e.Enhanced != "5.3.0" || e.Reply != "message is damaged in the spool" || e.ReplyTemplate != e.Reply ||
					e.Category != taxonomy.System || e.Dimension != taxonomy.Other {
					t.Errorf("event %s, status %s, reply %q, category %s, dimension %s", e.Kind, e.Enhanced, e.Reply, e.Category, e.Dimension)
				}
			}
			if got := len(b.events(0)); got != tc.bounced {
				t.Errorf("%d events, want %d", got, tc.bounced)
			}
			if dropped := mail.dropped.Load(); (dropped != nil) != (tc.dropped != nil) || dropped != nil && !errors.Is(*dropped, tc.dropped) {
				t.Errorf("dropped for %v, want %v", dropped, tc.dropped)
			}
			if live := b.spool.Stats().Recipients; live != 2-tc.bounced {
				t.Errorf("%d recipients in the spool, want %d", live, 2-tc.bounced)
			}
			if got := p.received(); len(got) != 0 {
				t.Errorf("the peer has %q", got)
			}
		})
	}
}
