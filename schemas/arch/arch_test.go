package arch

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "carom/"

// may lists what the packages of a folder may import of ours. The longest folder that holds the
// package counts; "" is main.go.
var may = map[string][]string{
	"":        {"schemas", "sender", "ingest", "analytics", "deploy"},
	"schemas": {"schemas"},
	"sender": {
		"sender", "schemas", "ingest/mime", "ingest/dsn", "ingest/arf", "ingest/aggregate", "ingest/classify", "ingest/correlate",
		"ingest/report", "ingest/notice", "ingest/phrase", "ingest/sns",
	},
	"ingest":         {"ingest", "schemas"},
	"analytics":      {"analytics", "schemas"},
	"grafana-plugin": {"grafana-plugin", "schemas"},
	"deploy":         {"deploy", "schemas", "sender", "ingest", "analytics"},

	// Mechanisms know no policy and not each other.
	"sender/backoff":  {"schemas", "sender/regexset"},
	"sender/cold":     {"schemas"},
	"sender/config":   {"schemas"},
	"sender/dkim":     {"schemas", "sender/dkim"},
	"sender/feed":     {"schemas"},
	"sender/orders":   {"schemas"},
	"sender/regexset": {"ingest/phrase"},
	"sender/resolve":  {"schemas"},
	"sender/schedule": {"schemas"},
	"sender/smtpc":    {"schemas"},
	"sender/spool":    {"schemas"},
	"sender/suppress": {"schemas"},
	"sender/throttle": {"schemas"},

	// The parsers are pure: the sender uses them too.
	"ingest/mime":      {"schemas"},
	"ingest/dsn":       {"schemas", "ingest/mime"},
	"ingest/arf":       {"schemas", "ingest/mime"},
	"ingest/aggregate": {"schemas", "ingest/mime"},
	"ingest/classify":  {"schemas"},
	"ingest/correlate": {"schemas"},
	"ingest/phrase":    {"schemas"},
	"ingest/notice":    {"schemas", "ingest/mime", "ingest/dsn", "ingest/phrase"},
	"ingest/sns":       {"schemas", "ingest/mime", "ingest/dsn", "ingest/arf"},
	"ingest/report":    {"schemas", "ingest/mime", "ingest/dsn", "ingest/arf", "ingest/aggregate", "ingest/notice", "ingest/sns", "ingest/classify"},
}

// links lists what packages of a folder must never link, directly or not.
var links = map[string][]string{
	"sender":            {"github.com/ClickHouse/", "github.com/grafana/", "carom/schemas/warehouse"},
	"analytics/control": {"net", "database/sql", "os/exec", "github.com/ClickHouse/"},
	"schemas/event":     {"github.com/ClickHouse/"},
	"":                  {"github.com/cockroachdb/", "gonum.org/"}, // for tests, and for the plots of deploy/loop alone
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

// folderOf returns the longest key of rules that holds the package rel.
func folderOf[V any](rules map[string]V, rel string) string {
	best := ""
	for folder := range rules {
		if within(rel, folder) && len(folder) > len(best) {
			best = folder
		}
	}
	return best
}

type listed struct {
	ImportPath    string
	Imports, Deps []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	// Looking at every Go file makes the test cache notice a change; what a child process reads it does not see.
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "node_modules" {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportRules(t *testing.T) {
	all := packages(t)
	if len(all) == 0 {
		t.Fatal("go list found no package")
	}
	for _, p := range all {
		rel, _ := strings.CutPrefix(strings.TrimPrefix(p.ImportPath, strings.TrimSuffix(module, "/")), "/")
		from := folderOf(may, rel)
		if from == "" && rel != "" {
			t.Errorf("%s lies in no folder that a rule names", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if to, ours := strings.CutPrefix(imp, module); ours && !allowed(may[from], to) {
				t.Errorf("%s imports %s: %q may import only %v", p.ImportPath, imp, from, may[from])
			}
		}
		for folder, forbidden := range links {
			if within(rel, folder) {
				checkLinks(t, p, forbidden)
			}
		}
	}
}

func allowed(folders []string, to string) bool {
	for _, folder := range folders {
		if within(to, folder) {
			return true
		}
	}
	return false
}

func checkLinks(t *testing.T, p listed, forbidden []string) {
	t.Helper()
	for _, dep := range p.Deps {
		for _, bad := range forbidden {
			if dep == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(dep, bad) || strings.HasPrefix(dep, bad+"/") && strings.Contains(bad, "/") {
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
		}
	}
}

// TestEveryDependencyHasItsLine holds the table in CONTRIBUTING.md to what go.mod requires directly.
func TestEveryDependencyHasItsLine(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	inTable := map[string]bool{}
	for _, line := range regexp.MustCompile("(?m)^\\| `([a-z][^`@]*\\.[^`@]*/[^`@]*)`").FindAllStringSubmatch(string(text), -1) {
		inTable[line[1]] = true
	}
	for _, r := range mod.Require {
		if !r.Indirect && !inTable[r.Path] {
			t.Errorf("CONTRIBUTING.md has no line for %s, which go.mod requires", r.Path)
		}
		if !r.Indirect {
			delete(inTable, r.Path)
		}
	}
	for path := range inTable {
		t.Errorf("CONTRIBUTING.md has a line for %s, which go.mod does not require", path)
	}
}
