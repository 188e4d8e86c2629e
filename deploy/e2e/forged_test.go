package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/deploy/receivers"
	"carom/deploy/receivers/reports"
	"carom/ingest/correlate"
	"carom/schemas/event"
)

// quietScenario has a receiver that takes everything and says nothing later.
const quietScenario = `{
  "version": 1, "seed": 7, "duration": "60s",
  "providers": [{"name": "big", "domains": ["big.test"], "mx": ["mx.big.test"], "latency_ms": [1, 2]}],
  "load": [{"tenant": "shop", "domains": {"big.test": 1}, "per_s": [{"at": "0s", "v": 1}]}]
}`

// The recipients of TestForgedReports.
const (
	victim     = "victim@big.test"     // whom forged reports are about
	complainer = "complainer@big.test" // who really complains
	gone       = "gone@big.test"       // whose mailbox really went away
)

// TestForgedReports sends reports with no token, a wrong one and one of another recipient, one that
// claims a signature of a trusted reporter, and one to a VERP address that anybody can write: all
// are taken and written down, and move nothing. Reports with the token of their message suppress at
// once, and count once however often they are sent.
func TestForgedReports(t *testing.T) {
	y := startSystem(t, quietScenario, unlimited)
	sent := y.sendTo(t, victim, complainer, gone)

	wrong := corrupt(t, sent[victim].Ref)
	forged := []struct {
		name    string
		content []byte
		to      string
	}{
		{"complaint without a token", complaint(victim, ""), complaintsTo},
		{"complaint with a wrong token", complaint(victim, wrong), complaintsTo},
		{"complaint with the token of another's message", complaint(victim, sent[complainer].Ref), complaintsTo},
		{"complaint with a token of another key", complaint(victim, forge(t, victim)), complaintsTo},
		{"complaint that claims a signature of a trusted reporter", claimSignature(complaint(victim, "")), complaintsTo},
		{"bounce to a VERP address", bounce(victim, ""), "news-" + strings.Replace(victim, "@", "=", 1) + "@" + bounceDomain},
		{"bounce without a token", bounce(victim, ""), "postmaster@" + bounceDomain},
		{"bounce with a wrong token", bounce(victim, wrong), wrong + "@" + bounceDomain},
		{"bounce with the token of another's message", bounce(victim, sent[gone].Ref), sent[gone].MailFrom},
	}
	for _, f := range forged {
		if reply := handOver(t, y.smtp, "<>", f.to, string(f.content)); !strings.HasPrefix(reply, "250") {
			t.Errorf("%s: got %q, want 250", f.name, reply)
		}
	}
	y.awaitRest(t, 20*time.Second)
	y.awaitRuns(t)

	if got := y.confidences(t); len(got) != len(forged) || got[0] > 0 || got[len(got)-1] == 1 {
		t.Errorf("events of %d forged reports have the confidences %v; want one each, some 0, none 1", len(forged), got)
	}
	await(t, 60*time.Second, "an attribution of each forged report", func(ctx context.Context) error {
		var n uint64
		err := y.conn.QueryRow(ctx, "SELECT uniqExact(node, incarnation, seq) FROM attributions").Scan(&n)
		if err == nil && n < uint64(len(forged)) {
			err = fmt.Errorf("%d of %d", n, len(forged))
		}
		return err
	})
	// Whoever has a token of his own can complain about the message that it came with, and no other.
	if diff := cmp.Diff([]string{complainer, gone}, y.counted(t)); diff != "" {
		t.Errorf("reports count about the messages to (-want +got):\n%s", diff)
	}
	for _, table := range []string{"suppressed", "limit_log"} {
		if n := y.count(t, "SELECT count() FROM "+table); n != 0 {
			t.Errorf("after forged reports %s has %d rows, want none", table, n)
		}
	}
	for _, address := range []string{victim, complainer, gone} {
		y.wantReply(t, address, "250")
	}

	// The real ones: the answer to the next RCPT is all the time that there is between.
	for _, r := range []struct {
		address string
		content []byte
		to      string
	}{
		{complainer, complaint(complainer, sent[complainer].Ref), complaintsTo},
		{gone, bounce(gone, ""), sent[gone].MailFrom},
	} {
		if reply := handOver(t, y.smtp, "<>", r.to, string(r.content)); !strings.HasPrefix(reply, "250") {
			t.Fatalf("report about %s: got %q, want 250", r.address, reply)
		}
		y.wantReply(t, r.address, "550 5.7.1")
	}
	y.wantReply(t, victim, "250")
	for range 2 { // the same again: it is taken, and counts no more
		if reply := handOver(t, y.smtp, "<>", complaintsTo, string(complaint(complainer, sent[complainer].Ref))); !strings.HasPrefix(reply, "250") {
			t.Fatalf("a complaint that is repeated: got %q, want 250", reply)
		}
	}
	await(t, 40*time.Second, "four attributions to the message that is complained about", func(ctx context.Context) error {
		var rows, complained uint64
		err := y.conn.QueryRow(ctx, `SELECT (SELECT uniqExact(node, incarnation, seq) FROM attributions WHERE kind = 'complaint' AND proven),
    (SELECT sum(complained) FROM report_cohorts)`).Scan(&rows, &complained)
		if err == nil && rows < 4 {
			err = fmt.Errorf("%d", rows)
		}
		if rows >= 4 && complained != 1 {
			t.Errorf("%d complaints of %d reports count, want 1", complained, rows)
		}
		return err
	})
	if diff := cmp.Diff([]string{complainer, gone}, y.counted(t)); diff != "" {
		t.Errorf("reports count about the messages to (-want +got):\n%s", diff)
	}
	await(t, 20*time.Second, "both suppressions in ClickHouse", func(ctx context.Context) error {
		var got []string
		err := y.conn.QueryRow(ctx, `SELECT arraySort(groupUniqArray(recipient)) FROM events
WHERE kind = 'delivered' AND recipient_key IN (SELECT recipient_key FROM suppressed)`).Scan(&got)
		if diff := cmp.Diff([]string{complainer, gone}, got); err == nil && diff != "" {
			err = fmt.Errorf("suppressed (-want +got):\n%s", diff)
		}
		return err
	})
}

// sendTo sends a message to each address and returns how the receivers got it.
func (y *system) sendTo(t *testing.T, addresses ...string) map[string]receivers.Accepted {
	t.Helper()
	for _, address := range addresses {
		y.wantReply(t, address, "250")
	}
	got := map[string]receivers.Accepted{}
	await(t, 20*time.Second, "all messages delivered", func(context.Context) error {
		for _, a := range readLines[receivers.Accepted](t, filepath.Join(y.dir, "accepted.ndjson")) {
			got[a.Recipient] = a
		}
		if len(got) < len(addresses) {
			return fmt.Errorf("%d of %d", len(got), len(addresses))
		}
		return nil
	})
	for address, a := range got {
		if token, ok := correlate.FromReturnPath(a.MailFrom); !ok || token != a.Ref {
			t.Fatalf("the message to %s came from %s with the reference %q; want the same token in both", address, a.MailFrom, a.Ref)
		}
	}
	return got
}

// wantReply sends a message and compares the reply that decided.
func (y *system) wantReply(t *testing.T, address, want string) {
	t.Helper()
	text := "From: news@" + fromDomain + "\r\nTo: " + address + "\r\nSubject: hello\r\nX-Job: " + job + "\r\n\r\nhello\r\n"
	if reply := handOver(t, y.smtp, "<news@"+fromDomain+">", address, text); !strings.HasPrefix(reply, want) {
		t.Errorf("mail to %s got %q, want %s", address, reply, want)
	}
}

// awaitRuns runs each job once. One of carom up that has the turn is waited for.
func (y *system) awaitRuns(t *testing.T) {
	t.Helper()
	for _, name := range []string{"suppression", "attribution", "throttle"} {
		await(t, 25*time.Second, "a run of "+name, func(context.Context) error {
			stdout, stderr, status := run(t, y.dir, "analytics", "run", name, "--json", "--url", "http://"+y.http+"/carom", "--policy", filepath.Join(y.dir, "policy.yaml")) //nolint:contextcheck // run has its own time
			var result struct{ Skipped bool }
			if err := json.Unmarshal([]byte(stdout), &result); err != nil || status != 0 {
				return fmt.Errorf("exit status %d, %w: %s%s", status, err, stdout, stderr)
			}
			if result.Skipped {
				return errors.New("another run has the turn")
			}
			return nil
		})
	}
}

// confidences returns how sure the matches of all reports are, in rising order.
func (y *system) confidences(t *testing.T) []float32 {
	t.Helper()
	var list []float32
	err := y.conn.QueryRow(t.Context(), "SELECT arraySort(groupArray(match_confidence)) FROM events WHERE kind IN (?, ?)",
		event.Complaint.String(), event.RemoteBounce.String()).Scan(&list)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// counted returns to whom the messages were that some report counts against, in order.
func (y *system) counted(t *testing.T) []string {
	t.Helper()
	var list []string
	err := y.conn.QueryRow(t.Context(), `SELECT arraySort(groupUniqArray(recipient)) FROM events
WHERE kind = 'delivered' AND (message_id, recipient_index) IN (SELECT message_id, recipient_index FROM attributed)`).Scan(&list)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// forge returns a token as only the node makes them, but with a key of another.
func forge(t *testing.T, address string) string {
	t.Helper()
	keys, err := correlate.NewKeys(correlate.Key{ID: 1, Secret: []byte("the secret of somebody else")})
	if err != nil {
		t.Fatal(err)
	}
	token, err := keys.Sign(event.NewID(), 0, address, time.Now().AddDate(0, 0, 30))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// claimSignature returns the report as if it came from a trusted reporter, with a signature of his
// that nobody made.
func claimSignature(report []byte) []byte {
	report = bytes.Replace(report, []byte("From: feedback@mx.big.test"), []byte("From: feedback@"+reporterDomain), 1)
	return append([]byte("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d="+reporterDomain+"; s=s;\r\n"+
		" h=From:To:Subject; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n"), report...)
}

// corrupt returns a token that says the same with another signature.
func corrupt(t *testing.T, token string) string {
	t.Helper()
	// Not the last letter: some of its bits are unused.
	at := len(token) - 3
	other := "a"
	if token[at] == 'a' {
		other = "b"
	}
	changed := token[:at] + other + token[at+1:]
	if found, ok := correlate.Find(changed); !ok || found != changed {
		t.Fatalf("%s has no longer the form of a token", changed)
	}
	return changed
}

func original(address, token string) *reports.Original {
	header := "Message-ID: <1@" + fromDomain + ">\r\nFrom: news@" + fromDomain + "\r\nTo: " + address + "\r\n"
	o := &reports.Original{
		MX: "mx.big.test", Source: netip.MustParseAddr("127.0.0.2"), Arrival: time.Now(), MailFrom: "news@" + fromDomain, Recipient: address,
	}
	if token != "" {
		header += correlate.Field + ": " + token + "\r\n"
	}
	o.Header = []byte(header)
	return o
}

func complaint(address, token string) []byte {
	return bytes.TrimSpace(reports.Complaint(original(address, token), complaintsTo, time.Now()))
}

func bounce(address, token string) []byte {
	return bytes.TrimSpace(reports.Bounce(original(address, token), "550 5.1.1 no such user", time.Now()))
}
