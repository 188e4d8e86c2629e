package bridge_test

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

	"carom/grafana-plugin/bridge"
)

var answersAt = regexp.MustCompile(`ClickHouse answers at http://([0-9.:]+)/`)

// keptDemo runs the demo and leaves it running until the test is over. It returns the address that the demo
// says ClickHouse answers at.
func keptDemo(t *testing.T) (address string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv("CAROM_DEMO"), "demo", "--keep", "--dir", t.TempDir()) //nolint:gosec // the Makefile names it
	// The engine library is looked for from there.
	cmd.Dir = "../.."
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // where it says what to do next
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait() // it was told to stop
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		if found := answersAt.FindStringSubmatch(lines.Text()); found != nil {
			go func() { // ends with the process
				for lines.Scan() {
				}
			}()
			return found[1]
		}
	}
	t.Fatal("the demo ended before it said where ClickHouse answers")
	return ""
}

// TestDemo follows the plugin's README from `make demo DEMO_FLAGS=--keep` to a dashboard that shows the demo's cut
// and the decision about it; `make plugin-demo` builds what it needs.
func TestDemo(t *testing.T) {
	if os.Getenv("CAROM_DEMO") == "" {
		t.Skip("needs two minutes, Chromium and the built page: make plugin-demo sets CAROM_DEMO")
	}
	page := served(t, bridge.Settings{JSON: map[string]any{"address": keptDemo(t), "protocol": "http", "database": "carom"}})
	browse(t, "page/demo.test.mjs", "PAGE_URL="+page)
}
