// Package supervise runs child processes: it starts them one after another, waits until each is
// ready, starts again what dies, and stops them in reverse order.
//
// A child that ends with exit status 2 said that its configuration cannot work (schemas/service):
// it is not started again, and Wait returns an *ExitError with its last line. The same goes for a
// child that must not be started again. Every other end is answered with a new start, at once at
// first and then after a pause that doubles.
//
// No child outlives the supervisor, even if that is killed: on Linux the kernel kills the child
// when the thread that started it dies, so each child has a goroutine that keeps its thread for
// as long as the child runs. Children have process groups of their own, so that Ctrl-C on a
// terminal reaches the supervisor alone, which stops them in order.
//
// Nothing here knows what the children do. A Supervisor is safe for concurrent use.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Defaults of Options and Process.
const (
	DefaultMinPause     = 200 * time.Millisecond
	DefaultMaxPause     = 10 * time.Second
	DefaultStartTimeout = 30 * time.Second
	DefaultStopTimeout  = 30 * time.Second
)

// steady is how long a process must have run for its end to count as the first one again.
const steady = 10 * time.Second

// readyPoll is the time between two calls of Process.Ready.
const readyPoll = 50 * time.Millisecond

// Options of a Supervisor.
type Options struct {
	Log *slog.Logger
	// Line takes each line that a child writes, without its line end. It is called from one
	// goroutine a child.
	Line func(process, line string)
	// MinPause and MaxPause bound the pause before a process is started again. Zero means the
	// default.
	MinPause, MaxPause time.Duration
}

// Process is a program to run.
type Process struct {
	Name string // in messages and before its lines
	Path string
	Args []string
	// Ready is called again and again after the start until it returns nil. Without it the process
	// is ready as soon as it runs.
	Ready func(context.Context) error
	// StartTimeout bounds the wait for Ready, StopTimeout the time between SIGTERM and SIGKILL.
	// Zero means the default.
	StartTimeout, StopTimeout time.Duration
	// Stdout takes the standard output in place of Options.Line; may be nil.
	Stdout io.Writer
	// Once says that the process must not be started again: its end is final.
	Once bool
}

// ExitError is the final end of a process.
type ExitError struct {
	Name   string
	Status int    // exit status; -1 if a signal ended it, or if it could not be started
	Line   string // the last that it wrote
	Err    error  // what os/exec said
}

func (e *ExitError) Error() string {
	if e.Line != "" {
		return e.Name + ": " + e.Line
	}
	return fmt.Sprintf("%s: %v", e.Name, e.Err)
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// State is what a Supervisor knows of a process.
type State struct {
	Name     string
	PID      int // 0 while it does not run
	Restarts int
}

// Supervisor runs processes. The zero value is not usable; see New.
type Supervisor struct {
	o      Options
	failed chan struct{} // closed when a process ended for good

	mu       sync.Mutex
	children []*child // in the order of their start
	cause    error    // of failed
}

// New returns a Supervisor without processes.
func New(o Options) *Supervisor {
	if o.MinPause <= 0 {
		o.MinPause = DefaultMinPause
	}
	if o.MaxPause <= 0 {
		o.MaxPause = DefaultMaxPause
	}
	return &Supervisor{o: o, failed: make(chan struct{})}
}

// Start starts p and waits until it is ready. It returns an *ExitError if p ended for good or any
// other process did, and another error if p is not ready in time or ctx ends. The process is
// stopped by Stop alone, also after an error.
func (s *Supervisor) Start(ctx context.Context, p Process) error {
	if p.StartTimeout <= 0 {
		p.StartTimeout = DefaultStartTimeout
	}
	if p.StopTimeout <= 0 {
		p.StopTimeout = DefaultStopTimeout
	}
	c := newChild(s, p)
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	go c.keep(ctx)
	select {
	case <-c.running:
	case <-s.failed:
		return s.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p.Ready == nil {
		return nil
	}
	return s.awaitReady(ctx, c)
}

func (s *Supervisor) awaitReady(ctx context.Context, c *child) error {
	began := time.Now()
	for {
		call, cancel := context.WithTimeout(ctx, c.p.StartTimeout)
		err := c.p.Ready(call)
		cancel()
		if err == nil {
			return nil
		}
		if time.Since(began) > c.p.StartTimeout {
			if line := c.lastLine(); line != "" {
				err = fmt.Errorf("%w; its last words: %s", err, line)
			}
			return fmt.Errorf("%s is not ready after %s: %w", c.p.Name, c.p.StartTimeout, err)
		}
		select {
		case <-time.After(readyPoll):
		case <-s.failed:
			return s.failure()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Do runs p to its end. It returns an *ExitError if the exit status is not 0, and stops p when ctx
// ends or another process ended for good.
func (s *Supervisor) Do(ctx context.Context, p Process) error {
	p.Once = true
	if p.StopTimeout <= 0 {
		p.StopTimeout = DefaultStopTimeout
	}
	c := newChild(s, p)
	c.task = true
	go c.keep(ctx)
	select {
	case <-c.ended:
		return c.result
	case <-ctx.Done():
		c.stop()
		return context.Cause(ctx)
	case <-s.failed:
		c.stop()
		return s.failure()
	}
}

// Wait returns nil when ctx ends, and an *ExitError when a process ended for good.
func (s *Supervisor) Wait(ctx context.Context) error {
	select {
	case <-s.failed:
		return s.failure()
	case <-ctx.Done():
		return nil
	}
}

// Stop stops every process, the last started first, and returns when all have ended.
func (s *Supervisor) Stop() {
	s.mu.Lock()
	children := slices.Clone(s.children)
	s.mu.Unlock()
	for _, c := range slices.Backward(children) {
		c.stop()
	}
}

// States returns the state of every process in the order of their start.
func (s *Supervisor) States() []State {
	s.mu.Lock()
	children := slices.Clone(s.children)
	s.mu.Unlock()
	states := make([]State, len(children))
	for i, c := range children {
		states[i] = c.state()
	}
	return states
}

func (s *Supervisor) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = err
		close(s.failed)
	}
}

func (s *Supervisor) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Status returns the exit status of the process whose end err tells of, and false if it tells of
// none.
func Status(err error) (int, bool) {
	e, ok := errors.AsType[*ExitError](err)
	if !ok {
		return 0, false
	}
	return e.Status, true
}
