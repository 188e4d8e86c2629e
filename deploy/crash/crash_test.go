// Package crash kills the real node with SIGKILL at random moments under load, starts it again and
// counts: nothing that got a 250 is lost, a second delivery only of what was in flight, and one
// received and one final event for each recipient.
//
// make crash runs it; CRASH_ROUNDS says how often to kill, CRASH_SEED repeats the decisions of a run
// (not its timing, which is the machine's).
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"carom/deploy/rig"
	"carom/schemas/event"
)

const (
	domains  = 6
	sessions = 4 // of the node to each domain
	feeders  = 6
	// drainEvery is after how many rounds the node may empty its spool, so that a loss shows soon
	// and the load of many rounds does not pile up.
	drainEvery = 25
)

// config makes retries quick and connections short, so that every state is met often.
const config = `<domain *>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out %d
    max-msg-per-connection 20
    connection-idle-timeout 1s
    retry-after 1s
    retry-recipients-after 1s
    bounce-after 1h
</domain>
`

// number returns what the environment says, or otherwise.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestCrash is make crash.
func TestCrash(t *testing.T) {
	rounds := number(t, "CRASH_ROUNDS", 30)
	if testing.Short() && os.Getenv("CRASH_ROUNDS") == "" {
		rounds = 5
	}
	seed := number(t, "CRASH_SEED", rand.Uint64()) //nolint:gosec // no secret
	t.Logf("CRASH_ROUNDS=%d CRASH_SEED=%d", rounds, seed)

	c := newCrash(t, seed, 5*time.Millisecond) // some hundred messages a second are enough
	random := rand.New(rand.NewPCG(seed, 1))   //nolint:gosec // repeatable
	began := time.Now()
	stop := c.feed(t)
	for round := range rounds {
		if round > 0 && round%drainEvery == 0 {
			stop()
			c.drain(t)
			t.Logf("round %d: the spool is empty, %s", round, summary(c.audit.Counts(), began))
			stop = c.feed(t)
		}
		c.round(t, round, random)
	}
	stop()
	c.drain(t)
	t.Logf("%d kills, CRASH_SEED=%d: %s", rounds, seed, summary(c.audit.Counts(), began))
}

// crash is a run.
type crash struct {
	seed     uint64
	pace     time.Duration // between two messages of a feeder
	audit    *rig.Audit
	receiver *rig.Receiver
	node     *rig.Node

	mu   sync.Mutex
	next uint64 // number of the next message
}

func newCrash(t *testing.T, seed uint64, pace time.Duration) *crash {
	t.Helper()
	c := &crash{seed: seed, pace: pace, audit: &rig.Audit{}}
	c.audit.Fate = c.fate
	c.receiver = rig.NewReceiver(t, c.audit, c.answer)
	c.node = rig.NewNode(t, fmt.Sprintf(config, c.receiver.Port(), sessions))
	return c
}

// round starts the node and kills it a moment later: within two seconds, one time in four while it
// starts.
func (c *crash) round(t *testing.T, round uint64, random *rand.Rand) {
	t.Helper()
	life := time.Duration(random.Int64N(int64(2 * time.Second)))
	if random.IntN(4) == 0 {
		life /= 16
	}
	if err := c.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(life)
	queued := "it did not run yet"
	if s, err := c.node.Status(t.Context()); err == nil {
		queued = fmt.Sprintf("%d recipients were live", s.LiveRecipients)
	}
	open := c.receiver.Open()
	if err := errors.Join(c.node.Kill(t.Context()), c.receiver.Quiet(t.Context())); err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	flying := c.audit.Killed()
	if err := c.audit.ReadEvents(c.node.Events()); err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	counts := c.audit.Counts()
	t.Logf("round %3d: killed after %4d ms, %s, %2d connections, %2d in flight; so far %d messages accepted, %d arrived, %d duplicates",
		round, life.Milliseconds(), queued, open, flying, counts.Messages, counts.Arrived, counts.Duplicates)
	c.check(t, c.audit.Problems())
}

func (c *crash) check(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		t.Fatalf("CRASH_SEED=%d", c.seed)
	}
}

// drain lets the node finish everything, stops it and compares all that was counted.
func (c *crash) drain(t *testing.T) {
	t.Helper()
	if err := c.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.node.Empty(t.Context(), 30*time.Second); err != nil {
		queues, _ := c.node.Queues(t.Context())
		t.Fatalf("%v; queues: %+v", err, queues)
	}
	c.node.Stop()
	if err := errors.Join(c.receiver.Quiet(t.Context()), c.audit.ReadEvents(c.node.Events())); err != nil {
		t.Fatal(err)
	}
	c.check(t, c.audit.Settle())
}

func summary(c rig.Counts, began time.Time) string {
	return fmt.Sprintf("%d messages with a 250 and %d in doubt after %s; of %d recipients received %d delivered, %d bounced, %d deferrals; "+
		"receivers took %d, %d of them again, in %d transactions, where %d were in flight at %d kills; %d events, gapless",
		c.Messages, c.InDoubt, time.Since(began).Round(time.Second), c.Received, c.Delivered, c.Bounced, c.Deferred,
		c.Arrived, c.Duplicates, c.Repeated, c.InFlight, c.Kills, c.Events)
}

// feed hands over messages until stop is called, whether the node runs or not.
func (c *crash) feed(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range feeders {
		wait.Go(func() {
			for ctx.Err() == nil {
				err := c.session(ctx)
				if _, wrong := errors.AsType[*rig.ReplyError](err); wrong {
					t.Errorf("the node refused a message: %v", err)
					return
				}
				pause(ctx, 10*time.Millisecond)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wait.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// session hands over messages until the connection or ctx ends.
func (c *crash) session(ctx context.Context) error {
	f, err := rig.Dial(ctx, c.node.SMTP)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for ctx.Err() == nil {
		if err := f.Send(c.message(), c.audit); err != nil {
			return err
		}
		pause(ctx, c.pace)
	}
	return nil
}

// pause lets time pass between two messages of a feeder.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (c *crash) message() rig.Message {
	c.mu.Lock()
	number := c.next
	c.next++
	c.mu.Unlock()
	random := c.random(number, 0)
	m := rig.Message{Number: number, Size: 500 + random.IntN(8<<10)}
	for k := range 1 + random.IntN(3) {
		m.Recipients = append(m.Recipients, rig.Address(number, k, fmt.Sprintf("d%d.test", random.IntN(domains))))
	}
	return m
}

// random returns what is random about one thing of a message and yet always the same.
func (c *crash) random(number, thing uint64) *rand.Rand {
	return rand.New(rand.NewPCG(c.seed^number<<20, thing)) //nolint:gosec // repeatable
}

// unknown and unwanted say whom and what the receiver refuses for good.
func (c *crash) unknown(number uint64, k int) bool {
	return c.random(number, uint64(k+1)).IntN(20) == 0 //nolint:gosec // not negative
}

func (c *crash) unwanted(number uint64) bool { return c.random(number, 100).IntN(40) == 0 }

func (c *crash) fate(number uint64, k int) event.Kind {
	if c.unknown(number, k) || c.unwanted(number) {
		return event.Bounced
	}
	return event.Delivered
}

// answer is the receiver's script: it refuses for good whom it always does, and puts off, hangs up
// and dawdles now and then.
func (c *crash) answer(step rig.Step, s rig.Session, argument string) rig.Answer {
	const often = 1000
	dice := rand.IntN(often) //nolint:gosec // timing decides what it meets anyway
	if dice < 5 {
		return rig.Answer{Text: "421 4.3.2 going down", Close: true}
	}
	switch step {
	case rig.EHLO:
		if s.Number%2 == 1 {
			return rig.Answer{Text: rig.WithoutChunking}
		}
	case rig.Mail:
		if dice < 15 {
			return rig.Answer{Text: "451 4.3.0 not now"}
		}
	case rig.Rcpt:
		number, k, err := rig.ParseAddress(argument)
		if err == nil && c.unknown(number, k) {
			return rig.Answer{Text: "550 5.1.1 no such user"}
		}
		if dice < 45 {
			return rig.Answer{Text: "450 4.2.0 mailbox is busy"}
		}
	case rig.Dot:
		number, _, err := rig.ParseAddress(s.Recipients[0])
		if err == nil && c.unwanted(number) {
			return rig.Answer{Text: "554 5.6.0 not this content"}
		}
		switch {
		case dice < 35:
			return rig.Answer{Text: "451 4.3.0 not now"}
		case dice < 135:
			return rig.Answer{Wait: time.Duration(rand.Int64N(int64(300 * time.Millisecond)))} //nolint:gosec // timing
		}
	case rig.Greeting, rig.Data:
	}
	return rig.Answer{}
}
