package app

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"carom/schemas/cursor"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/config"
)

func TestBudgetChangesOnce(t *testing.T) {
	var b budget
	for i, step := range []struct {
		waiting int64
		name    string
		full    bool
	}{
		{79, "", false},
		{80, "event-log-scarce", false},
		{99, "", false},
		{71, "", false},
		{100, "event-log-full", true},
		{500, "", true},
		{90, "", true},
		{89, "event-log-room", false},
		{85, "", false},
		{69, "event-log-room", false},
		{0, "", false},
		{200, "event-log-full", true}, // from one look to the next
		{0, "event-log-room", false},
		{75, "", false},
	} {
		if name, text := b.set(step.waiting, 100); name != step.name || b.full.Load() != step.full || (text == "") != (name == "") {
			t.Errorf("step %d, %d %%: %q %q, full %t; want %q, %t", i, step.waiting, name, text, b.full.Load(), step.name, step.full)
		}
	}
}

// Without max-size a log that nobody ships may take half of its file system.
func TestBudgetWithoutMaxSize(t *testing.T) {
	for _, tc := range []struct {
		name    string
		maxSize int64
		ok      func(int64) bool
	}{
		{"given", 5 << 20, func(most int64) bool { return most == 5<<20 }},
		{"not given", 0, func(most int64) bool {
			var st syscall.Statfs_t
			return syscall.Statfs(t.TempDir(), &st) == nil && most > 0 && uint64(most) <= st.Blocks*uint64(st.Bsize)/2
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var n node
			n.config.Store(&config.Config{EventLog: &config.EventLog{Dir: t.TempDir(), MaxSize: config.Size(tc.maxSize)}})
			if most, err := n.maxSize(); err != nil || !tc.ok(most) {
				t.Errorf("maxSize() = %d, %v", most, err)
			}
		})
	}
}

// TestFullEventLogRefusesMail: nobody ships, mail is refused with 452 4.3.1 and what was taken is
// delivered with all its events; when the agent has caught up, mail is taken again.
func TestFullEventLogRefusesMail(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s)
	p.config.EventLog.SegmentSize, p.config.EventLog.MaxSize = 64<<10, 100<<10
	dir := p.config.EventLog.Dir
	taken := 0
	p.run(func(address string) {
		to := make([]string, 50)
		for i := range to {
			to[i] = fmt.Sprintf("user%d@a.test", i)
		}
		waitFor(t, "a refusal for want of room", func() bool {
			if strings.HasPrefix(mailReply(t, address), "452 4.3.1 ") {
				return true
			}
			if taken < 20 { // events of 300 KB; they are measured once a second
				p.send(address, to...)
				taken++
			}
			return false
		})
		waitFor(t, "everything delivered", func() bool { return p.kinds()[event.Delivered] == 50*taken })
		// The agent stores what is there and what comes, for refusals are events too.
		shipped := cursor.Cursor{Incarnation: incarnationOf(t, filepath.Join(dir, event.StreamEvent)), Seq: 1 << 40}
		if err := cursor.Save(dir, event.StreamEvent, shipped); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "mail taken again", func() bool { return strings.HasPrefix(mailReply(t, address), "250 ") })
	})
	var names []string
	r, err := seglog.OpenReader(filepath.Join(dir, event.StreamAnnotation), 1, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for {
		entry, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		var a event.Annotation
		if err := event.DecodeAnnotation(entry.Data, &a); err != nil {
			t.Fatal(err)
		}
		names = append(names, a.Name)
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "event-log-full event-log-room") {
		t.Errorf("annotations: %s, want event-log-full and event-log-room", all)
	}
}

// mailReply returns what the node answers to MAIL.
func mailReply(t *testing.T, address string) string {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	lines := bufio.NewReader(conn)
	reply := ""
	for _, command := range []string{"", "HELO feeder.test\r\n", "MAIL FROM:<news@shop.test>\r\n"} {
		if _, err := conn.Write([]byte(command)); err != nil {
			t.Fatal(err)
		}
		if reply, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return reply
}

func incarnationOf(t *testing.T, stream string) string {
	t.Helper()
	r, err := seglog.OpenReader(stream, 1, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	return r.Incarnation()
}
