package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
)

// TestSamples: what the page shows of the commands is what they print.
func TestSamples(t *testing.T) {
	const begin, end = "<!-- generated: samples -->\n", "<!-- end: samples -->\n"
	page, err := filepath.Abs("../../deploy/docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join("testdata", "samples")) // so that the page shows names without folders
	var b strings.Builder
	for _, sample := range []struct {
		run  func(context.Context, []string, service.IO) error
		line string
		file string
	}{
		{CheckCommand, "carom check config mistakes.conf", "mistakes.conf"},
		{SettingsCommand, "carom show settings gmail.com/mail1 --set -c pmta.conf", "pmta.conf"},
	} {
		data, err := os.ReadFile(sample.file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err = sample.run(t.Context(), strings.Fields(sample.line)[3:], service.IO{Out: &out, Err: &out})
		if _, mistakes := errors.AsType[*service.ConfigError](err); err != nil && !mistakes {
			t.Fatal(err)
		}
		b.WriteString("`" + sample.file + "`:\n\n```\n" + string(data) + "```\n\n```\n$ " + sample.line + "\n" + out.String() + "```\n\n")
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no block of samples", page)
	}
	want := before + begin + b.String() + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the documentation
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), want); diff != "" {
		t.Errorf("%s shows something else; write it again with\n\tgo test ./sender/config -run TestSamples -update\n%s", page, diff)
	}
}
