// Package admin is an operator's way into a node: HTTP with JSON over a Unix socket that only the
// node's user can open.
//
//	GET /v1/status   counts of the node
//	GET /v1/queues   the queues with what waits in them
//
// It asks a Node and changes nothing. Try it with curl --unix-socket PATH http://node/v1/status.
//
// The socket is made under another name, closed to other users, and put in its place when it is
// ready; so it never stands open, and the place never stands empty while a dead process's socket is
// replaced. Errors are returned by Run, which blocks.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Status are the counts of a node.
type Status struct {
	Node               string `json:"node"`
	ConfigHash         string `json:"config_hash"`
	EventSeq           uint64 `json:"event_seq"` // last record of each stream of the event log
	GaugeSeq           uint64 `json:"gauge_seq"`
	AnnotationSeq      uint64 `json:"annotation_seq"`
	AcceptedRecipients int64  `json:"accepted_recipients"` // since the start
	QueuedRecipients   int    `json:"queued_recipients"`   // that wait
	LiveRecipients     int    `json:"live_recipients"`     // in the spool: waiting or in an attempt
	Sessions           int    `json:"sessions"`
}

// Queue is one queue.
type Queue struct {
	Name          string    `json:"name"`
	Recipients    int       `json:"recipients"`
	Due           int       `json:"due"`
	Sessions      int       `json:"sessions"`
	DeferredUntil time.Time `json:"deferred_until,omitzero"`
	OldestArrival time.Time `json:"oldest_arrival,omitzero"`
}

// Node is what can be asked. Its methods are safe for concurrent use and answer at once.
type Node interface {
	Status() Status
	Queues() []Queue
}

// Run serves the socket at path, which it removes at the end, until ctx is done. A socket that a
// dead process left is replaced. It is an error if another process answers there, or if path is
// anything but a socket.
func Run(ctx context.Context, path string, n Node, logger *slog.Logger) error {
	listener, err := listen(ctx, path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	defer func() { _ = os.Remove(path) }()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.Status(), logger) })
	mux.HandleFunc("GET /v1/queues", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, append([]Queue{}, n.Queues()...), logger) // none is [] and not null
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// maxPath is the longest name of a socket, in octets, with the NUL behind it: 108 by Linux's unix(7),
// 104 on macOS.
const maxPath = 103

// timeout bounds each step of an exchange; the client is on the same machine.
const timeout = 10 * time.Second

func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := vacant(ctx, path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".") // which only we can enter
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	made := filepath.Join(dir, "s")
	if longest := max(len(made), len(path)); longest > maxPath {
		return nil, fmt.Errorf("%s is too long for a socket by %d characters", path, longest-maxPath)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	if unix, ok := listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // its name is about to change
	}
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// vacant returns an error unless there is nothing at path, or a socket on which nobody answers.
func vacant(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s is in use by another process", path)
	}
	return err
}

func answer(w http.ResponseWriter, v any, logger *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		logger.Debug("admin answer not sent", "error", err)
	}
}
