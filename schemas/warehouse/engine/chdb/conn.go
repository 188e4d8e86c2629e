//go:build unix

package chdb

import (
	"runtime"
	"unsafe"
)

// Conn is one connection to the engine. Statements on it run one after another.
type Conn struct {
	lib    *Library
	handle unsafe.Pointer // chdb_connection *
}

// Param binds the value of a {name:Type} placeholder. Value is in ClickHouse's escaped text form
// (tab-separated format without quotes), as HTTP's param_name carries it.
type Param struct {
	Name  string
	Value string
}

// Stats says what a statement cost.
type Stats struct {
	ReadRows       uint64
	ReadBytes      uint64
	WrittenRows    uint64
	WrittenBytes   uint64
	ResultRows     uint64
	ElapsedSeconds float64
}

// Close closes the connection. It is idempotent.
func (c *Conn) Close() {
	if c.handle != nil {
		c.lib.closeConn(c.handle)
		c.handle = nil
	}
}

// Query runs text to its end. The result is formatted in format unless text has a FORMAT clause
// of its own. The error is an *Error if the engine refused or aborted the statement.
// The caller closes the result.
func (c *Conn) Query(text, format string, params ...Param) (*Result, error) {
	result, err := c.lib.result(c.call(c.lib.query, text, format, params))
	if err != nil {
		c.drain()
	}
	return result, err
}

// drain takes away what a failed or abandoned statement has left in the connection's output
// buffer: the engine would put it in front of the next statement's result.
func (c *Conn) drain() {
	c.lib.destroy(c.call(c.lib.query, "SELECT 1", "Null", nil))
}

// Stream starts text, which has to be a query with a result. The caller closes the stream.
// Errors are as for Query; one that shows only later is returned by Next.
func (c *Conn) Stream(text, format string, params ...Param) (*Stream, error) {
	handle := c.call(c.lib.stream, text, format, params)
	if err := c.lib.errorOf(handle); err != nil {
		c.lib.destroy(handle)
		c.drain()
		return nil, err
	}
	return &Stream{conn: c, handle: handle}, nil
}

func (c *Conn) call(f queryFunc, text, format string, params []Param) unsafe.Pointer {
	var (
		names     = make([]unsafe.Pointer, len(params)+1)
		nameLens  = make([]uintptr, len(params)+1)
		values    = make([]unsafe.Pointer, len(params)+1)
		valueLens = make([]uintptr, len(params)+1)
	)
	for i, p := range params {
		names[i], nameLens[i] = bytesOf(p.Name)
		values[i], valueLens[i] = bytesOf(p.Value)
	}
	textPointer, textLen := bytesOf(text)
	formatPointer, formatLen := bytesOf(format)
	// *c.handle is the chdb_connection that every call but close takes.
	result := f(*(*unsafe.Pointer)(c.handle), textPointer, textLen, formatPointer, formatLen,
		unsafe.Pointer(&names[0]), unsafe.Pointer(&nameLens[0]),
		unsafe.Pointer(&values[0]), unsafe.Pointer(&valueLens[0]), uintptr(len(params)))
	runtime.KeepAlive(text)
	runtime.KeepAlive(format)
	runtime.KeepAlive(params)
	runtime.KeepAlive(names)
	runtime.KeepAlive(nameLens)
	runtime.KeepAlive(values)
	runtime.KeepAlive(valueLens)
	return result
}

var noBytes byte

// bytesOf returns the bytes of s for a C function that takes a pointer and a length.
func bytesOf(s string) (unsafe.Pointer, uintptr) {
	if s == "" {
		return unsafe.Pointer(&noBytes), 0
	}
	return unsafe.Pointer(unsafe.StringData(s)), uintptr(len(s))
}

// Result is the whole or one part of a statement's result. Its bytes belong to the engine.
type Result struct {
	lib    *Library
	handle unsafe.Pointer
}

// Bytes returns the formatted result without copying it; it is valid until Close.
func (r *Result) Bytes() []byte {
	n := r.lib.length(r.handle)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(r.lib.buffer(r.handle)), n)
}

// Stats returns the counters of the statement so far.
func (r *Result) Stats() Stats {
	return Stats{
		ReadRows:       r.lib.storageRows(r.handle),
		ReadBytes:      r.lib.storageSize(r.handle),
		WrittenRows:    r.lib.writtenRows(r.handle),
		WrittenBytes:   r.lib.writtenSize(r.handle),
		ResultRows:     r.lib.resultRows(r.handle),
		ElapsedSeconds: r.lib.elapsed(r.handle),
	}
}

// Close frees the result. It is idempotent.
func (r *Result) Close() {
	if r.handle != nil {
		r.lib.destroy(r.handle)
		r.handle = nil
	}
}

// result takes over handle. The counters and the buffer of a failed statement are garbage, so
// the error is looked at first.
func (l *Library) result(handle unsafe.Pointer) (*Result, error) {
	if err := l.errorOf(handle); err != nil {
		l.destroy(handle)
		return nil, err
	}
	return &Result{lib: l, handle: handle}, nil
}

func (l *Library) errorOf(handle unsafe.Pointer) error {
	if handle == nil {
		return &Error{Code: codeLogicalError, Name: "LOGICAL_ERROR", Message: "the engine returned no result"}
	}
	message := l.message(handle)
	if message == nil {
		return nil
	}
	n := 0
	for *(*byte)(unsafe.Add(message, n)) != 0 {
		n++
	}
	if n == 0 {
		return nil
	}
	return ParseError(string(unsafe.Slice((*byte)(message), n)))
}

// Stream is a running query whose result arrives in parts, each formatted by itself: only parts
// of a format without header and footer can be put one behind the other.
type Stream struct {
	conn   *Conn
	handle unsafe.Pointer
	whole  bool // the result was read to its end
	failed bool
	stats  Stats
}

// Next returns the next part, or nil at the end of the result. The caller closes each part
// before the next call.
func (s *Stream) Next() (*Result, error) {
	if s.whole || s.failed {
		return nil, nil
	}
	part, err := s.conn.lib.result(s.conn.lib.fetch(*(*unsafe.Pointer)(s.conn.handle), s.handle))
	if err != nil {
		s.failed = true
		return nil, err
	}
	stats := part.Stats()
	s.stats.ReadRows += stats.ReadRows
	s.stats.ReadBytes += stats.ReadBytes
	s.stats.ResultRows += stats.ResultRows
	s.stats.ElapsedSeconds += stats.ElapsedSeconds
	if stats.ResultRows > 0 {
		return part, nil
	}
	// A part without rows is the last; it can hold the header of an empty result, or totals.
	s.whole = true
	if len(part.Bytes()) > 0 {
		return part, nil
	}
	part.Close()
	return nil, nil
}

// Stats returns the counters of the parts read so far.
func (s *Stream) Stats() Stats { return s.stats }

// Close ends the query if it still runs and frees the stream. It is idempotent.
func (s *Stream) Close() {
	if s.handle == nil {
		return
	}
	if !s.whole && !s.failed {
		s.conn.lib.cancel(*(*unsafe.Pointer)(s.conn.handle), s.handle)
	}
	s.conn.lib.destroy(s.handle)
	s.handle = nil
	if !s.whole {
		s.conn.drain()
	}
}
