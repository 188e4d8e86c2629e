package faults

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"carom/deploy/rig"
)

// begin opens a session of a feeder and sends the first half of a message's content.
func (s *scene) begin(t *testing.T) (*rig.Feeder, rig.Message, []byte) {
	t.Helper()
	f, err := rig.Dial(t.Context(), s.node.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	number := s.next.Add(1)
	m := rig.Message{Number: number, Size: 2000, Recipients: []string{rig.Address(number, 0, "good.test")}}
	if err := f.Begin("from@rig.test", m.Recipients); err != nil {
		t.Fatal(err)
	}
	s.audit.Offered(m)
	content := bytes.ReplaceAll(m.Content(), []byte("\r\n."), []byte("\r\n..")) // as it goes over the wire
	if _, err := f.Conn.Write(content[:len(content)/2]); err != nil {
		t.Fatal(err)
	}
	return f, m, content[len(content)/2:]
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{audit: &rig.Audit{}}
	s.node = rig.NewNode(t, fmt.Sprintf(goodConfig, rig.NewReceiver(t, s.audit, nil).Port()))
	if err := s.node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSlowFeeders has many feeders that take their time in the middle of a message. The others go on,
// and in the end the slow ones' mail is delivered too.
func TestSlowFeeders(t *testing.T) {
	s := newScene(t)
	const (
		slow   = 30
		octets = 40
	)
	type half struct {
		f    *rig.Feeder
		m    rig.Message
		rest []byte
	}
	halves := make([]half, 0, slow)
	for range slow {
		f, m, rest := s.begin(t)
		halves = append(halves, half{f, m, rest})
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range octets { // one by one, while others send
		<-tick.C
		for _, h := range halves {
			if _, err := h.f.Conn.Write(h.rest[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		s.send(t, "good.test", 1, 2000)
	}
	s.arrived(t, octets, "mail of feeders that are not slow")
	for _, h := range halves {
		if _, err := h.f.Conn.Write(append(h.rest[octets:], ".\r\n"...)); err != nil {
			t.Fatal(err)
		}
		if err := h.f.Answer("final dot", 250); err != nil {
			t.Fatal(err)
		}
		s.audit.Accepted(h.m.Number)
	}
	s.settle(t)
}

// TestFeederVanishes cuts the connection in the middle of a message, and right before its end: no
// part of it may count as a message.
func TestFeederVanishes(t *testing.T) {
	s := newScene(t)
	for i := range 40 {
		f, m, rest := s.begin(t)
		if i%2 == 1 { // all but the end of data
			if _, err := f.Conn.Write(rest); err != nil {
				t.Fatal(err)
			}
		}
		_ = f.Close()
		s.audit.Refused(m.Number) // it must not come
	}
	s.send(t, "good.test", 20, 2000)
	s.settle(t)
	if c := s.audit.Counts(); c.Received != 20 || c.Arrived != 20 {
		t.Errorf("%d recipients were received and %d arrived; want the 20 of whole messages", c.Received, c.Arrived)
	}
}
