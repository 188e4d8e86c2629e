package app

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// fullDisk logs when messages begin to be refused for want of space and when that is over, not each of
// them. The zero value is ready, and safe for concurrent use.
type fullDisk struct {
	refusing atomic.Bool

	mu      sync.Mutex
	last    time.Time // of the last refusal
	refused int
}

// fullDiskQuiet is how long nothing must have been refused before the disk counts as having room again:
// an almost full one takes small messages and refuses large ones.
const fullDiskQuiet = 10 * time.Second

// note is told how storing a message ended.
func (f *fullDisk) note(logger *slog.Logger, err error) {
	full := errors.Is(err, syscall.ENOSPC)
	if !full && (err != nil || !f.refusing.Load()) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if full {
		if f.refused++; f.refused == 1 {
			logger.Error("messages not accepted, the disk is full", "error", err)
		}
		f.last = now
		f.refusing.Store(true)
		return
	}
	if f.refused > 0 && now.Sub(f.last) >= fullDiskQuiet {
		logger.Info("messages are accepted again, the disk has room", "refused", f.refused)
		f.refused = 0
		f.refusing.Store(false)
	}
}
