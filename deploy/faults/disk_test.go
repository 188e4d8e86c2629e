package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"carom/deploy/rig"
)

// diskSize is less than a segment of the spool, of 64 MiB: the one that is written to has to give way.
const diskSize = 16 << 20

// smallDisk mounts a file system of diskSize on a new folder, or skips.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("a small disk is made of Linux's tmpfs")
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Skipf("only root can mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// patientConfig is a queue that waits for the peer's greeting for as long as it takes. It wants the port.
const patientConfig = `<domain good.test>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 4
    smtp-greeting-timeout 1h
</domain>
`

// TestFullDisk fills the disk of the spool: the node says 452 4.3.1 and loses nothing, takes mail
// again when somebody makes room, delivers, and takes mail again when delivery has made room.
func TestFullDisk(t *testing.T) {
	for _, tc := range []struct{ name, line string }{
		{"to the last octet", ""},
		{"to min-free-space", "min-free-space 4M"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &scene{audit: &rig.Audit{}}
			disk := smallDisk(t)
			filler := filepath.Join(disk, "filler")
			if err := os.WriteFile(filler, make([]byte, 5<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			open := make(chan struct{})
			receiver := rig.NewReceiver(t, s.audit, func(step rig.Step, _ rig.Session, _ string) rig.Answer {
				if step == rig.Greeting {
					select {
					case <-open:
					case <-t.Context().Done():
					}
				}
				return rig.Answer{}
			})
			s.node = rig.NewNodeIn(t, filepath.Join(disk, "spool"), tc.line, fmt.Sprintf(patientConfig, receiver.Port()))
			if err := s.node.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			first := s.fill(t)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			s.takesAgain(t, "somebody made room")
			second := s.fill(t)
			t.Logf("the disk took %d messages, %d more with room, in %s", first, second, time.Since(began).Round(time.Second))
			close(open)
			if err := s.node.Empty(t.Context(), patience); err != nil {
				t.Fatal(err)
			}
			t.Logf("empty after %s", time.Since(began).Round(time.Second))
			s.takesAgain(t, "everything was delivered")
			t.Logf("takes again after %s", time.Since(began).Round(time.Second))
			s.settle(t)
		})
	}
}

const fillSize = 100_000

// fill hands over messages until one is refused for want of space, and returns how many were taken.
func (s *scene) fill(t *testing.T) int {
	t.Helper()
	for n := range 1000 {
		err := s.try(t.Context(), "good.test", fillSize)
		if refused, ok := errors.AsType[*rig.ReplyError](err); ok {
			if refused.Code != 452 || !strings.HasPrefix(refused.Text, "4.3.1 ") {
				t.Fatalf("the disk is full, and the node says %v; want 452 4.3.1", refused)
			}
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the disk has room for 100 MB")
	return 0
}

func (s *scene) takesAgain(t *testing.T, why string) {
	t.Helper()
	tick := time.NewTicker(time.Second) // a try costs as much as any other message
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := s.try(t.Context(), "good.test", fillSize)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s, and %s later the node says %v", why, patience, err)
		}
	}
}
