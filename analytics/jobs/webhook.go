package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/webhook"
)

const (
	webhookJob = "webhook"
	// postsAtOnce are in flight at most, and postsInRun are begun.
	postsAtOnce, postsInRun = 8, 400
	// postTime is how long a run begins posts: the last ones need a timeout more, and the run must be
	// over when its turn is.
	postTime = 5 * time.Second
)

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
        WHERE endpoint = {endpoint:String} AND status = 'waiting' AND next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC'))`).Scan(&found)
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
	due, err := h.due(ctx, parameters)
	if err != nil || len(due) == 0 {
		return err
	}
	h.post(ctx, due)
	var rows [][]any
	for _, d := range due {
		if !d.tried {
			continue
		}
		status, next, answer := "delivered", time.Unix(0, 0).UTC(), "ok"
		if d.err != nil {
			status, next, answer = "waiting", r.started.Add(webhook.Wait(d.attempts+1)), d.err.Error()
			if r.started.Sub(d.complaint.Time) > webhook.GiveUpAfter {
				status = "given-up"
				h.Log.ErrorContext(ctx, "a complaint is not told any more", "event", d.complaint.ID, "attempts", d.attempts+1, "error", d.err)
			}
			result.Advised++
		} else {
			result.Changes++
		}
		rows = append(rows, []any{
			h.Endpoint, d.complaint.ID, uint64(r.started.UnixMicro()), d.complaint.Time, status, d.attempts + 1, next, answer, //nolint:gosec // after 1970
		})
	}
	if result.Advised > 0 {
		h.Log.WarnContext(ctx, "the webhook does not take complaints, they are tried again", "endpoint", h.Endpoint, "failed", result.Advised, "error", firstError(due))
	}
	return insert(context.WithoutCancel(ctx), h.Conn, r.token("webhook_deliveries"), "webhook_deliveries", []string{
		"endpoint", "event_id", "version", "event_time", "status", "attempts", "next_at", "answer",
	}, rows)
}

// since returns where the last run ended, a little before, or now for the first one.
func (h *Webhook) since(ctx context.Context, started time.Time) (time.Time, error) {
	w, err := loadWatermark(ctx, h.Conn, webhookJob)
	if err != nil || w.dataTo.IsZero() {
		return started.Add(-overlap), err
	}
	return w.dataTo.Add(-overlap), nil
}

// duePost is a complaint to be told.
type duePost struct {
	complaint webhook.Complaint
	attempts  uint32
	tried     bool
	err       error
}

// due returns the complaints whose time has come, oldest first.
func (h *Webhook) due(ctx context.Context, parameters clickhouse.Parameters) ([]*duePost, error) {
	rows, err := h.Conn.Query(with(ctx, parameters), fmt.Sprintf(`
SELECT event_id, event_time, attempts FROM webhook_deliveries FINAL
WHERE endpoint = {endpoint:String} AND status = 'waiting' AND next_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
ORDER BY next_at, event_id
LIMIT %d`, postsInRun))
	if err != nil {
		return nil, fmt.Errorf("read webhook_deliveries: %w", err)
	}
	var due []*duePost
	byID := map[string]*duePost{}
	var first, last time.Time
	err = each(rows, "read webhook_deliveries", func() error {
		d := &duePost{}
		if err := rows.Scan(&d.complaint.ID, &d.complaint.Time, &d.attempts); err != nil {
			return err
		}
		if at := d.complaint.Time; first.IsZero() || at.Before(first) {
			first = at
		}
		if d.complaint.Time.After(last) {
			last = d.complaint.Time
		}
		due, byID[d.complaint.ID] = append(due, d), d
		return nil
	})
	if err != nil || len(due) == 0 {
		return nil, err
	}
	ids := make([]string, 0, len(byID))
	for id := range byID {
		ids = append(ids, quoted.Replace(id))
	}
	parameters = maps.Clone(parameters)
	parameters["first"], parameters["last"] = micros(first), micros(last)
	parameters["ids"] = "['" + strings.Join(ids, "','") + "']"
	rows, err = h.Conn.Query(with(ctx, parameters), `
SELECT concat(node, '/', toString(incarnation), '/', toString(seq)) AS id, recipient, recipient_key, tenant, job, provider, feedback_type, reporting_mta,
    toString(original_message_id), original_index
FROM events
WHERE kind = 'complaint' AND time >= fromUnixTimestamp64Micro({first:Int64}, 'UTC') AND time <= fromUnixTimestamp64Micro({last:Int64}, 'UTC')
    AND id IN {ids:Array(String)}`)
	if err != nil {
		return nil, fmt.Errorf("read complaints: %w", err)
	}
	err = each(rows, "read complaints", func() error {
		var id string
		var c webhook.Complaint
		if err := rows.Scan(&id, &c.Recipient, &c.RecipientKey, &c.Tenant, &c.Job, &c.Provider, &c.FeedbackType, &c.ReportingMTA, &c.MessageID, &c.Index); err != nil {
			return err
		}
		d := byID[id]
		c.Type, c.ID, c.Time = "complaint", id, d.complaint.Time
		d.complaint = c
		return nil
	})
	return due, err
}

// quoted escapes a text within quotes, as in an array.
var quoted = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// post tells of the complaints, some at a time. It stops to begin new ones when the time is over, or
// when nothing but failures came back for as many as are in flight: the rest keeps its turn.
func (h *Webhook) post(ctx context.Context, due []*duePost) {
	ends := time.Now().Add(postTime)
	var mu sync.Mutex
	next, failures := 0, 0 // failures in a row
	take := func() *duePost {
		mu.Lock()
		defer mu.Unlock()
		if next == len(due) || failures >= postsAtOnce || time.Now().After(ends) {
			return nil
		}
		next++
		return due[next-1]
	}
	var workers sync.WaitGroup
	for range postsAtOnce {
		workers.Go(func() {
			for d := take(); d != nil; d = take() {
				if d.complaint.Type == "" {
					d.tried, d.err = true, errors.New("its event is not stored any more")
					continue
				}
				err := h.Client.Post(ctx, &d.complaint)
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

func firstError(due []*duePost) error {
	for _, d := range due {
		if d.err != nil {
			return d.err
		}
	}
	return nil
}
