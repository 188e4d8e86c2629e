package receivers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-message"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

// mailbox is the SMTP server that reports come to.
type mailbox struct {
	addr string
	got  chan received
}

type received struct {
	from, to string
	raw      []byte
}

type inbound struct {
	*mailbox
	r received
}

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &inbound{mailbox: m}, nil }

func (s *inbound) Reset()        {}
func (s *inbound) Logout() error { return nil }
func (s *inbound) Mail(from string, _ *smtp.MailOptions) error {
	s.r.from = from
	return nil
}

func (s *inbound) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.r.to = to
	return nil
}

func (s *inbound) Data(r io.Reader) (err error) {
	if s.r.raw, err = io.ReadAll(r); err == nil {
		s.got <- s.r
	}
	return err
}

func openMailbox(t *testing.T) *mailbox {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{addr: ln.Addr().String(), got: make(chan received, 100)}
	server := smtp.NewServer(m)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return m
}

// hand is a clock that moves only when a test says so.
type hand struct {
	mu  sync.Mutex
	now time.Time
}

func (h *hand) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hand) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// start runs o with what it leaves open filled in, and returns how to stop it.
func start(t *testing.T, o Options) (r *Receivers, stop func()) {
	t.Helper()
	o.DNS, o.HTTP, o.Log = "127.0.0.1:0", "127.0.0.1:0", slog.New(slog.DiscardHandler)
	r, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func demo(t *testing.T) *scenarios.Scenario {
	t.Helper()
	s, err := scenarios.Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deliver sends one message to the first MX host of provider n.
func deliver(t *testing.T, r *Receivers, n int, from, rcpt, header string) error {
	t.Helper()
	for _, host := range r.Addresses().MX {
		if host.Provider != r.o.Scenario.Providers[n].Name {
			continue
		}
		c, err := smtp.Dial(host.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.Mail(from, &smtp.MailOptions{EnvelopeID: "env-1"}); err != nil {
			return err
		}
		if err := c.Rcpt(rcpt, nil); err != nil {
			return err
		}
		w, err := c.Data()
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, header+"\r\nbody\r\n"); err != nil {
			return err
		}
		return w.Close()
	}
	t.Fatal("no such provider")
	return nil
}

func get[T any](t *testing.T, r *Receivers, path string) (v T) {
	t.Helper()
	body := request(t, r, http.MethodGet, path, "", http.StatusOK)
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return v
}

func request(t *testing.T, r *Receivers, method, path, body string, want int) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.Addresses().HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		t.Fatalf("%s %s: %d %s, %v; want %d", method, path, res.StatusCode, b, err, want)
	}
	return b
}

func TestDNS(t *testing.T) {
	r, _ := start(t, Options{Scenario: demo(t)})
	gmail := r.Addresses().MX[0]
	for _, tc := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"GmailIsh.test.", dns.TypeMX, dns.RcodeSuccess, []string{"mx1.gmailish.test.", "mx2.gmailish.test."}},
		{"mx1.gmailish.test.", dns.TypeA, dns.RcodeSuccess, []string{gmail.Addr.Addr().String()}},
		{"mx1.gmailish.test.", dns.TypeAAAA, dns.RcodeSuccess, nil},
		{"gmailish.test.", dns.TypeA, dns.RcodeSuccess, nil},
		{"am0.yahooish.test.", dns.TypeMX, dns.RcodeSuccess, nil}, // exists: it has names below
		{"nowhere.test.", dns.TypeMX, dns.RcodeNameError, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := new(dns.Msg).SetQuestion(tc.name, tc.qtype)
			q.SetEdns0(1232, false)
			answer, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), q, r.Addresses().DNS)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, rr := range answer.Answer {
				switch rr := rr.(type) {
				case *dns.MX:
					got = append(got, rr.Mx)
				case *dns.A:
					got = append(got, rr.A.String())
				}
			}
			if answer.Rcode != tc.rcode || !cmp.Equal(got, tc.want) || len(got) == 0 && len(answer.Ns) != 1 {
				t.Errorf("%s %s over %s: %s", tc.name, dns.TypeToString[tc.qtype], network, answer)
			}
		}
	}
}

func TestReportsComeBack(t *testing.T) {
	inbox := openMailbox(t)
	sc := demo(t)
	sc.Providers[0].UnknownUsers = 0
	sc.Providers[0].AsyncBounces = scenarios.AsyncBounces{Frac: 1}
	sc.Providers[2].Grey.Frac, sc.Providers[2].UnknownUsers, sc.Providers[2].AsyncBounces.Frac = 0, 0, 0
	sc.Providers[2].Complaints.Base, sc.Providers[2].Complaints.DelaySeconds = 1, [2]float64{}
	r, _ := start(t, Options{Scenario: sc, ReportsTo: "smtp://" + inbox.addr + "/fbl@sender.test"})
	header := "Message-ID: <7@sender.test>\r\nX-Carom-Ref: ref-7\r\n"
	for n, want := range map[int]struct{ from, to, reportType, field string }{
		0: {"", "news@sender.test", "delivery-status", "Final-Recipient: rfc822; u@gmailish.test\r\n"},
		2: {"feedback@smtp-in.eurotelco.test", "fbl@sender.test", "feedback-report", "Original-Rcpt-To: <u@eurotelco.test>\r\n"},
	} {
		if err := deliver(t, r, n, "news@sender.test", "u@"+sc.Providers[n].Domains[0], header); err != nil {
			t.Fatal(err)
		}
		got := <-inbox.got
		if got.from != want.from || got.to != want.to {
			t.Errorf("report from <%s> to <%s>, want <%s> to <%s>", got.from, got.to, want.from, want.to)
		}
		e, err := message.Read(bytes.NewReader(got.raw))
		if err != nil {
			t.Fatal(err)
		}
		if _, params, err := e.Header.ContentType(); err != nil || params["report-type"] != want.reportType {
			t.Errorf("report type %v, %v", params, err)
		}
		for _, part := range []string{want.field, "Original-Envelope-Id: env-1\r\n", header} {
			if !strings.Contains(string(got.raw), part) {
				t.Errorf("%q is not in\n%s", part, got.raw)
			}
		}
	}
	if err := deliver(t, r, 0, "", "u@gmailish.test", header); err != nil {
		t.Fatal(err)
	}
	if got := r.Result().Reports; got.Failed+got.Pending > 1 || got.Sent > 2 { // the last may not be counted yet
		t.Errorf("reports %+v: there must be none to the null sender", got)
	}
}

func TestScheduledCutStepAndInterfaces(t *testing.T) {
	out := t.TempDir()
	clock := &hand{now: time.Now()}
	sc := demo(t)
	sc.Providers[0].UnknownUsers, sc.Providers[0].Complaints.Base, sc.Providers[0].AsyncBounces.Frac = 0, 0, 0
	sc.Providers[0].LatencyMS = [2]float64{}
	r, stop := start(t, Options{Scenario: sc, Out: out, TimeScale: 10, StartOnFirstMessage: true, Now: clock.Now})
	request(t, r, http.MethodGet, "/healthz", "", http.StatusOK)

	clock.add(time.Hour) // nothing has begun
	if got := get[truth](t, r, "/truth"); got.T != 0 || *got.Providers[0].RatePerS != 110 {
		t.Errorf("truth before the first message: %+v", got)
	}
	if err := deliver(t, r, 0, "n@s.test", "a@gmailish.test", "Message-ID: <1@s.test>\r\nX-Carom-Ref: r1\r\n"); err != nil {
		t.Fatal(err)
	}
	clock.add(5 * time.Second) // 50 s of scenario time
	if got := get[truth](t, r, "/truth"); got.T != 50 || *got.Providers[0].RatePerS != 27.5 {
		t.Errorf("truth after the cut: %+v", got)
	}
	if got := get[truth](t, r, "/truth?t=49s"); *got.Providers[0].RatePerS != 110 {
		t.Errorf("truth of the past: %+v", got)
	}

	request(t, r, http.MethodPost, "/step", `{"provider":"gmailish","rate_per_s":0}`, http.StatusOK)
	clock.add(time.Second) // the bucket keeps what it had until it is asked
	err := deliver(t, r, 0, "n@s.test", "a@gmailish.test", "")
	if reply, ok := errors.AsType[*smtp.SMTPError](err); !ok || reply.Code != 421 || !strings.Contains(reply.Message, "unusual rate") {
		t.Errorf("after the step: %v", err)
	}
	for body, want := range map[string]string{
		`{"provider":"x"}`:                       `provider: there is no "x"`,
		`{"provider":"gmailish","rate":1}`:       "step: rate: unknown field",
		`{"provider":"gmailish","grey_frac":2}`:  "grey_frac: is 2, want 0 to 1",
		`{"provider":"gmailish","block":"soon"}`: `step: block: "soon" is not a duration`,
		`x`:                                      "not JSON",
	} {
		if got := request(t, r, http.MethodPost, "/step", body, http.StatusBadRequest); !strings.Contains(string(got), want) {
			t.Errorf("POST /step %s: %s, want %q", body, got, want)
		}
	}

	s := get[stats](t, r, "/stats")
	sum := map[provider.Class]int{}
	for _, row := range s.Rows {
		for class, n := range row.Classes {
			sum[class] += n
		}
	}
	if s.Now != 60 || s.TimeScale != 10 || sum[provider.OK] != 1 || sum[provider.Rate] != 1 {
		t.Errorf("stats %+v", s)
	}
	if got := get[oracle](t, r, "/oracle?t=100&sources=1"); got.Providers[1].Oracle != 8000 || got.Providers[0].Oracle != 3000 {
		t.Errorf("oracle %+v, want 8000 for yahooish and what gmailish took until the step", got)
	}
	for _, path := range []string{"/truth?t=x", "/stats?since=-1s", "/oracle?sources=0"} {
		request(t, r, http.MethodGet, path, "", http.StatusBadRequest)
	}

	stop()
	checkFiles(t, out)
}

// checkFiles checks what TestScheduledCutStepAndInterfaces must have left.
func checkFiles(t *testing.T, out string) {
	t.Helper()
	var result Result
	b, err := os.ReadFile(filepath.Join(out, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &result); err != nil {
		t.Fatal(err)
	}
	if p := result.Providers[0]; result.T != 60 || p.Accepted != 1 || p.Attempts != 2 || *p.DeferralsPercent != 50 || p.Sources != 1 {
		t.Errorf("result %s", b)
	}
	kinds := map[string]int{}
	for _, line := range lines(t, filepath.Join(out, "trace.ndjson")) {
		var v struct {
			Kind    string                 `json:"kind"`
			Classes map[provider.Class]int `json:"classes"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		kinds[v.Kind]++
		kinds["OK"] += v.Classes[provider.OK]
		kinds["RATE"] += v.Classes[provider.Rate]
	}
	if kinds["step"] != 1 || kinds["OK"] != 1 || kinds["RATE"] != 1 {
		t.Errorf("trace has %v", kinds)
	}
	accepted := lines(t, filepath.Join(out, "accepted.ndjson"))
	if len(accepted) != 1 {
		t.Fatalf("%d lines in the accept log", len(accepted))
	}
	var a Accepted
	if err := json.Unmarshal(accepted[0], &a); err != nil {
		t.Fatal(err)
	}
	a.Time = time.Time{}
	want := Accepted{
		Provider: "gmailish", MX: "mx1.gmailish.test", Source: "127.0.0.1", MessageID: "1@s.test", Ref: "r1", MailFrom: "n@s.test",
		Recipient: "a@gmailish.test", Size: a.Size,
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Error(diff)
	}
}

func lines(t *testing.T, name string) (all [][]byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		all = append(all, line)
	}
	return all
}

func TestStartTLS(t *testing.T) {
	sc := demo(t)
	sc.Providers[1].StartTLS = true
	r, _ := start(t, Options{Scenario: sc})
	for _, host := range r.Addresses().MX {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := smtp.NewClientStartTLS(conn, certificateOf(r, host.Name))
		if (err == nil) != (host.Provider == "yahooish") {
			t.Errorf("STARTTLS at %s: %v", host.Name, err)
		}
		if err == nil {
			if err := c.Mail("a@b.test", nil); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}
		_ = conn.Close()
	}
}

func TestHeaderValue(t *testing.T) {
	header := []byte("Received: x\r\nmessage-id:\r\n <1@a.test>\r\nSubject : two\r\n\tlines\r\nMessage-ID: <2@a.test>\r\n")
	for name, want := range map[string]string{"Message-ID": "1@a.test", "Subject": "two\tlines", "X": "", "Received": "x"} {
		if got := headerValue(header, name); got != want {
			t.Errorf("headerValue(%s) = %q, want %q", name, got, want)
		}
	}
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.json")
	if err := os.WriteFile(bad, []byte(`{"version":1,"sead":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--help"}, 0, ""},
		{nil, 2, "--scenario is missing"},
		{[]string{"--scenario", bad}, 2, bad + ": sead: unknown field"},
		{[]string{"--scenario", "none"}, 2, `"none": not one of apple, comcast, demo`},
		{[]string{"--scenario", "demo", "--smtp", "70000"}, 2, "not a port"},
		{[]string{"--scenario", "demo", "--time-scale", "-1"}, 2, "want 1 to 100"},
		{[]string{"--scenario", "demo", "--reports-to", "x"}, 2, "smtp://HOST:PORT"},
		{[]string{"--scenario", "demo", "extra"}, 2, `unexpected argument "extra"`},
	} {
		var out bytes.Buffer
		err := Command(t.Context(), tc.args, service.IO{Out: &out, Err: io.Discard})
		if service.ExitStatus(err) != tc.status || tc.want != "" && !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%q: %v (status %d), want %q (%d)", tc.args, err, service.ExitStatus(err), tc.want, tc.status)
		}
	}

	// A port that is taken is a mistake of configuration, and names the host.
	taken, _ := start(t, Options{Scenario: demo(t)})
	err := Command(t.Context(), []string{"--scenario", "demo", "--smtp", fmt.Sprint(taken.Addresses().SMTPPort)}, service.IO{Out: io.Discard, Err: io.Discard})
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "listen for SMTP as mx1.gmailish.test") {
		t.Errorf("with a taken port: %v", err)
	}

	ready := filepath.Join(dir, "ready.json")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Command(ctx, []string{"--scenario", "demo", "--ready-file", ready}, service.IO{Out: w, Err: io.Discard})
	}()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || !strings.HasPrefix(line, "receivers: 5 MX hosts") {
		t.Fatalf("%q, %v", line, err)
	}
	var a Addresses
	b, err := os.ReadFile(ready)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &a); err != nil || a.SMTPPort == 0 || a.PID != os.Getpid() || len(a.MX) != 5 {
		t.Errorf("%s, %v", b, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// certificateOf returns a client's configuration that trusts the receivers' own certificate for name.
func certificateOf(r *Receivers, name string) *tls.Config {
	pool := x509.NewCertPool()
	for _, server := range r.servers {
		if server.TLS != nil {
			if c, err := x509.ParseCertificate(server.TLS.Certificates[0].Certificate[0]); err == nil {
				pool.AddCert(c)
			}
		}
	}
	return &tls.Config{RootCAs: pool, ServerName: name}
}
