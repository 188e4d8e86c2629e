package events

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/schemas/warehouse"
)

// rollUps fills what views and jobs would have filled: every roll-up, the reports and their attributions.
func (r *run) rollUps(ctx context.Context) error {
	err := warehouse.Rebuild(ctx, r.conn, r.from, r.Until, warehouse.RebuildOptions{
		Idle:   true,
		Report: func(done warehouse.Rebuilt) { r.progress(r.Days, done.Done, done.Total) },
	})
	if err != nil {
		return fmt.Errorf("fill the roll-ups: %w", err)
	}
	var reports string
	if err := r.conn.QueryRow(ctx, "SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = 'reports_mv'").Scan(&reports); err != nil {
		return fmt.Errorf("read what fills the reports: %w", err)
	}
	attributions, err := files.ReadFile("attributions.sql")
	if err != nil {
		return err
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings()), clickhouse.WithParameters(clickhouse.Parameters{"incarnation": r.incarnation.String()}))
	for _, statement := range []string{"INSERT INTO reports " + reports, string(attributions)} {
		if err := r.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("fill the reports: %w", err)
		}
	}
	return nil
}
