package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"carom/deploy/rig"
)

// syncFault is a tracer that makes each fsync of one file of a node fail with EIO. The call never
// reaches the kernel, so what was written is still there: the doubt is all that the node has.
type syncFault struct {
	tracer *exec.Cmd
	trace  string // file that the failed calls are written to
}

// failSyncs begins to fail the fsyncs of a file of the running node, or skips.
func failSyncs(t *testing.T, node *rig.Node, file string) *syncFault {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		rig.Missing(t, "strace is not installed (Debian package strace)")
	}
	f := &syncFault{trace: filepath.Join(t.TempDir(), "trace")}
	said := filepath.Join(t.TempDir(), "said")
	stderr, err := os.Create(said) //nolint:gosec // of the test
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stderr.Close() }()
	f.tracer = exec.CommandContext(context.WithoutCancel(t.Context()), strace, "-f", "-p", strconv.Itoa(node.PID()), //nolint:gosec // fixed
		"-e", "signal=none", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-P", file, "-o", f.trace)
	f.tracer.Stderr = stderr
	if err := f.tracer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.end)
	rig.Await(t, patience, "strace to hold the node", func(context.Context) error {
		text, err := os.ReadFile(said) //nolint:gosec // of the test
		switch {
		case err != nil:
			return err
		case strings.Contains(string(text), "Operation not permitted"):
			t.Skipf("the system lets nobody trace a process: %s", text)
		case !strings.Contains(string(text), " attached"):
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
	return f
}

// failed waits until an fsync has failed.
func (f *syncFault) failed(t *testing.T) {
	t.Helper()
	rig.Await(t, patience, "an fsync to fail", func(context.Context) error {
		text, err := os.ReadFile(f.trace)
		if err == nil && !strings.Contains(string(text), "EIO") {
			return errors.New("none was called")
		}
		return err
	})
}

// end lets the node go: from now on each fsync succeeds. The kernel does it when the tracer dies; strace
// that is asked to may take half a minute, when threads of the node end at the same time.
func (f *syncFault) end() {
	_ = f.tracer.Process.Kill() // it may be gone already
	_ = f.tracer.Wait()         // it dies of the signal
}

// activeSegment returns the file that a log appends to.
func activeSegment(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no segment: %v", dir, err)
	}
	return slices.Max(files) // names are numbers of one length
}

// TestFailedSync fails the fsyncs of one log of a node that is under load, for a while. It must
// take nothing from then on, not even when fsyncs succeed again: the kernel reports a lost page
// once. It takes mail after a restart, and all that it had taken arrives.
//
// A refusal in the moment of the fault is in doubt: the message may be on the disk.
func TestFailedSync(t *testing.T) {
	for _, tc := range []struct {
		name, dir string
		ends      bool // the node can not account any more, and ends itself
		delivers  bool // what it had taken
	}{
		{"of messages", "spool/messages", false, true},
		{"of the spool's state", "spool/state", false, false}, // it ends with the next outcome, if there is one
		{"of the event log", "events/event", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &scene{audit: &rig.Audit{}}
			receiver := rig.NewReceiver(t, s.audit, nil)
			s.node = rig.NewNode(t, fmt.Sprintf(goodConfig, receiver.Port()))
			if err := s.node.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.send(t, "good.test", 20, 2000)
			fault := failSyncs(t, s.node, activeSegment(t, filepath.Join(s.node.Dir, tc.dir)))
			var load sync.WaitGroup
			for range 4 {
				load.Go(func() { s.loadUntilRefused(t) })
			}
			fault.failed(t)
			load.Wait()
			fault.end()

			if tc.ends {
				rig.Await(t, patience, "the end of the node", func(ctx context.Context) error {
					if s.node.Ended(ctx) == nil {
						return errors.New("it runs")
					}
					return nil
				})
			}
			s.refusesAll(t)
			if tc.delivers {
				if err := s.node.Empty(t.Context(), patience); err != nil {
					t.Errorf("what was taken before is not delivered: %v", err)
				}
			}
			if !strings.Contains(s.node.Log(), "input/output error") {
				t.Error("the node's log does not name the error")
			}
			s.node.Stop()
			if err := receiver.Quiet(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.audit.Killed()
			if err := s.node.Run(t.Context()); err != nil {
				t.Fatalf("restart: %v", err)
			}
			s.send(t, "good.test", 5, 2000)
			s.settle(t)
			t.Logf("%+v", s.audit.Counts())
		})
	}
}

// loadUntilRefused hands over messages until the node takes no more. The last one is left in doubt.
func (s *scene) loadUntilRefused(t *testing.T) {
	t.Helper()
	for {
		f, err := rig.Dial(t.Context(), s.node.SMTP)
		if err != nil {
			return // the node is gone
		}
		number := s.next.Add(1)
		m := rig.Message{Number: number, Size: 2000, Recipients: []string{rig.Address(number, 0, "good.test")}}
		if err = f.Begin("from@rig.test", m.Recipients); err == nil {
			s.audit.Offered(m)
			if err = f.Finish(m.Content()); err == nil {
				s.audit.Accepted(number)
			}
		}
		_ = f.Close()
		if refused, ok := errors.AsType[*rig.ReplyError](err); ok && refused.Code/100 != 4 {
			t.Errorf("the disk fails, and the node says %v; want a 4xx", refused)
		}
		if err != nil {
			return
		}
	}
}

// refusesAll wants the node to take no message, one after the other, or to be gone.
func (s *scene) refusesAll(t *testing.T) {
	t.Helper()
	for range 20 {
		err := s.try(t.Context(), "good.test", 2000)
		if err != nil && s.node.PID() == 0 {
			return // nobody refuses more
		}
		if refused, ok := errors.AsType[*rig.ReplyError](err); err == nil || ok && refused.Code/100 != 4 {
			t.Fatalf("a disk failed, seems to work again, and the node says %v; want a 4xx", err)
		}
	}
}
