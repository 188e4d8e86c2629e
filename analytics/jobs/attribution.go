package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/event"
	"carom/schemas/suppression"
)

const (
	attributionJob = "attribution"

	// patience is how long a report with a token waits for its delivery: reports may come sooner
	// than the events of a node whose agent lags.
	patience = time.Hour
	// settled is how long ago a report without a token must have arrived: its delivery is looked for
	// once only, and should be there by then.
	settled = 20 * time.Second
	// farBack is how long before a report its delivery is looked for. Complaints come for weeks.
	farBack = 35 * 24 * time.Hour
	// reportBatch bounds the reports that are attributed at once: their keys go into a query, which
	// may have 256 KiB. A run takes batches for batchTime.
	reportBatch = 500
	batchTime   = 6 * time.Second
	// maxQuoted bounds the Message-IDs that are looked for, in octets.
	maxQuoted = 255
	// perKey bounds the deliveries that are looked at for one recipient: it takes two to be unsure.
	perKey = 20
)

// Attribution is the job that finds the delivery that each report (bounce, status, complaint) was
// about, so that rates can be told by provider, source and tenant, and by the hour of delivery.
//
// A report with a verified token names its delivery. Every other one is looked for by the Message-ID
// that it quotes, then by the recipient and originator that it names: that is shown with a
// confidence under 1 and counts against nobody, but for reports that a trusted reporter has signed.
// Those suppress the recipient for the tenant that mailed him, once the delivery is found.
type Attribution struct {
	Conn    driver.Conn
	Version string // of carom
}

// Run attributes what arrived since the last run. An attribution is one row by the number of the
// report's event: read twice it makes the same row, so a run that is killed or repeated changes
// nothing.
func (a *Attribution) Run(ctx context.Context) (Result, error) {
	w, err := loadWatermark(ctx, a.Conn, attributionJob)
	if err != nil {
		return Result{Job: attributionJob}, err
	}
	if w.isFresh() {
		waiting, err := a.pending(ctx, w.now, w.dataTo.Add(-patience-overlap), &reported{})
		if err != nil || len(waiting) == 0 {
			return Result{Job: attributionJob, Idle: err == nil}, err
		}
	}
	return inTurn(ctx, a.Conn, attributionJob, a.Version, a.work)
}

func (a *Attribution) work(ctx context.Context, r *run, result *Result) error {
	w, err := loadWatermark(ctx, a.Conn, attributionJob)
	if err != nil {
		return err
	}
	since := time.Unix(0, 0).UTC()
	if !w.dataTo.IsZero() {
		since = w.dataTo.Add(-patience - overlap)
	}
	all, err := a.attribute(ctx, r, since, r.started, time.Now().Add(batchTime), result)
	if err != nil {
		return err
	}
	result.DataTo = r.started
	if !all {
		result.DataTo = since.Add(patience + overlap) // the next run goes on
	}
	return nil
}

// RunRange attributes the reports that arrived after from and until to, if they were not.
func (a *Attribution) RunRange(ctx context.Context, from, to time.Time) (Result, error) {
	return inPieces(ctx, a.Conn, attributionJob, a.Version, from, to, 24*time.Hour,
		func(ctx context.Context, r *run, from, to time.Time, result *Result) error {
			_, err := a.attribute(ctx, r, from, to, time.Time{}, result)
			return err
		})
}

// attribute deals with what arrived after since and until until. It begins no batch after the time ends,
// unless that is zero, and then returns false.
func (a *Attribution) attribute(ctx context.Context, r *run, since, until, ends time.Time, result *Result) (all bool, err error) {
	var last reported // of the batch before: what has to wait must not keep others from their turn
	for number := 0; ; number++ {
		pending, err := a.pending(ctx, until, since, &last)
		if err != nil {
			return false, err
		}
		found, err := a.deliveries(ctx, r.started, pending)
		if err != nil {
			return false, err
		}
		done := attribute(pending, found, r.started.Add(-patience))
		if err := r.storeAttributions(ctx, a.Conn, number, done); err != nil {
			return false, err
		}
		result.Keys += len(pending)
		result.Changes += len(done)
		switch {
		case len(pending) < reportBatch:
			return true, nil
		case !ends.IsZero() && time.Now().After(ends):
			return false, nil
		}
		last = pending[len(pending)-1]
	}
}

// reported is a report that lacks its attribution.
type reported struct {
	node        string
	incarnation uuid.UUID
	seq         uint64

	time, arrived                              time.Time
	kind, recipientKey, mailFrom, feedbackType string
	category, class, dimension, method, quoted string // quoted: a Message-ID
	confidence                                 float32
	message                                    uuid.UUID
	index                                      uint32
}

// hasToken reports whether a token of carom's names the message.
func (r *reported) hasToken() bool { return r.message != uuid.Nil }

// pending returns reports to attribute behind last that arrived after since, the earliest arrivals first.
func (a *Attribution) pending(ctx context.Context, until, since time.Time, last *reported) ([]reported, error) {
	rows, err := a.Conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(since), "until": micros(until), "settled": micros(until.Add(-settled)), "none": uuid.Nil.String(),
		"arrived": micros(orEpoch(last.arrived)), "node": last.node, "incarnation": last.incarnation.String(), "seq": strconv.FormatUint(last.seq, 10),
		"most": strconv.Itoa(reportBatch),
	}), `
SELECT
    node, incarnation, seq, time, arrived, kind, recipient_key, mail_from, feedback_type, category, class, dimension,
    match_method, match_confidence, original_message_id, original_index, quoted_message_id
FROM reports FINAL
WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND (arrived, node, incarnation, seq) > (fromUnixTimestamp64Micro({arrived:Int64}, 'UTC'), {node:String}, {incarnation:UUID}, {seq:UInt64})
    AND (original_message_id != {none:UUID} OR arrived <= fromUnixTimestamp64Micro({settled:Int64}, 'UTC'))
    AND (node, incarnation, seq) NOT IN (
        SELECT node, incarnation, seq FROM attributions WHERE attributed_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC'))
ORDER BY arrived, node, incarnation, seq
LIMIT {most:UInt32}`)
	if err != nil {
		return nil, fmt.Errorf("read reports: %w", err)
	}
	var all []reported
	err = each(rows, "read reports", func() error {
		var one reported
		err := rows.Scan(&one.node, &one.incarnation, &one.seq, &one.time, &one.arrived, &one.kind, &one.recipientKey, &one.mailFrom, &one.feedbackType,
			&one.category, &one.class, &one.dimension, &one.method, &one.confidence, &one.message, &one.index, &one.quoted)
		all = append(all, one)
		return err
	})
	return all, err
}

// delivered is a delivery that a report may be about.
type delivered struct {
	message                                   uuid.UUID
	index                                     uint32
	time                                      time.Time
	recipientKey, mailFrom, quoted            string // quoted: its Message-ID, where that led to it
	provider, source, tenant, vmta, pool, job string
	mailFromDomain, fromDomain                string
}

// deliveries returns every delivery that one of the reports may be about.
func (a *Attribution) deliveries(ctx context.Context, now time.Time, pending []reported) ([]delivered, error) {
	oldest := now.Add(-farBack)
	var messages, quoted, keys []string
	var indexes []uint32
	earliest := now
	for i := range pending {
		switch r := &pending[i]; {
		case r.hasToken():
			messages, indexes = append(messages, r.message.String()), append(indexes, r.index)
			if t := began(r.message); t.Before(earliest) {
				earliest = t
			}
		case r.recipientKey != "":
			keys = append(keys, r.recipientKey)
			if isPlain(r.quoted) {
				quoted = append(quoted, r.quoted)
			}
		}
	}
	var all []delivered
	if len(messages) > 0 {
		if earliest.Before(oldest) {
			earliest = oldest
		}
		err := a.read(ctx, &all, "'delivered'", "message_id IN (?) AND recipient_index IN (?)", earliest, messages, indexes)
		if err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return all, nil
	}
	latest := fmt.Sprintf(" ORDER BY time DESC LIMIT %d BY recipient_key", perKey)
	if err := a.read(ctx, &all, "'delivered'", "recipient_key IN (?)"+latest, oldest, distinct(keys)); err != nil {
		return nil, err
	}
	if len(quoted) == 0 {
		return all, nil
	}
	var came []delivered // received, that is: the Message-ID stands there
	// The event of the acceptance has no key. GLOBAL: on a cluster both sides are on all shards.
	if err := a.read(ctx, &came, "'received'", `headers['Message-ID'] IN (?) AND message_id GLOBAL IN (
    SELECT message_id FROM events WHERE kind = 'delivered' AND time > fromUnixTimestamp64Micro(?, 'UTC') AND recipient_key IN (?))
LIMIT 1 BY message_id`, oldest, distinct(quoted), oldest.UnixMicro(), distinct(keys)); err != nil || len(came) == 0 {
		return all, err
	}
	messages = nil
	ids := map[uuid.UUID]string{}
	for i := range came {
		messages = append(messages, came[i].message.String())
		ids[came[i].message] = came[i].quoted
	}
	if err := a.read(ctx, &all, "'delivered'", "message_id IN (?) AND recipient_key IN (?)", oldest, distinct(messages), distinct(keys)); err != nil {
		return nil, err
	}
	for i := range all {
		all[i].quoted = ids[all[i].message]
	}
	return all, nil
}

// read adds the events of a kind since oldest to all for which the condition holds.
func (a *Attribution) read(ctx context.Context, all *[]delivered, kind, condition string, oldest time.Time, values ...any) error {
	rows, err := a.Conn.Query(ctx, `
SELECT message_id, recipient_index, time, recipient_key, mail_from, headers['Message-ID'], provider, source, tenant, vmta, pool, job, mail_from_domain, from_domain
FROM events
WHERE kind = `+kind+` AND time > fromUnixTimestamp64Micro(?, 'UTC') AND `+condition, append([]any{oldest.UnixMicro()}, values...)...)
	if err != nil {
		return fmt.Errorf("look for deliveries: %w", err)
	}
	return each(rows, "look for deliveries", func() error {
		var d delivered
		err := rows.Scan(&d.message, &d.index, &d.time, &d.recipientKey, &d.mailFrom, &d.quoted, &d.provider, &d.source, &d.tenant, &d.vmta, &d.pool, &d.job,
			&d.mailFromDomain, &d.fromDomain)
		*all = append(*all, d)
		return err
	})
}

// began returns a little before the time in a message id (RFC 9562 section 5.7): no event of the
// message is earlier, by any node's clock.
func began(message uuid.UUID) time.Time {
	ms := int64(0)
	for _, b := range message[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).Add(-time.Hour)
}

// isPlain reports whether a Message-ID is one to look for: what a stranger wrote must neither fill a
// query nor end a string in it.
func isPlain(id string) bool {
	return id != "" && len(id) <= maxQuoted && !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' || c == '\'' || c == '\\' || c == '?' || c == '"' })
}

func distinct(values []string) []string {
	slices.Sort(values)
	return slices.Compact(values)
}

// attribution is a report with the delivery that it was about, nil if that is not known.
type attribution struct {
	*reported
	delivery   *delivered
	method     string
	confidence float32
}

// proven reports whether the attribution counts against somebody: a signature is behind it, and
// what it speaks of has happened.
func (a *attribution) proven() bool {
	return a.delivery != nil && (a.hasToken() || a.reported.method == methodDKIM)
}

// The methods that the job itself knows; see ingest/correlate.
const (
	methodDKIM      = "dkim-reporter"
	methodMessageID = "message-id"
	methodRecipient = "recipient"
	methodVERP      = "verp"
)

// The confidence in a delivery that was found by what anybody may write, or guess: the Message-ID is
// known to whoever saw the message, and with the recipient it names one delivery.
const (
	quotedConfidence = 0.8
	onlyConfidence   = 0.5 // the only message that he had from them
	latestConfidence = 0.3 // the latest of several
)

// attribute joins reports to deliveries. Those that arrived after waiting and have a token, but no
// delivery yet, are left out: it may still come.
func attribute(pending []reported, found []delivered, waiting time.Time) []attribution {
	type place struct {
		message uuid.UUID
		index   uint32
	}
	byPlace := map[place]*delivered{}
	byKey := map[string][]*delivered{}
	for i := range found {
		d := &found[i]
		p := place{d.message, d.index}
		if first, ok := byPlace[p]; ok && !d.time.Before(first.time) {
			continue // delivered twice, or found twice: the first counts
		}
		byPlace[p] = d
	}
	for _, d := range byPlace {
		byKey[d.recipientKey] = append(byKey[d.recipientKey], d)
	}
	done := make([]attribution, 0, len(pending))
	for i := range pending {
		r := &pending[i]
		a := attribution{reported: r, method: r.method, confidence: r.confidence}
		switch {
		case r.hasToken():
			a.delivery = byPlace[place{r.message, r.index}]
			if a.delivery == nil && r.arrived.After(waiting) {
				continue
			}
		case r.recipientKey != "":
			a.guess(byKey[r.recipientKey])
		}
		done = append(done, a)
	}
	return done
}

// guess chooses among the deliveries to the recipient whom the report names: the one with the
// Message-ID that it quotes, else the latest before it from the originator that it names.
func (a *attribution) guess(deliveries []*delivered) {
	r := a.reported
	var candidates []*delivered
	for _, d := range deliveries {
		if d.time.After(r.time) || d.time.Before(r.time.Add(-farBack)) {
			continue
		}
		if r.quoted != "" && d.quoted == r.quoted {
			a.found(d, methodMessageID, quotedConfidence)
			return
		}
		if r.mailFrom == "" && r.method == methodDKIM || r.mailFrom != "" && strings.EqualFold(r.mailFrom, d.mailFrom) {
			candidates = append(candidates, d)
		}
	}
	if len(candidates) == 0 {
		return
	}
	latest := slices.MaxFunc(candidates, func(x, y *delivered) int {
		return cmp.Or(x.time.Compare(y.time), cmp.Compare(x.message.String(), y.message.String()), cmp.Compare(x.index, y.index))
	})
	confidence := float32(latestConfidence)
	if len(candidates) == 1 {
		confidence = onlyConfidence
	}
	a.found(latest, methodRecipient, confidence)
}

// found notes the delivery. What the node knew itself stays the method: of a signed report and of a
// VERP address.
func (a *attribution) found(d *delivered, method string, confidence float32) {
	a.delivery = d
	if a.method != methodDKIM && a.method != methodVERP {
		a.method = method
	}
	a.confidence = max(a.confidence, confidence)
}

// storeAttributions writes one batch of the run. Suppressions come first: a run that ends in between
// writes them again, as the same rows.
func (r *run) storeAttributions(ctx context.Context, conn driver.Conn, number int, done []attribution) error {
	rows := make([][]any, 0, len(done))
	var suppressed [][]any
	for i := range done {
		a := &done[i]
		var d delivered
		if a.delivery != nil {
			d = *a.delivery
		} else {
			d.message, d.index = a.message, a.index // by a token, or zero
		}
		rows = append(rows, []any{
			a.node, a.incarnation, a.seq, a.time, a.kind, a.recipientKey, a.feedbackType, a.category, a.class, a.dimension,
			a.method, a.confidence, a.proven(), d.message, d.index, orEpoch(d.time), d.provider, d.source, d.tenant, d.vmta, d.pool, d.job,
			d.mailFromDomain, d.fromDomain, r.started,
		})
		if a.reported.method == methodDKIM && a.kind == event.Complaint.String() && a.proven() {
			suppressed = append(suppressed, []any{
				a.recipientKey, cmp.Or(d.tenant, suppression.Global), a.time, false, a.category, "job", attributionJob, a.feedbackType, d.message, d.index, orEpoch(time.Time{}),
			})
		}
	}
	if err := insert(ctx, conn, r.token(fmt.Sprintf("suppressions/%d", number)), "suppressions", []string{
		"recipient_key", "tenant", "time", "tombstone", "category", "origin", "actor", "reason", "message_id", "recipient_index", "expires_at",
	}, suppressed); err != nil {
		return err
	}
	return insert(ctx, conn, r.token(fmt.Sprintf("attributions/%d", number)), "attributions", []string{
		"node", "incarnation", "seq", "time", "kind", "recipient_key", "feedback_type", "category", "class", "dimension",
		"match_method", "match_confidence", "proven", "message_id", "recipient_index", "delivered_at", "provider", "source", "tenant", "vmta", "pool", "job",
		"mail_from_domain", "from_domain", "attributed_at",
	}, rows)
}
