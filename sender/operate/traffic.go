package operate

import (
	"strings"
	"sync"
	"time"

	"carom/schemas/event"
	"carom/sender/account"
	"carom/sender/queue"
)

// The window over which traffic is counted, and its steps.
const (
	window = time.Minute
	step   = 5 * time.Second
	steps  = int64(window / step)
)

// Traffic counts what goes into and out of each queue. It is told of every event in the order of the
// log, and is safe for concurrent use. A queue without traffic is forgotten after the window.
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

var _ account.Sink = (*Traffic)(nil)

// NewTraffic returns counts of nothing.
func NewTraffic() *Traffic { return &Traffic{queues: map[queue.Name]*flow{}} }

// Write counts an event; part of account.Sink.
func (t *Traffic) Write(e *event.Event, _ uint64) error {
	switch e.Kind {
	case event.Received:
		t.count(queue.Name{Domain: e.RecipientDomain, VMTA: e.VMTA}, int(e.Recipients), 0)
	case event.Delivered, event.Discarded:
		domain, vmta, _ := strings.Cut(e.Queue, "/")
		t.count(queue.Name{Domain: domain, VMTA: vmta}, 0, int(e.Recipients))
	default: // neither in nor out
	}
	return nil
}

// Flush is part of account.Sink.
func (t *Traffic) Flush() error { return nil }

func (t *Traffic) count(name queue.Name, in, out int) {
	now := time.Now().UnixNano() / int64(step)
	t.mu.Lock()
	defer t.mu.Unlock()
	if now-t.swept >= steps {
		t.swept = now
		for name, f := range t.queues {
			if now-f.last >= steps {
				delete(t.queues, name)
			}
		}
	}
	f := t.queues[name]
	if f == nil {
		f = &flow{last: now}
		t.queues[name] = f
	}
	f.advance(now)
	f.in[now%steps] += in
	f.out[now%steps] += out
}

// advance forgets the steps that have left the window at the step now.
func (f *flow) advance(now int64) {
	for missed := max(f.last+1, now-steps+1); missed <= now; missed++ {
		f.in[missed%steps], f.out[missed%steps] = 0, 0
	}
	f.last = max(f.last, now)
}

// LastMinute returns the recipients that went in and out in the last minute.
func (t *Traffic) LastMinute(name queue.Name) (in, out int) {
	now := time.Now().UnixNano() / int64(step)
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
