package operate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/sender/admin"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/spool"
)

// world is what outlives a node: the orders' file, the spool, the event log.
type world struct {
	t    *testing.T
	path string

	mu        sync.Mutex
	envelopes map[event.ID]*spool.Envelope
	done      map[event.ID]map[uint32]bool
	events    []*event.Event
	notes     []string
	broken    bool // the log takes nothing
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, path: filepath.Join(t.TempDir(), orders.FileName), envelopes: map[event.ID]*spool.Envelope{}, done: map[event.ID]map[uint32]bool{}}
}

// Envelope is part of Mail.
func (w *world) Envelope(id event.ID) (*spool.Envelope, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.envelopes[id]; e != nil && len(w.done[id]) < len(e.Recipients) {
		return e, nil
	}
	return nil, spool.ErrNotFound
}

// Record is part of Recorder.
func (w *world) Record(ctx context.Context, events ...*event.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return errors.New("the log is broken")
	}
	for _, e := range events {
		if e.Kind.Final() {
			if w.done[e.MessageID] == nil {
				w.done[e.MessageID] = map[uint32]bool{}
			}
			if w.done[e.MessageID][e.RecipientIdx] {
				w.t.Errorf("%s of %s/%d is the second end", e.Kind, e.MessageID, e.RecipientIdx)
			}
			w.done[e.MessageID][e.RecipientIdx] = true
		}
	}
	w.events = append(w.events, events...)
	return ctx.Err()
}

// count returns the events of a kind.
func (w *world) count(kind event.Kind) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// mail stores a message with the given recipients for a domain.
func (w *world) mail(domain, vmta, job, tenant string, recipients int) *spool.Envelope {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &spool.Envelope{ID: event.NewID(), From: "news@shop.test", Arrived: time.Now(), VMTA: vmta, Job: job, Tenant: tenant}
	for i := range recipients {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("r%d@%s", i, domain)})
	}
	w.envelopes[e.ID] = e
	return e
}

// node is one run of a node. It is the queues' Runner.
type node struct {
	*Operator

	w      *world
	queues *queue.Manager
	cancel context.CancelFunc
	ended  chan error
	ran    chan error

	mu     sync.Mutex
	served map[event.ID]string        // the queue that delivered it
	busy   map[event.ID]chan struct{} // attempts of these messages last until it is closed, and fail
	moves  map[event.ID]queue.Name    // where sessions find that these belong
}

// Run is part of queue.Runner.
func (n *node) Run(ctx context.Context, q *queue.Queue) {
	for {
		item, ok := q.Next(time.Now())
		if !ok {
			return
		}
		n.mu.Lock()
		busy := n.busy[item.Message]
		n.mu.Unlock()
		if busy != nil {
			<-busy
			item.Attempts++
			q.Retry(item, time.Now().Add(time.Minute))
			continue
		}
		if to, moves := n.moves[item.Message]; moves && to != q.Name() {
			n.queues.Add(to, item)
			continue
		}
		events := make([]*event.Event, 0, len(item.Recipients))
		for _, i := range item.Recipients {
			events = append(events, &event.Event{Kind: event.Delivered, MessageID: item.Message, RecipientIdx: i, Recipients: 1})
		}
		if err := n.w.Record(context.WithoutCancel(ctx), events...); err != nil {
			n.w.t.Error(err)
		}
		n.mu.Lock()
		n.served[item.Message] = q.Name().String()
		n.mu.Unlock()
	}
}

// Policy is part of queue.Runner.
func (n *node) Policy(*queue.Queue) queue.Policy { return queue.Policy{MaxSessions: 1, Priority: 50} }

func (n *node) wasServed(e *spool.Envelope) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.served[e.ID]
}

// open makes a node and gives it what the spool holds.
func (w *world) open() *node {
	w.t.Helper()
	store, err := orders.Open(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, served: map[event.ID]string{}, busy: map[event.ID]chan struct{}{}, ended: make(chan error, 1), ran: make(chan error, 1)}
	n.queues = queue.NewManager(n, queue.Options{})
	n.Operator = New(Options{
		Store: store, Queues: n.queues, Mail: w, Recorder: w,
		Fill: func(e *event.Event, envelope *spool.Envelope, index uint32) {
			e.MessageID, e.RecipientIdx, e.Recipient, e.VMTA = envelope.ID, index, envelope.Recipients[index].Address, envelope.VMTA
		},
		VMTA: func(name string) (string, bool) {
			if strings.EqualFold(name, "gone") {
				return "", false
			}
			return cmp.Or(strings.ToLower(name), "{default}"), true // as config.VMTA does
		},
		Sourceless: func(s *queue.Status) bool { return s.DeferredWhy == "no source" },
		Annotate: func(_ context.Context, name, text string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, name+": "+text)
			return nil
		},
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	})
	for _, id := range slices.SortedFunc(maps.Keys(w.envelopes), func(a, b event.ID) int { return strings.Compare(a.String(), b.String()) }) {
		n.enqueue(w.envelopes[id])
	}
	if err := n.Recovered(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// enqueue queues what is not finished of a message.
func (n *node) enqueue(e *spool.Envelope) {
	_, domain, _ := strings.Cut(e.Recipients[0].Address, "@")
	item := &queue.Item{
		Message: e.ID, Labels: queue.Label(e.Job, e.Tenant), Arrived: queue.At(e.Arrived), Expires: queue.At(e.Arrived.Add(24 * time.Hour)), Priority: queue.DefaultPriority,
	}
	n.w.mu.Lock()
	for i := range e.Recipients {
		if !n.w.done[e.ID][uint32(i)] {
			item.AddRecipient(uint32(i))
		}
	}
	n.w.mu.Unlock()
	if len(item.Recipients) > 0 {
		n.queues.Add(queue.Name{Domain: domain, VMTA: e.VMTA}, item)
	}
}

// run lets the node deliver and carry out orders.
func (n *node) run() *node {
	ctx, cancel := context.WithCancel(n.w.t.Context())
	n.cancel = cancel
	go func() { n.ran <- n.queues.Run(ctx) }()
	go func() { n.ended <- n.Operator.Run(ctx) }()
	return n
}

// stop ends the node and returns the error of its operator.
func (n *node) stop() error {
	n.cancel()
	<-n.ran
	return <-n.ended
}

func (n *node) give(i admin.Instruction) *admin.Result {
	n.w.t.Helper()
	r, err := n.Give(n.w.t.Context(), i, "ann")
	if err != nil {
		n.w.t.Fatalf("%s %s: %v", i.Kind, i.Filter, err)
	}
	return r
}

func (n *node) waiting(name string) int {
	recipients := 0
	for _, s := range n.queues.Statuses() {
		if s.Name.String() == name {
			recipients = s.Recipients
		}
	}
	return recipients
}

func (n *node) inForce() []uint64 {
	ids := make([]uint64, 0, 1)
	for _, o := range n.Orders() {
		ids = append(ids, o.ID)
	}
	return ids
}

func TestPauseStaysUntilItIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open().run()
		r := n.give(admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Queue: "a.test/*"}, Reason: "blocked"})
		if r.Order == nil || r.Order.Actor != "ann" || r.Order.Reason != "blocked" {
			t.Errorf("the order is %+v", r.Order)
		}
		a, b := w.mail("a.test", "mail1", "", "", 2), w.mail("b.test", "mail1", "", "", 1)
		n.enqueue(a)
		n.enqueue(b)
		time.Sleep(time.Minute)
		if n.wasServed(a) != "" || n.wasServed(b) == "" || n.waiting("a.test/mail1") != 2 {
			t.Errorf("served: a %q, b %q, waiting %d; want only b served", n.wasServed(a), n.wasServed(b), n.waiting("a.test/mail1"))
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		n = w.open().run() // after a restart
		time.Sleep(time.Minute)
		if n.wasServed(a) != "" {
			t.Error("a restart forgot the pause")
		}
		s := n.queues.Queue(queue.Name{Domain: "a.test", VMTA: "mail1"}).Status(time.Now())
		if waits := n.Waits(&s, time.Now()); !slices.Equal(waits, []string{"order 1 of ann: pause queue a.test/* (blocked)"}) {
			t.Errorf("it waits because %q", waits)
		}
		for _, other := range []orders.Filter{{Queue: "b.test/*"}, {Queue: "a.test/mail1"}, {Job: "x"}} {
			if _, err := n.Give(t.Context(), admin.Instruction{Kind: admin.Resume, Filter: other}, "bob"); !errors.Is(err, orders.ErrUnknown) {
				t.Errorf("resume %s: %v, want ErrUnknown", other, err)
			}
		}
		r = n.give(admin.Instruction{Kind: admin.Resume, Filter: orders.Filter{Queue: "*/*"}})
		synctest.Wait()
		if n.wasServed(a) != "a.test/mail1" || len(r.Ended) != 1 || len(n.Orders()) != 0 {
			t.Errorf("after resume: served %q, ended %v, in force %v", n.wasServed(a), r.Ended, n.inForce())
		}
		want := []string{"pause: order 1 of ann: pause queue a.test/* (blocked)", "pause-end: order 1 ended by ann: pause queue a.test/*"}
		if !slices.Equal(w.notes, want) {
			t.Errorf("annotations\n got %q\nwant %q", w.notes, want)
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPauseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open().run()
		n.give(admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Job: "june"}, Expires: time.Now().Add(time.Hour)})
		june, may := w.mail("a.test", "mail1", "june", "", 1), w.mail("a.test", "mail1", "may", "", 1)
		n.enqueue(june)
		n.enqueue(may)
		time.Sleep(59 * time.Minute)
		if n.wasServed(june) != "" || n.wasServed(may) == "" {
			t.Errorf("served: june %q, may %q; want only may", n.wasServed(june), n.wasServed(may))
		}
		time.Sleep(2 * time.Minute)
		if n.wasServed(june) == "" || len(n.Orders()) != 0 {
			t.Errorf("after the end: june %q, in force %v", n.wasServed(june), n.inForce())
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDeleteTakesWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open().run()
		n.give(admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Queue: "a.test/*"}})
		trying := w.mail("b.test", "mail1", "june", "", 1)
		end := make(chan struct{})
		n.mu.Lock()
		n.busy[trying.ID] = end
		n.mu.Unlock()
		n.enqueue(trying)
		waiting := make([]*spool.Envelope, 0, 1001)
		for range 1000 {
			waiting = append(waiting, w.mail("a.test", "mail1", "june", "", 3))
		}
		other := w.mail("a.test", "mail1", "may", "", 1)
		for _, e := range append(waiting, other) {
			n.enqueue(e)
		}
		time.Sleep(time.Second)
		r := n.give(admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june"}})
		if r.Messages != 1000 || r.Recipients != 3000 || r.Queues != 1 || n.waiting("a.test/mail1") != 1 {
			t.Errorf("met %d recipients of %d messages in %d queues, %d wait; want 3000, 1000, 1, and 1", r.Recipients, r.Messages, r.Queues, n.waiting("a.test/mail1"))
		}
		late := w.mail("b.test", "mail1", "june", "", 1)
		n.enqueue(late)
		time.Sleep(time.Minute)
		if got := w.count(event.Deleted); got != 3000 {
			t.Errorf("%d deleted events, want 3000", got)
		}
		if len(n.Orders()) != 2 {
			t.Errorf("in force %v: the delete ended with mail still in an attempt", n.inForce())
		}
		close(end)
		time.Sleep(3 * time.Minute)
		if got := w.count(event.Deleted); got != 3001 || n.wasServed(trying) != "" {
			t.Errorf("%d deleted events, want 3001: what was in an attempt too", got)
		}
		if n.wasServed(late) == "" || n.wasServed(other) != "" {
			t.Errorf("served: late %q, other %q; want what arrived after the delete, and the pause to stay", n.wasServed(late), n.wasServed(other))
		}
		if got := n.inForce(); !slices.Equal(got, []uint64{1}) {
			t.Errorf("in force %v, want the pause alone", got)
		}
		e := w.events[slices.IndexFunc(w.events, func(e *event.Event) bool { return e.Kind == event.Deleted })]
		if e.Recipient == "" || e.Queue != "a.test/mail1" || e.Reply != deletedText || e.PMTACategory != "other" || e.VMTA != "mail1" {
			t.Errorf("the event is %+v", e)
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDeleteEndsBesideBusyQueues: there is always a session in some queue that the delete names.
func TestDeleteEndsBesideBusyQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open().run()
		end := make(chan struct{})
		trying := w.mail("b.test", "mail1", "may", "", 1)
		n.mu.Lock()
		n.busy[trying.ID] = end
		n.mu.Unlock()
		n.enqueue(trying)
		time.Sleep(time.Second)
		n.give(admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june"}})
		time.Sleep(longestAttempt / 2)
		if len(n.inForce()) != 1 {
			t.Error("the delete ended while what it selects may be in an attempt")
		}
		time.Sleep(longestAttempt)
		if got := n.inForce(); len(got) != 0 {
			t.Errorf("in force %v, want none", got)
		}
		close(end)
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDeleteGoesOnAfterACrash breaks the log in the middle of a delete, and starts again.
func TestDeleteGoesOnAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 1000 {
			w.mail("a.test", "mail1", "", "shop", 2)
		}
		kept := w.mail("a.test", "mail1", "", "other", 1)
		time.Sleep(time.Second)
		n := w.open() // delivers nothing yet
		n.give(admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Tenant: "shop"}})
		if err := w.Record(t.Context(), n.deleted(nil, n.batch().mail[0])...); err != nil { // as far as it came
			t.Fatal(err)
		}
		w.broken = true
		if err := n.finish(t.Context()); err == nil {
			t.Error("a broken log is no error")
		}
		w.broken = false

		n = w.open()
		if got := n.waiting("a.test/mail1"); got != 1 {
			t.Errorf("%d recipients are back in the queue, want the one that was not deleted", got)
		}
		n.run()
		time.Sleep(time.Minute)
		if got := w.count(event.Deleted); got != 2000 {
			t.Errorf("%d deleted events, want 2000", got)
		}
		if n.wasServed(kept) == "" || len(n.served) != 1 || len(n.Orders()) != 0 {
			t.Errorf("served %d, in force %v; want the one that was not deleted, and none", len(n.served), n.inForce())
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRollupsAreDeletedAfterACrash: after a start mail waits by its domain, and comes to the rollup
// that was deleted only when a session has found its way.
func TestRollupsAreDeletedAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.mail("a.test", "mail1", "", "", 1)
		time.Sleep(time.Second)
		n := w.open()
		rollup := queue.Name{Domain: "big.rollup", VMTA: "mail1"}
		for _, taken := range n.queues.Take(queue.Filter{}, 10) {
			n.queues.Add(rollup, taken.Item)
		}
		if r := n.give(admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Queue: "big.rollup/*"}}); r.Recipients != 1 {
			t.Fatalf("met %d recipients, want 1", r.Recipients)
		}
		n = w.open() // no event was written
		n.moves = map[event.ID]queue.Name{e.ID: rollup}
		n.run()
		time.Sleep(time.Minute)
		if n.wasServed(e) != "" || w.count(event.Deleted) != 1 || len(n.Orders()) != 0 {
			t.Errorf("served by %q, %d deleted, in force %v", n.wasServed(e), w.count(event.Deleted), n.inForce())
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRerouteIsRepeatedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.mail("a.test", "mail1", "", "", 2), w.mail("b.test", "mail1", "", "", 1)
		time.Sleep(time.Second)
		n := w.open()
		r := n.give(admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{Queue: "a.test/mail1"}, To: "MAIL2"})
		if r.Recipients != 2 || n.waiting("a.test/mail2") != 2 || n.waiting("a.test/mail1") != 0 || n.waiting("b.test/mail1") != 1 {
			t.Fatalf("met %d; mail2 has %d, mail1 %d", r.Recipients, n.waiting("a.test/mail2"), n.waiting("a.test/mail1"))
		}
		late := w.mail("a.test", "mail1", "", "", 1)
		n = w.open() // again, and nothing was sent
		n.run()
		time.Sleep(time.Minute)
		if n.wasServed(a) != "a.test/mail2" || n.wasServed(b) != "b.test/mail1" || n.wasServed(late) != "a.test/mail1" {
			t.Errorf("served by %q, %q, %q", n.wasServed(a), n.wasServed(b), n.wasServed(late))
		}
		if got := w.count(event.Rerouted); got != 1 {
			t.Errorf("%d rerouted events, want one, for the queue", got)
		}
		if e := w.events[0]; e.Recipients != 2 || e.Queue != "a.test/mail1" {
			t.Errorf("the event is %+v", e)
		}
		time.Sleep(25 * time.Hour)
		if len(n.Orders()) != 0 {
			t.Errorf("in force %v, after all it moved is gone", n.inForce())
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReroutesDoNotFight: mail that is sent there and back stays, and an earlier order does not take
// what a later one brings.
func TestReroutesDoNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, c := w.mail("a.test", "mail1", "", "", 1), w.mail("a.test", "mail3", "", "", 1)
		doomed := w.mail("a.test", "mail2", "", "", 1)
		time.Sleep(time.Second)
		n := w.open()
		n.give(admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{Queue: "a.test/mail1"}, To: "mail4"})
		n.give(admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{Queue: "a.test/mail4"}, To: "mail1"})
		n.give(admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Queue: "a.test/mail2"}})
		n.give(admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{VMTA: "mail3"}, To: "mail2"})
		for range 2 {
			if err := n.sweep(t.Context(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if n.waiting("a.test/mail1") != 1 || n.waiting("a.test/mail2") != 1 || n.waiting("a.test/mail4") != 0 {
				t.Errorf("mail1 has %d, mail2 %d, mail4 %d; want 1, 1, 0", n.waiting("a.test/mail1"), n.waiting("a.test/mail2"), n.waiting("a.test/mail4"))
			}
			n = w.open()
		}
		n.run()
		time.Sleep(time.Minute)
		if n.wasServed(a) != "a.test/mail1" || n.wasServed(c) != "a.test/mail2" || n.wasServed(doomed) != "" || w.count(event.Deleted) != 1 {
			t.Errorf("served by %q, %q, %q; %d deleted", n.wasServed(a), n.wasServed(c), n.wasServed(doomed), w.count(event.Deleted))
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func (n *node) modes() map[string]string {
	modes := map[string]string{}
	for _, s := range n.queues.Statuses() {
		modes[s.Name.String()] = s.Mode.String()
	}
	return modes
}

func TestModesAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open().run()
		n.give(admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Queue: "*/*"}}) // so that queues stay
		n.give(admin.Instruction{Kind: orders.SetMode, Mode: orders.ModeBackoff, Filter: orders.Filter{Queue: "*/mail1"}, Expires: time.Now().Add(time.Hour)})
		for _, domain := range []string{"a.test", "b.test"} {
			n.enqueue(w.mail(domain, "mail1", "", "", 1))
		}
		n.enqueue(w.mail("a.test", "mail2", "", "", 1))
		expect := func(when, a1, b1, a2 string) {
			t.Helper()
			time.Sleep(interval)
			synctest.Wait()
			if got, want := n.modes(), (map[string]string{"a.test/mail1": a1, "b.test/mail1": b1, "a.test/mail2": a2}); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		expect("new queues", "backoff", "backoff", "normal")
		r := n.give(admin.Instruction{Kind: orders.SetMode, Mode: orders.ModeNormal, Filter: orders.Filter{Queue: "a.test/*"}})
		if r.Order == nil {
			t.Error("an order for backoff about more queues stays, and none against it")
		}
		expect("one back to normal", "normal", "backoff", "normal")
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		n = w.open().run()
		expect("after a restart", "normal", "backoff", "normal")
		time.Sleep(time.Hour)
		expect("after the end", "normal", "normal", "normal")
		r = n.give(admin.Instruction{Kind: orders.SetMode, Mode: orders.ModeNormal, Filter: orders.Filter{Queue: "*/*"}})
		if r.Order != nil || len(r.Ended) != 1 {
			t.Errorf("normal for all leaves %v in force, ended %v", r.Order, r.Ended)
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.mail("a.test", "mail1", "june", "shop", 2)
		w.mail("b.test", "mail1", "june", "shop", 1)
		time.Sleep(time.Second)
		n := w.open()
		for _, tc := range []struct {
			i    admin.Instruction
			want admin.Result
		}{
			{admin.Instruction{Kind: orders.Pause, Filter: orders.Filter{Queue: "*/*"}}, admin.Result{Queues: 2, Messages: 2, Recipients: 3}},
			{admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june", Domain: "a.test"}}, admin.Result{Messages: 1, Recipients: 2}},
			{admin.Instruction{Kind: orders.Delete, Filter: orders.Filter{Job: "june", ArrivedBefore: time.Now().Add(-time.Hour)}}, admin.Result{}},
			{admin.Instruction{Kind: orders.Reroute, Filter: orders.Filter{VMTA: "mail1"}, To: "mail2"}, admin.Result{Messages: 2, Recipients: 3}},
			{admin.Instruction{Kind: orders.SetMode, Filter: orders.Filter{Queue: "a.test/*"}, Mode: orders.ModeBackoff}, admin.Result{Queues: 1}},
			{admin.Instruction{Kind: orders.DisableSource, Filter: orders.Filter{Queue: "*/*"}, IP: "192.0.2.1"}, admin.Result{Queues: 2}},
		} {
			tc.i.DryRun = true
			r := n.give(tc.i)
			if !r.DryRun || r.Order != nil || r.Messages != tc.want.Messages || r.Recipients != tc.want.Recipients || r.Queues != tc.want.Queues {
				t.Errorf("%s %s would meet %+v, want %+v", tc.i.Kind, tc.i.Filter, r, tc.want)
			}
		}
		if _, err := os.Stat(w.path); !os.IsNotExist(err) || len(w.events)+len(w.notes)+len(n.Orders()) > 0 || n.waiting("a.test/mail1") != 2 {
			t.Errorf("file: %v, events %v, notes %v, orders %v", err, w.events, w.notes, n.inForce())
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	w := newWorld(t)
	n := w.open()
	june := orders.Filter{Job: "june"}
	for _, tc := range []struct {
		name string
		i    admin.Instruction
		want string
	}{
		{"nothing", admin.Instruction{}, "unknown kind"},
		{"pause of nothing", admin.Instruction{Kind: orders.Pause}, "pause what?"},
		{"pause of nothing, dry", admin.Instruction{Kind: orders.Pause, DryRun: true}, "pause what?"},
		{"unknown virtual MTA", admin.Instruction{Kind: orders.Reroute, Filter: june, To: "gone"}, `"gone" does not exist`},
		{"reroute for an hour", admin.Instruction{Kind: orders.Reroute, Filter: june, To: "mail2", Expires: time.Now().Add(time.Hour)}, "not at a time"},
		{"no address", admin.Instruction{Kind: orders.DisableSource, Filter: orders.Filter{Queue: "*/*"}, IP: "mail1"}, "no IP address"},
		{"enable without one", admin.Instruction{Kind: admin.EnableSource, Filter: orders.Filter{Queue: "*/*"}}, "needs an address"},
		{"resume of nothing", admin.Instruction{Kind: admin.Resume}, "resume what?"},
		{"a third mode", admin.Instruction{Kind: orders.SetMode, Filter: orders.Filter{Queue: "*/*"}, Mode: "fast"}, "normal or backoff"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := n.Give(t.Context(), tc.i, "ann")
			if _, ok := errors.AsType[*orders.InvalidError](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Give = %v, want an InvalidError with %q", err, tc.want)
			}
		})
	}
	if _, err := n.Schedule(t.Context(), "", "ann"); err == nil {
		t.Error("a schedule of nothing is no error")
	}
	if _, err := n.End(t.Context(), 7, "ann"); !errors.Is(err, orders.ErrUnknown) {
		t.Errorf("End of nothing = %v", err)
	}
	n.give(admin.Instruction{Kind: orders.Delete, Filter: june})
	if _, err := n.End(t.Context(), 1, "ann"); err == nil || !strings.Contains(err.Error(), "cannot be taken back") {
		t.Errorf("End of a delete = %v", err)
	}
}

func TestSourcesAreDisabledAndEnabled(t *testing.T) {
	w := newWorld(t)
	n := w.open()
	ip := netip.MustParseAddr("192.0.2.1")
	n.give(admin.Instruction{Kind: orders.DisableSource, IP: "192.0.2.1", Filter: orders.Filter{Queue: "a.test/*"}})
	n.give(admin.Instruction{Kind: orders.DisableSource, IP: "::ffff:192.0.2.1", Filter: orders.Filter{Queue: "b.test/*"}})
	if !n.Store.Disabled("a.test/mail1", ip) || !n.Store.Disabled("b.test/mail1", ip) || n.Store.Disabled("c.test/mail1", ip) {
		t.Error("the wrong queues leave the source alone")
	}
	n.give(admin.Instruction{Kind: admin.EnableSource, IP: "192.0.2.1", Filter: orders.Filter{Queue: "a.test/*"}})
	if n.Store.Disabled("a.test/mail1", ip) || !n.Store.Disabled("b.test/mail1", ip) {
		t.Error("enable changes the wrong queues")
	}
	if _, err := n.Give(t.Context(), admin.Instruction{Kind: admin.EnableSource, IP: "192.0.2.2", Filter: orders.Filter{Queue: "*/*"}}, "ann"); !errors.Is(err, orders.ErrUnknown) {
		t.Errorf("enable of what is not disabled: %v", err)
	}
}

// TestQueuesGoOnWithTheirSource: a queue that waited for a source is tried when it is back.
func TestQueuesGoOnWithTheirSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open()
		n.give(admin.Instruction{Kind: orders.DisableSource, IP: "192.0.2.1", Filter: orders.Filter{Queue: "a.test/*"}, Expires: time.Now().Add(time.Minute)})
		a, b := w.mail("a.test", "mail1", "", "", 1), w.mail("a.test", "mail2", "", "", 1)
		for e, why := range map[*spool.Envelope]string{a: "no source", b: "retry after a failure"} {
			n.enqueue(e)
			n.queues.Queue(queue.Name{Domain: "a.test", VMTA: e.VMTA}).Defer(time.Now().Add(time.Hour), why)
		}
		n.run()
		time.Sleep(59 * time.Second)
		if n.wasServed(a) != "" {
			t.Error("served before")
		}
		time.Sleep(2 * time.Second)
		if n.wasServed(a) == "" || n.wasServed(b) != "" {
			t.Errorf("served: %q and %q; want only what waited for the source", n.wasServed(a), n.wasServed(b))
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMessagesAreListed(t *testing.T) {
	w := newWorld(t)
	e := w.mail("a.test", "mail1", "june", "shop", 3)
	w.mail("b.test", "mail1", "may", "shop", 1)
	n := w.open()
	got, err := n.Messages(orders.Filter{Job: "june"}, 2)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v; want two of three", got, err)
	}
	if m := got[1]; m.ID != e.ID.String() || m.Recipient != "r1@a.test" || m.Queue != "a.test/mail1" || m.Tenant != "shop" || m.MailFrom != "news@shop.test" {
		t.Errorf("the second is %+v", m)
	}
	if got, err = n.Messages(orders.Filter{}, 100); err != nil || len(got) != 4 {
		t.Errorf("all are %d, %v; want 4", len(got), err)
	}
}

func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := NewTraffic()
		name := queue.Name{Domain: "a.test", VMTA: "mail1"}
		expect := func(in, out int) {
			t.Helper()
			if gotIn, gotOut := traffic.LastMinute(name); gotIn != in || gotOut != out {
				t.Errorf("in %d, out %d; want %d, %d", gotIn, gotOut, in, out)
			}
		}
		tell := func(e event.Event) {
			e.Time = time.Now()
			traffic.Count(&e)
		}
		var none *Traffic
		none.Count(&event.Event{Kind: event.Delivered})
		if in, out := none.LastMinute(name); in+out != 0 {
			t.Errorf("what counts nothing has counted %d, %d", in, out)
		}
		expect(0, 0)
		tell(event.Event{Kind: event.Received, RecipientDomain: "a.test", VMTA: "mail1", Recipients: 3})
		traffic.Count(&event.Event{Kind: event.Received, Time: time.Now().Add(-time.Hour), RecipientDomain: "a.test", VMTA: "mail1", Recipients: 100})
		tell(event.Event{Kind: event.Deferred, Queue: "a.test/mail1", Recipients: 1})
		time.Sleep(30 * time.Second)
		tell(event.Event{Kind: event.Delivered, Queue: "a.test/mail1", Recipients: 1})
		expect(3, 1)
		time.Sleep(31 * time.Second)
		expect(0, 1)
		time.Sleep(time.Hour)
		expect(0, 0)
		tell(event.Event{Kind: event.Delivered, Queue: "b.test/mail1", Recipients: 1})
		if len(traffic.queues) != 1 {
			t.Errorf("%d queues are remembered, want 1", len(traffic.queues))
		}
	})
}

func BenchmarkTraffic(b *testing.B) {
	traffic := NewTraffic()
	e := &event.Event{Kind: event.Delivered, Time: time.Now(), Queue: "a.test/mail1", Recipients: 1}
	b.ReportAllocs()
	for b.Loop() {
		traffic.Count(e)
	}
}
