// Package feed watches the folder in which the node's agent leaves what analytics decided: the
// limits document, and the suppression snapshot with the changes since.
//
// A file that is missing, unreadable, damaged or older than what is in force changes nothing: the
// node goes on with what it has, and the log says why, once for each file. Files are replaced as a
// whole, so it is enough to watch which file has the name, with its modification time and size; the
// changes are read as they are added. The first limits document may be from before a stop: its Age says
// how long it lay there.
package feed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"carom/schemas/clock"
	"carom/schemas/limits"
	"carom/schemas/suppression"
)

// Watcher reads the files of a feed folder when they change. It belongs to one goroutine.
type Watcher struct {
	dir      string
	interval time.Duration
	onLimits func(*limits.Document)
	onList   func(*suppression.Snapshot)
	onChange func([]suppression.Change) // of the list
	logger   *slog.Logger

	limitsFile, listFile file
	tail                 suppression.Tail
	tailComplaint        string // what was last logged about the changes
	document             *limits.Document
	list                 *suppression.Snapshot
}

// file is what a file looked like when it was last read.
type file struct {
	info      fs.FileInfo // nil before the first
	complaint string      // what was last logged about it
}

// New returns a watcher of dir that looks every interval and calls back from the goroutine of Run.
func New(
	dir string, interval time.Duration, onLimits func(*limits.Document), onList func(*suppression.Snapshot), onChange func([]suppression.Change),
	logger *slog.Logger,
) *Watcher {
	return &Watcher{dir: dir, interval: interval, onLimits: onLimits, onList: onList, onChange: onChange, logger: logger}
}

// Poll looks once. Call it before mail flows, so that a restart does not forget a limit.
func (w *Watcher) Poll() {
	w.look(&w.limitsFile, limits.FileName, w.readLimits)
	w.look(&w.listFile, suppression.FileName, w.readList)
	w.readChanges()
}

// readChanges hands on what was added to the delta of the list in force.
func (w *Watcher) readChanges() {
	if w.list == nil {
		return
	}
	changes, err := w.tail.Read(filepath.Join(w.dir, suppression.DeltaName), w.list.Generation())
	if len(changes) > 0 {
		w.onChange(changes)
	}
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != w.tailComplaint {
		w.logger.Error("feed refused, what is in force stays", "error", err)
	}
	w.tailComplaint = complaint
}

// look reads a file if it has changed. What could not be read at all is tried again.
func (w *Watcher) look(f *file, name string, read func(name string) error) {
	name = filepath.Join(w.dir, name)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && f.same(info) {
		return
	}
	if err == nil {
		err = read(name)
	}
	if _, unread := errors.AsType[*fs.PathError](err); !unread {
		f.info = info
	}
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != f.complaint {
		w.logger.Error("feed refused, what is in force stays", "error", err)
	}
	f.complaint = complaint
}

func (f *file) same(info fs.FileInfo) bool {
	return f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size()
}

// Run looks every interval until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	ticker := clock.NewTicker(w.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.Poll()
		}
	}
}

func (w *Watcher) readLimits(name string) error {
	next, err := limits.Load(name)
	if err != nil {
		return err
	}
	if w.document != nil && next.Generation == w.document.Generation {
		return nil // the same once more
	}
	if w.document == nil {
		next.Age = w.age(name)
	}
	if next, err = limits.Advance(w.document, next); err != nil {
		return err
	}
	w.document = next
	w.onLimits(next)
	return nil
}

// age returns how long ago a file was written, by the clock of this machine, which wrote it. A clock that
// was set back since makes it 0.
func (w *Watcher) age(name string) time.Duration {
	info, err := os.Stat(name)
	if err != nil {
		return 0 // it was there a moment ago
	}
	return max(0, clock.Scaled(time.Since(info.ModTime())))
}

func (w *Watcher) readList(name string) error {
	next, err := suppression.Load(name)
	if err != nil {
		return err
	}
	if w.list != nil && next.Generation() < w.list.Generation() {
		return fmt.Errorf("suppression snapshot is older than the one in force: generation %d after %d", next.Generation(), w.list.Generation())
	}
	if w.list != nil && next.Generation() == w.list.Generation() {
		return nil
	}
	w.list, w.tail = next, suppression.Tail{}
	w.onList(next)
	return nil
}
