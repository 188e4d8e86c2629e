//go:build unix

package chtest_test

import (
	"testing"

	"carom/schemas/warehouse/chtest"
)

func TestDataSurvivesKillAndStop(t *testing.T) {
	server := chtest.Start(t)
	conn := server.Conn(t)
	ctx := t.Context()
	if err := conn.Exec(ctx, "CREATE TABLE kept (a UInt64) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatalf("create: %v", err)
	}
	for round, end := range []func() error{
		func() error { server.Kill(); return nil },
		server.Stop,
	} {
		if err := conn.Exec(ctx, "INSERT INTO kept SELECT number FROM numbers(1000)"); err != nil {
			t.Fatalf("insert: %v", err)
		}
		if err := end(); err != nil {
			t.Fatalf("end: %v", err)
		}
		server.Restart(t)
		var n uint64
		if err := server.Conn(t).QueryRow(ctx, "SELECT count() FROM kept").Scan(&n); err != nil {
			t.Fatalf("count: %v", err)
		}
		if want := uint64(1000 * (round + 1)); n != want {
			t.Errorf("round %d: %d rows, want %d", round, n, want)
		}
	}
}
