package supervise

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// statusConfig is the exit status of a process whose configuration cannot work.
const statusConfig = 2

// leftoverPipes is how long the output of an ended process is read on, in case that something it
// started still holds the other end.
const leftoverPipes = 2 * time.Second

// child is a process and its successors. The goroutine of keep starts and reaps them.
type child struct {
	s    *Supervisor
	p    Process
	task bool // its end concerns only Do

	running chan struct{} // closed when it was first started
	stopped chan struct{} // closed by stop
	ended   chan struct{} // closed when keep returns
	result  error         // of a task; valid after ended

	mu       sync.Mutex
	cmd      *exec.Cmd // nil while nothing runs
	stopping bool
	restarts int
	last     string // line
	dump     bool   // it wrote a stack trace in this life
}

func newChild(s *Supervisor, p Process) *child {
	return &child{
		s: s, p: p,
		running: make(chan struct{}), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
}

// keep runs the process again and again. The thread stays with this goroutine because the kernel
// sends the parent-death signal when the thread that started a process ends, not the process.
func (c *child) keep(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.ended)
	log := c.s.o.Log.With("process", c.p.Name)
	pause := c.s.o.MinPause
	first := true
	for {
		began := time.Now()
		err := c.start(ctx)
		if errors.Is(err, errStopping) {
			return
		}
		if err == nil {
			if first {
				close(c.running)
				first = false
			}
			err = c.wait()
		}
		if c.isStopping() {
			return
		}
		exit := c.exitError(err)
		if c.task {
			if exit.Status != 0 {
				c.result = exit
			}
			return
		}
		if c.p.Once || exit.Status == statusConfig || first { // first: there is no such program
			c.s.fail(exit)
			return
		}
		if time.Since(began) >= steady {
			pause = c.s.o.MinPause
		}
		log.Warn("process ended, starting it again", "error", exit.Err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-c.stopped:
			return
		}
		pause = min(2*pause, c.s.o.MaxPause)
		c.mu.Lock()
		c.restarts++
		c.mu.Unlock()
	}
}

var errStopping = errors.New("stopping")

func (c *child) start(ctx context.Context) error {
	// The context must not end the process: stop does, in its order.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.p.Path, c.p.Args...)
	cmd.SysProcAttr = processAttributes()
	cmd.WaitDelay = leftoverPipes
	lines := &lineWriter{line: c.line}
	cmd.Stdout, cmd.Stderr = lines, lines
	if c.p.Stdout != nil {
		cmd.Stdout = c.p.Stdout
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return errStopping
	}
	c.last, c.dump = "", false
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd = cmd
	return nil
}

func (c *child) wait() error {
	c.mu.Lock()
	cmd := c.cmd
	c.mu.Unlock()
	err := cmd.Wait()
	if lines, ok := cmd.Stderr.(*lineWriter); ok {
		lines.flush()
	}
	c.mu.Lock()
	c.cmd = nil
	c.mu.Unlock()
	return err
}

// line takes a line of the process's output.
func (c *child) line(text string) {
	c.mu.Lock()
	if strings.TrimSpace(text) != "" {
		c.last = text
	}
	c.dump = c.dump || strings.HasPrefix(text, "goroutine ") && strings.HasSuffix(text, ":")
	c.mu.Unlock()
	c.s.o.Line(c.p.Name, text)
}

// exitError returns how the process ended. A Go program that panics exits with status 2 as well,
// which must not pass for a mistake in its configuration.
func (c *child) exitError(err error) *ExitError {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &ExitError{Name: c.p.Name, Line: c.last, Err: err}
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case ok && exit.ExitCode() == statusConfig && c.dump:
		e.Status = -1
	case ok:
		e.Status = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		e.Status = -1
	}
	if e.Err == nil {
		e.Err = errors.New("exit status 0")
	}
	return e
}

// stop ends the process, waits for it and lets none follow.
func (c *child) stop() {
	c.mu.Lock()
	if !c.stopping {
		c.stopping = true
		close(c.stopped)
	}
	cmd := c.cmd
	c.mu.Unlock()
	if cmd == nil {
		<-c.ended
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-c.ended:
		return
	case <-time.After(c.p.StopTimeout):
	}
	c.s.o.Log.Warn("process does not stop, killing it", "process", c.p.Name, "after", c.p.StopTimeout)
	_ = cmd.Process.Kill()
	<-c.ended
}

func (c *child) isStopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

func (c *child) lastLine() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *child) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{Name: c.p.Name, Restarts: c.restarts}
	if c.cmd != nil {
		s.PID = c.cmd.Process.Pid
	}
	return s
}
