//go:build unix

// Package chtest gives a test a real ClickHouse: the embedded engine of package engine, in a
// process of its own, on a temporary folder and a free port of the loopback interface.
//
//	func TestRollups(t *testing.T) {
//		server := chtest.Start(t)
//		conn := server.Conn(t) // a clickhouse-go connection
//
// The process is the test binary itself, started once more: importing this package is all that is
// needed, and no product package may import it. Start skips the test if the engine library is not
// there and says so; with CAROM_REQUIRE_ENGINE=1 in the environment it fails instead.
// A Server is safe for concurrent use, except that Kill, Stop and Restart belong to one goroutine.
package chtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
	"carom/schemas/warehouse/engine"
)

// childEnv makes a process that links this package an engine.
const childEnv = "CAROM_CHTEST_ENGINE"

const (
	anyPort    = "127.0.0.1:0"
	dataFolder = "data" // in Server.folder
)

// startTimeout is generous: a busy machine may have to read the whole library from disk.
const startTimeout = 2 * time.Minute

// init turns the process that Server.run has started into the engine, before any test runs. A
// hook in TestMain would do the same, but a package that forgot it would start its tests anew,
// without end.
func init() {
	if os.Getenv(childEnv) == "" {
		return
	}
	ctx, cancel := service.UntilSignal(context.Background())
	go func() {
		// The pipe ends with the test's process, however that ends.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := engine.Command(ctx, os.Args[1:], service.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(service.ExitStatus(err)) //nolint:forbidigo // this process never becomes a test run
}

// Server is a running engine.
type Server struct {
	library string
	folder  string
	args    []string
	addr    string

	process *exec.Cmd
	stdin   io.Closer
	ended   chan struct{} // closed when the process has ended; nil without a process
	exit    error         // of process.Wait, set before ended is closed
	log     *logBuffer
}

// Start runs an engine until the test ends. Further arguments are flags of "carom clickhouse".
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return start(tb, &Server{library: needLibrary(tb), folder: tb.TempDir(), args: args, log: new(logBuffer), addr: anyPort})
}

// needLibrary returns the engine's library, and skips or fails the test without one.
func needLibrary(tb testing.TB) string {
	tb.Helper()
	library, err := findLibrary()
	if err != nil {
		if os.Getenv("CAROM_REQUIRE_ENGINE") != "" {
			tb.Fatalf("CAROM_REQUIRE_ENGINE is set: %v", err)
		}
		tb.Skipf("needs the embedded ClickHouse engine: %v", err)
	}
	return library
}

// start runs s until the test ends.
func start(tb testing.TB, s *Server) *Server {
	tb.Helper()
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			tb.Logf("the engine's log:\n%s", s.log)
		}
	})
	if err := s.run(); err != nil {
		tb.Fatalf("start the engine: %v\n%s", err, s.log)
	}
	return s
}

// run starts the process and waits until it listens.
func (s *Server) run() error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	portFile := filepath.Join(s.folder, "port")
	if err := os.Remove(portFile); err != nil && !os.IsNotExist(err) {
		return err
	}
	args := append([]string{
		"--path", filepath.Join(s.folder, dataFolder), "--listen", s.addr, "--port-file", portFile, "--engine-lib", s.library,
	}, s.args...)
	s.process = exec.Command(executable, args...) //nolint:noctx // it ends with Kill, Stop or the pipe
	s.process.Env = append(os.Environ(), childEnv+"=1")
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if s.stdin, err = s.process.StdinPipe(); err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func() {
		s.exit = s.process.Wait()
		close(s.ended)
	}()

	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-s.ended:
			return fmt.Errorf("it ended before it listened: %w", s.exit)
		case <-deadline.C:
			return fmt.Errorf("it did not listen within %v", startTimeout)
		case <-poll.C:
		}
		if text, err := os.ReadFile(portFile); err == nil {
			s.addr = strings.TrimSpace(string(text))
			return nil
		}
	}
}

// Addr returns the address of the HTTP interface, "127.0.0.1:34567". It stays over a Restart.
func (s *Server) Addr() string { return s.addr }

// URL returns the HTTP interface's URL without a path.
func (s *Server) URL() string { return "http://" + s.addr }

// DSN returns what clickhouse.ParseDSN and carom's --clickhouse take.
func (s *Server) DSN() string { return s.URL() + "/default" }

// Folder returns the data folder.
func (s *Server) Folder() string { return filepath.Join(s.folder, dataFolder) }

// Conn returns a clickhouse-go connection to the database default, closed when the test ends.
// Each change may alter the options before it opens.
func (s *Server) Conn(tb testing.TB, changes ...func(*clickhouse.Options)) driver.Conn {
	tb.Helper()
	options, err := clickhouse.ParseDSN(s.DSN())
	if err != nil {
		tb.Fatalf("ParseDSN(%q): %v", s.DSN(), err)
	}
	for _, change := range changes {
		change(options)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		tb.Fatalf("open a connection to the engine: %v", err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Errorf("close the connection to the engine: %v", err)
		}
	})
	return conn
}

// Kill ends the engine as kill -9 does and waits until it is gone.
func (s *Server) Kill() {
	if s.ended == nil {
		return
	}
	_ = s.process.Process.Kill() // it may be gone already
	<-s.ended
	s.ended = nil
	_ = s.stdin.Close()
}

// Stop ends the engine as SIGTERM does and returns how its process ended.
func (s *Server) Stop() error {
	if s.ended == nil {
		return nil
	}
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-s.ended
	s.ended = nil
	return s.exit
}

// Restart starts the engine again on the same folder and address, after Kill or Stop.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if s.ended != nil {
		tb.Fatal("Restart of an engine that runs")
	}
	if err := s.run(); err != nil {
		tb.Fatalf("start the engine again: %v\n%s", err, s.log)
	}
}

// PID returns the process id of the engine.
func (s *Server) PID() int { return s.process.Process.Pid }

// findLibrary looks where carom does, and in build/engine of the module that the test is in.
func findLibrary() (string, error) {
	library, err := engine.FindLibrary("")
	if err == nil || os.Getenv(engine.LibraryEnv) != "" {
		return library, err
	}
	folder, wdErr := os.Getwd()
	if wdErr != nil {
		return "", wdErr
	}
	for ; ; folder = filepath.Dir(folder) {
		if _, statErr := os.Stat(filepath.Join(folder, "go.mod")); statErr == nil {
			library = filepath.Join(folder, "build", "engine", engine.LibraryName)
			if _, statErr := os.Stat(library); statErr != nil {
				return "", fmt.Errorf("%w; nor is there %s", err, library)
			}
			return library, nil
		}
		if folder == filepath.Dir(folder) {
			return "", err
		}
	}
}

// logBuffer keeps what the engine writes.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
