// Package interop sends mail with the real binary to mail servers that others wrote, Debian's Postfix
// and Exim, over TLS, with SMTPUTF8, CHUNKING, PIPELINING and DSN parameters, and compares what they
// have in their mailboxes and in their logs afterwards.
//
// The servers need root and are installed by .ci/run; where one is missing its tests are skipped and
// say so, or fail with CAROM_REQUIRE_PEERS=1.
package interop

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/deploy/peers"
	"carom/deploy/peers/peertest"
	"carom/deploy/rig"
	"carom/schemas/event"
)

// mailboxes are those of the peer; others are unknown there.
var mailboxes = map[string]string{"x@to.example": "x", "y@to.example": "y", "ü@to.example": "ue", "sender@to.example": "sender"}

// nodeConfig sends over verified TLS to the MX host of the domain. It wants the name server, the
// port, the file of the certificate, and further lines for the domain.
const nodeConfig = `name-server %s
default-smtp-port %s
<domain *>
    require-starttls yes
    smtp-tls-ca-file %s
    max-smtp-out 2
    connection-idle-timeout 2s
    retry-after 10m
    %s
</domain>
`

// mail is a message to hand over.
type mail struct {
	name       string
	mail, rcpt string   // parameters of MAIL and RCPT
	from       string   // return path
	to         []string // recipients
	content    string   // below the trace fields, with CRLF
}

const first = "X-Begin: here\r\nFrom: a@from.example\r\nTo: b@to.example\r\nDate: Mon, 02 Jan 2006 15:04:05 +0000\r\nMessage-ID: <"

// mails are all kinds of content that must arrive octet by octet.
func mails() []mail {
	head := func(name string) string { return first + name + "@from.example>\r\nSubject: " + name + "\r\n" }
	return []mail{
		{name: "dots", from: "a@from.example", to: []string{"x@to.example"}, content: head("dots") + "\r\n.\r\n..two\r\n...\r\n\r\n\r\n.end\r\n"},
		{
			name: "some-unknown", from: "a@from.example", to: []string{"x@to.example", "nobody@to.example", "y@to.example"},
			content: head("some-unknown") + "\r\nto three, of whom one is not known\r\n",
		},
		{
			name: "8bit", mail: " BODY=8BITMIME", from: "a@from.example", to: []string{"x@to.example"},
			content: head("8bit") + "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße, 挨拶\r\n",
		},
		{
			name: "utf8", mail: " SMTPUTF8 BODY=8BITMIME", from: "bücher@from.example", to: []string{"ü@to.example"},
			content: head("utf8") + "X-Text: Grüße\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n",
		},
		{
			name: "report", mail: " RET=HDRS ENVID=envelope-7", rcpt: " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@elsewhere.example",
			from: "sender@to.example", to: []string{"y@to.example"}, content: head("report") + "\r\nplease report\r\n",
		},
		{name: "large", from: "a@from.example", to: []string{"y@to.example"}, content: head("large") + "\r\n" + strings.Repeat(strings.Repeat("0123456789", 99)+"\r\n", 500)},
		{name: "empty", from: "", to: []string{"y@to.example"}, content: head("empty") + "\r\n"},
	}
}

// peer is a server with what its log has to say.
type peer struct {
	name   string
	server func(s peers.Settings) peers.Server
	logged []string // patterns: always
	chunks []string // patterns: with CHUNKING
}

var all = []peer{
	{
		name:   "postfix",
		server: func(s peers.Settings) peers.Server { return &peers.Postfix{Settings: s} },
		logged: []string{`TLS connection established from localhost.*: TLSv1\.3`, `status=sent \(delivered to maildir\)`},
		chunks: []string{`disconnect from localhost.* bdat=\d`},
	},
	{
		name: "exim",
		server: func(s peers.Settings) peers.Server {
			return &peers.Exim{Settings: s, Unpacked: filepath.Join("..", "..", "build", "peers", "exim")}
		},
		// L: PIPELINING was used ("L-" is not; the dot says that the client did not speak before the
		// greeting). K: CHUNKING was used. P=utf8…: SMTPUTF8 was used.
		logged: []string{` <= a@from\.example .* P=esmtps L\.? X=TLS1\.3`, ` <= bücher@from\.example .* P=utf8esmtps `, `rejected RCPT <nobody@to\.example>`},
		chunks: []string{` <= a@from\.example .* P=esmtps L.* K `},
	},
}

func TestPeers(t *testing.T) {
	for _, p := range all {
		for _, chunking := range []bool{true, false} {
			name := p.name + "/DATA"
			if chunking {
				name = p.name + "/BDAT"
			}
			t.Run(name, func(t *testing.T) { p.try(t, chunking) })
		}
	}
}

func (p peer) try(t *testing.T, chunking bool) {
	both, certificate, err := peers.SelfSigned(peers.Host)
	if err != nil {
		t.Fatal(err)
	}
	settings := peers.Settings{Dir: peertest.Dir(t), Listen: rig.FreeAddress(t), Mailboxes: mailboxes, Certificate: both}
	server := p.server(settings)
	peertest.Start(t, server, settings.Listen)

	dns := rig.NewDNS(t, map[string]string{peers.Domain: peers.Host}, map[string]netip.Addr{peers.Host: netip.MustParseAddr("127.0.0.1")})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(settings.Listen)
	if err != nil {
		t.Fatal(err)
	}
	more := ""
	if !chunking {
		more = "ignore-chunking yes"
	}
	node := rig.NewNode(t, fmt.Sprintf(nodeConfig, dns.Address, port, ca, more))
	if err := node.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range mails() {
		handOver(t, node, m)
	}
	if err := node.Empty(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, m := range mails() {
		for _, to := range m.to {
			if box, known := mailboxes[to]; known {
				awaitCopy(t, &settings, box, m)
			}
		}
	}
	awaitReport(t, &settings)
	node.Stop() // its connections end
	checkEvents(t, node, chunking)
	p.awaitLog(t, server, chunking)
}

// handOver sends a message to the node.
func handOver(t *testing.T, node *rig.Node, m mail) {
	t.Helper()
	f, err := rig.Dial(t.Context(), node.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Command("MAIL FROM:<"+m.from+">"+m.mail, 250); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	for _, to := range m.to {
		if err := f.Command("RCPT TO:<"+to+">"+m.rcpt, 250); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
	}
	if err := f.Command("DATA", 354); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	if err := f.Finish([]byte(m.content)); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
}

// awaitCopy waits until a mailbox has the message once, octet by octet below the trace fields. Mailboxes
// have the line ends of the system.
func awaitCopy(t *testing.T, s *peers.Settings, box string, m mail) {
	t.Helper()
	want := strings.ReplaceAll(m.content, "\r\n", "\n")
	rig.Await(t, 20*time.Second, m.name+" in the mailbox "+box, func(context.Context) error {
		list, err := s.Messages(box)
		if err != nil {
			return err
		}
		found := 0
		for _, have := range list {
			at := bytes.Index(have, []byte("X-Begin: here\n"))
			if at < 0 || !bytes.Contains(have, []byte("Message-ID: <"+m.name+"@")) {
				continue
			}
			found++
			if got := string(have[at:]); got != want {
				return fmt.Errorf("it differs: %.2000q, want %.2000q", got, want)
			}
		}
		if found != 1 {
			return fmt.Errorf("it is there %d times, among %d messages", found, len(list))
		}
		return nil
	})
}

// awaitReport waits for the peer's report of success, which shows that it got the DSN parameters.
func awaitReport(t *testing.T, s *peers.Settings) {
	t.Helper()
	rig.Await(t, 20*time.Second, "a report to the sender", func(context.Context) error {
		list, err := s.Messages("sender")
		if err != nil || len(list) != 1 {
			return fmt.Errorf("%d messages for the sender (%w)", len(list), err)
		}
		for _, pattern := range []string{`(?mi)^Original-Envelope-Id: envelope-7$`, `(?mi)^Original-Recipient: rfc822; ?first@elsewhere\.example$`, `(?m)^Action: delivered`} {
			if !regexp.MustCompile(pattern).Match(list[0]) {
				return fmt.Errorf("no %s in the report:\n%s", pattern, list[0])
			}
		}
		return nil
	})
}

// checkEvents wants an end for each recipient, over TLS, the unknown one bounced alone.
func checkEvents(t *testing.T, node *rig.Node, chunking bool) {
	t.Helper()
	events, err := rig.Events(node.Events())
	if err != nil {
		t.Fatal(err)
	}
	wanted := 0
	for _, m := range mails() {
		wanted += len(m.to)
	}
	for _, e := range events {
		if !e.Kind.Final() {
			if e.Kind != event.Received {
				t.Errorf("%s for %q: %s", e.Kind, e.Recipient, e.Reply)
			}
			continue
		}
		wanted--
		want := event.Delivered
		if strings.HasPrefix(e.Recipient, "nobody@") {
			want = event.Bounced
		}
		if e.Kind != want || e.TLSVersion != "TLS 1.3" || e.MXHost != peers.Host {
			t.Errorf("%s for %q by %q over %q: %s; want %s", e.Kind, e.Recipient, e.MXHost, e.TLSVersion, e.Reply, want)
		}
		for _, extension := range []string{"PIPELINING", "CHUNKING", "SMTPUTF8", "DSN", "8BITMIME"} {
			if !strings.Contains(e.Headers["ESMTP"], extension) {
				t.Errorf("the peer offers %q, without %s", e.Headers["ESMTP"], extension)
			}
		}
	}
	if wanted != 0 {
		t.Errorf("%d recipients without an end", wanted)
	}
}

// awaitLog waits until the peer has written down what it has to, and wants nothing of chunks there if
// carom was told to use none.
func (p peer) awaitLog(t *testing.T, server peers.Server, chunking bool) {
	t.Helper()
	patterns := slices.Clone(p.logged)
	if chunking {
		patterns = append(patterns, p.chunks...)
	}
	rig.Await(t, 20*time.Second, "the peer's log", func(context.Context) error {
		for _, pattern := range patterns {
			if !regexp.MustCompile(pattern).MatchString(server.Log()) {
				return fmt.Errorf("nothing in it matches %s", pattern)
			}
		}
		return nil
	})
	for _, pattern := range p.chunks {
		if !chunking && regexp.MustCompile(pattern).MatchString(server.Log()) {
			t.Errorf("the peer's log matches %s", pattern)
		}
	}
}
