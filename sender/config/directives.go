package config

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"carom/schemas/service"
)

const directivesAbout = `
carom check directives [--scope S] [--status S] [--json]

Prints every directive that carom knows: in which section it stands (global: outside all sections),
what carom does with it, how its value is written and what counts where it does not stand.
The statuses are
  implemented  it does what PowerMTA's guide, or carom's own, says
  alias        another name for the directive in the last column
  planned      known and accepted, with a warning; it has no effect yet, for the reason in the last column
  no-effect    accepted, with a warning; it will never have an effect, for the reason in the last column

Example:
  carom check directives --scope domain --status planned`

// The defaults of accounting files without those that log-bounces changes.
var _ = acctScope.withDefaults(func() AcctFile {
	a := defaultAcctFile()
	a.Records = []RecordType{Delivered, Bounced}
	return a
})

// DirectivesCommand is carom check directives: args are what follows these words.
func DirectivesCommand(_ context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("check directives", directivesAbout, stdio)
	scope := flags.String("scope", "", "only those in the section `S`, or global")
	status := flags.String("status", "", "only those with the status `S`")
	asJSON := flags.Bool("json", false, "write them as a JSON array")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	name := strings.ToLower(strings.Trim(*scope, "<>"))
	if _, ok := registry[name]; !ok && name != "" {
		return service.Configf("%s: there is no section %q; want %s", flags.Name(), *scope, strings.Join(slices.Sorted(maps.Keys(registry)), ", "))
	}
	if s := Status(*status); s != "" && !slices.Contains(statuses, s) {
		return service.Configf("%s: there is no status %q; want implemented, alias, planned or no-effect", flags.Name(), s)
	}
	found := slices.DeleteFunc(Directives(), func(d Directive) bool {
		return name != "" && d.Scope != name || *status != "" && d.Status != Status(*status)
	})
	if *asJSON {
		return writeJSON(stdio.Out, found)
	}
	w := tabwriter.NewWriter(stdio.Out, 0, 0, 2, ' ', 0)
	for _, d := range found {
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Scope, d.Name, d.Status, d.Value, d.Default, d.Note); err != nil {
			return fmt.Errorf("write directives: %w", err)
		}
	}
	return w.Flush()
}

var statuses = []Status{Implemented, Alias, Planned, NoEffect}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// directivesPage returns the reference page of all directives, deploy/docs/directives.md.
func directivesPage() string {
	all := Directives()
	var b strings.Builder
	b.WriteString("# Every directive\n\n" +
		"This page is generated: `go test ./sender/config -run TestDirectivesPage -update` writes it again. `carom check directives`\n" +
		"prints the same. Directives of PowerMTA that are *planned* or have *no effect* are accepted with one warning a file;\n" +
		"an unknown word is an error. What carom adds to PowerMTA's language is told in [configuration](configuration.md).\n\n")
	counts := map[Status]int{}
	for _, d := range all {
		counts[d.Status]++
	}
	for _, s := range statuses {
		fmt.Fprintf(&b, "- %d %s\n", counts[s], s)
	}
	scope := ""
	for _, d := range all {
		if d.Scope != scope {
			scope = d.Scope
			title := "`<" + scope + ">`"
			if scope == globalScope {
				title = "Outside all sections"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| directive | status | value | default | |\n| --- | --- | --- | --- | --- |\n", title)
		}
		note := d.Note
		if d.Status == Alias {
			note = "see `" + note + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Status, cell(d.Value), cell(d.Default), cell(note))
	}
	return b.String()
}

// cell returns s as it may stand in a table of Markdown.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "[", `\[`).Replace(s)
}
