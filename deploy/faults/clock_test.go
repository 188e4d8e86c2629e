package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carom/deploy/rig"
	"carom/schemas/event"
)

// jumpConfig has two queues whose peer defers what it gets. It wants the ports. An hour of bounce-after
// is less than each jump, and a retry is due soon.
const jumpConfig = `<domain good.test>
    smtp-hosts [127.0.0.1]:%[1]s
    max-smtp-out 2
    max-msg-rate 200/s
    bounce-after 1h
</domain>
<domain later.test>
    smtp-hosts [127.0.0.1]:%[2]s
    max-smtp-out 2
    retry-after 1s
    retry-recipients-after 1s
    bounce-after 1h
</domain>
<domain jumped.test>
    smtp-hosts [127.0.0.1]:%[2]s
    max-smtp-out 2
    retry-after 1s
    retry-recipients-after 1s
    bounce-after 1h
</domain>
`

// TestClockJumps sets the clock of a node while mail flows and other mail waits for a retry. Retries and
// rates go on as if nothing had happened, no mail expires for it, and none is lost or doubled, after
// a restart with the true time either. Mail that arrived in the wrong time is delivered before that restart:
// nothing would tell the next process how old it is.
func TestClockJumps(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   func(now time.Time) time.Time
	}{
		{"a day ahead", func(now time.Time) time.Time { return now.AddDate(0, 0, 1) }},
		{"a day back", func(now time.Time) time.Time { return now.AddDate(0, 0, -1) }},
		{"to 1980", func(time.Time) time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &scene{audit: &rig.Audit{}}
			var healed, jumpedHealed atomic.Bool
			good := rig.NewReceiver(t, s.audit, nil)
			later := rig.NewReceiver(t, s.audit, func(step rig.Step, _ rig.Session, argument string) rig.Answer {
				well := &healed
				if strings.HasSuffix(argument, "@jumped.test") {
					well = &jumpedHealed
				}
				if step == rig.Rcpt && !well.Load() {
					return rig.Answer{Text: "452 4.2.2 mailbox full"} // which says nothing about rates
				}
				return rig.Answer{}
			})
			s.node = rig.NewNode(t, fmt.Sprintf(jumpConfig, good.Port(), later.Port()))
			if err := s.node.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			clock := rig.TakeClock(t, s.node)
			s.send(t, "later.test", 10, 2000)
			s.deferred(t, 10)

			shift := time.Until(tc.to(time.Now())).Round(time.Second)
			stop := s.flow(t)
			s.arrived(t, 50, "mail before the jump")
			if err := clock.Shift(shift); err != nil {
				t.Fatal(err)
			}
			s.arrived(t, s.audit.Counts().Arrived+100, "mail after the jump")
			s.send(t, "jumped.test", 10, 2000)
			s.deferred(t, s.deferrals(t)+40)
			s.saysTime(t, time.Now().Add(shift))
			if err := clock.Shift(0); err != nil { // and back
				t.Fatal(err)
			}
			s.arrived(t, s.audit.Counts().Arrived+100, "mail after the jump back")
			s.deferred(t, s.deferrals(t)+40)
			jumpedHealed.Store(true)
			if err := clock.Shift(shift); err != nil {
				t.Fatal(err)
			}
			s.deferred(t, s.deferrals(t)+20) // retries are now noted for times that the next start finds odd
			stop()
			s.leaves(t, 10)

			s.node.Stop()
			if err := s.node.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			healed.Store(true)
			s.settle(t)
			t.Logf("%+v", s.audit.Counts())
		})
	}
}

// flow hands over mail to the good peer until the function that it returns is called.
func (s *scene) flow(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := s.try(ctx, "good.test", 2000); err != nil && ctx.Err() == nil {
				t.Errorf("a message to good.test: %v", err)
				return
			}
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// leaves waits until the node has so many recipients left.
func (s *scene) leaves(t *testing.T, n int) {
	t.Helper()
	rig.Await(t, patience, "all other mail to be delivered", func(ctx context.Context) error {
		status, err := s.node.Status(ctx)
		if err == nil && status.LiveRecipients != n {
			return fmt.Errorf("%d recipients are left, want %d", status.LiveRecipients, n)
		}
		return err
	})
}

// deferrals returns how often a recipient was deferred.
func (s *scene) deferrals(t *testing.T) (n int) {
	t.Helper()
	events, err := rig.Events(s.node.Events())
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if events[i].Kind == event.Deferred {
			n++
		}
	}
	return n
}

func (s *scene) deferred(t *testing.T, n int) {
	t.Helper()
	rig.Await(t, 15*time.Second, "retries", func(context.Context) error {
		if got := s.deferrals(t); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// saysTime wants an event of about that time: else the clock was not moved at all.
func (s *scene) saysTime(t *testing.T, want time.Time) {
	t.Helper()
	rig.Await(t, patience, "an event of the new time", func(context.Context) error {
		events, err := rig.Events(s.node.Events())
		if err != nil || len(events) == 0 {
			return fmt.Errorf("no events: %w", err)
		}
		for i := range events {
			if events[i].Time.Sub(want).Abs() < time.Minute {
				return nil
			}
		}
		return errors.New("no event has it")
	})
}
