package supervise

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestChildrenDieWithTheSupervisor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	t.Setenv(childFile, file)
	s, _ := newSupervisor(t)
	if err := s.Start(t.Context(), process(t, "supervisor", "grandchild")); err != nil {
		t.Fatal(err)
	}
	pid := 0
	until(t, "process id of the grandchild", func() bool {
		b, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	if !alive(pid) {
		t.Fatalf("the grandchild %d does not run", pid)
	}
	if err := syscall.Kill(s.States()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "death of the grandchild", func() bool { return !alive(pid) })
}

// alive reports whether the process runs; a zombie that nobody reaped does not.
func alive(pid int) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		if state, ok := strings.CutPrefix(scanner.Text(), "State:\t"); ok {
			return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
		}
	}
	return false
}
