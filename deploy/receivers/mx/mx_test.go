package mx

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
)

// still is a clock that moves only when a test sets it.
type still struct {
	mu  sync.Mutex
	now time.Duration
}

func (c *still) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *still) set(t time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}
func (c *still) FirstMessage()                      {}
func (c *still) Real(d time.Duration) time.Duration { return d }

// host is a running server of one provider.
type host struct {
	*Server
	clock *still
	addr  string
	mu    sync.Mutex
	got   []Delivery
}

func serve(t *testing.T, cfg scenarios.Provider) *host {
	t.Helper()
	cfg.Name, cfg.Domains = "p", []string{"a.test"}
	p := provider.New(cfg, 1)
	h := &host{clock: &still{}}
	h.Server = &Server{
		Name: "mx.a.test", Provider: p, Clock: h.clock, Log: slog.New(slog.DiscardHandler),
		ByDomain: map[string]*provider.Provider{"a.test": p, "b.test": provider.New(scenarios.Provider{Name: "q"}, 1)},
		Accept: func(d *Delivery) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if d.MailFrom == "disk@full.test" {
				return errors.New("disk full")
			}
			h.got = append(h.got, *d)
			return nil
		},
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return h
}

// dialogue sends the lines that begin with "> " and compares everything that comes back with the
// lines that begin with "< ". "\v" stands for a bare line feed; "< EOF" wants the connection closed in
// good order.
func (h *host) dialogue(t *testing.T, script string) {
	t.Helper()
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	var pipeline strings.Builder
	flush := func() {
		if _, err := io.WriteString(conn, pipeline.String()); err != nil {
			t.Fatal(err)
		}
		pipeline.Reset()
	}
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if text, ok := strings.CutPrefix(line, ">"); ok {
			pipeline.WriteString(strings.ReplaceAll(strings.TrimPrefix(text, " "), "\v", "\n") + "\r\n")
			continue
		}
		flush()
		want := strings.TrimPrefix(line, "< ")
		got, err := r.ReadString('\n')
		switch {
		case err == io.EOF && got == "":
			got = "EOF"
		case err != nil:
			t.Fatalf("waiting for %q: %v", want, err)
		}
		if got = strings.TrimSpace(got); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	flush()
}

func (h *host) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

const begin = "< 220 mx.a.test ESMTP\n> HELO x\n< 250 mx.a.test\n"

func one(reply string) string {
	return "> MAIL FROM:<n@s.test>\n> RCPT TO:<u@a.test>\n> DATA\n< 250 2.1.0 Ok\n< 250 2.1.5 Ok\n" +
		"< 354 End data with <CR><LF>.<CR><LF>\n> Subject: x\n>\n> text\n> .\n" + reply
}

func TestDialogues(t *testing.T) {
	const ok = "< 250 2.0.0 Ok: queued\n"
	slow := func(where string) scenarios.Provider {
		return scenarios.Provider{Rate: []scenarios.RateStep{{PerSecond: 0.1}}, RefuseAt: where, Texts: map[string]string{"RATE": "450 4.7.1 slow down {ip} {rcpt}"}}
	}
	for _, tc := range []struct {
		name   string
		cfg    scenarios.Provider
		script string
	}{
		{"extensions", scenarios.Provider{}, `
			< 220 mx.a.test ESMTP
			> EHLO x
			< 250-mx.a.test
			< 250-PIPELINING
			< 250-SIZE 52428800
			< 250-8BITMIME
			< 250-ENHANCEDSTATUSCODES
			< 250-DSN
			< 250 XCLIENT ADDR
			> STARTTLS
			< 502 5.5.1 STARTTLS is not offered
			> QUIT
			< 221 2.0.0 mx.a.test closing connection
			< EOF`},
		{"two messages in a pipeline", scenarios.Provider{}, begin + one(ok) + one(ok) + "> NOOP\n< 250 2.0.0 Ok"},
		{"order of commands", scenarios.Provider{}, `
			< 220 mx.a.test ESMTP
			> MAIL FROM:<a@b.test>
			< 503 5.5.1 EHLO first
			> EHLO
			< 501 5.5.4 Say who you are
			> HELO x
			< 250 mx.a.test
			> RCPT TO:<u@a.test>
			< 503 5.5.1 MAIL first
			> DATA
			< 503 5.5.1 No valid recipients
			> MAIL FROM:<>
			< 250 2.1.0 Ok
			> MAIL FROM:<>
			< 503 5.5.1 Nested MAIL
			> DATA
			< 503 5.5.1 No valid recipients
			> RSET
			< 250 2.0.0 Ok
			> VRFY u
			< 252 2.5.0 Send some mail and see
			> BDAT 1
			< 500 5.5.1 Command not recognised`},
		{"parameters", scenarios.Provider{}, begin + `
			> MAIL FROM:<a@b.test> SIZE=99999999
			< 552 5.3.4 Message too big
			> MAIL FROM:<a@b.test> SIZE=x
			< 501 5.5.4 Bad parameter value
			> MAIL FROM:<a@b.test> ENVID=+0
			< 501 5.5.4 Bad parameter value
			> MAIL FROM:<a@b.test> SMTPUTF8
			< 555 5.5.4 Unknown parameter
			> MAIL FROM:a@b.test
			< 501 5.5.4 Want MAIL FROM:<address>
			> MAIL FROM:<a@b.test> SIZE=1 BODY=8BITMIME RET=HDRS ENVID=x
			< 250 2.1.0 Ok
			> RCPT TO:<>
			< 501 5.5.4 Want RCPT TO:<address>
			> RCPT TO:<u@a.test> X=1
			< 555 5.5.4 Unknown parameter
			> RCPT TO:<u@elsewhere.test>
			< 550 5.7.1 <u@elsewhere.test>: Relaying denied
			> RCPT TO:<u@A.TEST> NOTIFY=NEVER ORCPT=rfc822;u
			< 250 2.1.5 Ok
			> RCPT TO:<u@b.test>
			< 452 4.5.3 One provider for each message`},
		{"rate at mail", slow("mail"), begin + one(ok) + "> MAIL FROM:<n@s.test>\n> RCPT TO:<u@a.test>\n> DATA\n" +
			"< 450 4.7.1 slow down 127.0.0.1 \n< 503 5.5.1 MAIL first\n< 503 5.5.1 No valid recipients"},
		{"rate at rcpt", slow("rcpt"), begin + one(ok) + "> MAIL FROM:<n@s.test>\n> RCPT TO:<u@a.test>\n> DATA\n" +
			"< 250 2.1.0 Ok\n< 450 4.7.1 slow down 127.0.0.1 u@a.test\n< 503 5.5.1 No valid recipients"},
		{"rate at data", slow("data"), begin + one(ok) + one("< 450 4.7.1 slow down 127.0.0.1 u@a.test\n") + "> NOOP\n< 250 2.0.0 Ok"},
		{"421 in several lines ends the connection", scenarios.Provider{
			Rate: []scenarios.RateStep{{PerSecond: 0}}, Texts: map[string]string{"RATE": "421-4.7.28 unusual\n421-4.7.28 rate"},
		}, begin + "> MAIL FROM:<n@s.test>\n> RCPT TO:<u@a.test>\n> DATA\n< 250 2.1.0 Ok\n< 421-4.7.28 unusual\n< 421 4.7.28 rate\n< EOF"},
		{"unknown user", scenarios.Provider{UnknownUsers: 1, Texts: map[string]string{"USER": "550 5.1.1 no {rcpt} at {mx}"}}, begin + `
			> MAIL FROM:<n@s.test>
			< 250 2.1.0 Ok
			> RCPT TO:<u@a.test>
			< 550 5.1.1 no u@a.test at mx.a.test`},
		{"greylisted", scenarios.Provider{Grey: scenarios.Grey{Frac: 1, MinRetry: scenarios.Duration(time.Hour)}}, begin + `
			> MAIL FROM:<n@s.test>
			< 250 2.1.0 Ok
			> RCPT TO:<u@a.test>
			< 451 4.7.1 Greylisted, try again later`},
		{"messages per connection", scenarios.Provider{MsgsPerConn: 2}, begin + one(ok) + one(ok) +
			"> MAIL FROM:<n@s.test>\n< 421 4.7.0 Too many messages in this session\n< EOF"},
		{"messages per connection, silent", scenarios.Provider{MsgsPerConn: 2, SilentClose: true}, begin + one(ok) + one(ok) + "< EOF"},
		{"blocked", scenarios.Provider{Block: scenarios.Block{Scripted: []scenarios.ScriptedBlock{{Len: scenarios.Duration(time.Hour)}}}}, begin +
			"> MAIL FROM:<n@s.test>\n< 451 4.7.1 Mail from [127.0.0.1] is temporarily blocked due to poor reputation"},
		{
			"outage with 421",
			scenarios.Provider{Outage: []scenarios.Outage{{Len: scenarios.Duration(time.Hour), Kind: scenarios.Outage421}}},
			"< 421 4.3.2 Service not available, try again later\n< EOF",
		},
		{"a dot behind a bare line feed is content", scenarios.Provider{}, begin +
			"> MAIL FROM:<n@s.test>\n> RCPT TO:<u@a.test>\n> DATA\n< 250 2.1.0 Ok\n< 250 2.1.5 Ok\n< 354 End data with <CR><LF>.<CR><LF>\n" +
			"> x\v.\n> .\n" + ok},
		{"record fails", scenarios.Provider{}, begin + strings.Replace(one("< 451 4.3.0 Local error\n"), "n@s.test", "disk@full.test", 1)},
		{"endless line", scenarios.Provider{}, begin + "> " + strings.Repeat("x", 5000) + "\n< 500 5.5.2 Line too long\n< EOF"},
		{"xclient", scenarios.Provider{}, begin + `
			> XCLIENT NAME=x
			< 501 5.5.4 Want XCLIENT ADDR=address
			> XCLIENT ADDR=10.1.2.3
			< 220 mx.a.test ESMTP
			> MAIL FROM:<a@b.test>
			< 503 5.5.1 EHLO first`},
		{"a PROXY header without an address", scenarios.Provider{}, "> PROXY UNKNOWN\n< 220 mx.a.test ESMTP\n> RSET\n< 250 2.0.0 Ok"},
		{"a PROXY header that is none", scenarios.Provider{}, "> PROXY TCP4 here there 1 2\n< 220 mx.a.test ESMTP\n< 501 5.5.4 Want PROXY TCP4 source destination port port\n< EOF"},
		{"a PROXY header that comes late", scenarios.Provider{}, "< 220 mx.a.test ESMTP\n> RSET\n> PROXY TCP4 10.1.2.3 127.0.0.1 4000 25\n< 250 2.0.0 Ok\n< 500 5.5.1 Command not recognised"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serve(t, tc.cfg).dialogue(t, tc.script)
		})
	}
}

func TestConnectionLimit(t *testing.T) {
	h := serve(t, scenarios.Provider{Conc: []scenarios.ConcStep{{N: 1}}})
	first := h.dial(t)
	r := bufio.NewReader(first)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
		t.Fatalf("first: %q, %v", line, err)
	}
	h.dialogue(t, "< 421 4.7.0 Too many connections from [127.0.0.1]\n< EOF")
	if _, err := io.WriteString(first, "XCLIENT ADDR=127.0.0.9\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
		t.Fatalf("as another source: %q, %v", line, err)
	}
	// QUIT gives the place back before its answer, so who reads that finds the place free.
	for range 3 {
		h.dialogue(t, "< 220 mx.a.test ESMTP\n> QUIT\n< 221 2.0.0 mx.a.test closing connection")
	}
}

// TestProxyHeaderNamesTheSource: limits hold for the address in the header.
func TestProxyHeaderNamesTheSource(t *testing.T) {
	h := serve(t, scenarios.Provider{BurstSeconds: 1, Rate: []scenarios.RateStep{{PerSecond: 1}}})
	for _, address := range []string{"TCP4 10.1.2.3 127.0.0.1", "TCP4 10.1.2.4 127.0.0.1", "TCP6 2001:db8::1 ::1"} {
		h.dialogue(t, "> PROXY "+address+` 4000 25
			< 220 mx.a.test ESMTP
			> HELO n.s.test
			< 250 mx.a.test
			> MAIL FROM:<n@s.test>
			< 250 2.1.0 Ok
			> RCPT TO:<u@a.test>
			< 250 2.1.5 Ok
			> DATA
			< 354 End data with <CR><LF>.<CR><LF>
			> .
			< 250 2.0.0 Ok: queued`)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	sources := make([]string, 0, len(h.got))
	for _, d := range h.got {
		sources = append(sources, d.Source.String())
	}
	if got := strings.Join(sources, " "); got != "10.1.2.3 10.1.2.4 2001:db8::1" {
		t.Errorf("sources %q", got)
	}
}

func TestOutageThatResets(t *testing.T) {
	h := serve(t, scenarios.Provider{Outage: []scenarios.Outage{{Len: scenarios.Duration(time.Minute), Kind: scenarios.OutageRefuse}}})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.addr)
	if err == nil { // the reset may be there before the dialler looks
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestOutageThatSaysNothing(t *testing.T) {
	h := serve(t, scenarios.Provider{Outage: []scenarios.Outage{{Len: scenarios.Duration(time.Minute), Kind: scenarios.OutageTimeout}}})
	conn := h.dial(t)
	if tcp, ok := conn.(*net.TCPConn); !ok || tcp.CloseWrite() != nil {
		t.Fatal("close the sending side")
	}
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil {
		t.Errorf("got %q, %v; want nothing until we leave", got, err)
	}
}

func TestTheClockDecides(t *testing.T) {
	h := serve(t, scenarios.Provider{Rate: []scenarios.RateStep{{PerSecond: 0}, {At: scenarios.Duration(time.Minute), PerSecond: 10}}})
	try := begin + "> MAIL FROM:<n@s.test>\n< 250 2.1.0 Ok\n> RCPT TO:<u@a.test>\n"
	h.dialogue(t, try+"< 451 4.7.1 Rate limit exceeded for [127.0.0.1], slow down")
	h.clock.set(2 * time.Minute)
	h.dialogue(t, try+"< 250 2.1.5 Ok")
}

func TestDelivery(t *testing.T) {
	h := serve(t, scenarios.Provider{})
	h.clock.set(time.Minute)
	h.dialogue(t, begin+`
		> MAIL FROM:<n@s.test> ENVID=a+2Bb
		> RCPT TO:<u@a.test> ORCPT=rfc822;U+40a.test
		> RCPT TO:<v@a.test> NOTIFY=NEVER
		> DATA
		< 250 2.1.0 Ok
		< 250 2.1.5 Ok
		< 250 2.1.5 Ok
		< 354 End data with <CR><LF>.<CR><LF>
		> Subject: x
		> ..dot: stuffed
		>
		> Body: is not kept
		> .
		< 250 2.0.0 Ok: queued`)
	if len(h.got) != 1 {
		t.Fatalf("%d deliveries", len(h.got))
	}
	d := h.got[0]
	if d.MX != "mx.a.test" || d.Source.String() != "127.0.0.1" || d.At != time.Minute || d.MailFrom != "n@s.test" || d.EnvID != "a+b" || d.Size != 48 {
		t.Errorf("delivery %+v", d)
	}
	want := []Recipient{{Address: "u@a.test", Original: "rfc822;U@a.test"}, {Address: "v@a.test", NeverNotify: true}}
	if diff := cmp.Diff(want, d.Recipients); diff != "" {
		t.Error(diff)
	}
	if got := string(d.Header); got != "Subject: x\r\n.dot: stuffed\r\n" {
		t.Errorf("header %q", got)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add(`FROM:<a@b> SIZE=1 BODY=8BITMIME`)
	f.Add(`FROM: <"x>y"@b>`)
	f.Add(`from:<`)
	f.Fuzz(func(t *testing.T, arg string) {
		p, ok := parsePath("FROM:", arg)
		if !ok {
			return
		}
		if strings.ContainsAny(p.address, "\r\n\x00") || p.address != "" && !strings.Contains(p.address, "@") {
			t.Errorf("parsePath(%q) = %q", arg, p.address)
		}
		if again, ok := parsePath("FROM:", "FROM:<"+p.address+">"); !ok || again.address != p.address {
			t.Errorf("%q does not parse as it was written", p.address)
		}
	})
}

func FuzzDecodeXtext(f *testing.F) {
	f.Add("a+2Bb")
	f.Add("+")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := decodeXtext(s)
		if err == nil && (len(got) > len(s) || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("decodeXtext(%q) = %q", s, got)
		}
	})
}
