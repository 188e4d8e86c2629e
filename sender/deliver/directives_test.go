package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/resolve"
	"carom/sender/smtpc"
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

// TestSkipMX: the message goes to the next host, although the first has said no for good.
func TestSkipMX(t *testing.T) {
	for name, text := range map[string]string{
		"skip-mx": fmt.Sprintf(patterns, "reply /go away/ skip-mx", ""),
		"421":     "<domain a.test>\nsmtp-421-means-mx-unavailable yes\n</domain>\n",
	} {
		for _, command := range []string{"CONNECT", "MAIL", "RCPT", "DOT"} {
			t.Run(name+" at "+command, func(t *testing.T) {
				reply := "550 5.7.1 go away"
				if name == "421" {
					reply = "421 4.7.0 busy"
				}
				first := newPeer(t, always(map[string]string{command: reply}))
				second := newPeerAt(t, fmt.Sprintf("127.0.0.2:%d", first.addr.Port()), always(nil))
				b := newBench(t, to(first)+text, routes{"a.test": {mx(1, "mx1.a.test", "127.0.0.1"), mx(2, "mx2.a.test", "127.0.0.2")}})
				b.put(time.Hour, "ann@a.test")
				b.start()
				n := 2
				if command == "CONNECT" {
					n = 1 // the next host is tried without a word
				}
				events := b.events(n)
				if e := events[0]; n == 2 && (e.Kind != event.QueueDeferred || !strings.HasPrefix(e.Reply, `skip of MX requested: "`+reply+`" received from mx1.a.test (127.0.0.1) while connected from node.test`)) {
					t.Errorf("%s: %s", e.Kind, e.Reply)
				}
				if e := events[n-1]; e.Kind != event.Delivered || e.MXHost != "mx2.a.test" || e.Attempt != 1 {
					t.Errorf("%s by %s, attempt %d", e.Kind, e.MXHost, e.Attempt)
				}
				if len(second.received()) != 1 {
					t.Errorf("the second host got %d messages", len(second.received()))
				}
			})
		}
	}
}

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

// TestBounceQueue: one reply bounces all that the queue holds, due or not.
func TestBounceQueue(t *testing.T) {
	for _, command := range []string{"CONNECT", "RCPT"} {
		t.Run(command, func(t *testing.T) {
			p := newPeer(t, always(map[string]string{command: "550 5.7.1 closed for ever"}))
			b := newBench(t, to(p)+fmt.Sprintf(patterns, "reply /for ever/ bounce-queue", "max-smtp-out 1"), names{mx: "mx.a.test", addr: p.addr.Addr()})
			for range 4 {
				b.put(time.Hour, "ann@a.test", "bob@a.test")
			}
			b.start()
			others := 0
			waitFor(t, func() bool { return b.spool.Stats().Messages == 0 })
			for _, e := range b.events(8) {
				switch {
				case e.Kind == event.QueueDeferred:
				case e.Kind != event.Bounced:
					t.Errorf("%s: %s", e.Kind, e.Reply)
				case e.Reply == "bounce-queue;reply:550 5.7.1 closed for ever" && e.Code == 0 && e.Enhanced == "5.7.1":
					others++
				}
			}
			if others < 6 {
				t.Errorf("%d recipients bounced with the queue, want 6 or more", others)
			}
		})
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

func TestReroute(t *testing.T) {
	inDomain := func(directive string) string { return "<domain *>\n" + directive + "\n</domain>\n" }
	for _, tc := range []struct {
		name, a, b string
		backoff    bool
		want       string // addresses
	}{
		{"always", inDomain("reroute-to-virtual-mta b"), "", false, "127.0.0.3"},
		{"chain", inDomain("reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta c"), false, "127.0.0.4"},
		{"loop", inDomain("reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta a"), false, "127.0.0.2"},
		{"itself", inDomain("reroute-to-virtual-mta a"), "", false, "127.0.0.2"},
		{"pool", inDomain("reroute-to-virtual-mta p"), "", false, "127.0.0.3 127.0.0.4"},
		{"in backoff mode", inDomain("backoff-reroute-to-virtual-mta c"), "", true, "127.0.0.4"},
		{"not in backoff mode", inDomain("backoff-reroute-to-virtual-mta c"), "", false, "127.0.0.2"},
		{"loop by backoff", inDomain("backoff-reroute-to-virtual-mta b"), inDomain("reroute-to-virtual-mta a"), true, "127.0.0.2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+fmt.Sprintf(ways, tc.a, tc.b), names{mx: "mx.a.test", addr: p.addr.Addr()})
			// Into the queue of the virtual MTA itself, as mail that waited before a change would be.
			for range 2 {
				b.putInto(queue.Name{Domain: "a.test", VMTA: "a"}, "ann@a.test")
			}
			if tc.backoff {
				b.manager.Queue(queue.Name{Domain: "a.test", VMTA: "a"}).EnterBackoff("test", time.Time{})
			}
			b.start()
			var used []string
			for _, e := range b.events(2) {
				if e.Kind != event.Delivered {
					t.Errorf("%s: %s", e.Kind, e.Reply)
				}
				used = append(used, e.SourceIP.String())
			}
			slices.Sort(used)
			if !strings.Contains(tc.want, " ") {
				used = slices.Compact(used)
			}
			got := strings.Join(used, " ")
			if tc.name == "pool" && strings.Contains(tc.want, used[0]) {
				got = tc.want // one session may have moved both
			}
			if got != tc.want {
				t.Errorf("mail left by %s, want %s", got, tc.want)
			}
		})
	}
	b := newBench(t, fmt.Sprintf(ways, inDomain("reroute-to-virtual-mta p\nqueue-to big.queue"), ""), names{})
	first, second := b.agent.Plan("a.test", "a"), b.agent.Plan("a.test", "a")
	if first.Queue.Domain != "big.queue" || first.Queue.VMTA != "b" || second.Queue.VMTA != "c" || second.BounceAfter == 0 {
		t.Errorf("plans %+v and %+v", first, second)
	}
}

// TestQueueTo: the mail of two domains waits in one queue with its own hosts.
func TestQueueTo(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, fmt.Sprintf("<domain a.test>\nqueue-to big.queue\n</domain>\n<domain b.test>\nqueue-to big.queue\n</domain>\n<domain big.queue>\nsmtp-hosts [127.0.0.1]:%d\nmax-smtp-out 1\n</domain>\n", p.addr.Port()), routes{})
	b.put(time.Hour, "ann@a.test")
	b.put(time.Hour, "bob@b.test")
	b.start()
	domains := map[string]bool{}
	for _, e := range b.events(2) {
		domains[e.RecipientDomain] = e.Kind == event.Delivered && e.Queue == "big.queue/{default}"
	}
	if !domains["a.test"] || !domains["b.test"] {
		t.Errorf("outcomes %v", domains)
	}
}

const rollups = "<mx-rollup-list>\nmx mx1.big.test big.rollup\nmx mx2.big.test big.rollup\nmx *.wild.test wild.rollup rollup-by-ip\n</mx-rollup-list>\n<domain alone.test>\ndisable-mx-rollup yes\n</domain>\n<domain big.rollup>\nmax-smtp-out 1\n</domain>\n"

// TestRollup: domains of the same MX hosts share a queue, and with it a connection.
func TestRollup(t *testing.T) {
	p := newPeer(t, always(nil))
	big := []resolve.Host{mx(1, "mx1.big.test", "127.0.0.1"), mx(1, "mx2.big.test", "127.0.0.1"), mx(1, "other.test", "127.0.0.9")}
	b := newBench(t, to(p)+rollups, routes{
		"a.test": big, "b.test": big, "alone.test": big,
		"c.test": {mx(1, "mx1.big.test", "127.0.0.1"), mx(2, "mx2.big.test", "127.0.0.1")},
		"d.test": {mx(5, "alt.wild.test", "127.0.0.1")},
	})
	for _, domain := range []string{"a.test", "b.test", "c.test", "d.test", "alone.test"} {
		b.put(time.Hour, "ann@"+domain)
	}
	b.start()
	got := map[string]string{}
	conns := map[event.ID]bool{}
	for _, e := range b.events(5) {
		got[e.RecipientDomain] = e.Queue
		if e.Kind != event.Delivered {
			t.Errorf("%s: %s %s", e.Recipient, e.Kind, e.Reply)
		}
		if e.Queue == "big.rollup/{default}" {
			conns[e.ConnectionID] = true
		}
	}
	for domain, want := range map[string]string{"a.test": "big.rollup", "b.test": "big.rollup", "c.test": "c.test", "d.test": "wild.rollup", "alone.test": "alone.test"} {
		if got[domain] != want+"/{default}" {
			t.Errorf("%s went by %s, want %s", domain, got[domain], want)
		}
	}
	if q := b.agent.Plan("a.test", config.DefaultVMTA).Queue.Domain; q != "big.rollup" {
		t.Errorf("further mail for a.test waits in %s", q)
	}
}

// TestLeavingARollup: a domain whose MX records changed while its mail waited goes its own way.
func TestLeavingARollup(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+rollups, routes{
		"a.test": {mx(1, "mx1.big.test", "127.0.0.1"), mx(1, "mx2.big.test", "127.0.0.1")},
		"b.test": {mx(1, "mx.b.test", "127.0.0.1")},
	})
	name := queue.Name{Domain: "big.rollup", VMTA: config.DefaultVMTA}
	b.putInto(name, "ann@a.test", "bob@b.test")
	b.putInto(name, "cid@b.test")
	b.start()
	for _, e := range b.events(3) {
		want := "big.rollup/{default}"
		if e.RecipientDomain == "b.test" {
			want = "b.test/{default}"
		}
		if e.Kind != event.Delivered || e.Queue != want {
			t.Errorf("%s: %s by %s", e.Recipient, e.Kind, e.Queue)
		}
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

// TestFailOver: a host that nobody listens on gives way to the next, and so does an address of the
// other family than the source's.
func TestFailOver(t *testing.T) {
	p := newPeer(t, always(nil))
	b := newBench(t, to(p)+"<virtual-mta v>\nsmtp-source-host 127.0.0.2 two.test\n</virtual-mta>\n", routes{"a.test": {
		mx(1, "mx6.a.test", "::1"), mx(2, "closed.a.test", "127.0.0.7"), mx(3, "mx.a.test", "127.0.0.1"),
	}})
	b.putBy("v", time.Hour, "ann@a.test")
	b.start()
	if e := b.events(1)[0]; e.Kind != event.Delivered || e.MXHost != "mx.a.test" || e.Provider != "a.test" || e.EHLO != "two.test" {
		t.Errorf("%s by %s of %s: %s", e.Kind, e.MXHost, e.Provider, e.Reply)
	}
}

// TestNoMX: bounce-upon-no-mx bounces at once, or when the mail is old enough.
func TestNoMX(t *testing.T) {
	for value, want := range map[string]event.Kind{"no": event.Delivered, "yes": event.Bounced, "1h": event.Delivered, "0s": event.Bounced} {
		t.Run(value, func(t *testing.T) {
			p := newPeer(t, always(nil))
			b := newBench(t, to(p)+"<domain *>\nbounce-upon-no-mx "+value+"\n</domain>\n", implicit{p.addr.Addr()})
			b.put(time.Hour, "ann@a.test")
			b.start()
			if e := b.events(1)[0]; e.Kind != want || want == event.Bounced && (e.Enhanced != "5.4.4" || e.Phase != event.PhaseResolve) {
				t.Errorf("%s, status %s, phase %s", e.Kind, e.Enhanced, e.Phase)
			}
		})
	}
}

// implicit is a Resolver of domains without MX records.
type implicit struct{ addr netip.Addr }

func (i implicit) Route(_ context.Context, domain string) (resolve.Route, error) {
	return resolve.Route{Hosts: []resolve.Host{{Name: domain, Addrs: []netip.Addr{i.addr}}}, Implicit: true, TTL: time.Minute}, nil
}

func (i implicit) LookupHost(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{i.addr}, nil
}

// TestDNSFailure: the queue waits for retry-after-dns-error, not for retry-after.
func TestDNSFailure(t *testing.T) {
	b := newBench(t, "<domain *>\nretry-after 5h\nretry-after-dns-error 2h\n</domain>\n", names{err: &resolve.Error{Name: "a.test", Err: resolve.ErrUnavailable}})
	b.put(24*time.Hour, "ann@a.test")
	b.start()
	b.events(1)
	waitFor(t, func() bool {
		s := b.manager.Statuses()
		return len(s) == 1 && s[0].Sessions == 0 && time.Until(s[0].DeferredUntil) > time.Hour && time.Until(s[0].DeferredUntil) < 3*time.Hour
	})
}

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
