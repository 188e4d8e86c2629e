package deliver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/sender/config"
	"carom/sender/resolve"
	"carom/sender/smtpc"
	"carom/sender/spool"
)

func testLogger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func always(answers map[string]string) func(string) string {
	return func(command string) string {
		for prefix, answer := range answers {
			if strings.HasPrefix(command, prefix) {
				return answer
			}
		}
		return ""
	}
}

// to is the configuration that sends everything to a peer.
func to(p *peer) string { return fmt.Sprintf("default-smtp-port %d\n", p.addr.Port()) }

func TestOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name      string
		answers   map[string]string
		kind      event.Kind
		phase     event.Phase
		category  taxonomy.Category
		dimension taxonomy.Dimension
		held      bool // the queue waits before it tries again
	}{
		{name: "delivered", kind: event.Delivered, phase: event.PhaseFinalDot, category: taxonomy.Delivered, dimension: taxonomy.OK},
		{
			name: "unknown user", answers: map[string]string{"RCPT": "550 5.1.1 no such user"},
			kind: event.Bounced, phase: event.PhaseRcpt, category: taxonomy.BadMailbox, dimension: taxonomy.User,
		},
		{
			name: "greylisted", answers: map[string]string{"RCPT": "451 4.7.1 Greylisted, try again later"},
			kind: event.Deferred, phase: event.PhaseRcpt, category: taxonomy.Greylisted, dimension: taxonomy.Greylist,
		},
		{
			name: "refused for content after the data", answers: map[string]string{"DOT": "554 5.7.1 message rejected as spam"},
			kind: event.Bounced, phase: event.PhaseFinalDot, category: taxonomy.SpamContent, dimension: taxonomy.Content,
		},
		{
			name: "rate limit with a permanent code is no bounce", answers: map[string]string{"MAIL": "550 5.7.1 rate limit exceeded, too many messages from your IP, slow down"},
			kind: event.Deferred, phase: event.PhaseMail, category: taxonomy.RateLimited, dimension: taxonomy.Rate,
		},
		{
			name: "too many connections at the greeting", answers: map[string]string{"CONNECT": "421 4.7.0 too many connections from your IP"},
			kind: event.QueueDeferred, phase: event.PhaseGreeting, category: taxonomy.RateLimited, dimension: taxonomy.Connections, held: true,
		},
		{
			name: "hung up at the greeting", answers: map[string]string{"CONNECT": "close"},
			kind: event.QueueDeferred, phase: event.PhaseGreeting, category: taxonomy.Connection, dimension: taxonomy.Unavailable, held: true,
		},
		{
			name: "hung up at the first MAIL", answers: map[string]string{"MAIL": "close"},
			kind: event.QueueDeferred, phase: event.PhaseMail, category: taxonomy.Connection, dimension: taxonomy.Unavailable, held: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(tc.answers))
			b := newBench(t, to(p), names{mx: "mx1.google.com", addr: p.addr.Addr()})
			id := b.put(time.Hour, "ann@a.test")
			b.start()
			e := b.events(1)[0]
			if e.Kind != tc.kind || e.Phase != tc.phase || e.Category != tc.category || e.Dimension != tc.dimension {
				t.Errorf("event %s, phase %s, category %s, dimension %s (%s); want %s, %s, %s, %s", e.Kind, e.Phase, e.Category, e.Dimension, e.Reply, tc.kind, tc.phase, tc.category, tc.dimension)
			}
			if e.Provider != "google" || e.Source != "127.0.0.1" || e.Queue != "a.test/{default}" || e.MXHost != "mx1.google.com" {
				t.Errorf("provider %q, source %q, queue %q, host %q", e.Provider, e.Source, e.Queue, e.MXHost)
			}
			if e.Kind != event.QueueDeferred && (e.MessageID != id || e.RecipientKey != "key of ann@a.test" || e.Tenant != "shop" || e.Attempt != 1) {
				t.Errorf("message %s, key %q, tenant %q, attempt %d", e.MessageID, e.RecipientKey, e.Tenant, e.Attempt)
			}
			waitFor(t, func() bool {
				for _, s := range b.manager.Statuses() {
					return s.Recipients == 1 && s.Sessions == 0 && s.DeferredUntil.IsZero() != tc.held
				}
				return tc.kind.Final()
			})
		})
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the expected state did not come about")
		}
	}
}

func TestNoWayToTheDomain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		err      error
		kind     event.Kind
		category taxonomy.Category
		enhanced string
	}{
		{"no such domain", &resolve.Error{Name: "a.test", Err: resolve.ErrNotFound}, event.Bounced, taxonomy.BadDomain, "5.1.2"},
		{"null MX", &resolve.Error{Name: "a.test", Err: resolve.ErrNullMX}, event.Bounced, taxonomy.BadDomain, "5.1.10"},
		{"no answer", &resolve.Error{Name: "a.test", Err: resolve.ErrUnavailable}, event.QueueDeferred, taxonomy.DNSFailure, "4.4.3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, "", names{err: tc.err})
			b.put(time.Hour, "ann@a.test")
			b.start()
			e := b.events(1)[0]
			if e.Kind != tc.kind || e.Category != tc.category || e.Enhanced != tc.enhanced || e.Phase != event.PhaseResolve || e.Provider != "a.test" {
				t.Errorf("event %s, category %s, status %q, phase %s, provider %q", e.Kind, e.Category, e.Enhanced, e.Phase, e.Provider)
			}
		})
	}
}

func TestPartialRejection(t *testing.T) {
	p := newPeer(t, always(map[string]string{"RCPT TO:<bob@": "550 5.1.1 no such user", "RCPT TO:<cid@": "452 4.2.2 mailbox full"}))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test", "bob@a.test", "cid@a.test")
	b.start()
	events := b.events(3)
	want := []event.Kind{event.Delivered, event.Bounced, event.Deferred}
	for i, e := range events {
		if e.Kind != want[i] || e.RecipientIdx != uint32(i) {
			t.Errorf("recipient %d: %s, want %s", e.RecipientIdx, e.Kind, want[i])
		}
	}
	waitFor(t, func() bool {
		statuses := b.manager.Statuses()
		return len(statuses) == 1 && statuses[0].Recipients == 1 && statuses[0].Due == 0
	})
	if got := p.received(); len(got) != 1 || strings.Contains(got[0], correlate.Field) {
		t.Errorf("one transaction without a reference was expected, got %q", got)
	}
}

func TestRetryAfterADeferral(t *testing.T) {
	var calls atomic.Int32
	p := newPeer(t, func(command string) string {
		if strings.HasPrefix(command, "RCPT") && calls.Add(1) < 3 {
			return "451 4.3.0 not now"
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\nretry-recipients-after 0s\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	for i, e := range b.events(3) {
		if e.Attempt != uint32(i+1) || (e.Kind == event.Delivered) != (i == 2) {
			t.Errorf("event %d: attempt %d, %s", i, e.Attempt, e.Kind)
		}
	}
	waitFor(t, func() bool { return b.spool.Stats().Messages == 0 })
}

func TestExpiredSuppressedDiscarded(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain gone.test>\ntype discard\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.suppressed["ann@a.test"] = true
	b.put(time.Hour, "ann@a.test", "bob@a.test")
	b.put(-time.Second, "cid@b.test")
	b.put(time.Hour, "dan@gone.test")
	b.start()
	got := map[string]event.Kind{}
	for _, e := range b.events(4) {
		got[e.Recipient] = e.Kind
	}
	for recipient, want := range map[string]event.Kind{"ann@a.test": event.Suppressed, "bob@a.test": event.Delivered, "cid@b.test": event.Expired, "dan@gone.test": event.Discarded} {
		if got[recipient] != want {
			t.Errorf("%s: %s, want %s", recipient, got[recipient], want)
		}
	}
	if n := len(p.received()); n != 1 {
		t.Errorf("%d messages were sent, want 1", n)
	}
}

func TestReferenceAndSignature(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"domain-key sel,shop.test,"+file+"\n<domain *>\ndkim-sign yes\nbounce-domain bounce.test\n</domain>\n",
		names{mx: "mx.a.test", addr: p.addr.Addr()})
	id := b.put(time.Hour, "ann@a.test", "bob@a.test")
	b.start()
	events := b.events(2)
	if d := events[0].DKIMDomains; len(d) != 1 || d[0] != "shop.test" {
		t.Errorf("signed by %v", d)
	}
	messages := p.received()
	if len(messages) != 2 {
		t.Fatalf("%d transactions, want one a recipient", len(messages))
	}
	for _, m := range messages {
		_, rest, _ := strings.Cut(m, "MAIL FROM:<")
		from, rest, _ := strings.Cut(rest, ">")
		_, rest, _ = strings.Cut(rest, "RCPT TO:<")
		recipient, rest, _ := strings.Cut(rest, ">")
		token, ok := correlate.FromReturnPath(from)
		ref, err := b.keys.Verify(token, time.Now())
		if !ok || err != nil || ref.MessageID != id || !ref.Matches(recipient) || !strings.HasSuffix(from, "@bounce.test") {
			t.Errorf("return path %q of %s: %+v, %v", from, recipient, ref, err)
		}
		if !strings.Contains(rest, correlate.Field+": "+token+"\n") || !strings.Contains(rest, "DKIM-Signature:") || !strings.Contains(rest, "\n..text\n") {
			t.Errorf("message lacks reference, signature or dot-stuffing:\n%s", rest)
		}
	}
}

// TestPeerWithoutBDAT: a peer that offers CHUNKING and does not know BDAT gets the message by DATA,
// and is not asked again.
func TestPeerWithoutBDAT(t *testing.T) {
	var chunks atomic.Int32
	p := newPeer(t, func(command string) string {
		switch {
		case strings.HasPrefix(command, "EHLO"):
			return "250-peer.test\r\n250-PIPELINING\r\n250 CHUNKING"
		case strings.HasPrefix(command, "BDAT"):
			chunks.Add(1)
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.start()
	for _, e := range b.events(2) {
		if e.Kind != event.Delivered || e.Attempt != 1 {
			t.Errorf("attempt %d: %s (%s), want delivered at the first", e.Attempt, e.Kind, e.Reply)
		}
	}
	if chunks.Load() != 1 || len(p.received()) != 2 {
		t.Errorf("%d BDAT commands and %d messages, want 1 and 2", chunks.Load(), len(p.received()))
	}
}

func TestNotify(t *testing.T) {
	for value, want := range map[string]string{"": "", "never": "NEVER", "SUCCESS,failure": "SUCCESS,FAILURE", "DELAY": "DELAY", "x": ""} {
		if got := notify(value).String(); got != want {
			t.Errorf("notify(%q) = %q, want %q", value, got, want)
		}
	}
}

func TestMessagesPerConnection(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nmax-msg-per-connection 2\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 5 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	for _, e := range b.events(5) {
		if e.MessageOnConn < 1 || e.MessageOnConn > 2 {
			t.Errorf("message %d on its connection", e.MessageOnConn)
		}
	}
	if p.mu.Lock(); p.conns != 3 {
		t.Errorf("%d connections, want 3", p.conns)
	}
	p.mu.Unlock()
}

// TestMessagesPerConnectionOfOneMessage: transactions count, not items of the queue.
func TestMessagesPerConnectionOfOneMessage(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nbounce-domain bounce.test\nmax-msg-per-connection 2\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test", "bob@a.test", "cid@a.test", "dan@a.test", "eve@a.test")
	b.start()
	for _, e := range b.events(5) {
		if e.Kind != event.Delivered || e.MessageOnConn < 1 || e.MessageOnConn > 2 {
			t.Errorf("%s as message %d on its connection", e.Kind, e.MessageOnConn)
		}
	}
	waitFor(t, func() bool { return b.spool.Stats().Messages == 0 })
}

// TestNoConnectionWithoutAPermit: what waits for max-msg-rate opens no connection.
func TestNoConnectionWithoutAPermit(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nmax-msg-rate 1/h\nconnection-idle-timeout 1m\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@a.test")
	b.start()
	b.events(1)
	waitFor(t, func() bool {
		return b.agent.Throttle.Connections(limits.Key{Provider: "a.test", Source: "127.0.0.1"}) <= 1 && !b.manager.Statuses()[0].DeferredUntil.IsZero()
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns != 1 {
		t.Errorf("%d connections for one message an hour", p.conns)
	}
}

// TestWaitingForARateExpires: bounce-after counts while a message waits for its turn.
func TestWaitingForARateExpires(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nmax-msg-rate 1/h\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	b.events(1)
	b.put(200*time.Millisecond, "bob@a.test")
	if e := b.events(2)[1]; e.Kind != event.Expired || e.Recipient != "bob@a.test" {
		t.Errorf("%s: %s, want bob expired", e.Recipient, e.Kind)
	}
}

// faultyMail fails to give a body for the n-th time, counted from 0.
type faultyMail struct {
	Mail
	n     int32
	calls atomic.Int32
}

func (m *faultyMail) Read(id event.ID) (*spool.Envelope, []byte, error) {
	if m.calls.Add(1) > m.n {
		return nil, nil, errors.New("bad sector")
	}
	return m.Mail.Read(id)
}

// TestSuppressedAndExpiredNeedNoBody: what ends without an attempt ends although the body cannot
// be read, and takes no other recipient with it.
func TestSuppressedAndExpiredNeedNoBody(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.agent.Mail = &faultyMail{Mail: b.spool, n: 1}
	b.suppressed["ann@a.test"] = true
	b.put(time.Hour, "ann@a.test", "bob@a.test")
	b.put(-time.Second, "cid@b.test")
	b.start()
	got := map[string]event.Kind{}
	for _, e := range b.events(3) {
		got[e.Recipient] = e.Kind
	}
	if got["ann@a.test"] != event.Suppressed || got["bob@a.test"] != event.Delivered || got["cid@b.test"] != event.Expired {
		t.Errorf("outcomes %v", got)
	}
}

// hosts answers for some names and fails for others.
type hosts map[string]error

func (h hosts) Route(context.Context, string) (resolve.Route, error) { return resolve.Route{}, nil }

func (h hosts) LookupHost(_ context.Context, name string) ([]netip.Addr, error) {
	if err := h[name]; err != nil {
		return nil, err
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func TestSMTPHosts(t *testing.T) {
	down := &resolve.Error{Name: "x", Err: resolve.ErrUnavailable}
	gone := &resolve.Error{Name: "y", Err: resolve.ErrNotFound}
	b := newBench(t, "<domain a.test>\nsmtp-hosts h1.test,h2.test;h3.test\n</domain>\n", hosts{})
	settings := b.agent.Config.Domain("a.test", config.DefaultVMTA)
	first := map[string]bool{}
	for range 100 {
		s := &session{Agent: b.agent, way: &way{settings: settings}}
		f, err := s.find(t.Context(), "a.test")
		targets := f.targets
		if err != nil || len(targets) != 3 || targets[2].name != "h3.test" {
			t.Fatalf("targets %v, %v", targets, err)
		}
		first[targets[0].name] = true
	}
	if len(first) != 2 {
		t.Errorf("hosts of one preference do not take turns: %v is always first", first)
	}
	b.agent.Resolver = hosts{"h1.test": down, "h2.test": gone, "h3.test": gone}
	if _, err := (&session{Agent: b.agent, way: &way{settings: settings}}).find(t.Context(), "a.test"); !errors.Is(err, resolve.ErrUnavailable) {
		t.Errorf("one host may be found later, yet: %v", err)
	}
}

// TestIdleConnectionIsKept: a second message goes out over the connection of the first.
func TestIdleConnectionIsKept(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nconnection-idle-timeout 1m\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	first := b.events(1)[0]
	b.put(time.Hour, "bob@a.test")
	second := b.events(2)[1]
	if first.ConnectionID != second.ConnectionID || second.MessageOnConn != 2 {
		t.Errorf("the second message went over connection %s as number %d", second.ConnectionID, second.MessageOnConn)
	}
}

// TestSilentCloseIsALimit: a receiver that hangs up without a word after every second message. No
// message is counted as attempted; the second time it is written down as a limit.
func TestSilentCloseIsALimit(t *testing.T) {
	var taken atomic.Int32
	p := newPeer(t, func(command string) string {
		switch {
		case command == "DOT":
			taken.Add(1)
		case strings.HasPrefix(command, "MAIL") && taken.Load() == 2:
			taken.Store(0)
			return "close"
		}
		return ""
	})
	b := newBench(t, to(p)+"<domain *>\nmax-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	for range 6 {
		b.put(time.Hour, "ann@a.test")
	}
	b.start()
	delivered, noted := 0, 0
	for _, e := range b.events(7) {
		switch {
		case e.Kind == event.Delivered && e.Attempt == 1:
			delivered++
		case e.Kind == event.QueueDeferred && e.Dimension == taxonomy.Messages && e.MessageOnConn == 3: // the first that was refused
			noted++
		default:
			t.Errorf("unexpected event %s: %s", e.Kind, e.Reply)
		}
	}
	if delivered != 6 || noted != 1 {
		t.Errorf("%d delivered, %d limits noted; want 6 and 1", delivered, noted)
	}
}

// TestStopLetsATransactionEnd: the node is told to stop while the peer thinks about the final dot.
// The message is delivered, once.
func TestStopLetsATransactionEnd(t *testing.T) {
	atDot, goOn := make(chan struct{}), make(chan struct{})
	p := newPeer(t, func(command string) string {
		if command == "DOT" {
			close(atDot)
			<-goOn
		}
		return ""
	})
	b := newBench(t, to(p), names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.manager.Run(ctx) }()
	<-atDot
	stop()
	close(goOn)
	<-done
	if e := b.events(1)[0]; e.Kind != event.Delivered {
		t.Errorf("%s: %s, want delivered", e.Kind, e.Reply)
	}
}

func TestRangesStandForLocalAddresses(t *testing.T) {
	c, _, err := config.Parse("test", []byte("host-name node.test\n<virtual-mta v>\nsmtp-source-host 203.0.113.0/24 out.test\n</virtual-mta>\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Config: c}); err == nil || !strings.Contains(err.Error(), "203.0.113.0/24") {
		t.Errorf("a range without an address of this machine: %v", err)
	}
}

func TestSourcesTakeTurns(t *testing.T) {
	b := newBench(t, "<virtual-mta v>\nsmtp-source-host 127.0.0.2 a.test\nsmtp-source-host 127.0.0.3 b.test\n</virtual-mta>\n", names{})
	w := b.agent.view.Load().vmtas["v"]
	targets := []target{{"six", netip.MustParseAddrPort("[::1]:25")}, {"four", netip.MustParseAddrPort("127.0.0.9:25")}}
	none := func(netip.Addr) bool { return false }
	a, reached, _ := w.source(targets, none)
	b2, _, _ := w.source(targets, none)
	c, _, _ := w.source(targets, none)
	if a.key == b2.key || a != c {
		t.Errorf("sources %v, %v, %v", a, b2, c)
	}
	if len(reached) != 1 || reached[0].name != "four" {
		t.Errorf("an IPv4 source is to reach %v", reached)
	}
}

// TestSourcesTakeTurnsSideBySide: queues that ask at the same time take turns away from each other,
// and each finds the one source that is left all the same.
func TestSourcesTakeTurnsSideBySide(t *testing.T) {
	b := newBench(t, "<virtual-mta v>\nsmtp-source-host 127.0.0.2 a.test\nsmtp-source-host 127.0.0.3 b.test\n</virtual-mta>\n", names{})
	w := b.agent.view.Load().vmtas["v"]
	targets := []target{{"four", netip.MustParseAddrPort("127.0.0.9:25")}}
	disabled := func(source netip.Addr) bool {
		runtime.Gosched() // let others in between two looks
		return source == netip.MustParseAddr("127.0.0.2")
	}
	var wg sync.WaitGroup
	var missed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if s, _, ok := w.source(targets, disabled); !ok || s.addr != netip.MustParseAddr("127.0.0.3") {
					missed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if missed.Load() > 0 {
		t.Errorf("%d of 8000 times the source that is left was not found", missed.Load())
	}
}

func TestPermanentRepliesThatBounceNobody(t *testing.T) {
	refused := smtpc.RcptResult{Phase: event.PhaseMail, Reply: smtpstatus.New(550, "5.7.1 no")}
	for dimension, want := range map[taxonomy.Dimension]event.Kind{
		taxonomy.Rate: event.Deferred, taxonomy.Connections: event.Deferred, taxonomy.Messages: event.Deferred, taxonomy.Greylist: event.Deferred,
		taxonomy.User: event.Bounced, taxonomy.Block: event.Bounced, taxonomy.Content: event.Bounced,
	} {
		if got := kindOf(refused, classify.Verdict{Dimension: dimension}); got != want {
			t.Errorf("550 of dimension %s: %s, want %s", dimension, got, want)
		}
	}
}

func TestFailureSaysWhatItKnows(t *testing.T) {
	plain := failure{phase: event.PhaseConnect, err: errors.New("x")}
	if !plain.temporary() || !plain.enhanced().IsZero() {
		t.Errorf("an error that says nothing: temporary %v, status %q", plain.temporary(), plain.enhanced())
	}
}
