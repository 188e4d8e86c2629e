// Package admin is an operator's way into a node: HTTP with JSON over a Unix socket that only the
// node's user can open.
//
//	GET    /v1/status                counts of the node
//	GET    /v1/queues                the queues with what waits in them
//	GET    /v1/messages?queue=Q…     mail that waits, one entry a recipient
//	GET    /v1/explain?queue=Q       which limit of a queue binds, set by whom, and why
//	GET    /v1/orders                what operators told the node, while it is in force
//	POST   /v1/orders                an Instruction
//	DELETE /v1/orders/ID             ends an order
//	POST   /v1/schedule              try queues now
//
// It asks a Node and an Operator and does nothing itself. Client is the other side; curl does as
// well: curl --unix-socket PATH http://node/v1/status. A refusal has a status of 400 or above and
// says why: {"error": "…"}.
//
// The socket is made under another name, closed to other users, and put in its place when it is
// ready; so it never stands open, and the place never stands empty while a dead process's socket is
// replaced. Where the system tells who connects, it must be root or the node's own user, whose name
// becomes the actor of what it orders. Errors are returned by Open and by Serve, which blocks.
package admin

import (
	"context"
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

// Socket is the node's admin socket, which clients reach from Open on.
type Socket struct {
	listener net.Listener
	path     string
}

// Open makes the socket at path. One that a dead process left is replaced. It is an error if another
// process answers there, or if path is anything but a socket.
func Open(ctx context.Context, path string) (*Socket, error) {
	listener, err := listen(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return &Socket{listener, path}, nil
}

// Serve answers until ctx is done, and removes the socket.
func (s *Socket) Serve(ctx context.Context, n Node, o Operator, logger *slog.Logger) error {
	defer func() { _ = os.Remove(s.path) }()
	server := &http.Server{
		Handler: (&api{n, o, logger}).routes(), ReadTimeout: timeout, WriteTimeout: longest, IdleTimeout: timeout, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnContext: withPeer,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// maxPath is the longest name of a socket, in octets, with the NUL behind it: 108 by Linux's unix(7),
// 104 on macOS.
const maxPath = 103

// timeout bounds each step of an exchange; the client is on the same machine.
const timeout = 10 * time.Second

// longest bounds an exchange as a whole: taking millions of messages out of their queues may last.
const longest = 2 * time.Minute

// maxHeader bounds a request's header, in octets; a filter has a few names of at most 1 kB.
const maxHeader = 32 << 10

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
