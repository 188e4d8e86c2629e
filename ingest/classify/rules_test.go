package classify

import (
	"strings"
	"testing"

	"carom/schemas/smtpstatus"
)

// classifyFor classifies a sample as the provider of the rule would have sent it.
func classifyFor(r *rule, reply string) Verdict {
	return Classify(Input{Reply: smtpstatus.Parse(reply), Provider: r.provider})
}

// TestEverySample holds each rule to its own samples in rules.txt.
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
					m := matcher{text: f.text}
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
