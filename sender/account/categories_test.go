package account

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

func categories(t testing.TB, rules ...string) *Categories {
	t.Helper()
	all := make([]CategoryRule, 0, len(rules))
	for _, rule := range rules {
		pattern, category, _ := strings.Cut(rule, " => ")
		all = append(all, CategoryRule{regexp.MustCompile("(?i)" + pattern), category})
	}
	return NewCategories(all)
}

// usual are patterns of the kinds that PowerMTA's own list has.
var usual = []string{
	`spam => spam-related`, `\bvirus\b => virus-related`, `message +content => content-related`, `mailbox +(is +)?full => quota-issues`,
	`^[45]\.2\.2; => quota-issues`, `(no such|invalid|unknown) (user|mailbox|recipient) => bad-mailbox`, `\S+@\S+ +(is +)?(not found|bad) => bad-mailbox`,
	`^[45]\.1\.[1346]; => bad-mailbox`, `\brelay(ing)? => relaying-issues`, `^2.\d+.\d+; => success`, `^[45]\.4\.7 => message-expired`,
}

func TestCategories(t *testing.T) {
	c := categories(t, usual...)
	for text, want := range map[string]string{
		"5.1.1;smtp;550 5.1.1 blocked as SPAM":        "spam-related", // the first one counts
		"5.1.1;smtp;550 5.1.1 antivirussoft":          "bad-mailbox",
		"5.7.0;smtp;554 VIRUS found":                  "virus-related",
		"5.2.2;smtp;552 over":                         "quota-issues",
		"5.0.0;smtp;550 mailbox  is full":             "quota-issues",
		"5.0.0;smtp;550 Unknown Recipient":            "bad-mailbox",
		"5.0.0;smtp;550 ann@example.com is not found": "bad-mailbox",
		"4.4.7;x-pmta;delivery time expired":          "message-expired",
		"2.0.0;smtp;250 ok":                           "success",
		"5.0.0;smtp;550 no":                           "",
		"5.0.0;smtp;550 un\u212anown u\u017fer":       "bad-mailbox", // Go's patterns fold these two
		"":                                            "",
	} {
		if got, ok := c.Find(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", text, got, ok, want)
		}
	}
	if got, _ := categories(t, "x => y", " => other").Find("z"); got != "other" {
		t.Errorf("an empty pattern gives %q", got)
	}
}

// TestOperatorsCategories: a recorder's events say what the operator's patterns say, and the
// classifier's word beside it.
func TestOperatorsCategories(t *testing.T) {
	c := categories(t, usual...)
	for _, tc := range []struct {
		kind event.Kind
		text string
		want string
	}{
		{event.Bounced, "550 5.1.1 we think it is spam", "spam-related"},
		{event.Bounced, "550 5.0.0 nothing to go by", "policy-related"},
		{event.Delivered, "250 2.0.0 spam", "policy-related"},
		{event.RemoteBounce, "550 5.1.1 unknown", "bad-mailbox"},
	} {
		e := event.Event{Kind: tc.kind, PMTACategory: "policy-related", Category: "policy"}
		e.SetReply(smtpstatus.Parse(tc.text))
		c.apply(&e)
		if e.PMTACategory != tc.want || e.Category != "policy" {
			t.Errorf("%v %s: %s (%s), want %s", tc.kind, tc.text, e.PMTACategory, e.Category, tc.want)
		}
	}
}

// BenchmarkCategories finds the category of a reply that the last of 1000 patterns matches.
func BenchmarkCategories(b *testing.B) {
	rules := make([]string, 0, 2000)
	for i := range 1000 {
		rules = append(rules, fmt.Sprintf(`(reason|cause) +%d\b.*(blocked|refused by list) +%d => c%d`, 1000+i, i, i), usual[i%len(usual)])
	}
	var kept []string
	for i, rule := range rules { // the usual ones once
		if i%2 == 0 || i < 2*len(usual) {
			kept = append(kept, rule)
		}
	}
	c := categories(b, append(kept[:1000-1], "not matched by others => last")...)
	const text = "5.7.1;smtp;550 5.7.1 Service unavailable, client host [192.0.2.1] blocked using list; cause 17, see https://example.com/why?ip=192.0.2.1 not matched by others"
	if got, _ := c.Find(text); got != "last" {
		b.Fatalf("found %q", got)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Find(text)
	}
}
