package questions_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
	"carom/schemas/warehouse/questions"
)

const day = 24 * time.Hour

// The history is of two whole weeks. The questions ask about the second.
var (
	monday = time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	end    = monday.Add(14 * day)
	week   = questions.Period{From: monday.Add(7 * day), To: end}
)

// report is a complaint or a bounce that came later, as the job attributions finds it.
type report struct {
	time      time.Time
	kind      event.Kind
	class     taxonomy.Class
	proven    bool
	delivered *event.Event // nil if nobody knows
}

// change is a row of limit_log.
type change struct {
	id               string
	ts               time.Time
	provider, source string
	kind, actor      string
	rateOld, rateNew float64
}

// world is a history of which everything is known.
type world struct {
	events  []event.Event
	reports []report
	changes []change
	gauges  []event.QueueGauge

	firstAttempt map[recipient]*event.Event // of each recipient that was attempted
}

// recipient is one of one message.
type recipient struct {
	message event.ID
	index   uint32
}

func recipientOf(e *event.Event) recipient { return recipient{e.MessageID, e.RecipientIdx} }

// peer is a provider as the fixture makes it: how fast, how strict and how private it is.
type peer struct {
	name, source, tls string
	domains           []string
	queued            time.Duration // of what goes out at once
	strict            int           // of 100, more than others are deferred
}

var peers = []peer{
	{"google", "192.0.2.1", "TLS 1.3", []string{"gmail.test", "google.test"}, 2 * time.Second, 4},
	{"outlook", "192.0.2.2", "TLS 1.2", []string{"outlook.test"}, 5 * time.Second, 18},
	{"yahoo", "192.0.2.1", "TLS 1.3", []string{"yahoo.test", "aol.test"}, 3 * time.Second, 8},
	{"tiny.test", "192.0.2.3", "", []string{"tiny.test"}, time.Second, 0},
}

// builder makes a world; the same seed makes the same.
type builder struct {
	*world
	rng      *rand.Rand
	messages uint64
}

func build() *world {
	b := &builder{world: &world{firstAttempt: map[recipient]*event.Event{}}, rng: rand.New(rand.NewPCG(7, 11))} //nolint:gosec // the same every time
	for d := range 14 {
		for range 70 {
			b.message(d, monday.Add(time.Duration(d)*day).Add(time.Duration(b.rng.IntN(12*3600))*time.Second))
		}
		b.queueFailures(monday.Add(time.Duration(d)*day + 3*time.Hour))
	}
	for i := range 6 { // in the last hour
		b.message(13, end.Add(-50*time.Minute).Add(time.Duration(i)*time.Minute))
	}
	b.late()
	b.limits()
	slices.SortStableFunc(b.events, func(x, y event.Event) int { return x.Time.Compare(y.Time) })
	for i := range b.events {
		e := &b.events[i]
		e.Node, e.Incarnation, e.Seq, e.FormatVersion = "mail1.test", event.ID{0: 1}, uint64(i)+1, event.FormatVersion //nolint:gosec // not negative
		if attempted(e) && b.firstAttempt[recipientOf(e)] == nil {
			b.firstAttempt[recipientOf(e)] = e
		}
	}
	return b.world
}

// attempted reports whether e is an attempt of a recipient.
func attempted(e *event.Event) bool {
	return e.Kind == event.Delivered || e.Kind == event.Deferred || e.Kind == event.Bounced
}

// message makes the life of a message of one or two recipients.
func (b *builder) message(d int, at time.Time) {
	b.messages++
	p := &peers[b.rng.IntN(len(peers))]
	tenant := []string{"shop", "news", "bank"}[b.rng.IntN(3)]
	e := event.Event{
		Kind: event.Received, Time: at, Recipients: 1, MailFrom: "bounce@" + tenant + ".test", MailFromDomain: tenant + ".test", FromDomain: tenant + ".test",
		VMTA: "v" + p.source[len(p.source)-1:], Pool: "pool1", Job: fmt.Sprintf("%s-%02d", tenant, d/2), Tenant: tenant, Size: uint64(1000 * (1 + b.rng.IntN(5))), //nolint:gosec // small
		DKIMDomains: []string{tenant + ".test", "esp.test"},
	}
	binary.BigEndian.PutUint64(e.MessageID[8:], b.messages)
	e.MessageID[0] = 1
	if b.rng.IntN(40) == 0 {
		b.refuseSuppressed(e)
	}
	for i := range 1 + b.rng.IntN(2) {
		domain := p.domains[b.rng.IntN(len(p.domains))]
		e.RecipientIdx, e.RecipientDomain = uint32(i), domain //nolint:gosec // small
		e.Recipient = fmt.Sprintf("user%d@%s", b.rng.IntN(400), domain)
		e.RecipientKey = fmt.Sprintf("%032x", b.messages*2+uint64(i)) //nolint:gosec // small
		b.events = append(b.events, e)
		b.life(e, p, d)
	}
}

// refuseSuppressed makes a RCPT that was refused.
func (b *builder) refuseSuppressed(e event.Event) {
	e.Kind, e.MessageID, e.VMTA, e.Pool = event.Rejected, event.ID{}, "", ""
	e.Category, e.Class, e.Dimension = taxonomy.Suppressed, taxonomy.None, taxonomy.Other
	b.events = append(b.events, e)
}

// life makes what becomes of a recipient.
func (b *builder) life(e event.Event, p *peer, d int) {
	e.Provider, e.Source, e.SourceIP = p.name, p.source, netip.MustParseAddr(p.source)
	e.Queue = e.RecipientDomain + "/" + e.VMTA
	arrived := e.Time
	e.Time = arrived.Add(p.queued + time.Duration(e.RecipientIdx)*time.Millisecond) // no two attempts at once
	roll := b.rng.IntN(100)
	if d >= 7 && p.name == "outlook" { // the second week is a bad one there
		roll += 12
	}
	roll += p.strict
	switch {
	case roll < 60:
		b.attempt(e, arrived, event.Delivered, "250 2.0.0 Ok: queued as 4Xq%08dZ", b.rng.IntN(1e6))
	case roll < 80:
		b.deferrals(&e, arrived, 1+b.rng.IntN(3))
		b.attempt(e, arrived, event.Delivered, "250 2.0.0 Ok: queued as 4Xq%08dZ", b.rng.IntN(1e6))
	case roll < 85:
		b.attempt(e, arrived, event.Bounced, "550 5.1.1 <%s>: no such user", e.Recipient)
	case roll < 90:
		b.attempt(e, arrived, event.Bounced, "554 5.7.1 message refused as spam, reference %d", b.rng.IntN(1e6))
	case roll < 94:
		b.attempt(e, arrived, event.Bounced, "550 5.7.1 your address %s is blocked", e.SourceIP)
	case roll < 100:
		b.deferrals(&e, arrived, 3)
		b.over(e, arrived, event.Expired, taxonomy.Expired)
	case roll < 103:
		e.Time = arrived.Add(9 * time.Hour)
		b.over(e, arrived, event.Expired, taxonomy.Expired) // was never answered
	case roll < 107:
		b.over(e, arrived, event.Suppressed, taxonomy.Suppressed)
	case roll < 110:
		b.over(e, arrived, event.Deleted, taxonomy.Unknown)
	default: // it is still there
		b.deferrals(&e, arrived, 1)
	}
}

// deferrals makes n attempts that are told later, and sets e to the time of the next.
func (b *builder) deferrals(e *event.Event, arrived time.Time, n int) {
	waits := []time.Duration{20 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, 3 * time.Hour}
	for range n {
		switch {
		case e.Provider == "outlook" && e.Time.After(week.From):
			b.attempt(*e, arrived, event.Deferred, "421 4.7.650 mail from [%s] has been limited, new rule", e.SourceIP)
		case b.rng.IntN(2) == 0:
			b.attempt(*e, arrived, event.Deferred, "421 4.7.28 too many messages from you, try again, code %d", b.rng.IntN(1e6))
		default:
			b.attempt(*e, arrived, event.Deferred, "450 4.2.0 <%s>: greylisted", e.Recipient)
		}
		e.Attempt++
		e.Time = e.Time.Add(waits[b.rng.IntN(len(waits))])
		if limit := end.Add(-10 * time.Minute); e.Time.After(limit) {
			e.Time = limit.Add(time.Duration(e.Attempt) * time.Second) // no two attempts at once
		}
	}
}

// attempt makes one attempt; e.Attempt is how many there were before.
func (b *builder) attempt(e event.Event, arrived time.Time, kind event.Kind, format string, args ...any) {
	e.Kind, e.Queued = kind, e.Time.Sub(arrived)
	e.Attempt++
	text := fmt.Sprintf(format, args...)
	e.SetReply(smtpstatus.Parse(text))
	p := &peers[slices.IndexFunc(peers, func(p peer) bool { return p.name == e.Provider })]
	e.TLSVersion, e.Transfer = p.tls, 40*time.Millisecond
	e.MXHost = "mx." + e.RecipientDomain
	if b.rng.IntN(4) == 0 { // a new connection
		e.Connect, e.TLS = 30*time.Millisecond, 15*time.Millisecond
	}
	e.Class = taxonomy.None
	switch {
	case kind == event.Delivered:
		e.Category, e.Dimension = taxonomy.Delivered, taxonomy.OK
	case e.Code == 421:
		e.Category, e.Class, e.Dimension = taxonomy.RateLimited, taxonomy.Soft, taxonomy.Rate
	case e.Code == 450:
		e.Category, e.Class, e.Dimension = taxonomy.Greylisted, taxonomy.Soft, taxonomy.Greylist
	case e.Enhanced == "5.1.1":
		e.Category, e.Class, e.Dimension = taxonomy.BadMailbox, taxonomy.Hard, taxonomy.User
	case e.Code == 554:
		e.Category, e.Class, e.Dimension = taxonomy.SpamContent, taxonomy.Soft, taxonomy.Content
	default:
		e.Category, e.Class, e.Dimension = taxonomy.SpamBlock, taxonomy.Soft, taxonomy.Block
	}
	switch { // which limit held it back
	case e.Provider == "outlook" && e.Time.After(week.From):
		e.LimitingScope, e.LimitActor, e.LimitReason = "loop", "loop", "change-2"
	case b.rng.IntN(5) == 0:
		e.LimitingScope, e.LimitActor = "queue", "config"
	}
	b.events = append(b.events, e)
	if kind == event.Delivered {
		b.answer(e)
	}
}

// answer makes what comes back of a delivery: mostly nothing.
func (b *builder) answer(e event.Event) {
	delivered := new(e)
	switch b.rng.IntN(16) {
	case 0, 1:
		after := []time.Duration{time.Hour, 20 * time.Hour, 30 * time.Hour, 80 * time.Hour, 150 * time.Hour, 200 * time.Hour}[b.rng.IntN(6)]
		b.report(report{e.Time.Add(after), event.Complaint, taxonomy.None, true, delivered})
		if b.rng.IntN(4) == 0 { // the same complaint, sent again
			b.report(report{e.Time.Add(after + time.Hour), event.Complaint, taxonomy.None, true, delivered})
		}
	case 2:
		after := []time.Duration{time.Minute, 60 * time.Hour, 100 * time.Hour}[b.rng.IntN(3)]
		b.report(report{e.Time.Add(after), event.RemoteBounce, []taxonomy.Class{taxonomy.Hard, taxonomy.Soft}[b.rng.IntN(2)], true, delivered})
	case 3: // somebody says so
		b.report(report{e.Time.Add(time.Hour), event.Complaint, taxonomy.None, false, nil})
	}
}

// report makes the events of a report mail, if it came before the end.
func (b *builder) report(r report) {
	if !r.time.Before(end) {
		return
	}
	b.reports = append(b.reports, r)
	mail := event.Event{Kind: event.Received, Time: r.time, Recipients: 1, Tenant: "reports", Recipient: "fbl@mail1.test", RecipientDomain: "mail1.test", Size: 3000}
	binary.BigEndian.PutUint64(mail.MessageID[8:], uint64(len(b.reports)))
	mail.MessageID[0] = 2
	said, gone := mail, mail
	said.Kind, said.Class, said.Category, said.Dimension = r.kind, r.class, taxonomy.Complaint, taxonomy.User
	if r.delivered != nil {
		said.OriginalMessageID, said.OriginalIdx = r.delivered.MessageID, r.delivered.RecipientIdx
		said.Recipient, said.RecipientDomain = r.delivered.Recipient, r.delivered.RecipientDomain
	}
	gone.Kind = event.ReportConsumed
	b.events = append(b.events, mail, said, gone)
}

// over makes the end of a recipient that is no attempt.
func (b *builder) over(e event.Event, arrived time.Time, kind event.Kind, category taxonomy.Category) {
	e.Kind, e.Category, e.Class, e.Dimension, e.Queued = kind, category, category.Class(), taxonomy.Other, e.Time.Sub(arrived)
	b.events = append(b.events, e)
}

// queueFailures makes attempts that failed for a whole queue.
func (b *builder) queueFailures(at time.Time) {
	for i := range 1 + b.rng.IntN(3) {
		b.events = append(b.events, event.Event{
			Kind: event.QueueDeferred, Time: at.Add(time.Duration(i) * time.Minute), Recipients: 50, Queue: "yahoo.test/v1", VMTA: "v1", RecipientDomain: "yahoo.test",
			Provider: "yahoo", Source: "192.0.2.1", Phase: event.PhaseConnect, Reply: "connection refused", ReplyTemplate: "connection refused",
			Category: taxonomy.Connection, Class: taxonomy.Soft, Dimension: taxonomy.Unavailable,
		})
	}
}

// late makes the newest event: up to it all days have aged.
func (b *builder) late() {
	b.report(report{end.Add(-time.Minute), event.Complaint, taxonomy.None, false, nil})
}

// limits makes the changes of limits and the gauges.
func (b *builder) limits() {
	b.changes = []change{
		{"change-1", monday.Add(time.Hour), "google", "192.0.2.1", "change", "loop", 10, 5},
		{"change-2", week.From, "outlook", "192.0.2.2", "change", "loop", 20, 8},
		{"change-3", week.From.Add(2 * day), "yahoo", "192.0.2.1", "would_change", "loop", 20, 10},
		{"change-4", week.From.Add(3 * day), "yahoo", "192.0.2.1", "operator", "ann", 20, 30},
	}
	for i, at := range []time.Time{end.Add(-50 * time.Second), end.Add(-10 * time.Second), end.Add(-time.Hour)} {
		for j, p := range peers {
			for _, tenant := range []string{"shop", "news"} {
				b.gauges = append(b.gauges, event.QueueGauge{
					Node: "mail1.test", Incarnation: event.ID{0: 1}, Seq: uint64(len(b.gauges)) + 1, FormatVersion: 1, Time: at, //nolint:gosec // small
					Queue: p.domains[0] + "/v1", VMTA: "v1", Provider: p.name, Source: p.source, Tenant: tenant, Queues: 1,
					Ready: uint64(100*i + 10*j + len(b.gauges)), Waiting: uint64(j), Paused: uint64(5 * i), OldestAge: uint64(60 * len(b.gauges)), //nolint:gosec // small
					LimitScope: "key", Limit: fmt.Sprintf("rate %d", len(b.gauges)), LimitBy: "loop",
				})
			}
		}
	}
}

// migrated returns a connection to a new database with the schema in it.
func migrated(t *testing.T) driver.Conn {
	t.Helper()
	_, url := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// store puts the history into the database.
func (w *world) store(t *testing.T, conn driver.Conn) {
	t.Helper()
	// The history stands in the past, and the finest roll-ups are kept for days.
	if err := conn.Exec(t.Context(), "SYSTEM STOP TTL MERGES"); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.Events.Insert(t.Context(), conn, "all", w.events); err != nil {
		t.Fatal(err)
	}
	if err := warehouse.QueueGauges.Insert(t.Context(), conn, "gauges", w.gauges); err != nil {
		t.Fatal(err)
	}
	batch, err := conn.PrepareBatch(t.Context(), `INSERT INTO attributions (node, incarnation, seq, time, kind, class, proven, match_method,
message_id, recipient_index, delivered_at, provider, source, tenant, job, from_domain, attributed_at)`)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range w.reports {
		e := r.delivered
		if e == nil {
			e = &event.Event{Time: time.Unix(0, 0).UTC()}
		}
		if err := batch.Append("mail1.test", event.ID{0: 1}, uint64(i), r.time, r.kind.String(), string(r.class), r.proven, "token", //nolint:gosec // not negative
			e.MessageID, e.RecipientIdx, e.Time, e.Provider, e.Source, e.Tenant, e.Job, e.FromDomain, r.time); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	if batch, err = conn.PrepareBatch(t.Context(), "INSERT INTO limit_log (id, ts, provider, source, kind, rate_old, rate_new, rule_id, actor)"); err != nil {
		t.Fatal(err)
	}
	for _, c := range w.changes {
		if err := batch.Append(c.id, c.ts, c.provider, c.source, c.kind, c.rateOld, c.rateNew, "rule", c.actor); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
}
