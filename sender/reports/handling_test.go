package reports

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/google/go-cmp/cmp"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

func TestRules(t *testing.T) {
	const full = "Diagnostic-Code: smtp; 552 5.2.2 over quota"
	quota := []string{
		"Status: 5.1.1", "Status: 5.2.2",
		"Diagnostic-Code: smtp; 550 5.1.1 The email account that you tried to\r\n reach does not exist.", full,
	}
	rule := func(pattern string, suppress, remove bool) Rule {
		return Rule{Pattern: regexp.MustCompile("(?i)" + pattern), Suppress: suppress, Delete: remove}
	}
	for _, tc := range []struct {
		name                string
		token               bool
		rules               []Rule
		class               taxonomy.Class
		suppresses, deletes bool
	}{
		{"no rule", true, nil, taxonomy.Soft, false, false},
		{"delete", true, []Rule{rule(`5\.2\.2`, true, true)}, taxonomy.Hard, true, true},
		{"delete, nothing proven", false, []Rule{rule(`5\.2\.2`, true, true)}, taxonomy.Hard, false, true},
		{"suppress", true, []Rule{rule(`^5\.2\.2;smtp;552 .*OVER`, true, false)}, taxonomy.Hard, true, false},
		{"the first that matches counts", true, []Rule{rule("no such", true, true), rule("quota", false, false), rule("quota", true, true)}, taxonomy.Soft, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ref := token(t, theirs, recipient, time.Hour)
			if tc.token {
				ref = token(t, ours, recipient, time.Hour)
			}
			m := sample(t, "bounce", append(quota, "REFERENCE", ref)...)
			m.Handling = &Handling{Rules: tc.rules}
			f := process(t, m)
			if e := one(t, f); e.Class != tc.class || e.Category != taxonomy.MailboxFull || f.Delete != tc.deletes || (len(f.Suppress) == 1) != tc.suppresses {
				t.Errorf("class %s, category %s, deletes %t, suppresses %q", e.Class, e.Category, f.Delete, f.Suppress)
			}
		})
	}
	keep := sample(t, "bounce", "REFERENCE", token(t, ours, recipient, time.Hour))
	keep.Handling = &Handling{Rules: []Rule{rule("does not exist", false, false)}}
	if f := process(t, keep); len(f.Suppress) > 0 || one(t, f).Class != taxonomy.Soft {
		t.Errorf("a bounce that a rule keeps: class %s, suppresses %q", one(t, f).Class, f.Suppress)
	}
}

func plain(text string) Mail {
	return Mail{ID: reportID, Arrived: now, Recipients: []string{sender}, Content: []byte("From: daemon@gateway.test\r\nSubject: failure\r\n\r\n" + text)}
}

func TestPatterns(t *testing.T) {
	bounce := Pattern{Name: "/etc/carom/bounce.re", Regexp: regexp.MustCompile(`(?i)could not reach (?P<r>\S+), sent by (?P<orig>\S+):\s+(?P<diag>[^\n]+)\n(?:host (?P<remMta>\S+))?(?P<action> delayed)?`)}
	complaint := Pattern{Name: "fbl.re", Complaint: true, Regexp: regexp.MustCompile(`(?i)user (?P<rcpt>\S+) complains about (?P<orig>\S+) from \[(?P<dlvSourceIp>[^\]]+)`)}

	ref := token(t, ours, recipient, time.Hour)
	m := plain("We COULD NOT REACH <" + recipient + ">, sent by news@shop.test:\r\n 550 5.1.1 nobody\r\nhost mx.gateway.test\r\n" +
		"could not reach bob@provider.test, sent by news@shop.test: 452 4.2.2 full\r\n delayed\r\n")
	m.Recipients = []string{ref + "@bounce.shop.test"}
	if _, err := New(keys(t, ours), key, nil).Process(t.Context(), m); !errors.Is(err, ErrNotAReport) {
		t.Fatalf("without a pattern: %v, want ErrNotAReport", err)
	}
	m.Handling = &Handling{Patterns: []Pattern{complaint, bounce}}
	f := process(t, m)
	if len(f.Events) != 2 || f.Pattern == nil || f.Pattern.Name != "/etc/carom/bounce.re" {
		t.Fatalf("%d events by %+v", len(f.Events), f.Pattern)
	}
	first, second := f.Events[0], f.Events[1]
	if first.Kind != event.RemoteBounce || first.Recipient != recipient || first.Category != taxonomy.BadMailbox || first.MXHost != "mx.gateway.test" || first.MatchConfidence != 1 ||
		second.Kind != event.RemoteStatus || second.Recipient != "bob@provider.test" || second.MatchConfidence != 0 {
		t.Errorf("events %+v\n%+v", first, second)
	}
	if diff := cmp.Diff([]string{recipient}, f.Suppress); diff != "" {
		t.Errorf("Suppress (-want +got):\n%s", diff)
	}
	if first.Headers["Format"] != "bounce.re" {
		t.Errorf("format %q, want the pattern's file", first.Headers["Format"])
	}

	m = plain("Our user <" + recipient + "> complains about news@shop.test from [198.51.100.7].\r\n")
	m.Handling = &Handling{Patterns: []Pattern{bounce, complaint}}
	e := one(t, process(t, m))
	if e.Kind != event.Complaint || e.Recipient != recipient || e.MailFrom != sender || e.SourceIP != netip.MustParseAddr("198.51.100.7") || e.MatchMethod != string(correlate.None) {
		t.Errorf("complaint %+v", e)
	}

	// A report that a parser knows is the parser's.
	m = sample(t, "bounce", "REFERENCE", ref)
	m.Handling = &Handling{Patterns: []Pattern{{Regexp: regexp.MustCompile(`(?P<r>RECIPIENT|permanent)`)}}}
	if f = process(t, m); f.Pattern != nil || one(t, f).Recipient != recipient {
		t.Errorf("read by %+v: %+v", f.Pattern, f.Events)
	}
}

// TestFormat: the accounting file tells by what a report was read.
func TestFormat(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"RFC 3464", string(sample(t, "bounce").Content), ""},
		{"RFC 5965", string(sample(t, "complaint").Content), ""},
		{
			"Microsoft's JMRP", "From: staff@hotmail.com\r\nSubject: complaint about message from 192.0.2.1\r\nMIME-Version: 1.0\r\n" +
				"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" +
				"X-HmXmrOriginalRecipient: ann@provider.test\r\nFrom: news@shop.test\r\n\r\nhello\r\n--b--\r\n", "jmrp",
		},
		{
			"qmail", "From: MAILER-DAEMON@provider.test\r\nSubject: failure notice\r\n\r\n" +
				"Hi. This is the qmail-send program at provider.test.\r\nI'm afraid I wasn't able to deliver your message to the following addresses.\r\n" +
				"This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n<ann@provider.test>:\r\nSorry, no mailbox here by that name. (#5.1.1)\r\n", "qmail",
		},
	} {
		e := one(t, process(t, Mail{ID: reportID, Arrived: now, Recipients: []string{sender}, Content: []byte(tc.content)}))
		if e.Headers["Format"] != tc.want || e.Recipient != recipient {
			t.Errorf("%s: %s of format %q, want %q", tc.name, e.Recipient, e.Headers["Format"], tc.want)
		}
	}
}

func TestPatternIsBounded(t *testing.T) {
	m := plain(strings.Repeat("x@y.test\r\n", 1<<20))
	m.Handling = &Handling{Patterns: []Pattern{{Regexp: regexp.MustCompile(`(?P<r>\S+@\S+)`)}}}
	if f := process(t, m); len(f.Events) != maxPatternMatches {
		t.Errorf("%d events, want %d", len(f.Events), maxPatternMatches)
	}
}

// A plain VERP address says whom a report is about and proves nothing.
func TestVERP(t *testing.T) {
	for _, tc := range []struct {
		name, named, to string
		method          correlate.Method
		confidence      float32
	}{
		{"the report agrees", recipient, "news-ann=provider.test@shop.test", correlate.VERPAddress, 0.5},
		{"the report names another", "bob@provider.test", "news-ann=provider.test@shop.test", correlate.None, 0},
	} {
		m := sample(t, "bounce", "RECIPIENT", tc.named)
		m.Recipients = []string{tc.to}
		f := process(t, m)
		if e := one(t, f); e.MatchMethod != string(tc.method) || e.MatchConfidence != tc.confidence || e.Recipient != tc.named || len(f.Suppress) > 0 {
			t.Errorf("%s: %s %v of %s, suppresses %q", tc.name, e.MatchMethod, e.MatchConfidence, e.Recipient, f.Suppress)
		}
	}
	m := sample(t, "complaint", "Original-Rcpt-To: <RECIPIENT>", "X: y")
	m.Recipients = []string{"news+ann=provider.test@shop.test"}
	if e := one(t, process(t, m)); e.Recipient != recipient || e.RecipientKey != key(recipient) || e.MatchConfidence != 0.5 {
		t.Errorf("a blanked report: %s by %s %v", e.Recipient, e.MatchMethod, e.MatchConfidence)
	}
}

const reporterDomain = "fbl.reporter.test"

// dkimKey is the key with which the reporter of the tests signs.
func dkimKey(t *testing.T) (crypto.Signer, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return private, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
}

func signed(t *testing.T, content []byte, domain string, key crypto.Signer, fields ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := dkim.Sign(&b, bytes.NewReader(content), &dkim.SignOptions{Domain: domain, Selector: "s", Signer: key, HeaderKeys: fields}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What a signature by a reporter is worth: the complaint is marked as his, and nobody is suppressed
// before a job has found the message.
func TestDKIMReporter(t *testing.T) {
	private, record := dkimKey(t)
	foreign, _ := dkimKey(t)
	const from = "From: feedback@mx1.provider.test"
	report := func(replace ...string) []byte {
		return sample(t, "complaint", append(replace, from, "From: feedback@"+reporterDomain)...).Content
	}
	for _, tc := range []struct {
		name    string
		content []byte
		trusted []string
		proven  bool
	}{
		{"signed by a trusted reporter", signed(t, report(), reporterDomain, private), []string{"other.test", reporterDomain}, true},
		{"not trusted", signed(t, report(), reporterDomain, private), []string{"other.test"}, false},
		{"nobody is trusted", signed(t, report(), reporterDomain, private), nil, false},
		{"not signed", report(), []string{reporterDomain}, false},
		{"another's key", signed(t, report(), reporterDomain, foreign), []string{reporterDomain}, false},
		{"changed", bytes.Replace(signed(t, report(), reporterDomain, private), []byte(recipient), []byte("eve@provider.test"), 1), []string{reporterDomain}, false},
		{"signed by another domain than that of From", signed(t, report("feedback@"+reporterDomain, "x"), "other.test", private), []string{"other.test", reporterDomain}, false},
		{"From of another domain", signed(t, sample(t, "complaint").Content, reporterDomain, private), []string{reporterDomain}, false},
		{"a second From", append([]byte("From: feedback@"+reporterDomain+"\r\n"), signed(t, report(), reporterDomain, private)...), []string{reporterDomain}, false},
		{"only From and Subject are signed", signed(t, report(), reporterDomain, private, "From", "Subject"), []string{reporterDomain}, true},
		{"a forged token in it", signed(t, report("REFERENCE", token(t, theirs, recipient, time.Hour)), reporterDomain, private), []string{reporterDomain}, false},
		{"a mailbox of the reporter's own domain", signed(t, report("RECIPIENT", "ann@"+reporterDomain), reporterDomain, private), []string{reporterDomain}, false},
		{"no recipient named", signed(t, report("<RECIPIENT>", "<redacted>", "Subject: spring", "To: "+recipient), reporterDomain, private), []string{reporterDomain}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			txt := func(_ context.Context, name string) ([]string, error) {
				if want := "s._domainkey." + reporterDomain; name != want {
					return nil, fmt.Errorf("asked for %s", name)
				}
				return []string{record}, nil
			}
			m := Mail{ID: reportID, Arrived: now, Recipients: []string{"fbl@shop.test"}, Content: tc.content, Handling: &Handling{Trusted: tc.trusted}}
			f, err := New(keys(t, ours), key, txt).Process(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			e := one(t, f)
			want, header := string(correlate.None), ""
			if tc.proven {
				want, header = string(correlate.DKIMReporter), reporterDomain
			}
			if e.MatchMethod != want || e.Headers["DKIM-Reporter"] != header || e.MatchConfidence == 1 || len(f.Suppress) > 0 {
				t.Errorf("%s %v by %q, suppresses %q; want %s", e.MatchMethod, e.MatchConfidence, e.Headers["DKIM-Reporter"], f.Suppress, want)
			}
		})
	}

	// A token proves more, and then no name server is asked.
	txt := func(context.Context, string) ([]string, error) {
		t.Error("a name server is asked")
		return nil, errors.New("not now")
	}
	m := Mail{ID: reportID, Arrived: now, Recipients: []string{"fbl@shop.test"}, Handling: &Handling{Trusted: []string{reporterDomain}}}
	m.Content = signed(t, report("REFERENCE", token(t, ours, recipient, time.Hour)), reporterDomain, private)
	f, err := New(keys(t, ours), key, txt).Process(t.Context(), m)
	if err != nil || one(t, f).MatchConfidence != 1 || len(f.Suppress) != 1 {
		t.Errorf("with a token: %v, %+v", err, f)
	}
}

func TestLimitsBody(t *testing.T) {
	for signature, want := range map[string]bool{
		"v=1; a=rsa-sha256; d=a.test; l=10; b=x": true, "v=1;l = 10": true, "v=1; d=l.test; bl=1; h=l:from": false, "": false,
	} {
		if got := limitsBody(signature); got != want {
			t.Errorf("limitsBody(%q) = %t", signature, got)
		}
	}
}

// TestStrangeSignatures: headers that one reader takes apart otherwise than another prove nothing
// and end nothing.
func TestStrangeSignatures(t *testing.T) {
	private, record := dkimKey(t)
	content := sample(t, "complaint", "From: feedback@mx1.provider.test", "From: feedback@"+reporterDomain).Content
	for _, first := range []string{
		"DKIM-Signature : v=1; d=" + reporterDomain + "\r\n", "DKIM-Signature\r\n", "DKIM-Signature:\r\n", "DKIM-Signature: d=" + reporterDomain + "\r\n",
		"\x00: x\r\n", strings.Repeat("DKIM-Signature: v=1; d="+reporterDomain+"; s=s\r\n", 100),
	} {
		for _, body := range [][]byte{content, signed(t, content, reporterDomain, private)} {
			m := Mail{
				ID: reportID, Arrived: now, Recipients: []string{"fbl@shop.test"}, Content: append([]byte(first), body...),
				Handling: &Handling{Trusted: []string{reporterDomain}},
			}
			txt := func(context.Context, string) ([]string, error) { return []string{record}, nil }
			f, err := New(keys(t, ours), key, txt).Process(t.Context(), m)
			if err == nil && len(f.Suppress) > 0 {
				t.Errorf("%.40q: suppresses %q", first, f.Suppress)
			}
			if err == nil && bytes.Equal(body, content) && len(f.Events) == 1 && f.Events[0].MatchMethod != "none" {
				t.Errorf("%.40q: %s without a signature", first, f.Events[0].MatchMethod)
			}
		}
	}
}
