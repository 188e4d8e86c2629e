// Package admin is an operator's way into a node: HTTP with JSON over a Unix socket that only the
// node's user can open.
//
//	GET /v1/status   counts of the node
//	GET /v1/queues   the queues with what waits in them
//
// It asks a Node and changes nothing. Try it with curl --unix-socket PATH http://node/v1/status.
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

// Node is what can be asked. Its methods are safe for concurrent use.
type Node interface {
	Status() Status
	Queues() []Queue
}

// Run serves the socket at path until ctx is done. A socket that a dead process left is replaced;
// one that answers is an error.
func Run(ctx context.Context, path string, n Node, logger *slog.Logger) error {
	listener, err := listen(ctx, path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.Status(), logger) })
	mux.HandleFunc("GET /v1/queues", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.Queues(), logger) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is in use by another process", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func answer(w http.ResponseWriter, v any, logger *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		logger.Debug("admin answer not sent", "error", err)
	}
}
