package control

import (
	"fmt"
	"time"
)

// pairs adds up the buckets of the last span of time by pair; buckets of every epoch count, since
// both kinds of attempt saw the same change.
func (d *decision) pairs(window, pair time.Duration) (sum Pairs, from time.Duration) {
	to := d.w.end()
	from = max(to-window, d.before.EvidenceFrom)
	var one Pairs
	at := time.Duration(-1)
	flush := func() {
		if one.First > 0 && one.Retry > 0 {
			sum.First += one.First
			sum.FirstOther += one.FirstOther
			sum.Retry += one.Retry
			sum.RetryOther += one.RetryOther
		}
		one = Pairs{}
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
		one.First += b.First
		one.FirstOther += b.FirstOther
		one.Retry += b.Retry
		one.RetryOther += b.RetryOther
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
		var n Pairs
		n, e.From = d.pairs(p.OverWindow, p.OverWindow)
		e.Pairs = n
		if n.Retry >= p.OverRetries && float64(n.RetryOther) >= p.OverShare*float64(n.Retry) {
			d.Greylisting = false
			d.because(RuleGreylistingOver, fmt.Sprintf("%d of %d retries were refused without a reason: that is no greylisting. Such refusals count again.",
				n.RetryOther, n.Retry), e)
			return true
		}
		d.w = d.w.greylisted()
		return false
	}
	var n Pairs
	n, e.From = d.pairs(p.Window, pair)
	e.Pairs = n
	low := WilsonLow(n.FirstOther, n.First, p.Z)
	if d.stale() || n.First < p.First || n.Retry < p.Retries || low <= p.FirstShare || WilsonHigh(n.RetryOther, n.Retry, p.Z) >= p.RetryShare*low {
		return false
	}
	d.Greylisting = true
	text := fmt.Sprintf("%d of %d first attempts were refused without a reason, and of the retries at the same time %d of %d: greylisting.",
		n.FirstOther, n.First, n.RetryOther, n.Retry)
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
