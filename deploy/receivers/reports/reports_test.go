package reports

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	gomessage "github.com/emersion/go-message"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
)

var arrival = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func original() *Original {
	return &Original{
		MX: "mx1.a.test", Source: netip.MustParseAddr("127.0.0.2"), Arrival: arrival,
		MailFrom: "news@sender.test", EnvID: "env 7", Recipient: "user@a.test", OriginalRecipient: "rfc822;User@a.test",
		Header: []byte("Message-ID: <1@sender.test>\r\nX-Carom-Ref: abc\r\nSubject: a very\r\n folded one\r\n"),
	}
}

// parts parses a multipart/report and returns the content types and bodies of its parts.
func parts(t *testing.T, raw []byte, reportType string) (header gomessage.Header, types, bodies []string) {
	t.Helper()
	e, err := gomessage.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	if kind, params, err := e.Header.ContentType(); err != nil || kind != "multipart/report" || params["report-type"] != reportType {
		t.Fatalf("content type %s %v, %v", kind, params, err)
	}
	r := e.MultipartReader()
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return e.Header, types, bodies
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		kind, _, err := part.Header.ContentType()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part.Body)
		if err != nil {
			t.Fatal(err)
		}
		types, bodies = append(types, kind), append(bodies, string(b))
	}
}

// fields parses blocks of header fields parted by empty lines.
func fields(t *testing.T, body string) (blocks []textproto.MIMEHeader) {
	t.Helper()
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(body + "\r\n")))
	for {
		h, err := r.ReadMIMEHeader()
		if len(h) > 0 {
			blocks = append(blocks, h)
		}
		if errors.Is(err, io.EOF) {
			return blocks
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, body)
		}
	}
}

func TestBounceIsRFC3464(t *testing.T) {
	text := "550-5.1.1 The email account that you tried to reach does not exist. Please try\n550 5.1.1 again."
	header, types, bodies := parts(t, Bounce(original(), text, arrival.Add(time.Minute)), "delivery-status")
	if diff := cmp.Diff([]string{"text/plain", "message/delivery-status", "text/rfc822-headers"}, types); diff != "" {
		t.Fatal(diff)
	}
	if header.Get("To") != "news@sender.test" || header.Get("Auto-Submitted") != "auto-replied" || header.Get("Message-Id") == "" {
		t.Errorf("header %v", header.Map())
	}
	want := []textproto.MIMEHeader{
		{"Original-Envelope-Id": {"env 7"}, "Reporting-Mta": {"dns; mx1.a.test"}, "Arrival-Date": {"Sun, 01 Mar 2026 12:00:00 +0000"}},
		{
			"Original-Recipient": {"rfc822;User@a.test"}, "Final-Recipient": {"rfc822; user@a.test"}, "Action": {"failed"}, "Status": {"5.1.1"},
			"Diagnostic-Code":   {"smtp; 550 5.1.1 The email account that you tried to reach does not exist. Please try again."},
			"Last-Attempt-Date": {"Sun, 01 Mar 2026 12:01:00 +0000"},
		},
	}
	if diff := cmp.Diff(want, fields(t, bodies[1])); diff != "" {
		t.Error(diff)
	}
	if bodies[2] != string(original().Header) {
		t.Errorf("third part %q", bodies[2])
	}
}

func TestComplaintIsRFC5965(t *testing.T) {
	header, types, bodies := parts(t, Complaint(original(), "fbl@sender.test", arrival), "feedback-report")
	if diff := cmp.Diff([]string{"text/plain", "message/feedback-report", "text/rfc822-headers"}, types); diff != "" {
		t.Fatal(diff)
	}
	if header.Get("To") != "fbl@sender.test" {
		t.Errorf("header %v", header.Map())
	}
	want := []textproto.MIMEHeader{{
		"Feedback-Type": {"abuse"}, "User-Agent": {"carom-receivers/1.0"}, "Version": {"1"},
		"Original-Mail-From": {"<news@sender.test>"}, "Original-Rcpt-To": {"<user@a.test>"}, "Original-Envelope-Id": {"env 7"},
		"Arrival-Date": {"Sun, 01 Mar 2026 12:00:00 +0000"}, "Source-Ip": {"127.0.0.2"}, "Reporting-Mta": {"dns; mx1.a.test"},
		"Reported-Domain": {"sender.test"},
	}}
	if diff := cmp.Diff(want, fields(t, bodies[1])); diff != "" {
		t.Error(diff)
	}
	if bodies[2] != string(original().Header) {
		t.Errorf("third part %q", bodies[2])
	}
}

func TestReportsAreSevenBitAndBroken(t *testing.T) {
	o := original()
	o.Header = []byte("Subject: caf\xc3\xa9 = good\r\nX: " + strings.Repeat("y", 200) + "\r\n")
	o.Recipient = strings.Repeat("x", 200) + "@a.test"
	raw := Complaint(o, "fbl@sender.test", arrival)
	for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n") || bytes.ContainsFunc(line, func(r rune) bool { return r > '~' }) {
			t.Errorf("bad line %q", line)
		}
	}
	if _, _, bodies := parts(t, raw, "feedback-report"); bodies[2] != string(o.Header) {
		t.Errorf("third part decodes to %q", bodies[2])
	}
}

func TestTheSameReportHasTheSameMessageID(t *testing.T) {
	other := original()
	other.Recipient = "other@a.test"
	id := func(raw []byte) string {
		h, _, _ := parts(t, raw, "delivery-status")
		return h.Get("Message-Id")
	}
	a, b := id(Bounce(original(), "550 no", arrival)), id(Bounce(original(), "550 no", arrival.Add(time.Hour)))
	if c := id(Bounce(other, "550 no", arrival)); a != b || a == c {
		t.Errorf("ids %q, %q, %q: want the first two equal, the last different", a, b, c)
	}
}

// sink is an SMTP server that refuses the first messages.
type sink struct {
	mu     sync.Mutex
	refuse []*smtp.SMTPError
	got    chan string
}

func (s *sink) NewSession(*smtp.Conn) (smtp.Session, error) { return s, nil }
func (s *sink) Reset()                                      {}
func (s *sink) Logout() error                               { return nil }
func (s *sink) Mail(string, *smtp.MailOptions) error        { return nil }
func (s *sink) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (s *sink) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refuse) > 0 {
		first := s.refuse[0]
		s.refuse = s.refuse[1:]
		return first
	}
	s.got <- string(b)
	return nil
}

func TestMailer(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := &sink{got: make(chan string, 10), refuse: []*smtp.SMTPError{
		{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "later"},
		{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "never"},
	}}
	server := smtp.NewServer(backend)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })

	m := NewMailer(slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); <-done }()
	go func() { m.Run(ctx); close(done) }()
	add := func(body string, due time.Duration) {
		m.Add(Mail{Due: time.Now().Add(due), Addr: ln.Addr().String(), HELO: "mx.test", To: "a@b.test", Body: []byte(body)})
	}
	add("Subject: deferred once\r\n\r\n", 0)
	wait := func(want Counts) {
		t.Helper()
		eventually(t, func() bool { return m.Counts() == want })
	}
	eventually(t, func() bool { return backend.refusalsLeft() == 1 })
	add("Subject: refused\r\n\r\n", 0)
	eventually(t, func() bool { return backend.refusalsLeft() == 0 })
	wait(Counts{Failed: 1, Pending: 1})
	add("Subject: much later\r\n\r\n", time.Hour)
	wait(Counts{Sent: 1, Failed: 1, Pending: 1}) // the first was tried again
	if got := <-backend.got; !strings.HasPrefix(got, "Subject: deferred once") {
		t.Errorf("got %q", got)
	}
}

func (s *sink) refusalsLeft() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.refuse)
}

// eventually waits until claim holds.
func eventually(t *testing.T, claim func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !claim(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not come true in 10 s")
		}
	}
}
