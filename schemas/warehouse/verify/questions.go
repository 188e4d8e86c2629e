package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/questions"
)

// questions fills the coarser roll-ups, as the job does, and asks every query of the documents about
// the week of the trial. Their answers are checked in carom's own tests; here they have to run, and
// the slowest is told.
func (t *trial) questions(ctx context.Context) (string, error) {
	at := t.batches[0].rows[0].Time
	from, to := at.Add(-time.Hour), at.Add(3*time.Hour)
	for _, table := range warehouse.Coarser() {
		if err := warehouse.RollUp(ctx, t.conn, table, from, to); err != nil {
			return "", fmt.Errorf("fill %s: %w", table, err)
		}
	}
	period, err := questions.LastWeek(ctx, t.conn)
	if err != nil {
		return "", err
	}
	all := slices.Concat(questions.All(), questions.Analyst())
	var failures []error
	var slowest time.Duration
	var which string
	for _, q := range all {
		start := time.Now()
		if _, err := q.Ask(ctx, t.conn, period); err != nil {
			failures = append(failures, err)
		}
		took := time.Since(start)
		t.asked[q.ID] = took.Seconds()
		if took > slowest {
			slowest, which = took, q.ID
		}
	}
	return fmt.Sprintf("%d queries over %d rows, the slowest %v (%s)", len(all), t.rows(), slowest.Round(time.Millisecond), which), errors.Join(failures...)
}
