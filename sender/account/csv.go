package account

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"carom/schemas/event"
)

// FileOptions say what an accounting file holds and when a new one is begun.
type FileOptions struct {
	Path        string        // of the configuration; date and serial go before the extension
	Records     []string      // PowerMTA's letters: d b t tq r rb rs f
	MaxBytes    int64         // a new file is begun beyond it; 0 for no bound
	MoveTo      string        // folder on the same volume for finished files; "": they stay
	Interval    time.Duration // with MoveTo a new file is begun after it; 0 for never
	DeleteAfter time.Duration // without MoveTo, age at which files go, by the date in their names; 0 for never
	UserString  string
	UnixTimes   bool // seconds since 1970 instead of ISO times

	// Skip says which events are left out although their type is in Records; nil: none.
	Skip func(e *event.Event) bool
}

// File is an accounting file in PowerMTA's format: CSV by RFC 4180 with CRLF in UTF-8, the header
// first, named PATH-YYYY-MM-DD-NNNN.csv with the day of the machine's time zone (User's Guide 5.0,
// chapter 11). Every run of the program begins a file of its own.
//
// What the disk refuses is lost to the file, which never ends in half a record, and the next record
// is tried again.
type File struct {
	options FileOptions
	columns []column
	records [256][]cell // by event.Kind; nil for kinds that the file does not hold
	now     func() time.Time
	zone    *time.Location

	file     *os.File // nil before the first record, and between files
	buffer   *bufio.Writer
	row      []byte
	written  int64     // bytes of the file, buffer included
	flushed  int64     // bytes of the file that the system has taken
	finishes time.Time // when the next file is due
	failure  error     // why the last flush failed
}

// letters lists PowerMTA's record types.
var letters = []string{"d", "b", "t", "tq", "r", "rb", "rs", "f"}

// OpenFile returns an accounting file; it is created by the first record. Files that a run before
// this one has not moved are moved now. It fails for an unknown record type, and for folders that
// cannot be made.
func OpenFile(o FileOptions) (*File, error) {
	for _, letter := range o.Records {
		if !slices.Contains(letters, letter) {
			return nil, fmt.Errorf("accounting file %s: unknown record type %q; want %s", o.Path, letter, strings.Join(letters, ", "))
		}
	}
	f := &File{options: o, now: time.Now, zone: time.Local}
	f.compile()
	for _, dir := range []string{filepath.Dir(o.Path), o.MoveTo} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("accounting file %s: %w", o.Path, err)
		}
	}
	if err := f.moveFinished(); err != nil {
		return nil, err
	}
	return f, nil
}

// compile works out the columns of the file, which are those of all its record types together, and
// what each kind of event writes into them.
func (f *File) compile() {
	for _, c := range columns {
		if c.name == "userString" && f.options.UserString == "" {
			continue
		}
		if slices.ContainsFunc(f.options.Records, c.holds) {
			f.columns = append(f.columns, c)
		}
	}
	for _, kind := range event.Kinds() {
		letter := kind.PowerMTA()
		if letter == "" || !slices.Contains(f.options.Records, letter) {
			continue
		}
		cells := make([]cell, len(f.columns))
		for i, c := range f.columns {
			if c.holds(letter) {
				cells[i] = c.cell
			}
		}
		f.records[kind] = cells
	}
}

// Write adds the record of e, if the file holds its type.
func (f *File) Write(e *event.Event, _ uint64) error {
	cells := f.records[e.Kind]
	if cells == nil || f.options.Skip != nil && f.options.Skip(e) {
		return nil
	}
	err := f.rotate()
	if f.file == nil {
		f.failure = err
		return err
	}
	f.row = f.row[:0]
	for i, cell := range cells {
		if i > 0 {
			f.row = append(f.row, ',')
		}
		if cell != nil {
			start := len(f.row)
			f.row = quote(cell(f.row, e, f), start)
		}
	}
	return errors.Join(err, f.writeRow())
}

func (f *File) writeRow() error {
	f.row = append(f.row, '\r', '\n')
	n, err := f.buffer.Write(f.row)
	f.written += int64(n)
	if err != nil {
		return f.giveUp(err)
	}
	return nil
}

// rotate begins the first file, the first of a day, or the next where this one is full or old.
func (f *File) rotate() error {
	now := f.now().In(f.zone)
	if f.file != nil && now.Before(f.finishes) && (f.options.MaxBytes <= 0 || f.written < f.options.MaxBytes) {
		return nil
	}
	closed := f.Close()
	if err := f.begin(now); err != nil {
		return errors.Join(closed, err)
	}
	for i, c := range f.columns {
		if i > 0 {
			f.row = append(f.row, ',')
		}
		f.row = append(f.row, c.name...)
	}
	return errors.Join(closed, f.writeRow(), f.deleteOld(now))
}

// begin creates the next file of today.
func (f *File) begin(now time.Time) error {
	for serial := 0; ; serial++ {
		name := f.name(now.Format(time.DateOnly), serial)
		if f.options.MoveTo != "" {
			if _, err := os.Lstat(filepath.Join(f.options.MoveTo, filepath.Base(name))); err == nil {
				continue // it has been moved already
			}
		}
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // the operator's own path
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accounting file: %w", err)
		}
		f.file = file
		break
	}
	if f.buffer == nil {
		f.buffer = bufio.NewWriterSize(f.file, 64<<10)
	}
	f.buffer.Reset(f.file)
	f.row, f.written, f.flushed = f.row[:0], 0, 0
	year, month, day := now.Date()
	f.finishes = time.Date(year, month, day+1, 0, 0, 0, 0, f.zone)
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
	if f.buffer.Buffered() > 0 {
		if err := f.buffer.Flush(); err != nil {
			return f.giveUp(err)
		}
		f.flushed, f.failure = f.written, nil
	}
	if f.failure == nil && !f.now().Before(f.finishes) {
		return f.Close()
	}
	return f.failure
}

// giveUp drops what could not be written, so that the file ends with a whole record.
func (f *File) giveUp(err error) error {
	f.failure = fmt.Errorf("write %s: %w", f.file.Name(), err)
	f.buffer.Reset(f.file)
	f.written = f.flushed
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

// Close flushes, closes and moves the current file. A later record begins a new one.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	var failed error
	if f.buffer.Buffered() > 0 {
		if err := f.buffer.Flush(); err != nil {
			failed = f.giveUp(err)
		}
		if f.file == nil {
			return failed
		}
	}
	name := f.file.Name()
	if err := f.file.Close(); err != nil {
		failed = errors.Join(failed, fmt.Errorf("close %s: %w", name, err))
	}
	f.file = nil
	return errors.Join(failed, f.move(name))
}

// name returns the path of a file.
func (f *File) name(day string, serial int) string {
	extension := filepath.Ext(f.options.Path)
	return fmt.Sprintf("%s-%s-%04d%s", strings.TrimSuffix(f.options.Path, extension), day, serial, extension)
}

func (f *File) move(name string) error {
	if f.options.MoveTo == "" {
		return nil
	}
	if err := os.Rename(name, filepath.Join(f.options.MoveTo, filepath.Base(name))); err != nil {
		return fmt.Errorf("accounting file: %w", err)
	}
	return nil
}

// moveFinished moves what earlier runs have left.
func (f *File) moveFinished() error {
	if f.options.MoveTo == "" {
		return nil
	}
	return f.each(func(name string, _ time.Time) error { return f.move(name) })
}

// deleteOld removes the files of days that are DeleteAfter in the past.
func (f *File) deleteOld(now time.Time) error {
	if f.options.DeleteAfter <= 0 || f.options.MoveTo != "" {
		return nil
	}
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

// each calls do with each file of this configuration that exists, and its day.
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
		day, err := time.ParseInLocation(time.DateOnly, middle[:10], f.zone)
		if err != nil {
			continue
		}
		if err := do(filepath.Join(dir, entry.Name()), day); err != nil {
			return err
		}
	}
	return nil
}
