//go:build unix

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
)

// A spool is a file without a name that holds the data of one insert, or a result that is held
// back until its end. It vanishes with its last descriptor, a crash included. What is read soon
// after it was written stays in the page cache, so an ordinary batch never reaches the disk.
type spool struct{ *os.File }

func newSpool(folder string) (*spool, error) {
	file, err := os.CreateTemp(folder, "spool-")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &spool{file}, nil
}

// path returns a name under which this process can open the file anew, from its beginning.
func (s *spool) path() string { return "/dev/fd/" + strconv.Itoa(int(s.Fd())) }

// copyBuffers lend the buffer between a request and its spool; os.File.ReadFrom would take one of
// 32 KiB from the heap each time.
var copyBuffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 256<<10)) }}

// fill appends what body holds. The error is a *chdb.Error if the client's part broke.
func (s *spool) fill(body io.Reader) (int64, error) {
	buffer, ok := copyBuffers.Get().(*bytes.Buffer)
	if !ok {
		buffer = bytes.NewBuffer(make([]byte, 256<<10))
	}
	defer copyBuffers.Put(buffer)
	source := &readError{Reader: body}
	n, err := io.CopyBuffer(struct{ io.Writer }{s.File}, source, buffer.Bytes())
	switch {
	case source.err != nil:
		return n, exception(cannotReadAllData, "Cannot read the request's body: "+source.err.Error())
	case err != nil:
		return n, fmt.Errorf("spool: %w", err)
	}
	return n, nil
}

// readError remembers the error of a reader, to tell it from the writer's.
type readError struct {
	io.Reader
	err error
}

func (r *readError) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
