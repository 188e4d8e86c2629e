package jobs_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/analytics/jobs"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

// mail is a message of a test: received and delivered.
type mail struct {
	id        event.ID
	index     uint32
	recipient string // key
	from      string
	messageID string
	tenant    string
	at        time.Time
}

// idAt returns a message id of that time.
func idAt(t time.Time) event.ID {
	id := event.NewID()
	for i, ms := 5, t.UnixMilli(); i >= 0; i, ms = i-1, ms>>8 {
		id[i] = byte(ms)
	}
	return id
}

func (m mail) events() []event.Event {
	base := event.Event{
		Time: m.at, MessageID: m.id, RecipientIdx: m.index, RecipientKey: m.recipient, MailFrom: m.from, MailFromDomain: "shop.test", FromDomain: "shop.test",
		Tenant: m.tenant, Job: "spring", VMTA: "v1", Pool: "p1",
	}
	received, delivered := base, base
	received.Kind = event.Received
	if m.messageID != "" {
		received.Headers = map[string]string{"Message-ID": m.messageID}
	}
	delivered.Kind, delivered.Provider, delivered.Source, delivered.Dimension, delivered.Attempt = event.Delivered, "big", "192.0.2.1", taxonomy.OK, 1
	return []event.Event{received, delivered}
}

// reported returns the event of a report about a message.
func reported(kind event.Kind, at time.Time, method string, confidence float32, of mail, named string) event.Event {
	e := event.Event{Time: at, Kind: kind, MessageID: event.NewID(), MatchMethod: method, MatchConfidence: confidence, RecipientKey: named, MailFrom: of.from}
	if kind == event.Complaint {
		e.Category, e.FeedbackType = taxonomy.Complaint, "abuse"
	} else {
		e.Category, e.Class, e.Dimension = taxonomy.BadMailbox, taxonomy.Hard, taxonomy.User
	}
	if method == "return-path" || method == "reference-header" || method == "envid" {
		e.OriginalMessageID, e.OriginalIdx = of.id, of.index
	}
	return e
}

type attributed struct {
	Kind, Method string
	Confidence   float32
	Proven       bool
	Message      uuid.UUID
	Index        uint32
	Delivered    time.Time
	Source       string
	Tenant       string
}

func (w *world) attributions(t *testing.T) []attributed {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), `
SELECT kind, match_method, match_confidence, proven, message_id, recipient_index, delivered_at, source, tenant
FROM attributions FINAL ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	var all []attributed
	for rows.Next() {
		var a attributed
		if err := rows.Scan(&a.Kind, &a.Method, &a.Confidence, &a.Proven, &a.Message, &a.Index, &a.Delivered, &a.Source, &a.Tenant); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAttribution(t *testing.T) {
	w := newWorld(t)
	key := func(n int) string { return fmt.Sprintf("%032x", n) }
	day, then := w.now.Add(-24*time.Hour).Truncate(time.Hour), w.now.Add(-10*time.Minute).Truncate(time.Microsecond)
	send := func(to int, from, tenant, messageID string, at time.Time) mail {
		m := mail{idAt(at), 3, key(to), from, messageID, tenant, at}
		w.store(t, m.events())
		return m
	}
	const news = "news@shop.test"
	ann := send(1, news, "shop", "<1@shop.test>", day)
	bob := send(2, news, "shop", "<2@shop.test>", day)
	again := send(2, news, "shop", "<3@shop.test>", day.Add(time.Hour))
	carl := send(3, news, "store", "<4@shop.test>", day)
	eve := send(4, news, "shop", "<5@shop.test>", day)

	complaint := reported(event.Complaint, then, "reference-header", 1, ann, key(1))
	quoting := func(e event.Event, id string) event.Event {
		e.Headers = map[string]string{"Message-ID": id}
		return e
	}
	bySigned := reported(event.Complaint, then, "dkim-reporter", 0.9, carl, key(3))
	w.store(t, []event.Event{
		complaint, complaint, // replayed
		reported(event.RemoteBounce, then, "return-path", 1, ann, key(1)),
		reported(event.Complaint, then, "none", 0, ann, key(1)),                           // forged: names whom and from whom
		reported(event.Complaint, then, "none", 0, mail{from: "other@shop.test"}, key(1)), // forged, less well
		quoting(reported(event.RemoteBounce, then, "none", 0, bob, key(2)), "<2@shop.test>"),
		quoting(reported(event.RemoteBounce, then, "none", 0, bob, key(2)), `'); DROP TABLE events --\ ?`),
		reported(event.RemoteBounce, then, "verp", 0.5, eve, key(4)),
		bySigned,
		reported(event.Complaint, then, "dkim-reporter", 0.9, mail{}, key(99)),            // whom nobody has mailed
		quoting(reported(event.Complaint, then, "none", 0, bob, key(3)), "<2@shop.test>"), // the message of another
		reported(event.Complaint, then, "none", 0, mail{}, ""),                            // names nobody
	})
	never := uuid.Nil
	epoch := time.Unix(0, 0).UTC()
	want := []attributed{
		{"complaint", "reference-header", 1, true, ann.id, 3, day, "192.0.2.1", "shop"},
		{"complaint", "reference-header", 1, true, ann.id, 3, day, "192.0.2.1", "shop"},
		{"remote-bounce", "return-path", 1, true, ann.id, 3, day, "192.0.2.1", "shop"},
		{"complaint", "recipient", 0.5, false, ann.id, 3, day, "192.0.2.1", "shop"},
		{"complaint", "none", 0, false, never, 0, epoch, "", ""},
		{"remote-bounce", "message-id", 0.8, false, bob.id, 3, day, "192.0.2.1", "shop"},
		{"remote-bounce", "recipient", 0.3, false, again.id, 3, day.Add(time.Hour), "192.0.2.1", "shop"},
		{"remote-bounce", "verp", 0.5, false, eve.id, 3, day, "192.0.2.1", "shop"},
		{"complaint", "dkim-reporter", 0.9, true, carl.id, 3, day, "192.0.2.1", "store"},
		{"complaint", "dkim-reporter", 0.9, false, never, 0, epoch, "", ""},
		{"complaint", "recipient", 0.5, false, carl.id, 3, day, "192.0.2.1", "store"},
		{"complaint", "none", 0, false, never, 0, epoch, "", ""},
	}
	job := &jobs.Attribution{Conn: w.conn, Version: "test"}
	first, second := mustRun(t, job.Run), mustRun(t, job.Run)
	if first.Changes != len(want) || second.Changes != 0 || second.Keys != 0 {
		t.Errorf("the first run attributed %d, the second %d of %d; want %d and none", first.Changes, second.Changes, second.Keys, len(want))
	}
	if diff := cmp.Diff(want, w.attributions(t)); diff != "" {
		t.Errorf("attributions (-want +got):\n%s", diff)
	}

	// What counts: each kind once for a message and recipient, by the hour of its delivery.
	var complained, bounced, accepted uint64
	w.scan(t, "SELECT sum(complained), sum(bounced), sum(accepted) FROM report_cohorts WHERE source = '192.0.2.1' AND tenant = 'shop' AND hour = toDateTime("+strconv.FormatInt(day.Unix(), 10)+", 'UTC')",
		&complained, &bounced, &accepted)
	if complained != 1 || bounced != 1 || accepted != 3 {
		t.Errorf("%d complaints and %d bounces of %d accepted; want 1, 1 and 3", complained, bounced, accepted)
	}
	var strangers uint64
	w.scan(t, "SELECT count() FROM report_cohorts WHERE source = '' OR tenant = ''", &strangers)
	if strangers != 0 {
		t.Errorf("%d cohorts of nobody", strangers)
	}

	// Only the signed complaint about a known delivery suppresses, for its tenant.
	var suppressed []string
	w.scan(t, "SELECT groupArray(recipient_key || '/' || tenant || '/' || actor) FROM suppressions", &suppressed)
	if diff := cmp.Diff([]string{key(3) + "/store/attribution"}, suppressed); diff != "" {
		t.Errorf("suppressions (-want +got):\n%s", diff)
	}

	// A run that is repeated from the beginning, as after the loss of job_runs, changes nothing.
	if err := w.conn.Exec(t.Context(), "TRUNCATE TABLE job_runs"); err != nil {
		t.Fatal(err)
	}
	if third := mustRun(t, job.Run); third.Changes != 0 {
		t.Errorf("a repeated run attributed %d", third.Changes)
	}
	var rows, distinct uint64
	w.scan(t, "SELECT count(), uniqExact(node, incarnation, seq) FROM attributions", &rows, &distinct)
	if rows != distinct || rows != uint64(len(want)) {
		t.Errorf("%d rows of %d reports, want %d", rows, distinct, len(want))
	}
}

// TestAttributionWaits: a report may come before the events of its delivery, and one without a token
// is left alone for a moment.
func TestAttributionWaits(t *testing.T) {
	w := newWorld(t)
	hour := w.now.Add(-time.Hour).Truncate(time.Microsecond)
	late := mail{idAt(hour), 0, fmt.Sprintf("%032x", 1), "news@shop.test", "", "shop", hour}
	lost := mail{idAt(hour), 0, fmt.Sprintf("%032x", 2), "news@shop.test", "", "shop", hour}
	w.store(t, []event.Event{
		reported(event.Complaint, w.now.Add(-10*time.Second), "reference-header", 1, late, late.recipient),
		reported(event.Complaint, w.now.Add(-10*time.Second), "none", 0, late, late.recipient),
		reported(event.Complaint, w.now.Add(-2*time.Hour), "reference-header", 1, lost, lost.recipient),
	})
	job := &jobs.Attribution{Conn: w.conn, Version: "test"}
	if r := mustRun(t, job.Run); r.Changes != 1 || r.Keys != 2 {
		t.Fatalf("%d of %d attributed, want the one that waited long enough, of two", r.Changes, r.Keys)
	}
	want := []attributed{{"complaint", "reference-header", 1, false, lost.id, 0, time.Unix(0, 0).UTC(), "", ""}}
	if diff := cmp.Diff(want, w.attributions(t)); diff != "" {
		t.Errorf("attributions (-want +got):\n%s", diff)
	}
	w.store(t, late.events())
	if r := mustRun(t, job.Run); r.Changes != 1 {
		t.Fatalf("%d attributed when the delivery came, want 1", r.Changes)
	}
	want = append([]attributed{{"complaint", "reference-header", 1, true, late.id, 0, late.at, "192.0.2.1", "shop"}}, want...)
	if diff := cmp.Diff(want, w.attributions(t)); diff != "" {
		t.Errorf("attributions (-want +got):\n%s", diff)
	}
}

// TestAttributionOfMany: more than a batch, with so many that have to wait that they fill one.
func TestAttributionOfMany(t *testing.T) {
	w := newWorld(t)
	const waiting, ready = 700, 600
	hour := w.now.Add(-time.Hour).Truncate(time.Microsecond)
	var events []event.Event
	for i := range waiting {
		m := mail{idAt(hour), 0, fmt.Sprintf("%032x", i), "news@shop.test", "", "shop", hour}
		events = append(events, reported(event.Complaint, w.now.Add(-50*time.Minute), "reference-header", 1, m, m.recipient))
	}
	for i := range ready {
		m := mail{idAt(hour), 0, fmt.Sprintf("%032x", waiting+i), "news@shop.test", "", "shop", hour}
		events = append(append(events, m.events()...), reported(event.RemoteBounce, w.now.Add(-10*time.Minute), "return-path", 1, m, m.recipient))
	}
	w.store(t, events)
	job := &jobs.Attribution{Conn: w.conn, Version: "test"}
	if r := mustRun(t, job.Run); r.Changes != ready || r.Keys != waiting+ready {
		t.Errorf("%d of %d attributed, want %d of %d", r.Changes, r.Keys, ready, waiting+ready)
	}
	if r := mustRun(t, job.Run); r.Changes != 0 || r.Keys != waiting {
		t.Errorf("%d of %d attributed by the second run, want none of %d", r.Changes, r.Keys, waiting)
	}
}
