package seglog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// FS is what the log needs of a file system. Names are paths; errors for a missing file satisfy
// errors.Is(err, fs.ErrNotExist). OS is the real one.
type FS interface {
	// MkdirAll makes dir and its parents, for their owner only.
	MkdirAll(dir string) error
	// List returns the names in dir, in any order.
	List(dir string) ([]string, error)
	// Create makes name, or empties it, and opens it for reading and writing by its owner only.
	Create(name string) (File, error)
	// OpenRW opens the existing file name for reading and writing.
	OpenRW(name string) (File, error)
	// Open opens the existing file name for reading.
	Open(name string) (File, error)
	// Rename replaces newname by oldname.
	Rename(oldname, newname string) error
	// Remove removes the file name.
	Remove(name string) error
	// SyncDir makes the entries of dir durable.
	SyncDir(dir string) error
	// Lock takes the exclusive lock name, made where missing, or fails with ErrLocked.
	// It is released by Close and by the end of the process.
	Lock(name string) (io.Closer, error)
}

// File is an open file of an FS. Reads may run beside writes.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length of the file in bytes.
	Size() (int64, error)
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Sync makes the content and the length of the file durable.
	Sync() error
}

// OS is the file system of the machine. Files are made with mode 0600, folders with 0700.
type OS struct{}

var _ FS = OS{}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}

// Create implements FS.
func (OS) Create(name string) (File, error) {
	return openFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// OpenRW implements FS.
func (OS) OpenRW(name string) (File, error) { return openFile(name, os.O_RDWR) }

// Open implements FS.
func (OS) Open(name string) (File, error) { return openFile(name, os.O_RDONLY) }

// Rename implements FS.
func (OS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock implements FS with flock(2). The file holds the process id of its owner for people.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		return nil, fmt.Errorf("%s: %w (process %s)", name, ErrLocked, strings.TrimSpace(string(owner)))
	}
	if err := f.Truncate(0); err != nil {
		_ = f.Close()
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

type osFile struct{ *os.File }

func openFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// makeDir makes dir durably. The parent is synced even if dir exists: the process that made it
// may have died before it did.
func makeDir(fsys FS, dir string) error {
	parents := []string{filepath.Dir(dir)}
	for p := dir; ; p = filepath.Dir(p) {
		if _, err := fsys.List(p); err == nil || filepath.Dir(p) == p {
			break
		}
		parents = append(parents, filepath.Dir(p))
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for _, p := range parents {
		// A parent that may be passed through but not read belongs to somebody else, who made dir.
		if err := fsys.SyncDir(p); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("sync folder %s: %w", p, err)
		}
	}
	return nil
}

// WriteFile replaces the file name by one with the given content, durably and in one step: a
// crash leaves the old file or the new one.
func WriteFile(fsys FS, name string, write func(w io.Writer) error) error {
	tmp := name + tmpSuffix
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	err = write(&offsetWriter{w: f})
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		_ = fsys.Remove(tmp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync folder of %s: %w", name, err)
	}
	return nil
}

// offsetWriter appends to a File that can only write at offsets.
type offsetWriter struct {
	w   io.WriterAt
	off int64
}

func (o *offsetWriter) Write(p []byte) (int, error) {
	n, err := o.w.WriteAt(p, o.off)
	o.off += int64(n)
	return n, err
}
