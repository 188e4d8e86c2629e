package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/webhook"
	"carom/schemas/limits"
)

const changeWebhookJob = "change-webhook"

// ChangeWebhook is the job that tells the operator's own system of each row of limit_log: what the loop did,
// what it would have done, and what operators ordered. It tells of rows from its first run on, each until
// it was answered with 2xx or three days are over, and possibly twice: webhook_deliveries holds what is
// done, as for complaints.
type ChangeWebhook struct {
	Conn     driver.Conn
	Client   *webhook.Client
	Endpoint string // as webhook.Endpoint names it
	Log      *slog.Logger
	Version  string // of carom
}

// changeKey is the idempotency key of a row of limit_log, in SQL.
const changeKey = "concat('limit/', id, '/', toString(kind), '/', rule_id, '/', toString(toUnixTimestamp64Micro(ts)))"

// isNew are the rows that were written since the last run, as a condition on limit_log.
const isNew = "ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ts <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')"

// untold are the keys of new rows that are not noted yet, with the time of each.
const untold = `
SELECT ` + changeKey + ` AS key, ts
FROM limit_log
WHERE ` + isNew + `
    AND key NOT IN (SELECT event_id FROM webhook_deliveries WHERE endpoint = {endpoint:String} AND event_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC'))`

// Run notes the rows that were written since the last run, and tells of those that are due. An endpoint that is
// down is no error of the run.
func (h *ChangeWebhook) Run(ctx context.Context) (Result, error) {
	idle, err := h.idle(ctx)
	if err != nil || idle {
		return Result{Job: changeWebhookJob, Idle: idle}, err
	}
	return inTurn(ctx, h.Conn, changeWebhookJob, h.Version, h.work)
}

// idle reports whether there is nothing to note and nothing to tell, and no row is wanted.
func (h *ChangeWebhook) idle(ctx context.Context) (bool, error) {
	w, err := loadWatermark(ctx, h.Conn, changeWebhookJob)
	if err != nil || !w.isFresh() {
		return false, err
	}
	var found uint64
	err = h.Conn.QueryRow(with(ctx, h.parameters(w.dataTo.Add(-overlap), w.now)), `
SELECT (SELECT count() FROM (`+untold+`))
    + (SELECT count() FROM webhook_deliveries FINAL
        WHERE endpoint = {endpoint:String} AND NOT `+isComplaintID+` AND status = 'waiting' AND next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC'))`).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for changes to tell: %w", err)
	}
	return found == 0, nil
}

func (h *ChangeWebhook) parameters(since, until time.Time) clickhouse.Parameters {
	return clickhouse.Parameters{"since": micros(since), "until": micros(until), "endpoint": parameter.Replace(h.Endpoint)}
}

func (h *ChangeWebhook) work(ctx context.Context, r *run, result *Result) error {
	w, err := loadWatermark(ctx, h.Conn, changeWebhookJob)
	if err != nil {
		return err
	}
	since := r.started
	if !w.dataTo.IsZero() {
		since = w.dataTo.Add(-overlap)
	}
	// All of them are noted before the watermark moves, however many one run can tell.
	if err := h.Conn.Exec(with(ctx, h.parameters(since, r.started)), `
INSERT INTO webhook_deliveries (endpoint, event_id, version, event_time, status, attempts, next_at, answer)
SELECT {endpoint:String}, key, 0, ts, 'waiting', 0, ts, '' FROM (`+untold+`)`); err != nil {
		return fmt.Errorf("note changes: %w", err)
	}
	result.DataTo = r.started
	due, err := h.due(ctx, r.started)
	if err != nil {
		return err
	}
	deliver(ctx, due)
	return recordDeliveries(ctx, h.Conn, h.Log, r, h.Endpoint, due, result)
}

// due returns the changes whose time has come, oldest first.
func (h *ChangeWebhook) due(ctx context.Context, now time.Time) ([]*delivery, error) {
	due, err := loadDue(ctx, h.Conn, h.Endpoint, now, "NOT "+isComplaintID)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	rows, err := h.Conn.Query(with(ctx, dueParameters(due)), `
SELECT `+changeKey+` AS key, ts, id, toString(kind), provider, source, rule_id, actor, reason_text, rate_old, rate_new, connections_new, messages_new, epoch
FROM limit_log
WHERE ts >= fromUnixTimestamp64Micro({first:Int64}, 'UTC') AND ts <= fromUnixTimestamp64Micro({last:Int64}, 'UTC') AND key IN {ids:Array(String)}`)
	if err != nil {
		return nil, fmt.Errorf("read changes to tell: %w", err)
	}
	send := map[string]func(context.Context) error{}
	err = each(rows, "read changes to tell", func() error {
		var id string
		var c webhook.Change
		var key limits.Key
		if err := rows.Scan(&id, &c.Time, &c.ID, &c.Type, &key.Provider, &key.Source, &c.Rule, &c.Actor, &c.Reason, &c.RateOld, &c.RateNew, &c.Connections, &c.Messages, &c.Epoch); err != nil {
			return err
		}
		c.Key = key.String()
		if c.Type == kindAdvice {
			c.Type = "limit-advice"
		} else {
			c.Type = "limit-change"
		}
		send[id] = func(ctx context.Context) error { return h.Client.PostChange(ctx, id, &c) }
		return nil
	})
	for _, d := range due {
		d.send = send[d.id]
	}
	return due, err
}
