package importer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"carom/schemas/service"
)

const (
	pollPeriod = time.Second
	// A file is known again by its beginning, so it should have one: a young file is left alone until it has
	// so many octets, or is so old.
	headBytes = 4096
	headAge   = 30 * time.Second
	// packedAge is how long a packed file must have been left alone: it is read as a whole.
	packedAge = 10 * time.Second
	// idleAge is how long after the last record a file is closed. It is opened again if it grows.
	idleAge = time.Hour
	// maxWarnings bounds the skipped records that the log names, between two lines that count them.
	maxWarnings  = 20
	reportPeriod = time.Minute
)

// inode is what a file is, whatever its name.
type inode struct{ device, number uint64 }

// follower imports a folder as it grows. One goroutine owns it.
type follower struct {
	run     *run
	dir     string
	pattern string

	open  map[inode]*file
	left  map[inode]int64     // size of files that are done with
	seen  map[inode]time.Time // when a file that is not open yet was seen first
	said  int                 // skipped records that were logged or counted
	warns int                 // since the last count
	last  time.Time           // of the last count
	count int64               // records then

	before int64 // records at the last poll
}

// Follow imports the files of dir whose names match pattern (path.Match), those that are there and those
// that come, until ctx ends; it then returns nil. It knows files by inode: rotation, renaming and moving
// away change nothing, and what is written after a file was moved is read too, as long as it is open. A
// file that cannot be read is logged and left. The error is a service.ConfigError for a wrong flag, else
// what waiting does not cure.
func Follow(ctx context.Context, o Options, dir, pattern string) (Report, error) {
	if _, err := filepath.Match(pattern, ""); err != nil {
		return Report{}, service.Configf("--match %q: %w", pattern, err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return Report{}, service.Configf("--follow %s: there is no such folder", dir)
	}
	r, err := newRun(ctx, o)
	if err != nil {
		return Report{}, err
	}
	f := follow(r, dir, pattern)
	defer f.close()
	ticker := time.NewTicker(pollPeriod)
	defer ticker.Stop()
	for {
		err := f.poll(ctx, time.Now())
		if err == nil {
			err = f.settle(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return r.report.done(), err
		}
		f.tell(time.Now())
		select {
		case <-ctx.Done():
			return r.report.done(), nil
		case <-ticker.C:
		}
	}
}

func follow(r *run, dir, pattern string) *follower {
	return &follower{
		run: r, dir: dir, pattern: pattern, last: time.Now(),
		open: map[inode]*file{}, left: map[inode]int64{}, seen: map[inode]time.Time{},
	}
}

// close leaves the files as they are: another run goes on with them.
func (f *follower) close() {
	for id, open := range f.open {
		_ = open.Close() // only read
		delete(f.open, id)
	}
}

// poll looks at every file once.
func (f *follower) poll(ctx context.Context, now time.Time) error {
	names, err := filepath.Glob(filepath.Join(escape(f.dir), f.pattern)) // sorted: by day, as PowerMTA names them
	if err != nil {
		return err
	}
	there := map[inode]bool{}
	for _, name := range names {
		var stat unix.Stat_t
		if unix.Stat(name, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // it has just gone, or is no file
		}
		id := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // it has another type on other systems
		there[id] = true
		if err := f.look(ctx, id, name, stat.Size, now); err != nil {
			return err
		}
	}
	for id, open := range f.open {
		if there[id] && open.age(now) < idleAge {
			continue
		}
		if err := f.done(ctx, id, open); err != nil {
			return err
		}
	}
	for id := range f.left {
		if !there[id] {
			delete(f.left, id)
		}
	}
	for id := range f.seen {
		if !there[id] {
			delete(f.seen, id)
		}
	}
	return nil
}

// settle counts what is old, and notes files that are done with, when a poll has found nothing new.
func (f *follower) settle(ctx context.Context) error {
	records := f.run.report.records.Load()
	isIdle := records == f.before
	f.before = records
	if !isIdle && f.run.late.events < mostUncounted || f.run.late.events == 0 && len(f.run.finished) == 0 {
		return nil
	}
	return f.run.settle(ctx)
}

// look imports what is new in one file.
func (f *follower) look(ctx context.Context, id inode, name string, size int64, now time.Time) error {
	if open := f.open[id]; open != nil {
		open.name, open.state.file = name, name
		switch read := open.text.read.Load(); {
		case read == size:
			return nil
		case read > size: // emptied in its place, and begun anew
			err := f.done(ctx, id, open)
			delete(f.left, id)
			return err
		}
		return f.survive(ctx, id, size, open.advance(ctx))
	}
	if f.left[id] == size && size > 0 || size == 0 {
		return nil
	}
	first, ok := f.seen[id]
	if !ok {
		first = now
		f.seen[id] = now
	}
	if size < headBytes && now.Sub(first) < headAge {
		return nil
	}
	open, err := f.run.open(name)
	if err != nil {
		return f.survive(ctx, id, size, err)
	}
	if open.isDone() || open.text.isPacked && open.age(now) < packedAge {
		if open.isDone() {
			f.left[id] = size
		}
		return open.Close()
	}
	f.open[id], open.cutter.last = open, open.text.isPacked
	if err := f.survive(ctx, id, size, open.advance(ctx)); err != nil {
		return err
	}
	if open.text.isPacked && f.open[id] != nil {
		return f.done(ctx, id, open)
	}
	return nil
}

// survive leaves a file that cannot be read, and returns every other error.
func (f *follower) survive(ctx context.Context, id inode, size int64, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errBusy) {
		return err
	}
	if _, ok := errors.AsType[*service.ConfigError](err); !ok {
		return err
	}
	f.run.options.Log.Error("file is left out until it changes", "error", err)
	if open := f.open[id]; open != nil {
		delete(f.open, id)
		_ = open.Close() // only read
	}
	f.left[id] = size
	return nil
}

// done reads what is left of a file that is gone or idle, and closes it.
func (f *follower) done(ctx context.Context, id inode, open *file) error {
	if !open.text.isPacked {
		open.cutter.last = true
		if err := f.survive(ctx, id, open.text.read.Load(), open.advance(ctx)); err != nil {
			return err
		}
		if f.open[id] == nil {
			return nil
		}
	}
	delete(f.open, id)
	f.left[id] = open.text.read.Load()
	if err := errors.Join(open.finish(), open.Close()); err != nil {
		return err
	}
	f.run.report.file(f.left[id], false)
	f.run.options.Log.Info("file is imported", "file", open.name, "records", open.state.records, "events", open.state.seq, "skipped", open.state.skipped)
	return nil
}

// tell logs what was skipped, and now and then how much was imported.
func (f *follower) tell(now time.Time) {
	report := f.run.report.done()
	for _, s := range report.Lines[min(f.said, len(report.Lines)):] {
		f.said++
		if f.warns++; f.warns <= maxWarnings {
			f.run.options.Log.Warn("record is skipped", "file", s.File, "line", s.Line, "reason", s.Reason, "detail", s.Detail)
		}
	}
	if now.Sub(f.last) < reportPeriod {
		return
	}
	if report.Records > f.count {
		f.run.options.Log.Info("imported", "records", report.Records-f.count, "open_files", len(f.open), "skipped_in_all", report.Skipped)
	}
	f.last, f.count, f.warns = now, report.Records, 0
}

// escape makes a folder's name one that Glob takes literally.
func escape(dir string) string {
	out := make([]byte, 0, len(dir))
	for _, c := range []byte(dir) {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, c)
	}
	return string(out)
}
