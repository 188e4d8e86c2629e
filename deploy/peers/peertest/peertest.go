// Package peertest starts mail servers for tests.
package peertest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/deploy/peers"
	"carom/deploy/rig"
	"carom/deploy/up/supervise"
)

// Dir returns a new folder that every user of the machine may pass through.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // that is what it is for
			tb.Fatal(err)
		}
	}
	return dir
}

// Start runs a server at its address until the test ends, and skips the test where that can't be.
func Start(tb testing.TB, s peers.Server, address string) {
	tb.Helper()
	if missing := s.Missing(); missing != "" {
		rig.Missing(tb, missing)
	}
	if err := s.Write(); err != nil {
		tb.Fatal(err)
	}
	var output strings.Builder
	supervisor := supervise.New(supervise.Options{
		Log:  slog.New(slog.DiscardHandler),
		Line: func(_, line string) { output.WriteString(line + "\n") }, // one process, one goroutine
	})
	tb.Cleanup(func() {
		if err := s.Stop(context.WithoutCancel(tb.Context())); err != nil {
			tb.Error(err)
		}
		supervisor.Stop()
		if tb.Failed() {
			tb.Logf("the peer says:\n%s%s", &output, s.Log())
		}
	})
	process := s.Process()
	process.StartTimeout = time.Minute
	process.Ready = func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if err := supervisor.Start(tb.Context(), process); err != nil {
		tb.Fatal(err)
	}
}
