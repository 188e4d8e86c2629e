package bench

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestDelayLineCountsRoundTrips sends as go-smtp's client does: MAIL, RCPT, DATA and the message
// each wait for an answer.
func TestDelayLineCountsRoundTrips(t *testing.T) {
	var mu sync.Mutex
	var subjects []string
	box, err := openMailbox(t.Context(), "127.0.0.1:0", func(recipient string, header textproto.MIMEHeader) {
		mu.Lock()
		defer mu.Unlock()
		subjects = append(subjects, recipient+" "+header.Get("X-Number"))
	})
	if err != nil {
		t.Fatal(err)
	}
	line, err := openDelayLine(t.Context(), box.addr, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), line.addr)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		before := line.turns.Load()
		if err := c.hand("a@b.test", letter(4096, "X-Number: "+strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if got := line.turns.Load() - before; got != 4 {
			t.Errorf("message %d: %d round trips, want 4", i, got)
		}
	}
	c.close()
	if err := line.close(); err != nil {
		t.Error(err)
	}
	if err := box.close(); err != nil {
		t.Error(err)
	}
	if len(subjects) != 3 || subjects[2] != "a@b.test 2" {
		t.Errorf("arrived: %q", subjects)
	}
}

func TestDelayLineChangesNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // an echo, which ends with the listener
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	line, err := openDelayLine(t.Context(), l.Addr().String(), 2*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", line.addr)
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent) // never fails
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, or others, %v", len(got), len(sent), err)
	}
	sending.Wait()
	_ = conn.Close()
	if err := line.close(); err != nil {
		t.Error(err)
	}
	_ = l.Close()
}

// TestDelayLineCutsWhatRuns: close must not wait for peers that say nothing.
func TestDelayLineCutsWhatRuns(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	line, err := openDelayLine(t.Context(), l.Addr().String(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", line.addr)
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("on its way for an hour")); err != nil {
		t.Fatal(err)
	}
	if err := line.close(); err != nil {
		t.Error(err)
	}
	if n, err := server.Read(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes arrived an hour too early", n)
	}
	_ = conn.Close()
}

// TestFeed hands over to a mailbox that takes the mail at once: all delays are there, once each.
func TestFeed(t *testing.T) {
	d := new(delays)
	box, err := openMailbox(t.Context(), "127.0.0.1:0", d.arrived)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{30, 20} {
		list, err := d.feed(t.Context(), box.addr, n)
		if err != nil || len(list) != n {
			t.Fatalf("%d delays of %d messages, %v", len(list), n, err)
		}
		for _, v := range list {
			if v <= 0 {
				t.Errorf("a message arrived %s before it was sent", -v)
			}
		}
	}
	if err := box.close(); err != nil {
		t.Error(err)
	}
}

func TestDelaysRefuseStrangers(t *testing.T) {
	mail := func(due string) textproto.MIMEHeader { return textproto.MIMEHeader{dueField: {due}} }
	for _, tc := range []struct {
		name    string
		arrived []textproto.MIMEHeader
		bad     bool
	}{
		{"each once", []textproto.MIMEHeader{mail("1"), mail("2")}, false},
		{"mail of the blocked queue", []textproto.MIMEHeader{mail("1"), {}, mail("2")}, false},
		{"one twice", []textproto.MIMEHeader{mail("1"), mail("1"), mail("2")}, true},
		{"one that was never sent", []textproto.MIMEHeader{mail("1"), mail("3"), mail("2")}, true},
		{"no number", []textproto.MIMEHeader{mail("1"), mail("x"), mail("2")}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &delays{due: map[int64]bool{1: false, 2: false}, left: 2, all: make(chan struct{})}
			for _, header := range tc.arrived {
				d.arrived("a@b.test", header)
			}
			<-d.all
			if (d.bad != nil) != tc.bad || len(d.list) != 2 {
				t.Errorf("%d delays, error %v; want 2, and an error: %v", len(d.list), d.bad, tc.bad)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 0, 100)
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, tc := range []struct {
		values        []time.Duration
		percent, want int
	}{{nil, 99, 0}, {hundred[:1], 99, 100}, {hundred, 99, 99}, {hundred, 50, 50}, {hundred, 100, 100}, {[]time.Duration{4, 1, 3, 2}, 50, 2}, {[]time.Duration{4, 1, 3, 2}, 99, 4}} {
		if got := percentile(tc.values, tc.percent); got != time.Duration(tc.want) {
			t.Errorf("p%d of %d values = %d, want %d", tc.percent, len(tc.values), got, tc.want)
		}
	}
}

func TestParseResident(t *testing.T) {
	const text = "Name:\tcarom\nVmPeak:\t 9000 kB\nVmHWM:\t  500000 kB\nVmRSS:\t  250000 kB\nThreads:\t9\n"
	if got, err := parseResident([]byte(text)); err != nil || got != (resident{256, 512}) {
		t.Errorf("got %+v, %v; want 256 and 512 MB", got, err)
	}
	for _, text := range []string{"", "VmRSS: 1 kB\n", "VmHWM: 1 kB\n", "VmHWM: 1 kB\nVmRSS: much kB\n"} {
		if got, err := parseResident([]byte(text)); err == nil {
			t.Errorf("parseResident(%q) = %+v, want an error", text, got)
		}
	}
}

func TestClosedFolder(t *testing.T) {
	open := t.TempDir()
	shut := filepath.Join(open, "shut")
	inside := filepath.Join(shut, "inside")
	for folder, mode := range map[string]os.FileMode{filepath.Dir(open): 0o755, open: 0o755} {
		if err := os.Chmod(folder, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(shut, 0o750), os.Mkdir(inside, 0o755)); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{inside: shut, shut: shut, open: "", filepath.Join(open, "no such"): filepath.Join(open, "no such")} {
		if got := closedFolder(dir); got != want {
			t.Errorf("closedFolder(%s) = %q, want %q", dir, got, want)
		}
	}
}
