package reports

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/suppression"
	"carom/schemas/taxonomy"
)

const (
	recipient = "ann@provider.test"
	sender    = "news@shop.test"
)

var (
	now      = time.Date(2026, 11, 23, 12, 0, 20, 0, time.UTC)
	original = event.ID{0: 1, 15: 2}
	reportID = event.ID{0: 3, 15: 4}
	secret   = []byte("0123456789abcdef")
)

func key(address string) string { return suppression.Key(secret, address) }

func keys(t testing.TB, secret string) *correlate.Keys {
	t.Helper()
	k, err := correlate.NewKeys(correlate.Key{ID: 1, Secret: []byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	ours   = "a secret of this node"
	theirs = "a secret of somebody else"
)

// token returns a token for a recipient of the original message, index 5.
func token(t testing.TB, secret, address string, life time.Duration) string {
	t.Helper()
	s, err := keys(t, secret).Sign(original, 5, address, now.Add(life))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sample returns the report in testdata with its placeholders replaced in pairs. Those that are
// not named get values without a token.
func sample(t testing.TB, name string, replace ...string) Mail {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".eml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(append(replace, "RETURNPATH", sender, "RECIPIENT", recipient, "ENVID", "e1", "REFERENCE", "none")...).Replace(string(data))
	m := Mail{
		ID: reportID, Arrived: now, Recipients: []string{sender}, ClientIP: netip.MustParseAddr("192.0.2.25"), ClientName: "mx1.provider.test",
		Content: []byte(text),
	}
	if name == "complaint" {
		m.Recipients = []string{"fbl@shop.test"}
	}
	return m
}

func process(t *testing.T, m Mail) Finding {
	t.Helper()
	f, err := New(keys(t, ours), key, nil).Process(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// one returns the only event of a finding.
func one(t *testing.T, f Finding) *event.Event {
	t.Helper()
	if len(f.Events) != 1 {
		t.Fatalf("%d events, want 1", len(f.Events))
	}
	return f.Events[0]
}

func sameEvent(t *testing.T, want, got *event.Event) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestBounce(t *testing.T) {
	ref := token(t, ours, "Ann@Provider.Test", time.Hour)
	f := process(t, sample(t, "bounce", "REFERENCE", ref, "ENVID", ref))
	sameEvent(t, &event.Event{
		Time: now, Kind: event.RemoteBounce, MessageID: reportID, MailFrom: sender, MailFromDomain: "shop.test",
		Recipient: recipient, RecipientDomain: "provider.test", RecipientKey: key(recipient),
		MXHost: "", Code: 550, Enhanced: "5.1.1", Reply: "550 5.1.1 The email account that you tried to reach does not exist.",
		ReplyTemplate: "550 5.1.1 The email account that you tried to reach does not exist.",
		Category:      taxonomy.BadMailbox, Class: taxonomy.Hard, Dimension: taxonomy.User, PMTACategory: "bad-mailbox", ClassifierVersion: classify.Version,
		FeedbackType: "failed", ReportingMTA: "mx1.provider.test", MatchMethod: "reference-header", MatchConfidence: 1,
		OriginalMessageID: original, OriginalIdx: 5, ClientIP: netip.MustParseAddr("192.0.2.25"), ClientMTA: "mx1.provider.test",
		Headers: map[string]string{"ORCPT": recipient, "Message-ID": "<1@shop.test>"},
	}, one(t, f))
	if diff := cmp.Diff([]string{recipient}, f.Suppress); diff != "" {
		t.Errorf("Suppress (-want +got):\n%s", diff)
	}
}

func TestComplaint(t *testing.T) {
	f := process(t, sample(t, "complaint", "REFERENCE", token(t, ours, recipient, time.Hour)))
	sameEvent(t, &event.Event{
		Time: now, Kind: event.Complaint, MessageID: reportID, MailFrom: sender, MailFromDomain: "shop.test", FromDomain: "shop.test",
		Recipient: recipient, RecipientDomain: "provider.test", RecipientKey: key(recipient), EnvID: "e1",
		SourceIP: netip.MustParseAddr("198.51.100.7"),
		Category: taxonomy.Complaint, Class: taxonomy.None, Dimension: taxonomy.User, PMTACategory: "other", ClassifierVersion: classify.Version,
		FeedbackType: "abuse", ReportingMTA: "mx1.provider.test", MatchMethod: "reference-header", MatchConfidence: 1,
		OriginalMessageID: original, OriginalIdx: 5, ClientIP: netip.MustParseAddr("192.0.2.25"), ClientMTA: "mx1.provider.test",
		Headers: map[string]string{"User-Agent": "carom-receivers/1.0", "Message-ID": "<1@shop.test>"},
	}, one(t, f))
	if diff := cmp.Diff([]string{recipient}, f.Suppress); diff != "" {
		t.Errorf("Suppress (-want +got):\n%s", diff)
	}
}

// Where the token is found, and what one that does not prove itself is worth: an event, and nobody
// is suppressed.
func TestMatch(t *testing.T) {
	good := token(t, ours, recipient, time.Hour)
	forged := token(t, theirs, recipient, time.Hour)
	altered := good[:len(good)-4] + "aaaa"
	expired := token(t, ours, recipient, -48*time.Hour)
	elsewhere := token(t, ours, "bob@provider.test", time.Hour)
	for _, tc := range []struct {
		name       string
		to         string // envelope recipient, "" for the sample's
		replace    []string
		method     correlate.Method
		confidence float32
		suppresses bool
	}{
		{"return path of a bounce", good + "@bounce.shop.test", nil, correlate.ReturnPath, 1, true},
		{"return path in upper case", strings.ToUpper(good) + "@BOUNCE.shop.test", nil, correlate.ReturnPath, 1, true},
		{"field of the returned header", "", []string{"REFERENCE", good}, correlate.ReferenceHeader, 1, true},
		{"return path in the report", "", []string{"X-Carom-Ref: REFERENCE", "Return-Path: <" + good + "@bounce.shop.test>"}, correlate.ReferenceHeader, 1, true},
		{"ENVID", "", []string{"ENVID", good}, correlate.EnvelopeID, 1, true},
		{"a good one behind a forged one", forged + "@bounce.shop.test", []string{"REFERENCE", good}, correlate.ReferenceHeader, 1, true},
		{"no token", "", nil, correlate.None, 0, false},
		{"forged", forged + "@bounce.shop.test", []string{"REFERENCE", forged, "ENVID", forged}, correlate.None, 0, false},
		{"altered", "", []string{"REFERENCE", altered}, correlate.None, 0, false},
		{"expired", "", []string{"REFERENCE", expired}, correlate.None, 0, false},
		{"of another recipient, by return path", elsewhere + "@bounce.shop.test", nil, correlate.ReturnPath, 0.9, false},
		{"of another recipient, quoted", "", []string{"REFERENCE", elsewhere}, correlate.ReferenceHeader, 0.7, false},
	} {
		for _, form := range []string{"bounce", "complaint"} {
			t.Run(form+"/"+tc.name, func(t *testing.T) {
				m := sample(t, form, tc.replace...)
				if tc.to != "" {
					m.Recipients = []string{tc.to}
				}
				f := process(t, m)
				e := one(t, f)
				var index uint32
				var id event.ID
				if tc.method != correlate.None {
					index, id = 5, original
				}
				if e.MatchMethod != string(tc.method) || e.MatchConfidence != tc.confidence || e.OriginalIdx != index || e.OriginalMessageID != id {
					t.Errorf("match %s %v of %s/%d, want %s %v", e.MatchMethod, e.MatchConfidence, e.OriginalMessageID, e.OriginalIdx, tc.method, tc.confidence)
				}
				if e.Recipient != recipient || e.RecipientKey != key(recipient) {
					t.Errorf("recipient %s, key %s", e.Recipient, e.RecipientKey)
				}
				if (len(f.Suppress) == 1) != tc.suppresses {
					t.Errorf("Suppress %q, want one address: %t", f.Suppress, tc.suppresses)
				}
				if e.Source != "" { // whoever has one token could hang complaints on any source
					t.Errorf("source %q by the report's own word", e.Source)
				}
			})
		}
	}
}

func TestNotification(t *testing.T) {
	const diagnostic = "Diagnostic-Code: smtp; 550 5.1.1 The email account that you tried to\r\n reach does not exist.\r\n"
	ref := token(t, ours, recipient, time.Hour)
	for _, tc := range []struct {
		name       string
		replace    []string
		kind       event.Kind
		category   taxonomy.Category
		class      taxonomy.Class
		feedback   string
		suppresses bool
	}{
		{"hard", nil, event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", true},
		{"status only", []string{diagnostic, ""}, event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", true},
		{
			"mailbox full",
			[]string{"Status: 5.1.1", "Status: 5.2.2", diagnostic, "Diagnostic-Code: smtp; 552 5.2.2 over quota\r\n"},
			event.RemoteBounce, taxonomy.MailboxFull, taxonomy.Soft, "failed", false,
		},
		{"expired at the receiver", []string{"Status: 5.1.1", "Status: 4.4.7", diagnostic, ""}, event.RemoteBounce, taxonomy.Expired, taxonomy.Soft, "failed", false},
		{
			"temporary reply, permanent status",
			[]string{diagnostic, "Diagnostic-Code: smtp; 450 4.1.1 no such user, for now\r\n"},
			event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", false,
		},
		{
			"temporary status, nothing else",
			[]string{"Status: 5.1.1", "Status: 4.1.1", diagnostic, ""},
			event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", false,
		},
		{"delayed", []string{"Action: failed", "Action: delayed", "Status: 5.1.1", "Status: 4.4.1", diagnostic, ""}, event.RemoteStatus, "", "", "delayed", false},
		{"delayed, whatever the status", []string{"Action: failed", "Action: delayed"}, event.RemoteStatus, "", "", "delayed", false},
		{"delivered", []string{"Action: failed", "Action: delivered", "Status: 5.1.1", "Status: 2.0.0", diagnostic, ""}, event.RemoteStatus, "", "", "delivered", false},
		{"no action, inferred from the status", []string{"Action: failed\r\n", ""}, event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", true},
		{"no action, no status", []string{"Action: failed\r\nStatus: 5.1.1\r\n", ""}, event.RemoteBounce, taxonomy.BadMailbox, taxonomy.Hard, "failed", true},
		{"nothing at all", []string{"Action: failed\r\nStatus: 5.1.1\r\n" + diagnostic, ""}, event.RemoteStatus, "", "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := process(t, sample(t, "bounce", append(tc.replace, "REFERENCE", ref)...))
			e := one(t, f)
			if e.Kind != tc.kind || e.Category != tc.category || e.Class != tc.class || e.FeedbackType != tc.feedback {
				t.Errorf("got %s %q %q %q, want %s %q %q %q", e.Kind, e.Category, e.Class, e.FeedbackType, tc.kind, tc.category, tc.class, tc.feedback)
			}
			if e.MatchConfidence != 1 {
				t.Errorf("confidence %v", e.MatchConfidence)
			}
			if (len(f.Suppress) == 1) != tc.suppresses {
				t.Errorf("Suppress %q, want one address: %t", f.Suppress, tc.suppresses)
			}
		})
	}
}

func TestFeedbackTypes(t *testing.T) {
	ref := token(t, ours, recipient, time.Hour)
	for word, want := range map[string]event.Kind{
		"abuse": event.Complaint, "fraud": event.Complaint, "virus": event.Complaint, "opt-out": event.Complaint,
		"not-spam": event.RemoteStatus, "auth-failure": event.RemoteStatus, "other": event.RemoteStatus, "dislike": event.RemoteStatus,
	} {
		f := process(t, sample(t, "complaint", "REFERENCE", ref, "Feedback-Type: abuse", "Feedback-Type: "+word))
		e := one(t, f)
		complains := want == event.Complaint
		if e.Kind != want || (e.Category == taxonomy.Complaint) != complains || (len(f.Suppress) == 1) != complains || e.MatchConfidence != 1 {
			t.Errorf("%s: %s, category %q, suppresses %q, confidence %v; want %s", word, e.Kind, e.Category, f.Suppress, e.MatchConfidence, want)
		}
	}
}

func TestRedactedRecipient(t *testing.T) {
	ref := token(t, ours, recipient, time.Hour)
	for _, tc := range []struct {
		name      string
		replace   []string
		recipient string
		key       string
		proven    bool
	}{
		{"field missing", []string{"Original-Rcpt-To: <RECIPIENT>\r\n", ""}, "", "", false},
		{"blanked out", []string{"<RECIPIENT>", "<redacted>"}, "redacted", "", false},
		{"hashed", []string{"<RECIPIENT>", "<3b1f@provider.test>"}, "3b1f@provider.test", key("3b1f@provider.test"), false},
		{"the message says To", []string{"<RECIPIENT>", "<redacted>", "Subject: spring", "To: Bob <bob@b.test>, Ann <RECIPIENT>"}, recipient, key(recipient), true},
		{"the field of JMRP", []string{"<RECIPIENT>", "<redacted>", "Subject: spring", "X-HmXmrOriginalRecipient: RECIPIENT"}, recipient, key(recipient), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, s := range tc.replace {
				if i%2 == 1 {
					tc.replace[i] = strings.ReplaceAll(s, "RECIPIENT", recipient)
				}
			}
			f := process(t, sample(t, "complaint", append(tc.replace, "REFERENCE", ref)...))
			e := one(t, f)
			if e.Kind != event.Complaint || e.Recipient != tc.recipient || e.RecipientKey != tc.key || e.OriginalMessageID != original || e.OriginalIdx != 5 {
				t.Errorf("%s of %q (key %q), original %s/%d", e.Kind, e.Recipient, e.RecipientKey, e.OriginalMessageID, e.OriginalIdx)
			}
			if proven := e.MatchConfidence == 1; proven != tc.proven || (len(f.Suppress) == 1) != tc.proven {
				t.Errorf("confidence %v, suppresses %q; want proof: %t", e.MatchConfidence, f.Suppress, tc.proven)
			}
		})
	}
}

// A token proves its own recipient; the others of the report are written down without a match.
func TestSeveralRecipients(t *testing.T) {
	const status = "Final-Recipient: rfc822; RECIPIENT\r\nAction: failed\r\nStatus: 5.1.1\r\n"
	more := status + "\r\n" + strings.ReplaceAll(status, "RECIPIENT", "bob@provider.test") +
		"\r\nFinal-Recipient: rfc822; eve@provider.test\r\nAction: delivered\r\nStatus: 2.0.0\r\n\r\n" + status
	more = strings.ReplaceAll(more, "RECIPIENT", recipient)
	f := process(t, sample(t, "bounce", status, more, "REFERENCE", token(t, ours, recipient, time.Hour)))
	type row struct {
		Kind       event.Kind
		Index      uint32
		Recipient  string
		Confidence float32
		Original   event.ID
	}
	got := make([]row, len(f.Events))
	for i, e := range f.Events {
		got[i] = row{e.Kind, e.RecipientIdx, e.Recipient, e.MatchConfidence, e.OriginalMessageID}
	}
	if diff := cmp.Diff([]row{
		{event.RemoteBounce, 0, recipient, 1, original},
		{event.RemoteBounce, 1, "bob@provider.test", 0, event.ID{}},
		{event.RemoteStatus, 2, "eve@provider.test", 0, event.ID{}},
		{event.RemoteBounce, 3, recipient, 1, original},
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{recipient}, f.Suppress); diff != "" {
		t.Errorf("Suppress (-want +got):\n%s", diff)
	}

	f = process(t, sample(t, "complaint", "Original-Rcpt-To: <RECIPIENT>", "Original-Rcpt-To: <bob@provider.test>\r\nOriginal-Rcpt-To: <"+recipient+">",
		"REFERENCE", token(t, ours, recipient, time.Hour)))
	if len(f.Events) != 2 || f.Events[0].MatchConfidence != 0 || f.Events[1].MatchConfidence != 1 || len(f.Suppress) != 1 {
		t.Errorf("complaint of two: %d events, suppresses %q", len(f.Events), f.Suppress)
	}
}

// An address that was forwarded is not the one that was signed: the event tells which message it
// was, and nobody is suppressed.
func TestForwardedRecipient(t *testing.T) {
	m := sample(t, "bounce", "RECIPIENT", "ann@forwarded.test")
	m.Recipients = []string{token(t, ours, recipient, time.Hour) + "@bounce.shop.test"}
	f := process(t, m)
	e := one(t, f)
	if e.Recipient != "ann@forwarded.test" || e.OriginalMessageID != original || e.MatchConfidence != 0.9 || len(f.Suppress) > 0 {
		t.Errorf("%s, original %s, confidence %v, suppresses %q", e.Recipient, e.OriginalMessageID, e.MatchConfidence, f.Suppress)
	}
}

func TestCustomersEnvelopeID(t *testing.T) {
	e := one(t, process(t, sample(t, "bounce", "ENVID", "batch+207")))
	if e.EnvID != "batch 7" {
		t.Errorf("EnvID %q, want %q", e.EnvID, "batch 7")
	}
	if e = one(t, process(t, sample(t, "bounce", "ENVID", token(t, theirs, recipient, time.Hour)))); e.EnvID != "" {
		t.Errorf("EnvID %q, want none", e.EnvID)
	}
}

func TestNotAReport(t *testing.T) {
	ref := token(t, ours, recipient, time.Hour)
	for name, m := range map[string]Mail{
		"a question": {Content: []byte("From: ann@provider.test\r\nSubject: my parcel\r\nX-Carom-Ref: " + ref + "\r\n\r\nWhere is it?\r\n")},
		"a report that somebody forwards": {Content: append([]byte("Content-Type: message/rfc822\r\n\r\n"),
			sample(t, "bounce", "REFERENCE", ref).Content...)},
	} {
		f, err := New(keys(t, ours), key, nil).Process(t.Context(), m)
		if !errors.Is(err, ErrNotAReport) || len(f.Events) > 0 || len(f.Suppress) > 0 {
			t.Errorf("%s: %v, %d events, suppresses %q", name, err, len(f.Events), f.Suppress)
		}
	}
}

// TestAutomaticReply: it is known as one, and says nothing of anybody's mailbox.
func TestAutomaticReply(t *testing.T) {
	f := process(t, sample(t, "autoreply", "REFERENCE", token(t, ours, recipient, time.Hour)))
	if f.Kind != "autoreply" || len(f.Events) > 0 || len(f.Suppress) > 0 {
		t.Errorf("%s, %d events, suppresses %q", f.Kind, len(f.Events), f.Suppress)
	}
}

// TestAggregateReport: one event with the counts, whoever sent it.
func TestAggregateReport(t *testing.T) {
	m := Mail{ID: reportID, Arrived: now, Recipients: []string{token(t, ours, recipient, time.Hour) + "@bounce.shop.test"}, Content: []byte(
		"From: dmarc@provider.test\r\nSubject: Report Domain: shop.test\r\nMIME-Version: 1.0\r\nContent-Type: text/xml\r\n\r\n" +
			`<feedback><report_metadata><org_name>Provider</org_name><report_id>7</report_id><date_range><begin>1795996800</begin><end>1796083199</end></date_range></report_metadata>` +
			`<policy_published><domain>shop.test</domain></policy_published>` +
			`<record><row><source_ip>192.0.2.1</source_ip><count>12</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row></record></feedback>` + "\r\n")}
	f := process(t, m)
	e := one(t, f)
	if f.Kind != "aggregate" || e.Kind != event.RemoteStatus || e.FeedbackType != "dmarc-aggregate" || e.ReportingMTA != "Provider" || e.Headers["messages"] != "12" ||
		e.Recipient != "" || e.RecipientKey != "" || e.MatchMethod != "none" || e.OriginalMessageID != (event.ID{}) || len(f.Suppress) > 0 {
		t.Errorf("%s: %+v", f.Kind, e)
	}
}

func TestUnreadable(t *testing.T) {
	for name, m := range map[string]Mail{
		"empty":    {},
		"too deep": {Content: []byte(deep())},
	} {
		f, err := New(keys(t, ours), key, nil).Process(t.Context(), m)
		if !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrNotAReport) || len(f.Events) > 0 || len(f.Suppress) > 0 {
			t.Errorf("%s: %v, %d events, suppresses %q", name, err, len(f.Events), f.Suppress)
		}
	}
}

// deep returns a mail whose parts lie in each other.
func deep() string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	return b.String()
}

// A bounce that says nothing of the address suppresses nobody, whatever class a rule gave it.
func TestOnlyTheAddressCounts(t *testing.T) {
	ref := token(t, ours, recipient, time.Hour)
	for _, diagnostic := range []string{
		"550 5.7.1 Service unavailable; client host [198.51.100.7] blocked using zen.spamhaus.org",
		"550 5.7.26 this message does not pass authentication checks",
		"554 5.7.1 message rejected as spam by content filter",
		"550 5.6.0 message not accepted",
	} {
		f := process(t, sample(t, "bounce", "REFERENCE", ref, "Status: 5.1.1", "Status: "+strings.Fields(diagnostic)[1],
			"Diagnostic-Code: smtp; 550 5.1.1 The email account that you tried to\r\n reach does not exist.", "Diagnostic-Code: smtp; "+diagnostic))
		if e := one(t, f); len(f.Suppress) > 0 || e.Kind != event.RemoteBounce || e.MatchConfidence != 1 {
			t.Errorf("%s: %s of dimension %s suppresses %q", diagnostic, e.Kind, e.Dimension, f.Suppress)
		}
	}
}

// A stranger's report must not make the node write more than a few megabytes.
func TestHostileSizes(t *testing.T) {
	long := strings.Repeat("\xc3\xa4", 8<<10)
	var recipients strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&recipients, "Final-Recipient: rfc822; %d@provider.test\r\nAction: failed\r\nDiagnostic-Code: %s\r\n\r\n", i, long[:100])
	}
	bounce := sample(t, "bounce",
		"Reporting-MTA: dns; mx1.provider.test", "Reporting-MTA: dns; "+long, "ENVID", long,
		"Final-Recipient: rfc822; RECIPIENT\r\n", recipients.String()+"Final-Recipient: rfc822; "+long+"@"+long+"\r\nRemote-MTA: dns;"+long+"\r\n")
	complaint := sample(t, "complaint", "Reporting-MTA: dns; mx1.provider.test", "Reporting-MTA: "+long, "carom-receivers/1.0", long, "ENVID", long,
		"Original-Rcpt-To: <RECIPIENT>", strings.Repeat("Original-Rcpt-To: <"+long+"@provider.test>\r\n", 2000)+"X: y",
		"From: Shop <news@shop.test>", "From: "+long+"@"+long, "Original-Mail-From: <RETURNPATH>", "Original-Mail-From: <"+long+">")
	one := sample(t, "bounce", "550 5.1.1 The", long, "RECIPIENT", long+"@"+long, "Last-Attempt", "Remote-MTA: "+long+"\r\nX")
	for name, m := range map[string]Mail{"bounce": bounce, "complaint": complaint, "long words": one} {
		f := process(t, m)
		if len(f.Events) > maxEvents {
			t.Errorf("%s: %d events", name, len(f.Events))
		}
		total := 0
		for _, e := range f.Events {
			n := len(event.Encode(nil, e))
			if total += n; n > 8<<10 {
				t.Fatalf("%s: an event of %d bytes", name, n)
			}
		}
		if total > 4<<20 {
			t.Errorf("%s: events of %d bytes", name, total)
		}
	}
}

func FuzzProcess(f *testing.F) {
	for _, name := range []string{"bounce", "complaint", "autoreply"} {
		f.Add(sample(f, name, "REFERENCE", token(f, ours, recipient, time.Hour)).Content, sender)
	}
	// A name server that knows no key: whatever is signed, nobody trusted has signed it.
	p := New(keys(f, ours), key, func(context.Context, string) ([]string, error) { return nil, errors.New("no such name") })
	handling := &Handling{
		Patterns: []Pattern{{Regexp: regexp.MustCompile(`(?i)(?P<r>\S+@\S+).*(?P<diag>[45]\d\d .*)`)}, {Regexp: regexp.MustCompile(`(?i)complaint:? (?P<rcpt>\S+)`), Complaint: true}},
		Rules:    []Rule{{Pattern: regexp.MustCompile(`5\.2\.2`), Suppress: true, Delete: true}},
		Trusted:  []string{"mx1.provider.test"},
	}
	f.Fuzz(func(t *testing.T, content []byte, to string) {
		finding, err := p.Process(t.Context(), Mail{ID: reportID, Arrived: now, Recipients: []string{to}, Content: content, Handling: handling})
		if err != nil && (!errors.Is(err, ErrNotAReport) && !errors.Is(err, ErrUnreadable) || len(finding.Events)+len(finding.Suppress) > 0) {
			t.Errorf("%v with %d events", err, len(finding.Events))
		}
		if err == nil && (len(finding.Events) == 0 && finding.Kind != "autoreply" && finding.Kind != "aggregate" || len(finding.Events) > maxEvents) {
			t.Errorf("%d events", len(finding.Events))
		}
		for _, address := range finding.Suppress {
			if suppression.Normalize(address) != recipient {
				t.Errorf("suppresses %q, for which nothing was signed", address)
			}
		}
		for _, e := range finding.Events {
			if e.MatchMethod == string(correlate.DKIMReporter) {
				t.Error("a signature is believed whose key nobody has")
			}
			if !strings.HasPrefix(e.Kind.String(), "remote-") && e.Kind != event.Complaint || e.MessageID != reportID {
				t.Errorf("event %s of %s", e.Kind, e.MessageID)
			}
		}
	})
}

// BenchmarkProcess reads a bounce with its token and verdict: what a node does for one of them, less
// the writing.
func BenchmarkProcess(b *testing.B) {
	m := sample(b, "bounce", "REFERENCE", token(b, ours, recipient, time.Hour))
	p := New(keys(b, ours), key, nil)
	b.SetBytes(int64(len(m.Content)))
	b.ReportAllocs()
	for b.Loop() {
		if f, err := p.Process(b.Context(), m); err != nil || len(f.Suppress) != 1 {
			b.Fatalf("%v, suppresses %q", err, f.Suppress)
		}
	}
}
