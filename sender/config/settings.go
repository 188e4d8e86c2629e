package config

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// DeliveryType is the value of a domain's type.
type DeliveryType string

// The delivery types.
const (
	DeliverSMTP    DeliveryType = "smtp"
	DeliverDiscard DeliveryType = "discard"
)

// CAFile is a file of certificates that a peer's certificate is verified against.
// Its zero value means that peers are not verified.
type CAFile struct {
	Path string
	Pool *x509.CertPool
}

// String returns the file's path.
func (f CAFile) String() string { return f.Path }

// Settings are what the <domain> sections say about one queue. Limits are per queue, which is a
// domain and a vmta on one node.
type Settings struct {
	Type DeliveryType

	MaxSMTPOut          int  // simultaneous connections; 0 means no limit
	MaxMsgRate          Rate // attempted recipients
	MaxMsgPerConnection int  // 0 means no limit
	MaxRcptPerMessage   int  // recipients per transaction; 0 means no limit

	// The adaptive values are how far the control loop may go above MaxMsgRate, MaxSMTPOut and
	// MaxMsgPerConnection. Zero: not at all.
	AdaptiveMaxMsgRate          AdaptiveRate
	AdaptiveMaxSMTPOut          int
	AdaptiveMaxMsgPerConnection int

	// RetryAfter holds the waits after the first, second, … failed attempt of a queue; the last
	// one repeats. It is never empty.
	RetryAfter           []time.Duration
	RetryRecipientsAfter time.Duration // least wait of one recipient after its own transient failure
	BounceAfter          time.Duration // how long a message may stay queued

	SMTPHosts       HostList
	DefaultSMTPPort uint16

	UseStartTLS     bool
	RequireStartTLS bool
	SMTPTLSCAFile   CAFile

	Provider     string // empty: derived from the MX hosts
	BounceDomain string // empty: MAIL FROM stays as the customer sent it

	ConnectTimeout             time.Duration
	SMTPGreetingTimeout        time.Duration
	DataSendTimeout            time.Duration
	SMTPDataTerminationTimeout time.Duration
	ConnectionIdleTimeout      time.Duration // how long an idle connection is kept for more mail

	IgnorePipelining bool
	Ignore8BitMIME   bool
	IgnoreChunking   bool

	Limits
	Backoff
	Way
	DKIM
}

// DefaultSettings returns PowerMTA's documented defaults.
func DefaultSettings() Settings {
	return Settings{
		Type:                       DeliverSMTP,
		MaxSMTPOut:                 20,
		MaxRcptPerMessage:          1000,
		RetryAfter:                 []time.Duration{10 * time.Minute},
		RetryRecipientsAfter:       10 * time.Minute,
		BounceAfter:                4*24*time.Hour + 12*time.Hour,
		DefaultSMTPPort:            25,
		UseStartTLS:                true,
		ConnectTimeout:             2 * time.Minute,
		SMTPGreetingTimeout:        5 * time.Minute,
		DataSendTimeout:            3 * time.Minute,
		SMTPDataTerminationTimeout: 10 * time.Minute,
		Limits:                     defaultLimits(),
		Backoff:                    defaultBackoff(),
		Way:                        defaultWay(),
		DKIM:                       defaultDKIM(),
	}
}

// maxIdle is PowerMTA's bound of connection-idle-timeout.
const maxIdle = 10 * time.Minute

// domainScope takes its rows from the files that hold the parts of Settings.
var domainScope = newScope("domain", slices.Concat(domainRows, limitRows, backoffRows, wayRows, dkimRows)...).withDefaults(DefaultSettings)

var domainRows = []directive[Settings]{
	one("type", deliveryType, func(s *Settings) *DeliveryType { return &s.Type }),
	one("max-smtp-out", limit, func(s *Settings) *int { return &s.MaxSMTPOut }),
	one("max-msg-rate", rate, func(s *Settings) *Rate { return &s.MaxMsgRate }),
	formerly("max-msg-rate", one("max-msg-per-hour", perHour, func(s *Settings) *Rate { return &s.MaxMsgRate })),
	one("max-msg-per-connection", limit, func(s *Settings) *int { return &s.MaxMsgPerConnection }),
	one("max-rcpt-per-message", limit, func(s *Settings) *int { return &s.MaxRcptPerMessage }),
	alias[Settings]("max-rcpt-per-transaction", "max-rcpt-per-message"),
	one("adaptive-max-msg-rate", adaptiveRate, func(s *Settings) *AdaptiveRate { return &s.AdaptiveMaxMsgRate }),
	one("adaptive-max-smtp-out", number(0, maxCount), func(s *Settings) *int { return &s.AdaptiveMaxSMTPOut }),
	one("adaptive-max-msg-per-connection", number(0, maxCount), func(s *Settings) *int { return &s.AdaptiveMaxMsgPerConnection }),
	one("retry-after", intervals, func(s *Settings) *[]time.Duration { return &s.RetryAfter }),
	one("retry-recipients-after", interval, func(s *Settings) *time.Duration { return &s.RetryRecipientsAfter }),
	one("bounce-after", positiveInterval, func(s *Settings) *time.Duration { return &s.BounceAfter }),
	one("smtp-hosts", hostList, func(s *Settings) *HostList { return &s.SMTPHosts }),
	alias[Settings]("route", "smtp-hosts"),
	one("default-smtp-port", port, func(s *Settings) *uint16 { return &s.DefaultSMTPPort }),
	one("use-starttls", boolean, func(s *Settings) *bool { return &s.UseStartTLS }),
	one("require-starttls", boolean, func(s *Settings) *bool { return &s.RequireStartTLS }),
	one("smtp-tls-ca-file", clearable(caFile), func(s *Settings) *CAFile { return &s.SMTPTLSCAFile }),
	one("provider", clearable(identifier), func(s *Settings) *string { return &s.Provider }),
	one("bounce-domain", clearable(hostName), func(s *Settings) *string { return &s.BounceDomain }),
	one("connect-timeout", positiveInterval, func(s *Settings) *time.Duration { return &s.ConnectTimeout }),
	one("smtp-greeting-timeout", positiveInterval, func(s *Settings) *time.Duration { return &s.SMTPGreetingTimeout }),
	one("data-send-timeout", positiveInterval, func(s *Settings) *time.Duration { return &s.DataSendTimeout }),
	one("smtp-data-termination-timeout", positiveInterval, func(s *Settings) *time.Duration { return &s.SMTPDataTerminationTimeout }),
	orZero("0", one("connection-idle-timeout", intervalUpTo(maxIdle), func(s *Settings) *time.Duration { return &s.ConnectionIdleTimeout })),
	one("ignore-pipelining", boolean, func(s *Settings) *bool { return &s.IgnorePipelining }),
	one("ignore-8bitmime", boolean, func(s *Settings) *bool { return &s.Ignore8BitMIME }),
	one("ignore-chunking", boolean, func(s *Settings) *bool { return &s.IgnoreChunking }),
}

// deliveryType refuses types that PowerMTA has and carom has not: mail meant for a program or a
// file must not leave over SMTP instead.
var deliveryType = scalar("want smtp or discard", func(s string) (DeliveryType, error) {
	switch t := DeliveryType(strings.ToLower(s)); t {
	case DeliverSMTP, DeliverDiscard:
		return t, nil
	case "pipe", "file", "http-delivery":
		return "", fmt.Errorf("%s is not supported by carom; want smtp or discard", t)
	}
	return "", fmt.Errorf("bad value %q; want smtp or discard", s)
})

// perHour parses the number of max-msg-per-hour, which max-msg-rate replaced.
func perHour(v *value) (Rate, error) {
	n, err := limit(v)
	return Rate{n, time.Hour}, err
}

// AdaptiveRate is a ceiling of the control loop. Unlike a Rate's, its zero value means none: the
// loop stays under the static rate.
type AdaptiveRate struct{ Rate }

// String returns the ceiling as it is written, or "0" for none.
func (r AdaptiveRate) String() string {
	if r.Count == 0 {
		return "0"
	}
	return r.Rate.String()
}

const wantAdaptiveRate = "want N/[M]UNIT, for example 500/m, or 0 for none"

var adaptiveRate = scalar(wantAdaptiveRate, func(s string) (AdaptiveRate, error) {
	r, err := ParseRate(s)
	if err != nil || s != "0" && r.Unlimited() {
		return AdaptiveRate{}, fmt.Errorf("bad rate %q; %s", s, wantAdaptiveRate)
	}
	return AdaptiveRate{r}, nil
})

func caFile(v *value) (CAFile, error) {
	file, err := filePath(v)
	if err != nil {
		return CAFile{}, err
	}
	data, err := v.files.ReadFile(file)
	if err != nil {
		return CAFile{}, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return CAFile{}, fmt.Errorf("%s: no PEM certificate in it", file)
	}
	return CAFile{file, pool}, nil
}
