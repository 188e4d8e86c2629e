package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of things in a time. The zero Rate means no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Unlimited reports whether the rate is no limit at all.
func (r Rate) Unlimited() bool { return r.Count == 0 || r.Per <= 0 }

// PerSecond returns the rate as things per second, +Inf if it is unlimited.
func (r Rate) PerSecond() float64 {
	if r.Unlimited() {
		return math.Inf(1)
	}
	return float64(r.Count) / r.Per.Seconds()
}

// rateUnits are the units of rates, largest first; the first spelling of each length is how
// String writes it.
var rateUnits = []struct {
	names  []string
	length time.Duration
}{
	{[]string{"d", "day"}, 24 * time.Hour},
	{[]string{"h", "hr", "hour"}, time.Hour},
	{[]string{"m", "min"}, time.Minute},
	{[]string{"s", "sec"}, time.Second},
}

// String returns the rate as the configuration language writes it: "100/m", "1/6m", "unlimited".
func (r Rate) String() string {
	if r.Unlimited() {
		return "unlimited"
	}
	for _, u := range rateUnits {
		if n := r.Per / u.length; r.Per%u.length == 0 {
			if n == 1 {
				return fmt.Sprintf("%d/%s", r.Count, u.names[0])
			}
			return fmt.Sprintf("%d/%d%s", r.Count, n, u.names[0])
		}
	}
	return fmt.Sprintf("%d/%s", r.Count, r.Per)
}

const (
	wantRate     = "want unlimited or N/[M]UNIT, for example 100/m"
	wantSize     = "want a number with b, k, m, g or t, for example 10m"
	wantInterval = "want a time such as 30s, 10m, 4d12h"
)

// ParseRate returns the rate that s writes: "unlimited", "0" or N/[M]UNIT.
func ParseRate(s string) (Rate, error) {
	if s == "0" || strings.EqualFold(s, "unlimited") {
		return Rate{}, nil
	}
	bad := fmt.Errorf("bad rate %q; %s", s, wantRate)
	count, unit, ok := strings.Cut(s, "/")
	n, err := parseNumber(count)
	if !ok || err != nil || n == 0 || n > maxCount {
		return Rate{}, bad
	}
	digits := len(unit) - len(strings.TrimLeft(unit, "0123456789"))
	multiple := int64(1)
	if digits > 0 {
		if multiple, err = parseNumber(unit[:digits]); err != nil || multiple == 0 {
			return Rate{}, bad
		}
	}
	for _, u := range rateUnits {
		for _, name := range u.names {
			if strings.EqualFold(unit[digits:], name) {
				if multiple > int64(math.MaxInt64/u.length) {
					return Rate{}, bad
				}
				return Rate{int(n), time.Duration(multiple) * u.length}, nil
			}
		}
	}
	return Rate{}, bad
}

// parseNumber parses digits only: no sign, no blanks.
func parseNumber(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("not a number")
	}
	return strconv.ParseInt(s, 10, 64)
}

// Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	letter byte
	bytes  Size
}{{'t', 1 << 40}, {'g', 1 << 30}, {'m', 1 << 20}, {'k', 1 << 10}, {'b', 1}}

// String returns the size in the largest unit that divides it: "10m", "0".
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if s%u.bytes == 0 {
			return fmt.Sprintf("%d%c", s/u.bytes, u.letter)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseSize returns the size that s writes: digits and one of b, k, m, g and t, which count in
// powers of 1024. A number without a letter counts bytes.
func ParseSize(s string) (Size, error) {
	unit := Size(1)
	digits := s
	for _, u := range sizeUnits {
		if s != "" && s[len(s)-1]|0x20 == u.letter {
			unit, digits = u.bytes, s[:len(s)-1]
		}
	}
	n, err := parseNumber(digits)
	if err != nil || n > int64(math.MaxInt64/unit) {
		return 0, fmt.Errorf("bad size %q; %s", s, wantSize)
	}
	return Size(n) * unit, nil
}

// timeUnits are the units of intervals, largest first.
var timeUnits = []struct {
	letter byte
	length time.Duration
}{
	{'w', 7 * 24 * time.Hour},
	{'d', 24 * time.Hour},
	{'h', time.Hour},
	{'m', time.Minute},
	{'s', time.Second},
}

// parseDuration parses PowerMTA's intervals: "4d12h", "300s"; a bare number counts seconds.
func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("bad time %q; %s", s, wantInterval)
	if n, err := parseNumber(s); err == nil {
		if n > int64(math.MaxInt64/time.Second) {
			return 0, bad
		}
		return time.Duration(n) * time.Second, nil
	}
	var total time.Duration
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := parseNumber(rest[:digits])
		if err != nil || digits == len(rest) {
			return 0, bad
		}
		var unit time.Duration
		for _, u := range timeUnits {
			if rest[digits]|0x20 == u.letter {
				unit = u.length
			}
		}
		if unit == 0 || n > int64((math.MaxInt64-total)/unit) {
			return 0, bad
		}
		total += time.Duration(n) * unit
		rest = rest[digits+1:]
	}
	return total, nil
}

// FormatDuration returns d as the configuration language writes intervals: "4d12h", "10m", "0s".
// What is below a second is cut off.
func FormatDuration(d time.Duration) string {
	if d < time.Second {
		return "0s"
	}
	var b strings.Builder
	for _, u := range timeUnits[1:] { // days rather than weeks, as the defaults are documented
		if d >= u.length {
			_, _ = fmt.Fprintf(&b, "%d%c", d/u.length, u.letter)
			d %= u.length
		}
	}
	return b.String()
}

// Secret is a string that never shows itself: not in logs, not in JSON, not through fmt.
// The zero Secret is empty.
type Secret struct {
	// A function, because fmt prints the strings in unexported fields of other people's structs
	// without asking their String method.
	reveal func() string
}

// NewSecret returns a secret that holds s.
func NewSecret(s string) Secret { return Secret{func() string { return s }} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.reveal == nil }

const masked = "[secret]"

// String returns a mask.
func (Secret) String() string { return masked }

// GoString returns a mask.
func (Secret) GoString() string { return masked }

// LogValue returns a mask.
func (Secret) LogValue() slog.Value { return slog.StringValue(masked) }

// MarshalText returns a mask; encoding/json uses it too.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }
