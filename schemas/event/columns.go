package event

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carom/schemas/taxonomy"
)

// Setter says which part of carom sets a column.
type Setter string

// The setters.
const (
	ByAgent      Setter = "agent"      // ingest, from the place in the log
	ByIntake     Setter = "intake"     // the sender when it accepts the message
	ByDelivery   Setter = "delivery"   // the sender at an attempt
	ByClassifier Setter = "classifier" // ingest/classify, run in the sender
	ByThrottle   Setter = "throttle"   // the limit in force at the attempt
	ByReports    Setter = "reports"    // the sender's report processing
	ByAccounting Setter = "accounting" // the sender's accounting
)

// Column ties a field of T to a column of the warehouse.
type Column[T any] struct {
	Name    string
	Type    string // ClickHouse's type
	Setter  Setter
	Comment string

	field func(*T) any // pointer to the field
}

// Columns is the table of an event's columns, in the order of the codec, of the inserts and of
// the warehouse's table. New columns come at the end.
var Columns = []Column[Event]{
	{"node", "LowCardinality(String)", ByAgent, "name of the node that wrote the event", func(e *Event) any { return &e.Node }},
	{"incarnation", "UUID", ByAgent, "life of the node's log; a reinstalled node gets a new one", func(e *Event) any { return &e.Incarnation }},
	{"seq", "UInt64", ByAgent, "sequence number in the node's event stream, from 1, without gaps", func(e *Event) any { return &e.Seq }},
	{"format_version", "UInt8", ByAccounting, "version of the record format", func(e *Event) any { return &e.FormatVersion }},
	{"time", "DateTime64(6, 'UTC')", ByAccounting, "when it happened, by the node's clock", func(e *Event) any { return &e.Time }},
	{"kind", enumOf(Kinds()), ByAccounting, "which step this is", func(e *Event) any { return &e.Kind }},
	{"message_id", "UUID", ByIntake, "message; zero for a queue's event", func(e *Event) any { return &e.MessageID }},
	{"recipient_index", "UInt32", ByIntake, "which recipient of the message, from 0", func(e *Event) any { return &e.RecipientIdx }},
	{"recipients", "UInt32", ByAccounting, "how many recipients the event speaks of: 1, or those of a queue", func(e *Event) any { return &e.Recipients }},

	{"mail_from", "String", ByIntake, "reverse-path as the feeder gave it; empty for the null sender", func(e *Event) any { return &e.MailFrom }},
	{"mail_from_domain", "LowCardinality(String)", ByIntake, "domain of mail_from, lower case", func(e *Event) any { return &e.MailFromDomain }},
	{"from_domain", "LowCardinality(String)", ByIntake, "domain of the From header, lower case", func(e *Event) any { return &e.FromDomain }},
	{"dkim_domains", "Array(LowCardinality(String))", ByDelivery, "each d= that carom signed with", func(e *Event) any { return &e.DKIMDomains }},
	{"recipient", "String", ByIntake, "forward-path", func(e *Event) any { return &e.Recipient }},
	{"recipient_domain", "LowCardinality(String)", ByIntake, "domain of the recipient, lower case", func(e *Event) any { return &e.RecipientDomain }},
	{"recipient_key", "String", ByIntake, "keyed hash of the normalised recipient, the key of suppressions; empty in received events that show the recipient", func(e *Event) any { return &e.RecipientKey }},

	{"provider", "LowCardinality(String)", ByDelivery, "who decides about the mail; empty before resolution", func(e *Event) any { return &e.Provider }},
	{"source", "LowCardinality(String)", ByDelivery, "what the receiver sees: the bound IPv4 address or IPv6 /64", func(e *Event) any { return &e.Source }},
	{"source_ip", "IPv6", ByDelivery, "local address that was bound", func(e *Event) any { return &e.SourceIP }},
	{"queue", "LowCardinality(String)", ByDelivery, "domain/vmta", func(e *Event) any { return &e.Queue }},
	{"vmta", "LowCardinality(String)", ByIntake, "virtual MTA", func(e *Event) any { return &e.VMTA }},
	{"pool", "LowCardinality(String)", ByIntake, "virtual MTA pool, if one was chosen", func(e *Event) any { return &e.Pool }},
	{"ehlo_name", "LowCardinality(String)", ByDelivery, "name given in EHLO", func(e *Event) any { return &e.EHLO }},
	{"job", "LowCardinality(String)", ByIntake, "job ID", func(e *Event) any { return &e.Job }},
	{"envid", "String", ByIntake, "envelope ID (RFC 3461 section 4.4)", func(e *Event) any { return &e.EnvID }},
	{"tenant", "LowCardinality(String)", ByIntake, "on whose behalf; never empty for a message", func(e *Event) any { return &e.Tenant }},
	{"smtp_user", "LowCardinality(String)", ByIntake, "login name of the feeder", func(e *Event) any { return &e.SMTPUser }},
	{"listener", "LowCardinality(String)", ByIntake, "local address and port the message came in by", func(e *Event) any { return &e.Listener }},
	{"client_ip", "IPv6", ByIntake, "address of the feeder", func(e *Event) any { return &e.ClientIP }},
	{"client_mta", "LowCardinality(String)", ByIntake, "EHLO name of the feeder", func(e *Event) any { return &e.ClientMTA }},

	{"mx_host", "LowCardinality(String)", ByDelivery, "host that was talked to", func(e *Event) any { return &e.MXHost }},
	{"mx_ip", "IPv6", ByDelivery, "its address", func(e *Event) any { return &e.MXIP }},
	{"attempt", "UInt32", ByDelivery, "number of the attempt for this recipient, from 1", func(e *Event) any { return &e.Attempt }},
	{"phase", enumOf(Phases()), ByDelivery, "where the attempt ended", func(e *Event) any { return &e.Phase }},

	{"code", "UInt16", ByDelivery, "SMTP reply code; 0 if the peer sent none", func(e *Event) any { return &e.Code }},
	{"enhanced", "LowCardinality(String)", ByDelivery, "enhanced status code (RFC 3463)", func(e *Event) any { return &e.Enhanced }},
	{"reply", "String", ByDelivery, "reply of the peer, or what went wrong here", func(e *Event) any { return &e.Reply }},
	{"reply_template", "LowCardinality(String)", ByDelivery, "reply with numbers, ids and addresses replaced, to group by", func(e *Event) any { return &e.ReplyTemplate }},

	{"category", "LowCardinality(String)", ByClassifier, "one of 30 words for what the reply means", func(e *Event) any { return (*string)(&e.Category) }},
	{"class", words([]taxonomy.Class{"", taxonomy.Hard, taxonomy.Soft, taxonomy.Undetermined, taxonomy.None}), ByClassifier, "hard: the address is dead; soft: it is not", func(e *Event) any { return (*string)(&e.Class) }},
	{"dimension", words(append([]taxonomy.Dimension{""}, taxonomy.Dimensions...)), ByClassifier, "what the reply is about", func(e *Event) any { return (*string)(&e.Dimension) }},
	{"scope", "LowCardinality(String)", ByClassifier, "whom a refusal is aimed at", func(e *Event) any { return (*string)(&e.Scope) }},
	{"scope_value", "String", ByClassifier, "the address, domain or URL that the reply names", func(e *Event) any { return &e.ScopeValue }},
	{"classifier_version", "UInt32", ByClassifier, "version of the rules", func(e *Event) any { return &e.ClassifierVersion }},
	{"pmta_category", "LowCardinality(String)", ByClassifier, "PowerMTA's bounce category", func(e *Event) any { return &e.PMTACategory }},

	{"size", "UInt64", ByIntake, "octets of the message", func(e *Event) any { return &e.Size }},
	{"queued_us", "UInt64", ByDelivery, "microseconds since acceptance", func(e *Event) any { return &e.Queued }},
	{"dns_us", "UInt64", ByDelivery, "microseconds of DNS look-ups", func(e *Event) any { return &e.DNS }},
	{"connect_us", "UInt64", ByDelivery, "microseconds until the greeting; 0 on a reused connection", func(e *Event) any { return &e.Connect }},
	{"tls_us", "UInt64", ByDelivery, "microseconds of the TLS handshake", func(e *Event) any { return &e.TLS }},
	{"transfer_us", "UInt64", ByDelivery, "microseconds from MAIL to the last reply", func(e *Event) any { return &e.Transfer }},
	{"tls_version", "LowCardinality(String)", ByDelivery, "TLS version, empty without TLS", func(e *Event) any { return &e.TLSVersion }},
	{"tls_cipher", "LowCardinality(String)", ByDelivery, "TLS cipher suite", func(e *Event) any { return &e.TLSCipher }},
	{"open_connections", "UInt32", ByDelivery, "connections of the key that were open, this one included", func(e *Event) any { return &e.OpenConnections }},
	{"message_on_connection", "UInt32", ByDelivery, "number of the message on its connection, from 1", func(e *Event) any { return &e.MessageOnConn }},
	{"connection_id", "UUID", ByDelivery, "connection of the attempt", func(e *Event) any { return &e.ConnectionID }},

	{"limit_epoch", "UInt64", ByThrottle, "version of the key's limit when the attempt started", func(e *Event) any { return &e.LimitEpoch }},
	{"limit_actor", "LowCardinality(String)", ByThrottle, "who set the limit: config, loop, guard or an operator", func(e *Event) any { return &e.LimitActor }},
	{"limit_reason", "String", ByThrottle, "reason id of the limit's row in limit_log", func(e *Event) any { return &e.LimitReason }},
	{"limiting_scope", "LowCardinality(String)", ByThrottle, "which limit held the attempt back longest", func(e *Event) any { return &e.LimitingScope }},
	{"canary", "Bool", ByThrottle, "attempt was a canary of a suspended key", func(e *Event) any { return &e.Canary }},

	{"feedback_type", "LowCardinality(String)", ByReports, "Feedback-Type of a complaint (RFC 5965), action of a status report, what a consumed mail was", func(e *Event) any { return &e.FeedbackType }},
	{"reporting_mta", "LowCardinality(String)", ByReports, "who wrote the report", func(e *Event) any { return &e.ReportingMTA }},
	{"match_method", "LowCardinality(String)", ByReports, "how the report was joined to its message", func(e *Event) any { return &e.MatchMethod }},
	{"match_confidence", "Float32", ByReports, "0 to 1; 1 is a verified token", func(e *Event) any { return &e.MatchConfidence }},
	{"original_message_id", "UUID", ByReports, "message that the report is about", func(e *Event) any { return &e.OriginalMessageID }},
	{"original_index", "UInt32", ByReports, "its recipient that the report is about", func(e *Event) any { return &e.OriginalIdx }},

	{"config_hash", "UInt64", ByAccounting, "hash of the configuration in force", func(e *Event) any { return &e.ConfigHash }},
	{"headers", "Map(LowCardinality(String), String)", ByIntake, "headers chosen by the configuration", func(e *Event) any { return &e.Headers }},

	{"mail_us", "UInt64", ByDelivery, "microseconds until the reply to MAIL, of transfer_us like the four below", func(e *Event) any { return &e.Mail }},
	{"rcpt_us", "UInt64", ByDelivery, "microseconds from there to the last reply to RCPT; next to nothing with PIPELINING", func(e *Event) any { return &e.Rcpt }},
	{"data_us", "UInt64", ByDelivery, "microseconds from there to the reply to DATA; 0 with CHUNKING", func(e *Event) any { return &e.Data }},
	{"body_us", "UInt64", ByDelivery, "microseconds of sending the message", func(e *Event) any { return &e.Body }},
	{"final_dot_us", "UInt64", ByDelivery, "microseconds until the reply to the end of data, or to BDAT", func(e *Event) any { return &e.FinalDot }},
	{"hold_exempt", "Bool", ByDelivery, "the control loop never holds the mail back: adaptive-hold no for its virtual MTA or user, or its job is exempt", func(e *Event) any { return &e.HoldExempt }},
	{"url_hosts", "Array(LowCardinality(String))", ByDelivery, "hosts of the URLs in the message, in lower case, where the provider refused mail for a URL in the last hour; the first 20 by name", func(e *Event) any { return &e.URLHosts }},
}

// GaugeColumns is the table of a gauge's columns, as Columns is that of an event's.
var GaugeColumns = []Column[Gauge]{
	{"node", "LowCardinality(String)", ByAgent, "name of the node", func(g *Gauge) any { return &g.Node }},
	{"incarnation", "UUID", ByAgent, "life of the node's log", func(g *Gauge) any { return &g.Incarnation }},
	{"seq", "UInt64", ByAgent, "sequence number in the node's gauge stream", func(g *Gauge) any { return &g.Seq }},
	{"format_version", "UInt8", ByAccounting, "version of the record format", func(g *Gauge) any { return &g.FormatVersion }},
	{"time", "DateTime64(6, 'UTC')", ByAccounting, "when it was read, by the node's clock", func(g *Gauge) any { return &g.Time }},
	{"provider", "LowCardinality(String)", ByThrottle, "provider of the key", func(g *Gauge) any { return &g.Provider }},
	{"source", "LowCardinality(String)", ByThrottle, "source of the key", func(g *Gauge) any { return &g.Source }},
	{"backlog", "UInt64", ByThrottle, "recipients that are due and wait", func(g *Gauge) any { return &g.Backlog }},
	{"open_connections", "UInt32", ByThrottle, "open connections", func(g *Gauge) any { return &g.OpenConnections }},
	{"throttle_bound", "Float32", ByThrottle, "share of the last ten seconds in which the limit held mail back", func(g *Gauge) any { return &g.ThrottleBound }},
	{"local_factor", "Float32", ByThrottle, "factor of the local guard, 1 if it is not acting", func(g *Gauge) any { return &g.LocalFactor }},
	{"static_rate", "Float64", ByThrottle, "configured messages a second, 0 for unlimited", func(g *Gauge) any { return &g.StaticRate }},
	{"static_connections", "UInt32", ByThrottle, "configured connections", func(g *Gauge) any { return &g.StaticConnections }},
	{"static_messages", "UInt32", ByThrottle, "configured messages per connection, 0 for unlimited", func(g *Gauge) any { return &g.StaticMessages }},
	{"adaptive_rate", "Float64", ByThrottle, "ceiling of the loop in messages a second, 0 for none above static", func(g *Gauge) any { return &g.AdaptiveRate }},
	{"adaptive_connections", "UInt32", ByThrottle, "ceiling of the loop in connections, 0 for none", func(g *Gauge) any { return &g.AdaptiveConnections }},
	{"adaptive_messages", "UInt32", ByThrottle, "ceiling of the loop in messages per connection, 0 for none", func(g *Gauge) any { return &g.AdaptiveMessages }},
	{"lease_epoch", "UInt64", ByThrottle, "epoch of the lease in force, 0 for none", func(g *Gauge) any { return &g.LeaseEpoch }},
	{"lease_rate", "Float64", ByThrottle, "messages a second of the lease in force", func(g *Gauge) any { return &g.LeaseRate }},
	{"effective_rate", "Float64", ByThrottle, "messages a second that bind now, 0 for unlimited; a billionth lets nothing through", func(g *Gauge) any { return &g.EffectiveRate }},
	{"warmup_start", "DateTime64(6, 'UTC')", ByThrottle, "first day of warm-up, 1970 for none", func(g *Gauge) any { return &g.WarmupStart }},
	{"established", "DateTime64(6, 'UTC')", ByThrottle, "established-since of the source, 1970 for none", func(g *Gauge) any { return &g.Established }},
	{"static_unknown", "Bool", ByThrottle, "nothing is sent under the key: what is configured for it is not known, and static and adaptive values are 0", func(g *Gauge) any { return &g.StaticUnknown }},
	{"source_disabled", "Bool", ByThrottle, "no queue of the key that has mail may use the source: a pattern or an operator disabled it", func(g *Gauge) any { return &g.SourceDisabled }},
	{"backoff_by_config", "Bool", ByThrottle, "backoff patterns of the configuration set the rate", func(g *Gauge) any { return &g.BackoffByConfig }},
	{"limit_scope", "LowCardinality(String)", ByThrottle, "what the limit is about that held mail back longest in the last ten seconds: node, vmta, pool, queue, source-ip, loop, glide, guard, hold, domain or url; empty if none did", func(g *Gauge) any { return &g.LimitScope }},
	{"limit", "LowCardinality(String)", ByThrottle, "that limit: directive and value, or what mail it is about", func(g *Gauge) any { return &g.Limit }},
	{"limit_by", "LowCardinality(String)", ByThrottle, "who set it: a place in the configuration, or loop, glide or guard with the reason", func(g *Gauge) any { return &g.LimitBy }},
	{"config_hash", "UInt64", ByAccounting, "hash of the configuration in force", func(g *Gauge) any { return &g.ConfigHash }},
	{"events_to", "DateTime64(6, 'UTC')", ByAgent, "every event of the node from before it was stored when the gauge was sent, 1970 if that is not known", func(g *Gauge) any { return &g.EventsTo }},
}

// QueueGaugeColumns is the table of a queue gauge's columns.
var QueueGaugeColumns = []Column[QueueGauge]{
	{"node", "LowCardinality(String)", ByAgent, "name of the node", func(g *QueueGauge) any { return &g.Node }},
	{"incarnation", "UUID", ByAgent, "life of the node's log", func(g *QueueGauge) any { return &g.Incarnation }},
	{"seq", "UInt64", ByAgent, "sequence number in the node's stream of queue gauges", func(g *QueueGauge) any { return &g.Seq }},
	{"format_version", "UInt8", ByAccounting, "version of the record format", func(g *QueueGauge) any { return &g.FormatVersion }},
	{"time", "DateTime64(6, 'UTC')", ByAccounting, "when it was read, by the node's clock; the rows of one reading share it", func(g *QueueGauge) any { return &g.Time }},
	{"queue", "LowCardinality(String)", ByDelivery, "domain/vmta; empty in the one row that sums all that have no row of their own", func(g *QueueGauge) any { return &g.Queue }},
	{"vmta", "LowCardinality(String)", ByDelivery, "virtual MTA of the queue", func(g *QueueGauge) any { return &g.VMTA }},
	{"provider", "LowCardinality(String)", ByDelivery, "provider that the queue's last session talked to; empty before the first", func(g *QueueGauge) any { return &g.Provider }},
	{"source", "LowCardinality(String)", ByDelivery, "source that it was bound to; empty before the first", func(g *QueueGauge) any { return &g.Source }},
	{"tenant", "LowCardinality(String)", ByIntake, "whose mail the row counts; empty where it sums several", func(g *QueueGauge) any { return &g.Tenant }},
	{"job", "LowCardinality(String)", ByIntake, "job of the mail; empty where it sums several, or has none", func(g *QueueGauge) any { return &g.Job }},
	{"queues", "UInt32", ByDelivery, "queues that the row speaks of: 1, or how many the rest are", func(g *QueueGauge) any { return &g.Queues }},
	{"ready", "UInt64", ByDelivery, "recipients that are due: only the limit is in their way", func(g *QueueGauge) any { return &g.Ready }},
	{"waiting", "UInt64", ByDelivery, "recipients that wait for a time: that of their next attempt, or the end of their queue's retry-after", func(g *QueueGauge) any { return &g.Waiting }},
	{"held", "UInt64", ByDelivery, "recipients that an operator's order about some of the queue's mail, or a hold of the control loop, keeps back", func(g *QueueGauge) any { return &g.Held }},
	{"paused", "UInt64", ByDelivery, "recipients in a queue that an operator has paused", func(g *QueueGauge) any { return &g.Paused }},
	{"estimated", "Bool", ByDelivery, "the queue is so long that how its mail divides was estimated from an even sample; what the whole queue holds is exact", func(g *QueueGauge) any { return &g.Estimated }},
	{"oldest_age", "UInt64", ByDelivery, "seconds since the oldest of them was accepted", func(g *QueueGauge) any { return &g.OldestAge }},
	{"backoff", "Bool", ByDelivery, "the queue is in backoff mode", func(g *QueueGauge) any { return &g.Backoff }},
	{"limit_scope", "LowCardinality(String)", ByThrottle, "what the limit that binds is about: order, hold, queue, node, source-ip, vmta, pool, loop, glide, guard or key; the rest has none, and so has what nothing keeps", func(g *QueueGauge) any { return &g.LimitScope }},
	{"limit", "LowCardinality(String)", ByThrottle, "the limit that binds: directive and value, or what the queue waits for", func(g *QueueGauge) any { return &g.Limit }},
	{"limit_by", "LowCardinality(String)", ByThrottle, "who set it: a place in the configuration, loop, guard, receiver, or an operator", func(g *QueueGauge) any { return &g.LimitBy }},
	{"config_hash", "UInt64", ByAccounting, "hash of the configuration in force", func(g *QueueGauge) any { return &g.ConfigHash }},
}

// AnnotationColumns is the table of an annotation's columns.
var AnnotationColumns = []Column[Annotation]{
	{"node", "LowCardinality(String)", ByAgent, "name of the node", func(a *Annotation) any { return &a.Node }},
	{"incarnation", "UUID", ByAgent, "life of the node's log", func(a *Annotation) any { return &a.Incarnation }},
	{"seq", "UInt64", ByAgent, "sequence number in the node's annotation stream", func(a *Annotation) any { return &a.Seq }},
	{"format_version", "UInt8", ByAccounting, "version of the record format", func(a *Annotation) any { return &a.FormatVersion }},
	{"time", "DateTime64(6, 'UTC')", ByAccounting, "when it happened, by the node's clock", func(a *Annotation) any { return &a.Time }},
	{"name", "LowCardinality(String)", ByAccounting, "what happened: start, stop, upgrade, reload, schema, policy, limit-mode, kill-switch, note, or what an order is", func(a *Annotation) any { return &a.Name }},
	{"text", "String", ByAccounting, "in words", func(a *Annotation) any { return &a.Text }},
	{"tags", "Array(LowCardinality(String))", ByAccounting, "words to filter by", func(a *Annotation) any { return &a.Tags }},
}

// Names returns the names of columns in their order.
func Names[T any](columns []Column[T]) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}

// Value returns the value of the column in v as clickhouse-go takes it: addresses as IPv6 (the
// unspecified address for none), durations as microseconds, enumerations as their names.
func (c Column[T]) Value(v *T) any {
	switch p := c.field(v).(type) {
	case *string:
		return *p
	case *uint64:
		return *p
	case *uint32:
		return *p
	case *uint16:
		return *p
	case *uint8:
		return *p
	case *float32:
		return *p
	case *float64:
		return *p
	case *bool:
		return *p
	case *time.Time:
		if p.IsZero() {
			return time.Unix(0, 0).UTC()
		}
		return *p
	case *time.Duration:
		return uint64(max(0, p.Microseconds())) //nolint:gosec // not negative
	case *netip.Addr:
		if !p.IsValid() {
			return netip.IPv6Unspecified()
		}
		return netip.AddrFrom16(p.As16())
	case *ID:
		return *p
	case *[]string:
		return slices.Clip(*p)
	case *map[string]string:
		if *p == nil {
			return map[string]string{}
		}
		return *p
	case *Kind:
		return p.String()
	case *Phase:
		return p.String()
	default:
		panic(fmt.Sprintf("event: column %s has a field of type %T", c.Name, p)) // a mistake in the tables, found by every test
	}
}

// enumOf returns the type of an Enum8 in which each value has its own number.
func enumOf[T interface {
	~uint8
	fmt.Stringer
}](values []T) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = fmt.Sprintf("'%s' = %d", v, uint8(v))
	}
	return "Enum8(" + strings.Join(parts, ", ") + ")"
}

// words returns the type of an Enum8 in which each word's number is its place.
func words[T ~string](values []T) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = fmt.Sprintf("'%s' = %d", v, i)
	}
	return "Enum8(" + strings.Join(parts, ", ") + ")"
}
