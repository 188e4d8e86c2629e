package account

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carom/schemas/event"
)

// FileOptions say what an accounting file holds and when a new one is begun.
type FileOptions struct {
	RecordOptions

	Path        string        // of the configuration; date and serial go before the extension
	MaxBytes    int64         // a new file is begun beyond it; 0 for no bound
	MoveTo      string        // folder on the same volume for finished files; "": they stay
	Interval    time.Duration // with MoveTo a new file is begun after it; 0 for never
	DeleteAfter time.Duration // without MoveTo, age at which files go, by the date in their names; 0 for never

	WorldReadable bool // else others than owner and group cannot read it
	Sync          bool // what is written reaches the disk, within syncInterval where more follows

	// Moved is told of each file that was moved and how many records it holds; of a file of an
	// earlier run they are not known and -1. It may be nil.
	Moved func(name string, records int64)
}

// syncInterval is how often a file with Sync is synced at most.
const syncInterval = time.Second

// bufferBytes is how much of a file waits in memory before the system gets it.
const bufferBytes = 64 << 10

// File is an accounting file in PowerMTA's format: CSV by RFC 4180 with CRLF in UTF-8, the header
// first, named PATH-YYYY-MM-DD-NNNN.csv with the day of the machine's time zone (User's Guide 5.0,
// chapter 11). Every run of the program begins a file of its own.
//
// The system gets whole records only. What the disk refuses is lost to the file, which never ends in
// half a record, and the next record is tried again. Half a record that a killed process or machine
// has left is cut off at the next start.
type File struct {
	options FileOptions
	layout  *Layout
	now     func() time.Time

	file     *os.File  // nil before the first record, and between files
	buffer   []byte    // whole records that the system has not taken
	flushed  int64     // bytes of the file that the system has taken
	records  int64     // in the file
	synced   time.Time // when it was synced last
	unsynced bool      // something was taken since
	finishes time.Time // when the next file is due
	failure  error     // why the last flush failed

	day  string // of the last file
	next int    // its serial number, plus one
}

// OpenFile returns an accounting file; it is created by the first record. Files that a run before
// this one has not moved are moved now. It fails for an unknown record type or field, and for
// folders that cannot be made.
func OpenFile(o FileOptions) (*File, error) {
	layout, err := NewLayout(o.RecordOptions)
	if err != nil {
		return nil, fmt.Errorf("accounting file %s: %w", o.Path, err)
	}
	f := &File{options: o, layout: layout, now: time.Now}
	for _, dir := range []string{filepath.Dir(o.Path), o.MoveTo} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("accounting file %s: %w", o.Path, err)
		}
	}
	if err := f.repair(); err != nil {
		return nil, err
	}
	if err := f.moveFinished(); err != nil {
		return nil, err
	}
	return f, nil
}

// Write adds the record of e, if the file holds its type.
func (f *File) Write(e *event.Event, _ uint64) error {
	start := len(f.buffer)
	buffer, ok := f.layout.Append(f.buffer, e)
	if f.buffer = buffer; !ok {
		return nil
	}
	if f.file != nil && !f.isDue() {
		return f.added()
	}
	// The record belongs into the next file.
	record := string(f.buffer[start:])
	f.buffer = f.buffer[:start]
	closed := f.Close()
	if err := f.begin(); err != nil {
		f.buffer = f.buffer[:0]
		f.failure = errors.Join(closed, err)
		return f.failure
	}
	f.buffer = append(f.layout.AppendHeader(f.buffer[:0]), record...)
	return errors.Join(closed, f.added(), f.deleteOld())
}

// added counts the record that the buffer has got, and hands the buffer on when it is full.
func (f *File) added() error {
	f.records++
	if len(f.buffer) < bufferBytes {
		return nil
	}
	return f.flush()
}

// isDue reports whether the current file is full or its time is over.
func (f *File) isDue() bool {
	if f.options.MaxBytes > 0 && f.flushed+int64(len(f.buffer)) >= f.options.MaxBytes {
		return true
	}
	return !f.now().Before(f.finishes)
}

// begin creates the next file of today.
func (f *File) begin() error {
	now := f.now().In(f.layout.zone)
	if day := now.Format(time.DateOnly); day != f.day {
		f.day, f.next = day, 0
	}
	mode := fs.FileMode(0o640)
	if f.options.WorldReadable {
		mode = 0o644
	}
	for ; ; f.next++ {
		name := f.name(f.day, f.next)
		if f.options.MoveTo != "" {
			if _, err := os.Lstat(filepath.Join(f.options.MoveTo, filepath.Base(name))); err == nil {
				continue // it has been moved already
			}
		}
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode) //nolint:gosec // the operator's own path and choice
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accounting file: %w", err)
		}
		if f.options.WorldReadable {
			_ = file.Chmod(mode) // whatever the umask; who cannot read it will say so
		}
		f.file = file
		f.next++
		break
	}
	f.flushed, f.records, f.synced, f.unsynced = 0, 0, now, false
	year, month, day := now.Date()
	f.finishes = time.Date(year, month, day+1, 0, 0, 0, 0, f.layout.zone)
	if end := now.Add(f.options.Interval); f.options.Interval > 0 && f.options.MoveTo != "" && end.Before(f.finishes) {
		f.finishes = end
	}
	return nil
}

// Flush hands what was written to the operating system, and ends a file whose time is over. After
// a failure it returns the error until something was written again.
func (f *File) Flush() error {
	if f.file == nil {
		return f.failure
	}
	if err := f.flush(); err != nil {
		return err
	}
	if f.failure == nil && !f.now().Before(f.finishes) {
		return f.Close()
	}
	return f.failure
}

// flush writes the buffer, and syncs if it is time.
func (f *File) flush() error {
	if len(f.buffer) > 0 {
		n, err := f.file.Write(f.buffer)
		if err != nil {
			return f.giveUp(err)
		}
		f.buffer = f.buffer[:0]
		f.flushed += int64(n)
		f.failure, f.unsynced = nil, true
	}
	if now := f.now(); f.options.Sync && f.unsynced && now.Sub(f.synced) >= syncInterval {
		return f.sync(now)
	}
	return nil
}

func (f *File) sync(now time.Time) error {
	f.synced, f.unsynced = now, false
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", f.file.Name(), err)
	}
	return nil
}

// giveUp drops what could not be written, so that the file ends with a whole record.
func (f *File) giveUp(err error) error {
	f.failure = fmt.Errorf("write %s: %w", f.file.Name(), err)
	f.buffer = f.buffer[:0]
	if err := f.file.Truncate(f.flushed); err == nil {
		_, err = f.file.Seek(f.flushed, io.SeekStart)
		if err == nil && f.flushed > 0 {
			return f.failure
		}
	}
	_ = f.file.Close() // nothing is left in it, or nobody can say what
	if f.flushed == 0 {
		_ = os.Remove(f.file.Name()) // not even a header
	}
	f.file = nil
	return f.failure
}

// Rotate ends the current file and moves it. The next record begins a new one.
func (f *File) Rotate() error { return f.Close() }

// Close flushes, closes and moves the current file. A later record begins a new one.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	failed := f.flush()
	if f.file == nil {
		return failed
	}
	if f.options.Sync && f.unsynced {
		failed = errors.Join(failed, f.sync(f.now()))
	}
	name := f.file.Name()
	if err := f.file.Close(); err != nil {
		failed = errors.Join(failed, fmt.Errorf("close %s: %w", name, err))
	}
	f.file = nil
	return errors.Join(failed, f.move(name, f.records))
}

// name returns the path of a file.
func (f *File) name(day string, serial int) string {
	extension := filepath.Ext(f.options.Path)
	return fmt.Sprintf("%s-%s-%04d%s", strings.TrimSuffix(f.options.Path, extension), day, serial, extension)
}

func (f *File) move(name string, records int64) error {
	if f.options.MoveTo == "" {
		return nil
	}
	to := filepath.Join(f.options.MoveTo, filepath.Base(name))
	if err := os.Rename(name, to); err != nil {
		return fmt.Errorf("accounting file: %w", err)
	}
	if f.options.Moved != nil {
		f.options.Moved(to, records)
	}
	return nil
}

// moveFinished moves what earlier runs have left.
func (f *File) moveFinished() error {
	if f.options.MoveTo == "" {
		return nil
	}
	return f.each(func(name string, _ time.Time) error { return f.move(name, -1) })
}

// deleteOld removes the files of days that are DeleteAfter in the past.
func (f *File) deleteOld() error {
	if f.options.DeleteAfter <= 0 || f.options.MoveTo != "" {
		return nil
	}
	now := f.now()
	return f.each(func(name string, day time.Time) error {
		if now.Sub(day) < f.options.DeleteAfter+24*time.Hour { // counted from the end of the day
			return nil
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("accounting file: %w", err)
		}
		return nil
	})
}

// each calls do with each file of this configuration that exists, by name, and its day.
func (f *File) each(do func(name string, day time.Time) error) error {
	dir := filepath.Dir(f.options.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("accounting file: %w", err)
	}
	extension := filepath.Ext(f.options.Path)
	base := strings.TrimSuffix(filepath.Base(f.options.Path), extension) + "-"
	for _, entry := range entries {
		middle, isOurs := strings.CutPrefix(entry.Name(), base)
		middle, hasExtension := strings.CutSuffix(middle, extension)
		if !isOurs || !hasExtension || !entry.Type().IsRegular() || len(middle) < len("2006-01-02-0000") || middle[10] != '-' ||
			strings.Trim(middle[11:], "0123456789") != "" {
			continue
		}
		day, err := time.ParseInLocation(time.DateOnly, middle[:10], f.layout.zone)
		if err != nil {
			continue
		}
		if err := do(filepath.Join(dir, entry.Name()), day); err != nil {
			return err
		}
	}
	return nil
}

// repair cuts off the half record that a killed process may have left at the end of the last file,
// the only one that it was writing.
func (f *File) repair() error {
	var last string
	if err := f.each(func(name string, _ time.Time) error { last = name; return nil }); err != nil || last == "" {
		return err
	}
	file, err := os.OpenFile(last, os.O_RDWR, 0) //nolint:gosec // a file of our own
	if errors.Is(err, fs.ErrPermission) {
		return nil // it is not ours to write any more
	}
	if err != nil {
		return fmt.Errorf("accounting file: %w", err)
	}
	defer func() { _ = file.Close() }() // nothing is buffered
	whole, size, err := wholeRecords(file)
	if err != nil {
		return fmt.Errorf("accounting file %s: %w", last, err)
	}
	if whole == size {
		return nil
	}
	if err := file.Truncate(whole); err != nil {
		return fmt.Errorf("accounting file %s: %w", last, err)
	}
	return nil
}

// wholeRecords returns where the last whole record of a CSV text ends, and where the text does. A line
// feed within quotes ends no record; every quote within quotes is doubled, so an odd number of them
// is before it.
func wholeRecords(r io.Reader) (whole, size int64, err error) {
	in := bufio.NewReaderSize(r, bufferBytes)
	quoted := false
	for {
		line, err := in.ReadSlice('\n')
		for _, c := range line {
			quoted = quoted != (c == '"')
		}
		size += int64(len(line))
		switch {
		case err == nil && !quoted:
			whole = size
		case errors.Is(err, io.EOF):
			return whole, size, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return whole, size, err
		}
	}
}
