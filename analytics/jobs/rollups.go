package jobs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

const (
	rollUpsJob = "rollups"
	day        = 24 * time.Hour
)

// RollUps is the job that fills the coarser roll-ups (by the hour, by the day) from the finer ones, which
// views fill as events come in.
//
// A run looks at the days of which an hour has ended since the last run, and at those of events that
// arrived since then: mail of a node that was cut off, or an import, is rolled up whenever it comes. A
// day, or a month of the roll-ups by the day, is computed anew and replaced in one step
// (warehouse.RollUp), so a run that is killed or doubled changes nothing.
type RollUps struct {
	Conn    driver.Conn
	Version string // of carom
}

// Run rolls up what came since the last run.
func (j *RollUps) Run(ctx context.Context) (Result, error) {
	return inLongTurn(ctx, j.Conn, rollUpsJob, j.Version, j.work)
}

// RunRange rolls up what happened in a range, by the events' own time.
func (j *RollUps) RunRange(ctx context.Context, from, to time.Time) (Result, error) {
	return inLongTurn(ctx, j.Conn, rollUpsJob+rangeSuffix, j.Version, func(ctx context.Context, r *run, result *Result) error {
		return j.rollUp(ctx, r, from, to, result)
	})
}

func (j *RollUps) work(ctx context.Context, r *run, result *Result) error {
	w, err := loadWatermark(ctx, j.Conn, rollUpsJob)
	if err != nil {
		return err
	}
	days, err := j.days(ctx, &w, r.started)
	if err != nil {
		return err
	}
	for _, s := range stretches(days) {
		if err := j.rollUp(ctx, r, s.from, s.to, result); err != nil {
			return err
		}
	}
	result.DataTo = r.started
	return nil
}

// days returns the days to roll up at now, in order.
func (j *RollUps) days(ctx context.Context, w *watermark, now time.Time) ([]time.Time, error) {
	var days []time.Time
	over := now.Truncate(time.Hour) // what is later is not over
	since := time.Unix(0, 0).UTC()
	if !w.dataTo.IsZero() {
		since = w.dataTo.Add(-overlap)
		if w.dataTo.Before(over) {
			for d := w.dataTo.Truncate(day); d.Before(over); d = d.Add(day) {
				days = append(days, d)
			}
		}
	}
	var arrived []time.Time
	err := j.Conn.QueryRow(with(ctx, clickhouse.Parameters{"since": micros(since), "until": micros(now), "over": micros(over)}), `
SELECT groupUniqArray(toStartOfDay(toDateTime(time, 'UTC')))
FROM events
WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({over:Int64}, 'UTC') AND time >= toDateTime64(0, 6, 'UTC')`).Scan(&arrived)
	if err != nil {
		return nil, fmt.Errorf("look for the days of events that arrived: %w", err)
	}
	for _, d := range arrived {
		days = append(days, d.UTC())
	}
	slices.SortFunc(days, time.Time.Compare)
	return slices.CompactFunc(days, time.Time.Equal), nil
}

// stretchOfDays is a range of time.
type stretchOfDays struct{ from, to time.Time }

// stretches returns days, which are in order, as ranges without gaps.
func stretches(days []time.Time) []stretchOfDays {
	var all []stretchOfDays
	for _, d := range days {
		if n := len(all); n > 0 && all[n-1].to.Equal(d) {
			all[n-1].to = d.Add(day)
			continue
		}
		all = append(all, stretchOfDays{d, d.Add(day)})
	}
	return all
}

// rollUp fills every coarser roll-up for a range. Those by the day, which are computed by the month, have
// nothing of a day that is not over.
func (j *RollUps) rollUp(ctx context.Context, r *run, from, to time.Time, result *Result) error {
	for _, table := range warehouse.Coarser() {
		if strings.HasSuffix(table, "_1d") && !from.Before(r.started.Truncate(day)) {
			continue
		}
		if err := warehouse.RollUp(ctx, j.Conn, table, from, to); err != nil {
			return err
		}
		result.Changes++
	}
	return nil
}
