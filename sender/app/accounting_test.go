package app

import (
	"encoding/csv"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
	"carom/sender/account"
	"carom/sender/config"
)

// TestFieldNames: the configuration knows the fields that records have.
func TestFieldNames(t *testing.T) {
	if diff := cmp.Diff(account.FieldNames(), config.AcctFields()); diff != "" {
		t.Errorf("(-account +config):\n%s", diff)
	}
}

// cells returns a column of the records of a type in a CSV text.
func cells(t *testing.T, text, letter, column string) []string {
	t.Helper()
	all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range all {
		for i, name := range all[0] {
			if name == column && row[0] == letter {
				got = append(got, row[i])
			}
		}
	}
	return got
}

// whole returns the text of the only file of a pattern, "" where there is none.
func whole(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) > 1 {
		t.Fatalf("files %q: %v", files, err)
	}
	if len(files) == 0 {
		return ""
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAccounting: one message is accounted for in a file, by a program and by a webhook, each with the
// fields and the privacy that it asks for; refusals are in the reject log.
func TestAccounting(t *testing.T) {
	var mu sync.Mutex
	var posted []string
	answer := http.StatusServiceUnavailable
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, r.Header.Get("Idempotency-Key")+"\n"+string(body))
		w.WriteHeader(answer)
		answer = http.StatusOK
	}))
	defer hook.Close()
	s := newSink(t)
	dir := t.TempDir()
	p := newPlace(t, s, strings.NewReplacer("DIR", dir, "HOOK", hook.URL).Replace(`
total-max-smtp-in 1
<acct-file DIR/more/acct.csv>
 records d,t
 record-fields d *,header_From
 record-fields t rcpt,bounceCat
 move-to DIR/moved
</acct-file>
<acct-file |/usr/bin/tee DIR/piped>
 records t
 privacy-policy redact
</acct-file>
<acct-file DIR/hook.csv>
 records t,d
 queue-filter !b.test/*,*/*
 privacy-policy siphash secret
 http-webhook-url HOOK/pmta
</acct-file>
<rejectlog-file DIR/more/reject.csv>
</rejectlog-file>
<bounce-category-patterns>
 /not now/ my-own
</bounce-category-patterns>
`))
	for i := range p.config.AcctFiles {
		if a := &p.config.AcctFiles[i]; a.Webhook.URL != nil {
			a.Webhook.MaxInterval = 10 * time.Millisecond // nobody may configure less than a minute
		}
	}
	s.deferAll.Store(true)
	p.run(func(address string) {
		p.send(address, "ann@a.test", "bob@b.test")
		waitFor(t, "two deferrals", func() bool { return p.kinds()[event.Deferred] >= 2 })
		s.deferAll.Store(false)
		waitFor(t, "a batch that is taken", func() bool { mu.Lock(); defer mu.Unlock(); return len(posted) >= 2 })
		refuse(t, address)
		waitFor(t, "two deliveries", func() bool { return p.kinds()[event.Delivered] == 2 })
		waitFor(t, "what the program wrote", func() bool { return strings.Count(whole(t, dir+"/piped"), "\r\nt,") >= 2 })
		waitFor(t, "the delivery, posted", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(posted[len(posted)-1], "\r\nd,")
		})
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Error(err)
		}
		waitFor(t, "a file that is moved", func() bool {
			files, err := filepath.Glob(dir + "/moved/acct-*-0000.csv")
			return err == nil && len(files) == 1
		})
	})
	if got := cells(t, whole(t, dir+"/moved/acct-*-0000.csv"), "d", "header_From"); len(got) != 2 || got[0] != "news@shop.test" {
		t.Errorf("header_From of deliveries: %q", got)
	}
	if got := cells(t, whole(t, dir+"/moved/acct-*-0000.csv"), "t", "bounceCat"); len(got) < 2 || got[0] != "my-own" {
		t.Errorf("bounceCat: %q", got)
	}
	if got := cells(t, strings.SplitAfter(whole(t, dir+"/piped"), "\r\ntype,")[0], "t", "rcpt"); len(got) == 0 || !strings.HasPrefix(got[0], "...@") {
		t.Errorf("rcpt of the program: %q", got)
	}
	if posted[0] != posted[1] {
		t.Errorf("the batch changed:\n%s\nthen\n%s", posted[0], posted[1])
	}
	for _, batch := range posted {
		if strings.Contains(batch, "ann@") || strings.Contains(batch, "b.test") || !strings.Contains(batch, "@a.test") {
			t.Errorf("posted %s", batch)
		}
	}
	rejects := whole(t, dir+"/more/reject-*-0000.csv")
	if got := cells(t, rejects, "c", "dsnStatus"); len(got) != 1 || !strings.HasPrefix(got[0], "4.3.2 ") {
		t.Errorf("refused connections: %q", got)
	}
	if got := cells(t, rejects, "r", "orig"); len(got) != 1 || !strings.HasPrefix(got[0], "aaaa") {
		t.Errorf("refused messages: %q", got)
	}
}

// refuse has a message refused, and a connection beside the one that is allowed.
func refuse(t *testing.T, address string) {
	t.Helper()
	first, err := textproto.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, _, err := first.ReadResponse(220); err != nil {
		t.Fatal(err)
	}
	second, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if said, err := io.ReadAll(second); err != nil || !strings.HasPrefix(string(said), "421 4.3.2") {
		t.Errorf("the second connection: %q, %v", said, err)
	}
	for _, step := range []struct {
		command string
		code    int
	}{{"EHLO app", 250}, {"MAIL FROM:<" + strings.Repeat("a", 400) + "@shop.test>", 501}, {"QUIT", 221}} {
		if err := first.PrintfLine("%s", step.command); err != nil {
			t.Fatal(err)
		}
		if _, _, err := first.ReadResponse(step.code); err != nil {
			t.Fatalf("%s: %v", step.command, err)
		}
	}
}
