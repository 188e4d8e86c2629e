package e2e

import (
	"context"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/deploy/up/supervise"
)

// startNode starts a sender alone in dir, one that has nobody to send to, and returns its address.
func startNode(t *testing.T, dir string) (smtp string) {
	t.Helper()
	smtp = freeAddress(t)
	writeConfig(t, dir, configData{SMTP: smtp, DNS: nobody, SMTPPort: 1, HTTP: nobody, Rate: unlimited})
	ready := filepath.Join(dir, "ready")
	err := newSupervisor(t).Start(t.Context(), supervise.Process{
		Name: "sender", Path: carom, Once: true,
		Args:  []string{"sender", "-c", filepath.Join(dir, "carom.conf"), "--ready-file", ready},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		t.Fatalf("carom sender: %v", err)
	}
	return smtp
}

// handOver sends one message and returns the reply that decided, as it came: to RCPT or to the
// message.
func handOver(t *testing.T, smtp, from, to, text string) (reply string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", smtp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(runTimeout)); err != nil {
		t.Fatal(err)
	}
	c := textproto.NewConn(conn)
	for _, step := range []struct{ command, want string }{
		{"", "220"},
		{"EHLO client.test", "250"},
		{"MAIL FROM:<" + strings.Trim(from, "<>") + ">", "250"},
		{"RCPT TO:<" + to + ">", "250"},
		{"DATA", "354"},
	} {
		if step.command != "" {
			if err := c.PrintfLine("%s", step.command); err != nil {
				t.Fatal(err)
			}
		}
		reply = readReply(t, c)
		if strings.HasPrefix(step.command, "RCPT") && !strings.HasPrefix(reply, step.want) {
			return reply
		}
		if !strings.HasPrefix(reply, step.want) {
			t.Fatalf("%q: got %q, want %s", step.command, reply, step.want)
		}
	}
	w := c.DotWriter()
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return readReply(t, c)
}

func readReply(t *testing.T, c *textproto.Conn) string {
	t.Helper()
	for {
		line, err := c.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		if len(line) < 4 || line[3] != '-' {
			return line
		}
	}
}
