package events

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// How far back the nodes' state goes: gauges as far as somebody looks at single keys, queues as far as
// their table keeps them.
const (
	gaugesFor = 6 * time.Hour
	queuesFor = 15 * 24 * time.Hour
)

// beside fills the tables that nodes and jobs write beside the events, from the events.
func (r *run) beside(ctx context.Context) error {
	for _, file := range []struct {
		name string
		from time.Time
	}{
		{"limits.sql", r.from},
		{"gauges.sql", r.Until.Add(-gaugesFor)},
		{"queues.sql", r.Until.Add(-queuesFor)},
		{"annotations.sql", r.from},
	} {
		sql, err := files.ReadFile(file.name)
		if err != nil {
			return err
		}
		ctx := clickhouse.Context(ctx, clickhouse.WithSettings(settings()), clickhouse.WithParameters(clickhouse.Parameters{
			"incarnation": r.incarnation.String(), "nodes": strconv.Itoa(r.Nodes),
			"from_us": strconv.FormatInt(file.from.UnixMicro(), 10), "until_us": strconv.FormatInt(r.Until.UnixMicro(), 10),
		}))
		if err := r.conn.Exec(ctx, string(sql)); err != nil {
			return fmt.Errorf("%s: %w", file.name, err)
		}
	}
	return nil
}
