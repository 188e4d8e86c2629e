package jobs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// statusSpan is how far back Statuses looks.
const statusSpan = 7 * 24 * time.Hour

// Status is what the runs of a job in the last seven days say of it.
type Status struct {
	Job       string    `json:"job"`
	Watermark time.Time `json:"watermark,omitzero"` // how far the data went that the last good run used
	LastRun   time.Time `json:"last_run,omitzero"`  // start of the last run
	// LastStatus is running, ok, failed or skipped; died for a run that neither ended nor kept its turn.
	LastStatus  string        `json:"last_status,omitempty"`
	LastTook    time.Duration `json:"last_took_ns,omitempty"`
	Instance    string        `json:"instance,omitempty"` // host and process of the last run
	Runs        uint64        `json:"runs"`
	Failures    uint64        `json:"failures"`
	LastError   string        `json:"last_error,omitempty"`
	LastErrorAt time.Time     `json:"last_error_at,omitzero"`
}

// Statuses returns the status of every job that ran in the last seven days, by name, and the warehouse's
// time. Runs over a range count for their job, but do not move its watermark.
func Statuses(ctx context.Context, conn driver.Conn) (statuses map[string]Status, now time.Time, err error) {
	if err := conn.QueryRow(ctx, "SELECT now64(6, 'UTC')").Scan(&now); err != nil {
		return nil, now, fmt.Errorf("read job_runs: %w", err)
	}
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(now.Add(-statusSpan)), "range": rangeSuffix,
	}), `
SELECT
    if(endsWith(job, {range:String}), substring(job, 1, length(job) - length({range:String})), job) AS name,
    maxIf(data_to, status = 'ok' AND NOT endsWith(job, {range:String})),
    max(started_at), argMax(toString(status), started_at),
    argMax(if(status = 'running', updated_at, finished_at), started_at), argMax(instance, started_at),
    count(), countIf(status = 'failed'), argMaxIf(error, started_at, status = 'failed'), maxIf(started_at, status = 'failed')
FROM job_runs FINAL
WHERE started_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC')
GROUP BY name`)
	if err != nil {
		return nil, now, fmt.Errorf("read job_runs: %w", err)
	}
	statuses = map[string]Status{}
	err = each(rows, "read job_runs", func() error {
		var s Status
		var last time.Time // sign of life
		if err := rows.Scan(&s.Job, &s.Watermark, &s.LastRun, &s.LastStatus, &last, &s.Instance, &s.Runs, &s.Failures, &s.LastError, &s.LastErrorAt); err != nil {
			return err
		}
		s.Watermark, s.LastErrorAt = zeroEpoch(s.Watermark), zeroEpoch(s.LastErrorAt)
		s.LastTook = last.Sub(s.LastRun)
		if s.LastStatus == "running" && now.Sub(last) > longTerm.turn {
			s.LastStatus = "died"
		}
		s.LastError, _, _ = strings.Cut(s.LastError, "\n")
		statuses[s.Job] = s
		return nil
	})
	return statuses, now, err
}

// zeroEpoch returns the zero time for 1970, which stands for no time in the warehouse.
func zeroEpoch(t time.Time) time.Time {
	if t.Unix() == 0 {
		return time.Time{}
	}
	return t
}
