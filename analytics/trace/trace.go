// Package trace tells the life of a message, or of what a recipient was sent, from the events in the
// warehouse: each step in order, how long each part of an attempt took, which limit was in force and
// why, and the reports that came back.
//
// It only reads, and a question is bounded in messages and in steps. Everything is safe for concurrent
// use.
package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"carom/schemas/event"
	"carom/schemas/suppression"
)

// maxSteps bounds the steps of one answer.
const maxSteps = 10_000

// Question is what is asked.
type Question struct {
	Text  string    // a message id, a Message-ID, an address or a suppression key
	Key   string    // suppression key of the address; "" if it is not known
	Since time.Time // how far back to look
	Limit uint      // messages at most, the newest
}

// Trace is the answer.
type Trace struct {
	Asked    string     `json:"asked"`
	As       []string   `json:"looked_for_as"` // what the text was taken for
	Since    time.Time  `json:"since"`
	Oldest   time.Time  `json:"oldest_event"` // in the warehouse; zero where it has none
	More     bool       `json:"more"`         // there are more messages than Limit, or more steps than an answer has
	Messages []*Message `json:"messages"`     // the oldest first
}

// Message is one recipient of one message.
type Message struct {
	ID        uuid.UUID `json:"message_id"`
	Index     uint32    `json:"recipient_index"`
	Recipient string    `json:"recipient"`
	MailFrom  string    `json:"mail_from"`
	Job       string    `json:"job"`
	Tenant    string    `json:"tenant"`
	Size      uint64    `json:"size"`
	Steps     []*Step   `json:"steps"`
}

// Step is one event. Durations are in microseconds, 0 for what did not happen.
type Step struct {
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"`
	Node        string    `json:"node"`
	Incarnation uuid.UUID `json:"incarnation"`
	Seq         uint64    `json:"seq"`

	Provider string `json:"provider,omitempty"`
	Source   string `json:"source,omitempty"`
	VMTA     string `json:"vmta,omitempty"`
	Queue    string `json:"queue,omitempty"`
	Client   string `json:"client,omitempty"`
	MXHost   string `json:"mx_host,omitempty"`
	MXIP     string `json:"mx_ip,omitempty"`
	Attempt  uint32 `json:"attempt,omitempty"`
	Phase    string `json:"phase,omitempty"`
	Code     uint16 `json:"code,omitempty"`
	Enhanced string `json:"enhanced,omitempty"`
	Reply    string `json:"reply,omitempty"`

	Category  string `json:"category,omitempty"`
	Class     string `json:"class,omitempty"`
	Dimension string `json:"dimension,omitempty"`

	Timings       Timings `json:"timings_us"`
	TLSVersion    string  `json:"tls_version,omitempty"`
	MessageOnConn uint32  `json:"message_on_connection,omitempty"`
	Open          uint32  `json:"open_connections,omitempty"`

	Limit  *Limit  `json:"limit,omitempty"`  // that was in force; nil where the configuration held
	Report *Report `json:"report,omitempty"` // of a step that came back
}

// Timings are the parts of an attempt, in microseconds.
type Timings struct {
	Queued   uint64 `json:"queued"` // since the message came in
	DNS      uint64 `json:"dns"`
	Connect  uint64 `json:"connect"`
	TLS      uint64 `json:"tls"`
	Transfer uint64 `json:"transfer"` // of which the five below are parts
	Mail     uint64 `json:"mail"`
	Rcpt     uint64 `json:"rcpt"`
	Data     uint64 `json:"data"`
	Body     uint64 `json:"body"`
	FinalDot uint64 `json:"final_dot"`
}

// Limit says under which limit an attempt went out.
type Limit struct {
	Epoch       uint64  `json:"epoch"`
	Actor       string  `json:"actor"`
	ReasonID    string  `json:"reason_id,omitempty"`
	Scope       string  `json:"held_back_by,omitempty"` // which limit held it back longest
	Canary      bool    `json:"canary,omitempty"`
	Rule        string  `json:"rule,omitempty"`        // the last four from limit_log
	Reason      string  `json:"reason,omitempty"`      //
	Rate        float64 `json:"rate,omitempty"`        // messages a second over all nodes
	Connections uint32  `json:"connections,omitempty"` // over all nodes
}

// Report says what came back, and how it was joined to its message.
type Report struct {
	FeedbackType string    `json:"feedback_type,omitempty"`
	ReportingMTA string    `json:"reporting_mta,omitempty"`
	Method       string    `json:"match_method,omitempty"`
	Confidence   float32   `json:"match_confidence"`
	Proven       bool      `json:"proven"`
	DeliveredAt  time.Time `json:"delivered_at"` // of the delivery it is about; zero if it is not attributed
}

// ErrNothing is wrapped by the error of a question without an answer; the error says what was looked
// for and how far back.
var ErrNothing = errors.New("nothing is known of it")

// parameter escapes a text for a query parameter, which ClickHouse reads as a field of TSV.
var parameter = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

func with(ctx context.Context, p clickhouse.Parameters) context.Context {
	for name, value := range p {
		p[name] = parameter.Replace(value)
	}
	return clickhouse.Context(ctx, clickhouse.WithParameters(p))
}

// Ask answers q. Without an answer it returns what was looked for and an error that wraps ErrNothing.
func Ask(ctx context.Context, conn driver.Conn, q Question) (*Trace, error) {
	t := &Trace{Asked: q.Text, Since: q.Since, Messages: []*Message{}}
	l := readAs(q.Text)
	if q.Key != "" {
		l.key = q.Key
		l.as = append(l.as, "key of a recipient")
	}
	if err := t.answer(ctx, conn, &l, q); err != nil {
		return nil, err
	}
	t.As = l.as
	if len(t.Messages) > 0 {
		return t, nil
	}
	if err := conn.QueryRow(ctx, "SELECT min(time) FROM events").Scan(&t.Oldest); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	if t.Oldest.Unix() <= 0 {
		t.Oldest = time.Time{}
	}
	return t, t.nothing()
}

func (t *Trace) nothing() error {
	stored := "the warehouse has no events at all"
	if !t.Oldest.IsZero() {
		stored = "the oldest event stored is of " + t.Oldest.Format(time.DateTime)
	}
	return fmt.Errorf("%q: %w: looked for it as %s since %s UTC; %s", t.Asked, ErrNothing, strings.Join(t.As, " and as "), t.Since.UTC().Format(time.DateTime), stored)
}

// lookup is what a text may be, as conditions on events.
type lookup struct {
	as         []string
	id         uuid.UUID // zero if it is none
	key        string
	recipients []string
	quoted     []string           // Message-IDs
	whole      map[uuid.UUID]bool // messages of which every recipient is wanted
}

// readAs says what a text may be. "message_id=" before it is how the log of a node writes an id.
func readAs(text string) lookup {
	text = strings.Trim(strings.TrimPrefix(strings.TrimSpace(text), "message_id="), `"`)
	l := lookup{whole: map[uuid.UUID]bool{}}
	if id, err := uuid.Parse(text); err == nil {
		l.id, l.whole[id] = id, true
		l.as = append(l.as, "message id "+id.String())
	}
	if suppression.IsKey(text) {
		l.key = strings.ToLower(text)
		l.as = append(l.as, "key of a recipient")
	}
	if len(l.as) > 0 {
		return l
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">")
	if strings.Contains(bare, "@") && bare == text {
		l.recipients = spellings(bare)
		l.as = append(l.as, "recipient")
	}
	l.quoted = []string{"<" + bare + ">", bare}
	return l
}

// spellings returns the ways in which a feeder may have written an address: the index finds whole values
// only.
func spellings(address string) []string {
	at := strings.LastIndexByte(address, '@')
	all := []string{address, strings.ToLower(address), address[:at] + strings.ToLower(address[at:]), suppression.Normalize(address)}
	slices.Sort(all)
	return slices.Compact(all)
}

// array writes values as an Array parameter. They are escaped twice: as literals here, as a field of TSV
// with all parameters.
func array(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	}
	return "[" + strings.Join(quoted, ",") + "]"
}

// The conditions by which messages are found, each by an index of events.
const (
	byID        = "message_id IN {ids:Array(UUID)}"
	byKey       = "recipient_key = {key:String}"
	byRecipient = "recipient IN ({r0:String}, {r1:String}, {r2:String}, {r3:String})"
	byMessageID = "hasAny(mapValues(headers), {quoted:Array(String)})"
	byPlace     = "time IN {times:Array(DateTime64(6, 'UTC'))} AND seq IN {seqs:Array(UInt64)}"
)

// offsets asks the projection by_recipient alone where the events of a recipient are, which takes a sixth of the time
// of a query that reads their columns by it.
const offsets = "SELECT _part_starting_offset + _part_offset FROM events WHERE " + byRecipient

// readRecipient returns the events that name one of the addresses, since a time.
func readRecipient(ctx context.Context, conn driver.Conn, addresses []string, since time.Time) ([]*found, error) {
	var split bool // over the shards of a cluster, each of which has its own offsets
	if err := conn.QueryRow(ctx, "SELECT engine = 'Distributed' FROM system.tables WHERE database = currentDatabase() AND name = 'events'").Scan(&split); err != nil {
		return nil, fmt.Errorf("look for the table events: %w", err)
	}
	p := clickhouse.Parameters{}
	for i := range 4 { // spellings has no more
		p[fmt.Sprintf("r%d", i)] = addresses[min(i, len(addresses)-1)]
	}
	if split {
		return readSteps(ctx, conn, byRecipient, p, since)
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"enable_shared_storage_snapshot_in_query":  1, // a merge in between would move the events
		"query_plan_optimize_lazy_materialization": 0, // with it ClickHouse 26.5 loses the column of the offsets
	}))
	return readSteps(ctx, conn, byRecipient+" AND _part_starting_offset + _part_offset IN ("+offsets+")", p, since)
}

func findQuery(condition string) string {
	return `
SELECT if(original_message_id != {none:UUID}, original_message_id, message_id) AS id, max(time) AS latest
FROM events
WHERE time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ` + condition + `
GROUP BY id
ORDER BY latest DESC
LIMIT {most:UInt64}`
}

// find adds the messages for which a condition holds, with the time of their last event, the newest first and one
// more than q.Limit at most.
func find(ctx context.Context, conn driver.Conn, condition string, p clickhouse.Parameters, q Question, latest map[uuid.UUID]time.Time) error {
	p["since"], p["most"], p["none"] = fmt.Sprint(q.Since.UnixMicro()), fmt.Sprint(q.Limit+1), uuid.Nil.String()
	rows, err := conn.Query(with(ctx, p), findQuery(condition))
	if err == nil {
		err = each(rows, func() error {
			var id uuid.UUID
			var at time.Time
			err := rows.Scan(&id, &at)
			if id != uuid.Nil { // a queue has none
				latest[id] = at
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("look for messages: %w", err)
	}
	return nil
}

// answer looks for what l may mean and fills in the messages. The steps of mail to an address are those that name it,
// and one query by its index is all; of other messages the ids are found first. An address that mail was sent to is
// not looked for among the Message-IDs.
func (t *Trace) answer(ctx context.Context, conn driver.Conn, l *lookup, q Question) error {
	var steps []*found
	var err error
	latest := map[uuid.UUID]time.Time{} // of the messages of which all steps are wanted
	if l.id != uuid.Nil {
		latest[l.id] = time.Time{}
	}
	if l.key != "" {
		if err := find(ctx, conn, byKey, clickhouse.Parameters{"key": l.key}, q, latest); err != nil {
			return err
		}
	}
	if len(l.recipients) > 0 {
		if steps, err = readRecipient(ctx, conn, l.recipients, q.Since); err != nil {
			return err
		}
	}
	if len(l.quoted) > 0 && len(steps)+len(latest) == 0 {
		l.as = append(l.as, "Message-ID")
		if err := find(ctx, conn, byMessageID, clickhouse.Parameters{"quoted": array(l.quoted)}, q, latest); err != nil {
			return err
		}
		for id := range latest {
			l.whole[id] = true
		}
	}
	whole := slices.Collect(maps.Keys(latest))
	named := map[uuid.UUID]bool{} // by more than a report, which may spell the address otherwise
	for _, s := range steps {
		id := s.at.message
		if id == uuid.Nil { // a queue has none
			continue
		}
		named[id] = named[id] || s.step.Report == nil
		if s.step.Time.After(latest[id]) {
			latest[id] = s.step.Time
		}
	}
	for id := range latest {
		if !slices.Contains(whole, id) && (!named[id] || began([]uuid.UUID{id}).Before(q.Since)) {
			whole = append(whole, id) // it may have other steps, or had some before
		}
	}
	ids := slices.SortedFunc(maps.Keys(latest), func(x, y uuid.UUID) int { return latest[y].Compare(latest[x]) })
	t.More = len(steps) == maxSteps
	if len(ids) > int(q.Limit) { //nolint:gosec // a number that an operator types
		t.More, ids = true, ids[:q.Limit]
	}
	if len(ids) == 0 {
		return nil
	}
	steps = slices.DeleteFunc(steps, func(s *found) bool {
		return slices.Contains(whole, s.at.message) || !slices.Contains(ids, s.at.message)
	})
	whole = slices.DeleteFunc(whole, func(id uuid.UUID) bool { return !slices.Contains(ids, id) })
	return t.fill(ctx, conn, ids, whole, steps, l)
}

func texts(ids []uuid.UUID) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
	}
	return all
}

func each(rows driver.Rows, scan func() error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// began returns a little before the earliest time in message ids (RFC 9562 section 5.7): no event of the messages is
// earlier, by any node's clock. Other ids say nothing.
func began(ids []uuid.UUID) time.Time {
	earliest := time.Now()
	for _, id := range ids {
		if id.Version() != 7 {
			return time.Unix(0, 0)
		}
		ms := int64(0)
		for _, b := range id[:6] {
			ms = ms<<8 | int64(b)
		}
		if at := time.UnixMilli(ms).Add(-time.Hour); at.Before(earliest) {
			earliest = at
		}
	}
	return earliest
}

// fill makes the messages ids of the steps, those of the messages whole, which are read, and the reports about them.
func (t *Trace) fill(ctx context.Context, conn driver.Conn, ids, whole []uuid.UUID, steps []*found, l *lookup) error {
	var more, reports, attributed []*found
	all := array(texts(ids))
	g, asking := errgroup.WithContext(ctx)
	if len(whole) > 0 {
		g.Go(func() (err error) {
			more, err = readSteps(asking, conn, byID, clickhouse.Parameters{"ids": array(texts(whole))}, began(whole))
			return err
		})
	}
	g.Go(func() (err error) {
		reports, err = readReports(asking, conn, all)
		return err
	})
	g.Go(func() (err error) {
		attributed, err = readAttributions(asking, conn, byID, clickhouse.Parameters{"ids": all})
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	steps = append(steps, more...)
	for _, r := range reports {
		if !slices.ContainsFunc(steps, func(s *found) bool { return s.id() == r.id() }) {
			steps = append(steps, r)
		}
	}
	steps, err := attribute(ctx, conn, steps, attributed)
	if err != nil {
		return err
	}
	byPlace := map[place]*Message{}
	for _, s := range steps {
		if !l.wants(s) {
			continue
		}
		m := byPlace[s.at]
		if m == nil {
			m = &Message{ID: s.at.message, Index: s.at.index}
			byPlace[s.at] = m
			t.Messages = append(t.Messages, m)
		}
		m.Recipient, m.MailFrom = cmp.Or(m.Recipient, s.recipient), cmp.Or(m.MailFrom, s.mailFrom)
		m.Job, m.Tenant, m.Size = cmp.Or(m.Job, s.job), cmp.Or(m.Tenant, s.tenant), cmp.Or(m.Size, s.size)
		m.Steps = append(m.Steps, s.step)
	}
	return explainLimits(ctx, conn, t.Messages)
}

// wants reports whether a step is of a recipient that was asked for. One that nobody names may be.
func (l *lookup) wants(s *found) bool {
	return l.whole[s.at.message] || l.key != "" && s.key == l.key || s.recipient == "" ||
		slices.ContainsFunc(l.recipients, func(r string) bool { return strings.EqualFold(r, s.recipient) })
}

// place is one recipient of a message.
type place struct {
	message uuid.UUID
	index   uint32
}

// eventID is the place of an event in its node's log.
type eventID struct {
	node        string
	incarnation uuid.UUID
	seq         uint64
}

func (f *found) id() eventID { return eventID{f.step.Node, f.step.Incarnation, f.step.Seq} }

// found is a step and what its message is.
type found struct {
	step                     *Step
	at                       place
	recipient, key, mailFrom string
	job, tenant              string
	size                     uint64
}

// stepColumns are what readSteps reads of events.
const stepColumns = `
    time, toString(kind) AS kind_name, node, incarnation, seq, message_id, recipient_index, recipient, recipient_key, mail_from, job, tenant, size,
    provider, source, vmta, queue, client_mta, client_ip, mx_host, mx_ip, attempt, toString(phase) AS phase_name, code, enhanced, reply,
    category, toString(class) AS class_name, toString(dimension) AS dimension_name,
    queued_us, dns_us, connect_us, tls_us, transfer_us, mail_us, rcpt_us, data_us, body_us, final_dot_us,
    tls_version, message_on_connection, open_connections, limit_epoch, limit_actor, limit_reason, limiting_scope, canary,
    feedback_type, reporting_mta, match_method, match_confidence, original_message_id, original_index
FROM events
WHERE time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')`

// stepsQuery reads the newest events for which a condition holds.
func stepsQuery(condition string) string {
	return "SELECT" + stepColumns + " AND " + condition + `
ORDER BY time DESC, node, seq
LIMIT {most:UInt64}`
}

// readReports returns the events of reports that name one of the messages by a verified token. Where they are is
// in their narrow copy.
func readReports(ctx context.Context, conn driver.Conn, ids string) ([]*found, error) {
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{"ids": ids, "most": fmt.Sprint(maxSteps)}), `
SELECT time, seq FROM reports WHERE original_message_id IN {ids:Array(UUID)} LIMIT {most:UInt64}`)
	var times, seqs []string
	if err == nil {
		err = each(rows, func() error {
			var at time.Time
			var seq uint64
			err := rows.Scan(&at, &seq)
			times, seqs = append(times, at.UTC().Format("2006-01-02 15:04:05.000000")), append(seqs, strconv.FormatUint(seq, 10))
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read reports: %w", err)
	}
	if len(times) == 0 {
		return nil, nil
	}
	return readSteps(ctx, conn, byPlace+" AND original_message_id IN {ids:Array(UUID)}", clickhouse.Parameters{
		"ids": ids, "times": array(times), "seqs": "[" + strings.Join(seqs, ",") + "]",
	}, time.Unix(0, 0))
}

// readSteps returns the events since a time for which a condition holds, in order: the newest, if there are too many.
func readSteps(ctx context.Context, conn driver.Conn, condition string, p clickhouse.Parameters, since time.Time) ([]*found, error) {
	p["since"], p["most"] = fmt.Sprint(max(0, since.UnixMicro())), fmt.Sprint(maxSteps)
	rows, err := conn.Query(with(ctx, p), stepsQuery(condition))
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	var all []*found
	err = each(rows, func() error {
		s, f := &Step{}, &found{}
		var original place
		var limit Limit
		var report Report
		var clientMTA, clientIP, mxIP string
		tm := &s.Timings
		if err := rows.Scan(&s.Time, &s.Kind, &s.Node, &s.Incarnation, &s.Seq, &f.at.message, &f.at.index, &f.recipient, &f.key, &f.mailFrom, &f.job, &f.tenant, &f.size,
			&s.Provider, &s.Source, &s.VMTA, &s.Queue, &clientMTA, &clientIP, &s.MXHost, &mxIP, &s.Attempt, &s.Phase, &s.Code, &s.Enhanced, &s.Reply,
			&s.Category, &s.Class, &s.Dimension, &tm.Queued, &tm.DNS, &tm.Connect, &tm.TLS, &tm.Transfer, &tm.Mail, &tm.Rcpt, &tm.Data, &tm.Body, &tm.FinalDot,
			&s.TLSVersion, &s.MessageOnConn, &s.Open, &limit.Epoch, &limit.Actor, &limit.ReasonID, &limit.Scope, &limit.Canary,
			&report.FeedbackType, &report.ReportingMTA, &report.Method, &report.Confidence, &original.message, &original.index); err != nil {
			return err
		}
		s.MXIP, s.Client = addr(mxIP), hostAndIP(clientMTA, addr(clientIP))
		if limit != (Limit{}) {
			s.Limit = &limit
		}
		if isReport(s.Kind) {
			s.Report = &report
			if original.message != uuid.Nil { // else only an attribution can tell
				f.at = original
			}
		}
		f.step = s
		all = append(all, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return all, nil
}

func isReport(kind string) bool {
	switch kind {
	case event.RemoteBounce.String(), event.RemoteStatus.String(), event.Complaint.String():
		return true
	}
	return false
}

// addr writes an address that a column of IPv6 has: IPv4 ones as such, none as "".
func addr(text string) string {
	if text == "::" {
		return ""
	}
	return strings.TrimPrefix(text, "::ffff:")
}

func hostAndIP(host, ip string) string {
	if ip == "" {
		return host
	}
	return strings.TrimSpace(host + " (" + ip + ")")
}
