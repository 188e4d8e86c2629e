package warehouse

import (
	"fmt"
	"slices"
	"strings"
)

// A Measure is a count that may be summed over any rows of a roll-up. It is a column of the views
// traffic_minute, traffic_hour, traffic_day, job_day, domain_day and sender_day, and, summed, of
// the reports.
type Measure struct {
	Name    string
	Comment string // the column's comment: what is counted

	kind string // ClickHouse's type
	expr string // over one row of a roll-up
}

// SQL returns what the measure counts of one row of a roll-up, to be summed.
func (m Measure) SQL() string { return m.expr }

// Measures are the counts that the rates are made of, in the order of the columns. Each counts
// recipients, but for attempts and those named after them.
//
// A recipient is deferred for the first time at its first attempt or never: there is no second
// attempt without it. So the deferred first attempts count each deferred recipient once.
var Measures = []Measure{
	{"accepted", "recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet", "Int64", "toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0)"},
	{"finished", "recipients that were delivered or given up: delivered, hard_bounced and soft_bounced", "UInt64", "if(kind IN ('delivered', 'bounced', 'expired'), events, 0)"},
	{"delivered", "recipients that a receiver accepted", "UInt64", "if(kind = 'delivered', events, 0)"},
	{"hard_bounced", "recipients that were refused for good because the address is dead", "UInt64", "if(kind = 'bounced' AND class = 'hard', events, 0)"},
	{"soft_bounced", "recipients that were given up for another reason, expired ones included", "UInt64", "if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0)"},
	{"expired", "recipients that were given up because their time was over; part of soft_bounced", "UInt64", "if(kind = 'expired', events, 0)"},
	{"attempts", "attempts that a receiver answered, or that broke off: one a recipient", "UInt64", "if(kind IN ('delivered', 'deferred', 'bounced'), events, 0)"},
	{"deferred_attempts", "attempts that will be repeated; one recipient may have many", "UInt64", "if(kind = 'deferred', events, 0)"},
	{"first_attempts", "recipients that were attempted for the first time", "UInt64", "if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0)"},
	{"delivered_first", "recipients that were accepted at their first attempt", "UInt64", "if(kind = 'delivered', first_attempts, 0)"},
	{"deferred_recipients", "recipients that were deferred, each once, at its first attempt", "UInt64", "if(kind = 'deferred', first_attempts, 0)"},
	{"queue_failures", "attempts that failed for a whole queue, before any recipient: no connection, no route", "UInt64", "if(kind = 'queue-deferred', events, 0)"},
	{"suppressed", "recipients that were taken in and not mailed because they are suppressed", "UInt64", "if(kind = 'suppressed', events, 0)"},
	{"removed", "recipients that an operator deleted or a queue discards", "UInt64", "if(kind IN ('deleted', 'discarded'), events, 0)"},
}

// Volumes are further counts of the views traffic_minute, traffic_hour, traffic_day and job_day.
var Volumes = []Measure{
	{"octets_delivered", "octets of the delivered messages, once for each recipient", "UInt64", "if(kind = 'delivered', octets, 0)"},
	{"delivered_1m", "of the delivered, those that took a minute at most since they were accepted here", "UInt64", "if(kind = 'delivered', within_1m, 0)"},
	{"delivered_10m", "of the delivered, those that took ten minutes at most", "UInt64", "if(kind = 'delivered', within_10m, 0)"},
	{"delivered_1h", "of the delivered, those that took an hour at most", "UInt64", "if(kind = 'delivered', within_1h, 0)"},
}

// A Rate is a share of two sums of measures, 0 to 1. There is one definition of each: views,
// documents and dashboards use these.
type Rate struct {
	Name        string
	Numerator   string // measure
	Denominator string // measure
	Title       string
	Words       string // what it is, and what it is not
}

// SQL returns the rate over rows of the view that a query calls alias; NULL where there is nothing
// to divide by. Without the alias a query that also names its sum of a measure after the measure
// would sum that sum.
func (r Rate) SQL(alias string) string {
	return fmt.Sprintf("sum(%s.%s) / nullIf(sum(%s.%s), 0)", alias, r.Numerator, alias, r.Denominator)
}

// SQLIf is SQL over those of the rows of which when holds.
func (r Rate) SQLIf(alias, when string) string {
	return fmt.Sprintf("sumIf(%s.%s, %s) / nullIf(sumIf(%s.%s, %s), 0)", alias, r.Numerator, when, alias, r.Denominator, when)
}

// Rates are those of traffic. With its three parts delivery_rate, hard_bounce_rate and
// soft_bounce_rate the mail that is done is complete: they add up to 1.
var Rates = []Rate{
	{
		"delivery_rate", "delivered", "finished", "Delivery",
		"Accepted by the receiver, of all recipients that are done: delivered, refused for good, or expired. What is still queued is in neither; nor is suppressed, deleted or discarded mail, which no receiver was asked about.",
	},
	{
		"hard_bounce_rate", "hard_bounced", "finished", "Hard bounce",
		"Refused for good while the message was handed over, with an answer that says that the address is dead. Bounces that came by mail later are not here but in the rates by day of delivery.",
	},
	{
		"soft_bounce_rate", "soft_bounced", "finished", "Soft bounce",
		"Given up for any other reason: refused for good because of content, reputation or policy, or expired in the queue.",
	},
	{
		"first_attempt_rate", "delivered_first", "first_attempts", "First attempt",
		"Accepted at the very first attempt, of all recipients that were attempted for the first time. Failed connections are no attempts of a recipient.",
	},
	{
		"attempt_deferral_rate", "deferred_attempts", "attempts", "Deferral of attempts",
		"How often the answer was \"later\". A message that is tried twenty times counts twenty times, so this is the load that a receiver turns away and not the mail that is late.",
	},
	{
		"recipient_deferral_rate", "deferred_recipients", "first_attempts", "Deferral of recipients",
		"Recipients whose first attempt was deferred, each once, however often it was tried afterwards. This is the mail that is late.",
	},
}

// ReportRates are those of reports that came later, by the day of the delivery that they answer. A
// day counts in a rate from when it is old enough, in numerator and denominator alike.
var ReportRates = []Rate{
	{
		"complaint_rate_24h", "complaints_24h", "delivered_24h", "Complaints within 24 h",
		"Recipients who complained within 24 hours of their delivery, of those delivered that day. Complaints are counted once a message and recipient, and only proven ones.",
	},
	{
		"complaint_rate_72h", "complaints_72h", "delivered_72h", "Complaints within 72 h",
		"The same within 72 hours.",
	},
	{
		"complaint_rate_7d", "complaints_7d", "delivered_7d", "Complaints within 7 days",
		"The same within 7 days: what a receiver's own figure comes to. A complaint is never divided by the mail of the day on which it came in.",
	},
	{
		"later_bounce_rate_72h", "bounces_72h", "delivered_72h", "Bounces that came later",
		"Accepted first and returned by mail within 72 hours (asynchronous bounces), of those delivered that day. They are part of delivered in the rates above.",
	},
}

// columnsOf returns the columns of measures in a view, with their comments.
func columnsOf(measures []Measure) string {
	lines := make([]string, len(measures))
	for i, m := range measures {
		lines[i] = fmt.Sprintf("    %s %s COMMENT %s", m.Name, m.kind, quote(m.Comment))
	}
	return strings.Join(lines, ",\n")
}

// expressionsOf returns the measures of each row of a roll-up.
func expressionsOf(measures []Measure) string {
	lines := make([]string, len(measures))
	for i, m := range measures {
		lines[i] = fmt.Sprintf("    %s AS %s", m.expr, m.Name)
	}
	return strings.Join(lines, ",\n")
}

// sumsOfMeasures returns the measures, summed.
func sumsOfMeasures() string {
	lines := make([]string, len(Measures))
	for i, m := range Measures {
		lines[i] = fmt.Sprintf("    sum(t.%s) AS %s", m.Name, m.Name)
	}
	return strings.Join(lines, ",\n")
}

// rateColumns returns the columns of rates in a view, with their comments.
func rateColumns() string {
	lines := make([]string, len(Rates))
	for i, r := range Rates {
		lines[i] = fmt.Sprintf("    %s Nullable(Float64) COMMENT %s", r.Name, quote(fmt.Sprintf("%s of %s, 0 to 1; NULL without any", r.Numerator, r.Denominator)))
	}
	return strings.Join(lines, ",\n")
}

// ratesOf returns the rates of measures that are summed already.
func ratesOf() string {
	lines := make([]string, len(Rates))
	for i, r := range Rates {
		lines[i] = fmt.Sprintf("    %s / nullIf(%s, 0) AS %s", r.Numerator, r.Denominator, r.Name)
	}
	return strings.Join(lines, ",\n")
}

// namesOfMeasures returns the names of the measures.
func namesOfMeasures() string {
	names := make([]string, len(Measures))
	for i, m := range Measures {
		names[i] = m.Name
	}
	return strings.Join(names, ", ")
}

// noMeasures returns zeroes in place of the measures, for the rows of a union that have none.
func noMeasures() string {
	names := make([]string, len(Measures))
	for i, m := range Measures {
		names[i] = "0 AS " + m.Name
	}
	return strings.Join(names, ", ")
}

// NewestHour is an expression of the newest hour of which events are here; 1970 without any. The view
// rollup_1m has it at once, jobs_1h when rollup_1m is past its retention.
const NewestHour = "toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h)))"

// mature returns the condition that a day has had so many hours after its end: by the newest hour
// of which something is here.
func mature(day string, days int) string {
	return fmt.Sprintf("toDateTime(%s, 'UTC') + INTERVAL %d DAY <= %s + INTERVAL 1 HOUR", day, days, NewestHour)
}

// upToNow returns a roll-up and, of what it does not reach yet, those of its family that it is filled
// from and the events, in the order of tables. columns are those that are wanted beside ts. A job
// fills steps from the oldest on, so that the newest one tells how far they reach.
func upToNow(columns string, tables ...string) (string, error) {
	parts := []string{fmt.Sprintf("    SELECT ts, %s FROM %s", columns, tables[0])}
	var reached []string
	var step string // of the first
	for i, t := range tables {
		at := slices.IndexFunc(rollUps, func(r rollUp) bool { return r.Table == t })
		if at < 0 || rollUps[at].From == "" || i < len(tables)-1 && rollUps[at].From != tables[i+1] {
			return "", fmt.Errorf("roll-up %s is not filled from the next table", t)
		}
		r := rollUps[at]
		if i == 0 {
			step = r.bucket
		}
		reached = append(reached, fmt.Sprintf("(SELECT max(ts) + INTERVAL 1 %s FROM %s)", r.Step, t))
		from := reached[0]
		if len(reached) > 1 {
			from = "greatest(" + strings.Join(reached, ", ") + ")"
		}
		next, condition := r.From, "WHERE f.ts >= "+from
		if next == eventsTable {
			next, condition = "(\n"+r.fromEvents(eventsTable, "time >= "+from)+"\n)", ""
		}
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("SELECT %s AS ts, %s FROM %s AS f %s", fmt.Sprintf(step, "f.ts"), columns, next, condition)))
	}
	return "(\n" + strings.Join(parts, "\n    UNION ALL\n") + "\n)", nil
}
