package bridge_test

import (
	_ "embed"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/deploy/load/events"
	"carom/grafana-plugin/bridge"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

//go:embed testdata/state.sql
var state string

const password = "reads-0nly"

// days is how long the history is: the rates of complaints and returned mail are those of days that are
// a week old.
const days = 9

// until is the end of the history: full ten minutes, so that the last minute is in the roll-ups.
var until = time.Now().UTC().Truncate(10 * time.Minute)

// serve starts an engine, the backend and the page, and returns the page's URL.
func serve(t *testing.T, rows uint64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	engine, url := chtest.StartWithSchema(t, "--readonly-user", "grafana", "--readonly-password-file", file)
	if rows > 0 {
		conn, err := events.Open(t.Context(), url, warehouse.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // every statement was answered
		if _, err := events.Run(t.Context(), conn, events.Options{Rows: rows, Days: days, Nodes: 3, Seed: 5, Until: until}); err != nil {
			t.Fatal(err)
		}
		ctx := clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{"until": strconv.FormatInt(until.UnixMicro(), 10)}))
		for statement := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(state), ";"), ";\n") {
			if err := conn.Exec(ctx, statement); err != nil {
				t.Fatalf("%v in %s", err, statement)
			}
		}
	}
	return served(t, bridge.Settings{
		JSON:     map[string]any{"address": engine.Addr(), "protocol": "http", "database": "carom", "user": "grafana"},
		Password: password,
	})
}

// served starts the backend with a data source of those settings, and the page, and returns the page's URL.
func served(t *testing.T, s bridge.Settings) string {
	t.Helper()
	binary, err := filepath.Abs(os.Getenv("CAROM_PLUGIN_BINARY"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bridge.Start(binary, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	b.Files("/", "../page/out")
	b.Files("/plugin/", "../dist")
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return server.URL
}

// TestBrowser drives the editors and the dashboards in Chromium; `make plugin-browser` builds what it needs.
func TestBrowser(t *testing.T) {
	if os.Getenv("CAROM_BROWSER") == "" {
		t.Skip("needs Chromium and the built page: make plugin-browser sets CAROM_BROWSER")
	}
	browse(t, "page/browser.test.mjs",
		"PAGE_URL="+serve(t, 60_000), "EMPTY_URL="+serve(t, 0),
		fmt.Sprintf("FROM=%d", until.Add(-days*24*time.Hour).UnixMilli()), fmt.Sprintf("TO=%d", until.UnixMilli()),
	)
}

// browse runs a file of browser tests.
func browse(t *testing.T, file string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", file)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("browser tests: %v", err)
	}
}
