package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/webhook"
)

const webhookJob = "webhook"

// isTold is a complaint that is proven, as a condition on events: by a token, or by the signature of a
// reporter whom the operator trusts.
const isTold = `(kind = 'complaint' AND (match_confidence >= 1 OR match_method = 'dkim-reporter'))`

// Webhook is the job that tells the operator's own system of each proven complaint, so that
// its lists follow. What is to be told stands in webhook_deliveries until it was
// answered with 2xx or three days are over; a run that is killed after a POST and before it wrote the
// answer repeats it. A complaint is told from the first run of the job on.
type Webhook struct {
	Conn     driver.Conn
	Client   *webhook.Client
	Endpoint string // as webhook.Endpoint names it
	Log      *slog.Logger
	Version  string // of carom
}

// Run notes the complaints that arrived since the last run, and tells of those that are due. An
// endpoint that is down is no error of the run.
func (h *Webhook) Run(ctx context.Context) (Result, error) {
	idle, err := h.idle(ctx)
	if err != nil || idle {
		return Result{Job: webhookJob, Idle: idle}, err
	}
	return inTurn(ctx, h.Conn, webhookJob, h.Version, h.work)
}

// idle reports whether there is nothing to note and nobody to tell, and no row is wanted.
func (h *Webhook) idle(ctx context.Context) (bool, error) {
	w, err := loadWatermark(ctx, h.Conn, webhookJob)
	if err != nil || !w.isFresh() {
		return false, err
	}
	var found uint64
	err = h.Conn.QueryRow(with(ctx, clickhouse.Parameters{
		"since": micros(w.dataTo.Add(-overlap)), "until": micros(w.now), "endpoint": parameter.Replace(h.Endpoint),
	}), `
SELECT
    (SELECT count() FROM events WHERE `+inSlice+` AND `+isTold+`)
    + (SELECT count() FROM webhook_deliveries FINAL
        WHERE endpoint = {endpoint:String} AND `+isComplaintID+` AND status = 'waiting' AND next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC'))`).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for complaints to tell: %w", err)
	}
	return found == 0, nil
}

func (h *Webhook) work(ctx context.Context, r *run, result *Result) error {
	since, err := h.since(ctx, r.started)
	if err != nil {
		return err
	}
	parameters := clickhouse.Parameters{
		"since": micros(since), "until": micros(r.started), "endpoint": parameter.Replace(h.Endpoint),
	}
	if err := h.Conn.Exec(with(ctx, parameters), `
INSERT INTO webhook_deliveries (endpoint, event_id, version, event_time, status, attempts, next_at, answer)
SELECT {endpoint:String}, concat(node, '/', toString(incarnation), '/', toString(seq)) AS id, 0, time, 'waiting', 0, arrived, ''
FROM events
WHERE `+inSlice+` AND `+isTold+`
    AND id NOT IN (
        SELECT event_id FROM webhook_deliveries
        WHERE endpoint = {endpoint:String} AND event_time >= (SELECT min(time) FROM events WHERE `+inSlice+` AND `+isTold+`))`); err != nil {
		return fmt.Errorf("note complaints: %w", err)
	}
	result.DataTo = r.started
	due, err := h.due(ctx, r.started)
	if err != nil {
		return err
	}
	deliver(ctx, due)
	return recordDeliveries(ctx, h.Conn, h.Log, r, h.Endpoint, due, result)
}

// since returns where the last run ended, a little before, or now for the first one.
func (h *Webhook) since(ctx context.Context, started time.Time) (time.Time, error) {
	w, err := loadWatermark(ctx, h.Conn, webhookJob)
	if err != nil || w.dataTo.IsZero() {
		return started.Add(-overlap), err
	}
	return w.dataTo.Add(-overlap), nil
}

// due returns the complaints whose time has come, oldest first.
func (h *Webhook) due(ctx context.Context, now time.Time) ([]*delivery, error) {
	due, err := loadDue(ctx, h.Conn, h.Endpoint, now, isComplaintID)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	rows, err := h.Conn.Query(with(ctx, dueParameters(due)), `
SELECT concat(node, '/', toString(incarnation), '/', toString(seq)) AS id, time, recipient, recipient_key, tenant, job, provider, feedback_type, reporting_mta,
    toString(original_message_id), original_index
FROM events
WHERE kind = 'complaint' AND time >= fromUnixTimestamp64Micro({first:Int64}, 'UTC') AND time <= fromUnixTimestamp64Micro({last:Int64}, 'UTC')
    AND id IN {ids:Array(String)}`)
	if err != nil {
		return nil, fmt.Errorf("read complaints: %w", err)
	}
	send := map[string]func(context.Context) error{}
	err = each(rows, "read complaints", func() error {
		c := webhook.Complaint{Type: "complaint"}
		if err := rows.Scan(&c.ID, &c.Time, &c.Recipient, &c.RecipientKey, &c.Tenant, &c.Job, &c.Provider, &c.FeedbackType, &c.ReportingMTA, &c.MessageID, &c.Index); err != nil {
			return err
		}
		send[c.ID] = func(ctx context.Context) error { return h.Client.Post(ctx, &c) }
		return nil
	})
	for _, d := range due {
		d.send = send[d.id]
	}
	return due, err
}
