package app

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"carom/schemas/event"
	"carom/sender/orders"
)

// runFile is run for a node that can read its configuration again.
func (p *place) runFile(f func(address string)) {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	defer stop()
	addresses := make(chan []string, 1)
	done := make(chan error, 1)
	go func() {
		done <- RunFile(ctx, filepath.Join(p.dir, "config"), "test", slog.New(slog.NewTextHandler(p.t.Output(), nil)), func(a []string) { addresses <- a })
	}()
	select {
	case a := <-addresses:
		f(a[0])
	case err := <-done:
		p.t.Fatalf("the node did not start: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		p.t.Fatalf("the node stopped with %v", err)
	}
}

// rewrite changes the configuration on disk.
func (p *place) rewrite(old, new string) {
	p.t.Helper()
	file := filepath.Join(p.dir, "config")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), old) {
		p.t.Fatalf("%q is not in the configuration (%v)", old, err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, new)), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func port(s *sink) string { return strconv.Itoa(s.port) }

func TestReload(t *testing.T) {
	first, second := newSink(t), newSink(t)
	p := operated(t, first)
	p.runFile(func(address string) {
		c := p.client()
		p.send(address, "ann@a.test")
		waitFor(t, "the first delivery", func() bool { return first.taken.Load() == 1 })
		if r, err := c.Reload(t.Context()); err != nil || r.Changed || len(r.Restart) != 0 {
			t.Errorf("reload of the same file: %+v, %v", r, err)
		}

		p.rewrite("smtp-hosts [127.0.0.1]:"+port(first), "smtp-hosts [127.0.0.1]:"+port(second))
		p.rewrite("host-name node.test", "host-name other.test\ntotal-max-smtp-out 7\nthread-reuse no")
		r, err := c.Reload(t.Context())
		if err != nil || !r.Changed || strings.Join(r.Restart, " ") != "host-name total-max-smtp-out" || len(r.Warnings) != 1 {
			t.Errorf("reload of another file: %+v, %v", r, err)
		}
		p.send(address, "ann@a.test", "bob@b.test")
		waitFor(t, "deliveries to the other receiver", func() bool { return second.taken.Load() == 2 })

		// A file with mistakes changes nothing.
		p.rewrite("max-smtp-out 2", "max-smtp-out 2\nmax-smtp-outt 3")
		_, err = c.Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), `config:`) || !strings.Contains(err.Error(), `unknown directive "max-smtp-outt"`) {
			t.Errorf("reload of a bad file: %v", err)
		}
		if s, err := c.Status(t.Context()); err != nil || s.ConfigHash != r.Hash {
			t.Errorf("the node has the configuration %s (%v), want %s", s.ConfigHash, err, r.Hash)
		}
		p.send(address, "ann@a.test")
		waitFor(t, "a delivery under the old configuration", func() bool { return second.taken.Load() == 3 })
	})
	if n := first.taken.Load(); n != 1 {
		t.Errorf("the first receiver took %d messages, want 1", n)
	}
}

func TestReloadLeavesTimesAlone(t *testing.T) {
	s := newSink(t)
	s.deferAll.Store(true)
	p := operated(t, s)
	p.rewrite("retry-recipients-after 0s", "retry-recipients-after 10m")
	p.runFile(func(address string) {
		c := p.client()
		p.send(address, "ann@a.test")
		waitFor(t, "a deferral", func() bool { return p.kinds()[event.Deferred] >= 1 })
		waiting := func() any {
			t.Helper()
			m, err := c.Messages(t.Context(), orders.Filter{}, 10)
			if err != nil || len(m) != 1 {
				t.Fatalf("%d messages wait, %v", len(m), err)
			}
			q, err := c.Queues(t.Context())
			if err != nil || len(q) != 1 {
				t.Fatalf("%d queues, %v", len(q), err)
			}
			return []any{m, q[0].DeferredUntil, q[0].Mode, q[0].Why}
		}
		waitFor(t, "the message to wait", func() bool {
			q, err := c.Queues(t.Context())
			return err == nil && len(q) == 1 && q[0].Recipients == 1 && q[0].Sessions == 0
		})
		before := waiting()
		p.rewrite("bounce-after 1h", "bounce-after 2h\n retry-after 1m")
		if _, err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, waiting(), cmpopts.EquateApproxTime(time.Second)); diff != "" {
			t.Errorf("what waits is otherwise after a reload:\n%s", diff)
		}
	})
}

func TestReloadsUnderTraffic(t *testing.T) {
	const messages = 100
	s := newSink(t)
	p := operated(t, s)
	p.runFile(func(address string) {
		c := p.client()
		for i := range messages {
			p.send(address, "ann@a.test", "bob@b.test")
			if i%10 == 0 {
				p.rewrite("max-smtp-out ", "max-smtp-out 1")
				if _, err := c.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.rewrite("max-smtp-out 1", "max-smtp-out ")
			}
		}
		waitFor(t, "all deliveries", func() bool { return p.kinds()[event.Delivered] == 2*messages })
	})
	if counts := p.kinds(); counts[event.Received] != 2*messages || counts[event.Delivered] != 2*messages || s.taken.Load() != 2*messages || p.live() != 0 {
		t.Errorf("received %d, delivered %d, taken %d, left %d; want %d and nothing left", counts[event.Received], counts[event.Delivered], s.taken.Load(), p.live(), 2*messages)
	}
}

func TestHangupReloads(t *testing.T) {
	hangups := make(chan os.Signal, 1) // or one that comes too early ends the test
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	p := operated(t, newSink(t))
	p.runFile(func(string) {
		c := p.client()
		before, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.rewrite("max-smtp-out 2", "max-smtp-out 3")
		waitFor(t, "another configuration", func() bool {
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			now, err := c.Status(t.Context())
			return err == nil && now.ConfigHash != before.ConfigHash
		})
	})
}
