package smtpd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"carom/sender/config"
)

// received takes one message in from the only client and returns what was made of it.
func received(t *testing.T, source, content string) *Message {
	t.Helper()
	d := &desk{}
	f := start(t, open+"<source 127.0.0.1>\n"+source+"\n</source>", d, nil).hello(t)
	f.mail(content, "250")
	return d.messages()[0]
}

// masked replaces what is new with each message.
func masked(m *Message) string {
	s := strings.ReplaceAll(string(m.Content), m.ID.String(), "ID")
	return strings.ReplaceAll(s, m.Arrived.Format(time.RFC1123Z), "NOW")
}

const trace = "Received: from feeder.test ([127.0.0.1])\r\n\tby mx.test with ESMTP id ID;\r\n\tNOW\r\n"

func TestHeader(t *testing.T) {
	for _, tc := range []struct{ name, source, content, want string }{
		{"received", "", "A: b\r\n\r\nbody", trace + "A: b\r\n\r\nbody\r\n"},
		{"nothing is added", "add-received-header no", "A: b\r\n\r\nbody", "A: b\r\n\r\nbody\r\n"},
		{
			"source is hidden", "hide-message-source yes", "A: b\r\n\r\n",
			"Received: by mx.test with ESMTP id ID;\r\n\tNOW\r\nA: b\r\n\r\n\r\n",
		},
		{
			"date and message ID are added", "add-received-header no\nadd-date-header yes\nadd-message-id-header yes", "A: b\r\n\r\n",
			"Date: NOW\r\nMessage-ID: <ID@mx.test>\r\nA: b\r\n\r\n\r\n",
		},
		{
			"date and message ID are there", "add-received-header no\nadd-date-header yes\nadd-message-id-header yes", "date: then\r\nMESSAGE-ID: <x>\r\n\r\n",
			"date: then\r\nMESSAGE-ID: <x>\r\n\r\n\r\n",
		},
		{"date is left to the delivery", "add-received-header no\nadd-date-header yes\ndate-header-time delivery", "A: b\r\n\r\n", "A: b\r\n\r\n\r\n"},
		{"date is removed for the delivery", "add-received-header no\nadd-date-header override\ndate-header-time delivery", "A: b\r\nDate: then\r\n\r\n", "A: b\r\n\r\n\r\n"},
		{"date is replaced", "add-received-header no\nadd-date-header override", "A: b\r\nDate: then\r\n\r\n", "Date: NOW\r\nA: b\r\n\r\n\r\n"},
		{
			"x- headers go where they are processed", "add-received-header no\nprocess-x-virtual-mta yes\nprocess-x-job yes\nprocess-x-envid yes\ntenant-header X-Tenant",
			"X-Virtual-MTA: vmta1\r\nx-job: j\r\nX-Envid: e\r\nx-tenant: t\r\nA: b\r\nX-Job:\r\n  twice\r\n\r\n", "A: b\r\n\r\n\r\n",
		},
		{
			"x- headers stay where they are retained", "add-received-header no\nprocess-x-virtual-mta yes\nretain-x-virtual-mta yes\nprocess-x-job yes\nretain-x-job yes",
			"X-Virtual-MTA: vmta1\r\nX-Job: j\r\n\r\n", "X-Virtual-MTA: vmta1\r\nX-Job: j\r\n\r\n\r\n",
		},
		{
			"x- headers stay where they are not processed", "add-received-header no\njobid-header X-Campaign",
			"X-Virtual-MTA: vmta1\r\nX-Job: j\r\nX-EnvID: e\r\nX-Campaign: c\r\n\r\n", "X-Virtual-MTA: vmta1\r\nX-Job: j\r\nX-EnvID: e\r\nX-Campaign: c\r\n\r\n\r\n",
		},
		{"a reference of carom's is not believed", "add-received-header no", "X-Carom-Ref: b-forged\r\nA: b\r\n\r\n", "A: b\r\n\r\n\r\n"},
		{
			"schedule and DKIM options go where they are processed", "add-received-header no\nprocess-x-schedule yes\nprocess-x-dkim-options yes",
			"X-Schedule: 2030-01-01 00:00:00 / 2030-01-02 00:00:00\r\nX-DKIM-Options: d=a.test\r\nA: b\r\n\r\n", "A: b\r\n\r\n\r\n",
		},
		{
			"schedule and DKIM options stay where they are retained", "add-received-header no\nprocess-x-schedule yes\nprocess-x-dkim-options yes\nretain-x-schedule yes\nretain-x-dkim-options yes",
			"X-Schedule: 2030-01-01 00:00:00 / 2030-01-02 00:00:00\r\nX-DKIM-Options: d=a.test\r\n\r\n", "X-Schedule: 2030-01-01 00:00:00 / 2030-01-02 00:00:00\r\nX-DKIM-Options: d=a.test\r\n\r\n\r\n",
		},
		{
			"remove-header and remove-received-headers", "remove-header x-a, X-B\nremove-received-headers yes",
			"Received: from far away\r\nX-A: 1\r\n 2\r\nC: d\r\nX-b: 3\r\nReceived: again\r\n\r\n", trace + "C: d\r\n\r\n\r\n",
		},
		{"the virtual MTA is added", "add-received-header no\nadd-x-virtual-mta-header yes\nprocess-x-virtual-mta yes", "X-Virtual-MTA: pool1\r\n\r\n", "X-Virtual-MTA: vmta2\r\n\r\n\r\n"},
		{"the virtual MTA is there", "add-received-header no\nadd-x-virtual-mta-header yes", "x-virtual-mta: mine\r\n\r\n", "x-virtual-mta: mine\r\n\r\n\r\n"},
		{"no header", "", "just text", trace + "\r\njust text\r\n"},
		{"empty line first", "", "\r\nbody", trace + "\r\nbody\r\n"},
		{"nothing at all", "add-received-header no", "", "\r\n"},
		{"empty line missing", "add-received-header no", "A: b\r\nthis is the body", "A: b\r\n\r\nthis is the body\r\n"},
		{"header only", "add-received-header no", "A: b", "A: b\r\n\r\n"},
		{"folded", "add-received-header no\nprocess-x-job yes", "A: b\r\n\tc\r\nX-Job:\r\n j\r\nD: e\r\n\r\n", "A: b\r\n\tc\r\nD: e\r\n\r\n\r\n"},
		{"folded first line", "add-received-header no", " A: b\r\nB: c\r\n\r\n", "\r\n A: b\r\nB: c\r\n\r\n\r\n"},
		{"8-bit", "add-received-header no", "S\xc3\xa4: b\r\n\r\n", "\r\nS\xc3\xa4: b\r\n\r\n\r\n"},
		{"8-bit value", "add-received-header no", "S: \xe4\r\n\r\n\xff", "S: \xe4\r\n\r\n\xff\r\n"},
		{"blanks before the colon", "add-received-header no\nprocess-x-job yes", "X-Job \t: j\r\nA : b\r\n\r\n", "A : b\r\n\r\n\r\n"},
		{"no name before the colon", "add-received-header no", "A: b\r\n : c\r\n\t:d\r\n\r\n", "A: b\r\n : c\r\n\t:d\r\n\r\n\r\n"},
		{"dots", "add-received-header no", "A: b\r\n\r\n..\r\n..x\r\n.y", "A: b\r\n\r\n.\r\n.x\r\ny\r\n"},
		{"bare LF", "add-received-header no\nfix-bare-newline yes", "A: b\nB: c\n\nbody\n", "A: b\r\nB: c\r\n\r\nbody\r\n\r\n"},
		{"bare CR", "add-received-header no\nfix-bare-newline yes", "A: b\rc\r\n\r\nx\ry\r\r\nz\r", "A: b c\r\n\r\nx y \r\nz \r\n"},
		{"line over 1000 octets", "add-received-header no", "A: b\r\n\r\n" + strings.Repeat("x", 100_000), "A: b\r\n\r\n" + strings.Repeat("x", 100_000) + "\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, masked(received(t, tc.source, tc.content))); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvelope(t *testing.T) {
	type fields struct{ VMTA, Job, EnvID, Ret, Tenant, FromDomain string }
	const process = "process-x-virtual-mta yes\nprocess-x-job yes\nprocess-x-envid yes\ntenant-header X-Tenant\njobid-header X-Campaign"
	for _, tc := range []struct {
		name, source, parameters, header string
		want                             fields
	}{
		{"nothing said", "", "", "", fields{VMTA: "{default}", Tenant: "127.0.0.1"}},
		{
			"nothing processed", "", "", "X-Virtual-MTA: vmta1\r\nX-Job: j\r\nX-EnvID: e\r\nX-Tenant: t\r\n",
			fields{VMTA: "{default}", Tenant: "127.0.0.1"},
		},
		{
			"everything processed", process, " ENVID=weak", "X-Virtual-MTA: vmta1\r\nX-Campaign: weak\r\nX-Job: j\r\nX-EnvID: e\r\nX-Tenant: a tenant\r\n",
			fields{"vmta1", "j", "e", "", "a tenant", ""},
		},
		{"jobid-header", process, "", "X-Campaign:\r\n c\r\n", fields{VMTA: "{default}", Job: "c", Tenant: "127.0.0.1"}},
		{"empty fields say nothing", process, " ENVID=e", "X-Job:\r\nX-EnvID: \r\nX-Tenant:\r\n", fields{VMTA: "{default}", EnvID: "e", Tenant: "127.0.0.1"}},
		{
			"one field for two purposes", "process-x-virtual-mta yes\ntenant-header X-Virtual-MTA\njobid-header X-Virtual-MTA", "", "X-Virtual-MTA: vmta1\r\n",
			fields{VMTA: "vmta1", Job: "vmta1", Tenant: "vmta1"},
		},
		{"empty virtual MTA", process + "\nallow-empty-x-virtual-mta yes\npattern-list p", "", "X-Virtual-MTA:\r\nX-Way: vmta1\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1"}},
		{"pattern list", process + "\npattern-list p", "", "X-Way: vmta1\r\n", fields{VMTA: "vmta1", Tenant: "127.0.0.1"}},
		{"header before pattern list", process + "\npattern-list p", "", "X-Virtual-MTA: pool1\r\nX-Way: vmta1\r\n", fields{VMTA: "vmta2", Tenant: "127.0.0.1"}},
		{"pattern list that says nothing", process + "\npattern-list p", "", "A: b\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1"}},
		{"jobid-prefix", process + "\njobid-prefix shop-", "", "X-Job: j\r\n", fields{VMTA: "{default}", Job: "shop-j", Tenant: "127.0.0.1"}},
		{"jobid-prefix without a job", process + "\njobid-prefix shop-", "", "A: b\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1"}},
		{"local address", process, "", "X-Virtual-MTA: local\r\n", fields{VMTA: "127.0.0.1", Tenant: "127.0.0.1"}},
		{"DSN parameters", "", " RET=hdrs ENVID=a+2Bb", "", fields{VMTA: "{default}", EnvID: "a+b", Ret: "HDRS", Tenant: "127.0.0.1"}},
		{"what DSNs return", "dsn-return-default headers", "", "", fields{VMTA: "{default}", Ret: "HDRS", Tenant: "127.0.0.1"}},
		{"what DSNs return of the whole", "dsn-return-default full", "", "", fields{VMTA: "{default}", Ret: "FULL", Tenant: "127.0.0.1"}},
		{"the feeder says what DSNs return", "dsn-return-default full", " RET=hdrs", "", fields{VMTA: "{default}", Ret: "HDRS", Tenant: "127.0.0.1"}},
		{"From", "", "", "From: Ann <ann@Shop.TEST>, eve@other.test\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1", FromDomain: "shop.test"}},
		{"From that is no list", "", "", "From: \xff ann@shop.test (Ann\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1", FromDomain: "shop.test"}},
		{"From without an address", "", "", "From: undisclosed\r\n", fields{VMTA: "{default}", Tenant: "127.0.0.1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &desk{}
			lists := "<virtual-mta vmta1>\n</virtual-mta>\n<pattern-list p>\nheader X-Way /vmta1/ virtual-mta=vmta1,recipient-priority=80\n</pattern-list>\n"
			f := start(t, lists+open+"<source 127.0.0.1>\n"+tc.source+"\n</source>", d, nil).hello(t)
			f.say("MAIL FROM:<a@b.test>"+tc.parameters, "250")
			f.say("RCPT TO:<to@away.test>", "250")
			f.say("DATA", "354")
			f.say(tc.header+"\r\n.", "250")
			m := d.messages()[0]
			if diff := cmp.Diff(tc.want, fields{m.VMTA, m.Job, m.EnvID, m.Ret, m.Tenant, m.FromDomain}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestVERP: the keyword asks for a return path for each recipient, and verp-default does without it.
func TestVERP(t *testing.T) {
	for _, tc := range []struct {
		name, source, command string
		want                  bool
	}{
		{"nobody asks", "", "MAIL FROM:<a@b.test>", false},
		{"the feeder asks", "", "MAIL FROM:<a@b.test> VERP", true},
		{"among others", "", "MAIL FROM:<a@b.test> BODY=8BITMIME verp SIZE=10", true},
		{"a name that looks like it", "", `MAIL FROM:<"> VERP"@b.test>`, false},
		{"the source does", "verp-default yes", "MAIL FROM:<a@b.test>", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &desk{}
			f := start(t, open+"<source 127.0.0.1>\n"+tc.source+"\n</source>", d, nil).hello(t)
			f.say("MAIL FROM:<first@b.test> VERP", "250") // which says nothing of the next
			f.say("RSET", "250")
			f.say(tc.command, "250")
			f.say("RCPT TO:<to@away.test>", "250")
			f.say("DATA", "354")
			f.say("A: b\r\n\r\n.", "250")
			if m := d.messages()[0]; m.VERP != tc.want {
				t.Errorf("VERP = %v; want %v", m.VERP, tc.want)
			}
		})
	}
}

// TestDateAtDelivery: only a message that lacks a Date gets one when it is sent.
func TestDateAtDelivery(t *testing.T) {
	for header, want := range map[string]bool{"A: b\r\n\r\n": true, "Date: then\r\n\r\n": false} {
		if m := received(t, "add-date-header yes\ndate-header-time delivery", header); m.DateAtDelivery != want {
			t.Errorf("%q: DateAtDelivery = %v; want %v", header, m.DateAtDelivery, want)
		}
	}
}

func TestMessage(t *testing.T) {
	d := &desk{}
	f := start(t, open, d, nil).dial(t)
	before := time.Now()
	f.converse(`
		S: 220
		EHLO fee` + "\x01" + `der.test
		S: 250
		MAIL FROM:<"a b"@from.test> BODY=8BITMIME SMTPUTF8 SIZE=10
		S: 250
		RCPT TO:<one@away.test> NOTIFY=success,FAILURE ORCPT=rfc822;o+2Bne@away.test
		S: 250
		RCPT TO:<"quo\"ted@"@away.test> NOTIFY=NEVER
		S: 250
		RCPT TO:<zwö@bücher.test> ORCPT=utf-8;zw\x{F6}@bücher.test
		S: 250
		DATA
		S: 354
		A: b

		.
		S: 250`)
	got := d.messages()[0]
	host, port, _ := strings.Cut(f.conn.RemoteAddr().String(), ":")
	want := &Message{
		From: `"a b"@from.test`,
		Recipients: []Recipient{
			{Address: "one@away.test", ORcpt: "o+ne@away.test", Notify: "SUCCESS,FAILURE"},
			{Address: `"quo\"ted@"@away.test`, Notify: "NEVER"},
			{Address: "zwö@bücher.test", ORcpt: "zwö@bücher.test"},
		},
		VMTA: "{default}", Priority: 50, Tenant: "127.0.0.1", Listener: host + ":" + port,
		ClientIP: netip.MustParseAddr("127.0.0.1"), ClientName: "fee?der.test",
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Message{}, "ID", "Arrived", "Content"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.ID.Version() != 7 || got.Arrived.Before(before) {
		t.Errorf("ID %s, arrived %s", got.ID, got.Arrived)
	}
}

// Of recipients that only the tenant in the header suppresses, delivery hears; if that is all of
// them, the feeder does.
func TestTenantOfTheHeaderSuppresses(t *testing.T) {
	d := &desk{suppressed: map[string]bool{"shop/b@away.test": true, "127.0.0.1/c@away.test": true, "/d@away.test": true}}
	f := start(t, open+"<source 127.0.0.1>\ntenant-header X-Tenant\n</source>", d, nil).hello(t)
	f.converse(`
		MAIL FROM:<a@feeder.test>
		S: 250
		RCPT TO:<d@away.test>
		S: 550 5.7.1
		RCPT TO:<b@away.test>
		S: 250
		RCPT TO:<c@away.test>
		S: 250
		DATA
		S: 354
		X-Tenant: shop

		.
		S: 250
		MAIL FROM:<a@feeder.test>
		S: 250
		RCPT TO:<b@away.test>
		S: 250
		DATA
		S: 354
		X-Tenant: shop

		.
		S: 550 5.7.1 recipient is suppressed
		MAIL FROM:<a@feeder.test>
		S: 250
		RCPT TO:<b@away.test>
		S: 250
		RCPT TO:<x@bounces.test>
		S: 250
		DATA
		S: 354
		X-Tenant: shop

		.
		S: 250`)
	if got := d.messages(); len(got) != 2 || len(got[0].Recipients) != 2 || got[0].Tenant != "shop" || len(got[1].Recipients) != 2 {
		t.Errorf("accepted %v", got)
	}
	if diff := cmp.Diff([]string{"<d@away.test> 550", "<b@away.test> 550"}, d.refusals()); diff != "" {
		t.Errorf("Refused (-want +got):\n%s", diff)
	}
}

func TestScheduleAndOptions(t *testing.T) {
	m := received(t, "process-x-schedule yes\nprocess-x-dkim-options yes\npattern-list p\n</source>\n<pattern-list p>\nrcpt-to /^to@/ recipient-priority=0\n</pattern-list>\n<source 127.0.0.1>",
		"X-Schedule: 2030-01-01 00:00:00+0000 / 2030-01-02 00:00:00+0000,\r\n 2029-01-01 00:00:00+0000 / 2029-01-02 00:00:00+0000\r\nX-DKIM-Options: d=a.test;\r\n\ts=x\r\n\r\n")
	if got := m.Schedule.String(); got != "2029-01-01 00:00:00+0000 / 2029-01-02 00:00:00+0000, 2030-01-01 00:00:00+0000 / 2030-01-02 00:00:00+0000" {
		t.Errorf("schedule %s", got)
	}
	if !m.AsksForDKIM || m.DKIMOptions != "d=a.test;\ts=x" {
		t.Errorf("DKIM options %t, %q", m.AsksForDKIM, m.DKIMOptions)
	}
	if m.Priority != 0 {
		t.Errorf("priority %d", m.Priority)
	}
	m = received(t, "", "X-Schedule: never\r\nX-DKIM-Options:\r\n\r\n")
	if m.Schedule != nil || m.AsksForDKIM || m.Priority != 50 {
		t.Errorf("not processed: %v, %t, %d", m.Schedule, m.AsksForDKIM, m.Priority)
	}
	f := start(t, open+"<source 127.0.0.1>\nprocess-x-schedule yes\nprocess-x-dkim-options yes\n</source>", &desk{}, nil).hello(t)
	f.mail("X-Schedule: never\r\n\r\n", "554 5.6.0 X-Schedule: bad window")
	f.mail("X-DKIM-Options: "+strings.Repeat("x", maxDKIMOptions+1)+"\r\n\r\n", "554 5.6.0")
}

func TestQualify(t *testing.T) {
	d := &desk{}
	f := start(t, open+"domain-suffix shop.test", d, nil).hello(t)
	f.say("MAIL FROM:<a@web>", "250")
	f.say("RCPT TO:<b@mail>", "250")
	f.say("RCPT TO:<c@mail.test>", "250")
	f.say("RCPT TO:<d@[192.0.2.1]>", "250")
	f.say("DATA", "354")
	f.say(".", "250")
	m := d.messages()[0]
	if got := fmt.Sprint(m.From, m.Recipients); got != "a@web.shop.test[{b@mail.shop.test  } {c@mail.test  } {d@[192.0.2.1]  }]" {
		t.Errorf("got %s", got)
	}
	f = start(t, open+"domain-suffix shop.test\n<source 127.0.0.1>\nauto-qualify-domain no\n</source>", d, nil).hello(t)
	f.mail("", "250")
	f.say("MAIL FROM:<a@web>", "250")
	f.say("RCPT TO:<b@mail>", "250")
	f.say("DATA", "354")
	f.say(".", "250")
	if m := d.messages()[2]; m.From != "a@web" {
		t.Errorf("got %s", m.From)
	}
}

func TestNamesAreBounded(t *testing.T) {
	for _, header := range []string{"X-Job: " + strings.Repeat("j", 256), "X-Tenant: " + strings.Repeat("t", 256), "X-Tenant: a\x01b"} {
		d := &desk{}
		f := start(t, open+"<source 127.0.0.1>\nprocess-x-job yes\ntenant-header X-Tenant\n</source>", d, nil).hello(t)
		f.mail(header+"\r\n\r\n", "554 5.6.0")
		if len(d.messages()) > 0 {
			t.Errorf("%.20s was accepted", header)
		}
	}
}

func TestIntakeAnswers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		err     error
		want    string
		refused []string
	}{
		{"internals stay inside", errors.New("spool: write /var/spool: no space left on device"), "451 4.3.0 message not accepted, try again later", nil},
		{"a refusal is passed on", fmt.Errorf("quota: %w", &RefusalError{552, [3]int{5, 2, 2}, "over\r\n250 quota"}), "552 5.2.2 over??250 quota", []string{"<> 552"}},
		{"a refusal for now too", &RefusalError{452, [3]int{4, 3, 1}, "no space"}, "452 4.3.1 no space", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first := true
			d := &desk{accept: func(*Message) error {
				defer func() { first = false }()
				if first {
					return tc.err
				}
				return nil
			}}
			f := start(t, open, d, nil).hello(t)
			f.mail("A: b\r\n\r\n", tc.want)
			f.mail("A: b\r\n\r\n", "250") // the connection lives
			if diff := cmp.Diff(tc.refused, d.refusals()); diff != "" {
				t.Errorf("Refused (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	octets := func(n int) string { return strings.Repeat(strings.Repeat("x", 1022)+"\r\n", n/1024) }
	for _, tc := range []struct{ name, conf, content, want string }{
		{"just small enough", open + "<source 127.0.0.1>\nmax-message-size 10K\n</source>", "\r\n" + octets(9<<10) + strings.Repeat("y", 1020), "250"},
		{"one octet too large", open + "<source 127.0.0.1>\nmax-message-size 10K\n</source>", "\r\n" + octets(9<<10) + strings.Repeat("y", 1021), "552 5.3.4"},
		{"too large for a stranger", "relay-domain away.test", "\r\n" + octets(2<<20), "552 5.3.4"},
		{"unless the operator says so", "relay-domain away.test\n<source 0/0>\nmax-message-size 3M\n</source>", "\r\n" + octets(2<<20), "250"},
		{"not too large for a feeder", open, "\r\n" + octets(2<<20), "250"},
		{"too large for anybody", open, "\r\n" + octets(5<<20), "552 5.3.4"},
		{"header of many fields", open, strings.Repeat("A: bbbbbbbbbb\r\n", 80_000) + "\r\n", "552 5.3.4"},
		{"header of one field", open, "A: b\r\n" + strings.Repeat(" c\r\n", 300_000) + "\r\n", "552 5.3.4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, tc.conf, &desk{}, func(s *Server) { s.maxBytes, s.strangerBytes = 4<<20, 1<<20 }).hello(t)
			f.mail(tc.content, tc.want)
			f.say("NOOP", "250")
		})
	}
}

func TestLineThatNeverEnds(t *testing.T) {
	d := &desk{}
	s := start(t, open, d, func(s *Server) { s.maxBytes = 1 << 20 })
	f := s.hello(t)
	f.mail(strings.Repeat("x", 5<<20), "552 5.3.4")
	f.mail(strings.Repeat("x", 1<<19), "250")

	f.send(strings.Repeat("x", maxCommand+1))
	f.expect("500 5.5.2 line is too long")
	f.expect("")
	if len(d.messages()) != 1 {
		t.Error("the line that was too long was accepted")
	}
}

func TestReceivedNamesTheClientByRFC5321(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1":      "from x ([192.0.2.1])\r\n\t",
		"2001:db8::1":    "from x ([IPv6:2001:db8::1])\r\n\t",
		"fe80::1%eth0.7": "from x ([IPv6:fe80::1])\r\n\t",
	} {
		source := config.DefaultSource()
		s := &session{source: &source}
		if got := string(s.appendFrom(nil, &Message{ClientName: "x", ClientIP: netip.MustParseAddr(address)})); got != want {
			t.Errorf("client %s: got %q, want %q", address, got, want)
		}
	}
}

// What is handed over inside a message stays inside it, whichever line ends stand around its dots.
func TestNothingButCRLFDotCRLFEndsTheData(t *testing.T) {
	inner := "MAIL FROM:<evil@feeder.test>\r\nRCPT TO:<victim@away.test>\r\nDATA\r\nSubject: smuggled\r\n\r\n"
	lineEnds := []string{"\n", "\r", "\r\n", "\r\r\n", "\n\r", "\x00\n", "\r\n\r", " \r\n", ""}
	for _, first := range lineEnds {
		for _, second := range lineEnds {
			if strings.HasSuffix(first, "\r\n") && (second == "\r\n" || second == "\r\n\r") {
				continue // that is the end of data
			}
			t.Run(fmt.Sprintf("%q", first+"."+second), func(t *testing.T) {
				d := &desk{}
				content := "Subject: outer\r\n\r\nbody" + first + "." + second + inner
				bare := strings.ContainsAny(strings.ReplaceAll(content, "\r\n", ""), "\r\n")
				f := start(t, open, d, nil).hello(t)
				if bare {
					f.mail(content, "550 5.6.11 ")
				} else {
					f.mail(content, "250")
				}
				f.say("NOOP", "250 2.0.0 I have") // the answer to NOOP and not to what is inside
				if refused := len(d.messages()) == 0; refused != bare {
					t.Fatalf("refused: %t, want %t", refused, bare)
				}

				d = &desk{}
				f = start(t, open+"<source 127.0.0.1>\nfix-bare-newline yes\n</source>", d, nil).hello(t)
				f.mail(content, "250")
				f.say("NOOP", "250 2.0.0 I have")
				got := d.messages()
				if len(got) != 1 {
					t.Fatalf("%d messages", len(got))
				}
				content = string(got[0].Content)
				if !strings.Contains(content, "MAIL FROM:<evil") {
					t.Errorf("content is cut: %q", content)
				}
				if rest := strings.ReplaceAll(content, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
					t.Errorf("a bare line end is left in %q", content)
				}
			})
		}
	}
}

// go-smtp alone does not see the end of data behind CR CR LF, and would take the next message for a
// part of this one.
func TestEndOfDataAfterASloppyLine(t *testing.T) {
	d := &desk{}
	f := start(t, open+"<source 127.0.0.1>\nfix-bare-newline yes\n</source>", d, nil).hello(t)
	one := "MAIL FROM:<a@b.test>\r\nRCPT TO:<a@away.test>\r\nDATA\r\n"
	f.send(one)
	f.expect("250")
	f.expect("250")
	f.expect("354")
	f.send("A: b\r\r\n\r\r\nbody\r\r\n.\r\n" + one)
	f.expect("250 2.0.0 OK: queued")
	f.expect("250")
	f.expect("250")
	f.expect("354")
	f.say("Second: message\r\n.", "250 2.0.0 OK: queued")
	messages := d.messages()
	if len(messages) != 2 || strings.Contains(string(messages[0].Content), "Second") {
		t.Errorf("%d messages, the first is %q", len(messages), messages[0].Content)
	}
}

// TestMessageID: what is noted is what the message goes out with.
func TestMessageID(t *testing.T) {
	for _, tc := range []struct{ name, source, header, want string }{
		{"the feeder's", "", "Message-ID: <1@shop.test>\r\n", "<1@shop.test>"},
		{"folded", "", "message-id:\r\n <1@shop.test>\r\n", "<1@shop.test>"},
		{"none", "", "A: b\r\n", ""},
		{"removed, and another is added", "remove-header Message-ID\nadd-message-id-header yes", "Message-ID: <1@shop.test>\r\n", "<ID@mx.test>"},
		{"none, and one is added", "add-message-id-header yes", "A: b\r\n", "<ID@mx.test>"},
		{"too long", "", "Message-ID: <" + strings.Repeat("a", maxMessageID) + "@shop.test>\r\n", ""},
	} {
		d := &desk{}
		f := start(t, open+"<source 127.0.0.1>\n"+tc.source+"\n</source>", d, nil).hello(t)
		f.say("MAIL FROM:<a@b.test>", "250")
		f.say("RCPT TO:<to@away.test>", "250")
		f.say("DATA", "354")
		f.say(tc.header+"\r\n.", "250")
		m := d.messages()[0]
		if got := strings.ReplaceAll(m.MessageID, m.ID.String(), "ID"); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if m.MessageID != "" && !strings.Contains(string(m.Content), m.MessageID) {
			t.Errorf("%s: %q is not in\n%s", tc.name, m.MessageID, m.Content)
		}
	}
}
