package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"carom/deploy/load"
	"carom/deploy/receivers/reports"
	"carom/deploy/receivers/scenarios"
	"carom/deploy/up"
	"carom/schemas/service"
	"carom/sender/config"
)

func TestPlan(t *testing.T) {
	p, err := newPlan(t.Context(), t.TempDir(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if p.messages != 20_000 || p.scenarioName != "demo" {
		t.Errorf("%d messages of scenario %q, want 20000 of demo as it is", p.messages, p.scenarioName)
	}
	if c := p.cut; c.Provider != "gmailish" || c.To != c.From/4 || c.At*2 != p.scenario.Duration.D() {
		t.Errorf("cut %+v, want that of gmailish to a quarter half-way", c)
	}
}

func TestScaledPlan(t *testing.T) {
	for _, tc := range []struct {
		name         string
		messages     int
		duration     time.Duration
		wantMessages int
		wantDuration time.Duration
		wantFrom     float64 // limit before the cut
	}{
		{"fewer messages", 10_000, 0, 10_000, 100 * time.Second, 55},
		{"shorter", 0, 50 * time.Second, 10_000, 50 * time.Second, 110},
		{"both", 20_000, 200 * time.Second, 20_000, 200 * time.Second, 55},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			p, err := newPlan(t.Context(), dir, tc.messages, tc.duration)
			if err != nil {
				t.Fatal(err)
			}
			s, err := scenarios.Open(p.scenarioName)
			if err != nil {
				t.Fatalf("the scenario that was written: %v", err)
			}
			if p.messages != tc.wantMessages || offered(s) != tc.wantMessages || s.Duration.D() != tc.wantDuration {
				t.Errorf("%d messages planned, %d offered in %s; want %d in %s", p.messages, offered(s), s.Duration, tc.wantMessages, tc.wantDuration)
			}
			if p.cut.From != tc.wantFrom || p.cut.To != tc.wantFrom/4 || p.cut.At*2 != tc.wantDuration {
				t.Errorf("cut %+v, want from %g to a quarter half-way", p.cut, tc.wantFrom)
			}
		})
	}
}

func TestConfigurationIsValid(t *testing.T) {
	dir := t.TempDir()
	p, err := newPlan(t.Context(), dir, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"reference.key", "suppression.key"} {
		if err := up.WriteKey(filepath.Join(dir, "keys", name)); err != nil {
			t.Fatal(err)
		}
	}
	key, err := newDKIMKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "dkim.pem"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := template.Must(template.New("demo").Parse(configText)).Execute(&text, newConfigData(p, "127.0.0.1:5353", 2525)); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := config.Parse(filepath.Join(dir, "carom.conf"), text.Bytes())
	if err != nil || len(warnings) > 0 {
		t.Fatalf("the demo's configuration: %v, warnings %v\n%s", err, warnings, text.String())
	}
	for _, l := range p.scenario.Load {
		if m, ok := c.VMTA(l.Tenant); !ok || len(m.SourceHosts) != 1 || len(m.DomainKeys) != 1 {
			t.Errorf("tenant %s has no virtual-mta with a source and a key", l.Tenant)
		}
	}
	s := c.Domain("eurotelco.test", "bank")
	if s.Provider != "eurotelco" || s.MaxMsgRate.PerSecond() != 99 || s.MaxSMTPOut != 20 || s.DefaultSMTPPort != 2525 ||
		s.BounceDomain != bounceDomain || s.FirstDKIM.Sign != config.DKIMYes || s.RetryRecipientsAfter != 6*time.Second {
		t.Errorf("settings of eurotelco.test/bank: %+v", s)
	}
	if s := c.Domain("gmailish.test", "shop"); s.MaxSMTPOut != 20 {
		t.Errorf("gmailish.test/shop has %d connections, want half of the provider's 40: it has two domains", s.MaxSMTPOut)
	}
	if !c.FeedbackLoopProcessor.Match(complaintsTo) || !c.BounceProcessor.Match("b-token@"+bounceDomain) {
		t.Error("the processors do not take reports")
	}
}

// good is a summary in which every check holds.
func good() *Summary {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	evidence := map[string]uint64{"ok": 800, "rate": 200}
	return &Summary{
		Messages: 1000, Started: start, Settled: true,
		Load:   load.Summary{Planned: 1000, Accepted: 990, Refused: 10},
		Queued: 5,
		Counts: Counts{
			Accepted: 990, Received: 1000, Delivered: 955, DeferredAttempts: 200, Bounced: 26, Expired: 1, SuppressedAtRcpt: 10,
			SuppressedAfterAccepted: 1, Deleted: 1, Discarded: 1, ReportsConsumed: 10, RemoteBounces: 6, Complaints: 4, ReportsMatched: 10,
			Suppressions: 36,
		},
		Receivers: Received{Accepted: 955, Reports: reports.Counts{Sent: 10}},
		Streams: []Stream{
			{Name: "event", Rows: 3000, LastSeq: 3000}, {Name: "annotation", Rows: 1, LastSeq: 1}, {Name: "gauge", Rows: 40, LastSeq: 40},
		},
		Written:   map[string]uint64{"event": 3000, "annotation": 1, "gauge": 39},
		Rollup10s: 955, Rollup1m: 955,
		Cut: Cut{Provider: "gmailish", Time: at(50), At: 50, From: 110, To: 27.5},
		Deferrals: Course{
			Before: Share{Attempts: 1000}, After: Share{Attempts: 600, Deferred: 200}, End: Share{Attempts: 400, Deferred: 4},
		},
		Changes: []Change{{
			Time: at(70), Provider: "gmailish", Kind: kindChange, Rule: "BACKOFF", Epoch: 1, RateOld: 99, RateNew: 25,
			Evidence: evidence, Recomputed: evidence, Attempts: 500, First: at(71), Last: at(91),
		}},
	}
}

func TestChecksHold(t *testing.T) {
	s := good()
	if s.Checks = s.check(); s.verdict() != nil {
		t.Errorf("a summary that adds up: %v", s.verdict())
	}
}

func TestChecksNotice(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Summary)
		want   string // name of the check that must fail, alone
	}{
		{"message left over", func(s *Summary) { s.Load.Unfinished = 1 }, "all messages handed over"},
		{"refused for another reason", func(s *Summary) { s.Counts.SuppressedAtRcpt = 9 }, "all messages handed over"},
		{"250 without an event", func(s *Summary) { s.Load.Accepted++ }, "accepted is what got a 250"},
		{"event without a 250", func(s *Summary) { s.Load.Accepted-- }, "accepted is what got a 250"},
		{"recipient lost", func(s *Summary) { s.Queued-- }, "every accepted recipient is accounted for"},
		{"recipient accounted for twice", func(s *Summary) { s.Counts.Expired++ }, "every accepted recipient is accounted for"},
		{"gap", func(s *Summary) { s.Streams[0].Gaps = 1 }, "every record is in ClickHouse exactly once"},
		{"duplicate", func(s *Summary) { s.Streams[2].Duplicates = 1 }, "every record is in ClickHouse exactly once"},
		{"not shipped", func(s *Summary) { s.Written["event"]++ }, "every record is in ClickHouse exactly once"},
		{"stream not shipped at all", func(s *Summary) { s.Streams = s.Streams[:2] }, "every record is in ClickHouse exactly once"},
		{"quarantined", func(s *Summary) { s.Quarantined = 1 }, "every record is in ClickHouse exactly once"},
		{"roll-up counted twice", func(s *Summary) { s.Rollup1m++ }, "roll-ups agree with events"},
		{"delivered but not received", func(s *Summary) { s.Receivers.Accepted-- }, "receivers counted the same"},
		{"duplicate without a crash", func(s *Summary) { s.Receivers.Accepted++; s.Receivers.Duplicates++ }, "receivers counted the same"},
		{"report not understood", func(s *Summary) { s.Counts.Complaints-- }, "every report found its message"},
		{"report not matched", func(s *Summary) { s.Counts.ReportsMatched-- }, "every report found its message"},
		{"report refused", func(s *Summary) { s.Receivers.Reports.Failed = 1 }, "every report found its message"},
		{"address not suppressed", func(s *Summary) { s.Counts.Unsuppressed = 1 }, "whoever bounced or complained is suppressed"},
		{"node above the limit", func(s *Summary) { s.Changes[0].Attempts = 700 }, "the node obeyed the new limit"},
		{"lease never used", func(s *Summary) { s.Changes[0].Attempts = 0 }, "the node obeyed the new limit"},
		{"deferrals stay", func(s *Summary) { s.Deferrals.End.Deferred = 100 }, "deferrals rose with the cut and fell again"},
		{"no mail at the end", func(s *Summary) { s.Deferrals.End = Share{} }, "deferrals rose with the cut and fell again"},
		{"cut not felt", func(s *Summary) { s.Deferrals.After.Deferred, s.Deferrals.End.Deferred = 0, 0 }, "deferrals rose with the cut and fell again"},
		{"other evidence", func(s *Summary) { s.Changes[0].Recomputed = map[string]uint64{"ok": 800, "rate": 201} }, "the evidence of every change re-computes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := good()
			tc.change(s)
			var failed []string
			for _, c := range s.check() {
				if !c.OK {
					failed = append(failed, c.Name)
				}
			}
			if len(failed) != 1 || failed[0] != tc.want {
				t.Errorf("failed checks %q, want %q alone", failed, tc.want)
			}
		})
	}
}

func TestLoopThatDidNotClose(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Change)
	}{
		{"another provider", func(c *Change) { c.Provider = "yahooish" }},
		{"only advised", func(c *Change) { c.Kind = "would_change" }},
		{"raised", func(c *Change) { c.RateNew = 120 }},
		{"before the cut", func(c *Change) { c.Time = c.Time.Add(-time.Minute) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := good()
			tc.change(&s.Changes[0])
			s.Checks = s.check()
			if err := fmt.Sprint(s.verdict()); !strings.Contains(err, "the loop lowered the limit after the cut") {
				t.Errorf("verdict %v, want that the loop did not close", err)
			}
		})
	}
}

func TestCrashAllowsDuplicates(t *testing.T) {
	s := good()
	s.Restarts = []string{"sender"}
	s.Receivers.Accepted, s.Receivers.Duplicates = 957, 2
	s.Load.InDoubt, s.Load.Accepted = 1, 989
	s.Load.Planned, s.Messages = 999, 999
	s.Checks = s.check()
	if err := s.verdict(); err != nil {
		t.Errorf("after a crash: %v", err)
	}
}

func TestDuplicatesAreCountedByReference(t *testing.T) {
	file := filepath.Join(t.TempDir(), "accepted.ndjson")
	lines := `{"message_id":"m1","ref":"r1","recipient":"a@x.test"}
{"message_id":"m1","ref":"r2","recipient":"a@x.test"}
{"message_id":"m1","ref":"r1","recipient":"b@x.test"}
{"message_id":"m1","ref":"r1","recipient":"a@x.test"}
`
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := duplicates(file); n != 1 || err != nil {
		t.Errorf("duplicates = %d, %v; want 1", n, err)
	}
}

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		name   string
		bucket Bucket
		want   string
	}{
		{"under all limits", Bucket{Accepted: 24.5, Limit: 99, Hidden: 110}, strings.Repeat("#", 25) + strings.Repeat(" ", 25) + ">"},
		{"refused", Bucket{Accepted: 10, Deferred: 10, Limit: 99, Hidden: 10}, strings.Repeat("#", 10) + "!" + strings.Repeat("x", 9) + strings.Repeat(" ", 30) + ">"},
		{"both limits", Bucket{Accepted: 5, Limit: 8, Hidden: 12}, "#####   |   !"},
		{"nothing", Bucket{Limit: 0, Hidden: 2}, "| !"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.bucket.bar(49); got != tc.want {
				t.Errorf("bar:\n%q, want\n%q", got, tc.want)
			}
		})
	}
}

func TestTextNamesWhatFailed(t *testing.T) {
	s := good()
	s.Queued++
	s.Checks = s.check()
	text := s.text()
	for _, want := range []string{"FAILED  every accepted recipient is accounted for", "1 of 12 checks FAILED", "BACKOFF", "99/s -> 25/s", "gaps = 0, duplicates = 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
}

func TestMistakes(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"too few messages", []string{"--messages", "10"}, "--messages 10"},
		{"too short", []string{"--duration", "5s"}, "--duration 5s"},
		{"fast and more", []string{"--fast", "--messages", "5000"}, "--fast"},
		{"folder in use", []string{"--dir", full}, "is not empty"},
		{"argument", []string{"x"}, "unexpected argument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Command(t.Context(), tc.args, service.IO{Out: io.Discard, Err: io.Discard})
			if service.ExitStatus(err) != 2 || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("carom demo %q: %v, want a ConfigError with %q", tc.args, err, tc.want)
			}
		})
	}
}
