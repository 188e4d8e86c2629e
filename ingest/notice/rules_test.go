package notice

import (
	"strings"
	"testing"

	"carom/ingest/phrase"
)

func TestRulesAreSound(t *testing.T) {
	if _, err := newRuleSet(rulesText, nil); err != nil {
		t.Fatal(err)
	}
}

// matches reports whether the rule with index i finds one of its phrases in sample, taken as what
// stands in any of its places.
func (set *ruleSet) matches(i int, sample string) bool {
	for _, p := range set.rules[i].phrases {
		f := set.finders[p.place]
		for match := range f.All(phrase.Lower(strings.Join(strings.Fields(sample), " "))) {
			if f.owners[match.ID] == i {
				return true
			}
		}
	}
	return false
}

func TestRulesDecideTheirSamples(t *testing.T) {
	set := builtin()
	for i, r := range set.rules {
		for _, sample := range r.yes {
			if !set.matches(i, sample) {
				t.Errorf("rule %s doesn't match its sample %q", r.id, sample)
			}
		}
		for _, sample := range r.no {
			if set.matches(i, sample) {
				t.Errorf("rule %s matches %q, which it shouldn't", r.id, sample)
			}
		}
	}
}

func TestRulesTellTheirMistakes(t *testing.T) {
	for _, tc := range []struct{ source, want string }{
		{"text a", `line 1: "text a"`},
		{"[a]\ntext a\nsource b\nyes a\nno b\n[a]\ntext a\nsource b\nyes a\nno b", "rule a is there twice"},
		{"[a]\nsays nonsense", `line 2: "says nonsense"`},
		{"[a]\nweight x", `line 2: "weight x"`},
		{"[a]\ncolour red", `line 2: "colour red"`},
		{"[a]\ntext a", "rule a lacks a phrase, a source or a sample"},
		{"[a]\ntext Upper\nsource b\nyes a\nno b", "not lower-case"},
	} {
		if _, err := newRuleSet(tc.source, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("newRuleSet(%q): %v, want %q in it", tc.source, err, tc.want)
		}
	}
}
