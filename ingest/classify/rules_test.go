package classify

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"carom/schemas/smtpstatus"
)

// classifyFor classifies a sample as the provider of the rule would have sent it.
func classifyFor(r *rule, reply string) Verdict {
	return Classify(Input{Reply: smtpstatus.Parse(reply), Provider: r.provider})
}

// TestEverySample holds each rule to its own samples.
func TestEverySample(t *testing.T) {
	for _, r := range builtin().rules {
		t.Run(r.id, func(t *testing.T) {
			for _, reply := range r.yes {
				if v := classifyFor(r, reply); v.Rule != r.id {
					t.Errorf("yes %q: decided by %s as %s", reply, v.Rule, v.Category)
				}
			}
			for _, reply := range r.no {
				f := factsOf(Input{Reply: smtpstatus.Parse(reply), Provider: r.provider})
				for _, p := range r.patterns {
					m := matcher{text: f.masked}
					if r.admits(&f) && m.matches(p) {
						t.Errorf("no %q: matches %q", reply, p.text)
					}
				}
			}
		})
	}
}

func parseRules(text string) (*ruleSet, error) {
	var p parser
	p.read("test", text)
	return p.finish()
}

func TestParseRulesRefuses(t *testing.T) {
	const good = "[a]\nmatch abc\ncategory policy\nsource s\nyes abc\nno b\n"
	if _, err := parseRules(good); err != nil {
		t.Fatalf("parseRules(good) = %v", err)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"text before a rule", "match abc\n", "line 1"},
		{"unknown word", good + "colour red\n", "unknown word"},
		{"upper case", strings.Replace(good, "match abc", "match Abc", 1), "lower-case"},
		{"open choice", strings.Replace(good, "match abc", "match abc(d", 1), "not closed"},
		{"gap at the end", strings.Replace(good, "match abc", "match abc*", 1), "begins or ends"},
		{"no literal", strings.Replace(good, "match abc", "match #~#", 1), "no literal"},
		{"unknown category", strings.Replace(good, "policy", "nonsense", 1), "category"},
		{"unknown dimension", good + "dimension fourth\n", "dimension"},
		{"unknown scope", good + "scope world\n", "scope"},
		{"bad when", good + "when 6\n", "want 4 or 5"},
		{"no sample", strings.Replace(good, "no b\n", "", 1), "at least one each"},
		{"same id", good + good, "twice"},
		{"no id", strings.Replace(good, "[a]", "[]", 1), "no id"},
		{"upper-case words", "words who User\n" + good, "lower case"},
		{"words without choices", "words who\n" + good, "lower case"},
		{"words with a choice", "words who a(b)\n" + good, "lower case"},
		{"accents", strings.Replace(good, "match abc", "match caf\u00e9", 1), "cafe"},
		{"bad code", good + "code 250\n", "400 to 599"},
		{"bad phase", good + "phase nowhere\n", "nowhere"},
		{"bad status", good + "status 7\n", "subject.detail"},
		{"bad status range", good + "status 7.1-x\n", "subject.detail"},
		{"no value", good + "yes\n", "no value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := parseRules(tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("parseRules(%q) = %v, want an error with %q", tc.text, err, tc.want)
			}
		})
	}
}

func TestPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern, text string
		want          bool
	}{
		{"user unknown", "the user unknown here", true},
		{"~spam~", "this is spam.", true},
		{"~spam~", "see spamhaus", false},
		{"~spam~", "spam", true},
		{"user*unknown", "user " + strings.Repeat("x", 100) + " unknown", true},
		{"user*unknown", "user " + strings.Repeat("x", 200) + " unknown", false},
		{"user*unknown", "user " + strings.Repeat("x", 200) + " user is unknown", true},
		{"[ts0#]", "421 [ts04] deferred", true},
		{"[ts0#]", "421 [ts0x] deferred", false},
		{"[ts0#]", "421 [ts0", false},
		{"mailbox (is |)full", "mailbox full", true},
		{"mailbox (is |)full", "mailbox is full", true},
		{"mailbox (is |)full", "mailbox was full", false},
		{"(a|ab)c def", "abc def", true},
		{"one*two*three", "one one two two three", true},
		{"one*two*three", "three two one", false},
	} {
		p, err := compile(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		m := matcher{text: tc.text}
		if got := m.matches(p); got != tc.want {
			t.Errorf("%q in %q = %v, want %v", tc.pattern, tc.text, got, tc.want)
		}
	}
}

// TestFinderFindsWhatContainsFinds compares the automaton with a search for each anchor.
func TestFinderFindsWhatContainsFinds(t *testing.T) {
	anchors := []string{"he", "she", "his", "hers", "e", "ushers", "xyz", "rs"}
	f, err := newFinder(anchors)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "ushers", "hishers she", "xyxyz", "ümläut hé", strings.Repeat("sher", 10)} {
		found := make(map[int32]bool)
		for _, id := range f.find(text, make([]bool, len(anchors)), nil) {
			found[id] = true
		}
		for id, a := range anchors {
			if got, want := found[int32(id)], strings.Contains(text, a); got != want {
				t.Errorf("%q in %q = %v, want %v", a, text, got, want)
			}
		}
	}
}

// FuzzRules feeds the parser of rules whatever, and lets what it accepts judge a text.
func FuzzRules(f *testing.F) {
	f.Add("[a]\nmatch abc\ncategory policy\nsource s\nyes abc\nno b\n", "550 abc")
	f.Add("words who user|box\n[a]\nmatch ({who})*(un|not )known\ncode 550 554\nphase rcpt none\nstatus 7.1-20\nweak\nwhen 5\nscope source\ndimension rate\ncategory virus\nsource s\nyes x\nno y\n", "user not known")
	f.Add("[a\nmatch (((|%*~#\n[]\nwords {x} (\nstatus 9-\nphase \x00", "(")
	f.Fuzz(func(t *testing.T, rules, reply string) {
		set, err := parseRules(rules)
		if err != nil {
			return
		}
		in := factsOf(Input{Reply: smtpstatus.Parse(reply)})
		if v := in.decide(set); v.Rule == "" {
			t.Errorf("no rule decided %q", reply)
		}
		for _, p := range set.patterns { // what the search in advance leaves out must not match
			s := new(scratch)
			s.collect(set, in.masked)
			m := matcher{text: in.masked}
			if m.matches(p.pattern) && !slices.ContainsFunc(s.candidates, func(c int32) bool { return set.patterns[c].pattern == p.pattern }) {
				t.Errorf("%q matches %q and was not looked at", p.text, in.masked)
			}
		}
	})
}

// TestEveryMatchIsACandidate holds the search in advance to the samples of all rules.
func TestEveryMatchIsACandidate(t *testing.T) {
	set := builtin()
	s := new(scratch)
	for _, r := range set.rules {
		for _, reply := range slices.Concat(r.yes, r.no) {
			text := mask(fold(reply))
			s.collect(set, text)
			candidates := make(map[*pattern]bool)
			for _, c := range s.candidates {
				candidates[set.patterns[c].pattern] = true
			}
			m := matcher{text: text}
			for _, p := range set.patterns {
				if !candidates[p.pattern] && m.matches(p.pattern) {
					t.Errorf("%q matches %q and was not looked at", p.text, text)
				}
			}
		}
	}
}

func TestFold(t *testing.T) {
	for text, want := range map[string]string{
		"550  User\tUNKNOWN ":                   "550 user unknown",
		"Bo\u00eete pleine, \u00c9metteur":      "boite pleine, emetteur",
		"Empf\u00e4nger \u0141\u00f3d\u017a":    "empfanger lodz",
		"\u041f\u043e\u043b\u0443\u0447":        "\u043f\u043e\u043b\u0443\u0447",
		"doesn\u2019t":                          "doesn't",
		"550-5.1.1 a\n550-5.1.1 b\n550 5.1.1 c": "550-5.1.1 a b c",
		"550 5.1.1 a 550 5.1.1 b 550 5.2.1 c":   "550 5.1.1 a b 550 5.2.1 c",
		"550-5.7.1 a 550 5.7.1 b 554 5.7.1 c":   "550-5.7.1 a b 554 5.7.1 c",
		"\xff\xfe 550":                          "\xff\xfe 550",
		"550 5.":                                "550 5.",
	} {
		if got := fold(text); got != want {
			t.Errorf("fold(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestMask(t *testing.T) {
	for text, want := range map[string]string{
		"550 no address":                                   "550 no address",
		"550 <spam@virus.example>: user unknown":           "550 <@>: user unknown",
		"to=<a@b>, from:spam@c.example (x@y)":              "to=<@>, from:@ (@)",
		"host spam.mail.example[192.0.2.1] said: 550 no":   "host [192.0.2.1] said: 550 no",
		"connect to spam.example[2001:db8::1]:25: refused": "connect to [2001:db8::1]:25: refused",
		"client host [192.0.2.1] blocked [tss04]":          "client host [192.0.2.1] blocked [tss04]",
		"@@ a@b@c @": "@@ @@ @",
		"@":          "@",
	} {
		if got := mask(text); got != want {
			t.Errorf("mask(%q) = %q, want %q", text, got, want)
		}
	}
}

// BenchmarkThousandsOfRules is BenchmarkClassify with ten times the patterns.
func BenchmarkThousandsOfRules(b *testing.B) {
	var p parser
	for i, name := range precedence {
		text, err := ruleFiles.ReadFile("rules/" + name)
		if err != nil {
			b.Fatal(err)
		}
		if i == len(precedence)-1 { // before the words that anybody may say
			for n := range 15000 {
				p.read("generated", fmt.Sprintf("[generated.%d]\nmatch (mailbox|user|message)*code-%05d refused\ncategory policy\nsource s\nyes a\nno b\n", n, n))
			}
		}
		p.read(name, string(text))
	}
	set, err := p.finish()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(set.patterns)), "patterns")
	for i := 0; b.Loop(); i++ {
		f := factsOf(benchmarkReplies[i%len(benchmarkReplies)])
		f.decide(set)
	}
}
