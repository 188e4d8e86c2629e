// Package scenarios defines the scenario file that the simulated receivers, the load generator and
// the end-to-end runner share: the format, its strict validation, and the pure functions of time
// that it describes (hidden limits, outages, scripted blocks, offered load, the oracle).
//
// All durations are scenario time, measured from the scenario's start; a time scale is applied by
// whoever runs it. Rates are per second of scenario time. Nothing here reads a clock or the
// network, and all methods are safe for concurrent use on a value that nobody changes.
package scenarios

import "time"

// Duration is a time.Duration that is written as a Go duration string ("90m") in the file.
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String returns d as it is written in the file.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d as the file has it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Scenario is one scenario file.
type Scenario struct {
	Version int    `json:"version"` // 1
	Seed    uint64 `json:"seed"`    // every random decision derives from it
	// Scale is the time scale that the scenario is meant for when none is asked for; 0 means 1.
	Scale     int        `json:"scale"`
	Duration  Duration   `json:"duration"` // of the load; 0 = open end
	Providers []Provider `json:"providers"`
	Load      []Load     `json:"load"`
	Nodes     Nodes      `json:"nodes"`  // for the end-to-end runner
	Faults    []Fault    `json:"faults"` // for the end-to-end runner
}

// Provider is one receiving provider. Its limits apply per source, the address that connects.
type Provider struct {
	Name    string   `json:"name"`
	Domains []string `json:"domains"`
	MX      []string `json:"mx"` // host names; each gets an address of its own
	// Rate is the hidden limit in recipients per second; empty means none.
	Rate    []RateStep `json:"rate"`
	Diurnal Diurnal    `json:"diurnal"`
	// BurstSeconds is the depth of the token bucket in seconds of the limit; at least one message.
	BurstSeconds float64 `json:"burst_s"`
	// Conc limits the connections open at a time; empty or 0 means no limit.
	Conc         []ConcStep `json:"conc"`
	MsgsPerConn  int        `json:"msgs_per_conn"` // 0 = no limit
	SilentClose  bool       `json:"silent_close"`  // at MsgsPerConn close without a word
	LatencyMS    [2]float64 `json:"latency_ms"`    // time that a transaction's verdict takes, from and to
	Grey         Grey       `json:"grey"`
	Penalty      Penalty    `json:"penalty"`
	Block        Block      `json:"block"`
	Outage       []Outage   `json:"outage"`
	Warmup       Warmup     `json:"warmup"`
	UnknownUsers float64    `json:"unknown_user_frac"` // share of all addresses that do not exist
	Complaints   Complaints `json:"complaints"`
	// Texts are the reply texts by class (RATE, CONN, MSGC, BLOCK, GREY, UNAV, USER, OK). Lines are
	// parted by \n; {ip}, {mx} and {rcpt} are replaced.
	Texts     map[string]string `json:"texts"`
	Ambiguous bool              `json:"ambiguous"` // RATE, BLOCK and GREY share one text that says nothing

	// The fields below extend the format; all are optional.

	// AsyncBounces sends a delivery status notification for mail that was accepted first.
	AsyncBounces AsyncBounces `json:"async_bounces"`
	// RefuseAt is the command that RATE is answered to: "rcpt" (default), "mail" or "data" (the
	// answer to the message itself).
	RefuseAt string `json:"refuse_at"`
	StartTLS bool   `json:"starttls"` // offer STARTTLS with a self-signed certificate
}

// RateStep sets the hidden rate from At on.
type RateStep struct {
	At        Duration `json:"at"`
	PerSecond float64  `json:"per_s"`
}

// ConcStep sets the connection limit from At on.
type ConcStep struct {
	At Duration `json:"at"`
	N  int      `json:"n"`
}

// Diurnal multiplies the rate by 1 + Amp·sin(2π·t/Period).
type Diurnal struct {
	Amp    float64  `json:"amp"`
	Period Duration `json:"period"`
}

// Grey defers the share Frac of all (sender, recipient) pairs until MinRetry after their first attempt.
type Grey struct {
	Frac     float64  `json:"frac"`
	MinRetry Duration `json:"min_retry"`
}

// Penalty shrinks the limit of a source that keeps running into it: while more than RefusedFrac of
// the last minute's attempts were refused for rate, the factor falls by DownPerMinute a minute (as a
// share of itself, not below Floor); otherwise it rises by UpPerMinute a minute up to 1.
type Penalty struct {
	On            bool    `json:"on"`
	RefusedFrac   float64 `json:"refused_frac"`
	DownPerMinute float64 `json:"down_per_min"`
	UpPerMinute   float64 `json:"up_per_min"`
	Floor         float64 `json:"floor"`
}

// Block refuses everything from a source for Len once TriggerFrac of its attempts in Window were
// refused for rate. With Extend, a source that hammers during a block starts Len anew. Scripted
// blocks come whatever the source does, also without On.
type Block struct {
	On          bool            `json:"on"`
	TriggerFrac float64         `json:"trigger_frac"`
	Window      Duration        `json:"window"`
	Len         Duration        `json:"len"`
	Extend      bool            `json:"extend"`
	Scripted    []ScriptedBlock `json:"scripted"`
}

// ScriptedBlock is a block of all sources that they did not cause.
type ScriptedBlock struct {
	At  Duration `json:"at"`
	Len Duration `json:"len"`
}

// OutageKind says how an outage shows.
type OutageKind string

// The kinds of outage.
const (
	OutageRefuse  OutageKind = "refuse"  // connections are reset before the greeting
	OutageTimeout OutageKind = "timeout" // connections are taken and nothing is ever said
	Outage421     OutageKind = "421"     // 421 (class UNAV) as greeting and to MAIL
)

// OutageKinds lists every kind of outage.
var OutageKinds = []OutageKind{OutageRefuse, OutageTimeout, Outage421}

// Outage is a time in which the provider takes no mail from anyone.
type Outage struct {
	At   Duration   `json:"at"`
	Len  Duration   `json:"len"`
	Kind OutageKind `json:"kind"`
}

// Warmup caps the rate at R0·Factor^n in the n-th Day (n from 0).
type Warmup struct {
	On     bool     `json:"on"`
	R0     float64  `json:"r0"`
	Factor float64  `json:"factor"`
	Day    Duration `json:"day"`
}

// Complaints makes recipients complain. The share Base of accepted messages is complained about, or
// Rates[v] where the header PerTenantHeader has the value v; FBLFrac of the complaints (1 when
// absent) are reported to FBLTo after DelaySeconds.
type Complaints struct {
	Base            float64            `json:"base"`
	PerTenantHeader string             `json:"per_tenant_header"`
	Rates           map[string]float64 `json:"rates"`
	DelaySeconds    [2]float64         `json:"delay_s"`
	FBLFrac         *float64           `json:"fbl_frac"`
	// FBLTo is smtp://HOST:PORT[/ADDRESS]; the report goes to ADDRESS, by default fbl@HOST in
	// address literal form.
	FBLTo string `json:"fbl_to"`
}

// AsyncBounces bounces mail to the share Frac of the existing addresses after it was accepted.
// The same address always bounces. The notification goes to the message's return path through the
// host To (smtp://HOST:PORT), by default the host of the complaints' fbl_to.
type AsyncBounces struct {
	Frac         float64    `json:"frac"`
	DelaySeconds [2]float64 `json:"delay_s"`
	To           string     `json:"to"`
}

// Load is one stream of mail.
type Load struct {
	Tenant  string             `json:"tenant"`
	Domains map[string]float64 `json:"domains"` // weight by domain
	PerS    []LoadStep         `json:"per_s"`
	Backlog int                `json:"backlog"` // messages that are there at the start
}

// LoadStep sets the rate of a stream, in messages per second, from At on.
type LoadStep struct {
	At Duration `json:"at"`
	V  float64  `json:"v"`
}

// Nodes says how the end-to-end runner spreads the load over nodes.
type Nodes struct {
	Weights []float64 `json:"weights"`
}

// Fault is something that the end-to-end runner breaks.
type Fault struct {
	At   Duration `json:"at"`
	Kind string   `json:"kind"`
	Len  Duration `json:"len"`
}
