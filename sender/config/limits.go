package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Limits are the parts of Settings that say how much may leave how fast, beside the oldest of them
// in Settings itself.
type Limits struct {
	MaxConnectRate    Rate // connections opened
	MaxDataVolumeRate DataRate
	// SMTPOutRampupInterval is the least time between opening one connection and another beside
	// it.
	SMTPOutRampupInterval time.Duration

	// The limits in backoff mode. The rates are those of normal mode where nothing else is said.
	BackoffMaxSMTPOut        int // 0 means no limit
	BackoffMaxMsgRate        BackoffRate[Rate]
	BackoffMaxConnectRate    BackoffRate[Rate]
	BackoffMaxDataVolumeRate BackoffRate[DataRate]

	// The limits of each local address by itself; see SourceLimits.
	SourceIPMaxSMTPOut        []SourceLimit[Count]
	SourceIPMaxMsgRate        []SourceLimit[Rate]
	SourceIPMaxConnectRate    []SourceLimit[Rate]
	SourceIPMaxDataVolumeRate []SourceLimit[DataRate]

	// MaxColdVirtualMTAMsg is how much of a vmta's mail goes to its cold-virtual-mta.
	MaxColdVirtualMTAMsg DailyLimits
}

func defaultLimits() Limits { return Limits{BackoffMaxSMTPOut: 20} }

var limitRows = []directive[Settings]{
	one("max-connect-rate", rate, func(s *Settings) *Rate { return &s.MaxConnectRate }),
	one("max-data-volume-rate", dataRate, func(s *Settings) *DataRate { return &s.MaxDataVolumeRate }),
	orZero("0", one("smtp-out-rampup-interval", interval, func(s *Settings) *time.Duration { return &s.SMTPOutRampupInterval })),
	one("backoff-max-smtp-out", limit, func(s *Settings) *int { return &s.BackoffMaxSMTPOut }),
	one("backoff-max-msg-rate", backoff(rate), func(s *Settings) *BackoffRate[Rate] { return &s.BackoffMaxMsgRate }),
	formerly("backoff-max-msg-rate", one("backoff-max-msg-per-hour", backoff(perHour), func(s *Settings) *BackoffRate[Rate] { return &s.BackoffMaxMsgRate })),
	one("backoff-max-connect-rate", backoff(rate), func(s *Settings) *BackoffRate[Rate] { return &s.BackoffMaxConnectRate }),
	one("backoff-max-data-volume-rate", backoff(dataRate), func(s *Settings) *BackoffRate[DataRate] { return &s.BackoffMaxDataVolumeRate }),
	orZero("unlimited", many("source-ip-max-smtp-out", sourceLimit(parseCount, "want CIDR N, for example 192.0.2.0/24 5"), func(s *Settings) *[]SourceLimit[Count] { return &s.SourceIPMaxSMTPOut })),
	formerly("source-ip-max-smtp-out", many("max-smtp-out-per-source-ip", everySource, func(s *Settings) *[]SourceLimit[Count] { return &s.SourceIPMaxSMTPOut })),
	orZero("unlimited", many("source-ip-max-msg-rate", sourceLimit(ParseRate, wantSourceRate), func(s *Settings) *[]SourceLimit[Rate] { return &s.SourceIPMaxMsgRate })),
	orZero("unlimited", many("source-ip-max-connect-rate", sourceLimit(ParseRate, wantSourceRate), func(s *Settings) *[]SourceLimit[Rate] { return &s.SourceIPMaxConnectRate })),
	orZero("unlimited", many("source-ip-max-data-volume-rate", sourceLimit(ParseDataRate, "want CIDR RATE, for example 192.0.2.0/24 10m/h"), func(s *Settings) *[]SourceLimit[DataRate] { return &s.SourceIPMaxDataVolumeRate })),
	one("max-cold-virtual-mta-msg", dailyLimits, func(s *Settings) *DailyLimits { return &s.MaxColdVirtualMTAMsg }),
}

// DataRate is a number of bytes in a time. The zero DataRate means no limit.
type DataRate struct {
	Bytes Size
	Per   time.Duration
}

// Unlimited reports whether the rate is no limit at all.
func (r DataRate) Unlimited() bool { return r.Bytes == 0 || r.Per <= 0 }

// String returns the rate as the configuration language writes it: "10m/h", "unlimited".
func (r DataRate) String() string {
	if r.Unlimited() {
		return "unlimited"
	}
	_, per, _ := strings.Cut(Rate{1, r.Per}.String(), "/")
	return r.Bytes.String() + "/" + per
}

const wantDataRate = "want unlimited or N[bkmgt]/[M]UNIT, for example 10m/h"

var dataRate = scalar(wantDataRate, ParseDataRate)

// ParseDataRate returns the rate that s writes: "unlimited", "0" or N[bkmgt]/[M]UNIT.
func ParseDataRate(s string) (DataRate, error) {
	if s == "0" || strings.EqualFold(s, "unlimited") {
		return DataRate{}, nil
	}
	number, unit, ok := strings.Cut(s, "/")
	bytes, err := ParseSize(number)
	per, perErr := ParseRate("1/" + unit)
	if !ok || err != nil || perErr != nil || bytes == 0 {
		return DataRate{}, fmt.Errorf("bad data rate %q; %s", s, wantDataRate)
	}
	return DataRate{bytes, per.Per}, nil
}

// BackoffRate is a rate in backoff mode. The zero value is that of normal mode.
type BackoffRate[R fmt.Stringer] struct {
	Rate R
	Set  bool
}

// Or returns the rate, or that of normal mode where nothing was said about backoff mode.
func (b BackoffRate[R]) Or(normal R) R {
	if b.Set {
		return b.Rate
	}
	return normal
}

// String returns the rate as it is written; "as in normal mode" for the zero value.
func (b BackoffRate[R]) String() string {
	if b.Set {
		return b.Rate.String()
	}
	return "as in normal mode"
}

func backoff[R fmt.Stringer](parse parser[R]) parser[BackoffRate[R]] {
	return func(v *value) (BackoffRate[R], error) {
		r, err := parse(v)
		return BackoffRate[R]{r, true}, err
	}
}

// Count is a number of which 0 means no limit.
type Count int

// String returns the number, or "unlimited".
func (n Count) String() string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprint(int(n))
}

func isCount(s string) bool {
	_, err := parseCount(s)
	return err == nil
}

func parseCount(s string) (Count, error) {
	n, err := parseNumber(s)
	switch {
	case strings.EqualFold(s, "unlimited"):
		return 0, nil
	case err != nil || n > maxCount:
		return 0, fmt.Errorf("bad number %q; want a number, or unlimited", s)
	}
	return Count(n), nil
}

// SourceLimit is a limit of each local address in a range.
type SourceLimit[V fmt.Stringer] struct {
	Prefix netip.Prefix // the zero Prefix holds every address
	Value  V
}

// String returns the limit as it is written.
func (l SourceLimit[V]) String() string { return formatCIDR(l.Prefix) + " " + l.Value.String() }

const wantSourceRate = "want CIDR RATE, for example 192.0.2.0/24 100/h"

func sourceLimit[V fmt.Stringer](parse func(string) (V, error), want string) parser[SourceLimit[V]] {
	return func(v *value) (l SourceLimit[V], err error) {
		words, err := v.fields(2, 2, want)
		if err != nil {
			return l, err
		}
		if l.Prefix, err = parseCIDR(words[0].text); err != nil {
			return l, words[0].errorf("%v; %s", err, reversed(words, isCIDR, want))
		}
		if l.Value, err = parse(words[1].text); err != nil {
			return l, words[1].errorf("%v", err)
		}
		return l, nil
	}
}

// everySource parses the number of max-smtp-out-per-source-ip, which source-ip-max-smtp-out with a
// range replaced.
func everySource(v *value) (SourceLimit[Count], error) {
	n, err := limit(v)
	return SourceLimit[Count]{Value: Count(n)}, err
}

// SourceLimits are all limits of the local addresses in a range.
type SourceLimits struct {
	Prefix            netip.Prefix // the zero Prefix holds every address
	MaxSMTPOut        int          // 0 means no limit
	MaxMsgRate        Rate
	MaxConnectRate    Rate
	MaxDataVolumeRate DataRate
}

// SourceLimits returns the source-ip-* limits by range, the narrowest first: the first whose range
// holds an address says all about it. Of each directive the narrowest range counts, and of equal
// ones the later.
func (l *Limits) SourceLimits() []SourceLimits {
	var ranges []netip.Prefix
	ranges = appendRanges(ranges, l.SourceIPMaxSMTPOut)
	ranges = appendRanges(ranges, l.SourceIPMaxMsgRate)
	ranges = appendRanges(ranges, l.SourceIPMaxConnectRate)
	ranges = appendRanges(ranges, l.SourceIPMaxDataVolumeRate)
	narrowestFirst(ranges, func(p netip.Prefix) netip.Prefix { return p })
	all := make([]SourceLimits, len(ranges))
	for i, p := range ranges {
		all[i] = SourceLimits{
			Prefix: p, MaxSMTPOut: int(narrowest(l.SourceIPMaxSMTPOut, p)), MaxMsgRate: narrowest(l.SourceIPMaxMsgRate, p),
			MaxConnectRate: narrowest(l.SourceIPMaxConnectRate, p), MaxDataVolumeRate: narrowest(l.SourceIPMaxDataVolumeRate, p),
		}
	}
	return all
}

// DailyLimits are numbers of messages for the first day, the second and so on; the last one
// repeats. No numbers mean 0.
type DailyLimits []int

// Day returns the number for a day; the first is 1.
func (l DailyLimits) Day(day int) int {
	if len(l) == 0 {
		return 0
	}
	return l[min(max(day, 1), len(l))-1]
}

// String returns the numbers as they are written: "100/d,200/d".
func (l DailyLimits) String() string {
	if len(l) == 0 {
		return "0/d"
	}
	all := make([]string, len(l))
	for i, n := range l {
		all[i] = fmt.Sprintf("%d/d", n)
	}
	return strings.Join(all, ",")
}

// maxDays bounds the days of max-cold-virtual-mta-msg.
const maxDays = 366

func dailyLimits(v *value) (DailyLimits, error) {
	const want = "want N/d for each day, separated by commas, for example 100/d,200/d,400/d"
	items, err := v.list(want)
	if err != nil {
		return nil, err
	}
	if len(items) > maxDays {
		return nil, fmt.Errorf("%d days; want at most %d", len(items), maxDays)
	}
	if len(items) == 0 {
		return nil, errors.New(want)
	}
	all := make(DailyLimits, len(items))
	for i, w := range items {
		number, unit, _ := strings.Cut(w.text, "/")
		n, err := parseNumber(number)
		if err != nil || n > maxCount || !strings.EqualFold(unit, "d") && !strings.EqualFold(unit, "day") {
			return nil, w.errorf("bad daily limit %q; %s", w.text, want)
		}
		all[i] = int(n)
	}
	return all, nil
}
