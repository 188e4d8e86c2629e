package app

import (
	"io/fs"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"carom/schemas/event"
)

// TestLogShowsNoRecipient: with a privacy-policy no octet of the event log, whatever stream, tells who was
// mailed: not of what was received, refused, deferred and delivered, nor of the reports about it, which
// name other recipients too.
func TestLogShowsNoRecipient(t *testing.T) {
	const ann, bob = "zaphod.beeblebrox", "ford-prefect"
	s := newSink(t)
	p := newPlace(t, s, `
<acct-file /dev/null/hidden.csv>
 records r,d,t,rb,f
 record-fields d *,header_To
 record-fields f *,header_To,arf_Original-Rcpt-To
 privacy-policy redact
</acct-file>
<bounce-processor>
<address-list>
address bounce@shop.test
</address-list>
</bounce-processor>
<feedback-loop-processor>
<address-list>
address fbl@shop.test
</address-list>
</feedback-loop-processor>`)
	// The policy is that of the file, which itself is not wanted here.
	last := len(p.config.AcctFiles) - 1
	p.config.EventLog.Privacy = p.config.AcctFiles[last].Privacy
	p.config.AcctFiles[last].Path = filepath.Join(p.dir, "hidden.csv")

	named := strings.NewReplacer("ann@big.test", ann+"@big.test", "<ann@big.test>\n", "<"+ann+"@big.test>\nOriginal-Rcpt-To: <"+bob+"@big.test>\n",
		"Message-ID: <1@shop.test>", "To: "+ann+"@big.test, \"A friend\" <"+bob+"@big.test>\nMessage-ID: <1@shop.test>",
		"5.1.1 no such user", "5.1.1 <"+ann+"@big.test> and "+bob+"@big.test: no such user")
	s.deferAll.Store(true)
	p.run(func(address string) {
		text := "From: news@shop.test\r\nTo: " + ann + "@big.test, " + strings.ToUpper(bob) + "@big.test\r\n\r\nhello\r\n"
		for from, to := range map[string]string{"v-" + ann + "=big.test@shop.test": ann, "news@shop.test": bob} {
			if err := smtp.SendMail(address, nil, from, []string{to + "@big.test"}, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "two deferrals", func() bool { return p.kinds()[event.Deferred] >= 2 })
		s.deferAll.Store(false)
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
		p.sendText(address, "", "bounce@shop.test", named.Replace(bounceMail))
		p.sendText(address, "", "fbl@shop.test", named.Replace(complaintMail))
	})
	kinds := p.kinds()
	if kinds[event.RemoteBounce] != 1 || kinds[event.Complaint] != 2 {
		t.Fatalf("the log has %v", kinds)
	}
	names := regexp.MustCompile(`(?i)zaphod|beeblebrox|ford|prefect`)
	err := filepath.WalkDir(filepath.Join(p.dir, "events"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		for _, at := range names.FindAllIndex(data, -1) {
			t.Errorf("%s shows %q", name, data[max(0, at[0]-60):min(len(data), at[1]+60)])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
