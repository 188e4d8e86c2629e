package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/webhook"
	"carom/schemas/warehouse"
)

const (
	// postsAtOnce are in flight at most, and postsInRun are begun.
	postsAtOnce, postsInRun = 8, 400
	// postTime is how long a run begins posts: the last ones need a timeout more, and the run must be
	// over when its turn is.
	postTime = 5 * time.Second
)

// isComplaintID tells what webhook_deliveries has of complaints, whose id ends with an incarnation and a number, from
// what it has of changes: both may go to one endpoint.
const isComplaintID = `match(event_id, '/[0-9a-f-]{36}/[0-9]+$')`

// delivery is a row of webhook_deliveries whose time has come.
type delivery struct {
	id       string
	at       time.Time // of the event
	attempts uint32
	send     func(context.Context) error // nil if what is to be told is not stored any more
	tried    bool
	err      error
}

// loadDue returns what is to be told to an endpoint at now, oldest first: no more than one run can. Which
// rows they are is a condition on event_id. send is left to the caller.
func loadDue(ctx context.Context, conn driver.Conn, endpoint string, now time.Time, which string) ([]*delivery, error) {
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{"endpoint": parameter.Replace(endpoint), "until": micros(now)}), fmt.Sprintf(`
SELECT event_id, event_time, attempts FROM webhook_deliveries FINAL
WHERE endpoint = {endpoint:String} AND status = 'waiting' AND next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC') AND %s
ORDER BY next_at, event_time, event_id
LIMIT %d`, which, postsInRun))
	if err != nil {
		return nil, fmt.Errorf("read webhook_deliveries: %w", err)
	}
	var due []*delivery
	err = each(rows, "read webhook_deliveries", func() error {
		d := &delivery{}
		due = append(due, d)
		return rows.Scan(&d.id, &d.at, &d.attempts)
	})
	return due, err
}

// dueParameters are those of a query of what is to be told: its ids, and the first and the last time.
func dueParameters(due []*delivery) clickhouse.Parameters {
	first, last := due[0].at, due[0].at
	ids := make([]string, len(due))
	for i, d := range due {
		ids[i] = d.id
		first = earlier(first, d.at)
		if d.at.After(last) {
			last = d.at
		}
	}
	return clickhouse.Parameters{"ids": warehouse.TextArray(ids), "first": micros(first), "last": micros(last)}
}

// deliver posts what is due, some at a time. It stops to begin new posts when the time is over, or when nothing but
// failures came back for as many as are in flight: the rest keeps its turn.
func deliver(ctx context.Context, due []*delivery) {
	ends := time.Now().Add(postTime)
	var mu sync.Mutex
	next, failures := 0, 0 // failures in a row
	take := func() *delivery {
		mu.Lock()
		defer mu.Unlock()
		if next == len(due) || failures >= postsAtOnce || time.Now().After(ends) {
			return nil
		}
		next++
		return due[next-1]
	}
	var workers sync.WaitGroup
	for range min(postsAtOnce, len(due)) {
		workers.Go(func() {
			for d := take(); d != nil; d = take() {
				if d.send == nil {
					d.tried, d.err = true, errors.New("it is not stored any more")
					continue
				}
				err := d.send(ctx)
				mu.Lock()
				if d.tried, d.err = true, err; err != nil {
					failures++
				} else {
					failures = 0
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
}

// recordDeliveries writes what became of what was tried. The result counts what was taken (Changes) and what
// was not (Advised).
func recordDeliveries(ctx context.Context, conn driver.Conn, log *slog.Logger, r *run, endpoint string, due []*delivery, result *Result) error {
	var rows [][]any
	var first error
	for _, d := range due {
		if !d.tried {
			continue
		}
		status, next, answer := "delivered", time.Unix(0, 0).UTC(), "ok"
		if d.err != nil {
			status, next, answer = "waiting", r.started.Add(webhook.Wait(d.attempts+1)), d.err.Error()
			if r.started.Sub(d.at) > webhook.GiveUpAfter {
				status = "given-up"
				log.ErrorContext(ctx, "it is not told any more", "event", d.id, "attempts", d.attempts+1, "error", d.err)
			}
			if first == nil {
				first = d.err
			}
			result.Advised++
		} else {
			result.Changes++
		}
		rows = append(rows, []any{endpoint, d.id, uint64(r.started.UnixMicro()), d.at, status, d.attempts + 1, next, answer}) //nolint:gosec // after 1970
	}
	if first != nil {
		log.WarnContext(ctx, "the webhook does not take what it is told, which is tried again", "job", r.job, "endpoint", endpoint, "failed", result.Advised, "error", first)
	}
	return insert(context.WithoutCancel(ctx), conn, r.token("webhook_deliveries"), "webhook_deliveries", []string{
		"endpoint", "event_id", "version", "event_time", "status", "attempts", "next_at", "answer",
	}, rows)
}
