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

	dailySuffix = "_1d" // of the names of roll-ups by the day
)

// RollUps is the job that fills the roll-ups by the hour from events, and those by the day from them.
//
// A run looks at the hours that have ended since the last run, and at those of events that arrived since
// then: mail of a node that was cut off, or an import, is rolled up whenever it comes. An hour is computed
// anew and replaced in one step (warehouse.RollUp), and so is a month of the roll-ups by the day, so a run
// that is killed or doubled changes nothing.
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
		return j.rollUp(ctx, r, warehouse.Coarser(), from, to, result)
	})
}

func (j *RollUps) work(ctx context.Context, r *run, result *Result) error {
	w, err := loadWatermark(ctx, j.Conn, rollUpsJob)
	if err != nil {
		return err
	}
	hours, err := j.hours(ctx, &w, r.started)
	if err != nil {
		return err
	}
	daily := func(table string) bool { return strings.HasSuffix(table, dailySuffix) }
	for _, s := range stretches(hours) {
		if err := j.rollUp(ctx, r, slices.DeleteFunc(warehouse.Coarser(), daily), s.from, s.to, result); err != nil {
			return err
		}
	}
	if len(hours) > 0 {
		// By the day all is computed by the month, so that one range costs no more than its months.
		if err := j.rollUp(ctx, r, slices.DeleteFunc(warehouse.Coarser(), func(table string) bool { return !daily(table) }), hours[0].Truncate(day), hours[len(hours)-1].Truncate(day).Add(day), result); err != nil {
			return err
		}
	}
	result.DataTo = r.started
	return nil
}

// hours returns the hours to roll up at now, in order.
func (j *RollUps) hours(ctx context.Context, w *watermark, now time.Time) ([]time.Time, error) {
	var hours []time.Time
	over := now.Truncate(time.Hour) // what is later is not over
	since := time.Unix(0, 0).UTC()
	if !w.dataTo.IsZero() {
		since = w.dataTo.Add(-overlap)
		for h := w.dataTo.Truncate(time.Hour); h.Before(over); h = h.Add(time.Hour) {
			hours = append(hours, h)
		}
	}
	var arrived []time.Time
	err := j.Conn.QueryRow(with(ctx, clickhouse.Parameters{"since": micros(since), "until": micros(now), "over": micros(over)}), `
SELECT groupUniqArray(toStartOfHour(toDateTime(time, 'UTC')))
FROM events
WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND time < fromUnixTimestamp64Micro({over:Int64}, 'UTC') AND time >= toDateTime64(0, 6, 'UTC')`).Scan(&arrived)
	if err != nil {
		return nil, fmt.Errorf("look for the hours of events that arrived: %w", err)
	}
	for _, h := range arrived {
		hours = append(hours, h.UTC())
	}
	slices.SortFunc(hours, time.Time.Compare)
	return slices.CompactFunc(hours, time.Time.Equal), nil
}

// hourRange is a run of hours.
type hourRange struct{ from, to time.Time }

// stretches returns hours, which are in order, as ranges without gaps.
func stretches(hours []time.Time) []hourRange {
	var all []hourRange
	for _, h := range hours {
		if n := len(all); n > 0 && all[n-1].to.Equal(h) {
			all[n-1].to = h.Add(time.Hour)
			continue
		}
		all = append(all, hourRange{h, h.Add(time.Hour)})
	}
	return all
}

// rollUp fills roll-ups for a range. Those by the day have nothing of a day that is not over.
func (j *RollUps) rollUp(ctx context.Context, r *run, tables []string, from, to time.Time, result *Result) error {
	for _, table := range tables {
		if strings.HasSuffix(table, dailySuffix) && !from.Before(r.started.Truncate(day)) {
			continue
		}
		if err := warehouse.RollUp(ctx, j.Conn, table, from, to); err != nil {
			return err
		}
		result.Changes++
	}
	return nil
}
