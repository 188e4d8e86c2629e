package deliver

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/config"
	"carom/sender/queue"
)

// TestDirectives: what becomes of one recipient when a directive says so, and without it.
func TestDirectives(t *testing.T) {
	const pix = "220 *****************************"
	type want struct {
		kind     event.Kind
		enhanced string
		reply    string
	}
	for _, tc := range []struct {
		name, directive string
		answers         map[string]string
		without, with   want
	}{
		{
			"553 means invalid mailbox unless", "smtp-553-means-invalid-mailbox no",
			map[string]string{"RCPT": "553 sorry"},
			want{event.Bounced, "5.1.1", "553 sorry"},
			want{event.Bounced, "", "553 sorry"},
		},
		{
			"5xx greeting", "bounce-upon-5xx-greeting no",
			map[string]string{"CONNECT": "521 5.3.2 host does not accept mail"},
			want{event.Bounced, "5.3.2", "521 5.3.2 host does not accept mail"},
			want{event.QueueDeferred, "5.3.2", "521 5.3.2 host does not accept mail"},
		},
		{
			"lost in transfer", "bounce-upon-transfer-failure yes",
			map[string]string{"DOT": "close"},
			want{event.Deferred, "4.4.2", ""},
			want{event.Bounced, "4.4.2", ""},
		},
		{
			"lost in transfer through a PIX", "bounce-upon-pix-transfer-failure yes",
			map[string]string{"CONNECT": pix, "DOT": "close"},
			want{event.Deferred, "4.4.2", ""},
			want{event.Bounced, "4.4.2", ""},
		},
		{
			"lost in transfer, no PIX", "bounce-upon-pix-transfer-failure yes",
			map[string]string{"DOT": "close"},
			want{event.Deferred, "4.4.2", ""},
			want{event.Deferred, "4.4.2", ""},
		},
		{
			"no answer to the final dot", "assume-delivery-upon-data-termination-timeout yes\nsmtp-data-termination-timeout 1s",
			map[string]string{"DOT": "silence"},
			want{},
			want{event.Delivered, "2.0.0", "timeout"},
		},
		{
			"421 text", "replace-smtp-421-service-response yes",
			map[string]string{"RCPT": "421 4.7.0 secret reason"},
			want{event.Deferred, "4.7.0", "421 4.7.0 secret reason"},
			want{event.Deferred, "4.7.0", "service unavailable"},
		},
		{
			"421 and no other host", "smtp-421-means-mx-unavailable yes",
			map[string]string{"RCPT": "421 4.7.0 busy"},
			want{event.Deferred, "4.7.0", "421 4.7.0 busy"},
			want{event.QueueDeferred, "4.7.0", "skip of MX requested"},
		},
		{
			"one attempt", "max-retries 1",
			map[string]string{"RCPT": "450 4.2.1 later"},
			want{event.Deferred, "4.2.1", "450"},
			want{event.Expired, "4.4.7", ""},
		},
		{
			"no answer in time", "smtp-multiple-line-response-timeout 1s",
			map[string]string{"MAIL": "450-half\r\n"},
			want{},
			want{event.Deferred, "4.4.2", ""},
		},
		{
			"discard", "type discard\ndiscard-as-bounce yes", nil,
			want{event.Delivered, "2.0.0", ""},
			want{event.Bounced, "5.0.0", "mail is discarded"},
		},
	} {
		for _, with := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", tc.name, with), func(t *testing.T) {
				expect, text := tc.without, ""
				if with {
					expect, text = tc.with, "<domain a.test>\n"+tc.directive+"\n</domain>\n"
				}
				if expect == (want{}) {
					t.Skip("the default is ten minutes; the other half of the case shows the effect")
				}
				p := newPeer(t, always(tc.answers))
				b := newBench(t, to(p)+text, names{mx: "mx.a.test", addr: p.addr.Addr()})
				b.put(time.Hour, "ann@a.test")
				b.start()
				n := 1
				if expect.kind == event.Expired {
					n = 2 // the attempt has an event of its own
				}
				e := b.events(n)[n-1]
				if e.Kind != expect.kind || expect.enhanced != "" && e.Enhanced != expect.enhanced || !strings.Contains(e.Reply, expect.reply) {
					t.Errorf("event %s, status %q, reply %q; want %+v", e.Kind, e.Enhanced, e.Reply, expect)
				}
				if strings.HasPrefix(tc.name, "553") && (e.Category == taxonomy.BadMailbox) == with {
					t.Errorf("category %s", e.Category)
				}
			})
		}
	}
}

const patterns = `<smtp-pattern-list p>
%s
</smtp-pattern-list>
<domain a.test>
smtp-pattern-list p
%s
</domain>
`

// TestPatterns: what the actions of a pattern list do to recipient and queue.
func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		name, rules, settings string
		answers               map[string]string
		kind                  event.Kind
		mode                  queue.Mode
		modeEnds              bool
		held                  time.Duration // least wait of the queue
		note                  string
	}{
		{
			name: "backoff", rules: "reply /slow/ mode=backoff", answers: map[string]string{"RCPT": "450 4.7.0 slow down"},
			kind: event.Deferred, mode: queue.Backoff, note: "queue a.test/{default} is in backoff mode: pattern /slow/ matched \"450 4.7.0 slow down\"",
		},
		{
			name: "backoff for a time", rules: "reply /slow/ mode=backoff", settings: "backoff-to-normal-after 1h",
			answers: map[string]string{"MAIL": "450 4.7.0 slow down"}, kind: event.Deferred, mode: queue.Backoff, modeEnds: true, note: "is in backoff mode",
		},
		{
			name: "backoff at the greeting waits by backoff-retry-after", rules: "reply /slow/ mode=backoff", settings: "backoff-retry-after 3h",
			answers: map[string]string{"CONNECT": "450 4.7.0 slow down"}, kind: event.QueueDeferred, mode: queue.Backoff, held: 2 * time.Hour, note: "is in backoff mode",
		},
		{
			name: "another reply", rules: "reply /slow/ mode=backoff", answers: map[string]string{"RCPT": "450 4.7.0 busy"}, kind: event.Deferred,
		},
		{
			name: "defer-queue", rules: "reply /busy/ defer-queue", settings: "retry-after 3h", answers: map[string]string{"RCPT": "450 4.7.0 busy"},
			kind: event.Deferred, held: 2 * time.Hour,
		},
		{
			name: "bounce-rcpt", rules: "reply /full/ bounce-rcpt", answers: map[string]string{"RCPT": "452 4.2.2 mailbox full"}, kind: event.Bounced,
		},
		{
			name: "bounce-rcpt is for replies to RCPT", rules: "reply /full/ bounce-rcpt", answers: map[string]string{"MAIL": "452 4.2.2 disk full"}, kind: event.Deferred,
		},
		{
			name: "skip-mx without another host", rules: "reply /go away/ skip-mx", settings: "retry-after 3h", answers: map[string]string{"RCPT": "550 5.7.1 go away"},
			kind: event.QueueDeferred, held: 2 * time.Hour,
		},
		{
			name: "penalty time", rules: "reply /x/ skip-mx", settings: "initial-pts 3h\nmax-pts 6h", answers: map[string]string{"RCPT": "450 4.2.1 later"},
			kind: event.Deferred, held: 2 * time.Hour,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(tc.answers))
			b := newBench(t, to(p)+fmt.Sprintf(patterns, tc.rules, tc.settings), names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(24*time.Hour, "ann@a.test")
			b.start()
			if e := b.events(1)[0]; e.Kind != tc.kind {
				t.Errorf("event %s (%s), want %s", e.Kind, e.Reply, tc.kind)
			}
			if tc.kind == event.Bounced {
				return
			}
			waitFor(t, func() bool {
				s := b.manager.Statuses()
				return len(s) == 1 && s[0].Sessions == 0 && s[0].Recipients == 1
			})
			s := b.manager.Statuses()[0]
			q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA})
			if mode := q.Mode(time.Now()); mode != tc.mode || tc.mode == queue.Backoff && (q.Mode(time.Now().Add(2*time.Hour)) == queue.Normal) != tc.modeEnds {
				t.Errorf("mode %s", mode)
			}
			if wait := time.Until(s.DeferredUntil); tc.held > 0 && wait < tc.held || tc.held == 0 && wait > 0 {
				t.Errorf("the queue waits for %v (%s), want %v", wait, s.DeferredWhy, tc.held)
			}
			if tc.note != "" && !strings.Contains(<-b.notes, tc.note) {
				t.Errorf("no note %q", tc.note)
			}
		})
	}
}

// TestLeavingBackoff: by a delivery, and by a pattern that a good reply matches.
func TestLeavingBackoff(t *testing.T) {
	for name, text := range map[string]string{
		"delivery": "<domain a.test>\nbackoff-to-normal-after-delivery yes\n</domain>\n",
		"pattern":  fmt.Sprintf(patterns, "reply /taken/ mode=normal", ""),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+text+"<domain a.test>\nconnection-idle-timeout 1m\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA})
			q.EnterBackoff("test", time.Time{})
			b.start()
			b.events(1)
			waitFor(t, func() bool { return q.Mode(time.Now()) == queue.Normal })
			if note := <-b.notes; !strings.Contains(note, "normal mode") {
				t.Errorf("note %q", note)
			}
		})
	}
}

// TestBackoffAuthority: under a fresh lease of the loop the limits of normal mode stay in force.
func TestBackoffAuthority(t *testing.T) {
	for text, want := range map[string]queue.Mode{"": queue.Normal, "backoff-authority config\n": queue.Backoff} {
		b := newBench(t, "<domain a.test>\n"+text+"</domain>\n", names{})
		b.put(time.Hour, "ann@a.test")
		q := b.manager.Queue(queue.Name{Domain: "a.test", VMTA: config.DefaultVMTA})
		q.EnterBackoff("test", time.Time{})
		w, err := b.agent.way(q)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.mode(q, time.Now()); got != queue.Backoff {
			t.Errorf("without a lease the mode is %s", got)
		}
		w.leased.Store(true)
		if got := w.mode(q, time.Now()); got != want {
			t.Errorf("%q: under a lease the mode is %s, want %s", text, got, want)
		}
	}
}

// TestDisabledSource: the address that got the reply is not used again for the queue; when none is
// left the queue waits, and goes to backoff mode if it should.
func TestDisabledSource(t *testing.T) {
	p := newPeer(t, func(command string) string {
		if strings.HasPrefix(command, "RCPT") {
			return "450 4.7.1 your address is blocked"
		}
		return ""
	})
	const vmta = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta+fmt.Sprintf(patterns, "reply /blocked/ disable-source-ip", "max-smtp-out 1\nretry-recipients-after 0\nreenable-source-ip-after 2h\nbackoff-upon-all-sources-disabled yes"),
		names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.putBy("v", time.Hour*24, "ann@a.test")
	b.start()
	events := b.events(2)
	if events[0].SourceIP == events[1].SourceIP {
		t.Errorf("both attempts came from %s", events[0].SourceIP)
	}
	all := ""
	for range 4 {
		all += <-b.notes + "\n"
	}
	if !strings.Contains(all, "All SMTP sources for queue a.test/v are now disabled.") || !strings.Contains(all, "backoff mode") {
		t.Errorf("notes %s", all)
	}
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && time.Until(s[0].DeferredUntil) > time.Hour && strings.Contains(s[0].DeferredWhy, "All SMTP sources")
	})
	if b.manager.Queue(queue.Name{Domain: "a.test", VMTA: "v"}).Mode(time.Now()) != queue.Backoff {
		t.Error("the queue is not in backoff mode")
	}
}

// TestOperatorDisablesASource: what an operator took out of use is not used.
func TestOperatorDisablesASource(t *testing.T) {
	p := newPeer(t, always(nil))
	const vmta = "<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\nsmtp-source-host 127.0.0.3 three.test\n</virtual-mta>\n"
	b := newBench(t, to(p)+vmta, names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.agent.SourceDisabled = func(queue string, source netip.Addr) bool {
		return strings.HasSuffix(queue, "/v") && source == netip.MustParseAddr("127.0.0.2")
	}
	for _, domain := range []string{"a.test", "b.test", "c.test"} {
		b.putBy("v", time.Hour, "ann@"+domain)
	}
	b.start()
	for _, e := range b.events(3) {
		if e.SourceIP != netip.MustParseAddr("127.0.0.3") {
			t.Errorf("mail left from %s", e.SourceIP)
		}
	}
}

const ways = "<virtual-mta a>\nsmtp-source-host 127.0.0.2 two.test\n%s</virtual-mta>\n<virtual-mta b>\nsmtp-source-host 127.0.0.3 three.test\n%s</virtual-mta>\n" +
	"<virtual-mta c>\nsmtp-source-host 127.0.0.4 four.test\n</virtual-mta>\n<virtual-mta-pool p>\nvirtual-mta b\nvirtual-mta c\n</virtual-mta-pool>\n"

const rollups = "<mx-rollup-list>\nmx mx1.big.test big.rollup\nmx mx2.big.test big.rollup\nmx *.wild.test wild.rollup rollup-by-ip\n</mx-rollup-list>\n<domain alone.test>\ndisable-mx-rollup yes\n</domain>\n<domain big.rollup>\nmax-smtp-out 1\n</domain>\n"

// TestBlocked: a 5xx of a receiver that blocks us is retried while the key is suspended.
func TestBlocked(t *testing.T) {
	for text, want := range map[string]event.Kind{"": event.Deferred, "block-5xx bounce\n": event.Bounced} {
		p := newPeer(t, always(map[string]string{"RCPT": "554 5.7.1 Service unavailable; Client host [127.0.0.1] blocked using zen.spamhaus.org"}))
		b := newBench(t, to(p)+"<domain *>\n"+text+"max-smtp-out 1\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
		b.throttle.Apply(&limits.Document{Format: limits.Format, Generation: 1, TTLSeconds: 600, Leases: []limits.Lease{
			{Provider: "a.test", Source: "127.0.0.1", Epoch: 1, RatePerSecond: 100, Canary: true},
		}})
		b.put(time.Hour, "ann@a.test")
		b.start()
		if e := b.events(1)[0]; e.Kind != want || e.Dimension != taxonomy.Block || !e.Canary {
			t.Errorf("%q: %s of dimension %s, canary %v", text, e.Kind, e.Dimension, e.Canary)
		}
	}
}

func TestRemoveHeader(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<domain *>\nremove-header X-Mailer\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
	b.put(time.Hour, "ann@a.test")
	b.start()
	b.events(1)
	if got := p.received()[0]; strings.Contains(got, "X-Mailer") || strings.Contains(got, " b\n") || !strings.Contains(got, "Subject: hello\n\n..text") {
		t.Errorf("received %q", got)
	}
	for _, tc := range []struct{ in, want string }{
		{"A: 1\r\nX: 2\r\n\t3\r\nB: 4\r\n\r\nX: body\r\n", "A: 1\r\nB: 4\r\n\r\nX: body\r\n"},
		{"X: 1\r\n", ""},
		{"x : 1\r\nA: 2", "A: 2"},
		{"\r\nX: 1\r\n", "\r\nX: 1\r\n"},
		{"", ""},
	} {
		if got := string(withoutFields([]byte(tc.in), []string{"x"})); got != tc.want {
			t.Errorf("withoutFields(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

// TestOurFaultsBounceNobody: what the receiver says for good to a login, or to TLS that is required,
// is about our configuration.
func TestOurFaultsBounceNobody(t *testing.T) {
	for text, answers := range map[string]map[string]string{
		"auth-username me\nauth-password pw\nuse-unencrypted-plain-auth yes": {"EHLO": "250-peer.test\r\n250 AUTH PLAIN", "AUTH": "535 5.7.8 bad password"},
		"require-starttls yes": {"EHLO": "250-peer.test\r\n250 STARTTLS", "STARTTLS": "554 5.7.0 no"},
	} {
		p := newPeer(t, always(answers))
		b := newBench(t, to(p)+"<domain *>\n"+text+"\n</domain>\n", names{mx: "mx.a.test", addr: p.addr.Addr()})
		b.put(time.Hour, "ann@a.test")
		b.start()
		if e := b.events(1)[0]; e.Kind != event.QueueDeferred || e.Code < 500 {
			t.Errorf("%s: %s %s", text, e.Kind, e.Reply)
		}
	}
}
