package bridge_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/grafana-plugin/bridge"
	"carom/schemas/warehouse"
)

// TestSpeed measures the dashboards in Chromium over the history at CAROM_HISTORY_URL; `make plugin-bench` says how.
func TestSpeed(t *testing.T) {
	address := os.Getenv("CAROM_HISTORY_URL")
	if address == "" {
		t.Skip("needs a history, Chromium and the built page: make plugin-bench sets CAROM_HISTORY_URL")
	}
	options, err := warehouse.ClientOptions(address, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := warehouse.Open(t.Context(), address, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	var (
		rows     uint64
		from, to time.Time
	)
	if err := conn.QueryRow(t.Context(), "SELECT count(), min(time), max(time) FROM events").Scan(&rows, &from, &to); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events from %v to %v", rows, from, to)
	protocol := "native"
	if options.Protocol == clickhouse.HTTP {
		protocol = "http"
	}
	settings := bridge.Settings{Password: options.Auth.Password, JSON: map[string]any{
		"address": options.Addr[0], "protocol": protocol, "tls": options.TLS != nil, "database": options.Auth.Database, "user": options.Auth.Username,
	}}
	browse(t, "page/speed.test.mjs", "PAGE_URL="+served(t, settings),
		fmt.Sprintf("FROM=%d", from.UnixMilli()), fmt.Sprintf("TO=%d", to.UnixMilli()),
	)
}
