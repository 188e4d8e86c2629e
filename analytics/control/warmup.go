package control

import (
	"fmt"
	"math"
	"time"
)

// WarmupPolicy says how a new source may grow at one provider.
type WarmupPolicy struct {
	Day            time.Duration `yaml:"day"`
	FirstPerHour   float64       `yaml:"first-per-hour"` // messages an hour on the first day
	Growth         float64       `yaml:"growth"`         // factor of a good day
	UsedShare      float64       `yaml:"used-share"`     // of the cap that a good day used more than
	RefusedShare   float64       `yaml:"refused-share"`  // of the replies, under which a day is good
	HoldShare      float64       `yaml:"hold-share"`     // the same, under which a day is not bad
	ComplaintShare float64       `yaml:"complaint-share"`
	SilentDays     int           `yaml:"silent-days"` // that take back one good day
}

// WarmupDay is what happened on one day of a warm-up, at one provider.
type WarmupDay struct {
	Replies    uint64 // that say something about the rate, as Evidence counts them
	Accepted   uint64 // among them
	Refused    uint64 // among them
	Complaints uint64 // reports about mail delivered on this day
}

// Warmup is what is known of a source that is being warmed up.
type Warmup struct {
	// Start is when the first day began, on the clock of Decide's now.
	Start time.Duration
	// Days are the days from Start on that are over, in order. A day that is missing at the end
	// counts as one without mail.
	Days []WarmupDay
}

// Level returns how many good days the warm-up is worth at now: a day that used the cap of its
// level without refusals and complaints counts one, a bad one takes one back, and so does every
// row of silent days (design/control.md 4.6).
func (p *WarmupPolicy) Level(w *Warmup, now time.Duration) int {
	level, silent := 0, 0
	over := max(0, int((now-w.Start)/p.Day))
	for day := range over {
		var d WarmupDay
		if day < len(w.Days) {
			d = w.Days[day]
		}
		if d.Replies == 0 {
			if silent++; silent%p.SilentDays == 0 {
				level = max(0, level-1)
			}
			continue
		}
		silent = 0
		refused := float64(d.Refused) / float64(d.Replies)
		complaints := float64(d.Complaints) / float64(max(1, d.Accepted))
		used := float64(d.Accepted) / (p.Rate(level) * p.Day.Seconds())
		switch {
		case refused >= p.HoldShare:
			level = max(0, level-1)
		case used > p.UsedShare && refused < p.RefusedShare && complaints < p.ComplaintShare:
			level++
		}
	}
	return level
}

// Rate returns the cap of a level in messages a second.
func (p *WarmupPolicy) Rate(level int) float64 {
	return p.FirstPerHour / time.Hour.Seconds() * math.Pow(p.Growth, float64(level))
}

// warmup lowers the ceiling to the cap of a source that is being warmed up.
func (d *decision) warmup() {
	w := d.w.Warmup
	if w == nil || d.w.Established || d.now < w.Start {
		return
	}
	level := d.p.Warmup.Level(w, d.now)
	rate := d.p.Warmup.Rate(level)
	if rate >= d.ceiling.RatePerSecond {
		return
	}
	d.ceiling.RatePerSecond = rate
	d.ceilingRule = RuleWarmup
	d.ceilingText = fmt.Sprintf("The source is on day %d of its warm-up, of which %d count as good: at most %s.",
		1+int((d.now-w.Start)/d.p.Warmup.Day), level, perSecond(rate))
}
