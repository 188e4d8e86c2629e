//go:build unix

// Package chdb calls libchdb, the ClickHouse engine as a shared library, without cgo.
//
// It binds the handful of C functions that the HTTP front needs: connect, run a statement with
// bound parameters, stream a result, and read the counters of a result. It knows nothing of HTTP
// and does no locking: a Conn, its Results and its Streams belong to one goroutine at a time,
// while different connections may be used side by side. The engine lives once in a process:
// all connections share one data folder, and they must be opened one after another.
//
// The engine replaces the process's signal handlers when it starts; Connect puts Go's back.
// Failures of a statement are *Error with ClickHouse's code. A crash inside the engine ends the
// process, which is why it runs in a process of its own.
package chdb

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// ErrNotLibrary is wrapped by Load's error when the file is no shared library or lacks a
// function of libchdb.
var ErrNotLibrary = errors.New("not a usable libchdb")

// Library is a loaded libchdb. It is never unloaded: the engine keeps threads running.
type Library struct {
	path string

	connect     func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn   func(conn unsafe.Pointer)
	query       queryFunc
	stream      queryFunc
	fetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	cancel      func(conn, stream unsafe.Pointer)
	destroy     func(result unsafe.Pointer)
	buffer      func(result unsafe.Pointer) unsafe.Pointer
	length      func(result unsafe.Pointer) uintptr
	message     func(result unsafe.Pointer) unsafe.Pointer
	elapsed     func(result unsafe.Pointer) float64
	storageRows func(result unsafe.Pointer) uint64
	storageSize func(result unsafe.Pointer) uint64
	resultRows  func(result unsafe.Pointer) uint64
	writtenRows func(result unsafe.Pointer) uint64
	writtenSize func(result unsafe.Pointer) uint64
	sigaction   func(signal int32, act, old unsafe.Pointer) int32
	setenv      func(name, value string, overwrite int32) int32
}

// queryFunc is the C signature that chdb_query_with_params_n and its streaming twin share.
type queryFunc func(conn, text unsafe.Pointer, textLen uintptr, format unsafe.Pointer, formatLen uintptr,
	names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer

// Load opens the shared library at path and resolves every function that this package calls.
// The error wraps ErrNotLibrary if the file is something else.
func Load(path string) (*Library, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("engine library: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("engine library %s is a folder: %w", path, ErrNotLibrary)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("engine library %s: %w: %w", path, ErrNotLibrary, err)
	}
	l := &Library{path: path}
	for _, symbol := range []struct {
		name   string
		target any
	}{
		{"chdb_connect", &l.connect},
		{"chdb_close_conn", &l.closeConn},
		{"chdb_query_with_params_n", &l.query},
		{"chdb_stream_query_with_params_n", &l.stream},
		{"chdb_stream_fetch_result", &l.fetch},
		{"chdb_stream_cancel_query", &l.cancel},
		{"chdb_destroy_query_result", &l.destroy},
		{"chdb_result_buffer", &l.buffer},
		{"chdb_result_length", &l.length},
		{"chdb_result_error", &l.message},
		{"chdb_result_elapsed", &l.elapsed},
		{"chdb_result_rows_read", &l.resultRows},
		{"chdb_result_storage_rows_read", &l.storageRows},
		{"chdb_result_storage_bytes_read", &l.storageSize},
		{"chdb_result_rows_written", &l.writtenRows},
		{"chdb_result_bytes_written", &l.writtenSize},
	} {
		address, err := purego.Dlsym(handle, symbol.name)
		if err != nil {
			return nil, fmt.Errorf("engine library %s: %w: it has no function %s", path, ErrNotLibrary, symbol.name)
		}
		purego.RegisterFunc(symbol.target, address)
	}
	purego.RegisterLibFunc(&l.sigaction, purego.RTLD_DEFAULT, "sigaction")
	purego.RegisterLibFunc(&l.setenv, purego.RTLD_DEFAULT, "setenv")
	return l, nil
}

// Path returns the file the library was loaded from.
func (l *Library) Path() string { return l.path }

// SetTimezone sets the time zone of the engine, which else is the machine's. It has an effect only
// before the first Connect. (os.Setenv does not reach the environment that C code sees.)
func (l *Library) SetTimezone(name string) error {
	if l.setenv("TZ", name, 1) != 0 {
		return fmt.Errorf("set the engine's time zone to %s", name)
	}
	return nil
}

// Connect opens one more connection with the engine's command-line arguments ("--path=…", other
// server options). The first call starts the engine. Calls must follow one another: the engine
// has been seen to race when two connections open at once.
func (l *Library) Connect(args ...string) (*Conn, error) {
	argv := make([]*byte, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		argv = append(argv, &append([]byte(arg), 0)[0])
	}
	argc := int32(len(argv))
	argv = append(argv, nil)

	restore, err := l.saveSignals()
	if err != nil {
		return nil, err
	}
	handle := l.connect(argc, unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	if err := restore(); err != nil {
		return nil, err
	}
	if handle == nil {
		return nil, fmt.Errorf("engine library %s: the engine refused to start with %q", l.path, args)
	}
	return &Conn{lib: l, handle: handle}, nil
}
