package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/deploy/load/events"
	"carom/schemas/warehouse"
)

const (
	startTimeout = 2 * time.Minute
	stopTimeout  = time.Minute
)

// engine is a process of carom clickhouse with a database whose schema is there.
type engine struct {
	process *exec.Cmd
	ended   chan struct{}
	exit    error // set before ended is closed
	url     string
	conn    driver.Conn
}

// startEngine runs the engine on a folder and applies the schema. The error wraps
// warehouse.ErrSchemaChanged for a folder with another form of it.
func (l *lab) startEngine(ctx context.Context, folder string) (_ *engine, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the engine: %w", err)
	}
	port := filepath.Join(folder, "port")
	if err := os.Remove(port); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	args := []string{"clickhouse", "--path", filepath.Join(folder, "data"), "--listen", "127.0.0.1:0", "--port-file", port}
	if l.engineLib != "" {
		args = append(args, "--engine-lib", l.engineLib)
	}
	e := &engine{process: exec.Command(l.carom, args...), ended: make(chan struct{})} //nolint:gosec,noctx // our own binary; stop ends it
	e.process.Stdout, e.process.Stderr = log, log
	if err := e.process.Start(); err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	go func() {
		e.exit = e.process.Wait()
		close(e.ended)
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, e.stop())
		}
	}()
	address, err := e.listening(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("%w (its log is %s)", err, log.Name())
	}
	e.url = "http://" + address + "/" + warehouse.DefaultDatabase
	if _, err := warehouse.Apply(ctx, e.url, warehouse.Options{}, "bench"); err != nil {
		return nil, err
	}
	e.conn, err = warehouse.Open(ctx, e.url, warehouse.Options{})
	return e, err
}

// listening waits for the file that says where the engine listens.
func (e *engine) listening(ctx context.Context, file string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if text, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(text)), nil
		}
		select {
		case <-poll.C:
		case <-e.ended:
			return "", fmt.Errorf("the engine ended before it listened: %w", e.exit)
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the engine: %w", context.Cause(ctx))
		}
	}
}

// stop ends the engine and waits until it is gone.
func (e *engine) stop() error {
	var err error
	if e.conn != nil {
		err = e.conn.Close()
	}
	_ = e.process.Process.Signal(syscall.SIGTERM) // it may be gone
	timer := time.AfterFunc(stopTimeout, func() { _ = e.process.Process.Kill() })
	defer timer.Stop()
	<-e.ended
	return err
}

// scratch runs an engine on a new folder, and removes the folder afterwards.
func (l *lab) scratch(ctx context.Context, name string, work func(*engine, string) error) (err error) {
	folder := filepath.Join(l.dir, name)
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	e, err := l.startEngine(ctx, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(), os.RemoveAll(folder)) }()
	return work(e, folder)
}

// open returns the engine with the history, which it makes if it is not there, in another form of
// the schema or not whole.
func (l *lab) open(ctx context.Context) (*engine, error) {
	if l.history != nil {
		return l.history, nil
	}
	folder := filepath.Join(l.dir, fmt.Sprintf("events-%d", l.Size))
	whole := filepath.Join(folder, "whole.json") // written when the history is
	_, missing := os.Stat(whole)
	if missing == nil {
		e, err := l.startEngine(ctx, folder)
		if err == nil {
			l.history = e
			return e, nil
		}
		if !errors.Is(err, warehouse.ErrSchemaChanged) && !errors.Is(err, warehouse.ErrSchemaAhead) {
			return nil, err
		}
		l.say("the schema has changed: the history is made anew")
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	e, err := l.startEngine(ctx, folder)
	if err != nil {
		return nil, err
	}
	l.history = e
	l.say("making %d events", l.Size)
	o := events.Options{Rows: l.Size, Days: 30, Nodes: 4, Seed: 1, Until: time.Now().UTC().Truncate(time.Hour), Progress: func(p events.Progress) {
		if p.OfRollUps > 0 {
			l.say("%d events, %d of %d roll-ups", p.Rows, p.RollUps, p.OfRollUps)
			return
		}
		l.say("day %d of %d, %d events, %.0f/s", p.Day, p.Days, p.Rows, float64(p.Rows)/p.Elapsed.Seconds())
	}}
	made, err := events.Run(ctx, e.conn, o)
	if err != nil {
		return nil, fmt.Errorf("make the history: %w", err)
	}
	l.result.Made = &made
	file, err := os.Create(whole)
	if err != nil {
		return nil, err
	}
	return e, errors.Join(writeJSON(file, made), file.Close())
}
