package views

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"carom/schemas/warehouse"
)

// Units, as Grafana calls them.
const (
	unitCount   = "short"
	unitShare   = "percentunit"
	unitPerSec  = "mps" // messages a second
	unitSeconds = "s"
	unitOctets  = "decbytes"
	unitScore   = "none"
)

// The families of roll-ups. Their tables are described in deploy/docs/schema.md, and how long they
// are kept. Tenants are not in the table by the minute.
var (
	counted = []string{"kind", "class", "events", "first_attempts", "recipients"}
	volumes = []string{"octets", "within_1m", "within_10m", "within_1h"}

	// countOf is what the counts of a roll-up are of one event.
	countOf = map[string]string{
		"events": "1", "first_attempts": "attempt = 1", "octets": "size",
		"within_1m": "kind = 'delivered' AND queued_us <= 60000000", "within_10m": "kind = 'delivered' AND queued_us <= 600000000",
		"within_1h": "kind = 'delivered' AND queued_us <= 3600000000", "signature": "0",
	}

	minutes = level{table: "rollup_1m", unit: time.Minute, keep: 8 * days, toNow: true, lacks: []string{"tenant"}, start: "toStartOfMinute", plusOf: "1 MINUTE"}
	traffic = &family{
		name:   "traffic",
		fields: enums(plain("provider", "source", "vmta", "pool", "tenant", "category"), "dimension"),
		values: slices.Concat(counted, volumes), levels: steps("rollup", 400, 1500, minutes), ofEvent: countOf,
	}
	byJob = &family{
		name: "jobs", fields: enums(plain("job", "tenant", "provider"), "dimension"), values: slices.Concat(counted, volumes), levels: steps("jobs", 35, 400), ofEvent: countOf,
	}
	byDomain = &family{
		name: "domains", fields: enums(plain("recipient_domain", "provider"), "dimension"), values: counted, levels: steps("domains", 35, 400),
		ofEvent: countOf, eventsWhere: "recipient_domain != ''",
	}
	bySender = &family{
		name: "senders", fields: enums(plain("from_domain", "provider"), "dimension"), values: append([]string{"signature"}, counted...), levels: steps("senders", 35, 400),
		where:   "signature = 0", // each message once
		ofEvent: countOf, eventsWhere: "from_domain != ''",
	}
	bySignature = &family{
		name: "signatures", fields: enums(plain("dkim_domain", "from_domain", "provider"), "dimension"), values: counted, levels: steps("senders", 35, 400),
		ofEvent: signed(countOf), eventsWhere: "from_domain != ''",
	}
	latency = &family{
		name: "latency", fields: plain("provider", "source"), values: []string{"attempts", "to_deliver", "dns", "connect", "tls", "transfer"},
		levels: steps("latency", 400, 1500), eventsWhere: "kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0", states: true,
		ofEvent: map[string]string{
			"attempts": "count()", "to_deliver": timeOf("queued_us", "kind = 'delivered'"), "dns": timeOf("dns_us", "dns_us > 0"), "connect": timeOf("connect_us", "connect_us > 0"),
			"tls": timeOf("tls_us", "tls_us > 0"), "transfer": timeOf("transfer_us", "transfer_us > 0"),
		},
	}
	anyTraffic = []*family{traffic, byJob, byDomain, bySender, bySignature}
	withVolume = []*family{traffic, byJob}
)

// signed adds the domains that a message was signed with: a row for each.
func signed(m map[string]string) map[string]string {
	m = maps.Clone(m)
	m["dkim_domain"] = "arrayJoin(if(empty(dkim_domains), [''], dkim_domains))"
	return m
}

// timeOf returns the state of quantiles of a time as the roll-ups of latency have it.
func timeOf(column, condition string) string {
	return "quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(" + column + ") * 8) / 8), " + condition + ")"
}

// metric returns a metric of the families.
func metric(name, unit, description, expr string, fill Fill, families ...*family) Metric {
	return Metric{Name: name, Title: titleOf(name), Unit: unit, Description: description, expr: expr, fill: fill, families: families}
}

// Fill returns what a step without a row is.
func (m Metric) Fill() Fill { return m.fill }

// Merge returns how keys are put together.
func (m Metric) Merge() Merge { return m.merge }

func (m Metric) titled(title string) Metric { m.Title = title; return m }

func (m Metric) weighed(expr string) Metric { m.weight = expr; return m }

func (m Metric) lowIsBad() Metric { m.low = true; return m }

func (m Metric) notBy(fields ...string) Metric { m.not = fields; return m }

// sum returns the sum of a measure over rows of a roll-up.
func sum(measure string) string {
	for _, m := range slices.Concat(warehouse.Measures, warehouse.Volumes) {
		if m.Name == measure {
			return "sum(" + m.SQL() + ")"
		}
	}
	return measure // which ClickHouse refuses, and a test finds
}

// share returns one measure as a share of another.
func share(a, b string) string { return sum(a) + " / nullIf(" + sum(b) + ", 0)" }

func perSecond(expr string) string { return "(" + expr + ") / {seconds}" }

// The metrics of mail, by name.
var mail = func() map[string]Metric {
	all := map[string]Metric{}
	add := func(m Metric) { all[m.Name] = m }
	for _, m := range warehouse.Measures {
		add(metric(m.Name, unitCount, m.Comment, "sum("+m.SQL()+")", FillZero, anyTraffic...))
	}
	for _, m := range warehouse.Volumes {
		unit := unitCount
		if m.Name == "octets_delivered" {
			unit = unitOctets
		}
		add(metric(m.Name, unit, m.Comment, "sum("+m.SQL()+")", FillZero, withVolume...))
	}
	for _, r := range warehouse.Rates {
		m := metric(r.Name, unitShare, r.Words, share(r.Numerator, r.Denominator), FillNull, anyTraffic...).titled(r.Title).weighed(sum(r.Denominator))
		if r.Name == "delivery_rate" || r.Name == "first_attempt_rate" {
			m = m.lowIsBad()
		}
		add(m.notBy("category", "dimension"))
	}
	for _, within := range []string{"1m", "10m", "1h"} {
		m := metric("within_"+within+"_rate", unitShare, "Of the delivered, those that took so long at most since they were accepted here.", share("delivered_"+within, "delivered"), FillNull, withVolume...)
		add(m.titled(titleOf("delivered_" + within)).weighed(sum("delivered")).lowIsBad())
	}
	for _, name := range []string{"accepted", "delivered", "attempts", "deferred_attempts"} {
		m := metric(name+"_per_second", unitPerSec, all[name].Description+", a second", perSecond(sum(name)), FillZero, anyTraffic...)
		add(m.titled(all[name].Title + " per second").weighed(sum(name)))
	}
	add(metric("bounced", unitCount, "Recipients that were refused for good or given up: hard_bounced and soft_bounced.", sum("hard_bounced")+" + "+sum("soft_bounced"), FillZero, anyTraffic...))
	add(metric("blocked", unitCount, "Attempts that were answered with a block of the address.", "sumIf("+inside("attempts")+", dimension = 'block')", FillZero, traffic, byJob, byDomain))
	add(metric("throttled", unitCount, "Attempts that were answered with too fast, too many connections or messages.", "sumIf("+inside("attempts")+", dimension IN ('rate', 'connections', 'messages'))", FillZero, traffic, byJob, byDomain))
	for _, name := range []string{"blocked", "throttled"} {
		add(metric(name+"_rate", unitShare, all[name].Description+" A share of all attempts.", all[name].expr+" / nullIf("+sum("attempts")+", 0)", FillNull, all[name].families...).
			weighed(sum("attempts")).notBy("category", "dimension"))
	}
	add(metric("left", unitCount, "Recipients that were accepted in the time range, less those that were finished, suppressed or removed in it; 0 where those are more, because they came in before.",
		"greatest(0, "+sum("accepted")+" - toInt64("+sum("finished")+" + "+sum("suppressed")+" + "+sum("removed")+"))", FillZero, byJob, traffic).titled("Left to do"))
	return all
}()

// inside returns what a measure counts of one row.
func inside(measure string) string {
	return strings.TrimSuffix(strings.TrimPrefix(sum(measure), "sum("), ")")
}

func pick(names ...string) []Metric {
	out := make([]Metric, len(names))
	for i, n := range names {
		m, ok := mail[n]
		if !ok {
			panic("views: no metric " + n) // a mistake in this file, found by every test
		}
		out[i] = m
	}
	return out
}

// phases are the parts of the time of a message; the names are those of the columns.
var phases = []struct{ column, title string }{
	{"to_deliver", "Time to deliver"}, {"dns", "DNS"}, {"connect", "Connect"}, {"tls", "TLS handshake"}, {"transfer", "Transfer"},
}

func latencies() []Metric {
	out := make([]Metric, 0, 3*len(phases))
	for _, p := range phases {
		for i, q := range []string{"50", "90", "99"} {
			m := metric(p.column+"_p"+q, unitSeconds, p.title+": "+q+" of a hundred were at most so long.", fmt.Sprintf("quantilesBFloat16Merge(0.5, 0.9, 0.99)(%s)[%d] / 1e6", p.column, i+1), FillNull, latency)
			out = append(out, m.titled(p.title+", p"+q).weighed("sum(attempts)"))
		}
	}
	return append(out, pick("within_1m_rate", "within_10m_rate", "within_1h_rate")...)
}

// aggregated fills in what follows from the metrics.
func aggregated(v View) View {
	var all []string
	for i, m := range v.Metrics {
		var can []string
		for _, f := range m.families {
			can = union(can, f.fieldList())
		}
		can = slices.DeleteFunc(can, func(n string) bool { return slices.Contains(m.not, n) })
		slices.Sort(can)
		v.Metrics[i].Breakdowns = can
		all = union(all, can)
	}
	slices.SortFunc(all, func(x, y string) int { return rank(x) - rank(y) })
	v.Breakdowns, v.Filters = fields(all...), fields(all...)
	v.Formats = append(v.Formats, TimeSeries, Table)
	v.Formats = union(v.Formats)
	return v
}

// order is that of the fields in the editor.
var order = []string{
	"provider", "source", "vmta", "pool", "tenant", "job", "recipient_domain", "from_domain", "dkim_domain", "category", "dimension", "reply_template", "feedback_type",
	"node", "queue", "limit_scope", "limit",
}

func rank(field string) int {
	if i := slices.Index(order, field); i >= 0 {
		return i
	}
	return len(order)
}

var catalogue = []View{
	aggregated(View{
		Name: "deliverability", Title: "Deliverability", Description: "What became of the mail: delivered, bounced, deferred, in numbers and as rates.",
		Metrics: pick("delivery_rate", "delivered_per_second", "delivered", "hard_bounce_rate", "soft_bounce_rate", "first_attempt_rate", "recipient_deferral_rate", "attempt_deferral_rate",
			"attempts_per_second", "accepted_per_second", "accepted", "finished", "bounced", "hard_bounced", "soft_bounced", "expired", "attempts", "deferred_attempts",
			"first_attempts", "delivered_first", "deferred_recipients", "queue_failures", "suppressed", "removed", "blocked", "throttled", "blocked_rate", "throttled_rate", "octets_delivered"),
		Defaults: Defaults{Metrics: []string{"delivery_rate"}, Breakdown: []string{"provider"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "reputation", Title: "Reputation", Description: "The score of providers, sources, tenants and domains, 0 to 100, as the loop computes it.",
		Metrics: scores(), Defaults: Defaults{Metrics: []string{"score"}, Breakdown: []string{"provider"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "deferrals", Title: "Deferrals by reason", Description: "What receivers answered with \"later\", and why.",
		Metrics:  append(pick("deferred_attempts", "deferred_attempts_per_second", "deferred_recipients", "queue_failures", "recipient_deferral_rate", "attempt_deferral_rate", "throttled", "blocked"), answers),
		Defaults: Defaults{Metrics: []string{"deferred_attempts"}, Breakdown: []string{"category"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "bounces", Title: "Bounces by category", Description: "Recipients that were refused for good, given up, or returned by mail later.",
		Metrics:  append(pick("bounced", "hard_bounced", "soft_bounced", "expired", "hard_bounce_rate", "soft_bounce_rate"), laterBounces()...),
		Defaults: Defaults{Metrics: []string{"bounced"}, Breakdown: []string{"category"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "complaints", Title: "Complaints", Description: "Proven complaints: as they came, and as rates by the day of the delivery that they are about.",
		Metrics: complaintMetrics(), Defaults: Defaults{Metrics: []string{"complaints"}, Breakdown: []string{"provider"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "limits", Title: "Limits in force", Description: "The limit of each provider and source, what was accepted and refused under it, and what each node has of it.",
		Metrics: limits(), Defaults: Defaults{Metrics: []string{"limit_rate", "accepted_per_second"}, Breakdown: []string{"provider", "source"}, Limit: defaultSeries},
	}),
	limitChanges,
	aggregated(View{
		Name: "queues", Title: "Queues", Description: "What waits in the queues, how old it is, and what it waits for.",
		Metrics: queueMetrics(), Defaults: Defaults{Metrics: []string{"queued"}, Breakdown: []string{"provider"}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "latency", Title: "Latency by phase", Description: "How long mail takes from acceptance here to acceptance there, and the parts of an attempt.",
		Metrics: latencies(), Defaults: Defaults{Metrics: []string{"to_deliver_p50", "to_deliver_p90", "to_deliver_p99"}, Breakdown: []string{}, Limit: defaultSeries},
	}),
	aggregated(View{
		Name: "warmup", Title: "Warm-up", Description: "Source addresses in warm-up: what they send, and how receivers take it.",
		Metrics: warmupMetrics(), Defaults: Defaults{Metrics: []string{"warmup_day", "warmup_rate"}, Breakdown: []string{"source"}, Limit: defaultSeries},
	}),
	trace,
	eventRows,
	aggregated(View{
		Name: "sources", Title: "Source addresses", Description: "The health of each address that receivers see: delivery, blocks, throttling, complaints, reputation.",
		Metrics: slices.Concat(pick("delivered", "delivery_rate", "hard_bounce_rate", "attempt_deferral_rate", "blocked", "blocked_rate", "throttled", "throttled_rate", "attempts"), cohortRates(), scores()[:1]),
		Formats: []string{Table}, Defaults: Defaults{Metrics: []string{"delivered", "delivery_rate", "hard_bounce_rate", "attempt_deferral_rate", "blocked", "throttled"}, Breakdown: []string{"source"}, Limit: 100},
	}),
	aggregated(View{
		Name: "jobs", Title: "Jobs", Description: "What became of each job: accepted, done, left to do.",
		Metrics: pick("accepted", "delivered", "left", "delivery_rate", "hard_bounce_rate", "soft_bounce_rate", "recipient_deferral_rate", "finished", "hard_bounced", "soft_bounced", "expired",
			"suppressed", "removed", "attempts", "deferred_attempts", "octets_delivered", "within_1m_rate", "within_10m_rate", "within_1h_rate"),
		Formats: []string{Table}, Defaults: Defaults{Metrics: []string{"accepted", "delivered", "left", "delivery_rate", "hard_bounce_rate", "recipient_deferral_rate"}, Breakdown: []string{"job", "tenant"}, Limit: 100},
	}),
	completeness,
	annotations,
	contributors(),
}
