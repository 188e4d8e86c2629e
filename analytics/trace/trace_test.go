package trace_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/analytics/trace"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/smtpstatus"
	"carom/schemas/suppression"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

const secret = "0123456789abcdef0123456789abcdef"

var (
	start   = time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC)
	message = uuid.MustParse("01a2087d-ec80-7abc-8def-0123456789ab") // of start
	other   = uuid.MustParse("01a2087d-ec80-7abc-8def-0123456789ac")
	report  = uuid.MustParse("01a21000-0000-7abc-8def-0123456789ad")
)

// history is a message to two recipients, of whom one is deferred, reached at the second attempt, and
// complains, and a bounce that came back without a token.
func history() []event.Event {
	ann := event.Event{
		MessageID: message, Recipients: 1, MailFrom: "news@shop.test", Recipient: "Ann@example.com", RecipientDomain: "example.com",
		RecipientKey: suppression.Key([]byte(secret), "ann@example.com"), Job: "spring", Tenant: "shop", Size: 4321, VMTA: "v1",
	}
	received := ann
	received.Time, received.Kind = start, event.Received
	received.ClientMTA, received.ClientIP = "app1", netip.MustParseAddr("10.0.0.1")
	received.Headers = map[string]string{"Message-ID": "<1@shop.test>"}

	deferred := ann
	deferred.Time, deferred.Kind, deferred.Attempt, deferred.Phase = start.Add(2*time.Second), event.Deferred, 1, event.PhaseRcpt
	deferred.Provider, deferred.Source, deferred.SourceIP = "google", "198.51.100.1", netip.MustParseAddr("198.51.100.1")
	deferred.MXHost, deferred.MXIP = "mx.example.com", netip.MustParseAddr("192.0.2.1")
	deferred.SetReply(smtpstatus.New(421, "4.7.28 slow\x1b[2J down"))
	deferred.Category, deferred.Class, deferred.Dimension = taxonomy.RateLimited, taxonomy.Soft, taxonomy.Rate
	deferred.DNS, deferred.Connect, deferred.TLS, deferred.Transfer, deferred.Mail = time.Millisecond, 20*time.Millisecond, 30*time.Millisecond, 1500*time.Millisecond, 100*time.Millisecond
	deferred.LimitEpoch, deferred.LimitActor, deferred.LimitReason, deferred.LimitingScope = 9, "loop", "r9", "lease"

	delivered := deferred
	delivered.Time, delivered.Kind, delivered.Attempt, delivered.Phase = start.Add(10*time.Minute), event.Delivered, 2, event.PhaseFinalDot
	delivered.SetReply(smtpstatus.New(250, "2.0.0 ok"))
	delivered.Category, delivered.Class, delivered.Dimension = taxonomy.Delivered, taxonomy.None, taxonomy.OK
	delivered.LimitReason, delivered.TLSVersion = "", "TLS 1.3" // it is found by key and epoch

	bob := received
	bob.RecipientIdx, bob.Recipient, bob.RecipientKey = 1, "bob@example.com", suppression.Key([]byte(secret), "bob@example.com")

	complaint := event.Event{
		Time: start.Add(24 * time.Hour), Kind: event.Complaint, MessageID: report, Recipients: 1, Recipient: "ann@example.com", RecipientKey: ann.RecipientKey,
		FeedbackType: "abuse", ReportingMTA: "fbl.example.com", MatchMethod: "return-path", MatchConfidence: 1, OriginalMessageID: message,
		Category: taxonomy.Complaint, Class: taxonomy.None, Dimension: taxonomy.User,
	}
	bounce := event.Event{
		Time: start.Add(25 * time.Hour), Kind: event.RemoteBounce, MessageID: other, Recipients: 1, Recipient: "bob@example.com", RecipientKey: bob.RecipientKey,
		MatchMethod: "none", Category: taxonomy.MailboxFull, Class: taxonomy.Soft, Dimension: taxonomy.User,
	}
	all := []event.Event{received, bob, deferred, delivered, complaint, bounce}
	for i := range all {
		all[i].Node, all[i].Incarnation, all[i].Seq, all[i].FormatVersion = "mail1", uuid.MustParse("00000000-0000-4000-8000-000000000001"), uint64(i)+1, 1
	}
	return all
}

func newWarehouse(t *testing.T) (url string, conn driver.Conn) {
	t.Helper()
	_, url = chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return url, conn
}

// TestWhoMayReadOnly: a user who may only read finds a message by each of the ways.
func TestWhoMayReadOnly(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("reads-0nly\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := chtest.StartWithSchema(t, "--readonly-user", "grafana", "--readonly-password-file", password)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := warehouse.Events.Insert(t.Context(), conn, "t", history()); err != nil {
		t.Fatal(err)
	}
	for _, asked := range []string{message.String(), "ann@example.com", "<1@shop.test>", suppression.Key([]byte(secret), "ann@example.com")} {
		var out bytes.Buffer
		err := trace.Command(t.Context(), []string{asked, "--url", url, "--user", "grafana", "--password-file", password, "--since", "2026-11-01"},
			service.IO{In: strings.NewReader(""), Out: &out, Err: io.Discard}, nil)
		if err != nil || !strings.Contains(out.String(), "DELIVERED at attempt 2") {
			t.Errorf("carom trace %s: %v\n%s", asked, err, out.String())
		}
	}
}

func TestTrace(t *testing.T) {
	url, conn := newWarehouse(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, args ...string) (string, error) {
		t.Helper()
		var out bytes.Buffer
		err := trace.Command(t.Context(), append(args, "--url", url, "--since", "2026-11-01"), service.IO{In: strings.NewReader(""), Out: &out, Err: io.Discard}, nil)
		return out.String(), err
	}

	t.Run("nothing in the warehouse", func(t *testing.T) {
		_, err := run(t, "ann@example.com")
		if !errors.Is(err, trace.ErrNothing) || !strings.Contains(err.Error(), "as recipient and as Message-ID since 2026-11-01 00:00:00 UTC; the warehouse has no events at all") {
			t.Errorf("%v", err)
		}
	})

	if err := warehouse.Events.Insert(t.Context(), conn, "t", history()); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), `INSERT INTO limit_log (id, ts, provider, source, epoch, rule_id, reason_text, rate_new)
VALUES ('r9', '2026-11-23 12:59:00', 'google', '198.51.100.1', 9, 'backoff', '12 of 40 were refused', 2.5)`); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), `INSERT INTO attributions (node, incarnation, seq, time, kind, feedback_type, match_method, match_confidence, proven, message_id, recipient_index, delivered_at)
VALUES ('mail1', '00000000-0000-4000-8000-000000000001', 5, '2026-11-24 13:00:00', 'complaint', 'abuse', 'return-path', 1, true, '`+message.String()+`', 0, '2026-11-23 13:10:00')`); err != nil {
		t.Fatal(err)
	}

	const life = `message 01a2087d-ec80-7abc-8def-0123456789ab, recipient 0: Ann@example.com
  from news@shop.test, job spring, tenant shop, 4321 octets
  2026-11-23 13:00:00.000  +0s       RECEIVED from app1 (10.0.0.1)
  2026-11-23 13:00:02.000  +2s       DEFERRED at attempt 1
      by 198.51.100.1 (v1) to google at mx.example.com (192.0.2.1) ended at rcpt
      421 4.7.28 slow [2J down
      means rate-limited: soft, rate
      took DNS 1ms, connect 20ms, TLS 30ms, transfer 1.5s (MAIL 100ms)
      limit of epoch 9 by loop: 2.5/s over all nodes, held back by lease
        because of backoff: 12 of 40 were refused
  2026-11-23 13:10:00.000  +10m0s    DELIVERED at attempt 2
      by 198.51.100.1 (v1) to google at mx.example.com (192.0.2.1) over TLS 1.3
      250 2.0.0 ok
      took DNS 1ms, connect 20ms, TLS 30ms, transfer 1.5s (MAIL 100ms)
      limit of epoch 9 by loop: 2.5/s over all nodes, held back by lease
        because of backoff: 12 of 40 were refused
  2026-11-24 13:00:00.000  +24h0m0s  COMPLAINT
      means complaint: none, user
      abuse, reported by fbl.example.com, proven by return-path, delivered 2026-11-23 13:10:00
`
	const bobs = `message 01a2087d-ec80-7abc-8def-0123456789ab, recipient 1: bob@example.com
  from news@shop.test, job spring, tenant shop, 4321 octets
  2026-11-23 13:00:00.000  +0s       RECEIVED from app1 (10.0.0.1)
`
	const bounced = `message 01a2087d-ec80-7abc-8def-0123456789ac, recipient 0: bob@example.com
  2026-11-24 14:00:00.000  +0s       REMOTE-BOUNCE
      means mailbox-full: soft, user
      no delivery was found for it
`
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"by its id", life + "\n" + bobs, []string{message.String()}},
		{"by its id as the log has it", life + "\n" + bobs, []string{"message_id=" + message.String()}},
		{"by its Message-ID", life + "\n" + bobs, []string{"<1@shop.test>"}},
		{"by its Message-ID without brackets", life + "\n" + bobs, []string{"1@shop.test"}},
		{"by the recipient", life, []string{"Ann@Example.com"}},
		{"by the recipient in another case", life, []string{"ann@example.com", "--key-file", key}},
		{"by the recipient's key", life, []string{suppression.Key([]byte(secret), "ann@example.com")}},
		{"a report of its own", bobs + "\n" + bounced, []string{"bob@example.com"}},
		{"the newest only", bounced + "\nThere are more: these are the newest 1 messages (--limit).\n", []string{"bob@example.com", "--limit", "1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := run(t, tc.args...)
			if err != nil || got != tc.want {
				t.Errorf("carom trace %q: %v\n%s\nwant:\n%s", tc.args, err, got, tc.want)
			}
		})
	}

	t.Run("from before the time asked for", func(t *testing.T) {
		answer, err := trace.Ask(t.Context(), conn, trace.Question{Text: "ann@example.com", Since: start.Add(time.Minute), Limit: 20})
		if err != nil || len(answer.Messages) != 1 || len(answer.Messages[0].Steps) != 4 || answer.Messages[0].Steps[0].Kind != "received" {
			t.Errorf("%v, %+v: want the whole life of a message that had a step since", err, answer)
		}
	})

	t.Run("joined by a job", func(t *testing.T) {
		if err := conn.Exec(t.Context(), `INSERT INTO attributions (node, incarnation, seq, time, kind, match_method, match_confidence, proven, message_id, recipient_index, delivered_at)
VALUES ('mail1', '00000000-0000-4000-8000-000000000001', 6, '2026-11-24 14:00:00', 'remote-bounce', 'recipient', 0.5, false, '`+message.String()+`', 1, '2026-11-23 13:10:00')`); err != nil {
			t.Fatal(err)
		}
		for _, asked := range []string{message.String(), "bob@example.com"} {
			got, err := run(t, asked)
			if err != nil || !strings.Contains(got, bobs+"  2026-11-24 14:00:00.000  +25h0m0s  REMOTE-BOUNCE\n") || !strings.HasSuffix(got, "joined by recipient, confidence 0.5, delivered 2026-11-23 13:10:00\n") {
				t.Errorf("%v\n%s", err, got)
			}
		}
	})

	t.Run("as JSON", func(t *testing.T) {
		got, err := run(t, message.String(), "--json")
		var answer trace.Trace
		if failed := json.Unmarshal([]byte(got), &answer); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		if len(answer.Messages) != 2 || len(answer.Messages[0].Steps) != 4 || answer.Messages[0].Steps[1].Timings.Transfer != 1_500_000 || answer.Messages[0].Steps[1].Limit.Reason == "" {
			t.Errorf("%s", got)
		}
	})

	t.Run("more steps than an answer has", func(t *testing.T) {
		if err := conn.Exec(t.Context(), `INSERT INTO events (node, seq, time, kind, message_id, recipient)
SELECT 'n', number, now64(6) - toIntervalSecond(number), 'deferred', '01a2087d-ec80-7abc-8def-0123456789ff', 'eve@example.com' FROM numbers(10001)`); err != nil {
			t.Fatal(err)
		}
		answer, err := trace.Ask(t.Context(), conn, trace.Question{Text: "eve@example.com", Since: start.AddDate(-1, 0, 0), Limit: 20})
		if err != nil || !answer.More || len(answer.Messages) != 1 || len(answer.Messages[0].Steps) != 10_000 {
			t.Errorf("%v, %d messages, more %v: want one of 10,000 steps, and that there are more", err, len(answer.Messages), answer.More)
		}
	})

	t.Run("nothing found", func(t *testing.T) {
		got, err := run(t, "nobody@example.com", "--json")
		if !errors.Is(err, trace.ErrNothing) || service.ExitStatus(err) != 1 || !strings.HasSuffix(err.Error(), "the oldest event stored is of 2026-11-23 13:00:00") || !strings.Contains(got, `"messages": []`) {
			t.Errorf("%v\n%s", err, got)
		}
	})

	for _, args := range [][]string{{}, {"a@b", "c@d"}, {"a@b", "--limit", "0"}, {"a@b", "--key-file", "/nowhere"}} {
		if _, err := run(t, args...); service.ExitStatus(err) != 2 {
			t.Errorf("carom trace %q: %v, want a mistake", args, err)
		}
	}
}
