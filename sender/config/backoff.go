package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Authority says who sets the limits of a queue in backoff mode (design/control.md 5.5, rule 4).
type Authority string

// The values of backoff-authority.
const (
	// AuthorityLoop leaves the limits to the control loop as long as its lease for the key is fresh.
	AuthorityLoop Authority = "loop"
	// AuthorityConfig puts the backoff-* limits in force whatever the loop says.
	AuthorityConfig Authority = "config"
)

// Block5xx says what becomes of a recipient when a receiver that blocks the source answers 5xx.
type Block5xx string

// The values of block-5xx.
const (
	BlockRetry  Block5xx = "retry"  // comes back while the key is suspended
	BlockBounce Block5xx = "bounce" // bounces like any other 5xx
)

// NoMX says when mail bounces for a domain without MX records: the zero value never.
type NoMX struct {
	Bounce bool
	After  time.Duration // that the message has to be queued before
}

// String returns the value as it is written.
func (n NoMX) String() string {
	switch {
	case !n.Bounce:
		return "no"
	case n.After == 0:
		return "yes"
	}
	return FormatDuration(n.After)
}

// Backoff are the parts of Settings about queue modes and retries.
type Backoff struct {
	SMTPPatternList string // name of the list, empty for none

	BackoffRetryAfter    []time.Duration // as RetryAfter, in backoff mode; never empty
	RetryAfterDNSError   time.Duration   // wait of a queue after a failure of DNS, in both modes
	RetryUponNewMail     bool            // new mail ends the queue's wait
	MaxRetries           int             // attempts of one recipient; 0 means no limit
	BackoffToNormalAfter time.Duration   // 0 means never

	// InitialPTS is the wait of a queue after the first 4xx ("penalty time in seconds"); it doubles with
	// every further one up to MaxPTS, and starts again after a delivery or PTSExpiration without one.
	// 0 means no such wait.
	InitialPTS, MaxPTS, PTSExpiration time.Duration

	BackoffToNormalAfterDelivery  bool
	BackoffUponAllSourcesDisabled bool
	ReenableSourceIPAfter         time.Duration // 0 means never
	RerouteToVirtualMTA           string        // vmta or pool; empty for none
	BackoffRerouteToVirtualMTA    string
	BackoffAuthority              Authority

	QueuePriority                           int // 0..100
	AllowPriorityInterruption               bool
	AllowPriorityInterruptionDuringTransfer bool

	Block5xx                  Block5xx
	BounceUponNoMX            NoMX
	BounceUpon5xxGreeting     bool
	BounceUponTransferFailure bool // the connection was lost during the body
	BounceUponPIXFailure      bool // the same, only where the greeting is that of a PIX firewall

	AssumeDelivery                bool // when the answer to the final dot does not come in time
	SMTP421MeansMXUnavailable     bool
	SMTP553MeansInvalidMailbox    bool
	ReplaceSMTP421ServiceResponse bool
}

func defaultBackoff() Backoff {
	return Backoff{
		BackoffRetryAfter: []time.Duration{time.Hour}, RetryAfterDNSError: time.Minute,
		MaxPTS: time.Hour, PTSExpiration: 5 * time.Minute,
		BackoffAuthority: AuthorityLoop, QueuePriority: 50, AllowPriorityInterruption: true,
		Block5xx: BlockRetry, BounceUpon5xxGreeting: true, SMTP553MeansInvalidMailbox: true,
	}
}

var backoffRows = []directive[Settings]{
	one("smtp-pattern-list", clearable(identifier), func(s *Settings) *string { return &s.SMTPPatternList }),
	one("backoff-retry-after", intervals, func(s *Settings) *[]time.Duration { return &s.BackoffRetryAfter }),
	one("retry-after-dns-error", positiveInterval, func(s *Settings) *time.Duration { return &s.RetryAfterDNSError }),
	one("retry-upon-new-mail", boolean, func(s *Settings) *bool { return &s.RetryUponNewMail }),
	orZero("unlimited", one("max-retries", limit, func(s *Settings) *int { return &s.MaxRetries })),
	orZero("0", one("initial-pts", interval, func(s *Settings) *time.Duration { return &s.InitialPTS })),
	one("max-pts", positiveInterval, func(s *Settings) *time.Duration { return &s.MaxPTS }),
	one("pts-expiration", positiveInterval, func(s *Settings) *time.Duration { return &s.PTSExpiration }),
	orZero("never", one("backoff-to-normal-after", neverOr(positiveInterval), func(s *Settings) *time.Duration { return &s.BackoffToNormalAfter })),
	one("backoff-to-normal-after-delivery", boolean, func(s *Settings) *bool { return &s.BackoffToNormalAfterDelivery }),
	one("backoff-upon-all-sources-disabled", boolean, func(s *Settings) *bool { return &s.BackoffUponAllSourcesDisabled }),
	orZero("never", one("reenable-source-ip-after", neverOr(positiveInterval), func(s *Settings) *time.Duration { return &s.ReenableSourceIPAfter })),
	one("reroute-to-virtual-mta", clearable(identifier), func(s *Settings) *string { return &s.RerouteToVirtualMTA }),
	one("backoff-reroute-to-virtual-mta", clearable(identifier), func(s *Settings) *string { return &s.BackoffRerouteToVirtualMTA }),
	one("backoff-authority", choice(AuthorityLoop, AuthorityConfig), func(s *Settings) *Authority { return &s.BackoffAuthority }),
	one("queue-priority", number(0, 100), func(s *Settings) *int { return &s.QueuePriority }),
	one("allow-priority-interruption", boolean, func(s *Settings) *bool { return &s.AllowPriorityInterruption }),
	one("allow-priority-interruption-during-transfer", boolean, func(s *Settings) *bool { return &s.AllowPriorityInterruptionDuringTransfer }),
	one("block-5xx", choice(BlockRetry, BlockBounce), func(s *Settings) *Block5xx { return &s.Block5xx }),
	one("bounce-upon-no-mx", noMX, func(s *Settings) *NoMX { return &s.BounceUponNoMX }),
	one("bounce-upon-5xx-greeting", boolean, func(s *Settings) *bool { return &s.BounceUpon5xxGreeting }),
	one("bounce-upon-transfer-failure", boolean, func(s *Settings) *bool { return &s.BounceUponTransferFailure }),
	one("bounce-upon-pix-transfer-failure", boolean, func(s *Settings) *bool { return &s.BounceUponPIXFailure }),
	one("assume-delivery-upon-data-termination-timeout", boolean, func(s *Settings) *bool { return &s.AssumeDelivery }),
	one("smtp-421-means-mx-unavailable", boolean, func(s *Settings) *bool { return &s.SMTP421MeansMXUnavailable }),
	one("smtp-553-means-invalid-mailbox", boolean, func(s *Settings) *bool { return &s.SMTP553MeansInvalidMailbox }),
	one("replace-smtp-421-service-response", boolean, func(s *Settings) *bool { return &s.ReplaceSMTP421ServiceResponse }),
}

// choice parses one of a few words, of which there are two or more.
func choice[V ~string](words ...V) parser[V] {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	last := len(all) - 1
	want := "want " + strings.Join(all[:last], ", ") + " or " + all[last]
	return scalar(want, func(s string) (V, error) {
		if v := V(strings.ToLower(s)); slices.Contains(words, v) {
			return v, nil
		}
		return "", fmt.Errorf("bad value %q; %s", s, want)
	})
}

// noMX parses a boolean, a time or never.
var noMX = scalar("want yes, no, never or a time", func(s string) (NoMX, error) {
	switch strings.ToLower(s) {
	case "yes", "true":
		return NoMX{Bounce: true}, nil
	case "no", "false", "never":
		return NoMX{}, nil
	}
	d, err := parseDuration(s)
	if err != nil {
		return NoMX{}, fmt.Errorf("bad value %q; want yes, no, never or a time", s)
	}
	return NoMX{Bounce: true, After: d}, nil
})
