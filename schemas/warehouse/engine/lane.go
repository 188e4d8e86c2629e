//go:build unix

package engine

import (
	"context"
	"errors"
	"slices"
	"sync"

	"carom/schemas/warehouse/engine/chdb"
)

// errBusy is what acquire returns when the queue of a lane is full.
var errBusy = errors.New("too many simultaneous queries")

// worker is a connection together with the database that USE last set on it.
type worker struct {
	conn     *chdb.Conn
	database string
}

// lane hands out a set of workers. Who finds none free waits in a bounded queue that serves its
// clients in turn, each client in the order it came, so that one client's hundred queries do not
// keep another's single one waiting.
type lane struct {
	limit int // how many may wait

	mu      sync.Mutex
	free    []*worker
	queued  int
	turn    []string                  // clients with somebody waiting, next first
	waiting map[string][]chan *worker // by client
}

func newLane(limit int, workers ...*worker) *lane {
	return &lane{limit: limit, free: workers, waiting: make(map[string][]chan *worker)}
}

// acquire returns a worker for client, waiting for one if need be. It fails with errBusy if the
// queue is full, or with ctx's error. The caller releases the worker.
func (l *lane) acquire(ctx context.Context, client string) (*worker, error) {
	l.mu.Lock()
	if n := len(l.free); n > 0 {
		w := l.free[n-1]
		l.free = l.free[:n-1]
		l.mu.Unlock()
		return w, nil
	}
	if l.queued >= l.limit {
		l.mu.Unlock()
		return nil, errBusy
	}
	l.queued++
	place := make(chan *worker, 1)
	if len(l.waiting[client]) == 0 {
		l.turn = append(l.turn, client)
	}
	l.waiting[client] = append(l.waiting[client], place)
	l.mu.Unlock()

	select {
	case w := <-place:
		return w, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	gone := l.leave(client, place)
	l.mu.Unlock()
	if !gone {
		l.release(<-place) // a worker came in the same moment
	}
	return nil, ctx.Err()
}

// leave takes place out of the queue and reports whether it was still there.
func (l *lane) leave(client string, place chan *worker) bool {
	i := slices.Index(l.waiting[client], place)
	if i < 0 {
		return false
	}
	l.queued--
	l.waiting[client] = slices.Delete(l.waiting[client], i, i+1)
	if len(l.waiting[client]) == 0 {
		delete(l.waiting, client)
		l.turn = slices.DeleteFunc(l.turn, func(c string) bool { return c == client })
	}
	return true
}

// release gives w back, to the next in the queue if there is one.
func (l *lane) release(w *worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.turn) == 0 {
		l.free = append(l.free, w)
		return
	}
	client := l.turn[0]
	l.turn = l.turn[1:]
	place := l.waiting[client][0]
	l.waiting[client] = l.waiting[client][1:]
	l.queued--
	if len(l.waiting[client]) > 0 {
		l.turn = append(l.turn, client)
	} else {
		delete(l.waiting, client)
	}
	place <- w
}
