package bench

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carom/schemas/service"
	"carom/schemas/warehouse/engine"
)

// TestShort runs every scenario as carom bench --short does, with the real binary: that all of it
// works, and not how fast it is.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs the real binary; not with -short")
	}
	if _, err := findTools(); err != nil {
		t.Skipf("needs smtp-source and smtp-sink: %v", err)
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // Postfix's daemons work in it
		t.Fatal(err)
	}
	carom := filepath.Join(dir, "carom")
	if output, err := exec.Command("go", "build", "-o", carom, "carom").CombinedOutput(); err != nil {
		t.Fatalf("build carom: %v\n%s", err, output)
	}
	library, noEngine := engine.FindLibrary("")
	if noEngine != nil && os.Getenv(engine.LibraryEnv) == "" {
		// make engine puts it where carom looks when it is started at the module's root.
		library, noEngine = engine.FindLibrary(filepath.Join("..", "..", "build", "engine", engine.LibraryName))
	}
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			if s.Name == "relay-4k-clickhouse" && noEngine != nil {
				if os.Getenv("CAROM_REQUIRE_ENGINE") != "" {
					t.Fatalf("CAROM_REQUIRE_ENGINE is set: %v", noEngine)
				}
				t.Skipf("needs the embedded ClickHouse engine: %v", noEngine)
			}
			var out, progress strings.Builder
			err := Command(t.Context(), []string{
				"--short", "--json", "--carom", carom, "--engine-lib", library, "--dir", dir, "--out", filepath.Join(dir, "out.json"), s.Name,
			}, service.IO{In: strings.NewReader(""), Out: &out, Err: &progress})
			if err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			written, err := os.ReadFile(filepath.Join(dir, "out.json"))
			if err != nil || string(written) != out.String() {
				t.Errorf("--out wrote %d bytes, --json %d: %v", len(written), out.Len(), err)
			}
			var r Result
			if err := json.Unmarshal(written, &r); err != nil {
				t.Fatal(err)
			}
			if len(r.Scenarios) != 1 || r.Scenarios[0].Name != s.Name {
				t.Fatalf("result of %d scenarios:\n%s", len(r.Scenarios), out.String())
			}
			checkShort(t, s, r.Scenarios[0])
			left, err := filepath.Glob(filepath.Join(dir, "carom-bench-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("%q is left, %v", left, err)
			}
		})
	}
}

// checkShort fails the test unless all that the scenario promises was measured.
func checkShort(t *testing.T, s scenario, m Measured) {
	t.Helper()
	peers := !slices.ContainsFunc(m.Servers, func(s ServerResult) bool { return s.Skipped != "" })
	if len(m.Verdicts) != len(s.Targets) || len(s.Targets) == 0 {
		t.Errorf("%d verdicts on %d targets", len(m.Verdicts), len(s.Targets))
	}
	for _, v := range m.Verdicts {
		if v.Result == undone && v.Why != "" {
			t.Log(v)
		} else if v.Result != small && (peers || v.Result != undone) {
			t.Errorf("verdict of a short run: %s", v)
		}
	}
	for _, f := range m.Figures {
		if len(f.Values) > 0 && f.Median <= 0 {
			t.Errorf("%s is %v", f.Name, f.Median)
		}
	}
	for _, srv := range m.Servers {
		if srv.Skipped != "" {
			t.Logf("%s was skipped: %s", srv.Name, srv.Skipped)
		} else if srv.Rate <= 0 || srv.CPUPer1000 <= 0 || srv.PeakMiB <= 0 {
			t.Errorf("no rate, CPU time or memory: %+v", srv)
		}
	}
	if s.Name == "delay-50ms" {
		// Not a matter of speed: it is what goes over the wire.
		for name, want := range map[string]float64{tripsPipelining: 2, tripsChunking: 1, trips + "go-smtp's client": 4} {
			if f, _ := m.figure(name); f.Median != want {
				t.Errorf("%s: %v, want %v", name, f.Median, want)
			}
		}
	}
}
