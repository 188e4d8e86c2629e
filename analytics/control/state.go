package control

import (
	"time"

	"carom/schemas/limits"
)

// Mode is a state of the state machine of a key.
type Mode string

// The modes. A new key starts in Startup with its configured limits: no history is not newness.
const (
	Startup   Mode = "startup"
	Cruise    Mode = "cruise"
	Backoff   Mode = "backoff"
	Cooldown  Mode = "cooldown"
	Recover   Mode = "recover"
	Probe     Mode = "probe"
	Suspended Mode = "suspended"
)

// State is what the loop remembers of one key. The zero State is that of a key without history.
// Times count from the start that Decide's now counts from; rates are messages a second.
type State struct {
	Mode Mode `json:"mode,omitempty"`
	// Epoch is the version of the limit in force; 0 is the configuration. LastEpoch is the
	// largest that was ever given, so that a new one is larger.
	Epoch     uint64 `json:"epoch,omitempty"`
	LastEpoch uint64 `json:"last_epoch,omitempty"`
	// Since is when the limit in force was decided.
	Since time.Duration `json:"since,omitempty"`

	// EvidenceFrom is where evidence begins to count again after the key was frozen.
	EvidenceFrom time.Duration `json:"evidence_from,omitempty"`

	// Pinned is what an operator set. What the loop decided itself stays beside it. AdvisedAt is
	// when the loop last said what it would do.
	Pinned    Pinned        `json:"pinned,omitzero"`
	AdvisedAt time.Duration `json:"advised_at,omitempty"`
	// Greylisting says that unclassified refusals of first attempts are greylisting.
	Greylisting bool `json:"greylisting,omitempty"`

	// RatePerSecond, Connections and MessagesPerConnection are 0 while the configured value
	// holds.
	RatePerSecond         float64 `json:"rate,omitempty"`
	Connections           uint32  `json:"connections,omitempty"`
	MessagesPerConnection uint32  `json:"messages_per_connection,omitempty"`

	Cap      float64 `json:"cap,omitempty"`       // measured capacity, 0 for unknown
	Goal     float64 `json:"goal,omitempty"`      // capacity to come back to
	LongTerm float64 `json:"long_term,omitempty"` // largest rate accepted cleanly

	// Clean is the largest rate, in force and used, under which nothing was refused; 0 once a
	// decrease made use of it.
	Clean float64 `json:"clean,omitempty"`

	ProbeStep  float64       `json:"probe_step,omitempty"`
	ProbeEvery time.Duration `json:"probe_every,omitempty"`
	NextProbe  time.Duration `json:"next_probe,omitempty"`

	CoolUntil      time.Duration `json:"cool_until,omitempty"`
	CoolTime       time.Duration `json:"cool_time,omitempty"`
	Chain          int           `json:"chain,omitempty"`     // decreases since the last increase
	ChainCap       float64       `json:"chain_cap,omitempty"` // capacity at the first of them
	RecoveryFailed int           `json:"recovery_failed,omitempty"`
	// Before is what was accepted just before the first of them.
	Before float64 `json:"before,omitempty"`

	// While Suspended:
	Outage         bool          `json:"outage,omitempty"` // the receiver is down, not angry
	CanaryFast     bool          `json:"canary_fast,omitempty"`
	CanaryAccepted uint64        `json:"canary_accepted,omitempty"` // in the slow epoch before
	PreCap         float64       `json:"pre_cap,omitempty"`         // capacity before, 0 for unknown
	SuspendedAt    time.Duration `json:"suspended_at,omitempty"`
	CanaryEvery    time.Duration `json:"canary_every,omitempty"` // once they went out more rarely

	ConnectionsGood  uint32        `json:"connections_good,omitempty"` // before the last raise; 0 if the last change was none
	ConnectionsStep  uint32        `json:"connections_step,omitempty"`
	ConnectionsWait  time.Duration `json:"connections_wait,omitempty"`
	ConnectionsUntil time.Duration `json:"connections_until,omitempty"` // no raise before
	MessagesUntil    time.Duration `json:"messages_until,omitempty"`    // no raise before
}

// Limits is what Decide wants in force for the key over all nodes. With Epoch 0 that is the
// configuration, and the key needs no lease.
type Limits struct {
	limits.Limit
	Epoch  uint64
	Canary bool
	// Greylisting tells the nodes that an unclassified refusal of a first attempt is greylisting,
	// which says nothing about the rate.
	Greylisting bool
}

// Rule names a rule of Decide, as limit_log writes it in rule_id.
type Rule string

// The rules, named after the state or the actuator, and what they do.
const (
	RuleSuspend         Rule = "SUSPEND"
	RuleCanaryFast      Rule = "SUSPEND-FASTER"
	RuleCanarySlow      Rule = "SUSPEND-SLOWER"
	RuleResume          Rule = "RESUME"
	RuleBackoff         Rule = "BACKOFF"
	RuleCooldown        Rule = "COOLDOWN"
	RuleRecover         Rule = "RECOVER"
	RuleStartup         Rule = "STARTUP"
	RuleProbe           Rule = "PROBE"
	RuleConnectionsDown Rule = "CONNECTIONS-DOWN"
	RuleConnectionsUp   Rule = "CONNECTIONS-UP"
	RuleMessagesDown    Rule = "MESSAGES-DOWN"
	RuleMessagesUp      Rule = "MESSAGES-UP"
	RuleBalance         Rule = "BALANCE" // the configured limit is handed out by backlog
	RuleCeiling         Rule = "CEILING" // the configuration's ceiling came down
	RuleWarmup          Rule = "WARM-UP" // the cap of a new source
	RuleHistory         Rule = "HISTORY" // a key is taken over with what its history supports
	RulePin             Rule = "PIN"
	RuleUnpin           Rule = "UNPIN"
	RuleGreylisting     Rule = "GREYLISTING"      // unclassified refusals turned out to be greylisting
	RuleGreylistingOver Rule = "GREYLISTING-OVER" // and no longer are
	RuleRestart         Rule = "RESTART"          // the loop stood still until its leases ended
	RuleRelease         Rule = "RELEASE"          // the loop may no longer act: the configuration holds
)

// Evidence is what one decision was computed from.
type Evidence struct {
	From   time.Duration // included
	To     time.Duration // excluded
	Counts Counts        // of the buckets of the epoch from From to To

	Replies      uint64  // that say something about the rate
	Refusals     uint64  // among them
	Unclassified bool    // unclassified replies count as refusals
	Greylisting  bool    // unclassified refusals of first attempts count as greylisting
	RefusedShare float64 // Refusals / Replies
	WilsonLow    float64 // lower bound of it that was compared
	AttemptRate  float64 // attempts a second
	AcceptedRate float64 // a: accepted a second, at overload for a decrease

	// FirstRefusal is the end of the first bucket that holds a refusal; AcceptedSince counts
	// what was accepted after it; FromRate is the rate that the decrease started from: that in
	// force, or the largest that was tried where there is no limit; Idle is the part of the time
	// after it in which nothing was sent. Of a decrease only.
	FirstRefusal  time.Duration
	Idle          time.Duration
	AcceptedSince uint64
	FromRate      float64

	// Pairs are the first attempts and retries of a decision about greylisting, over all epochs.
	Pairs Pairs

	MaxOpen     uint32 // connections of the key that one node had open
	MinMessages uint32 // smallest message number that was refused, NoMessages for none
	Samples     []string
}

// Pairs counts replies to first attempts and to retries in spans of time that hold both, and those
// among them that nobody could classify.
type Pairs struct {
	First      uint64
	FirstOther uint64
	Retry      uint64
	RetryOther uint64
}

// Reason says why a limit changed. Old and New are whole limits; several reasons of one decision
// share the epoch and each shows its own actuator.
type Reason struct {
	Rule      Rule
	Text      string
	EpochFrom uint64
	Epoch     uint64
	ModeFrom  Mode
	ModeTo    Mode
	Old       limits.Limit
	New       limits.Limit
	Evidence  Evidence
	// WouldChange says that nothing changed: a pin is in force, and this is what the loop would
	// have done.
	WouldChange bool
}
