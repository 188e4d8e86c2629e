package config

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// TestGoldenFilesCoverEveryDirective: each directive with an effect stands in the text of an archive in
// testdata, in its scope. TestGolden compares what comes of it.
func TestGoldenFilesCoverEveryDirective(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives in testdata (%v)", err)
	}
	found := map[string]bool{}
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := maps.Clone(testKeys())
		maps.Copy(m, testPairs())
		for _, f := range archive.Files {
			m["/etc/carom/"+f.Name] = string(f.Data)
		}
		collect(newLoader(m).parse("/etc/carom/config", []byte(m["/etc/carom/config"])), globalScope, found)
	}
	// These are gone when the tree is made; TestIncludeInEveryScope and TestIncludesStayInTheFolder have them.
	gone := []string{"include", "include-from"}
	var missing []string
	for _, d := range Directives() {
		if (d.Status == Implemented || d.Status == Alias) && !found[d.Scope+" "+d.Name] && !slices.Contains(gone, d.Name) {
			missing = append(missing, d.Scope+" "+d.Name)
		}
	}
	if len(missing) > 0 {
		t.Errorf("%d directives are in no golden file:\n%s", len(missing), strings.Join(missing, "\n"))
	}
}

// collect notes the directives among nodes, and in their sections, by scope and name.
func collect(nodes []*node, scope string, found map[string]bool) {
	for _, n := range nodes {
		if !n.IsSection {
			found[scope+" "+n.Name] = true
			continue
		}
		name := n.Name
		if target, ok := sectionAliases[name]; ok {
			name = target
		}
		collect(n.Children, name, found)
	}
}
