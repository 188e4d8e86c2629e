package jobs

import (
	"context"
	"time"

	"carom/schemas/warehouse"
)

const (
	// insertTries bounds how often a run tries an insert. What lasts longer is for the next run.
	insertTries = 4
	// insertPause comes before the second try, and doubles. A quorum that the insert before waits
	// for, or a busy server, needs about that.
	insertPause = 250 * time.Millisecond
)

// retrying calls insert again while ClickHouse says that what went wrong passes by itself. Every try has
// to carry the same token, so that rows which were stored without an answer are not stored twice.
func retrying(ctx context.Context, insert func() error) error {
	pause := insertPause
	for try := 1; ; try++ {
		err := insert()
		if err == nil || try == insertTries || ctx.Err() != nil || warehouse.RemedyOf(err) != warehouse.Retry {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}
