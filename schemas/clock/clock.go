// Package clock is the time that a process lives in. It is the machine's, unless --time-scale makes all
// processes of a system live faster: with a scale of 20 an hour passes in three minutes, from an origin
// that they have in common. That is for tests of what takes hours: limits, time-outs and half-lives stay
// what they are, and a rate of 10/s sends 200 messages in a second of the machine.
//
// Whoever says when something is due, how old it is or when it happened asks here; what waits for a
// network, a disk or a peer asks package time, since those get no faster. The scale is set once, before
// anything asks, by the flag; without it every function is that of package time. All functions are safe
// for concurrent use.
package clock

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxScale is the largest scale.
const MaxScale = 100

// setting is how time passes: since real, which has a monotonic reading, scale times as fast, beginning
// at scaled.
type setting struct {
	scale        int64
	origin       time.Time
	real, scaled time.Time
}

var process = setting{scale: 1}

// Set makes time pass scale times as fast, as if it had since origin. It must be called before any other
// function, and at most once.
func Set(scale int, origin time.Time) error {
	now := time.Now()
	switch {
	case scale < 1 || scale > MaxScale:
		return fmt.Errorf("time scale %d: want 1 to %d", scale, MaxScale)
	case origin.After(now) || now.Sub(origin) > 48*time.Hour:
		return fmt.Errorf("time scale: origin %s is not within the last two days", origin.Format(time.RFC3339))
	}
	process = setting{scale: int64(scale), origin: origin.UTC(), real: now, scaled: origin.Add(now.Sub(origin) * time.Duration(scale)).UTC().Round(0)}
	return nil
}

// Parse sets the scale from the value of --time-scale: SCALE, whose origin is the beginning of the day
// in UTC, or SCALE@ORIGIN with the origin in the form of RFC 3339.
func Parse(value string) error {
	number, at, given := strings.Cut(value, "@")
	scale, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("%q: want a whole number from 1 to %d, for example 20", value, MaxScale)
	}
	origin := time.Now().UTC().Truncate(24 * time.Hour)
	if given {
		if origin, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return fmt.Errorf("%q: the origin is no time like 2026-01-31T00:00:00Z", value)
		}
	}
	return Set(scale, origin)
}

// Value returns what Parse takes to give another process the same time, "" without a scale.
func Value() string {
	if process.scale == 1 {
		return ""
	}
	return strconv.FormatInt(process.scale, 10) + "@" + process.origin.Format(time.RFC3339Nano)
}

// Scale returns how many seconds pass in one of the machine's.
func Scale() int { return int(process.scale) }

// Origin returns the moment at which this time and the machine's were the same.
func Origin() time.Time { return process.origin }

// Now returns the time.
func Now() time.Time {
	if process.scale == 1 {
		return time.Now()
	}
	return process.scaled.Add(time.Since(process.real) * time.Duration(process.scale))
}

// Since returns how much time has passed since t.
func Since(t time.Time) time.Duration { return Now().Sub(t) }

// Until returns how much time passes until t.
func Until(t time.Time) time.Duration { return t.Sub(Now()) }

// Real returns how long the machine takes for d.
func Real(d time.Duration) time.Duration { return d / time.Duration(process.scale) }

// Scaled returns how much time passes while the machine takes d.
func Scaled(d time.Duration) time.Duration { return d * time.Duration(process.scale) }

// NewTimer returns a timer that fires after d. What Reset takes is the machine's time: see Real.
func NewTimer(d time.Duration) *time.Timer { return time.NewTimer(Real(d)) }

// NewTicker returns a ticker with a period of d. The times that it sends are the machine's.
func NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(max(time.Millisecond, Real(d))) }

// Flag adds --time-scale to the flags of a command.
func Flag(flags *flag.FlagSet) {
	flags.Func("time-scale", "`N`: let time pass N times as fast as the machine's, for tests of what takes hours (1 to 100); all processes "+
		"of a system need the same", Parse)
}
