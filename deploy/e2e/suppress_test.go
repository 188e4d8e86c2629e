package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/deploy/up/supervise"
)

// secondNode starts a sender with its agent beside a system: another node over the same warehouse
// and with the same keys. It returns its SMTP address.
func (y *system) secondNode(t *testing.T) (smtp string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "keys"), os.DirFS(filepath.Join(y.dir, "keys"))); err != nil {
		t.Fatal(err)
	}
	smtp = freeAddress(t)
	writeConfig(t, dir, configData{SMTP: smtp, HTTP: y.http, DNS: y.receivers.DNS, SMTPPort: y.receivers.SMTPPort, Rate: unlimited})
	file, ready := filepath.Join(dir, "carom.conf"), filepath.Join(dir, "ready")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.ReplaceAll(string(text), nodeName, "second."+nodeName))
	err = y.supervisor.Start(t.Context(), supervise.Process{
		Name: "second", Path: carom, Once: true, Args: []string{"sender", "-c", file, "--ready-file", ready},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		t.Fatalf("carom sender: %v", err)
	}
	err = y.supervisor.Start(t.Context(), supervise.Process{
		Name: "second agent", Path: carom, Once: true, Args: []string{"ingest", "agent", "-c", file},
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(dir, "feed", "suppressions.snapshot"))
			return err
		},
	})
	if err != nil {
		t.Fatalf("carom ingest agent: %v", err)
	}
	return smtp
}

// TestSuppressedOnEveryNode: what a complaint, a bounce and an operator say to one node or to the
// warehouse is in force on another node within seconds, by way of the event log, ClickHouse, the
// job, the agent and the feed.
func TestSuppressedOnEveryNode(t *testing.T) {
	y := startSystem(t, quietScenario, unlimited)
	second := y.secondNode(t)
	sent := y.sendTo(t, complainer, gone)
	text := func(to string) string {
		return "From: news@" + fromDomain + "\r\nTo: " + to + "\r\nSubject: hello\r\nX-Job: " + job + "\r\n\r\nhello\r\n"
	}
	reply := func(to string) string { return handOver(t, second, "<news@"+fromDomain+">", to, text(to)) }
	for _, to := range []string{complainer, gone, victim} {
		if got := reply(to); !strings.HasPrefix(got, "250") {
			t.Fatalf("the second node answers %q for %s before anything happened", got, to)
		}
	}
	// until measures the time until the second node answers so.
	until := func(what, to, want string) {
		t.Helper()
		began := time.Now()
		await(t, time.Minute, what, func(context.Context) error {
			if got := reply(to); !strings.HasPrefix(got, want) {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
		t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
	}
	// steps tells where the time went: arrivals are by the warehouse's clock, which is this machine's.
	steps := func(what string, began time.Time, kind string) {
		t.Helper()
		var event, row time.Time
		if err := y.conn.QueryRow(t.Context(), "SELECT (SELECT max(arrived) FROM events WHERE kind = ?), (SELECT max(arrived) FROM suppressions)", kind).Scan(&event, &row); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: the event was in ClickHouse after %.1f s, the suppression after %.1f s", what, event.Sub(began).Seconds(), row.Sub(began).Seconds())
	}

	for _, r := range []struct {
		what, kind, to string
		content        []byte
		at             string
	}{
		{"complaint to the first node until the second refuses", "complaint", complainer, complaint(complainer, sent[complainer].Ref), complaintsTo},
		{"bounce to the first node until the second refuses", "remote-bounce", gone, bounce(gone, ""), sent[gone].MailFrom},
	} {
		began := time.Now()
		if got := handOver(t, y.smtp, "<>", r.at, string(r.content)); !strings.HasPrefix(got, "250") {
			t.Fatalf("%s: the report got %q, want 250", r.what, got)
		}
		until(r.what, r.to, "550 5.7.1")
		steps(r.what, began, r.kind)
	}
	y.wantReply(t, victim, "250")

	url := "http://" + y.http + "/carom"
	keyFile := filepath.Join(y.dir, "keys", "suppression.key")
	suppress := func(args ...string) string {
		t.Helper()
		out, errs, status := run(t, y.dir, append([]string{"suppress"}, append(args, "--url", url)...)...)
		if status != 0 {
			t.Fatalf("carom suppress %s: exit status %d: %s", strings.Join(args, " "), status, errs)
		}
		return out
	}
	out := suppress("show", gone, "--json", "--key-file", keyFile)
	var state struct {
		Suppressed []struct{ Category, Provider string }
		Events     []struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(out), &state); err != nil || len(state.Suppressed) != 1 || state.Suppressed[0].Provider != "big.test" || len(state.Events) < 2 {
		t.Errorf("carom suppress show %s: %s; want the bounce, with the provider of its delivery", gone, out)
	}
	suppress("add", victim, "--reason", "asked by phone", "--key-file", keyFile)
	until("carom suppress add until the second node refuses", victim, "550 5.7.1")
	suppress("remove", gone, complainer, victim, "-c", filepath.Join(y.dir, "carom.conf"))
	until("carom suppress remove until the second node takes it", gone, "250")
	first := func(to string) string { return handOver(t, y.smtp, "<news@"+fromDomain+">", to, text(to)) }
	await(t, time.Minute, "the first node takes them too", func(context.Context) error {
		for _, to := range []string{complainer, gone, victim} {
			if got := first(to); !strings.HasPrefix(got, "250") {
				return fmt.Errorf("%s: %q", to, got)
			}
		}
		return nil
	})
}
