package deliver

import (
	"slices"
	"sync"

	"carom/schemas/clock"
	"carom/schemas/limits"
	"carom/sender/queue"
	"carom/sender/throttle"
)

// maxPaths bounds the paths of a queue that are remembered; more sources than an operator reads.
const maxPaths = 32

// paths are the ways that sessions of a queue have taken, the latest last.
type paths struct {
	mu  sync.Mutex
	all []throttle.Path
}

// note remembers the path of a session.
func (p *paths) note(taken throttle.Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = slices.DeleteFunc(p.all, func(known throttle.Path) bool {
		return known.Key == taken.Key && known.Source == taken.Source
	})
	if len(p.all) == maxPaths {
		p.all = slices.Delete(p.all, 0, 1)
	}
	p.all = append(p.all, taken)
}

// key returns the key of the path that was taken last, the zero Key if there is none.
func (p *paths) key() limits.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		return limits.Key{}
	}
	return p.all[len(p.all)-1].Key
}

// Paths returns the paths that sessions of q have taken, the latest first, under the limits of its
// present mode: what throttle.Explain explains. There is none before the first session found its way.
func (a *Agent) Paths(q *queue.Queue) []throttle.Path {
	w, err := a.way(q)
	if err != nil {
		return nil
	}
	w.paths.mu.Lock()
	taken := slices.Clone(w.paths.all)
	w.paths.mu.Unlock()
	slices.Reverse(taken)
	mode := w.mode(q, clock.Now())
	for i := range taken {
		taken[i].Queued = w.limits[mode]
	}
	return taken
}
