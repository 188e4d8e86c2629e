package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carom/deploy/up/supervise"
	"carom/sender/admin"
)

// nodeConfig is what every node of a test has: a listener that relays for this machine, spool, event
// log and admin socket. It wants the listener, the spool's folder
// with a line about it, and what the test adds.
const nodeConfig = `host-name node.test
smtp-listener %s
<source 127.0.0.1>
    always-allow-relaying yes
    max-rcpt-per-message 0
</source>
<spool %s>
    %s
</spool>
<event-log events>
    segment-size 256K
</event-log>
<admin admin.sock>
</admin>
%s`

// Node is a sender: the real binary with a folder of its own. It is started and ended as often as a
// test wants; one life at a time.
type Node struct {
	Dir  string
	SMTP string // address of the listener

	binary string
	wrap   []string
	admin  *http.Client
	log    tail

	mu   sync.Mutex
	life *supervise.Supervisor // nil: it does not run
}

// NewNode returns a node that does not run yet. more is added to its configuration. It is stopped
// with the test.
func NewNode(tb testing.TB, more string) *Node {
	tb.Helper()
	return NewNodeIn(tb, "spool", "", more)
}

// NewNodeIn is NewNode with the folder of the spool and a line for its section.
func NewNodeIn(tb testing.TB, spool, line, more string) *Node {
	tb.Helper()
	dir := tb.TempDir()
	n := &Node{Dir: dir, SMTP: FreeAddress(tb), binary: Binary(tb)}
	text := fmt.Sprintf(nodeConfig, n.SMTP, spool, line, more)
	if err := os.WriteFile(n.configFile(), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	n.admin = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // the next answer may come from the next life
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "admin.sock"))
		},
	}}
	tb.Cleanup(func() {
		n.Stop()
		if n.log.saw("WARNING: DATA RACE") {
			tb.Error("the node has a data race")
		}
		if n.log.saw("panic: ") || n.log.saw("fatal error: ") {
			tb.Error("the node panicked")
		}
		if tb.Failed() {
			tb.Logf("last lines of the node:\n%s", n.log.String())
		}
	})
	return n
}

func (n *Node) configFile() string { return filepath.Join(n.Dir, "carom.conf") }

// Events returns the folder of the event stream.
func (n *Node) Events() string { return filepath.Join(n.Dir, "events", "event") }

// Wrap runs the node under a program that gets the node's command line behind its own arguments.
func (n *Node) Wrap(command ...string) { n.wrap = command }

// Start starts the process and does not wait for anything.
func (n *Node) Start(ctx context.Context) error {
	command := append(append([]string{}, n.wrap...), n.binary, "sender", "-c", n.configFile())
	life := supervise.New(supervise.Options{Log: slog.New(slog.DiscardHandler), Line: n.log.line})
	n.mu.Lock()
	n.life = life
	n.mu.Unlock()
	return life.Start(ctx, supervise.Process{Name: "node", Path: command[0], Args: command[1:], Once: true})
}

// Run starts the node and waits until it takes mail.
func (n *Node) Run(ctx context.Context) error {
	if err := n.Start(ctx); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// Ready waits until the node takes mail.
func (n *Node) Ready(ctx context.Context) error {
	return Until(ctx, time.Minute, "the node to take mail", func(ctx context.Context) error {
		if err := n.Ended(ctx); err != nil {
			return finalError{err}
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.SMTP)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1)) // the socket answers earlier than the node does
		return err
	})
}

// Ended returns how the node's process ended, nil while it runs.
func (n *Node) Ended(ctx context.Context) error {
	life := n.current()
	switch {
	case life == nil:
		return errors.New("the node was not started")
	case life.States()[0].PID != 0:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // the end is being written down
	defer cancel()
	if err := life.Wait(ctx); err != nil {
		return err
	}
	return errors.New("the node was stopped")
}

func (n *Node) current() *supervise.Supervisor {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// PID returns the process, 0 if it does not run.
func (n *Node) PID() int {
	if life := n.current(); life != nil {
		return life.States()[0].PID
	}
	return 0
}

// Kill kills the process with SIGKILL and returns when it is gone.
func (n *Node) Kill(ctx context.Context) error {
	life, pid := n.current(), n.PID()
	if pid == 0 {
		return fmt.Errorf("the node has ended by itself: %w", n.Ended(ctx))
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the node: %w", err)
	}
	exit, ok := errors.AsType[*supervise.ExitError](life.Wait(ctx))
	if !ok {
		return fmt.Errorf("wait for the end of the node: %w", context.Cause(ctx))
	}
	if exit.Status != -1 { // it ended before the signal came
		return fmt.Errorf("the node has ended by itself: %w", exit)
	}
	return nil
}

// dumpBegins is how the Go runtime begins what it writes on SIGQUIT.
const dumpBegins = "SIGQUIT: quit"

// Dump ends the process with SIGQUIT, on which it writes down all its goroutines, and returns how
// many there are. Log has them.
func (n *Node) Dump(ctx context.Context) (goroutines int, err error) {
	life, pid := n.current(), n.PID()
	if pid == 0 {
		return 0, fmt.Errorf("the node has ended by itself: %w", n.Ended(ctx))
	}
	n.log.clear()
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		return 0, fmt.Errorf("dump the node: %w", err)
	}
	if err := life.Wait(ctx); err == nil {
		return 0, fmt.Errorf("wait for the end of the node: %w", context.Cause(ctx))
	}
	for line := range strings.Lines(n.Log()) {
		if strings.HasPrefix(line, "goroutine ") {
			goroutines++
		}
	}
	if goroutines == 0 {
		return 0, errors.New("the node wrote down no goroutines")
	}
	return goroutines, nil
}

// Stop stops the process with SIGTERM, if it runs, and returns when it is gone.
func (n *Node) Stop() {
	if life := n.current(); life != nil {
		life.Stop()
	}
}

// Log returns the last lines that the node wrote.
func (n *Node) Log() string { return n.log.String() }

// Status returns the counts of the node.
func (n *Node) Status(ctx context.Context) (admin.Status, error) {
	var s admin.Status
	return s, n.get(ctx, "status", &s)
}

// Queues returns the queues of the node.
func (n *Node) Queues(ctx context.Context) ([]admin.Queue, error) {
	var q []admin.Queue
	return q, n.get(ctx, "queues", &q)
}

func (n *Node) get(ctx context.Context, what string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/v1/"+what, http.NoBody)
	if err != nil {
		return err
	}
	response, err := n.admin.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", what, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(v)
}

// Empty waits until nothing is left in the spool. It gives up when for so long nothing was finished.
func (n *Node) Empty(ctx context.Context, patience time.Duration) error {
	least, since := -1, time.Now()
	return Until(ctx, time.Hour, "the spool to be empty", func(ctx context.Context) error {
		if err := n.Ended(ctx); err != nil {
			return finalError{err}
		}
		s, err := n.Status(ctx)
		if err == nil && s.LiveRecipients == 0 {
			return nil
		}
		if err == nil && (least < 0 || s.LiveRecipients < least) {
			least, since = s.LiveRecipients, time.Now()
		}
		if stuck := time.Since(since); stuck > patience {
			return finalError{fmt.Errorf("%d recipients left, none finished for %s (%w)", least, stuck.Round(time.Second), err)}
		}
		return fmt.Errorf("%d recipients left: %w", least, err)
	})
}

// Usage is what a process uses.
type Usage struct {
	Resident, Peak int64 // bytes
	Threads, Files int
}

// Usage reads what the node uses from /proc, which only Linux has.
func (n *Node) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(n.PID()))
	text, err := os.ReadFile(filepath.Join(dir, "status")) //nolint:gosec // of our own child
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		number, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			continue // a field of words
		}
		switch name {
		case "VmRSS":
			u.Resident = number << 10
		case "VmHWM":
			u.Peak = number << 10
		case "Threads":
			u.Threads = int(number)
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	u.Files = len(files)
	return u, err
}

// tail keeps the last lines of a process.
type tail struct {
	mu    sync.Mutex
	lines []string
	loud  bool // what follows is a report of the Go runtime that must be kept whole
}

const tailLines = 120

func (l *tail) line(_, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loud = l.loud || slices.ContainsFunc([]string{"WARNING: DATA RACE", "panic: ", "fatal error: ", dumpBegins}, func(words string) bool {
		return strings.HasPrefix(text, words)
	})
	if len(l.lines) >= tailLines && !l.loud {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
	l.lines = append(l.lines, text)
}

func (l *tail) saw(words string) bool { return l.loudly() && strings.Contains(l.String(), words) }

func (l *tail) loudly() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loud
}

func (l *tail) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines, l.loud = nil, false
}

// String implements fmt.Stringer.
func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
