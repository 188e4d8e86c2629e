// Package jobs holds the jobs over the warehouse: throttle, which runs the control loop once,
// suppression, which adds addresses that must not be mailed, reputation, which scores everybody, holds,
// which keeps mail back that is complained about, and webhook, which tells the operator's own systems.
//
// A job holds no state between runs: any instance may be killed, doubled or started by an outside
// scheduler. One run of a job has the turn at a time (turn.go), and what it writes carries its
// generation, so a run that was overtaken changes nothing. How far the data of a run went is its
// watermark (watermark.go), where the next one begins. The warehouse's clock is the only one that is
// read. An error of a run leaves what the nodes have; the next run begins where the last good one ended.
package jobs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Result is what became of a run.
type Result struct {
	Job        string        `json:"job"`
	Generation uint64        `json:"generation"`
	Skipped    bool          `json:"skipped"`        // another run has the turn
	Idle       bool          `json:"idle,omitempty"` // there was nothing to do: no turn was taken and nothing written
	DataTo     time.Time     `json:"data_to"`
	Delay      time.Duration `json:"delay_ns"`
	Keys       int           `json:"keys"`
	Changes    int           `json:"changes"`
	Advised    int           `json:"advised"`
	// ByRule counts what became of limits and holds, by kind (change, would_change) and rule.
	ByRule map[Decided]int `json:"-"`
	// Of suppression: addresses that wait for a second bounce, and minutes that providers' accidents
	// were found in.
	Pending     int `json:"pending,omitempty"`
	WaveMinutes int `json:"wave_minutes,omitempty"`
	// Completeness is what the job of that name reports.
	Completeness *CompletenessReport `json:"completeness,omitempty"`
	Took         time.Duration       `json:"took_ns"`
}

// Decided is a kind of row of limit_log (change or would_change) and its rule.
type Decided struct{ Kind, Rule string }

func (r *Result) count(kind, rule string) {
	if r.ByRule == nil {
		r.ByRule = map[Decided]int{}
	}
	r.ByRule[Decided{kind, rule}]++
}

// insert writes rows in one block under a token, and again where ClickHouse asks for that. Without rows
// it does nothing.
func insert(ctx context.Context, conn driver.Conn, token, table string, columns []string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	return retrying(ctx, func() error { return insertOnce(ctx, conn, token, table, columns, rows) })
}

func insertOnce(ctx context.Context, conn driver.Conn, token, table string, columns []string, rows [][]any) (err error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate": 1, "insert_deduplication_token": token, "async_insert": 0, "max_insert_threads": 1,
	}))
	batch, err := conn.PrepareBatch(ctx, fmt.Sprintf("INSERT INTO %s (%s)", table, strings.Join(columns, ", ")))
	if err != nil {
		return fmt.Errorf("write %s: %w", table, err)
	}
	defer func() {
		if err != nil {
			_ = batch.Abort() // gives the connection back; the first error is the one to tell
		}
	}()
	for _, row := range rows {
		if err := batch.Append(row...); err != nil {
			return fmt.Errorf("write %s: %w", table, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write %s: %w", table, err)
	}
	return nil
}

func with(ctx context.Context, parameters clickhouse.Parameters) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithParameters(parameters))
}

func micros(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

// orEpoch returns 1970, which stands for no time in the warehouse, for the zero time.
func orEpoch(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t
}

// each reads rows to their end and returns the first error.
func each(rows driver.Rows, what string, scan func() error) (err error) {
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = fmt.Errorf("%s: %w", what, closed)
		}
	}()
	for rows.Next() {
		if err := scan(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
