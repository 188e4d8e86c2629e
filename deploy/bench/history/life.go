package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carom/analytics/trace"
)

// lives is how many messages and recipients are looked up, and traceSince and traceLimit what carom
// trace asks for by default.
const (
	lives      = 100
	traceSince = 30 * 24 * time.Hour
	traceLimit = 20
)

// life measures what carom trace does for one message and for one recipient, by ids that are spread
// over the history.
func life(ctx context.Context, l *lab) error {
	e, err := l.open(ctx)
	if err != nil {
		return err
	}
	for _, by := range []struct{ name, column string }{{"life of a message", "message_id"}, {"life of a recipient", "recipient"}} {
		ids, err := l.someIDs(ctx, e, by.column)
		if err != nil {
			return err
		}
		var millis []float64
		for _, id := range ids {
			started := time.Now()
			found, err := trace.Ask(ctx, e.conn, trace.Question{Text: id, Since: started.Add(-traceSince), Limit: traceLimit})
			if err != nil {
				return fmt.Errorf("%s: %w", by.name, err)
			}
			millis = append(millis, float64(time.Since(started).Microseconds())/1000)
			if len(found.Messages) == 0 || len(found.Messages[0].Steps) < 2 {
				return fmt.Errorf("%s %s has no life", by.name, id)
			}
		}
		l.add(Row{
			Name: by.name, Unit: "ms (p95)", Got: quantile(millis, 0.95), AtMost: 150,
			Note: fmt.Sprintf("median %.0f, most %.0f of %d", quantile(millis, 0.5), quantile(millis, 1), len(millis)),
		}, true)
	}
	return nil
}

// someIDs returns values of a column from delivered mail of the whole time.
func (l *lab) someIDs(ctx context.Context, e *engine, column string) (ids []string, err error) {
	// About a thousand rows are hit, of which the smallest hashes are taken.
	err = e.conn.QueryRow(ctx, fmt.Sprintf(`
SELECT groupArray(toString(%s))
FROM
(
    SELECT %[1]s
    FROM events
    WHERE kind = 'delivered' AND cityHash64(seq, node) %% greatest(1, intDiv((SELECT count() FROM events), 1000)) = 0
    ORDER BY cityHash64(node, seq)
    LIMIT %d
)`, column, lives)).Scan(&ids)
	if err != nil {
		return nil, fmt.Errorf("find ids: %w", err)
	}
	if len(ids) == 0 {
		return nil, errors.New("the history has no delivered mail")
	}
	return ids, nil
}
