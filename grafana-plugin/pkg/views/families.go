package views

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// replies is what receivers said by day. It has no outcome beside the category.
var replies = &family{
	name: "replies", fields: map[string]string{"reply_template": "template", "provider": "", "category": ""}, values: []string{"template", "events", "first_seen", "last_seen", "sample"},
	levels: []level{{table: "reply_templates", unit: oneDay, keep: 400 * days, toNow: true}},
	where:  "category != 'delivered'",
	extra: []extra{
		{Column{Name: "first_seen", Title: "First seen"}, "min(first_seen)"},
		{Column{Name: "last_seen", Title: "Last seen"}, "max(last_seen)"},
		{Column{Name: "sample", Title: "One of them"}, "any(sample)"},
	},
}

var answers = metric("replies", unitCount, "Answers that refuse, now or for good, by the text without what differs from mail to mail.", "sum(events)", FillZero, replies)

// cohort is complaints and later bounces by the day of the delivery that they answer.
var cohort = &family{
	name: "cohort", fields: plain("provider", "source", "tenant"),
	values: []string{"complaints_24h", "delivered_24h", "complaints_72h", "delivered_72h", "complaints_7d", "delivered_7d", "bounces_72h", "hard_bounces_72h", "delivered"},
	levels: []level{{table: "cohort_day", unit: oneDay, keep: 1500 * days, toNow: true}},
	source: func(s scope) string {
		// The day is a Date: compared as one, the filter reaches the tables below the view.
		where := strings.NewReplacer("ts >= "+s.from, "day >= toDate("+s.from+")", "ts < "+s.to, "day <= toDate("+s.to+")").Replace(s.where)
		return "(\n    SELECT toDateTime(day, 'UTC') AS ts, " + strings.Join(s.wanted, ", ") + " FROM cohort_day WHERE " + where + "\n) AS r"
	},
}

func cohortRates() []Metric {
	return []Metric{
		metric("complaint_rate_24h", unitShare, "Complaints within 24 hours of the delivery, of those delivered that day.", "sum(complaints_24h) / nullIf(sum(delivered_24h), 0)", FillNull, cohort).titled("Complaints within 24 h").weighed("sum(delivered_24h)"),
		metric("complaint_rate_72h", unitShare, "The same within 72 hours.", "sum(complaints_72h) / nullIf(sum(delivered_72h), 0)", FillNull, cohort).titled("Complaints within 72 h").weighed("sum(delivered_72h)"),
		metric("complaint_rate_7d", unitShare, "The same within seven days: what a receiver's own figure comes to.", "sum(complaints_7d) / nullIf(sum(delivered_7d), 0)", FillNull, cohort).titled("Complaints within 7 days").weighed("sum(delivered_7d)"),
	}
}

func laterBounces() []Metric {
	return []Metric{
		metric("later_bounce_rate_72h", unitShare, "Accepted first and returned by mail within 72 hours, of those delivered that day.", "sum(bounces_72h) / nullIf(sum(delivered_72h), 0)", FillNull, cohort).titled("Bounces that came later").weighed("sum(delivered_72h)"),
	}
}

// complained is each proven complaint, by the time at which it came.
var complained = &family{
	name: "complaints", fields: plain("provider", "source", "vmta", "pool", "tenant", "job", "from_domain", "feedback_type"), values: []string{"hours"},
	levels: []level{{table: "attributions", unit: time.Second, keep: 400 * days, toNow: true}},
	source: func(s scope) string {
		return "(\n    SELECT time AS ts, " + list(s.wanted) + " FROM complaints WHERE " + overTime(s) + "\n) AS r"
	},
}

func complaintMetrics() []Metric {
	return append([]Metric{
		metric("complaints", unitCount, "Proven complaints, the first of each message and recipient, by the time at which they came.", "count()", FillZero, complained),
		metric("hours_to_complain", "h", "Half of the complaints came within so many hours of the delivery.", "quantile(0.5)(hours)", FillNull, complained).titled("Hours until the complaint").weighed("count()"),
	}, cohortRates()...)
}

// list joins columns for a SELECT that has one before.
func list(columns []string) string {
	if len(columns) == 0 {
		return "1 AS one"
	}
	return strings.Join(columns, ", ")
}

// overTime returns the conditions for a table whose column is called time.
func overTime(s scope) string {
	return strings.NewReplacer("ts >= "+s.from, "time >= "+s.from, "ts < "+s.to, "time < "+s.to).Replace(s.where)
}

// state returns the conditions for a table of gauges. A table shows the last reading of the time
// range: so a queue that is empty by then is not in it.
func (s scope) state(table string) string {
	where := overTime(s)
	if s.table {
		where += fmt.Sprintf(" AND time > (SELECT max(time) FROM %s WHERE time >= %s AND time < %s) - INTERVAL 30 SECOND", table, s.from, s.to)
	}
	return where
}

// gaugeValues are the numbers of gauges that are shown, and gaugeWords what says which limit they are about: that
// which held mail back most.
var (
	gaugeValues = []string{"backlog", "open_connections", "effective_rate", "lease_rate", "static_rate", "adaptive_rate", "throttle_bound", "local_factor", "warmup_start"}
	gaugeWords  = map[string]string{"held_back_by": "limit_scope", "binding_limit": "limit", "set_by": "limit_by"}
)

func gaugesOf(condition string) *family {
	return &family{
		name: "gauges", fields: plain("provider", "source", "node", "limit_scope"), values: slices.Concat(gaugeValues, slices.Sorted(maps.Keys(gaugeWords))),
		levels: []level{{table: "gauges", unit: 10 * time.Second, keep: 15 * days, toNow: true}},
		extra: []extra{
			{Column{Name: "held_back_by", Title: "Held back by"}, "argMax(held_back_by, throttle_bound)"},
			{Column{Name: "binding_limit", Title: "Limit"}, "argMax(binding_limit, throttle_bound)"},
			{Column{Name: "set_by", Title: "Set by"}, "argMax(set_by, throttle_bound)"},
		},
		source: func(s scope) string {
			keys := union([]string{"provider", "source", "node"}, s.fields)
			columns := make([]string, 0, len(s.wanted))
			for _, c := range s.wanted {
				switch word := gaugeWords[c]; {
				case word != "":
					columns = append(columns, "argMax(g."+word+", (g.throttle_bound, g.time)) AS "+c)
				case c == "warmup_start":
					columns = append(columns, "max("+c+") AS "+c)
				case slices.Contains(gaugeValues, c):
					columns = append(columns, "avg("+c+") AS "+c)
				}
			}
			ts := fmt.Sprintf(s.bucket, "time")
			if s.table {
				ts = s.to + " - INTERVAL 1 SECOND" // the range ends before it
			}
			return fmt.Sprintf("(\n    SELECT %s AS ts, %s FROM gauges AS g WHERE %s%s GROUP BY ts, %s\n) AS r", ts, strings.Join(append(keys, columns...), ", "), s.state("gauges"), condition, strings.Join(keys, ", "))
		},
	}
}

var gauges = gaugesOf("")

// changes is the limit of each key from one change to the next.
var changes = &family{
	name: "limit changes", fields: plain("provider", "source"), values: []string{"rate_new", "connections_new", "messages_new"},
	levels: []level{{table: "limit_log", unit: time.Second, keep: 400 * days, toNow: true}}, apart: []string{"provider", "source"},
	source: func(s scope) string {
		// What was in force at the beginning is the last change before.
		where := strings.ReplaceAll(s.where, "ts >= "+s.from+" AND ", "")
		ts := "greatest(l.ts, toDateTime64(" + s.from + ", 6, 'UTC'))"
		if s.table {
			ts = "l.ts"
		}
		return fmt.Sprintf("(\n    SELECT %s AS ts, %s FROM limit_log AS l WHERE %s AND kind != 'would_change'\n) AS r",
			ts, strings.Join(s.wanted, ", "), strings.ReplaceAll(where, "ts < ", "l.ts < "))
	},
	extra: []extra{{Column{Name: "changed_at", Title: "Since"}, "max(ts)"}},
}

func limits() []Metric {
	merged := func(m Metric) Metric { m.merge = MergeMax; return m }
	return slices.Concat([]Metric{
		metric("limit_rate", unitPerSec, "Limit of the loop in messages a second over all nodes, from one change to the next.", "argMax(rate_new, ts)", FillPrevious, changes),
		merged(metric("limit_connections", unitCount, "Limit of the loop in connections over all nodes.", "argMax(connections_new, ts)", FillPrevious, changes)),
		merged(metric("limit_messages", unitCount, "Limit of the loop in messages per connection.", "argMax(messages_new, ts)", FillPrevious, changes)),
		metric("accepted_per_second", unitPerSec, "Messages that the receivers accepted, a second.", perSecond(sum("delivered")), FillZero, traffic).weighed(sum("delivered")),
		metric("refused_per_second", unitPerSec, "Attempts that were answered with too fast, too many, or a block, a second.", perSecond(mail["throttled"].expr+" + "+mail["blocked"].expr), FillZero, traffic).weighed(sum("attempts")),
		metric("effective_rate", unitPerSec, "Messages a second that bind now, over all nodes; 0 where nothing binds.", "sum(effective_rate)", FillNull, gauges),
		metric("lease_rate", unitPerSec, "Messages a second of the leases in force.", "sum(lease_rate)", FillNull, gauges),
		metric("static_rate", unitPerSec, "Messages a second by the configuration; 0 for no limit.", "sum(static_rate)", FillNull, gauges),
		metric("adaptive_rate", unitPerSec, "Ceiling of the loop by the configuration.", "sum(adaptive_rate)", FillNull, gauges),
		metric("backlog", unitCount, "Recipients that are due and wait.", "sum(backlog)", FillNull, gauges),
		metric("open_connections", unitCount, "Open connections.", "sum(open_connections)", FillNull, gauges),
		metric("throttle_bound", unitShare, "Share of the time in which the limit held mail back, on the node where it did most.", "max(throttle_bound)", FillNull, gauges),
		metric("local_factor", unitShare, "Factor of the local guard, on the node where it acts most; 1 if it does not act.", "min(local_factor)", FillNull, gauges).lowIsBad(),
	}, pick("throttled_rate", "blocked_rate"))
}

// queueValues are the columns of queue_gauges that are shown, with how the rows of one reading are put
// together.
var queueValues = []struct{ name, together string }{
	{"ready", "sum"}, {"waiting", "sum"}, {"held", "sum"}, {"paused", "sum"}, {"oldest_age", "max"}, {"queues", "sum"}, {"backoff", "sum"},
}

var queues = &family{
	name: "queues", fields: plain("provider", "source", "queue", "vmta", "tenant", "job", "node", "limit_scope", "limit"),
	values: []string{"ready", "waiting", "held", "paused", "oldest_age", "queues", "backoff"},
	levels: []level{{table: "queue_gauges", unit: 10 * time.Second, keep: 15 * days, toNow: true}},
	source: func(s scope) string {
		// A reading is a row for each queue, tenant and job. Its sums, then the largest of the step.
		keys := union([]string{"ts", "node"}, s.fields)
		sums, most := make([]string, 0, len(queueValues)), make([]string, 0, len(queueValues))
		for _, v := range queueValues {
			if slices.Contains(s.wanted, v.name) {
				sums = append(sums, v.together+"("+v.name+") AS "+v.name)
				most = append(most, "max("+v.name+") AS "+v.name)
			}
		}
		ts := fmt.Sprintf(s.bucket, "time")
		if s.table {
			ts = s.to
		}
		key := strings.Join(keys, ", ")
		inner := strings.Join(slices.Concat([]string{ts + " AS ts", "node"}, slices.DeleteFunc(slices.Clone(s.fields), func(f string) bool { return f == "node" }), []string{"time AS reading"}, sums), ", ")
		return fmt.Sprintf("(\n    SELECT %s FROM\n    (\n        SELECT %s FROM queue_gauges WHERE %s GROUP BY %s, reading\n    )\n    GROUP BY %s\n) AS r",
			strings.Join(append(keys, most...), ", "), inner, s.state("queue_gauges"), key, key)
	},
}

func queueMetrics() []Metric {
	return []Metric{
		metric("queued", unitCount, "Recipients in the queues: ready, waiting, held and paused.", "sum(ready + waiting + held + paused)", FillNull, queues),
		metric("ready", unitCount, "Recipients that are due: only the limit is in their way.", "sum(ready)", FillNull, queues),
		metric("waiting", unitCount, "Recipients that wait for the time of their next attempt.", "sum(waiting)", FillNull, queues),
		metric("held", unitCount, "Recipients that an operator's order keeps back.", "sum(held)", FillNull, queues),
		metric("paused", unitCount, "Recipients in queues that an operator has paused.", "sum(paused)", FillNull, queues),
		metric("oldest_seconds", unitSeconds, "Age of the oldest of them.", "max(oldest_age)", FillNull, queues).titled("Age of the oldest"),
		metric("queues", unitCount, "Queues that are not empty.", "sum(queues)", FillNull, queues),
		metric("in_backoff", unitCount, "Rows of queues in backoff mode.", "sum(backoff)", FillNull, queues).titled("Queues in backoff"),
	}
}

// The families of warm-up: sources that have a first day of warm-up in the gauges. The gauges of the
// last day of the range say which.
var (
	inWarmup = &family{
		name: "traffic in warm-up", fields: plain("provider", "source", "vmta", "pool", "tenant"), values: slices.Concat(counted, volumes, []string{"dimension"}), levels: traffic.levels, ofEvent: countOf,
	}
	warmupGauges = gaugesOf(" AND g.warmup_start > toDateTime64(0, 6, 'UTC')")
)

func init() {
	inWarmup.source = func(s scope) string {
		s.where += " AND source IN (SELECT source FROM gauges WHERE time >= " + s.to + " - INTERVAL 1 DAY AND time < " + s.to + " AND warmup_start > toDateTime64(0, 6, 'UTC'))"
		return inWarmup.rollUp(s)
	}
}

func warmupMetrics() []Metric {
	out := append(make([]Metric, 0, 11),
		metric("warmup_day", "none", "Day of warm-up, from 1.", "max(if(warmup_start > toDateTime64(0, 6, 'UTC'), dateDiff('day', warmup_start, ts) + 1, 0))", FillNull, warmupGauges).titled("Day of warm-up"),
		metric("warmup_rate", unitPerSec, "Messages a second that the warm-up allows now, over all nodes.", "sum(effective_rate)", FillNull, warmupGauges).titled("Rate allowed"),
	)
	for _, m := range pick("delivered", "delivered_per_second", "attempts", "delivery_rate", "hard_bounce_rate", "recipient_deferral_rate", "attempt_deferral_rate", "blocked", "throttled") {
		m.families = []*family{inWarmup}
		out = append(out, m)
	}
	return out
}

// The families of reputation: one for each sort of score. Where several are put together, such as those of
// a tenant at all providers, the worst of the last run is shown.
func reputationOf(kind string, names map[string]string) *family {
	return &family{
		name: "reputation of " + kind, fields: names,
		values: []string{"name", "score", "score_high", "band", "band_since", "toward", "n_eff", "confidence", "attempts_per_day", "feedback", "capped", "worst"},
		levels: []level{{table: "reputation", unit: time.Second, keep: 35 * days, toNow: true}},
		where:  "kind = '" + kind + "'",
		extra: []extra{
			{Column{Name: "band", Title: "Band"}, "argMax(band, (ts, -score))"},
			{Column{Name: "band_since", Title: "Since"}, "argMax(band_since, (ts, -score))"},
			{Column{Name: "toward", Title: "Points at"}, "argMax(toward, (ts, -score))"},
			{Column{Name: "worst", Title: "Costs most"}, "argMax(worst, (ts, -score))"},
			{Column{Name: "capped", Title: "Capped because"}, "argMax(capped, (ts, -score))"},
			{Column{Name: "feedback", Title: "Complaint feedback"}, "argMax(feedback, (ts, -score))"},
		},
	}
}

var reputations = []*family{
	reputationOf("provider", plain("provider")),
	reputationOf("source", map[string]string{"source": "name"}),
	reputationOf("key", map[string]string{"provider": "", "source": "name"}),
	reputationOf("tenant", map[string]string{"provider": "", "tenant": "name"}),
	reputationOf("sender", map[string]string{"provider": "", "from_domain": "name"}),
	reputationOf("recipient", map[string]string{"provider": "", "recipient_domain": "name"}),
}

func scores() []Metric {
	return []Metric{
		metric("score", unitScore, "0 to 100: complaints, unknown users, blocks and refusals, the worst of which counts most.", "argMax(score, (ts, -score))", FillPrevious, reputations...).lowIsBad(),
		metric("score_high", unitScore, "The same with the worst component at the good end of its interval.", "argMax(score_high, (ts, -score))", FillPrevious, reputations...).titled("Score at best").lowIsBad(),
		metric("confidence", unitShare, "Weight of the own numbers against what is expected of others.", "argMax(confidence, (ts, -score))", FillPrevious, reputations...),
		metric("n_eff", unitCount, "Answers that the score stands on, older ones counted less.", "argMax(n_eff, (ts, -score))", FillPrevious, reputations...).titled("Answers behind it"),
		metric("attempts_per_day", unitCount, "Attempts a day over fourteen days.", "argMax(attempts_per_day, (ts, -score))", FillPrevious, reputations...),
	}
}
