package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// quiet is how long a job that finds nothing to do writes no row. Then a run tells that the job lives,
// and how far it went, so that no run has to look at more than this.
const quiet = time.Minute

// watermark is how far a job went.
type watermark struct {
	now     time.Time // by the warehouse's clock
	dataTo  time.Time // of the last good run; zero if there was none
	started time.Time // when that began
}

// isFresh reports whether a run that finds nothing to do may write no row.
func (w *watermark) isFresh() bool { return !w.dataTo.IsZero() && w.now.Sub(w.started) < quiet }

// loadWatermark reads how far the last good run of a job went. A run over a range says nothing of that.
func loadWatermark(ctx context.Context, conn driver.Conn, job string) (watermark, error) {
	// Only the row that ends a run has this status, so that FINAL is not needed, and the last row
	// is found without reading every run there was.
	var w watermark
	err := conn.QueryRow(with(ctx, clickhouse.Parameters{"job": job}), `
SELECT now64(6, 'UTC'), data_to, started_at FROM job_runs
WHERE job = {job:String} AND status = 'ok' AND data_to > toDateTime64(0, 6, 'UTC')
ORDER BY job DESC, started_at DESC LIMIT 1`).Scan(&w.now, &w.dataTo, &w.started)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return w, fmt.Errorf("read how far the last run of job %s came: %w", job, err)
	}
	return w, nil
}

// inPieces does the work of a run over a range, which an operator asked for, in pieces of at most the
// given length. It has a name of its own beside the job's, and its own turn: it neither waits for the
// runs on schedule nor moves their watermark.
func inPieces(ctx context.Context, conn driver.Conn, job, version string, from, to time.Time, length time.Duration,
	work func(ctx context.Context, r *run, from, to time.Time, result *Result) error,
) (Result, error) {
	return inLongTurn(ctx, conn, job+rangeSuffix, version, func(ctx context.Context, r *run, result *Result) error {
		piece := *r
		for ; from.Before(to); from = from.Add(length) {
			piece.piece++
			if err := work(ctx, &piece, from, earlier(from.Add(length), to), result); err != nil {
				return fmt.Errorf("from %s: %w", from.Format(time.RFC3339), err)
			}
		}
		return nil
	})
}

// rangeSuffix is what the name of a run over a range ends with.
const rangeSuffix = "/range"

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
