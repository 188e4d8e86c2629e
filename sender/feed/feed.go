// Package feed watches the folder in which the node's agent leaves what analytics decided: the
// limits document and the suppression snapshot.
//
// A file that is missing, unreadable or older than what is in force changes nothing: the node goes
// on with what it has. Files are replaced as a whole, so a changed modification time or size is
// all that has to be watched.
package feed

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"carom/schemas/limits"
	"carom/schemas/suppression"
)

// Watcher reads the files of a feed folder when they change. It belongs to one goroutine.
type Watcher struct {
	dir      string
	interval time.Duration
	onLimits func(*limits.Document)
	onList   func(*suppression.Snapshot)
	logger   *slog.Logger

	limitsFile, listFile file
	document             *limits.Document
	list                 *suppression.Snapshot
}

// file is what a file looked like when it was last read.
type file struct {
	modified time.Time
	size     int64
}

// New returns a watcher of dir that looks every interval and calls back from the goroutine of Run.
func New(dir string, interval time.Duration, onLimits func(*limits.Document), onList func(*suppression.Snapshot), logger *slog.Logger) *Watcher {
	return &Watcher{dir: dir, interval: interval, onLimits: onLimits, onList: onList, logger: logger}
}

// Poll looks once. Call it before mail flows, so that a restart does not forget a limit.
func (w *Watcher) Poll() {
	if name := filepath.Join(w.dir, limits.FileName); w.limitsFile.changed(name, w.logger) {
		w.readLimits(name)
	}
	if name := filepath.Join(w.dir, suppression.FileName); w.listFile.changed(name, w.logger) {
		w.readList(name)
	}
}

// Run looks every interval until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	ticker := time.NewTicker(w.interval)
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

func (f *file) changed(name string, logger *slog.Logger) bool {
	info, err := os.Stat(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			logger.Warn("feed not readable", "error", err)
		}
		return false
	}
	seen := file{info.ModTime(), info.Size()}
	if seen == *f {
		return false
	}
	*f = seen
	return true
}

func (w *Watcher) readLimits(name string) {
	next, err := limits.Load(name)
	if err == nil {
		next, err = limits.Advance(w.document, next)
	}
	if errors.Is(err, limits.ErrStale) {
		return
	}
	if err != nil {
		w.logger.Error("limits document refused, the old one stays", "error", err)
		return
	}
	w.document = next
	w.onLimits(next)
}

func (w *Watcher) readList(name string) {
	next, err := suppression.Load(name)
	if err != nil {
		w.logger.Error("suppression snapshot refused, the old one stays", "error", err)
		return
	}
	if w.list != nil && next.Generation() < w.list.Generation() {
		w.logger.Warn("suppression snapshot is older than the one in force", "generation", next.Generation(), "in_force", w.list.Generation())
		return
	}
	w.list = next
	w.onList(next)
}
