package classify

import (
	"cmp"
	"fmt"
	"strings"

	"carom/schemas/taxonomy"
)

// match is a rule or step that has something to say of a reply.
type match struct {
	Rule     string `json:"rule"`
	Category string `json:"category"`
	Pattern  string `json:"pattern,omitempty"` // of a rule: the first that matches
	Why      string `json:"why"`               // it decided, or did not
}

// matches lists what Classify weighed, in the order in which it counts: rules, the enhanced status
// code, weak rules, the code. It is empty for what the receiver did not decide.
func matches(in Input) []match {
	v := Classify(in)
	f := factsOf(in)
	var all []match
	add := func(rule string, category taxonomy.Category, pattern, lost string) {
		why := "did not decide, because " + v.Rule + " comes before it"
		switch {
		case lost != "":
			why = "did not count: " + lost
		case rule == v.Rule:
			why = "decided"
		}
		all = append(all, match{Rule: rule, Category: string(category), Pattern: pattern, Why: why})
	}
	texts := func(weak bool) {
		m := matcher{text: f.masked}
		for _, r := range builtin().rules {
			if r.weak != weak {
				continue
			}
			for _, p := range r.patterns {
				if m.matches(p) {
					add(r.id, r.category, p.text, r.excludes(&f))
					break
				}
			}
		}
	}
	texts(false)
	status := byStatus(f.enhanced)
	told := tells(f.enhanced)
	if told {
		add(status.Rule, status.Category, "", "")
	}
	texts(true)
	if !told && status.Category != taxonomy.Unknown {
		add(status.Rule, status.Category, "", "")
	}
	if code := f.byCode(); code.Rule != "none" {
		add(code.Rule, code.Category, "", "")
	}
	return all
}

// excludes says which condition besides the text keeps r from f, "" if none does.
func (r *rule) excludes(f *facts) string {
	if r.admits(f) {
		return ""
	}
	var needs []string
	if r.provider != "" {
		needs = append(needs, "provider "+r.provider)
	}
	if r.when != 0 {
		needs = append(needs, fmt.Sprintf("a %dyz reply", r.when))
	}
	if len(r.codes) > 0 {
		needs = append(needs, fmt.Sprintf("code %d", r.codes))
	}
	if len(r.phases) > 0 {
		var names []string
		for _, p := range r.phases {
			names = append(names, cmp.Or(p.String(), "none"))
		}
		needs = append(needs, "phase "+strings.Join(names, " or "))
	}
	if len(r.status) > 0 {
		var ranges []string
		for _, s := range r.status {
			ranges = append(ranges, s.String())
		}
		needs = append(needs, "status x."+strings.Join(ranges, " or x."))
	}
	return "the rule is for " + strings.Join(needs, ", ")
}

// String writes s as parseStatusRange reads it.
func (s statusRange) String() string {
	if s.from == s.to {
		return fmt.Sprintf("%d.%d", s.subject, s.from)
	}
	return fmt.Sprintf("%d.%d-%d", s.subject, s.from, s.to)
}
