package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carom/deploy/rig"
)

// call is a system call of the trace. Lines are in the order of time.
type call struct {
	name, args string
	start, end int // lines
	failed     bool
}

// file returns the name of the file or socket of the first argument, as strace -yy writes it.
func (c call) file() string {
	_, name, _ := strings.Cut(c.args, "<")
	name, _, _ = strings.Cut(name, ">)")
	name, _, _ = strings.Cut(name, ">,")
	return strings.TrimSuffix(name, ">")
}

// text returns the data of a write, as strace quotes it.
func (c call) text() string {
	_, text, _ := strings.Cut(c.args, `, "`)
	return text
}

// parseTrace reads the output of strace -f -o. A call that another thread's interrupts in the text
// has two lines: "name(args <unfinished ...>" and "<... name resumed>rest".
func parseTrace(text string) []call {
	var calls []call
	open := map[string]int{} // by thread: index of the call that is not finished
	for i, line := range strings.Split(text, "\n") {
		thread, rest, ok := strings.Cut(line, " ")
		rest = strings.TrimLeft(rest, " ")
		if !ok || strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---") {
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			if at, known := open[thread]; known {
				calls[at].end, calls[at].failed = i, strings.Contains(rest, "= -1 ")
				delete(open, thread)
			}
			continue
		}
		name, args, _ := strings.Cut(rest, "(")
		c := call{name: name, args: args, start: i, end: i}
		if strings.HasSuffix(rest, "<unfinished ...>") {
			c.end = len(text) // never, unless it is resumed
			c.args = strings.TrimSuffix(args, " <unfinished ...>")
			open[thread] = len(calls)
		} else {
			at := strings.LastIndex(args, ") ")
			c.failed = at >= 0 && strings.Contains(args[at:], "= -1 ")
		}
		calls = append(calls, c)
	}
	return calls
}

// quoted returns text as strace writes it.
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", `\r`, "\n", `\n`).Replace

// tail is how many of a message's last octets tell it from all others: single lines come in several.
const tail = 200

// judge returns an error unless a sync of the file that got the end of the message began after the
// last write of it and was done before the answer was written.
func judge(calls []call, m rig.Message, answer call) error {
	if !strings.HasPrefix(answer.text(), "250 ") {
		return fmt.Errorf("the answer is %q", answer.text())
	}
	content := m.Content()
	end := quoted(string(content[len(content)-min(len(content), tail):]))
	var written call
	for _, c := range calls {
		if c.start < answer.start && strings.Contains(c.name, "write") && strings.Contains(c.file(), "/spool/") && strings.Contains(c.text(), end) {
			written = c
		}
	}
	if written.name == "" {
		return errors.New("no write of its end to the spool before the answer")
	}
	if written.end > answer.start || written.failed {
		return errors.New("its end was not written when the answer was")
	}
	for _, c := range calls {
		if (c.name == "fsync" || c.name == "fdatasync") && !c.failed && c.file() == written.file() && c.start > written.end && c.end < answer.start {
			return nil
		}
	}
	return fmt.Errorf("no sync of %s between lines %d and %d", written.file(), written.end+1, answer.start+1)
}

// answers returns the replies to the contents of each client's messages in their order, by the
// client's address: what is written to its socket next after a 354.
func answers(calls []call) map[string][]call {
	found := map[string][]call{}
	wanted := map[string]bool{}
	for _, c := range calls {
		_, peers, isTCP := strings.Cut(c.file(), "TCP:[")
		_, client, connected := strings.Cut(peers, "->")
		if client = strings.TrimSuffix(client, "]"); !isTCP || !connected || !strings.Contains(c.name, "write") {
			continue
		}
		if wanted[client] {
			found[client] = append(found[client], c)
		}
		wanted[client] = strings.HasPrefix(c.text(), "354 ")
	}
	return found
}

// tracer returns the command that traces a node into a file, or skips.
func tracer(t *testing.T, file string) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		rig.Missing(t, "strace is not installed (Debian package strace)")
	}
	command := []string{
		strace, "-f", "--seccomp-bpf", "-yy", "-s", "1000000", "-e", "signal=none",
		"-e", "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync", "-o", file,
	}
	if out, err := exec.CommandContext(t.Context(), command[0], append(command[1:], "true")...).CombinedOutput(); err != nil { //nolint:gosec // fixed
		t.Skipf("the system lets nobody trace a process: %v: %s", err, out)
	}
	return command
}

// TestSyncBeforeAnswer traces the node and wants, for each message, a sync that began after the last
// write of its body and was done when its 250 was written; with one feeder and with many at a time.
func TestSyncBeforeAnswer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "trace")
	command := tracer(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	audit := &rig.Audit{}
	node := rig.NewNode(t, fmt.Sprintf(config, rig.NewReceiver(t, audit, nil).Port(), sessions))
	node.Wrap(command...)
	if err := node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	const messages = 8 // of a feeder
	var mu sync.Mutex
	sent := map[string][]rig.Message{} // by the feeder's address
	feed := func(first uint64) error {
		f, err := rig.Dial(t.Context(), node.SMTP)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		for i := range uint64(messages) {
			m := rig.Message{Number: first + i, Recipients: []string{rig.Address(first+i, 0, "d.test")}, Size: 3000}
			if err := f.Send(m, audit); err != nil {
				return err
			}
			mu.Lock()
			sent[f.Conn.LocalAddr().String()] = append(sent[f.Conn.LocalAddr().String()], m)
			mu.Unlock()
		}
		return nil
	}
	if err := feed(0); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range uint64(feeders) {
		wait.Go(func() {
			if err := feed((i + 1) * messages); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := node.Empty(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	trace := end(t, node, file)

	calls := parseTrace(trace)
	replies := answers(calls)
	for client, list := range sent {
		if len(replies[client]) != len(list) {
			t.Errorf("the trace has %d answers for %s, which got %d", len(replies[client]), client, len(list))
			continue
		}
		for i, m := range list {
			if err := judge(calls, m, replies[client][i]); err != nil {
				t.Errorf("message %d: %v", m.Number, err)
			}
		}
	}
}

// end stops the traced node, which strace doesn't when it is told to stop itself, and returns the
// trace.
func end(t *testing.T, node *rig.Node, file string) string {
	t.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // of the test
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("no process in the trace: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 30*time.Second, "the end of the traced node", func(context.Context) error {
		if node.PID() != 0 {
			return errors.New("it runs")
		}
		return nil
	})
	if text, err = os.ReadFile(file); err != nil { //nolint:gosec // of the test
		t.Fatal(err)
	}
	return string(text)
}

// TestJudge feeds the judge traces that are wrong in one thing each, so that it can say no.
func TestJudge(t *testing.T) {
	m := rig.Message{Number: 1, Size: 100}
	content := m.Content()
	body := quoted(string(content))
	const socket = `7<TCP:[127.0.0.1:25->127.0.0.1:9]>`
	var (
		ready  = `1 write(` + socket + `, "354 go\r\n", 8) = 8`
		write  = `2 pwrite64(9</d/spool/messages/1>, "head` + body + `", 44, 100) = 44`
		fsync  = `2 fdatasync(9</d/spool/messages/1>) = 0`
		answer = `1 write(` + socket + `, "250 2.0.0 OK\r\n", 14) = 14`
	)
	for _, tc := range []struct {
		name  string
		lines []string
		ok    bool
	}{
		{"as it should be", []string{ready, write, fsync, answer}, true},
		{"interrupted sync", []string{ready, write, `2 fsync(9</d/spool/messages/1> <unfinished ...>`, `3 write(5</x>, "a", 1) = 1`, `2 <... fsync resumed>) = 0`, answer}, true},
		{"no sync", []string{ready, write, answer}, false},
		{"sync before the write", []string{ready, fsync, write, answer}, false},
		{"sync after the answer", []string{ready, write, answer, fsync}, false},
		{"sync not done", []string{ready, write, `2 fsync(9</d/spool/messages/1> <unfinished ...>`, answer, `2 <... fsync resumed>) = 0`}, false},
		{"sync failed", []string{ready, write, `2 fdatasync(9</d/spool/messages/1>) = -1 EIO (Input/output error)`, answer}, false},
		{"sync of another file", []string{ready, write, `2 fdatasync(9</d/spool/messages/2>) = 0`, answer}, false},
		{"never written", []string{ready, fsync, answer}, false},
		{"written after the sync began", []string{ready, `3 fsync(9</d/spool/messages/1> <unfinished ...>`, write, `3 <... fsync resumed>) = 0`, answer}, false},
		{"refused", []string{ready, write, fsync, `1 write(` + socket + `, "451 4.3.0 no\r\n", 14) = 14`}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calls := parseTrace(strings.Join(tc.lines, "\n"))
			replies := answers(calls)["127.0.0.1:9"]
			if len(replies) != 1 {
				t.Fatalf("answers: %+v", replies)
			}
			if err := judge(calls, m, replies[0]); (err == nil) != tc.ok {
				t.Errorf("judge: %v, want %v", err, tc.ok)
			}
		})
	}
}
