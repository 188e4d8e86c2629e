// Package seglogtest gives tests of logs a disk that can lose power, be full or fail.
//
// FS is an in-memory seglog.FS. After a Crash only what was synced is certainly there, and of the
// rest any part by block and by directory entry. Only tests import this package. FS is safe for
// concurrent use.
package seglogtest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"carom/schemas/seglog"
)

// Op names an operation of the file system for a fault.
type Op string

// Operations that can be made to fail.
const (
	OpCreate   Op = "create"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpSyncDir  Op = "sync folder"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
)

// errKilled is what the process that was killed gets to see.
var errKilled = errors.New("process was killed")

// FS is a file system in memory as one process sees it. New makes one.
type FS struct {
	mem   *vfs.MemFS
	locks sync.Map
	fault atomic.Pointer[func(op Op, name string) error]

	mu   sync.RWMutex // held for reading by every change
	dead bool
}

var _ seglog.FS = (*FS)(nil)

// New returns an empty file system.
func New() *FS { return &FS{mem: vfs.NewCrashableMem()} }

// Crash returns the file system as it may be found after power loss now: everything synced, and
// each unsynced block and directory entry with a probability of percent. Locks are gone. What is
// still done to f doesn't touch the result.
func (f *FS) Crash(percent int, rng *rand.Rand) *FS {
	return &FS{mem: f.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})}
}

// Kill returns the file system as the next process finds it after kill -9 of the one that has f:
// all that was written is there, synced or not, and locks are gone. From now on every change to
// f fails.
func (f *FS) Kill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	return &FS{mem: f.mem}
}

// Fail makes every operation fail for which fault returns an error; nil ends that. A write that
// fails writes the first half of its bytes.
func (f *FS) Fail(fault func(op Op, name string) error) {
	if fault == nil {
		f.fault.Store(nil)
		return
	}
	f.fault.Store(&fault)
}

// begin begins a change. After a nil error the caller calls f.mu.RUnlock when it is done.
func (f *FS) begin(op Op, name string) error {
	f.mu.RLock()
	err := f.check(op, name)
	if f.dead {
		err = errKilled
	}
	if err != nil {
		f.mu.RUnlock()
	}
	return err
}

func (f *FS) check(op Op, name string) error {
	if fault := f.fault.Load(); fault != nil {
		if err := (*fault)(op, name); err != nil {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
	}
	return nil
}

// MkdirAll implements seglog.FS.
func (f *FS) MkdirAll(dir string) error { return f.mem.MkdirAll(dir, 0o700) }

// List implements seglog.FS.
func (f *FS) List(dir string) ([]string, error) { return f.mem.List(dir) }

// Create implements seglog.FS.
func (f *FS) Create(name string) (seglog.File, error) {
	if err := f.begin(OpCreate, name); err != nil {
		return nil, err
	}
	defer f.mu.RUnlock()
	return f.wrap(name)(f.mem.Create(name, vfs.WriteCategoryUnspecified))
}

// OpenRW implements seglog.FS.
func (f *FS) OpenRW(name string) (seglog.File, error) {
	if _, err := f.mem.Stat(name); err != nil {
		return nil, err
	}
	return f.wrap(name)(f.mem.OpenReadWrite(name, vfs.WriteCategoryUnspecified))
}

// Open implements seglog.FS.
func (f *FS) Open(name string) (seglog.File, error) { return f.wrap(name)(f.mem.Open(name)) }

func (f *FS) wrap(name string) func(vfs.File, error) (seglog.File, error) {
	return func(v vfs.File, err error) (seglog.File, error) {
		if err != nil {
			return nil, err
		}
		return &file{File: v, fs: f, name: name}, nil
	}
}

// Rename implements seglog.FS.
func (f *FS) Rename(oldname, newname string) error {
	if err := f.begin(OpRename, newname); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	return f.mem.Rename(oldname, newname)
}

// Remove implements seglog.FS.
func (f *FS) Remove(name string) error {
	if err := f.begin(OpRemove, name); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	return f.mem.Remove(name)
}

// SyncDir implements seglog.FS.
func (f *FS) SyncDir(dir string) error {
	if err := f.begin(OpSyncDir, dir); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	d, err := f.mem.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock implements seglog.FS.
func (f *FS) Lock(name string) (io.Closer, error) {
	if _, taken := f.locks.LoadOrStore(name, nil); taken {
		return nil, fmt.Errorf("%s: %w", name, seglog.ErrLocked)
	}
	return lock{f, name}, nil
}

type lock struct {
	fs   *FS
	name string
}

func (l lock) Close() error {
	l.fs.locks.Delete(l.name)
	return nil
}

type file struct {
	vfs.File
	fs   *FS
	name string
}

func (f *file) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.begin(OpWrite, f.name); err != nil {
		if errors.Is(err, errKilled) {
			return 0, err
		}
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	defer f.fs.mu.RUnlock()
	return f.File.WriteAt(p, off)
}

// Truncate fills with zeros, because the file in memory can't shrink. A log must live with such a
// tail anyway: some file systems leave one after power loss.
func (f *file) Truncate(size int64) error {
	if err := f.fs.begin(OpTruncate, f.name); err != nil {
		return err
	}
	defer f.fs.mu.RUnlock()
	old, err := f.Size()
	if err != nil || old <= size {
		return err
	}
	_, err = f.File.WriteAt(make([]byte, old-size), size)
	return err
}

func (f *file) Sync() error {
	if err := f.fs.begin(OpSync, f.name); err != nil {
		return err
	}
	defer f.fs.mu.RUnlock()
	return f.File.Sync()
}
