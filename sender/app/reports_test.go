package app

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/sender/config"
)

// The mails that come to a processor in these tests.
var (
	bounceMail = `From: mailer-daemon@mx.big.test
Subject: failure notice
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: text/plain

no such user
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.big.test

Final-Recipient: rfc822; ann@big.test
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 no such user

--b
Content-Type: text/rfc822-headers

Message-ID: <1@shop.test>
From: news@shop.test

--b--
`
	complaintMail = `From: feedback@big.test
Subject: complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: big/1
Version: 1
Original-Rcpt-To: <ann@big.test>

--b
Content-Type: message/rfc822

Message-ID: <1@shop.test>
From: news@shop.test

hello
--b--
`
	autoReplyMail = `From: ann@big.test
Subject: Out of office: spring
Auto-Submitted: auto-replied

I am away until Monday.
`
	humanMail = `From: ann@big.test
Subject: a question

Where is my parcel?
`
	gatewayMail = `From: gateway@big.test
Subject: problem

Could not reach ann@big.test (550 5.1.1 no such user)
`
)

// deepMail is a mail that nobody looks into: multiparts in multiparts.
func deepMail() string {
	var b strings.Builder
	b.WriteString("From: ann@big.test\n")
	for i := range 100 {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	return b.String()
}

func (p *place) sendText(address, from, to, text string) {
	p.t.Helper()
	if err := smtp.SendMail(address, nil, from, []string{to}, []byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		p.t.Fatal(err)
	}
}

// TestReportsGoWhereTheProcessorSays: what is written down of each mail, and who gets it.
func TestReportsGoWhereTheProcessorSays(t *testing.T) {
	const bounces, complaints = "bounce@shop.test", "fbl@shop.test"
	for _, tc := range []struct {
		name, section string
		to, text      string
		kinds         map[event.Kind]int
		delivered     []string
	}{
		{
			"a bounce ends here", "", bounces, bounceMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"a complaint ends here", "", complaints, complaintMail,
			map[event.Kind]int{event.Received: 1, event.Complaint: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"deliver-matched-email", "deliver-matched-email yes", bounces, bounceMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.Delivered: 1},
			[]string{"<daemon@big.test> to <bounce@shop.test>"},
		},
		{
			"deliver-bounces", "deliver-bounces yes", bounces, bounceMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.Delivered: 1},
			[]string{"<daemon@big.test> to <bounce@shop.test>"},
		},
		{
			"mail that is no report", "", bounces, humanMail,
			map[event.Kind]int{event.Received: 1, event.Delivered: 1},
			[]string{"<daemon@big.test> to <bounce@shop.test>"},
		},
		{
			"deliver-unmatched-email no", "deliver-unmatched-email no", bounces, humanMail,
			map[event.Kind]int{event.Received: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"forward-unmatched-to", "forward-unmatched-to ops@ops.test\nforward-unmatched-to cc@ops.test", bounces, humanMail,
			map[event.Kind]int{event.Received: 3, event.ReportConsumed: 1, event.Delivered: 2},
			[]string{"<> to <cc@ops.test>", "<> to <ops@ops.test>"},
		},
		{
			"forwarded and delivered", "forward-unmatched-to ops@ops.test\ndeliver-unmatched-email yes", bounces, humanMail,
			map[event.Kind]int{event.Received: 2, event.Delivered: 2},
			[]string{"<> to <ops@ops.test>", "<daemon@big.test> to <bounce@shop.test>"},
		},
		{
			"a bounce is not forwarded as unmatched", "forward-unmatched-to ops@ops.test", bounces, bounceMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"an automatic reply is neither", "forward-unmatched-to ops@ops.test\ndeliver-unmatched-email yes", bounces, autoReplyMail,
			map[event.Kind]int{event.Received: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"forward-errors-to", "forward-errors-to errors@ops.test\nforward-unmatched-to ops@ops.test", bounces, deepMail(),
			map[event.Kind]int{event.Received: 2, event.ReportConsumed: 1, event.Delivered: 1},
			[]string{"<> to <errors@ops.test>"},
		},
		{
			"an error that is forwarded nowhere is unmatched", "forward-unmatched-to ops@ops.test", bounces, deepMail(),
			map[event.Kind]int{event.Received: 2, event.ReportConsumed: 1, event.Delivered: 1},
			[]string{"<> to <ops@ops.test>"},
		},
		{
			"regex … action delete", "deliver-matched-email yes\n" + `regex "5\.1\.1" action delete`, bounces, bounceMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.ReportConsumed: 1},
			nil,
		},
		{
			"a pattern", "<email-patterns>\nbody-pattern-file bounce.re\nlog-match-info yes\n</email-patterns>", bounces, gatewayMail,
			map[event.Kind]int{event.Received: 1, event.RemoteBounce: 1, event.ReportConsumed: 1},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSink(t)
			pattern := filepath.Join(t.TempDir(), "bounce.re")
			if err := os.WriteFile(pattern, []byte(`could not reach (?<r>\S+) \((?<diag>.*)\)`), 0o600); err != nil {
				t.Fatal(err)
			}
			p := newPlace(t, s, "<bounce-processor>\n<address-list>\naddress "+bounces+"\n</address-list>", strings.Replace(tc.section, "bounce.re", pattern, 1),
				"</bounce-processor>\n<feedback-loop-processor>\n<address-list>\naddress "+complaints+"\n</address-list>\n</feedback-loop-processor>")
			p.run(func(address string) {
				p.sendText(address, "daemon@big.test", tc.to, tc.text)
				waitFor(t, "all events", func() bool { return len(cmp.Diff(tc.kinds, p.kinds())) == 0 })
			})
			if diff := cmp.Diff(tc.kinds, p.kinds()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.delivered, s.delivered()); diff != "" {
				t.Errorf("delivered (-want +got):\n%s", diff)
			}
			if n := p.live(); n != 0 {
				t.Errorf("%d recipients are left in the spool", n)
			}
		})
	}
}

// TestUnmatchedMailDoesNotComeBack: without smtp-hosts mail for a processor's address would go to
// its MX, which is this node.
func TestUnmatchedMailDoesNotComeBack(t *testing.T) {
	p := newPlace(t, newSink(t))
	text := strings.NewReplacer("DIR", p.dir).Replace(`
host-name node.test
smtp-listener 127.0.0.1:0
name-server 127.0.0.1:1
<spool DIR/spool>
</spool>
<event-log DIR/events>
</event-log>
<bounce-processor>
<address-list>
domain bounce.shop.test
</address-list>
</bounce-processor>
`)
	c, _, err := config.Parse(filepath.Join(p.dir, "config"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p.config = c
	p.run(func(address string) { p.sendText(address, "ann@big.test", "x@bounce.shop.test", humanMail) })
	if diff := cmp.Diff(map[event.Kind]int{event.Received: 1, event.ReportConsumed: 1}, p.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestReportAmongRecipients: a mail to a processor and to somebody else is a report and a message.
func TestReportAmongRecipients(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s, "<bounce-processor>\n<address-list>\naddress bounce@shop.test\n</address-list>\ndeliver-matched-email yes\n</bounce-processor>")
	p.run(func(address string) {
		text := []byte(strings.ReplaceAll(bounceMail, "\n", "\r\n"))
		if err := smtp.SendMail(address, nil, "daemon@big.test", []string{"bob@b.test", "bounce@shop.test"}, text); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
	})
	if diff := cmp.Diff(map[event.Kind]int{event.Received: 2, event.RemoteBounce: 1, event.Delivered: 2}, p.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestReportsInTheAccountingFile: reports are rb, rs and f records, and log-bounces a line in the log.
func TestReportsInTheAccountingFile(t *testing.T) {
	s := newSink(t)
	p := newPlace(t, s, "log-bounces yes\n<bounce-processor>\n<address-list>\naddress bounce@shop.test\n</address-list>\n</bounce-processor>",
		"<feedback-loop-processor>\n<address-list>\naddress fbl@shop.test\n</address-list>\n</feedback-loop-processor>")
	p.config.AcctFiles[0].Records = []config.RecordType{config.RemoteBounce, config.RemoteStatus, config.FeedbackLoop}
	p.run(func(address string) {
		p.sendText(address, "", "bounce@shop.test", bounceMail)
		p.sendText(address, "", "bounce@shop.test", strings.NewReplacer("failed", "delayed", "5.1.1", "4.4.1", "550", "450").Replace(bounceMail))
		p.sendText(address, "", "fbl@shop.test", complaintMail)
	})
	files, err := filepath.Glob(filepath.Join(p.dir, "acct", "*.csv"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	for _, record := range []string{"rb", "rs", "f"} {
		if n := strings.Count("\r\n"+text.String(), "\r\n"+record+","); n != 1 {
			t.Errorf("%d records %s, want one, in\n%s", n, record, text.String())
		}
	}
}

func TestBounceLog(t *testing.T) {
	var b bytes.Buffer
	l := bounceLog{slog.New(slog.NewTextHandler(&b, nil))}
	for _, kind := range []event.Kind{event.Bounced, event.RemoteBounce, event.Delivered, event.Complaint} {
		if err := l.Write(&event.Event{Kind: kind, Recipient: "ann@big.test", RecipientDomain: "big.test"}, 1); err != nil {
			t.Error(err)
		}
	}
	if text := b.String(); strings.Count(text, "msg=bounce") != 2 || strings.Contains(text, "ann@") {
		t.Errorf("log:\n%s", text)
	}
}

// events returns the events of one kind in the node's log.
func (p *place) events(kind event.Kind) []event.Event {
	p.t.Helper()
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamEvent), 1, seglog.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	var all []event.Event
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return all
		}
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			p.t.Fatal(err)
		}
		if e.Kind == kind {
			all = append(all, e)
		}
	}
}

// TestWhatWasConsumed: what came to a processor can be counted by what it was.
func TestWhatWasConsumed(t *testing.T) {
	p := newPlace(t, newSink(t), "<bounce-processor>\n<address-list>\naddress bounce@shop.test\n</address-list>\ndeliver-unmatched-email no\n</bounce-processor>")
	p.run(func(address string) {
		for _, text := range []string{bounceMail, complaintMail, autoReplyMail, humanMail, deepMail()} {
			p.sendText(address, "", "bounce@shop.test", text)
		}
	})
	events := p.events(event.ReportConsumed)
	got := make([]string, 0, len(events))
	for _, e := range events {
		got = append(got, e.FeedbackType)
	}
	if diff := cmp.Diff([]string{"dsn", "arf", "autoreply", "none", "none"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTrustedReporter: the key of a reporter whom the operator trusts is asked of the name servers,
// and his complaint is marked as his; nobody is suppressed before the delivery is found.
func TestTrustedReporter(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	names := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "s._domainkey.fbl.reporter.test." && q.Question[0].Qtype == dns.TypeTXT {
			m.Answer = []dns.RR{&dns.TXT{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60},
				Txt: []string{"v=DKIM1; k=ed25519; ", "p=" + base64.StdEncoding.EncodeToString(public)},
			}}
		}
		_ = w.WriteMsg(m)
	})}
	served := make(chan error, 1)
	go func() { served <- names.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := errors.Join(names.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
	})
	<-ready

	var signed bytes.Buffer
	text := strings.ReplaceAll(strings.Replace(complaintMail, "feedback@big.test", "feedback@fbl.reporter.test", 1), "\n", "\r\n")
	if err := dkim.Sign(&signed, strings.NewReader(text), &dkim.SignOptions{Domain: "fbl.reporter.test", Selector: "s", Signer: private}); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, newSink(t), "name-server "+conn.LocalAddr().String(),
		"<feedback-loop-processor>\n<address-list>\naddress fbl@shop.test\n</address-list>\ntrust-dkim-domain fbl.reporter.test\n</feedback-loop-processor>")
	p.config.NameServers = p.config.NameServers[1:] // not the one that does not answer
	p.run(func(address string) {
		if err := smtp.SendMail(address, nil, "feedback@fbl.reporter.test", []string{"fbl@shop.test"}, signed.Bytes()); err != nil {
			t.Fatal(err)
		}
		p.sendText(address, "", "fbl@shop.test", strings.ReplaceAll(strings.Replace(signed.String(), "ann@big.test", "eve@big.test", 1), "\r\n", "\n")) // another than was signed
		if err := smtp.SendMail(address, nil, "news@shop.test", []string{"ann@big.test"}, []byte("From: news@shop.test\r\n\r\nhello\r\n")); err != nil {
			t.Errorf("mail to the named recipient: %v", err)
		}
	})
	complaints := p.events(event.Complaint)
	got := make([]string, 0, len(complaints))
	for _, e := range complaints {
		got = append(got, e.Recipient+" "+e.MatchMethod)
	}
	if diff := cmp.Diff([]string{"ann@big.test dkim-reporter", "eve@big.test none"}, got); diff != "" {
		t.Errorf("complaints (-want +got):\n%s", diff)
	}
}
