package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"carom/deploy/up/supervise"
	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/sender/config"
)

// Options of a System.
type Options struct {
	Dir        string // for data and logs; made if there is none
	ConfigFile string
	PolicyFile string
	EngineLib  string // empty: where carom clickhouse looks
	LogLevel   string // of the children
	Executable string // carom itself; empty: the running executable
}

// System is everything that carom up runs, before it runs.
type System struct {
	Options
	Config *config.Config

	url   string   // of ClickHouse, with the database
	login []string // flags
}

// Open reads the configuration and prepares the folder. Its errors are service.ConfigErrors.
func Open(o Options) (*System, error) {
	for _, path := range []*string{&o.Dir, &o.ConfigFile, &o.PolicyFile} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, service.Configf("carom up: %w", err)
		}
		*path = abs
	}
	if o.Executable == "" {
		executable, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find carom's own executable: %w", err)
		}
		o.Executable = executable
	}
	c, _, err := config.Load(o.ConfigFile) // the sender logs the warnings
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, service.Configf("carom up: --dir: %w", err)
	}
	y := &System{Options: o, Config: c}
	u := *c.EventStream.URL
	u.Path = "/" + databaseOf(c.EventStream)
	y.url = u.String()
	if password := c.EventStream.Password.Reveal(); password != "" {
		// The children take passwords from files alone, and the configuration does not tell which.
		file := filepath.Join(o.Dir, "clickhouse.password")
		if err := writeSecret(file, password); err != nil {
			return nil, err
		}
		y.login = []string{"--user", c.EventStream.User, "--password-file", file}
	}
	return y, nil
}

// Start starts everything, each part when those that it needs are ready. When it returns an error
// the caller stops what runs, by s.
func (y *System) Start(ctx context.Context, s *supervise.Supervisor) error {
	if y.embedded() {
		engine, err := y.engine()
		if err != nil {
			return err
		}
		if err := s.Start(ctx, engine); err != nil {
			return err
		}
	}
	apply := y.process("schema", append([]string{"schema", "apply", "--url", y.url}, y.login...)...)
	if err := s.Do(ctx, apply); err != nil {
		return err
	}
	sender, err := y.sender()
	if err != nil {
		return err
	}
	analytics := append([]string{"analytics", "serve", "--url", y.url, "--policy", y.PolicyFile, "--log-level", y.LogLevel}, y.login...)
	for _, p := range []supervise.Process{
		sender,
		y.process("agent", "ingest", "agent", "-c", y.ConfigFile, "--log-level", y.LogLevel),
		y.process("analytics", analytics...),
	} {
		if err := s.Start(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// process returns a child, which lives in the same time as its parent.
func (y *System) process(name string, args ...string) supervise.Process {
	if scale := clock.Value(); scale != "" && name != "schema" {
		args = append(args, "--time-scale", scale)
	}
	return supervise.Process{Name: name, Path: y.Executable, Args: args}
}

// embedded reports whether ClickHouse is the engine that carom up runs: it speaks HTTP and is
// wanted on this machine.
func (y *System) embedded() bool {
	u := y.Config.EventStream.URL
	if u.Scheme != "http" {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
}

// engine is ready when it wrote its port file and answers. The file tells it from a stranger that
// answers at its address, which then must not get carom's tables.
func (y *System) engine() (supervise.Process, error) {
	u := y.Config.EventStream.URL
	port := u.Port()
	if port == "" {
		port = "8123"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	ready, err := y.readyFile("engine.ready")
	if err != nil {
		return supervise.Process{}, err
	}
	p := y.process("engine", append([]string{
		"clickhouse", "--path", filepath.Join(y.Dir, "clickhouse"), "--listen", address, "--port-file", ready, "--log-level", y.LogLevel,
	}, y.login...)...)
	if y.EngineLib != "" {
		p.Args = append(p.Args, "--engine-lib", y.EngineLib)
	}
	p.Ready = func(ctx context.Context) error {
		if _, err := os.Stat(ready); err != nil {
			return err
		}
		return ping(ctx, "http://"+address+"/ping")
	}
	return p, nil
}

func ping(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ping: %s", response.Status)
	}
	return nil
}

// sender is ready when it writes its ready file, which it does with open doors.
func (y *System) sender() (supervise.Process, error) {
	ready, err := y.readyFile("sender.ready")
	if err != nil {
		return supervise.Process{}, err
	}
	p := y.process("sender", "sender", "-c", y.ConfigFile, "--ready-file", ready, "--log-level", y.LogLevel)
	p.Ready = func(context.Context) error {
		_, err := os.Stat(ready)
		return err
	}
	p.StartTimeout = time.Minute // it recovers its spool first
	return p, nil
}

// readyFile returns the path of a file that a child writes when it is ready, and removes that of
// the last run.
func (y *System) readyFile(name string) (string, error) {
	path := filepath.Join(y.Dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove the last run's ready file: %w", err)
	}
	return path, nil
}

// writeSecret writes a file that only its owner can read.
func writeSecret(file, secret string) error {
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		return service.Configf("carom up: %w", err)
	}
	return nil
}
