package app

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestFullDiskIsLoggedOnce: one line when messages begin to be refused, one when that is over.
func TestFullDiskIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fullDisk
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		full := fmt.Errorf("write: %w", syscall.ENOSPC)
		lines := func(want int, last string) {
			t.Helper()
			all := strings.Split(strings.TrimSpace(log.String()), "\n")
			if len(all) != want || !strings.Contains(all[want-1], last) {
				t.Errorf("the log is %q, want %d lines with %q in the last", all, want, last)
			}
		}
		f.note(logger, nil)
		f.note(logger, errors.New("another error"))
		if log.Len() > 0 {
			t.Errorf("the log says %q of a disk with room", log.String())
		}
		for round := range 2 {
			for range 100 { // large ones are refused, small ones are not
				f.note(logger, full)
				time.Sleep(fullDiskQuiet / 2)
				f.note(logger, nil)
			}
			lines(2*round+1, "level=ERROR")
			f.note(logger, errors.New("another error"))
			time.Sleep(fullDiskQuiet / 2)
			f.note(logger, nil)
			lines(2*round+2, "refused=100")
			f.note(logger, nil)
		}
	})
}
