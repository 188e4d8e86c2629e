package app

import (
	"context"
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
				look := func(unit string, at func(context.Context) error) {
					began := time.Now()
					if err := at(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(time.Since(began).Seconds(), unit)
				}
				look("s/list", f.snapshot)
				look("s/no-news", f.suppressions)
				fill(n, 1000, "now64(6)")
				look("s/1000-changes", f.suppressions)
				f.list.ended = f.list.ended.Add(-expiryPeriod)
				look("s/ended", f.suppressions)
				s, err := suppression.Load(filepath.Join(o.Feed, suppression.FileName))
				if err != nil || s.Len() < n {
					b.Fatalf("%d entries, %v; want %d", s.Len(), err, n)
				}
			}
		})
	}
}

// While the whole list is read, changes go on, and what was said meanwhile stands beside the new
// snapshot when a node sees it.
func TestChangesWhileTheListIsRead(t *testing.T) {
	o, conn := agent(t)
	run(t, o)
	f := newFeed(o, conn, logger(t))
	now, _, err := f.lookAtList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time) VALUES (?, now64(6))", key(1))
	list, err := f.readList(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time) VALUES (?, now64(6))", key(2))
	exec(t, conn, "INSERT INTO suppressions (recipient_key, time, tombstone) VALUES (?, now64(6), true)", key(1))
	if err := f.install(t.Context(), uint64(now.UnixMicro()), now, list); err != nil { //nolint:gosec // after 1970
		t.Fatal(err)
	}
	if got := inForce(t, o.Feed, 1, 2); got != "/2" {
		t.Errorf("in force are %q, want what was said while the list was read", got)
	}
}
