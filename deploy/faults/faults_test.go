// Package faults runs the real node among peers, feeders, disks and name servers that misbehave, a
// scenario each, and wants the same of all: nothing accepted is lost, other queues go on, memory stays
// bounded.
//
// Faults of the disk and jumps of the clock are the kernel's as the node sees it: a tracer answers for
// it, or code in the page that the kernel gives each process to read the clock with.
package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carom/deploy/rig"
)

// mostMemory bounds the node's largest resident set: at rest it is about 30 MB.
const mostMemory = 200 << 20

// patience is how long a node on a busy machine may take for what should be a matter of a second.
const patience = time.Minute

// goodConfig is the queue that has to go on. It wants the port.
const goodConfig = `<domain good.test>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 2
</domain>
`

// badConfig is a queue whose peer misbehaves. It wants domain and port.
const badConfig = `<domain %s>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 2
    retry-after 1s
    retry-recipients-after 1s
    connect-timeout 5s
    smtp-greeting-timeout 5s
    data-send-timeout 2s
    smtp-data-termination-timeout 5s
</domain>
`

// scene is a node with an audit and a numbering of its messages.
type scene struct {
	audit *rig.Audit
	node  *rig.Node
	next  atomic.Uint64
}

// send hands over messages of a size to a domain, each on a connection of its own.
func (s *scene) send(t *testing.T, domain string, messages, size int) {
	t.Helper()
	for range messages {
		if err := s.try(t.Context(), domain, size); err != nil {
			t.Fatalf("a message to %s: %v", domain, err)
		}
	}
}

func (s *scene) try(ctx context.Context, domain string, size int) error {
	f, err := rig.Dial(ctx, s.node.SMTP)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	number := s.next.Add(1)
	return f.Send(rig.Message{Number: number, Size: size, Recipients: []string{rig.Address(number, 0, domain)}}, s.audit)
}

// arrived waits until receivers have taken so many recipients.
func (s *scene) arrived(t *testing.T, n int, what string) {
	t.Helper()
	rig.Await(t, patience, what, func(ctx context.Context) error {
		if err := s.node.Ended(ctx); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := s.audit.Counts().Arrived; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// settle lets the node finish everything, stops it and wants it all to fit.
func (s *scene) settle(t *testing.T) {
	t.Helper()
	if err := s.node.Empty(t.Context(), patience); err != nil {
		queues, _ := s.node.Queues(t.Context())
		t.Fatalf("%v; queues: %+v", err, queues)
	}
	s.checkMemory(t)
	s.node.Stop()
	if err := s.audit.ReadEvents(s.node.Events()); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.audit.Settle() {
		t.Error(p)
	}
}

func (s *scene) checkMemory(t *testing.T) {
	t.Helper()
	u, err := s.node.Usage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the node had %d MB resident at most", u.Peak>>20)
	if u.Peak > mostMemory && !rig.WithRace { // the race detector takes several times as much
		t.Errorf("the node had %d MB resident; want at most %d", u.Peak>>20, mostMemory>>20)
	}
}

// errCut ends a connection.
var errCut = errors.New("cut")

// stall says nothing until the connection ends.
func stall(conn net.Conn) error {
	_, _ = io.Copy(io.Discard, conn)
	return errCut
}

// drip writes the beginning of a reply, an octet a second, and never comes to its end.
func drip(conn net.Conn) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for octets := "451 "; ; octets = "a" {
		for i := range len(octets) {
			if _, err := io.WriteString(conn, octets[i:i+1]); err != nil {
				return err
			}
			<-tick.C
		}
	}
}

func cut(net.Conn) error { return errCut }

func garbage(conn net.Conn) error {
	_, _ = io.WriteString(conn, "\x00\xff\x16\x03\x01 2\r5\n0\r\n<html>\r\n\r\n999 what\r\n-1\r\n250\x80\r\n")
	return errCut
}

// longLine is a reply of 1 MB in one line.
func longLine(conn net.Conn) error {
	_, err := io.WriteString(conn, "451 4.3.0 "+strings.Repeat("x", 1<<20)+"\r\n")
	return err
}

// endless is a reply of many lines that has no last one.
func endless(conn net.Conn) error {
	lines := strings.Repeat("250-x\r\n", 1000)
	for {
		if _, err := io.WriteString(conn, lines); err != nil {
			return err
		}
	}
}

// deafToData wants the content and does not read it.
func deafToData(conn net.Conn) error {
	_, _ = io.WriteString(conn, "354 go ahead\r\n")
	reader, ok := conn.(*net.TCPConn)
	if !ok {
		return errCut
	}
	_ = reader.SetReadBuffer(4096) // the rest is the node's
	<-time.After(4 * time.Second)  // longer than data-send-timeout
	return errCut
}

// cutInData hangs up in the middle of the content.
func cutInData(conn net.Conn) error {
	_, _ = io.WriteString(conn, "354 go ahead\r\n")
	_, _ = io.CopyN(io.Discard, conn, 4096)
	return errCut
}

var manners = map[string]func(net.Conn) error{
	"stalls": stall, "drips": drip, "hangs up": cut, "talks garbage": garbage, "answers in 1 MB": longLine, "never ends": endless,
}

var steps = map[string]rig.Step{"greeting": rig.Greeting, "EHLO": rig.EHLO, "MAIL": rig.Mail, "RCPT": rig.Rcpt, "the final dot": rig.Dot}

// rude is a peer that misbehaves at one step until it is healed.
type rude struct {
	what, domain string
	receiver     *rig.Receiver
	healed       atomic.Bool
	met          atomic.Int64 // how often it has misbehaved
	size         int          // of its messages
}

func newRude(t *testing.T, audit *rig.Audit, number int, what string, at rig.Step, manner func(net.Conn) error) *rude {
	t.Helper()
	r := &rude{what: what, domain: fmt.Sprintf("bad%d.test", number), size: 2000}
	r.receiver = rig.NewReceiver(t, audit, func(step rig.Step, _ rig.Session, _ string) rig.Answer {
		switch {
		case r.healed.Load():
		case step == at:
			r.met.Add(1)
			return rig.Answer{Raw: manner}
		case step == rig.EHLO && at == rig.Data:
			return rig.Answer{Text: rig.WithoutChunking}
		}
		return rig.Answer{}
	})
	return r
}

// TestRudePeers has a queue for each way to misbehave at each step, all at once, beside one whose
// peer is well-mannered. Afterwards all peers come to their senses and must get their mail, once.
func TestRudePeers(t *testing.T) {
	s := &scene{audit: &rig.Audit{}}
	good := rig.NewReceiver(t, s.audit, nil)
	conf := fmt.Sprintf(goodConfig, good.Port())
	var peers []*rude
	add := func(what string, at rig.Step, manner func(net.Conn) error) *rude {
		r := newRude(t, s.audit, len(peers), what, at, manner)
		peers = append(peers, r)
		conf += fmt.Sprintf(badConfig, r.domain, r.receiver.Port())
		return r
	}
	for name, manner := range manners {
		for step, at := range steps {
			add(name+" at "+step, at, manner)
		}
	}
	add("stops reading in the content", rig.Data, deafToData).size = 8 << 20 // more than buffers hold
	add("hangs up in the content", rig.Data, cutInData).size = 1 << 20
	s.node = rig.NewNode(t, conf)
	if err := s.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	var wait sync.WaitGroup
	for _, p := range peers {
		wait.Go(func() {
			for range 2 {
				if err := s.try(t.Context(), p.domain, p.size); err != nil {
					t.Errorf("a message for the peer that %s: %v", p.what, err)
				}
			}
		})
	}
	wait.Wait()
	for _, p := range peers {
		rig.Await(t, patience, "the peer that "+p.what, func(context.Context) error {
			if p.met.Load() == 0 {
				return errors.New("was not met")
			}
			return nil
		})
	}
	s.send(t, "good.test", 50, 2000)
	s.arrived(t, 50, "the good peer's mail")
	s.checkMemory(t)
	for _, p := range peers {
		p.healed.Store(true)
		p.receiver.Hangup()
	}
	s.settle(t)
}
