package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
)

// TestDirectivesPage compares the reference page with the registry.
func TestDirectivesPage(t *testing.T) {
	const page = "../../deploy/docs/directives.md"
	want := directivesPage()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the documentation
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("%s is not what the registry says; write it again with\n\tgo test ./sender/config -run TestDirectivesPage -update\n%s", page, diff)
	}
}

// appendix returns the rows of the appendix of every documented name: scope, name, default.
func appendix(t *testing.T) [][3]string {
	t.Helper()
	found, err := filepath.Glob("../../../*/reference/powermta.md")
	if more, _ := filepath.Glob("../../../../*/reference/powermta.md"); len(found) == 0 && err == nil {
		found = more
	}
	if len(found) == 0 {
		t.Skip("the reference of PowerMTA's directives is not beside this repository")
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "\n# (i) Appendix")
	if !ok {
		t.Fatalf("%s has no appendix (i)", found[0])
	}
	var rows [][3]string
	braces := regexp.MustCompile(`^(.*)\{(.*)\}$`)
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		switch {
		case len(cells) == 6 && cells[1] != "scope" && cells[1] != "---":
			names := []string{cells[2]}
			if m := braces.FindStringSubmatch(cells[2]); m != nil {
				names = strings.Split(m[2], ",")
				for i := range names {
					names[i] = m[1] + names[i]
				}
			}
			for _, name := range names {
				rows = append(rows, [3]string{strings.Trim(cells[1], "<>"), name, cells[3]})
			}
		case len(cells) == 5 && cells[2] != "scope seen" && cells[2] != "---":
			rows = append(rows, [3]string{cells[2], cells[1], ""})
		}
	}
	if len(rows) < 350 {
		t.Fatalf("only %d rows in the appendix of %s", len(rows), found[0])
	}
	return rows
}

// inventedInWild are names of the appendix that occur in somebody's file and that no PowerMTA has;
// they stay unknown, with a suggestion.
var inventedInWild = []string{"bounce-classification-file", "routing-file", "domain-selection", "map-header-to-column"}

func TestRegistryHoldsTheReference(t *testing.T) {
	for _, row := range appendix(t) {
		scope, name := row[0], row[1]
		if _, ok := registry[scope][name]; ok || slices.Contains(inventedInWild, name) {
			continue
		}
		if _, ok := sectionRules[name]; ok { // <domain> in a pool
			continue
		}
		t.Errorf("%s in <%s> is not in the registry", name, scope)
	}
	// The words of the product's own brief.
	for _, d := range []Directive{
		{Scope: "global", Name: "max-smtp-out"},
		{Scope: "global", Name: "disk-queue"},
		{Scope: "global", Name: "memory-pool-buffer-size"},
		{Scope: "global", Name: "process-user"},
		{Scope: "global", Name: "deliver-bounces"},
		{Scope: "global", Name: "log-bounces"},
		{Scope: "global", Name: "cpu-affinity"},
		{Scope: "domain", Name: "initial-pts"},
		{Scope: "domain", Name: "max-pts"},
		{Scope: "domain", Name: "pts-expiration"},
		{Scope: "domain", Name: "max-retries"},
		{Scope: "domain", Name: "cpu-affinity"},
		{Scope: "source", Name: "allow-relay"},
		{Scope: "bounce-processor", Name: "regex"},
		{Scope: "bounce-processor", Name: "deliver-bounces"},
		{Scope: "bounce-processor", Name: "log-bounces"},
		{Scope: "rejectlog-file", Name: "records"},
		{Scope: "rejectlog-file", Name: "max-size"},
		{Scope: "virtual-mta", Name: "smtp-source-ip"},
	} {
		if _, ok := registry[d.Scope][d.Name]; !ok {
			t.Errorf("%s in <%s> is not in the registry", d.Name, d.Scope)
		}
	}
}

// otherDefaults are the directives whose default carom means or writes otherwise than the guide, and why.
var otherDefaults = map[string]string{
	"domain backoff-max-connect-rate":                 "the guide's sentence in short",
	"domain backoff-max-data-volume-rate":             "the guide's sentence in short",
	"domain backoff-max-msg-rate":                     "the guide's sentence in short",
	"domain max-rcpt-per-message":                     "1000 as max-rcpt-per-transaction, of which it is the same",
	"domain dkim-algorithm":                           "that of the key",
	"domain second-dkim-algorithm":                    "that of the key",
	"domain smtp-tls-ciphers":                         "Go's choice",
	"smtp-listener tls-ciphers":                       "Go's choice",
	"global smtp-server-tls-ciphers":                  "Go's choice",
	"acct-file max-size":                              "250m, of webhooks 5m: filled in when the whole section is read",
	"acct-file http-webhook-transfer-encoding":        "no compression is written as nothing",
	"acct-file map-header-to-field":                   "none is written as nothing",
	"acct-file record-fields":                         "a type without a list has all its fields",
	"source-group reserved-smtp-in":                   "a reservation of no connections is 0",
	"global relay-domain":                             "the host names are relayed for in any case",
	"global total-max-smtp-out":                       "that of the larger licence",
	"global spool-min-free-space":                     "written as a size",
	"virtual-mta use-proxy":                           "none",
	"global use-proxy":                                "none",
	"bounce-processor deliver-unmatched-email":        "depends on forward-unmatched-to",
	"feedback-loop-processor deliver-unmatched-email": "depends on forward-unmatched-to",
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	same := func(a, b string) bool {
		for _, s := range []*string{&a, &b} {
			switch *s {
			case "true":
				*s = "yes"
			case "false":
				*s = "no"
			}
		}
		return a == b
	}
	compared := 0
	for _, row := range appendix(t) {
		scope, name, want := row[0], row[1], row[2]
		d := registry[scope][name]
		if d.Status != Implemented || otherDefaults[scope+" "+name] != "" || want == "" || strings.HasPrefix(want, "as ") {
			continue
		}
		compared++
		if !same(d.Default, want) {
			t.Errorf("%s in <%s> has the default %q; documented is %q", name, scope, d.Default, want)
		}
	}
	if compared < 100 {
		t.Errorf("only %d defaults are documented", compared)
	}
}

func TestDirectivesSayHowTheyAreWritten(t *testing.T) {
	// Read with the tree, or where more than one directive counts.
	special := []string{"include", "include-from", "domain-macro", "relay-domain", "*"}
	for _, d := range Directives() {
		if d.Status == Implemented && d.Value == "" && !slices.Contains(special, d.Name) {
			t.Errorf("%s in <%s> does not say how its value is written", d.Name, d.Scope)
		}
	}
}

func TestDirectivesCommand(t *testing.T) {
	run := func(args ...string) (string, int) {
		var out bytes.Buffer
		err := DirectivesCommand(t.Context(), args, service.IO{Out: &out, Err: &out})
		return out.String(), service.ExitStatus(err)
	}
	out, status := run("--scope", "<domain>", "--status", "implemented")
	for _, want := range []string{"domain  max-msg-rate ", "unlimited or N/[M]UNIT, for example 100/m  ", "4d12h"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if status != 0 || strings.Contains(out, "\nsource ") || strings.Contains(out, " planned ") {
		t.Errorf("status %d; more than what was asked for:\n%s", status, out)
	}
	out, _ = run("--json")
	var all []Directive
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != len(Directives()) {
		t.Errorf("%d directives as JSON, %v; want %d", len(all), err, len(Directives()))
	}
	for _, args := range [][]string{{"--scope", "nope"}, {"--status", "nope"}, {"more"}} {
		if out, status := run(args...); status != 2 {
			t.Errorf("check directives %q = %d; want 2\n%s", args, status, out)
		}
	}
}
