package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/smtpc"
)

// Test421IsSurvived: without smtp-421-means-mx-unavailable the connection is used again, if the peer
// lets us.
func Test421IsSurvived(t *testing.T) {
	var calls atomic.Int32
	p := newPeer(t, func(command string) string {
		if strings.HasPrefix(command, "RCPT") && calls.Add(1) == 1 {
			return "421-4.7.0 not\r\n421 4.7.0 now"
		}
		return ""
	})
	p.stays421.Store(true)
	b := newBench(t, to(p)+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.start()
	events := b.events(2)
	if events[0].Kind != event.Deferred || events[1].Kind != event.Delivered || events[0].ConnectionID != events[1].ConnectionID {
		t.Errorf("%s, then %s over connection %s and %s", events[0].Kind, events[1].Kind, events[0].ConnectionID, events[1].ConnectionID)
	}
}

// TestConnectionIsHandedOver: a session without work gives its connection to the queue of another
// domain with the same host.
func TestConnectionIsHandedOver(t *testing.T) {
	host := mx(1, "mx.provider.test", "127.0.0.1")
	for name, tc := range map[string]struct {
		text string
		want int
	}{
		"same way":                     {"", 1},
		"another way":                  {"<domain b.test>\nignore-dsn yes\n</domain>\n", 2},
		"the connection did its share": {"<domain b.test>\nmax-msg-per-connection 1\n</domain>\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+"<domain *>\nconnection-idle-timeout 1m\n</domain>\n"+tc.text, routes{"a.test": {host}, "b.test": {host}})
			b.put(time.Hour, "ann@a.test")
			b.start()
			first := b.events(1)[0]
			waitFor(t, func() bool {
				b.agent.pool.mu.Lock()
				defer b.agent.pool.mu.Unlock()
				return len(b.agent.pool.offers) == 1
			})
			b.put(time.Hour, "bob@b.test")
			second := b.events(2)[1]
			if p.mu.Lock(); p.conns != tc.want {
				t.Errorf("%d connections, want %d", p.conns, tc.want)
			}
			p.mu.Unlock()
			if same := first.ConnectionID == second.ConnectionID; same != (tc.want == 1) || second.Queue != "b.test/{default}" {
				t.Errorf("the same connection: %v, queue %s", same, second.Queue)
			}
			waitFor(t, func() bool { // the slots are counted right, whoever has the connection
				n := b.agent.Throttle.Connections(limits.Key{Provider: "provider.test", Source: "127.0.0.1"})
				return n == uint32(tc.want) || name == "the connection did its share" && n <= 1
			})
		})
	}
}

func TestErrorsPerConnection(t *testing.T) {
	p := newPeer(t, always(map[string]string{"RCPT": "550 5.1.1 no such user"}))
	b := newBench(t, to(p)+"<domain *>\nmax-errors-per-connection 2\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 5 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	b.events(5)
	if p.mu.Lock(); p.conns != 3 {
		t.Errorf("%d connections for five errors, want 3", p.conns)
	}
	p.mu.Unlock()
}

func TestConnectionAttempts(t *testing.T) {
	hosts := make([]resolve.Host, 5)
	for i := range hosts {
		hosts[i] = mx(uint16(i), fmt.Sprintf("mx%d.a.test", i), "127.0.0.1")
	}
	var tried atomic.Int32
	p := newPeer(t, func(command string) string {
		if command == "CONNECT" {
			tried.Add(1)
			return "450 4.3.2 not now"
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\nmx-connection-attempts 3\n</domain>\n", routes{"a.test": hosts})
	b.put(time.Hour, "ann@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.QueueDeferred || e.MXHost != "mx2.a.test" || tried.Load() != 3 {
		t.Errorf("%s at %s after %d attempts", e.Kind, e.MXHost, tried.Load())
	}
}

// TestOutboundAuth: the session logs in where the queue has a name and a password.
func TestOutboundAuth(t *testing.T) {
	for text, want := range map[string]string{
		"auth-username me\nauth-password pw\nuse-unencrypted-plain-auth yes": "AUTH PLAIN AG1lAHB3",
		"auth-username me\nauth-password pw":                                 "", // never in the clear
		"auth-username me\nuse-unencrypted-plain-auth yes":                   "", // both are needed
	} {
		var login atomic.Value
		p := newPeer(t, func(command string) string {
			switch {
			case strings.HasPrefix(command, "EHLO"):
				return "250-peer.test\r\n250 AUTH PLAIN"
			case strings.HasPrefix(command, "AUTH"):
				login.Store(command)
				return "235 2.7.0 welcome"
			}
			return ""
		})
		b := newBench(t, to(p)+"<domain *>\n"+text+"\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
		b.put(time.Hour, "ann@a.test")
		b.start()
		e := b.events(1)[0]
		got, _ := login.Load().(string)
		if got != want || want != "" && e.Kind != event.Delivered {
			t.Errorf("%q: said %q, want %q; %s %s", text, got, want, e.Kind, e.Reply)
		}
	}
}

// TestSourceDisabledAtTheGreeting: the next attempt comes from another address at once.
func TestSourceDisabledAtTheGreeting(t *testing.T) {
	var conns atomic.Int32
	p := newPeer(t, func(command string) string {
		if command == "CONNECT" && conns.Add(1) == 1 {
			return "554 5.7.1 your address is blocked"
		}
		return ""
	})
	const vmta = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta+fmt.Sprintf(patterns, "reply /blocked/ disable-source-ip,reenable-after=1h", "retry-after 3h"), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.putBy("v", time.Hour*24, "ann@a.test")
	b.start()
	events := b.events(2)
	if events[0].Kind != event.QueueDeferred || events[1].Kind != event.Delivered || events[0].SourceIP == events[1].SourceIP {
		t.Errorf("%s from %s, then %s from %s", events[0].Kind, events[0].SourceIP, events[1].Kind, events[1].SourceIP)
	}
}

// TestPhasesAreTimed: the parts of a transfer make the whole.
func TestPhasesAreTimed(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	e := b.events(1)[0]
	parts := e.Mail + e.Rcpt + e.Data + e.Body + e.FinalDot
	if e.Mail <= 0 || e.FinalDot <= 0 || e.Connect <= 0 || (e.Transfer-parts).Abs() > 5*time.Microsecond { // events hold microseconds
		t.Errorf("%v, %v, %v, %v and %v are not %v; connect %v", e.Mail, e.Rcpt, e.Data, e.Body, e.FinalDot, e.Transfer, e.Connect)
	}
}

// TestStoppedAccounting: a message whose forerunner cannot be recorded is held back, and the queue
// waits.
func TestStoppedAccounting(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.log.fail = errors.New("disk full")
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.start()
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && s[0].Sessions == 0 && s[0].Recipients == 1 && s[0].DeferredWhy == "accounting has stopped"
	})
	if n := len(p.received()); n != 1 {
		t.Errorf("%d messages were taken", n)
	}
}

// TestNoQuitUnrecorded: a connection whose last outcome cannot be recorded ends without QUIT, which would
// tell the peer that it is.
func TestNoQuitUnrecorded(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.log.fail = errors.New("disk full")
	b.put(time.Hour, "ann@a.test")
	b.start()
	waitFor(t, func() bool { return len(p.received()) == 1 && len(b.manager.Statuses()) == 0 })
	if n := p.quits.Load(); n != 0 {
		t.Errorf("%d QUIT", n)
	}
}

// TestNoCancelDuringTransfer: without allow-cancel-during-transfer a stop never cuts a transfer; with
// it, only after a while.
func TestNoCancelDuringTransfer(t *testing.T) {
	for text, want := range map[string]bool{"": true, "allow-cancel-during-transfer no\n": false} {
		synctest.Test(t, func(t *testing.T) {
			cut := make(chan struct{}, 1)
			s := &session{way: &way{}}
			c, _, err := config.Parse("test", []byte("<domain *>\n"+text+"</domain>\n"))
			if err != nil {
				t.Fatal(err)
			}
			s.way.settings = c.Domain("a.test", "")
			ctx, cancel := context.WithCancel(t.Context())
			s.watchWith(ctx, func() { cut <- struct{}{} })
			cancel()
			time.Sleep(stopGrace - time.Millisecond)
			synctest.Wait()
			early := len(cut)
			time.Sleep(time.Hour)
			synctest.Wait()
			if early != 0 || (len(cut) == 1) != want {
				t.Errorf("%q: cut %d times before stopGrace, %d times after", text, early, len(cut))
			}
		})
	}
}

func TestTransport(t *testing.T) {
	read := func(text string) (smtpc.Config, [32]byte) {
		c, _, err := config.Parse("test", []byte("<domain a.test>\n"+text+"\n</domain>\n"))
		if err != nil {
			t.Fatal(err)
		}
		return transport(c.Domain("a.test", ""))
	}
	plain, sum := read("")
	if c := plain.TLSConfig; plain.TLS != smtpc.TLSOpportunistic || c.MinVersion != tls.VersionTLS11 || c.MaxVersion != tls.VersionTLS13 || !c.InsecureSkipVerify || !plain.FullHandshakes || !plain.Survive421 || !plain.PIXWorkaround {
		t.Errorf("defaults %+v, TLS %x to %x", plain, c.MinVersion, c.MaxVersion)
	}
	for text, ok := range map[string]func(c smtpc.Config) bool{
		"smtp-tls-allow-tlsv1 yes":               func(c smtpc.Config) bool { return c.TLSConfig.MinVersion == tls.VersionTLS10 },
		"smtp-tls-allow-tlsv1.1 no":              func(c smtpc.Config) bool { return c.TLSConfig.MinVersion == tls.VersionTLS12 },
		"smtp-tls-allow-tlsv1.2 no":              func(c smtpc.Config) bool { return c.TLSConfig.MinVersion == tls.VersionTLS13 },
		"smtp-tls-allow-tlsv1.3 no":              func(c smtpc.Config) bool { return c.TLSConfig.MaxVersion == tls.VersionTLS12 },
		"smtp-tls-ciphers AES128-SHA":            func(c smtpc.Config) bool { return len(c.TLSConfig.CipherSuites) == 1 },
		"require-starttls yes":                   func(c smtpc.Config) bool { return c.TLS == smtpc.TLSRequired },
		"use-starttls no":                        func(c smtpc.Config) bool { return c.TLS == smtpc.TLSOff },
		"reuse-ssl-session yes":                  func(c smtpc.Config) bool { return !c.FullHandshakes },
		"pix-bug-workaround no":                  func(c smtpc.Config) bool { return !c.PIXWorkaround },
		"ignore-dsn yes":                         func(c smtpc.Config) bool { return c.IgnoreDSN },
		"smtp-421-means-mx-unavailable yes":      func(c smtpc.Config) bool { return !c.Survive421 },
		"auth-username a\nauth-password b":       func(c smtpc.Config) bool { return c.Credentials.Password == "b" },
		"smtp-multiple-line-response-timeout 1s": func(c smtpc.Config) bool { return c.Timeouts.Lines == time.Second },
	} {
		c, other := read(text)
		if !ok(c) || other == sum {
			t.Errorf("%s: %+v, the same sum: %v", text, c, other == sum)
		}
	}
	off, _ := read("smtp-tls-allow-tlsv1.1 no\nsmtp-tls-allow-tlsv1.2 no\nsmtp-tls-allow-tlsv1.3 no")
	if off.TLS != smtpc.TLSOff {
		t.Errorf("TLS without a version: %v", off.TLS)
	}
}

func TestPolicy(t *testing.T) {
	b := newBench(t, "<domain a.test>\nqueue-priority 80\nallow-priority-interruption-during-transfer yes\nretry-upon-new-mail yes\nmax-smtp-out 7\n</domain>\n<domain b.test>\nallow-priority-interruption no\nallow-priority-interruption-during-transfer yes\nmax-smtp-out 0\n</domain>\n", names{})
	for domain, want := range map[string]queue.Policy{
		"a.test": {MaxSessions: 7, Group: config.DefaultVMTA, Priority: 80, Interruptible: true, InterruptibleInTransfer: true, RetryUponNewMail: true},
		"b.test": {MaxSessions: maxSessions, Group: config.DefaultVMTA, Priority: 50},
	} {
		b.put(time.Hour, "ann@"+domain)
		if got := b.agent.Policy(b.manager.Queue(queue.Name{Domain: domain, VMTA: config.DefaultVMTA})); got != want {
			t.Errorf("%s: %+v, want %+v", domain, got, want)
		}
	}
}

// TestOutcomeBeforeTheNextEnd: no final dot leaves before the outcome of the message before is
// durable, while the envelope and the body do.
func TestOutcomeBeforeTheNextEnd(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	secondData := make(chan struct{})
	p := newPeer(t, func(command string) string {
		mu.Lock()
		defer mu.Unlock()
		verb, _, _ := strings.Cut(command, " ")
		if seen = append(seen, verb); verb == "DATA" && slices.Contains(seen[:len(seen)-1], "DATA") {
			close(secondData)
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	release := make(chan struct{})
	b.log.gate = func() { <-release }
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.start()
	<-secondData // the second envelope is out although the first outcome is not durable
	mu.Lock()
	if n := len(slices.DeleteFunc(slices.Clone(seen), func(s string) bool { return s != "DOT" })); n != 1 {
		t.Errorf("%d final dots before the first outcome is durable: %v", n, seen)
	}
	mu.Unlock()
	if n := len(p.received()); n != 1 {
		t.Errorf("%d messages were taken before the first outcome is durable", n)
	}
	close(release)
	b.events(2)
	waitFor(t, func() bool { return len(p.received()) == 2 })
}

// TestInterrupted: a transfer for a queue of lower priority is cut before its end, and goes on later.
func TestInterrupted(t *testing.T) {
	atData, interrupted := make(chan struct{}, 10), make(chan struct{})
	p := newPeer(t, func(command string) string {
		if strings.HasPrefix(command, "RCPT") {
			select {
			case atData <- struct{}{}:
			default:
			}
			<-interrupted
		}
		return ""
	})
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA})
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); b.agent.Run(ctx, q) }()
	<-atData
	cancel(queue.ErrInterrupted)
	<-ended
	close(interrupted)
	if s := q.Status(time.Now()); s.Recipients != 1 || len(p.received()) != 0 {
		t.Errorf("%d recipients wait, %d messages were taken", s.Recipients, len(p.received()))
	}
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.Attempt != 1 {
		t.Errorf("%s at attempt %d", e.Kind, e.Attempt)
	}
}
