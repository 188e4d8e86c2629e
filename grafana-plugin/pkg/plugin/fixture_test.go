//go:build unix

package plugin_test

import (
	_ "embed"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"

	"carom/deploy/load/events"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func healthRequest(c *pluginv2.PluginContext) *pluginv2.CheckHealthRequest {
	return &pluginv2.CheckHealthRequest{PluginContext: c}
}

// until is the end of the history: the beginning of yesterday, so that nothing is past its retention, all of
// it is over, and its days and hours are the same ones whenever the tests run.
var until = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)

const (
	reader         = "grafana"
	readerPassword = "reads-0nly"

	tenant = "north-works" // has mail in history, and the reader's password
)

// history is an engine with a day of a fleet's mail and of its loop.
func history(tb testing.TB) *chtest.Server {
	tb.Helper()
	password := filepath.Join(tb.TempDir(), "password")
	if err := os.WriteFile(password, []byte(readerPassword+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	server, url := chtest.StartWithSchema(tb, "--readonly-user", reader, "--readonly-password-file", password, "--tenant", tenant+"="+password)
	conn, err := events.Open(tb.Context(), url, warehouse.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if _, err := events.Run(tb.Context(), conn, events.Options{Rows: 12_000, Days: 1, Nodes: 2, Seed: 3, Until: until}); err != nil {
		tb.Fatal(err)
	}
	addLoop(tb, conn)
	return server
}

// settingsOf are those of a data source for the engine.
func settingsOf(server *chtest.Server, more ...map[string]any) map[string]any {
	all := map[string]any{"address": server.Addr(), "protocol": "http", "database": "carom", "user": reader}
	for _, m := range more {
		maps.Copy(all, m)
	}
	return all
}

//go:embed testdata/loop.sql
var loop string

// addLoop fills the tables of the control loop.
func addLoop(tb testing.TB, conn driver.Conn) {
	tb.Helper()
	ctx := clickhouse.Context(tb.Context(), clickhouse.WithParameters(clickhouse.Parameters{"until": until.Format(time.DateTime)}))
	for statement := range strings.SplitSeq(loop, ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if err := conn.Exec(ctx, statement); err != nil {
			tb.Fatalf("%v in %s", err, statement)
		}
	}
}
