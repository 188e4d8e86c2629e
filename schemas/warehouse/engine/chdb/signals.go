//go:build unix

package chdb

import (
	"fmt"
	"syscall"
	"unsafe"
)

// The engine's start installs its own handlers for the signals of a crash, and Go's runtime needs
// its own: SIGSEGV becomes a nil-pointer panic, SIGURG preempts goroutines.
var handled = [...]syscall.Signal{
	syscall.SIGILL, syscall.SIGABRT, syscall.SIGFPE, syscall.SIGBUS, syscall.SIGSEGV, syscall.SIGURG,
}

// sigactionSize is larger than struct sigaction of every supported C library (152 bytes in
// glibc on amd64); the bytes are handed back unchanged, so their layout does not matter.
const sigactionSize = 512

// saveSignals remembers the handlers of the signals in handled and returns the function that
// puts them back.
func (l *Library) saveSignals() (restore func() error, err error) {
	saved := new([len(handled)][sigactionSize]byte)
	for i, signal := range handled {
		if l.sigaction(int32(signal), nil, unsafe.Pointer(&saved[i])) != 0 {
			return nil, fmt.Errorf("read the handler of signal %d", signal)
		}
	}
	return func() error {
		for i, signal := range handled {
			if l.sigaction(int32(signal), unsafe.Pointer(&saved[i]), nil) != 0 {
				return fmt.Errorf("restore the handler of signal %d", signal)
			}
		}
		return nil
	}, nil
}
