package control

import (
	"fmt"
	"time"
)

// suspend answers a block or an outage (design/control.md 4.3, rule 2) and reports whether it did.
// A block begins from one answer to the next, so the answers since the last acceptance are looked
// at by themselves: the clean ones before them must not hide it.
func (d *decision) suspend() bool {
	p := &d.p.Suspend
	e := d.last(p.Window)
	if e.Counts.all() < p.FewReplies {
		e = d.last(p.WindowMax)
	}
	outage, suspend := d.closed(&e)
	if !suspend {
		e = d.sinceAccepted()
		if outage, suspend = d.closed(&e); !suspend {
			return false
		}
	}
	old := d.rate()
	d.PreCap = max(d.Cap, d.acceptedBefore())
	d.Mode, d.Outage = Suspended, outage
	d.CanaryFast, d.CanaryAccepted, d.CanaryEvery, d.SuspendedAt = false, 0, 0, d.now
	d.RatePerSecond = min(d.canaryRate(), old)
	what := "blocks this source"
	if outage {
		what = "cannot be reached"
	}
	d.because(RuleSuspend, fmt.Sprintf(
		"%d of %d attempts in %s were refused (%d blocked, %d unavailable): the receiver %s. %s -> trials, %s.",
		canaryRefusals(&e.Counts), e.Counts.all(), e.duration(), e.Counts.Block, e.Counts.Unavailable, what, perSecond(old), perSecond(d.RatePerSecond),
	), e)
	return true
}

// closed reports whether e shows a receiver that lets nothing through, and whether it is an outage.
func (d *decision) closed(e *Evidence) (outage, suspend bool) {
	p := &d.p.Suspend
	n := e.Counts.all()
	reached := func(count uint64, share float64, least uint64) bool {
		return n >= least && float64(count) >= share*float64(n)
	}
	outage = reached(e.Counts.Unavailable, p.OutageShare, p.MinReplies)
	return outage, outage || reached(e.Counts.Block, p.BlockShare, p.MinReplies) ||
		reached(canaryRefusals(&e.Counts), p.AllShare, p.AllReplies)
}

// sinceAccepted returns the evidence after the last bucket in which the receiver talked to us.
func (d *decision) sinceAccepted() Evidence {
	to := d.w.end()
	from := to - d.p.Suspend.WindowMax
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch == d.before.Epoch && b.Start+d.p.Step <= to && canaryAnswers(&b.Counts) > 0 {
			from = max(from, b.Start+d.p.Step)
		}
	}
	return d.last(to - from)
}

// sinceAnswered returns the evidence from the first bucket of the last span on in which the receiver
// talked to us, of all of it if it did not: what it refused before is the block that may be over.
func (d *decision) sinceAnswered(span time.Duration) Evidence {
	to := d.w.end()
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch == d.before.Epoch && b.Start >= to-span && b.Start+d.p.Step <= to && canaryAnswers(&b.Counts) > 0 {
			return d.last(to - b.Start)
		}
	}
	return d.last(span)
}

// canaryRefusals counts what says that a suspended key must stay suspended.
func canaryRefusals(c *Counts) uint64 { return c.refused() + c.Other + c.Connections }

// canaryAnswers counts what says that the receiver talks to us: greylisting, a full connection and
// refused content are no block.
func canaryAnswers(c *Counts) uint64 {
	return c.accepted() + c.Greylist + c.Messages + c.Content + c.Auth
}

func (d *decision) canaryRate() float64 {
	every := max(d.p.Suspend.Canary, d.CanaryEvery)
	if d.Outage {
		every = d.p.Suspend.CanaryOutage
	}
	if d.CanaryFast {
		every = d.p.Suspend.CanaryFast
	}
	return 1 / every.Seconds()
}

// canaries looks after a suspended key (design/control.md 4.5): the first canary that is accepted
// speeds them up, two that outnumber the refusals since then end the suspension. The longer a block lasts the
// rarer they get, and sooner where the receiver said that waiting will not help.
func (d *decision) canaries() {
	p := &d.p.Suspend
	e := d.sinceAnswered(max(p.AcceptedIn, 6*seconds(1/d.before.RatePerSecond)))
	accepted, refused := d.CanaryAccepted+canaryAnswers(&e.Counts), canaryRefusals(&e.Counts)
	switch {
	case accepted >= p.Accepted && accepted > refused && !d.stale():
		d.resume(e, accepted, refused)
	case !d.CanaryFast && accepted > 0 && accepted > refused && !d.stale():
		d.CanaryFast, d.CanaryAccepted = true, accepted
		d.trial(RuleCanaryFast, "A trial was accepted.", e)
	case d.CanaryFast && refused > accepted:
		d.CanaryFast, d.CanaryAccepted = false, 0
		d.trial(RuleCanarySlow, fmt.Sprintf("%d trials were refused and %d accepted.", refused, accepted), e)
	case !d.CanaryFast && !d.Outage:
		d.rarer(e, refused)
	}
}

// rarer doubles the time between two canaries of a block once it is CanaryAge of them old.
func (d *decision) rarer(e Evidence, refused uint64) {
	p := &d.p.Suspend
	age, most := p.CanaryAge, p.CanaryMax
	if d.w.PermanentlyDeferred {
		age, most = p.CanaryAgePermanent, p.CanaryMaxPermanent
	}
	every := max(p.Canary, d.CanaryEvery)
	if refused == 0 || d.now-d.SuspendedAt < stretch(every, age) || every >= most {
		return
	}
	d.CanaryEvery = min(most, 2*every)
	d.trial(RuleCanarySlow, fmt.Sprintf("The block is %s old and %d trials were refused.",
		(d.now-d.SuspendedAt).Round(time.Second), refused), e)
}

// trial gives the canaries their new rate.
func (d *decision) trial(rule Rule, why string, e Evidence) {
	d.RatePerSecond = min(d.canaryRate(), d.ceiling.RatePerSecond)
	d.because(rule, fmt.Sprintf("%s Trials %s -> %s.", why, perSecond(d.before.RatePerSecond), perSecond(d.RatePerSecond)), e)
}

func (d *decision) resume(e Evidence, accepted, refused uint64) {
	p := &d.p.Suspend
	back := p.Back
	if d.Outage {
		back = p.BackOutage
	}
	if d.PreCap > 0 {
		d.Mode, d.Cap, d.RatePerSecond = Recover, d.PreCap, back*d.PreCap
	} else {
		d.Mode, d.Cap, d.RatePerSecond = Startup, 0, d.coldRate()
	}
	d.RatePerSecond = min(max(d.RatePerSecond, d.p.Decrease.FloorRate), d.ceiling.RatePerSecond)
	d.ProbeStep, d.ProbeEvery = d.p.Probe.Step, d.p.Probe.Interval
	d.NextProbe = d.now + p.ProbeAfter
	d.Chain, d.CoolUntil = 0, 0
	d.forgetSuspension()
	d.because(RuleResume, fmt.Sprintf("%d trials were accepted and %d refused: the receiver talks to us again. Rate is %s.",
		accepted, refused, perSecond(d.RatePerSecond)), e)
}

func (d *decision) forgetSuspension() {
	d.Outage, d.CanaryFast, d.CanaryAccepted, d.PreCap, d.CanaryEvery, d.SuspendedAt = false, false, 0, 0, 0, 0
}

// coldRate is the rate to come back with where no capacity is known: a share of the configured
// one, or of the largest that was seen where none is configured.
func (d *decision) coldRate() float64 {
	if !d.w.Static.HasRate() {
		return max(1, d.p.Suspend.ColdShare*d.LongTerm)
	}
	conf := d.w.Static.RatePerSecond
	return max(min(conf, 0.1), d.p.Suspend.ColdShare*conf)
}
