package warehouse

import (
	"fmt"
	"slices"
	"strings"

	"carom/schemas/event"
)

// A rollUp is a table of sums over events, or over a finer roll-up, in steps of time. The tables,
// their views and the queries that fill or check them are all rendered from rollUps. Rows are
// states: read them with sum(), min(), max() or quantiles…Merge() and GROUP BY.
//
// A view costs at each insert, the more the more its rows are like single events. So views fill only
// what is wanted within seconds, by few keys; a job fills the others when an hour is over.
type rollUp struct {
	Table   string
	Comment string // of the table
	Why     string // of ORDER BY and of what is left out
	From    string // table that RollUp fills it from: a finer roll-up, or events; empty: a materialized view fills it from events
	Step    string // of ts, in words
	Days    int    // how long rows live

	order     string // ORDER BY
	partition string // function of ts
	bucket    string // start of the step, of %s
	where     string // which events count
	join      string // ARRAY JOIN, for an event that counts under several keys
	keys      []rollUpColumn
	values    []rollUpColumn
}

// A rollUpColumn is a key or a value of a roll-up.
type rollUpColumn struct {
	name    string
	kind    string // type of a key; aggregate function and type of a value ("sum, UInt64")
	expr    string // over events
	comment string
}

const (
	tenSeconds = "toStartOfInterval(%s, INTERVAL 10 SECOND)"
	minute     = "toStartOfMinute(%s)"
	hour       = "toStartOfHour(%s)"
	day        = "toStartOfDay(%s)"

	byDay   = "toYYYYMMDD"
	byMonth = "toYYYYMM"

	lowCardinality = "LowCardinality(String)"
)

// evidence selects the events that count as an attempt of (provider, source).
const evidence = `kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred')
    AND provider != '' AND source != ''
    AND (scope NOT IN ('domain', 'url', 'recipient') OR scope = 'recipient' AND dimension = 'user')`

// The values of k10s and k1m.
var answers = []rollUpColumn{
	{"ok", "sum, UInt64", "countIf(dimension = 'ok')", "accepted"},
	{"usr", "sum, UInt64", "countIf(dimension = 'user')", "refused: no such user"},
	{"rate", "sum, UInt64", "countIf(dimension = 'rate')", "refused: too many messages a second"},
	{"conn", "sum, UInt64", "countIf(dimension = 'connections')", "refused: too many connections"},
	{"msgc", "sum, UInt64", "countIf(dimension = 'messages')", "refused: too many messages on the connection"},
	{"block", "sum, UInt64", "countIf(dimension = 'block')", "refused: the source is blocked"},
	{"grey", "sum, UInt64", "countIf(dimension = 'greylist')", "refused: greylisted"},
	{"unav", "sum, UInt64", "countIf(dimension = 'unavailable')", "receiver unavailable, connection failures included"},
	{"content", "sum, UInt64", "countIf(dimension = 'content')", "refused: content"},
	{"auth", "sum, UInt64", "countIf(dimension = 'auth')", "refused: authentication of the sender"},
	{"other", "sum, UInt64", "countIf(dimension IN ('', 'other'))", "refused: unclassified"},
	{"n1", "sum, UInt64", "countIf(kind != 'queue-deferred' AND attempt <= 1)", "first attempts"},
	{"f1", "sum, UInt64", "countIf(kind != 'queue-deferred' AND attempt <= 1 AND dimension IN ('', 'other'))", "unclassified refusals among n1"},
	{"n2", "sum, UInt64", "countIf(kind != 'queue-deferred' AND attempt > 1)", "retries"},
	{"f2", "sum, UInt64", "countIf(kind != 'queue-deferred' AND attempt > 1 AND dimension IN ('', 'other'))", "unclassified refusals among n2"},
	{"canaries", "sum, UInt64", "countIf(canary)", "attempts that were canaries"},
	{"canary_block", "sum, UInt64", "countIf(canary AND dimension = 'block')", "canaries among block"},
	{"max_open", "max, UInt32", "max(open_connections)", "most connections of the key that one node had open"},
	{"min_msgc_idx", "min, UInt32", "min(if(dimension = 'messages' AND message_on_connection > 0, message_on_connection, 4294967295))", "smallest message number on a connection that msgc was answered to; 4294967295 for none"},
	{"sample_reply", "max, String", "substring(maxIf(reply, dimension NOT IN ('ok', 'user')), 1, 500)", "one of the refusals, cut; empty for none"},
}

// lastArrived is a value of k10s. Microseconds would be half of what a row takes.
var lastArrived = rollUpColumn{"last_arrived", "max, DateTime('UTC')", "toDateTime(max(arrived) + toIntervalMicrosecond(999999), 'UTC')", "second by which the last of these events had reached ClickHouse"}

// The values of the roll-ups for people.
var (
	counts = []rollUpColumn{
		{"events", "sum, UInt64", "count()", "events"},
		{"recipients", "sum, UInt64", "sum(recipients)", "recipients that they speak of; a queue-deferred event is one with many"},
		{"first_attempts", "sum, UInt64", "countIf(attempt = 1)", "events that are the answer to the first attempt for their recipient"},
	}
	octets = rollUpColumn{"octets", "sum, UInt64", "sum(size)", "octets of the messages"}

	// One in ten thousand messages that takes a day must not hide behind a mean, hence the counts.
	delays = []rollUpColumn{
		{"within_1m", "sum, UInt64", "countIf(kind = 'delivered' AND queued_us <= 60000000)", "delivered within a minute of acceptance"},
		{"within_10m", "sum, UInt64", "countIf(kind = 'delivered' AND queued_us <= 600000000)", "delivered within ten minutes"},
		{"within_1h", "sum, UInt64", "countIf(kind = 'delivered' AND queued_us <= 3600000000)", "delivered within an hour"},
	}

	outcome = []rollUpColumn{
		{"kind", typeOf("kind"), "kind", "which step the events are"},
		{"class", typeOf("class"), "class", "hard: the address is dead; soft: it is not"},
		{"dimension", typeOf("dimension"), "dimension", "what the replies are about"},
	}
	provider  = rollUpColumn{"provider", lowCardinality, "provider", "who decides about the mail; empty before resolution"}
	source    = rollUpColumn{"source", lowCardinality, "source", "address that the receiver sees"}
	tenant    = rollUpColumn{"tenant", lowCardinality, "tenant", "on whose behalf; empty for the events of a whole queue"}
	byPath    = with([]rollUpColumn{provider, source, {"vmta", lowCardinality, "vmta", "virtual MTA"}, {"pool", lowCardinality, "pool", "pool that the virtual MTA was taken from"}}, outcome...)
	byMinute  = with(byPath, rollUpColumn{"category", lowCardinality, "category", "category of the replies"})
	byCause   = with(byMinute, tenant)
	byJob     = with([]rollUpColumn{{"job", lowCardinality, "job", "job of the messages, empty for none"}, tenant, provider}, outcome...)
	byDomain  = with([]rollUpColumn{{"recipient_domain", lowCardinality, "recipient_domain", "domain of the recipients"}, provider}, outcome...)
	bySender  = with([]rollUpColumn{{"from_domain", lowCardinality, "from_domain", "domain of the From field"}, {"dkim_domain", lowCardinality, "dkim_domain", "a d= that carom signed with, empty for none"}, {"signature", "UInt8", "toUInt8(place - 1)", "0 for the first signature of a message or none: sums over all signatures count a message once for each"}, provider}, outcome...)
	latencies = []rollUpColumn{
		{"attempts", "sum, UInt64", "count()", "attempts for one recipient"},
		{"to_deliver", quantiles, quantilesOf("queued_us", "kind = 'delivered'"), "microseconds from acceptance to delivery, of the delivered"},
		{"dns", quantiles, quantilesOf("dns_us", "dns_us > 0"), "microseconds of DNS look-ups, where there were some"},
		{"connect", quantiles, quantilesOf("connect_us", "connect_us > 0"), "microseconds until the greeting, of new connections"},
		{"tls", quantiles, quantilesOf("tls_us", "tls_us > 0"), "microseconds of the TLS handshake, of new connections"},
		{"transfer", quantiles, quantilesOf("transfer_us", "transfer_us > 0"), "microseconds from MAIL to the last reply"},
	}
)

// quantiles is the aggregate function of states of quantiles: how often each value was there. Any
// levels may be asked of it.
const quantiles = "quantilesBFloat16(0.5, 0.9, 0.99), Float64"

// quantilesOf rounds values to eighths of an octave, 4.5 % at most: a state then holds a few dozen
// numbers, where a t-digest grows to a thousand.
func quantilesOf(column, condition string) string {
	return "quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(" + column + ") * 8) / 8), " + condition + ")"
}

const (
	oneRecipient = "kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0"
	hourly       = "toStartOfHour(ts), " // first in ORDER BY: a question about an hour reads an hour

	eventsTable = "events"
)

// rollUps lists every roll-up; a finer one stands before what is filled from it.
var rollUps = slices.Concat(
	[]rollUp{
		{
			Table: "k10s", Days: 2, Step: "ten seconds", bucket: tenSeconds, partition: byDay, order: "provider, source, epoch, ts", where: evidence,
			Comment: "Answers per key and limit epoch in steps of ten seconds: the evidence of the control loop",
			Why:     "the control job reads the present epoch of one key",
			keys:    []rollUpColumn{provider, source, {"epoch", "UInt64", "limit_epoch", "limit epoch that the attempts started under"}},
			values:  with(answers, lastArrived),
		},
		{
			Table: "k1m", Days: 15, Step: "minute", bucket: minute, partition: byDay, order: "provider, source, tenant, ts", where: evidence,
			Comment: "Answers per key and tenant in steps of a minute: the evidence of scores",
			Why:     "the score job reads the last hours of one key over all its tenants",
			keys:    []rollUpColumn{provider, source, tenant},
			values:  answers,
		},
		{
			Table: "k1h", From: "k1m", Days: 60, Step: "hour", bucket: hour, partition: byDay, order: "provider, source, tenant, ts",
			Comment: "Answers per key and tenant in steps of an hour: the slow part of scores",
			Why:     "the score job reads two weeks of one key over all its tenants",
			keys:    []rollUpColumn{provider, source, tenant},
			values:  answers,
		},
		{
			Table: "provider_minutes", Days: 16, Step: "minute", bucket: minute, partition: byDay, order: "provider, ts",
			where:   "provider != '' AND (kind = 'delivered' OR kind = 'bounced' AND class = 'hard' AND dimension = 'user' AND category != 'suppressed')",
			Comment: "Accepted mail and unknown users of each provider over all sources: the evidence of the breaker",
			Why:     "the breaker reads minutes and the same hour of two weeks of one provider",
			keys:    []rollUpColumn{provider},
			values: []rollUpColumn{
				{"delivered", "sum, UInt64", "countIf(kind = 'delivered')", "accepted"},
				{"unknown", "sum, UInt64", "countIf(kind = 'bounced')", "refused for good: no such user"},
			},
		},
		{
			Table: "scoped_refusals", Days: 2, Step: "ten seconds", bucket: tenSeconds, partition: byDay, order: "provider, scope, value, ts",
			where:   "kind IN ('deferred', 'bounced') AND provider != '' AND scope IN ('domain', 'url') AND scope_value != ''",
			Comment: "Refusals that are aimed at a domain or URL and say nothing of the source, in steps of ten seconds",
			Why:     "the loop reads the last minutes of every scope; refusals only: they are few",
			keys:    []rollUpColumn{provider, {"scope", typeOf("scope"), "scope", "what the refusal is aimed at: domain or url"}, {"value", "String", "scope_value", "the domain or URL that it names"}},
			values: []rollUpColumn{
				{"refusals", "sum, UInt64", "count()", "refusals"},
				{"sample_reply", "max, String", "substring(max(reply), 1, 500)", "one of them, cut"},
			},
		},
	},
	[]rollUp{
		{
			Table: "rollup_1m", Days: 8, Step: "minute", bucket: minute, partition: byDay, order: hourly + "provider, source, vmta, pool, kind, class, dimension, category, ts",
			Comment: "All events by provider, source, virtual MTA, pool, outcome and category, in steps of a minute",
			Why:     "curves over hours or days of one provider, or of one source of it; with tenants nearly every event would be a row",
			keys:    byMinute, values: with(with(counts, octets), delays...),
		},
	},
	steps(rollUp{
		Table: "rollup_1h", Days: 400, order: "ts, provider, source, tenant, vmta, pool, kind, class, dimension, category",
		Comment: "All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of %s",
		Why:     "curves over days or weeks of one provider, of one source of it, of one tenant",
		keys:    byCause, values: with(with(counts, octets), delays...),
	}, rollUp{Table: "rollup_1d", Days: 1500}),
	steps(rollUp{
		Table: "latency_1h", Days: 400, order: "ts, provider, source", where: oneRecipient,
		Comment: "Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of %s",
		Why:     "as rollup_1h; a state for each tenant would cost more than the events, whose delays rollup_1h and jobs_1h count",
		keys:    []rollUpColumn{provider, source}, values: latencies,
	}, rollUp{Table: "latency_1d", Days: 1500}),
	steps(rollUp{
		Table: "jobs_1h", Days: 35, order: "tenant, job, provider, kind, class, dimension, ts",
		Comment: "All events by job, tenant, provider and outcome, in steps of %s",
		Why:     "the report of one job, or of one tenant's jobs",
		keys:    byJob, values: with(with(counts, octets), delays...),
	}, rollUp{Table: "jobs_1d", Days: 400}),
	steps(rollUp{
		Table: "domains_1h", Days: 35, order: "recipient_domain, provider, kind, class, dimension, ts", where: "recipient_domain != ''",
		Comment: "All events by recipient domain and outcome, in steps of %s",
		Why:     "one domain among two hundred thousand",
		keys:    byDomain, values: counts,
	}, rollUp{Table: "domains_1d", Days: 400}),
	steps(rollUp{
		Table: "senders_1h", Days: 35, order: "from_domain, dkim_domain, signature, provider, kind, class, dimension, ts", where: "from_domain != ''",
		Comment: "All events by From domain, each DKIM domain, provider and outcome, in steps of %s",
		Why:     "the reputation of one From or DKIM domain",
		keys:    bySender, values: counts,
		join: "\nARRAY JOIN if(empty(dkim_domains), [''], dkim_domains) AS dkim_domain, arrayEnumerate(if(empty(dkim_domains), [''], dkim_domains)) AS place",
	}, rollUp{Table: "senders_1d", Days: 400}),
	[]rollUp{{
		Table: "reply_templates", Days: 400, Step: "day", bucket: day, partition: byMonth, order: "template, provider, category, ts", where: "reply_template != ''",
		Comment: "What receivers say, day by day: each template of replies with first and last time, count and a sample",
		Why:     "when was this reply first seen, and by whom",
		keys:    []rollUpColumn{{"template", lowCardinality, "reply_template", "reply with numbers, ids and addresses replaced"}, provider, {"category", lowCardinality, "category", "category of the reply"}},
		values: []rollUpColumn{
			{"first_seen", "min, DateTime('UTC')", "toDateTime(min(time), 'UTC')", "first time on that day"},
			{"last_seen", "max, DateTime('UTC')", "toDateTime(max(time), 'UTC')", "last time on that day"},
			{"events", "sum, UInt64", "count()", "events with such a reply"},
			{"sample", "any, String", "substring(any(reply), 1, 500)", "one of the replies, cut"},
		},
	}},
)

// steps returns the roll-up by the hour, which a job fills from events, and the one by the day, which
// is filled from it and differs in its name and retention.
func steps(hours, days rollUp) []rollUp {
	comment := hours.Comment
	hours.From, hours.Step, hours.bucket, hours.partition, hours.Comment = eventsTable, "hour", hour, byDay, fmt.Sprintf(comment, "an hour")
	d := hours
	d.Table, d.Days, d.From, d.Step, d.bucket, d.partition = days.Table, days.Days, hours.Table, "day", day, byMonth
	d.Comment = fmt.Sprintf(comment, "a day")
	return []rollUp{hours, d}
}

// with returns a new list of columns followed by more.
func with(columns []rollUpColumn, more ...rollUpColumn) []rollUpColumn {
	return slices.Concat(columns, more)
}

// typeOf returns the type of a column of events.
func typeOf(column string) string {
	for _, c := range event.Columns {
		if c.Name == column {
			return c.Type
		}
	}
	return "" // which ClickHouse refuses
}

// Columns returns the definitions of the columns after ts.
func (r rollUp) Columns() string {
	lines := make([]string, 0, len(r.keys)+len(r.values))
	for _, c := range r.keys {
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT %s", c.name, c.kind, quote(c.comment)))
	}
	for _, c := range r.values {
		kind, codec := "SimpleAggregateFunction("+c.kind+")", ""
		switch {
		case c.kind == quantiles:
			kind = "AggregateFunction(" + c.kind + ")"
		case c.summed():
			codec = " CODEC(T64, ZSTD(1))"
		case c == lastArrived:
			codec = " CODEC(Delta, ZSTD(1))"
		}
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT %s%s", c.name, kind, quote(c.comment), codec))
	}
	return strings.Join(lines, ",\n")
}

// summed reports whether the value is a sum, which can be compared with a sum over events.
func (c rollUpColumn) summed() bool { return strings.HasPrefix(c.kind, "sum, ") }

// Order returns the sorting key.
func (r rollUp) Order() string { return r.order }

// Partition returns the partitioning key.
func (r rollUp) Partition() string { return r.partition + "(ts)" }

// View returns the query of the view that fills the roll-up from what is inserted into events. A
// repaired row was counted when it was inserted first.
func (r rollUp) View() string { return r.fromEvents("events", "NOT repaired") }

// fromEvents returns a query of the roll-up's columns over the rows of a table of events of which
// condition holds.
func (r rollUp) fromEvents(table, condition string) string {
	where := make([]string, 0, 2)
	for _, w := range []string{condition, r.where} {
		if w != "" {
			where = append(where, w)
		}
	}
	filter := ""
	if len(where) > 0 {
		filter = "\nWHERE " + strings.Join(where, " AND ")
	}
	lines := make([]string, 0, 1+len(r.keys)+len(r.values))
	lines = append(lines, "    "+fmt.Sprintf(r.bucket, "toDateTime(time, 'UTC')")+" AS ts")
	for _, c := range slices.Concat(r.keys, r.values) {
		line := "    " + c.expr
		if c.expr != c.name {
			line += " AS " + c.name
		}
		lines = append(lines, line)
	}
	return "SELECT\n" + strings.Join(lines, ",\n") + "\nFROM " + table + r.join + filter + "\nGROUP BY ts, " + strings.Join(r.keyNames(), ", ")
}

// fromFiner returns a query of the roll-up's columns over r.From, of which condition must hold.
func (r rollUp) fromFiner(condition string) string {
	lines := make([]string, 0, 1+len(r.keys)+len(r.values))
	lines = append(lines, "    "+fmt.Sprintf(r.bucket, "f.ts")+" AS ts")
	for _, c := range r.keys {
		lines = append(lines, "    "+c.name)
	}
	for _, c := range r.values {
		function, _, _ := strings.Cut(c.kind, ", ")
		if c.kind == quantiles {
			function = "quantilesBFloat16MergeState(0.5, 0.9, 0.99)"
		}
		lines = append(lines, fmt.Sprintf("    %s(f.%s) AS %s", function, c.name, c.name))
	}
	return "SELECT\n" + strings.Join(lines, ",\n") + "\nFROM " + r.From + " AS f\nWHERE " + condition + "\nGROUP BY ts, " + strings.Join(r.keyNames(), ", ")
}

func (r rollUp) keyNames() []string {
	names := make([]string, len(r.keys))
	for i, c := range r.keys {
		names[i] = c.name
	}
	return names
}
