package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var processorFiles = memory{
	"/etc/carom/customers.txt": "# one a line\r\nBounce-17\r\n\n fbl@Shop.example \r\n",
	"/etc/carom/bad.txt":       "fine\ntwo words\n",
	"/etc/carom/bounce.re":     "recipient: (?<r>\\S+)\\s+said: (?<diag>.*)\n",
	"/etc/carom/complaint.re":  "/complaint from (?<rcpt>\\S+)/\n",
	"/etc/carom/useless.re":    "(?<diag>.*)",
	"/etc/carom/misspelt.re":   "(?<r>x)(?<diagnostic>.*)",
	"/etc/carom/broken.re":     "(?<r>",
	"/etc/carom/empty.re":      "\n",
	"/etc/carom/huge.re":       strings.Repeat("x", maxPatternFile+1),
}

func TestProcessors(t *testing.T) {
	c, warnings, err := parse("/etc/carom/config", []byte(`
host-name mail.example.com
bounce-domain tokens.example
log-bounces yes
deliver-bounces yes
<bounce-processor>
	<address-list>
		address-file customers.txt
	</address-list>
	forward-unmatched-to ops@elsewhere.example
	forward-unmatched-to more@elsewhere.example
	forward-errors-to errors@elsewhere.example
	regex "5\.2\.2" action delete
	regex /over quota/ action keep
	<email-patterns mine>
		body-pattern-file bounce.re
		log-match-info yes
	</email-patterns>
</bounce-processor>
<feedback-loop-processor>
	<address-list>
		domain fbl.example
	</address-list>
	deliver-bounces yes
	trust-dkim-domain Reports.Example
	<email-patterns>
		body-pattern-file complaint.re
	</email-patterns>
</feedback-loop-processor>
<acct-file one.csv>
</acct-file>
<acct-file two.csv>
	records d
</acct-file>
`), processorFiles)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	b, f := c.BounceProcessor, c.FeedbackLoopProcessor
	if !b.DeliverMatched || b.DeliverUnmatched || !f.DeliverMatched || !f.DeliverUnmatched || !c.LogBounces {
		t.Errorf("bounces: deliver matched %t, unmatched %t; complaints: %t, %t; log %t", b.DeliverMatched, b.DeliverUnmatched, f.DeliverMatched, f.DeliverUnmatched, c.LogBounces)
	}
	if diff := cmp.Diff([][]string{{"ops@elsewhere.example", "more@elsewhere.example"}, {"errors@elsewhere.example"}, {"reports.example"}},
		[][]string{b.ForwardUnmatchedTo, b.ForwardErrorsTo, f.TrustedDKIM}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(b.Rules) != 2 || b.Rules[0].String() != `/5\.2\.2/ action delete` || b.Rules[1].String() != "/over quota/ action keep" {
		t.Errorf("rules %v", b.Rules)
	}
	if len(b.Patterns) != 1 || b.Patterns[0].Name != "mine" || !b.Patterns[0].LogMatchInfo || b.Patterns[0].Patterns[0].File != "/etc/carom/bounce.re" ||
		len(f.Patterns) != 1 || !f.Patterns[0].Patterns[0].Regexp.MatchString("a Complaint FROM x@y") {
		t.Errorf("patterns %+v, %+v", b.Patterns, f.Patterns)
	}
	if !slices.Equal(c.AcctFiles[0].Records, []RecordType{Delivered, Bounced, RemoteBounce}) || !slices.Equal(c.AcctFiles[1].Records, []RecordType{Delivered}) {
		t.Errorf("records %v and %v", c.AcctFiles[0].Records, c.AcctFiles[1].Records)
	}
	for address, want := range map[string]*ReportProcessor{
		"bounce-17@any.example": b, "BOUNCE-17@Any.Example": b, "fbl@shop.example": b, "fbl@other.example": nil,
		"anything@fbl.example": f, "b-token@tokens.example": b, "x@tokens.example.org": nil, "bounce-17": b, "": nil,
	} {
		if got := c.Processor(address); got != want {
			t.Errorf("Processor(%q) = %p, want %p (bounces %p, complaints %p)", address, got, want, b, f)
		}
	}
}

// A bounce domain without a section has no mailboxes: nothing that comes is passed on.
func TestBounceDomainAlone(t *testing.T) {
	c, _, err := parse("config", []byte("bounce-domain tokens.example\n<bounce-processor>\n</bounce-processor>"), memory{})
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Processor("x@tokens.example"); p != c.BounceProcessor || !p.DeliverUnmatched || p.DeliverMatched {
		t.Errorf("with an empty section: %+v", p)
	}
	if c, _, err = parse("config", []byte("bounce-domain tokens.example"), memory{}); err != nil {
		t.Fatal(err)
	}
	if p := c.Processor("x@TOKENS.example."); p == nil || p.DeliverUnmatched || p.DeliverMatched {
		t.Errorf("without a section: %+v", p)
	}
}

func TestMistakesOfProcessors(t *testing.T) {
	const bounce, feedback = "bounce-processor", "feedback-loop-processor"
	for _, tc := range []struct{ section, line, want string }{
		{bounce, "deliver-matched-email perhaps", "yes or no"},
		{bounce, "deliver-unmatched-email perhaps", "yes or no"},
		{bounce, "deliver-bounces perhaps", "yes or no"},
		{bounce, "log-bounces perhaps", "yes or no"},
		{feedback, "log-bounces yes", "belongs in <bounce-processor>"},
		{bounce, "forward-unmatched-to ops", "want one with a domain"},
		{bounce, "forward-errors-to", "want an address"},
		{bounce, "forward-errors-to bounce@shop.example", "it would come to a processor again"},
		{feedback, "forward-unmatched-to bounce@shop.example", "it would come to a processor again"},
		{bounce, `regex "5\.2\.2"`, "want a pattern and an action"},
		{bounce, `regex "5\.2\.2" then delete`, `unexpected "then"`},
		{bounce, `regex "5\.2\.2" action explode`, "want delete, suppress or keep"},
		{bounce, `regex "(" action delete`, "bad pattern"},
		{bounce, `regex "" action delete`, "empty pattern"},
		{feedback, `regex "x" action delete`, "belongs in <bounce-processor>"},
		{feedback, "trust-dkim-domain a b", "unexpected"},
		{feedback, "trust-dkim-domain Yahoo.com", "signs what its users write"},
		{bounce, "trust-dkim-domain a.example", "belongs in <feedback-loop-processor>"},
		{bounce, "<address-list>\naddress-file none.txt\n</address-list>", "none.txt: no such file"},
		{bounce, "<address-list>\naddress-file bad.txt\n</address-list>", "line 2: bad address"},
		{bounce, "<email-patterns>\n</email-patterns>", "needs a body-pattern-file"},
		{bounce, "<email-patterns>\nbody-pattern-file none.re\n</email-patterns>", "none.re: no such file"},
		{bounce, "<email-patterns>\nbody-pattern-file empty.re\n</email-patterns>", "is empty"},
		{bounce, "<email-patterns>\nbody-pattern-file huge.re\n</email-patterns>", "larger than 64 KB"},
		{bounce, "<email-patterns>\nbody-pattern-file broken.re\n</email-patterns>", "bad pattern"},
		{bounce, "<email-patterns>\nbody-pattern-file useless.re\n</email-patterns>", "without a group r or or"},
		{bounce, "<email-patterns>\nbody-pattern-file misspelt.re\n</email-patterns>", `unknown group "diagnostic"`},
		{feedback, "<email-patterns>\nbody-pattern-file bounce.re\n</email-patterns>", `unknown group "r"`},
		{bounce, "<email-patterns>\nbody-pattern-file bounce.re\nlog-match-info x\n</email-patterns>", "yes or no"},
	} {
		text := "<bounce-processor>\n<address-list>\naddress bounce@shop.example\n</address-list>\n</bounce-processor>\n" +
			"<" + tc.section + ">\n" + tc.line + "\n</" + tc.section + ">\n"
		_, _, err := parse("/etc/carom/config", []byte(text), processorFiles)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s in <%s>: %v; want %q", tc.line, tc.section, err, tc.want)
		}
	}
	for _, line := range []string{"deliver-bounces perhaps", "log-bounces perhaps"} {
		if _, _, err := parse("config", []byte(line), memory{}); err == nil || !strings.Contains(err.Error(), "yes or no") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestDeliverEmailHasNoEffect(t *testing.T) {
	_, warnings, err := parse("config", []byte("<bounce-processor>\ndeliver-email yes\n</bounce-processor>"), memory{})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Message, "no guide says what it does") {
		t.Errorf("%v, warnings %v", err, warnings)
	}
}
