package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"carom/deploy/receivers"
	"carom/deploy/up/supervise"
	"carom/sender/admin"
)

const (
	reloadMessages = 1500
	reloads        = 4
)

// TestReloadUnderLoad lets a node read a file of 50,000 lines again and again while it delivers: nothing
// is lost and nothing sent twice. The longest time without a delivery, with reloads and before them, is logged: how long
// it may be depends on the machine.
func TestReloadUnderLoad(t *testing.T) {
	y := &system{dir: t.TempDir(), smtp: freeAddress(t), http: nobody, supervisor: newSupervisor(t)}
	y.startReceivers(t, `{"version": 1, "seed": 3, "duration": "30s",
  "providers": [{"name": "big", "domains": ["big.test"], "mx": ["mx1.big.test", "mx2.big.test"], "latency_ms": [1, 3]}],
  "load": [{"tenant": "shop", "domains": {"big.test": 1}, "per_s": [{"at": "0s", "v": 250}]}]}`)
	writeConfig(t, y.dir, configData{SMTP: y.smtp, HTTP: y.http, DNS: y.receivers.DNS, SMTPPort: y.receivers.SMTPPort, Rate: unlimited})
	file := filepath.Join(y.dir, "carom.conf")
	text := []byte(readFile(t, file))
	write(t, file, string(large(text, 0)))
	y.admin = adminClient(filepath.Join(y.dir, "admin.sock"))
	ready := filepath.Join(y.dir, "ready")
	err := y.supervisor.Start(t.Context(), supervise.Process{
		Name: "sender", Path: carom, Once: true, StartTimeout: time.Minute,
		Args:  []string{"sender", "-c", file, "--ready-file", ready},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		t.Fatalf("carom sender: %v", err)
	}

	loaded := make(chan loadResult, 1)
	go func() { loaded <- y.load(t.Context(), reloadMessages) }()
	y.awaitFlow(t, reloadMessages/4)
	type span struct{ from, to time.Time }
	spans := make([]span, 0, reloads)
	for i := range reloads {
		write(t, file, string(large(text, i+1)))
		s := span{from: time.Now()}
		r, err := admin.NewClient(filepath.Join(y.dir, "admin.sock")).Reload(t.Context())
		if err != nil || !r.Changed {
			t.Fatalf("reload: %+v, %v", r, err)
		}
		s.to = time.Now()
		spans = append(spans, s)
	}
	result := <-loaded
	result.check(t, reloadMessages)
	await(t, 30*time.Second, "the end of all mail", func(ctx context.Context) error {
		s, err := y.status(ctx)
		if err == nil && s.LiveRecipients != 0 {
			err = fmt.Errorf("%d recipients live", s.LiveRecipients)
		}
		return err
	})

	times := make([]time.Time, 0, reloadMessages)
	once := map[string]bool{}
	for _, a := range readLines[receivers.Accepted](t, filepath.Join(y.dir, "accepted.ndjson")) {
		if once[a.Recipient] {
			t.Errorf("%s got its message twice", a.Recipient)
		}
		once[a.Recipient] = true
		times = append(times, a.Time)
	}
	if len(once) != reloadMessages {
		t.Errorf("%d recipients got their message, want %d", len(once), reloadMessages)
	}
	slices.SortFunc(times, time.Time.Compare)
	var during, before time.Duration
	for i := 1; i < len(times); i++ {
		gap := times[i].Sub(times[i-1])
		if times[i].Before(spans[0].from) {
			before = max(before, gap)
		}
		if slices.ContainsFunc(spans, func(s span) bool { return times[i].After(s.from) && times[i-1].Before(s.to) }) {
			during = max(during, gap)
		}
	}
	t.Logf("longest time without a delivery: %s before, %s in %d reloads of %d lines, which took %s each",
		before.Round(time.Millisecond), during.Round(time.Millisecond), reloads, bytes.Count(large(text, 0), []byte("\n")),
		(spans[len(spans)-1].to.Sub(spans[0].from) / reloads).Round(time.Millisecond))
}

// large returns a configuration with as many domains and virtual MTAs as a large operator has. n makes
// it another one.
func large(text []byte, n int) []byte {
	b := bytes.NewBuffer(slices.Clone(text))
	for i := range 5000 {
		fmt.Fprintf(b, "<domain d%d.example.com>\n\tmax-smtp-out %d\n\tmax-msg-rate %d/h\n\tbounce-after 4d12h\n</domain>\n", i, i+1, i+1+n)
	}
	for i := range 500 {
		fmt.Fprintf(b, "<virtual-mta v%d>\n\tsmtp-source-host 10.0.%d.%d v%d.example.com\n", i, i/250, i%250, i)
		for j := range 12 {
			fmt.Fprintf(b, "\t<domain [*.]d%d.example.com>\n\t\tmax-msg-rate %d/h\n\t\tretry-after 10m,30m,1h\n\t</domain>\n", j, i+1)
		}
		b.WriteString("</virtual-mta>\n")
	}
	return b.Bytes()
}
