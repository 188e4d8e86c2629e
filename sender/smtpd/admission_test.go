package smtpd

import (
	"crypto/tls"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carom/sender/config"
)

func TestSlots(t *testing.T) {
	c, _, err := config.Parse("test.conf", []byte(`total-max-smtp-in 5
<source-group a>
    reserved-smtp-in 2
    max-smtp-in 3
</source-group>
<source-group b>
    reserved-smtp-in 1
</source-group>`))
	if err != nil {
		t.Fatal(err)
	}
	s := newSlots(c)
	for i, step := range []struct {
		group string
		want  bool
	}{
		{"", true}, {"", true}, {"", false}, // three are reserved
		{"A", true}, {"a", true}, {"a", false}, // the third is not reserved for it
		{"b", true}, {"b", false},
	} {
		if got := s.take(step.group); got != step.want {
			t.Errorf("step %d, group %q: %t", i, step.group, got)
		}
	}
	s.giveBack("")
	if !s.take("a") {
		t.Error("no slot after one was given back")
	}
	s.giveBack("")
	if s.take("a") {
		t.Error("more than max-smtp-in")
	}
}

func TestSlotsAreAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, err := config.Parse("test.conf", []byte("total-max-smtp-in 1"))
		if err != nil {
			t.Fatal(err)
		}
		s := newSlots(c)
		s.take("")
		got := make(chan bool, 1)
		go func() { got <- s.await("", time.Minute, nil) }()
		synctest.Wait()
		if s.await("", time.Minute, nil) {
			t.Error("more wait than may be open")
		}
		s.giveBack("")
		if !<-got {
			t.Error("the slot was not given to who waits")
		}
		stopped := make(chan struct{})
		go func() { got <- s.await("", time.Minute, stopped) }()
		synctest.Wait()
		close(stopped)
		if <-got {
			t.Error("a slot after the stop")
		}
		if s.await("", time.Minute, nil) {
			t.Error("a slot after the timeout")
		}
	})
}

func TestAwaitSlot(t *testing.T) {
	s := start(t, open+"total-max-smtp-in 1\nsmtp-await-slot yes", &desk{}, nil)
	first := s.hello(t)
	second := s.dial(t)
	eventually(t, "the second waits", func() bool {
		s.slots.mu.Lock()
		defer s.slots.mu.Unlock()
		return s.slots.waiting == 1
	})
	third := s.dial(t)
	third.expect("421 4.3.2 too many connections")
	third.expect("")
	first.say("QUIT", "221")
	second.expect("220")
	fourth := s.dial(t)
	eventually(t, "the fourth waits", func() bool {
		s.slots.mu.Lock()
		defer s.slots.mu.Unlock()
		return s.slots.waiting == 1
	})
	s.stop()
	fourth.expect("421 4.3.2")
	second.expect("421 4.3.2")
}

func TestSourceGroup(t *testing.T) {
	s := start(t, open+"<source-group g>\nmax-smtp-in 1\n</source-group>\n<source 127.0.0.1>\nsource-group g\n</source>", &desk{}, nil)
	first := s.hello(t)
	s.dial(t).expect("421 4.3.2")
	first.say("QUIT", "221")
	eventually(t, "the slot is free", func() bool { return s.sessions() == 0 })
	s.hello(t)
}

func TestRoom(t *testing.T) {
	meminfo := func(available string) func() ([]byte, error) {
		return func() ([]byte, error) {
			return []byte("MemTotal:       1000 kB\nMemFree: 7 kB\nMemAvailable:    " + available + " kB\n"), nil
		}
	}
	for _, tc := range []struct {
		name, conf string
		full       bool
		available  string
		command    string
		want       string
	}{
		{"room", "", false, "150", "MAIL FROM:<a@b.test>", "250"},
		{"no room in the spool", "", true, "150", "MAIL FROM:<a@b.test>", "452 4.3.1"},
		{"memory is used up", "", false, "90", "MAIL FROM:<a@b.test>", "452 4.3.2 Server resources temporarily exhausted"},
		{"more memory may be used", "max-memory-usage-percent 95", false, "90", "MAIL FROM:<a@b.test>", "250"},
		{"memory does not count", "max-memory-usage-percent 100", false, "1", "MAIL FROM:<a@b.test>", "250"},
		{"nobody knows", "", false, "x", "MAIL FROM:<a@b.test>", "250"},
		{"too much for the buffers", "memory-pool-buffer-size 1m", false, "500", "MAIL FROM:<a@b.test> SIZE=1048576", "552 5.3.4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, open+tc.conf, &desk{full: tc.full}, func(s *Server) { s.memory.read = meminfo(tc.available) }).hello(t)
			f.say(tc.command, tc.want)
		})
	}
}

// One message must not take the memory of all others; who comes when it is taken comes again.
func TestBuffersAreExhausted(t *testing.T) {
	release := make(chan struct{})
	var waiting atomic.Int32
	d := &desk{accept: func(m *Message) error {
		if waiting.Add(1) == 1 {
			<-release
		}
		return nil
	}}
	s := start(t, open+"memory-pool-buffer-size 1m", d, nil)
	f, g := s.hello(t), s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	f.say("RCPT TO:<a@away.test>", "250")
	f.say("DATA", "354")
	f.send(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 2000) + ".\r\n")
	eventually(t, "the message is being accepted", func() bool { return waiting.Load() == 1 })
	g.say("MAIL FROM:<a@b.test> SIZE=900000", "452 4.3.2")
	g.mail(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 9000), "452 4.3.2")
	g.mail("A: b\r\n\r\n", "250")
	close(release)
	f.expect("250")
	g.mail(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 2500), "250")
	if used := s.buffers.used.Load(); used != 0 {
		t.Errorf("%d octets are still lent", used)
	}
}

func TestRecipientsAndErrors(t *testing.T) {
	d := &desk{}
	f := start(t, open+"<source 127.0.0.1>\nmax-rcpt-per-message 1\ntoo-many-rcpts-fails-message yes\n</source>", d, nil).hello(t)
	f.converse("MAIL FROM:<a@b.test>\nS: 250\nRCPT TO:<a@away.test>\nS: 250\nRCPT TO:<b@away.test>\nS: 250\nDATA\nS: 354\n.\nS: 550 5.5.3\nNOOP\nS: 250")
	f.mail("", "250")
	if n := len(d.messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
	f = start(t, "relay-debug yes", &desk{}, nil).hello(t)
	f.converse("MAIL FROM:<a@b.test>\nS: 250\nRCPT TO:<a@away.test>\nS: 450 4.7.1 relaying denied")
	f = start(t, open+"<source 127.0.0.1>\ndisconnect-on-transient-error yes\n</source>", &desk{full: true}, nil).hello(t)
	f.say("MAIL FROM:<a@b.test>", "")
	conf, _ := encrypted(t, "disconnect-on-transient-error yes\nmax-rcpt-per-message 1")
	f = start(t, conf, &desk{}, nil).hello(t)
	f.startTLS(&tls.Config{})
	f.converse("EHLO a\nS: 250\nMAIL FROM:<a@b.test>\nS: 250\nRCPT TO:<a@away.test>\nS: 250\nRCPT TO:<b@away.test>\nS:")
}
