package app

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"carom/schemas/suppression"
)

// BenchmarkSuppressions says what a list of 10^6 and 10^7 entries costs an agent: seconds for the
// whole list, for a look without news, and for one with a thousand changes.
func BenchmarkSuppressions(b *testing.B) {
	for _, n := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o, conn := agent(b)
			if err := os.MkdirAll(o.Feed, 0o750); err != nil {
				b.Fatal(err)
			}
			fill := func(from, count int, arrived string) {
				exec(b, conn, fmt.Sprintf(`INSERT INTO suppressions (recipient_key, time, category, origin, actor, reason, provider, message_id, arrived)
SELECT lower(hex(sipHash128(number))), now64(6), 'bad-mailbox', 'job', 'suppression', '550 5.1.1 The email account that you tried to reach does not exist', 'google',
    generateUUIDv7(), %s FROM numbers(%d, %d)`, arrived, from, count))
			}
			fill(0, n, "now64(6) - INTERVAL 1 HOUR")
			for b.Loop() {
				f := newFeed(o, conn, logger(b))
				look := func(unit string) {
					began := time.Now()
					if err := f.suppressions(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(time.Since(began).Seconds(), unit)
				}
				look("s/list")
				look("s/no-news")
				fill(n, 1000, "now64(6)")
				look("s/1000-changes")
				f.list.ended = f.list.ended.Add(-expiryPeriod)
				look("s/ended")
				s, err := suppression.Load(filepath.Join(o.Feed, suppression.FileName))
				if err != nil || s.Len() < n {
					b.Fatalf("%d entries, %v; want %d", s.Len(), err, n)
				}
			}
		})
	}
}
