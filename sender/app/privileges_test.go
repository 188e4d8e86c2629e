package app

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/sender/config"
)

// sender builds the real binary.
func sender(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "carom")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "carom")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// The kernel says of every thread of the real binary that it has given up root; mail, the places that
// no section names, the admin socket among them, and a restart work all the same.
func TestProcessUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	if testing.Short() {
		t.Skip("builds the binary")
	}
	binary := sender(t)
	dir, err := os.MkdirTemp("", "process-user") //nolint:usetesting // the folders above t.TempDir are root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // so that the user gets to his folders
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "config")
	text := "host-name mx.test\nprocess-user nobody\nsmtp-listener 127.0.0.1:0\nalways-allow-relaying yes\n<domain *>\ntype discard\n</domain>\n" +
		"<spool spool>\n</spool>\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time the folders are the user's
		runAsNobody(t, binary, conf, dir)
	}
}

func runAsNobody(t *testing.T, binary, conf, dir string) {
	t.Helper()
	ready := filepath.Join(dir, "spool", "ready")
	_ = os.Remove(ready)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "sender", "-c", conf, "-log-json")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	address := ""
	var log strings.Builder
	for address == "" && lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if _, rest, ok := strings.Cut(lines.Text(), `"listeners":["`); ok {
			address, _, _ = strings.Cut(rest, `"`)
		}
	}
	if address == "" {
		_ = cmd.Wait()
		t.Fatalf("the sender does not run:\n%s", log.String())
	}
	drained := make(chan struct{})
	go func() { // ended by the end of the process
		defer close(drained)
		for lines.Scan() {
		}
	}()
	handOverTo(t, address)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(tasks) < 3 {
		t.Errorf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, want := range []string{"\nUid:\t65534\t65534\t65534\t65534\n", "\nGid:\t65534\t65534\t65534\t65534\n", "\nGroups:\t65534 \n", "\nCapEff:\t0000000000000000\n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s lacks %q:\n%s", task, want, status)
			}
		}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "spool", "admin.sock"))
	if err != nil {
		t.Errorf("admin socket: %v", err)
	} else {
		_ = conn.Close()
	}
	cancel()
	<-drained
	_ = cmd.Wait() // interrupted
}

// handOverTo hands a message over and wants it accepted.
func handOverTo(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(conn)
	for _, step := range []struct{ say, want string }{
		{"", "220"}, {"HELO a\r\n", "250"}, {"MAIL FROM:<a@b.test>\r\n", "250"}, {"RCPT TO:<c@d.test>\r\n", "250"}, {"DATA\r\n", "354"}, {"A: b\r\n\r\n.\r\n", "250"},
	} {
		if _, err := conn.Write([]byte(step.say)); err != nil {
			t.Fatal(err)
		}
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, step.want) {
			t.Fatalf("%q is answered with %q, %v", step.say, line, err)
		}
	}
}

func TestProcessUserThatThereIsNot(t *testing.T) {
	c, _, err := config.Parse("test.conf", []byte("process-user nobody-of-this-name"))
	if err != nil {
		t.Fatal(err)
	}
	if err := becomeUser(c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "test.conf:1:14: process-user nobody-of-this-name: ") {
		t.Errorf("error %v", err)
	}
}
