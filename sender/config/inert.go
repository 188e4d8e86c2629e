package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// inertDirective deals with a directive that no Go row of the scope implements: it is known to
// have no effect, or a mistake.
func (b *builder) inertDirective(scopeName string, n *node) {
	if d, ok := registry[scopeName][n.Name]; ok {
		b.warnInert(n.Pos, d)
		return
	}
	if places := scopesOf(n.Name); len(places) > 0 {
		here := "outside all sections"
		if scopeName != globalScope {
			here = "in <" + scopeName + ">"
		}
		meant := ""
		if s, ok := invented[n.Name]; ok {
			meant = hint(s)
		}
		b.errorf(n.Pos, "%s cannot stand %s; it belongs %s%s", n.Name, here, strings.Join(places, " or "), meant)
		return
	}
	hint := ""
	_, isSection := sectionRules[n.Name]
	switch {
	case strings.Trim(n.Name, "{}") == "":
		hint = "; " + noBraces
	case patternScopes[scopeName] && strings.ContainsAny(n.Name+" "+n.Value, `/\`):
		hint = "; is it the rest of a pattern on the line above that was broken in two?"
	case isSection:
		hint = fmt.Sprintf("; did you mean the section <%s>?", n.Name)
	case strings.Contains(n.Name, ","):
		hint = "; is it the rest of the line above that was broken in two?"
	case b.suggested < maxSuggested:
		b.suggested++
		hint = suggest(n.Name, scopeName)
	}
	b.errorf(n.Pos, "unknown directive %q%s", start(n.Name), hint)
}

// maxSuggested bounds how many unknown directives get a suggestion, each of which is compared with all that
// there are: a file with more is no configuration.
const maxSuggested = 200

// patternScopes are the sections whose lines hold patterns.
var patternScopes = map[string]bool{"smtp-pattern-list": true, "pattern-list": true, "bounce-category-patterns": true}

func (b *builder) warnInert(pos Pos, d Directive) {
	effect := notYet
	if d.Status == NoEffect {
		effect = "accepted, has no effect"
	}
	b.warnOnce(pos, d.Name, effect+": "+d.Note)
}

// inertSection checks the names in a section that has no effect.
func (b *builder) inertSection(n *node) {
	for _, child := range n.Children {
		switch {
		case child.IsSection:
			b.section(child, n.Name)
		case registry[n.Name][child.Name].Name == "":
			b.inertDirective(n.Name, child)
		}
	}
}

// scopesOf returns the places where a directive is known, in words.
func scopesOf(name string) []string {
	var places []string
	for _, s := range slices.Sorted(maps.Keys(registry)) {
		if _, ok := registry[s][name]; !ok {
			continue
		}
		if s == globalScope {
			places = append(places, "outside all sections")
		} else {
			places = append(places, fmt.Sprintf("in <%s>", s))
		}
	}
	return places
}
