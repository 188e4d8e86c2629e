package account

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// page shows what records look like.
const page = "../../deploy/docs/accounting.md"

// shown are the samples of the page by name.
func shown(t *testing.T) map[string]string {
	t.Helper()
	text := func(o RecordOptions, all ...event.Event) string {
		l, err := NewLayout(o)
		if err != nil {
			t.Fatal(err)
		}
		l.zone = zone
		out := l.AppendHeader(nil)
		for i := range all {
			out, _ = l.Append(out, &all[i])
		}
		return strings.ReplaceAll(string(out), "\r\n", "\n")
	}
	bounce := delivered()
	bounce.Kind, bounce.PMTACategory = event.Bounced, "bad-mailbox"
	bounce.SetReply(smtpstatus.New(550, "5.1.1 <ann@example.com>: no such user"))
	bounce.Headers = map[string]string{"X-Track": "t-17"}
	refused := event.Event{Kind: event.Rejected, Time: noon, ClientIP: netip.MustParseAddr("192.0.2.9"), Listener: "198.51.100.1:25"}
	refused.SetReply(smtpstatus.New(421, "4.3.2 too many connections, try again later"))
	denied := refused
	denied.MessageID, denied.MailFrom, denied.Recipient, denied.ClientMTA = event.ID{1}, "a@shop.test", "x@example.net", "app"
	denied.SetReply(smtpstatus.New(550, "5.7.1 relaying denied"))
	short := map[string][]string{"d": {"timeLogged", "rcpt", "dsnStatus", "vmta", "jobId"}, "b": {"timeLogged", "rcpt", "dsnStatus", "bounceCat", "header_x-track"}}
	return map[string]string{
		"default": text(RecordOptions{Records: []string{"d", "b"}}, delivered(), bounce),
		"fields":  text(RecordOptions{Records: []string{"d", "b"}, Fields: short}, delivered(), bounce),
		"private": text(RecordOptions{Records: []string{"d", "b"}, Fields: map[string][]string{"d": {"rcpt"}, "b": {"rcpt", "dsnDiag"}}, Privacy: policy(t, SIPHash, "secret")}, delivered(), bounce),
		"rejects": text(RecordOptions{Records: []string{"c", "r"}, Rejects: true}, refused, denied),
	}
}

// TestPage: the samples of the page are what carom writes; -update puts them in.
func TestPage(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name, want := range shown(t) {
		marker := "<!-- sample " + name + " -->\n```\n"
		_, behind, ok := strings.Cut(text, marker)
		if !ok {
			t.Errorf("the page has no sample %s", name)
			continue
		}
		got, _, _ := strings.Cut(behind, "```")
		if got == want {
			continue
		}
		if !*update {
			t.Errorf("sample %s is\n%s\nwant\n%s", name, got, want)
			continue
		}
		text = strings.Replace(text, marker+got, marker+want, 1)
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
