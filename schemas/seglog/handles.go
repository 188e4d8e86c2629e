package seglog

import (
	"errors"
	"math"
	"sync"
)

// maxHandles bounds how many segments are open for reading when nobody reads them.
const maxHandles = 64

// handles keeps segments open for reading, because opening a file costs several times what reading a
// small record does. A removed segment is closed at once, or by its last reader, so that its space
// is free.
type handles struct {
	fs FS

	mu     sync.Mutex
	open   map[uint64]*handle
	clock  uint64
	closed bool // nothing is kept any more
}

// handle is an open segment. The fields behind File belong to the mutex of handles.
type handle struct {
	File
	readers int
	used    uint64 // clock of the last use
	kept    bool   // is in handles.open
}

// acquire opens the segment first, which is the file name. The caller releases it.
func (hs *handles) acquire(first uint64, name func() string) (*handle, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.open[first]
	if h == nil {
		// Under the mutex: a segment that is removed meanwhile must not be kept after drop.
		f, err := hs.fs.Open(name())
		if err != nil {
			return nil, err
		}
		h = &handle{File: f}
		if !hs.closed {
			hs.makeRoom()
			hs.open[first], h.kept = h, true
		}
	}
	hs.clock++
	h.used = hs.clock
	h.readers++
	return h, nil
}

// makeRoom gives up the segment that was not used for longest. The caller holds mu.
func (hs *handles) makeRoom() {
	if len(hs.open) < maxHandles {
		return
	}
	oldest, used := uint64(0), uint64(math.MaxUint64)
	for first, h := range hs.open {
		if h.used < used {
			oldest, used = first, h.used
		}
	}
	_ = hs.forget(oldest) // only read
}

// forget gives up a segment. The caller holds mu.
func (hs *handles) forget(first uint64) error {
	h := hs.open[first]
	if h == nil {
		return nil
	}
	delete(hs.open, first)
	h.kept = false
	if h.readers > 0 {
		return nil
	}
	return h.Close()
}

// release is the end of a use.
func (hs *handles) release(h *handle) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.readers--
	if h.readers > 0 || h.kept {
		return nil
	}
	return h.Close()
}

// drop gives up a segment that was removed.
func (hs *handles) drop(first uint64) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.forget(first)
}

// close gives up all segments. What is read goes on being readable.
func (hs *handles) close() error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.closed = true
	errs := make([]error, 0, len(hs.open))
	for first := range hs.open {
		errs = append(errs, hs.forget(first))
	}
	return errors.Join(errs...)
}
