//go:build unix

package engine

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

func TestLaneServesClientsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(100, &worker{})
		first, err := l.acquire(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, client := range []string{"a", "a", "a", "b", "a", "c", "b"} {
			go func() {
				w, err := l.acquire(t.Context(), client)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, client) // one worker: one writer at a time
				l.release(w)
			}()
			synctest.Wait()
		}
		l.release(first)
		synctest.Wait()
		if want := []string{"a", "b", "c", "a", "b", "a", "a"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		if len(l.free) != 1 || l.queued != 0 || len(l.turn) != 0 || len(l.waiting) != 0 {
			t.Errorf("left %d free, %d queued, %v, %v", len(l.free), l.queued, l.turn, l.waiting)
		}
	})
}

func TestLaneIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(2, &worker{})
		held, err := l.acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := l.acquire(ctx, "a")
				errs <- err
			}()
		}
		synctest.Wait()
		if _, err := l.acquire(t.Context(), "b"); !errors.Is(err, errBusy) {
			t.Errorf("acquire with a full queue: %v, want errBusy", err)
		}
		cancel()
		for range 2 {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("acquire that was cancelled: %v", err)
			}
		}
		l.release(held)
		if w, err := l.acquire(t.Context(), "b"); err != nil || w != held {
			t.Errorf("acquire after all have gone: %v, %v", w, err)
		}
	})
}
