package history

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// lives is how many messages and recipients are looked up.
const lives = 100

// lifeOf are the look-ups, by what is known: what carom trace asks.
var lifeOf = []struct{ name, column, sql string }{
	{"life of a message", "message_id", "SELECT time, toString(kind), attempt, reply, queued_us, limit_epoch FROM events WHERE message_id = {id:UUID} ORDER BY time"},
	{"life of a recipient", "recipient", "SELECT time, toString(kind), attempt, reply, queued_us, limit_epoch FROM events WHERE recipient = {id:String} ORDER BY time"},
}

// life measures looking up one message and one recipient, by ids that are spread over the history.
func life(ctx context.Context, l *lab) error {
	e, err := l.open(ctx)
	if err != nil {
		return err
	}
	for _, look := range lifeOf {
		var ids []string
		err := e.conn.QueryRow(ctx, fmt.Sprintf(`
SELECT groupArray(toString(%s)) FROM (SELECT %[1]s FROM events WHERE kind = 'delivered' AND cityHash64(seq, node) %% greatest(1, intDiv((SELECT count() FROM events), 1000)) = 0 ORDER BY seq, node LIMIT %d)`,
			look.column, lives)).Scan(&ids)
		if err != nil {
			return fmt.Errorf("find ids: %w", err)
		}
		if len(ids) == 0 {
			return fmt.Errorf("the history has no delivered mail")
		}
		var millis []float64
		for _, id := range ids {
			started := time.Now()
			rows, err := e.conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"id": id})), look.sql)
			if err != nil {
				return fmt.Errorf("%s: %w", look.name, err)
			}
			n := 0
			for rows.Next() {
				n++
			}
			if err := rows.Err(); err != nil {
				return fmt.Errorf("%s: %w", look.name, err)
			}
			millis = append(millis, float64(time.Since(started).Microseconds())/1000)
			if n < 2 {
				return fmt.Errorf("%s %s has %d events", look.name, id, n)
			}
		}
		l.add(Row{
			Name: look.name, Unit: "ms (p95)", Got: quantile(millis, 0.95), AtMost: 150,
			Note: fmt.Sprintf("median %.0f, most %.0f of %d", quantile(millis, 0.5), quantile(millis, 1), len(millis)),
		}, true)
	}
	return nil
}
