package jobs_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/analytics/jobs"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

// bounces returns n hard bounces of a provider, of the addresses from number first on.
func bounces(provider string, at time.Time, first, n int) []event.Event {
	events := make([]event.Event, n)
	for i := range events {
		events[i] = event.Event{
			Time: at, Kind: event.Bounced, Class: taxonomy.Hard, Dimension: taxonomy.User, Category: taxonomy.BadMailbox, Provider: provider,
			MessageID: event.NewID(), RecipientKey: address(first + i), Reply: "550 5.1.1 no such user", Code: 550,
		}
	}
	return events
}

func deliveries(provider string, at time.Time, n int) []event.Event {
	events := make([]event.Event, n)
	for i := range events {
		events[i] = event.Event{
			Time: at, Kind: event.Delivered, Class: taxonomy.None, Dimension: taxonomy.OK, Provider: provider, MessageID: event.NewID(),
			RecipientKey: address(1_000_000 + i),
		}
	}
	return events
}

// arrive inserts events that reach the warehouse now, whenever they happened.
func (w *world) arrive(t *testing.T, events []event.Event) {
	t.Helper()
	for i := range events {
		w.seq++
		e := &events[i]
		e.Node, e.Incarnation, e.Seq, e.FormatVersion, e.Recipients = w.node, w.inc, w.seq, event.FormatVersion, 1
	}
	if err := warehouse.Events.Insert(t.Context(), w.conn, fmt.Sprint("arrive", w.node, w.seq), events); err != nil {
		t.Fatal(err)
	}
}

func address(n int) string { return fmt.Sprintf("%032x", n) }

// state returns how many addresses are suppressed, and how many wait.
func (w *world) state(t *testing.T) (suppressed, pending uint64) {
	t.Helper()
	w.scan(t, "SELECT (SELECT count() FROM suppressed), (SELECT count() FROM suppressions_pending)", &suppressed, &pending)
	return suppressed, pending
}

func (w *world) wantState(t *testing.T, when string, suppressed, pending uint64) {
	t.Helper()
	if s, p := w.state(t); s != suppressed || p != pending {
		t.Errorf("%s: %d suppressed and %d pending, want %d and %d", when, s, p, suppressed, pending)
	}
}

// history stores two weeks in which a provider refused one recipient of a hundred, at the hour of at.
func (w *world) history(t *testing.T, provider string, at time.Time) {
	t.Helper()
	for day := 1; day <= 14; day++ {
		if err := w.conn.Exec(t.Context(), "INSERT INTO provider_minutes (provider, ts, delivered, unknown) VALUES (?, ?, 99, 1)",
			provider, at.AddDate(0, 0, -day).Truncate(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
}

// A provider refuses everybody for a minute: nobody is suppressed for it, not even those whose
// bounce came before it could be seen, until a second bounce a day later.
func TestBreaker(t *testing.T) {
	w := newWorld(t)
	at := w.now.Add(-5 * time.Minute).Truncate(time.Minute)
	w.history(t, "big", at)
	job := w.suppression()

	w.arrive(t, append(deliveries("big", at, 400), bounces("big", at, 0, 10)...))
	if r := mustRun(t, job.Run); r.Changes != 10 || r.Pending != 0 || r.WaveMinutes != 0 {
		t.Errorf("before the accident: %+v, want 10 changes", r)
	}
	// One of them complained too, and one was suppressed long before: both stay.
	complaint := event.Event{
		Time: at, Kind: event.Complaint, Class: taxonomy.None, Dimension: taxonomy.User, Category: taxonomy.Complaint, FeedbackType: "abuse",
		RecipientKey: address(1), Tenant: "shop", MatchConfidence: 1, OriginalMessageID: event.NewID(),
	}
	w.arrive(t, []event.Event{complaint})
	if err := w.conn.Exec(t.Context(), "INSERT INTO suppressions (recipient_key, time, category, actor) VALUES (?, now64(6) - INTERVAL 30 DAY, 'manual', 'ann')", address(2)); err != nil {
		t.Fatal(err)
	}

	next := at.Add(30 * time.Second)
	w.arrive(t, append(bounces("big", next, 10, 300), bounces("small", next, 900, 2)...))
	r := mustRun(t, job.Run)
	if r.WaveMinutes != 1 || r.Pending != 309 {
		t.Errorf("in the accident: %+v, want 1 minute and 309 pending", r)
	}
	// 9 of the 10 before (one was suppressed otherwise) and 300 of the accident wait. Suppressed are
	// the complaint, the one of long before, and two of another provider.
	w.wantState(t, "in the accident", 4, 309)
	if again := mustRun(t, job.Run); again.Changes+again.Pending+again.WaveMinutes != 0 {
		t.Errorf("the same once more: %+v, want nothing new", again)
	}
	var share, median, threshold float64
	w.scan(t, "SELECT share, median, threshold FROM suppression_waves FINAL WHERE provider = 'big'", &share, &median, &threshold)
	if share < 0.43 || share > 0.44 || median != 0.01 || threshold != 0.05 {
		t.Errorf("evidence: share %v, median %v, threshold %v; want 310/710, 0.01 and 0.05", share, median, threshold)
	}

	// An hour later the provider is well, and one of them bounces again: too early. The provider has
	// good mail around it, or the breaker would have too little to judge by.
	early := bounces("big", w.now.Add(-time.Second), 20, 1)
	w.arrive(t, append(deliveries("big", w.now.Add(-time.Second), 400), early...))
	mustRun(t, job.Run)
	w.wantState(t, "a second bounce after minutes", 4, 309)

	// The same for bounces that came a day and a half ago.
	if err := w.conn.Exec(t.Context(), `INSERT INTO suppressions (recipient_key, time, pending, provider, actor, category)
SELECT lower(hex(reverse(reinterpretAsFixedString(toUInt128(5000 + number))))), now64(6) - INTERVAL 36 HOUR, true, 'big', 'suppression', 'bad-mailbox' FROM numbers(3)`); err != nil {
		t.Fatal(err)
	}
	w.wantState(t, "three of the day before", 4, 312)
	w.arrive(t, bounces("big", w.now.Add(-500*time.Millisecond), 5000, 2))
	if r := mustRun(t, job.Run); r.Changes != 2 {
		t.Errorf("a second bounce a day later: %+v, want 2 changes", r)
	}
	w.wantState(t, "a second bounce a day later", 6, 310)
}

// A provider whose bounces come as reports is known by the delivery.
func TestReportsHaveTheProviderOfTheirDelivery(t *testing.T) {
	w := newWorld(t)
	delivered := deliveries("big", w.now.Add(-30*time.Minute), 1)
	delivered[0].RecipientIdx = 3
	report := event.Event{
		Time: w.now.Add(-time.Minute), Kind: event.RemoteBounce, Class: taxonomy.Hard, Dimension: taxonomy.User, Category: taxonomy.BadMailbox,
		RecipientKey: address(1), MatchConfidence: 1, OriginalMessageID: delivered[0].MessageID, OriginalIdx: 3, MessageID: event.NewID(),
	}
	w.store(t, append(delivered, report))
	mustRun(t, w.suppression().Run)
	var provider string
	w.scan(t, "SELECT provider FROM suppressed", &provider)
	if provider != "big" {
		t.Errorf("the suppression has the provider %q, want big", provider)
	}
}

func TestSoftBounces(t *testing.T) {
	w := newWorld(t)
	soft := func(n int, kind event.Kind, ago int) event.Event {
		return event.Event{
			Time: w.now.AddDate(0, 0, -ago).Add(-time.Minute), Kind: kind, Class: taxonomy.Soft, Dimension: taxonomy.User, Category: taxonomy.MailboxFull,
			Provider: "big", MessageID: event.NewID(), RecipientIdx: 1, RecipientKey: address(n), Reply: fmt.Sprintf("552 5.2.2 full, %d days ago", ago),
		}
	}
	with := func(e event.Event, change func(*event.Event)) event.Event {
		change(&e)
		return e
	}
	// A report of a gateway that gave up after a 450: its class is hard, and it counts as a soft one.
	gaveUp := func(e *event.Event) {
		e.Class, e.Code, e.Enhanced, e.MatchConfidence, e.OriginalMessageID = taxonomy.Hard, 450, "4.1.1", 1, e.MessageID
	}
	var events []event.Event
	for ago := range 5 {
		events = append(
			events, soft(1, event.Bounced, ago), // enough
			soft(2, event.Deferred, ago), // deferred counts as well
			with(soft(4, event.Bounced, ago), func(e *event.Event) { e.Dimension = taxonomy.Block }),
			with(soft(5, event.Bounced, ago), func(e *event.Event) { e.Dimension = taxonomy.Content }),
			with(soft(6, event.RemoteBounce, ago), func(e *event.Event) { e.MatchConfidence = 0.5 }),
			soft(7, event.Bounced, ago), // delivered in between
			with(soft(9, event.RemoteBounce, ago), gaveUp),
		)
		if ago < 4 {
			events = append(events, soft(3, event.Bounced, ago)) // one day short
		}
	}
	retried := soft(8, event.Deferred, 0) // one message, again and again
	for ago := range 6 {
		events = append(events, with(retried, func(e *event.Event) { e.Time = w.now.AddDate(0, 0, -ago).Add(-time.Minute) }))
	}
	ok := deliveries("big", w.now.AddDate(0, 0, -2), 1)[0]
	ok.RecipientKey = address(7)
	w.arrive(t, append(events, ok))
	job := w.suppression()
	mustRun(t, job.Run)
	type row struct {
		Key, Category, Reason string
		Message               event.ID
		Rest                  int32 // days until it ends
	}
	var got []row
	rows, err := w.conn.Query(t.Context(), "SELECT recipient_key, category, reason, message_id, toInt32(dateDiff('hour', now(), expires_at)) FROM suppressed ORDER BY recipient_key")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Key, &r.Category, &r.Reason, &r.Message, &r.Rest); err != nil {
			t.Fatal(err)
		}
		r.Rest = (r.Rest + 12) / 24
		got = append(got, r)
	}
	reason := "refused on 5 days within 30, nothing delivered since; the last reply: 552 5.2.2 full, 0 days ago"
	want := []row{
		{address(1), "mailbox-full", reason, events[0].MessageID, 30},
		{address(2), "mailbox-full", reason, events[1].MessageID, 30},
		{address(9), "mailbox-full", reason, events[6].MessageID, 30},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suppressed for soft bounces (-want +got):\n%s", diff)
	}

	// Switched off, nobody is.
	off := newWorld(t)
	off.arrive(t, events)
	job = off.suppression()
	job.Policy.SoftBounces.Days = 0
	mustRun(t, job.Run)
	off.wantState(t, "switched off", 0, 0)
}

// rows returns how many rows job_runs has of the job.
func (w *world) rows(t *testing.T, job string) (n uint64) {
	t.Helper()
	w.scan(t, "SELECT count() FROM job_runs WHERE job = '"+job+"'", &n)
	return n
}

// later lets the runs before seem to be so much older.
func (w *world) later(t *testing.T, interval string) {
	t.Helper()
	for _, statement := range []string{
		`CREATE TABLE older AS job_runs`,
		`INSERT INTO older SELECT * REPLACE (started_at - INTERVAL ` + interval + ` AS started_at, updated_at - INTERVAL ` + interval + ` AS updated_at,
			if(data_to > toDateTime64(0, 6), data_to - INTERVAL ` + interval + `, data_to) AS data_to) FROM job_runs`,
		`TRUNCATE TABLE job_runs`,
		`INSERT INTO job_runs SELECT * FROM older`,
		`DROP TABLE older`,
	} {
		if err := w.conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// A job that finds nothing to do writes no row, but one a minute; it misses nothing by that.
func TestIdleRunsWriteNothing(t *testing.T) {
	w := newWorld(t)
	suppression, attribution := w.suppression(), &jobs.Attribution{Conn: w.conn, Version: "test"}
	for _, job := range []struct {
		name string
		run  func(context.Context) (jobs.Result, error)
	}{{"suppression", suppression.Run}, {"attribution", attribution.Run}} {
		if first := mustRun(t, job.run); first.Idle || first.Skipped {
			t.Errorf("the first run of %s is %+v, want one that tells how far it went", job.name, first)
		}
		before := w.rows(t, job.name)
		for range 3 {
			if idle := mustRun(t, job.run); !idle.Idle {
				t.Errorf("a run of %s without anything to do is %+v", job.name, idle)
			}
		}
		if after := w.rows(t, job.name); after != before {
			t.Errorf("%d rows of %s became %d", before, job.name, after)
		}
		w.later(t, "61 SECOND")
		if again := mustRun(t, job.run); again.Idle || w.rows(t, job.name) == before {
			t.Errorf("after a minute the run of %s is %+v, want a row", job.name, again)
		}
	}
	w.arrive(t, bounces("google", w.now, 1, 1))
	if found := mustRun(t, suppression.Run); found.Changes != 1 {
		t.Errorf("after a bounce the run is %+v", found)
	}
}

// Runs over a range and doubled runs change nothing that is stored, and leave nothing out.
func TestRangeAndDoubledRuns(t *testing.T) {
	w := newWorld(t)
	job := w.suppression()
	mustRun(t, job.Run)
	old := bounces("google", w.now.Add(-48*time.Hour), 1, 3) // and so long ago they arrived
	w.store(t, old)
	if missed := mustRun(t, job.Run); missed.Changes != 0 {
		t.Errorf("a run on schedule looks two days back: %+v", missed)
	}
	var before, after time.Time
	const watermark = "SELECT max(data_to) FROM job_runs WHERE job = 'suppression'"
	w.scan(t, watermark, &before)
	over := func(ctx context.Context) (jobs.Result, error) {
		return job.RunRange(ctx, w.now.Add(-72*time.Hour), w.now.Add(-24*time.Hour))
	}
	results := make(chan jobs.Result, 3)
	for range cap(results) {
		go func() {
			result, err := over(context.WithoutCancel(t.Context()))
			if err != nil {
				t.Error(err)
			}
			results <- result
		}()
	}
	changes := 0
	for range cap(results) {
		changes += (<-results).Changes
	}
	if again := mustRun(t, over); changes != 3 || again.Changes != 0 {
		t.Errorf("the runs over the range added %d, once more %d; want 3 and 0", changes, again.Changes)
	}
	w.scan(t, watermark, &after)
	if !after.Equal(before) {
		t.Errorf("the range moved the watermark from %s to %s", before, after)
	}
	w.wantState(t, "after the range", 3, 0)
}
