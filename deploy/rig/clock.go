package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// Clock is the wall clock of one life of a node. Nothing else is changed: the node's monotonic clock and
// all other processes go on as before.
//
// Go reads the clock without a library that could be put in between, by a function in a page that
// the kernel gives each process (vdso(7)). TakeClock overwrites that function in the node's own copy with
// one that asks the kernel and adds a number of seconds.
type Clock struct {
	memory *os.File // of the node
	shift  int64    // where in it the seconds are
}

// errNoClock is returned where nobody has written the function for the machine.
var errNoClock = errors.New("the clock of a process can be moved on Linux for amd64 alone")

// TakeClock takes the clock of a node that runs, or skips. The clock does not move yet.
func TakeClock(tb testing.TB, n *Node) *Clock {
	tb.Helper()
	c, err := takeClock(tb.Context(), n.PID())
	switch {
	case errors.Is(err, errNoClock):
		tb.Skip(err)
	case errors.Is(err, os.ErrPermission):
		tb.Skipf("the system lets nobody write into a process: %v", err)
	case err != nil:
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.memory.Close() })
	return c
}

// Shift sets how far the node's clock is from the true one, in whole seconds.
func (c *Clock) Shift(by time.Duration) error {
	seconds := binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second))) //nolint:gosec // two's complement is wanted
	if _, err := c.memory.WriteAt(seconds, c.shift); err != nil {
		return fmt.Errorf("shift the clock: %w", err)
	}
	return nil
}
