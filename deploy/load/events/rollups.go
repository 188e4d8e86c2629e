package events

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// rollUps fills every roll-up for the time of a history that nobody adds to meanwhile. After each it
// tells how many of them are done.
func rollUps(ctx context.Context, conn driver.Conn, from, to time.Time, done func(table string, n, of int)) error {
	return warehouse.Rebuild(ctx, conn, from, to, warehouse.RebuildOptions{
		Idle:   true,
		Report: func(r warehouse.Rebuilt) { done(r.Table, r.Done, r.Total) },
	})
}
