package bridge_test

import (
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"carom/grafana-plugin/bridge"
	"carom/schemas/warehouse"
)

// TestSpeed measures the dashboards in Chromium over the history at CAROM_HISTORY_URL; `make plugin-bench` says how.
func TestSpeed(t *testing.T) {
	address := os.Getenv("CAROM_HISTORY_URL")
	if address == "" {
		t.Skip("needs a history, Chromium and the built page: make plugin-bench sets CAROM_HISTORY_URL")
	}
	u, err := url.Parse(address)
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
	browse(t, "page/speed.test.mjs",
		"PAGE_URL="+served(t, bridge.Settings{JSON: map[string]any{"address": u.Host, "protocol": "http", "database": u.Path[1:], "user": "default"}}),
		fmt.Sprintf("FROM=%d", from.UnixMilli()), fmt.Sprintf("TO=%d", to.UnixMilli()),
	)
}
