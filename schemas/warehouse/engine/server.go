//go:build unix

// Package engine runs ClickHouse inside this process and speaks ClickHouse's HTTP interface.
//
// The engine is libchdb (package chdb). Open starts it on a data folder, Serve answers HTTP the
// way a ClickHouse server does, so that clickhouse-go, curl and Grafana cannot tell the difference
// in what carom uses: statements by URL and body, settings and parameters by URL, authentication,
// compression, Native blocks of the client's revision, exceptions with code, name and status, and
// the end of a query when its client goes away. What is different: there are no sessions (SET and
// USE are refused), no external tables, no access management (one user and one read-only user are
// given at start) and no query log.
//
// The data of an insert is spooled to a file without a name and read by the engine from there, so
// nothing is held in memory twice and a request that breaks off inserts nothing. Results are
// streamed where their format allows it and otherwise built in memory by the engine.
//
// A Server is safe for concurrent use. It divides its connections: one for inserts, one for
// changes of the schema and INSERT … SELECT, one for control, the rest for reads. A statement that
// finds its connections busy waits in a bounded queue, and error 202 says that the queue is full.
// The engine is native code: a crash in it ends the process, and the data folder survives that.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/engine/chdb"
)

const (
	// minConnections are one each for inserts, changes, control and reads.
	minConnections = 4

	// minMajor and minMinor are the oldest engine that this package was tried with.
	minMajor, minMinor = 26, 5

	// timezone is the engine's, whatever the machine's is: carom counts in UTC.
	timezone = "UTC"

	// controlQueue is how many short statements may wait for the control connection.
	controlQueue = 1000

	// killTimeout is how long killed statements may take to end when the server stops.
	killTimeout = 10 * time.Second

	// headerTimeout keeps a client from holding a connection without sending a request.
	headerTimeout = 30 * time.Second
)

// Options say how Open starts the engine.
type Options struct {
	Path             string // data folder; made if it is not there
	Library          string // the shared library; see FindLibrary
	Connections      int    // at least 4
	MaxQueued        int    // statements that may wait for a connection: of inserts, of changes, of reads
	User             string // empty: clients of this machine are the user default, without a password
	Password         string
	ReadonlyUser     string // empty: none
	ReadonlyPassword string
	Tenants          map[string]string // passwords of the read-only users that see one tenant's rows, by tenant
	StopTimeout      time.Duration     // how long running statements may take when the server stops
	Log              *slog.Logger
}

// Server is a running engine with its HTTP interface.
type Server struct {
	log         *slog.Logger
	lock        *os.File
	conns       []*chdb.Conn
	users       []*user
	version     string
	spoolFolder string
	stopTimeout time.Duration

	tenantTables, tenantViews []string // what tenants may read, by names without a database

	inserts, changes, control, reads *lane
}

// Open starts the engine. Mistakes of the operator (a folder in use, a wrong library) are
// service.ConfigErrors. A process can open one data folder only.
func Open(o Options) (*Server, error) {
	if o.Connections < minConnections {
		return nil, service.Configf("%d connections: the engine needs at least %d", o.Connections, minConnections)
	}
	if o.MaxQueued < 1 {
		return nil, service.Configf("%d statements may wait: at least one has to", o.MaxQueued)
	}
	path, err := absFolder(o.Path)
	if err != nil {
		return nil, err
	}
	s := &Server{log: o.Log, spoolFolder: filepath.Join(path, "spool"), stopTimeout: o.StopTimeout}
	if s.lock, err = lockFolder(path); err != nil {
		return nil, err
	}
	if err := s.start(o, path); err != nil {
		s.Close()
		return nil, err
	}
	if o.User == "" {
		s.users = append(s.users, &user{name: "default", local: true})
	} else {
		s.users = append(s.users, newUser(o.User, o.Password))
	}
	if o.ReadonlyUser != "" {
		readonly := newUser(o.ReadonlyUser, o.ReadonlyPassword)
		readonly.readonly = true
		s.users = append(s.users, readonly)
	}
	if len(o.Tenants) > 0 {
		if s.tenantTables, s.tenantViews, err = warehouse.TenantObjects(); err != nil {
			s.Close()
			return nil, err
		}
	}
	for tenant, password := range o.Tenants {
		u := newUser(warehouse.TenantUser(tenant), password)
		u.readonly, u.tenant = true, tenant
		s.users = append(s.users, u)
	}
	return s, nil
}

// engineConfig is the engine's configuration file. Naming one also keeps the engine from taking
// up a config.xml from the working or the home folder.
const engineConfig = `<clickhouse>
    <!-- Written by carom at each start. -->
    <user_files_path>%s</user_files_path>
    <tmp_path>%s</tmp_path>
    <format_schema_path>%s</format_schema_path>
</clickhouse>
`

func (s *Server) start(o Options, path string) error {
	if strings.ContainsAny(path, "<>&\n") {
		return service.Configf("data folder %q: the name cannot contain <, >, & or a line end", path)
	}
	if err := os.MkdirAll(s.spoolFolder, 0o750); err != nil {
		return fmt.Errorf("spool folder: %w", err)
	}
	config := filepath.Join(path, "carom.xml")
	text := fmt.Sprintf(engineConfig, filepath.Join(path, "user_files")+"/", filepath.Join(path, "tmp")+"/", filepath.Join(path, "format_schemas")+"/")
	if err := os.WriteFile(config, []byte(text), 0o640); err != nil {
		return fmt.Errorf("engine configuration: %w", err)
	}
	library, err := chdb.Load(o.Library)
	if errors.Is(err, chdb.ErrNotLibrary) {
		return service.Configf("%w; run make engine for the right one", err)
	}
	if err != nil {
		return err
	}
	if err := library.SetTimezone(timezone); err != nil {
		return err
	}
	workers := make([]*worker, o.Connections)
	for i := range workers {
		conn, err := library.Connect("--path="+path, "--config-file="+config)
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
		workers[i] = &worker{conn: conn, database: "default"}
	}
	if s.version, err = fetch(s.conns[0], "SELECT version()"); err != nil {
		return fmt.Errorf("ask the engine for its version: %w", err)
	}
	s.version = strings.TrimSpace(s.version)
	if !supported(s.version) {
		return service.Configf("engine library %s is ClickHouse %s, carom needs %d.%d or newer; run make engine for the right one",
			o.Library, s.version, minMajor, minMinor)
	}
	s.inserts = newLane(o.MaxQueued, workers[0])
	s.changes = newLane(o.MaxQueued, workers[1])
	s.control = newLane(controlQueue, workers[2])
	s.reads = newLane(o.MaxQueued, workers[3:]...)
	return nil
}

func supported(version string) bool {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && (major > minMajor || major == minMajor && minor >= minMinor)
}

// Version returns ClickHouse's version, "26.5.1.1".
func (s *Server) Version() string { return s.version }

// Close ends the engine; nothing may be running. It is idempotent.
func (s *Server) Close() {
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
	if s.lock != nil {
		_ = s.lock.Close()
		s.lock = nil
	}
}

// Serve answers on listener until ctx ends, then gives running statements Options.StopTimeout,
// kills the rest and returns nil. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	running, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	web := &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(s),
		BaseContext:       func(net.Listener) context.Context { return running },
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(running, s.stopTimeout)
	defer cancel()
	if err := web.Shutdown(grace); err != nil {
		s.log.Warn("killing statements that still run")
		kill()
		last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancelLast()
		if err := web.Shutdown(last); err != nil {
			return fmt.Errorf("stop: statements did not end: %w", err)
		}
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// onThread runs f on one thread of the operating system: the engine keeps the state of a running
// statement in variables of the thread.
func onThread(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return f()
}
