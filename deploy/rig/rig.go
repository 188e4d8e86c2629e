// Package rig tries a sender node from outside: it starts the real binary, feeds it over SMTP,
// receives what it delivers, reads its event log, and counts all three against each other.
//
// A Node is the process, which can be killed at any moment and started again. A Feeder hands
// over messages of which it knows every octet. A Receiver is a peer that answers what its Script
// says, well or badly. The Audit holds what each of them saw of each recipient and says what
// does not fit.
//
// It is for tests alone and knows nothing of the node's inside: only its configuration, SMTP, the
// admin socket and the event log on disk. All types are safe for concurrent use. What a test can do
// nothing about fails it at once; everything else is returned.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// build makes the binary once a process; with the race detector if the tests have it.
var build = sync.OnceValues(func() (string, error) {
	module, err := exec.CommandContext(context.Background(), "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(module)))
	if err := lookAtSource(root); err != nil {
		return "", err
	}
	name, race := "carom", "-race=false"
	if WithRace {
		name, race = "carom-race", "-race=true"
	}
	binary := filepath.Join(root, "build", "test", name)
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil { //nolint:gosec // as go build makes its folders
		return "", err
	}
	// Test binaries of other packages want the same file at the same time. Without the state of the
	// repository in it, a commit does not mean another link.
	lock, err := os.OpenFile(binary+".lock", os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a fixed name
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()                                    // and the lock with it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a file descriptor is small
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", race, "-buildvcs=false", "-o", binary, "carom") //nolint:gosec // fixed names
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build carom: %w\n%s", err, output)
	}
	return binary, nil
})

// lookAtSource looks at every Go file, which makes the test cache notice a change: what the child process
// go build reads it does not see.
func lookAtSource(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || path == filepath.Join(root, "build")):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go"):
			_, err = os.Stat(path)
		}
		return err
	})
}

// Binary returns the path of the carom binary of this source tree.
func Binary(tb testing.TB) string {
	tb.Helper()
	binary, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

// FreeAddress returns a loopback address at which nobody listens. It lies under the range from which
// systems take ports for outgoing connections, so none of these gets in the way later.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 50 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000))) //nolint:gosec // no secret
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(tb.Context(), "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	tb.Fatalf("find a free port: %v", err)
	return ""
}

// pollPeriod is the time between two looks at a condition.
const pollPeriod = 20 * time.Millisecond

// finalError ends the wait for a condition that cannot come true any more.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Until polls a condition until it returns nil. If ctx ends or atMost has passed it returns an
// error with what was waited for and the last answer.
func Until(ctx context.Context, atMost time.Duration, what string, condition func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	ticker := time.NewTicker(pollPeriod)
	defer ticker.Stop()
	var last error
	for {
		err := condition(limited)
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[finalError](err); ok {
			return fmt.Errorf("waited for %s in vain: %w", what, final)
		}
		if limited.Err() == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-limited.Done():
			return fmt.Errorf("waited %s for: %s; last: %w", atMost, what, last)
		}
	}
}

// Await is Until that fails the test.
func Await(tb testing.TB, atMost time.Duration, what string, condition func(context.Context) error) {
	tb.Helper()
	if err := Until(tb.Context(), atMost, what, condition); err != nil {
		tb.Fatal(err)
	}
}

// RequirePeersEnv is a variable that, when set, says that programs from outside that tests need must
// be there: CI installs them.
const RequirePeersEnv = "CAROM_REQUIRE_PEERS"

// Missing skips a test for the reason that a program from outside is missing, or fails it where that
// must not be.
func Missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv(RequirePeersEnv) != "" {
		tb.Fatalf("%s is set: %s", RequirePeersEnv, reason)
	}
	tb.Skip(reason)
}
