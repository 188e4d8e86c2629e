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

// Run tells what is due. An endpoint that is down is no error of the run.
func (h *ChangeWebhook) Run(ctx context.Context) (Result, error) {
	w, err := loadWatermark(ctx, h.Conn, changeWebhookJob)
	if err != nil {
		return Result{Job: changeWebhookJob}, err
	}
	if w.isFresh() {
		due, err := h.due(ctx, w.dataTo.Add(-overlap), w.now)
		if err != nil || len(due) == 0 {
			return Result{Job: changeWebhookJob, Idle: err == nil}, err
		}
	}
	return inTurn(ctx, h.Conn, changeWebhookJob, h.Version, h.work)
}

func (h *ChangeWebhook) work(ctx context.Context, r *run, result *Result) error {
	result.DataTo = r.started
	w, err := loadWatermark(ctx, h.Conn, changeWebhookJob)
	if err != nil {
		return err
	}
	since := r.started
	if !w.dataTo.IsZero() {
		since = w.dataTo.Add(-overlap)
	}
	due, err := h.due(ctx, since, r.started)
	if err != nil {
		return err
	}
	ends := time.Now().Add(postTime)
	var rows [][]any
	for _, d := range due {
		if time.Now().After(ends) || result.Advised >= postsAtOnce {
			// The rest waits, its rows as well: where the run ended is not where the next begins.
			rows = append(rows, []any{h.Endpoint, d.key, uint64(r.started.UnixMicro()), d.change.Time, "waiting", d.attempts, r.started, ""}) //nolint:gosec // after 1970
			continue
		}
		status, next, answer := "delivered", time.Unix(0, 0).UTC(), "ok"
		if err := h.Client.PostChange(ctx, d.key, &d.change); err != nil {
			status, next, answer = "waiting", r.started.Add(webhook.Wait(d.attempts+1)), err.Error()
			if r.started.Sub(d.change.Time) > webhook.GiveUpAfter {
				status = "given-up"
			}
			result.Advised++
		} else {
			result.Changes++
		}
		rows = append(rows, []any{h.Endpoint, d.key, uint64(r.started.UnixMicro()), d.change.Time, status, d.attempts + 1, next, answer}) //nolint:gosec // after 1970
	}
	if result.Advised > 0 {
		h.Log.WarnContext(ctx, "the webhook does not take changes, they are tried again", "endpoint", h.Endpoint, "failed", result.Advised)
	}
	return insert(context.WithoutCancel(ctx), h.Conn, r.token("webhook_deliveries"), "webhook_deliveries", []string{
		"endpoint", "event_id", "version", "event_time", "status", "attempts", "next_at", "answer",
	}, rows)
}

// dueChange is a row to be told.
type dueChange struct {
	key      string
	change   webhook.Change
	attempts uint32
}

// due returns the rows that were written since and were not told, and those whose next attempt has come,
// oldest first.
func (h *ChangeWebhook) due(ctx context.Context, since, now time.Time) ([]dueChange, error) {
	rows, err := h.Conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(since), "until": micros(now), "oldest": micros(now.Add(-webhook.GiveUpAfter - day)), "endpoint": parameter.Replace(h.Endpoint),
	}), fmt.Sprintf(`
SELECT l.key, l.ts, l.id, l.kind, l.provider, l.source, l.rule_id, l.actor, l.reason_text, l.rate_old, l.rate_new, l.connections_new, l.messages_new, l.epoch, d.attempts
FROM (
    SELECT %s AS key, ts, id, toString(kind) AS kind, provider, source, rule_id, actor, reason_text, rate_old, rate_new, connections_new, messages_new, epoch
    FROM limit_log WHERE ts >= fromUnixTimestamp64Micro({oldest:Int64}, 'UTC') AND ts <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
) AS l
LEFT JOIN (
    SELECT event_id, toString(status) AS status, attempts, next_at FROM webhook_deliveries FINAL
    WHERE endpoint = {endpoint:String} AND event_time >= fromUnixTimestamp64Micro({oldest:Int64}, 'UTC')
) AS d ON l.key = d.event_id
WHERE d.event_id = '' AND l.ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
    OR d.status = 'waiting' AND d.event_id != '' AND d.next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
ORDER BY l.ts, l.key
LIMIT %d`, changeKey, postsInRun))
	if err != nil {
		return nil, fmt.Errorf("look for changes to tell: %w", err)
	}
	var all []dueChange
	err = each(rows, "look for changes to tell", func() error {
		var d dueChange
		var key limits.Key
		c := &d.change
		if err := rows.Scan(&d.key, &c.Time, &c.ID, &c.Type, &key.Provider, &key.Source, &c.Rule, &c.Actor, &c.Reason, &c.RateOld, &c.RateNew, &c.Connections, &c.Messages, &c.Epoch, &d.attempts); err != nil {
			return err
		}
		c.Key = key.String()
		if c.Type == kindAdvice {
			c.Type = "limit-advice"
		} else {
			c.Type = "limit-change"
		}
		all = append(all, d)
		return nil
	})
	return all, err
}
