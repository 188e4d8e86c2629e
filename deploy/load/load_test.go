package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gomessage "github.com/emersion/go-message"
	"github.com/google/go-cmp/cmp"

	"carom/deploy/receivers"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

func demo(t *testing.T) *scenarios.Scenario {
	t.Helper()
	s, err := scenarios.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func options(t *testing.T, addr string) Options {
	t.Helper()
	return Options{
		Addr: addr, Scenario: demo(t), Messages: 100, RatePerSecond: 1e5, Connections: 4, FromDomain: "sender.test",
		Job: "job1", TenantName: "X-Tenant", SizeBytes: 4096, GiveUp: 20 * time.Second,
	}
}

func planned(t *testing.T, o Options) (all []*message) {
	t.Helper()
	if err := o.setDefaults(); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(&o)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, ok := p.peek()
		if !ok {
			if len(all) != p.total {
				t.Errorf("%d messages made, %d planned", len(all), p.total)
			}
			return all
		}
		p.pop()
		all = append(all, m)
	}
}

func TestPlanOfTheDemo(t *testing.T) {
	o := options(t, "")
	o.Messages, o.RatePerSecond = 0, 0
	all := planned(t, o)
	domains, recipients, last := map[string]int{}, map[string]bool{}, time.Duration(0)
	for _, m := range all {
		if m.at < last {
			t.Fatalf("message %d is due at %s, before the one before it", m.index, m.at)
		}
		last = m.at
		recipients[m.recipient] = true
		domains[m.recipient[strings.IndexByte(m.recipient, '@')+1:]]++
	}
	want := map[string]int{"gmailish.test": 3300, "workspace-gmailish.test": 1100, "yahooish.test": 6400, "aolish.test": 1600, "eurotelco.test": 7600}
	if diff := cmp.Diff(want, domains); diff != "" || len(recipients) != 20000 || last >= 100*time.Second {
		t.Errorf("domains %s; %d recipients, the last at %s", diff, len(recipients), last)
	}
	if diff := cmp.Diff(all, planned(t, o), cmp.AllowUnexported(message{})); diff != "" {
		t.Errorf("a second plan differs: %s", diff)
	}
}

func TestPlanOptions(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(*Options)
		messages int
		last     time.Duration
	}{
		{"messages at a rate", func(o *Options) { o.Messages, o.RatePerSecond = 500, 10 }, 500, 49900 * time.Millisecond},
		{"messages over a time", func(o *Options) { o.Messages, o.Duration = 500, 50*time.Second }, 500, 49900 * time.Millisecond},
		{"messages over the scenario's time", func(o *Options) { o.Messages, o.Duration = 500, 100*time.Second }, 500, 99800 * time.Millisecond},
		{"rate for a time", func(o *Options) { o.RatePerSecond, o.Duration = 7, 10*time.Second }, 70, 9857142857},
		{"the scenario's rates for a time", func(o *Options) { o.Duration = time.Second }, 216, 987500000},
		{"more messages than the scenario's duration has", func(o *Options) { o.Messages = 20176 }, 20176, 100987500000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, "")
			o.Messages, o.RatePerSecond = 0, 0
			tc.change(&o)
			all := planned(t, o)
			if last := all[len(all)-1].at; len(all) != tc.messages || (last-tc.last).Abs() > time.Microsecond {
				t.Errorf("%d messages, the last at %s; want %d, %s", len(all), last, tc.messages, tc.last)
			}
		})
	}
	o := options(t, "")
	o.Messages, o.Recipients = 500, 50
	locals := map[string]int{}
	for _, m := range planned(t, o) {
		locals[m.recipient[:strings.IndexByte(m.recipient, '@')]]++
	}
	if len(locals) != 50 {
		t.Errorf("%d local parts, want 50", len(locals))
	}
	other := options(t, "")
	other.Scenario.Seed++
	if a, b := planned(t, options(t, ""))[0].recipient, planned(t, other)[0].recipient; a == b {
		t.Errorf("both seeds begin with %s", a)
	}
}

func TestContent(t *testing.T) {
	o := options(t, "")
	o.Headers = []string{"X-Virtual-MTA: vmta1"}
	c, err := newContent(&o)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range planned(t, o)[:variants] {
		text := c.message(m, time.Now())
		if len(text) < 3500 || len(text) > 4700 || strings.Contains(text, "\n.") || strings.Count(text, "\n") != strings.Count(text, "\r\n") {
			t.Errorf("%d octets, or a line that may not be:\n%s", len(text), text)
		}
		e, err := gomessage.Read(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if e.Header.Get("Message-Id") != "<"+m.id+">" || e.Header.Get("X-Tenant") != m.tenant || e.Header.Get("X-Job") != "job1" || e.Header.Get("X-Virtual-Mta") != "vmta1" {
			t.Errorf("header %v", e.Header.Map())
		}
		r, parts := e.MultipartReader(), 0
		for {
			if _, err := r.NextPart(); err != nil {
				break
			}
			parts++
		}
		if parts != 2 {
			t.Errorf("%d parts", parts)
		}
	}
}

// records reads an accept log.
func records(t *testing.T, log *bytes.Buffer) (all []Record) {
	t.Helper()
	for line := range bytes.Lines(log.Bytes()) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestLoadAgainstReceivers(t *testing.T) {
	sc := demo(t)
	p := &sc.Providers[0]
	p.Rate, p.LatencyMS, p.AsyncBounces.Frac, p.Complaints.Base = nil, [2]float64{}, 0, 0
	p.UnknownUsers, p.MsgsPerConn, p.SilentClose = 0.1, 20, true
	p.Grey = scenarios.Grey{Frac: 0.1, MinRetry: 1}
	p.Domains = []string{"gmailish.test", "workspace-gmailish.test", "yahooish.test", "aolish.test", "eurotelco.test"}
	sc.Providers = sc.Providers[:1]
	acceptLog := filepath.Join(t.TempDir(), "accepted.ndjson")
	r, err := receivers.Open(t.Context(), receivers.Options{
		Scenario: sc, DNS: "127.0.0.1:0", HTTP: "127.0.0.1:0", AcceptLog: acceptLog, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	var log bytes.Buffer
	o := options(t, r.Addresses().MX[0].Addr.String())
	o.Messages, o.AcceptLog = 500, &log
	s, err := Run(t.Context(), o)
	if !errors.Is(err, ErrIncomplete) || s.Refused == 0 || s.Deferrals == 0 || s.Accepted+s.Refused != 500 || s.Unfinished != 0 || s.InDoubt != 0 || s.P99 < s.P50 || s.P50 <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	// What each side counted as accepted is the same, once each.
	var ours, theirs []string
	refused := 0
	for _, rec := range records(t, &log) {
		switch rec.Status {
		case Accepted:
			ours = append(ours, rec.MessageID+" "+rec.Recipient)
		case Refused:
			refused++
		case InDoubt:
			t.Errorf("in doubt: %+v", rec)
		}
	}
	f, err := os.Open(acceptLog)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var a receivers.Accepted
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, a.MessageID+" "+a.Recipient)
	}
	count := func(list []string) map[string]int {
		m := map[string]int{}
		for _, e := range list {
			m[e]++
		}
		return m
	}
	if diff := cmp.Diff(count(theirs), count(ours)); diff != "" || refused != s.Refused || len(ours) != s.Accepted {
		t.Errorf("the logs differ: %s", diff)
	}
}

// fickle is an SMTP server whose n-th answer to a message (n from 0) is up to a function: a reply, or
// empty to hang up without one.
type fickle struct {
	mu     sync.Mutex
	answer func(n int) string
	n      int
	ids    map[string]int // how often each message came whole
	pipes  bool
	once   bool // a message that comes again is taken: no message meets two answers
}

func (f *fickle) listen(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.ids = map[string]int{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				f.serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func (f *fickle) serve(conn net.Conn) {
	say := func(text string) { _, _ = io.WriteString(conn, text+"\r\n") }
	say("220 fickle")
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line[:4]); verb {
		case "EHLO":
			if f.pipes {
				say("250-fickle\r\n250 PIPELINING")
			} else {
				say("250 fickle")
			}
		case "DATA":
			say("354 go on")
			m, err := mail.ReadMessage(r)
			if err != nil {
				return
			}
			for body := bufio.NewReader(m.Body); ; {
				if line, err := body.ReadString('\n'); err != nil || line == ".\r\n" {
					// mail.ReadMessage and this reader read ahead; the peer waits for an answer.
					r = body
					break
				}
			}
			f.mu.Lock()
			id, answer := m.Header.Get("Message-Id"), "250 ok"
			f.ids[id]++
			if !f.once || f.ids[id] == 1 {
				answer = f.answer(f.n)
				f.n++
			}
			f.mu.Unlock()
			if answer == "" {
				return
			}
			say(answer)
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func TestEveryMessageArrivesDespite(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pipes  bool
		answer func(n int) string
		doubt  int
		defers int
	}{
		{"nothing", true, func(int) string { return "250 ok" }, 0, 0},
		{"no pipelining", false, func(int) string { return "250 ok" }, 0, 0},
		{"deferrals", true, func(n int) string {
			if n < 5 {
				return "451 4.7.1 later"
			}
			return "250 ok"
		}, 0, 5},
		{"421, which ends connections", true, func(n int) string {
			if n < 3 {
				return "421 4.7.1 later"
			}
			return "250 ok"
		}, 0, 3},
		{"hang-ups behind the final dot", true, func(n int) string {
			if n%10 == 0 && n < 50 {
				return ""
			}
			return "250 ok"
		}, 5, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := &fickle{answer: tc.answer, pipes: tc.pipes, once: true}
			var log bytes.Buffer
			o := options(t, server.listen(t))
			o.AcceptLog = &log
			s, err := Run(t.Context(), o)
			if err != nil || s.Accepted != 100 || s.InDoubt != tc.doubt || s.Deferrals != tc.defers {
				t.Fatalf("%+v, %v", s, err)
			}
			twice := 0
			for id, n := range server.ids {
				if n > 1 {
					twice++
				}
				if n == 0 || !strings.HasPrefix(id, "<job1.") {
					t.Errorf("%s came %d times", id, n)
				}
			}
			if len(server.ids) != 100 || twice != tc.doubt+tc.defers {
				t.Errorf("%d messages, %d more than once; want 100, %d", len(server.ids), twice, tc.doubt+tc.defers)
			}
			marked := 0
			for _, r := range records(t, &log) {
				if r.Status == Accepted && r.WasDoubt {
					marked++
				}
			}
			if marked != tc.doubt {
				t.Errorf("%d records marked, want %d", marked, tc.doubt)
			}
		})
	}
}

func TestRefusalsAndSilence(t *testing.T) {
	refusing := &fickle{answer: func(int) string { return "550 5.7.1 no" }, pipes: true}
	s, err := Run(t.Context(), options(t, refusing.listen(t)))
	if !errors.Is(err, ErrIncomplete) || s.Refused != 100 || !strings.Contains(err.Error(), "550 5.7.1 no") {
		t.Errorf("%+v, %v", s, err)
	}

	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, ln.Addr().String())
	_ = ln.Close() // nobody listens there now
	o.GiveUp = time.Millisecond
	if s, err = Run(t.Context(), o); !errors.Is(err, ErrIncomplete) || s.Unfinished != 100 || !strings.Contains(err.Error(), "nothing accepted for 1ms") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%+v, %v, want that the connection is refused", s, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Run(ctx, o); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrIncomplete) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := Command(t.Context(), args, service.IO{Out: &out, Err: io.Discard})
		return out.String(), err
	}
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"--help", 0, ""},
		{"", 2, "--to is missing"},
		{"--to 127.0.0.1:1", 2, "--scenario is missing"},
		{"--to 127.0.0.1 --scenario demo", 2, "want HOST:PORT"},
		{"--to 192.0.2.1:25 --scenario demo", 2, "192.0.2.1 is not on this machine"},
		{"--to 127.0.0.1:1 --scenario nope", 2, "not one of apple"},
		{"--to 127.0.0.1:1 --scenario demo --rate 0/s", 2, "want a rate like 200/s"},
		{"--to 127.0.0.1:1 --scenario demo --rate 5/x", 2, "want a rate like 200/s"},
		{"--to 127.0.0.1:1 --scenario demo --connections 0", 2, "out of range"},
		{"--to 127.0.0.1:1 --scenario demo --from-domain a@b", 2, "from domain"},
		{"--to 127.0.0.1:1 --scenario demo --job a@b", 2, `job "a@b"`},
		{"--to 127.0.0.1:1 --scenario demo --header x", 2, "want Name: value"},
		{"--to 127.0.0.1:1 --scenario demo --size -1", 2, "size -1"},
	} {
		_, err := run(strings.Fields(tc.args)...)
		if service.ExitStatus(err) != tc.status || tc.want != "" && !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%q: %v (status %d), want %q (%d)", tc.args, err, service.ExitStatus(err), tc.want, tc.status)
		}
	}

	server := &fickle{answer: func(int) string { return "250 ok" }, pipes: true}
	out, err := run("--to", server.listen(t), "--scenario", "demo", "--messages", "10", "--rate", "1000/s", "--json", "--progress")
	var s Summary
	if jsonErr := json.Unmarshal([]byte(out), &s); err != nil || jsonErr != nil || s.Accepted != 10 || s.Planned != 10 {
		t.Errorf("%s, %v, %v", out, err, jsonErr)
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("empty: %g", got)
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	h.add(0)
	h.add(1000 * time.Hour)
	if p50, p99 := h.quantile(0.5), h.quantile(0.99); p50 < 490 || p50 > 515 || p99 < 975 || p99 > 1015 {
		t.Errorf("p50 %g, p99 %g of 1 to 1000 ms", p50, p99)
	}
}
