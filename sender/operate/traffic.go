package operate

import (
	"strings"
	"sync"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/queue"
)

// The window over which traffic is counted, and its steps.
const (
	window = time.Minute
	step   = 5 * time.Second
	steps  = int64(window / step)
)

// Traffic counts what goes into and out of each queue, by the time of the events. It is safe for
// concurrent use. A queue without traffic is forgotten after the window. A nil Traffic counts nothing.
type Traffic struct {
	mu     sync.Mutex
	queues map[queue.Name]*flow
	swept  int64 // the step in which idle queues were last forgotten
}

// flow is the traffic of one queue by step, in a ring.
type flow struct {
	last    int64 // the step of the newest counts
	in, out [steps]int
}

// NewTraffic returns counts of nothing.
func NewTraffic() *Traffic { return &Traffic{queues: map[queue.Name]*flow{}} }

// Count counts events: what was received goes in, what was delivered or discarded goes out.
func (t *Traffic) Count(events ...*event.Event) {
	if t == nil {
		return
	}
	for _, e := range events {
		recipients := int(max(1, e.Recipients))
		at := e.Time.UnixNano() / int64(step)
		switch e.Kind {
		case event.Received:
			t.count(at, queue.Name{Domain: e.RecipientDomain, VMTA: e.VMTA}, recipients, 0)
		case event.Delivered, event.Discarded:
			domain, vmta, _ := strings.Cut(e.Queue, "/")
			t.count(at, queue.Name{Domain: domain, VMTA: vmta}, 0, recipients)
		default: // neither in nor out
		}
	}
}

// count counts recipients in the step at; those from before the window are of no interest.
func (t *Traffic) count(at int64, name queue.Name, in, out int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at-t.swept >= steps {
		t.swept = at
		for name, f := range t.queues {
			if at-f.last >= steps {
				delete(t.queues, name)
			}
		}
	}
	f := t.queues[name]
	if f == nil {
		f = &flow{last: at}
		t.queues[name] = f
	}
	if at <= f.last-steps {
		return
	}
	for missed := max(f.last+1, at-steps+1); missed <= at; missed++ { // steps that have left the window
		f.in[missed%steps], f.out[missed%steps] = 0, 0
	}
	f.last = max(f.last, at)
	f.in[at%steps] += in
	f.out[at%steps] += out
}

// LastMinute returns the recipients that went in and out in the last minute.
func (t *Traffic) LastMinute(name queue.Name) (in, out int) {
	if t == nil {
		return 0, 0
	}
	now := clock.Now().UnixNano() / int64(step)
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.queues[name]
	if f == nil {
		return 0, 0
	}
	for at := max(now-steps, f.last-steps) + 1; at <= f.last; at++ {
		in += f.in[at%steps]
		out += f.out[at%steps]
	}
	return in, out
}
