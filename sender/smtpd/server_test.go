package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carom/sender/config"
)

// desk is an Intake that keeps what it is told.
type desk struct {
	suppressed map[string]bool // "tenant/address"
	accept     func(m *Message) error
	full       bool

	mu          sync.Mutex
	accepted    []*Message
	refused     []string
	connections []string // that were refused
}

func (d *desk) Local(address string) bool { return strings.HasSuffix(address, "@bounces.test") }

func (d *desk) Suppressed(tenant, address string) bool {
	return d.suppressed["/"+address] || d.suppressed[tenant+"/"+address]
}

func (d *desk) SelectVMTA(_ *config.Source, asked string, local netip.Addr) (vmta, pool string, r *RefusalError) {
	switch asked {
	case "", config.DefaultVMTA:
		return config.DefaultVMTA, "", nil
	case "local":
		return local.String(), "", nil
	case "vmta1":
		return asked, "", nil
	case "pool1":
		return "vmta2", asked, nil
	}
	return "", "", &RefusalError{550, [3]int{5, 5, 0}, "no virtual MTA " + asked}
}

func (d *desk) Room(octets int64) *RefusalError {
	if d.full {
		return &RefusalError{452, [3]int{4, 3, 1}, "insufficient system storage"}
	}
	return nil
}

func (d *desk) Accept(_ context.Context, m *Message) error {
	if d.accept != nil {
		if err := d.accept(m); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := *m
	kept.Content = bytes.Clone(m.Content) // it is the server's
	d.accepted = append(d.accepted, &kept)
	return nil
}

func (d *desk) Refused(_ *Message, recipient string, r *RefusalError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = append(d.refused, fmt.Sprintf("<%s> %d", recipient, r.Code))
}

func (d *desk) RefusedConnection(_ netip.Addr, _ string, r *RefusalError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.connections = append(d.connections, r.Error())
}

func (d *desk) messages() []*Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.accepted)
}

func (d *desk) refusals() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.refused)
}

// running is a server with one listener.
type running struct {
	*Server
	desk    *desk
	address string
	stop    context.CancelFunc
	done    chan error // what Run returned
}

// start runs a server on 127.0.0.1 with the configuration, which tune may change before it runs.
func start(t *testing.T, conf string, d *desk, tune func(*Server)) *running {
	t.Helper()
	c, _, err := config.Parse("test.conf", []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{
		Server: New(c, "mx.test", d, slog.New(slog.NewTextHandler(t.Output(), nil))),
		desk:   d, address: l.Addr().String(), done: make(chan error, 1),
	}
	if tune != nil {
		tune(r.Server)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.done <- r.Run(ctx, []Listener{{Listener: l, Settings: c.Listeners[0]}}) }()
	t.Cleanup(func() {
		cancel()
		r.wait(t)
	})
	return r
}

// wait waits until Run has returned.
func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err // for the next who waits
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not return")
	}
}

// feeder is a client that says exactly what it is told.
type feeder struct {
	t    *testing.T
	conn net.Conn
	in   *textproto.Reader
}

func (r *running) dial(t *testing.T) *feeder {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &feeder{t, conn, textproto.NewReader(bufio.NewReader(conn))}
}

// hello dials and introduces itself.
func (r *running) hello(t *testing.T) *feeder {
	t.Helper()
	f := r.dial(t)
	f.expect("220 mx.test")
	f.say("EHLO feeder.test", "250")
	return f
}

func (f *feeder) send(text string) {
	f.t.Helper()
	if _, err := f.conn.Write([]byte(text)); err != nil {
		f.t.Fatalf("send %q: %v", text, err)
	}
}

// expect reads one reply and compares its last line's beginning; "" wants the end of the
// connection.
func (f *feeder) expect(want string) {
	f.t.Helper()
	for {
		line, err := f.in.ReadLine()
		if want == "" {
			if err == nil {
				f.t.Fatalf("got %q, want the end of the connection", line)
			}
			return
		}
		if err != nil {
			f.t.Fatalf("want %q, got %v", want, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, want) {
			f.t.Fatalf("got %q, want %q", line, want)
		}
		return
	}
}

func (f *feeder) say(line, want string) {
	f.t.Helper()
	f.send(line + "\r\n")
	f.t.Helper()
	f.expect(want)
}

// converse plays a dialogue: lines that begin with "S: " are the beginnings of replies, all others
// are sent.
func (f *feeder) converse(dialogue string) {
	f.t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(dialogue), "\n") {
		line = strings.TrimLeft(line, "\t")
		if want, ok := strings.CutPrefix(line, "S: "); ok {
			f.expect(want)
		} else if line == "S:" {
			f.expect("")
		} else {
			f.send(line + "\r\n")
		}
	}
}

// mail hands over one message and wants the answer.
func (f *feeder) mail(content, want string) {
	f.t.Helper()
	f.say("MAIL FROM:<from@feeder.test>", "250")
	f.say("RCPT TO:<to@away.test>", "250")
	f.say("DATA", "354")
	f.send(content)
	f.say("\r\n.", want)
}

// eventually waits until claim holds.
func eventually(t *testing.T, what string, claim func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !claim(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
