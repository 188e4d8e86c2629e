// Package event is the contract between the node that sends and the warehouse that remembers:
// what an event, a gauge, a queue gauge and an annotation are, how they lie in the node's log, and in which
// ClickHouse columns they end up.
//
// The table Columns is the truth: the codec, the SQL and the documents follow it. An event's
// identity is its place, (node, incarnation, sequence number in the log), so those three are not
// encoded: who reads the log knows them. Encode and Decode keep no state and are safe for
// concurrent use; an Event is not.
package event

import (
	"net/netip"
	"time"

	"github.com/google/uuid"

	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// ID identifies a message: 128 bits, ordered by time (UUID version 7, RFC 9562 section 5.7). Its
// text form is the same everywhere.
type ID = uuid.UUID

// NewID returns the ID of a message that is accepted now.
func NewID() ID { return uuid.Must(uuid.NewV7()) }

// FormatVersion is the version of the record format that this package writes.
const FormatVersion = 1

// The streams of a node's event log. Each is gapless by itself.
const (
	StreamEvent      = "event"
	StreamGauge      = "gauge"
	StreamQueueGauge = "queue_gauge"
	StreamAnnotation = "annotation"
)

// Event is one step in the life of one recipient, or of a queue where there is no single
// recipient (QueueDeferred). Fields that do not apply are zero.
//
// The comments of Columns say what each field means and who sets it.
type Event struct {
	// Place: set by the agent, which reads the log.
	Node        string
	Incarnation ID
	Seq         uint64

	FormatVersion uint8
	Time          time.Time
	Kind          Kind
	MessageID     ID
	RecipientIdx  uint32
	Recipients    uint32

	MailFrom        string
	MailFromDomain  string
	FromDomain      string
	DKIMDomains     []string
	Recipient       string
	RecipientDomain string
	RecipientKey    string

	Provider  string
	Source    string
	SourceIP  netip.Addr
	Queue     string
	VMTA      string
	Pool      string
	EHLO      string
	Job       string
	EnvID     string
	Tenant    string
	SMTPUser  string
	Listener  string
	ClientIP  netip.Addr
	ClientMTA string

	MXHost  string
	MXIP    netip.Addr
	Attempt uint32
	Phase   Phase

	Code          uint16
	Enhanced      string
	Reply         string
	ReplyTemplate string

	Category          taxonomy.Category
	Class             taxonomy.Class
	Dimension         taxonomy.Dimension
	Scope             taxonomy.Scope
	ScopeValue        string
	ClassifierVersion uint32
	PMTACategory      string

	Size            uint64
	Queued          time.Duration
	DNS             time.Duration
	Connect         time.Duration
	TLS             time.Duration
	Transfer        time.Duration
	Mail            time.Duration
	Rcpt            time.Duration
	Data            time.Duration
	Body            time.Duration
	FinalDot        time.Duration
	TLSVersion      string
	TLSCipher       string
	OpenConnections uint32
	MessageOnConn   uint32
	ConnectionID    ID

	LimitEpoch    uint64
	LimitActor    string
	LimitReason   string
	LimitingScope string
	Canary        bool

	FeedbackType      string
	ReportingMTA      string
	MatchMethod       string
	MatchConfidence   float32
	OriginalMessageID ID
	OriginalIdx       uint32

	ConfigHash uint64
	Headers    map[string]string

	HoldExempt bool
	URLHosts   []string
}

// SetReply fills the fields that a reply gives: code, enhanced status, text and template.
func (e *Event) SetReply(r smtpstatus.Reply) {
	e.Code = uint16(r.Code) //nolint:gosec // a reply code has three digits
	e.Enhanced = r.Enhanced.String()
	e.Reply = r.String()
	e.ReplyTemplate = ReplyTemplate(e.Reply)
}

// SourceKey returns the name of a source as receivers see it: the address itself for IPv4, the
// /64 for IPv6, "" for no address.
func SourceKey(ip netip.Addr) string {
	ip = ip.Unmap()
	if !ip.IsValid() {
		return ""
	}
	if ip.Is6() {
		prefix, err := ip.WithZone("").Prefix(64)
		if err != nil {
			return ip.String()
		}
		return prefix.String()
	}
	return ip.String()
}

// GaugeInterval is how often a node writes the state of each key and of the largest queues (design/architecture.md, terms).
const GaugeInterval = 10 * time.Second

// Gauge is the state of one key (provider, source) on one node, written every GaugeInterval. It is
// how the configured limits, and whether they bind, reach the control loop. A rate is 0 where nothing
// limits it; one that lets nothing through is the smallest above 0.
type Gauge struct {
	Node        string
	Incarnation ID
	Seq         uint64

	FormatVersion uint8
	Time          time.Time
	Provider      string
	Source        string

	Backlog         uint64
	OpenConnections uint32
	ThrottleBound   float32
	LocalFactor     float32

	StaticRate          float64
	StaticConnections   uint32
	StaticMessages      uint32
	AdaptiveRate        float64
	AdaptiveConnections uint32
	AdaptiveMessages    uint32

	LeaseEpoch      uint64
	LeaseRate       float64
	EffectiveRate   float64
	WarmupStart     time.Time
	Established     time.Time
	StaticUnknown   bool
	SourceDisabled  bool
	BackoffByConfig bool

	LimitScope string
	Limit      string
	LimitBy    string
	ConfigHash uint64

	// EventsTo is set by the agent: every event of the node from before it is in ClickHouse when the gauge is.
	EventsTo time.Time
}

// QueueGauge is what waits in one queue for one tenant and job, written every ten seconds for the
// largest backlogs of a node. One row more sums the rest; its Queue is empty.
//
// Ready, Waiting, Held and Paused count recipients, each recipient in one of them; those in an attempt
// are in none.
type QueueGauge struct {
	Node        string
	Incarnation ID
	Seq         uint64

	FormatVersion uint8
	Time          time.Time
	Queue         string
	VMTA          string
	Provider      string
	Source        string
	Tenant        string
	Job           string
	Queues        uint32

	Ready     uint64
	Waiting   uint64
	Held      uint64
	Paused    uint64
	Estimated bool
	OldestAge uint64
	Backoff   bool

	LimitScope string
	Limit      string
	LimitBy    string
	ConfigHash uint64
}

// Annotation is something an operator should see beside the curves: a start, a reload, a note.
type Annotation struct {
	Node        string
	Incarnation ID
	Seq         uint64

	FormatVersion uint8
	Time          time.Time
	Name          string
	Text          string
	Tags          []string
}
