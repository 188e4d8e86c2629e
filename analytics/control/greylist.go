package control

import (
	"fmt"
	"time"
)

// pairs sums first attempts and retries over the spans of time that hold both.
type pairs struct{ first, firstOther, retry, retryOther uint64 }

// pairs adds up the buckets of the last span of time by pair; buckets of every epoch count, since
// both kinds of attempt saw the same change.
func (d *decision) pairs(window, pair time.Duration) (sum pairs, from time.Duration) {
	to := d.w.end()
	from = max(to-window, d.before.EvidenceFrom)
	var one pairs
	at := time.Duration(-1)
	flush := func() {
		if one.first > 0 && one.retry > 0 {
			sum.first += one.first
			sum.firstOther += one.firstOther
			sum.retry += one.retry
			sum.retryOther += one.retryOther
		}
		one = pairs{}
	}
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Start < from || b.Start+d.p.Step > to {
			continue
		}
		if start := b.Start.Truncate(pair); start != at {
			flush()
			at = start
		}
		one.first += b.First
		one.firstOther += b.FirstOther
		one.retry += b.Retry
		one.retryOther += b.RetryOther
	}
	flush()
	return sum, from
}

// greylist finds out whether refusals that nobody could classify are greylisting
// (design/control.md 4.8), and reports whether that changed. While they are, the unclassified
// refusals of first attempts count as greylisting in the rest of the decision.
func (d *decision) greylist() bool {
	p := &d.p.Greylisting
	pair := min(p.PairMax, max(p.Pair, seconds(p.PairMessages/d.rate())))
	e := Evidence{To: d.w.end(), MinMessages: NoMessages}
	if d.Greylisting {
		var n pairs
		n, e.From = d.pairs(p.OverWindow, p.OverWindow)
		if n.retry >= p.OverRetries && float64(n.retryOther) >= p.OverShare*float64(n.retry) {
			d.Greylisting = false
			d.because(RuleGreylistingOver, fmt.Sprintf("%d of %d retries were refused without a reason: that is no greylisting. Such refusals count again.",
				n.retryOther, n.retry), e)
			return true
		}
		d.w = d.w.greylisted()
		return false
	}
	var n pairs
	n, e.From = d.pairs(p.Window, pair)
	low := WilsonLow(n.firstOther, n.first, p.Z)
	if n.first < p.First || n.retry < p.Retries || low <= p.FirstShare || WilsonHigh(n.retryOther, n.retry, p.Z) >= p.RetryShare*low {
		return false
	}
	d.Greylisting = true
	text := fmt.Sprintf("%d of %d first attempts were refused without a reason, and of the retries at the same time %d of %d: greylisting.",
		n.firstOther, n.first, n.retryOther, n.retry)
	if d.RatePerSecond > 0 && d.Mode != Startup {
		old := d.rate()
		d.Mode, d.Cap, d.Goal = Startup, 0, 0
		d.Chain, d.RecoveryFailed, d.CoolUntil = 0, 0, 0
		d.forgetSuspension()
		d.RatePerSecond = min(max(d.RatePerSecond, d.coldRate()), d.ceiling.RatePerSecond)
		text += fmt.Sprintf(" What was concluded from them is forgotten: %s -> %s.", perSecond(old), perSecond(d.RatePerSecond))
	}
	d.because(RuleGreylisting, text, e)
	return true
}

// greylisted returns w with the unclassified refusals of first attempts counted as greylisting.
func (w *Windows) greylisted() *Windows {
	c := *w
	c.Buckets = make([]Bucket, len(w.Buckets))
	for i, b := range w.Buckets {
		n := min(b.Other, b.FirstOther)
		b.Other -= n
		b.Greylist += n
		c.Buckets[i] = b
	}
	return &c
}
