package smtpd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFieldsOfAFileAreIncluded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("X-Sent-By: us\n\tand them\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &desk{}
	f := start(t, open+"host-id 7\n<virtual-mta vmta2>\ninclude-headers-from "+file+"\n</virtual-mta>\n<source 127.0.0.1>\nadd-message-id-header yes\nprocess-x-virtual-mta yes\n</source>", d, nil).hello(t)
	f.mail("X-Virtual-MTA: pool1\r\nA: b\r\n\r\nbody", "250")
	m := d.messages()[0]
	if got, want := masked(m), trace+"X-Sent-By: us\r\n\tand them\r\nMessage-ID: <ID.7@mx.test>\r\nA: b\r\n\r\nbody\r\n"; got != want {
		t.Errorf("content\n%q, want\n%q", got, want)
	}
	if want := "<" + m.ID.String() + ".7@mx.test>"; m.MessageID != want {
		t.Errorf("Message-ID %q is noted, want %q", m.MessageID, want)
	}
}

func TestBCC(t *testing.T) {
	m := received(t, "bcc archive@keep.test", "A: b\r\n\r\n")
	last := m.Recipients[len(m.Recipients)-1]
	if len(m.Recipients) < 2 || last.Address != "archive@keep.test" || last.Notify != "NEVER" || strings.Contains(string(m.Content), "archive") {
		t.Errorf("recipients %+v, content %q", m.Recipients, m.Content)
	}
}

func TestSuppressionListsRefuse(t *testing.T) {
	d := &desk{}
	f := start(t, open+"<address-list a1>\naddress gone@away.test\naddress /^bad/\n</address-list>\n<source 127.0.0.1>\nsuppression-lists a1\n</source>", d, nil).hello(t)
	f.say("MAIL FROM:<a@shop.test>", "250")
	for address, want := range map[string]string{
		"gone@away.test": `550 5.7.1 recipient is in suppression list "a1": <gone@away.test>`,
		"bad1@away.test": `550 5.7.1 recipient is in suppression list "a1": <bad1@away.test>`,
		"good@away.test": "250",
	} {
		f.say("RCPT TO:<"+address+">", want)
	}
}
