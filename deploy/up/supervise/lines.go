package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// maxLine is the longest line that is kept together; what is longer is cut into several.
const maxLine = 64 << 10

// lineWriter cuts what is written to it into lines. os/exec writes to it from one goroutine.
type lineWriter struct {
	line func(string)
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 && len(w.rest) < maxLine {
			return len(b), nil
		}
		next := end + 1
		if end < 0 || end > maxLine {
			end, next = maxLine, maxLine
		}
		w.line(string(bytes.TrimSuffix(w.rest[:end], []byte("\r"))))
		w.rest = append(w.rest[:0], w.rest[next:]...)
	}
}

// flush hands on a last line without an end.
func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.line(string(w.rest))
		w.rest = nil
	}
}

// Prefixed returns a function for Options.Line that writes lines to w, each after the name of its
// process.
func Prefixed(w io.Writer) func(process, line string) {
	var mu sync.Mutex
	return func(process, line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(w, "%-9s | %s\n", process, line) // nobody is left to tell
	}
}

// Files writes the lines of each process to a file of its own, NAME.log.
type Files struct {
	dir string

	mu    sync.Mutex
	files map[string]*os.File
	err   error // the first
}

// OpenFiles returns Files in the folder dir, which it makes if there is none. Lines are added to
// files that are there.
func OpenFiles(dir string) (*Files, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make folder for logs: %w", err)
	}
	return &Files{dir: dir, files: map[string]*os.File{}}, nil
}

// Line is a function for Options.Line. An error shows in Close.
func (f *Files) Line(process, line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file := f.files[process]
	if file == nil {
		var err error
		file, err = os.OpenFile(filepath.Join(f.dir, process+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			f.note(err)
			return
		}
		f.files[process] = file
	}
	if _, err := fmt.Fprintln(file, line); err != nil {
		f.note(err)
	}
}

func (f *Files) note(err error) {
	if f.err == nil {
		f.err = fmt.Errorf("write log: %w", err)
	}
}

// Close closes the files and returns the first error that there was.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, file := range f.files {
		f.err = errors.Join(f.err, file.Close())
		delete(f.files, name)
	}
	return f.err
}
