//go:build unix

package plugin_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/views"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenFrames holds the form of each view's frame, with data and without any, to what was written down: the
// fields with their types, units and links. The values follow the clock, because rows past their
// retention are dropped, and the mail of the last day is of no particular day.
func goldenFrames(t *testing.T, s source) {
	var b strings.Builder
	ranges := []struct {
		name string
		over over
	}{
		{"a day", over{until.Add(-24 * time.Hour), until, 10 * time.Minute}},
		{"a day without mail", over{until.Add(-5 * 24 * time.Hour), until.Add(-4 * 24 * time.Hour), 10 * time.Minute}},
	}
	for _, v := range views.Catalogue() {
		for _, format := range v.Formats {
			for _, r := range ranges {
				model := map[string]any{"view": v.Name, "format": format, "metrics": v.Defaults.Metrics, "breakdown": v.Defaults.Breakdown}
				if v.Name == "trace" {
					model["filters"] = []views.Filter{{Field: "recipient", Op: "!=", Values: []string{"nobody@example.com"}}}
				}
				f := frame(t, s, r.over, model)
				fmt.Fprintf(&b, "%s as %s, %s: %s\n%s", v.Name, format, r.name, f.Meta.Type, form(f))
			}
		}
	}
	const file = "testdata/frames.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s differs; -update rewrites it (-want +got):\n%s", file, diff)
	}
}

// form describes the fields of a frame, those of many series once.
func form(f *data.Frame) string {
	var b strings.Builder
	seen := map[string]bool{}
	for _, field := range f.Fields {
		labels := make([]string, 0, len(field.Labels))
		for _, name := range []string{"provider", "source", "tenant", "job", "category"} {
			if _, ok := field.Labels[name]; ok {
				labels = append(labels, name)
			}
		}
		line := fmt.Sprintf("    %s %s", field.Name, field.Type())
		if len(labels) > 0 {
			line += " by " + strings.Join(labels, ", ")
		}
		if c := field.Config; c != nil {
			if c.Unit != "" {
				line += ", unit " + c.Unit
			}
			for _, l := range c.Links {
				line += ", link " + l.Title
			}
		}
		if !seen[line] {
			b.WriteString(line + "\n")
		}
		seen[line] = true
	}
	if f.Rows() == 0 {
		b.WriteString("    no rows\n")
	}
	for _, n := range f.Meta.Notices {
		b.WriteString("    notice: " + n.Text + "\n")
	}
	return b.String()
}
