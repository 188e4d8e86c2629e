package app

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/seglog"
	"carom/sender/queue"
	"carom/sender/scoped"
	"carom/sender/throttle"
)

// parking is a Runner that parks all it gets.
type parking struct{}

func (parking) Policy(*queue.Queue) queue.Policy { return queue.Policy{MaxSessions: 1} }

func (parking) Run(_ context.Context, q *queue.Queue) {
	for {
		item, ok := q.Next(time.Now())
		if !ok {
			return
		}
		q.Park(item)
	}
}

// holding returns a node that holds one message of a tenant which arrived so long ago, of a life of
// four hours.
func holding(t *testing.T, age time.Duration) *node {
	t.Helper()
	notes, err := seglog.Open(t.TempDir(), seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notes.Close() })
	n := &node{logger: slog.New(slog.NewTextHandler(t.Output(), nil)), notes: notes, throttle: throttle.New(0), keeper: scoped.New()}
	n.queues = queue.NewManager(parking{}, queue.Options{})
	arrived := time.Now().Add(-age)
	item := &queue.Item{Message: event.NewID(), Labels: queue.Label("spring", "shop"), Arrived: queue.At(arrived), Expires: queue.At(arrived.Add(4 * time.Hour))}
	item.AddRecipient(0)
	name := queue.Name{Domain: "a.test", VMTA: "v"}
	n.queues.Add(name, item)
	q := n.queues.Queue(name)
	taken, _ := q.Next(time.Now())
	q.Park(taken)
	return n
}

func TestHeldMailIsSpokenOfBeforeItExpires(t *testing.T) {
	for _, tc := range []struct {
		name string
		age  time.Duration
		want uint64 // annotations
	}{
		{"fresh", 30 * time.Minute, 0},
		{"a quarter of its life", 61 * time.Minute, 1},
		{"half of it", 121 * time.Minute, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := holding(t, tc.age)
			known := map[unique.Handle[queue.Labels]]*heldMail{}
			for range 3 {
				if err := n.sweepHeld(t.Context(), time.Now(), known); err != nil {
					t.Fatal(err)
				}
			}
			if got := n.notes.Last(); got != tc.want {
				t.Errorf("%d annotations after three looks, want %d", got, tc.want)
			}
		})
	}
}

func TestAlertsComeOnceForEachShare(t *testing.T) {
	n := holding(t, 61*time.Minute)
	known := map[unique.Handle[queue.Labels]]*heldMail{}
	for _, after := range []time.Duration{0, time.Minute, time.Hour, 2 * time.Hour} {
		if err := n.sweepHeld(t.Context(), time.Now().Add(after), known); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.notes.Last(); got != 2 {
		t.Errorf("%d annotations over two hours, want one at 25 %% and one at 50 %%", got)
	}
}

// A document without the hold lets the mail go at once.
func TestReleasedMailIsDueAgain(t *testing.T) {
	n := holding(t, 0)
	d := &limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Now(), TTLSeconds: 600, Holds: []limits.Hold{{Tenant: "shop", ReasonID: "h"}}}
	n.keeper.Apply(d)
	d = &limits.Document{Format: limits.Format, Generation: 2, IssuedAt: time.Now(), TTLSeconds: 600}
	n.applyLimits(d)
	s := n.queues.Queue(queue.Name{Domain: "a.test", VMTA: "v"}).Status(time.Now())
	if s.Held != 0 || s.Due != 1 {
		t.Errorf("status %+v, want one due and none held", s)
	}
}

// A hold that ended without news lets go what is parked already.
func TestLapsedHoldLetsMailGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := holding(t, 0)
		d := &limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Now(), TTLSeconds: 60, Holds: []limits.Hold{{Tenant: "shop", ReasonID: "h"}}}
		n.keeper.Apply(d)
		q := n.queues.Queue(queue.Name{Domain: "a.test", VMTA: "v"})
		known := map[unique.Handle[queue.Labels]]*heldMail{}
		for _, step := range []struct {
			after time.Duration
			held  int
		}{{time.Minute, 1}, {scoped.HoldTime + time.Minute, 0}} {
			time.Sleep(step.after)
			if err := n.sweepHeld(t.Context(), time.Now(), known); err != nil {
				t.Fatal(err)
			}
			if got := q.Status(time.Now()).Held; got != step.held {
				t.Errorf("%s later %d are held, want %d", step.after, got, step.held)
			}
		}
		if item, ok := q.Next(time.Now()); !ok || item.Parked {
			t.Errorf("%+v is handed out as held until its end, want it let go", item)
		}
	})
}
