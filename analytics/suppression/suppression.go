// Package suppression decides when bounces suppress an address: how many soft bounces do, and when
// a provider refuses so many as unknown that it is believed to have an accident.
//
// It is pure: numbers in, decisions out, no clock, no I/O. package analytics/jobs reads the numbers
// from the warehouse and writes what was decided.
package suppression

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Policy holds the thresholds, as the section suppression of the policy file gives them. The zero
// value is not usable; start from Default.
type Policy struct {
	SoftBounces SoftBouncePolicy `yaml:"soft-bounces"`
	Breaker     BreakerPolicy    `yaml:"breaker"`
}

// SoftBouncePolicy says how many soft bounces suppress, and for how long.
type SoftBouncePolicy struct {
	// Days is on how many different days (UTC) messages must have been refused; 0 switches it off.
	Days int `yaml:"days"`
	// Within is the number of days in which they must lie.
	Within int `yaml:"within-days"`
	// Expires is the number of days after which the suppression ends by itself.
	Expires int `yaml:"expire-days"`
}

// BreakerPolicy says when a provider's unknown users are believed to be its accident.
type BreakerPolicy struct {
	// Factor is how many times the median of the same hour on the days before the share of
	// unknown users must exceed.
	Factor float64 `yaml:"factor"`
	// Share is the share of unknown users that must be exceeded too.
	Share float64 `yaml:"share"`
	// ShareWithoutHistory takes the place of both where fewer than MinDays are known.
	ShareWithoutHistory float64 `yaml:"share-without-history"`
	MinDays             int     `yaml:"min-days"`
	// MinUnknown is how many unknown users a window needs: one of two recipients of a small
	// domain is no accident. 0 switches the breaker off.
	MinUnknown uint64 `yaml:"min-unknown"`
	// ConfirmAfter is how long after the first bounce a second one confirms it.
	ConfirmAfter time.Duration `yaml:"confirm-after"`
}

// HistoryDays is how many days before count for the median.
const HistoryDays = 14

// Default returns the policy without a file. Factor, share, days and the day between two bounces
// are the issue's; a new installation with an old list is not an accident, hence the half.
func Default() Policy {
	return Policy{
		SoftBounces: SoftBouncePolicy{Days: 5, Within: 30, Expires: 30},
		Breaker: BreakerPolicy{
			Factor: 5, Share: 0.05, ShareWithoutHistory: 0.5, MinDays: 3, MinUnknown: 20, ConfirmAfter: 24 * time.Hour,
		},
	}
}

// Validate returns every threshold that makes no sense.
func (p *Policy) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	s, b := p.SoftBounces, p.Breaker
	check(s.Days >= 0 && s.Days <= 365, "soft-bounces: days is %d, want 0 to 365", s.Days)
	check(s.Days == 0 || s.Within >= s.Days && s.Within <= 365, "soft-bounces: within-days is %d, want %d to 365", s.Within, s.Days)
	check(s.Days == 0 || s.Expires >= 1 && s.Expires <= 3650, "soft-bounces: expire-days is %d, want 1 to 3650", s.Expires)
	check(b.Factor >= 1, "breaker: factor is %v, want 1 or more", b.Factor)
	check(b.Share > 0 && b.Share < 1, "breaker: share is %v, want between 0 and 1", b.Share)
	check(b.ShareWithoutHistory > 0 && b.ShareWithoutHistory <= 1, "breaker: share-without-history is %v, want above 0 and at most 1", b.ShareWithoutHistory)
	check(b.MinDays >= 1 && b.MinDays <= HistoryDays, "breaker: min-days is %d, want 1 to %d", b.MinDays, HistoryDays)
	check(b.ConfirmAfter >= time.Hour, "breaker: confirm-after is %v, want 1h or more", b.ConfirmAfter)
	return errors.Join(errs...)
}

// SoftBounce is a message that was refused because of a mailbox that is alive.
type SoftBounce struct {
	Time time.Time // of its first refusal
}

// Exhausted reports whether the soft bounces of one address suppress it at now: enough of them on
// different days since the last delivery (zero for none). One message counts on one day, so that a
// single one that is retried for a week does not suppress.
func (p SoftBouncePolicy) Exhausted(bounces []SoftBounce, delivered, now time.Time) bool {
	if p.Days == 0 {
		return false
	}
	since := now.AddDate(0, 0, -p.Within)
	var days []time.Time
	for _, b := range bounces {
		if day := b.Time.UTC().Truncate(24 * time.Hour); b.Time.After(since) && b.Time.After(delivered) && !slices.Contains(days, day) {
			days = append(days, day)
		}
	}
	return len(days) >= p.Days
}

// Counts is what a provider answered in some time, over all sources.
type Counts struct{ Delivered, Unknown uint64 }

// Share returns the share of unknown users, 0 without answers.
func (c Counts) Share() float64 {
	if c.Delivered+c.Unknown == 0 {
		return 0
	}
	return float64(c.Unknown) / float64(c.Delivered+c.Unknown)
}

// Minute is the Counts of one minute.
type Minute struct {
	Start time.Time
	Counts
}

// The windows in which the breaker looks: a short one that sees an accident in seconds, and a long
// one that sees a slow one. The long one also keeps the breaker open for a while.
const (
	shortWindow = 2 * time.Minute
	// Window is how far back from a minute the breaker looks.
	Window = 15 * time.Minute
)

// Suspect reports whether the minutes before and at the given one could open the breaker whatever
// the history says, which is dear to read. minutes are one provider's, in any order.
func (p BreakerPolicy) Suspect(minutes []Minute, at time.Time) bool {
	for _, window := range []time.Duration{shortWindow, Window} {
		c := sum(minutes, at, window)
		if p.MinUnknown > 0 && c.Unknown >= p.MinUnknown && c.Share() > min(p.Share, p.ShareWithoutHistory) {
			return true
		}
	}
	return false
}

// Wave is a provider's accident as seen from one minute.
type Wave struct {
	Counts                // of the window
	Median    float64     // of the same hour on the days before, -1 with too little history
	Threshold float64     // share that was exceeded
	Minutes   []time.Time // of the window, that exceed the threshold themselves
}

// Open decides whether the breaker is open at a minute: the unknown users of a window are at least
// MinUnknown, and their share exceeds Share and Factor times the median of history, the same hour
// on each day before. Hours without answers are no history.
func (p BreakerPolicy) Open(minutes []Minute, at time.Time, history []Counts) (Wave, bool) {
	median, threshold := p.threshold(history)
	for _, window := range []time.Duration{shortWindow, Window} {
		c := sum(minutes, at, window)
		if p.MinUnknown == 0 || c.Unknown < p.MinUnknown || c.Share() <= threshold {
			continue
		}
		w := Wave{Counts: c, Median: median, Threshold: threshold}
		for _, m := range minutes {
			if inWindow(m.Start, at, window) && m.Share() > threshold {
				w.Minutes = append(w.Minutes, m.Start)
			}
		}
		slices.SortFunc(w.Minutes, time.Time.Compare)
		return w, true
	}
	return Wave{}, false
}

func (p BreakerPolicy) threshold(history []Counts) (median, threshold float64) {
	var shares []float64
	for _, c := range history {
		if c.Delivered+c.Unknown > 0 {
			shares = append(shares, c.Share())
		}
	}
	if len(shares) < p.MinDays {
		return -1, p.ShareWithoutHistory
	}
	slices.Sort(shares)
	middle := len(shares) / 2
	median = shares[middle]
	if len(shares)%2 == 0 {
		median = (shares[middle-1] + shares[middle]) / 2
	}
	return median, max(p.Share, p.Factor*median)
}

// inWindow reports whether a minute lies in the window that ends with the minute at.
func inWindow(minute, at time.Time, window time.Duration) bool {
	return !minute.After(at) && minute.After(at.Add(-window))
}

func sum(minutes []Minute, at time.Time, window time.Duration) Counts {
	var c Counts
	for _, m := range minutes {
		if inWindow(m.Start, at, window) {
			c.Delivered += m.Delivered
			c.Unknown += m.Unknown
		}
	}
	return c
}
